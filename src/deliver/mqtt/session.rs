//! One session with a broker without I/O: the broker's bytes, alerts, the lamp and time in -> bytes for the broker and what became of each alert, out.
//!
//! ```text
//!   Greeting --let in--> Open --stop--> Leaving --all acknowledged, or 2 s--> Over, in order
//!      |                   |               |
//!      +-- refused, silent, hostile, closed: the reason is named -----------> Over
//! ```
//!
//! When it is let in, the retained status of the box is published, and again when its lamp changes; the will, which the broker publishes when the
//! box falls silent, says `offline`. An alert counts as delivered when its acknowledgement says so, and ends exactly once: with that, with its time,
//! or with the session.

use std::collections::{BTreeMap, VecDeque};

use super::link::{Farewell, Heard, Identity, Link, Message};
use super::reasons::{self, Names};
use crate::deliver::DeliveryError;
use crate::domain::{Lamp, Monotonic};

/// An orderly stop waits this long for what is on its way.
const LEAVE_MS: u64 = 2_000;
/// The status is published at most this often while the lamp changes.
const STATUS_GAP_MS: u64 = 1_000;
/// The broker's acknowledgement of the status comes within this time.
const STATUS_MS: u64 = 30_000;
/// Alerts that one session holds; one more is refused (`takes_alerts` says so before). The outbox gives one at a time.
pub(super) const ALERTS_MAX: usize = 4;

/// Who we are to the broker, and where we publish.
#[derive(Clone)]
pub(super) struct SessionOptions {
    /// Client identifier and user.
    pub(super) identity: Identity,
    /// What our topics begin with.
    pub(super) topic: String,
}

impl SessionOptions {
    fn names(&self) -> Names<'_> {
        Names { client_id: &self.identity.client_id, topic: &self.topic, has_user: self.identity.user.is_some() }
    }
}

/// What the owner of the socket does.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    /// Sends these bytes.
    Send(Vec<u8>),
    /// The broker has let us in and acknowledged a message: the connection is worth something.
    Opened,
    /// The alert that was given this number has ended.
    Answered(u64, Result<(), DeliveryError>),
    /// The broker does not take our status, for this reason; alerts may pass all the same.
    StatusRefused(String),
    /// The session is over, and the socket is to be closed: in order, or for a reason.
    Ended(Option<String>),
}

/// An alert that is given to the session.
#[derive(Clone, Debug)]
pub(super) struct Alert {
    /// Number by which it is answered.
    pub(super) ticket: u64,
    /// JSON.
    pub(super) body: String,
    /// Key of repetitions.
    pub(super) idempotency_key: String,
    /// It has ended by then.
    pub(super) until: Monotonic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Greeting(Monotonic),
    Open,
    Leaving(Monotonic),
    Over,
}

/// What is published and not yet acknowledged.
#[derive(Clone, Copy, Debug)]
enum InFlight {
    Alert { ticket: u64, until: Monotonic },
    Status { until: Monotonic },
}

/// The session.
pub(super) struct Session {
    options: SessionOptions,
    /// `None` when not even a greeting could be made.
    link: Option<Link>,
    phase: Phase,
    waiting: VecDeque<Alert>,
    in_flight: BTreeMap<u16, InFlight>,
    /// Whether the broker has acknowledged anything.
    is_proven: bool,
    lamp: Lamp,
    /// The status that was published last.
    status_told: Option<String>,
    /// The next one is not published before.
    status_from: Monotonic,
    out: Vec<Action>,
}

