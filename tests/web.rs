//! Promise: the page and the interface for programs show what is, escape everything, and cannot be used by another site's page.
//! A fake store and a status in -> requests over a real socket -> answers looked at.
//!
//! To look at the page: `SCANSIDE_LOOK=127.0.0.1:8099 cargo test --test web the_page_shows` keeps it up for five minutes.

mod support;

use std::sync::Arc;
use std::time::Duration;

use scanside::deliver::verdict_json;
use scanside::domain::*;
use scanside::journal::{Event, Journal, Level};
use scanside::spool::{Acknowledgement, Delivery, StoredVerdict, StudyDetail, StudyState, StudySummary};
use scanside::web::{
    BoxFacts, ModelStatus, NamedText, Probe, Stage, StatusSnapshot, VersionInfo, WebCommand, WebState, WorkItem, serve,
};
use serde_json::Value;
use support::FakeStore;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

/// A measurement of this box as the service would read it.
fn measured() -> scanside::domain::speed::SpeedTable {
    use scanside::domain::speed::{SpeedTable, StageSpeed};
    let stage = |stage: &str, wall_ms| StageSpeed { stage: stage.into(), wall_ms, cpu_ms: wall_ms, peak_bytes: Some(90 << 20) };
    SpeedTable {
        measured_at: WallTime(1_790_000_000_000),
        scanside: "9.9.9".into(),
        target: "aarch64-linux".into(),
        model: "cns-mri 0.3.0 (int8, tract)".into(),
        n_instances: 310,
        n_bytes: 33_000_000,
        n_threads: 2,
        n_runs: 5,
        stages: vec![stage("decode", 30.0), stage("infer", 90.0)],
    }
}

fn now() -> WallTime {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    WallTime(i64::try_from(since.as_millis()).expect("before the year 292 million"))
}

fn ago(seconds: i64) -> WallTime {
    WallTime(now().0 - seconds * 1000)
}

struct Happened(&'static str, Level, &'static str);

impl Event for Happened {
    fn room(&self) -> &'static str {
        "receive"
    }
    fn name(&self) -> &'static str {
        self.0
    }
    fn level(&self) -> Level {
        self.1
    }
    fn text(&self) -> String {
        self.2.to_owned()
    }
}

fn uid(text: &str) -> Uid {
    Uid::try_new(text).expect("a UID")
}

fn identity() -> ModelIdentity {
    ModelIdentity {
        name: "cns-mri".to_owned(),
        version: "0.1.0".to_owned(),
        sha256: "3f".repeat(32),
        engine: "tract".to_owned(),
        precision: "int8".to_owned(),
    }
}

