//! The JSON forms of outcomes and reasons. The records keep serde's default form, which the catalog's codec needs;
//! scripts get one flat object with the kind under a name of its own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::doc::AttemptDoc;
use crate::ids::VersionId;
use crate::store::record::{Outcome, Reason};

/// An outcome, flat: `"outcome": "failed", "code": 1, "summary": null`. A failure is one word here, whoever says it.
pub(super) mod outcome {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Outcome;

    #[derive(Serialize, Deserialize)]
    #[serde(tag = "outcome", rename_all = "snake_case")]
    enum OutcomeJson {
        Passed,
        Failed { code: Option<i32>, summary: Option<String> },
        Killed { signal: i32 },
        TimedOut,
        CouldNotStart { why: String },
        Cancelled,
        Skipped,
        OverLimit { what: String },
    }

    pub(in crate::lineage) fn serialize<S: Serializer>(outcome: &Outcome, serializer: S) -> Result<S::Ok, S::Error> {
        let json = match outcome.clone() {
            Outcome::Passed => OutcomeJson::Passed,
            Outcome::Failed { code } => OutcomeJson::Failed { code, summary: None },
            Outcome::Found { summary } => OutcomeJson::Failed { code: None, summary: Some(summary) },
            Outcome::Killed { signal } => OutcomeJson::Killed { signal },
            Outcome::TimedOut => OutcomeJson::TimedOut,
            Outcome::CouldNotStart { why } => OutcomeJson::CouldNotStart { why },
            Outcome::Cancelled => OutcomeJson::Cancelled,
            Outcome::Skipped => OutcomeJson::Skipped,
            Outcome::OverLimit { what } => OutcomeJson::OverLimit { what },
        };
        json.serialize(serializer)
    }

    pub(in crate::lineage) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Outcome, D::Error> {
        Ok(match OutcomeJson::deserialize(deserializer)? {
            OutcomeJson::Passed => Outcome::Passed,
            OutcomeJson::Failed { summary: Some(summary), .. } => Outcome::Found { summary },
            OutcomeJson::Failed { code, summary: None } => Outcome::Failed { code },
            OutcomeJson::Killed { signal } => Outcome::Killed { signal },
            OutcomeJson::TimedOut => Outcome::TimedOut,
            OutcomeJson::CouldNotStart { why } => Outcome::CouldNotStart { why },
            OutcomeJson::Cancelled => Outcome::Cancelled,
            OutcomeJson::Skipped => Outcome::Skipped,
            OutcomeJson::OverLimit { what } => Outcome::OverLimit { what },
        })
    }
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
    #[serde(flatten, with = "outcome")]
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
