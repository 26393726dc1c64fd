//! The interface for programs: `/healthz` and JSON under `/api/v1` (DESIGN.md section 4).

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{ConnectInfo, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::events::WebEvent;
use super::guard::Visitor;
use super::server::Peer;
use super::view::iso;
use super::{BY_CHARS_MAX, StatusSnapshot, WebCommand, WebState, speed};
use crate::domain::{DeviceState, Uid};
use crate::spool::{STUDIES_LISTED_MAX, StudyDetail, StudySummary};

/// A refusal with a sentence.
pub(super) fn fault(status: StatusCode, text: &str) -> Response {
    (status, Json(json!({ "error": text }))).into_response()
}

/// What is wrong; strangers get no details, which may name other machines.
fn causes(snapshot: &StatusSnapshot, visitor: Visitor) -> Vec<Value> {
    let told = visitor != Visitor::Stranger;
    snapshot
        .conditions
        .iter()
        .map(|condition| {
            json!({
                "code": condition.as_str(),
                "text": condition.sentence(),
                "fault": condition.is_fault(),
                "details": snapshot.details_of(*condition).filter(|_| told).collect::<Vec<_>>(),
            })
        })
        .collect()
}

/// `GET /healthz`: 200 once ready and while it can be relied on (degraded included), else 503 with the causes.
pub(super) async fn healthz(State(state): State<WebState>, Extension(visitor): Extension<Visitor>) -> Response {
    let snapshot = state.snapshot();
    let reliable = snapshot.ready && snapshot.device_state != DeviceState::Fault;
    let word = match (reliable, snapshot.ready) {
        (true, _) => snapshot.device_state.as_str(),
        (false, false) if snapshot.conditions.is_empty() => "starting",
        _ => "fault",
    };
    let status = if reliable { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "status": word, "causes": causes(&snapshot, visitor) }))).into_response()
}

/// `GET /api/v1/status`.
pub(super) async fn status(State(state): State<WebState>) -> Response {
    let s = state.snapshot();
    let model = s.model.as_ref().map(|model| {
        json!({
            "name": model.name, "version": model.version, "sha256": model.sha256, "engine": model.engine,
            "precision": model.precision, "self_test_passed": model.self_test_passed,
        })
    });
    let named =
        |list: &[super::NamedText]| list.iter().map(|item| json!({ "name": item.name, "text": item.text })).collect::<Vec<_>>();
    let probes: Vec<Value> = s
        .probes
        .iter()
        .map(|p| json!({ "name": p.name, "value": p.value, "unit": p.unit, "age_ms": p.age_ms, "stale": p.stale }))
        .collect();
    let work: Vec<Value> = s
        .work
        .iter()
        .map(|item| {
            json!({
                "study_instance_uid": item.study_instance_uid.as_str(), "n_instances": item.n_instances,
                "stage": item.stage.as_str(), "since_ms": item.since_ms,
            })
        })
        .collect();
    let facts = state.facts().await;
    Json(json!({
        "at": iso(s.at),
        "ready": s.ready,
        "lamp": s.lamp.as_str(),
        "lamp_text": s.lamp.sentence(),
        "device_state": s.device_state.as_str(),
        "causes": causes(&s, Visitor::Trusted),
        "notices": named(&s.notices),
        "addresses": named(&s.addresses),
        "ae_title": s.ae_title,
        "board": s.board,
        "versions": { "scanside": s.version.scanside, "target": s.version.target, "model": model },
        "box": {
            "image_version": facts.image_version, "slot": facts.slot, "update": facts.update, "data": facts.data,
            "certificate_sha256": facts.certificate_sha256,
        },
        "uptime_s": s.uptime_s,
        "n_associations": s.n_associations,
        "work": work,
        "n_waiting_for_inference": s.n_waiting_for_inference,
        "spool": { "bytes": s.spool_bytes, "bytes_max": s.spool_bytes_max, "free_bytes": s.spool_free_bytes,
                   "n_instances": s.spool_n_instances },
        "outbox": { "n_waiting": s.outbox_n_waiting, "oldest_s": s.outbox_oldest_s },
        "probes": probes,
        "speed": state.speed().await.map(|table| speed::to_json(&table)),
    }))
    .into_response()
}

