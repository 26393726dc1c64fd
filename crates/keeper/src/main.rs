//! `scanside-keeper`: the lamp keeper's process. A board's profile and a socket in -> its loop (`board/keeper.rs`) until the process is ended.
//!
//! It needs nothing of the service's configuration but the name of the board, so that a broken configuration still gives a fault light. It has
//! no signal handler: whatever ends it, the unit's stop hook (`scanside-keeper --leave`) leaves the lamps as a fault or dark.

use std::ops::ControlFlow;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use scanside_keeper::board::choice::BoardNames;
use scanside_keeper::board::keeper::{Keeper, KeeperNote, KeeperOptions, in_words};
use scanside_keeper::board::leds::LedClassBoard;
use scanside_keeper::board::{self, Board, BoardProfile, Driver};
use sd_notify::NotifyState;

const USAGE: &str = "Draws the lamps of the box, and shows a fault when the service is silent.

Usage: scanside-keeper [--config FILE | --profile NAME] [--profiles-dir DIR] [--socket FILE] [--reset-file FILE] [--leds-dir DIR] [--leave]

  --config FILE        configuration whose [board] names the profile; the rest of it may be broken [/etc/scanside/config.toml]
  --profile NAME       board profile, instead of the configuration's
  --profiles-dir DIR   folder of the site's own profiles, instead of the configuration's
  --socket FILE        socket to listen on, where systemd passes none
  --reset-file FILE    file to make when the button was held for 10 s
  --leds-dir DIR       another folder than /sys/class/leds, for tests (driver led-class)
  --leave              leave the lamps to themselves: fault where the kernel can draw it, else dark. The unit's stop hook
";
const CONFIG_FILE: &str = "/etc/scanside/config.toml";

#[derive(Default)]
struct Arguments {
    config: Option<PathBuf>,
    profile: Option<String>,
    profiles_dir: Option<PathBuf>,
    socket: Option<PathBuf>,
    reset_file: Option<PathBuf>,
    leds_dir: Option<PathBuf>,
    leave: bool,
}

/// What ends the program: the exit status and the words.
struct Refusal(u8, String);

impl Refusal {
    fn input(text: impl ToString) -> Self {
        Self(2, text.to_string())
    }

    fn failed(text: impl ToString) -> Self {
        Self(1, text.to_string())
    }
}

/// Time since the first call; never goes back.
fn clock() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

fn arguments(mut words: impl Iterator<Item = String>) -> Result<Option<Arguments>, Refusal> {
    let mut found = Arguments::default();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| Refusal::input(format!("{word} needs a value\n\n{USAGE}")));
        match word.as_str() {
            "--config" => found.config = Some(value()?.into()),
            "--profile" => found.profile = Some(value()?),
            "--profiles-dir" => found.profiles_dir = Some(value()?.into()),
            "--socket" => found.socket = Some(value()?.into()),
            "--reset-file" => found.reset_file = Some(value()?.into()),
            "--leds-dir" => found.leds_dir = Some(value()?.into()),
            "--leave" => found.leave = true,
            "--help" | "-h" => return Ok(None),
            other => return Err(Refusal::input(format!("{other:?} is no option of this program\n\n{USAGE}"))),
        }
    }
    Ok(Some(found))
}

fn profile(arguments: &Arguments) -> Result<BoardProfile, Refusal> {
    let config = arguments.config.as_deref().unwrap_or(Path::new(CONFIG_FILE));
    let names = match (BoardNames::load(config), &arguments.profile) {
        (Ok(names), _) => names,
        // With a profile of its own the keeper needs no configuration.
        (Err(_), Some(_)) if arguments.config.is_none() => BoardNames::default(),
        (Err(error), _) => {
            let text = format!(
                "which board this is cannot be read from {}: {error}; correct the file or name a --profile",
                config.display()
            );
            return Err(Refusal::input(text));
        }
    };
    let name = arguments.profile.clone().or(names.profile).unwrap_or_else(|| "sim".to_owned());
    let dir = arguments.profiles_dir.clone().or(names.profiles_dir);
    BoardProfile::load(&name, dir.as_deref()).map_err(Refusal::input)
}

fn open(profile: &BoardProfile, arguments: &Arguments) -> Result<Box<dyn Board>, Refusal> {
    match (&arguments.leds_dir, profile.driver) {
        (Some(dir), Driver::LedClass) => Ok(Box::new(LedClassBoard::open(profile, dir).map_err(Refusal::failed)?)),
        _ => board::open(profile).map_err(Refusal::failed),
    }
}

/// The socket that systemd passes, else the one that is named. A socket file that an earlier keeper left behind is replaced.
fn listener(path: Option<&Path>) -> Result<UnixListener, Refusal> {
    let mut passed = listenfd::ListenFd::from_env();
    if passed.len() > 0 {
        let text = "systemd passed a descriptor that is no Unix socket: check scanside-keeper.socket";
        return passed.take_unix_listener(0).ok().flatten().ok_or_else(|| Refusal::failed(text));
    }
    let path = path.ok_or_else(|| Refusal::input("there is no socket: start scanside-keeper.socket, or name one by --socket"))?;
    let failed = |error: std::io::Error| Refusal::failed(format!("cannot listen on {}: {error}", path.display()));
    if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        std::fs::remove_file(path).map_err(failed)?;
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(failed)?;
    Ok(listener)
}

/// Another number for each start; it need not be secret.
fn boot() -> u64 {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos());
    u64::try_from(nanos & u128::from(u64::MAX)).unwrap_or(0) ^ (u64::from(std::process::id()) << 40)
}

fn run() -> Result<(), Refusal> {
    let Some(arguments) = arguments(std::env::args().skip(1))? else {
        eprint!("{USAGE}");
        return Ok(());
    };
    let profile = profile(&arguments)?;
    if arguments.leave {
        return open(&profile, &arguments)?.leave().map_err(Refusal::failed);
    }
    let listener = listener(arguments.socket.as_deref())?;
    let board = open(&profile, &arguments)?;
    let options = KeeperOptions { reset_file: arguments.reset_file, ..KeeperOptions::of(&profile, clock, boot()) };
    let keeper = Keeper::new(board, listener, options).map_err(Refusal::failed)?;
    let watched = sd_notify::watchdog_enabled().is_some();
    eprintln!("keeps the lamps of board {}", profile.name);
    let mut ready = false;
    keeper.run(|note| {
        if let Some(text) = in_words(&note) {
            eprintln!("{text}");
        }
        // The first sign of life comes after the first frames were drawn. A lost message must not end the lamps.
        if note == KeeperNote::Alive && !ready {
            ready = true;
            let _ = sd_notify::notify(&[NotifyState::Ready]);
        }
        if note == KeeperNote::Alive && watched {
            let _ = sd_notify::notify(&[NotifyState::Watchdog]);
        }
        ControlFlow::Continue(())
    });
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(Refusal(status, text)) => {
            eprintln!("scanside-keeper: {text}");
            ExitCode::from(status)
        }
    }
}
