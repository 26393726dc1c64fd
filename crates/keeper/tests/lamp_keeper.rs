//! Promises of the lamp keeper: whatever happens to the service or to itself, within two seconds the lamp shows fault or is dark; never a stale
//! green. Bytes that are no words hurt nobody, the newest service wins, and no press is lost or counted twice.
//!
//! The keeper's program runs for real on a folder that looks like `/sys/class/leds`; where the button matters its loop runs here, on the
//! simulated board.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use scanside_keeper::board::keeper::{Keeper, KeeperOptions, PEERS_MAX};
use scanside_keeper::board::keeper_client::{self, Link};
use scanside_keeper::board::keeper_protocol::{FRAME_BYTES, FromKeeper, Role, ToKeeper};
use scanside_keeper::board::{BoardNotice, LampHandle, LampOptions, Lights, SimBoard, SimPanel};
use scanside_keeper::domain::Lamp;
use tokio::sync::mpsc::{Receiver, channel};

/// What the room may see of a dead service.
const TWO_SECONDS: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(20);
const TURN: Duration = Duration::from_millis(5);

fn clock() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

fn holds_within(limit: Duration, mut what: impl FnMut() -> bool) -> bool {
    let until = clock() + limit;
    while clock() < until {
        if what() {
            return true;
        }
        std::thread::sleep(TURN);
    }
    false
}

/// A keeper's process with a folder of lamps and a socket.
struct Room {
    dir: tempfile::TempDir,
    child: Child,
}

fn keeper_command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scanside-keeper"));
    command.args(["--profile", "led-class", "--leds-dir"]).arg(dir).stderr(Stdio::null());
    command
}

impl Room {
    fn start() -> Self {
        Self::start_with(|_| {})
    }

    fn start_with(more: impl FnOnce(&mut Command)) -> Self {
        let dir = tempfile::tempdir().expect("folder");
        for led in ["red", "yellow", "green"] {
            let folder = dir.path().join(format!("scanside:{led}"));
            std::fs::create_dir(&folder).expect("folder");
            std::fs::write(folder.join("max_brightness"), "1\n").expect("file");
            std::fs::write(folder.join("brightness"), "1\n").expect("file");
            std::fs::write(folder.join("trigger"), "none\n").expect("file");
        }
        let child = Self::spawn(dir.path(), more);
        Self { dir, child }
    }

    fn spawn(dir: &Path, more: impl FnOnce(&mut Command)) -> Child {
        let mut command = keeper_command(dir);
        command.arg("--socket").arg(dir.join("lamp.sock"));
        more(&mut command);
        let child = command.spawn().expect("starts");
        assert!(holds_within(PATIENCE, || UnixStream::connect(dir.join("lamp.sock")).is_ok()), "the keeper listens");
        child
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("lamp.sock")
    }

    /// What burns, as the files say.
    fn lights(&self) -> Lights {
        let lit = |led: &str| {
            let text = std::fs::read_to_string(self.dir.path().join(format!("scanside:{led}/brightness"))).expect("file");
            text.starts_with('1')
        };
        Lights { red: lit("red"), yellow: lit("yellow"), green: lit("green"), buzzer: false }
    }

    fn service(&self) -> Service {
        Service(Link::open(&self.socket(), Role::Service).expect("connects"))
    }