fn verdict(study: &str, kind: VerdictKind, urgency: Option<Urgency>, accession: Option<&str>) -> Verdict {
    let flagged = kind == VerdictKind::Flagged;
    let assessed = kind != VerdictKind::Indeterminate;
    let reason = match kind {
        VerdictKind::Flagged => Reason::new(
            ReasonCode::EnhancingLesion,
            "An enhancing lesion of 27 mm (8.1 ml) stands out at score 0.97, above the operating point of 0.60.",
        ),
        VerdictKind::NotFlagged => {
            Reason::new(ReasonCode::NoFindingAtOperatingPoint, "No component reached the operating point of 0.60.")
        }
        VerdictKind::Indeterminate => Reason::new(
            ReasonCode::MissingRequiredSeries,
            "No T1-weighted series after contrast agent is in the study: send it, or read the study unprioritised.",
        ),
    };
    let finding = Finding {
        id: 1,
        class: "enhancing_lesion",
        score: 0.974_32,
        volume_ml: 8.134,
        max_diameter_mm: 27.31,
        centroid_lps_mm: [12.1, -30.2, 18.0],
        bbox_lps_mm: [[0.0, -42.0, 4.0], [25.5, -18.0, 31.5]],
        measures: vec![("enhancement_ratio", 1.81)],
    };
    let shift = Sign { code: SignCode::MidlineShift, value: 6.23, threshold: Some(5.0), side: Some(Side::Left) };
    let volume = Sign { code: SignCode::VentricleVolume, value: 31.4, threshold: None, side: None };
    let series = |number: u32, role, used, evidence: &[&str]| SeriesUse {
        series_instance_uid: uid(&format!("{study}.{number}")),
        role,
        used,
        evidence: evidence.iter().map(|text| (*text).to_owned()).collect(),
    };
    Verdict {
        study_instance_uid: uid(study),
        accession_number: accession.map(str::to_owned),
        kind,
        urgency,
        score: assessed.then_some(if flagged { 0.974_32 } else { 0.21 }),
        operating_point: assessed.then(|| OperatingPoint {
            inputs: vec![Role::T1Post, Role::Flair],
            voxel_threshold: 0.5,
            brain_threshold: 0.5,
            brain_margin_voxels: 2,
            component_ml_min: 0.2,
            threshold: 0.6,
            sensitivity: 0.95,
            specificity: 0.93,
            source: "synthetic heads, see models/cns-mri/CARD.md".to_owned(),
        }),
        reasons: vec![reason],
        findings: if flagged { vec![finding] } else { Vec::new() },
        signs: if flagged { vec![shift, volume] } else { Vec::new() },
        series: vec![
            series(
                1,
                Role::T1Post,
                assessed,
                &["spoiled gradient echo, TR 8.2 ms, TE 3.2 ms", "contrast agent named in the header"],
            ),
            series(2, Role::Flair, assessed, &["inversion recovery, TI 1800 ms, TE 120 ms"]),
            series(3, Role::Localizer, false, &["three planes, 3 slices each"]),
        ],
        quality: vec![QualityNote {
            code: "uneven-spacing",
            text: "Slices of the FLAIR series lie 4.0 to 4.4 mm apart.".to_owned(),
            severity: Severity::Warning,
        }],
        model: assessed.then(identity),
        closed_because: ClosedBecause::RequiredRolesComplete,
        provisional: false,
        supersedes: None,
        decided_at: ago(40),
        timing: TimingMs { prepare: 812, infer: 4380, total: 5204, last_instance_to_alert: Some(5931) },
    }
}

fn detail(verdict: Option<&Verdict>, study: &str, received_s_ago: i64, open: bool) -> StudyDetail {
    let summary = StudySummary {
        study_instance_uid: uid(study),
        accession_number: verdict.and_then(|v| v.accession_number.clone()),
        n_instances: 216,
        n_conflicts: 0,
        state: if verdict.is_some() { StudyState::Concluded } else { StudyState::Pending },
        verdict: verdict.map(|v| v.kind),
        urgency: verdict.and_then(|v| v.urgency),
        standing_urgency: verdict.and_then(|v| v.urgency),
        score: verdict.and_then(|v| v.score),
        provisional: verdict.is_some_and(|v| v.provisional),
        verdict_number: verdict.map(|_| 7),
        decided_at: verdict.map(|_| ago(received_s_ago - 40)),
        received_at: ago(received_s_ago),
        last_received_at: ago(received_s_ago - 30),
        evicted_at: None,
        needs_acknowledgement: open,
        acknowledged_by: None,
        acknowledged_at: None,
        n_notices_waiting: 0,
    };
    let verdicts = verdict.map(|v| StoredVerdict {
        number: 7,
        supersedes: None,
        kind: v.kind,
        urgency: v.urgency,
        score: v.score,
        provisional: v.provisional,
        n_instances: 216,
        decided_at: ago(received_s_ago - 40),
        json: verdict_json::to_json(v),
    });
    let delivery = Delivery {
        verdict_number: 7,
        channel: "webhook:0".to_owned(),
        attempts: 1,
        created_at: ago(received_s_ago - 40),
        delivered_at: Some(ago(received_s_ago - 43)),
        last_error: None,
        stale: false,
    };
    let deliveries = if verdict.is_some() { vec![delivery] } else { Vec::new() };
    StudyDetail { summary, verdicts: verdicts.into_iter().collect(), deliveries, acknowledgements: Vec::new() }
}

const HOSTILE: &str = "<script>alert(1)</script>\"'&";

