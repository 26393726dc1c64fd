//! What to fetch: the series of a closed study that are here, and those that the PACS has -> the series to be sent, the likeliest first. Pure.
//!
//! Only MR series of the study itself, only what is not here, only so many images: the rest of the answer is left where it is.

use std::collections::{BTreeMap, BTreeSet};

use crate::assemble::{missing_required, says_after_contrast};
use crate::deliver::{Availability, PacsSeries};
use crate::domain::{InputChannel, Role, Study, Uid};

/// Images fetched for one study. GUESS: a whole brain protocol with perfusion has about 1,500; the store's own budget bounds the bytes.
pub(in crate::service) const INSTANCES_MAX: usize = 2_000;
/// Series that are counted image by image, for a PACS that does not count them.
pub(super) const COUNTS_MAX: usize = 32;

/// A closed study that lacks a series which the model needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::service) struct Wanted {
    /// The study.
    pub(in crate::service) study_instance_uid: Uid,
    /// Roles that no whole series fills.
    pub(in crate::service) missing: Vec<Role>,
    /// Images here, by series.
    pub(in crate::service) here: BTreeMap<Uid, usize>,
    /// Images that may still come.
    pub(in crate::service) n_instances_max: usize,
}

impl Wanted {
    /// `None` when the study is no MR study, or lacks nothing that the model needs, or is full.
    pub(in crate::service) fn of(
        study: &Study,
        roles: &[InputChannel],
        slices_min: usize,
        instances_per_study_max: usize,
    ) -> Option<Self> {
        let is_mr = study.series().iter().flat_map(|s| &s.instances).any(|instance| instance.header.modality == "MR");
        let n_instances_max = INSTANCES_MAX.min(instances_per_study_max.saturating_sub(study.n_instances()));
        let missing = missing_required(study, roles, slices_min);
        if !is_mr || missing.is_empty() || n_instances_max == 0 {
            return None;
        }
        let here = study.series().iter().map(|s| (s.series_instance_uid.clone(), s.instances.len())).collect();
        Some(Self { study_instance_uid: study.study_instance_uid().clone(), missing, here, n_instances_max })
    }

    fn n_here(&self, series: &Uid) -> usize {
        self.here.get(series).copied().unwrap_or(0)
    }
}

/// What is to be sent, and what is not although it is not here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Series, the likeliest first.
    pub(super) retrievals: Vec<Uid>,
    /// Series that would go beyond the bound on images.
    pub(super) n_too_many: usize,
    /// Series that the PACS cannot send without a person.
    pub(super) n_away: usize,
}

/// Series that are partly here and of which the PACS does not say how many images it has: to be counted.
pub(super) fn to_count(wanted: &Wanted, there: &[PacsSeries], tried: &BTreeSet<Uid>) -> Vec<Uid> {
    let uncounted = candidates(there, tried).filter(|s| s.n_instances.is_none() && wanted.n_here(&s.series_instance_uid) > 0);
    uncounted.map(|s| s.series_instance_uid.clone()).take(COUNTS_MAX).collect()
}

/// What is to be sent. A series that is partly here and still uncounted counts as whole.
pub(super) fn plan(wanted: &Wanted, there: &[PacsSeries], tried: &BTreeSet<Uid>) -> Plan {
    let mut plan = Plan::default();
    let is_missing = |s: &&PacsSeries| {
        let n_here = wanted.n_here(&s.series_instance_uid);
        s.n_instances.map_or(n_here == 0, |n_there| n_there as usize > n_here)
    };
    let mut missing: Vec<&PacsSeries> = candidates(there, tried).filter(is_missing).collect();
    missing.sort_by_key(|s| (likelihood(s), s.n_instances.unwrap_or(u32::MAX), s.series_instance_uid.clone()));
    let mut room = wanted.n_instances_max;
    for series in missing {
        let n_expected = series.n_instances.map_or(1, |n| n as usize);
        if series.availability == Availability::Away {
            plan.n_away += 1;
        } else if n_expected > room {
            plan.n_too_many += 1;
        } else {
            // An uncounted series may fill all the room.
            room -= series.n_instances.map_or(room, |n| n as usize);
            plan.retrievals.push(series.series_instance_uid.clone());
        }
    }
    plan
}

/// MR series that have not been tried. A PACS that does not say the modality was asked for MR alone.
fn candidates<'a>(there: &'a [PacsSeries], tried: &'a BTreeSet<Uid>) -> impl Iterator<Item = &'a PacsSeries> {
    let is_mr = |s: &PacsSeries| s.modality.as_deref().is_none_or(|modality| modality == "MR");
    there.iter().filter(move |s| is_mr(s) && !tried.contains(&s.series_instance_uid))
}

