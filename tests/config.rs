//! Promise: one configuration file, every fault at once with its line, nothing guessed. Texts in -> faults or a `Config`.

use proptest::prelude::*;
use scanside::config::{
    Config, ConfigError, HostPort, MqttConfig, MqttTlsConfig, PeerConfig, PeerRange, TlsConfig, WebhookConfig, WebhookUrl,
};
use scanside::domain::{AeTitle, CertificateSha256, Uid, VerdictKind};

fn faults(text: &str) -> Vec<(usize, String, String)> {
    Config::parse(text)
        .expect_err("the text has faults")
        .into_iter()
        .map(|fault| (fault.line, fault.key, fault.message))
        .collect()
}

fn one_fault(text: &str) -> (usize, String, String) {
    let mut all = faults(text);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

#[test]
fn an_empty_file_is_the_safe_default() {
    let config = Config::parse("").expect("nothing wrong with nothing");
    assert_eq!(config, Config::default());
    assert!(config.dicom.listen.ip().is_loopback() && config.web.listen.ip().is_loopback());
    assert!(config.alerts.webhook.is_empty() && config.notices().is_empty());
    assert_eq!(config.dicom.ae_title.as_str(), "SCANSIDE");
}

#[test]
fn the_example_file_parses_and_its_commented_values_are_the_defaults() {
    let text = include_str!("../docs/config.example.toml");
    assert_eq!(Config::parse(text).expect("as it is delivered"), Config::default());
    let uncommented: String = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase()) && !rest.starts_with("example:") => rest,
            _ => line,
        })
        .collect::<Vec<_>>()
        .join("\n");
    assert_eq!(Config::parse(&uncommented).expect("with every default written out"), Config::default());
    // Every key that the program knows stands in the example.
    for line in Config::default().to_toml().lines().filter(|line| line.contains('=')) {
        let key = line.split(' ').next().expect("a key");
        assert!(uncommented.contains(&format!("{key} = ")), "{key} is not in docs/config.example.toml");
    }
    let examples: String = text.lines().map(|line| line.trim_start_matches("#example: ")).collect::<Vec<_>>().join("\n");
    let config = Config::parse(&examples).expect("the examples, too");
    let webhook = config.alerts.webhook.first().expect("one webhook");
    assert_eq!(webhook.url.as_str(), "http://127.0.0.1:9000/hook");
    assert_eq!(webhook.timeout_s, 10);
    assert!(!webhook.include_accession_number);
    let broker = config.alerts.mqtt.first().expect("one broker");
    assert_eq!((broker.address.as_str(), broker.topic.as_str()), ("broker.hospital.example:8883", "scanside/mr2"));
    assert!(broker.tls.as_ref().is_some_and(|tls| tls.identity.is_some()) && broker.timeout_s == 10);
}

#[test]
fn all_faults_of_a_file_come_at_once_with_their_lines() {
    let text = r#"[dicom]
ae_title = "THIS_TITLE_IS_TOO_LONG"
lisen = "127.0.0.1:104"
associations_max = 0
peers = ["10.0.0.1/8", "scanner"]

[assemble]
quiet_s = "60s"

[bord]
profile = "rpi4"

[log]
level = "loud"
"#;
    let all = faults(text);
    let where_: Vec<(usize, &str)> = all.iter().map(|(line, key, _)| (*line, key.as_str())).collect();
    assert_eq!(
        where_,
        [
            (2, "dicom.ae_title"),
            (3, "dicom.lisen"),
            (4, "dicom.associations_max"),
            (5, "dicom.peers[0]"),
            (5, "dicom.peers[1]"),
            (8, "assemble.quiet_s"),
            (10, "bord"),
            (14, "log.level"),
        ]
    );
    let message = |key: &str| all.iter().find(|(_, k, _)| k == key).map(|(_, _, m)| m.as_str()).expect("a fault of that key");
    assert!(message("dicom.lisen").contains("did you mean \"listen\""));
    assert!(message("bord").contains("did you mean \"board\""));
    assert!(message("dicom.associations_max").contains("from 1 to 1024"));
    assert!(message("assemble.quiet_s").contains("seconds"));
    assert!(message("log.level").contains("error, warn, info, debug, trace"));
}

#[test]
fn broken_toml_does_not_hide_the_other_faults() {
    let all = faults("[dicom]\nae_title = \"A\nassociations_max = 0\n");
    assert!(all.iter().any(|(line, key, message)| *line == 2 && key.is_empty() && message.contains("not valid TOML")), "{all:?}");
    assert!(all.iter().any(|(line, key, _)| *line == 3 && key == "dicom.associations_max"), "{all:?}");
}

