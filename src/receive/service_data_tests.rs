//! Tests of the data sets of the DIMSE-N services: both encodings, both kinds of lengths, faults, bounds, junk.

use proptest::prelude::*;

use super::*;
use crate::receive::test_data::DataSet;

fn uid(text: &str) -> Uid {
    Uid::try_new(text).unwrap()
}

fn encoding(data_set: &DataSet) -> Encoding {
    if data_set.explicit { Encoding::EXPLICIT } else { Encoding::IMPLICIT }
}

/// A step with one scheduled study, and series with these instances.
fn step_set(empty: DataSet, undefined: bool, status: Option<&str>, series: &[(&str, &[&str])]) -> DataSet {
    let instances = |list: &[&str]| -> Vec<Vec<u8>> {
        list.iter().map(|i| empty.item(|d| d.text(0x0008_1150, "UI", "1.2.3").text(0x0008_1155, "UI", i))).collect()
    };
    let items: Vec<Vec<u8>> = series
        .iter()
        .map(|(uid, list)| {
            let (images, others) = list.split_at(list.len() / 2);
            empty.item(|d| {
                d.sequence(REFERENCED_IMAGES, undefined, &instances(images))
                    .text(0x0008_103E, "LO", "t1 mprage")
                    .text(0x0020_000E, "UI", uid)
                    .sequence(REFERENCED_OTHERS, undefined, &instances(others))
            })
        })
        .collect();
    let scheduled = empty.item(|d| d.text(0x0020_000D, "UI", "1.2.840.1").text(0x0040_0007, "LO", "MR head"));
    let mut set = empty.clone().text(0x0010_0010, "PN", "DOE^JANE").text(0x0040_0241, "AE", "MR1");
    if let Some(status) = status {
        set = set.text(0x0040_0252, "CS", status);
    }
    set.sequence(SCHEDULED_STEP, undefined, &[scheduled]).sequence(PERFORMED_SERIES, undefined, &items)
}

#[test]
fn step_is_read_in_each_encoding_and_kind_of_length() {
    for empty in [DataSet::explicit(), DataSet::implicit()] {
        for undefined in [false, true] {
            let set =
                step_set(empty.clone(), undefined, Some("IN PROGRESS"), &[("1.5", &["1.5.1", "1.5.2", "1.5.3"]), ("1.6", &[])]);
            let step = step(&set.bytes, encoding(&set), uid("9.9")).unwrap();
            assert_eq!(step.study_instance_uids, BTreeSet::from([uid("1.2.840.1")]));
            assert_eq!(step.series.len(), 2);
            assert_eq!(step.series[&uid("1.5")], ["1.5.1", "1.5.2", "1.5.3"].map(uid).into());
            assert!(step.series[&uid("1.6")].is_empty());
        }
    }
}

#[test]
fn new_step_must_be_in_progress_and_name_its_study() {
    let status_of = |set: &DataSet| step(&set.bytes, Encoding::EXPLICIT, uid("9.9")).unwrap_err();
    let set = |status| step_set(DataSet::explicit(), false, status, &[]);
    assert_eq!(status_of(&set(Some("COMPLETED"))).status, DimseStatus::InvalidAttributeValue);
    assert_eq!(status_of(&set(Some("in progress"))).status, DimseStatus::InvalidAttributeValue);
    assert_eq!(status_of(&set(Some(""))).status, DimseStatus::MissingAttributeValue);
    let fault = status_of(&set(None));
    assert_eq!((fault.status, fault.attribute), (DimseStatus::MissingAttribute, Some(0x0040_0252)));
    let homeless = DataSet::explicit().text(0x0040_0252, "CS", "IN PROGRESS");
    let fault = status_of(&homeless);
    assert_eq!((fault.status, fault.attribute), (DimseStatus::MissingAttribute, Some(SCHEDULED_STEP)));
    let item = homeless.item(|d| d.text(0x0020_000D, "UI", "1..2"));
    assert_eq!(status_of(&homeless.sequence(SCHEDULED_STEP, false, &[item])).status, DimseStatus::InvalidAttributeValue);
}

#[test]
fn change_without_series_leaves_them_and_unknown_state_is_refused() {
    let change = |set: &DataSet| step_change(&set.bytes, Encoding::EXPLICIT, uid("9.9"));
    let completed = change(&step_set(DataSet::explicit(), false, Some("COMPLETED "), &[("1.5", &["1.5.1"])])).unwrap();
    assert_eq!(completed.status, Some(StepStatus::Completed));
    assert_eq!(completed.series.unwrap()[&uid("1.5")].len(), 1);
    let silent = change(&DataSet::explicit().text(0x0040_0251, "TM", "1200")).unwrap();
    assert_eq!((silent.status, silent.series), (None, None));
    let unknown = change(&DataSet::explicit().text(0x0040_0252, "CS", "DONE")).unwrap_err();
    assert_eq!(unknown.status, DimseStatus::InvalidAttributeValue);
}

