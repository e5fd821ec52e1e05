//! `wait` and `check`, and what `commit --wait` and `run --wait` do at their end: how a version's verdict becomes an exit code.

use super::args::{CheckArgs, WaitArgs};
use super::daemon::Asking;
use super::exit::{Exit, Failure, Result};
use super::log;
use super::output::{Out, state_colour};
use crate::control::protocol::{Request, VersionDoc, VersionName};
use crate::lineage::text;
use crate::store::record::{Reason, VersionState};

pub(super) fn wait(args: &WaitArgs, daemon: &Asking, out: &mut Out) -> Result {
    let decided = daemon.version(&Request::Wait { version: args.version.clone(), promoted: args.promoted })?;
    report(decided, args.json.json, out)
}

pub(super) fn check(args: CheckArgs, daemon: &Asking, out: &mut Out) -> Result {
    let checked = daemon.version(&Request::Check { version: args.version, check: args.name })?;
    match &checked {
        Some(doc) if doc.state == VersionState::Ghost && doc.passed => passes_now(doc, args.json.json, out),
        _ => report(checked, args.json.json, out),
    }
}

/// A ghost stays what it is: its verdict is on record, and what stood on it has moved on.
fn passes_now(doc: &VersionDoc, json: bool, out: &mut Out) -> Result {
    if json {
        return Ok(out.json(doc)?);
    }
    let version = doc.version;
    Ok(out.line(format_args!(
        "{version} passes now; it stays a ghost, and its content comes back as a new version: shadowfs restore {version}"
    ))?)
}

/// What is left after a seal: a word on the version, or its verdict.
pub(super) fn after_commit(sealed: Option<VersionDoc>, wait: bool, json: bool, daemon: &Asking, out: &mut Out) -> Result {
    match sealed {
        Some(doc) if wait => {
            let request = Request::Wait { version: Some(VersionName::Number(doc.version)), promoted: false };
            report(daemon.version(&request)?, json, out)
        }
        sealed if json => Ok(out.json(&sealed)?),
        Some(doc) => Ok(out.line(format_args!("{} sealed: {}", doc.version, text::counts(&doc.changes)))?),
        None => Ok(out.line("nothing had changed")?),
    }
}

/// Prints the version and turns its state into an exit code.
fn report(decided: Option<VersionDoc>, json: bool, out: &mut Out) -> Result {
    if json {
        out.json(&decided)?;
    }
    let Some(doc) = decided else {
        return if json { Ok(()) } else { Ok(out.line("nothing to wait for")?) };
    };
    judge(&doc)?;
    if !json {
        let state = out.paint.paint(state_colour(doc.state), log::state(&doc));
        let what = log::what(&doc);
        let what = if what.is_empty() { what } else { format!(": {what}") };
        out.line(format_args!("{} {state}{what}", doc.version))?;
    }
    Ok(())
}

/// A verdict as a command's end: a rejected version is exit 3, one that never came to be is a failure.
fn judge(doc: &VersionDoc) -> Result {
    let version = doc.version;
    let why = doc.reason.as_ref().map(|reason| text::printable(&text::why(reason)));
    let why = why.map(|why| format!(": {why}")).unwrap_or_default();
    match (doc.state, &doc.reason) {
        (VersionState::Ghost, _) => Err(Failure::new(
            Exit::Rejected,
            format!("{version} was rejected{why}; see ghosts/{version} in the mount and: shadowfs show {version}"),
        )),
        (VersionState::Expired, Some(Reason::ChecksFailed { .. } | Reason::Conflict { .. } | Reason::Unreadable { .. })) => {
            Err(Failure::new(Exit::Rejected, format!("{version} was rejected{why}; its content has expired")))
        }
        (VersionState::Aborted, Some(Reason::Unchanged)) => Ok(()),
        (VersionState::Aborted, _) => Err(Failure::failed(format!("{version} was aborted{why}"))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;
    use crate::ids::VersionId;
    use crate::store::record::ChangeCounts;

    fn doc(state: VersionState, reason: Option<Reason>) -> VersionDoc {
        VersionDoc {
            version: VersionId(7),
            state,
            parent: None,
            digest: None,
            message: None,
            opened_at: String::new(),
            sealed_at: None,
            decided_at: None,
            promoted_at: None,
            changes: ChangeCounts::default(),
            writers: Vec::new(),
            reason,
            passed: false,
            held: false,
            pinned: false,
            rebased_from: None,
            restored_from: None,
        }
    }

    #[test]
    fn every_state_is_an_exit_code() {
        let failed = || Some(Reason::ChecksFailed { checks: vec!["rows".to_owned()], summary: "rows failed".to_owned() });
        let code = |state, reason| judge(&doc(state, reason)).map_or_else(|failure| failure.exit as u8, |()| 0);
        assert_eq!(code(VersionState::Valid, None), 0);
        assert_eq!(code(VersionState::Promoted, None), 0);
        assert_eq!(code(VersionState::Superseded, None), 0);
        assert_eq!(code(VersionState::Expired, None), 0);
        assert_eq!(code(VersionState::Ghost, failed()), 3);
        assert_eq!(code(VersionState::Expired, failed()), 3);
        assert_eq!(code(VersionState::Aborted, Some(Reason::Unchanged)), 0);
        assert_eq!(code(VersionState::Aborted, Some(Reason::Discarded)), 1);
        let refused = judge(&doc(VersionState::Ghost, failed())).unwrap_err();
        assert_eq!(refused.message, "t7 was rejected: rows failed; see ghosts/t7 in the mount and: shadowfs show t7");
    }
}
