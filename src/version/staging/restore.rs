//! The content of an older version put back: one open version that shows it.

use super::Staging;
use super::types::{Caller, Invalidation};
use crate::clock::Timestamp;
use crate::ids::VersionId;
use crate::tree::Snapshot;
use crate::version::error::{FsError, FsResult};

/// Nobody's process: the daemon itself puts content back.
const NOBODY: Caller = Caller { uid: 0, gid: 0, pid: 0 };

/// A version was opened with the content of another.
#[derive(Debug)]
pub struct Restored {
    /// Its number.
    pub version: VersionId,
    /// When it was opened.
    pub at: Timestamp,
    /// What the kernel must forget.
    pub invalidate: Vec<Invalidation>,
}

impl Staging {
    /// Opens a version that has `content`. Refused (`Busy`) while one is open, whose changes would be lost; `None` if staging shows
    /// just that content. The cost follows what differs. Handles of files that differ become stale, as in a rollback.
    pub fn restore(&self, content: &Snapshot) -> FsResult<Option<Restored>> {
        let _gate = self.gate.write();
        let mut state = self.lock();
        state.refresh_all(&self.cx)?;
        if state.open.is_some() {
            return Err(FsError::Busy);
        }
        let digest = |tree: &crate::tree::Tree| tree.root_ref().map(|root| root.digest);
        if digest(&state.tree).is_some_and(|shown| Some(shown) == digest(&content.tree)) {
            return Ok(None);
        }
        let changes = state.tree.diff(&content.tree);
        let edits = changes.map(|change| change.map(|change| (change.key, change.new))).collect::<Result<Vec<_>, _>>()?;
        if edits.is_empty() {
            return Ok(None);
        }
        let invalidate = self.switch(&mut state, content.tree.clone())?;
        let version = state.begin(&NOBODY, &self.cx);
        let Some(open) = &mut state.open else { return Ok(None) };
        open.explicit = true;
        open.journal.queue_edits(edits);
        Ok(Some(Restored { version, at: open.opened_at, invalidate }))
    }
}
