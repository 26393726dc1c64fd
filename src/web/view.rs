//! What all pages share: frame, times, badges, small formatters. Values in -> HTML pieces out, everything escaped by maud.

use axum::http::header;
use axum::response::{Html, IntoResponse, Response};
use chrono::{DateTime, Local, SecondsFormat, Utc};
use maud::{DOCTYPE, Markup, html};

use super::StatusSnapshot;
use super::guard::Visitor;
use crate::domain::{Urgency, VerdictKind, WallTime};

/// Said on every page (DESIGN.md section 1).
pub(super) const STATEMENT: &str = "scanside prioritises; it does not diagnose. A study that is not flagged is not reported as normal: \
                                    contrast MR misses part of what is there. Every study needs its radiologist.";

/// A time for programs: RFC 3339, UTC, milliseconds.
pub(super) fn iso(at: WallTime) -> String {
    DateTime::<Utc>::from_timestamp_millis(at.0)
        .map_or_else(String::new, |time| time.to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// A time for people: the box's zone, to the second; the script turns it into an age as well.
pub(super) fn time(at: WallTime) -> Markup {
    let shown = DateTime::<Utc>::from_timestamp_millis(at.0)
        .map_or_else(|| "unknown".to_owned(), |time| time.with_timezone(&Local).format("%Y-%m-%d %H:%M:%S").to_string());
    html! { time datetime=(iso(at)) { (shown) } }
}

/// A duration in the largest fitting unit.
pub(super) fn duration(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Milliseconds for people.
pub(super) fn milliseconds(ms: u64) -> String {
    if ms < 1000 { format!("{ms} ms") } else { format!("{}.{} s", ms / 1000, ms % 1000 / 100) }
}

/// Bytes in MiB or GiB.
pub(super) fn bytes(n: u64) -> String {
    const MIB: u64 = 1024 * 1024;
    if n < 1024 * MIB {
        format!("{} MiB", n / MIB)
    } else {
        format!("{}.{} GiB", n / (1024 * MIB), n % (1024 * MIB) * 10 / (1024 * MIB))
    }
}

/// The answer in words for people.
pub(super) fn verdict_words(kind: VerdictKind) -> &'static str {
    match kind {
        VerdictKind::Flagged => "flagged",
        VerdictKind::NotFlagged => "not flagged",
        VerdictKind::Indeterminate => "not assessed (indeterminate)",
    }
}

/// The answer as a badge: a word and a mark, so that the colour is never the only sign.
pub(super) fn badge(kind: Option<VerdictKind>, urgency: Option<Urgency>) -> Markup {
    let (class, mark, words) = match (kind, urgency) {
        (None, _) => ("pending", "\u{2026}", "no verdict yet"),
        (Some(VerdictKind::Flagged), Some(Urgency::Critical)) => ("critical", "\u{203c}", "flagged, critical"),
        (Some(VerdictKind::Flagged), _) => ("suspicious", "!", "flagged, suspicious"),
        (Some(VerdictKind::Indeterminate), _) => ("indeterminate", "?", "not assessed"),
        (Some(VerdictKind::NotFlagged), _) => ("notflagged", "\u{2013}", "not flagged"),
    };
    html! { span class={ "badge " (class) } { span.mark aria-hidden="true" { (mark) } (words) } }
}

/// A UID, cut in the middle for the eye; the whole of it stands in the title.
pub(super) fn short_uid(uid: &str) -> String {
    // UIDs are ASCII, checked by `Uid`.
    match (uid.get(..10), uid.len().checked_sub(10).and_then(|from| uid.get(from..))) {
        (Some(head), Some(tail)) if uid.len() > 24 => format!("{head}\u{2026}{tail}"),
        _ => uid.to_owned(),
    }
}

/// The frame of a page.
pub(super) fn layout(title: &str, status: &StatusSnapshot, visitor: Visitor, body: &Markup) -> Response {
    let known = visitor != Visitor::Stranger;
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                link rel="icon" href="/static/icon.svg" type="image/svg+xml";
                link rel="stylesheet" href="/static/style.css";
                script src="/static/app.js" defer {}
                @if known { noscript { meta http-equiv="refresh" content="10"; } }
            }
            body {
                a.skip href="#main" { "Skip to content" }
                header.top {
                    a.brand href="/" { span.dot aria-hidden="true" {} "scanside" }
                    @if known && !status.ae_title.is_empty() { span.aet { "AE title " b { (status.ae_title) } } }
                    @if known { label.who for="who" { span { "Acknowledge as" } input #who type="text" maxlength="64" autocomplete="name" placeholder="your name"; } }
                    @if visitor == Visitor::LoggedIn {
                        form.logout method="post" action="/logout" { button type="submit" { "Log out" } }
                    }
                }
                p #offline .offline role="alert" hidden {
                    b { "No connection to the box." } " What stands below is old. Look at the lamp itself; a dark lamp means fault."
                }
                main #main { (body) }
                footer {
                    p.statement { (STATEMENT) }
                    @if known { p { "scanside " (status.version.scanside) " \u{b7} " a href="/api/v1/status" { "status as JSON" } " \u{b7} " a href="/metrics" { "metrics" } } }
                }
            }
        }
    };
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], Html(page.into_string())).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_sizes_and_uids_are_readable() {
        assert_eq!(iso(WallTime(1_764_000_000_123)), "2025-11-24T16:00:00.123Z");
        assert_eq!(iso(WallTime(i64::MAX)), "");
        assert_eq!((duration(119), duration(120), duration(90_000)), ("119 s".to_owned(), "2 min".to_owned(), "25 h".to_owned()));
        assert_eq!((bytes(5 << 20), bytes(20 << 30)), ("5 MiB".to_owned(), "20.0 GiB".to_owned()));
        assert_eq!(short_uid("1.2.3"), "1.2.3");
        assert_eq!(short_uid("1.2.840.113619.2.55.3.123456789"), "1.2.840.11\u{2026}.123456789");
        assert_eq!(milliseconds(1250), "1.2 s");
    }
}
