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
fn the_built_in_profiles_are_the_files_of_the_folder_board() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("board");
    let mut in_folder: Vec<(String, String)> = std::fs::read_dir(&folder)
        .expect("folder")
        .map(|entry| entry.expect("entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .map(|path| {
            let name = path.file_stem().and_then(|name| name.to_str()).expect("a name").to_owned();
            (name, std::fs::read_to_string(&path).expect("text"))
        })
        .collect();
    let mut built_in: Vec<(String, String)> = BUILT_IN.iter().map(|&(name, text)| (name.to_owned(), text.to_owned())).collect();
    in_folder.sort();
    built_in.sort();
    assert_eq!(in_folder, built_in);
}

#[test]
fn every_board_says_what_its_lamps_do_when_the_program_dies() {
    for (name, text) in BUILT_IN {
        let comments: Vec<&str> = text.lines().filter(|line| line.starts_with('#')).collect();
        let told = comments.iter().any(|line| line.contains("program dies") || line.contains("nothing can stay lit"));
        assert!(told, "{name}: {comments:?}");
    }
}

#[test]
fn a_former_name_means_its_profile_of_today_also_from_the_sites_folder() {
    assert_eq!(BoardProfile::load("led-class", None), BoardProfile::load("generic-arm64", None));
    let folder = tempfile::tempdir().expect("folder");
    let own = |name: &str| GOOD.replace("\"mine\"", &format!("{name:?}"));
    std::fs::write(folder.path().join("generic-arm64.toml"), own("generic-arm64")).expect("written");
    let by_former_name = BoardProfile::load("led-class", Some(folder.path())).expect("loaded");
    assert_eq!((by_former_name.name.as_str(), by_former_name.driver), ("generic-arm64", Driver::Rppal));
    std::fs::write(folder.path().join("led-class.toml"), own("led-class")).expect("written");
    let own_file = BoardProfile::load("led-class", Some(folder.path())).expect("loaded");
    assert_eq!(own_file.name, "led-class", "a site's own file of that name goes on working");
    assert!(BoardProfile::built_in_names().all(|name| name != "led-class"), "not among the choices");
}

#[test]
fn a_raspberry_pi_changes_its_driver_by_one_word() {
    for board in ["rpi4", "rpi5"] {
        let (_, text) = BUILT_IN.iter().find(|(name, _)| *name == board).expect("built in");
        for (word, driver) in [("led-class", Driver::LedClass), ("gpiochip", Driver::Gpiochip), ("rppal", Driver::Rppal)] {
            let text = text.replace("driver = \"led-class\"", &format!("driver = {word:?}"));
            assert_eq!(BoardProfile::parse(board, &text).expect("valid").driver, driver);
            assert_eq!(driver.as_str(), word);
        }
    }
}

#[test]
fn the_overlay_of_the_raspberry_pi_has_the_leds_and_pins_of_its_profiles() {
    let overlay = include_str!("../../board/rpi-lamps.dtso");
    for board in ["rpi4", "rpi5"] {
        let lamps = BoardProfile::load(board, None).expect("built in").lamps.expect("lamps");
        for output in [lamps.red, lamps.yellow, lamps.green] {
            let (led, pin) = (output.led.expect("led"), output.pin.expect("pin"));
            assert_eq!(output.line, Some(Line::Name(format!("GPIO{pin}"))));
            let node =
                overlay.split(&format!("label = {led:?};")).nth(1).and_then(|rest| rest.split('}').next()).expect("its node");
            assert!(node.contains(&format!("gpios = <&gpio {pin} 0>;")) && node.contains("panic-indicator;"), "{node}");
        }
    }
}

#[test]
fn the_emulated_board_is_wired_as_its_device_tree() {
    let profile = BoardProfile::load("qemu-virt", None).expect("built in");
    let button = profile.button.expect("button");
    assert_eq!((button.line, button.active_low), (Some(Line::Name("BUTTON".to_owned())), false));
    assert_eq!(profile.chip.as_deref(), Some("9030000.pl061"));
    assert_eq!(profile.buzzer.and_then(|buzzer| buzzer.led).as_deref(), Some("scanside:buzzer"));
}

#[test]
fn a_good_profile_is_read_with_its_defaults() {
    let profile = BoardProfile::parse("mine", GOOD).expect("good");
    let button = profile.button.expect("button");
    assert_eq!((button.pin, button.active_low, button.debounce_ms, button.bias()), (Some(23), true, 50, Bias::PullUp));
    assert!(profile.lamps.expect("lamps").yellow.active_low);
}

