//! What the appliance image found of its data partition at the start of the system: its note in -> whether the data is lost.
//!
//! `board/image/files/usr/lib/scanside/data-partition` writes it before systemd begins. A partition that could only be repaired by giving up what
//! it held comes up empty and looks like a new box; but peers have had their images acknowledged, and nobody would send them again.

use std::io::Read as _;
use std::path::Path;

/// The note of the appliance image, in memory; elsewhere there is none. It changes when the configuration has been put back.
pub const FILE: &str = "/run/scanside-image/data";
/// The word that matters is the first.
const NOTE_BYTES_MAX: u64 = 64;

/// Whether the note `file` says that what the data partition held is gone. No note, no loss.
#[must_use]
pub fn is_data_lost(file: &Path) -> bool {
    let mut note = String::new();
    let read = std::fs::File::open(file).and_then(|file| file.take(NOTE_BYTES_MAX).read_to_string(&mut note));
    read.is_ok() && note.split_whitespace().next() == Some("lost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_note_of_loss_is_a_loss() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("data");
        assert!(!is_data_lost(&file), "no image, no note");
        for (note, lost) in
            [("lost\n", true), ("lost", true), ("ok\n", false), ("repaired\n", false), ("memory lost it\n", false), ("", false)]
        {
            std::fs::write(&file, note).expect("written");
            assert_eq!(is_data_lost(&file), lost, "{note:?}");
        }
    }
}
