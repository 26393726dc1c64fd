//! Walks a parsed TOML document. Tables in -> checked values out, every fault kept with the line where it stands.
//!
//! A value that is wrong is replaced by its default so that the walk goes on and finds the other faults.

use std::collections::BTreeMap;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::ConfigFault;

/// Faults found so far, and the text to count lines in.
pub(super) struct Faults<'t> {
    text: &'t str,
    list: Vec<ConfigFault>,
}

impl<'t> Faults<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, list: Vec::new() }
    }

    /// Keeps a fault that stands at byte `offset`.
    pub(super) fn add(&mut self, offset: usize, key: impl Into<String>, message: impl Into<String>) {
        let upto = self.text.as_bytes().get(..offset).unwrap_or(self.text.as_bytes());
        let line = 1 + upto.iter().filter(|b| **b == b'\n').count();
        self.list.push(ConfigFault { line, key: key.into(), message: message.into() });
    }

    /// How many so far.
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// All faults by line; the order within a line is that of discovery.
    pub(super) fn into_sorted(mut self) -> Vec<ConfigFault> {
        self.list.sort_by_key(|fault| fault.line);
        self.list
    }
}

/// One table of the file while it is read; a table that is not there has no values.
pub(super) struct Section<'d, 'i> {
    name: String,
    table: Option<&'d DeTable<'i>>,
    offset: usize,
    known: Vec<&'static str>,
}

impl<'d, 'i> Section<'d, 'i> {
    pub(super) fn new(name: impl Into<String>, table: Option<&'d DeTable<'i>>, offset: usize) -> Self {
        Self { name: name.into(), table, offset, known: Vec::new() }
    }

    /// Full name of a key of this table.
    pub(super) fn full(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    /// The value of `key`, if it is there; the key counts as known from now on.
    pub(super) fn get(&mut self, key: &'static str) -> Option<&'d Spanned<DeValue<'i>>> {
        self.known.push(key);
        self.table.and_then(|table| table.get(key))
    }

    /// The key exists, whether or not it was asked for.
    pub(super) fn know(&mut self, key: &'static str) {
        self.known.push(key);
    }

    /// Whether the file has the key.
    pub(super) fn is_set(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.get(key).is_some())
    }

    /// Byte offset of the value of `key`, or of the table.
    pub(super) fn offset_of(&self, key: &str) -> usize {
        self.table.and_then(|table| table.get(key)).map_or(self.offset, |value| value.span().start)
    }

    /// A table below this one.
    pub(super) fn section(&mut self, faults: &mut Faults<'_>, key: &'static str) -> Section<'d, 'i> {
        let name = self.full(key);
        match self.get(key) {
            None => Section::new(name, None, self.offset),
            Some(value) => match value.get_ref() {
                DeValue::Table(table) => Section::new(name, Some(table), value.span().start),
                other => {
                    let message = format!("must be a table, written [{name}], not {}", of_type(other));
                    faults.add(value.span().start, name.clone(), message);
                    Section::new(name, None, value.span().start)
                }
            },
        }
    }

    /// The tables of `[[name]]`, at most `n_max`.
    pub(super) fn sections(&mut self, faults: &mut Faults<'_>, key: &'static str, n_max: usize) -> Vec<Section<'d, 'i>> {
        let name = self.full(key);
        let Some(value) = self.get(key) else { return Vec::new() };
        let DeValue::Array(array) = value.get_ref() else {
            faults.add(value.span().start, name.clone(), format!("must be written [[{name}]], with two brackets"));
            return Vec::new();
        };
        if array.len() > n_max {
            faults.add(value.span().start, name.clone(), format!("{} entries: at most {n_max} are allowed", array.len()));
            return Vec::new();
        }
        let mut sections = Vec::new();
        for (idx, entry) in array.iter().enumerate() {
            match entry.get_ref() {
                DeValue::Table(table) => sections.push(Section::new(format!("{name}[{idx}]"), Some(table), entry.span().start)),
                other => {
                    faults.add(entry.span().start, format!("{name}[{idx}]"), format!("must be a table, not {}", of_type(other)))
                }
            }
        }
        sections
    }

    /// An integer of `min..=max`; `unit` stands in the message ("seconds", "MiB", "").
    pub(super) fn integer(
        &mut self,
        faults: &mut Faults<'_>,
        key: &'static str,
        default: u64,
        min: u64,
        max: u64,
        unit: &str,
    ) -> u64 {
        let name = self.full(key);
        let Some(value) = self.get(key) else { return default };
        let unit = if unit.is_empty() { String::new() } else { format!(" ({unit}, without a unit behind the number)") };
        let choices = format!("must be a whole number from {min} to {max}{unit}");
        match value.get_ref() {
            DeValue::Integer(integer) => match i128::from_str_radix(integer.as_str(), integer.radix()) {
                Ok(number) if (i128::from(min)..=i128::from(max)).contains(&number) => u64::try_from(number).unwrap_or(default),
                _ => {
                    faults.add(value.span().start, name, format!("{integer} is out of range: {choices}"));
                    default
                }
            },
            other => {
                faults.add(value.span().start, name, format!("{choices}, not {}", of_type(other)));
                default
            }
        }
    }

