//! Promises of the page to a hospital's network: it is encrypted with the box's identity, strangers see the lamp and nothing of a study,
//! the claim code opens it, guessing is slowed down, and a slow peer holds up nobody. A real TLS client asks a real socket.

mod support;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use scanside::domain::*;
use scanside::journal::Journal;
use scanside::secure::{TlsFiles, TlsKeeper, identity};
use scanside::web::{BoxFacts, Login, NamedText, PageListener, StatusSnapshot, WebCommand, WebState, serve};
use support::FakeStore;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

const HOST: &str = "scanside-7";

fn wall() -> WallTime {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    WallTime(i64::try_from(since.as_millis()).expect("before the year 292 million"))
}

/// The clock of the pauses after wrong codes, ms; it moves when a test says so.
static PAUSED_MS: AtomicU64 = AtomicU64::new(0);

fn hand_clock() -> Monotonic {
    Monotonic(PAUSED_MS.load(Ordering::SeqCst))
}

/// An address of this machine that is not loopback, so that a peer is one of the network; nothing is sent.
fn network_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?; // TEST-NET-1, RFC 5737
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

struct Page {
    at: SocketAddr,
    journal: Journal,
    code: String,
    client: reqwest::Client,
    _folder: tempfile::TempDir,
    _status: watch::Sender<StatusSnapshot>,
    _commands: mpsc::Receiver<WebCommand>,
    _stop: watch::Sender<bool>,
}

async fn page(ip: IpAddr) -> Page {
    let folder = tempfile::tempdir().expect("folder");
    let made = identity::ensure(folder.path(), false, HOST, wall()).expect("made");
    let file = |name: &str| folder.path().join(name);
    let listener = TcpListener::bind((ip, 0)).await.expect("bound");
    let at = listener.local_addr().expect("address");
    let journal = Journal::new(wall);
    let files = TlsFiles::own(file("device.crt"), file("device.key"));
    let keeper = Arc::new(TlsKeeper::open_for("the page", files, journal.clone(), wall));
    assert_eq!(keeper.fingerprint(), Some(made.certificate_sha256));
    let status = StatusSnapshot {
        at: WallTime(wall().0 + 600_000),
        ready: true,
        lamp: Lamp::Degraded,
        device_state: DeviceState::Degraded,
        conditions: vec![DeviceCondition::PacsUnreachable],
        condition_details: vec![NamedText { name: "pacs-unreachable".into(), text: "SECRET-PACS does not answer".into() }],
        ae_title: "SECRETAE".into(),
        ..StatusSnapshot::default()
    };
    let (status, watching) = watch::channel(status);
    let (commands, inbox) = mpsc::channel(4);
    let (stop, stopped) = watch::channel(false);
    let state = WebState {
        store: Arc::new(FakeStore::default()),
        status: watching,
        journal: journal.clone(),
        commands,
        host_names: vec![HOST.to_owned()],
        speed: Arc::new(|| None),
        login: Some(Arc::new(Login::from_file(&file("claim-code"), true, hand_clock))),
        facts: Arc::new({
            let certificate_sha256 = Some(made.certificate_sha256.to_string());
            move || BoxFacts { slot: Some("B".into()), certificate_sha256: certificate_sha256.clone(), ..BoxFacts::default() }
        }),
        clock: wall,
    };
    tokio::spawn(serve(PageListener { listener, tls: Some(keeper) }, state, stopped));
    scanside::deliver::install_crypto_provider();
    let pem = std::fs::read(file("device.crt")).expect("certificate");
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([reqwest::Certificate::from_pem(&pem).expect("a certificate")])
        .resolve(HOST, at)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .expect("a client");
    let code = made.claim_code.to_string();
    Page { at, journal, code, client, _folder: folder, _status: status, _commands: inbox, _stop: stop }
}

struct Answer {
    status: u16,
    cookie: Option<String>,
    location: Option<String>,
    retry_after_s: Option<u64>,
    body: String,
}

impl Page {
    fn url(&self, path: &str) -> String {
        format!("https://{HOST}:{}{path}", self.at.port())
    }

    async fn answer(&self, request: reqwest::RequestBuilder, cookie: Option<&str>) -> Answer {
        let request = match cookie {
            Some(cookie) => request.header("cookie", cookie),
            None => request,
        };
        let response = request.send().await.expect("an answer over TLS");
        let header = |name: &str| response.headers().get(name).map(|value| value.to_str().expect("text").to_owned());
        let (status, cookie, location) = (response.status().as_u16(), header("set-cookie"), header("location"));
        let retry_after_s = header("retry-after").and_then(|text| text.parse().ok());
        Answer { status, cookie, location, retry_after_s, body: response.text().await.expect("a body") }
    }

    async fn get(&self, path: &str, cookie: Option<&str>) -> Answer {
        self.answer(self.client.get(self.url(path)), cookie).await
    }

    async fn post(&self, path: &str, form: &str, cookie: Option<&str>) -> Answer {
        let request = self.client.post(self.url(path)).header("content-type", "application/x-www-form-urlencoded");
        self.answer(request.body(form.to_owned()), cookie).await
    }

    fn said(&self, event: &str) -> u64 {
        self.journal.counts().iter().filter(|(_, name, _)| *name == event).map(|(_, _, n)| n).sum()
    }
}

/// A page that is asked from the network, or `None` with a line where this machine has no network at all.
async fn far_page() -> Option<Page> {
    let Some(ip) = network_address() else {
        eprintln!("skipped: this machine has no address but loopback");
        return None;
    };
    Some(page(ip).await)
}

