//! The lamp as the page draws it: a [`Lamp`] in -> three lenses and words out. The style sheet blinks them at the rates of DESIGN.md.

use maud::{Markup, html};

use super::StatusSnapshot;
use crate::domain::Lamp;

/// The few words beside the lamp.
pub(super) const fn headline(lamp: Lamp) -> &'static str {
    match lamp {
        Lamp::Dark => "Not running",
        Lamp::Ready => "Ready",
        Lamp::Working => "Working",
        Lamp::Degraded => "Degraded",
        Lamp::Indeterminate => "A study was not assessed",
        Lamp::Suspicious => "Suspicious study",
        Lamp::Fault => "Fault",
        Lamp::Critical => "Critical study",
    }
}

/// What the eye sees, in words.
pub(super) const fn pattern(lamp: Lamp) -> &'static str {
    match lamp {
        Lamp::Dark => "no light",
        Lamp::Ready => "green, steady",
        Lamp::Working => "green, slow pulse",
        Lamp::Degraded => "green and yellow, steady",
        Lamp::Indeterminate => "yellow, steady with a double dip every 4 seconds",
        Lamp::Suspicious => "yellow, flashing slowly (0.6 per second)",
        Lamp::Fault => "red and yellow in turn, once a second",
        Lamp::Critical => "red, flashing fast (2 per second)",
    }
}

/// The lamp with its words; `data-lamp` drives the animation.
pub(super) fn lamp(status: &StatusSnapshot) -> Markup {
    let lamp = status.lamp;
    html! {
        section.signal #signal data-lamp=(lamp.as_str()) aria-label="Lamp" {
            div.housing role="img" aria-label={ "Lamp: " (pattern(lamp)) } {
                span.lens.red { span.light {} span.sign aria-hidden="true" { "!!" } }
                span.lens.yellow { span.light {} span.sign aria-hidden="true" { "!" } }
                span.lens.green { span.light {} span.sign aria-hidden="true" { "\u{2713}" } }
            }
            div.words {
                p.kicker { "Lamp: " (pattern(lamp)) }
                h1 #lamp-headline aria-live="assertive" { (headline(lamp)) }
                p.says { (lamp.sentence()) }
            }
        }
    }
}
