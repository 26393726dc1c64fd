//! The protocol of one connection to a broker: messages and time in -> bytes; bytes of the broker in -> what it said, out. No I/O.
//!
//! The only file that knows the protocol's crate. The broker's bytes go through `frames.rs`, which bounds them, before the crate sees them, and only
//! the four kinds of packet that a client without subscriptions can get are let through, each where it may come. Source: MQTT 5.0 (OASIS, 2019).

use mqtt_protocol_core::mqtt::common::Cursor;
use mqtt_protocol_core::mqtt::connection::{ConnectionOptions, Event, TimerKind};
use mqtt_protocol_core::mqtt::packet::{
    ContentType, GenericPacketTrait, Packet, PayloadFormat, PayloadFormatIndicator, Properties, Property, Qos, UserProperty, v5_0,
};
use mqtt_protocol_core::mqtt::result_code::{DisconnectReasonCode, MqttError};
use mqtt_protocol_core::mqtt::{Connection, Version, role};

use super::frames::{BadFrame, Frames, Kind, PACKET_BYTES_MAX};
use super::reasons;
use crate::domain::Monotonic;

/// A broker that hears nothing for one and a half times as long publishes our will (section 3.1.2.10).
const KEEP_ALIVE_S: u16 = 30;
/// A ping is answered within this time, or the broker is dead to us.
const PONG_MS: u64 = 10_000;
/// A packet that has begun is whole within this time.
const PACKET_MS: u64 = 10_000;

/// Who we are to the broker.
#[derive(Clone)]
pub(super) struct Identity {
    /// Client identifier.
    pub(super) client_id: String,
    /// User name and password; an empty password is none.
    pub(super) user: Option<(String, Vec<u8>)>,
}

/// A message of quality of service 1 whose content is JSON.
#[derive(Clone, Debug)]
pub(super) struct Message<'a> {
    pub(super) topic: &'a str,
    pub(super) body: &'a str,
    /// Whether the broker keeps it for whoever subscribes later.
    pub(super) retain: bool,
    /// The user property `idempotency-key`.
    pub(super) idempotency_key: Option<&'a str>,
}

/// Why a connection is left, as far as the broker is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Farewell {
    /// In order: the will is forgotten.
    Normal,
    /// In order, but the will is to be published.
    WithWill,
    /// It cannot serve us; the will is published.
    Unfit,
}

/// What the broker said. `code` is the standard's reason code, `said` the broker's own text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// We are let in.
    LetIn,
    /// We are not.
    NotLetIn { code: u8, said: Option<String> },
    /// The message of this number has arrived, or is refused.
    Acknowledged { id: u16, code: u8, said: Option<String> },
    /// The broker ends the connection.
    ThrownOut { code: u8, said: Option<String> },
    /// The connection is of no use, for this reason.
    Broken(String),
}

/// One connection.
pub(super) struct Link {
    connection: Connection<role::Client>,
    frames: Frames,
    is_in: bool,
    /// Bytes for the broker.
    out: Vec<u8>,
    ping_at: Option<Monotonic>,
    pong_by: Option<Monotonic>,
    packet_by: Option<Monotonic>,
    packet_bytes_max: Option<u32>,
}

impl Link {
    /// A connection whose greeting stands in `take_out`. `will` is published by the broker when we fall silent.
    ///
    /// # Errors
    /// A sentence, when a text is longer than the protocol has room for.
    pub(super) fn greet(identity: &Identity, will: &Message<'_>, now: Monotonic) -> Result<Self, String> {
        let limits = ConnectionOptions::new().maximum_packet_size_recv(PACKET_BYTES_MAX).receive_maximum(1);
        let mut connection = Connection::<role::Client>::with_options(Version::V5_0, limits);
        connection.set_pingresp_recv_timeout(PONG_MS);
        let connect = greeting(identity, will).map_err(|error| format!("no greeting can be made: {error}"))?;
        let events = connection.checked_send(connect);
        let mut link = Self {
            connection,
            frames: Frames::default(),
            is_in: false,
            out: Vec::new(),
            ping_at: None,
            pong_by: None,
            packet_by: None,
            packet_bytes_max: None,
        };
        match link.on_events(events, now) {
            Some(Heard::Broken(error)) => Err(error),
            _ => Ok(link),
        }
    }