    /// As [`Section::integer`], for a count of things.
    pub(super) fn count(&mut self, faults: &mut Faults<'_>, key: &'static str, default: usize, min: u32, max: u32) -> usize {
        let number = self.integer(faults, key, default as u64, u64::from(min), u64::from(max), "");
        usize::try_from(number).unwrap_or(default)
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, faults: &mut Faults<'_>, key: &'static str, default: bool) -> bool {
        let name = self.full(key);
        let Some(value) = self.get(key) else { return default };
        match value.get_ref() {
            DeValue::Boolean(flag) => *flag,
            other => {
                faults.add(value.span().start, name, format!("must be true or false, not {}", of_type(other)));
                default
            }
        }
    }

    /// A text that `check` turns into a value, or says what is wrong with; `None` when absent or wrong.
    pub(super) fn text<T>(
        &mut self,
        faults: &mut Faults<'_>,
        key: &'static str,
        check: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let name = self.full(key);
        let value = self.get(key)?;
        checked(faults, &name, value, &check)
    }

    /// A list of such texts, at most `n_max`; the faulty ones are left out.
    pub(super) fn texts<T>(
        &mut self,
        faults: &mut Faults<'_>,
        key: &'static str,
        n_max: usize,
        check: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let name = self.full(key);
        let value = self.get(key)?;
        let DeValue::Array(array) = value.get_ref() else {
            let message = format!("must be a list in brackets, such as [\"...\"], not {}", of_type(value.get_ref()));
            faults.add(value.span().start, name, message);
            return None;
        };
        if array.len() > n_max {
            faults.add(value.span().start, name, format!("{} entries: at most {n_max} are allowed", array.len()));
            return None;
        }
        Some(
            array
                .iter()
                .enumerate()
                .filter_map(|(idx, entry)| checked(faults, &format!("{name}[{idx}]"), entry, &check))
                .collect(),
        )
    }

    /// A table whose keys are the site's, each with a text that `check` takes; at most `n_max`, the faulty ones are left out.
    pub(super) fn text_table(
        &mut self,
        faults: &mut Faults<'_>,
        key: &'static str,
        n_max: usize,
        check: impl Fn(&str) -> Result<String, String>,
    ) -> Option<BTreeMap<String, String>> {
        let name = self.full(key);
        let value = self.get(key)?;
        let DeValue::Table(table) = value.get_ref() else {
            faults.add(
                value.span().start,
                name.clone(),
                format!("must be a table, written [{name}], not {}", of_type(value.get_ref())),
            );
            return None;
        };
        if table.len() > n_max {
            faults.add(value.span().start, name, format!("{} entries: at most {n_max} are allowed", table.len()));
            return None;
        }
        let mut texts = BTreeMap::new();
        for (entry, value) in table {
            let entry: &str = entry.get_ref();
            let full = format!("{name}.{}", entry.chars().take(80).collect::<String>());
            if let Err(message) = check(entry) {
                faults.add(value.span().start, full, message);
            } else if let Some(text) = checked(faults, &full, value, &check) {
                texts.insert(entry.to_owned(), text);
            }
        }
        Some(texts)
    }

    /// A path of at most 4096 bytes; it must not be empty.
    pub(super) fn path(&mut self, faults: &mut Faults<'_>, key: &'static str) -> Option<PathBuf> {
        self.text(faults, key, |text| match text.len() {
            0 => Err("must not be empty".to_owned()),
            1..=4096 if !text.contains('\0') => Ok(PathBuf::from(text)),
            _ => Err("is no path: longer than 4096 bytes, or with a NUL in it".to_owned()),
        })
    }

    /// Says that a key which must be there is not.
    pub(super) fn missing(&self, faults: &mut Faults<'_>, key: &'static str, remedy: &str) {
        if !self.is_set(key) {
            faults.add(self.offset, self.full(key), format!("is missing: {remedy}"));
        }
    }

    /// Refuses every key that was not asked for, with the nearest name that exists.
    pub(super) fn finish(self, faults: &mut Faults<'_>) {
        let Some(table) = self.table else { return };
        for key in table.keys() {
            let given: &str = key.get_ref();
            if self.known.contains(&given) {
                continue;
            }
            let shown: String = given.chars().take(80).collect();
            faults.add(key.span().start, self.full(&shown), unknown_key(&shown, &self.known));
        }
    }
}

fn unknown_key(given: &str, known: &[&'static str]) -> String {
    let choices = known.join(", ");
    let nearest = known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(given, name), *name))
        .min()
        .filter(|(distance, name)| *distance <= (name.len() / 2).max(2))
        .or_else(|| known.iter().find(|name| !given.is_empty() && name.contains(given)).map(|name| (0, *name)));
    match nearest {
        Some((_, name)) => format!("is no key here; did you mean {name:?}? Valid keys: {choices}"),
        None => format!("is no key here. Valid keys: {choices}"),
    }
}

fn checked<T>(
    faults: &mut Faults<'_>,
    name: &str,
    value: &Spanned<DeValue<'_>>,
    check: &impl Fn(&str) -> Result<T, String>,
) -> Option<T> {
    let outcome = match value.get_ref() {
        DeValue::String(text) => check(text),
        other => Err(format!("must be a text in quotes, not {}", of_type(other))),
    };
    outcome.map_err(|message| faults.add(value.span().start, name, message)).ok()
}

fn of_type(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
