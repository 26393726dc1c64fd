//! Board: (being written).
