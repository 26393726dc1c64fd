//! Output: the one place that writes to stdout and stderr. Lines in -> bytes out; a closed pipe is not an error worth a panic.

use std::io::Write;

/// Writes one line to stdout.
pub fn say(line: impl AsRef<str>) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{}", line.as_ref());
    let _ = out.flush();
}

/// Writes one line to stderr, with the program's name.
pub fn complain(line: impl AsRef<str>) {
    let _ = writeln!(std::io::stderr().lock(), "scanside: {}", line.as_ref());
}
