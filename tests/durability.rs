//! The promise "acknowledged means durable" under kill -9: a child process stores instances until it is killed, and everything that it
//! had said was stored must be there, whole, when the store is opened again. (Power cuts are simulated in the spool's own tests.)
//!
//! The child is this test program itself: it runs `the_child_stores_until_it_is_killed` with a state folder in its environment.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use scanside::domain::{Acquisition, InstanceHeader, Monotonic, Uid, VerdictKind, WallTime};
use scanside::journal::Journal;
use scanside::spool::{Committed, InstanceSink, Notice, Spool, SpoolError, SpoolOptions, Store, VerdictRecord};

const STATE_DIR: &str = "SCANSIDE_TEST_DURABILITY_DIR";
const ROUND: &str = "SCANSIDE_TEST_DURABILITY_ROUND";
const THREADS: u64 = 4;
const ROUNDS: u64 = 24;

fn clock() -> WallTime {
    WallTime(1_760_000_000_000)
}

fn uid(text: &str) -> Uid {
    Uid::try_new(text).expect("a UID")
}

fn header(study: &str, sop: &str) -> InstanceHeader {
    InstanceHeader {
        study_instance_uid: uid(study),
        series_instance_uid: uid("1.2.9"),
        sop_instance_uid: uid(sop),
        sop_class_uid: uid("1.2.840.10008.5.1.4.1.1.4"),
        transfer_syntax_uid: uid("1.2.840.10008.1.2.1"),
        accession_number: None,
        modality: "MR".to_owned(),
        body_part: None,
        image_type: Vec::new(),
        series_description: None,
        protocol_name: None,
        manufacturer: None,
        series_number: None,
        instance_number: None,
        frame_of_reference_uid: None,
        n_rows: 0,
        n_columns: 0,
        n_frames: 1,
        samples_per_pixel: 1,
        bits_allocated: 16,
        has_pixel_data: false,
        is_mosaic: false,
        concatenation: None,
        acquisition: Acquisition::default(),
        frames: Vec::new(),
    }
}

fn open(dir: &Path) -> Result<Spool, SpoolError> {
    let options = SpoolOptions { bytes_max: 1 << 30, free_bytes_min: 0, instance_bytes_max: 1 << 26, ..SpoolOptions::default() };
    Spool::open(dir, options, Journal::new(clock), clock)
}

/// The bytes of instance `n` of `thread` in `round`: its own length first, so that a cut file betrays itself.
fn content(round: u64, thread: u64, n: u64) -> Vec<u8> {
    let n_bytes = 40_000 + (round * 7919 + thread * 104_729 + n * 1299) % 60_000;
    let seed = n_bytes ^ (thread << 32) ^ (n << 40) ^ (round << 52);
    let words = std::iter::successors(Some(seed | 1), |x| Some(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(n_bytes)));
    let mut bytes = n_bytes.to_le_bytes().to_vec();
    bytes.extend(words.flat_map(u64::to_le_bytes).take(usize::try_from(n_bytes).expect("small") - 8));
    bytes
}

/// Whether the file holds as many bytes as it says.
fn is_whole(path: &Path) -> bool {
    let bytes = std::fs::read(path).expect("readable");
    bytes.first_chunk().is_some_and(|head| usize::try_from(u64::from_le_bytes(*head)) == Ok(bytes.len()))
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(here) = open.pop() {
        for entry in std::fs::read_dir(here).expect("lists") {
            let path = entry.expect("entry").path();
            if path.is_dir() { open.push(path) } else { found.push(path) }
        }
    }
    found
}

/// One line to the parent, after the fact that it tells.
fn say(out: &Mutex<std::io::Stdout>, line: &str) {
    let mut out = out.lock().expect("lock");
    let _ = out.write_all(format!("\n{line}\n").as_bytes());
    let _ = out.flush();
}