#[test]
fn unavailable_instances_are_no_evidence() {
    let empty = DataSet::explicit();
    let sop = |instance: &str, availability: &str| {
        empty.item(|d| d.text(0x0008_0056, "CS", availability).text(0x0008_1150, "UI", "1.2").text(0x0008_1155, "UI", instance))
    };
    let sops = [sop("1.1", "ONLINE"), sop("1.2", "UNAVAILABLE"), sop("1.3", "NEARLINE")];
    let series = empty.item(|d| d.sequence(REFERENCED_SOPS, false, &sops).text(0x0020_000E, "UI", "1.5"));
    let set = empty.clone().sequence(REFERENCED_SERIES, false, &[series]).text(0x0020_000D, "UI", "1.9");
    let read = available(&set.bytes, Encoding::EXPLICIT).unwrap();
    assert_eq!(read.series[&uid("1.5")], ["1.1", "1.3"].map(uid).into());
    let nothing = empty.text(0x0020_000D, "UI", "1.9");
    assert_eq!(available(&nothing.bytes, Encoding::EXPLICIT).unwrap_err().status, DimseStatus::MissingAttribute);
}

fn request_set(n: usize) -> DataSet {
    let empty = DataSet::explicit();
    let items: Vec<Vec<u8>> = (0..n)
        .map(|k| {
            empty.item(|d| d.text(0x0008_1150, "UI", "1.2.840.10008.5.1.4.1.1.4").text(0x0008_1155, "UI", &format!("1.2.{k}")))
        })
        .collect();
    empty.text(0x0008_1195, "UI", "2.25.7").sequence(REFERENCED_SOPS, true, &items)
}

#[test]
fn commitment_of_twenty_thousand_instances_is_read_whole() {
    let (transaction, references) = commitment_request(&request_set(20_000).bytes, Encoding::EXPLICIT).unwrap();
    assert_eq!((transaction, references.len()), (uid("2.25.7"), 20_000));
    assert_eq!(references[19_999].sop_instance_uid, uid("1.2.19999"));
    let status = |set: DataSet| commitment_request(&set.bytes, Encoding::EXPLICIT).unwrap_err().status;
    assert_eq!(status(request_set(REFERENCES_MAX + 1)), DimseStatus::ResourceLimitation);
    assert_eq!(status(request_set(0)), DimseStatus::InvalidArgumentValue);
    let empty = DataSet::explicit();
    let half = empty.item(|d| d.text(0x0008_1150, "UI", "1.2.3"));
    assert_eq!(
        status(empty.clone().text(0x0008_1195, "UI", "2.25.7").sequence(REFERENCED_SOPS, false, &[half])),
        DimseStatus::InvalidArgumentValue
    );
}

#[test]
fn deep_and_cut_data_sets_are_refused() {
    let deep = DataSet::explicit().nested(100_000);
    assert_eq!(commitment_request(&deep.bytes, Encoding::EXPLICIT).unwrap_err().status, DimseStatus::ProcessingFailure);
    let whole = step_set(DataSet::explicit(), true, Some("IN PROGRESS"), &[("1.5", &["1.5.1"])]).bytes;
    let n_read = (0..whole.len()).filter(|cut| step(&whole[..*cut], Encoding::EXPLICIT, uid("9.9")).is_ok()).count();
    // Cut after the scheduled steps the rest is not missed by anybody.
    assert!(n_read <= 1, "{n_read} cuts were taken for the whole");
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300), explicit: bool) {
        let encoding = if explicit { Encoding::EXPLICIT } else { Encoding::IMPLICIT };
        let _ = (step(&bytes, encoding, uid("1")), step_change(&bytes, encoding, uid("1")));
        let _ = (available(&bytes, encoding), commitment_request(&bytes, encoding));
    }

    #[test]
    fn a_step_with_one_bad_byte_is_read_or_refused(at in 0..400_usize, byte: u8, undefined: bool) {
        let mut set = step_set(DataSet::implicit(), undefined, Some("IN PROGRESS"), &[("1.5", &["1.5.1", "1.5.2"])]).bytes;
        if let Some(there) = set.get_mut(at) { *there = byte; }
        let _ = step(&set, Encoding::IMPLICIT, uid("1"));
    }
}
