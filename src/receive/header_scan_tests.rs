//! Tests of the header scan: well-formed, broken, hostile and real files.
#![allow(clippy::unwrap_used)]

use std::io::Cursor;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::receive::test_data::{DataSet, ENHANCED_MR_IMAGE, EXPLICIT_LE, IMPLICIT_LE, MR_IMAGE, part10};

const BIG_ENDIAN: &str = "1.2.840.10008.1.2.2";
const JPEG_LOSSLESS: &str = "1.2.840.10008.1.2.4.70";

fn scan(file: &[u8]) -> Result<InstanceHeader, ScanError> {
    scan_part10(&mut Cursor::new(file), &ScanLimits::default())
}

fn check_mr_image(header: &InstanceHeader) {
    assert_eq!(header.sop_class_uid.as_str(), MR_IMAGE);
    assert_eq!(header.sop_instance_uid.as_str(), "1.2.3.4.5");
    assert_eq!((header.n_rows, header.n_columns, header.n_frames, header.bits_allocated), (4, 4, 1, 16));
    assert_eq!(header.accession_number.as_deref(), Some("A1"));
    assert_eq!(header.image_type, ["ORIGINAL", "PRIMARY", "M", "ND"]);
    assert_eq!(header.acquisition.scanning_sequence, ["GR", "IR"]);
    assert_eq!(header.acquisition.inversion_time_ms, Some(900.0));
    assert_eq!(header.acquisition.contrast_agent.as_deref(), Some("Gadovist"));
    assert_eq!((header.series_number, header.instance_number), (Some(5), Some(17)));
    assert!(header.has_pixel_data);
    let [frame] = header.frames.as_slice() else { panic!("one frame expected") };
    assert_eq!(frame.position_lps_mm, [-100.5, -120.0, 33.25]);
    assert_eq!((frame.row_spacing_mm, frame.column_spacing_mm), (0.9, 0.8));
}

#[test]
fn classic_image_is_read_in_every_uncompressed_encoding() {
    for (data_set, syntax) in
        [(DataSet::explicit(), EXPLICIT_LE), (DataSet::implicit(), IMPLICIT_LE), (DataSet::big_endian(), BIG_ENDIAN)]
    {
        let data_set = data_set.mr_image("1.2.3.4.5", 4);
        let header = scan(&data_set.part10(syntax)).unwrap();
        assert_eq!(header.transfer_syntax_uid.as_str(), syntax);
        check_mr_image(&header);
        let bare = scan(&data_set.bytes).unwrap();
        assert_eq!(bare, header, "a bare data set gives the same header");
    }
}

#[test]
fn file_meta_without_preamble_is_read() {
    let file = DataSet::explicit().mr_image("1.2.3.4.5", 4).part10(EXPLICIT_LE);
    check_mr_image(&scan(&file[132..]).unwrap());
}

#[test]
fn deflated_data_set_is_inflated_within_its_bound() {
    use std::io::Write;
    let data_set = DataSet::explicit().mr_image("1.2.3.4.5", 4);
    let Some(Codec::Dataset(Some(adapter))) = TransferSyntaxRegistry.get(DEFLATED_LE).map(|syntax| syntax.codec()) else {
        panic!("deflate is in the registry")
    };
    let mut deflated = Vec::new();
    adapter.adapt_writer(Box::new(&mut deflated)).write_all(&data_set.bytes).unwrap();
    let file = part10(DEFLATED_LE, &deflated);
    check_mr_image(&scan(&file).unwrap());
    let tight = ScanLimits { inflated_bytes_max: 100, ..ScanLimits::default() };
    let refused = scan_part10(&mut Cursor::new(&file), &tight);
    assert!(matches!(refused, Err(ScanError::InflatesTooFar { bytes_max: 100 })), "{refused:?}");
    for cut in 0..deflated.len() {
        assert!(
            scan(&part10(DEFLATED_LE, &deflated[..cut])).is_err_and(|error| !matches!(error, ScanError::Io(_))),
            "cut at {cut}"
        );
    }
}

