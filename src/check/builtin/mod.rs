//! Checks of our own: they read the changed files straight from the store, and say path, line and reason.
//!
//! A check is a [`Builtin`]; what it finds goes into the log as one line each (`PATH:LINE:COLUMN: WHAT`), bounded. Files are read as
//! streams, and only those whose bytes differ from the base's. An error of reading is never the data's fault:
//! it ends the attempt as [`Verdict::CouldNotStart`].

mod attempt;
mod counts;
mod csv;
mod fields;
mod file;
mod json;
mod json_schema;
mod manifest;
mod names;
mod parquet;
mod report;
mod sqlite;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_schema;
#[cfg(test)]
mod tests_tables;
mod utf8;

pub use attempt::BuiltinJob;
pub(super) use attempt::attempt;

use std::collections::HashSet;
use std::io::{self, Write};
use std::sync::Arc;

use crate::config::Options;
use crate::tree::key::{FileKind, InodeRecord};
use crate::tree::{ChangeKind, PathChange, Snapshot, TreeError};
use file::{File, Halt, Stop};

use report::Report;

/// The names of all built-in checks: the list that the configuration refuses others by.
pub const NAMES: &[&str] = crate::config::BUILTINS;

/// What an attempt of a built-in check works on.
pub struct Context<'a> {
    /// The version to check.
    pub version: &'a Snapshot,
    /// What it stands on.
    pub base: &'a Snapshot,
    /// How the version differs from the base, where the check looks.
    pub changes: &'a [PathChange],
    /// Whether the check looks at a path: what `changes` was filtered by.
    pub looks_at: &'a (dyn Fn(&[u8]) -> bool + Sync),
    /// Where the findings go. One that fails does not change what the check finds.
    pub log: &'a mut dyn Write,
    /// Asked between pieces of work: whether the attempt is to stop (its verdict does not matter any more, or its time is over).
    pub cancelled: &'a (dyn Fn() -> bool + Sync),
    /// The numbers that the check reported, each name once.
    pub metrics: Vec<(String, f64)>,
}

impl<'a> Context<'a> {
    /// A context of a check that looks at every path and is never told to stop.
    pub fn new(version: &'a Snapshot, base: &'a Snapshot, changes: &'a [PathChange], log: &'a mut dyn Write) -> Self {
        Self { version, base, changes, looks_at: &|_| true, log, cancelled: &|| false, metrics: Vec::new() }
    }

    /// Reports a number; the last one of a name counts.
    pub fn metric(&mut self, name: &str, value: f64) {
        match self.metrics.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = value,
            None => self.metrics.push((name.to_owned(), value)),
        }
    }
}

/// How an attempt of a built-in check ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The data is good.
    Passed,
    /// It is not.
    Failed {
        /// What is wrong, in one line.
        summary: String,
    },
    /// The check could not look at all of it: says nothing about the data.
    CouldNotStart {
        /// Why.
        why: String,
    },
    /// It was told to stop.
    Cancelled,
}

/// A check of our own.
pub trait Builtin: Send + Sync {
    /// Looks at a version.
    fn run(&self, cx: &mut Context<'_>) -> Verdict;
}

/// The check that the configuration calls `name`, with its options.
#[must_use]
pub fn by_name(name: &str, options: &Options) -> Option<Box<dyn Builtin>> {
    let own = || options.clone();
    Some(match name {
        "csv" => Box::new(csv::Csv { options: own() }),
        "deletes" => Box::new(counts::Deletes { most: options.max_deleted, fewest: options.ignore_below }),
        "json" => Box::new(json::Json),
        "jsonl" => Box::new(json::JsonLines),
        "json-schema" => Box::new(json_schema::JsonSchema { schema: options.schema.clone().unwrap_or_default() }),
        "manifest" => Box::new(manifest::Manifest),
        "names" => Box::new(names::Names { allow: options.allow.clone(), forbid: options.forbid.clone() }),
        "parquet" => Box::new(parquet::Parquet { columns: options.columns }),
        "size" => Box::new(counts::Size { options: own() }),
        "sqlite" => Box::new(sqlite::Sqlite),
        "utf8" => Box::new(utf8::Utf8),
        _ => return None,
    })
}

/// The globs of a check whose `paths` say nothing: those of its kind of file. None for a check that looks at all.
#[must_use]
pub fn default_paths(name: &str) -> &'static [&'static str] {
    match name {
        "csv" => &["**/*.csv"],
        "json" => &["**/*.json"],
        "jsonl" => &["**/*.jsonl", "**/*.ndjson"],
        "json-schema" => &["**/*.json", "**/*.jsonl", "**/*.ndjson"],
        "parquet" => &["**/*.parquet"],
        // A database changes with its write-ahead log.
        "sqlite" => &["**/*.{db,sqlite,sqlite3}", "**/*.{db,sqlite,sqlite3}-{wal,journal}"],
        _ => &[],
    }
}

