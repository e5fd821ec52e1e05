//! `lineage verify`, `fsck` and `scrub`: on a connection's own thread, because they read everything.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::keeper::Keeper;
use super::requests::{failed, refused};
use super::shared::Shared;
use crate::control::protocol::{ErrorKind, FindingDoc, FsckDoc, Reply, ScrubDoc, VerifyDoc};
use crate::ids::{EventSeq, ObjectId};
use crate::lineage::text;
use crate::store::record::{ScrubProgress, ScrubResult};
use crate::store::verify::{Finding, Severity};
use crate::store::{self, Store, StoreError};
use crate::tree;
use crate::tree::verify::{Pace, Scrubbed, VerifyError};

/// Lines of a scrub's findings that are kept.
const MOST_LINES: usize = 100;
/// Damaged objects that are remembered.
const MOST_DAMAGED: usize = 10_000;

/// How far the scrub by hand is.
#[derive(Debug, Default)]
pub(super) struct Meter {
    read: AtomicU64,
    total: AtomicU64,
}

impl Meter {
    pub(super) fn reply(&self) -> Reply {
        Reply::Progress(self.read.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }
}

fn not_done(error: &VerifyError) -> Reply {
    match error {
        VerifyError::Busy => refused(ErrorKind::Temporary, "another gc or fsck is under way; try again when it is done"),
        VerifyError::Stopped => refused(ErrorKind::Temporary, "it was interrupted; try again"),
        error => failed(format!("the store can't be read: {error}")),
    }
}

/// `Reply::Verified`: the lineage, the trees, the contents.
pub(super) fn verify(shared: &Shared, keeper: &Keeper, gone: &dyn Fn() -> bool) -> Result<Reply, Reply> {
    let read = |error: &dyn std::fmt::Display| failed(format!("the store can't be read: {error}"));
    let store = &shared.store;
    let (versions, mut findings) = steady_lineage(store).map_err(|error| read(&error))?;
    let goes_on = AtomicBool::new(false);
    // What is not in the catalog (any more) is no orphan.
    let live = || keeper.live();
    let structure = keeper.alone(gone, || tree::verify::fsck(store, &live, &goes_on));
    let pace = Pace::new(shared.clock.as_ref(), 0, &std::thread::sleep);
    let (structure, scrubbed) = match structure.and_then(|structure| Ok((structure, tree::verify::scrub(store, &pace, &goes_on)?))) {
        Ok(done) => done,
        Err(error) => return Err(not_done(&error)),
    };
    findings.extend(structure);
    findings.extend(scrubbed.findings);
    // Leftovers that gc removes are no matter of what was recorded.
    let mut lines: Vec<String> = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .map(|finding| text::printable(&finding.to_string()))
        .collect();
    let mut seen = HashSet::new();
    lines.retain(|line| seen.insert(line.clone()));
    let events = store.catalog().events(EventSeq(0)).map_or(0, |events| events.len() as u64);
    Ok(Reply::Verified(VerifyDoc { events, versions, objects: scrubbed.objects, bytes: scrubbed.bytes, findings: lines }))
}

/// The lineage against the records, while both grow: what was found once counts only if it is found again.
fn steady_lineage(store: &Store) -> Result<(u64, Vec<Finding>), StoreError> {
    let mut before: Option<Vec<Finding>> = None;
    loop {
        let versions = store.catalog().versions()?;
        let mut findings = store::verify::lineage(store, &versions)?;
        if let Some(before) = &before {
            findings.retain(|finding| before.contains(finding));
        }
        if findings.is_empty() || before.is_some() {
            return Ok((versions.len() as u64, findings));
        }
        before = Some(findings);
    }
}

/// `Reply::Checked`: the structure.
pub(super) fn fsck(shared: &Shared, keeper: &Keeper, gone: &dyn Fn() -> bool) -> Result<Reply, Reply> {
    let goes_on = AtomicBool::new(false);
    let live = || keeper.live();
    let findings = keeper.alone(gone, || tree::verify::fsck(&shared.store, &live, &goes_on)).map_err(|error| not_done(&error))?;
    let versions = shared.visible().versions.len() + shared.visible().ghosts.len();
    let findings = findings.iter().map(FindingDoc::from).collect();
    Ok(Reply::Checked(Box::new(FsckDoc { versions: versions as u64, findings, repaired: Vec::new(), pages: false })))
}

/// `Reply::Scrubbed`: every content, at full speed. It counts as one in the background.
pub(super) fn scrub(shared: &Shared, gone: &dyn Fn() -> bool) -> Result<Reply, Reply> {
    let store = &shared.store;
    let read = |error: StoreError| failed(format!("the store can't be read: {error}"));
    let stop = AtomicBool::new(false);
    shared.meter.total.store(tree::verify::content_bytes(store).map_err(read)?, Ordering::Relaxed);
    let pace = Pace::new(shared.clock.as_ref(), 0, &std::thread::sleep);
    let begun = ScrubProgress { begun_at: shared.clock.now(), next: ObjectId(0), objects: 0, bytes: 0, damaged: Vec::new() };
    let mut told = |progress: &ScrubProgress| {
        shared.meter.read.store(progress.bytes, Ordering::Relaxed);
        // Whoever asked has gone away.
        if progress.objects.is_multiple_of(64) && gone() {
            stop.store(true, Ordering::Relaxed);
        }
        Ok(())
    };
    let scrubbed = tree::verify::scrub_from(store, begun, &pace, &stop, &mut told).map_err(|error| not_done(&error))?;
    remember(store, &scrubbed, shared.clock.now()).map_err(read)?;
    let findings = scrubbed.findings.iter().map(FindingDoc::from).collect();
    Ok(Reply::Scrubbed(Box::new(ScrubDoc { objects: scrubbed.objects, bytes: scrubbed.bytes, findings })))
}

/// A scrub came to its end: the next one in the background is due an interval later.
pub(super) fn remember(store: &Store, scrubbed: &Scrubbed, at: crate::clock::Timestamp) -> Result<(), StoreError> {
    let damaged = scrubbed.damaged.iter().copied().take(MOST_DAMAGED).collect();
    let lines = scrubbed.findings.iter().take(MOST_LINES).map(|finding| text::printable(&finding.to_string()));
    let result = ScrubResult { at, objects: scrubbed.objects, bytes: scrubbed.bytes, findings: lines.collect(), damaged };
    let mut transaction = store.catalog().begin()?;
    let upkeep = transaction.upkeep()?;
    transaction.set_upkeep(&crate::store::record::Upkeep { scrub: None, scrubbed: Some(result), ..upkeep })?;
    transaction.commit()
}
