//! Promise: every alert arrives, signed, once as far as the receiver can tell, and a dead receiver holds up nobody else.
//! Notices in a store -> a receiver on loopback -> what it got.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use scanside::deliver::{Channel, Deliverer, DeliveryError, Secret, Webhook};
use scanside::domain::WallTime;
use scanside::journal::Journal;
use support::FakeStore;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

fn now() -> WallTime {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    WallTime(i64::try_from(since.as_millis()).expect("not so far ahead"))
}

/// One request as it came.
#[derive(Clone, Debug)]
struct Got {
    head: String,
    body: String,
}

impl Got {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// A receiver that answers the n-th request with the n-th of `answers` (the last one from then on) and keeps what it got.
struct Receiver {
    url: String,
    got: Arc<Mutex<Vec<Got>>>,
}

async fn receiver(answers: &'static [&'static str]) -> Receiver {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let url = format!("http://{}/hook?token=hush", listener.local_addr().expect("bound"));
    let got = Arc::new(Mutex::new(Vec::new()));
    let (kept, n) = (Arc::clone(&got), Arc::new(AtomicUsize::new(0)));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (kept, n) = (Arc::clone(&kept), Arc::clone(&n));
            tokio::spawn(async move {
                let mut bytes = Vec::new();
                while let Some(request) = read_request(&mut stream, &mut bytes).await {
                    kept.lock().expect("fine").push(request);
                    let idx = n.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1);
                    let answer = answers[idx];
                    if answer == "silence" {
                        tokio::time::sleep(Duration::from_secs(60)).await;
                    }
                    let reply = format!("HTTP/1.1 {answer}\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 2\r\n\r\nok");
                    if stream.write_all(reply.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    Receiver { url, got }
}

async fn read_request(stream: &mut tokio::net::TcpStream, bytes: &mut Vec<u8>) -> Option<Got> {
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let mut got = Got { head, body: String::new() };
            let length: usize = got.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
            if bytes.len() >= end + 4 + length {
                got.body = String::from_utf8_lossy(&bytes[end + 4..end + 4 + length]).into_owned();
                bytes.drain(..end + 4 + length);
                return Some(got);
            }
        }
        let mut chunk = [0_u8; 4096];
        match stream.read(&mut chunk).await {
            Ok(n) if n > 0 => bytes.extend_from_slice(&chunk[..n]),
            _ => return None,
        }
    }
}

fn hook(name: &str, url: &str) -> Webhook {
    Webhook::try_new(name, url, Secret::try_new(SECRET).expect("long enough"), Duration::from_secs(2)).expect("a webhook")
}

/// Runs a deliverer over `hooks` until `done` says so, then shuts it down.
async fn deliver(store: &Arc<FakeStore>, hooks: Vec<Webhook>, journal: &Journal, done: impl Fn(&FakeStore) -> bool) {
    let channels = hooks.into_iter().map(|hook| Arc::new(hook) as Arc<dyn Channel>).collect();
    let deliverer = Deliverer::new(store.clone(), channels, journal.clone(), now, 900);
    let (stop, stopping) = watch::channel(false);
    let running = tokio::spawn(deliverer.run(stopping));
    let finished = tokio::time::timeout(Duration::from_secs(20), async {
        while !done(store) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    stop.send_replace(true);
    tokio::time::timeout(Duration::from_secs(5), running).await.expect("it stops when asked").expect("without panic");
    assert!(finished.is_ok(), "not done in time: {:?}", store.kept());
}

fn n_delivered(store: &FakeStore, channel: &str) -> usize {
    store.kept().iter().filter(|kept| kept.entry.channel == channel && kept.delivered_at.is_some()).count()
}

#[tokio::test]
async fn a_message_is_signed_over_its_bytes_and_carries_its_key() {
    let receiver = receiver(&["200 OK"]).await;
    let body = "{\"schema\":\"scanside.verdict/1\",\"verdict\":\"flagged\"}";
    hook("webhook:0", &receiver.url).post(body, "key-1", WallTime(1_764_000_000_999)).await.expect("delivered");
    let got = receiver.got.lock().expect("fine")[0].clone();
    assert!(got.head.starts_with("POST /hook?token=hush HTTP/1.1"));
    assert_eq!((got.body.as_str(), got.header("content-type")), (body, Some("application/json")));
    assert_eq!((got.header("idempotency-key"), got.header("x-scanside-timestamp")), (Some("key-1"), Some("1764000000")));
    // The receiver's own computation, as the documentation tells it.
    use hmac::{KeyInit, Mac};
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(SECRET).expect("any length");
    mac.update(format!("1764000000.{}", got.body).as_bytes());
    let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(got.header("x-scanside-signature"), Some(format!("sha256={hex}").as_str()));
}

#[tokio::test]
async fn redirects_are_not_followed_and_errors_hide_the_address() {
    let moved = receiver(&["302 Found"]).await;
    let error = hook("webhook:0", &moved.url).post("{}", "k", now()).await.expect_err("a redirect is no delivery");
    assert!(matches!(&error, DeliveryError::Channel(text) if text.contains("302")), "{error}");
    let refused = receiver(&["422 Unprocessable Entity"]).await;
    let error = hook("webhook:0", &refused.url).post("{}", "k", now()).await.expect_err("refused");
    assert!(matches!(&error, DeliveryError::Message(_)), "{error}");
    let silent = receiver(&["silence"]).await;
    let error = hook("webhook:0", &silent.url).post("{}", "k", now()).await.expect_err("no answer");
    assert!(error.to_string().contains("no answer in time") && !error.to_string().contains("hush"), "{error}");
    let error = hook("webhook:0", "http://127.0.0.1:1/x?token=hush").post("{}", "k", now()).await.expect_err("nobody there");
    assert!(error.to_string().contains("no connection") && !error.to_string().contains("hush"), "{error}");
}

#[tokio::test]
async fn a_receiver_that_fails_is_tried_again_until_it_takes_the_alert() {
    let receiver = receiver(&["503 Service Unavailable", "500 Internal Server Error", "200 OK"]).await;
    let (store, journal) = (Arc::new(FakeStore::default()), Journal::new(now));
    store.queue("webhook:0", "key-1", "{\"n\":1}", now());
    store.queue("webhook:0", "key-2", "{\"n\":2}", now());
    deliver(&store, vec![hook("webhook:0", &receiver.url)], &journal, |store| n_delivered(store, "webhook:0") == 2).await;
    let keys: Vec<String> =
        receiver.got.lock().expect("fine").iter().map(|got| got.header("idempotency-key").unwrap_or("none").to_owned()).collect();
    assert_eq!(keys.last().map(String::as_str), Some("key-2"), "the oldest first: {keys:?}");
    assert_eq!(keys.iter().filter(|key| *key == "key-1").count(), 3, "{keys:?}");
    assert!(journal.counts().contains(&("deliver", "NoticeFailed", 2)), "{:?}", journal.counts());
    assert!(journal.counts().contains(&("deliver", "NoticeDelivered", 2)));
}

#[tokio::test]
async fn a_dead_channel_with_a_long_backlog_delays_no_other() {
    let receiver = receiver(&["204 No Content"]).await;
    let (store, journal) = (Arc::new(FakeStore::default()), Journal::new(now));
    for n in 0..200 {
        store.queue("webhook:0", &format!("dead-{n}"), "{}", now());
    }
    for n in 0..20 {
        store.queue("webhook:1", &format!("live-{n}"), "{}", now());
    }
    let hooks = vec![hook("webhook:0", "http://127.0.0.1:1/"), hook("webhook:1", &receiver.url)];
    deliver(&store, hooks, &journal, |store| n_delivered(store, "webhook:1") == 20).await;
    assert_eq!(n_delivered(&store, "webhook:0"), 0);
    let attempts: u32 =
        store.kept().iter().filter(|kept| kept.entry.channel == "webhook:0").map(|kept| kept.entry.attempts).sum();
    assert!(attempts <= 5, "a dead receiver is left in peace: {attempts} attempts");
}

#[tokio::test]
async fn one_refused_message_does_not_hold_up_the_next() {
    let receiver = receiver(&["422 Unprocessable Entity", "200 OK"]).await;
    let (store, journal) = (Arc::new(FakeStore::default()), Journal::new(now));
    for n in 0..3 {
        store.queue("webhook:0", &format!("key-{n}"), "{}", now());
    }
    deliver(&store, vec![hook("webhook:0", &receiver.url)], &journal, |store| n_delivered(store, "webhook:0") == 3).await;
    let keys: Vec<String> =
        receiver.got.lock().expect("fine").iter().map(|got| got.header("idempotency-key").unwrap_or("none").to_owned()).collect();
    assert_eq!(keys, ["key-0", "key-1", "key-2", "key-0"], "and the refused one is tried again");
}

#[tokio::test]
async fn an_alert_that_waits_too_long_and_one_without_receiver_are_said() {
    let (store, journal) = (Arc::new(FakeStore::default()), Journal::new(now));
    store.queue("webhook:7", "orphan", "{}", WallTime(now().0 - 3_600_000));
    let deliverer = Deliverer::new(store.clone(), Vec::new(), journal.clone(), now, 900);
    let mut health = deliverer.health();
    let (stop, stopping) = watch::channel(false);
    let running = tokio::spawn(deliverer.run(stopping));
    let bad = tokio::time::timeout(Duration::from_secs(10), health.wait_for(|health| health.undelivered)).await;
    let bad = bad.expect("said in time").expect("still running").clone();
    assert_eq!(bad.n_waiting, 1);
    assert!(bad.detail.is_some_and(|detail| detail.contains("1 alert(s) wait")));
    tokio::time::sleep(Duration::from_millis(200)).await;
    stop.send_replace(true);
    running.await.expect("stops");
    let names: Vec<&str> = journal.counts().iter().map(|(_, name, _)| *name).collect();
    assert!(names.contains(&"AlertsUndelivered") && names.contains(&"NoticeOrphaned"), "{names:?}");
    assert_eq!(store.kept()[0].delivered_at, None, "it is kept");
}

#[tokio::test]
async fn a_failing_store_does_not_end_the_deliverer() {
    let receiver = receiver(&["200 OK"]).await;
    let (store, journal) = (Arc::new(FakeStore::default()), Journal::new(now));
    store.queue("webhook:0", "key-1", "{}", now());
    store.failing.store(true, Ordering::SeqCst);
    let healing = Arc::clone(&store);
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(600)).await;
        healing.failing.store(false, Ordering::SeqCst);
    });
    deliver(&store, vec![hook("webhook:0", &receiver.url)], &journal, |store| n_delivered(store, "webhook:0") == 1).await;
    assert!(journal.counts().iter().any(|(_, name, _)| *name == "OutboxFailing"));
}
