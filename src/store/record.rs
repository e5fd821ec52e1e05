//! The catalog's records: versions, objects, check attempts, pointers. Plain data with serde; the codec gives each a format number.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::ids::{Digest, Ino, NodeId, ObjectId, PackId, VersionId};

/// A tree's root as a version's record names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootRef {
    /// The root node.
    pub node: NodeId,
    /// Digest of the whole tree with its contents: the version's name by content.
    pub digest: Digest,
    /// Number of entries in the tree.
    pub entries: u64,
}

/// Where an object's bytes are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Location {
    /// A host file of its own.
    File,
    /// A range of a pack.
    Pack {
        /// The pack.
        pack: PackId,
        /// Where in the pack the object begins, in bytes.
        offset: u64,
    },
    /// The same bytes as another object.
    Alias(ObjectId),
}

/// An object's entry in the object table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRecord {
    /// Length in bytes.
    pub len: u64,
    /// BLAKE3 of the bytes. Where whole blocks of a large object are zeros, the digest leaves them out (`docs/format.md`), so that
    /// its cost follows the data, not the holes.
    pub digest: Digest,
    /// Where they are.
    pub location: Location,
}

/// The states of a version, as `status`, `log` and the lineage name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VersionState {
    /// Takes changes from staging.
    Open,
    /// Sealed; its checks run, or its ancestors' do.
    Checking,
    /// It and all its ancestors passed; flagged for promotion.
    Valid,
    /// In production.
    Promoted,
    /// Was in production, or was passed over by a newer one of its batch.
    Superseded,
    /// Rejected; browsable until its retention ends.
    Ghost,
    /// A version or ghost whose retention ended: only its record and logs are left.
    Expired,
    /// Nothing changed, or the user discarded it.
    Aborted,
}

impl VersionState {
    /// Every state, for tables and tests.
    pub const ALL: [Self; 8] =
        [Self::Open, Self::Checking, Self::Valid, Self::Promoted, Self::Superseded, Self::Ghost, Self::Expired, Self::Aborted];

    /// The contract's word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Checking => "checking",
            Self::Valid => "valid",
            Self::Promoted => "promoted",
            Self::Superseded => "superseded",
            Self::Ghost => "ghost",
            Self::Expired => "expired",
            Self::Aborted => "aborted",
        }
    }
}

impl std::fmt::Display for VersionState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// How many paths a version changed against its parent, and how many bytes of content it wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeCounts {
    /// Paths that are new.
    pub added: u64,
    /// Paths whose content or attributes differ.
    pub modified: u64,
    /// Paths that are gone.
    pub deleted: u64,
    /// Bytes of new objects.
    pub bytes: u64,
}

/// A process that changed something in a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writer {
    /// Its user.
    pub uid: u32,
    /// Its process id in the daemon's namespace.
    pub pid: u32,
    /// Its command name (`/proc/PID/comm`), empty if it was gone already.
    pub command: String,
}

/// Why a version became a ghost or was aborted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Its checks rejected it.
    ChecksFailed {
        /// The names of the checks that failed.
        checks: Vec<String>,
        /// One line for people.
        summary: String,
    },
    /// A version below it was rejected, and its changes overlap with that one's.
    Conflict {
        /// The rejected version.
        with: VersionId,
        /// Some of the paths that both changed (at most 100).
        paths: Vec<String>,
    },
    /// A version below it was rejected, and its changes live on in another version.
    Rebased {
        /// The version that carries them.
        into: VersionId,
    },
    /// It was opened, and sealed without a change.
    Unchanged,
    /// The user discarded it.
    Discarded,
    /// The daemon or the machine went down before anything of it was on disk.
    Lost,
    /// The disk failed on some of its files before they were sealed: they could not be read, or not be made durable.
    Unreadable {
        /// Some of the files (at most 100).
        paths: Vec<String>,
        /// What the disk said of the first.
        why: String,
    },
}

/// The record of a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRecord {
    /// Its number.
    pub version: VersionId,
    /// Its state.
    pub state: VersionState,
    /// The version that it was made on top of; `None` only for t0.
    pub parent: Option<VersionId>,
    /// Its tree; `None` while open, and after it aborted or expired.
    pub root: Option<RootRef>,
    /// The message given with `begin`, `commit` or `run`.
    pub message: Option<String>,
    /// When its first change came.
    pub opened_at: Timestamp,
    /// When it was sealed.
    pub sealed_at: Option<Timestamp>,
    /// When its verdict fell.
    pub decided_at: Option<Timestamp>,
    /// When it went to production.
    pub promoted_at: Option<Timestamp>,
    /// What it changed against its parent; known from the seal on.
    pub changes: ChangeCounts,
    /// Who changed it (at most 64, in order of their first change).
    pub writers: Vec<Writer>,
    /// Why it is a ghost or aborted.
    pub reason: Option<Reason>,
    /// Whether its own checks have passed (it may still wait for its ancestors).
    pub passed: bool,
    /// Whether `rollback` took it back: not promoted again until someone says so.
    pub held: bool,
    /// Whether `pin` keeps it.
    pub pinned: bool,
    /// The version whose changes it carries over onto another parent.
    pub rebased_from: Option<VersionId>,
    /// The version whose content `restore` put back in it.
    pub restored_from: Option<VersionId>,
}

