//! Infer: (being written).
