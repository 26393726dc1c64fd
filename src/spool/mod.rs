//! Spool: (being written).
