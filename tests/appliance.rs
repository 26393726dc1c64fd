//! Promises of the box as systemd runs it: connections wait while the service restarts, the health command tells the truth, and the
//! identity is made once. The program itself runs, with sockets handed over as systemd does (sd_listen_fds(3)).

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for anything here: the model's self-test on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Listeners as systemd holds them: open whether or not the service runs.
struct Sockets {
    held: Vec<OwnedFd>,
    names: String,
    addresses: Vec<SocketAddr>,
}

impl Sockets {
    /// One listener for each name, in descriptors that follow each other from `from` on.
    fn new(names: &[&str], from: i32) -> Self {
        let mut sockets = Self { held: Vec::new(), names: names.join(":"), addresses: Vec::new() };
        for idx in 0..names.len() {
            let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
            sockets.addresses.push(listener.local_addr().expect("address"));
            let number = from + i32::try_from(idx).expect("few");
            let held = rustix::io::fcntl_dupfd_cloexec(&listener, number).expect("a descriptor");
            assert_eq!(held.as_raw_fd(), number, "each test has a range of its own");
            rustix::io::fcntl_setfd(&held, rustix::io::FdFlags::empty()).expect("inherited");
            sockets.held.push(held);
        }
        sockets
    }

    fn hand_over(&self, command: &mut Command) {
        command.env("LISTEN_FDS", self.held.len().to_string()).env("LISTEN_FDNAMES", &self.names);
        command.env("LISTEN_FDS_FIRST_FD", self.held[0].as_raw_fd().to_string());
    }
}

/// A box in a folder of its own.
struct Site {
    folder: tempfile::TempDir,
}

/// The service; killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Ends it in order, as systemd does, and waits.
    fn terminate(mut self) -> bool {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signalled");
        self.0.wait().expect("ended").success()
    }
}

