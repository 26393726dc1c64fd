//! One table of a manifest: keys asked for in, values out; what is missing, wrong or unknown is collected, so that all faults are told at once.

use std::collections::BTreeSet;

use toml::{Table, Value};

use crate::domain::{Quantisation, Role};

use super::manifest::SCHEMA;
use super::package::PackageFault;

/// Most input channels, operating points and goldens.
const ENTRIES_MAX: usize = 16;

/// Thresholds and scales are written from single precision; the nearest one is meant.
#[allow(clippy::cast_possible_truncation)]
pub(crate) fn narrow(value: f64) -> f32 {
    value as f32
}

/// One table of the manifest: reads keys, remembers which were asked for, and collects faults. A faulty value reads as an empty or zero one,
/// which no caller ever sees because the faults end the load.
pub(crate) struct Section<'t, 'f> {
    table: &'t Table,
    path: String,
    known: BTreeSet<String>,
    faults: &'f mut Vec<PackageFault>,
}

impl<'t, 'f> Section<'t, 'f> {
    pub(crate) fn new(table: &'t Table, path: String, faults: &'f mut Vec<PackageFault>) -> Self {
        Self { table, path, known: BTreeSet::new(), faults }
    }

    fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub(crate) fn fault(&mut self, key: &str, message: impl Into<String>) {
        let key = self.key(key);
        self.faults.push(PackageFault::new(&key, message.into()));
    }

    pub(crate) fn ignore(&mut self, key: &str) {
        self.known.insert(key.to_owned());
    }