#[test]
fn the_page_off_loopback_needs_the_sites_word() {
    let (line, key, message) = one_fault("[web]\n\nlisten = \"0.0.0.0:8080\"");
    assert_eq!((line, key.as_str()), (3, "web.listen"));
    assert!(message.contains("web.plain_text_off_loopback = true"), "{message}");
    let config = Config::parse("[web]\nlisten = \"0.0.0.0:8080\"\nplain_text_off_loopback = true").expect("the site said so");
    assert!(config.notices().iter().any(|notice| notice.key == "web.listen"), "and the page says so");
}

#[test]
fn plain_dicom_off_loopback_is_allowed_and_noted() {
    let config = Config::parse("[dicom]\nlisten = \"10.0.0.7:104\"").expect("ordinary in hospitals");
    let keys: Vec<String> = config.notices().into_iter().map(|notice| notice.key).collect();
    assert_eq!(keys, ["dicom.listen", "dicom.peers"]);
}

#[test]
fn a_webhook_without_url_or_secret_is_refused() {
    let all = faults("\n[[alerts.webhook]]\non = []\n");
    let keys: Vec<&str> = all.iter().map(|(_, key, _)| key.as_str()).collect();
    assert_eq!(keys, ["alerts.webhook[0].url", "alerts.webhook[0].secret_file", "alerts.webhook[0].on"]);
    assert_eq!(all.first().map(|fault| fault.0), Some(2));
    let (_, key, message) = one_fault("[[alerts.webhook]]\nurl = \"http://h/\"\nsecret_file = \"/x\"\non = [\"normal\"]");
    assert_eq!(key, "alerts.webhook[0].on[0]", "{message}");
}

#[test]
fn one_shortened_time_needs_no_other_line() {
    let config = Config::parse("[assemble]\nquiet_s = 5\n[dicom]\nassociations_max = 4").expect("the others follow");
    assert_eq!((config.assemble.settle_s, config.assemble.quiet_s), (5, 5));
    assert_eq!(config.dicom.associations_per_peer_max, 4);
    let (line, key, _) = one_fault("[assemble]\nsettle_s = 100");
    assert_eq!((line, key.as_str()), (2, "assemble.settle_s"));
}

#[test]
fn both_listeners_on_one_port_are_refused() {
    let (_, key, message) = one_fault("[web]\nlisten = \"127.0.0.1:11112\"");
    assert_eq!(key, "web.listen", "{message}");
}

#[test]
fn names_that_become_paths_cannot_leave_their_folder() {
    for bad in ["../x", "a/b", "", ".hidden", "a\\u0000"] {
        let (_, key, _) = one_fault(&format!("[board]\nprofile = \"{bad}\""));
        assert_eq!(key, "board.profile");
    }
}

#[test]
fn a_file_that_is_missing_or_binary_is_named() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let missing = Config::load(&dir.path().join("none.toml")).expect_err("no such file");
    assert!(matches!(missing, ConfigError::Unreadable { .. }) && missing.to_string().contains("none.toml"));
    let path = dir.path().join("c.toml");
    std::fs::write(&path, b"[log]\n\xff\xfe").expect("written");
    let error = Config::load(&path).expect_err("not text").to_string();
    assert!(error.contains("byte 7") && error.contains("UTF-8"), "{error}");
    std::fs::write(&path, "#".repeat(300_000)).expect("written");
    assert!(matches!(Config::load(&path), Err(ConfigError::NotText { .. })));
    std::fs::write(&path, "[log]\nlevel = \"x\"\n[dicom]\nlisten = 1\n").expect("written");
    let error = Config::load(&path).expect_err("two faults").to_string();
    assert!(
        error.contains("2 faults") && error.contains("line 2: log.level") && error.contains("line 4: dicom.listen"),
        "{error}"
    );
}

