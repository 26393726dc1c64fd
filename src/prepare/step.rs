//! The steps of preparing as a stage table shows them.

/// One step; a study goes through them once per series, and registration only where there are several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PrepareStep {
    /// Choosing series and sorting their slices by position.
    Sort,
    /// Reading files, decoding pixels, looking for filled background.
    Decode,
    /// Finding the head, and bringing the volume to the model's grid.
    Resample,
    /// From image values to z.
    Normalise,
    /// Comparing a series with the first one, or its even slices with its odd ones.
    Register,
}

impl PrepareStep {
    /// Stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sort => "sort",
            Self::Decode => "decode",
            Self::Resample => "resample",
            Self::Normalise => "normalise",
            Self::Register => "register",
        }
    }
}
