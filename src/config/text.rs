//! A [`Config`] as TOML text: every key written out, in the order of the sections.

use std::fmt::Write as _;

use super::Config;

/// A TOML basic string (TOML 1.0 "String"): quotes, backslashes and control characters escaped.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

pub(super) fn list<T: ToString>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(|item| quoted(&item.to_string())).collect();
    format!("[{}]", items.join(", "))
}

pub(super) fn to_toml(config: &Config) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    let d = &config.dicom;
    line("[dicom]".to_owned());
    line(format!("ae_title = {}", quoted(d.ae_title.as_str())));
    line(format!("listen = {}", quoted(&d.listen.to_string())));
    line(format!("plain = {}", d.plain));
    line(format!("calling_ae_titles = {}", list(&d.calling_ae_titles)));
    line(format!("peers = {}", list(&d.peers)));
    line(format!("check_called_ae_title = {}", d.check_called_ae_title));
    line(format!("associations_max = {}", d.associations_max));
    line(format!("associations_per_peer_max = {}", d.associations_per_peer_max));
    line(format!("connections_per_minute_max = {}", d.connections_per_minute_max));
    line(format!("failures_per_minute_max = {}", d.failures_per_minute_max));
    line(format!("pdu_length_max = {}", d.pdu_length_max));
    line(format!("instance_mib_max = {}", d.instance_mib_max));
    line(format!("idle_timeout_s = {}", d.idle_timeout_s));
    line(format!("request_timeout_s = {}", d.request_timeout_s));
    line(format!("association_s_max = {}", d.association_s_max));
    line(format!("sop_classes_extra = {}", list(&d.sop_classes_extra)));
    line(format!("storage_commitment = {}", d.storage_commitment));
    super::access::lines(d, &mut line);
    let s = &config.spool;
    line(format!("\n[spool]\nmib_max = {}\nfree_mib_min = {}", s.mib_max, s.free_mib_min));
    line(format!("commitment_hold_days = {}", s.commitment_hold_days));
    line(format!("durability = {}", quoted(s.durability.as_str())));
    let a = &config.assemble;
    line(format!("\n[assemble]\nquiet_s = {}\nsettle_s = {}\ndeadline_s = {}", a.quiet_s, a.settle_s, a.deadline_s));
    line(format!(
        "step_s_max = {}\nprovisional = {}\nprovisional_settle_s = {}",
        a.step_s_max, a.provisional, a.provisional_settle_s
    ));
    line(format!("instances_per_study_max = {}\nopen_studies_max = {}", a.instances_per_study_max, a.open_studies_max));
    let i = &config.infer;
    line(format!("\n[infer]\nmodel = {}", quoted(&i.model)));
    if let Some(dir) = &i.models_dir {
        line(format!("models_dir = {}", quoted(&dir.to_string_lossy())));
    }
    line(format!("threads = {}\ntime_budget_s = {}\nqueue_max = {}", i.threads, i.time_budget_s, i.queue_max));
    line(format!("engine = {}", quoted(i.engine.as_str())));
    if let Some(npu) = &i.npu {
        line(format!("\n[infer.npu]\nruntime_library = {}", quoted(&npu.runtime_library.to_string_lossy())));
        if let Some(library) = &npu.provider_library {
            line(format!("provider_library = {}", quoted(&library.to_string_lossy())));
        }
        line(format!("provider = {}", quoted(&npu.provider)));
        if !npu.options.is_empty() {
            line("\n[infer.npu.options]".to_owned());
        }
        for (key, value) in &npu.options {
            line(format!("{} = {}", quoted(key), quoted(value)));
        }
    }
    line(format!("\n[board]\nprofile = {}", quoted(&config.board.profile)));
    if let Some(dir) = &config.board.profiles_dir {
        line(format!("profiles_dir = {}", quoted(&dir.to_string_lossy())));
    }
    if let Some(socket) = &config.board.keeper {
        line(format!("keeper = {}", quoted(&socket.to_string_lossy())));
    }
    let w = &config.web;
    line(super::web::plain_lines(w));
    super::web::lines(w, &mut line);
    super::alerts::lines(&config.alerts, &mut line);
    if let Some(pacs) = &config.pacs {
        line(format!("\n[pacs]\nae_title = {}", quoted(pacs.ae_title.as_str())));
        line(format!("address = {}", quoted(pacs.address.as_str())));
        if let Some(title) = &pacs.calling_ae_title {
            line(format!("calling_ae_title = {}", quoted(title.as_str())));
        }
        line(format!("fetch_missing_series = {}", pacs.fetch_missing_series));
        line(format!("timeout_s = {}\nwait_s = {}", pacs.timeout_s, pacs.wait_s));
    }
    line(format!("\n[log]\nlevel = {}", quoted(config.log.level.as_str())));
    out
}
