//! Promise: the JSON that scanside writes is the JSON that `docs/verdict.schema.json` describes. Any verdict in -> JSON -> checked by a
//! small validator of JSON Schema 2020-12 (the keywords that our schema uses; any other keyword fails the test).

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use scanside::deliver::verdict_json::{to_alert_json, to_json};
use scanside::domain::*;
use serde_json::Value;

fn schema() -> Value {
    serde_json::from_str(include_str!("../docs/verdict.schema.json")).expect("the schema is JSON")
}

/// Faults of `value` against `schema`, with the place of each.
fn faults(root: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (keyword, rule) in schema.as_object().expect("a schema is an object") {
        let ok = match keyword.as_str() {
            "$schema" | "$id" | "title" | "description" | "$defs" | "then" | "else" => true,
            "$ref" => {
                let path = rule.as_str().expect("text").strip_prefix('#').expect("a local reference");
                found.extend(faults(root, root.pointer(path).expect("the definition exists"), value, at));
                true
            }
            "type" => match rule {
                Value::Array(kinds) => kinds.iter().any(|kind| is_type(kind, value)),
                kind => is_type(kind, value),
            },
            "const" => rule == value,
            "enum" => rule.as_array().expect("a list").contains(value),
            "anyOf" => rule.as_array().expect("a list").iter().any(|option| faults(root, option, value, at).is_empty()),
            "allOf" => {
                for part in rule.as_array().expect("a list") {
                    found.extend(faults(root, part, value, at));
                }
                true
            }
            "if" => {
                let branch = if faults(root, rule, value, at).is_empty() { "then" } else { "else" };
                if let Some(branch) = schema.get(branch) {
                    found.extend(faults(root, branch, value, at));
                }
                true
            }
            "required" => value.as_object().is_none_or(|map| {
                rule.as_array().expect("a list").iter().all(|key| map.contains_key(key.as_str().expect("text")))
            }),
            "properties" => {
                for (key, part) in rule.as_object().expect("an object") {
                    if let Some(inner) = value.get(key) {
                        found.extend(faults(root, part, inner, &format!("{at}/{key}")));
                    }
                }
                true
            }
            "additionalProperties" => value.as_object().is_none_or(|map| {
                let named = schema.get("properties").and_then(Value::as_object);
                map.iter().filter(|(key, _)| named.is_none_or(|named| !named.contains_key(*key))).all(|(_, inner)| match rule {
                    Value::Bool(allowed) => *allowed,
                    part => faults(root, part, inner, at).is_empty(),
                })
            }),
            "propertyNames" => value
                .as_object()
                .is_none_or(|map| map.keys().all(|key| faults(root, rule, &Value::from(key.as_str()), at).is_empty())),
            "items" => {
                for (idx, inner) in value.as_array().into_iter().flatten().enumerate() {
                    found.extend(faults(root, rule, inner, &format!("{at}/{idx}")));
                }
                true
            }
            "minItems" => value.as_array().is_none_or(|list| list.len() as u64 >= rule.as_u64().expect("a number")),
            "maxItems" => value.as_array().is_none_or(|list| list.len() as u64 <= rule.as_u64().expect("a number")),
            "minLength" => value.as_str().is_none_or(|text| text.chars().count() as u64 >= rule.as_u64().expect("a number")),
            "maxLength" => value.as_str().is_none_or(|text| text.chars().count() as u64 <= rule.as_u64().expect("a number")),
            "minimum" => value.as_f64().is_none_or(|number| number >= rule.as_f64().expect("a number")),
            "maximum" => value.as_f64().is_none_or(|number| number <= rule.as_f64().expect("a number")),
            "pattern" => value.as_str().is_none_or(|text| matches_pattern(rule.as_str().expect("text"), text)),
            other => panic!("this validator does not know the keyword {other:?}: teach it"),
        };
        if !ok {
            found.push(format!("{at}: {keyword} {rule} is broken by {value}"));
        }
    }
    found
}

fn is_type(kind: &Value, value: &Value) -> bool {
    match kind.as_str().expect("text") {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.is_u64() || value.is_i64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("no type of JSON: {other}"),
    }
}

