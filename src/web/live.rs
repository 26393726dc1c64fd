//! The event stream of the page (server-sent events, HTML standard section 9.2): status snapshots in -> small JSON messages out.
//!
//! One pump makes the messages, at most four a second; each subscriber gets the latest one when it can take it, so a slow reader skips
//! messages instead of filling a queue. 32 subscribers at once; the next is told to come back.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::WebState;

/// Pages that listen at once.
const SUBSCRIBERS_MAX: usize = 32;
/// Shortest time between two messages.
const MESSAGE_PAUSE: Duration = Duration::from_millis(250);
/// A message goes out this often even when nothing changed: the page knows by it that the box lives.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// A subscriber that takes nothing for this long is let go; its browser comes back by itself.
const TAKE_MAX: Duration = Duration::from_secs(10);

/// The stream that subscribers share.
#[derive(Clone)]
pub(super) struct Live {
    latest: watch::Receiver<Arc<str>>,
    places: Arc<Semaphore>,
    shutdown: watch::Receiver<bool>,
}

impl Live {
    /// Starts the pump; it ends with `shutdown` or with the service that makes the snapshots.
    pub(super) fn start(state: WebState, shutdown: watch::Receiver<bool>) -> Self {
        let (sender, latest) = watch::channel(message(&state));
        let mut stop = shutdown.clone();
        tokio::spawn(async move {
            let pump = pump(state, sender);
            tokio::select! {
                () = pump => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
        });
        Self { latest, places: Arc::new(Semaphore::new(SUBSCRIBERS_MAX)), shutdown }
    }
}

async fn pump(state: WebState, sender: watch::Sender<Arc<str>>) {
    let mut status = state.status.clone();
    loop {
        tokio::time::sleep(MESSAGE_PAUSE).await;
        let changed = tokio::time::timeout(HEARTBEAT, status.changed()).await;
        if matches!(changed, Ok(Err(_))) {
            // The service is gone: its last snapshot ages into a fault, which pages must still be told.
            tokio::time::sleep(HEARTBEAT).await;
        }
        sender.send_replace(message(&state));
    }
}

fn message(state: &WebState) -> Arc<str> {
    let snapshot = state.snapshot();
    let newest_event = state.journal.recent().last().map_or(0, |entry| entry.number);
    // Whatever changes a table or a list on a page changes this text.
    let work: Vec<String> = snapshot
        .work
        .iter()
        .map(|item| format!("{}:{}:{}", item.study_instance_uid, item.n_instances, item.stage.as_str()))
        .collect();
    let conditions: Vec<&str> = snapshot.conditions.iter().map(|condition| condition.as_str()).collect();
    let revision = format!("{}/{newest_event}/{}/{}", snapshot.studies_revision, work.join(","), conditions.join(","));
    // Strangers hear the stream, too, since it says what the lamp says: the text goes out as a digest.
    let revision: String = Sha256::digest(revision).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    json!({
        "lamp": snapshot.lamp.as_str(),
        "lamp_text": super::lamp_view::headline(snapshot.lamp),
        "lamp_says": snapshot.lamp.sentence(),
        "device_state": snapshot.device_state.as_str(),
        "at_ms": (state.clock)().0,
        "revision": revision,
    })
    .to_string()
    .into()
}

/// `GET /events`.
pub(super) async fn events(State(live): State<Live>) -> Response {
    let Ok(place) = Arc::clone(&live.places).try_acquire_owned() else {
        let text = "Too many pages listen to this box: close some, or reload later.\n";
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "10")], text).into_response();
    };
    let (sender, receiver) = mpsc::channel::<Result<Event, Infallible>>(1);
    let (mut latest, mut shutdown) = (live.latest, live.shutdown);
    latest.mark_changed(); // the current state goes out at once
    tokio::spawn(async move {
        let _place = place;
        loop {
            tokio::select! {
                changed = latest.changed() => if changed.is_err() { return },
                () = sender.closed() => return,
                _ = shutdown.wait_for(|stop| *stop) => return,
            }
            let event = Event::default().event("status").data(latest.borrow_and_update().as_ref());
            if sender.send_timeout(Ok(event), TAKE_MAX).await.is_err() {
                return;
            }
        }
    });
    Sse::new(ReceiverStream::new(receiver)).into_response()
}
