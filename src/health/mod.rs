//! Health: (being written).
