//! `show`: one version with everything known of it.

use serde::Serialize;

use super::args::ShowArgs;
use super::daemon::{Asking, unexpected};
use super::exit::Result;
use super::output::{Cell, Colour, Out, quoted, state_colour, table};
use super::{diff, log};
use crate::control::protocol::{AttemptDoc, ChangeDoc, Reply, Request, ShowDoc, VersionDoc};
use crate::lineage::text;
use crate::store::record::Outcome;

/// The document of `show --json`: a version as everywhere, and what else is known of it.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    version: &'a VersionDoc,
    /// Attempts of its checks, in order.
    attempts: &'a [AttemptDoc],
    /// Its changed paths; `changes` has their counts.
    paths: &'a [ChangeDoc],
}

pub(super) fn run(args: &ShowArgs, daemon: &Asking, out: &mut Out) -> Result {
    let doc = match daemon.ask(&Request::Show { version: args.version.clone() })? {
        Reply::Show(doc) => *doc,
        other => return Err(unexpected(&other)),
    };
    if args.json.json {
        Ok(out.json(&Shown { version: &doc.version, attempts: &doc.attempts, paths: &doc.changes })?)
    } else {
        print(&doc, out)
    }
}

fn print(doc: &ShowDoc, out: &mut Out) -> Result {
    let version = &doc.version;
    let paint = out.paint;
    let state = paint.paint(state_colour(version.state), log::state(version));
    out.line(format_args!("{} {state}", paint.paint(Colour::Cyan, version.version)))?;
    for (name, value) in facts(version) {
        out.line(format_args!("{:10}{}", format!("{name}:"), text::printable(&value)))?;
    }
    if !doc.attempts.is_empty() {
        out.line("")?;
        let rows: Vec<Vec<Cell>> = doc.attempts.iter().map(attempt).collect();
        out.raw(table(&["CHECK", "ATTEMPT", "OUTCOME", "TOOK", "METRICS", "OUTPUT"], &rows, paint).as_bytes())?;
        for (check, summary) in findings(&doc.attempts) {
            out.line(format_args!("{}: {}", text::printable(check), text::printable(summary)))?;
        }
    }
    if !doc.changes.is_empty() {
        out.line("")?;
        for change in &doc.changes {
            out.line(format_args!("{}  {}", diff::letter(change, paint), quoted(change.bytes())))?;
        }
        let all = version.changes.added + version.changes.modified + version.changes.deleted;
        let shown = doc.changes.len() as u64;
        if all > shown {
            out.line(format_args!("... and {} more; all: lineage/{}/changes.jsonl", all - shown, version.version))?;
        }
    }
    Ok(())
}

fn facts(version: &VersionDoc) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    let mut fact = |name, value: Option<String>| facts.extend(value.map(|value| (name, value)));
    fact("message", version.message.clone());
    fact("reason", version.reason.as_ref().map(text::why));
    fact("on", version.parent.map(|parent| parent.to_string()));
    fact("carries", version.rebased_from.map(|from| format!("the changes of {from}")));
    fact("restores", version.restored_from.map(|from| from.to_string()));
    fact("opened", Some(text::moment(&version.opened_at)));
    fact("sealed", version.sealed_at.as_deref().map(text::moment));
    fact("decided", version.decided_at.as_deref().map(text::moment));
    fact("promoted", version.promoted_at.as_deref().map(text::moment));
    for writer in &version.writers {
        fact("writer", Some(text::person(writer)));
    }
    fact("changes", Some(format!("{}, {}", text::counts(&version.changes), indicatif::HumanBytes(version.changes.bytes))));
    fact("digest", version.digest.map(|digest| digest.to_string()));
    facts
}

/// What the checks found, once where all attempts of one found the same.
fn findings(attempts: &[AttemptDoc]) -> Vec<(&str, &str)> {
    let mut findings = Vec::new();
    for AttemptDoc { attempt, .. } in attempts {
        if let Outcome::Found { summary } = &attempt.outcome
            && !findings.contains(&(attempt.check.as_str(), summary.as_str()))
        {
            findings.push((&attempt.check, summary));
        }
    }
    findings
}

fn attempt(doc: &AttemptDoc) -> Vec<Cell> {
    let attempt = &doc.attempt;
    let colour = match &attempt.outcome {
        Outcome::Passed => Colour::Green,
        Outcome::Cancelled | Outcome::Skipped => Colour::Dim,
        _ if attempt.rejects => Colour::Red,
        _ => Colour::Yellow,
    };
    let ending = match &attempt.outcome {
        // What it found is a line of its own below the table.
        Outcome::Found { .. } => text::ending(&Outcome::Failed { code: None }),
        outcome => text::printable(&text::ending(outcome)),
    };
    let ending = if attempt.rejects { ending } else { format!("{ending} (warns only)") };
    let metrics: Vec<_> = attempt.metrics.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let took = text::milliseconds(u64::try_from(attempt.took.as_millis()).unwrap_or(u64::MAX));
    vec![
        text::printable(&attempt.check).into(),
        attempt.attempt.into(),
        Cell::painted(colour, ending),
        took.into(),
        text::printable(&metrics.join(" ")).into(),
        doc.log.as_str().into(),
    ]
}
