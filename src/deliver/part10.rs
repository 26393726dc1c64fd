//! Part-10 files as a sender needs them: path in -> SOP class, SOP instance, transfer syntax and where the data set begins.
//!
//! Only the File Meta group is read (PS3.10 section 7.1: Explicit VR Little Endian whatever follows), element by element and bounded;
//! the data set is never looked at.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use crate::domain::Uid;
use crate::domain::vr::has_long_length;

/// A File Meta group has under 1 KiB; private information (0002,0102) may take more.
const META_BYTES_MAX: u64 = 1024 * 1024;
/// Longest value that is read; longer ones are skipped.
const VALUE_BYTES_MAX: u32 = 128;

/// A file that can be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part10 {
    pub(super) path: PathBuf,
    pub(super) sop_class_uid: Uid,
    pub(super) sop_instance_uid: Uid,
    pub(super) transfer_syntax_uid: Uid,
    pub(super) data_set_at: u64,
    pub(super) n_bytes: u64,
}

/// Reads the File Meta group of `path`.
pub(super) fn read(path: &Path) -> Result<Part10, String> {
    let file = File::open(path).map_err(|error| format!("cannot be opened: {error}"))?;
    let meta = file.metadata().map_err(|error| format!("cannot be read: {error}"))?;
    if !meta.is_file() {
        return Err("is no regular file".to_owned());
    }
    let (sop_class, sop_instance, transfer_syntax, data_set_at) = read_meta(&mut BufReader::new(file))?;
    if data_set_at >= meta.len() {
        return Err("ends before its data set".to_owned());
    }
    Ok(Part10 {
        path: path.to_owned(),
        sop_class_uid: sop_class,
        sop_instance_uid: sop_instance,
        transfer_syntax_uid: transfer_syntax,
        data_set_at,
        n_bytes: meta.len(),
    })
}

fn read_meta(file: &mut (impl Read + Seek)) -> Result<(Uid, Uid, Uid, u64), String> {
    let mut prefix = [0_u8; 132];
    file.read_exact(&mut prefix).map_err(|_| "is no DICOM file: shorter than its preamble".to_owned())?;
    if prefix.get(128..) != Some(b"DICM".as_slice()) {
        return Err("is no DICOM file: no DICM prefix after the preamble".to_owned());
    }
    let (mut class, mut instance, mut syntax) = (None, None, None);
    let mut at = 132_u64;
    while at < META_BYTES_MAX {
        let mut tag = [0_u8; 4];
        if read_some(file, &mut tag)? == 0 || u16::from_le_bytes([tag[0], tag[1]]) != 0x0002 {
            break;
        }
        let (length, header) = read_length(file)?;
        at = at.saturating_add(header).saturating_add(u64::from(length));
        let wanted = match u16::from_le_bytes([tag[2], tag[3]]) {
            0x0002 => Some(&mut class),
            0x0003 => Some(&mut instance),
            0x0010 => Some(&mut syntax),
            _ => None,
        };
        match wanted {
            Some(slot) if length <= VALUE_BYTES_MAX => {
                let mut value = vec![0_u8; usize::try_from(length).unwrap_or(0)];
                file.read_exact(&mut value).map_err(|_| "is cut in its File Meta group".to_owned())?;
                let text = String::from_utf8_lossy(&value).into_owned();
                *slot = Some(Uid::try_new(&text).map_err(|error| format!("has a bad UID in its File Meta group: {error}"))?);
            }
            _ => {
                file.seek_relative(i64::from(length)).map_err(|_| "is cut in its File Meta group".to_owned())?;
            }
        }
    }
    match (class, instance, syntax) {
        (Some(class), Some(instance), Some(syntax)) => Ok((class, instance, syntax, at)),
        _ => Err("has no SOP class, SOP instance or transfer syntax in its File Meta group".to_owned()),
    }
}

