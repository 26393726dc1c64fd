//! `GET /`: lamp, device state with causes and remedies, studies, work, the box, recent events; and the static files.

use axum::Extension;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};
use serde_json::Value;

use super::guard::Visitor;
use super::view::{badge, bytes, duration, layout, milliseconds, short_uid, time};
use super::{BoxFacts, StatusSnapshot, WebState, lamp_view, login_page, speed};
use crate::domain::DeviceState;
use crate::journal::Level;
use crate::spool::StudySummary;

/// Studies on the page; the interface for programs lists more.
const STUDIES_SHOWN_MAX: usize = 50;
/// Events on the page.
const EVENTS_SHOWN_MAX: usize = 40;

/// `GET /static/app.js`.
pub(super) async fn script() -> Response {
    (static_headers("text/javascript; charset=utf-8"), include_str!("static/app.js")).into_response()
}

/// `GET /static/style.css`.
pub(super) async fn style() -> Response {
    (static_headers("text/css; charset=utf-8"), include_str!("static/style.css")).into_response()
}

/// `GET /static/icon.svg`.
pub(super) async fn icon() -> Response {
    (static_headers("image/svg+xml"), include_str!("static/icon.svg")).into_response()
}

fn static_headers(kind: &'static str) -> [(header::HeaderName, &'static str); 2] {
    [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")]
}

/// A study with what its latest verdict says.
struct Row {
    study: StudySummary,
    verdict: Value,
}

/// `GET /`.
pub(super) async fn overview(State(state): State<WebState>, Extension(visitor): Extension<Visitor>) -> Response {
    if visitor == Visitor::Stranger {
        return public(&state, None);
    }
    let status = state.snapshot();
    let rows = state
        .query(|store| {
            let mut rows = Vec::new();
            for study in store.studies(STUDIES_SHOWN_MAX)? {
                let detail = if study.verdict.is_some() { store.study(&study.study_instance_uid)? } else { None };
                let json = detail.and_then(|detail| detail.verdicts.into_iter().next()).map(|verdict| verdict.json);
                let verdict = json.and_then(|json| serde_json::from_str(&json).ok()).unwrap_or(Value::Null);
                rows.push(Row { study, verdict });
            }
            Ok(rows)
        })
        .await;
    let rows = rows.map(|mut rows| {
        // What waits for people stands first, the most urgent on top; otherwise the newest.
        rows.sort_by_key(|row| {
            let open = row.study.needs_acknowledgement;
            std::cmp::Reverse((open, if open { row.study.standing_urgency } else { None }))
        });
        rows
    });
    if let Err(error) = &rows {
        state.journal.record(&super::WebEvent::QueryFailed { error: error.clone() });
    }
    let (measured, facts) = (state.speed().await, state.facts().await);
    let body = html! {
        div.hero data-live="hero" {
            (lamp_view::lamp(&status))
            (device(&status, visitor))
        }
        section #studies data-live="studies" aria-labelledby="h-studies" {
            (studies(&rows))
        }
        section data-live="work" aria-labelledby="h-work" { (work(&status)) }
        div.columns {
            section data-live="box" aria-labelledby="h-box" { (the_box(&status, &facts)) }
            section data-live="events" aria-labelledby="h-events" { (recent_events(&state)) }
        }
        section data-live="speed" aria-labelledby="h-speed" { (speed::section(measured.as_ref())) }
    };
    layout(&format!("{} \u{b7} scanside", lamp_view::headline(status.lamp)), &status, visitor, &body)
}

/// What strangers see: the lamp, what is wrong with the box, and the form; `said` is what the last attempt brought.
pub(super) fn public(state: &WebState, said: Option<&str>) -> Response {
    let status = state.snapshot();
    let body = html! {
        div.hero data-live="hero" {
            (lamp_view::lamp(&status))
            (device(&status, Visitor::Stranger))
        }
        (login_page::form(said))
    };
    layout(&format!("{} \u{b7} scanside", lamp_view::headline(status.lamp)), &status, Visitor::Stranger, &body)
}

