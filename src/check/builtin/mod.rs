//! Checks of our own: they read the changed files straight from the store, and say path, line and reason.

mod csv;
mod json;
mod reader;
#[cfg(test)]
mod tests;
mod utf8;

use std::path::PathBuf;
use std::time::Duration;

use reader::FileReader;

use super::cancel::Cancel;
use super::output::Output;
use crate::clock::Clock;
use crate::ids::Ino;
use crate::store::record::Outcome;
use crate::tree::Snapshot;

/// Findings that are written out; the rest is counted.
const FINDINGS_LIMIT: u64 = 100;

/// A built-in check to try.
#[derive(Debug)]
pub struct BuiltinJob {
    /// Its name, as in the configuration.
    pub name: String,
    /// The version to check.
    pub snapshot: Snapshot,
    /// The regular files that are new or changed and that it looks at.
    pub files: Vec<Subject>,
    /// Where its findings go.
    pub log: PathBuf,
    /// The time that it has.
    pub timeout: Duration,
}

/// A file to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Its path in the dataset.
    pub path: Vec<u8>,
    /// Its inode.
    pub ino: Ino,
}

/// Something wrong at a line of a file.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    line: u64,
    what: String,
}

/// What a look at one file gives: what is wrong with it, and numbers to add up over all files.
#[derive(Debug, Default, PartialEq, Eq)]
struct Look {
    findings: Vec<Finding>,
    /// Rows, records or lines that it has.
    rows: Option<u64>,
}

/// A check of one file: it reads it once, from its beginning. An error of the reader is the store's, or says that the check is to stop.
trait FileCheck: Send + Sync {
    fn look(&self, file: &mut FileReader<'_>) -> std::io::Result<Look>;
}

fn by_name(name: &str) -> Option<&'static dyn FileCheck> {
    match name {
        "csv" => Some(&csv::Csv),
        "json" => Some(&json::Json),
        "jsonl" => Some(&json::JsonLines),
        "utf8" => Some(&utf8::Utf8),
        _ => None,
    }
}

/// The globs of a check whose `paths` say nothing.
pub(super) fn default_paths(name: &str) -> &'static [&'static str] {
    match name {
        "csv" => &["**/*.csv"],
        "json" => &["**/*.json"],
        "jsonl" => &["**/*.jsonl", "**/*.ndjson"],
        _ => &[],
    }
}

pub(super) fn attempt(job: &BuiltinJob, cancel: &Cancel, clock: &dyn Clock) -> (Outcome, Vec<(String, f64)>) {
    let Some(check) = by_name(&job.name) else {
        return (Outcome::CouldNotStart { why: format!("there is no built-in check \"{}\"", job.name) }, Vec::new());
    };
    let mut output = match Output::create(&job.log) {
        Ok(output) => output,
        Err(error) => {
            let why = format!("its log {} can't be written: {error}", job.log.display());
            return (Outcome::CouldNotStart { why }, Vec::new());
        }
    };
    let outcome = look_at_all(check, job, cancel, clock, &mut output);
    (outcome, output.finish())
}

fn look_at_all(check: &dyn FileCheck, job: &BuiltinJob, cancel: &Cancel, clock: &dyn Clock, output: &mut Output) -> Outcome {
    let limit = reader::Limit { cancel, clock, deadline: clock.instant() + job.timeout };
    let (mut found, mut rows) = (0u64, 0u64);
    for subject in &job.files {
        let path = String::from_utf8_lossy(&subject.path).replace(|c: char| c.is_control(), "\u{fffd}");
        let look = FileReader::open(&job.snapshot, subject.ino, &limit).and_then(|mut file| check.look(&mut file));
        let look = match (look, limit.over()) {
            (_, Some(outcome)) => return outcome,
            (Ok(look), None) => look,
            (Err(error), None) => {
                // Not the data's fault: the version waits, and the check is tried again.
                let why = format!("{path} can't be read: {error}");
                output.write(format!("{why}\n").as_bytes());
                return Outcome::CouldNotStart { why };
            }
        };
        rows += look.rows.unwrap_or(0);
        for Finding { line, what } in look.findings {
            found += 1;
            if found <= FINDINGS_LIMIT {
                output.write(format!("{path}:{line}: {what}\n").as_bytes());
            }
        }
    }
    let files = job.files.len();
    output.write(format!("{files} {}, {found} {}\n", plural(files as u64, "file"), plural(found, "finding")).as_bytes());
    if found > FINDINGS_LIMIT {
        output.write(format!("(only the first {FINDINGS_LIMIT} are listed)\n").as_bytes());
    }
    output.write(format!("shadowfs-metric files {files}\nshadowfs-metric rows {rows}\n").as_bytes());
    if found == 0 { Outcome::Passed } else { Outcome::Failed { code: None } }
}

fn plural(count: u64, word: &str) -> String {
    if count == 1 { word.to_owned() } else { format!("{word}s") }
}