#[tokio::test]
async fn a_stranger_sees_the_lamp_and_nothing_of_a_study_or_another_machine() {
    let Some(page) = far_page().await else { return };
    let first = page.get("/", None).await;
    assert_eq!(first.status, 200);
    assert!(first.body.contains("data-lamp=\"degraded\"") && first.body.contains("pacs-unreachable"));
    assert!(first.body.contains("action=\"/login\""));
    for secret in ["SECRET", "Recent events", "id=\"studies\"", "Acknowledge", "/metrics"] {
        assert!(!first.body.contains(secret), "{secret}");
    }
    let health = page.get("/healthz", None).await;
    assert!(health.status == 200 && health.body.contains("pacs-unreachable") && !health.body.contains("SECRET"));
    for path in ["/api/v1/status", "/api/v1/studies", "/api/v1/studies/1.2.3", "/metrics"] {
        assert_eq!(page.get(path, None).await.status, 401, "{path}");
    }
    for path in ["/studies/1.2.3", "/login", "/no/such/page"] {
        let answer = page.get(path, None).await;
        assert_eq!((answer.status, answer.location.as_deref()), (303, Some("/")), "{path}");
    }
    let acknowledge = page.client.post(page.url("/api/v1/studies/1.2.3/acknowledge")).header("x-scanside-request", "1");
    assert_eq!(page.answer(acknowledge, None).await.status, 401);
    // A cookie that somebody made up is none.
    assert_eq!(page.get("/api/v1/studies", Some("__Host-scanside=00ff")).await.status, 401);
}

#[tokio::test]
async fn the_claim_code_opens_the_page_until_somebody_logs_out() {
    let Some(page) = far_page().await else { return };
    let wrong = page.post("/login", "code=2222-2222-2222-2222", None).await;
    assert!(wrong.status == 401 && wrong.cookie.is_none() && wrong.body.contains("not the claim code"));
    let typed = format!("code={}", page.code.to_lowercase().replace('-', "+"));
    let right = page.post("/login", &typed, None).await;
    assert_eq!((right.status, right.location.as_deref()), (303, Some("/")));
    let cookie = right.cookie.expect("a cookie");
    for part in ["__Host-scanside=", "HttpOnly", "SameSite=Strict", "Secure", "Path=/"] {
        assert!(cookie.contains(part), "{part} in {cookie}");
    }
    let cookie = cookie.split(';').next().expect("the pair");
    let overview = page.get("/", Some(cookie)).await.body;
    assert!(overview.contains("SECRET-PACS") && overview.contains("Log out") && overview.contains("in slot B"));
    let status: serde_json::Value = serde_json::from_str(&page.get("/api/v1/status", Some(cookie)).await.body).expect("JSON");
    assert_eq!(status["box"]["slot"], "B");
    assert!(status["box"]["certificate_sha256"].as_str().is_some_and(|text| text.len() >= 64));
    assert_eq!(page.get("/metrics", Some(cookie)).await.status, 200);

    // Another site's page cannot log anybody out.
    let forged = page.client.post(page.url("/logout")).header("content-type", "application/x-www-form-urlencoded");
    let forged = forged.header("origin", "https://evil.example").header("sec-fetch-site", "cross-site");
    assert_eq!(page.answer(forged, Some(cookie)).await.status, 403);
    let out = page.post("/logout", "", Some(cookie)).await;
    assert!(out.status == 303 && out.cookie.is_some_and(|cookie| cookie.contains("Max-Age=0")));
    assert_eq!(page.get("/api/v1/status", Some(cookie)).await.status, 401, "the session is over on the box, too");

    assert_eq!((page.said("LoginFailed"), page.said("LoggedIn")), (1, 1));
    assert!(page.journal.recent().iter().all(|line| !line.text.contains(&page.code) && !line.text.contains("2222")));
}

#[tokio::test]
async fn guessing_is_slowed_down_and_then_even_the_right_code_waits() {
    let Some(page) = far_page().await else { return };
    for n in 0..5 {
        assert_eq!(page.post("/login", &format!("code=guess{n}"), None).await.status, 401);
    }
    let paused = page.post("/login", &format!("code={}", page.code), None).await;
    assert!(paused.status == 429 && paused.cookie.is_none(), "the fifth wrong code brings a pause");
    assert_eq!(paused.retry_after_s, Some(1));
    PAUSED_MS.fetch_add(1200, Ordering::SeqCst);
    assert_eq!(page.post("/login", &format!("code={}", page.code), None).await.status, 303);
}

#[tokio::test]
async fn this_box_itself_needs_no_login() {
    let page = page(IpAddr::from([127, 0, 0, 1])).await;
    assert_eq!(page.get("/api/v1/status", None).await.status, 200);
    assert!(page.get("/", None).await.body.contains("SECRET-PACS"));
}

#[tokio::test]
async fn peers_that_do_not_shake_hands_hold_up_nobody_and_plain_text_is_refused() {
    let page = page(IpAddr::from([127, 0, 0, 1])).await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(page.at).await.expect("connected"));
    }
    let began = Instant::now();
    assert_eq!(page.get("/healthz", None).await.status, 200);
    assert!(began.elapsed() < Duration::from_secs(8), "it did not wait for the others");

    let mut plain = TcpStream::connect(page.at).await.expect("connected");
    plain.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("sent");
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP") && page.said("HandshakeFailed") == 1);

    // The silent ones are let go, and counted.
    let mut first = silent.swap_remove(0);
    let end = tokio::time::timeout(Duration::from_secs(30), first.read_to_end(&mut answer)).await;
    assert!(end.is_ok() && began.elapsed() > Duration::from_secs(5), "after the time for a handshake");
}
