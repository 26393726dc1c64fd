//! Small DICOM data sets for tests: attributes in -> bytes out, in any of the uncompressed encodings.
//! Shared by the unit tests of `receive` and by `tests/receive.rs`, so not every helper is used in each.
#![allow(dead_code, clippy::unwrap_used, clippy::cast_possible_truncation)]

/// MR Image Storage.
pub(crate) const MR_IMAGE: &str = "1.2.840.10008.5.1.4.1.1.4";
/// Enhanced MR Image Storage.
pub(crate) const ENHANCED_MR_IMAGE: &str = "1.2.840.10008.5.1.4.1.1.4.1";
/// Explicit VR Little Endian.
pub(crate) const EXPLICIT_LE: &str = "1.2.840.10008.1.2.1";
/// Implicit VR Little Endian.
pub(crate) const IMPLICIT_LE: &str = "1.2.840.10008.1.2";

/// Writes elements one after the other.
#[derive(Clone)]
pub(crate) struct DataSet {
    pub(crate) bytes: Vec<u8>,
    pub(crate) explicit: bool,
    pub(crate) big_endian: bool,
}

impl DataSet {
    pub(crate) fn explicit() -> Self {
        Self { bytes: Vec::new(), explicit: true, big_endian: false }
    }

    pub(crate) fn implicit() -> Self {
        Self { bytes: Vec::new(), explicit: false, big_endian: false }
    }

    pub(crate) fn big_endian() -> Self {
        Self { bytes: Vec::new(), explicit: true, big_endian: true }
    }

    fn empty_like(&self) -> Self {
        Self { bytes: Vec::new(), ..*self }
    }

    pub(crate) fn u16_bytes(&self, value: u16) -> [u8; 2] {
        if self.big_endian { value.to_be_bytes() } else { value.to_le_bytes() }
    }

    pub(crate) fn u32_bytes(&self, value: u32) -> [u8; 4] {
        if self.big_endian { value.to_be_bytes() } else { value.to_le_bytes() }
    }

    pub(crate) fn head(mut self, tag: u32, vr: &str, length: u32) -> Self {
        let (group, element) = (self.u16_bytes((tag >> 16) as u16), self.u16_bytes((tag & 0xFFFF) as u16));
        self.bytes.extend_from_slice(&group);
        self.bytes.extend_from_slice(&element);
        let long = matches!(vr, "OB" | "OD" | "OF" | "OL" | "OV" | "OW" | "SQ" | "SV" | "UC" | "UN" | "UR" | "UT" | "UV");
        if self.explicit && tag >> 16 != 0xFFFE {
            self.bytes.extend_from_slice(vr.as_bytes());
            if !long {
                let short = self.u16_bytes(length as u16);
                self.bytes.extend_from_slice(&short);
                return self;
            }
            self.bytes.extend_from_slice(&[0, 0]);
        }
        let length = self.u32_bytes(length);
        self.bytes.extend_from_slice(&length);
        self
    }

    pub(crate) fn raw(mut self, tag: u32, vr: &str, value: &[u8]) -> Self {
        self = self.head(tag, vr, value.len() as u32);
        self.bytes.extend_from_slice(value);
        self
    }

    pub(crate) fn text(self, tag: u32, vr: &str, value: &str) -> Self {
        let mut padded = value.as_bytes().to_vec();
        if padded.len() % 2 == 1 {
            padded.push(if vr == "UI" { 0 } else { b' ' });
        }
        self.raw(tag, vr, &padded)
    }

    pub(crate) fn u16(self, tag: u32, value: u16) -> Self {
        let value = self.u16_bytes(value);
        self.raw(tag, "US", &value)
    }

    pub(crate) fn f64(self, tag: u32, value: f64) -> Self {
        let value = if self.big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
        self.raw(tag, "FD", &value)
    }

