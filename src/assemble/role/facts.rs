//! What the headers of one series say together: images in -> [`Facts`], whatever their order.

use std::collections::BTreeSet;

use crate::domain::{InstanceHeader, Role, StoredInstance};

use super::contrast::{self, Hint};
use super::physics::Weighting;

/// Values of one series. Times in ms.
pub(super) struct Facts {
    /// Words of Image Type from the third value on, and of the first two values, upper case.
    pub(super) image_words: BTreeSet<String>,
    pub(super) is_mosaic: bool,
    /// No image holds magnitude values.
    pub(super) is_phase: bool,
    pub(super) scanning: BTreeSet<String>,
    pub(super) variant: BTreeSet<String>,
    pub(super) options: BTreeSet<String>,
    /// Lower case, without the leading asterisk of Siemens.
    pub(super) sequence_name: String,
    pub(super) is_3d: bool,
    pub(super) repetition_ms: Option<f64>,
    /// The longest echo of the series.
    pub(super) echo_ms: Option<f64>,
    pub(super) inversion_ms: Option<f64>,
    pub(super) flip_deg: Option<f64>,
    pub(super) field_t: Option<f64>,
    pub(super) b_max: Option<f64>,
    pub(super) n_temporal_positions: Option<u32>,
    /// A contrast agent that is one.
    pub(super) agent: Option<()>,
    pub(super) hint: Hint,
    pub(super) acquired_at_ms: Option<u64>,
    stated_contrast: Option<String>,
    /// Words of the description and the protocol name, lower case.
    words: BTreeSet<String>,
}

