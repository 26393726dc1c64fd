//! The task that holds the connection to a broker: alerts, the lamp and the shutdown in -> bytes over a socket, and how the connection stands, out.
//!
//! Between two calls one to 60 s pass, doubled each time and cut short by an alert that is due; a broker that lets us in and throws us out at once is
//! no better than one that is away. The reason why there is no connection is journalled once, not at each call.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::MqttOptions;
use super::session::{Action, Alert, Session, SessionOptions};
use crate::deliver::DeliveryError;
use crate::deliver::events::DeliverEvent;
use crate::deliver::outbox::{asked_to_stop, backoff_ms};
use crate::domain::{Lamp, Monotonic};
use crate::journal::Journal;

/// Longest pause between two calls, ms.
const PAUSE_MS_MAX: u64 = 60_000;
/// A connection that has lasted so long was a good one: the next pause is short again.
const LASTING: Duration = Duration::from_secs(60);
/// Bytes of one read.
const READ_BYTES: usize = 4096;
/// A broker that does not take our few hundred bytes in this time does not read.
const WRITE_WAIT: Duration = Duration::from_secs(5);
/// After the goodbye the broker closes within this time, or we do.
const CLOSE_WAIT: Duration = Duration::from_secs(1);
/// Where it is said what became of an alert.
type Answer = oneshot::Sender<Result<(), DeliveryError>>;

/// An alert on its way to the task.
pub(super) struct Job {
    pub(super) body: String,
    pub(super) idempotency_key: String,
    pub(super) until: Instant,
    pub(super) answer: Answer,
}

/// Since when there is no connection, and why; `None` when there is one.
pub(super) type Standing = Option<(Instant, String)>;

/// Plain or TLS.
trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// How a connection came to its end.
enum End {
    /// The service stops.
    Stopped,
    /// Lost, or never there.
    Lost(String),
}

/// What the task acts on.
pub(super) struct Inlets {
    /// What the box shows.
    pub(super) lamp: watch::Receiver<Lamp>,
    /// Alerts that are due.
    pub(super) jobs: mpsc::Receiver<Job>,
}

/// What it tells.
pub(super) struct Outlets {
    /// How the connection stands.
    pub(super) standing: watch::Sender<Standing>,
    /// Counts connections.
    pub(super) opened: watch::Sender<u64>,
    pub(super) journal: Journal,
}

/// The task, before it runs.
pub(super) struct Client {
    options: MqttOptions,
    session: SessionOptions,
    inlets: Inlets,
    outlets: Outlets,
    /// The alert that cut a pause short.
    due: Option<Job>,
    begin: Instant,
    n_failures: u32,
}

impl Client {
    pub(super) fn new(options: MqttOptions, session: SessionOptions, inlets: Inlets, outlets: Outlets) -> Self {
        Self { options, session, inlets, outlets, due: None, begin: Instant::now(), n_failures: 0 }
    }

    /// The service begins: from now on it counts how long there is no connection.
    pub(super) fn begin(&mut self) {
        self.begin = Instant::now();
        self.outlets.standing.send_replace(Some((self.begin, "it has not answered yet".to_owned())));
    }

