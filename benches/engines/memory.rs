//! Memory: what the kernel says this process holds -> MB (10^6 bytes).

use std::fs;

/// A line of `/proc/self/status`, in MB; 0 where there is none.
fn status_mb(key: &str) -> f64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = text.lines().find_map(|line| line.strip_prefix(key)).and_then(|rest| rest.split_whitespace().next());
    kib.and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) * 1024.0 / 1e6
}

/// Resident now.
pub(crate) fn resident_mb() -> f64 {
    status_mb("VmRSS:")
}

/// Most that was ever resident.
pub(crate) fn peak_mb() -> f64 {
    status_mb("VmHWM:")
}
