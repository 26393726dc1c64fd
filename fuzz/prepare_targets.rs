//! The fuzz target of `prepare`: a file that the header scan let through in -> its samples, or a reason; never a panic, a deep stack or a
//! giant allocation.
//!
//! Bytes that begin with 'D' are a program that writes a well-formed file (tags, lengths and nesting right by construction, values the
//! fuzzer's), all others are a file as they stand.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used, unreachable_pub)] // a panic is what a target is for; the fuzz crate calls them

use std::io::Cursor;

use super::{PrepareLimits, dataset, frames};
use crate::domain::{Monotonic, StoredInstance, WallTime};
use crate::receive::{ScanLimits, scan_part10};

/// What the program may write: attributes that `prepare` reads, and others of each kind.
const TAGS: [(u32, &[u8; 2]); 24] = [
    (0x0008_0005, b"CS"),
    (0x0008_0008, b"CS"),
    (0x0008_0060, b"CS"),
    (0x0018_0050, b"DS"),
    (0x0020_0032, b"DS"),
    (0x0020_0037, b"DS"),
    (0x0028_0002, b"US"),
    (0x0028_0004, b"CS"),
    (0x0028_0008, b"IS"),
    (0x0028_0010, b"US"),
    (0x0028_0011, b"US"),
    (0x0028_0030, b"DS"),
    (0x0028_0100, b"US"),
    (0x0028_0101, b"US"),
    (0x0028_0102, b"US"),
    (0x0028_0103, b"US"),
    (0x0028_1052, b"DS"),
    (0x0028_1053, b"DS"),
    (0x0028_2110, b"CS"),
    (0x0029_1010, b"OB"),
    (0x0040_A30A, b"DS"),
    (0x0066_0016, b"OF"),
    (0x0008_0012, b"DA"),
    (0x0008_0013, b"TM"),
];
const SEQUENCES: [u32; 6] = [0x5200_9229, 0x5200_9230, 0x0028_9145, 0x0020_9113, 0x0008_1140, 0x0029_1020];
const SYNTAXES: [&str; 12] = [
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.5",
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.57",
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.1.98",
    "1.2.840.10008.1.2.4.80",
];

/// Writes elements in one encoding.
struct Writer {
    bytes: Vec<u8>,
    explicit: bool,
    big: bool,
}

impl Writer {
    fn u16(&mut self, x: u16) {
        self.bytes.extend(if self.big { x.to_be_bytes() } else { x.to_le_bytes() });
    }

    fn u32(&mut self, x: u32) {
        self.bytes.extend(if self.big { x.to_be_bytes() } else { x.to_le_bytes() });
    }

    fn head(&mut self, tag: u32, vr: &[u8; 2], length: u32) {
        self.u16((tag >> 16) as u16);
        self.u16((tag & 0xffff) as u16);
        if self.explicit && tag >> 16 != 0xfffe {
            self.bytes.extend(vr);
            if !crate::domain::vr::has_long_length(*vr) {
                self.u16(length as u16);
                return;
            }
            self.bytes.extend([0, 0]);
        }
        self.u32(length);
    }

    fn element(&mut self, tag: u32, vr: &[u8; 2], value: &[u8]) {
        self.head(tag, vr, value.len() as u32);
        self.bytes.extend(value);
    }
}

/// Takes bytes from the front, zeros when there are none left.
struct Tape<'a>(&'a [u8]);

impl<'a> Tape<'a> {
    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    fn take(&mut self, n: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        head
    }
}

/// The file that a program writes.
pub fn build(program: &[u8]) -> Vec<u8> {
    let mut tape = Tape(program);
    let syntax = SYNTAXES[usize::from(tape.byte()) % SYNTAXES.len()];
    let mut file = vec![0; 128];
    file.extend(b"DICM");
    let mut meta = Writer { bytes: Vec::new(), explicit: true, big: false };
    let padded = |text: &str| [text.as_bytes(), &[0][..text.len() % 2]].concat();
    meta.element(0x0002_0001, b"OB", &[0, 1]);
    meta.element(0x0002_0002, b"UI", &padded("1.2.840.10008.5.1.4.1.1.4"));
    meta.element(0x0002_0003, b"UI", &padded("1.2.3.4.5"));
    meta.element(0x0002_0010, b"UI", &padded(syntax));
    meta.element(0x0002_0012, b"UI", &padded("1.2.3"));
    let mut group = Writer { bytes: Vec::new(), explicit: true, big: false };
    group.element(0x0002_0000, b"UL", &(meta.bytes.len() as u32).to_le_bytes());
    file.extend(group.bytes);
    file.extend(meta.bytes);
    let mut out = Writer { bytes: Vec::new(), explicit: syntax != "1.2.840.10008.1.2", big: syntax == "1.2.840.10008.1.2.2" };
    out.element(0x0008_0016, b"UI", &padded("1.2.840.10008.5.1.4.1.1.4"));
    out.element(0x0008_0018, b"UI", &padded("1.2.3.4.5"));
    out.element(0x0020_000d, b"UI", &padded("1.2.3"));
    out.element(0x0020_000e, b"UI", &padded("1.2.3.4"));
    let mut depth = 0;
    for _ in 0..tape.byte() {
        step(&mut tape, &mut out, &mut depth);
    }
    for _ in 0..depth {
        out.head(0xfffe_e00d, b"  ", 0);
        out.head(0xfffe_e0dd, b"  ", 0);
    }
    pixels(&mut tape, &mut out, syntax);
    file.extend(out.bytes);
    file
}

