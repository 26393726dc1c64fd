//! Promises of the systemd files: they are free of mistakes that systemd would only log, they are hardened to a number, and the stop
//! hook is a command that this program knows.
//!
//! The checks by `systemd-analyze` and its siblings need systemd's tools (no running systemd). Where they are not installed the test
//! says so and passes; with `SCANSIDE_SYSTEMD_TESTS=require` it fails instead, which is what CI sets.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Highest exposure (systemd-analyze security, tenths) of the unit alone and with each drop-in. The figures' reasons: systemd/README.md.
const EXPOSURE_MAX: [(Option<&str>, u32); 4] =
    [(None, 12), (Some("rpi.conf"), 15), (Some("ports.conf"), 14), (Some("npu.conf"), 15)];

fn systemd_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd")
}

fn unit() -> String {
    fs::read_to_string(systemd_dir().join("scanside.service")).expect("unit")
}

/// Values of a key in the unit, in order.
fn values(unit: &str, key: &str) -> Vec<String> {
    unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).map(str::to_owned).collect()
}

/// Whether the tool is there; says what is skipped, or fails where CI asked for it.
fn have(tool: &str) -> bool {
    let there = Command::new(tool).arg("--version").output().is_ok_and(|output| output.status.success());
    if !there {
        let required = std::env::var("SCANSIDE_SYSTEMD_TESTS").is_ok_and(|value| value == "require");
        assert!(!required, "{tool} is not installed (Debian package systemd), and SCANSIDE_SYSTEMD_TESTS=require");
        eprintln!("skipped: {tool} is not installed (Debian package systemd)");
    }
    there
}

/// A root file system with systemd's own units and ours, as the appliance has them; the program is an empty script.
fn stage(unit: &str, drop_in: Option<&str>) -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("folder");
    let path = |inside: &str| root.path().join(inside);
    for folder in ["usr/bin", "usr/lib/systemd/system", "usr/share/doc/scanside", "etc/systemd/system/scanside.service.d"] {
        fs::create_dir_all(path(folder)).expect("folder");
    }
    std::os::unix::fs::symlink("usr/lib", path("lib")).expect("link");
    std::os::unix::fs::symlink("usr/bin", path("bin")).expect("link");
    for entry in fs::read_dir("/usr/lib/systemd/system").expect("systemd's units").flatten() {
        // Plain unit files only: links to masked units and folders of drop-ins do not matter to ours.
        if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            fs::copy(entry.path(), path("usr/lib/systemd/system").join(entry.file_name())).expect("copied");
        }
    }
    fs::write(path("usr/lib/systemd/system/scanside.service"), unit).expect("written");
    fs::write(path("usr/bin/scanside"), "#!/bin/sh\n").expect("written");
    fs::set_permissions(path("usr/bin/scanside"), fs::Permissions::from_mode(0o755)).expect("executable");
    if let Some(name) = drop_in {
        fs::copy(systemd_dir().join("drop-ins").join(name), path("etc/systemd/system/scanside.service.d").join(name))
            .expect("copied");
    }
    root
}

fn analyze(root: &Path, arguments: &[&str]) -> Output {
    let root = format!("--root={}", root.display());
    Command::new("systemd-analyze").args(arguments).arg(root).arg("scanside.service").output().expect("runs")
}

