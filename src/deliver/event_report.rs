//! Answers of storage commitments over associations of our own: due commitments in -> N-EVENT-REPORT to their requesters out, retried from
//! the durable table until taken or given up. (The first try, on the association that asked, is `receive`'s.)
//!
//! ```text
//!   waiting --due--> association, N-EVENT-REPORT --0000--> delivered
//!      ^                    |
//!      +--- 1 min .. 1 h ---+ anything else; after three days and ten tries: given up, said aloud
//! ```
//! We open the association and yet are the provider (SCP): the role selection says so. A peer that does not answer it is taken at its
//! acceptance of the context. Source: PS3.4 section J.3.3, PS3.7 sections 10.1.1 and D.3.3.4.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::age::WaitingAge;
use super::association::{Association, AssociationOptions, DataSet};
use super::dimse_scu::{self, EXPLICIT_LE, IMPLICIT_LE, Request, Response};
use super::events::DeliverEvent;
use super::outbox::blocking;
use super::transport::{Broken, Offer, Peer};
use crate::domain::{AeTitle, Commitment, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE, WallTime};
use crate::journal::Journal;
use crate::spool::{ServiceStore, WaitingCommitment};

/// First and longest wait between two tries, ms.
const BACKOFF_MS: [u64; 2] = [60_000, 3_600_000];
/// A commitment is given up this long after it was asked for, ms: three days ...
const GIVE_UP_MS: i64 = 72 * 3_600_000;
/// ... and after so many tries, so that a clock that jumps gives nothing up.
const GIVE_UP_ATTEMPTS: u32 = 10;
/// Given up ones are shown for so long, ms.
const GIVEN_UP_SHOWN_MS: i64 = 24 * 3_600_000;
/// Commitments that are fetched at once; each has 4 MiB at most.
const FETCH_MAX: usize = 2;
/// The table is looked at this often ...
const POLL: Duration = Duration::from_secs(1);
/// ... and so often while it cannot be read or written.
const FAILING_POLL: Duration = Duration::from_secs(30);
/// One try may take so long in all.
const TRY_MAX: Duration = Duration::from_secs(120);
/// Our message ID; there is one message to an association.
const MESSAGE_ID: u16 = 1;
/// Both uncompressed little endian syntaxes.
const SYNTAXES: [&str; 2] = [EXPLICIT_LE, IMPLICIT_LE];
/// Longest PDU that we accept, bytes: responses have some hundred.
const PDU_LENGTH_MAX: u32 = 65_536;
/// An Event Reply may come with the response; nobody needs it.
const REPLY_BYTES_MAX: usize = 65_536;

/// Who we are, and where the requesters are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventReportOptions {
    /// Our AE title.
    pub ae_title: AeTitle,
    /// Where each requester takes associations.
    pub peers: BTreeMap<AeTitle, SocketAddr>,
    /// A commitment that waits longer makes the health bad, s.
    pub undelivered_s_max: u64,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest wait for each answer.
    pub response_timeout: Duration,
}

impl EventReportOptions {
    /// Options of a box of that title which knows no requester.
    #[must_use]
    pub fn new(ae_title: AeTitle) -> Self {
        Self {
            ae_title,
            peers: BTreeMap::new(),
            undelivered_s_max: 900,
            connect_timeout: Duration::from_secs(10),
            response_timeout: Duration::from_secs(60),
        }
    }
}

/// How the commitments stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommitmentHealth {
    /// Whether one has waited too long or was given up of late: the condition `CommitmentsUndelivered`.
    pub undelivered: bool,
    /// How many wait.
    pub n_waiting: u64,
    /// A sentence about what is wrong.
    pub detail: Option<String>,
}

/// The task, before it runs.
pub struct EventReporter {
    store: Arc<dyn ServiceStore>,
    options: EventReportOptions,
    journal: Journal,
    clock: fn() -> WallTime,
    health: watch::Sender<CommitmentHealth>,
}

impl EventReporter {
    /// Tells the commitments of `store`.
    #[must_use]
    pub fn new(store: Arc<dyn ServiceStore>, options: EventReportOptions, journal: Journal, clock: fn() -> WallTime) -> Self {
        Self { store, options, journal, clock, health: watch::Sender::new(CommitmentHealth::default()) }
    }

