//! What a check found: lines in its log, a summary, and numbers.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::io::Write;

use crate::config::METRIC_NAME;

/// Findings of one file that are written out; the rest is counted.
pub(super) const PER_FILE: u64 = 100;
/// Findings that are written out in all.
const IN_ALL: u64 = 10_000;
/// Columns whose missing values are reported, and bytes of a name of one.
const COLUMNS: usize = 200;
const NAME: usize = 100;
/// Characters of a value from the data that a finding shows.
const VALUE: usize = 60;

/// Where in a file a finding is; all count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It is about the file, not a place in it.
    File,
    /// A line.
    Line(u64),
    /// A line and a column.
    Column(u64, u64),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File => Ok(()),
            Self::Line(line) => write!(f, ":{line}"),
            Self::Column(line, column) => write!(f, ":{line}:{column}"),
        }
    }
}

/// Collects what a check finds.
pub(super) struct Report<'a> {
    log: &'a mut dyn Write,
    /// Set once the log could not be written.
    broken: bool,
    /// The file that findings are about, as it is shown.
    path: String,
    /// Findings in it.
    here: u64,
    /// Findings in all, those written out, and the files that have some.
    total: u64,
    written: u64,
    files_with: u64,
    first: Option<String>,
    metrics: Vec<(Cow<'static, str>, u64)>,
    /// Names among them that come from the data.
    columns: usize,
}

impl<'a> Report<'a> {
    pub(super) fn new(log: &'a mut dyn Write) -> Self {
        Self {
            log,
            broken: false,
            path: String::new(),
            here: 0,
            total: 0,
            written: 0,
            files_with: 0,
            first: None,
            metrics: Vec::new(),
            columns: 0,
        }
    }

    /// The findings from here on are about `path`.
    pub(super) fn about(&mut self, path: &[u8]) {
        self.close();
        self.path = shown(path);
    }

    /// As [`Report::about`], for a file that is looked at: it counts in the metrics `files` and `bytes`.
    pub(super) fn file(&mut self, path: &[u8], len: u64) {
        self.about(path);
        self.add("files", 1);
        self.add("bytes", len);
    }

    /// Has the metrics `files` and `bytes` even if there are none.
    pub(super) fn counts_files(&mut self) {
        self.add("files", 0);
        self.add("bytes", 0);
    }

    /// Something is wrong.
    pub(super) fn find(&mut self, place: Place, what: impl fmt::Display) {
        self.here += 1;
        self.total += 1;
        self.files_with += u64::from(self.here == 1);
        let writes = self.here <= PER_FILE && self.written < IN_ALL;
        if !writes && self.first.is_some() {
            return;
        }
        let at = if self.path.is_empty() { String::new() } else { format!("{}{place}: ", self.path) };
        let line = format!("{at}{}", shown(what.to_string().as_bytes()));
        if writes {
            self.written += 1;
            self.line(&line);
        }
        self.first.get_or_insert(line);
    }

    /// Adds to a number.
    pub(super) fn add(&mut self, name: &'static str, value: u64) {
        match self.metrics.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = known.saturating_add(value),
            None => self.metrics.push((Cow::Borrowed(name), value)),
        }
    }

    /// Adds to the values that are missing in a column: the number `nulls.COLUMN`, for the first columns that come.
    pub(super) fn add_nulls(&mut self, column: &[u8], count: u64) {
        let plain = |character: char| if character.is_whitespace() { '_' } else { character };
        let name = format!("nulls.{}", shown(column.get(..NAME).unwrap_or(column)).chars().map(plain).collect::<String>());
        match self.metrics.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = known.saturating_add(count),
            None if self.columns < COLUMNS && name.len() <= METRIC_NAME => {
                self.columns += 1;
                self.metrics.push((Cow::Owned(name), count));
            }
            None => {}
        }
    }

    /// Writes why the check could not look, and gives it as it is shown.
    pub(super) fn could_not(mut self, why: &str) -> String {
        self.close();
        let why = shown(why.as_bytes());
        self.line(&why);
        why
    }

    /// The summary if anything was found, and the numbers.
    pub(super) fn finish(mut self) -> (Option<String>, Vec<(String, f64)>) {
        self.close();
        if self.total > self.written && self.written >= IN_ALL {
            let line = format!("{} findings in {} files; the first {IN_ALL} are listed", self.total, self.files_with);
            self.line(&line);
        }
        let (total, files) = (self.total, self.files_with);
        let summary = self.first.take().map(|first| match (total, files) {
            (1, _) => first,
            (_, 1) => format!("{first} (and {} more)", total - 1),
            _ => format!("{first} (and {} more; {files} files in all)", total - 1),
        });
        // A number of the lineage is a float; above 2^53 the last digits do not matter.
        let metrics = self.metrics.iter().map(|(name, value)| (name.clone().into_owned(), *value as f64)).collect();
        (summary, metrics)
    }

    /// Ends a file: says what was not listed.
    fn close(&mut self) {
        if self.here > PER_FILE && self.written < IN_ALL {
            let line = format!("{}: {} more findings", self.path, self.here - PER_FILE);
            self.line(&line);
        }
        self.here = 0;
    }

    fn line(&mut self, line: &str) {
        if !self.broken
            && let Err(error) = writeln!(self.log, "{line}")
        {
            self.broken = true;
            tracing::warn!("the log of a built-in check could not be written: {error}");
        }
    }
}

/// Bytes as one line that can't steer a terminal: bytes that are not UTF-8, control characters and marks of direction are escaped.
pub(super) fn shown(bytes: &[u8]) -> String {
    let mut shown = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => shown.extend(character.escape_unicode()),
                _ if character.is_control() => shown.extend(character.escape_default()),
                _ => shown.push(character),
            }
        }
        for byte in chunk.invalid() {
            // Writing to a string can't fail.
            let _ = write!(shown, "\\x{byte:02x}");
        }
    }
    shown
}

/// A value from the data, in quotes and not too long. What it holds is escaped when the finding is written.
pub(super) fn quoted(value: &[u8]) -> String {
    let text = shown(value.get(..VALUE * 4).unwrap_or(value));
    match text.char_indices().nth(VALUE) {
        Some((end, _)) => format!("\"{}…\"", &text[..end]),
        None => format!("\"{text}\""),
    }
}

/// "1 row", "2 rows".
pub(super) fn counted(count: u64, word: &str) -> String {
    format!("{count} {word}{}", if count == 1 { "" } else { "s" })
}