/// Smaller is likelier to be what the model needs. A description is a hint: it orders and excludes nothing.
fn likelihood(series: &PacsSeries) -> u8 {
    let description = series.description.as_deref().unwrap_or_default();
    let lower = description.to_lowercase();
    let is_t1 = ["t1", "mprage", "mp-rage", "bravo", "tfe", "vibe", "fspgr"].iter().any(|word| lower.contains(word));
    let is_scout = ["loc", "scout", "survey", "plan"].iter().any(|word| lower.contains(word));
    match (says_after_contrast(description), is_t1) {
        (true, true) => 0,
        (true, false) => 1,
        (false, true) => 2,
        (false, false) if is_scout => 4,
        (false, false) => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn uid(text: &str) -> Uid {
        Uid::try_new(text).expect("a UID")
    }

    fn wanted(here: &[(&str, usize)], n_instances_max: usize) -> Wanted {
        let here = here.iter().map(|(series, n)| (uid(series), *n)).collect();
        Wanted { study_instance_uid: uid("1.2"), missing: vec![Role::T1Post], here, n_instances_max }
    }

    fn series(name: &str, description: &str, n_instances: Option<u32>) -> PacsSeries {
        PacsSeries {
            series_instance_uid: uid(name),
            modality: Some("MR".into()),
            description: Some(description.into()),
            n_instances,
            availability: Availability::Online,
        }
    }

    fn names(plan: &Plan) -> Vec<&str> {
        plan.retrievals.iter().map(Uid::as_str).collect()
    }

    #[test]
    fn what_is_here_whole_stays_and_what_is_not_comes_with_the_likeliest_first() {
        let there = [
            series("1.1", "t2 flair", Some(60)),
            series("1.2", "localizer", Some(3)),
            series("1.3", "t1 mprage sag", Some(176)),
            series("1.4", "t1 mprage sag +KM", Some(176)),
            series("1.5", "dwi", Some(90)),
        ];
        let plan = plan(&wanted(&[("1.1", 60), ("1.4", 100)], 2000), &there, &BTreeSet::new());
        assert_eq!(names(&plan), ["1.4", "1.3", "1.5", "1.2"]);
        assert_eq!((plan.n_too_many, plan.n_away), (0, 0));
    }

    #[test]
    fn other_modalities_tried_series_and_what_a_person_must_fetch_stay_there() {
        let mut there = [series("1.1", "t1 +c", Some(10)), series("1.2", "t1 +c", Some(10)), series("1.3", "t1 +c", Some(10))];
        there[0].modality = Some("CT".into());
        there[2].availability = Availability::Away;
        let plan = plan(&wanted(&[], 2000), &there, &BTreeSet::from([uid("1.2")]));
        assert_eq!((names(&plan), plan.n_away), (Vec::new(), 1));
    }

    #[test]
    fn a_series_beyond_the_bound_is_left_out_and_a_smaller_one_comes() {
        let there = [series("1.1", "t1 +c", Some(5000)), series("1.2", "dwi", Some(30)), series("1.3", "t1", None)];
        let plan = plan(&wanted(&[], 200), &there, &BTreeSet::new());
        assert_eq!((names(&plan), plan.n_too_many), (vec!["1.3"], 2), "an uncounted series may fill all the room");
    }

    #[test]
    fn only_a_series_that_is_partly_here_and_uncounted_is_counted() {
        let wanted = wanted(&[("1.1", 20), ("1.2", 20)], 200);
        let there = [series("1.1", "t1", None), series("1.2", "flair", Some(20)), series("1.3", "dwi", None)];
        assert_eq!(to_count(&wanted, &there, &BTreeSet::new()), [uid("1.1")]);
        assert_eq!(names(&plan(&wanted, &there, &BTreeSet::new())), ["1.3"], "uncounted after all: counts as whole");
    }

    fn any_series() -> impl Strategy<Value = PacsSeries> {
        (1u32..40, proptest::option::of(0u32..3000), 0usize..4, proptest::option::of(0usize..3)).prop_map(|(n, count, d, m)| {
            PacsSeries {
                series_instance_uid: uid(&format!("1.{n}")),
                modality: m.map(|m| ["MR", "CT", "SR"][m].into()),
                description: Some(["t1 +c", "t1", "flair", ""][d].into()),
                n_instances: count,
                availability: if d == 3 { Availability::Away } else { Availability::Online },
            }
        })
    }

    proptest! {
        #[test]
        fn no_answer_brings_more_images_than_fit_nor_a_series_that_is_whole(
            there in proptest::collection::vec(any_series(), 0..60),
            here in proptest::collection::btree_map(1u32..40, 1usize..3000, 0..20),
            n_instances_max in 1usize..4000,
        ) {
            let here: BTreeMap<Uid, usize> = here.into_iter().map(|(n, count)| (uid(&format!("1.{n}")), count)).collect();
            let wanted = Wanted { study_instance_uid: uid("1.2"), missing: vec![Role::T1Post], here, n_instances_max };
            let plan = plan(&wanted, &there, &BTreeSet::new());
            let mut n_counted = 0;
            for series in &plan.retrievals {
                let n_here = wanted.n_here(series);
                let mut found = there.iter().filter(|s| s.series_instance_uid == *series);
                prop_assert!(found.any(|s| s.n_instances.map_or(n_here == 0, |n| n as usize > n_here)));
                // A PACS that names a series twice with different counts is not believed beyond the smallest.
                let counts = there.iter().filter(|s| s.series_instance_uid == *series).map(|s| s.n_instances.unwrap_or(1) as usize);
                n_counted += counts.min().unwrap_or(0);
            }
            prop_assert!(n_counted <= n_instances_max);
        }
    }
}
