//! The audit trail as OpenLineage run events (<https://openlineage.io>): one line a version, as catalogs of lineage take them.
//!
//! The dataset is the store, a version of it is a run's output, what it stands on is the input. How each check ended is in the facet
//! `dataQualityAssertions` of the output; a facet of our own has what that has no room for.

use serde_json::{Map, Value, json};

use super::event::EventLine;
use super::story::{Attempt, Story, stories};
use super::text;
use crate::ids::{Digest, VersionId};
use crate::store::record::{Outcome, VersionState};

const RUN_EVENT: &str = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent";
const FACETS: &str = "https://openlineage.io/spec/facets";
/// Who says all this.
const PRODUCER: &str = concat!("urn:shadowfs:", env!("CARGO_PKG_VERSION"));

/// One JSON object a version, each on a line. `store` names the dataset.
#[must_use]
pub fn render(events: &[EventLine], store: &str) -> String {
    let lines = stories(events);
    let lines = lines.iter().filter_map(|story| run_event(story, store));
    lines.map(|event| event.to_string() + "\n").collect()
}

fn run_event(story: &Story<'_>, store: &str) -> Option<Value> {
    let (first, last) = (story.events.first()?, story.events.last()?);
    let mut run_facets = Map::new();
    run_facets.insert("shadowfs_version".to_owned(), own_facet(story));
    if let Some(reason) = story.reason.filter(|_| story.state == Some(VersionState::Ghost)) {
        let facet = json!({"message": text::why(reason), "programmingLanguage": "shadowfs"});
        run_facets.insert("errorMessage".to_owned(), facet_of(facet, "1-0-0/ErrorMessageRunFacet.json"));
    }
    let inputs: Vec<Value> =
        [story.parent, story.carries, story.restores].into_iter().flatten().map(|from| dataset(store, from, None)).collect();
    Some(json!({
        "eventType": event_type(story.state),
        "eventTime": last.at,
        "producer": PRODUCER,
        "schemaURL": RUN_EVENT,
        "run": {"runId": run_id(first.digest), "facets": run_facets},
        "job": {"namespace": "shadowfs", "name": store},
        "inputs": inputs,
        "outputs": [dataset(store, story.version, Some(story))],
    }))
}

/// How far a version has come, in OpenLineage's words.
const fn event_type(state: Option<VersionState>) -> &'static str {
    match state {
        Some(VersionState::Open) => "START",
        Some(VersionState::Checking) => "RUNNING",
        Some(VersionState::Valid | VersionState::Promoted | VersionState::Superseded) => "COMPLETE",
        Some(VersionState::Ghost) => "FAIL",
        Some(VersionState::Aborted) => "ABORT",
        Some(VersionState::Expired) | None => "OTHER",
    }
}

fn dataset(store: &str, version: VersionId, story: Option<&Story<'_>>) -> Value {
    let mut facets = Map::new();
    let facet = json!({"datasetVersion": version.to_string()});
    facets.insert("version".to_owned(), facet_of(facet, "1-0-0/DatasetVersionDatasetFacet.json"));
    let assertions: Vec<Value> = story.iter().flat_map(|story| story.verdicts().into_values()).filter_map(assertion).collect();
    if !assertions.is_empty() {
        let facet = json!({ "assertions": assertions });
        facets.insert("dataQualityAssertions".to_owned(), facet_of(facet, "1-0-1/DataQualityAssertionsDatasetFacet.json"));
    }
    json!({"namespace": "file", "name": store, "facets": facets})
}

/// What a check says of the data; nothing if it did not come to its end.
fn assertion(attempt: Attempt<'_>) -> Option<Value> {
    let success = match attempt.outcome {
        Outcome::Passed => true,
        failure if failure.is_failure() => false,
        _ => return None,
    };
    Some(json!({"assertion": attempt.check, "success": success}))
}

fn own_facet(story: &Story<'_>) -> Value {
    let attempt = |attempt: &Attempt<'_>| {
        let outcome = text::ending(attempt.outcome);
        json!({"check": attempt.check, "attempt": attempt.number, "outcome": outcome, "took_ms": attempt.took_ms})
    };
    json!({
        "_producer": PRODUCER,
        "_schemaURL": format!("{PRODUCER}:version"),
        "version": story.version,
        "state": story.state_word(),
        "digest": story.content,
        "message": story.message,
        "changes": story.changes,
        "writers": story.writers,
        "attempts": story.attempts.iter().map(attempt).collect::<Vec<_>>(),
        "tags": story.tags,
    })
}

fn facet_of(mut facet: Value, schema: &str) -> Value {
    if let Value::Object(fields) = &mut facet {
        fields.insert("_producer".to_owned(), PRODUCER.into());
        fields.insert("_schemaURL".to_owned(), format!("{FACETS}/{schema}").into());
    }
    facet
}

/// A run is known by a UUID: version 8, made of the digest of the version's first event, which no other has.
fn run_id(first: Digest) -> String {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&first.0[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}