#[test]
fn each_fault_names_the_key_and_the_valid_values() {
    assert!(fault(&GOOD.replace("pin = 17", "pin = 28")).contains("lamps.red.pin is 28, but the header has GPIO 0 to 27"));
    assert!(fault(&GOOD.replace("pin = 17", "pin = 23")).contains("lamps.red and button both use pin 23"));
    assert!(fault(&GOOD.replace("pin = 17", "led = \"a\"")).contains("lamps.red needs pin with driver \"rppal\""));
    assert!(fault(&GOOD.replace("pin = 23", "line = \"B\"")).contains("button needs pin with driver \"rppal\""));
    assert!(
        fault(&GOOD.replace("pin = 23", "pin = 23\nbias = \"up\"")).contains("expected one of `pull-up`, `pull-down`, `none`")
    );
    assert!(fault(&GOOD.replace("driver =", "chips = \"a\"\ndriver =")).contains("unknown field `chips`"));
    assert!(fault(&GOOD.replace("[lamps.red]\npin = 17", "")).contains("red"));
    assert!(fault(&GOOD.replace("active_low = true", "polarity = 1")).contains("unknown field `polarity`"));
    assert!(fault(&GOOD.replace("\"rppal\"", "\"sim\"")).contains("leave out chip, lamps"));
    assert!(fault(&GOOD.replace("\"rppal\"", "\"gpio\"")).contains("led-class"), "the valid choices are listed");
    assert!(fault(&GOOD.replace("80.0", "nan")).contains("temperature_warn_c"));
    assert!(fault(&GOOD.replace("\"mine\"", "\"yours\"")).contains("make them the same"));
    assert!(fault(&GOOD.replace("pin = 23", "pin = 23\ndebounce_ms = 5")).contains("20 to 1000"));
}

const LINES: &str = r#"
name = "mine"
driver = "gpiochip"
chip = "pinctrl-rp1"
[lamps.red]
line = "LAMP RED"
[lamps.yellow]
line = 4
active_low = true
[lamps.green]
line = "GREEN"
[button]
line = 0
active_low = false
[limits]
temperature_warn_c = 80.0
memory_available_bytes_min = 268435456
memory_process_bytes_max = 1073741824
"#;

#[test]
fn lines_are_named_or_numbered_on_a_chip_with_a_label() {
    let profile = BoardProfile::parse("mine", LINES).expect("good");
    let (lamps, button) = (profile.lamps.expect("lamps"), profile.button.expect("button"));
    assert_eq!((lamps.red.line, lamps.yellow.line), (Some(Line::Name("LAMP RED".to_owned())), Some(Line::Number(4))));
    assert_eq!((button.line.clone(), button.bias()), (Some(Line::Number(0)), Bias::PullDown), "away from the pressed level");
    let named = LINES.replace("line = 4", "line = \"Y\"").replace("line = 0", "line = \"B\"");
    assert!(BoardProfile::parse("mine", &named.replace("chip = \"pinctrl-rp1\"", "")).is_ok(), "names need no chip");
}

#[test]
fn each_fault_of_a_line_names_the_key_and_the_valid_values() {
    let without_chip = LINES.replace("chip = \"pinctrl-rp1\"", "");
    assert!(fault(&without_chip).contains("lamps.yellow.line is the number 4, but there is no chip"));
    assert!(fault(&LINES.replace("pinctrl-rp1", "gpiochip0")).contains("a number that changes"));
    assert!(fault(&LINES.replace("pinctrl-rp1", "")).contains("chip \"\""));
    assert!(fault(&LINES.replace("line = 4", "pin = 4")).contains("lamps.yellow needs line with driver \"gpiochip\""));
    assert!(fault(&LINES.replace("line = 0", "pin = 4")).contains("button needs line"));
    assert!(fault(&LINES.replace("line = 4", "line = 0")).contains("lamps.yellow and button both use line 0"));
    assert!(fault(&LINES.replace("\"GREEN\"", "\"LAMP RED\"")).contains("lamps.red and lamps.green both use line"));
    assert!(fault(&LINES.replace("line = 4", "line = 70000")).contains("0 to 65535"));
    assert!(
        fault(&LINES.replace("line = 4", "line = -1")).contains("the name of a GPIO line in quotes, or its number on the chip")
    );
    assert!(fault(&LINES.replace("line = 4", "line = true")).contains("the name of a GPIO line in quotes"));
    for name in ["", "tab\\t", "a name of more than thirty-one bytes"] {
        let text = LINES.replace("\"GREEN\"", &format!("\"{name}\""));
        assert!(fault(&text).contains("lamps.green.line"), "{name:?}: {}", fault(&text));
    }
}

#[test]
fn a_button_of_the_led_class_is_a_gpio_line() {
    let (_, text) = BUILT_IN.iter().find(|(name, _)| *name == "generic-arm64").expect("built in");
    let with = |button: &str| BoardProfile::parse("generic-arm64", &format!("{text}\n[button]\n{button}\n"));
    assert_eq!(with("line = \"BUTTON\"").expect("good").button.and_then(|b| b.line), Some(Line::Name("BUTTON".to_owned())));
    assert!(with("pin = 4").expect_err("refused").to_string().contains("button needs line with driver \"led-class\""));
    let inverted = text.replace("led = \"scanside:red\"", "led = \"scanside:red\"\nactive_low = true");
    let error = BoardProfile::parse("generic-arm64", &inverted).expect_err("refused").to_string();
    assert!(error.contains("lamps.red.active_low") && error.contains("device tree"), "{error}");
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
    assert!(error.contains("sim, rpi4, rpi5, generic-arm64, generic-gpiochip, qemu-virt"), "{error}");
}

#[test]
fn a_file_in_the_sites_folder_wins_over_the_built_in_profile() {
    let folder = tempfile::tempdir().expect("folder");
    let text = GOOD.replace("\"mine\"", "\"rpi4\"");
    std::fs::write(folder.path().join("rpi4.toml"), text).expect("written");
    let profile = BoardProfile::load("rpi4", Some(folder.path())).expect("loaded");
    assert_eq!(profile.button.and_then(|b| b.pin), Some(23));
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
