//! Triage: (being written).
