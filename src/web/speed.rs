//! The speed of this box, as `scanside model bench` stored it: a [`SpeedTable`] in -> a section of the page, and JSON for programs.

use maud::{Markup, html};
use serde_json::{Value, json};

use super::view::{bytes, iso, time};
use crate::domain::speed::{SpeedTable, StageSpeed};

/// For `/api/v1/status`, and as the state folder keeps it.
#[must_use]
pub fn to_json(table: &SpeedTable) -> Value {
    let stage = |s: &StageSpeed| {
        let share = (table.share_percent(s) * 10.0).round() / 10.0;
        json!({ "stage": s.stage, "wall_ms": s.wall_ms, "cpu_ms": s.cpu_ms, "share_percent": share, "peak_bytes": s.peak_bytes })
    };
    json!({
        "measured_at": iso(table.measured_at), "scanside": table.scanside, "target": table.target, "model": table.model,
        "n_instances": table.n_instances, "n_bytes": table.n_bytes, "n_threads": table.n_threads, "n_runs": table.n_runs,
        "total_ms": table.total_ms(), "peak_bytes": table.peak_bytes(), "stages": table.stages.iter().map(stage).collect::<Vec<_>>(),
    })
}

/// For the page.
pub(super) fn section(table: Option<&SpeedTable>) -> Markup {
    html! {
        h2 #h-speed { "Speed of this box" }
        @if let Some(table) = table {
            p.sub {
                "A study of " (table.n_instances) " images (" (bytes(table.n_bytes)) ") from the network to the stored verdict in "
                b { (format!("{:.0} ms", table.total_ms())) } ", median of " (table.n_runs) ", " (table.n_threads) " threads"
                @if let Some(peak) = table.peak_bytes() { ", at most " (bytes(peak)) " of memory" } "."
            }
            table.speed {
                thead { tr { th { "Stage" } th.number { "ms" } th.number { "CPU ms" } th { "Share" } th.number { "Memory" } } }
                tbody {
                    @for stage in &table.stages {
                        @let share = table.share_percent(stage);
                        tr {
                            td { (stage.stage) }
                            td.number data-label="ms" { (format!("{:.1}", stage.wall_ms)) }
                            td.number data-label="CPU ms" { (format!("{:.1}", stage.cpu_ms)) }
                            td data-label="Share" {
                                meter min="0" max="100" value=(format!("{share:.1}")) aria-label={ "Share of " (stage.stage) } {}
                                span.sub { (format!("{share:.0} %")) }
                            }
                            td.number data-label="Memory" { @if let Some(peak) = stage.peak_bytes { (bytes(peak)) } @else { "-" } }
                        }
                    }
                }
            }
            p.sub {
                "Measured " (time(table.measured_at)) " with scanside " (table.scanside) " (" (table.target) ") and " (table.model)
                ". Memory is the highest of the whole measuring process during the stage."
            }
        } @else {
            p.empty { "Not measured yet: run " code { "scanside model bench" } " on this box." }
        }
    }
}
