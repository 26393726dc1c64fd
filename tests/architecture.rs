//! A promise to whoever maintains scanside: the rooms keep to the table of ARCHITECTURE.md, and every file says what it holds.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn source_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Path below `src` and text of each source file.
fn source_files() -> Vec<(String, String)> {
    fn walk(dir: &Path, files: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(dir).expect("src is readable").flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, files);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let relative = path.strip_prefix(source_root()).expect("below src").to_string_lossy().into_owned();
                files.push((relative, fs::read_to_string(&path).expect("source is text")));
            }
        }
    }
    let mut files = Vec::new();
    walk(&source_root(), &mut files);
    assert!(files.len() > 30, "the walk found the sources");
    files
}

fn room_of(path: &str) -> &str {
    path.split('/').next().unwrap_or(path)
}

/// The part of a file that ships: everything before its test module; comments do not count.
fn shipped_code(text: &str) -> String {
    let end = text.find("#[cfg(test)]\nmod ").unwrap_or(text.len());
    text[..end].lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Whether code names the crate `name`.
fn uses(code: &str, name: &str) -> bool {
    // A whole name: `ort::` does not stand in `support::`.
    let is_whole = |at: usize| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
    let named = code.match_indices(&format!("{name}::")).any(|(at, _)| is_whole(at));
    named || [";", " as "].iter().any(|end| code.contains(&format!("use {name}{end}")))
}

/// Names of the dependencies of a package, as they stand in code.
fn dependencies(manifest: &Path) -> Vec<String> {
    let text = fs::read_to_string(manifest).expect("manifest is text");
    let table: toml::Table = text.parse().expect("manifest is TOML");
    table["dependencies"].as_table().expect("a table").keys().map(|name| name.replace('-', "_")).collect()
}

#[test]
fn every_source_file_opens_with_what_it_holds() {
    let silent: Vec<_> = source_files()
        .into_iter()
        .filter(|(_, text)| text.lines().next().is_none_or(|line| !line.starts_with("//! ") || line.len() < 20))
        .map(|(path, _)| path)
        .collect();
    assert!(silent.is_empty(), "these files do not open with `//!` and what they hold: {silent:?}");
}

#[test]
fn a_room_imports_only_the_rooms_that_the_table_allows() {
    let pure = &["domain"][..];
    let allowed: BTreeMap<&str, &[&str]> = [
        ("domain", &[][..]),
        ("receive", &["domain", "spool", "journal", "secure"]),
        ("secure", &["domain", "journal"]),
        ("spool", &["domain", "journal"]),
        ("assemble", pure),
        ("triage", pure),
        ("signal", pure),
        ("prepare", &["domain", "spool"]),
        ("infer", pure),
        ("deliver", &["domain", "spool", "board", "journal"]),
        ("board", pure),
        ("health", &["domain", "journal"]),
        ("journal", pure),
        ("web", &["domain", "journal", "config", "secure", "spool"]),
        ("config", pure),
        ("synth", pure),
    ]
    .into();
    let mut faults = Vec::new();
    for (path, text) in source_files() {
        let room = room_of(&path);
        let Some(may) = allowed.get(room) else { continue };
        for (number, line) in shipped_code(&text).lines().enumerate() {
            for (at, _) in line.match_indices("crate::") {
                let other: String =
                    line[at + "crate::".len()..].chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
                if !other.is_empty() && other != room && !may.contains(&other.as_str()) {
                    faults.push(format!("{path}: line {} of its code: {room} imports {other}", number + 1));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_third_party_crate_stays_in_its_room() {
    // Crate name as it stands in code -> where it may stand (prefixes of the path below src).
    let homes: &[(&str, &[&str])] = &[
        ("tract_onnx", &["infer/engine_tract"]),
        ("ort", &["infer/engine_ort.rs"]),
        ("tract_qconv", &["infer/"]),
        ("rppal", &["board/rpi.rs"]),
        ("gpiocdev", &["board/gpiochip.rs"]),
        ("dicom_ul", &["receive/", "deliver/"]),
        ("dicom_object", &["prepare/", "receive/", "synth/"]),
        ("dicom_parser", &["prepare/"]),
        ("rusqlite", &["spool/"]),
        ("reqwest", &["deliver/"]),
        ("mqtt_protocol_core", &["deliver/mqtt/link.rs"]),
        ("rustls", &["secure/", "receive/", "deliver/"]),
        ("tokio_rustls", &["receive/", "deliver/", "web/stream.rs"]),
        ("rcgen", &["secure/identity.rs"]),
        ("x509_parser", &["secure/"]),
        ("listenfd", &["service/sockets.rs"]),
        ("axum", &["web/"]),
        ("maud", &["web/"]),
        ("sysinfo", &["health/"]),
        ("sd_notify", &["health/"]),
        ("scanside_lamp", &["domain/device.rs", "board/"]),
        ("tracing_journald", &["journal/"]),
        ("clap", &["cli/", "main.rs"]),
    ];
    let mut faults = Vec::new();
    for (path, text) in source_files() {
        let code = shipped_code(&text);
        for (name, places) in homes {
            if uses(&code, name) && !places.iter().any(|place| path.starts_with(place)) {
                faults.push(format!("src/{path} uses {name}, which belongs in {places:?}"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The fuzz targets are built on nightly alone, far from `cargo test`: what a fuzzed file newly imports would be missed there until CI.
#[test]
fn the_fuzz_targets_list_every_crate_that_their_files_use() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (ours, theirs) = (dependencies(&root.join("Cargo.toml")), dependencies(&root.join("fuzz/Cargo.toml")));
    let lists: Vec<_> = fs::read_dir(root.join("fuzz/src")).expect("readable").flatten().map(|entry| entry.path()).collect();
    let taken: Vec<String> = lists
        .iter()
        .flat_map(|list| fs::read_to_string(list).expect("text").lines().map(str::to_owned).collect::<Vec<_>>())
        .filter_map(|line| {
            Some(line.strip_prefix("#[path = \"../../src/")?.strip_suffix("\"]")?.trim_end_matches("mod.rs").to_owned())
        })
        .collect();
    assert!(taken.len() > 10, "the files that the targets take in were found");
    let mut faults = Vec::new();
    for (path, text) in source_files().into_iter().filter(|(path, _)| taken.iter().any(|prefix| path.starts_with(prefix))) {
        let code = shipped_code(&text);
        for name in ours.iter().filter(|name| !theirs.contains(name) && uses(&code, name)) {
            faults.push(format!("src/{path} uses {name}, which fuzz/Cargo.toml does not list"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// For the same reason: what a fuzzed file newly asks its room for must be there under the fuzz targets' roof, too.
#[test]
fn the_fuzz_targets_have_every_module_that_their_files_ask_for() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut faults = Vec::new();
    let mut n_asked = 0;
    for list in fs::read_dir(root.join("fuzz/src")).expect("readable").flatten().map(|entry| entry.path()) {
        let roof = fs::read_to_string(&list).expect("text");
        let files = roof.lines().filter_map(|line| line.strip_prefix("#[path = \"../../")?.strip_suffix(".rs\"]"));
        // A whole room brings its own modules.
        for file in files.filter(|file| !file.ends_with("/mod")) {
            let code = shipped_code(&fs::read_to_string(root.join(format!("{file}.rs"))).expect("text"));
            for asked in code.split("super::").skip(1) {
                let name: String = asked.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
                n_asked += usize::from(!name.is_empty());
                if !name.is_empty() && asked[name.len()..].starts_with("::") && !roof.contains(&format!("mod {name}")) {
                    faults.push(format!("{file}.rs asks for {name}, which {} does not have", list.display()));
                }
            }
        }
    }
    assert!(n_asked > 20, "{n_asked}: the words were found");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn pure_rooms_read_no_clock_and_touch_no_file_or_socket() {
    let mut faults = Vec::new();
    for (path, text) in source_files() {
        let pure = matches!(room_of(&path), "domain" | "assemble" | "triage" | "signal");
        let code = shipped_code(&text);
        for banned in ["Instant::now", "SystemTime::now", "std::fs", "std::net", "tokio::", "std::thread"] {
            if pure && code.contains(banned) {
                faults.push(format!("{path}: {banned}"));
            }
        }
    }
    assert!(faults.is_empty(), "pure rooms take `now` and return actions:\n{}", faults.join("\n"));
}

#[test]
fn the_lamps_core_needs_no_std_no_allocation_and_no_clock() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/lamp/src");
    let mut faults = Vec::new();
    for entry in fs::read_dir(dir).expect("readable").flatten() {
        let (path, text) = (entry.path(), fs::read_to_string(entry.path()).expect("text"));
        if path.ends_with("lib.rs") {
            assert!(text.contains("#![no_std]"));
        }
        let is_test = path.to_string_lossy().ends_with("_tests.rs");
        for banned in ["std::", "extern crate", "alloc::", "Instant", "unsafe "] {
            if !is_test && shipped_code(&text).contains(banned) {
                faults.push(format!("{}: {banned}", path.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:?}");
}

#[test]
fn nothing_is_left_unfinished() {
    let mut faults = Vec::new();
    for (path, text) in source_files() {
        for marker in [concat!("to", "do!("), concat!("unimplemented", "!("), concat!("FIX", "ME"), "(being written)"] {
            if text.contains(marker) {
                faults.push(format!("{path}: {marker}"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
