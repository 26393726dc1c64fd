//! `scanside board`, `config check` and `send`: what IT uses to look and to test.

use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};

use super::Outcome;
use super::output::{complain, say};
use crate::config::Config;
use crate::deliver::store_scu::{self, SendOptions};
use crate::domain::AeTitle;
use crate::service::folder::list_files;

/// Every fault of the file at once.
#[must_use]
pub fn config_check(path: &Path) -> Outcome {
    match Config::load(path) {
        Ok(_) => {
            say(format!("{}: no fault", path.display()));
            Outcome::Done
        }
        Err(error) => {
            complain(error.to_string());
            Outcome::BadInput
        }
    }
}

/// Sends every DICOM file below the paths over one association.
#[must_use]
pub fn send(paths: &[PathBuf], to: &str, aet: &str, aec: &str) -> Outcome {
    let titles = AeTitle::try_new(aet).and_then(|ours| AeTitle::try_new(aec).map(|theirs| (ours, theirs)));
    let (calling, called) = match titles {
        Ok(titles) => titles,
        Err(error) => {
            complain(format!("--aet and --aec take AE titles of 1 to 16 characters: {error}"));
            return Outcome::BadInput;
        }
    };
    let address = match to.to_socket_addrs().map(|mut all| all.next()) {
        Ok(Some(address)) => address,
        Ok(None) => {
            complain(format!("--to {to}: the name has no address"));
            return Outcome::BadInput;
        }
        Err(error) => {
            complain(format!("--to {to}: {error}; write HOST:PORT"));
            return Outcome::BadInput;
        }
    };
    let files = match list_files(paths) {
        Ok(files) => files.into_iter().collect::<Vec<_>>(),
        Err(error) => {
            complain(error.to_string());
            return Outcome::BadInput;
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(format!("cannot start: {error}"));
            return Outcome::Failed;
        }
    };
    match runtime.block_on(store_scu::send(&files, address, &calling, &called, &SendOptions::default())) {
        Ok(report) => {
            for failure in report.failures() {
                complain(failure);
            }
            say(format!("{} of {} instances accepted", report.n_accepted(), files.len()));
            if report.n_accepted() == files.len() { Outcome::Done } else { Outcome::Failed }
        }
        Err(error) => {
            complain(error.to_string());
            Outcome::Failed
        }
    }
}

/// What the board is, or one lamp pattern.
#[must_use]
pub fn board_show(profile: &str, lamp: Option<&str>) -> Outcome {
    from_board(crate::board::command::show(profile, lamp))
}

/// Lamps and button, one after the other.
#[must_use]
pub fn board_test(profile: &str) -> Outcome {
    from_board(crate::board::command::test(profile))
}

fn from_board(result: Result<String, crate::board::BoardError>) -> Outcome {
    match result {
        Ok(text) => {
            say(text);
            Outcome::Done
        }
        Err(error) => {
            complain(error.to_string());
            Outcome::Failed
        }
    }
}
