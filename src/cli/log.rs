//! `log` and `ghosts`: versions as a table.

use super::args::{JsonArgs, LogArgs};
use super::daemon::{Asking, unexpected};
use super::exit::Result;
use super::metric;
use super::output::{Cell, Colour, Out, age, state_colour, table};
use crate::control::protocol::{Reply, Request, VersionDoc};
use crate::lineage::text;
use crate::store::record::VersionState;

pub(super) fn run(args: &LogArgs, daemon: &Asking, out: &mut Out) -> Result {
    if let Some(name) = &args.metric {
        let request = Request::Metric { name: name.clone(), check: args.check.clone(), limit: args.number };
        let docs = match daemon.ask(&request)? {
            Reply::Metrics(docs) => docs,
            other => return Err(unexpected(&other)),
        };
        return if args.json.json { Ok(out.json(&docs)?) } else { Ok(metric::print(&docs, out)?) };
    }
    let versions = versions(daemon, &Request::Log { limit: args.number })?;
    if args.json.json { Ok(out.json(&versions)?) } else { Ok(out.raw(as_table(&versions, out).as_bytes())?) }
}

pub(super) fn ghosts(args: JsonArgs, daemon: &Asking, out: &mut Out) -> Result {
    let ghosts = versions(daemon, &Request::Ghosts)?;
    if args.json {
        Ok(out.json(&ghosts)?)
    } else if ghosts.is_empty() {
        Ok(out.line("no ghosts")?)
    } else {
        Ok(out.raw(as_table(&ghosts, out).as_bytes())?)
    }
}

fn versions(daemon: &Asking, request: &Request) -> Result<Vec<VersionDoc>> {
    match daemon.ask(request)? {
        Reply::Log(versions) => Ok(versions),
        other => Err(unexpected(&other)),
    }
}

fn as_table(versions: &[VersionDoc], out: &Out) -> String {
    let rows: Vec<Vec<Cell>> = versions.iter().map(row).collect();
    table(&["VERSION", "STATE", "ON", "CHANGES", "WHEN", "WHAT"], &rows, out.paint)
}

fn row(doc: &VersionDoc) -> Vec<Cell> {
    let parent = doc.parent.map(|parent| parent.to_string()).unwrap_or_default();
    let changes = if doc.state == VersionState::Open { String::new() } else { text::counts(&doc.changes) };
    let when = doc.promoted_at.as_ref().or(doc.decided_at.as_ref()).or(doc.sealed_at.as_ref()).unwrap_or(&doc.opened_at);
    vec![
        Cell::painted(Colour::Cyan, doc.version),
        Cell::painted(state_colour(doc.state), state(doc)),
        parent.into(),
        changes.into(),
        age(when).into(),
        what(doc).into(),
    ]
}

/// The state, and what by hand holds it.
pub(super) fn state(doc: &VersionDoc) -> String {
    let mut state = doc.state.to_string();
    for (set, word) in [(doc.held, " held"), (doc.pinned, " pinned")] {
        if set {
            state.push_str(word);
        }
    }
    state
}

/// Its message, and why it went down or whose changes it has.
pub(super) fn what(doc: &VersionDoc) -> String {
    let mut parts = Vec::new();
    parts.extend(doc.message.clone());
    parts.extend(doc.rebased_from.map(|from| format!("carries {from} over")));
    parts.extend(doc.restored_from.map(|from| format!("restores {from}")));
    parts.extend(doc.reason.as_ref().map(text::why));
    text::printable(&parts.join("; "))
}
