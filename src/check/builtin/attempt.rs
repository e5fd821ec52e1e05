//! An attempt of a built-in check, as a worker makes it: the log, the time that it has, and the outcome.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use super::{Context, Verdict, by_name};
use crate::check::Plan;
use crate::check::cancel::Cancel;
use crate::check::output::Output;
use crate::clock::Clock;
use crate::config::Options;
use crate::store::LogPlace;
use crate::store::record::Outcome;
use crate::tree::{PathChange, Snapshot};

/// A built-in check to try.
#[derive(Debug)]
pub struct BuiltinJob {
    /// Its name, as in the configuration (`builtin = NAME`).
    pub name: String,
    /// What it was told in the configuration.
    pub options: Options,
    /// The version to check.
    pub version: Snapshot,
    /// What it stands on.
    pub base: Snapshot,
    /// How they differ; the checks of a version share it.
    pub changes: Arc<[PathChange]>,
    /// Where the check looks.
    pub plan: Plan,
    /// Where its findings go.
    pub log: LogPlace,
    /// The time that it has.
    pub timeout: Duration,
    /// Bytes of its findings that are kept.
    pub output: u64,
}

/// The attempt's log as a stream.
struct Log<'a>(&'a mut Output);

impl Write for Log<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Tries a check: how it ended, and the numbers that it reported.
pub(in crate::check) fn attempt(job: &BuiltinJob, cancel: &Cancel, clock: &dyn Clock) -> (Outcome, Vec<(String, f64)>) {
    let Some(check) = by_name(&job.name, &job.options) else {
        return (Outcome::CouldNotStart { why: format!("there is no built-in check \"{}\"", job.name) }, Vec::new());
    };
    let mut output = match Output::create(&job.log, job.output) {
        Ok(output) => output,
        Err(error) => {
            let why = format!("its log {} can't be written: {error}", job.log.path().display());
            return (Outcome::CouldNotStart { why }, Vec::new());
        }
    };
    let deadline = clock.instant() + job.timeout;
    let changes: Vec<PathChange> = job.changes.iter().filter(|change| job.plan.looks_at(&change.path)).cloned().collect();
    let mut log = Log(&mut output);
    let mut cx = Context {
        looks_at: &|path| job.plan.looks_at(path),
        cancelled: &|| cancel.is_cancelled() || clock.instant() >= deadline,
        ..Context::new(&job.version, &job.base, &changes, &mut log)
    };
    let verdict = check.run(&mut cx);
    let metrics = std::mem::take(&mut cx.metrics);
    for (name, value) in metrics {
        // In the form that a command reports numbers in: they stand in the log, and are found there.
        output.write(format!("shadowfs-metric {name} {value}\n").as_bytes());
    }
    let outcome = match verdict {
        Verdict::Passed => Outcome::Passed,
        Verdict::Failed { summary } => Outcome::Found { summary },
        Verdict::CouldNotStart { why } => Outcome::CouldNotStart { why },
        Verdict::Cancelled if cancel.is_cancelled() => Outcome::Cancelled,
        Verdict::Cancelled => Outcome::TimedOut,
    };
    let metrics = output.finish(outcome == Outcome::Passed);
    (outcome, metrics)
}
