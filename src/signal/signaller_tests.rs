//! Tests of the signaller.
