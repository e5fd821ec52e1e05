//! Documents that are made on a connection's own thread: they may read much.

use super::leases::Lease;
use super::requests::{failed, refused};
use super::shared::Shared;
use crate::control::protocol::{AttemptDoc, ChangeDoc, DiffDoc, ErrorKind, Reply, ShowDoc, VersionDoc, VersionName};
use crate::ids::{EventSeq, VersionId};
use crate::lineage::event::json_line;
use crate::store::record::{VersionRecord, VersionState};
use crate::tree::{self, PathChange, Snapshot};
use crate::version::Staging;
use crate::version::lifecycle::is_browsable;

/// Changes that `show` lists.
const SHOWN_CHANGES: usize = 1000;

/// A side of a difference.
#[derive(Debug)]
pub(super) struct Side {
    /// Where it is read, below the mount.
    path: String,
    snapshot: Snapshot,
    _lease: Option<Lease>,
}

/// The side that a name means.
pub(super) fn side(shared: &Shared, staging: &Staging, name: &VersionName, record: &VersionRecord) -> Result<Side, Reply> {
    if *name == VersionName::Staging || record.state == VersionState::Open {
        let snapshot = staging.snapshot().map_err(|error| failed(error.to_string()))?;
        return Ok(Side { path: "staging".to_owned(), snapshot, _lease: None });
    }
    let gone = || refused(ErrorKind::Conflict, format!("{} is {}: its content is gone", record.version, record.state));
    let dir = if is_browsable(record.state) { "versions" } else { "ghosts" };
    let lease = shared.lease(record.version).ok_or_else(gone)?;
    let snapshot = shared.snapshot(record).ok_or_else(gone)?;
    Ok(Side { path: format!("{dir}/{}", record.version), snapshot, _lease: Some(lease) })
}

/// `Reply::Diff`.
pub(super) fn diff(shared: &Shared, from: Side, to: Side, below: Option<&[u8]>) -> Result<Reply, Reply> {
    let changes = tree::changes(&from.snapshot, &to.snapshot).map_err(|error| failed(error.to_string()))?;
    let below = below.map(|path| path.trim_ascii_end().strip_suffix(b"/").unwrap_or(path));
    let wanted = |change: &&PathChange| below.is_none_or(|below| is_below(&change.path, below));
    Ok(Reply::Diff(DiffDoc {
        from: from.path,
        to: to.path,
        mount: shared.mount.display().to_string(),
        changes: changes.iter().filter(wanted).map(ChangeDoc::from).collect(),
    }))
}

fn is_below(path: &[u8], dir: &[u8]) -> bool {
    dir.is_empty() || path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// `Reply::Show`.
pub(super) fn show(shared: &Shared, staging: &Staging, record: &VersionRecord) -> Result<Reply, Reply> {
    let read = |error: &dyn std::fmt::Display| failed(format!("{} can't be read: {error}", record.version));
    let catalog = shared.store.catalog();
    let mut attempts = catalog.attempts(record.version).map_err(|error| read(&error))?;
    attempts.sort_by_key(|attempt| (attempt.started_at, attempt.attempt));
    let parent = match record.parent {
        Some(parent) => catalog.version(parent).map_err(|error| read(&error))?,
        None => None,
    };
    let leases = (shared.lease(record.version), parent.as_ref().and_then(|parent| shared.lease(parent.version)));
    let new = match record.state {
        VersionState::Open => Some(staging.snapshot().map_err(|error| read(&error))?),
        _ => leases.0.as_ref().and_then(|_| shared.snapshot(record)),
    };
    let old = parent.filter(|_| leases.1.is_some()).and_then(|parent| shared.snapshot(&parent));
    let changes = match (old, new) {
        (Some(old), Some(new)) => tree::changes(&old, &new).map_err(|error| read(&error))?,
        // t0, or one whose content or ground is gone.
        _ => Vec::new(),
    };
    Ok(Reply::Show(Box::new(ShowDoc {
        version: VersionDoc::from(record),
        attempts: attempts.iter().map(AttemptDoc::new).collect(),
        changes: changes.iter().take(SHOWN_CHANGES).map(ChangeDoc::from).collect(),
    })))
}

/// `Reply::Lineage`.
pub(super) fn lineage(shared: &Shared, version: Option<VersionId>) -> Result<Reply, Reply> {
    let events = shared.store.catalog().events(EventSeq(0)).map_err(|error| failed(format!("the lineage can't be read: {error}")))?;
    let wanted = events.iter().filter(|event| version.is_none_or(|version| event.version == Some(version)));
    Ok(Reply::Lineage(wanted.map(json_line).collect()))
}

#[cfg(test)]
mod tests {
    use super::is_below;

    #[test]
    fn a_path_is_below_itself_and_its_directories() {
        assert!(is_below(b"a/b", b"") && is_below(b"a/b", b"a") && is_below(b"a/b", b"a/b"));
        assert!(!is_below(b"ab", b"a") && !is_below(b"a", b"a/b"));
    }
}