fn some_studies() -> Vec<StudyDetail> {
    use VerdictKind::{Flagged, Indeterminate, NotFlagged};
    let mut acknowledged = detail(
        Some(&verdict("1.2.826.0.1.3680043.10.1.4", Flagged, Some(Urgency::Suspicious), Some("A-20419"))),
        "1.2.826.0.1.3680043.10.1.4",
        5400,
        false,
    );
    acknowledged.summary.acknowledged_by = Some("Dr Osei".to_owned());
    acknowledged.summary.acknowledged_at = Some(ago(5000));
    acknowledged.acknowledgements.push(Acknowledgement { by: "Dr Osei".to_owned(), at: ago(5000), verdict_number: 7 });
    vec![
        detail(None, "1.2.826.0.1.3680043.10.1.9", 12, false),
        detail(
            Some(&verdict("1.2.826.0.1.3680043.10.1.8", NotFlagged, None, Some(HOSTILE))),
            "1.2.826.0.1.3680043.10.1.8",
            900,
            false,
        ),
        detail(Some(&verdict("1.2.826.0.1.3680043.10.1.7", Indeterminate, None, None)), "1.2.826.0.1.3680043.10.1.7", 1500, true),
        detail(
            Some(&verdict("1.2.826.0.1.3680043.10.1.6", Flagged, Some(Urgency::Critical), Some("A-20422"))),
            "1.2.826.0.1.3680043.10.1.6",
            80,
            true,
        ),
        acknowledged,
    ]
}

fn good_status(lamp: Lamp) -> StatusSnapshot {
    let named = |name: &str, text: &str| NamedText { name: name.to_owned(), text: text.to_owned() };
    let probe = |name: &str, value: f64, unit: &str| Probe {
        name: name.to_owned(),
        value: Some(value),
        unit: unit.to_owned(),
        age_ms: 700,
        stale: false,
    };
    StatusSnapshot {
        at: now(),
        ready: true,
        lamp,
        device_state: DeviceState::Ready,
        notices: vec![named(
            "dicom.listen",
            "DICOM on 10.0.0.7:104 is plain text: whoever shares this network segment can read the images.",
        )],
        addresses: vec![
            named("listens on 10.0.0.7:104", "DICOM studies from scanners"),
            named("calls alerts.hospital.example", "alerts, channel webhook:0"),
        ],
        ae_title: "SCANSIDE".to_owned(),
        board: "sim".to_owned(),
        model: Some(ModelStatus {
            name: "cns-mri".to_owned(),
            version: "0.1.0".to_owned(),
            sha256: "3f".repeat(32),
            engine: "tract".to_owned(),
            precision: "int8".to_owned(),
            self_test_passed: true,
            operating_points: vec![
                "t1_post + flair: score 0.60, sensitivity 95 %, specificity 93 % (synthetic heads)".to_owned(),
            ],
        }),
        version: VersionInfo { scanside: "0.1.0".to_owned(), target: "x86_64-linux".to_owned() },
        uptime_s: 93_000,
        probes: vec![
            probe("cpu_load_percent", 31.0, "%"),
            probe("temperature_celsius", 58.5, "\u{b0}C"),
            probe("memory_free_mib", 2911.0, "MiB"),
        ],
        n_associations: 1,
        work: vec![WorkItem {
            study_instance_uid: uid("1.2.826.0.1.3680043.10.1.9"),
            n_instances: 143,
            stage: Stage::Receiving,
            since_ms: 12_400,
        }],
        spool_bytes: 4_800_000_000,
        spool_bytes_max: 21_474_836_480,
        spool_free_bytes: 88_000_000_000,
        spool_n_instances: 9216,
        studies_revision: 12,
        ..StatusSnapshot::default()
    }
}

struct Box_ {
    base: String,
    address: std::net::SocketAddr,
    store: Arc<FakeStore>,
    status: watch::Sender<StatusSnapshot>,
    commands: mpsc::Receiver<WebCommand>,
    journal: Journal,
    stop: watch::Sender<bool>,
    client: reqwest::Client,
}

