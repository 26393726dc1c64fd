//! Assemble: (being written).