#[test]
fn the_child_stores_until_it_is_killed() {
    let (Ok(dir), Ok(round)) = (std::env::var(STATE_DIR), std::env::var(ROUND)) else {
        return; // run by the parent test alone
    };
    let round: u64 = round.parse().expect("a number");
    let spool = open(Path::new(&dir)).expect("opens");
    let out = Mutex::new(std::io::stdout());
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (spool, out) = (spool.clone(), &out);
            scope.spawn(move || {
                let study = format!("1.{round}.{thread}");
                // Ends by itself should the parent be gone: nobody is left to kill it.
                for n in 0..2_000 {
                    let sop = format!("{study}.{n}");
                    let mut incoming = spool.begin().expect("begins");
                    for part in content(round, thread, n).chunks(16_000) {
                        incoming.write(part).expect("writes");
                    }
                    let stored = incoming.commit(header(&study, &sop), thread, Monotonic(n)).expect("stored");
                    assert!(matches!(stored, Committed::New(_)));
                    say(out, &format!("stored {round} {thread} {n}"));
                    if n % 2 == 1 {
                        let record = VerdictRecord {
                            study_instance_uid: uid(&study),
                            accession_number: None,
                            kind: VerdictKind::NotFlagged,
                            urgency: None,
                            score: None,
                            json: "{}".to_owned(),
                            n_instances: 0,
                            provisional: false,
                            decided_at: clock(),
                        };
                        let notice = Notice { channel: "webhook:0".to_owned(), idempotency_key: sop, body: "b".to_owned() };
                        let number = spool.record_verdict(&record, &[notice]).expect("kept");
                        say(out, &format!("verdict {number} {study}"));
                    }
                }
            });
        }
    });
}

fn start_child(dir: &Path, round: u64) -> Child {
    Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "the_child_stores_until_it_is_killed", "--nocapture", "--test-threads=1"])
        .env(STATE_DIR, dir)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("starts")
}

/// Runs a child, kills it `wait` after its first answer, and returns every line that it had said.
fn run_and_kill(dir: &Path, round: u64, wait: Duration) -> Vec<String> {
    let mut child = start_child(dir, round);
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut said = Vec::new();
    for line in lines.by_ref().map_while(Result::ok) {
        let first = line.starts_with("stored");
        said.push(line);
        if first {
            break;
        }
    }
    std::thread::sleep(wait);
    child.kill().expect("killed");
    child.wait().expect("reaped");
    // What lies in the pipe was said before it died; a last line without its end is no answer, and parsing drops it.
    said.extend(lines.map_while(Result::ok));
    said
}

#[test]
fn nothing_that_was_answered_is_lost_or_torn_by_kill_9() {
    let dir = tempfile::tempdir().expect("folder");
    let (mut answered, mut verdicts): (BTreeMap<String, Vec<u8>>, BTreeMap<u64, String>) = Default::default();
    let (mut n_swept, mut slowest) = (0, Duration::ZERO);
    for round in 0..ROUNDS {
        // Spread over the work of several group commits; the times are arbitrary, the instants that they hit are random.
        let wait = Duration::from_micros(500 + (round * 37_813) % 200_000);
        for line in run_and_kill(dir.path(), round, wait) {
            match line.split(' ').collect::<Vec<_>>().as_slice() {
                ["stored", r, t, n] => {
                    let number = |text: &str| text.parse::<u64>().expect("a number");
                    answered.insert(format!("1.{r}.{t}.{n}"), content(number(r), number(t), number(n)));
                }
                ["verdict", number, study] => {
                    verdicts.insert(number.parse().expect("a number"), (*study).to_owned());
                }
                _ => {}
            }
        }
        for path in files_below(&dir.path().join("instances")) {
            assert!(is_whole(&path), "round {round}: a partial file under a final name");
        }
        n_swept += files_below(&dir.path().join("incoming")).len();
        let started = Instant::now();
        let spool = open(dir.path()).expect("opens after the kill");
        slowest = slowest.max(started.elapsed());
        assert_eq!(files_below(&dir.path().join("incoming")).len(), 0, "round {round}: incoming is swept");
        let pending = spool.pending().expect("pending");
        let stored: BTreeMap<&str, &PathBuf> = pending.iter().map(|r| (r.sop_instance_uid.as_str(), &r.path)).collect();
        assert_eq!(stored.len(), files_below(&dir.path().join("instances")).len(), "round {round}: every file has a row");
        for (sop, content) in &answered {
            let path = stored.get(sop.as_str()).unwrap_or_else(|| panic!("round {round}: {sop} was answered and is lost"));
            assert!(std::fs::read(path).is_ok_and(|bytes| bytes == *content), "round {round}: {sop} is torn");
        }
        let waiting = spool.outbox_due(clock(), usize::MAX).expect("due");
        for (number, study) in &verdicts {
            let detail = spool.study(&uid(study)).expect("read").expect("there");
            assert!(detail.verdicts.iter().any(|verdict| verdict.number == *number), "round {round}: verdict {number} is lost");
            assert!(waiting.iter().any(|entry| entry.verdict_number == *number), "round {round}: its notice is lost");
        }
    }
    assert!(answered.len() as u64 > ROUNDS, "the children did their work: {} answers", answered.len());
    assert!(!verdicts.is_empty());
    assert!(n_swept > 0, "at least one kill hit an instance on its way");
    assert!(slowest < Duration::from_secs(30), "a start has three minutes for everything, and opening took {slowest:?}");
}