/// What a check looks at: the part of a [`Context`] that does not change while it runs.
#[derive(Clone, Copy)]
struct View<'a> {
    version: &'a Snapshot,
    base: &'a Snapshot,
    changes: &'a [PathChange],
    looks_at: &'a (dyn Fn(&[u8]) -> bool + Sync),
    stop: &'a Stop<'a>,
}

impl<'a> View<'a> {
    /// The regular file that a path of the version leads to.
    fn file(&self, path: &[u8]) -> io::Result<Option<File<'a>>> {
        file_at(self.version, path, self.stop)
    }

    /// The regular file that was there in the base.
    fn base_file(&self, path: &[u8]) -> io::Result<Option<File<'a>>> {
        file_at(self.base, path, self.stop)
    }
}

fn file_at<'a>(snapshot: &'a Snapshot, path: &[u8], stop: &'a Stop<'a>) -> io::Result<Option<File<'a>>> {
    let Some(ino) = snapshot.resolve(path).map_err(io::Error::other)? else { return Ok(None) };
    let record = snapshot.inode(ino).map_err(io::Error::other)?;
    Ok(record.filter(|record| record.kind == FileKind::Regular).map(|record| File::new(snapshot, ino, record, stop)))
}

/// The record of a regular file whose bytes are new or differ.
fn changed_file(change: &PathChange) -> Option<&Arc<InodeRecord>> {
    match change.kind {
        ChangeKind::Added | ChangeKind::Modified | ChangeKind::Type => change.new.as_ref().filter(|new| new.kind == FileKind::Regular),
        ChangeKind::Properties | ChangeKind::Deleted => None,
    }
}

/// Runs `look` and makes a verdict of what it reported. An error of `look` says that it could not read, not that the data is bad.
fn judge(cx: &mut Context<'_>, look: impl FnOnce(&View<'_>, &mut Report<'_>) -> io::Result<()>) -> Verdict {
    let stop = Stop::new(cx.cancelled);
    let view = View { version: cx.version, base: cx.base, changes: cx.changes, looks_at: cx.looks_at, stop: &stop };
    let mut report = Report::new(&mut *cx.log);
    let ended = look(&view, &mut report);
    let halt = stop.halt();
    let why = match (halt, ended) {
        (Some(Halt::Cancelled), _) => return Verdict::Cancelled,
        (Some(Halt::Unreadable(why)), _) => why,
        (None, Err(error)) => error.to_string(),
        (None, Ok(())) => {
            let (summary, metrics) = report.finish();
            for (name, value) in metrics {
                cx.metric(&name, value);
            }
            return summary.map_or(Verdict::Passed, |summary| Verdict::Failed { summary });
        }
    };
    let why = report.could_not(&why);
    Verdict::CouldNotStart { why }
}

/// Looks at every regular file whose bytes are new or differ; one with several names once.
fn each_file(
    view: &View<'_>,
    report: &mut Report<'_>,
    mut look: impl FnMut(&[u8], &File<'_>, &mut Report<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let mut seen = HashSet::new();
    report.counts_files();
    for change in view.changes {
        let Some(record) = changed_file(change) else { continue };
        if record.nlink > 1 && !seen.insert(change.ino) {
            continue;
        }
        view.stop.check()?;
        let file = File::new(view.version, change.ino, Arc::clone(record), view.stop);
        report.file(&change.path, file.len());
        look(&change.path, &file, report)?;
    }
    Ok(())
}

/// Looks at every regular file that the check looks at, changed or not; one with several names once.
fn each_file_of_all(
    view: &View<'_>,
    report: &mut Report<'_>,
    mut look: impl FnMut(&[u8], &File<'_>, &mut Report<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let mut seen = HashSet::new();
    report.counts_files();
    counts::walk(view, view.version, &mut |path, kind, ino, snapshot| {
        if kind != FileKind::Regular || !seen.insert(ino) {
            return Ok(true);
        }
        let Some(record) = snapshot.inode(ino).map_err(unreadable)? else { return Ok(true) };
        let file = File::new(view.version, ino, record, view.stop);
        report.file(path, file.len());
        look(path, &file, report)?;
        Ok(true)
    })
}

/// An error of the tree as one of reading.
fn unreadable(error: TreeError) -> io::Error {
    io::Error::other(error)
}