fn summary(study: &StudySummary) -> Value {
    json!({
        "study_instance_uid": study.study_instance_uid.as_str(),
        "accession_number": study.accession_number,
        "n_instances": study.n_instances,
        "n_conflicts": study.n_conflicts,
        "state": study.state.as_str(),
        "verdict": study.verdict.map(|kind| kind.as_str()),
        "urgency": study.urgency.map(|urgency| urgency.as_str()),
        "standing_urgency": study.standing_urgency.map(|urgency| urgency.as_str()),
        "score": study.score,
        "provisional": study.verdict.map(|_| study.provisional),
        "received_at": iso(study.received_at),
        "last_received_at": iso(study.last_received_at),
        "decided_at": study.decided_at.map(iso),
        "needs_acknowledgement": study.needs_acknowledgement,
        "acknowledged_by": study.acknowledged_by,
        "acknowledged_at": study.acknowledged_at.map(iso),
        "n_notices_waiting": study.n_notices_waiting,
    })
}

/// `GET /api/v1/studies`: the newest thousand.
pub(super) async fn studies(State(state): State<WebState>) -> Response {
    match state.query(|store| store.studies(STUDIES_LISTED_MAX)).await {
        Ok(studies) => Json(studies.iter().map(summary).collect::<Vec<_>>()).into_response(),
        Err(error) => query_failed(&state, error),
    }
}

pub(super) fn query_failed(state: &WebState, error: String) -> Response {
    let text = format!("The store cannot be asked: {error}");
    state.journal.record(&WebEvent::QueryFailed { error });
    fault(StatusCode::SERVICE_UNAVAILABLE, &text)
}

fn detail(study: &StudyDetail) -> Value {
    let verdicts: Vec<Value> = study
        .verdicts
        .iter()
        .map(|verdict| {
            json!({
                "number": verdict.number, "supersedes": verdict.supersedes, "decided_at": iso(verdict.decided_at),
                "n_instances": verdict.n_instances, "provisional": verdict.provisional,
                // Kept as it was sent; unreadable text would be a fault of ours and is shown as null.
                "verdict": serde_json::from_str::<Value>(&verdict.json).unwrap_or(Value::Null),
            })
        })
        .collect();
    let latest = verdicts.first().and_then(|verdict| verdict.get("verdict")).cloned().unwrap_or(Value::Null);
    let series = latest.get("series").cloned().unwrap_or_else(|| json!([]));
    let timeline: Vec<Value> =
        timeline(study).into_iter().map(|entry| json!({ "at": iso(entry.at), "what": entry.what, "text": entry.text })).collect();
    let deliveries: Vec<Value> = study
        .deliveries
        .iter()
        .map(|d| {
            json!({
                "verdict_number": d.verdict_number, "channel": d.channel, "attempts": d.attempts, "created_at": iso(d.created_at),
                "delivered_at": d.delivered_at.map(iso), "last_error": d.last_error, "stale": d.stale,
            })
        })
        .collect();
    let mut out = summary(&study.summary);
    if let Value::Object(map) = &mut out {
        map.insert("verdict".to_owned(), latest);
        map.insert("series".to_owned(), series);
        map.insert("timeline".to_owned(), Value::Array(timeline));
        map.insert("deliveries".to_owned(), Value::Array(deliveries));
        map.insert("verdicts".to_owned(), Value::Array(verdicts));
    }
    out
}

/// One moment in the life of a study.
pub(super) struct Moment {
    pub(super) at: crate::domain::WallTime,
    pub(super) what: &'static str,
    pub(super) text: String,
}

/// What happened to a study, oldest first.
pub(super) fn timeline(study: &StudyDetail) -> Vec<Moment> {
    let s = &study.summary;
    let mut list = vec![Moment { at: s.received_at, what: "first-instance", text: "First image stored".to_owned() }];
    if s.last_received_at != s.received_at {
        let text = format!("Latest image stored, {} in all", s.n_instances);
        list.push(Moment { at: s.last_received_at, what: "latest-instance", text });
    }
    for verdict in &study.verdicts {
        let urgency = verdict.urgency.map(|urgency| format!(", {}", urgency.as_str())).unwrap_or_default();
        let superseded = verdict.supersedes.map(|number| format!("; supersedes verdict {number}")).unwrap_or_default();
        let kind = super::view::verdict_words(verdict.kind);
        let word = if verdict.provisional { "Provisional verdict" } else { "Verdict" };
        let text = format!("{word} {}: {kind}{urgency}, from {} images{superseded}", verdict.number, verdict.n_instances);
        list.push(Moment { at: verdict.decided_at, what: "verdict", text });
    }
    for delivery in &study.deliveries {
        if let Some(at) = delivery.delivered_at {
            let text = format!("Alert on verdict {} delivered to {}", delivery.verdict_number, delivery.channel);
            list.push(Moment { at, what: "delivered", text });
        }
    }
    for acknowledgement in &study.acknowledgements {
        let text = format!("Acknowledged by {}", acknowledgement.by);
        list.push(Moment { at: acknowledgement.at, what: "acknowledged", text });
    }
    list.sort_by_key(|moment| moment.at);
    list
}

