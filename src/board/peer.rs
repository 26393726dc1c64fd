//! One connection to the lamp keeper: bytes in -> words, words out -> bytes; never waits.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::keeper_protocol::{FRAME_BYTES, FromKeeper, Role, ToKeeper};

/// One connection.
pub(super) struct Peer {
    stream: UnixStream,
    pub(super) role: Option<Role>,
    pub(super) since: Duration,
    buffer: [u8; FRAME_BYTES],
    filled: usize,
    /// Number of the last press that was sent.
    pub(super) press_sent: u64,
    /// It said goodbye: the end of the connection is in order.
    pub(super) parted: bool,
    pub(super) open: bool,
}

/// What came of reading a peer once.
pub(super) enum Came {
    Word(ToKeeper),
    Nothing,
    Ended,
    Nonsense,
}

impl Peer {
    pub(super) fn new(stream: UnixStream, since: Duration) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, role: None, since, buffer: [0; FRAME_BYTES], filled: 0, press_sent: 0, parted: false, open: true })
    }

    pub(super) fn read(&mut self) -> Came {
        let Some(rest) = self.buffer.get_mut(self.filled..) else { return Came::Nonsense };
        match self.stream.read(rest) {
            Ok(0) => Came::Ended,
            Ok(n) => {
                self.filled += n;
                if self.filled < FRAME_BYTES {
                    return Came::Nothing;
                }
                self.filled = 0;
                ToKeeper::decode(&self.buffer).map_or(Came::Nonsense, Came::Word)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Came::Nothing,
            Err(_) => Came::Ended,
        }
    }

    /// Sends a frame if there is room for it; `false` when there is none now. A frame that goes out in part ends the connection.
    pub(super) fn send(&mut self, word: &FromKeeper) -> bool {
        match self.stream.write(&word.encode()) {
            Ok(FRAME_BYTES) => true,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => false,
            Ok(_) | Err(_) => {
                self.open = false;
                false
            }
        }
    }
}