impl Site {
    fn new(config: &str) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        for name in ["state", "run"] {
            std::fs::create_dir(folder.path().join(name)).expect("made");
        }
        std::fs::write(folder.path().join("config.toml"), config).expect("written");
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_scanside"));
        command.args(["serve", "--config"]).arg(self.path("config.toml")).current_dir(env!("CARGO_MANIFEST_DIR"));
        command.env("STATE_DIRECTORY", self.path("state")).env("RUNTIME_DIRECTORY", self.path("run"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn start(&self, sockets: Option<&Sockets>) -> Running {
        let mut command = self.command();
        if let Some(sockets) = sockets {
            sockets.hand_over(&mut command);
        }
        Running(command.spawn().expect("started"))
    }

    fn health(&self, more: &[&str]) -> (i32, String) {
        let output = scanside(&[&["health", "--dir", text(&self.path("run"))], more].concat());
        (output.status.code().expect("not killed"), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn scanside(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_scanside")).args(args).output().expect("runs")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "nothing came");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("systemd's socket takes connections at any time");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream
}

/// Asks; the answer comes when somebody serves.
fn ask(address: SocketAddr, path: &str) -> TcpStream {
    let mut stream = connect(address);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").expect("sent");
    stream
}

fn answer(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    text
}

/// An A-ASSOCIATE-RQ (PS3.8 table 9-11) that offers Verification; the kind of the first PDU that comes back.
fn propose(address: SocketAddr) -> TcpStream {
    fn item(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).expect("short").to_be_bytes();
        [&[kind, 0], &length[..], body].concat()
    }
    let syntaxes = [item(0x30, b"1.2.840.10008.1.1"), item(0x40, b"1.2.840.10008.1.2")].concat();
    let items = [
        item(0x10, b"1.2.840.10008.3.1.1.1"),
        item(0x20, &[&[1, 0, 0, 0], &syntaxes[..]].concat()),
        item(0x50, &[item(0x51, &[0, 0, 64, 0]), item(0x52, b"1.2.3.4")].concat()),
    ]
    .concat();
    let body = [&[0, 1, 0, 0], &b"SCANSIDE        TESTER          "[..], &[0; 32], &items[..]].concat();
    let mut stream = connect(address);
    stream.write_all(&[&[1, 0], &u32::try_from(body.len()).expect("short").to_be_bytes()[..], &body].concat()).expect("sent");
    stream
}

fn first_byte(mut stream: TcpStream) -> u8 {
    let mut byte = [0];
    stream.read_exact(&mut byte).expect("an answer");
    byte[0]
}

#[test]
fn connections_wait_in_the_queue_while_the_service_restarts() {
    // Without a model the start is quick; the box serves and says fault.
    let site = Site::new("[infer]\nmodels_dir = \"/nonexistent\"\n[dicom]\nlisten = \"127.0.0.1:104\"\n");
    let sockets = Sockets::new(&["dicom", "web"], 210);
    let [dicom, web] = sockets.addresses[..] else { panic!("two") };
    // Before the first start ...
    let (early, early_page) = (propose(dicom), ask(web, "/healthz"));
    let first = site.start(Some(&sockets));
    assert_eq!(first_byte(early), 2, "A-ASSOCIATE-AC");
    assert!(answer(early_page).starts_with("HTTP/1.1 503 "), "it serves, and says that it cannot be relied on");
    // ... after a crash ...
    drop(first);
    let (waiting, waiting_page) = (propose(dicom), ask(web, "/api/v1/status"));
    std::thread::sleep(Duration::from_millis(300));
    let second = site.start(Some(&sockets));
    assert_eq!(first_byte(waiting), 2);
    assert!(answer(waiting_page).starts_with("HTTP/1.1 200 "));
    // A page that was asked so early says "starting"; soon it says that the socket wins.
    let told = |page: &String| page.contains("in the place of 127.0.0.1:104") && page.contains(&dicom.to_string());
    until(|| Some(answer(ask(web, "/api/v1/status"))).filter(told));
    // ... and after a stop in order.
    assert!(second.terminate());
    let waiting = propose(dicom);
    let _third = site.start(Some(&sockets));
    assert_eq!(first_byte(waiting), 2);
}

#[test]
fn a_socket_of_another_name_is_refused_before_anything_is_served() {
    let site = Site::new("");
    let sockets = Sockets::new(&["ftp"], 230);
    let mut command = site.command();
    sockets.hand_over(&mut command);
    let output = command.stderr(Stdio::piped()).output().expect("ran");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("FileDescriptorName="));
}

#[test]
fn health_is_good_only_while_the_service_is_ready_and_without_a_fault() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let listeners = "[dicom]\nlisten = \"127.0.0.1:0\"\n[web]\nlisten = \"127.0.0.1:0\"\n";
    let site = Site::new(&format!("{listeners}[infer]\nmodels_dir = {:?}\n", text(&models)));
    let (status, said) = site.health(&[]);
    assert!(status == 1 && said.contains("does not run"), "{said}");

    let running = site.start(None);
    let (status, said) = site.health(&["--wait", "120", "--config", text(&site.path("config.toml"))]);
    assert_eq!(status, 0, "{said}");
    let output = scanside(&["health", "--json", "--dir", text(&site.path("run"))]);
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one object");
    assert_eq!((told["healthy"].as_bool(), told["report"]["ready"].as_bool()), (Some(true), Some(true)));

    // A configuration with which it would not come back.
    std::fs::write(site.path("broken.toml"), "[dicom]\nlisten = 5\n").expect("written");
    let (status, said) = site.health(&["--config", text(&site.path("broken.toml"))]);
    assert!(status == 1 && said.contains("would not start again") && said.contains("dicom.listen"), "{said}");

    // A service that is stopped where it stands is no longer believed.
    let pid = rustix::process::Pid::from_child(&running.0);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("stopped");
    let said = until(|| Some(site.health(&[])).filter(|(status, _)| *status == 1)).1;
    assert!(said.contains("has not said anything"), "{said}");
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).expect("goes on");
    until(|| Some(site.health(&[])).filter(|(status, _)| *status == 0));

    assert!(running.terminate());
    let (status, said) = site.health(&[]);
    assert!(status == 1 && said.contains("does not run"), "{said}");
}

#[test]
fn health_names_the_fault() {
    let listeners = "[dicom]\nlisten = \"127.0.0.1:0\"\n[web]\nlisten = \"127.0.0.1:0\"\n";
    let site = Site::new(&format!("{listeners}[infer]\nmodels_dir = \"/nonexistent\"\n"));
    let _running = site.start(None);
    let said = until(|| Some(site.health(&[]).1).filter(|said| said.contains("model-unusable")));
    assert!(said.contains("reinstall the model package"), "{said}");
}

#[test]
fn the_identity_is_made_once_and_its_code_and_fingerprint_are_shown_each_time() {
    let folder = tempfile::tempdir().expect("folder");
    let dir = folder.path().join("identity");
    let run = |more: &[&str]| {
        let output = scanside(&[&["identity", "--dir", text(&dir)], more].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let first = run(&[]);
    let code = std::fs::read_to_string(dir.join("claim-code")).expect("there");
    assert!(first.contains(code.trim()) && code.trim().len() == 19, "{first}");
    assert_eq!(run(&[]), first);
    assert_ne!(run(&["--force"]), first);
    let output = scanside(&["identity", "--dir", "/proc/nowhere"]);
    assert_eq!(output.status.code(), Some(1));
}