    /// Fault: red without yellow, and yellow without red, seen within the limit; never green meanwhile once red or yellow came.
    fn shows_fault_within(&self, limit: Duration) -> bool {
        let (mut red, mut yellow) = (false, false);
        holds_within(limit, || {
            let lights = self.lights();
            if lights.green {
                (red, yellow) = (false, false);
            }
            red |= lights.red && !lights.yellow && !lights.green;
            yellow |= lights.yellow && !lights.red && !lights.green;
            red && yellow
        })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A service that speaks as often as it is told to.
struct Service(Link);

impl Service {
    fn say(&mut self, lamp: Lamp) {
        self.0.say(ToKeeper::Said { lamp, sound: true }).expect("said");
    }

    /// Says `lamp` four times a second until `what` holds.
    fn say_until(&mut self, lamp: Lamp, mut what: impl FnMut() -> bool) -> bool {
        let mut said = Duration::ZERO;
        holds_within(PATIENCE, || {
            if clock() - said > Duration::from_millis(250) || said.is_zero() {
                said = clock();
                self.say(lamp);
            }
            what()
        })
    }
}

fn green_of(lights: Lights) -> bool {
    lights.green && !lights.red
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([name, &child.id().to_string()]).status().expect("kill");
    assert!(status.success());
}

#[test]
fn a_service_that_says_nothing_any_more_shows_a_fault_within_two_seconds() {
    let room = Room::start();
    let mut service = room.service();
    assert!(service.say_until(Lamp::Ready, || green_of(room.lights())));
    // The connection stays open: a stopped or deadlocked process looks like this.
    assert!(holds_within(TWO_SECONDS, || !room.lights().green), "green 2 s after the last word");
    assert!(room.shows_fault_within(TWO_SECONDS));
    assert!(service.say_until(Lamp::Ready, || green_of(room.lights())), "the next word brings it back");
}

#[test]
fn a_service_that_dies_shows_a_fault_at_once_and_one_that_says_goodbye_leaves_the_box_dark() {
    let room = Room::start();
    let mut service = room.service();
    assert!(service.say_until(Lamp::Working, || green_of(room.lights())));
    drop(service);
    assert!(holds_within(Duration::from_millis(700), || !room.lights().green), "no need to wait for the dead man's switch");
    assert!(room.shows_fault_within(TWO_SECONDS));
    let mut service = room.service();
    assert!(room.shows_fault_within(TWO_SECONDS), "a service that starts again has said nothing yet");
    assert!(service.say_until(Lamp::Ready, || green_of(room.lights())));
    service.0.say(ToKeeper::Goodbye).expect("said");
    assert!(holds_within(Duration::from_millis(700), || room.lights() == Lights::DARK));
    drop(service);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(room.lights(), Lights::DARK);
}

#[test]
fn a_service_whose_work_stands_still_shows_a_fault() {
    let room = Room::start();
    let mut service = room.service();
    assert!(service.say_until(Lamp::Working, || green_of(room.lights())));
    service.0.say(ToKeeper::Said { lamp: Lamp::Working, sound: false }).expect("said");
    assert!(holds_within(Duration::from_millis(700), || !room.lights().green));
}

#[test]
fn bytes_that_are_no_words_end_their_own_connection_alone() {
    let room = Room::start();
    let mut service = room.service();
    assert!(service.say_until(Lamp::Ready, || green_of(room.lights())));
    let mut seed = 1_u64;
    for len in [1, 3, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 100_000] {
        let mut stranger = UnixStream::connect(room.socket()).expect("connects");
        stranger.set_write_timeout(Some(Duration::from_secs(1))).expect("set");
        let bytes: Vec<u8> = (0..len)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                seed.to_be_bytes()[0]
            })
            .collect();
        let _ = stranger.write_all(&bytes);
        service.say(Lamp::Ready);
        std::thread::sleep(Duration::from_millis(100));
    }
    // A word out of turn: a stranger that never said who it is, or a test that wants to speak for the service.
    for words in [vec![ToKeeper::Said { lamp: Lamp::Critical, sound: true }], vec![ToKeeper::PressTaken(9), ToKeeper::Goodbye]] {
        let mut stranger = UnixStream::connect(room.socket()).expect("connects");
        for word in words {
            let _ = stranger.write_all(&word.encode());
        }
        stranger.set_read_timeout(Some(PATIENCE)).expect("set");
        assert_eq!(stranger.read(&mut [0; 16]).unwrap_or(0), 0, "closed");
        service.say(Lamp::Ready);
    }
    assert!(service.say_until(Lamp::Ready, || green_of(room.lights())));
    assert!(!room.lights().red, "the service's lamp was never touched");
}