/// How an attempt of a check ended. Every ending has its name; only `Passed` lets a version through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The check says that the data is good.
    Passed,
    /// The check says that it is not.
    Failed {
        /// Its exit code, if it is known.
        code: Option<i32>,
    },
    /// It ended by a signal.
    Killed {
        /// The signal's number.
        signal: i32,
    },
    /// It ran past its time and its group was killed.
    TimedOut,
    /// It could not be started: says nothing about the data.
    CouldNotStart {
        /// Why.
        why: String,
    },
    /// Stopped, because the verdict fell without it.
    Cancelled,
    /// Nothing that it looks at has changed.
    Skipped,
    /// It, or a `[[metric]]` rule on a number that it reported, says that the data is not good, and what is wrong.
    Found {
        /// What is wrong and where, in one line.
        summary: String,
    },
    /// It used more than its limits allow and its group was killed.
    OverLimit {
        /// Which limit, in one line.
        what: String,
    },
}

impl Outcome {
    /// Whether it counts against the version.
    #[must_use]
    pub const fn is_failure(&self) -> bool {
        match self {
            Self::Failed { .. } | Self::Found { .. } | Self::Killed { .. } | Self::TimedOut | Self::OverLimit { .. } => true,
            Self::Passed | Self::CouldNotStart { .. } | Self::Cancelled | Self::Skipped => false,
        }
    }
}

/// One attempt of a check on a version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// The version that was checked.
    pub version: VersionId,
    /// The check's name.
    pub check: String,
    /// Counted from 1, over all runs of this check on this version.
    pub attempt: u32,
    /// When it started.
    pub started_at: Timestamp,
    /// How long it took.
    pub took: Duration,
    /// How it ended.
    pub outcome: Outcome,
    /// Whether it can reject the version (`severity = "error"`).
    pub rejects: bool,
    /// The numbers that it reported, by name.
    pub metrics: Vec<(String, f64)>,
}

/// What the store's upkeep must remember from one mount to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upkeep {
    /// How often versions have expired.
    pub expiries: u64,
    /// How many of those the sweeps that came to their end have seen to.
    pub seen_to: u64,
    /// The last sweep that came to its end.
    pub swept: Option<Swept>,
    /// The scrub that is under way, or was when the daemon ended.
    pub scrub: Option<ScrubProgress>,
    /// The last scrub that came to its end.
    pub scrubbed: Option<ScrubResult>,
}

impl Upkeep {
    /// Whether something may be there to be freed.
    #[must_use]
    pub const fn sweep_is_due(&self) -> bool {
        self.expiries > self.seen_to
    }
}

/// A sweep that came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swept {
    /// When.
    pub at: Timestamp,
    /// Bytes that it freed on disk.
    pub freed: u64,
}

/// How far a scrub has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubProgress {
    /// When it began.
    pub begun_at: Timestamp,
    /// The first object that was not looked at.
    pub next: ObjectId,
    /// Objects that were read.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that were found damaged (at most a thousand are kept).
    pub damaged: Vec<ObjectId>,
}

/// A scrub that came to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubResult {
    /// When it ended.
    pub at: Timestamp,
    /// Objects that were read.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What it found (at most a hundred lines).
    pub findings: Vec<String>,
    /// The objects that are damaged (at most ten thousand): they are not read any more until another scrub finds them whole.
    pub damaged: Vec<ObjectId>,
}

/// The catalog's pointers and counters: one record, rewritten with every transition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pointers {
    /// The version in production.
    pub production: VersionId,
    /// The newest version that is valid with all its ancestors and not held: where a rollback goes.
    pub valid: VersionId,
    /// The newest sealed version that can still become valid: what staging stands on.
    pub base: VersionId,
    /// The number that the next version gets; never given twice.
    pub next_version: VersionId,
    /// First inode number never given out.
    pub next_ino: Ino,
    /// First object number never given out.
    pub next_object: ObjectId,
    /// First tree node number never given out.
    pub next_node: NodeId,
    /// First pack number never given out.
    pub next_pack: PackId,
}
