//! The files of a version below `lineage/tN/`.

use serde::Serialize;

use super::doc::{AttemptDoc, ChangeDoc, VersionDoc};
use crate::ids::VersionId;
use crate::store::record::{AttemptRecord, VersionRecord};

/// `version.json`: the version's record, as `show --json` has it.
#[must_use]
pub fn version_json(record: &VersionRecord) -> Vec<u8> {
    document(&VersionDoc::from(record))
}

/// `changes.jsonl`: one changed path a line.
#[must_use]
pub fn changes_jsonl(changes: impl IntoIterator<Item = ChangeDoc>) -> Vec<u8> {
    let mut lines = Vec::new();
    for change in changes {
        if serde_json::to_writer(&mut lines, &change).is_ok() {
            lines.push(b'\n');
        }
    }
    lines
}

/// `checks/NAME.json`: the attempts of one check, oldest first.
#[must_use]
pub fn check_json(version: VersionId, check: &str, attempts: &[AttemptRecord]) -> Vec<u8> {
    #[derive(Serialize)]
    struct CheckJson<'a> {
        version: VersionId,
        check: &'a str,
        attempts: Vec<AttemptDoc>,
    }
    let mut attempts: Vec<_> = attempts.iter().filter(|attempt| attempt.check == check).map(AttemptDoc::new).collect();
    attempts.sort_by_key(|doc| doc.attempt.attempt);
    document(&CheckJson { version, check, attempts })
}

/// A document on its own: indented, with a newline at its end.
fn document<T: Serialize>(value: &T) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    text
}
