//! Preparing a study for the network: a closed [`Study`] in -> [`PreparedStudy`] on the model's grid, or an honest [`Refusal`].
//!
//! | Step | In -> out | Where |
//! | --- | --- | --- |
//! | gate | study -> MR of a head, by its tags | `gate.rs` |
//! | choose | series of a role -> the best volume | `choose.rs` |
//! | read | stored instances -> samples and rescale | `acquired.rs`, `dataset.rs`, `frames.rs`, `codestream.rs` |
//! | find the head | acquired volume -> the grid's place | `head.rs` |
//! | resample | acquired volume -> values on the grid | `resample.rs` |
//! | normalise | values -> z | `normalise.rs` |
//! | look for motion | a stack of thick slices -> a note | `motion.rs` |
//! | bring together | a further channel -> where it lies in the first one's head | `further.rs`, `register.rs` |
//!
//! Time and memory are bounded (`budget.rs`: estimated before they are taken), work is shared between a bounded number of threads (`share.rs`), and
//! who asks is told which step runs (`step.rs`). One volume is in memory at a time. The result depends on nothing but the instances and the model: not on their order, not on the number of
//! threads, not on the processor (DESIGN.md rule 4).
//!
//! Frames of reference: the first required channel sets the grid, and where another channel lies on it is checked in the images. With the same
//! Frame of Reference UID the header's geometry stands unless the patient clearly moved in between; with another one the place is found by rigid
//! registration, and the channel is left out with a warning when optional, or refused when required, where that fails (table in `further.rs`).

mod acquired;
mod budget;
mod choose;
mod codestream;
mod dataset;
mod frames;
mod further;
#[cfg(test)]
#[path = "../../fuzz/prepare_targets.rs"]
mod fuzz_targets;
mod gate;
mod head;
mod motion;
mod normalise;
mod register;
mod resample;
mod share;
mod step;
mod tail;

use std::sync::Arc;

use crate::domain::verdict::Refusal;
use crate::domain::{
    Grid, ModelSpec, PreparedStudy, QualityNote, Reason, ReasonCode, Role, Series, SeriesUse, Severity, Study, Uid, Volume,
};
use acquired::Acquired;
use choose::Candidate;
use further::further_channel;
use head::Head;
use register::{First, Rigid};
use resample::Resampled;
pub use step::PrepareStep;

/// Series of one role that are tried, the best one first, before the study is refused.
const CANDIDATES_MAX: usize = 3;
/// A further channel must show at least this fraction of what the first channel shows. GUESS: to be measured on the acceptance cohort.
const OVERLAP_MIN: f64 = 0.5;
/// Below this overlap a note says so. GUESS.
const OVERLAP_WHOLE: f64 = 0.9;
/// Foreground lower than this does not show the whole brain, mm. GUESS: an adult brain is about 130 mm high.
const BRAIN_HEIGHT_MM: f64 = 110.0;

/// More threads than this gain little: one core reads memory at half the speed of a small board's.
const THREADS_DEFAULT_MAX: usize = 4;

/// What preparing may cost. At each bound the study is refused with `BudgetExceeded`.
#[derive(Clone)]
pub struct PrepareLimits {
    /// Voxels of one acquired volume; two bytes each for nearly all MR.
    pub voxels_max: u64,
    /// Bytes of one stored instance, and of its data set when inflated.
    pub instance_bytes_max: u64,
    /// Bytes of memory that preparing may hold at a time, by the estimates of `budget.rs`.
    pub memory_bytes_max: u64,
    /// Threads that read and resample at the same time; the result does not depend on it.
    pub n_threads: usize,
    /// Time for one study, ms.
    pub time_budget_ms: u64,
    /// Milliseconds since preparing began, by the caller's clock; asked once per slice. The default never runs.
    pub elapsed_ms: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Told at each change from one step to the next, on the caller's thread; for stage tables.
    pub on_step: Arc<dyn Fn(PrepareStep) + Send + Sync>,
}

