//! The spool's own tests: helpers here, then promises by subject. The kill -9 test lives in `tests/durability.rs`.

mod clock;
mod faulty_disk;
mod model;
mod power_cut;
mod records;
mod services;
mod stores;

use std::cell::Cell;
use std::path::Path;

use super::*;
use crate::domain::{Acquisition, InstanceHeader, Monotonic, Urgency, VerdictKind};

thread_local! {
    static NOW_MS: Cell<i64> = const { Cell::new(1_760_000_000_000) };
}

/// The test thread's clock.
fn clock() -> WallTime {
    WallTime(NOW_MS.get())
}

fn uid(text: &str) -> Uid {
    Uid::try_new(text).expect("a UID")
}

/// A plain header of one instance.
fn header(study: &str, sop: &str) -> InstanceHeader {
    InstanceHeader {
        study_instance_uid: uid(study),
        series_instance_uid: uid("1.2.9"),
        sop_instance_uid: uid(sop),
        sop_class_uid: uid("1.2.840.10008.5.1.4.1.1.4"),
        transfer_syntax_uid: uid("1.2.840.10008.1.2.1"),
        accession_number: Some("A1".to_owned()),
        modality: "MR".to_owned(),
        body_part: None,
        image_type: Vec::new(),
        series_description: None,
        protocol_name: None,
        manufacturer: None,
        series_number: None,
        instance_number: None,
        frame_of_reference_uid: None,
        n_rows: 0,
        n_columns: 0,
        n_frames: 1,
        samples_per_pixel: 1,
        bits_allocated: 16,
        has_pixel_data: false,
        is_mosaic: false,
        concatenation: None,
        acquisition: Acquisition::default(),
        frames: Vec::new(),
    }
}

fn open(dir: &Path, options: SpoolOptions) -> Result<Spool, SpoolError> {
    Spool::open(dir, options, Journal::new(clock), clock)
}

/// Options that the disk's own fullness cannot disturb.
fn options(bytes_max: u64) -> SpoolOptions {
    SpoolOptions { bytes_max, free_bytes_min: 0, instance_bytes_max: 1 << 20, ..SpoolOptions::default() }
}

/// Stores one instance: `meta`, then `data`.
fn store(spool: &Spool, study: &str, sop: &str, meta: &[u8], data: &[u8]) -> Result<Committed, SpoolError> {
    let mut incoming = spool.begin()?;
    incoming.write(meta)?;
    incoming.data_set_begins();
    incoming.write(data)?;
    incoming.commit(header(study, sop), 1, Monotonic(5))
}

fn verdict(study: &str, kind: VerdictKind, urgency: Option<Urgency>, n_instances: usize) -> VerdictRecord {
    let json = format!("{{\"verdict\":\"{}\"}}", kind.as_str());
    let decided_at = clock();
    VerdictRecord {
        study_instance_uid: uid(study),
        accession_number: None,
        kind,
        urgency,
        score: Some(0.5),
        json,
        n_instances,
        provisional: false,
        decided_at,
    }
}

fn notice(key: &str) -> Notice {
    Notice { channel: "webhook:0".to_owned(), idempotency_key: key.to_owned(), body: format!("body of {key}") }
}

/// Files below `dir`, with their names relative to it.
fn files_below(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(here) = open.pop() {
        for entry in std::fs::read_dir(here).expect("lists") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.push(path.strip_prefix(dir).expect("below").to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    found
}