async fn serving(status: StatusSnapshot) -> Box_ {
    let at = std::env::var("SCANSIDE_LOOK").unwrap_or_else(|_| "127.0.0.1:0".to_owned());
    let listener = TcpListener::bind(at).await.expect("loopback");
    let address = listener.local_addr().expect("bound");
    let store = Arc::new(FakeStore::default());
    *store.studies.lock().expect("fresh") = some_studies();
    let (status, watching) = watch::channel(status);
    let (sender, commands) = mpsc::channel(4);
    let (stop, stopping) = watch::channel(false);
    let journal = Journal::new(now);
    journal.record(&Happened("AssociationAccepted", Level::Info, "Association 4 from MR1 at 10.0.0.21."));
    journal.record(&Happened(
        "AssociationRejected",
        Level::Warn,
        "Association from 10.0.0.99 rejected: calling AE title \"WS7\" is not in dicom.calling_ae_titles.",
    ));
    journal.record(&Happened("DiskFailed", Level::Error, "Alert 12 to webhook:0 failed: no connection; next attempt in 4.1 s."));
    let state = WebState {
        store: store.clone(),
        status: watching,
        journal: journal.clone(),
        commands: sender,
        host_names: vec!["triage.hospital.example".to_owned()],
        speed: std::sync::Arc::new(|| Some(measured())),
        login: None,
        facts: std::sync::Arc::new(BoxFacts::default),
        clock: now,
    };
    tokio::spawn(serve(listener, state, stopping));
    scanside::deliver::install_crypto_provider();
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().expect("a client");
    Box_ { base: format!("http://{address}"), address, store, status, commands, journal, stop, client }
}

impl Box_ {
    async fn get(&self, path: &str) -> (u16, reqwest::header::HeaderMap, String) {
        let response = self.client.get(format!("{}{path}", self.base)).send().await.expect("an answer");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        (status, headers, response.text().await.expect("a body"))
    }

    async fn json(&self, path: &str) -> Value {
        let (status, _, body) = self.get(path).await;
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).expect("JSON")
    }

    async fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.expect("connected");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
        String::from_utf8_lossy(&answer).into_owned()
    }
}