impl Session {
    /// A session that greets the broker, which must have let us in by `greeting_until`. `lamp` is what the box shows.
    pub(super) fn open(options: SessionOptions, lamp: Lamp, greeting_until: Monotonic, now: Monotonic) -> (Self, Vec<Action>) {
        let (topic, body) = (format!("{}/status", options.topic), status("offline", None));
        let will = Message { topic: &topic, body: &body, retain: true, idempotency_key: None };
        let (link, fault) = match Link::greet(&options.identity, &will, now) {
            Ok(link) => (Some(link), None),
            Err(fault) => (None, Some(fault)),
        };
        let mut session = Self {
            options,
            link,
            phase: Phase::Greeting(greeting_until),
            waiting: VecDeque::new(),
            in_flight: BTreeMap::new(),
            is_proven: false,
            lamp,
            status_told: None,
            status_from: now,
            out: Vec::new(),
        };
        session.send();
        if fault.is_some() {
            session.end(fault);
        }
        let out = std::mem::take(&mut session.out);
        (session, out)
    }

    /// Whether another alert may be given.
    pub(super) fn takes_alerts(&self) -> bool {
        let n_sent = self.in_flight.values().filter(|sent| matches!(sent, InFlight::Alert { .. })).count();
        self.waiting.len() + n_sent < ALERTS_MAX && matches!(self.phase, Phase::Greeting(_) | Phase::Open)
    }

    /// An alert is due.
    pub(super) fn on_alert(&mut self, alert: Alert, now: Monotonic) -> Vec<Action> {
        if self.takes_alerts() {
            self.waiting.push_back(alert);
        } else {
            let error = DeliveryError::Channel("the connection to the broker takes no alert now".to_owned());
            self.out.push(Action::Answered(alert.ticket, Err(error)));
        }
        self.pump(now)
    }

    /// The lamp changed.
    pub(super) fn on_lamp(&mut self, lamp: Lamp, now: Monotonic) -> Vec<Action> {
        self.lamp = lamp;
        self.pump(now)
    }

    /// The service stops: what is on its way may arrive, and the status says that it was on purpose.
    pub(super) fn on_stop(&mut self, now: Monotonic) -> Vec<Action> {
        match self.phase {
            Phase::Greeting(_) => self.end(None),
            Phase::Open => self.phase = Phase::Leaving(now.plus_ms(LEAVE_MS)),
            Phase::Leaving(_) | Phase::Over => {}
        }
        self.pump(now)
    }

    /// The broker refuses us below our protocol, for a reason that explains itself.
    pub(super) fn on_refused(&mut self, reason: String) -> Vec<Action> {
        self.end(Some(reason));
        std::mem::take(&mut self.out)
    }

    /// The broker has closed the socket, or it broke with `error`.
    pub(super) fn on_closed(&mut self, error: Option<&str>) -> Vec<Action> {
        let what =
            error.map_or_else(|| "the broker closed the connection".to_owned(), |error| format!("the connection broke: {error}"));
        self.end(Some(match (self.phase, error) {
            (Phase::Greeting(_), _) => {
                format!("{what} before it let us in: is it an MQTT broker, does it want TLS or a certificate?")
            }
            (_, Some(_)) => what,
            // mosquitto 2.0 closes so when a second client takes the place of the first, without the DISCONNECT that the standard has for it.
            (_, None) => {
                format!(
                    "{what} without a word: has another client the client_id {:?}? Its log says why",
                    self.options.identity.client_id
                )
            }
        }));
        std::mem::take(&mut self.out)
    }

    /// The broker sent `bytes`.
    pub(super) fn on_bytes(&mut self, mut bytes: &[u8], now: Monotonic) -> Vec<Action> {
        while self.phase != Phase::Over
            && let Some(heard) = self.link.as_mut().and_then(|link| link.hear(&mut bytes, now))
        {
            self.on_heard(heard);
        }
        self.pump(now)
    }

    /// Time passed.
    pub(super) fn on_time(&mut self, now: Monotonic) -> Vec<Action> {
        match self.phase {
            Phase::Greeting(until) if until <= now => self.end(Some("the broker does not answer our greeting".to_owned())),
            Phase::Leaving(until) if until <= now => self.depart(now),
            _ => {}
        }
        if self.phase != Phase::Over
            && let Some(heard) = self.link.as_mut().and_then(|link| link.on_time(now))
        {
            self.on_heard(heard);
        }
        self.expire(now);
        self.pump(now)
    }