impl Default for PrepareLimits {
    fn default() -> Self {
        let elapsed_ms: Arc<dyn Fn() -> u64 + Send + Sync> = Arc::new(|| 0);
        Self {
            voxels_max: 134_217_728,
            instance_bytes_max: 536_870_912,
            memory_bytes_max: 1_073_741_824,
            n_threads: std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_DEFAULT_MAX),
            time_budget_ms: 120_000,
            elapsed_ms,
            on_step: Arc::new(|_| ()),
        }
    }
}

impl std::fmt::Debug for PrepareLimits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PrepareLimits")
            .field("voxels_max", &self.voxels_max)
            .field("instance_bytes_max", &self.instance_bytes_max)
            .field("memory_bytes_max", &self.memory_bytes_max)
            .field("n_threads", &self.n_threads)
            .field("time_budget_ms", &self.time_budget_ms)
            .finish_non_exhaustive()
    }
}

impl PrepareLimits {
    fn step(&self, step: PrepareStep) {
        (self.on_step)(step);
    }

    fn check_time(&self) -> Result<(), Reason> {
        if (self.elapsed_ms)() <= self.time_budget_ms {
            return Ok(());
        }
        let text = format!("Preparing the study took longer than {} s.", self.time_budget_ms / 1000);
        Err(Reason::new(ReasonCode::BudgetExceeded, text))
    }
}

/// Prepares `study` for `model`.
///
/// # Errors
/// [`Refusal`] names what is missing or wrong, with the notes gathered so far and every series as it was understood.
pub fn prepare(study: &Study, model: &ModelSpec, limits: &PrepareLimits) -> Result<PreparedStudy, Refusal> {
    limits.step(PrepareStep::Sort);
    let mut report = Report::new(study);
    match channels(study, model, limits, &mut report) {
        Ok((grid, channels)) => Ok(PreparedStudy { grid, channels, quality: report.quality, series: report.series }),
        Err(reason) => Err(Refusal { reasons: vec![reason], quality: report.quality, series: report.series }),
    }
}

/// Series of `role` that can be used, the best one first: what [`prepare`] would try, in that order.
#[must_use]
pub fn usable_series(study: &Study, role: Role, model: &ModelSpec, limits: &PrepareLimits) -> Vec<Uid> {
    choose::candidates(study, role, model, limits).0.iter().map(|c| c.series.series_instance_uid.clone()).collect()
}

/// What is said about the study on the way.
struct Report {
    quality: Vec<QualityNote>,
    series: Vec<SeriesUse>,
}

impl Report {
    fn new(study: &Study) -> Self {
        let of = |s: &Series| SeriesUse {
            series_instance_uid: s.series_instance_uid.clone(),
            role: s.role,
            evidence: s.evidence.clone(),
            used: false,
        };
        Self { quality: Vec::new(), series: study.series().iter().map(of).collect() }
    }

    fn note(&mut self, code: &'static str, severity: Severity, text: impl Into<String>) {
        self.quality.push(QualityNote { code, text: text.into(), severity });
    }

    fn series(&mut self, uid: &Uid) -> Option<&mut SeriesUse> {
        self.series.iter_mut().find(|s| s.series_instance_uid == *uid)
    }

    fn not_used(&mut self, uid: &Uid, why: &str) {
        self.evidence(uid, format!("not used: {why}"));
    }

    fn evidence(&mut self, uid: &Uid, text: String) {
        if let Some(series) = self.series(uid) {
            series.evidence.push(text);
        }
    }

    fn used(&mut self, candidate: &Candidate<'_>) {
        let stack = &candidate.stack;
        if let Some(series) = self.series(&candidate.series.series_instance_uid) {
            series.used = true;
            series.evidence.push(format!(
                "used: {} slices {:.2} mm apart, {} x {} pixels of {:.2} x {:.2} mm",
                stack.n_slices(),
                stack.slice_spacing_mm.unwrap_or(0.0),
                stack.n_columns,
                stack.n_rows,
                stack.column_spacing_mm,
                stack.row_spacing_mm
            ));
        }
        self.quality.extend(candidate.notes.iter().cloned());
    }
}

