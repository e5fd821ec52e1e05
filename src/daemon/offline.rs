//! What works on a store that is not mounted: the same as with a daemon, by the process of the command itself.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crossbeam::channel::unbounded;

use super::DaemonError;
use super::examine::remember;
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, FILE_NAME};
use crate::control::protocol::{FindingDoc, FsckDoc, GcDoc, ScrubDoc};
use crate::ids::{ObjectId, VersionId};
use crate::retain::{self, Collector, expire, swept};
use crate::store::record::ScrubProgress;
use crate::store::verify::{self, Finding, Repair, Severity};
use crate::store::{Pages, Store, StoreError};
use crate::tree::verify::Pace;
use crate::tree::{self, Nodes, Snapshot, Tree};
use crate::version::staging::StagingOptions;
use crate::version::{History, Staging};

/// A store, opened under its lock, with what its journals hold: nothing of it is written.
struct Opened {
    store: Arc<Store>,
    history: History,
    staging: Arc<Staging>,
    clock: Arc<dyn Clock>,
}

fn other(error: impl std::fmt::Display) -> DaemonError {
    DaemonError::Other(error.to_string())
}

impl Opened {
    fn open(path: &Path) -> Result<Self, DaemonError> {
        Self::of(Arc::new(Store::open(path)?))
    }

    fn of(store: Arc<Store>) -> Result<Self, DaemonError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let history = History::new(store.catalog().versions()?, &store.catalog().pointers()?);
        let base = history.base();
        let root = history.get(base).and_then(|record| record.root);
        let root = root.ok_or_else(|| StoreError::Damaged { what: format!("{base}, which staging stands on, has no content") })?;
        let snapshot = Snapshot::new(Tree::stored(Nodes::new(Arc::clone(&store)), root), Arc::clone(&store));
        // Nobody listens: what journals hold is only looked at.
        let (events, _) = unbounded();
        let options = StagingOptions { passthrough: false, flusher: false, ..StagingOptions::default() };
        let staging = Staging::new(snapshot, base, events, Arc::clone(&clock), options)
            .map_err(|error| DaemonError::Other(format!("what the journals hold can't be read, so nothing is removed: {error}")))?;
        Ok(Self { store, history, staging, clock })
    }
}

/// `fsck` of a store that is not mounted: also the pages of the catalog, which a daemon that has them open can't check.
pub fn fsck(path: &Path, repair: bool) -> Result<FsckDoc, DaemonError> {
    let mut doc = FsckDoc { pages: true, ..FsckDoc::default() };
    let damaged = |what: String| FindingDoc::from(&Finding::new(Severity::Error, what));
    match Store::check_pages(path, repair) {
        Ok(Pages::Good) => {}
        Ok(Pages::FreeListWrong) if repair => doc.repaired.push("put the list of the catalog's free pages right".to_owned()),
        Ok(Pages::FreeListWrong) => {
            let what = "the list of the catalog's free pages is not what it should be";
            let finding = FindingDoc::from(&Finding::new(Severity::Warning, what));
            doc.findings.push(FindingDoc { repairable: true, ..finding });
        }
        Err(StoreError::Damaged { what }) => doc.findings.push(damaged(what)),
        Err(error) => return Err(error.into()),
    }
    let store = match Store::open(path) {
        Ok(store) => Arc::new(store),
        Err(StoreError::Damaged { what }) => {
            doc.findings.push(damaged(format!("it can't be opened: {what}")));
            return Ok(doc);
        }
        Err(error) => return Err(error.into()),
    };
    // What journals hold is no orphan. If it can't be told, nothing is removed.
    let opened = Opened::of(Arc::clone(&store));
    let staging = opened.as_ref().ok().map(|opened| Arc::clone(&opened.staging));
    if let Err(error) = &opened {
        doc.findings.push(damaged(error.to_string()));
    }
    drop(opened);
    let live = || staging.as_ref().map_or_else(Vec::new, |staging| staging.live());
    let go_on = AtomicBool::new(false);
    let mut findings = tree::verify::fsck(&store, &live, &go_on).map_err(other)?;
    if repair {
        let mut done = verify::repair(&store, &findings)?;
        let sweeps = findings.iter().any(|finding| finding.repair == Some(Repair::Sweep));
        if sweeps && staging.is_some() {
            done.push(match Collector::new(&store, &live, &go_on).collect() {
                Ok(report) => {
                    let (nodes, objects, files) = (report.nodes, report.objects, report.leftovers + report.packs);
                    format!("removed what nothing needs: {nodes} tree nodes, {objects} contents, {files} files left behind")
                }
                Err(error) => format!("removed nothing: {error}"),
            });
        }
        if !done.is_empty() {
            findings = tree::verify::fsck(&store, &live, &go_on).map_err(other)?;
        }
        doc.repaired.append(&mut done);
    }
    doc.versions = store.catalog().version_ids()?.len() as u64;
    doc.findings.extend(findings.iter().map(FindingDoc::from));
    Ok(doc)
}

/// `scrub` of a store that is not mounted; `told` hears the bytes that were read and those in all.
pub fn scrub(path: &Path, told: &mut dyn FnMut(u64, u64)) -> Result<ScrubDoc, DaemonError> {
    let store = Arc::new(Store::open(path)?);
    let clock = SystemClock;
    let total = tree::verify::content_bytes(&store)?;
    let pace = Pace::new(&clock, 0, &std::thread::sleep);
    let begun = ScrubProgress { begun_at: clock.now(), next: ObjectId(0), objects: 0, bytes: 0, damaged: Vec::new() };
    let mut tell = |progress: &ScrubProgress| {
        told(progress.bytes, total);
        Ok(())
    };
    let scrubbed = tree::verify::scrub_from(&store, begun, &pace, &AtomicBool::new(false), &mut tell).map_err(other)?;
    remember(&store, &scrubbed, clock.now())?;
    let findings = scrubbed.findings.iter().map(FindingDoc::from).collect();
    Ok(ScrubDoc { objects: scrubbed.objects, bytes: scrubbed.bytes, findings })
}

/// `gc` of a store that is not mounted.
pub fn gc(path: &Path, dry_run: bool) -> Result<GcDoc, DaemonError> {
    let Opened { store, mut history, staging, clock } = Opened::open(path)?;
    let config = Config::load(&path.join(FILE_NAME))?;
    let tags = store.catalog().tags()?;
    let now = clock.now();
    let expired = retain::plan(&history, &tags, &config.retention, &config.ghosts, now).expire;
    let versions: Vec<VersionId> = expired.iter().map(|expiry| expiry.version).collect();
    let live = || staging.live();
    let go_on = AtomicBool::new(false);
    let collector = Collector::new(&store, &live, &go_on);
    let report = if dry_run {
        collector.preview(&versions).map_err(other)?
    } else {
        if !versions.is_empty() {
            expire(&store, &mut history, &versions, now).map_err(other)?;
        }
        let report = collector.collect().map_err(other)?;
        let seen_to = store.catalog().upkeep()?.expiries;
        swept(&store, &report, Some(seen_to), clock.now())?;
        report
    };
    Ok(GcDoc::new(dry_run, &expired, &report))
}
