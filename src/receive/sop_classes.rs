//! What is accepted at negotiation: storage SOP classes and transfer syntaxes. UIDs in -> yes, no, and in which order.
//!
//! JPEG-LS and JPEG XL cannot be decoded here (the JPEG-LS decoder is C++ and not built in). A sender that offers anything else for the SOP
//! class gets that; one that does not is served all the same, since a study that is kept and reported as not assessable is better than one
//! that the box never saw. MPEG and JPIP are not accepted.
//! Source: PS3.6 annex A (registry of UIDs), PS3.4 section B.5.

/// Verification: C-ECHO.
pub const VERIFICATION: &str = "1.2.840.10008.1.1";
/// Implicit VR little endian: what every DICOM program speaks.
pub const IMPLICIT_LITTLE_ENDIAN: &str = "1.2.840.10008.1.2";

/// Modality Performed Procedure Step SCP: N-CREATE and N-SET (PS3.4 annex F).
pub const PROCEDURE_STEP_CLASSES: [&str; 1] = [PROCEDURE_STEP];
/// Instance Availability Notification SCP: N-CREATE (PS3.4 annex R).
pub const INSTANCE_AVAILABILITY_CLASSES: [&str; 1] = [INSTANCE_AVAILABILITY];
/// Storage Commitment Push Model SCP: N-ACTION and N-EVENT-REPORT (PS3.4 annex J); only where the site has turned it on.
pub const STORAGE_COMMITMENT_CLASSES: [&str; 1] = [STORAGE_COMMITMENT];
/// Transfer syntaxes of those services, most wanted first: their data sets hold no pixels.
pub const SERVICE_TRANSFER_SYNTAXES: [&str; 2] = ["1.2.840.10008.1.2.1", IMPLICIT_LITTLE_ENDIAN];

/// Modality Performed Procedure Step SOP Class.
pub const PROCEDURE_STEP: &str = "1.2.840.10008.3.1.2.3.3";
/// Instance Availability Notification SOP Class.
pub const INSTANCE_AVAILABILITY: &str = "1.2.840.10008.5.1.4.33";
pub use crate::domain::{STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE};

/// Image storage classes, which must come with pixels.
const IMAGE_CLASSES: [&str; 17] = [
    "1.2.840.10008.5.1.4.1.1.2",     // CT
    "1.2.840.10008.5.1.4.1.1.2.1",   // enhanced CT
    "1.2.840.10008.5.1.4.1.1.2.2",   // legacy converted enhanced CT
    "1.2.840.10008.5.1.4.1.1.4",     // MR
    "1.2.840.10008.5.1.4.1.1.4.1",   // enhanced MR
    "1.2.840.10008.5.1.4.1.1.4.3",   // enhanced MR colour
    "1.2.840.10008.5.1.4.1.1.4.4",   // legacy converted enhanced MR
    "1.2.840.10008.5.1.4.1.1.128",   // PET
    "1.2.840.10008.5.1.4.1.1.128.1", // legacy converted enhanced PET
    "1.2.840.10008.5.1.4.1.1.130",   // enhanced PET
    "1.2.840.10008.5.1.4.1.1.7",     // secondary capture
    "1.2.840.10008.5.1.4.1.1.7.1",   // multi-frame single bit secondary capture
    "1.2.840.10008.5.1.4.1.1.7.2",   // multi-frame grayscale byte secondary capture
    "1.2.840.10008.5.1.4.1.1.7.3",   // multi-frame grayscale word secondary capture
    "1.2.840.10008.5.1.4.1.1.7.4",   // multi-frame true colour secondary capture
    "1.2.840.10008.5.1.4.1.1.66.4",  // segmentation
    "1.2.840.10008.5.1.4.1.1.66.7",  // label map segmentation
];

