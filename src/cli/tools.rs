//! `scanside board`, `config check` and `send`: what IT uses to look and to test.

use std::io::{IsTerminal as _, Write};
use std::path::{Path, PathBuf};

use super::output::{complain, say};
use super::{BoardChoice, Outcome};
use crate::board::command::{self, CommandError, ShowRequest, TestRequest};
use crate::config::{Config, with_credential_files};
use crate::deliver::store_scu::{self, FileOutcome, StoreError, StoreOptions, TlsClient};
use crate::domain::AeTitle;
use crate::service::uptime;

/// Every fault of the file at once, and what is to be said about the certificates that it names.
#[must_use]
pub fn config_check(path: &Path) -> Outcome {
    match Config::load(path) {
        Ok(config) => {
            // The files may lie elsewhere than where this is run, so what is wrong with them is no fault of this one.
            for note in crate::service::certificate_notes(&with_credential_files(config, None)) {
                complain(format!("note: {note}"));
            }
            say(format!("{}: no fault", path.display()));
            Outcome::Done
        }
        Err(error) => {
            complain(error.to_string());
            Outcome::BadInput
        }
    }
}

/// File of authorities, and files of our certificate and its key.
pub type TlsFiles<'a> = (&'a Path, Option<(&'a Path, &'a Path)>);

/// Sends every DICOM file below the paths over one association, from the first AE title to the second.
#[must_use]
pub fn send(paths: &[PathBuf], to: &str, (aet, aec): (&str, &str), tls: Option<TlsFiles<'_>>) -> Outcome {
    let titles = AeTitle::try_new(aet).and_then(|ours| AeTitle::try_new(aec).map(|theirs| (ours, theirs)));
    let (calling, called) = match titles {
        Ok(titles) => titles,
        Err(error) => {
            complain(format!("--aet and --aec take AE titles of 1 to 16 characters: {error}"));
            return Outcome::BadInput;
        }
    };
    let tls = match tls.map(|(authorities, identity)| TlsClient::load(authorities, identity)).transpose() {
        Ok(tls) => tls,
        Err(error) => {
            complain(error);
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
    let options = StoreOptions::default();
    let sent = runtime.block_on(async {
        match &tls {
            None => store_scu::send(paths, to, &calling, &called, &options).await,
            Some(tls) => store_scu::send_over_tls(paths, to, &calling, &called, &options, tls).await,
        }
    });
    match sent {
        Ok(report) => {
            for file in report.files.iter().filter(|file| !matches!(file.outcome, FileOutcome::Stored { .. })) {
                complain(format!("{}: {}", file.path.display(), in_words(&file.outcome)));
            }
            say(format!("{} of {} files stored by {called} at {to}", report.n_stored(), report.files.len()));
            if report.all_stored() { Outcome::Done } else { Outcome::Failed }
        }
        Err(error @ StoreError::Files(_)) => {
            complain(error.to_string());
            Outcome::BadInput
        }
        Err(error) => {
            complain(error.to_string());
            Outcome::Failed
        }
    }
}

fn in_words(outcome: &FileOutcome) -> String {
    match outcome {
        FileOutcome::Stored { status } => format!("stored (status 0x{status:04X})"),
        FileOutcome::Refused { status, meaning } => format!("refused with status 0x{status:04X}: {meaning}"),
        FileOutcome::NotAccepted { sop_class_uid, transfer_syntax_uid } => {
            format!("the peer takes no {sop_class_uid} in transfer syntax {transfer_syntax_uid}")
        }
        FileOutcome::NotDicom { reason } => format!("not sent, it is no readable DICOM file: {reason}"),
        FileOutcome::NotSent { reason } => format!("not sent: {reason}"),
    }
}

/// What the board is, and its lamp patterns.
#[must_use]
pub fn board_show(choice: &BoardChoice, lamp: Option<&str>, seconds: Option<u64>) -> Outcome {
    on_board(choice, lamp, seconds, command::show)
}

/// How the board is to be tested.
pub struct BoardTest {
    /// One JSON object per part.
    pub json: bool,
    /// Nothing is asked.
    pub yes: bool,
    /// Seconds for each light.
    pub seconds: Option<u64>,
    /// Seconds to wait for the button.
    pub button_seconds: u64,
    /// Measure only.
    pub jitter_seconds: Option<u64>,
}

/// Lamps and button, one after the other.
#[must_use]
pub fn board_test(choice: &BoardChoice, test: &BoardTest) -> Outcome {
    let in_terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let asks = in_terminal && !test.json && !test.yes;
    let how = TestRequest {
        json: test.json,
        button_seconds: test.button_seconds,
        jitter_seconds: test.jitter_seconds,
        ask: asks.then_some(&ask),
    };
    on_board(choice, None, test.seconds, |request, out| command::test(request, &how, out))
}

/// Asks a person on the terminal, on a thread of its own: the board wants words meanwhile. Anything but a yes is a no.
fn ask(question: &str) -> std::sync::mpsc::Receiver<bool> {
    let (answer, answered) = std::sync::mpsc::channel();
    let question = format!("{question} [y/n] ");
    std::thread::spawn(move || {
        let mut line = String::new();
        let mut out = std::io::stdout();
        let asked = out.write_all(question.as_bytes()).and_then(|()| out.flush());
        if asked.is_ok() && std::io::stdin().read_line(&mut line).is_ok() {
            // Nobody listens any more when the keeper has taken its lamps back.
            let _ = answer.send(matches!(line.trim().to_lowercase().as_str(), "y" | "yes"));
        }
    });
    answered
}

fn on_board(
    choice: &BoardChoice,
    lamp: Option<&str>,
    seconds: Option<u64>,
    run: impl FnOnce(&ShowRequest<'_>, &mut dyn Write) -> Result<(), CommandError>,
) -> Outcome {
    let configured = match choice.config.as_deref().map(Config::load).transpose() {
        Ok(config) => config.unwrap_or_default().board,
        Err(error) => {
            complain(error.to_string());
            return Outcome::BadInput;
        }
    };
    // A board that is named is drawn as named; without a name it is this box's, and on a box the keeper has it.
    let of_box = choice.profile.is_none().then_some(Path::new(command::KEEPER_SOCKET));
    let request = ShowRequest {
        profile: choice.profile.as_deref().unwrap_or(&configured.profile),
        profiles_dir: choice.profiles_dir.as_deref().or(configured.profiles_dir.as_deref()),
        keeper: choice.keeper.as_deref().or(configured.keeper.as_deref()).or(of_box),
        lamp,
        seconds,
        colour: std::io::stdout().is_terminal(),
        clock: uptime,
    };
    match run(&request, &mut std::io::stdout()) {
        Ok(()) => Outcome::Done,
        Err(error) => {
            complain(error.to_string());
            if error.exit_status() == 2 { Outcome::BadInput } else { Outcome::Failed }
        }
    }
}
