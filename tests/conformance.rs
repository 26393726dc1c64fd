//! A promise to integrators: `docs/DICOM-CONFORMANCE.md` says what the code does. Its marked tables in -> equal to the code's tables, both ways.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use dicom_ul::pdu::{Pdu, write_pdu};
use scanside::config::Config;
use scanside::deliver::store_scu::StoreOptions;
use scanside::deliver::{STUDY_ROOT_FIND, STUDY_ROOT_MOVE};
use scanside::domain::AeTitle;
use scanside::receive::DimseStatus;
use scanside::receive::negotiate::{IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, RejectedBecause};
use scanside::receive::sop_classes::{
    INSTANCE_AVAILABILITY_CLASSES, KEPT_UNREAD_SYNTAXES, PROCEDURE_STEP_CLASSES, SERVICE_TRANSFER_SYNTAXES,
    STORAGE_COMMITMENT_CLASSES, STORAGE_COMMITMENT_INSTANCE, TRANSFER_SYNTAXES, VERIFICATION, storage_classes,
};

/// Cells of the rows below the mark `<!-- table: NAME -->`, without back-quotes.
fn table(name: &str) -> Vec<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/DICOM-CONFORMANCE.md");
    let text = std::fs::read_to_string(path).unwrap();
    let mark = format!("<!-- table: {name} -->");
    let rows: Vec<Vec<String>> = text
        .lines()
        .skip_while(|line| *line != mark)
        .skip(3) // the mark, the names of the columns, the rule
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect())
        .collect();
    assert!(!rows.is_empty(), "the document has no table {name}");
    rows
}

fn column(name: &str, idx: usize) -> Vec<String> {
    table(name).into_iter().map(|row| row[idx].clone()).collect()
}

#[test]
fn storage_classes_of_the_document_are_those_of_the_code() {
    let mut documented: Vec<_> = table("storage-classes").into_iter().map(|row| (row[1].clone(), row[3] == "yes")).collect();
    let mut accepted: Vec<_> = storage_classes().map(|(uid, needs_pixels)| (uid.to_owned(), needs_pixels)).collect();
    documented.sort();
    accepted.sort();
    assert_eq!(documented, accepted);
    assert_eq!(column("verification", 1), [VERIFICATION]);
}

#[test]
fn services_of_the_document_are_those_of_the_code() {
    assert_eq!(column("mpps", 1), PROCEDURE_STEP_CLASSES);
    assert_eq!(column("ian", 1), INSTANCE_AVAILABILITY_CLASSES);
    assert_eq!(column("storage-commitment", 1), STORAGE_COMMITMENT_CLASSES);
    assert_eq!(column("storage-commitment", 2), [STORAGE_COMMITMENT_INSTANCE]);
    assert_eq!(column("service-transfer-syntaxes", 2), SERVICE_TRANSFER_SYNTAXES);
    assert_eq!(column("query-retrieve", 1), [STUDY_ROOT_FIND, STUDY_ROOT_MOVE]);
    let config = Config::default();
    assert!(!config.dicom.storage_commitment && config.pacs.is_none(), "options that the document calls off by default");
    assert_eq!(config.spool.commitment_hold_days, 30);
}

#[test]
fn transfer_syntaxes_stand_in_the_order_in_which_they_are_chosen() {
    assert_eq!(column("transfer-syntaxes", 2), TRANSFER_SYNTAXES);
    assert_eq!(column("kept-transfer-syntaxes", 2), KEPT_UNREAD_SYNTAXES);
    for name in ["transfer-syntaxes", "kept-transfer-syntaxes"] {
        let numbers = column(name, 0);
        assert_eq!(numbers, (1..=numbers.len()).map(|n| n.to_string()).collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn statuses_of_the_document_are_all_that_are_sent() {
    let sent: Vec<_> = DimseStatus::ALL.iter().map(|status| format!("0x{:04X}", status.code())).collect();
    assert_eq!(column("statuses", 1), sent);
}

#[test]
fn rejections_carry_the_documented_codes() {
    // In the order of the document's rows.
    let causes = [
        RejectedBecause::ProtocolVersion,
        RejectedBecause::ApplicationContext,
        RejectedBecause::CalledAeTitle(None),
        RejectedBecause::CallingAeTitle(None),
        RejectedBecause::PeerAddress,
        RejectedBecause::PeerUnknown(AeTitle::try_new("MR1").unwrap()),
        RejectedBecause::Contexts,
        RejectedBecause::LocalLimit,
    ];
    let rows = table("rejections");
    assert_eq!(rows.len(), causes.len());
    for (row, cause) in rows.iter().zip(causes) {
        let mut bytes = Vec::new();
        write_pdu(&mut bytes, &Pdu::AssociationRJ(cause.pdu())).unwrap();
        let codes: Vec<String> = bytes[7..10].iter().map(ToString::to_string).collect();
        assert_eq!(row[1..], codes, "{}", row[0]);
    }
}

#[test]
fn identification_and_defaults_are_those_of_the_code() {
    assert_eq!(column("implementation", 1), [IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, "1.2.840.10008.3.1.1.1"]);
    let dicom = Config::default().dicom;
    let defaults = [
        ("dicom.ae_title", dicom.ae_title.to_string()),
        ("dicom.listen", dicom.listen.to_string()),
        ("dicom.pdu_length_max", dicom.pdu_length_max.to_string()),
        ("dicom.associations_max", dicom.associations_max.to_string()),
        ("dicom.associations_per_peer_max", dicom.associations_per_peer_max.to_string()),
        ("dicom.instance_mib_max", dicom.instance_mib_max.to_string()),
        ("dicom.request_timeout_s", dicom.request_timeout_s.to_string()),
        ("dicom.idle_timeout_s", dicom.idle_timeout_s.to_string()),
        ("dicom.association_s_max", dicom.association_s_max.to_string()),
    ];
    let documented: Vec<_> = table("association-defaults").into_iter().map(|row| (row[1].clone(), row[2].clone())).collect();
    assert_eq!(documented, defaults.map(|(key, value)| (key.to_owned(), value)));
    let scu = StoreOptions::default();
    let seconds = |time: std::time::Duration| time.as_secs().to_string();
    let expected = [scu.pdu_length_max.to_string(), seconds(scu.connect_timeout), seconds(scu.response_timeout)];
    assert_eq!(column("scu-defaults", 1), expected);
}