/// Storage classes without pixels that travel with image studies.
const OTHER_CLASSES: [&str; 9] = [
    "1.2.840.10008.5.1.4.1.1.88.11", // basic text SR
    "1.2.840.10008.5.1.4.1.1.88.22", // enhanced SR
    "1.2.840.10008.5.1.4.1.1.88.33", // comprehensive SR
    "1.2.840.10008.5.1.4.1.1.88.34", // comprehensive 3D SR
    "1.2.840.10008.5.1.4.1.1.88.35", // extensible SR
    "1.2.840.10008.5.1.4.1.1.88.59", // key object selection
    "1.2.840.10008.5.1.4.1.1.88.67", // X-ray radiation dose SR
    "1.2.840.10008.5.1.4.1.1.11.1",  // grayscale softcopy presentation state
    "1.2.840.10008.5.1.4.1.1.11.2",  // colour softcopy presentation state
];

/// Transfer syntaxes that can be decoded here, most wanted first: uncompressed, then lossless, then lossy.
pub const TRANSFER_SYNTAXES: [&str; 14] = [
    "1.2.840.10008.1.2.1",     // explicit VR little endian
    IMPLICIT_LITTLE_ENDIAN,    // implicit VR little endian
    "1.2.840.10008.1.2.2",     // explicit VR big endian
    "1.2.840.10008.1.2.1.99",  // deflated explicit VR little endian
    "1.2.840.10008.1.2.5",     // RLE
    "1.2.840.10008.1.2.4.70",  // JPEG lossless, first-order prediction
    "1.2.840.10008.1.2.4.57",  // JPEG lossless
    "1.2.840.10008.1.2.4.90",  // JPEG 2000 lossless
    "1.2.840.10008.1.2.4.201", // high-throughput JPEG 2000 lossless
    "1.2.840.10008.1.2.4.202", // high-throughput JPEG 2000 lossless with RPCL
    "1.2.840.10008.1.2.4.91",  // JPEG 2000
    "1.2.840.10008.1.2.4.203", // high-throughput JPEG 2000
    "1.2.840.10008.1.2.4.51",  // JPEG extended
    "1.2.840.10008.1.2.4.50",  // JPEG baseline
];

/// Transfer syntaxes that are kept but cannot be decoded here: accepted only from a peer that offers none of [`TRANSFER_SYNTAXES`] for the
/// SOP class in any presentation context. The verdict of such a study is `indeterminate` and names the compression.
pub const KEPT_UNREAD_SYNTAXES: [&str; 5] = [
    "1.2.840.10008.1.2.4.80",  // JPEG-LS lossless
    "1.2.840.10008.1.2.4.81",  // JPEG-LS near-lossless
    "1.2.840.10008.1.2.4.110", // JPEG XL lossless
    "1.2.840.10008.1.2.4.111", // JPEG XL JPEG recompression
    "1.2.840.10008.1.2.4.112", // JPEG XL
];

/// Whether `uid` is a storage SOP class that is accepted without being configured.
#[must_use]
pub fn is_storage_class(uid: &str) -> bool {
    is_image_class(uid) || OTHER_CLASSES.contains(&uid)
}

/// Every storage SOP class that is accepted without being configured, and whether it must come with pixels.
pub fn storage_classes() -> impl Iterator<Item = (&'static str, bool)> {
    IMAGE_CLASSES.into_iter().map(|uid| (uid, true)).chain(OTHER_CLASSES.into_iter().map(|uid| (uid, false)))
}

/// Whether `uid` is the SOP class of a service beside storage and verification.
#[must_use]
pub fn is_service_class(uid: &str) -> bool {
    [PROCEDURE_STEP_CLASSES, INSTANCE_AVAILABILITY_CLASSES, STORAGE_COMMITMENT_CLASSES].concat().contains(&uid)
}

/// The most wanted of the transfer syntaxes proposed for a service's class.
pub fn choose_service_transfer_syntax(proposed: &[String]) -> Option<&'static str> {
    SERVICE_TRANSFER_SYNTAXES.into_iter().find(|wanted| proposed.iter().any(|uid| uid.trim_end_matches('\0') == *wanted))
}

/// Whether objects of this class are images and so must hold pixels.
#[must_use]
pub fn is_image_class(uid: &str) -> bool {
    IMAGE_CLASSES.contains(&uid)
}

/// The most wanted of the proposed transfer syntaxes.
pub fn choose_transfer_syntax(proposed: &[String]) -> Option<&'static str> {
    first_of(&TRANSFER_SYNTAXES, proposed)
}