    /// When `on_time` must be called at the latest; `None` when the session is over.
    pub(super) fn deadline(&self) -> Option<Monotonic> {
        let phase = match self.phase {
            Phase::Over => return None,
            Phase::Greeting(until) | Phase::Leaving(until) => Some(until),
            Phase::Open => None,
        };
        let link = self.link.as_ref().and_then(Link::deadline);
        let sent = self.in_flight.values().map(|sent| match sent {
            InFlight::Alert { until, .. } | InFlight::Status { until } => *until,
        });
        let status = (self.phase == Phase::Open && self.status_is_due()).then_some(self.status_from);
        let waiting = self.waiting.iter().map(|alert| alert.until);
        [phase, link, status].into_iter().flatten().chain(sent).chain(waiting).min()
    }

    fn on_heard(&mut self, heard: Heard) {
        let names = self.options.names();
        match heard {
            Heard::LetIn => self.phase = Phase::Open,
            Heard::NotLetIn { code, said } => {
                let reason = reasons::not_let_in(code, said.as_deref(), names);
                self.end(Some(reason));
            }
            Heard::Acknowledged { id, code, said } => {
                // The link refuses an acknowledgement of what was not sent.
                let Some(sent) = self.in_flight.remove(&id) else { return };
                if !std::mem::replace(&mut self.is_proven, true) {
                    self.out.push(Action::Opened);
                }
                match sent {
                    InFlight::Alert { ticket, .. } => {
                        let outcome = reasons::acknowledged(code, said.as_deref(), names);
                        self.out.push(Action::Answered(ticket, outcome));
                    }
                    InFlight::Status { .. } => {
                        let refused = reasons::status_refused(code, said.as_deref(), names);
                        self.out.extend(refused.map(Action::StatusRefused));
                    }
                }
            }
            Heard::ThrownOut { code, said } => {
                let reason = reasons::thrown_out(code, said.as_deref(), names);
                self.end(Some(reason));
            }
            Heard::Broken(reason) => self.end(Some(reason)),
        }
    }

    /// Ends what has not been acknowledged in time. One that waits in vain shows that this connection is worth nothing.
    fn expire(&mut self, now: Monotonic) {
        let what = self.in_flight.values().find_map(|sent| match sent {
            InFlight::Alert { until, .. } if *until <= now => Some("an alert"),
            InFlight::Status { until } if *until <= now => Some("the status of this box"),
            _ => None,
        });
        if let Some(what) = what {
            self.leave(Farewell::Unfit, now);
            self.end(Some(format!("the broker did not acknowledge {what} in time")));
        }
    }

    /// Sends what may be sent, and departs when all is done. Everything that the owner of the socket has to do by now.
    fn pump(&mut self, now: Monotonic) -> Vec<Action> {
        let (late, waiting) =
            std::mem::take(&mut self.waiting).into_iter().partition::<VecDeque<_>, _>(|alert| alert.until <= now);
        self.waiting = waiting;
        for alert in late {
            let error = DeliveryError::Channel("the broker did not take it in time".to_owned());
            self.out.push(Action::Answered(alert.ticket, Err(error)));
        }
        while matches!(self.phase, Phase::Open | Phase::Leaving(_)) && self.link.as_ref().is_some_and(Link::may_publish) {
            let may_tell = self.status_from <= now || matches!(self.phase, Phase::Leaving(_));
            if self.status_is_due() && may_tell {
                self.publish_status(now);
            } else if let Some(alert) = self.waiting.pop_front() {
                self.publish_alert(&alert, now);
            } else {
                break;
            }
        }
        let done = self.waiting.is_empty() && self.in_flight.is_empty() && !self.status_is_due();
        if matches!(self.phase, Phase::Leaving(_)) && done {
            self.depart(now);
        }
        self.send();
        std::mem::take(&mut self.out)
    }