#[test]
fn enhanced_object_gives_one_geometry_per_frame_in_every_encoding() {
    for (data_set, syntax) in
        [(DataSet::explicit(), EXPLICIT_LE), (DataSet::implicit(), IMPLICIT_LE), (DataSet::big_endian(), BIG_ENDIAN)]
    {
        for undefined in [false, true] {
            let header = scan(&data_set.clone().enhanced_mr("1.2.3.4.5", undefined, 3).part10(syntax)).unwrap();
            assert_eq!(header.sop_class_uid.as_str(), ENHANCED_MR_IMAGE);
            assert_eq!((header.n_frames, header.frames.len()), (3, 3), "{syntax} {undefined}");
            let last = &header.frames[2];
            assert_eq!(last.position_lps_mm, [-10.0, 2.0, 20.0]);
            assert_eq!((last.b_value, last.temporal_position, last.echo_time_ms), (Some(1000.0), Some(3), Some(120.0)));
            assert_eq!((last.slice_thickness_mm, last.stack_id.as_deref()), (Some(3.0), Some("1")));
            assert_eq!(last.in_stack_position, Some(3));
            let part = header.concatenation.as_ref().map(|part| (part.uid.as_str(), part.number, part.total));
            assert_eq!(part, Some(("1.2.7", 2, Some(3))));
            assert_eq!(last.normal_lps(), [0.0, 1.0, 0.0]);
            let how = &header.acquisition;
            assert_eq!((how.b_value, how.inversion_time_ms, how.repetition_time_ms), (Some(1000.0), Some(2500.0), Some(9000.0)));
            assert_eq!(how.scanning_sequence, ["SE", "EP", "IR"]);
        }
    }
}

#[test]
fn frames_that_contradict_their_number_give_no_geometry() {
    let mut file = DataSet::explicit().enhanced_mr("1.2.3.4.5", true, 3).part10(EXPLICIT_LE);
    let at = file.windows(8).position(|w| w == [0x28, 0x00, 0x08, 0x00, b'I', b'S', 2, 0]).unwrap();
    file[at + 8] = b'4';
    let header = scan(&file).unwrap();
    assert_eq!((header.n_frames, header.frames.len()), (4, 0));
}

#[test]
fn vendor_b_values_are_read_behind_their_creator_alone() {
    let with = |creator: &str, tag: u32, vr: &str, value: &[u8]| {
        let data_set = DataSet::explicit()
            .identified(MR_IMAGE, "1.2.3.4.5")
            .text((tag & 0xFFFF_0000) | 0x0011, "LO", creator)
            .raw((tag & 0xFFFF_0000) | 0x1100 | (tag & 0xFF), vr, value);
        scan(&data_set.part10(EXPLICIT_LE)).unwrap().acquisition.b_value
    };
    assert_eq!(with("SIEMENS MR HEADER", 0x0019_000C, "IS", b"1000"), Some(1000.0));
    assert_eq!(with("SIEMENS MR HEADER", 0x0019_000C, "UN", b"800 "), Some(800.0));
    assert_eq!(with("GEMS_PARM_01", 0x0043_0039, "IS", b"1000000800\\8\\0\\0"), Some(800.0));
    assert_eq!(with("Philips Imaging DD 001", 0x2001_0003, "FL", &1500_f32.to_le_bytes()), Some(1500.0));
    assert_eq!(with("SOMEBODY ELSE", 0x0019_000C, "IS", b"1000"), None);
}

#[test]
fn image_cut_at_any_byte_never_succeeds() {
    for (data_set, syntax) in
        [(DataSet::explicit(), EXPLICIT_LE), (DataSet::implicit(), IMPLICIT_LE), (DataSet::big_endian(), BIG_ENDIAN)]
    {
        let file = data_set.clone().mr_image("1.2.3.4.5", 4).part10(syntax);
        for cut in 0..file.len() {
            // Between two elements before the pixel data the rest is well formed; then nothing may claim to have pixels.
            assert!(scan(&file[..cut]).map_or(true, |header| !header.has_pixel_data), "cut at {cut} of {}", file.len());
        }
        let head = data_set.mr_image_head("1.2.3.4.5", 4).part10(syntax).len();
        for cut in head + 1..file.len() {
            assert!(scan(&file[..cut]).is_err(), "cut inside the pixel data at {cut}");
        }
    }
}

