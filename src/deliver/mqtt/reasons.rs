//! What a broker's reason codes mean to whoever runs it: a code in -> a sentence with the remedy, and whether it is about the channel or one message.
//!
//! Source: MQTT 5.0 section 2.4 (codes), 3.2.2.2 (CONNACK), 3.4.2.1 (PUBACK), 3.14.2.1 (DISCONNECT). Everything here is text; what the broker itself
//! says is cut and cleaned, because it comes from outside.

use crate::deliver::DeliveryError;

/// Longest text of a broker in our sentences, characters.
const SAID_CHARS_MAX: usize = 200;

/// Names that the sentences need.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names<'a> {
    /// Our client identifier.
    pub(super) client_id: &'a str,
    /// What our topics begin with.
    pub(super) topic: &'a str,
    /// Whether we gave a user name.
    pub(super) has_user: bool,
}

impl Names<'_> {
    fn rights(&self) -> String {
        let whom = if self.has_user { "its user" } else { "it, or set user and password_file" };
        format!("give {whom} the right to write to {}/#", self.topic)
    }
}

/// A text of the broker's, fit for our sentences: one line, at most 200 characters.
pub(super) fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(SAID_CHARS_MAX).collect()
}

/// `, in the broker's words: "..."`, or nothing.
fn in_its_words(said: Option<&str>) -> String {
    said.map(clean).filter(|text| !text.is_empty()).map(|text| format!(", in the broker's words: {text:?}")).unwrap_or_default()
}

/// The standard's name of a code.
fn name(code: u8) -> &'static str {
    match code {
        0x10 => "no matching subscribers",
        0x81 => "malformed packet",
        0x82 => "protocol error",
        0x83 => "implementation specific error",
        0x84 => "unsupported protocol version",
        0x85 => "client identifier not valid",
        0x86 => "bad user name or password",
        0x87 => "not authorised",
        0x88 => "server unavailable",
        0x89 => "server busy",
        0x8A => "banned",
        0x8B => "server shutting down",
        0x8C => "bad authentication method",
        0x8D => "keep alive timeout",
        0x8E => "session taken over",
        0x90 => "topic name invalid",
        0x91 => "packet identifier in use",
        0x93 => "receive maximum exceeded",
        0x95 => "packet too large",
        0x96 => "message rate too high",
        0x97 => "quota exceeded",
        0x98 => "administrative action",
        0x99 => "payload format invalid",
        0x9A => "retain not supported",
        0x9B => "QoS not supported",
        0x9C => "use another server",
        0x9D => "server moved",
        0x9F => "connection rate exceeded",
        0xA0 => "maximum connect time",
        _ => "unspecified error",
    }
}

/// Why the broker did not let us in.
pub(super) fn not_let_in(code: u8, said: Option<&str>, names: Names<'_>) -> String {
    let remedy = match code {
        0x84 => return old_protocol(),
        0x85 => format!("set client_id to one that it takes; now it is {:?}", names.client_id),
        // Some brokers, mosquitto among them, say "not authorised" of a wrong password.
        0x86 | 0x87 if names.has_user => "check user, what stands in password_file, and that this user may connect".to_owned(),
        0x86 | 0x87 => "set user and password_file, or let this client in without".to_owned(),
        0x90 => names.rights(),
        0x88 | 0x89 | 0x9F => "it is tried again".to_owned(),
        0x8A => format!("lift its ban of {:?}", names.client_id),
        0x8C => "let this box in by user and password, or by certificate".to_owned(),
        0x95 => "let it take packets of at least 64 KiB".to_owned(),
        0x9A => no_retain(),
        0x9B => no_qos(),
        0x9C | 0x9D => "set address to the other server".to_owned(),
        _ => "its log says why".to_owned(),
    };
    format!("the broker refuses the connection ({}, 0x{code:02X}): {remedy}{}", name(code), in_its_words(said))
}

/// A broker that knows MQTT 3.1.1 only.
pub(super) fn old_protocol() -> String {
    "the broker speaks MQTT 3.1.1 only, and 5.0 is needed: switch 5.0 on there, or update it".to_owned()
}

/// A broker without retained messages.
pub(super) fn no_retain() -> String {
    "allow retained messages there: the status of this box is one".to_owned()
}

/// A broker that acknowledges nothing.
pub(super) fn no_qos() -> String {
    "allow quality of service 1 there: an alert that nobody acknowledges is none".to_owned()
}

