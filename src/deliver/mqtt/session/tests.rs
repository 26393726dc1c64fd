//! The session against brokers that are right, wrong and hostile, byte by byte. The broker's packets are written by hand here, not by the crate that reads them.

use proptest::prelude::*;

use super::*;
use crate::deliver::mqtt::frames::PACKET_BYTES_MAX;

const LET_IN: &[u8] = &[0x20, 3, 0, 0, 0];
const T0: Monotonic = Monotonic(1_000);

fn options() -> SessionOptions {
    let identity = Identity { client_id: "scanside-MR2".to_owned(), user: Some(("u".to_owned(), b"secret".to_vec())) };
    SessionOptions { identity, topic: "scanside/mr2".to_owned() }
}

fn alert(ticket: u64) -> Alert {
    let body = "{\"verdict\":\"flagged\"}".to_owned();
    Alert { ticket, body, idempotency_key: format!("key-{ticket}"), until: T0.plus_ms(10_000) }
}

/// What is read of a PUBLISH: topic, packet identifier, whether retained, and all of its bytes after that as text.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    topic: String,
    id: u16,
    retain: bool,
    rest: String,
}

/// Splits what was sent into packets and reads the messages among them.
fn seen(actions: &[Action]) -> (Vec<u8>, Vec<Seen>) {
    let (mut kinds, mut messages) = (Vec::new(), Vec::new());
    for action in actions {
        let Action::Send(bytes) = action else { continue };
        let mut at = 0;
        while at < bytes.len() {
            let (mut length, mut n) = (0_usize, 0);
            loop {
                let byte = bytes[at + 1 + n];
                length |= usize::from(byte & 0x7F) << (7 * n);
                n += 1;
                if byte & 0x80 == 0 {
                    break;
                }
            }
            let body = &bytes[at + 1 + n..at + 1 + n + length];
            kinds.push(bytes[at] >> 4);
            if bytes[at] >> 4 == 3 {
                assert_eq!(bytes[at] & 0x06, 2, "quality of service 1");
                let end = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
                messages.push(Seen {
                    topic: String::from_utf8_lossy(&body[2..end]).into_owned(),
                    id: u16::from_be_bytes([body[end], body[end + 1]]),
                    retain: bytes[at] & 1 == 1,
                    rest: String::from_utf8_lossy(&body[end + 2..]).into_owned(),
                });
            }
            at += 1 + n + length;
        }
    }
    (kinds, messages)
}

fn puback(id: u16, code: u8) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    vec![0x40, 3, high, low, code]
}

fn open() -> (Session, Vec<Action>) {
    let (mut session, greeting) = Session::open(options(), Lamp::Ready, T0.plus_ms(5_000), T0);
    assert_eq!(seen(&greeting).0, [1], "CONNECT");
    let actions = session.on_bytes(LET_IN, T0);
    assert_eq!(seen(&actions).0, [3], "the status");
    (session, actions)
}

fn ended(actions: &[Action]) -> Option<&Option<String>> {
    actions.iter().find_map(|action| match action {
        Action::Ended(reason) => Some(reason),
        _ => None,
    })
}

fn reason(actions: &[Action]) -> &str {
    ended(actions).expect("it ended").as_deref().expect("with a reason")
}

fn answers(actions: &[Action]) -> Vec<(u64, Result<(), DeliveryError>)> {
    let answered = |action: &Action| match action {
        Action::Answered(ticket, outcome) => Some((*ticket, outcome.clone())),
        _ => None,
    };
    actions.iter().filter_map(answered).collect()
}