#[test]
fn encapsulated_pixels_need_their_end() {
    let fragments = |data: DataSet| {
        data.head(0x7FE0_0010, "OB", u32::MAX).head(0xFFFE_E000, "", 0).raw(0xFFFE_E000, "", &[1, 2, 3, 4]).head(
            0xFFFE_E0DD,
            "",
            0,
        )
    };
    let head = DataSet::explicit().mr_image_head("1.2.3.4.5", 4);
    let whole = fragments(head.clone());
    let (header, pixels) = scan_with_pixel_facts(&mut Cursor::new(whole.part10(JPEG_LOSSLESS)), &ScanLimits::default()).unwrap();
    assert!(header.has_pixel_data);
    assert_eq!(pixels, PixelFacts { n_bytes: 4, encapsulated: true, n_bytes_expected: Some(32) });
    for cut in head.bytes.len() + 1..whole.bytes.len() {
        let refused = scan(&part10(JPEG_LOSSLESS, &whole.bytes[..cut]));
        assert!(matches!(refused, Err(ScanError::Truncated { .. })), "cut at {cut}: {refused:?}");
    }
}

#[test]
fn zeros_after_the_pixel_data_are_padding() {
    let mut file = DataSet::explicit().mr_image("1.2.3.4.5", 4).part10(EXPLICIT_LE);
    file.extend_from_slice(&[0; 100]);
    check_mr_image(&scan(&file).unwrap());
}

#[test]
fn nothing_hides_behind_the_padding() {
    // Found by fuzzing: the scan stopped at the padding, and what lay behind it reached the full parser unseen.
    let data_set = DataSet::implicit().mr_image("1.2.3.4.5", 4).raw(0, "UL", b"").nested(100);
    assert!(matches!(scan(&data_set.part10(IMPLICIT_LE)), Err(ScanError::Malformed { .. })));
}

#[test]
fn hundred_thousand_nested_sequences_are_an_error() {
    for (data_set, syntax) in [(DataSet::explicit(), EXPLICIT_LE), (DataSet::implicit(), IMPLICIT_LE)] {
        let head = data_set.identified(MR_IMAGE, "1.2.3.4.5");
        for nested in [head.clone().nested(100_000), head.clone().nested_defined(100_000)] {
            let refused = scan(&nested.part10(syntax));
            assert!(matches!(refused, Err(ScanError::TooDeep { depth_max: 64 })), "{syntax}: {refused:?}");
        }
    }
    let fine = DataSet::explicit().identified(MR_IMAGE, "1.2.3.4.5").nested_defined(64);
    assert!(scan(&fine.part10(EXPLICIT_LE)).is_ok());
}

#[test]
fn lengths_that_lie_are_refused() {
    let head = DataSet::explicit().identified(MR_IMAGE, "1.2.3.4.5");
    let four_gigabytes = head.clone().head(0x7FE0_0010, "OW", 0xFFFF_FFFE);
    assert!(matches!(scan(&four_gigabytes.part10(EXPLICIT_LE)), Err(ScanError::Truncated { .. })));
    let mut item_longer_than_sequence = head.head(0x0040_A730, "SQ", 16).head(0xFFFE_E000, "", 100);
    item_longer_than_sequence.bytes.extend_from_slice(&[0; 200]);
    assert!(matches!(scan(&item_longer_than_sequence.part10(EXPLICIT_LE)), Err(ScanError::Malformed { .. })));
}

#[test]
fn bounds_on_elements_and_frames_hold() {
    let file = DataSet::explicit().enhanced_mr("1.2.3.4.5", true, 5).part10(EXPLICIT_LE);
    let few_frames = ScanLimits { frames_max: 4, ..ScanLimits::default() };
    assert!(matches!(scan_part10(&mut Cursor::new(&file), &few_frames), Err(ScanError::TooManyFrames { frames_max: 4 })));
    let few_elements = ScanLimits { elements_max: 20, ..ScanLimits::default() };
    assert!(matches!(scan_part10(&mut Cursor::new(&file), &few_elements), Err(ScanError::TooManyElements { elements_max: 20 })));
}