    /// Runs until `shutdown` becomes true.
    pub(super) async fn run(mut self, mut shutdown: watch::Receiver<bool>) {
        // Two boxes that lost the same broker do not call it in step.
        let seed = self.options.client_id.bytes().fold(0_u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
        loop {
            let End::Lost(reason) = self.call_and_hold(&mut shutdown).await else { return };
            self.note_lost(&reason);
            self.answer_all(&reason);
            self.n_failures = self.n_failures.saturating_add(1);
            let pause = Duration::from_millis(backoff_ms(seed, self.n_failures).min(PAUSE_MS_MAX));
            tokio::select! {
                () = asked_to_stop(&mut shutdown) => return,
                () = tokio::time::sleep(pause) => {}
                job = self.inlets.jobs.recv() => self.due = job,
            }
        }
    }

    /// One connection from its beginning to its end.
    async fn call_and_hold(&mut self, shutdown: &mut watch::Receiver<bool>) -> End {
        let until = Instant::now() + self.options.timeout;
        let called = tokio::select! {
            () = asked_to_stop(shutdown) => return End::Stopped,
            called = timeout_at(until, self.call()) => called,
        };
        match called {
            Ok(Ok(mut stream)) => {
                let end = self.hold(stream.as_mut(), until, shutdown).await;
                close(stream).await;
                end
            }
            Ok(Err(reason)) => End::Lost(reason),
            Err(_) => {
                End::Lost("no connection in time: are address and port right, and does the network let it through?".to_owned())
            }
        }
    }

    async fn call(&self) -> Result<Box<dyn Wire>, String> {
        if let Some(tls) = &self.options.tls {
            return Ok(Box::new(tls.connect(&self.options.address).await?));
        }
        let stream = TcpStream::connect(&self.options.address).await.map_err(|error| format!("no connection: {error}"))?;
        stream.set_nodelay(true).map_err(|error| format!("no connection: {error}"))?;
        Ok(Box::new(stream))
    }

    /// Runs a session on an open connection.
    async fn hold(&mut self, stream: &mut dyn Wire, greeting_until: Instant, shutdown: &mut watch::Receiver<bool>) -> End {
        let lamp = *self.inlets.lamp.borrow_and_update();
        let (mut session, mut actions) = Session::open(self.session.clone(), lamp, self.at(greeting_until), self.now());
        let (mut replies, mut n_jobs, mut stopping) = (BTreeMap::new(), 0, false);
        if let Some(job) = self.due.take() {
            actions.extend(self.give(&mut session, job, &mut n_jobs, &mut replies));
        }
        let mut opened_at = None;
        let mut bytes = [0; READ_BYTES];
        loop {
            if let Some(end) = self.carry_out(actions, &mut session, stream, &mut replies, &mut opened_at).await {
                return end;
            }
            let wake = session.deadline().map_or(Instant::now(), |at| self.begin + Duration::from_millis(at.0));
            actions = tokio::select! {
                read = stream.read(&mut bytes) => match read {
                    Ok(0) => session.on_closed(None),
                    Ok(n) => session.on_bytes(bytes.get(..n).unwrap_or_default(), self.now()),
                    Err(error) => self.broken(&mut session, &error),
                },
                Some(job) = self.inlets.jobs.recv(), if session.takes_alerts() => {
                    self.give(&mut session, job, &mut n_jobs, &mut replies)
                }
                Ok(()) = self.inlets.lamp.changed() => {
                    let lamp = *self.inlets.lamp.borrow_and_update();
                    session.on_lamp(lamp, self.now())
                }
                () = asked_to_stop(shutdown), if !stopping => {
                    stopping = true;
                    session.on_stop(self.now())
                }
                () = tokio::time::sleep_until(wake) => session.on_time(self.now()),
            };
        }
    }

    fn give(&self, session: &mut Session, job: Job, n_jobs: &mut u64, replies: &mut BTreeMap<u64, Answer>) -> Vec<Action> {
        // Its time is over; the outbox tries it again.
        if job.answer.is_closed() {
            return Vec::new();
        }
        *n_jobs += 1;
        replies.insert(*n_jobs, job.answer);
        let until = self.at(job.until);
        session.on_alert(Alert { ticket: *n_jobs, body: job.body, idempotency_key: job.idempotency_key, until }, self.now())
    }

    /// Does what the session asks for; the end, if it came to one.
    async fn carry_out(
        &mut self,
        actions: Vec<Action>,
        session: &mut Session,
        stream: &mut dyn Wire,
        replies: &mut BTreeMap<u64, Answer>,
        opened_at: &mut Option<Instant>,
    ) -> Option<End> {
        let mut todo = VecDeque::from(actions);
        let mut end = None;
        while let Some(action) = todo.pop_front() {
            match action {
                // When the session has ended already, its last bytes are a goodbye, and nobody waits for them.
                Action::Send(bytes) => {
                    if let Err(error) = write(stream, &bytes).await {
                        todo.retain(|action| !matches!(action, Action::Send(_)));
                        todo.extend(self.broken(session, &error));
                    }
                }
                Action::Opened => {
                    *opened_at = Some(Instant::now());
                    self.outlets.standing.send_replace(None);
                    self.outlets.opened.send_modify(|n| *n = n.wrapping_add(1));
                    self.outlets.journal.record(&DeliverEvent::BrokerConnected { channel: self.options.name.clone() });
                }
                Action::Answered(ticket, outcome) => {
                    if outcome.is_ok() {
                        self.n_failures = 0;
                    }
                    if let Some(answer) = replies.remove(&ticket) {
                        // Whoever asked may have gone: at the end of its time, or with the service.
                        let _ = answer.send(outcome);
                    }
                }
                Action::StatusRefused(reason) => {
                    let channel = self.options.name.clone();
                    self.outlets.journal.record(&DeliverEvent::BrokerStatusRefused { channel, reason });
                }
                Action::Ended(reason) => end = Some(reason.map_or(End::Stopped, End::Lost)),
            }
        }
        if end.is_some() && opened_at.is_some_and(|at| at.elapsed() >= LASTING) {
            self.n_failures = 0;
        }
        end
    }

    fn broken(&self, session: &mut Session, error: &std::io::Error) -> Vec<Action> {
        match self.options.tls.as_ref().and_then(|tls| tls.refused(error)) {
            Some(reason) => session.on_refused(reason),
            None => session.on_closed(Some(&error.to_string())),
        }
    }

    /// Says once that there is no connection, and again when the reason is another one.
    fn note_lost(&self, reason: &str) {
        let changed = self.outlets.standing.send_if_modified(|standing| match standing {
            Some((_, known)) if known == reason => false,
            Some((_, known)) => {
                reason.clone_into(known);
                true
            }
            None => {
                *standing = Some((Instant::now(), reason.to_owned()));
                true
            }
        });
        if changed {
            self.outlets
                .journal
                .record(&DeliverEvent::BrokerLost { channel: self.options.name.clone(), reason: reason.to_owned() });
        }
    }

    /// Alerts that waited for a connection that did not come.
    fn answer_all(&mut self, reason: &str) {
        while let Some(job) = self.due.take().or_else(|| self.inlets.jobs.try_recv().ok()) {
            let _ = job.answer.send(Err(DeliveryError::Channel(reason.to_owned())));
        }
    }

    fn now(&self) -> Monotonic {
        self.at(Instant::now())
    }

    fn at(&self, instant: Instant) -> Monotonic {
        Monotonic(u64::try_from(instant.saturating_duration_since(self.begin).as_millis()).unwrap_or(u64::MAX))
    }
}

async fn write(stream: &mut dyn Wire, bytes: &[u8]) -> std::io::Result<()> {
    let writing = async {
        stream.write_all(bytes).await?;
        stream.flush().await
    };
    let late = |_| std::io::Error::new(std::io::ErrorKind::TimedOut, "the broker does not read what it is sent");
    timeout(WRITE_WAIT, writing).await.unwrap_or_else(|elapsed| Err(late(elapsed)))
}

/// Closes so that the goodbye arrives: bytes of the broker that nobody read would make the kernel reset the connection instead.
async fn close(mut stream: Box<dyn Wire>) {
    let closing = async {
        let _ = stream.shutdown().await;
        let mut rest = [0; READ_BYTES];
        for _ in 0..16 {
            if !matches!(stream.read(&mut rest).await, Ok(n) if n > 0) {
                return;
            }
        }
    };
    let _ = timeout(CLOSE_WAIT, closing).await;
}