/// Device state with causes and remedies.
fn device(status: &StatusSnapshot, visitor: Visitor) -> Markup {
    let told = visitor != Visitor::Stranger;
    let (class, words) = match status.device_state {
        DeviceState::Ready => ("ok", "The box is in order"),
        DeviceState::Degraded => ("warn", "The box works, but IT must look"),
        DeviceState::Fault if status.at.0 == 0 => ("bad", "The box is starting"),
        DeviceState::Fault => ("bad", "The box cannot be relied on"),
    };
    html! {
        section class={ "device " (class) } aria-label="Device state" {
            h2 { (words) }
            @if status.conditions.is_empty() && status.device_state == DeviceState::Ready {
                p { "Nothing is wrong." }
            }
            ul.causes {
                @for condition in &status.conditions {
                    li {
                        span class={ "tag " (if condition.is_fault() { "bad" } else { "warn" }) } { (condition.as_str()) }
                        " " (condition.sentence())
                        @for detail in status.details_of(*condition).filter(|_| told) { span.detail { (detail) } }
                    }
                }
            }
            @if told && !status.notices.is_empty() {
                h3 { "Allowed by the configuration" }
                ul.notices {
                    @for notice in &status.notices { li { code { (notice.name) } " " (notice.text) } }
                }
            }
        }
    }
}

