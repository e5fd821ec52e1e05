//! What people and scripts see of a version, an attempt and a change: the documents behind `--json`, `lineage/` and the
//! control protocol. Their field names are part of the contract with scripts.

use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

use super::json::AttemptJson;
use crate::clock::Timestamp;
use crate::ids::{Digest, VersionId};
use crate::store::record::{AttemptRecord, ChangeCounts, Reason, VersionRecord, VersionState, Writer};
use crate::tree::key::{FileKind, InodeRecord};
use crate::tree::{self, PathChange};

/// A version, as `log`, `show` and all others print it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VersionDoc {
    /// "t7".
    pub version: VersionId,
    /// Its state.
    pub state: VersionState,
    /// What it stands on.
    pub parent: Option<VersionId>,
    /// Its content digest, once sealed.
    pub digest: Option<Digest>,
    /// Its message.
    pub message: Option<String>,
    /// RFC 3339, UTC, as all times here.
    pub opened_at: String,
    /// When it was sealed.
    pub sealed_at: Option<String>,
    /// When its verdict fell.
    pub decided_at: Option<String>,
    /// When it went to production.
    pub promoted_at: Option<String>,
    /// Counts of changed paths.
    pub changes: ChangeCounts,
    /// Who changed it.
    pub writers: Vec<Writer>,
    /// Why it is a ghost or aborted.
    #[serde(with = "super::json::reason")]
    pub reason: Option<Reason>,
    /// Its own checks have passed.
    pub passed: bool,
    /// Taken back by hand.
    pub held: bool,
    /// Kept by hand.
    pub pinned: bool,
    /// Whose changes it carries over.
    pub rebased_from: Option<VersionId>,
    /// Whose content it restores.
    pub restored_from: Option<VersionId>,
}

impl From<&VersionRecord> for VersionDoc {
    fn from(record: &VersionRecord) -> Self {
        let text = |stamp: Option<Timestamp>| stamp.map(|stamp| stamp.to_string());
        Self {
            version: record.version,
            state: record.state,
            parent: record.parent,
            digest: record.root.map(|root| root.digest),
            message: record.message.clone(),
            opened_at: record.opened_at.to_string(),
            sealed_at: text(record.sealed_at),
            decided_at: text(record.decided_at),
            promoted_at: text(record.promoted_at),
            changes: record.changes,
            writers: record.writers.clone(),
            reason: record.reason.clone(),
            passed: record.passed,
            held: record.held,
            pinned: record.pinned,
            rebased_from: record.rebased_from,
            restored_from: record.restored_from,
        }
    }
}

/// The kinds of change of a path; the letters are git's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// A: it is new.
    Added,
    /// M: its content differs.
    Modified,
    /// T: it is of another kind now.
    Type,
    /// P: only its attributes (mode, owner, times, xattrs) differ.
    Properties,
    /// D: it is gone.
    Deleted,
}

impl ChangeKind {
    /// The letter that `diff --name-status` prints.
    #[must_use]
    pub const fn letter(self) -> char {
        match self {
            Self::Added => 'A',
            Self::Modified => 'M',
            Self::Type => 'T',
            Self::Properties => 'P',
            Self::Deleted => 'D',
        }
    }
}

/// A changed path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeDoc {
    /// The path in the dataset; bytes that are not UTF-8 are shown as U+FFFD in JSON, see `raw`.
    pub path: String,
    /// The path's bytes, where `path` could not show them.
    pub raw: Option<Vec<u8>>,
    /// What happened to it.
    pub change: ChangeKind,
    /// Size before, in bytes (regular files).
    pub old_size: Option<u64>,
    /// Size after.
    pub new_size: Option<u64>,
    /// Whether it is (or was) a regular file.
    pub regular: bool,
}

impl ChangeDoc {
    /// A change of the path with these bytes.
    #[must_use]
    pub fn new(path: &[u8], change: ChangeKind, old_size: Option<u64>, new_size: Option<u64>, regular: bool) -> Self {
        let (path, raw) = match std::str::from_utf8(path) {
            Ok(text) => (text.to_owned(), None),
            Err(_) => (String::from_utf8_lossy(path).into_owned(), Some(path.to_vec())),
        };
        Self { path, raw, change, old_size, new_size, regular }
    }

    /// The path's bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.raw.as_deref().unwrap_or(self.path.as_bytes())
    }
}

/// An attempt with the place of its output.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct AttemptDoc {
    /// The attempt.
    pub attempt: AttemptRecord,
    /// Its output, below the mount.
    pub log: String,
}

impl From<tree::ChangeKind> for ChangeKind {
    fn from(kind: tree::ChangeKind) -> Self {
        match kind {
            tree::ChangeKind::Added => Self::Added,
            tree::ChangeKind::Modified => Self::Modified,
            tree::ChangeKind::Type => Self::Type,
            tree::ChangeKind::Properties => Self::Properties,
            tree::ChangeKind::Deleted => Self::Deleted,
        }
    }
}

impl From<&PathChange> for ChangeDoc {
    fn from(change: &PathChange) -> Self {
        let regular = |record: &&Arc<InodeRecord>| record.kind == FileKind::Regular;
        let (old, new) = (change.old.as_ref().filter(regular), change.new.as_ref().filter(regular));
        let (old_size, new_size) = (old.map(|record| record.size), new.map(|record| record.size));
        Self::new(&change.path, change.kind.into(), old_size, new_size, old.or(new).is_some())
    }
}

impl AttemptDoc {
    /// The document of an attempt; its log lies where the `lineage` view shows it.
    #[must_use]
    pub fn new(attempt: &AttemptRecord) -> Self {
        let AttemptRecord { version, check, attempt: number, .. } = attempt;
        Self { attempt: attempt.clone(), log: format!("lineage/{version}/checks/{check}.{number}.log") }
    }
}

impl Serialize for AttemptDoc {
    /// Flat and with readable times in JSON; the fields in order elsewhere, as the derived `Deserialize` reads them.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            AttemptJson::from(self).serialize(serializer)
        } else {
            (&self.attempt, &self.log).serialize(serializer)
        }
    }
}
