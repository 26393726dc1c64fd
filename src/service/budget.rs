//! What a study may take in memory: a board's bound for the process -> the share of one study, and whether network and post-process fit in it.
//!
//! Reading and resampling are checked where they happen (`prepare/budget.rs`). All estimates stand before the work, so that a study is refused with
//! its reason and the kernel has nobody to kill.

use crate::domain::{PreparedStudy, Reason};

/// Memory for one study on a box without a board profile, bytes.
pub const STUDY_BYTES_DEFAULT: u64 = 1 << 30;
/// What the network holds per grid point, bytes: activations of neighbouring layers, the skips, the input, the answer. 59 to 64 MB were measured for 1.1
/// million points (docs/ENGINE.md), rounded up.
const NETWORK_PER_POINT: u64 = 64;
/// What the post-process holds per grid point when each second one is a component of its own: runs, parts, masks, residuals.
const POST_PROCESS_PER_POINT: u64 = 96;

/// Of the process' bound three quarters: the rest is the appliance's own (receiver, index, model).
#[must_use]
pub const fn study_bytes(process_bytes_max: u64) -> u64 {
    process_bytes_max / 4 * 3
}

/// Whether the network and what follows it fit beside the prepared channels.
///
/// # Errors
/// `BudgetExceeded` names both figures.
pub fn check_network(prepared: &PreparedStudy, memory_bytes_max: u64) -> Result<(), Reason> {
    let points = prepared.grid.n_voxels() as u64;
    // Channels are held twice: the network's and the one that is measured afterwards.
    let channels = points * 4 * 2 * prepared.channels.iter().flatten().count() as u64;
    for (step, per_point) in [("The network", NETWORK_PER_POINT), ("Measuring the network's answer", POST_PROCESS_PER_POINT)] {
        let bytes = channels + points * per_point;
        if bytes > memory_bytes_max {
            return Err(Reason::memory(step, bytes, memory_bytes_max));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Grid, ReasonCode};

    #[test]
    fn a_grid_that_does_not_fit_is_refused_with_both_figures() {
        let grid = Grid { origin_lps_mm: [0.0; 3], spacing_mm: 2.0, shape_kji: [96, 120, 96] };
        let prepared = PreparedStudy { grid, channels: vec![None], quality: Vec::new(), series: Vec::new() };
        assert_eq!(check_network(&prepared, study_bytes(256 << 20)), Ok(()));
        // The network: 1,105,920 points of 64 bytes; measuring its answer: 96 bytes each.
        let refused = check_network(&prepared, study_bytes(128 << 20)).expect_err("102 MiB of 96");
        assert_eq!(refused.code, ReasonCode::BudgetExceeded);
        assert!(refused.text.contains("102 MiB") && refused.text.contains("96 MiB"), "{}", refused.text);
        assert!(
            refused.text.contains("Measuring the network's answer") && refused.text.contains("memory_process_bytes_max"),
            "{}",
            refused.text
        );
    }
}
