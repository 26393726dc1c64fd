//! Signal: (being written).