fn any_config() -> impl Strategy<Value = Config> {
    let numbers = (1usize..=1024, 4096u32..=1_048_576, 1u64..=3600, 0u16..=0xffff, 256u64..=67_108_864, any::<bool>());
    let names = (
        "[A-Z0-9_]{1,16}",
        "[a-z0-9][a-z0-9._-]{0,20}",
        proptest::collection::vec("[1-9][0-9]{0,8}(\\.[1-9][0-9]{0,4}){1,5}", 0..4),
    );
    let hooks = proptest::collection::vec(("[a-z]{1,10}", "[ -~]{1,20}", 1u64..=120, any::<bool>()), 0..4);
    (numbers, names, hooks, proptest::collection::vec((any::<u32>(), 0u8..=32), 0..4)).prop_map(|(n, names, hooks, peers)| {
        let mut config = Config::default();
        config.dicom.associations_max = n.0;
        config.dicom.associations_per_peer_max = n.0;
        config.dicom.pdu_length_max = n.1;
        config.dicom.idle_timeout_s = n.2;
        config.dicom.listen.set_port(n.3);
        config.web.listen.set_port(n.3.wrapping_add(1).max(1));
        config.spool.mib_max = n.4;
        config.dicom.check_called_ae_title = n.5;
        config.dicom.plain = n.5;
        config.dicom.tls = Some(TlsConfig {
            listen: "[::1]:2762".parse().expect("an address"),
            certificate_file: "/a \"b\"/c.pem".into(),
            key_file: "k".into(),
            client_ca_file: n.5.then(|| "ca.pem".into()),
            client_certificates_sha256: vec![CertificateSha256::new([n.2.to_le_bytes()[0]; 32]); usize::from(!n.5)],
        });
        config.dicom.ae_title = AeTitle::try_new(&names.0).expect("made to be one");
        config.board.profile = names.1;
        config.dicom.sop_classes_extra = names.2.iter().map(|uid| Uid::try_new(uid).expect("made to be one")).collect();
        config.dicom.peers = peers
            .into_iter()
            .filter_map(|(address, bits)| {
                let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
                PeerRange::try_new(&format!("{}/{bits}", std::net::Ipv4Addr::from_bits(address & mask))).ok()
            })
            .collect();
        for range in config.dicom.peers.clone() {
            config.dicom.peer.push(PeerConfig {
                ae_title: config.dicom.ae_title.clone(),
                addresses: vec![range],
                certificate_sha256: n.5.then(|| CertificateSha256::new([7; 32])),
                call: (!n.5).then_some(config.web.listen),
            });
        }
        for (host, secret, timeout_s, flag) in hooks {
            config.alerts.webhook.push(WebhookConfig {
                url: WebhookUrl::try_new(&format!("https://{host}:8443/x?y=1")).expect("made to be one"),
                secret_file: secret.into(),
                on: vec![VerdictKind::Flagged],
                timeout_s,
                include_accession_number: flag,
            });
            let (n, identity) = (config.alerts.mqtt.len(), Some(("credential:mqtt.pem".into(), "/etc/mqtt.key".into())));
            config.alerts.mqtt.push(MqttConfig {
                address: HostPort::try_new(&format!("{host}:8883")).expect("made to be one"),
                topic: format!("scanside/{host}"),
                client_id: format!("client {n}"),
                user: flag.then(|| "a \"user\"".to_owned()),
                password_file: flag.then(|| "credential:mqtt".into()),
                tls: Some(MqttTlsConfig { ca_file: "/etc/ca.pem".into(), identity: identity.filter(|_| timeout_s % 2 == 0) }),
                on: vec![VerdictKind::Flagged, VerdictKind::Indeterminate],
                timeout_s,
                include_accession_number: flag,
            });
        }
        config
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_back_the_same(config in any_config()) {
        let text = config.to_toml();
        prop_assert_eq!(Config::parse(&text).map_err(|faults| format!("{faults:?}\n{text}")), Ok(config));
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC*") {
        let _ = Config::parse(&text);
    }

    #[test]
    fn no_toml_like_text_makes_the_parser_panic_and_lines_stay_inside(
        lines in proptest::collection::vec("(\\[?\\[(dicom|web|alerts\\.webhook|alerts\\.mqtt|x)\\]?\\])|((listen|url|address|topic|on|peers|quiet_s) = .{0,20})|.{0,20}", 0..12)
    ) {
        let text = lines.join("\n");
        if let Err(faults) = Config::parse(&text) {
            prop_assert!(!faults.is_empty());
            for fault in faults {
                prop_assert!(fault.line >= 1 && fault.line <= text.lines().count().max(1) + 1, "{}", fault);
            }
        }
    }
}

#[test]
fn an_npu_is_named_by_whole_paths_and_its_options_are_texts() {
    let text = r#"[infer]
engine = "gpu"
[infer.npu]
runtime_library = "libonnxruntime.so"
provder = "QNN"
[infer.npu.options]
backend_type = "htp"
vtcm_mb = 8
"#;
    let all = faults(text);
    let where_: Vec<(usize, &str)> = all.iter().map(|(line, key, _)| (*line, key.as_str())).collect();
    assert_eq!(
        where_,
        [
            (2, "infer.engine"),
            (3, "infer.npu.provider"),
            (4, "infer.npu.runtime_library"),
            (5, "infer.npu.provder"),
            (8, "infer.npu.options.vtcm_mb"),
        ]
    );
    let good =
        text.replace("gpu", "npu").replace("libonnx", "/opt/libonnx").replace("provder", "provider").replace("= 8", "= \"8\"");
    let config = Config::parse(&good).expect("in order");
    let npu = config.infer.npu.as_ref().expect("named");
    assert_eq!((npu.provider.as_str(), npu.provider_library.as_ref()), ("QNN", None));
    assert_eq!(npu.options.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>(), ["backend_type=htp", "vtcm_mb=8"]);
    assert_eq!(Config::parse(&config.to_toml()).expect("as written"), config, "and it is written back whole");
    let all = faults("[infer]\nnpu = 3");
    assert!(
        all.iter().any(|(line, key, message)| *line == 2 && key == "infer.npu" && message.contains("must be a table")),
        "{all:?}"
    );
}

const TLS: &str = "[dicom.tls]\nlisten = \"127.0.0.1:2762\"\ncertificate_file = \"/t/box.pem\"\nkey_file = \"/t/box.key\"\n";

#[test]
fn tls_and_peers_are_read_and_written_back() {
    let pin = "ab".repeat(32);
    let text = format!(
        "[dicom]\nplain = false\n{TLS}client_ca_file = \"/t/ca.pem\"\nclient_certificates_sha256 = [\"{pin}\"]\n\
         [[dicom.peer]]\nae_title = \"MR1\"\naddresses = [\"10.1.2.3\", \"10.1.0.0/16\"]\ncertificate_sha256 = \"{pin}\"\ncall = \"10.1.2.3:104\"\n\
         [[dicom.peer]]\nae_title = \"CT1\"\naddresses = [\"::/0\"]\n"
    );
    let config = Config::parse(&text).expect("in order");
    let tls = config.dicom.tls.as_ref().expect("a listener");
    assert_eq!(tls.listen.port(), 2762);
    assert_eq!(tls.client_certificates_sha256.first().map(ToString::to_string), Some(pin.clone()));
    let [mr, ct] = config.dicom.peer.as_slice() else { panic!("two peers") };
    assert_eq!((mr.ae_title.as_str(), mr.addresses.len(), mr.call.map(|call| call.port())), ("MR1", 2, Some(104)));
    assert_eq!((mr.certificate_sha256.map(|p| p.to_string()), ct.certificate_sha256, ct.call), (Some(pin), None, None));
    assert_eq!(Config::parse(&config.to_toml()).expect("as written"), config);
    let addresses: Vec<String> = config.addresses().into_iter().map(|(address, _)| address).collect();
    let expected = ["listens on 127.0.0.1:2762", "listens on 127.0.0.1:8080", "calls 10.1.2.3:104"];
    assert_eq!(addresses, expected, "the plain listener is off");
}

#[test]
fn faults_of_tls_and_peers_come_with_their_remedy() {
    let text = "[dicom.tls]\nlisten = \"x\"\nclient_certificates_sha256 = [\"12:34\"]\n[[dicom.peer]]\nae_titel = \"A\"\naddresses = []\n";
    let all = faults(text);
    let where_: Vec<(usize, &str)> = all.iter().map(|(line, key, _)| (*line, key.as_str())).collect();
    assert_eq!(
        where_,
        [
            (1, "dicom.tls.certificate_file"),
            (1, "dicom.tls.key_file"),
            (2, "dicom.tls.listen"),
            (3, "dicom.tls.client_certificates_sha256[0]"),
            (4, "dicom.peer[0].ae_title"),
            (5, "dicom.peer[0].ae_titel"),
            (6, "dicom.peer[0].addresses"),
        ]
    );
    assert!(all.iter().any(|(_, _, message)| message.contains("openssl x509")), "{all:?}");
    let (_, key, message) = one_fault("[dicom]\nplain = false");
    assert!(key == "dicom.plain" && message.contains("[dicom.tls]"), "{message}");
    let (_, key, _) = one_fault(&TLS.replace("2762", "11112"));
    assert_eq!(key, "dicom.tls.listen", "shared with the plain listener");
    let (_, key, message) = one_fault(&TLS.replace("2762", "8080"));
    assert!(key == "web.listen" && message.contains("dicom.tls.listen"), "{message}");
    let (_, key, _) = one_fault(&format!(
        "[dicom]\npeer = [{{ae_title = \"A\", addresses = [\"::/0\"], certificate_sha256 = \"{}\"}}]",
        "0".repeat(64)
    ));
    assert_eq!(key, "dicom.peer[0].certificate_sha256", "without TLS nobody shows a certificate");
    let (_, key, _) = one_fault(&format!("{TLS}client_certificates_sha256 = []"));
    assert_eq!(key, "dicom.tls.client_certificates_sha256", "an empty list would keep everybody out");
    for (rate, value) in [("connections_per_minute_max", 9), ("failures_per_minute_max", 1_000_001)] {
        let (_, key, _) = one_fault(&format!("[dicom]\n{rate} = {value}"));
        assert_eq!(key, format!("dicom.{rate}"));
    }
}

#[test]
fn page_says_what_is_open_although_there_is_tls() {
    let keys = |text: &str| -> Vec<String> {
        Config::parse(text).expect("in order").notices().into_iter().map(|notice| notice.key).collect()
    };
    let tls = TLS.replace("127.0.0.1:2762", "0.0.0.0:2762");
    assert_eq!(keys(&tls), ["dicom.peers", "dicom.tls"], "encrypted, but for anybody");
    let known = format!("{tls}client_ca_file = \"/t/ca.pem\"\n");
    assert!(keys(&known).is_empty());
    assert_eq!(keys(&format!("[dicom]\nlisten = \"0.0.0.0:104\"\n{known}")), ["dicom.listen", "dicom.peers"], "plain beside it");
    assert!(keys(&format!("[dicom]\nplain = false\nlisten = \"0.0.0.0:104\"\n{known}")).is_empty(), "plain switched off");
    assert_eq!(keys("[dicom]\nassociations_max = 8\nassociations_per_peer_max = 8"), ["dicom.associations_per_peer_max"]);
}

#[test]
fn a_pacs_is_asked_only_where_the_file_names_one() {
    assert_eq!(Config::parse("[dicom]").expect("in order").pacs, None);
    let (line, key, message) = one_fault("[pacs]\naddress = \"10.1.2.3:104\"");
    assert_eq!((line, key.as_str()), (1, "pacs.ae_title"), "{message}");
    let (_, key, _) = one_fault("[pacs]\nae_title = \"PACS\"\naddress = \"10.1.2.3\"");
    assert_eq!(key, "pacs.address");
    let (_, key, _) = one_fault("[pacs]\nae_title = \"PACS\"\naddress = \"10.1.2.3:104\"\nwait_s = 0");
    assert_eq!(key, "pacs.wait_s");
    let (_, key, _) = one_fault("[pacs]\nae_title = \"PACS\"\naddress = \"10.1.2.3:104\"\nfetch_priors = true");
    assert_eq!(key, "pacs.fetch_priors", "nothing reads priors, so there is no switch for them");
    let text =
        "[pacs]\nae_title = \"PACS\"\naddress = \"pacs.example:104\"\ncalling_ae_title = \"BOX\"\ntimeout_s = 5\nwait_s = 7\n";
    let config = Config::parse(text).expect("in order");
    let pacs = config.pacs.as_ref().expect("named");
    assert!(pacs.fetch_missing_series);
    assert_eq!((pacs.timeout_s, pacs.wait_s, pacs.address.as_str()), (5, 7, "pacs.example:104"));
    assert_eq!(Config::parse(&config.to_toml()).expect("as written"), config);
    assert!(config.addresses().iter().any(|(address, purpose)| address == "calls pacs.example:104" && purpose.contains("PACS")));
}

#[test]
fn what_keeps_a_pacs_from_sending_is_said_on_the_page() {
    let text = "[dicom]\ncalling_ae_titles = [\"MR1\"]\n[pacs]\nae_title = \"PACS\"\naddress = \"10.1.2.3:104\"\n";
    let notices = Config::parse(text).expect("in order").notices();
    let keys: Vec<&str> = notices.iter().map(|notice| notice.key.as_str()).collect();
    assert_eq!(keys, ["pacs.address", "dicom.listen", "dicom.calling_ae_titles"]);
    let near = "[pacs]\nae_title = \"PACS\"\naddress = \"127.0.0.1:104\"\n";
    assert!(Config::parse(near).expect("in order").notices().is_empty());
}

#[test]
fn a_weaker_durability_is_refused_with_what_it_would_lose() {
    assert!(Config::parse("[spool]\ndurability = \"instance\"").is_ok());
    let (line, key, message) = one_fault("[spool]\ndurability = \"none\"");
    assert_eq!((line, key.as_str()), (2, "spool.durability"));
    assert!(message.contains("loses acknowledged images"), "{message}");
}