    /// Whether the key is there; does not count as asking for it.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    fn get(&mut self, key: &str) -> Option<&'t Value> {
        self.ignore(key);
        let found = self.table.get(key);
        if found.is_none() {
            self.fault(key, "is missing");
        }
        found
    }

    pub(crate) fn refuse_others(&mut self) {
        let others: Vec<String> = self.table.keys().filter(|key| !self.known.contains(*key)).cloned().collect();
        for key in others {
            self.fault(&key, format!("is not a key of {SCHEMA}"));
        }
    }

    pub(crate) fn section<T>(&mut self, key: &str, read: impl FnOnce(&mut Section<'_, '_>) -> T) -> T {
        let empty = Table::new();
        let (path, found) = (self.key(key), self.get(key));
        let table = found.and_then(Value::as_table);
        if found.is_some() && table.is_none() {
            self.fault(key, "must be a table");
        }
        // Keys of a table that is not there are not listed one by one.
        let mut unread = Vec::new();
        let faults = if table.is_some() { &mut *self.faults } else { &mut unread };
        let mut section = Section::new(table.unwrap_or(&empty), path, faults);
        let value = read(&mut section);
        section.refuse_others();
        value
    }

    pub(crate) fn sections<T>(&mut self, key: &str, read: impl Fn(&mut Section<'_, '_>) -> T) -> Vec<T> {
        let Some(found) = self.get(key) else { return Vec::new() };
        let entries: Vec<&Table> = found.as_array().into_iter().flatten().filter_map(Value::as_table).collect();
        if entries.is_empty() || entries.len() > ENTRIES_MAX || found.as_array().is_some_and(|a| a.len() != entries.len()) {
            self.fault(key, format!("must be 1 to {ENTRIES_MAX} tables, each headed [[{}]]", self.key(key)));
            return Vec::new();
        }
        let path = self.key(key);
        let one = |(n, table)| {
            let mut section = Section::new(table, format!("{path}[{n}]"), self.faults);
            let value = read(&mut section);
            section.refuse_others();
            value
        };
        entries.into_iter().enumerate().map(one).collect()
    }

    pub(crate) fn number(&mut self, key: &str, min: f64, max: f64) -> f64 {
        let Some(value) = self.get(key) else { return 0.0 };
        as_number(value).filter(|n| (min..=max).contains(n)).unwrap_or_else(|| {
            self.fault(key, format!("must be a number from {min} to {max}"));
            0.0
        })
    }

    pub(crate) fn integer(&mut self, key: &str, min: i64, max: i64) -> i64 {
        let Some(value) = self.get(key) else { return 0 };
        value.as_integer().filter(|n| (min..=max).contains(n)).unwrap_or_else(|| {
            self.fault(key, format!("must be a whole number from {min} to {max}"));
            0
        })
    }

    pub(crate) fn numbers<const N: usize>(&mut self, key: &str, min: f64, max: f64) -> [f64; N] {
        let Some(value) = self.get(key) else { return [0.0; N] };
        let numbers: Option<Vec<f64>> = value.as_array().and_then(|a| a.iter().map(as_number).collect());
        let fine =
            numbers.filter(|numbers| numbers.iter().all(|n| (min..=max).contains(n))).and_then(|n| <[f64; N]>::try_from(n).ok());
        fine.unwrap_or_else(|| {
            self.fault(key, format!("must be {N} numbers from {min} to {max}"));
            [0.0; N]
        })
    }

    pub(crate) fn rising(&mut self, key: &str, min: f64, max: f64) -> [f64; 2] {
        let n_faults = self.faults.len();
        let pair: [f64; 2] = self.numbers(key, min, max);
        if self.faults.len() == n_faults && pair[0] >= pair[1] {
            self.fault(key, "the second number must be above the first");
        }
        pair
    }

    pub(crate) fn quantisation(&mut self) -> Quantisation {
        let scale = narrow(self.number("scale", 1e-9, 1e6));
        let zero_point = i8::try_from(self.integer("zero_point", -128, 127)).unwrap_or(0);
        Quantisation { scale, zero_point }
    }

    pub(crate) fn flag(&mut self, key: &str) -> bool {
        let Some(value) = self.get(key) else { return false };
        value.as_bool().unwrap_or_else(|| {
            self.fault(key, "must be true or false");
            false
        })
    }

    pub(crate) fn text(&mut self, key: &str) -> String {
        let Some(value) = self.get(key) else { return String::new() };
        let fine = value.as_str().filter(|text| !text.is_empty() && text.len() <= 1024 && !text.contains(char::is_control));
        fine.map(str::to_owned).unwrap_or_else(|| {
            self.fault(key, "must be a text of 1 to 1024 bytes on one line");
            String::new()
        })
    }

    pub(crate) fn texts(&mut self, key: &str) -> Vec<String> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let texts: Option<Vec<String>> = value
            .as_array()
            .filter(|a| a.len() <= ENTRIES_MAX)
            .and_then(|a| a.iter().map(|v| v.as_str().map(str::to_owned)).collect());
        texts.unwrap_or_else(|| {
            self.fault(key, format!("must be a list of at most {ENTRIES_MAX} texts"));
            Vec::new()
        })
    }

    /// A name that may stand in a verdict, a path of the web page and a log: letters, digits, dots, dashes, underscores.
    pub(crate) fn word(&mut self, key: &str) -> String {
        let text = self.text(key);
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) || text.len() > 64 {
            self.fault(key, "must be at most 64 letters, digits, dots, dashes and underscores");
        }
        text
    }

    pub(crate) fn one_of(&mut self, key: &str, choices: &[&str]) -> String {
        let text = self.text(key);
        if !text.is_empty() && !choices.contains(&text.as_str()) {
            self.fault(key, format!("is {text:?}, and this version knows {choices:?}"));
        }
        text
    }

    pub(crate) fn sha256(&mut self, key: &str) -> String {
        let text = self.text(key);
        if !text.is_empty() && (text.len() != 64 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))) {
            self.fault(key, "must be a SHA-256 in 64 lower-case hexadecimal digits");
        }
        text
    }

    /// A file inside the package: plain names joined by slashes, so that no package can point outside its folder.
    pub(crate) fn file(&mut self, key: &str) -> String {
        let text = self.text(key);
        let plain = |part: &str| {
            !part.is_empty() && !part.starts_with('.') && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        if !text.is_empty() && !text.split('/').all(plain) {
            self.fault(
                key,
                "must be a file inside the package: letters, digits, dots, dashes and underscores, joined by slashes",
            );
        }
        text
    }

    pub(crate) fn role(&mut self, key: &str) -> Role {
        let text = self.text(key);
        Role::parse_name(&text).unwrap_or_else(|| {
            if !text.is_empty() {
                self.fault(key, format!("{text:?} is no role"));
            }
            Role::Other
        })
    }
}

/// TOML writes whole numbers without a point.
fn as_number(value: &Value) -> Option<f64> {
    #[allow(clippy::cast_precision_loss)] // every bound in use is far below 2^53
    let whole = value.as_integer().map(|n| n as f64);
    value.as_float().or(whole)
}
