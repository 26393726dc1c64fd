//! The service's end of an NPU worker: a command and a setup -> a child process that runs tensors, every step with a deadline, and is killed
//! when it is late, wrong or no longer wanted. Nothing that the child does or says costs more than the child.
//!
//! The frames go over a socket pair that is the child's standard input, and not over its standard output: vendors' libraries print there.
//! What the child prints is read line by line, bounded, and told to the journal.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::protocol::{self, Kind, ProtocolError, Ready, Setup, WORDS_BYTES_MAX};
use super::{Launcher, NpuFault, TensorRunner};
use crate::infer::engine::Cancel;

/// How often a waiting read looks at the clock and at the cancel flag.
const SLICE: Duration = Duration::from_millis(50);
/// Longest wait for an earlier worker to leave the process table before the next one may start.
const GONE_WAIT: Duration = Duration::from_secs(5);
/// Most lines of one worker that are told; the rest is counted.
const LINES_MAX: usize = 40;
/// Longest line that is told, bytes.
const LINE_BYTES_MAX: usize = 400;
/// What a worker keeps of the service's environment: where vendors' libraries look for their own files.
const KEPT_VARIABLES: [&str; 6] = ["ADSP_LIBRARY_PATH", "HOME", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "VIVANTE_SDK_DIR"];

/// How a worker is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerCommand {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

impl WorkerCommand {
    /// This program as worker, also when its file was replaced by an update meanwhile.
    #[must_use]
    pub fn own() -> Self {
        Self { program: "/proc/self/exe".into(), arguments: vec!["npu-worker".into()] }
    }
}

/// What a worker prints, line by line.
pub type Say = Arc<dyn Fn(String) + Send + Sync>;

/// Starts workers with one setup.
pub struct WorkerLauncher {
    /// How.
    pub command: WorkerCommand,
    /// With what.
    pub setup: Setup,
    /// Time since some fixed moment; never goes back.
    pub clock: fn() -> Duration,
    /// Longest wait for a worker to be ready: loading libraries and compiling the network for the device.
    pub ready_max: Duration,
    /// Who is told what it prints.
    pub say: Say,
    /// Workers that were killed and have not left the process table.
    pub not_gone: Arc<AtomicUsize>,
}

impl Launcher for WorkerLauncher {
    fn launch(&mut self, cancel: &Cancel) -> Result<Box<dyn TensorRunner>, NpuFault> {
        let until = (self.clock)() + GONE_WAIT;
        while self.not_gone.load(Ordering::Acquire) > 0 {
            if (self.clock)() >= until {
                return Err(NpuFault::Unstartable(
                    "an earlier worker was killed and does not end: it hangs in the kernel".to_owned(),
                ));
            }
            thread::sleep(SLICE);
        }
        Ok(Box::new(WorkerHandle::launch(self, cancel)?))
    }
}

/// A worker that is ready.
pub struct WorkerHandle {
    child: Owned,
    stream: UnixStream,
    ready: Ready,
    n_input: usize,
    n_output: usize,
    number: u64,
    clock: fn() -> Duration,
}

impl WorkerHandle {
    fn launch(launcher: &WorkerLauncher, cancel: &Cancel) -> Result<Self, NpuFault> {
        let unstartable = |e: io::Error| NpuFault::Unstartable(format!("the worker cannot be started: {e}"));
        let (stream, theirs) = UnixStream::pair().map_err(unstartable)?;
        let child =
            Owned { child: Some(spawn(launcher, theirs).map_err(unstartable)?), not_gone: Arc::clone(&launcher.not_gone) };
        let shapes = launcher.setup.shapes;
        let placeholder = Ready { runtime: String::new(), provider: String::new(), device: String::new() };
        let mut handle = Self {
            child,
            stream,
            ready: placeholder,
            n_input: shapes.n_input(),
            n_output: shapes.n_output(),
            number: 0,
            clock: launcher.clock,
        };
        let payload = launcher.setup.encode();
        let answer = handle.ask(Kind::Setup, &[&payload], (Kind::Ready, usize::MAX), launcher.ready_max, cancel)?;
        handle.ready = Ready::decode(&answer).map_err(|e| NpuFault::Nonsense(e.to_string()))?;
        Ok(handle)
    }

