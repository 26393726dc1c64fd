//! Tests of board profiles: the built-in ones, and every fault of a file by name.

use super::*;
use proptest::prelude::*;

const GOOD: &str = r#"
name = "mine"
driver = "rppal"
[lamps.red]
pin = 17
[lamps.yellow]
pin = 27
active_low = true
[lamps.green]
pin = 22
[button]
pin = 23
[limits]
temperature_warn_c = 80.0
memory_available_bytes_min = 268435456
memory_process_bytes_max = 1073741824
"#;

fn fault(text: &str) -> String {
    BoardProfile::parse("mine", text).expect_err("must be refused").to_string()
}

#[test]
fn every_built_in_profile_is_valid() {
    for name in BoardProfile::built_in_names() {
        let profile = BoardProfile::load(name, None).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(profile.name, name);
        assert!(!profile.description.is_empty(), "{name} says what it is");
    }
}

#[test]
fn a_good_profile_is_read_with_its_defaults() {
    let profile = BoardProfile::parse("mine", GOOD).expect("good");
    let button = profile.button.expect("button");
    assert_eq!((button.pin, button.active_low, button.debounce_ms), (23, true, 50));
    assert!(profile.lamps.expect("lamps").yellow.active_low);
}

#[test]
fn each_fault_names_the_key_and_the_valid_values() {
    assert!(fault(&GOOD.replace("pin = 17", "pin = 28")).contains("lamps.red.pin is 28, but the header has GPIO 0 to 27"));
    assert!(fault(&GOOD.replace("pin = 17", "pin = 23")).contains("lamps.red and button both use pin 23"));
    assert!(fault(&GOOD.replace("pin = 17", "led = \"a\"")).contains("lamps.red needs pin"));
    assert!(fault(&GOOD.replace("[lamps.red]\npin = 17", "")).contains("red"));
    assert!(fault(&GOOD.replace("active_low = true", "polarity = 1")).contains("unknown field `polarity`"));
    assert!(fault(&GOOD.replace("\"rppal\"", "\"sim\"")).contains("leave out lamps"));
    assert!(fault(&GOOD.replace("\"rppal\"", "\"gpio\"")).contains("led-class"), "the valid choices are listed");
    assert!(fault(&GOOD.replace("80.0", "nan")).contains("temperature_warn_c"));
    assert!(fault(&GOOD.replace("\"mine\"", "\"yours\"")).contains("make them the same"));
    assert!(fault(&GOOD.replace("pin = 23", "pin = 23\ndebounce_ms = 5")).contains("20 to 1000"));
}

#[test]
fn a_board_may_name_its_npu_by_whole_paths() {
    let text =
        format!("{GOOD}[npu]\nruntime_library = \"/opt/ort.so\"\nprovider = \"QNN\"\noptions = {{ backend_type = \"htp\" }}\n");
    let npu = BoardProfile::parse("mine", &text).expect("good").npu.expect("an NPU");
    assert_eq!((npu.provider.as_str(), npu.options.len(), npu.provider_library), ("QNN", 1, None));
    assert!(fault(&text.replace("/opt/ort.so", "ort.so")).contains("npu.runtime_library must be a whole path"));
    assert!(fault(&text.replace("\"QNN\"", "\"<b>\"")).contains("npu.provider"));
    assert!(fault(&text.replace("\"htp\"", "1")).contains("string"), "options are texts");
    assert!(fault(&text.replace("provider =", "provder =")).contains("unknown field `provder`"));
}

#[test]
fn an_led_name_cannot_lead_elsewhere() {
    let led = |name: &str| {
        let text =
            GOOD.replace("\"rppal\"", "\"led-class\"").replace("[button]\npin = 23\n", "").replace("active_low = true", "");
        text.replace("pin = 17", &format!("led = {name:?}")).replace("pin = 27", "led = \"y\"").replace("pin = 22", "led = \"g\"")
    };
    assert!(BoardProfile::parse("mine", &led("red:status")).is_ok());
    for bad in ["../../tmp/x", "/etc", ".", "..", "", "a b"] {
        assert!(fault(&led(bad)).contains("lamps.red.led"), "{bad:?}");
    }
}

#[test]
fn a_profile_name_cannot_lead_elsewhere_and_an_unknown_one_lists_the_choices() {
    for bad in ["../sim", "/etc/passwd", "", "Sim", "sim.toml", "a/b"] {
        assert_eq!(BoardProfile::load(bad, None), Err(ProfileError::BadName(bad.to_owned())));
    }
    let error = BoardProfile::load("rpi9", None).expect_err("unknown").to_string();
    assert!(error.contains("sim, led-class, rpi4, rpi5"), "{error}");
}

#[test]
fn a_file_in_the_sites_folder_wins_over_the_built_in_profile() {
    let folder = tempfile::tempdir().expect("folder");
    let text = GOOD.replace("\"mine\"", "\"rpi4\"");
    std::fs::write(folder.path().join("rpi4.toml"), text).expect("written");
    let profile = BoardProfile::load("rpi4", Some(folder.path())).expect("loaded");
    assert_eq!(profile.button.map(|b| b.pin), Some(23));
    assert!(BoardProfile::load("sim", Some(folder.path())).is_ok(), "the others still come from the build");
    std::fs::write(folder.path().join("big.toml"), "#".repeat(70_000)).expect("written");
    let error = BoardProfile::load("big", Some(folder.path())).expect_err("too long").to_string();
    assert!(error.contains("65536"), "{error}");
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,400}") {
        let _ = BoardProfile::parse("mine", &text);
    }

    #[test]
    fn no_cut_or_changed_profile_makes_the_parser_panic(at in 0..GOOD.len(), with in "\\PC{0,5}") {
        let mut text = GOOD.to_owned();
        text.insert_str(at, &with);
        let _ = BoardProfile::parse("mine", &text);
        let _ = BoardProfile::parse("mine", &GOOD[..at]);
    }
}
