//! What the command line asks of a daemon and what it answers: one request and one reply a connection, in the codec's form.
//!
//! The documents (`*Doc`) are also what `--json` prints: their field names are part of the contract with scripts.

use serde::{Deserialize, Serialize};

pub use super::upkeep::{FindingDoc, FsckDoc, GcDoc, GoneDoc, ScrubDoc, ScrubbedDoc, SweptDoc, UpkeepDoc};
use crate::ids::VersionId;
pub use crate::lineage::doc::{AttemptDoc, ChangeDoc, ChangeKind, VersionDoc};

/// A version as a user names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VersionName {
    /// tN.
    Number(VersionId),
    /// What staging shows now.
    Staging,
    /// What production shows now.
    Production,
    /// The newest sealed version.
    Latest,
    /// The newest that passed.
    Valid,
    /// A tag.
    Tag(String),
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Everything `status` prints. Answered by `Reply::Status`.
    Status,
    /// Versions, newest first, at most `limit` of them. `Reply::Log`.
    Log {
        /// The most to return.
        limit: Option<u64>,
    },
    /// A number that checks reported, over the versions. `Reply::Metrics`.
    Metric {
        /// Its name.
        name: String,
        /// Only as this check reported it.
        check: Option<String>,
        /// The most versions of a check.
        limit: Option<u64>,
    },
    /// One version with its attempts and changes. `Reply::Show`.
    Show {
        /// Which.
        version: VersionName,
    },
    /// Changed paths from one version to another. `Reply::Diff`.
    Diff {
        /// The older side.
        from: VersionName,
        /// The newer side.
        to: VersionName,
        /// Only this path of the dataset (relative, no leading slash) and what is below it.
        below: Option<Vec<u8>>,
    },
    /// Hold the open version open. `Reply::Version` with the version that is or will be open.
    Begin {
        /// Its message.
        message: Option<String>,
    },
    /// Seal now. `Reply::Version` with the sealed version, or `Reply::Nothing` if nothing had changed.
    Commit {
        /// Its message.
        message: Option<String>,
    },
    /// Discard the open version. `Reply::Version`, or `Reply::Nothing`.
    Abort,
    /// Answered when the version (default: the newest sealed or open one) has its verdict or is promoted. `Reply::Version`.
    /// A version that was carried over onto another parent is followed.
    Wait {
        /// Which.
        version: Option<VersionName>,
        /// Wait for production, not just for the verdict.
        promoted: bool,
    },
    /// Run checks again. `Reply::Version` at their end.
    Check {
        /// On which version.
        version: VersionName,
        /// Only this check.
        check: Option<String>,
    },
    /// Promote now; `None`: all that is flagged. `Reply::Version` with the version in production, or `Reply::Nothing`.
    Promote {
        /// Which.
        version: Option<VersionName>,
    },
    /// Put production and staging back; `None`: to the version that was in production before. `Reply::Version`.
    Rollback {
        /// To which.
        version: Option<VersionName>,
    },
    /// The ghosts. `Reply::Log`.
    Ghosts,
    /// Events, oldest first, of one version or of all. `Reply::Lineage`: the lines of `log.jsonl`.
    Lineage {
        /// Of which version.
        version: Option<VersionName>,
    },
    /// The configuration in force. `Reply::Text` with TOML.
    ConfigShow,
    /// Unmount and end. `Reply::Nothing` once the mounts are gone and everything is on disk.
    Unmount,
    /// Put a version's content back into staging. `Reply::Version` with the new open version, or `Reply::Nothing` if staging has it.
    Restore {
        /// Whose content.
        version: VersionName,
    },
    /// End a version's retention now. `Reply::Version`.
    Drop {
        /// Which.
        version: VersionName,
    },
    /// Keep a version whatever its age, or no longer. `Reply::Version`.
    Pin {
        /// Which.
        version: VersionName,
        /// Keep it.
        on: bool,
    },
    /// Give a version a name. `Reply::Version`.
    Tag {
        /// The name.
        name: String,
        /// The version.
        version: VersionName,
        /// Even if the name is another's: it moves.
        force: bool,
    },
    /// Take a name away. `Reply::Version` with the version that had it.
    Untag {
        /// The name.
        name: String,
    },
    /// All names. `Reply::Tags`.
    Tags,
    /// Check the lineage's chain and the contents' digests. `Reply::Verified`.
    Verify,
    /// End the retention of what has had its time, and free what nothing needs. `Reply::Collected`.
    Gc {
        /// Only say what that would be.
        dry_run: bool,
    },
    /// Check the structure of the store. `Reply::Checked`.
    Fsck,
    /// Compare every content with its digest, at full speed. `Reply::Scrubbed`.
    Scrub,
    /// How far the scrub by hand is: bytes read, and bytes in all. `Reply::Progress`.
    Progress,
    /// The version that a name means. `Reply::Version`.
    Find {
        /// The name.
        version: VersionName,
    },
}

/// The classes of failure; each has one exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorKind {
    /// It failed (1).
    Failed,
    /// Wrong usage or configuration (2).
    Usage,
    /// Rejected by checks (3).
    Rejected,
    /// Conflict with something that is already so (4).
    Conflict,
    /// Try again (75).
    Temporary,
}

/// A refusal: what, where and what to do, in one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Its class.
    pub kind: ErrorKind,
    /// The line.
    pub message: String,
}