#[test]
fn nonsense_from_the_service_itself_is_a_fault() {
    let room = Room::start();
    let mut stream = UnixStream::connect(room.socket()).expect("connects");
    stream.write_all(&ToKeeper::Hello(Role::Service).encode()).expect("said");
    stream.write_all(&ToKeeper::Said { lamp: Lamp::Ready, sound: true }.encode()).expect("said");
    assert!(holds_within(PATIENCE, || green_of(room.lights())));
    stream.write_all(&[0xA5; FRAME_BYTES]).expect("said");
    assert!(holds_within(Duration::from_millis(700), || !room.lights().green));
}

#[test]
fn the_newest_service_wins() {
    let room = Room::start();
    let mut old = room.service();
    assert!(old.say_until(Lamp::Ready, || green_of(room.lights())));
    let mut new = room.service();
    assert!(new.say_until(Lamp::Critical, || room.lights().red));
    assert!(
        holds_within(PATIENCE, || {
            new.say(Lamp::Critical);
            old.0.say(ToKeeper::Said { lamp: Lamp::Ready, sound: true }).is_err()
        }),
        "the old one is closed"
    );
    for _ in 0..50 {
        new.say(Lamp::Critical);
        assert!(!room.lights().green);
        std::thread::sleep(TURN);
    }
}

#[test]
fn strangers_who_hold_every_connection_cannot_keep_the_service_out() {
    let room = Room::start();
    let strangers: Vec<_> = (0..PEERS_MAX * 3).filter_map(|_| UnixStream::connect(room.socket()).ok()).collect();
    let mut service = room.service();
    assert!(service.say_until(Lamp::Ready, || green_of(room.lights())));
    drop(strangers);
}

#[test]
fn a_broken_configuration_still_lights_the_lamp() {
    let folder = tempfile::tempdir().expect("folder");
    let config = folder.path().join("config.toml");
    std::fs::write(&config, "[dicom\nlisten = 7\n[board]\nprofile = \"led-class\"\n").expect("written");
    let room = Room::start_with(|command| {
        command.arg("--config").arg(&config);
    });
    let mut service = room.service();
    assert!(service.say_until(Lamp::Fault, || room.lights().red));
    let unreadable =
        Command::new(env!("CARGO_BIN_EXE_scanside-keeper")).args(["--config", "/no/such/file"]).output().expect("runs");
    let text = String::from_utf8_lossy(&unreadable.stderr).into_owned();
    assert!(unreadable.status.code() == Some(2) && text.contains("/no/such/file") && text.contains("--profile"), "{text}");
}

/// What systemd does for the keeper: it reads its signs of life, kills it when they stop for a second, and runs the stop hook.
#[test]
fn a_keeper_that_is_killed_or_stands_still_is_seen_by_its_watchdog_and_leaves_no_green() {
    for how in ["-KILL", "-STOP"] {
        let folder = tempfile::tempdir().expect("folder");
        let notify = UnixDatagram::bind(folder.path().join("notify")).expect("bound");
        notify.set_read_timeout(Some(TURN)).expect("set");
        let mut room = Room::start_with(|command| {
            command.env("NOTIFY_SOCKET", folder.path().join("notify")).env("WATCHDOG_USEC", "1000000");
        });
        let mut service = room.service();
        let (mut ready, mut fed, mut bytes) = (false, clock(), [0; 256]);
        let mut listen = |fed: &mut Duration| {
            while let Ok(n) = notify.recv(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..n]).into_owned();
                ready |= text.contains("READY=1");
                if text.contains("WATCHDOG=1") {
                    *fed = clock();
                }
            }
            ready
        };
        assert!(service.say_until(Lamp::Ready, || listen(&mut fed) && green_of(room.lights())));
        let mut gap = Duration::ZERO;
        service.say_until(Lamp::Ready, || {
            listen(&mut fed);
            gap = gap.max(clock() - fed);
            fed > Duration::ZERO && gap > Duration::from_millis(150)
        });
        assert!(gap < Duration::from_secs(1), "fed at least once a second, {gap:?}");
        signal(&room.child, how);
        let from = clock();
        let seen = holds_within(TWO_SECONDS, || {
            listen(&mut fed);
            clock() - fed > Duration::from_secs(1) || room.child.try_wait().expect("waited").is_some()
        });
        assert!(seen, "{how}: its watchdog starves");
        let _ = room.child.kill();
        let _ = room.child.wait();
        assert!(keeper_command(room.dir.path()).arg("--leave").status().expect("runs").success());
        assert!(!room.lights().green && clock() - from < TWO_SECONDS, "{how}: {:?} after {:?}", room.lights(), clock() - from);
        // And it comes back: the service's next words are heard.
        room.child = Room::spawn(room.dir.path(), |_| {});
        let mut service = room.service();
        assert!(service.say_until(Lamp::Ready, || green_of(room.lights())));
    }
}