/// VR and length after the tag: length of the value and bytes of the whole header, tag included (PS3.5 section 7.1.2).
fn read_length(file: &mut impl Read) -> Result<(u32, u64), String> {
    let cut = |_| "is cut in its File Meta group".to_owned();
    let mut head = [0_u8; 4];
    file.read_exact(&mut head).map_err(cut)?;
    let [a, b, c, d] = head;
    if has_long_length([a, b]) {
        let mut long = [0_u8; 4];
        file.read_exact(&mut long).map_err(cut)?;
        return Ok((u32::from_le_bytes(long), 12));
    }
    if !a.is_ascii_uppercase() || !b.is_ascii_uppercase() {
        return Err("has a File Meta group that is not Explicit VR Little Endian".to_owned());
    }
    Ok((u32::from(u16::from_le_bytes([c, d])), 8))
}

/// Reads exactly `buffer`, or nothing at the end of the file.
fn read_some(file: &mut impl Read, buffer: &mut [u8; 4]) -> Result<usize, String> {
    match file.read_exact(buffer) {
        Ok(()) => Ok(4),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(0),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

/// All files of `paths`, folders walked without following links, in a stable order; at most `n_max`.
pub(super) fn list_files(paths: &[PathBuf], n_max: usize) -> Result<Vec<PathBuf>, String> {
    let mut files = Vec::new();
    for path in paths {
        let mut folders = VecDeque::new();
        let kind = std::fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?;
        if kind.is_dir() {
            folders.push_back(path.clone());
        } else {
            files.push(path.clone());
        }
        while let Some(folder) = folders.pop_front() {
            let entries = std::fs::read_dir(&folder).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
            let mut entries = entries.map_err(|error| format!("{}: {error}", folder.display()))?;
            entries.sort_by_key(std::fs::DirEntry::file_name);
            for entry in entries {
                let kind = entry.file_type().map_err(|error| format!("{}: {error}", entry.path().display()))?;
                if kind.is_dir() {
                    folders.push_back(entry.path());
                } else if kind.is_file() {
                    files.push(entry.path());
                }
                if files.len() + folders.len() > n_max {
                    return Err(format!("{}: more than {n_max} files: send in parts", path.display()));
                }
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    fn file(elements: &[(u16, &[u8; 2], &[u8])]) -> Vec<u8> {
        let mut out = vec![0_u8; 128];
        out.extend_from_slice(b"DICM");
        for (number, vr, value) in elements {
            out.extend_from_slice(&[2, 0]);
            out.extend_from_slice(&number.to_le_bytes());
            out.extend_from_slice(*vr);
            if *vr == b"OB" {
                out.extend_from_slice(&[0, 0]);
                out.extend_from_slice(&u32::try_from(value.len()).expect("small").to_le_bytes());
            } else {
                out.extend_from_slice(&u16::try_from(value.len()).expect("small").to_le_bytes());
            }
            out.extend_from_slice(value);
        }
        out
    }

    #[test]
    fn the_data_set_begins_after_the_meta_group_whatever_the_group_length_says() {
        let mut bytes = file(&[
            (0x0000, b"UL", &[9, 9, 9, 9]),
            (0x0001, b"OB", &[0, 1]),
            (0x0002, b"UI", b"1.2\0"),
            (0x0003, b"UI", b"1.2.3\0"),
            (0x0010, b"UI", b"1.2.840.10008.1.2.1\0"),
        ]);
        let end = bytes.len() as u64;
        bytes.extend_from_slice(&[8, 0, 5, 0, 1, 2]);
        let (class, instance, syntax, at) = read_meta(&mut Cursor::new(bytes)).expect("a good file");
        assert_eq!((class.as_str(), instance.as_str(), syntax.as_str()), ("1.2", "1.2.3", "1.2.840.10008.1.2.1"));
        assert_eq!(at, end);
    }

    #[test]
    fn what_is_not_dicom_is_named() {
        assert!(read_meta(&mut Cursor::new(b"hello".to_vec())).expect_err("short").contains("no DICOM file"));
        assert!(read_meta(&mut Cursor::new(vec![0; 4096])).expect_err("zeros").contains("no DICOM file"));
        assert!(read_meta(&mut Cursor::new(file(&[(0x0002, b"UI", b"1.2\0")]))).expect_err("half").contains("SOP instance"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_meta_reader_panic(tail in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = file(&[(0x0002, b"UI", b"1.2\0")]);
            bytes.extend_from_slice(&tail);
            let _ = read_meta(&mut Cursor::new(bytes));
        }
    }
}
