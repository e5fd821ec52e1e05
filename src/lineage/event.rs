//! An event as a line of `lineage/log.jsonl`.

use serde::{Deserialize, Serialize};

use super::json::ReasonJson;
use crate::ids::{Digest, EventSeq, VersionId};
use crate::store::event::{Event, EventKind};
use crate::store::record::{ChangeCounts, Outcome, Reason, Writer};

/// One event, flat: `{"seq":3,"at":"...","version":"t1","event":"sealed",...,"previous":"...","digest":"..."}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventLine {
    /// Its place in the log, from 0.
    pub seq: EventSeq,
    /// When, RFC 3339 in UTC.
    pub at: String,
    /// The version that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<VersionId>,
    /// What happened.
    #[serde(flatten, with = "KindJson")]
    pub what: EventKind,
    /// The digest of the event before.
    pub previous: Digest,
    /// Its own digest, over `previous` and the rest.
    pub digest: Digest,
}

impl From<&Event> for EventLine {
    fn from(event: &Event) -> Self {
        let Event { seq, at, version, what, previous, digest } = event;
        Self { seq: *seq, at: at.to_string(), version: *version, what: what.clone(), previous: *previous, digest: *digest }
    }
}

impl EventLine {
    /// The line, without its newline.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Strings, numbers and maps with string keys only: it can't fail, and a line must be there for every event.
        serde_json::to_string(self).unwrap_or_else(|error| format!("{{\"seq\":{},\"error\":\"{error}\"}}", self.seq))
    }
}

/// The line of `event` in `log.jsonl`, without its newline.
#[must_use]
pub fn json_line(event: &Event) -> String {
    EventLine::from(event).to_json()
}

/// The JSON form of what happened: the kind under `event`, and no field named as one of the line's own
/// (`at`, `digest`): the place of a mount is `mount`, a version's digest is `content`.
#[derive(Serialize, Deserialize)]
#[serde(remote = "EventKind", tag = "event", rename_all = "snake_case")]
enum KindJson {
    Initialized {
        from: Option<String>,
    },
    Opened {
        parent: VersionId,
        writer: Option<Writer>,
    },
    Sealed {
        #[serde(rename = "content")]
        digest: Digest,
        changes: ChangeCounts,
        writers: Vec<Writer>,
        message: Option<String>,
    },
    Checked {
        check: String,
        attempt: u32,
        #[serde(flatten, with = "super::json::outcome")]
        outcome: Outcome,
        took_ms: u64,
    },
    Validated,
    Rejected {
        #[serde(with = "ReasonJson")]
        reason: Reason,
    },
    RolledBack {
        from: VersionId,
        to: VersionId,
    },
    Rebased {
        from: VersionId,
        onto: VersionId,
    },
    Aborted {
        #[serde(with = "ReasonJson")]
        reason: Reason,
    },
    Promoted {
        replaces: VersionId,
        batch: Vec<VersionId>,
        #[serde(rename = "content")]
        digest: Digest,
    },
    Superseded {
        by: VersionId,
    },
    HeldBack {
        why: String,
    },
    ProductionRolledBack {
        from: VersionId,
        to: VersionId,
    },
    Held,
    Released,
    Restored {
        from: VersionId,
    },
    Tagged {
        name: String,
    },
    Pinned,
    Expired,
    ConfigLoaded,
    ConfigRefused {
        why: String,
    },
    Mounted {
        #[serde(rename = "mount")]
        at: String,
        recovered: bool,
    },
    Unmounted,
    Untagged {
        name: String,
    },
    Unpinned,
    DiskLow {
        free: u64,
        total: u64,
    },
}
