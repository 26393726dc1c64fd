//! Deliver: (being written).
