//! Synth: (being written).