/// The four patterns of the schema, by hand: no regular-expression engine for four lines.
fn matches_pattern(pattern: &str, text: &str) -> bool {
    let name = |extra: u8| {
        text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == extra)
    };
    match pattern {
        "^[a-z][a-z0-9_]*$" => name(b'_'),
        "^[a-z][a-z0-9-]*$" => name(b'-'),
        "^[0-9a-f]{64}$" => text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')),
        "^[0-9]+(\\.[0-9]+)*$" => text.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit())),
        other => panic!("this validator does not know the pattern {other:?}: teach it"),
    }
}

const CODES: [ReasonCode; 18] = [
    ReasonCode::EnhancingLesion,
    ReasonCode::LargeLesionLoad,
    ReasonCode::MidlineShift,
    ReasonCode::VentricularEnlargement,
    ReasonCode::PriorityKept,
    ReasonCode::NoFindingAtOperatingPoint,
    ReasonCode::MissingRequiredSeries,
    ReasonCode::IncompleteGeometry,
    ReasonCode::CoverageOrResolution,
    ReasonCode::NoBrainFound,
    ReasonCode::OutsideDomain,
    ReasonCode::NoContrastSeen,
    ReasonCode::TooNoisy,
    ReasonCode::UnsupportedModality,
    ReasonCode::UndecodablePixels,
    ReasonCode::UnreadableDataSet,
    ReasonCode::BudgetExceeded,
    ReasonCode::InternalFault,
];
const ROLES: [&str; 9] = ["t1_post", "t1_pre", "flair", "t2", "dwi", "adc", "t2_star", "localizer", "other"];
const CLOSED: [ClosedBecause; 9] = ClosedBecause::ALL;

fn any_finding() -> impl Strategy<Value = Finding> {
    (1u32..99, 0.0..=1.0, 0.0..2000.0, 0.0..300.0, prop::array::uniform3(-300.0..300.0), any::<f64>()).prop_map(
        |(id, score, volume_ml, max_diameter_mm, at, odd)| Finding {
            id,
            class: "enhancing_lesion",
            score,
            volume_ml,
            max_diameter_mm,
            centroid_lps_mm: at,
            bbox_lps_mm: [at, at],
            measures: vec![("enhancement_ratio", odd)],
        },
    )
}

fn any_sign() -> impl Strategy<Value = Sign> {
    let codes = [
        SignCode::MidlineShift,
        SignCode::VentricularEnlargement,
        SignCode::VentricleVolume,
        SignCode::VentricleFraction,
        SignCode::NormalEnhancement,
    ];
    let value = prop_oneof![0.0..200.0_f64, Just(f64::NAN)];
    let side = prop::sample::select(vec![None, Some(Side::Left), Some(Side::Right)]);
    (prop::sample::select(codes.to_vec()), value, prop::option::of(0.0..100.0), side)
        .prop_map(|(code, value, threshold, side)| Sign { code, value, threshold, side })
}

fn any_verdict() -> impl Strategy<Value = Verdict> {
    let facts = (0usize..3, any::<bool>(), 0.0..=1.0, 0..CODES.len(), 0usize..9, 0..CLOSED.len(), any::<Option<u32>>());
    let signs = prop::collection::vec(any_sign(), 0..5);
    (facts, "\\PC{1,40}", any::<Option<String>>(), prop::collection::vec(any_finding(), 1..4), signs, any::<Option<u32>>())
        .prop_map(|((kind, critical, score, code, role, closed, supersedes), text, accession_number, findings, signs, alert)| {
            let kind = [VerdictKind::Flagged, VerdictKind::NotFlagged, VerdictKind::Indeterminate][kind];
            let assessed = kind != VerdictKind::Indeterminate;
            let flagged = kind == VerdictKind::Flagged;
            Verdict {
                study_instance_uid: Uid::try_new("1.2.840.1").expect("a UID"),
                accession_number,
                kind,
                urgency: flagged.then_some(if critical { Urgency::Critical } else { Urgency::Suspicious }),
                score: assessed.then_some(score),
                operating_point: assessed.then(|| OperatingPoint {
                    inputs: vec![Role::T1Post],
                    voxel_threshold: 0.5,
                    brain_threshold: 0.5,
                    brain_margin_voxels: 1,
                    component_ml_min: 0.1,
                    threshold: score,
                    sensitivity: 0.95,
                    specificity: 0.93,
                    source: text.clone(),
                }),
                reasons: vec![Reason::new(CODES[code], text.clone())],
                findings: if flagged { findings } else { Vec::new() },
                signs,
                series: vec![SeriesUse {
                    series_instance_uid: Uid::try_new("1.2.840.1.1").expect("a UID"),
                    role: Role::parse_name(ROLES[role]).expect("a role"),
                    evidence: vec![text.clone()],
                    used: assessed,
                }],
                quality: vec![QualityNote { code: "missing-slices", text, severity: Severity::Note }],
                model: assessed.then(|| ModelIdentity {
                    name: "cns-mri".to_owned(),
                    version: "1.0.0".to_owned(),
                    sha256: "ab".repeat(32),
                    engine: "tract".to_owned(),
                    precision: "int8".to_owned(),
                }),
                closed_because: CLOSED[closed],
                provisional: CLOSED[closed].is_provisional(),
                supersedes: supersedes.map(|number| u64::from(number).max(1)),
                decided_at: WallTime(0),
                timing: TimingMs { prepare: 1, infer: 2, total: 3, last_instance_to_alert: alert.map(u64::from) },
            }
        })
}