/// Why the broker ended the connection.
pub(super) fn thrown_out(code: u8, said: Option<&str>, names: Names<'_>) -> String {
    let remedy = match code {
        0x00 | 0x04 => return format!("the broker ended the connection{}", in_its_words(said)),
        0x8E => {
            format!("another client has come with the client_id {:?}: give each box a client_id of its own", names.client_id)
        }
        0x87 => names.rights(),
        0x8B | 0x89 | 0x9F | 0xA0 => "it is tried again".to_owned(),
        0x9A => no_retain(),
        0x9B => no_qos(),
        0x9C | 0x9D => "set address to the other server".to_owned(),
        _ => "its log says why".to_owned(),
    };
    format!("the broker ended the connection ({}, 0x{code:02X}): {remedy}{}", name(code), in_its_words(said))
}

/// What an acknowledgement says of an alert.
///
/// # Errors
/// Why it does not count as delivered. "No matching subscribers" is no delivery: nobody heard the alert.
pub(super) fn acknowledged(code: u8, said: Option<&str>, names: Names<'_>) -> Result<(), DeliveryError> {
    let (topic, words) = (names.topic, in_its_words(said));
    let refused = |remedy: &str| format!("the broker refuses the alert ({}, 0x{code:02X}): {remedy}{words}", name(code));
    match code {
        0x00 => Ok(()),
        0x10 => Err(DeliveryError::Channel(format!(
            "nobody subscribes to {topic}/alert at the broker, so nobody heard the alert: let the receiver subscribe to it with QoS 1 and a \
             persistent session{words}"
        ))),
        0x87 => Err(DeliveryError::Channel(refused(&names.rights()))),
        0x90 => Err(DeliveryError::Message(refused(&format!("it does not take the topic {topic}/alert")))),
        0x99 => Err(DeliveryError::Message(refused("it says that this is no UTF-8 text"))),
        0x97 => Err(DeliveryError::Channel(refused("raise its quota for this client, or let subscribers fetch what waits"))),
        _ => Err(DeliveryError::Channel(refused("its log says why"))),
    }
}

/// Why the status of this box is not known at the broker; `None` when it is.
pub(super) fn status_refused(code: u8, said: Option<&str>, names: Names<'_>) -> Option<String> {
    let remedy = match code {
        // Retained all the same: whoever subscribes later gets it.
        0x00 | 0x10 => return None,
        0x87 => names.rights(),
        0x97 => "raise its quota for this client".to_owned(),
        _ => "its log says why".to_owned(),
    };
    Some(format!("{} (0x{code:02X}): {remedy}{}", name(code), in_its_words(said)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: Names<'_> = Names { client_id: "scanside-MR2", topic: "scanside/mr2", has_user: true };

    #[test]
    fn every_code_has_a_sentence_of_bounded_length_without_control_characters() {
        let said = format!("go away\r\n\u{1b}[2J{}", "x".repeat(5000));
        for code in 0..=u8::MAX {
            let texts = [
                not_let_in(code, Some(&said), NAMES),
                thrown_out(code, Some(&said), NAMES),
                acknowledged(code, Some(&said), NAMES).err().map(|error| error.to_string()).unwrap_or_default(),
                status_refused(code, Some(&said), NAMES).unwrap_or_default(),
            ];
            for text in texts {
                assert!(text.chars().count() < 500 && !text.chars().any(char::is_control), "{code}: {text}");
            }
        }
    }

    #[test]
    fn an_alert_that_nobody_heard_is_not_delivered() {
        assert_eq!(acknowledged(0, None, NAMES), Ok(()));
        let error = acknowledged(0x10, None, NAMES).expect_err("nobody there");
        assert!(
            matches!(&error, DeliveryError::Channel(text) if text.contains("scanside/mr2/alert") && text.contains("QoS 1")),
            "{error}"
        );
        assert!(matches!(acknowledged(0x99, None, NAMES), Err(DeliveryError::Message(_))));
        assert_eq!(status_refused(0x10, None, NAMES), None);
    }

    #[test]
    fn remedies_name_what_to_change() {
        assert!(not_let_in(0x86, None, NAMES).contains("password_file"));
        assert!(not_let_in(0x84, None, NAMES).contains("3.1.1 only"));
        assert!(not_let_in(0x87, None, Names { has_user: false, ..NAMES }).contains("set user"));
        assert!(thrown_out(0x8E, None, NAMES).contains("client_id"));
    }
}