#[tokio::test]
async fn the_page_shows_lamp_state_studies_and_the_statement_and_escapes_what_peers_sent() {
    let lamp = match std::env::var("SCANSIDE_LOOK_LAMP").as_deref() {
        Ok("fault") => Lamp::Fault,
        Ok("ready") => Lamp::Ready,
        Ok("degraded") => Lamp::Degraded,
        _ => Lamp::Critical,
    };
    let mut status = good_status(lamp);
    if matches!(lamp, Lamp::Fault | Lamp::Degraded) {
        status.conditions.push(DeviceCondition::AlertsUndelivered);
        if lamp == Lamp::Fault {
            status.conditions.push(DeviceCondition::ModelUnusable);
        }
        status.device_state = DeviceState::of(&status.conditions);
    }
    let mut it = serving(status).await;
    let (code, headers, page) = it.get("/").await;
    assert_eq!(code, 200);
    if lamp == Lamp::Critical {
        assert!(page.contains("data-lamp=\"critical\"") && page.contains("Call the radiologist now."));
    }
    assert!(page.contains("it does not diagnose") && page.contains("not flagged is not reported as normal"));
    assert!(page.contains("lang=\"en\"") && page.contains("An enhancing lesion of 27 mm"));
    assert!(!page.contains(HOSTILE) && page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "patients' data is escaped");
    assert!(!page.contains("style=") && !page.contains("onclick"), "nothing inline");
    let first = page.find("A-20422").expect("the critical study");
    let second = page.find("No T1-weighted series").expect("the indeterminate one");
    assert!(first < second && second < page.find("A-20419").expect("the acknowledged one"), "what waits for people stands first");
    let policy = headers.get("content-security-policy").expect("a policy").to_str().expect("text");
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"));
    assert_eq!(headers.get("x-content-type-options").expect("set"), "nosniff");
    if std::env::var("SCANSIDE_LOOK").is_ok() {
        for _ in 0..600 {
            it.status.send_modify(|status| status.at = now());
            while let Ok(WebCommand::Acknowledge { study, by, reply }) = it.commands.try_recv() {
                for kept in it.store.studies.lock().expect("fine").iter_mut().filter(|s| s.summary.study_instance_uid == study) {
                    kept.summary.needs_acknowledgement = false;
                    kept.summary.acknowledged_by = Some(by.clone());
                    kept.summary.acknowledged_at = Some(now());
                }
                it.status.send_modify(|status| status.studies_revision += 1);
                let _ = reply.send(Ok(true));
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

#[tokio::test]
async fn page_and_status_show_the_measured_speed_of_the_box_and_how_to_measure_it() {
    let here = serving(good_status(Lamp::Ready)).await;
    let (_, _, page) = here.get("/").await;
    for shown in ["Speed of this box", "120 ms", "310 images", "cns-mri 0.3.0", "75 %"] {
        assert!(page.contains(shown), "{shown} is missing");
    }
    let speed = &here.json("/api/v1/status").await["speed"];
    assert_eq!((speed["total_ms"].as_f64(), speed["stages"][1]["stage"].as_str()), (Some(120.0), Some("infer")));
}

#[tokio::test]
async fn a_study_page_shows_reasons_sizes_roles_and_deliveries() {
    let it = serving(good_status(Lamp::Critical)).await;
    let (code, _, page) = it.get("/studies/1.2.826.0.1.3680043.10.1.6").await;
    assert_eq!(code, 200);
    for text in [
        "flagged, critical",
        "27.3 mm",
        "8.13 ml",
        "t1 post",
        "TI 1800 ms",
        "uneven-spacing",
        "webhook:0",
        "sensitivity 95 %",
        "Midline shift to the patient's left",
        "6.2 mm",
        "5.0 mm",
        "at or above",
        "Volume of the lateral ventricles",
        "31.4 ml",
    ] {
        assert!(page.contains(text), "{text} is missing");
    }
    assert_eq!(it.get("/studies/1.2.3.4").await.0, 404);
    for bad in ["/studies/..%2f..%2fetc%2fpasswd", "/studies/1.2'%20OR%201=1", "/studies/%3Cscript%3E"] {
        let (code, _, page) = it.get(bad).await;
        assert!(code == 400 && !page.contains("<script>"), "{bad}: {code}");
    }
}

#[tokio::test]
async fn a_provisional_verdict_is_marked_on_the_pages_and_for_programs() {
    let study = "1.2.826.0.1.3680043.10.1.3";
    let mut early = verdict(study, VerdictKind::NotFlagged, None, Some("A-20430"));
    (early.provisional, early.closed_because) = (true, ClosedBecause::RequiredSeriesArrived);
    let it = serving(good_status(Lamp::Ready)).await;
    let mut kept = detail(Some(&early), study, 30, false);
    kept.summary.state = StudyState::Pending;
    it.store.studies.lock().expect("fine").push(kept);
    let (_, _, list) = it.get("/").await;
    assert!(list.contains("provisional: more images are expected"), "the list");
    let (_, _, page) = it.get(&format!("/studies/{study}")).await;
    assert!(
        page.contains("it never ranks lower") && page.contains("Provisional verdict 7") && page.contains("Read ahead because")
    );
    let flags: Vec<Value> =
        it.json("/api/v1/studies").await.as_array().expect("a list").iter().map(|s| s["provisional"].clone()).collect();
    assert_eq!(flags.iter().filter(|flag| **flag == Value::Bool(true)).count(), 1);
    assert!(flags.contains(&Value::Null) && flags.contains(&Value::Bool(false)), "null before any verdict");
    let one = it.json(&format!("/api/v1/studies/{study}")).await;
    assert_eq!(
        (&one["provisional"], &one["verdict"]["provisional"], &one["verdicts"][0]["provisional"]),
        (&true.into(), &true.into(), &true.into())
    );
    let (_, _, other) = it.get("/studies/1.2.826.0.1.3680043.10.1.6").await;
    assert!(!other.to_lowercase().contains("provisional"));
}

#[tokio::test]
async fn programs_read_status_studies_and_one_study() {
    let it = serving(good_status(Lamp::Ready)).await;
    let status = it.json("/api/v1/status").await;
    assert_eq!((&status["lamp"], &status["device_state"]), (&"ready".into(), &"ready".into()));
    assert_eq!(status["versions"]["model"]["name"], "cns-mri");
    let studies = it.json("/api/v1/studies").await;
    let list = studies.as_array().expect("a list");
    assert_eq!(list.len(), 5);
    for key in ["study_instance_uid", "n_instances", "state", "verdict", "urgency", "received_at"] {
        assert!(list.iter().all(|study| study.get(key).is_some()), "{key}");
    }
    let study = it.json("/api/v1/studies/1.2.826.0.1.3680043.10.1.6").await;
    assert_eq!(study["verdict"]["schema"], "scanside.verdict/1");
    assert_eq!(study["verdict"]["findings"][0]["volume_ml"], 8.13);
    assert_eq!(study["series"][0]["role"], "t1_post");
    assert_eq!(study["deliveries"][0]["channel"], "webhook:0");
    assert!(study["timeline"].as_array().is_some_and(|timeline| timeline.len() >= 4));
    assert_eq!(it.get("/api/v1/studies/1.2.3").await.0, 404);
    assert_eq!(it.get("/api/v1/studies/x").await.0, 400);
}

#[tokio::test]
async fn health_turns_to_503_with_causes_when_the_box_is_faulty_or_silent() {
    let it = serving(StatusSnapshot::default()).await;
    let (code, _, body) = it.get("/healthz").await;
    assert!(code == 503 && body.contains("starting"), "{code} {body}");
    it.status.send_replace(good_status(Lamp::Ready));
    assert_eq!(it.get("/healthz").await.0, 200);
    let mut degraded = good_status(Lamp::Degraded);
    degraded.conditions = vec![DeviceCondition::AlertsUndelivered];
    degraded.device_state = DeviceState::Degraded;
    it.status.send_replace(degraded);
    assert_eq!(it.get("/healthz").await.0, 200, "degraded still works");
    let mut faulty = good_status(Lamp::Fault);
    faulty.conditions = vec![DeviceCondition::DiskFull];
    faulty.device_state = DeviceState::Fault;
    it.status.send_replace(faulty);
    let (code, _, body) = it.get("/healthz").await;
    assert!(code == 503 && body.contains("disk-full") && body.contains("free space"), "{code} {body}");
    it.status.send_replace(StatusSnapshot { at: ago(60), ..good_status(Lamp::Ready) });
    let (code, _, body) = it.get("/healthz").await;
    assert!(code == 503 && body.contains("probe-silent"), "old data is never fresh data: {code} {body}");
    assert_eq!(it.json("/api/v1/status").await["lamp"], "fault");
}

#[tokio::test]
async fn metrics_count_events_and_carry_no_uid() {
    let it = serving(good_status(Lamp::Ready)).await;
    let (code, headers, body) = it.get("/metrics").await;
    assert_eq!(code, 200);
    assert!(headers["content-type"].to_str().expect("text").starts_with("text/plain; version=0.0.4"));
    assert!(body.contains("scanside_events_total{room=\"receive\",event=\"AssociationAccepted\"} 1"));
    assert!(body.contains("scanside_lamp{state=\"ready\"} 1") && body.contains("scanside_box_temperature_celsius 58.5"));
    assert!(!body.contains("1.2.826"), "no UID in metrics");
}

#[tokio::test]
async fn acknowledging_tells_the_service_who_it_was() {
    let mut it = serving(good_status(Lamp::Critical)).await;
    let url = format!("{}/api/v1/studies/1.2.826.0.1.3680043.10.1.6/acknowledge", it.base);
    let post = |body: &'static str| it.client.post(&url).header("X-Scanside-Request", "1").body(body).send();
    let (answer, command) = tokio::join!(post("{\"by\": \"Dr Osei\"}"), async {
        let WebCommand::Acknowledge { study, by, reply } = it.commands.recv().await.expect("a command");
        reply.send(Ok(true)).expect("waited for");
        (study, by)
    });
    assert_eq!(answer.expect("an answer").status().as_u16(), 200);
    assert_eq!((command.0.as_str(), command.1.as_str()), ("1.2.826.0.1.3680043.10.1.6", "Dr Osei"));
    let (answer, by) = tokio::join!(post(""), async {
        let WebCommand::Acknowledge { by, reply, .. } = it.commands.recv().await.expect("a command");
        reply.send(Ok(false)).expect("waited for");
        by
    });
    assert_eq!(answer.expect("an answer").status().as_u16(), 409, "nothing to acknowledge");
    assert_eq!(by, "web 127.0.0.1");
    let (answer, ()) = tokio::join!(post(""), async {
        let WebCommand::Acknowledge { reply, .. } = it.commands.recv().await.expect("a command");
        reply.send(Err("the disk is on strike".to_owned())).expect("waited for");
    });
    let answer = answer.expect("an answer");
    assert_eq!(answer.status().as_u16(), 503);
    assert!(answer.text().await.expect("a body").contains("press the button on the box"));
    it.commands.close();
    assert_eq!(post("").await.expect("an answer").status().as_u16(), 503);
}

#[tokio::test]
async fn another_sites_page_can_neither_read_by_rebinding_nor_acknowledge() {
    let mut it = serving(good_status(Lamp::Critical)).await;
    let answer = it.raw("GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 421") && !answer.contains("A-20422"), "{answer}");
    let answer = it.raw("GET / HTTP/1.1\r\nHost: triage.hospital.example\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "a configured name is fine");
    let path = "/api/v1/studies/1.2.826.0.1.3680043.10.1.6/acknowledge";
    for headers in [
        "Content-Type: text/plain\r\n",
        "Content-Type: application/x-www-form-urlencoded\r\n",
        "X-Scanside-Request: 1\r\nOrigin: http://evil.example\r\n",
        "Content-Type: application/json\r\nSec-Fetch-Site: cross-site\r\n",
    ] {
        let request =
            format!("POST {path} HTTP/1.1\r\nHost: {}\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n", it.address);
        let answer = it.raw(&request).await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{headers}: {answer}");
    }
    assert!(it.commands.try_recv().is_err(), "the service heard nothing of it");
    assert!(it.journal.counts().iter().any(|(_, name, n)| *name == "ForeignRequestRefused" && *n == 4));
}

#[tokio::test]
async fn bodies_and_headers_are_bounded() {
    let it = serving(good_status(Lamp::Ready)).await;
    let url = format!("{}/api/v1/studies/1.2.3/acknowledge", it.base);
    let answer =
        it.client.post(&url).header("X-Scanside-Request", "1").body("x".repeat(100_000)).send().await.expect("an answer");
    assert_eq!(answer.status().as_u16(), 413);
    let request = format!("GET / HTTP/1.1\r\nHost: {}\r\nX: {}\r\n\r\n", it.address, "y".repeat(2_000_000));
    let answer = it.raw(&request).await;
    assert!(!answer.contains(" 200 "), "a header of 2 MB is not taken");
    assert_eq!(it.get("/healthz").await.0, 200, "and others are served");
}

#[tokio::test]
async fn a_failing_store_is_said_and_the_rest_of_the_page_stands() {
    let it = serving(good_status(Lamp::Ready)).await;
    it.store.failing.store(true, std::sync::atomic::Ordering::SeqCst);
    let (code, _, page) = it.get("/").await;
    assert!(code == 200 && page.contains("The store cannot be asked") && page.contains("data-lamp"));
    assert_eq!(it.get("/api/v1/studies").await.0, 503);
    assert_eq!(it.get("/studies/1.2.826.0.1.3680043.10.1.6").await.0, 503);
}

#[tokio::test]
async fn the_event_stream_tells_of_a_new_lamp_and_ends_with_the_service() {
    let it = serving(good_status(Lamp::Ready)).await;
    let mut stream = it.client.get(format!("{}/events", it.base)).send().await.expect("a stream");
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    let mut heard = String::new();
    let patience = Duration::from_secs(10);
    let listen = async {
        while !heard.contains("\"lamp\":\"critical\"") {
            let chunk = stream.chunk().await.expect("an open stream").expect("more to come");
            heard.push_str(&String::from_utf8_lossy(&chunk));
            if heard.contains("\"lamp\":\"ready\"") {
                it.status.send_replace(good_status(Lamp::Critical));
            }
        }
    };
    tokio::time::timeout(patience, listen).await.expect("told in time");
    it.stop.send_replace(true);
    let ends = async { while let Ok(Some(_)) = stream.chunk().await {} };
    tokio::time::timeout(patience, ends).await.expect("the stream ends at shutdown");
}

#[tokio::test]
async fn one_page_too_many_is_told_to_come_back() {
    let it = serving(good_status(Lamp::Ready)).await;
    let mut streams = Vec::new();
    for _ in 0..32 {
        streams.push(it.client.get(format!("{}/events", it.base)).send().await.expect("a stream"));
    }
    let (code, headers, _) = it.get("/events").await;
    assert_eq!(code, 503);
    assert!(headers.contains_key("retry-after"));
    drop(streams);
    tokio::time::timeout(Duration::from_secs(10), async {
        while it.client.get(format!("{}/events", it.base)).send().await.expect("an answer").status().as_u16() != 200 {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
    .await
    .expect("places of closed pages are free again");
}