/// A reply.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// To `Status`.
    Status(Box<StatusDoc>),
    /// To `Log` and `Ghosts`.
    Log(Vec<VersionDoc>),
    /// To `Show`.
    Show(Box<ShowDoc>),
    /// To `Diff`.
    Diff(DiffDoc),
    /// A version, where the request says so.
    Version(Box<VersionDoc>),
    /// Lines of JSON.
    Lineage(Vec<String>),
    /// Text as it is.
    Text(String),
    /// Done, nothing to tell.
    Nothing,
    /// Not done.
    Refused(Refusal),
    /// To `Tags`.
    Tags(Vec<TagDoc>),
    /// To `Verify`.
    Verified(VerifyDoc),
    /// To `Gc`.
    Collected(Box<GcDoc>),
    /// To `Metric`.
    Metrics(Vec<MetricDoc>),
    /// To `Fsck`.
    Checked(Box<FsckDoc>),
    /// To `Scrub`.
    Scrubbed(Box<ScrubDoc>),
    /// To `Progress`: bytes read, bytes in all.
    Progress(u64, u64),
}

/// A number that a check reported, over the versions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetricDoc {
    /// Its name.
    pub metric: String,
    /// The check.
    pub check: String,
    /// What it was, oldest version first.
    pub points: Vec<PointDoc>,
    /// How it changes from one valid version to the next, if it has a trend.
    pub trend: Option<f64>,
    /// The rules that it is held against.
    pub rules: Vec<MetricRuleDoc>,
}

/// A number on a version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PointDoc {
    /// The version.
    pub version: VersionId,
    /// Its state.
    pub state: crate::store::record::VersionState,
    /// When it was sealed.
    pub at: String,
    /// The number.
    pub value: f64,
    /// Whether later versions are held against it: the version is valid.
    pub counts: bool,
}

/// A rule on a number, as it stands for the next version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetricRuleDoc {
    /// How many valid versions it looks at.
    pub window: u64,
    /// Their median.
    pub median: Option<f64>,
    /// The least that is allowed.
    pub least: Option<f64>,
    /// The most that is allowed.
    pub most: Option<f64>,
    /// What the trend leads to within the next versions, if the rule would refuse it.
    pub forecast: Option<String>,
}

/// A name of a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagDoc {
    /// The name.
    pub name: String,
    /// The version.
    pub version: VersionId,
}

/// What `lineage verify` has looked at, and what is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyDoc {
    /// Events of the chain.
    pub events: u64,
    /// Versions whose record and tree were read.
    pub versions: u64,
    /// Contents that were read.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What is wrong, the worst first, one line each.
    pub findings: Vec<String>,
}

/// A difference between two versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffDoc {
    /// The path below the mount where the older side can be read ("versions/t1", "staging").
    pub from: String,
    /// And the newer side.
    pub to: String,
    /// The mount point.
    pub mount: String,
    /// Changed paths, in the order of their bytes.
    pub changes: Vec<ChangeDoc>,
}

/// A version with everything known of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShowDoc {
    /// The version.
    pub version: VersionDoc,
    /// Attempts of its checks, in order.
    pub attempts: Vec<AttemptDoc>,
    /// Its changes against its parent (at most 1,000; `version.changes` counts them all).
    pub changes: Vec<ChangeDoc>,
}

/// A check that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningDoc {
    /// On which version.
    pub version: VersionId,
    /// Which check.
    pub check: String,
    /// Which attempt.
    pub attempt: u32,
    /// Since when, in milliseconds.
    pub running_ms: u64,
}

/// The open version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenDoc {
    /// Its number.
    pub version: VersionId,
    /// Since when.
    pub opened_at: String,
    /// Files open for writing.
    pub writers: u64,
    /// Those of them that were closed but are still mapped.
    #[serde(default)]
    pub mapped: u64,
    /// Between `begin` and `commit`.
    pub held_open: bool,
    /// Its message.
    pub message: Option<String>,
}

/// Space, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpaceDoc {
    /// What the store takes on its filesystem.
    pub used: u64,
    /// Free there.
    pub free: u64,
    /// Size of that filesystem.
    pub total: u64,
}

/// Everything `status` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusDoc {
    /// The store's path.
    pub store: String,
    /// The mount point.
    pub mount: String,
    /// The daemon's process id.
    pub pid: u32,
    /// How files are served where the kernel lets us choose: "passthrough" or "cached".
    pub mode: String,
    /// The version in production.
    pub production: VersionId,
    /// The newest valid one.
    pub valid: VersionId,
    /// The newest sealed one.
    pub latest: VersionId,
    /// The open version, if there is one.
    pub open: Option<OpenDoc>,
    /// Sealed versions without a verdict, oldest first.
    pub checking: Vec<VersionDoc>,
    /// Checks that run now.
    pub running: Vec<RunningDoc>,
    /// Versions flagged for promotion.
    pub flagged: Vec<VersionId>,
    /// Why promotion is held back, if it is.
    pub held_back: Option<String>,
    /// Number of ghosts.
    pub ghosts: u64,
    /// Number of versions that can be browsed.
    pub versions: u64,
    /// Space.
    pub space: SpaceDoc,
    /// What gc and scrub did last, and what they do.
    pub upkeep: UpkeepDoc,
    /// What needs an operator's eye: a refused configuration, a check that can't start, a failed sync.
    pub warnings: Vec<String>,
    /// FUSE requests answered since the mount, by session ("staging", "views") and operation.
    pub requests: std::collections::BTreeMap<String, std::collections::BTreeMap<String, u64>>,
}