    /// A sequence with these items, of defined or undefined lengths.
    pub(crate) fn sequence(mut self, tag: u32, undefined: bool, items: &[Vec<u8>]) -> Self {
        let mut body = self.empty_like();
        for item in items {
            body = body.head(0xFFFE_E000, "", if undefined { u32::MAX } else { item.len() as u32 });
            body.bytes.extend_from_slice(item);
            if undefined {
                body = body.head(0xFFFE_E00D, "", 0);
            }
        }
        if undefined {
            body = body.head(0xFFFE_E0DD, "", 0);
        }
        let length = if undefined { u32::MAX } else { body.bytes.len() as u32 };
        self = self.head(tag, "SQ", length);
        self.bytes.extend_from_slice(&body.bytes);
        self
    }

    /// One item's bytes in this encoding.
    pub(crate) fn item(&self, build: impl FnOnce(Self) -> Self) -> Vec<u8> {
        build(self.empty_like()).bytes
    }

    /// SOP class, instance, study and series of an MR study.
    pub(crate) fn identified(self, sop_class: &str, sop_instance: &str) -> Self {
        self.text(0x0008_0016, "UI", sop_class)
            .text(0x0008_0018, "UI", sop_instance)
            .text(0x0008_0060, "CS", "MR")
            .text(0x0020_000D, "UI", "1.2.3")
            .text(0x0020_000E, "UI", "1.2.3.4")
    }

    /// A classic MR image, `n` x `n` pixels of 16 bits.
    pub(crate) fn mr_image(self, sop_instance: &str, n: u16) -> Self {
        let pixels = vec![7; 2 * usize::from(n) * usize::from(n)];
        self.mr_image_head(sop_instance, n).raw(0x7FE0_0010, "OW", &pixels)
    }

    /// The same without its pixel data.
    pub(crate) fn mr_image_head(self, sop_instance: &str, n: u16) -> Self {
        self.text(0x0008_0008, "CS", "ORIGINAL\\PRIMARY\\M\\ND")
            .text(0x0008_0016, "UI", MR_IMAGE)
            .text(0x0008_0018, "UI", sop_instance)
            .text(0x0008_0050, "SH", "A1")
            .text(0x0008_0060, "CS", "MR")
            .text(0x0008_103E, "LO", "t1 mprage +C")
            .text(0x0018_0010, "LO", "Gadovist")
            .text(0x0018_0020, "CS", "GR\\IR")
            .text(0x0018_0050, "DS", "1.2")
            .text(0x0018_0080, "DS", "2300")
            .text(0x0018_0081, "DS", "2.98")
            .text(0x0018_0082, "DS", "900")
            .text(0x0020_000D, "UI", "1.2.3")
            .text(0x0020_000E, "UI", "1.2.3.4")
            .text(0x0020_0011, "IS", "5")
            .text(0x0020_0013, "IS", "17")
            .text(0x0020_0032, "DS", "-100.5\\-120\\33.25")
            .text(0x0020_0037, "DS", "1\\0\\0\\0\\1\\0")
            .u16(0x0028_0002, 1)
            .text(0x0028_0004, "CS", "MONOCHROME2")
            .u16(0x0028_0010, n)
            .u16(0x0028_0011, n)
            .text(0x0028_0030, "DS", "0.9\\0.8")
            .u16(0x0028_0100, 16)
    }