    /// One question, one answer, within `budget`.
    fn ask(
        &mut self,
        kind: Kind,
        parts: &[&[u8]],
        (wanted, bytes_max): (Kind, usize),
        budget: Duration,
        cancel: &Cancel,
    ) -> Result<Vec<u8>, NpuFault> {
        let deadline = (self.clock)() + budget;
        let mut timed = Timed { stream: &self.stream, clock: self.clock, deadline, cancel };
        let outcome = protocol::write_frame(&mut timed, kind, parts)
            .and_then(|()| protocol::read_frame(&mut timed, &[(wanted, bytes_max), (Kind::Failed, WORDS_BYTES_MAX)]));
        match outcome {
            Ok(frame) if frame.kind == wanted => Ok(frame.payload),
            Ok(frame) => Err(NpuFault::Said(protocol::words(&frame.payload))),
            Err(ProtocolError::Stream(e)) if e.kind() == io::ErrorKind::TimedOut => {
                if cancel.is_requested() {
                    Err(NpuFault::Cancelled)
                } else {
                    Err(NpuFault::Late { budget_ms: u64::try_from(budget.as_millis()).unwrap_or(u64::MAX) })
                }
            }
            Err(ProtocolError::Stream(_)) => Err(NpuFault::Ended(self.child.ending())),
            Err(error) => Err(NpuFault::Nonsense(error.to_string())),
        }
    }
}

impl TensorRunner for WorkerHandle {
    fn ready(&self) -> &Ready {
        &self.ready
    }

    fn run(&mut self, input: &[i8], budget: Duration, cancel: &Cancel) -> Result<Vec<i8>, NpuFault> {
        if input.len() != self.n_input {
            return Err(NpuFault::Nonsense(format!("{} input values instead of {}", input.len(), self.n_input)));
        }
        self.number += 1;
        let number = self.number;
        let tensor: Vec<u8> = input.iter().map(|v| v.cast_unsigned()).collect();
        let (head, n) = (protocol::number_head(number), self.n_output);
        let answer = self.ask(Kind::Run, &[&head, &tensor], (Kind::Answer, n + 8), budget, cancel)?;
        match protocol::numbered(&answer, n) {
            Some((found, output)) if found == number => Ok(output.iter().map(|v| v.cast_signed()).collect()),
            Some(_) => Err(NpuFault::Nonsense("the answer to another question".to_owned())),
            None => Err(NpuFault::Nonsense(format!("{} bytes instead of {n} output values", answer.len()))),
        }
    }

    fn check(&mut self) -> Result<(), NpuFault> {
        let ended = self.child.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
        if ended { Err(NpuFault::Ended(self.child.ending())) } else { Ok(()) }
    }
}

fn spawn(launcher: &WorkerLauncher, theirs: UnixStream) -> io::Result<Child> {
    let (printed, out) = io::pipe()?;
    let mut command = Command::new(&launcher.command.program);
    command
        .args(&launcher.command.arguments)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::from(out.try_clone()?))
        .stderr(Stdio::from(out))
        .current_dir("/")
        // A group of its own: what a library starts beside it is killed with it, and Ctrl-C in a terminal is not for it.
        .process_group(0)
        .env_clear()
        .envs(KEPT_VARIABLES.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
        // Newer runtime libraries carry a vendor's telemetry and look at this before anything else (engine_ort.rs).
        .env("ORT_DISABLE_TELEMETRY", "1");
    let say = Arc::clone(&launcher.say);
    let child = command.spawn()?;
    // Without a reader the pipe breaks, and what the worker prints is lost; the worker goes on.
    let _ = thread::Builder::new().name("npu-printed".to_owned()).spawn(move || tell_lines(printed, &say));
    Ok(child)
}