impl Facts {
    pub(super) fn gather(images: &[&StoredInstance]) -> Self {
        let mut sorted: Vec<&InstanceHeader> = images.iter().map(|image| &image.header).collect();
        sorted.sort_by_key(|header| &header.sop_instance_uid);
        let upper = |values: &[String]| values.iter().map(|value| value.trim().to_ascii_uppercase()).collect::<Vec<_>>();
        let mut image_words = BTreeSet::new();
        let (mut scanning, mut variant, mut options) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for header in &sorted {
            for value in upper(&header.image_type) {
                image_words
                    .extend(value.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_owned));
                image_words.insert(value);
            }
            scanning.extend(upper(&header.acquisition.scanning_sequence));
            variant.extend(upper(&header.acquisition.sequence_variant));
            options.extend(upper(&header.acquisition.scan_options));
        }
        let is_phase = |header: &&InstanceHeader| {
            upper(&header.image_type)
                .iter()
                .skip(2)
                .any(|v| matches!(v.as_str(), "P" | "PHASE" | "R" | "REAL" | "I" | "IMAGINARY"))
                && !upper(&header.image_type).iter().skip(2).any(|v| matches!(v.as_str(), "M" | "MAGNITUDE"))
        };
        let numbers =
            |pick: fn(&InstanceHeader) -> Option<f64>| sorted.iter().filter_map(move |h| pick(h)).filter(|v| v.is_finite());
        let texts = || sorted.iter().flat_map(|h| [&h.series_description, &h.protocol_name]).flatten();
        let description: BTreeSet<&String> = texts().collect();
        Self {
            is_mosaic: sorted.iter().any(|h| h.is_mosaic),
            is_phase: !sorted.is_empty() && sorted.iter().all(is_phase),
            sequence_name: sorted
                .iter()
                .find_map(|h| h.acquisition.sequence_name.as_deref())
                .map(|name| name.trim_start_matches('*').to_ascii_lowercase())
                .unwrap_or_default(),
            is_3d: sorted.iter().any(|h| h.acquisition.mr_acquisition_type.as_deref() == Some("3D")),
            repetition_ms: numbers(|h| h.acquisition.repetition_time_ms).filter(|v| *v > 0.0).reduce(f64::max),
            echo_ms: numbers(|h| h.acquisition.echo_time_ms).filter(|v| *v > 0.0).reduce(f64::max),
            inversion_ms: numbers(|h| h.acquisition.inversion_time_ms).filter(|v| *v > 0.0).reduce(f64::max),
            flip_deg: numbers(|h| h.acquisition.flip_angle_deg).reduce(f64::max),
            field_t: numbers(|h| h.acquisition.magnetic_field_strength_t).reduce(f64::max),
            b_max: numbers(|h| h.acquisition.b_value)
                .chain(sorted.iter().flat_map(|h| &h.frames).filter_map(|frame| frame.b_value).filter(|b| b.is_finite()))
                .reduce(f64::max),
            n_temporal_positions: sorted.iter().filter_map(|h| h.acquisition.n_temporal_positions).max(),
            agent: sorted.iter().filter_map(|h| h.acquisition.contrast_agent.as_deref()).any(contrast::is_agent).then_some(()),
            hint: contrast::hint(description.iter().map(|text| text.as_str())),
            acquired_at_ms: sorted.iter().filter_map(|h| time_of_day_ms(h.acquisition.acquisition_time.as_deref()?)).min(),
            stated_contrast: sorted
                .iter()
                .find_map(|h| h.acquisition.acquisition_contrast.as_deref())
                .map(str::to_ascii_uppercase),
            words: description.iter().flat_map(|text| contrast::words(text)).collect(),
            image_words,
            scanning,
            variant,
            options,
        }
    }

    pub(super) fn scans(&self, value: &str) -> bool {
        self.scanning.contains(value)
    }

    /// Whether the description holds one of the words: a hint.
    pub(super) fn mentions(&self, words: &[&str]) -> bool {
        words.iter().any(|word| self.words.contains(*word))
    }

    /// Whether it is diffusion-weighted or its companion without weighting, and why.
    pub(super) fn diffusion(&self) -> Option<(Role, String)> {
        let b_in_name = self.sequence_name.split_once("_b").and_then(|(head, tail)| {
            let digits: String = tail.chars().take_while(char::is_ascii_digit).take(5).collect();
            digits.parse::<u32>().ok().filter(|b| *b > 0 && (head.starts_with("ep") || head.starts_with("re")))
        });
        if let Some(b) = self.b_max.filter(|b| *b > 0.0) {
            return Some((Role::Dwi, format!("diffusion b-value up to {b:.0} s/mm2")));
        }
        if let Some(b) = b_in_name {
            return Some((Role::Dwi, format!("sequence name with b-value {b}")));
        }
        let word = ["TRACEW", "TRACE", "DIFFUSION"].into_iter().find(|word| self.image_words.contains(*word));
        let is_echo_planar = self.scans("EP") || self.sequence_name.starts_with("ep");
        match (word, self.b_max) {
            (Some(word), None) => Some((Role::Dwi, format!("Image Type says {word}"))),
            (_, Some(_)) if is_echo_planar => {
                Some((Role::Other, "echo-planar with b-value 0 alone: not diffusion-weighted".to_owned()))
            }
            _ => None,
        }
    }

    /// Why it shows vessels, not tissue, if it does.
    pub(super) fn angiography(&self) -> Option<String> {
        let is_tof = ["TOF", "INFLOW"].iter().any(|word| self.variant.contains(*word) || self.image_words.contains(*word));
        if is_tof || self.sequence_name.contains("tof") {
            return Some("time-of-flight angiography by Image Type or sequence".to_owned());
        }
        if self.sequence_name.starts_with("fi3d") || self.sequence_name.starts_with("fi2d") {
            return Some("sequence name of a time-of-flight angiography".to_owned());
        }
        let is_gradient = self.scans("GR") || self.sequence_name.starts_with("fl");
        let is_short = self.repetition_ms.is_some_and(|tr| tr < 60.0) && !self.scans("IR") && self.inversion_ms.is_none();
        if is_gradient && is_short && self.variant.contains("MTC") {
            return Some("fast gradient echo with magnetisation transfer: an angiography".to_owned());
        }
        // Flow compensation with a saturated slab on one side: how arteries are told from veins.
        let option = |starts: &[&str]| self.options.iter().any(|o| starts.iter().any(|start| o.starts_with(start)));
        let is_inflow_timing =
            self.is_3d && self.repetition_ms.is_some_and(|tr| tr >= 15.0) && self.echo_ms.is_some_and(|te| te < 9.0);
        if is_gradient && is_short && is_inflow_timing && option(&["FC", "FLOWCOMP"]) && option(&["SP", "SAT"]) {
            return Some("fast gradient echo with flow compensation and a saturation slab: an angiography".to_owned());
        }
        let named = self.mentions(&["tof", "mra", "angio", "angiography", "angiographie", "inflow", "venography", "mrv", "pca"]);
        (is_gradient && is_short && named).then(|| "fast gradient echo that the description calls an angiography".to_owned())
    }

    /// Acquisition Contrast as a weighting (PS3.3 C.8.13.3.1, defined terms).
    pub(super) fn stated_weighting(&self) -> Option<Weighting> {
        match self.stated_contrast.as_deref()? {
            "T1" => Some(Weighting::T1),
            "T2" => Some(Weighting::T2),
            "FLUID_ATTENUATED" => Some(Weighting::Flair),
            "T2_STAR" | "SUSCEPTIBILITY" => Some(Weighting::T2Star),
            "DIFFUSION" => Some(Weighting::Diffusion),
            "PROTON_DENSITY" | "STIR" | "PERFUSION" | "FLOW_ENCODED" | "TIME_OF_FLIGHT" | "TAGGING" | "TEMPERATURE" | "ANGIO" => {
                Some(Weighting::NoRole)
            }
            _ => None,
        }
    }

    /// The defined term that was sent, harmless characters only.
    pub(super) fn stated_name(&self) -> String {
        super::printable(self.stated_contrast.as_deref().unwrap_or_default())
    }
}

/// Milliseconds since midnight of a DICOM TM or DT value (PS3.5 table 6.2-1).
pub(super) fn time_of_day_ms(text: &str) -> Option<u64> {
    let text = text.trim();
    let (whole, rest) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = whole.chars().filter(char::is_ascii_digit).collect();
    let clock = if digits.len() >= 10 { digits.get(8..)? } else { &digits };
    let part = |from: usize| clock.get(from..from + 2).and_then(|two| two.parse::<u64>().ok());
    let fraction: String = rest.chars().take_while(char::is_ascii_digit).chain("000".chars()).take(3).collect();
    let ms = fraction.parse::<u64>().unwrap_or(0);
    Some(((part(0)? * 60 + part(2).unwrap_or(0)) * 60 + part(4).unwrap_or(0)) * 1000 + ms)
}