/// What the first channel fixes for the others.
struct Anchor {
    head: Head,
    frame_of_reference_uid: Option<Uid>,
    /// Grid points where it shows something.
    shown_kji: Vec<bool>,
    /// What further channels are compared with; `None` when the study holds none.
    first: Option<First>,
}

impl Anchor {
    fn first(&self) -> Result<&First, Reason> {
        let text = "A further series has nothing to be compared with.";
        self.first.as_ref().ok_or_else(|| Reason::new(ReasonCode::InternalFault, text))
    }
}

type Channels = (Grid, Vec<Option<Volume>>);

fn channels(study: &Study, model: &ModelSpec, limits: &PrepareLimits, report: &mut Report) -> Result<Channels, Reason> {
    gate::check(study)?;
    let broken = || Reason::new(ReasonCode::InternalFault, "The model has no required input: its manifest is not usable.");
    let anchor_idx = model.channels.iter().position(|channel| channel.required).ok_or_else(broken)?;
    let anchor_role = model.channels.get(anchor_idx).ok_or_else(broken)?.role;
    let (anchor, volume) = first_channel(study, anchor_role, model, limits, report)?;
    let mut volume = Some(volume);
    let mut channels = Vec::with_capacity(model.channels.len());
    for (idx, channel) in model.channels.iter().enumerate() {
        if idx == anchor_idx {
            channels.push(volume.take());
            continue;
        }
        if !channel.required && !study.series().iter().any(|s| s.role == channel.role) {
            let text = format!("The study holds {}: assessed without it.", gate::describe_absence(channel.role));
            report.note("optional-series-missing", Severity::Note, text);
            channels.push(None);
            continue;
        }
        match further_channel(study, channel.role, &anchor, model, limits, report) {
            Ok(volume) => channels.push(Some(volume)),
            Err(reason) if channel.required || limits.check_time().is_err() => return Err(reason),
            Err(reason) => {
                report.note("channel-left-out", Severity::Warning, format!("Assessed without {}: {}", channel.role, reason.text));
                channels.push(None);
            }
        }
    }
    if anchor_role == Role::T1Post && !study.series().iter().any(|s| s.role == Role::T1Pre) {
        let text = "There is no T1-weighted series before contrast agent: enhancement is judged from one series alone.";
        report.note("no-pre-contrast", Severity::Note, text);
    }
    Ok((anchor.head.grid, channels))
}

