//! Config: (being written).