fn verify(unit: &str, drop_in: Option<&str>) -> (bool, String) {
    let root = stage(unit, drop_in);
    let output = analyze(root.path(), &["verify", "--man=no", "--recursive-errors=yes"]);
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn systemd_finds_no_fault_in_the_unit_and_its_drop_ins() {
    if !have("systemd-analyze") {
        return;
    }
    for (drop_in, _) in EXPOSURE_MAX {
        let (fine, text) = verify(&unit(), drop_in);
        assert!(fine && !text.contains("scanside.service"), "{drop_in:?}: {text}");
    }
}

#[test]
fn systemd_would_find_a_misspelt_line_a_missing_program_and_a_missing_unit() {
    if !have("systemd-analyze") {
        return;
    }
    let good = unit();
    for (right, wrong) in [
        ("ProtectHome=yes", "ProtectHom=yes"),
        ("Restart=always", "Restart=allways"),
        ("ExecStart=/usr/bin/scanside", "ExecStart=/usr/bin/scanslide"),
        ("Wants=network-online.target", "Requires=no-such.service"),
    ] {
        assert!(good.contains(right), "{right}");
        let (fine, text) = verify(&good.replacen(right, wrong, 1), None);
        assert!(!fine, "{wrong} was not found: {text}");
    }
}

#[test]
fn the_unit_is_hardened_to_its_number() {
    if !have("systemd-analyze") {
        return;
    }
    for (drop_in, exposure_max) in EXPOSURE_MAX {
        let root = stage(&unit(), drop_in);
        let output = analyze(root.path(), &["security", "--offline=true", &format!("--threshold={exposure_max}")]);
        let text = String::from_utf8_lossy(&output.stdout);
        let last = text.lines().rev().find(|line| line.contains("Overall")).unwrap_or_default();
        assert!(output.status.success(), "{drop_in:?} is above {exposure_max}: {last}");
    }
}

#[test]
fn the_user_and_the_folders_can_be_made() {
    if !have("systemd-sysusers") || !have("systemd-tmpfiles") {
        return;
    }
    let root = stage(&unit(), None);
    let run = |tool: &str, arguments: &[&str], file: &str| {
        let root = format!("--root={}", root.path().display());
        let output = Command::new(tool).arg(root).args(arguments).arg(systemd_dir().join(file)).output().expect("runs");
        assert!(output.status.success(), "{tool}: {}", String::from_utf8_lossy(&output.stderr));
    };
    run("systemd-sysusers", &[], "scanside.sysusers.conf");
    let passwd = fs::read_to_string(root.path().join("etc/passwd")).expect("passwd");
    assert!(passwd.lines().any(|line| line.starts_with("scanside:") && line.ends_with(":/usr/sbin/nologin")), "{passwd}");
    // Giving folders to a user needs root, as on the appliance; without, systemd-tmpfiles can only be asked whether it reads the file.
    let root_user = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
    if !root_user {
        eprintln!("skipped: making the folders needs root");
        return;
    }
    run("systemd-tmpfiles", &["--create"], "scanside.tmpfiles.conf");
    let mode = |inside: &str| fs::metadata(root.path().join(inside)).expect("folder").permissions().mode() & 0o777;
    assert_eq!((mode("etc/scanside"), mode("etc/scanside/board"), mode("var/lib/scanside")), (0o750, 0o750, 0o750));
}

#[test]
fn the_service_notifies_is_watched_and_comes_back() {
    let unit = unit();
    assert_eq!(values(&unit, "Type"), ["notify"]);
    assert_eq!(values(&unit, "Restart"), ["always"]);
    let watchdog_s: u64 = values(&unit, "WatchdogSec").first().and_then(|s| s.parse().ok()).expect("seconds");
    assert!((10..=60).contains(&watchdog_s), "{watchdog_s} s");
    assert_eq!(values(&unit, "LimitCORE"), ["0"], "a core dump would hold images of patients");
    assert!(values(&unit, "DynamicUser").is_empty(), "the archive has a fixed owner");
    assert_eq!(values(&unit, "StateDirectory"), ["scanside"]);
}

#[test]
fn the_stop_hook_is_a_command_that_leaves_the_box_dark() {
    let unit = unit();
    let hook = values(&unit, "ExecStopPost").pop().expect("a stop hook");
    let words: Vec<&str> = hook.trim_start_matches('-').split(' ').collect();
    let start = values(&unit, "ExecStart").pop().expect("a start");
    let config = start.split(' ').skip_while(|&word| word != "--config").nth(1).expect("a configuration");
    assert_eq!(words.first(), Some(&"/usr/bin/scanside"));
    assert!(words.windows(2).any(|pair| pair == ["--config", config]), "the hook must drive the board that the service drives");

    // The same words with a configuration that is there.
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("config.toml");
    fs::write(&file, "[board]\nprofile = \"sim\"\n").expect("written");
    let arguments = words.iter().skip(1).map(|&word| if word == config { file.to_str().expect("text") } else { word });
    let output = Command::new(env!("CARGO_BIN_EXE_scanside")).args(arguments).output().expect("runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains(". . . dark"), "{text}");
}

#[test]
fn lamps_of_the_led_class_profile_are_those_that_the_udev_rule_opens() {
    let rule = fs::read_to_string(systemd_dir().join("60-scanside.rules")).expect("rule");
    assert!(rule.contains("KERNEL==\"scanside:*\""), "{rule}");
    let profile = scanside::board::BoardProfile::load("led-class", None).expect("built in");
    let lamps = profile.lamps.expect("lamps");
    for output in [lamps.red, lamps.yellow, lamps.green] {
        assert!(output.led.is_some_and(|led| led.starts_with("scanside:")));
    }
}