fn studies(rows: &Result<Vec<Row>, String>) -> Markup {
    let rows = match rows {
        Ok(rows) => rows,
        Err(error) => return html! { h2 #h-studies { "Studies" } p.empty.bad { "The store cannot be asked: " (error) } },
    };
    let n_open = rows.iter().filter(|row| row.study.needs_acknowledgement).count();
    html! {
        div.heading {
            h2 #h-studies { "Studies" }
            @if n_open > 0 { span.count { (n_open) " to acknowledge" } }
        }
        @if rows.is_empty() {
            p.empty { "No study yet. Send one to this box's AE title; it appears here while it arrives." }
        } @else {
            table.studies {
                thead { tr {
                    th scope="col" { "Study" } th scope="col" { "Received" } th.num scope="col" { "Images" }
                    th scope="col" { "Verdict" } th scope="col" { "Reasons and findings" } th.num scope="col" { "Score" }
                    th scope="col" { "Acknowledged" }
                } }
                tbody { @for row in rows { (study_row(row)) } }
            }
            noscript { p.empty { "Without JavaScript this page reads only: acknowledge with the button on the box." } }
        }
    }
}

fn study_row(row: &Row) -> Markup {
    let study = &row.study;
    let uid = study.study_instance_uid.as_str();
    html! {
        tr.open[study.needs_acknowledgement] {
            td data-label="Study" {
                a.name href={ "/studies/" (uid) } title=(uid) {
                    @match &study.accession_number { Some(number) => (number), None => (short_uid(uid)) }
                }
                @if study.accession_number.is_some() { span.sub { (short_uid(uid)) } }
            }
            td data-label="Received" { (time(study.received_at)) }
            td.num data-label="Images" {
                (study.n_instances)
                @if study.n_conflicts > 0 { span.sub.warn { (study.n_conflicts) " in conflict" } }
            }
            td data-label="Verdict" {
                (badge(study.verdict, study.urgency))
                span.sub {
                    @match study.state {
                        crate::spool::StudyState::Pending if study.provisional => "provisional: more images are expected",
                        crate::spool::StudyState::Pending if study.verdict.is_some() => "more images came",
                        crate::spool::StudyState::Pending => "arriving or in work",
                        crate::spool::StudyState::Concluded => "",
                        crate::spool::StudyState::Evicted => "images removed",
                    }
                }
            }
            td data-label="Reasons" { (reasons(&row.verdict)) }
            td.num data-label="Score" { @match study.score { Some(score) => (format!("{score:.2}")), None => span.none { "none" } } }
            td data-label="Acknowledged" { (acknowledgement(study)) }
        }
    }
}

fn reasons(verdict: &Value) -> Markup {
    let texts: Vec<&str> =
        items(verdict, "reasons").iter().filter_map(|reason| reason.get("text").and_then(Value::as_str)).collect();
    let findings = items(verdict, "findings");
    let largest = |key: &str| findings.iter().filter_map(|f| f.get(key).and_then(Value::as_f64)).fold(0.0_f64, f64::max);
    html! {
        @for text in &texts { p.reason { (text) } }
        @if !findings.is_empty() {
            span.sub {
                (findings.len()) @if findings.len() == 1 { " finding, " } @else { " findings, largest " }
                (format!("{:.0} mm, {:.1} ml", largest("max_diameter_mm"), largest("volume_ml")))
            }
        }
        @if texts.is_empty() { span.none { "not yet" } }
    }
}

/// The list under `key`, empty when there is none.
pub(super) fn items<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Who took note, or the button for it.
pub(super) fn acknowledgement(study: &StudySummary) -> Markup {
    html! {
        @if study.needs_acknowledgement {
            button.ack type="button" data-uid=(study.study_instance_uid) { "Acknowledge" }
            span.sub.outcome role="status" {}
        } @else if let (Some(by), Some(at)) = (&study.acknowledged_by, study.acknowledged_at) {
            span.by { (by) } span.sub { (time(at)) }
        } @else { span.none { "not needed" } }
    }
}

fn work(status: &StatusSnapshot) -> Markup {
    html! {
        @if !status.work.is_empty() || status.n_associations > 0 {
            h2 #h-work { "In work" }
            ul.work {
                @if status.n_associations > 0 {
                    li { span.tag { "network" } " " (status.n_associations) @if status.n_associations == 1 { " association" } @else { " associations" } " open" }
                }
                @for item in &status.work {
                    li {
                        span.tag { (item.stage.in_words()) } " "
                        a href={ "/studies/" (item.study_instance_uid) } { (short_uid(item.study_instance_uid.as_str())) }
                        " " (item.n_instances) " images, for " (milliseconds(item.since_ms))
                    }
                }
            }
        }
    }
}

fn the_box(status: &StatusSnapshot, facts: &BoxFacts) -> Markup {
    html! {
        h2 #h-box { "This box" }
        dl.facts {
            @if let Some(model) = &status.model {
                dt { "Model" }
                dd {
                    b { (model.name) " " (model.version) } " " (model.precision) " on " (model.engine)
                    span.sub title=(model.sha256) { "sha256 " (model.sha256.get(..12).unwrap_or_default()) "\u{2026}, self-test "
                        @if model.self_test_passed { "passed" } @else { b { "failed" } } }
                    @for point in &model.operating_points { span.sub { (point) } }
                }
            } @else { dt { "Model" } dd { b { "none loaded" } } }
            dt { "Store" }
            dd {
                (bytes(status.spool_bytes)) " of " (bytes(status.spool_bytes_max)) ", " (status.spool_n_instances) " images"
                meter min="0" max=(status.spool_bytes_max.max(1)) value=(status.spool_bytes) aria-label="Store in use" {}
                span.sub { (bytes(status.spool_free_bytes)) " free on the disk" }
            }
            dt { "Alerts" }
            dd {
                @if status.outbox_n_waiting == 0 { "all delivered" }
                @else { (status.outbox_n_waiting) " waiting" @if let Some(age) = status.outbox_oldest_s { ", the oldest for " (duration(age)) } }
            }
            @for probe in &status.probes {
                dt { (probe.name.replace('_', " ")) }
                dd {
                    @match probe.value { Some(value) => { (format!("{value:.1} {}", probe.unit)) }, None => span.none { "no sensor" } }
                    @if probe.stale { " " span.tag.bad { "stale" } } @else if probe.value.is_some() { span.sub { (milliseconds(probe.age_ms)) " old" } }
                }
            }
            dt { "Running for" } dd { (duration(status.uptime_s)) }
            dt { "Board" } dd { (status.board) }
            dt { "Version" } dd { (status.version.scanside) " " (status.version.target) }
            @if facts.image_version.is_some() || facts.slot.is_some() {
                dt { "Image" }
                dd {
                    @if let Some(version) = &facts.image_version { (version) }
                    @if let Some(slot) = &facts.slot { " in slot " (slot) }
                    @if let Some(update) = &facts.update { span.sub.warn { (update) } }
                    @if let Some(data) = &facts.data { span.sub { "data partition: " (data) } }
                }
            }
            @if let Some(fingerprint) = &facts.certificate_sha256 { dt { "Certificate" } dd { code.fingerprint { (fingerprint) } span.sub { "SHA-256, of this page" } } }
            @if !status.addresses.is_empty() {
                dt { "Network" }
                dd { @for address in &status.addresses { span.line { code { (address.name) } " " (address.text) } } }
            }
        }
    }
}

fn recent_events(state: &WebState) -> Markup {
    let recent = state.journal.recent();
    html! {
        h2 #h-events { "Recent events" }
        @if recent.is_empty() { p.empty { "Nothing has happened yet." } }
        ol.events {
            @for entry in recent.iter().rev().take(EVENTS_SHOWN_MAX) {
                li class=(entry.level.as_str()) {
                    (time(entry.at))
                    span.tag.bad[entry.level == Level::Error].warn[entry.level == Level::Warn] { (entry.room) }
                    span.text { (entry.text) }
                }
            }
        }
    }
}
