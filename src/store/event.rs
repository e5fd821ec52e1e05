//! Lineage events as the catalog keeps them: appended with the state change that they tell of, chained by digest.

use serde::{Deserialize, Serialize};

use super::codec;
use super::record::{ChangeCounts, Outcome, Reason, Writer};
use crate::clock::Timestamp;
use crate::ids::{Digest, EventSeq, VersionId};

/// One event of the lineage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its place in the log.
    pub seq: EventSeq,
    /// When it happened.
    pub at: Timestamp,
    /// The version that it is about, if it is about one.
    pub version: Option<VersionId>,
    /// What happened.
    pub what: EventKind,
    /// The digest of the event before (zeros for the first).
    pub previous: Digest,
    /// BLAKE3 over `previous` and this event's other fields, in the codec's form.
    pub digest: Digest,
}

impl Event {
    /// The digest that this event must have: BLAKE3 over `previous` and the codec's form of (`seq`, `at`, `version`, `what`).
    #[must_use]
    pub fn expected_digest(&self) -> Digest {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.previous.0).update(&codec::encode(&(self.seq, self.at, self.version, &self.what)));
        hasher.finalize().into()
    }
}

/// Where a chain of events breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainBreak {
    /// The event is not what was chained.
    #[error("event {0}: its digest does not match its content")]
    Altered(EventSeq),
    /// The event does not follow the one before.
    #[error("event {0}: it does not follow the event before it")]
    Unlinked(EventSeq),
}

/// Checks that events, from the first one of a log on, are as they were written and none is missing between them.
pub fn verify_chain(events: &[Event]) -> Result<(), ChainBreak> {
    let mut expected = (EventSeq(0), Digest::default());
    for event in events {
        if (event.seq, event.previous) != expected {
            return Err(ChainBreak::Unlinked(event.seq));
        }
        if event.digest != event.expected_digest() {
            return Err(ChainBreak::Altered(event.seq));
        }
        expected = (event.seq.next(), event.digest);
    }
    Ok(())
}

/// What can happen. The JSON form names the variant in snake_case; `lineage` prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// The store was made.
    Initialized {
        /// The directory that became t0.
        from: Option<String>,
    },
    /// The first change of a version came.
    Opened {
        /// The version it stands on.
        parent: VersionId,
        /// The process that made the change.
        writer: Option<Writer>,
    },
    /// No more changes: its checks begin.
    Sealed {
        /// Its digest.
        digest: Digest,
        /// What it changed.
        changes: ChangeCounts,
        /// Who changed it.
        writers: Vec<Writer>,
        /// Its message.
        message: Option<String>,
    },
    /// An attempt of a check ended.
    Checked {
        /// The check.
        check: String,
        /// The attempt, from 1.
        attempt: u32,
        /// How it ended.
        outcome: Outcome,
        /// How long it took, in milliseconds.
        took_ms: u64,
    },
    /// Its checks and its ancestors' passed.
    Validated,
    /// It became a ghost.
    Rejected {
        /// Why.
        reason: Reason,
    },
    /// Staging went back.
    RolledBack {
        /// The version that was rejected or taken back.
        from: VersionId,
        /// The version that staging stands on now.
        to: VersionId,
    },
    /// The version carries the changes of another onto a new parent.
    Rebased {
        /// The version whose changes they are.
        from: VersionId,
        /// The new parent.
        onto: VersionId,
    },
    /// It ended without becoming a version.
    Aborted {
        /// Why.
        reason: Reason,
    },
    /// It went to production.
    Promoted {
        /// The version that was there.
        replaces: VersionId,
        /// All versions of the batch, oldest first.
        batch: Vec<VersionId>,
        /// Its digest.
        digest: Digest,
    },
    /// Another took its place in production, or passed it over in a batch.
    Superseded {
        /// The other.
        by: VersionId,
    },
    /// A promotion was put off.
    HeldBack {
        /// Why.
        why: String,
    },
    /// Production was put back by hand.
    ProductionRolledBack {
        /// The version that was there.
        from: VersionId,
        /// The version that is there now.
        to: VersionId,
    },
    /// It is not promoted until someone says so.
    Held,
    /// It may be promoted again.
    Released,
    /// Its content was put back into staging as a new version (the event's).
    Restored {
        /// The version whose content it is.
        from: VersionId,
    },
    /// A name was given to it.
    Tagged {
        /// The name.
        name: String,
    },
    /// It is kept whatever its age.
    Pinned,
    /// Its content is gone.
    Expired,
    /// A new configuration is in force.
    ConfigLoaded,
    /// A new configuration was refused; the old one stays in force.
    ConfigRefused {
        /// File, line and reason.
        why: String,
    },
    /// A daemon took the store over.
    Mounted {
        /// Where.
        at: String,
        /// Whether the daemon before it ended without unmounting.
        recovered: bool,
    },
    /// The daemon ended in order.
    Unmounted,
    /// A name was taken from it.
    Untagged {
        /// The name.
        name: String,
    },
    /// Its age counts again.
    Unpinned,
    /// Less than `promotion.require_free` is free on the store's filesystem.
    DiskLow {
        /// Bytes that are free.
        free: u64,
        /// Bytes that there are.
        total: u64,
    },
}
