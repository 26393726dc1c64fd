//! The task that talks to the PACS: one order at a time -> C-FIND and C-MOVE on an association of its own -> one report.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::keeper::{FetchOrder, FetchReport, Fetched};
use super::plan::{self, Plan, Wanted};
use crate::deliver::query_scu::{Pacs, PacsLink, QueryError};
use crate::domain::Uid;

/// After this long no further series of a study is begun; others wait for the worker, too.
const STUDY_MAX: Duration = Duration::from_secs(1800);

/// Works until `orders` closes or the shutdown signal.
pub(super) async fn run(
    pacs: Pacs,
    mut orders: mpsc::Receiver<FetchOrder>,
    reports: mpsc::Sender<FetchReport>,
    mut shutdown: watch::Receiver<bool>,
) {
    let work = async {
        while let Some(order) = orders.recv().await {
            let report = match order {
                FetchOrder::Watch => FetchReport::Watched(pacs.check().await),
                FetchOrder::Fetch { wanted, tried } => FetchReport::Fetched(fetch(&pacs, &wanted, &tried).await),
            };
            if reports.send(report).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = work => {}
        _ = shutdown.wait_for(|stop| *stop) => {}
    }
}

async fn fetch(pacs: &Pacs, wanted: &Wanted, tried: &BTreeSet<Uid>) -> Fetched {
    let mut fetched = Fetched::default();
    let mut link = match pacs.open().await {
        Ok(link) => link,
        Err(error) => return Fetched { failure: Some(error), ..fetched },
    };
    match ask_and_retrieve(&mut link, wanted, tried, &mut fetched).await {
        Ok(()) => link.close().await,
        Err(error @ QueryError::Unreachable { .. }) => {
            fetched.failure = Some(error);
            link.abort().await;
        }
        Err(error) => {
            note(error, &mut fetched);
            link.close().await;
        }
    }
    fetched
}

async fn ask_and_retrieve(
    link: &mut PacsLink,
    wanted: &Wanted,
    tried: &BTreeSet<Uid>,
    fetched: &mut Fetched,
) -> Result<(), QueryError> {
    let plan = ask(link, wanted, tried).await?;
    fetched.n_left = plan.n_too_many + plan.n_away;
    let begun = Instant::now();
    for series in plan.retrievals {
        let room = u32::try_from(wanted.n_instances_max).unwrap_or(u32::MAX).saturating_sub(fetched.n_sent);
        if room == 0 || begun.elapsed() > STUDY_MAX {
            fetched.n_left += 1;
            continue;
        }
        let report = link.retrieve_series(&wanted.study_instance_uid, &series, room).await?;
        fetched.n_sent += report.n_sent;
        fetched.n_failed += report.n_failed;
        fetched.n_left += usize::from(report.is_cut);
        match report.trouble.filter(|_| !report.is_cut) {
            // Whoever has to change the PACS's settings has to for every series.
            Some(error) if needs_a_person(&error) && report.n_sent == 0 => return Err(error),
            trouble => {
                fetched.trouble = fetched.trouble.take().or(trouble);
                fetched.tried.push(series);
            }
        }
    }
    Ok(())
}

async fn ask(link: &mut PacsLink, wanted: &Wanted, tried: &BTreeSet<Uid>) -> Result<Plan, QueryError> {
    let study = &wanted.study_instance_uid;
    let mut there = link.find_series(study).await?.series;
    for series in plan::to_count(wanted, &there, tried) {
        let n_instances = link.count_instances(study, &series).await?;
        there.iter_mut().filter(|s| s.series_instance_uid == series).for_each(|s| s.n_instances = Some(n_instances));
    }
    Ok(plan::plan(wanted, &there, tried))
}

/// A failure that a person or time can mend is one of the PACS; any other concerns this study alone.
fn note(error: QueryError, fetched: &mut Fetched) {
    if needs_a_person(&error) {
        fetched.failure = Some(error);
    } else {
        fetched.trouble = Some(error);
    }
}

/// Whether the PACS refuses for a reason that is not the study's: out of resources (A700, A701), cannot send to us (A702), does not know us
/// (A801), does not offer it or allow it (the general statuses of PS3.7 annex C).
fn needs_a_person(error: &QueryError) -> bool {
    match error {
        QueryError::Unreachable { .. } | QueryError::NotOffered { .. } => true,
        QueryError::Refused { status, .. } => matches!(status, 0xA700..=0xA702 | 0xA801 | 0x0001..=0x0FFF),
    }
}