    /// How the commitments stand, every second.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<CommitmentHealth> {
        self.health.subscribe()
    }

    /// Runs until `shutdown` becomes true (or its sender is gone); what is not told stays in the table.
    pub async fn run(self, mut shutdown: watch::Receiver<bool>) {
        let mut waiting = WaitingAge::default();
        loop {
            let round = async {
                let pause = self.round().await;
                self.look(&mut waiting).await;
                tokio::time::sleep(pause).await;
            };
            tokio::select! {
                // A report cut off here is told once more after the next start: its Transaction UID makes that harmless.
                _ = shutdown.wait_for(|stop| *stop) => return,
                () = round => {}
            }
        }
    }

    /// Tries what is due; how long to wait before the next look.
    async fn round(&self) -> Duration {
        let now = (self.clock)();
        let due = match blocking(&self.store, move |store| store.commitments_due(now, FETCH_MAX)).await {
            Ok(due) => due,
            Err(error) => {
                self.journal.record(&DeliverEvent::OutboxFailing { error });
                return FAILING_POLL;
            }
        };
        let n_due = due.len();
        for waiting in due {
            if !self.attempt(waiting).await {
                return FAILING_POLL;
            }
        }
        if n_due == FETCH_MAX { Duration::ZERO } else { POLL }
    }

    /// One try; whether its outcome could be kept.
    async fn attempt(&self, waiting: WaitingCommitment) -> bool {
        let WaitingCommitment { id, commitment, attempts, requested_at } = waiting;
        let requester = commitment.requester.clone();
        let outcome = match self.options.peers.get(&requester) {
            None => Err("no call address is configured for it in [[dicom.peer]]".to_owned()),
            Some(address) => match timeout(TRY_MAX, tell(&self.options, *address, commitment)).await {
                Ok(outcome) => outcome,
                Err(_) => Err("it took longer than two minutes".to_owned()),
            },
        };
        let now = (self.clock)();
        let attempts = attempts.saturating_add(1);
        let (event, kept) = match outcome {
            Ok(()) => {
                let event = DeliverEvent::CommitmentDelivered { id, requester, attempts };
                (event, blocking(&self.store, move |store| store.commitment_delivered(id, now)).await)
            }
            Err(error) if attempts >= GIVE_UP_ATTEMPTS && now.0.saturating_sub(requested_at.0) > GIVE_UP_MS => {
                let event = DeliverEvent::CommitmentGivenUp { id, requester, error };
                (event, blocking(&self.store, move |store| store.commitment_given_up(id, now)).await)
            }
            Err(error) => {
                // The first of them was on the association that asked.
                let retry_ms = backoff_ms(attempts.saturating_sub(1));
                let next = WallTime(now.0.saturating_add(i64::try_from(retry_ms).unwrap_or(i64::MAX)));
                let event = DeliverEvent::CommitmentFailed { id, requester, error: error.clone(), retry_ms };
                (event, blocking(&self.store, move |store| store.commitment_failed(id, &error, next)).await)
            }
        };
        // After the store: who reads the line finds the outcome kept.
        self.journal.record(&event);
        kept.map_err(|error| self.journal.record(&DeliverEvent::OutboxFailing { error })).is_ok()
    }

    async fn look(&self, waiting: &mut WaitingAge) {
        let now = (self.clock)();
        let since = WallTime(now.0.saturating_sub(GIVEN_UP_SHOWN_MS));
        let Ok(stats) = blocking(&self.store, move |store| store.commitment_stats(since)).await else { return };
        let age_s = waiting.seconds(stats.oldest_waiting_at, now, tokio::time::Instant::now()).unwrap_or(0);
        let late = stats.n_waiting > 0 && age_s > self.options.undelivered_s_max;
        let undelivered = late || stats.n_given_up > 0;
        let detail = undelivered.then(|| {
            let cause = stats.last_error.map(|error| format!(" Last error: {error}.")).unwrap_or_default();
            format!("{} commitment(s) wait, the oldest for {age_s} s; {} given up.{cause}", stats.n_waiting, stats.n_given_up)
        });
        let health = CommitmentHealth { undelivered, n_waiting: stats.n_waiting, detail };
        self.health.send_if_modified(|old| {
            let changed = *old != health;
            *old = health;
            changed
        });
    }
}

/// Wait after `n_failures` on associations of our own, ms: doubled from one minute up to an hour.
fn backoff_ms(n_failures: u32) -> u64 {
    let [first, longest] = BACKOFF_MS;
    (first << n_failures.saturating_sub(1).min(20)).min(longest)
}

/// Tells one commitment to its requester.
async fn tell(options: &EventReportOptions, address: SocketAddr, commitment: Commitment) -> Result<(), String> {
    let to = address.to_string();
    let bounds = AssociationOptions {
        connect_timeout: options.connect_timeout,
        response_timeout: options.response_timeout,
        pdu_length_max: PDU_LENGTH_MAX,
    };
    let peer = Peer { to: &to, calling: &options.ae_title, called: &commitment.requester, options: bounds, tls: None };
    let syntaxes = SYNTAXES.map(str::to_owned).to_vec();
    let offer = Offer { contexts: vec![(STORAGE_COMMITMENT.to_owned(), syntaxes)], provider_of: Some(STORAGE_COMMITMENT) };
    let mut association = Association::establish(peer, offer).await.map_err(|broken| match broken {
        Broken::NoContextAccepted => "it does not take storage commitment".to_owned(),
        Broken::Failed(reason) => reason,
    })?;
    match report(&mut association, &commitment).await {
        Ok(Response { status: 0, .. }) => {
            association.release().await;
            Ok(())
        }
        Ok(Response { status, comment, .. }) => {
            association.release().await;
            let comment = comment.map(|text| format!(" ({text})")).unwrap_or_default();
            Err(format!("it answered with status 0x{status:04X}{comment}"))
        }
        Err(reason) => {
            association.abort().await;
            Err(reason)
        }
    }
}

async fn report(association: &mut Association, commitment: &Commitment) -> Result<Response, String> {
    if association.is_refused_as_provider(STORAGE_COMMITMENT) {
        return Err("it does not let us be the provider (SCP) of storage commitment".to_owned());
    }
    let accepted = SYNTAXES.map(|syntax| association.context_of(STORAGE_COMMITMENT, Some(syntax)));
    let [explicit, implicit] = accepted;
    let context_id = explicit.or(implicit).ok_or_else(|| "it accepted nothing".to_owned())?;
    let command =
        dimse_scu::event_report_request(MESSAGE_ID, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE, commitment.event_type());
    association.send_message(context_id, command, &commitment.event_data_set(explicit.is_some())).await?;
    let answer = association.receive(MESSAGE_ID, Request::EventReport, DataSet::Discard(REPLY_BYTES_MAX)).await;
    answer.map(|message| message.response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_from_a_minute_to_an_hour() {
        let waits: Vec<u64> = (0..9).map(|n_failures| backoff_ms(n_failures) / 60_000).collect();
        assert_eq!(waits, [1, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff_ms(u32::MAX), 3_600_000);
    }
}