    fn status_wanted(&self) -> String {
        match self.phase {
            Phase::Leaving(_) => status("stopped", None),
            _ => status("online", Some(self.lamp)),
        }
    }

    /// Whether the broker was told another status than the one that holds, and none is on its way.
    fn status_is_due(&self) -> bool {
        let on_its_way = self.in_flight.values().any(|sent| matches!(sent, InFlight::Status { .. }));
        !on_its_way && self.status_told.as_ref() != Some(&self.status_wanted())
    }

    fn publish_status(&mut self, now: Monotonic) {
        let (topic, body) = (format!("{}/status", self.options.topic), self.status_wanted());
        let sent = InFlight::Status { until: now.plus_ms(STATUS_MS) };
        let published = self.publish(&Message { topic: &topic, body: &body, retain: true, idempotency_key: None }, sent, now);
        self.status_told = Some(body);
        self.status_from = now.plus_ms(STATUS_GAP_MS);
        self.out.extend(published.err().map(Action::StatusRefused));
    }

    fn publish_alert(&mut self, alert: &Alert, now: Monotonic) {
        let (topic, sent) =
            (format!("{}/alert", self.options.topic), InFlight::Alert { ticket: alert.ticket, until: alert.until });
        let message = Message { topic: &topic, body: &alert.body, retain: false, idempotency_key: Some(&alert.idempotency_key) };
        if let Err(error) = self.publish(&message, sent, now) {
            let error = DeliveryError::Message(format!("the alert cannot be sent: {error}"));
            self.out.push(Action::Answered(alert.ticket, Err(error)));
        }
    }

    fn publish(&mut self, message: &Message<'_>, sent: InFlight, now: Monotonic) -> Result<(), String> {
        let Some(link) = &mut self.link else { return Err("there is no connection".to_owned()) };
        let id = link.publish(message, now)?;
        self.in_flight.insert(id, sent);
        Ok(())
    }

    /// Says goodbye and ends in order. Where the broker has not taken the word that it was on purpose, it publishes the will.
    fn depart(&mut self, now: Monotonic) {
        let is_told = self.in_flight.is_empty() && !self.status_is_due();
        self.leave(if is_told { Farewell::Normal } else { Farewell::WithWill }, now);
        self.end(None);
    }

    fn leave(&mut self, farewell: Farewell, now: Monotonic) {
        if let Some(link) = &mut self.link {
            link.leave(farewell, now);
        }
    }

    /// The session is over, and with it whatever waits. Does nothing when it was over before.
    fn end(&mut self, reason: Option<String>) {
        if self.phase == Phase::Over {
            return;
        }
        self.phase = Phase::Over;
        self.send();
        let error = DeliveryError::Channel(reason.clone().unwrap_or_else(|| "the service stops".to_owned()));
        let sent = std::mem::take(&mut self.in_flight).into_values().filter_map(|sent| match sent {
            InFlight::Alert { ticket, .. } => Some(ticket),
            InFlight::Status { .. } => None,
        });
        let tickets = sent.chain(self.waiting.drain(..).map(|alert| alert.ticket));
        self.out.extend(tickets.map(|ticket| Action::Answered(ticket, Err(error.clone()))));
        self.out.push(Action::Ended(reason));
    }

    /// Bytes that stand ready go out before whatever follows.
    fn send(&mut self) {
        let bytes = self.link.as_mut().map(Link::take_out).unwrap_or_default();
        if !bytes.is_empty() {
            self.out.push(Action::Send(bytes));
        }
    }
}

/// What `<topic>/status` holds.
fn status(state: &str, lamp: Option<Lamp>) -> String {
    // Until the service has looked, the lamp is dark to it: that says nothing.
    let lamp = lamp.filter(|lamp| *lamp != Lamp::Dark).map(|lamp| format!(",\"lamp\":\"{}\"", lamp.as_str())).unwrap_or_default();
    format!("{{\"schema\":\"scanside.status/1\",\"state\":\"{state}\"{lamp}}}")
}

#[cfg(test)]
mod tests;
