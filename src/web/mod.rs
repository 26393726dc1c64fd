//! Web: (being written).