#[test]
fn the_greeting_asks_for_a_clean_start_and_leaves_a_retained_will() {
    let (_, greeting) = Session::open(options(), Lamp::Ready, T0.plus_ms(5_000), T0);
    let Some(Action::Send(bytes)) = greeting.first() else { panic!("no greeting") };
    let text = String::from_utf8_lossy(bytes);
    // Type and a length of two bytes; name and version of the protocol; user name, password, will retained at quality of service 1, clean
    // start; keep alive.
    assert_eq!(&bytes[3..13], [0, 4, b'M', b'Q', b'T', b'T', 5, 0b1110_1110, 0, 30]);
    for part in ["scanside-MR2", "scanside/mr2/status", "{\"schema\":\"scanside.status/1\",\"state\":\"offline\"}", "secret"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[test]
fn an_alert_arrives_once_it_is_acknowledged_and_not_before() {
    let (mut session, actions) = open();
    let (_, status) = seen(&actions);
    assert_eq!((status[0].topic.as_str(), status[0].retain), ("scanside/mr2/status", true));
    assert!(status[0].rest.ends_with("{\"schema\":\"scanside.status/1\",\"state\":\"online\",\"lamp\":\"ready\"}"), "{status:?}");
    let actions = session.on_alert(alert(7), T0);
    let (_, sent) = seen(&actions);
    assert_eq!((sent[0].topic.as_str(), sent[0].retain), ("scanside/mr2/alert", false));
    for part in ["application/json", "idempotency-key", "key-7", "{\"verdict\":\"flagged\"}"] {
        assert!(sent[0].rest.contains(part), "{part} is not in {sent:?}");
    }
    assert!(answers(&actions).is_empty());
    assert_eq!(session.on_bytes(&puback(sent[0].id, 0), T0), [Action::Opened, Action::Answered(7, Ok(()))]);
    assert!(session.on_bytes(&puback(status[0].id, 0), T0).is_empty(), "opened once");
}

#[test]
fn an_alert_that_is_due_while_we_are_greeting_goes_out_when_we_are_let_in() {
    let (mut session, _) = Session::open(options(), Lamp::Dark, T0.plus_ms(5_000), T0);
    assert!(seen(&session.on_alert(alert(1), T0)).1.is_empty());
    let (_, sent) = seen(&session.on_bytes(LET_IN, T0));
    assert_eq!(
        sent.iter().map(|message| message.topic.as_str()).collect::<Vec<_>>(),
        ["scanside/mr2/status", "scanside/mr2/alert"]
    );
    assert!(!sent[0].rest.contains("lamp"), "a lamp that nobody has set yet says nothing");
}

#[test]
fn nobody_subscribed_is_no_delivery_and_the_connection_stays() {
    let (mut session, _) = open();
    let (_, sent) = seen(&session.on_alert(alert(1), T0));
    let actions = session.on_bytes(&puback(sent[0].id, 0x10), T0);
    assert!(
        matches!(&answers(&actions)[..], [(1, Err(DeliveryError::Channel(text)))] if text.contains("nobody subscribes")),
        "{actions:?}"
    );
    assert!(ended(&actions).is_none() && session.takes_alerts());
}

#[test]
fn a_broker_that_takes_one_message_at_a_time_gets_one_at_a_time() {
    let (mut session, _) = Session::open(options(), Lamp::Ready, T0.plus_ms(5_000), T0);
    let _ = session.on_alert(alert(1), T0);
    // CONNACK with Receive Maximum 1.
    let (_, status) = seen(&session.on_bytes(&[0x20, 6, 0, 0, 3, 0x21, 0, 1], T0));
    assert_eq!(status.len(), 1);
    let (_, sent) = seen(&session.on_bytes(&puback(status[0].id, 0), T0));
    assert_eq!(sent[0].topic, "scanside/mr2/alert");
}

#[test]
fn an_alert_larger_than_the_broker_takes_is_refused_by_itself() {
    let (mut session, _) = Session::open(options(), Lamp::Ready, T0.plus_ms(5_000), T0);
    // CONNACK with Maximum Packet Size 200.
    let _ = session.on_bytes(&[0x20, 8, 0, 0, 5, 0x27, 0, 0, 0, 200], T0);
    let actions = session.on_alert(Alert { body: "x".repeat(500), ..alert(1) }, T0);
    assert!(matches!(&answers(&actions)[..], [(1, Err(DeliveryError::Message(text)))] if text.contains("200")), "{actions:?}");
    let (_, sent) = seen(&session.on_alert(alert(2), T0));
    assert_eq!(sent.len(), 1, "and the next one goes out");
}

#[test]
fn a_refusal_names_the_remedy() {
    for (answer, part) in [
        (&[0x20_u8, 3, 0, 0x86, 0][..], "password_file"),
        (&[0x20, 3, 0, 0x87, 0], "password_file"),
        (&[0x20, 3, 0, 0x90, 0], "scanside/mr2/#"),
        (&[0x20, 3, 0, 0x84, 0], "3.1.1 only"),
        (&[0x20, 2, 0, 1], "3.1.1 only"),
        (&[0x20, 3, 1, 0, 0], "told to forget"),
        (&[0x20, 5, 0, 0, 2, 0x24, 0], "quality of service 1"),
        (&[0x20, 5, 0, 0, 2, 0x25, 0], "retained"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no MQTT 5.0 broker"),
        (&[0x15, 3, 3, 0, 2, 2, 70], "TLS"),
    ] {
        let (mut session, _) = Session::open(options(), Lamp::Ready, T0.plus_ms(5_000), T0);
        let _ = session.on_alert(alert(1), T0);
        let actions = session.on_bytes(answer, T0);
        assert!(reason(&actions).contains(part), "{answer:02X?}: {actions:?}");
        assert_eq!(answers(&actions).len(), 1, "the alert is answered: {actions:?}");
    }
}

#[test]
fn what_nobody_asked_for_ends_the_connection_at_its_first_byte() {
    let hostile: [(&[u8], &str); 6] = [
        (&[0x30], "PUBLISH"),
        (&[0xF0], "AUTH"),
        (&[0xD0], "PINGRESP"),
        (&[0x20], "a second CONNACK"),
        (&[0x40, 0xFF, 0xFF, 0xFF, 0x7F], "268435460 bytes"),
        (&[0x40, 2, 0x77, 0x77], "breaks the rules"),
    ];
    for (bytes, part) in hostile {
        let (mut session, _) = open();
        let actions = session.on_bytes(bytes, T0);
        assert!(reason(&actions).contains(part), "{bytes:02X?}: {actions:?}");
        assert!(seen(&actions).0.contains(&14), "and the broker is told so: {actions:?}");
        assert!(session.on_bytes(&[0x30, 0, 0], T0).is_empty() && session.deadline().is_none());
    }
}

#[test]
fn a_connection_that_is_closed_says_what_to_look_for() {
    let (mut session, _) = Session::open(options(), Lamp::Ready, T0.plus_ms(5_000), T0);
    assert!(reason(&session.on_closed(None)).contains("does it want TLS"));
    assert!(reason(&open().0.on_closed(None)).contains("another client the client_id \"scanside-MR2\""));
    assert!(reason(&open().0.on_closed(Some("reset"))).ends_with("the connection broke: reset"));
}

#[test]
fn a_silent_broker_is_given_up() {
    let (mut session, _) = Session::open(options(), Lamp::Ready, T0.plus_ms(5_000), T0);
    assert_eq!(session.deadline(), Some(T0.plus_ms(5_000)));
    assert!(reason(&session.on_time(T0.plus_ms(5_000))).contains("does not answer our greeting"));
    // Let in, and silent from then on: the status is not acknowledged, or, if it is, the ping is not answered.
    let (mut session, actions) = open();
    let _ = session.on_bytes(&puback(seen(&actions).1[0].id, 0), T0);
    let ping_at = session.deadline().expect("a ping is due");
    assert!(ping_at.since_ms(T0) < 30_000);
    assert_eq!(seen(&session.on_time(ping_at)).0, [12], "PINGREQ");
    let gone = session.deadline().expect("an answer is due");
    assert!(reason(&session.on_time(gone)).contains("no answer to a ping"));
    let (mut session, actions) = open();
    let _ = session.on_bytes(&puback(seen(&actions).1[0].id, 0), T0);
    let _ = session.on_time(ping_at);
    assert!(ended(&session.on_bytes(&[0xD0, 0], ping_at)).is_none(), "an answered ping is fine");
    assert!(ended(&session.on_time(gone)).is_none());
}

#[test]
fn a_broker_that_drips_is_given_up() {
    let (mut session, actions) = open();
    let _ = session.on_bytes(&puback(seen(&actions).1[0].id, 0), T0);
    let mut now = T0;
    let _ = session.on_bytes(&[0xE0, 0xFF, 0x20], now);
    for _ in 0..9 {
        now = now.plus_ms(1_000);
        assert!(ended(&session.on_bytes(&[0], now)).is_none() && ended(&session.on_time(now)).is_none());
    }
    assert!(reason(&session.on_time(now.plus_ms(1_000))).contains("over one packet"));
}

#[test]
fn an_alert_that_is_not_acknowledged_in_time_ends_the_connection() {
    let (mut session, _) = open();
    let _ = session.on_alert(alert(1), T0);
    let actions = session.on_time(T0.plus_ms(10_000));
    assert!(reason(&actions).contains("did not acknowledge an alert"));
    assert!(matches!(&answers(&actions)[..], [(1, Err(DeliveryError::Channel(_)))]));
}

#[test]
fn an_orderly_stop_waits_for_what_is_on_its_way_and_says_that_it_was_on_purpose() {
    let (mut session, actions) = open();
    let online = seen(&actions).1[0].id;
    let on_its_way = seen(&session.on_alert(alert(1), T0)).1[0].id;
    assert!(seen(&session.on_stop(T0)).0.is_empty(), "the status before is not acknowledged yet");
    let (_, sent) = seen(&session.on_bytes(&puback(online, 0), T0));
    assert!(sent[0].rest.contains("\"stopped\"") && sent[0].retain, "{sent:?}");
    assert!(ended(&session.on_bytes(&puback(sent[0].id, 0), T0)).is_none(), "the alert is still on its way");
    let actions = session.on_bytes(&puback(on_its_way, 0), T0);
    assert_eq!(answers(&actions), [(1, Ok(()))]);
    assert_eq!(ended(&actions), Some(&None));
    assert!(actions.contains(&Action::Send(vec![0xE0, 0])) || actions.contains(&Action::Send(vec![0xE0, 1, 0])), "{actions:?}");
}

#[test]
fn a_stop_that_the_broker_does_not_take_leaves_the_will() {
    let (mut session, _) = open();
    let _ = session.on_stop(T0);
    let actions = session.on_time(T0.plus_ms(LEAVE_MS));
    let farewell = actions.iter().find_map(|action| match action {
        Action::Send(bytes) => Some(bytes.clone()),
        _ => None,
    });
    assert_eq!(farewell.as_deref().and_then(|bytes| bytes.get(2)), Some(&4), "disconnect with will: {actions:?}");
    assert_eq!(ended(&actions), Some(&None));
}

#[test]
fn the_status_follows_the_lamp_once_a_second_at_most() {
    let (mut session, actions) = open();
    let _ = session.on_bytes(&puback(seen(&actions).1[0].id, 0), T0);
    for lamp in [Lamp::Working, Lamp::Critical, Lamp::Working, Lamp::Critical] {
        assert!(seen(&session.on_lamp(lamp, T0)).1.is_empty());
    }
    assert_eq!(session.deadline(), Some(T0.plus_ms(STATUS_GAP_MS)));
    let (_, sent) = seen(&session.on_time(T0.plus_ms(STATUS_GAP_MS)));
    assert_eq!(sent.len(), 1);
    assert!(sent[0].rest.contains("\"lamp\":\"critical\""), "{sent:?}");
    let _ = session.on_bytes(&puback(sent[0].id, 0), T0.plus_ms(STATUS_GAP_MS));
    assert!(seen(&session.on_lamp(Lamp::Critical, T0.plus_ms(60_000))).1.is_empty(), "what is known is not said again");
}

#[test]
fn a_status_that_is_refused_is_said_and_stops_no_alert() {
    let (mut session, actions) = open();
    let actions = session.on_bytes(&puback(seen(&actions).1[0].id, 0x87), T0);
    assert!(
        matches!(&actions[..], [Action::Opened, Action::StatusRefused(text)] if text.contains("scanside/mr2/#")),
        "{actions:?}"
    );
    assert_eq!(seen(&session.on_alert(alert(1), T0)).1.len(), 1);
}

/// One thing that happens to a session.
#[derive(Clone, Debug)]
enum Step {
    Bytes(Vec<u8>),
    LetIn(Vec<u8>),
    Acknowledge(u16, u8),
    Alert,
    Lamp(bool),
    Time(u64),
    Stop,
    Closed,
}

fn step() -> impl Strategy<Value = Step> {
    let property = prop_oneof![
        Just(vec![]),
        Just(vec![0x21, 0, 1]),
        Just(vec![0x21, 0, 0]),
        Just(vec![0x27, 0, 0, 0, 1]),
        Just(vec![0x27, 0, 0, 0, 100]),
        Just(vec![0x13, 0, 1]),
        Just(vec![0x13, 0, 0]),
        proptest::collection::vec(any::<u8>(), 0..12)
    ];
    prop_oneof![
        1 => proptest::collection::vec(any::<u8>(), 0..40).prop_map(Step::Bytes),
        2 => property.prop_map(Step::LetIn),
        4 => (1_u16..6, prop_oneof![Just(0_u8), Just(0x10), Just(0x87), any::<u8>()]).prop_map(|(id, code)| Step::Acknowledge(id, code)),
        1 => Just(Step::Bytes(vec![0xD0, 0])),
        1 => proptest::collection::vec(any::<u8>(), 1..8).prop_map(|mut rest| { rest.insert(0, u8::try_from(rest.len()).unwrap_or(0)); rest.insert(0, 0xE0); Step::Bytes(rest) }),
        4 => Just(Step::Alert),
        1 => any::<bool>().prop_map(Step::Lamp),
        2 => (0_u64..20_000).prop_map(Step::Time),
        1 => Just(Step::Stop),
        1 => Just(Step::Closed),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_each_alert_ends_exactly_once_and_nothing_panics(steps in proptest::collection::vec(step(), 0..60)) {
        let (mut session, mut all) = Session::open(options(), Lamp::Ready, T0.plus_ms(5_000), T0);
        let (mut now, mut n_alerts) = (T0, 0);
        for step in steps {
            all.extend(match step {
                Step::Bytes(bytes) => session.on_bytes(&bytes, now),
                Step::LetIn(properties) => {
                    let n = u8::try_from(properties.len()).unwrap_or(0);
                    session.on_bytes(&[&[0x20, n + 3, 0, 0, n][..], &properties].concat(), now)
                }
                Step::Acknowledge(id, code) => session.on_bytes(&puback(id, code), now),
                Step::Alert => {
                    n_alerts += 1;
                    session.on_alert(Alert { until: now.plus_ms(3_000), ..alert(n_alerts) }, now)
                }
                Step::Lamp(working) => session.on_lamp(if working { Lamp::Working } else { Lamp::Ready }, now),
                Step::Time(ms) => {
                    now = now.plus_ms(ms);
                    session.on_time(now)
                }
                Step::Stop => session.on_stop(now),
                Step::Closed => session.on_closed(None),
            });
        }
        // Time alone ends whatever is left, within a bounded number of wakings.
        for _ in 0..200 {
            let Some(at) = session.deadline() else { break };
            now = now.max(at);
            all.extend(session.on_time(now));
        }
        let mut tickets: Vec<u64> = answers(&all).into_iter().map(|(ticket, _)| ticket).collect();
        tickets.sort_unstable();
        prop_assert_eq!(tickets, (1..=n_alerts).collect::<Vec<_>>());
        let n_ends = all.iter().filter(|action| matches!(action, Action::Ended(_))).count();
        prop_assert!(n_ends <= 1);
        prop_assert!(n_ends == 1 || session.deadline().is_some());
    }

    #[test]
    fn a_brokers_bytes_in_any_split_keep_to_the_bound(
        greeting in any::<bool>(),
        pieces in proptest::collection::vec(proptest::collection::vec(prop_oneof![any::<u8>(), Just(0x40), Just(0x20), Just(0xE0), Just(0xFF)], 0..80), 0..12)
    ) {
        let (mut session, _) = if greeting { Session::open(options(), Lamp::Ready, T0.plus_ms(5_000), T0) } else { open() };
        for piece in pieces {
            for action in session.on_bytes(&piece, T0) {
                if let Action::Ended(Some(reason)) = action {
                    prop_assert!(reason.chars().count() < 500 && !reason.chars().any(char::is_control), "{}", reason);
                }
            }
            prop_assert!(session.link.as_ref().is_none_or(|link| link.n_kept() <= PACKET_BYTES_MAX as usize));
        }
    }
}