/// One instruction: an element, a sequence that opens, one that closes.
fn step(tape: &mut Tape<'_>, out: &mut Writer, depth: &mut usize) {
    let op = tape.byte();
    match op {
        0..=191 => {
            let (tag, vr) = TAGS[usize::from(op) % TAGS.len()];
            let n = usize::from(tape.byte() % 32);
            let value = tape.take(n);
            if vr == b"US" {
                let [a, b] = [value.first().copied().unwrap_or(1), value.get(1).copied().unwrap_or(0)];
                let number = u16::from_le_bytes([a, b]);
                let number = if out.big { number.to_be_bytes() } else { number.to_le_bytes() };
                out.element(tag, vr, &number);
            } else {
                out.element(tag, vr, value);
            }
        }
        192..=223 if *depth < 70 => {
            out.head(SEQUENCES[usize::from(op) % SEQUENCES.len()], b"SQ", u32::MAX);
            out.head(0xfffe_e000, b"  ", u32::MAX);
            *depth += 1;
        }
        224..=239 if *depth > 0 => {
            out.head(0xfffe_e00d, b"  ", 0);
            out.head(0xfffe_e000, b"  ", u32::MAX);
        }
        _ if *depth > 0 => {
            out.head(0xfffe_e00d, b"  ", 0);
            out.head(0xfffe_e0dd, b"  ", 0);
            *depth -= 1;
        }
        _ => {}
    }
}

/// The rest of the tape as Pixel Data, native or in up to four fragments after an offset table.
fn pixels(tape: &mut Tape<'_>, out: &mut Writer, syntax: &str) {
    if !syntax.starts_with("1.2.840.10008.1.2.4") && !matches!(syntax, "1.2.840.10008.1.2.5" | "1.2.840.10008.1.2.1.98") {
        let value = tape.take(usize::MAX);
        return out.element(0x7fe0_0010, b"OW", value);
    }
    out.head(0x7fe0_0010, b"OB", u32::MAX);
    let n_offsets = usize::from(tape.byte() % 4) * 4;
    let offsets = tape.take(n_offsets);
    out.element(0xfffe_e000, b"  ", offsets);
    let n_fragments = usize::from(tape.byte() % 4) + 1;
    for idx in 0..n_fragments {
        let n = if idx + 1 == n_fragments { usize::MAX } else { tape.0.len() / 2 };
        let fragment = tape.take(n);
        out.element(0xfffe_e000, b"  ", fragment);
    }
    out.head(0xfffe_e0dd, b"  ", 0);
}

/// One stored instance.
pub fn prepare(data: &[u8]) {
    let built;
    let bytes = match data.split_first() {
        Some((b'D', program)) if !data.starts_with(b"DICM") => {
            built = build(program);
            &built[..]
        }
        _ => data,
    };
    let scan_limits = ScanLimits { inflated_bytes_max: 1 << 20, ..ScanLimits::default() };
    let Ok(header) = scan_part10(&mut Cursor::new(bytes), &scan_limits) else { return };
    let path = std::env::temp_dir().join(format!("scanside-fuzz-{}-{:?}", std::process::id(), std::thread::current().id()));
    std::fs::write(&path, bytes).expect("the temporary folder takes a file");
    let instance = StoredInstance {
        header,
        path: path.clone(),
        n_bytes: bytes.len() as u64,
        sha256: [0; 32],
        association_id: 0,
        stored_at: Monotonic(0),
        received_at: WallTime(0),
    };
    read(&instance);
    let _ = std::fs::remove_file(path);
}

fn read(instance: &StoredInstance) {
    let limits = PrepareLimits::default();
    let Ok(opened) = dataset::open(instance, &limits) else { return };
    let data_set = &opened.data_set;
    // What was parsed is no deeper than what the parser's recursion can bear.
    let mut below = vec![(&**data_set, 0)];
    while let Some((object, depth)) = below.pop() {
        assert!(depth <= 64, "a tree of depth {depth}");
        for element in object.iter() {
            below.extend(element.items().into_iter().flatten().map(|item| (item, depth + 1)));
        }
    }
    let Ok(format) = dataset::sample_format(data_set, instance) else { return };
    let n_pixels = usize::from(format.n_rows) * usize::from(format.n_columns);
    // The service refuses by its memory budget before it decodes (`budget.rs`); the fuzzer's machine is smaller.
    if n_pixels > 1 << 18 || format.n_frames > 4096 {
        return;
    }
    for frame_idx in [0, format.n_frames - 1, format.n_frames] {
        if let Ok(rescale) = dataset::rescale(data_set, frame_idx) {
            assert!(rescale.slope != 0.0 && rescale.slope.is_finite() && rescale.intercept.is_finite());
        }
        match frames::samples(&opened, &format, frame_idx) {
            Ok(samples) => assert_eq!(samples.len(), n_pixels, "as many samples as rows times columns"),
            Err(reason) => assert!(!reason.text.is_empty()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::duplicate_mod)] // a helper of three rooms, none of which may import another
#[path = "corpus.rs"]
mod corpus;

#[cfg(test)]
mod tests {
    #[test]
    fn corpus_of_prepare_keeps_its_promises() {
        super::corpus::run("prepare", super::prepare);
    }
}