    /// An enhanced MR object: shared orientation and spacing, one position and b-value per frame.
    pub(crate) fn enhanced_mr(self, sop_instance: &str, undefined: bool, n_frames: u16) -> Self {
        let macro_of = |tag: u32, content: Vec<u8>, like: &Self| like.item(|d| d.sequence(tag, undefined, &[content]));
        let mut shared = macro_of(0x0020_9116, self.item(|d| d.text(0x0020_0037, "DS", "1\\0\\0\\0\\0\\-1")), &self);
        let measures = self.item(|d| d.text(0x0018_0050, "DS", "3").text(0x0028_0030, "DS", "0.5\\0.6"));
        shared.extend(macro_of(0x0028_9110, measures, &self));
        shared.extend(macro_of(0x0018_9112, self.item(|d| d.text(0x0018_0080, "DS", "9000")), &self));
        shared.extend(macro_of(0x0018_9114, self.item(|d| d.f64(0x0018_9082, 120.0)), &self));
        let modifier = self.item(|d| d.text(0x0018_9009, "CS", "YES").f64(0x0018_9079, 2500.0));
        shared.extend(macro_of(0x0018_9115, modifier, &self));
        let frames: Vec<Vec<u8>> = (0..n_frames)
            .map(|k| {
                let position = self.item(|d| d.text(0x0020_0032, "DS", &format!("-10\\{k}\\20")));
                let number = self.u32_bytes(u32::from(k) + 1);
                let content =
                    self.item(|d| d.text(0x0020_9056, "SH", "1").raw(0x0020_9057, "UL", &number).raw(0x0020_9128, "UL", &number));
                let mut frame = macro_of(0x0020_9111, content, &self);
                frame.extend(macro_of(0x0020_9113, position, &self));
                frame.extend(macro_of(0x0018_9117, self.item(|d| d.f64(0x0018_9087, f64::from(k) * 500.0)), &self));
                frame
            })
            .collect();
        let pixels = vec![0; usize::from(n_frames) * 8];
        self.text(0x0008_0008, "CS", "ORIGINAL\\PRIMARY\\DIFFUSION\\NONE")
            .identified(ENHANCED_MR_IMAGE, sop_instance)
            .text(0x0018_9008, "CS", "SPIN")
            .text(0x0018_9018, "CS", "YES")
            .text(0x0020_9161, "UI", "1.2.7")
            .u16(0x0020_9162, 2)
            .u16(0x0020_9163, 3)
            .u16(0x0028_0002, 1)
            .text(0x0028_0008, "IS", &n_frames.to_string())
            .u16(0x0028_0010, 2)
            .u16(0x0028_0011, 2)
            .u16(0x0028_0100, 16)
            .sequence(0x5200_9229, undefined, &[shared])
            .sequence(0x5200_9230, undefined, &frames)
            .raw(0x7FE0_0010, "OW", &pixels)
    }

    /// `n` sequences, each inside the other, never closed.
    pub(crate) fn nested(mut self, n: usize) -> Self {
        for _ in 0..n {
            self = self.head(0x0040_A730, "SQ", u32::MAX).head(0xFFFE_E000, "", u32::MAX);
        }
        self
    }

    /// The same with defined lengths that are right.
    pub(crate) fn nested_defined(self, n: usize) -> Self {
        // From the inside out, into one buffer that is reversed at the end, because each length counts what it encloses.
        let heads: Vec<Vec<u8>> = (0..n as u32)
            .map(|k| self.item(|d| d.head(0x0040_A730, "SQ", k * 20 + 8).head(0xFFFE_E000, "", k * 20)))
            .rev()
            .collect();
        let mut all = self;
        heads.iter().for_each(|head| all.bytes.extend_from_slice(head));
        all
    }

    /// A Part-10 file around this data set.
    pub(crate) fn part10(&self, transfer_syntax: &str) -> Vec<u8> {
        part10(transfer_syntax, &self.bytes)
    }
}

/// A Part-10 file around a data set.
pub(crate) fn part10(transfer_syntax: &str, data_set: &[u8]) -> Vec<u8> {
    let meta = DataSet::explicit()
        .raw(0x0002_0001, "OB", &[0, 1])
        .text(0x0002_0002, "UI", MR_IMAGE)
        .text(0x0002_0003, "UI", "1.2.3.4.5")
        .text(0x0002_0010, "UI", transfer_syntax);
    let mut file = vec![0; 128];
    file.extend_from_slice(b"DICM");
    let length = meta.u32_bytes(meta.bytes.len() as u32);
    file.extend_from_slice(&DataSet::explicit().raw(0x0002_0000, "UL", &length).bytes);
    file.extend_from_slice(&meta.bytes);
    file.extend_from_slice(data_set);
    file
}
