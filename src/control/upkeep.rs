//! What `gc`, `fsck` and `scrub` answer, and what `status` says of them.

use serde::{Deserialize, Serialize};

use crate::ids::VersionId;
use crate::retain::{Expiry, Report};
use crate::store::record::{ScrubResult, Upkeep};
use crate::store::verify::{Finding, Severity};

/// What `gc` has freed, or would free.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcDoc {
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// The versions and ghosts whose time is over: they have expired, or would.
    pub expired: Vec<GoneDoc>,
    /// Whose time is over, too, but which are being read (by a check, a question): they stay until that ends.
    pub busy: Vec<VersionId>,
    /// Versions that are gone but in use (a file open, a working directory): their bytes stay until that ends.
    pub in_use: Vec<VersionId>,
    /// Bytes on disk that this freed, or would free.
    pub freed: u64,
    /// Bytes that come free once those in use are let go.
    pub later: u64,
    /// Contents that nothing needs.
    pub objects: u64,
    /// Tree nodes that nothing needs.
    pub nodes: u64,
    /// Bytes of the catalog that they took: it uses them again, its file does not shrink.
    pub catalog_bytes: u64,
    /// Packs that went, because nothing in them is needed.
    pub packs: u64,
    /// Packs that were written anew, because little in them is needed.
    pub repacked: u64,
    /// Files that a crash had left behind.
    pub leftovers: u64,
    /// What was left because it is damaged.
    pub damaged: Vec<String>,
    /// Whether it came to its end.
    pub complete: bool,
}

/// A version whose time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoneDoc {
    /// The version.
    pub version: VersionId,
    /// Whether it was a ghost.
    pub ghost: bool,
}

impl GcDoc {
    /// A sweep's report after, or before, some versions expired.
    #[must_use]
    pub fn new(dry_run: bool, expired: &[Expiry], report: &Report) -> Self {
        Self {
            dry_run,
            expired: expired.iter().map(|expiry| GoneDoc { version: expiry.version, ghost: expiry.ghost }).collect(),
            busy: Vec::new(),
            in_use: Vec::new(),
            freed: report.freed(),
            later: 0,
            objects: report.objects,
            nodes: report.nodes,
            catalog_bytes: report.node_bytes,
            packs: report.packs,
            repacked: report.repacked,
            leftovers: report.leftovers,
            damaged: report.damaged.clone(),
            complete: report.complete,
        }
    }
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindingDoc {
    /// "error": something is lost or can't be relied on; "warning": it is not as it should be, but no content is lost; "note": space
    /// that gc frees.
    pub severity: String,
    /// What it is, in one line, with the file and the versions.
    pub line: String,
    /// The path in the dataset that it concerns, if it concerns one (what is not UTF-8 in it is replaced).
    pub path: Option<String>,
    /// The versions that it concerns.
    pub versions: Vec<VersionId>,
    /// Whether `fsck --repair` puts it right.
    pub repairable: bool,
}

impl From<&Finding> for FindingDoc {
    fn from(finding: &Finding) -> Self {
        Self {
            severity: finding.severity.as_str().to_owned(),
            line: finding.to_string(),
            path: finding.path.as_ref().map(|path| String::from_utf8_lossy(path).into_owned()),
            versions: finding.versions.clone(),
            repairable: finding.repair.is_some(),
        }
    }
}

impl FindingDoc {
    /// Whether it is more than a note.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        self.severity != Severity::Note.as_str()
    }
}

/// What `fsck` has found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsckDoc {
    /// Versions whose record and tree were read.
    pub versions: u64,
    /// What is wrong, the worst first; after a repair, what still is.
    pub findings: Vec<FindingDoc>,
    /// What was put right, one line each.
    pub repaired: Vec<String>,
    /// Whether the pages of the catalog's database were checked: only without a daemon.
    pub pages: bool,
}

/// What `scrub` has found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubDoc {
    /// Contents that were read.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What is wrong, the worst first.
    pub findings: Vec<FindingDoc>,
}

/// A sweep that came to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SweptDoc {
    /// When.
    pub at: String,
    /// Bytes that it freed on disk.
    pub freed: u64,
}

/// A scrub that came to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubbedDoc {
    /// When.
    pub at: String,
    /// Contents that were read.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What it found, one line each (at most a hundred).
    pub findings: Vec<String>,
}

/// The store's upkeep, in `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpkeepDoc {
    /// Versions that are gone, but in use.
    pub in_use: Vec<VersionId>,
    /// The last sweep.
    pub swept: Option<SweptDoc>,
    /// The last scrub.
    pub scrubbed: Option<ScrubbedDoc>,
    /// Bytes that the scrub under way in the background has read.
    pub scrubbing: Option<u64>,
}

impl UpkeepDoc {
    /// What the catalog remembers, with the versions in use.
    #[must_use]
    pub fn new(in_use: Vec<VersionId>, upkeep: &Upkeep) -> Self {
        let scrubbed = |result: &ScrubResult| ScrubbedDoc {
            at: result.at.to_string(),
            objects: result.objects,
            bytes: result.bytes,
            findings: result.findings.clone(),
        };
        Self {
            in_use,
            swept: upkeep.swept.map(|swept| SweptDoc { at: swept.at.to_string(), freed: swept.freed }),
            scrubbed: upkeep.scrubbed.as_ref().map(scrubbed),
            scrubbing: upkeep.scrub.as_ref().map(|progress| progress.bytes),
        }
    }
}