proptest! {
    #[test]
    fn every_verdict_obeys_the_schema_and_alerts_leave_the_accession_number_out(verdict in any_verdict()) {
        let schema = schema();
        let value: Value = serde_json::from_str(&to_json(&verdict)).expect("JSON");
        prop_assert_eq!(faults(&schema, &schema, &value, ""), Vec::<String>::new());
        prop_assert_eq!(value["accession_number"].as_str(), verdict.accession_number.as_deref());
        let alert: Value = serde_json::from_str(&to_alert_json(&verdict, false)).expect("JSON");
        prop_assert!(alert["accession_number"].is_null());
        prop_assert_eq!(faults(&schema, &schema, &alert, ""), Vec::<String>::new());
        prop_assert_eq!(to_alert_json(&verdict, true), to_json(&verdict));
        prop_assert!(!to_json(&verdict).contains('\n'), "one line per study");
        let signs = value["signs"].as_array().expect("always written");
        let told: Vec<bool> = verdict.signs.iter().filter(|s| s.value.is_finite()).map(Sign::is_critical).collect();
        prop_assert_eq!(signs.iter().map(|s| s["critical"].as_bool().expect("told")).collect::<Vec<_>>(), told);
    }
}

#[test]
fn the_schema_refuses_what_is_no_verdict() {
    let schema = schema();
    let good: Value = serde_json::from_str(
        r#"{"schema":"scanside.verdict/1","study_instance_uid":"1.2.3","accession_number":null,"verdict":"indeterminate","urgency":null,
            "score":null,"operating_point":null,"reasons":[{"code":"no-brain-found","text":"x"}],"findings":[],"series":[],"quality":[],
            "model":null,"closed_because":"quiet-time","provisional":false,"supersedes":null,
            "timing_ms":{"prepare":0,"infer":0,"total":0,"last_instance_to_alert":null}}"#,
    )
    .expect("JSON");
    assert_eq!(faults(&schema, &schema, &good, ""), Vec::<String>::new());
    let changed = |key: &str, value: Value| {
        let mut bad = good.clone();
        bad[key] = value;
        faults(&schema, &schema, &bad, "")
    };
    assert!(!changed("verdict", "negative".into()).is_empty(), "never negative");
    assert!(!changed("verdict", "flagged".into()).is_empty(), "flagged without urgency, score, finding");
    assert!(!changed("reasons", Value::Array(Vec::new())).is_empty(), "indeterminate always says why");
    assert!(!changed("study_instance_uid", "../x".into()).is_empty());
    assert!(!changed("surprise", Value::Null).is_empty());
    let sign = |unit: &str| serde_json::json!([{"code": "midline-shift", "value": 6.2, "unit": unit, "threshold": 5.0, "critical": true, "side": "left"}]);
    assert_eq!(changed("signs", sign("mm")), Vec::<String>::new());
    assert!(!changed("signs", sign("furlongs")).is_empty());
}

#[test]
fn keys_come_in_the_order_of_the_design() {
    let json = {
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        to_json(&any_verdict().new_tree(&mut runner).expect("a verdict").current())
    };
    let order = [
        "schema",
        "study_instance_uid",
        "accession_number",
        "verdict",
        "urgency",
        "score",
        "operating_point",
        "reasons",
        "findings",
        "signs",
        "series",
        "quality",
        "model",
        "closed_because",
        "provisional",
        "supersedes",
        "timing_ms",
    ];
    let places: Vec<usize> = order.iter().map(|key| json.find(&format!("\"{key}\":")).expect("there")).collect();
    assert!(places.is_sorted(), "{json}");
}