    /// Bytes that the broker must get.
    pub(super) fn take_out(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Whether the broker takes another message before it has acknowledged one (its Receive Maximum, section 3.3.4).
    pub(super) fn may_publish(&self) -> bool {
        self.connection.get_receive_maximum_vacancy_for_send() != Some(0)
    }

    /// Publishes; the number by which it is acknowledged.
    ///
    /// # Errors
    /// Why this message cannot be sent; others may pass.
    pub(super) fn publish(&mut self, message: &Message<'_>, now: Monotonic) -> Result<u16, String> {
        let id = self.connection.acquire_packet_id().map_err(|error| format!("no packet identifier is free: {error}"))?;
        let events = match publication(message, id) {
            Ok(packet) => match self.packet_bytes_max.filter(|max| packet.size() > *max as usize) {
                None => Ok(self.connection.checked_send(packet)),
                Some(max) => Err(format!("it has {} bytes, and the broker takes {max}: raise its limit there", packet.size())),
            },
            Err(error) => Err(format!("it cannot be written as an MQTT message: {error}")),
        };
        let sent = events.map(|events| self.on_events(events, now));
        match sent {
            Ok(None) => Ok(id),
            Ok(Some(_)) => Err("it cannot be sent".to_owned()),
            Err(error) => {
                let _ = self.connection.release_packet_id(id);
                Err(error)
            }
        }
    }

    /// Says goodbye, where we were let in.
    pub(super) fn leave(&mut self, farewell: Farewell, now: Monotonic) {
        self.disconnect(
            match farewell {
                Farewell::Normal => DisconnectReasonCode::NormalDisconnection,
                Farewell::WithWill => DisconnectReasonCode::DisconnectWithWillMessage,
                Farewell::Unfit => DisconnectReasonCode::ImplementationSpecificError,
            },
            now,
        );
    }

    fn disconnect(&mut self, code: DisconnectReasonCode, now: Monotonic) {
        if let Some(packet) = v5_0::Disconnect::builder().reason_code(code).build().ok().filter(|_| self.is_in) {
            let events = self.connection.checked_send(packet);
            // The socket is closed whatever comes of it.
            let _ = self.on_events(events, now);
        }
    }

    /// Takes bytes of the broker up to the first thing that it says; `None` when they are used up.
    pub(super) fn hear(&mut self, bytes: &mut &[u8], now: Monotonic) -> Option<Heard> {
        loop {
            let (is_in, pinged) = (self.is_in, self.pong_by.is_some());
            let may = |kind| match kind {
                Kind::Connack => !is_in,
                Kind::Puback | Kind::Disconnect => is_in,
                Kind::Pingresp => pinged,
                Kind::Other(_) => false,
            };
            match self.frames.next(bytes, may) {
                Ok(None) => {
                    let begun = self.frames.is_partial();
                    self.packet_by = begun.then(|| self.packet_by.unwrap_or(now.plus_ms(PACKET_MS)));
                    return None;
                }
                Ok(Some((kind, packet))) => {
                    self.packet_by = None;
                    if let Some(heard) = self.on_packet(kind, &packet, now) {
                        return Some(heard);
                    }
                }
                Err(bad) => return Some(self.on_bad_frame(bad, now)),
            }
        }
    }

    fn on_packet(&mut self, kind: Kind, packet: &[u8], now: Monotonic) -> Option<Heard> {
        // A broker that knows 3.1.1 only answers in its own form, without properties, where 0x01 is "unacceptable protocol version".
        if let (Kind::Connack, [_, 2, _, code]) = (kind, packet) {
            return Some(Heard::Broken(match code {
                1 => reasons::old_protocol(),
                code => format!("the broker answers in the form of MQTT 3.1.1 (0x{code:02X}), and 5.0 is needed"),
            }));
        }
        let events = self.connection.recv(&mut Cursor::new(packet));
        self.on_events(events, now)
    }

    fn on_bad_frame(&mut self, bad: BadFrame, now: Monotonic) -> Heard {
        let (code, reason) = match bad {
            BadFrame::Unexpected(_) if !self.is_in => {
                let text = "what answers is no MQTT 5.0 broker: are address and port right, and does it want TLS?";
                (DisconnectReasonCode::ProtocolError, text.to_owned())
            }
            BadFrame::Unexpected(kind) => {
                (DisconnectReasonCode::ProtocolError, format!("the broker sends what nobody asked it for ({})", in_words(kind)))
            }
            BadFrame::TooLong(n) => {
                let text = format!("the broker announces a packet of {n} bytes, where {PACKET_BYTES_MAX} are allowed");
                (DisconnectReasonCode::PacketTooLarge, text)
            }
            BadFrame::NoLength => {
                (DisconnectReasonCode::MalformedPacket, "the broker sends a packet without a length".to_owned())
            }
        };
        self.disconnect(code, now);
        Heard::Broken(reason)
    }

    /// When `on_time` must be called at the latest.
    pub(super) fn deadline(&self) -> Option<Monotonic> {
        [self.ping_at, self.pong_by, self.packet_by].into_iter().flatten().min()
    }

    /// Time passed: pings, and gives up a broker that is silent or drips.
    pub(super) fn on_time(&mut self, now: Monotonic) -> Option<Heard> {
        let due = |at: Option<Monotonic>| at.is_some_and(|at| at <= now);
        if due(self.packet_by) {
            self.disconnect(DisconnectReasonCode::ProtocolError, now);
            return Some(Heard::Broken(format!("the broker took longer than {} s over one packet", PACKET_MS / 1000)));
        }
        if due(self.pong_by) {
            self.disconnect(DisconnectReasonCode::KeepAliveTimeout, now);
            return Some(Heard::Broken(format!("the broker fell silent: no answer to a ping in {} s", PONG_MS / 1000)));
        }
        if due(self.ping_at) {
            self.ping_at = None;
            let events = self.connection.notify_timer_fired(TimerKind::PingreqSend);
            return self.on_events(events, now);
        }
        None
    }

    /// What the protocol's crate asks for, and what came of it.
    fn on_events(&mut self, events: Vec<Event>, now: Monotonic) -> Option<Heard> {
        let (mut heard, mut fault) = (None, None);
        for event in events {
            match event {
                Event::RequestSendPacket { packet, .. } => self.out.extend_from_slice(&packet.to_continuous_buffer()),
                Event::NotifyPacketReceived(packet) => heard = self.on_received(&packet, now),
                Event::RequestTimerReset { kind, duration_ms } => *self.timer(kind) = Some(now.plus_ms(duration_ms)),
                Event::RequestTimerCancel(kind) => *self.timer(kind) = None,
                Event::NotifyError(error) => fault = Some(error),
                Event::NotifyPacketIdReleased(_) | Event::RequestClose => {}
            }
        }
        fault.map(|error| Heard::Broken(format!("the broker breaks the rules of MQTT 5.0 ({error})"))).or(heard)
    }

    fn timer(&mut self, kind: TimerKind) -> &mut Option<Monotonic> {
        match kind {
            TimerKind::PingrespRecv => &mut self.pong_by,
            // A client gets no PINGREQ, and is never asked to wait for one.
            TimerKind::PingreqSend | TimerKind::PingreqRecv => &mut self.ping_at,
        }
    }

    fn on_received(&mut self, packet: &Packet, now: Monotonic) -> Option<Heard> {
        match packet {
            Packet::V5_0Connack(connack) => Some(self.on_connack(connack, now)),
            Packet::V5_0Puback(puback) => Some(Heard::Acknowledged {
                id: puback.packet_id(),
                code: puback.reason_code().map_or(0, |code| code as u8),
                said: puback.props().as_ref().and_then(said),
            }),
            Packet::V5_0Disconnect(disconnect) => Some(Heard::ThrownOut {
                code: disconnect.reason_code().map_or(0, |code| code as u8),
                said: disconnect.props().as_ref().and_then(said),
            }),
            // A PINGRESP has stopped its timer; others do not come this far.
            _ => None,
        }
    }

    fn on_connack(&mut self, connack: &v5_0::Connack, now: Monotonic) -> Heard {
        let code = connack.reason_code() as u8;
        if code != 0 {
            return Heard::NotLetIn { code, said: said(connack.props()) };
        }
        let mut keep_alive_s = KEEP_ALIVE_S;
        let mut unfit = connack.session_present().then(|| "it remembers a session that it was told to forget".to_owned());
        for property in connack.props() {
            match property {
                // Zero switches the broker's watch off, not ours.
                Property::ServerKeepAlive(s) if s.val() > 0 => keep_alive_s = s.val().min(KEEP_ALIVE_S),
                Property::MaximumPacketSize(n) => self.packet_bytes_max = Some(n.val()),
                Property::MaximumQos(qos) if qos.val() == 0 => unfit = Some(reasons::no_qos()),
                Property::RetainAvailable(is) if is.val() == 0 => unfit = Some(reasons::no_retain()),
                _ => {}
            }
        }
        self.is_in = true;
        if let Some(unfit) = unfit {
            self.leave(Farewell::Unfit, now);
            return Heard::Broken(format!("the broker cannot serve this box: {unfit}"));
        }
        // A quarter of the time is left for the way.
        let events = self.connection.set_pingreq_send_interval(Some(u64::from(keep_alive_s) * 750));
        self.on_events(events, now).unwrap_or(Heard::LetIn)
    }

    /// Bytes that are kept of the broker's.
    #[cfg(test)]
    pub(super) fn n_kept(&self) -> usize {
        self.frames.n_kept()
    }
}

fn in_words(kind: Kind) -> String {
    match kind {
        Kind::Connack => "a second CONNACK".to_owned(),
        Kind::Puback => "PUBACK".to_owned(),
        Kind::Pingresp => "PINGRESP".to_owned(),
        Kind::Disconnect => "DISCONNECT".to_owned(),
        Kind::Other(3) => "PUBLISH".to_owned(),
        Kind::Other(15) => "AUTH".to_owned(),
        Kind::Other(number) => format!("packet type {number}"),
    }
}

/// The text that a broker may give with a code.
fn said(properties: &Properties) -> Option<String> {
    properties.iter().find_map(|property| match property {
        Property::ReasonString(text) => Some(reasons::clean(text.val())),
        _ => None,
    })
}

/// CONNECT with a clean start and no session that outlives the connection (the outbox keeps what is not delivered).
fn greeting(identity: &Identity, will: &Message<'_>) -> Result<v5_0::Connect, MqttError> {
    let mut connect = v5_0::Connect::builder()
        .client_id(identity.client_id.as_str())?
        .clean_start(true)
        .keep_alive(KEEP_ALIVE_S)
        .will_message(will.topic, will.body, Qos::AtLeastOnce, will.retain)?
        .will_props(properties(None)?);
    if let Some((user, password)) = &identity.user {
        connect = connect.user_name(user.as_str())?;
        if !password.is_empty() {
            connect = connect.password(password)?;
        }
    }
    connect.build()
}

fn publication(message: &Message<'_>, id: u16) -> Result<v5_0::Publish, MqttError> {
    let packet = v5_0::Publish::builder().topic_name(message.topic)?.qos(Qos::AtLeastOnce).retain(message.retain).packet_id(id);
    packet.payload(message.body).props(properties(message.idempotency_key)?).build()
}

/// JSON in UTF-8, and the key of repetitions.
fn properties(idempotency_key: Option<&str>) -> Result<Properties, MqttError> {
    let mut properties = Properties::new();
    properties.push(Property::PayloadFormatIndicator(PayloadFormatIndicator::new(PayloadFormat::String)?));
    properties.push(Property::ContentType(ContentType::new("application/json")?));
    if let Some(key) = idempotency_key {
        properties.push(Property::UserProperty(UserProperty::new("idempotency-key", key)?));
    }
    Ok(properties)
}