/// Tells what a worker prints, bounded; ends when it does.
fn tell_lines(mut printed: impl Read, say: &Say) {
    let (mut line, mut n_lines, mut buffer) = (Vec::new(), 0_usize, [0_u8; 4096]);
    loop {
        let n = match printed.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        for &byte in buffer.iter().take(n) {
            if byte == b'\n' {
                tell(&mut line, &mut n_lines, say);
            } else if line.len() < LINE_BYTES_MAX {
                line.push(byte);
            }
        }
    }
    tell(&mut line, &mut n_lines, say);
    if let Some(n_more @ 1..) = n_lines.checked_sub(LINES_MAX) {
        say(format!("({n_more} further lines are left out)"));
    }
}

fn tell(line: &mut Vec<u8>, n_lines: &mut usize, say: &Say) {
    let words = protocol::words(line);
    line.clear();
    if !words.is_empty() {
        *n_lines += 1;
        if *n_lines <= LINES_MAX {
            say(words);
        }
    }
}

/// The stream with a deadline: reads and writes give up with `TimedOut` when time is over or a stop was asked for.
struct Timed<'a> {
    stream: &'a UnixStream,
    clock: fn() -> Duration,
    deadline: Duration,
    cancel: &'a Cancel,
}

impl Timed<'_> {
    /// How long the next call may wait; an error when it may not.
    fn slice(&self) -> io::Result<Duration> {
        let left = self.deadline.saturating_sub((self.clock)());
        if left.is_zero() || self.cancel.is_requested() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(left.min(SLICE).max(Duration::from_millis(1)))
    }

    fn patiently<T>(&mut self, mut call: impl FnMut(&mut &UnixStream, Duration) -> io::Result<T>) -> io::Result<T> {
        loop {
            let slice = self.slice()?;
            match call(&mut &*self.stream, slice) {
                Err(e)
                    if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted) => {}
                other => return other,
            }
        }
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.patiently(|stream, slice| stream.set_read_timeout(Some(slice)).and_then(|()| stream.read(buffer)))
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.patiently(|stream, slice| stream.set_write_timeout(Some(slice)).and_then(|()| stream.write(bytes)))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A child that is killed, with all that it started, when nobody owns it any longer.
struct Owned {
    child: Option<Child>,
    not_gone: Arc<AtomicUsize>,
}

impl Owned {
    /// How it ended, in words; a child whose end of the stream is closed gets a moment to be gone.
    fn ending(&mut self) -> String {
        let Some(child) = &mut self.child else { return "it is gone".to_owned() };
        for _ in 0..10 {
            match child.try_wait() {
                Ok(Some(status)) => return status.to_string(),
                Ok(None) => thread::sleep(Duration::from_millis(10)),
                Err(error) => return error.to_string(),
            }
        }
        "it closed its end and still runs".to_owned()
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let group = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
        // A leader that was waited for may have left a group behind; one that left none is an error that says so.
        let _ = group.map(|group| rustix::process::kill_process_group(group, rustix::process::Signal::KILL));
        let _ = child.kill();
        // A process that hangs in the kernel does not end at once, and a study must not wait for it.
        self.not_gone.fetch_add(1, Ordering::AcqRel);
        let not_gone = Arc::clone(&self.not_gone);
        let reaper = thread::Builder::new().name("npu-reaper".to_owned()).spawn(move || {
            let _ = child.wait();
            not_gone.fetch_sub(1, Ordering::AcqRel);
        });
        if reaper.is_err() {
            self.not_gone.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn what_a_worker_prints_is_told_line_by_line_and_bounded() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let say: Say = Arc::new({
            let told = Arc::clone(&told);
            move |line| told.lock().expect("no panic").push(line)
        });
        let mut printed = b"first\r\n\n\x1b[31msecond\n".to_vec();
        printed.extend("x".repeat(100_000).bytes());
        for _ in 0..100 {
            printed.extend(b"\nmore");
        }
        tell_lines(printed.as_slice(), &say);
        let told = told.lock().expect("no panic");
        assert_eq!(told.len(), LINES_MAX + 1);
        assert_eq!(told[..2], ["first", "[31msecond"]);
        assert_eq!(told[2].len(), LINE_BYTES_MAX);
        assert_eq!(told[LINES_MAX], "(63 further lines are left out)");
    }
}
