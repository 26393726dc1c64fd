//! Receive: (being written).
