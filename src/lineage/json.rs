//! The JSON forms of outcomes and reasons. The records keep serde's default form, which the catalog's codec needs;
//! scripts get one flat object with the kind under a name of its own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::doc::AttemptDoc;
use crate::ids::VersionId;
use crate::store::record::{Outcome, Reason};

/// An outcome, flat: `"outcome": "failed", "code": 1`.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Outcome", tag = "outcome", rename_all = "snake_case")]
pub(super) enum OutcomeJson {
    Passed,
    Failed { code: Option<i32> },
    Killed { signal: i32 },
    TimedOut,
    CouldNotStart { why: String },
    Cancelled,
    Skipped,
}

/// A reason: `{"kind": "conflict", "with": "t3", "paths": [...]}`.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Reason", tag = "kind", rename_all = "snake_case")]
pub(super) enum ReasonJson {
    ChecksFailed { checks: Vec<String>, summary: String },
    Conflict { with: VersionId, paths: Vec<String> },
    Rebased { into: VersionId },
    Unchanged,
    Discarded,
    Lost,
    Unreadable { paths: Vec<String>, why: String },
}

/// An attempt as `show --json` and `lineage/tN/checks/NAME.json` have it.
#[derive(Serialize)]
pub(super) struct AttemptJson<'a> {
    version: VersionId,
    check: &'a str,
    attempt: u32,
    started_at: String,
    ended_at: String,
    took_ms: u64,
    #[serde(flatten, with = "OutcomeJson")]
    outcome: &'a Outcome,
    rejects: bool,
    metrics: BTreeMap<&'a str, f64>,
    log: &'a str,
}

impl<'a> From<&'a AttemptDoc> for AttemptJson<'a> {
    fn from(doc: &'a AttemptDoc) -> Self {
        let attempt = &doc.attempt;
        Self {
            version: attempt.version,
            check: &attempt.check,
            attempt: attempt.attempt,
            started_at: attempt.started_at.to_string(),
            ended_at: attempt.started_at.plus(attempt.took).to_string(),
            took_ms: u64::try_from(attempt.took.as_millis()).unwrap_or(u64::MAX),
            outcome: &attempt.outcome,
            rejects: attempt.rejects,
            metrics: attempt.metrics.iter().map(|(name, value)| (name.as_str(), *value)).collect(),
            log: &doc.log,
        }
    }
}

/// `Option<Reason>`: tagged by kind for people, as it is for the codec.
pub(super) mod reason {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{Reason, ReasonJson};

    #[derive(Serialize)]
    struct Shown<'a>(#[serde(with = "ReasonJson")] &'a Reason);
    #[derive(Deserialize)]
    struct Read(#[serde(with = "ReasonJson")] Reason);

    pub(in crate::lineage) fn serialize<S: Serializer>(reason: &Option<Reason>, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { reason.as_ref().map(Shown).serialize(serializer) } else { reason.serialize(serializer) }
    }

    pub(in crate::lineage) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Reason>, D::Error> {
        if deserializer.is_human_readable() {
            Ok(Option::<Read>::deserialize(deserializer)?.map(|read| read.0))
        } else {
            Option::deserialize(deserializer)
        }
    }
}
