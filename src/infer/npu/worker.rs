//! The worker's end: questions from the service -> tensors run by a vendor's library -> answers, until the service is gone.
//!
//! A thread of its own reads the stream, so that the end of the service is seen even while a library computes or hangs: then the worker ends
//! by force, because a library that hangs would hold up any other end.

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, SyncSender};
use std::thread;

use super::protocol::{self, Frame, Kind, ProtocolError, Ready, Setup};

/// A network that is ready to run: int8 input -> int8 output, or what went wrong.
pub type Network = Box<dyn FnMut(&[i8]) -> Result<Vec<i8>, String>>;

/// The worker's stream: the socket that the service gave it as standard input.
///
/// # Errors
/// When standard input is no socket: somebody started the worker by hand.
pub fn stream_of_stdin() -> io::Result<UnixStream> {
    let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    stream.peer_addr()?;
    Ok(stream)
}

/// Ends this process at once, whatever its libraries do; their exit handlers may hang, too.
pub fn end_by_force() {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
}

/// Answers questions on `stream` until the service is gone; `build` loads the network that the setup names. `on_gone` is called on the
/// reading thread when the stream ends, also while a question is in work.
///
/// # Errors
/// What ended it, other than the end of the service.
pub fn serve(
    stream: UnixStream,
    build: impl FnOnce(Setup) -> Result<(Ready, Network), String>,
    on_gone: fn(),
) -> Result<(), ProtocolError> {
    let mut reading = stream.try_clone()?;
    let mut out = stream;
    let first = protocol::read_frame(&mut reading, &[(Kind::Setup, usize::MAX)])?;
    let setup = Setup::decode(&first.payload)?;
    drop(first);
    let (n_input, n_output) = (setup.shapes.n_input(), setup.shapes.n_output());
    // One question at a time: the service waits for its answer, so one place is enough; more would be a fault, and wait.
    let (questions, to_do) = mpsc::sync_channel(1);
    thread::Builder::new().name("npu-questions".to_owned()).spawn(move || {
        read_questions(&mut reading, n_input, &questions);
        on_gone();
    })?;
    let (ready, mut network) = match build(setup) {
        Ok(built) => built,
        Err(words) => return failed(&mut out, &words),
    };
    protocol::write_frame(&mut out, Kind::Ready, &[&ready.encode()])?;
    for frame in to_do {
        let Some((number, tensor)) = protocol::numbered(&frame.payload, n_input) else {
            return Err(ProtocolError::Nonsense("a question with another tensor"));
        };
        let input: Vec<i8> = tensor.iter().map(|v| v.cast_signed()).collect();
        match network(&input) {
            Ok(output) if output.len() == n_output => {
                let bytes: Vec<u8> = output.iter().map(|v| v.cast_unsigned()).collect();
                protocol::write_frame(&mut out, Kind::Answer, &[&protocol::number_head(number), &bytes])?;
            }
            Ok(output) => failed(&mut out, &format!("the network gave {} values instead of {n_output}", output.len()))?,
            Err(words) => failed(&mut out, &words)?,
        }
    }
    Ok(())
}

fn read_questions(reading: &mut UnixStream, n_input: usize, questions: &SyncSender<Frame>) {
    while let Ok(frame) = protocol::read_frame(reading, &[(Kind::Run, n_input + 8)]) {
        if questions.send(frame).is_err() {
            return;
        }
    }
}

fn failed(out: &mut UnixStream, words: &str) -> Result<(), ProtocolError> {
    let mut words = protocol::words(words.as_bytes());
    while words.len() > protocol::WORDS_BYTES_MAX {
        words.pop();
    }
    protocol::write_frame(out, Kind::Failed, &[words.as_bytes()])
}