/// `GET /api/v1/studies/{uid}`.
pub(super) async fn study(State(state): State<WebState>, Path(uid): Path<String>) -> Response {
    let Ok(uid) = Uid::try_new(&uid) else {
        return fault(StatusCode::BAD_REQUEST, "That is no Study Instance UID: digits and dots, at most 64.");
    };
    match state.query(move |store| store.study(&uid)).await {
        Ok(Some(study)) => Json(detail(&study)).into_response(),
        Ok(None) => fault(StatusCode::NOT_FOUND, "No study of that UID is known here."),
        Err(error) => query_failed(&state, error),
    }
}

/// `POST /api/v1/studies/{uid}/acknowledge`, optionally with `{"by": "Dr Example"}`.
pub(super) async fn acknowledge(
    State(state): State<WebState>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(uid): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let Ok(study) = Uid::try_new(&uid) else {
        return fault(StatusCode::BAD_REQUEST, "That is no Study Instance UID: digits and dots, at most 64.");
    };
    let body = match body {
        Ok(body) => body,
        Err(rejection) => return fault(rejection.status(), "The body is too long, or broke off."),
    };
    let by = match named_by(&body) {
        Ok(name) => name.unwrap_or_else(|| format!("web {}", peer.0.ip())),
        Err(text) => return fault(StatusCode::BAD_REQUEST, text),
    };
    let (reply, answer) = oneshot::channel();
    if state.commands.try_send(WebCommand::Acknowledge { study, by: by.clone(), reply }).is_err() {
        return acknowledge_failed(&state, "the service is busy or stopping".to_owned());
    }
    match answer.await {
        Ok(Ok(true)) => Json(json!({ "acknowledged": true, "by": by })).into_response(),
        Ok(Ok(false)) => fault(StatusCode::CONFLICT, "There is nothing to acknowledge on that study."),
        Ok(Err(error)) => acknowledge_failed(&state, error),
        Err(_) => acknowledge_failed(&state, "the service did not answer".to_owned()),
    }
}

fn acknowledge_failed(state: &WebState, error: String) -> Response {
    let text = format!("The acknowledgement was not recorded: {error}. Try again, or press the button on the box.");
    state.journal.record(&WebEvent::AcknowledgeFailed { error });
    fault(StatusCode::SERVICE_UNAVAILABLE, &text)
}

/// The name in the body, if it has one.
fn named_by(body: &[u8]) -> Result<Option<String>, &'static str> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    let value: Value =
        serde_json::from_slice(body).map_err(|_| "The body is no JSON: send {\"by\": \"your name\"} or nothing.")?;
    let Value::Object(map) = value else { return Err("The body must be an object: {\"by\": \"your name\"}.") };
    match map.get("by") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(name)) => {
            let name: String = name.chars().filter(|c| !c.is_control()).take(BY_CHARS_MAX).collect();
            let name = name.trim();
            Ok((!name.is_empty()).then(|| name.to_owned()))
        }
        Some(_) => Err("\"by\" must be a text."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_cut_and_lose_control_characters() {
        assert_eq!(named_by(b""), Ok(None));
        assert_eq!(named_by(br#"{"by": " Dr\u0000 X\n "}"#), Ok(Some("Dr X".to_owned())));
        assert_eq!(named_by(br#"{"by": 7}"#), Err("\"by\" must be a text."));
        let long = format!("{{\"by\": \"{}\"}}", "\u{e9}".repeat(500));
        assert_eq!(named_by(long.as_bytes()).map(|name| name.map(|name| name.chars().count())), Ok(Some(BY_CHARS_MAX)));
    }

    proptest! {
        #[test]
        fn no_body_makes_the_name_reader_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = named_by(&body);
        }
    }
}
