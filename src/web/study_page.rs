//! `GET /studies/{uid}`: one study in full: verdict, reasons, findings, series with evidence, notes, timeline, deliveries.

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};
use serde_json::Value;

use super::api::timeline;
use super::guard::Visitor;
use super::page::{acknowledgement, items};
use super::view::{badge, layout, milliseconds, time};
use super::{WebState, lamp_view};
use crate::domain::Uid;
use crate::spool::StudyDetail;

/// `GET /studies/{uid}`.
pub(super) async fn study(
    State(state): State<WebState>,
    Extension(visitor): Extension<Visitor>,
    Path(uid): Path<String>,
) -> Response {
    let status = state.snapshot();
    let refuse = |code: StatusCode, text: &str| {
        let body = html! { section { h1 { "No such study" } p { (text) } p { a href="/" { "Back to the box" } } } };
        (code, layout("No such study \u{b7} scanside", &status, visitor, &body)).into_response()
    };
    let Ok(uid) = Uid::try_new(&uid) else {
        return refuse(StatusCode::BAD_REQUEST, "That is no Study Instance UID: digits and dots, at most 64.");
    };
    match state.query(move |store| store.study(&uid)).await {
        Ok(Some(study)) => {
            let title = format!("Study \u{b7} {} \u{b7} scanside", lamp_view::headline(status.lamp));
            layout(&title, &status, visitor, &body(&study))
        }
        Ok(None) => refuse(StatusCode::NOT_FOUND, "This box does not know a study of that UID."),
        Err(error) => {
            state.journal.record(&super::WebEvent::QueryFailed { error });
            refuse(StatusCode::SERVICE_UNAVAILABLE, "The store cannot be asked just now: see the box's state on the first page.")
        }
    }
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn number(value: &Value, key: &str) -> f64 {
    value.get(key).and_then(Value::as_f64).unwrap_or(f64::NAN)
}

fn body(study: &StudyDetail) -> Markup {
    let s = &study.summary;
    let latest: Value =
        study.verdicts.first().and_then(|verdict| serde_json::from_str(&verdict.json).ok()).unwrap_or(Value::Null);
    html! {
        p.crumb { a href="/" { "\u{2190} All studies" } }
        section.verdict data-live="verdict" {
            div.heading {
                h1 { @match &s.accession_number { Some(number) => { "Accession " (number) }, None => "Study" } }
                (badge(s.verdict, s.urgency))
                @if s.provisional { span.tag.warn { "provisional" } }
                span.acknowledge { (acknowledgement(s)) }
            }
            p.uid { code { (s.study_instance_uid) } }
            @if s.verdict.is_none() { p { "Images are arriving, or the study is in work: " (s.n_instances) " so far." } }
            @if s.provisional { p.note {
                "Provisional: the series that the model needs were read while the rest of the study was arriving. The verdict on the whole study \
                 follows; it never ranks lower." } }
            @for reason in items(&latest, "reasons") { p.reason.large { (text(reason, "text")) " " code { (text(reason, "code")) } } }
            (key_figures(study, &latest))
        }
        section data-live="findings" { (findings(&latest)) }
        section data-live="signs" { (signs(&latest)) }
        section data-live="series" { (series(&latest)) }
        section data-live="quality" { (quality(&latest)) }
        div.columns {
            section data-live="timeline" { h2 { "Timeline" } ol.timeline { @for moment in timeline(study) { li { (time(moment.at)) " " span.text { (moment.text) } } } } }
            section data-live="deliveries" { (deliveries(study)) }
        }
    }
}

fn key_figures(study: &StudyDetail, latest: &Value) -> Markup {
    let model = latest.get("model").filter(|model| model.is_object());
    let point = latest.get("operating_point").filter(|point| point.is_object());
    let timing = latest.get("timing_ms");
    let ms = |key: &str| timing.and_then(|timing| timing.get(key)).and_then(Value::as_u64);
    html! {
        dl.facts.wide {
            dt { "Received" } dd { (time(study.summary.received_at)) }
            dt { "Images" } dd { (study.summary.n_instances) @if study.summary.n_conflicts > 0 { ", " (study.summary.n_conflicts) " in conflict kept as evidence" } }
            @if let Some(score) = study.summary.score { dt { "Score" } dd { (format!("{score:.2}")) } }
            @if let Some(point) = point {
                dt { "Operating point" }
                dd {
                    (format!("score {:.2} or more: sensitivity {:.0} %, specificity {:.0} %", number(point, "threshold"), number(point, "sensitivity") * 100.0, number(point, "specificity") * 100.0))
                    span.sub { (text(point, "source")) }
                }
            }
            @if let Some(model) = model {
                dt { "Model" }
                dd { (text(model, "name")) " " (text(model, "version")) ", " (text(model, "precision")) " on " (text(model, "engine"))
                     span.sub title=(text(model, "sha256")) { "sha256 " (text(model, "sha256").get(..12).unwrap_or_default()) "\u{2026}" } }
            }
            @if !text(latest, "closed_because").is_empty() { dt { @if study.summary.provisional { "Read ahead because" } @else { "Closed because" } } dd { (text(latest, "closed_because").replace('-', " ")) } }
            @if let Some(total) = ms("total") {
                dt { "Time" }
                dd {
                    (milliseconds(total)) " in all"
                    @if let (Some(prepare), Some(infer)) = (ms("prepare"), ms("infer")) { span.sub { "prepare " (milliseconds(prepare)) ", network " (milliseconds(infer)) } }
                    @if let Some(alert) = ms("last_instance_to_alert") { span.sub { "last image to verdict " (milliseconds(alert)) } }
                }
            }
        }
    }
}

fn point(value: &Value, key: &str) -> String {
    let parts: Vec<String> = items(value, key).iter().filter_map(Value::as_f64).map(|mm| format!("{mm:.0}")).collect();
    parts.join(", ")
}

fn findings(latest: &Value) -> Markup {
    let list = items(latest, "findings");
    html! {
        @if !list.is_empty() {
            h2 { "Findings" }
            table.findings {
                thead { tr { th scope="col" { "No." } th scope="col" { "Class" } th.num scope="col" { "Largest diameter" } th.num scope="col" { "Volume" }
                    th.num scope="col" { "Score" } th scope="col" { "Centre, LPS mm" } th scope="col" { "Measures" } } }
                tbody { @for finding in list { tr {
                    td data-label="No." { (finding.get("id").and_then(Value::as_u64).unwrap_or_default()) }
                    td data-label="Class" { (text(finding, "class").replace('_', " ")) }
                    td.num data-label="Largest diameter" { (format!("{:.1} mm", number(finding, "max_diameter_mm"))) }
                    td.num data-label="Volume" { (format!("{:.2} ml", number(finding, "volume_ml"))) }
                    td.num data-label="Score" { (format!("{:.2}", number(finding, "score"))) }
                    td data-label="Centre, LPS mm" { (point(finding, "centroid_lps_mm")) }
                    td data-label="Measures" {
                        @if let Some(measures) = finding.get("measures").and_then(Value::as_object) {
                            @for (name, value) in measures { span.line { (name.replace('_', " ")) " " (format!("{:.2}", value.as_f64().unwrap_or(f64::NAN))) } }
                        }
                    }
                } } }
            }
            p.note { "LPS: x to the patient's left, y to the back, z to the head. Sizes are measured on the model's grid." }
        }
    }
}

/// Words for a sign's code.
fn sign_name(code: &str) -> String {
    match code {
        "midline-shift" => "Midline shift".to_owned(),
        "ventricular-enlargement" => "Frontal horns over brain width".to_owned(),
        "ventricle-volume" => "Volume of the lateral ventricles".to_owned(),
        "ventricle-fraction" => "Lateral ventricles over brain volume".to_owned(),
        "normal-enhancement" => "Normal enhancement (vessels, sinuses, dura)".to_owned(),
        other => other.replace('-', " "),
    }
}

/// A value with its unit.
fn measure(value: f64, unit: &str) -> String {
    match unit {
        "1" => format!("{value:.3}"),
        unit => format!("{value:.1} {unit}"),
    }
}

fn signs(latest: &Value) -> Markup {
    let list = items(latest, "signs");
    html! {
        @if !list.is_empty() {
            h2 { "Measures" }
            table.signs {
                thead { tr { th scope="col" { "Measure" } th.num scope="col" { "Value" } th.num scope="col" { "Urgent from" } } }
                tbody { @for sign in list {
                    @let unit = text(sign, "unit");
                    @let critical = sign.get("critical").and_then(Value::as_bool).unwrap_or(false);
                    tr {
                        td data-label="Measure" { (sign_name(text(sign, "code"))) @if !text(sign, "side").is_empty() { " to the patient's " (text(sign, "side")) } }
                        td.num data-label="Value" { (measure(number(sign, "value"), unit)) @if critical { " " span.tag.warn { "at or above" } } }
                        td.num data-label="Urgent from" { @match sign.get("threshold").and_then(Value::as_f64) { Some(limit) => { (measure(limit, unit)) }, None => { "\u{2013}" } } }
                    }
                } }
            }
            p.note { "Measured by the network's outlines on its grid. A measure at or above its limit makes a flagged study critical; it never flags a study." }
        }
    }
}

fn series(latest: &Value) -> Markup {
    let list = items(latest, "series");
    html! {
        @if !list.is_empty() {
            h2 { "Series and their roles" }
            table.series {
                thead { tr { th scope="col" { "Role" } th scope="col" { "Used" } th scope="col" { "Evidence" } th scope="col" { "Series Instance UID" } } }
                tbody { @for entry in list {
                    @let used = entry.get("used").and_then(Value::as_bool).unwrap_or(false);
                    tr {
                        td data-label="Role" { b { (text(entry, "role").replace('_', " ")) } }
                        td data-label="Used" { @if used { span.tag.ok { "used" } } @else { span.tag { "not used" } } }
                        td data-label="Evidence" { @for line in items(entry, "evidence") { span.line { (line.as_str().unwrap_or_default()) } } }
                        td data-label="Series" { code { (text(entry, "series_instance_uid")) } }
                    }
                } }
            }
        }
    }
}

fn quality(latest: &Value) -> Markup {
    let list = items(latest, "quality");
    html! {
        @if !list.is_empty() {
            h2 { "Quality notes" }
            ul.causes { @for note in list {
                @let warning = text(note, "severity") == "warning";
                li { span.tag.warn[warning] { (text(note, "code")) } " " (text(note, "text")) }
            } }
        }
    }
}

fn deliveries(study: &StudyDetail) -> Markup {
    html! {
        h2 { "Alerts" }
        @if study.deliveries.is_empty() { p.empty { "No alert was due, or no receiver is configured." } }
        ul.deliveries {
            @for delivery in &study.deliveries {
                li {
                    span.tag.ok[delivery.delivered_at.is_some()].bad[delivery.stale && delivery.delivered_at.is_none()] { (delivery.channel) }
                    @match delivery.delivered_at {
                        Some(at) => { " delivered " (time(at)) },
                        None => { " waiting since " (time(delivery.created_at)) },
                    }
                    @if delivery.attempts > 0 { ", " (delivery.attempts) " failed attempts" }
                    @if let (None, Some(error)) = (delivery.delivered_at, &delivery.last_error) { span.sub { (error) } }
                }
            }
        }
    }
}
