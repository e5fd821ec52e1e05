//! Single values with their place in the file: each reader says what it wanted and what it found.

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{ConfigError, Percent};

/// The text that is read, for the line of a place in it.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) text: &'a str,
    pub(super) file: &'a Path,
}

impl Source<'_> {
    /// A refusal with the line on which `span` begins.
    pub(super) fn refuse(&self, span: &Range<usize>, reason: impl Into<String>) -> ConfigError {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        ConfigError { file: self.file.to_owned(), line: Some(line), reason: reason.into() }
    }
}

/// A table whose keys are known: what is not asked for is unknown.
pub(super) struct Section<'a> {
    source: Source<'a>,
    /// "[staging]" in messages; empty for the file itself.
    title: &'static str,
    table: &'a DeTable<'a>,
    /// Where the table begins.
    pub(super) span: Range<usize>,
}

impl<'a> Section<'a> {
    /// The section `table`, which may have only `known` keys.
    pub(super) fn new(
        source: Source<'a>,
        title: &'static str,
        table: &'a DeTable<'a>,
        span: Range<usize>,
        known: &[&str],
    ) -> Result<Self, ConfigError> {
        for (key, _) in table {
            let name: &str = key.get_ref();
            if !known.contains(&name) {
                return Err(source.refuse(&key.span(), unknown_key(name, title, known)));
            }
        }
        Ok(Self { source, title, table, span })
    }

    /// The value of `key` as it stands there.
    pub(super) fn value(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.get(key)
    }

    fn get(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.table.get(key)
    }

    /// A refusal of a value that is not what was wanted.
    pub(super) fn wrong(&self, key: &str, value: &Spanned<DeValue<'_>>, wanted: &str) -> ConfigError {
        let found = match value.get_ref() {
            DeValue::String(text) => format!("\"{text}\""),
            DeValue::Integer(number) => number.to_string(),
            DeValue::Float(number) => number.to_string(),
            DeValue::Boolean(truth) => truth.to_string(),
            other => format!("a value of type {}", other.type_str()),
        };
        let place = if self.title.is_empty() { String::new() } else { format!(" in {}", self.title) };
        self.source.refuse(&value.span(), format!("\"{key}\"{place} must be {wanted}, not {found}"))
    }

    /// A refusal at the value of `key` (at the section, if there is none).
    pub(super) fn refuse_at(&self, key: &str, reason: impl Into<String>) -> ConfigError {
        let span = self.get(key).map_or_else(|| self.span.clone(), Spanned::span);
        self.source.refuse(&span, reason)
    }

    /// Whether `key` is there.
    pub(super) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// A text.
    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, ConfigError> {
        self.get(key).map(|value| value.get_ref().as_str().ok_or_else(|| self.wrong(key, value, "a text in quotes"))).transpose()
    }

    /// A whole number from `low` to `high`.
    pub(super) fn number(&self, key: &str, low: u64, high: u64) -> Result<Option<u64>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.get_ref().as_integer().and_then(|number| {
            let digits = number.as_str().replace('_', "");
            u64::from_str_radix(&digits, number.radix()).ok()
        });
        match number {
            Some(number) if (low..=high).contains(&number) => Ok(Some(number)),
            _ if high == u64::MAX => Err(self.wrong(key, value, &format!("a whole number of at least {low}"))),
            _ => Err(self.wrong(key, value, &format!("a whole number from {low} to {high}"))),
        }
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        self.get(key).map(|value| value.get_ref().as_bool().ok_or_else(|| self.wrong(key, value, "true or false"))).transpose()
    }

    /// A duration such as "200ms", "10m", "1h 30m".
    pub(super) fn duration(&self, key: &str) -> Result<Option<Duration>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let wanted = "a duration such as \"200ms\", \"2s\", \"10m\" or \"30d\"";
        let parsed = value.get_ref().as_str().and_then(|text| humantime::parse_duration(text).ok());
        // A century is past any use, and far below where adding it to a moment could overflow.
        match parsed {
            Some(duration) if duration <= Duration::from_secs(100 * 366 * 86_400) => Ok(Some(duration)),
            Some(_) => Err(self.wrong(key, value, "a duration of at most 100 years")),
            None => Err(self.wrong(key, value, wanted)),
        }
    }

    /// A percentage such as "5%".
    pub(super) fn percent(&self, key: &str) -> Result<Option<Percent>, ConfigError> {
        self.percent_up_to(key, 100)
    }

    /// A percentage that can be more than the whole.
    pub(super) fn percent_up_to(&self, key: &str, most: u32) -> Result<Option<Percent>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let parsed = value.get_ref().as_str().and_then(|text| parse_percent(text, most));
        parsed.map(Some).ok_or_else(|| self.wrong(key, value, &format!("a percentage from \"0%\" to \"{most}%\"")))
    }

    /// A number, whole or not.
    pub(super) fn real(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let digits = |text: &str| text.replace('_', "").parse::<f64>().ok();
        let number = match value.get_ref() {
            DeValue::Float(number) => digits(number.as_str()),
            DeValue::Integer(number) if number.radix() == 10 => digits(number.as_str()),
            _ => None,
        };
        number.filter(|number| number.is_finite()).map(Some).ok_or_else(|| self.wrong(key, value, "a number"))
    }

    /// A number of bytes such as "64KiB", "32MiB", "1GB".
    pub(super) fn size(&self, key: &str) -> Result<Option<u64>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let parsed = value.get_ref().as_str().and_then(parse_size);
        parsed.map(Some).ok_or_else(|| self.wrong(key, value, "a size such as \"512KiB\", \"32MiB\" or \"1GiB\""))
    }

    /// What `read` reads, or `None` if the value is "none"; without a value, `usual`.
    pub(super) fn unless_none<T>(
        &self,
        key: &str,
        usual: Option<T>,
        read: impl FnOnce(&Self) -> Result<Option<T>, ConfigError>,
    ) -> Result<Option<T>, ConfigError> {
        match self.get(key).map(|value| value.get_ref().as_str()) {
            None => Ok(usual),
            Some(Some("none")) => Ok(None),
            Some(_) => read(self),
        }
    }

    /// One of some words.
    pub(super) fn word<T: Copy>(&self, key: &str, words: &[(&str, T)]) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let found = value.get_ref().as_str().and_then(|text| words.iter().find(|(word, _)| *word == text));
        let wanted = || words.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>().join(" or ");
        found.map(|(_, meaning)| Some(*meaning)).ok_or_else(|| self.wrong(key, value, &wanted()))
    }

    /// A list of texts.
    pub(super) fn texts(&self, key: &str) -> Result<Option<Vec<String>>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        texts(value.get_ref()).map(Some).ok_or_else(|| self.wrong(key, value, "a list of texts, such as [\"a\", \"b\"]"))
    }

    /// A command: a list of at least one text, the program first and not empty.
    pub(super) fn command(&self, key: &str) -> Result<Option<Vec<String>>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let wanted = "a command as a list, such as [\"python3\", \"/etc/shadowfs/rows.py\"]";
        texts(value.get_ref()).filter(|words| is_command(words)).map(Some).ok_or_else(|| self.wrong(key, value, wanted))
    }

    /// A list of commands.
    pub(super) fn commands(&self, key: &str) -> Result<Option<Vec<Vec<String>>>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let wanted = "a list of commands, such as [[\"/etc/shadowfs/ready\", \"--fast\"]]";
        let list = value.get_ref().as_array().ok_or_else(|| self.wrong(key, value, wanted))?;
        let one = |entry: &Spanned<DeValue<'_>>| {
            texts(entry.get_ref()).filter(|words| is_command(words)).ok_or_else(|| self.wrong(key, value, wanted))
        };
        list.iter().map(one).collect::<Result<_, _>>().map(Some)
    }
}

