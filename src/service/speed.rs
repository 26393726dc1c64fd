//! The stored measurement of this box: a [`SpeedTable`] -> `speed.json` in the state folder, whole or not at all, and back, bounded.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::Value;

use crate::domain::WallTime;
use crate::domain::speed::{SpeedTable, StageSpeed};
use crate::web;

const FILE: &str = "speed.json";
/// A table takes 2 KB.
const BYTES_MAX: u64 = 65_536;
/// Nine stages are known.
const STAGES_MAX: usize = 32;
/// Longest name or version that is read back, bytes.
const TEXT_MAX: usize = 200;
const SCHEMA: &str = "scanside.speed/1";

/// The table as it is kept: what the page's programs get, with its schema and the time as a number.
#[must_use]
pub fn to_json(table: &SpeedTable) -> Value {
    let mut value = web::speed::to_json(table);
    if let Some(fields) = value.as_object_mut() {
        fields.insert("schema".to_owned(), SCHEMA.into());
        fields.insert("measured_at_ms".to_owned(), table.measured_at.0.into());
    }
    value
}

/// The table that the text holds; `None` for anything else.
#[must_use]
pub fn from_json(text: &str) -> Option<SpeedTable> {
    let value: Value = serde_json::from_str(text).ok()?;
    let number = |key: &str| value.get(key)?.as_u64();
    let string = |value: &Value, key: &str| {
        let text = value.get(key)?.as_str()?;
        (text.len() <= TEXT_MAX).then(|| text.to_owned())
    };
    let stage = |s: &Value| {
        let ms = |key: &str| s.get(key)?.as_f64().filter(|ms| ms.is_finite() && *ms >= 0.0);
        let peak_bytes = s.get("peak_bytes").and_then(Value::as_u64);
        Some(StageSpeed { stage: string(s, "stage")?, wall_ms: ms("wall_ms")?, cpu_ms: ms("cpu_ms")?, peak_bytes })
    };
    let stages = value.get("stages")?.as_array()?;
    if value.get("schema")?.as_str()? != SCHEMA || stages.len() > STAGES_MAX {
        return None;
    }
    Some(SpeedTable {
        measured_at: WallTime(value.get("measured_at_ms")?.as_i64()?),
        scanside: string(&value, "scanside")?,
        target: string(&value, "target")?,
        model: string(&value, "model")?,
        n_instances: number("n_instances")?,
        n_bytes: number("n_bytes")?,
        n_threads: number("n_threads")?,
        n_runs: number("n_runs")?,
        stages: stages.iter().map(stage).collect::<Option<Vec<_>>>()?,
    })
}

/// Keeps the table in the state folder (made if missing): written beside, made durable, renamed.
///
/// # Errors
/// What the file system says.
pub fn store(state_dir: &Path, table: &SpeedTable) -> io::Result<()> {
    fs::create_dir_all(state_dir)?;
    let mut file = tempfile::Builder::new().prefix("speed-").tempfile_in(state_dir)?;
    file.write_all(to_json(table).to_string().as_bytes())?;
    // No secret: who measures may be another user than who serves the page.
    file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
    file.as_file().sync_all()?;
    file.persist(state_dir.join(FILE)).map_err(|error| error.error)?;
    File::open(state_dir)?.sync_all()
}

/// The table kept last; `None` when there is none or the file is not one.
#[must_use]
pub fn load(state_dir: &Path) -> Option<SpeedTable> {
    let mut text = String::new();
    File::open(state_dir.join(FILE)).ok()?.take(BYTES_MAX).read_to_string(&mut text).ok()?;
    from_json(&text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table() -> SpeedTable {
        let stage =
            |stage: &str, wall_ms, peak_bytes| StageSpeed { stage: stage.into(), wall_ms, cpu_ms: wall_ms * 1.5, peak_bytes };
        SpeedTable {
            measured_at: WallTime(1_790_000_000_000),
            scanside: "0.1.0".into(),
            target: "x86_64-linux".into(),
            model: "cns-mri 0.3.0 (int8, tract)".into(),
            n_instances: 310,
            n_bytes: 33_000_000,
            n_threads: 2,
            n_runs: 5,
            stages: vec![stage("decode", 30.0, Some(90 << 20)), stage("infer", 90.0, None)],
        }
    }

    #[test]
    fn a_table_comes_back_from_the_state_folder_and_a_newer_one_takes_its_place() {
        let dir = tempfile::tempdir().expect("a folder");
        let state = dir.path().join("state");
        assert_eq!(load(&state), None);
        store(&state, &table()).expect("kept");
        assert_eq!(load(&state), Some(table()));
        let newer = SpeedTable { n_runs: 9, ..table() };
        store(&state, &newer).expect("kept");
        assert_eq!(load(&state), Some(newer));
        assert_eq!(fs::read_dir(&state).expect("a folder").count(), 1, "nothing is left beside it");
        assert!((table().share_percent(&table().stages[1]) - 75.0).abs() < 1e-9);
    }

    #[test]
    fn a_broken_or_swollen_file_is_no_table() {
        let dir = tempfile::tempdir().expect("a folder");
        let text = to_json(&table()).to_string();
        for broken in [
            text[..text.len() / 2].to_owned(),
            text.replace("310", "-3"),
            text.replace("speed/1", "speed/9"),
            " ".repeat(1 << 20) + &text,
        ] {
            fs::write(dir.path().join(FILE), broken).expect("written");
            assert_eq!(load(dir.path()), None);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC{0,200}") {
            let _ = from_json(&text);
        }
    }
}
