//! The audit trail for people: one line an event.

use super::event::EventLine;
use crate::store::event::EventKind;
use crate::store::record::{ChangeCounts, Outcome, Reason, Writer};

/// Text for people, oldest event first: when, which version, what.
#[must_use]
pub fn render(events: &[EventLine]) -> String {
    let width = events.iter().filter_map(|event| event.version).map(|version| version.to_string().len()).max().unwrap_or(0);
    events.iter().map(|event| line(event, width)).collect()
}

/// One line: time to the second, version, sentence.
fn line(event: &EventLine, width: usize) -> String {
    let version = event.version.map(|version| version.to_string()).unwrap_or_default();
    format!("{}  {version:width$}  {}\n", moment(&event.at), printable(&sentence(&event.what)))
}

/// `2026-11-22 12:18:19` of an RFC 3339 time; times that have no such form are shown as they are.
#[must_use]
pub fn moment(at: &str) -> String {
    match (at.get(..10), at.get(10..11), at.get(11..19)) {
        (Some(date), Some("T"), Some(time)) => format!("{date} {time}"),
        _ => at.to_owned(),
    }
}

/// What happened, as a sentence without its end.
#[must_use]
pub fn sentence(what: &EventKind) -> String {
    match what {
        EventKind::Initialized { from: Some(from) } => format!("store made from {from}"),
        EventKind::Initialized { from: None } => "store made, empty".to_owned(),
        EventKind::Opened { parent, writer: Some(writer) } => format!("opened on {parent} by {}", person(writer)),
        EventKind::Opened { parent, writer: None } => format!("opened on {parent}"),
        EventKind::Sealed { changes, writers, message, .. } => {
            let by = list(writers.iter().map(person));
            let by = if by.is_empty() { by } else { format!(", by {by}") };
            let message = message.as_ref().map(|message| format!(": {message}")).unwrap_or_default();
            format!("sealed: {}{by}{message}", counts(changes))
        }
        EventKind::Checked { check, attempt, outcome, took_ms } => {
            format!("check {check}, attempt {attempt}: {} after {}", ending(outcome), milliseconds(*took_ms))
        }
        EventKind::Validated => "valid: all its checks and its ancestors' passed".to_owned(),
        EventKind::Rejected { reason } => format!("rejected, a ghost now: {}", why(reason)),
        EventKind::RolledBack { from, to } => format!("staging rolled back from {from} to {to}"),
        EventKind::Rebased { from, onto } => format!("carries the changes of {from} over onto {onto}"),
        EventKind::Aborted { reason } => format!("aborted: {}", why(reason)),
        EventKind::Promoted { replaces, batch, .. } if batch.len() > 1 => {
            format!("promoted to production in place of {replaces}, batch {}", list(batch.iter().map(ToString::to_string)))
        }
        EventKind::Promoted { replaces, .. } => format!("promoted to production in place of {replaces}"),
        EventKind::Superseded { by } => format!("superseded by {by}"),
        EventKind::HeldBack { why } => format!("promotion put off: {why}"),
        EventKind::ProductionRolledBack { from, to } => format!("production put back by hand from {from} to {to}"),
        EventKind::Held => "held: not promoted until someone says so".to_owned(),
        EventKind::Released => "released: may be promoted again".to_owned(),
        EventKind::Restored { from } => format!("restores the content of {from}"),
        EventKind::Tagged { name } => format!("tagged {name}"),
        EventKind::Pinned => "pinned: kept whatever its age".to_owned(),
        EventKind::Expired => "expired: only its record and logs are left".to_owned(),
        EventKind::ConfigLoaded => "configuration loaded".to_owned(),
        EventKind::ConfigRefused { why } => format!("configuration refused, the old one stays: {why}"),
        EventKind::Mounted { at, recovered: true } => format!("mounted at {at}, recovered: the daemon before ended without unmounting"),
        EventKind::Mounted { at, recovered: false } => format!("mounted at {at}"),
        EventKind::Unmounted => "unmounted".to_owned(),
        EventKind::Untagged { name } => format!("no longer tagged {name}"),
        EventKind::DiskLow { free, total } => {
            format!("little space is left on the store's filesystem: {} MiB of {} MiB", free >> 20, total >> 20)
        }
        EventKind::Unpinned => "no longer pinned: its age counts again".to_owned(),
    }
}

/// Why a version is a ghost or was aborted, in one line.
#[must_use]
pub fn why(reason: &Reason) -> String {
    match reason {
        Reason::ChecksFailed { summary, checks } if summary.is_empty() => format!("failed: {}", list(checks.iter().cloned())),
        Reason::ChecksFailed { summary, .. } => summary.clone(),
        Reason::Conflict { with, paths } => {
            format!("its changes overlap with those of {with}, which was rejected: {}", first_of(paths))
        }
        Reason::Rebased { into } => format!("its changes live on in {into}"),
        Reason::Unchanged => "nothing had changed".to_owned(),
        Reason::Discarded => "discarded by the user".to_owned(),
        Reason::Lost => "a crash came before its changes were on disk".to_owned(),
        Reason::Unreadable { paths, why } => format!("the disk failed before it was sealed: {}: {why}", first_of(paths)),
    }
}

/// How an attempt ended, in one or a few words.
#[must_use]
pub fn ending(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Passed => "passed".to_owned(),
        Outcome::Failed { code: Some(code) } => format!("failed (exit {code})"),
        Outcome::Failed { code: None } => "failed".to_owned(),
        Outcome::Found { summary } => format!("failed: {summary}"),
        Outcome::OverLimit { what } => format!("over its limit: {what}"),
        Outcome::Killed { signal } => format!("killed by signal {signal}"),
        Outcome::TimedOut => "timed out".to_owned(),
        Outcome::CouldNotStart { why } => format!("could not start: {why}"),
        Outcome::Cancelled => "cancelled".to_owned(),
        Outcome::Skipped => "skipped, nothing that it looks at changed".to_owned(),
    }
}

/// `+3 ~1 -0` in words that fit a column.
#[must_use]
pub fn counts(changes: &ChangeCounts) -> String {
    format!("+{} ~{} -{}", changes.added, changes.modified, changes.deleted)
}

/// `python3 (pid 4242, uid 1000)`.
#[must_use]
pub fn person(writer: &Writer) -> String {
    let name = if writer.command.is_empty() { "a process" } else { &writer.command };
    format!("{name} (pid {}, uid {})", writer.pid, writer.uid)
}

/// `85 ms`, `2.5 s`, `3 min 20 s`.
#[must_use]
pub fn milliseconds(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        _ => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1_000),
    }
}

fn first_of(paths: &[String]) -> String {
    let more = if paths.len() > 3 { format!(" and {} more", paths.len() - 3) } else { String::new() };
    format!("{}{more}", list(paths.iter().take(3).cloned()))
}

fn list(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

/// Text with control characters escaped: names and messages come from anyone and must not steer a terminal.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() { shown.extend(character.escape_default()) } else { shown.push(character) }
    }
    shown
}
