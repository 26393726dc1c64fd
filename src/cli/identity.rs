//! `scanside identity`: a folder in -> the box's key, certificate and claim code in it, made once; fingerprint and code on stdout.

use std::path::Path;

use super::Outcome;
use super::output::{complain, say};
use crate::secure::identity::{self, CLAIM_CODE_FILE};

/// Runs the command.
#[must_use]
pub fn run(dir: &Path, force: bool) -> Outcome {
    // The kernel's name of this box; without one the certificate holds `localhost` and its fingerprint says the rest.
    let host_name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match identity::ensure(dir, force, host_name.trim(), crate::service::wall_now()) {
        Ok(made) => {
            for name in &made.put_aside {
                complain(format!("note: {name} could not be used; it is kept as {name}.unusable"));
            }
            say(format!("certificate SHA-256: {}", made.certificate_sha256));
            say(format!("claim code: {} (also in {})", made.claim_code, dir.join(CLAIM_CODE_FILE).display()));
            Outcome::Done
        }
        Err(error) => {
            complain(error.to_string());
            Outcome::Failed
        }
    }
}