/// Tries the candidates of `role` in turn with `attempt`; the reason of the best one stands when none succeeds.
fn best<T>(
    study: &Study,
    role: Role,
    model: &ModelSpec,
    limits: &PrepareLimits,
    report: &mut Report,
    mut attempt: impl FnMut(&Candidate<'_>, &mut Report) -> Result<T, Reason>,
) -> Result<T, Reason> {
    limits.step(PrepareStep::Sort);
    let (usable, faulty) = choose::candidates(study, role, model, limits);
    for (series, reason) in &faulty {
        report.not_used(&series.series_instance_uid, &reason.text);
    }
    let mut first_reason = None;
    let mut result = None;
    for (rank, candidate) in usable.iter().enumerate() {
        let uid = &candidate.series.series_instance_uid;
        if result.is_some() || rank >= CANDIDATES_MAX {
            report.not_used(
                uid,
                if result.is_some() { "another series of this role is better" } else { "too many series of this role" },
            );
            continue;
        }
        limits.check_time()?;
        match attempt(candidate, report) {
            Ok(done) => {
                report.used(candidate);
                result = Some(done);
            }
            Err(reason) if limits.check_time().is_err() => return Err(reason),
            Err(reason) => {
                report.not_used(uid, &reason.text);
                first_reason.get_or_insert(reason);
            }
        }
    }
    let otherwise = || faulty.first().map_or_else(|| gate::missing(study, role, model), |(_, reason)| reason.clone());
    result.ok_or_else(|| first_reason.unwrap_or_else(otherwise))
}

fn load(candidate: &Candidate<'_>, limits: &PrepareLimits) -> Result<Acquired, Reason> {
    limits.step(PrepareStep::Decode);
    acquired::load(candidate.stack.clone(), &candidate.series.instances, limits)
}

/// The channel that sets the grid.
fn first_channel(
    study: &Study,
    role: Role,
    model: &ModelSpec,
    limits: &PrepareLimits,
    report: &mut Report,
) -> Result<(Anchor, Volume), Reason> {
    best(study, role, model, limits, report, |candidate, report| {
        let acquired = load(candidate, limits)?;
        let filled = acquired.filled_value(model.normalisation.background_mode_fraction, limits.n_threads)?;
        limits.step(PrepareStep::Resample);
        let head = head::place(&acquired, filled, model, limits)?;
        let channel = on_grid(candidate, &acquired, filled, (&head.grid, None), model, limits)?;
        note_pixels(role, &acquired, filled, report);
        note_motion(role, &acquired, (filled, &head.grid), model, limits, report)?;
        if head.height_mm < BRAIN_HEIGHT_MM {
            let text =
                format!("The {role} series shows {:.0} mm along the body: part of the brain may not be covered.", head.height_mm);
            report.note("coverage", Severity::Warning, text);
        }
        let is_alone = !model.channels.iter().any(|c| c.role != role && study.series().iter().any(|s| s.role == c.role));
        limits.step(PrepareStep::Register);
        let first = (!is_alone).then(|| First::new(&head.grid, &channel, 0));
        let shown_kji = channel.background_kji.iter().map(|b| !b).collect();
        let frame_of_reference_uid = candidate.frame_of_reference_uid.clone();
        Ok((Anchor { head, frame_of_reference_uid, shown_kji, first }, volume(candidate, channel)))
    })
}

/// Resampled, where `placement` or else its header puts it, and normalised.
fn on_grid(
    candidate: &Candidate<'_>,
    acquired: &Acquired,
    filled: Option<f32>,
    (grid, placement): (&Grid, Option<&Rigid>),
    model: &ModelSpec,
    limits: &PrepareLimits,
) -> Result<Resampled, Reason> {
    limits.step(PrepareStep::Resample);
    let mut resampled = resample::to_grid(acquired, grid, placement, filled, limits)?;
    limits.step(PrepareStep::Normalise);
    if !normalise::normalise(&mut resampled.values_kji, &resampled.background_kji, &model.normalisation) {
        let text = format!("The {} series shows nothing where the head should be.", candidate.series.role);
        return Err(Reason::new(ReasonCode::CoverageOrResolution, text));
    }
    Ok(resampled)
}

fn volume(candidate: &Candidate<'_>, normalised: Resampled) -> Volume {
    let series = candidate.series;
    Volume { role: series.role, series_instance_uid: series.series_instance_uid.clone(), voxels_kji: normalised.values_kji }
}

fn note_pixels(role: Role, acquired: &Acquired, filled: Option<f32>, report: &mut Report) {
    if acquired.is_lossy {
        report.note("lossy-compression", Severity::Warning, format!("The {role} series went through a lossy compression."));
    }
    if filled.is_some() {
        let text = format!("The {role} series is filled with one value around the head or brain (skull-stripped or masked).");
        report.note("filled-background", Severity::Note, text);
    }
}

/// Says so when the patient moved between the passes over a 2D stack.
fn note_motion(
    role: Role,
    acquired: &Acquired,
    (filled, grid): (Option<f32>, &Grid),
    model: &ModelSpec,
    limits: &PrepareLimits,
    report: &mut Report,
) -> Result<(), Reason> {
    limits.step(PrepareStep::Register);
    if let Some(rigid) = motion::between_passes(acquired, grid, filled, model, limits)? {
        let text = format!(
            "In the {role} series the patient moved by {} between the even and the odd slices: what is small may look blurred or doubled.",
            rigid.in_words()
        );
        report.note("motion", Severity::Warning, text);
    }
    Ok(())
}
