//! Promises of the systemd files: they are free of mistakes that systemd would only log, they are hardened to a number, secrets and sockets
//! have the names that the program looks for, and the folders and users can be made.
//!
//! The checks by `systemd-analyze` and its siblings need systemd's tools (no running systemd). Where they are not installed the test
//! says so and passes; with `SCANSIDE_SYSTEMD_TESTS=require` it fails instead, which is what CI sets.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Highest exposure (systemd-analyze security, tenths) of a service alone and with each drop-in. The figures' reasons: systemd/README.md.
const EXPOSURE_MAX: [(&str, Option<&str>, u32); 3] = [
    ("scanside.service", None, 10),
    ("scanside.service", Some("addresses.conf"), 10),
    ("scanside.service", Some("npu.conf"), 13),
];
/// Of a service that is not in the table: those that touch lamps (their unit lets GPIO lines in), and the others.
const EXPOSURE_GPIO_MAX: u32 = 12;
const EXPOSURE_OTHER_MAX: u32 = 10;

fn systemd_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd")
}

fn unit() -> String {
    read("scanside.service")
}

fn read(name: &str) -> String {
    fs::read_to_string(systemd_dir().join(name)).expect(name)
}

/// Every unit file of ours, by name.
fn units() -> Vec<String> {
    let kinds = ["service", "socket", "path", "timer", "target"];
    let entries = fs::read_dir(systemd_dir()).expect("systemd").flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut units: Vec<String> =
        names.filter(|name| name.rsplit_once('.').is_some_and(|(_, kind)| kinds.contains(&kind))).collect();
    units.sort();
    assert!(units.len() >= 4, "{units:?}");
    units
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

/// A root file system with systemd's own units and ours, as the appliance has them; the programs are empty scripts. `unit` stands in the
/// place of scanside.service.
fn stage(unit: &str, drop_in: Option<(&str, &str)>) -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("folder");
    let path = |inside: &str| root.path().join(inside);
    for folder in ["etc", "usr/bin", "usr/lib/systemd/system", "usr/share/doc/scanside"] {
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
    for name in units() {
        fs::copy(systemd_dir().join(&name), path("usr/lib/systemd/system").join(&name)).expect("copied");
    }
    fs::write(path("usr/lib/systemd/system/scanside.service"), unit).expect("written");
    for program in ["usr/bin/scanside", "usr/bin/scanside-keeper"] {
        fs::write(path(program), "#!/bin/sh\n").expect("written");
        fs::set_permissions(path(program), fs::Permissions::from_mode(0o755)).expect("executable");
    }
    if let Some((of, name)) = drop_in {
        let folder = path("etc/systemd/system").join(format!("{of}.d"));
        fs::create_dir_all(&folder).expect("folder");
        fs::copy(systemd_dir().join("drop-ins").join(name), folder.join(name)).expect("copied");
    }
    root
}

fn analyze(root: &Path, arguments: &[&str], of: &str) -> Output {
    let root = format!("--root={}", root.display());
    Command::new("systemd-analyze").args(arguments).arg(root).arg(of).output().expect("runs")
}

fn verify(unit: &str, drop_in: Option<(&str, &str)>, of: &str) -> (bool, String) {
    let root = stage(unit, drop_in);
    let output = analyze(root.path(), &["verify", "--man=no", "--recursive-errors=yes"], of);
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Each drop-in of ours and a unit that it is for, as its first line says.
fn drop_ins() -> Vec<(String, String)> {
    let entries = fs::read_dir(systemd_dir().join("drop-ins")).expect("drop-ins").flatten();
    let mut found: Vec<(String, String)> = entries
        .map(|entry| {
            let name = entry.file_name().into_string().expect("a plain name");
            let text = fs::read_to_string(entry.path()).expect("text");
            let after = text.split_once("/etc/systemd/system/").expect("its first line says where it goes").1;
            (after.split_once(".d/").expect("a folder of drop-ins").0.to_owned(), name)
        })
        .collect();
    found.sort();
    found
}

#[test]
fn systemd_finds_no_fault_in_any_unit_and_drop_in() {
    if !have("systemd-analyze") {
        return;
    }
    for name in units() {
        let (fine, text) = verify(&unit(), None, &name);
        assert!(fine && !text.contains("scanside"), "{name}: {text}");
    }
    for (of, name) in drop_ins() {
        let (fine, text) = verify(&unit(), Some((&of, &name)), &of);
        assert!(fine && !text.contains("scanside"), "{of} with {name}: {text}");
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
        let (fine, text) = verify(&good.replacen(right, wrong, 1), None, "scanside.service");
        assert!(!fine, "{wrong} was not found: {text}");
    }
}

#[test]
fn every_service_is_hardened_to_its_number() {
    if !have("systemd-analyze") {
        return;
    }
    let check = |of: &str, drop_in: Option<&str>, exposure_max: u32| {
        let root = stage(&unit(), drop_in.map(|name| (of, name)));
        let output = analyze(root.path(), &["security", "--offline=true", &format!("--threshold={exposure_max}")], of);
        let text = String::from_utf8_lossy(&output.stdout);
        let last = text.lines().rev().find(|line| line.contains("Overall")).unwrap_or_default();
        assert!(output.status.success(), "{of} with {drop_in:?} is above {exposure_max}: {last}");
    };
    for (of, drop_in, exposure_max) in EXPOSURE_MAX {
        check(of, drop_in, exposure_max);
    }
    for name in units().iter().filter(|name| name.ends_with(".service")) {
        let touches_lamps = !values(&read(name), "DeviceAllow").is_empty();
        check(name, None, if touches_lamps { EXPOSURE_GPIO_MAX } else { EXPOSURE_OTHER_MAX });
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
    for user in ["scanside:", "scanside-keeper:"] {
        assert!(passwd.lines().any(|line| line.starts_with(user) && line.ends_with(":/usr/sbin/nologin")), "{passwd}");
    }
    // Giving folders to a user needs root, as on the appliance; without, systemd-tmpfiles can only be asked whether it reads the file.
    let root_user = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
    if !root_user {
        eprintln!("skipped: making the folders needs root");
        return;
    }
    run("systemd-tmpfiles", &["--create"], "scanside.tmpfiles.conf");
    let mode = |inside: &str| fs::metadata(root.path().join(inside)).expect("folder").permissions().mode() & 0o777;
    for folder in ["etc/scanside", "etc/scanside/board", "etc/scanside/tls", "var/lib/scanside"] {
        assert_eq!(mode(folder), 0o750, "{folder}");
    }
    for folder in ["etc/scanside/secrets", "etc/scanside/identity"] {
        assert_eq!(mode(folder), 0o700, "{folder}: root's alone");
    }
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
fn the_service_is_never_given_up_and_touches_no_lamp() {
    let unit = unit();
    assert_eq!(values(&unit, "StartLimitIntervalSec"), ["0"]);
    assert_eq!(values(&unit, "RestartSec"), ["1"]);
    // The lamp keeper shows a fault when this service ends, for whatever reason: no hook, no device, no writable /sys.
    assert!(values(&unit, "ExecStopPost").is_empty() && values(&unit, "DeviceAllow").is_empty());
    assert!(values(&unit, "ReadWritePaths").is_empty());
    assert!(values(&unit, "Wants").iter().any(|wants| wants.contains("scanside-keeper.socket")));
    assert!(values(&unit, "CapabilityBoundingSet") == [""], "ports below 1024 are systemd's");
}

#[test]
fn sockets_have_the_names_that_the_program_takes_and_survive_a_service_that_cannot_start() {
    let program = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/service/sockets.rs")).expect("source");
    for (unit, name, port) in [
        ("scanside-dicom.socket", "dicom", "104"),
        ("scanside-dicom-tls.socket", "dicom-tls", "2762"),
        ("scanside-web.socket", "web", "443"),
    ] {
        let socket = read(unit);
        assert_eq!(values(&socket, "FileDescriptorName"), [name]);
        assert!(program.contains(&format!("\"{name}\" =>")), "{name}");
        assert_eq!(values(&socket, "ListenStream"), [port]);
        assert_eq!(values(&socket, "Service"), ["scanside.service"]);
        assert_eq!(values(&socket, "TriggerLimitIntervalSec"), ["0"]);
        assert!(values(&socket, "Backlog").first().and_then(|n| n.parse::<u32>().ok()).is_some_and(|n| n <= 128), "a bound");
    }
}

#[test]
fn a_missing_folder_of_secrets_stops_no_start() {
    let unit = unit();
    let folders = values(&unit, "LoadCredential");
    assert_eq!(folders, ["secrets:/etc/scanside/secrets", "identity:/etc/scanside/identity"]);
    for folder in folders {
        let (name, path) = folder.split_once(':').expect("name and folder");
        // systemd.exec(5): where the path of LoadCredential= is not there, SetCredential= of the same name stands in.
        assert!(
            values(&unit, "SetCredential").iter().any(|set| set.starts_with(&format!("{name}:")) && set.len() > name.len() + 1)
        );
        let tmpfiles = read("scanside.tmpfiles.conf");
        assert!(tmpfiles.lines().any(|line| line.starts_with(&format!("d {path} ")) && line.contains(" 0700 root ")));
    }
}

#[test]
fn lamps_of_the_led_class_profile_are_those_that_the_udev_rule_gives_to_the_keeper() {
    let rule = read("60-scanside.rules");
    assert!(rule.contains("KERNEL==\"scanside:*\"") && rule.contains("chgrp scanside-keeper"), "{rule}");
    for file in ["brightness", "trigger", "delay_on", "delay_off", "pattern", "repeat"] {
        assert!(rule.contains(&format!(" {file}")), "{file}");
    }
    let profile = scanside::board::BoardProfile::load("led-class", None).expect("built in");
    let lamps = profile.lamps.expect("lamps");
    for output in [lamps.red, lamps.yellow, lamps.green] {
        assert!(output.led.is_some_and(|led| led.starts_with("scanside:")));
    }
}

#[test]
fn the_udev_rule_opens_the_files_that_are_there_and_no_others() {
    let rule = read("60-scanside.rules");
    let line = rule.lines().find(|line| line.starts_with("SUBSYSTEM==\"leds\"")).expect("the rule of the LEDs");
    let script = line.split_once("/bin/sh -c '").and_then(|(_, rest)| rest.split_once('\'')).expect("a script").0;
    // As udev writes it out (udev(7)): %S%p is the device's folder, $$ a dollar; the group is that of whoever runs this test.
    let folder = tempfile::tempdir().expect("folder");
    let group = Command::new("id").arg("-g").output().expect("runs").stdout;
    let group = String::from_utf8_lossy(&group).trim().to_owned();
    let script = script
        .replace("%S%p", folder.path().to_str().expect("plain"))
        .replace("$$", "$")
        .replace("chgrp scanside-keeper", &format!("chgrp {group}"));
    for name in ["brightness", "trigger", "pattern", "max_brightness"] {
        fs::write(folder.path().join(name), "0").expect("written");
        fs::set_permissions(folder.path().join(name), fs::Permissions::from_mode(0o644)).expect("mode");
    }
    let output = Command::new("/bin/sh").args(["-c", &script]).output().expect("runs");
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let mode = |name: &str| fs::metadata(folder.path().join(name)).expect("there").permissions().mode() & 0o777;
    assert_eq!(["brightness", "trigger", "pattern", "max_brightness"].map(mode), [0o664, 0o664, 0o664, 0o644]);
}