#[test]
fn identifiers_must_be_there_once_and_valid() {
    let traversal = DataSet::explicit().identified(MR_IMAGE, "1.2.../../etc/passwd");
    assert!(matches!(scan(&traversal.part10(EXPLICIT_LE)), Err(ScanError::BadIdentifier { name: "SOP Instance UID", .. })));
    let twice = DataSet::explicit().identified(MR_IMAGE, "1.2.3.4.5").text(0x0020_000D, "UI", "1.2.3");
    assert!(matches!(scan(&twice.part10(EXPLICIT_LE)), Err(ScanError::RepeatedIdentifier { name: "Study Instance UID" })));
    let without = DataSet::explicit().text(0x0008_0016, "UI", MR_IMAGE);
    assert!(matches!(scan(&without.part10(EXPLICIT_LE)), Err(ScanError::MissingIdentifier { .. })));
}

#[test]
fn other_files_are_not_dicom() {
    for other in [
        b"".as_slice(),
        b"DICM",
        b"PK\x03\x04 some archive",
        b"# README\n\nThis folder holds images.\n",
        &[0; 4096],
        &[0xFF; 4096],
    ] {
        assert!(matches!(scan(other), Err(ScanError::NotDicom)), "{other:?}");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2048), syntax in 0..4_usize) {
        let _ = scan(&bytes);
        let syntax = [EXPLICIT_LE, IMPLICIT_LE, BIG_ENDIAN, DEFLATED_LE][syntax];
        let _ = scan(&part10(syntax, &bytes));
    }

    #[test]
    fn flipped_bytes_never_panic_and_memory_follows_the_file(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        implicit in any::<bool>(),
    ) {
        let data_set = if implicit { DataSet::implicit() } else { DataSet::explicit() };
        let mut file = data_set.enhanced_mr("1.2.3.4.5", true, 3).part10(if implicit { IMPLICIT_LE } else { EXPLICIT_LE });
        for (index, byte) in flips {
            let at = index.index(file.len());
            file[at] = byte;
        }
        if let Ok(header) = scan(&file) {
            prop_assert!(header.frames.len() <= file.len() / 16);
        }
    }
}

/// Where the shared real data lie, if they are there.
fn shared_dicom() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    let data = std::env::var_os("SCANSIDE_SHARED_DATA").map_or(beside, PathBuf::from).join("dicom");
    if !data.is_dir() {
        println!("skipped: no real data at {} (set SCANSIDE_SHARED_DATA)", data.display());
        return None;
    }
    Some(data)
}

fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() { files_below(&path, found) } else { found.push(path) }
    }
}

#[test]
fn real_files_of_many_vendors_are_read() {
    let Some(data) = shared_dicom() else { return };
    let mut files = Vec::new();
    files_below(&data, &mut files);
    let (mut n_read, mut n_with_geometry) = (0, 0);
    for path in &files {
        let is_dicom = {
            let start = std::fs::read(path).unwrap();
            start.len() > 132 && &start[128..132] == b"DICM"
        };
        let scanned = scan_part10(&mut std::fs::File::open(path).unwrap(), &ScanLimits::default());
        let name = path.strip_prefix(&data).unwrap().display();
        match scanned {
            Ok(header) => {
                n_read += 1;
                n_with_geometry += usize::from(!header.frames.is_empty());
                if std::env::var_os("SCANSIDE_TEST_LIST").is_some() {
                    println!(
                        "{name}: {} {} frames {} geometry {}",
                        header.modality,
                        header.sop_class_uid,
                        header.n_frames,
                        header.frames.len()
                    );
                }
            }
            Err(error) => {
                println!("{name}: {error}");
                assert!(!is_dicom, "{name}: {error}");
            }
        }
    }
    println!("{n_read} of {} files read, {n_with_geometry} with geometry", files.len());
    assert!(n_read > 0, "no file was read below {}", data.display());
}