fn is_command(words: &[String]) -> bool {
    // A NUL can't be in an argument; found here, it is a line of the file and not a failure at the first check.
    words.first().is_some_and(|program| !program.is_empty()) && !words.iter().any(|word| word.contains('\0'))
}

fn texts(value: &DeValue<'_>) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|entry| entry.get_ref().as_str().map(str::to_owned)).collect()
}

fn parse_percent(text: &str, most: u32) -> Option<Percent> {
    let number: f64 = text.strip_suffix('%')?.trim().parse().ok()?;
    if !(0.0..=f64::from(most)).contains(&number) {
        return None;
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // `most` is far below what fits, by the line above
    let thousandths = (number * 1000.0).round() as u32;
    Some(Percent(thousandths))
}

const UNITS: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = UNITS.iter().find_map(|(name, unit)| text.strip_suffix(name).map(|number| (number, *unit))).unwrap_or((text, 1));
    number.trim().parse::<u64>().ok()?.checked_mul(unit)
}

/// A size as the file says it: in the largest unit that it is a whole number of.
pub(super) fn size_text(bytes: u64) -> String {
    let fits = |(_, unit): &&(&str, u64)| bytes > 0 && bytes.is_multiple_of(*unit);
    let (name, unit) = UNITS.iter().take(4).rev().find(fits).copied().unwrap_or(("B", 1));
    format!("{}{name}", bytes / unit)
}

/// The tables of a list of sections (`[[name]]`), each with its place.
pub(super) fn sections<'a>(
    source: Source<'_>,
    table: &'a DeTable<'a>,
    name: &str,
) -> Result<Vec<(&'a DeTable<'a>, Range<usize>)>, ConfigError> {
    let Some(value) = table.get(name) else { return Ok(Vec::new()) };
    let misshapen = |at: &Spanned<DeValue<'_>>| source.refuse(&at.span(), format!("\"{name}\" must be a list of sections: [[{name}]]"));
    let list = value.get_ref().as_array().ok_or_else(|| misshapen(value))?;
    list.iter().map(|entry| Ok((entry.get_ref().as_table().ok_or_else(|| misshapen(entry))?, entry.span()))).collect()
}

/// "unknown key "setle" in [staging]; did you mean "settle"?"
fn unknown_key(name: &str, title: &str, known: &[&str]) -> String {
    let place = if title.is_empty() { String::new() } else { format!(" in {title}") };
    let nearest = known.iter().max_by(|a, b| strsim::jaro_winkler(name, a).total_cmp(&strsim::jaro_winkler(name, b)));
    match nearest {
        Some(nearest) if strsim::jaro_winkler(name, nearest) > 0.7 => {
            format!("unknown key \"{name}\"{place}; did you mean \"{nearest}\"?")
        }
        _ => format!("unknown key \"{name}\"{place}; the nearest known keys are {}", known.join(", ")),
    }
}
