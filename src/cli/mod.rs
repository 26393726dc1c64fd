//! Cli: (being written).
