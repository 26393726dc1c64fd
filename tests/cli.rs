//! A promise to scripts and people at a terminal: exit status, stdout and stderr of the commands are what DESIGN says.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use scanside::synth::{Plane, SeriesPlan, Weighting, demo_plans, write_study};

fn scanside(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_scanside"))
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("the program runs")
}

fn status(output: &Output) -> i32 {
    output.status.code().expect("not killed")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

#[test]
fn wrong_usage_and_missing_input_end_with_2_and_name_the_thing() {
    for args in [&["triag"][..], &["triage"], &["triage", "/nowhere/at/all"], &["config", "check", "--config", "/nowhere.toml"]] {
        let output = scanside(args);
        assert_eq!(status(&output), 2, "{args:?}: {}", stderr(&output));
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{args:?}");
    }
    let folder = tempfile::tempdir().expect("temp");
    std::fs::write(folder.path().join("notes.txt"), "no images here").expect("written");
    let output = scanside(&["triage", text(folder.path()), "--json"]);
    assert_eq!(status(&output), 2, "{}", stderr(&output));
    assert!(stderr(&output).contains("not DICOM"), "{}", stderr(&output));
}

#[test]
fn help_is_no_error() {
    let output = scanside(&["--help"]);
    assert_eq!(status(&output), 0);
    assert!(String::from_utf8_lossy(&output.stdout).contains("triage"));
}

#[test]
fn every_fault_of_a_configuration_is_told_at_once_with_its_line() {
    let folder = tempfile::tempdir().expect("temp");
    let path = folder.path().join("config.toml");
    std::fs::write(&path, "[dicom]\nae_titel = \"X\"\nlisten = \"nonsense\"\n[web]\nlisten = 5\n").expect("written");
    let output = scanside(&["config", "check", "--config", text(&path)]);
    let said = stderr(&output);
    assert_eq!(status(&output), 2);
    for part in ["ae_title", "line 2", "line 3", "line 5"] {
        assert!(said.contains(part), "{part} is missing in:\n{said}");
    }
}

/// A mixed folder: a thin study, copies of it, a text file, a truncated instance, and a study without the needed series.
fn mixed_folder(dir: &Path) -> Vec<PathBuf> {
    let mut plan = demo_plans()[1].clone();
    let flair = SeriesPlan { pixel_mm: 3.0, slice_mm: 6.0, ..plan.series[1] };
    plan.series = vec![SeriesPlan { weighting: Weighting::T1Post, plane: Plane::Axial, tilt_deg: 0.0, ..flair }, flair];
    let files = write_study(&plan, &dir.join("whole")).expect("written");
    let mut flair_only = plan.clone();
    flair_only.name = "flair-only".into();
    flair_only.series.remove(0);
    write_study(&flair_only, &dir.join("flair-only")).expect("written");
    std::fs::copy(&files[0], dir.join("copy.dcm")).expect("copied");
    std::fs::write(dir.join("notes.txt"), "no images here").expect("written");
    files
}

#[test]
fn a_mixed_folder_gives_one_json_line_per_study_and_nothing_else() {
    let folder = tempfile::tempdir().expect("temp");
    mixed_folder(folder.path());
    let out = folder.path().join("out");
    let output = scanside(&["triage", text(folder.path()), "--json", "--out", text(&out)]);
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    let lines: Vec<serde_json::Value> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("each line is JSON"))
        .collect();
    assert_eq!(lines.len(), 2);
    for verdict in &lines {
        assert_eq!(verdict["schema"], "scanside.verdict/1");
        assert!(verdict["reasons"].as_array().is_some_and(|reasons| !reasons.is_empty()));
    }
    let without_t1 = lines.iter().find(|v| v["series"].as_array().is_some_and(|s| s.len() == 1)).expect("the FLAIR study");
    assert_eq!(without_t1["verdict"], "indeterminate");
    assert_eq!(without_t1["reasons"][0]["code"], "missing-required-series");
    assert!(stderr(&output).contains("copies"), "{}", stderr(&output));
    assert_eq!(std::fs::read_dir(&out).expect("made").count(), 2, "one file per verdict");
}

#[test]
fn a_truncated_instance_is_named_and_the_rest_is_still_assessed() {
    let folder = tempfile::tempdir().expect("temp");
    let files = mixed_folder(folder.path());
    let bytes = std::fs::read(&files[0]).expect("read");
    std::fs::write(&files[0], &bytes[..bytes.len() / 2]).expect("cut");
    std::fs::remove_file(folder.path().join("copy.dcm")).expect("removed");
    let output = scanside(&["triage", text(folder.path()), "--json"]);
    assert_eq!(status(&output), 1, "something failed: {}", stderr(&output));
    let name = files[0].file_name().expect("named").to_string_lossy().into_owned();
    assert!(stderr(&output).contains(&name), "{}", stderr(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 2);
}

#[test]
fn the_same_study_gives_the_same_verdict_whatever_the_order_of_its_files() {
    let folder = tempfile::tempdir().expect("temp");
    let files = mixed_folder(folder.path());
    let shuffled = folder.path().join("shuffled");
    std::fs::create_dir(&shuffled).expect("made");
    for (n, file) in files.iter().rev().enumerate() {
        std::fs::copy(file, shuffled.join(format!("{:04}", (n * 7919) % 9973))).expect("copied");
    }
    let verdict = |path: &Path| {
        let output = scanside(&["triage", text(path), "--json"]);
        let mut value: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
        value.as_object_mut().expect("object").remove("timing_ms");
        value.as_object_mut().expect("object").remove("decided_at");
        value
    };
    assert_eq!(verdict(&folder.path().join("whole")), verdict(&shuffled));
}