/// The most wanted of those that can be kept but not decoded.
pub fn choose_unread_syntax(proposed: &[String]) -> Option<&'static str> {
    first_of(&KEPT_UNREAD_SYNTAXES, proposed)
}

fn first_of(wanted: &[&'static str], proposed: &[String]) -> Option<&'static str> {
    wanted.iter().copied().find(|wanted| proposed.iter().any(|uid| uid.trim_end_matches('\0') == *wanted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use dicom_dictionary_std::uids;
    use dicom_encoding::transfer_syntax::{Codec, TransferSyntaxIndex};
    use dicom_transfer_syntax_registry::TransferSyntaxRegistry;

    #[test]
    fn every_accepted_transfer_syntax_can_be_decoded_by_this_build() {
        for uid in TRANSFER_SYNTAXES {
            let syntax = TransferSyntaxRegistry.get(uid).unwrap_or_else(|| panic!("{uid} is not known"));
            let decodable =
                matches!(syntax.codec(), Codec::None | Codec::Dataset(Some(_)) | Codec::EncapsulatedPixelData(Some(_), _));
            assert!(decodable, "{} cannot be decoded", syntax.name());
        }
        for uid in KEPT_UNREAD_SYNTAXES {
            let syntax = TransferSyntaxRegistry.get(uid).unwrap_or_else(|| panic!("{uid} is not known"));
            assert!(matches!(syntax.codec(), Codec::EncapsulatedPixelData(None, _)), "{uid} is now decodable: move it up");
        }
    }

    #[test]
    fn uncompressed_comes_before_compressed() {
        let proposed = ["1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1\0"].map(String::from);
        assert_eq!(choose_transfer_syntax(&proposed), Some("1.2.840.10008.1.2.1"));
        let jpeg_ls = ["1.2.840.10008.1.2.4.81".to_owned(), "1.2.840.10008.1.2.4.80".to_owned()];
        assert_eq!(choose_transfer_syntax(&jpeg_ls), None);
        assert_eq!(choose_unread_syntax(&jpeg_ls), Some("1.2.840.10008.1.2.4.80"), "lossless first");
    }

    #[test]
    fn classes_that_matter_are_accepted() {
        for uid in [
            uids::CT_IMAGE_STORAGE,
            uids::ENHANCED_CT_IMAGE_STORAGE,
            uids::MR_IMAGE_STORAGE,
            uids::ENHANCED_MR_IMAGE_STORAGE,
            uids::ENHANCED_MR_COLOR_IMAGE_STORAGE,
            uids::LEGACY_CONVERTED_ENHANCED_MR_IMAGE_STORAGE,
            uids::LEGACY_CONVERTED_ENHANCED_CT_IMAGE_STORAGE,
            uids::LEGACY_CONVERTED_ENHANCED_PET_IMAGE_STORAGE,
            uids::POSITRON_EMISSION_TOMOGRAPHY_IMAGE_STORAGE,
            uids::ENHANCED_PET_IMAGE_STORAGE,
            uids::SECONDARY_CAPTURE_IMAGE_STORAGE,
            uids::MULTI_FRAME_TRUE_COLOR_SECONDARY_CAPTURE_IMAGE_STORAGE,
            uids::SEGMENTATION_STORAGE,
            uids::BASIC_TEXT_SR_STORAGE,
            uids::ENHANCED_SR_STORAGE,
            uids::COMPREHENSIVE_SR_STORAGE,
            uids::COMPREHENSIVE3_DSR_STORAGE,
            uids::GRAYSCALE_SOFTCOPY_PRESENTATION_STATE_STORAGE,
        ] {
            assert!(is_storage_class(uid), "{uid}");
        }
        for uid in [
            uids::MODALITY_PERFORMED_PROCEDURE_STEP,
            uids::INSTANCE_AVAILABILITY_NOTIFICATION,
            uids::STORAGE_COMMITMENT_PUSH_MODEL,
        ] {
            assert!(is_service_class(uid) && !is_storage_class(uid), "{uid}");
        }
        assert!(!is_storage_class(uids::NUCLEAR_MEDICINE_IMAGE_STORAGE) && !is_image_class(uids::ENHANCED_SR_STORAGE));
    }
}
