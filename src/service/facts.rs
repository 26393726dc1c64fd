//! What the system says of the box: small files in -> [`BoxFacts`] for the page. Nothing of it is there outside the appliance's image.
//!
//! | File | Holds |
//! | --- | --- |
//! | `/etc/os-release` | `IMAGE_VERSION=` (os-release(5)) |
//! | `/run/scanside-image/slot` | `A` or `B`: the half of the disk that runs |
//! | `/run/scanside-image/update` | one line, only when somebody must know: why the latest update was given up or refused |
//! | `/run/scanside-image/data` | one line: how the data partition was found at the start (`ok`, `new`, `repaired`, `lost`, `memory REASON`) |

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use crate::secure::TlsKeeper;
use crate::web::BoxFacts;

/// Notes of the appliance image, in memory.
const NOTES: &str = "/run/scanside-image";
/// Such a file has a few lines.
const FILE_BYTES_MAX: u64 = 16 * 1024;
/// Longest line that is shown, characters.
const LINE_CHARS_MAX: usize = 200;

/// Reads the facts; `page` holds the page's certificate.
pub(super) fn read(page: Option<&Arc<TlsKeeper>>) -> BoxFacts {
    let (os_release, notes) = (Path::new("/etc/os-release"), Path::new(NOTES));
    let certificate = page.and_then(|keeper| keeper.fingerprint()).map(|fingerprint| fingerprint.to_string());
    BoxFacts { certificate_sha256: certificate, ..read_from(os_release, notes) }
}

/// Whether the data partition could only be repaired by giving up what it held. Such a box looks like a new one; but peers have had their images
/// acknowledged, and nobody would send them again. Over when the configuration has been put back (`board/image/files/usr/lib/scanside/usb-stick`).
pub(super) fn is_data_lost() -> bool {
    is_lost(Path::new(NOTES))
}

fn is_lost(notes: &Path) -> bool {
    line(&notes.join("data")).as_deref() == Some("lost")
}

fn read_from(os_release: &Path, notes: &Path) -> BoxFacts {
    BoxFacts {
        image_version: text(os_release).and_then(|text| image_version(&text)),
        slot: line(&notes.join("slot")).filter(|slot| matches!(slot.as_str(), "A" | "B")),
        update: line(&notes.join("update")),
        data: line(&notes.join("data")),
        certificate_sha256: None,
    }
}

fn text(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The first line, for people.
fn line(path: &Path) -> Option<String> {
    let text = text(path)?;
    let line: String = text.lines().next()?.chars().filter(|c| !c.is_control()).take(LINE_CHARS_MAX).collect();
    let line = line.trim();
    (!line.is_empty()).then(|| line.to_owned())
}

fn image_version(os_release: &str) -> Option<String> {
    let value = os_release.lines().find_map(|line| line.strip_prefix("IMAGE_VERSION="))?.trim();
    let value = value.trim_matches(['"', '\'']);
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '+' | '~');
    ((1..=64).contains(&value.len()) && value.chars().all(plain)).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_what_the_image_wrote_and_nothing_where_it_wrote_nothing() {
        let folder = tempfile::tempdir().expect("folder");
        let at = |name: &str| folder.path().join(name);
        assert_eq!(read_from(&at("os-release"), folder.path()), BoxFacts::default());
        std::fs::write(at("os-release"), "ID=scanside\nIMAGE_ID=scanside-rpi4\nIMAGE_VERSION=\"1.4.0\"\n").expect("written");
        std::fs::write(at("slot"), "B\n").expect("written");
        std::fs::write(at("update"), "version 1.5.0 is not healthy:\u{1b}[31m disk-full\nmore\n").expect("written");
        std::fs::write(at("data"), "\n").expect("written");
        let facts = read_from(&at("os-release"), folder.path());
        assert_eq!((facts.image_version.as_deref(), facts.slot.as_deref(), facts.data), (Some("1.4.0"), Some("B"), None));
        assert_eq!(facts.update.as_deref(), Some("version 1.5.0 is not healthy:[31m disk-full"));
        std::fs::write(at("slot"), "C\n").expect("written");
        assert_eq!(read_from(&at("os-release"), folder.path()).slot, None);
        for (note, lost) in [("lost\n", true), ("ok\n", false), ("repaired\n", false), ("memory lost it\n", false), ("", false)] {
            std::fs::write(at("data"), note).expect("written");
            assert_eq!(is_lost(folder.path()), lost, "{note:?}");
        }
        for junk in ["IMAGE_VERSION=\n", "IMAGE_VERSION=<b>\n", "XIMAGE_VERSION=1\n"] {
            assert_eq!(image_version(junk), None, "{junk}");
        }
    }
}
