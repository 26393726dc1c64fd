//! What a series is for the model: its role, and the evidence for it.

use core::fmt;

/// The part that a series plays for a brain MR model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// T1-weighted after a gadolinium contrast agent.
    T1Post,
    /// T1-weighted without (known) contrast agent.
    T1Pre,
    /// Fluid-attenuated inversion recovery, T2-weighted.
    Flair,
    /// T2-weighted.
    T2,
    /// Diffusion-weighted (trace or single direction).
    Dwi,
    /// Apparent diffusion coefficient map.
    Adc,
    /// Susceptibility-weighted or T2*.
    T2Star,
    /// A localizer, scout or survey.
    Localizer,
    /// Anything else: derived maps, screenshots, time series, other modalities.
    Other,
}

impl Role {
    /// The name in manifests, verdicts and configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::T1Post => "t1_post",
            Self::T1Pre => "t1_pre",
            Self::Flair => "flair",
            Self::T2 => "t2",
            Self::Dwi => "dwi",
            Self::Adc => "adc",
            Self::T2Star => "t2_star",
            Self::Localizer => "localizer",
            Self::Other => "other",
        }
    }

    /// The role of that name.
    #[must_use]
    pub fn parse_name(name: &str) -> Option<Self> {
        [Self::T1Post, Self::T1Pre, Self::Flair, Self::T2, Self::Dwi, Self::Adc, Self::T2Star, Self::Localizer, Self::Other]
            .into_iter()
            .find(|role| role.as_str() == name)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