#[test]
fn a_test_takes_the_lamp_and_gives_it_back_and_a_critical_finding_ends_it() {
    let room = Room::start();
    let mut service = room.service();
    assert!(service.say_until(Lamp::Ready, || green_of(room.lights())));
    let mut test = Link::open(&room.socket(), Role::Test).expect("connects");
    let yellow = Lights { yellow: true, ..Lights::DARK };
    test.say(ToKeeper::TestLights(yellow)).expect("said");
    assert!(service.say_until(Lamp::Ready, || room.lights() == yellow));
    let mut second = Link::open(&room.socket(), Role::Test).expect("connects");
    assert!(holds_within(PATIENCE, || matches!(second.hear(), Ok(Some(FromKeeper::TestRefused)))), "one test at a time");
    test.say(ToKeeper::TestLights(yellow)).expect("said");
    assert!(service.say_until(Lamp::Critical, || room.lights().red));
    assert!(holds_within(PATIENCE, || matches!(test.hear(), Ok(Some(FromKeeper::TestOver(_))))));
}

// ---- with a button: the loop in this process, on the simulated board ----

/// A keeper's loop on a thread; it ends when told.
struct Loop {
    panel: SimPanel,
    stop: std::sync::Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Loop {
    fn start(socket: &Path, boot: u64, reset_file: Option<PathBuf>) -> Self {
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket).expect("bound");
        let (board, panel) = SimBoard::new("sim".to_owned());
        let options = KeeperOptions { clock, debounce_ms: 50, has_button: true, reset_file, boot };
        let keeper = Keeper::new(Box::new(board), listener, options).expect("made");
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let stopped = std::sync::Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            keeper.run(|_| match stopped.load(Ordering::Acquire) {
                true => std::ops::ControlFlow::Break(()),
                false => std::ops::ControlFlow::Continue(()),
            });
        });
        // The button counts as held until it has been seen up.
        std::thread::sleep(Duration::from_millis(200));
        Self { panel, stop, thread: Some(thread) }
    }

    fn press(&self) {
        self.panel.hold_button(true);
        std::thread::sleep(Duration::from_millis(200));
        self.panel.hold_button(false);
        std::thread::sleep(Duration::from_millis(200));
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// Lives until `what` holds; counts presses and keeps the rest of the notices.
fn live_until(
    handle: &LampHandle,
    notices: &mut Receiver<BoardNotice>,
    seen: &mut Vec<BoardNotice>,
    what: impl Fn(&[BoardNotice]) -> bool,
) -> bool {
    holds_within(PATIENCE, || {
        handle.alive();
        while let Ok(notice) = notices.try_recv() {
            seen.push(notice);
        }
        what(seen)
    })
}

fn n_presses(seen: &[BoardNotice]) -> usize {
    seen.iter().filter(|notice| **notice == BoardNotice::ButtonPressed).count()
}

#[test]
fn the_services_lamp_and_presses_go_through_a_keeper_that_comes_goes_and_comes_back() {
    let folder = tempfile::tempdir().expect("folder");
    let socket = folder.path().join("lamp.sock");
    let (sender, mut notices) = channel(16);
    let handle = keeper_client::start(&socket, LampOptions::new(clock), sender).expect("started");
    let mut seen = Vec::new();
    handle.show(Lamp::Ready);
    let failing = |seen: &[BoardNotice]| matches!(seen.last(), Some(BoardNotice::Failing(text)) if text.contains("lamp.sock"));
    assert!(live_until(&handle, &mut notices, &mut seen, failing), "{seen:?}");
    assert_eq!(handle.view().lights(), None, "nobody can say what burns");
    for boot in 1..=2 {
        let keeper = Loop::start(&socket, boot, None);
        let lit = |_: &[BoardNotice]| green_of(keeper.panel.lights()) && handle.view().lights().is_some_and(green_of);
        assert!(live_until(&handle, &mut notices, &mut seen, lit), "{seen:?}");
        assert!(live_until(&handle, &mut notices, &mut seen, |seen| seen.last() == Some(&BoardNotice::Recovered)), "{seen:?}");
        for n in 1..=3 {
            std::thread::scope(|scope| {
                let pressing = scope.spawn(|| keeper.press());
                live_until(&handle, &mut notices, &mut seen, |_| pressing.is_finished());
            });
            let enough = |seen: &[BoardNotice]| n_presses(seen) >= n;
            assert!(live_until(&handle, &mut notices, &mut seen, enough), "press {n} of start {boot} is heard: {seen:?}");
        }
        assert_eq!(n_presses(&seen), 3, "each once: {seen:?}");
        seen.clear();
        drop(keeper);
        assert!(live_until(&handle, &mut notices, &mut seen, failing), "{seen:?}");
        seen.clear();
    }
}

/// systemd holds the socket of a keeper that cannot start: nobody takes the connections, and one day there is no more room for them.
#[test]
fn a_socket_that_takes_no_connections_stops_neither_the_lamps_heartbeat_nor_the_end() {
    let folder = tempfile::tempdir().expect("folder");
    let socket = folder.path().join("lamp.sock");
    let listener = UnixListener::bind(&socket).expect("bound");
    let filled: Vec<_> = (0..5000)
        .map_while(|_| {
            let (connected, attempt) = std::sync::mpsc::channel();
            let socket = socket.clone();
            std::thread::spawn(move || connected.send(UnixStream::connect(socket)));
            attempt.recv_timeout(Duration::from_millis(500)).ok()
        })
        .collect();
    assert!(filled.len() < 5000, "the socket is full");
    let (sender, mut notices) = channel(16);
    let handle = keeper_client::start(&socket, LampOptions::new(clock), sender).expect("started");
    handle.show(Lamp::Ready);
    let mut seen = Vec::new();
    let told = |seen: &[BoardNotice]| matches!(seen.first(), Some(BoardNotice::Failing(_)));
    assert!(live_until(&handle, &mut notices, &mut seen, told), "{seen:?}");
    let turns = handle.view().frames();
    assert!(holds_within(TWO_SECONDS, || handle.view().frames() > turns + 2), "the heartbeat goes on");
    let from = clock();
    drop(handle);
    assert!(clock() - from < TWO_SECONDS);
    drop((listener, filled));
}

#[test]
fn a_press_that_finds_the_connection_broken_is_heard_on_the_next_one_and_once() {
    let folder = tempfile::tempdir().expect("folder");
    let socket = folder.path().join("lamp.sock");
    let keeper = Loop::start(&socket, 7, None);
    let mut first = Link::open(&socket, Role::Service).expect("connects");
    first.say(ToKeeper::Said { lamp: Lamp::Critical, sound: true }).expect("said");
    let press = |link: &mut Link, lamp| {
        let mut found = None;
        holds_within(Duration::from_secs(1), || {
            link.say(ToKeeper::Said { lamp, sound: true }).expect("said");
            if let Ok(Some(FromKeeper::Press(number))) = link.hear() {
                found = Some(number);
            }
            found.is_some()
        });
        found
    };
    keeper.press();
    assert_eq!(press(&mut first, Lamp::Critical), Some(1));
    // It dies before it has taken the press: the next connection hears it again.
    drop(first);
    let mut second = Link::open(&socket, Role::Service).expect("connects");
    assert_eq!(press(&mut second, Lamp::Critical), Some(1));
    second.say(ToKeeper::PressTaken(1)).expect("said");
    assert_eq!(press(&mut second, Lamp::Critical), None, "said once on one connection");
    drop(second);
    let mut third = Link::open(&socket, Role::Service).expect("connects");
    assert_eq!(press(&mut third, Lamp::Critical), None, "taken is taken");
    drop(third);
    std::thread::sleep(Duration::from_millis(200));
    // Without a live service the room sees a fault: a press has nothing to acknowledge and waits for nobody.
    keeper.press();
    let mut fourth = Link::open(&socket, Role::Service).expect("connects");
    assert_eq!(press(&mut fourth, Lamp::Ready), None);
}

#[test]
fn a_conductor_that_stands_still_shows_a_fault_within_two_seconds_though_its_process_lives() {
    let folder = tempfile::tempdir().expect("folder");
    let socket = folder.path().join("lamp.sock");
    let keeper = Loop::start(&socket, 1, None);
    let (sender, mut notices) = channel(16);
    let handle = keeper_client::start(&socket, LampOptions::new(clock), sender).expect("started");
    handle.show(Lamp::Working);
    let mut seen = Vec::new();
    assert!(live_until(&handle, &mut notices, &mut seen, |_| green_of(keeper.panel.lights())));
    // It waits for the disk and says so: slow is not dead.
    handle.excused(|| {
        assert!(!holds_within(Duration::from_millis(2500), || keeper.panel.lights().red), "an excused silence is no fault");
    });
    assert!(holds_within(TWO_SECONDS, || keeper.panel.lights().red), "no sign of life for 2 s");
    let released = |seen: &[BoardNotice]| seen.iter().any(|notice| matches!(notice, BoardNotice::DeadManReleased { .. }));
    assert!(live_until(&handle, &mut notices, &mut seen, |seen| released(seen) && green_of(keeper.panel.lights())), "{seen:?}");
}

#[test]
fn the_end_of_the_service_is_dark_and_its_panic_a_fault() {
    let folder = tempfile::tempdir().expect("folder");
    let socket = folder.path().join("lamp.sock");
    let keeper = Loop::start(&socket, 1, None);
    for panics in [false, true] {
        let (sender, mut notices) = channel(16);
        let handle = keeper_client::start(&socket, LampOptions::new(clock), sender).expect("started");
        handle.show(Lamp::Ready);
        assert!(live_until(&handle, &mut notices, &mut Vec::new(), |_| green_of(keeper.panel.lights())));
        let thread = std::thread::spawn(move || {
            let _handle = handle;
            if panics {
                std::panic::resume_unwind(Box::new("the service died"));
            }
        });
        assert_eq!(thread.join().is_err(), panics);
        assert!(holds_within(TWO_SECONDS, || !keeper.panel.lights().green));
        let lit = holds_within(Duration::from_secs(1), || keeper.panel.lights().red);
        assert_eq!(lit, panics, "a panic is a fault, an end is dark");
    }
}

#[test]
fn holding_the_button_for_ten_seconds_asks_for_a_factory_reset_and_letting_go_before_does_not() {
    let folder = tempfile::tempdir().expect("folder");
    let (socket, file) = (folder.path().join("lamp.sock"), folder.path().join("factory-reset"));
    let keeper = Loop::start(&socket, 1, Some(file.clone()));
    keeper.panel.hold_button(true);
    assert!(holds_within(Duration::from_secs(4), || keeper.panel.lights() == Lights::ALL), "it warns from 3 s on");
    assert!(holds_within(Duration::from_secs(1), || keeper.panel.lights() == Lights::DARK), "by flashing");
    std::thread::sleep(Duration::from_secs(4));
    keeper.panel.hold_button(false);
    std::thread::sleep(Duration::from_secs(3));
    assert!(!file.exists(), "let go in time");
    keeper.panel.hold_button(true);
    std::thread::sleep(Duration::from_secs(9));
    assert!(!file.exists());
    assert!(holds_within(Duration::from_secs(3), || file.exists()));
}
