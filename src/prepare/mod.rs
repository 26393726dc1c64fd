//! Prepare: (being written).
