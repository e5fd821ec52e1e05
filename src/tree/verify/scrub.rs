//! `scrub`: every content against its digest, no faster than it may, with the files that consist of what is damaged.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::survey::{Hit, Survey};
use super::{CACHE_BYTES, VerifyError, report, with_trees};
use crate::clock::Clock;
use crate::ids::{Digest, ObjectId};
use crate::store::record::{Location, ScrubProgress};
use crate::store::verify::{Finding, Findings, Severity};
use crate::store::{Store, StoreError};
use crate::tree::nodes::{NodeSource, Nodes};
use crate::tree::{Snapshot, Tree};

/// How many object records are read at once.
const BATCH: usize = 1024;
/// How many damaged objects are remembered from one mount to the next.
const MOST_DAMAGED: usize = 1000;
/// The longest wait in one piece, so that a scrub that is told to stop does.
const NAP: Duration = Duration::from_millis(500);

/// How fast a scrub may read.
pub struct Pace<'a> {
    clock: &'a dyn Clock,
    /// Bytes a second; 0: as fast as it goes.
    rate: u64,
    sleep: &'a dyn Fn(Duration),
    begun: Instant,
    read: Cell<u64>,
}

impl std::fmt::Debug for Pace<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pace").field("rate", &self.rate).field("read", &self.read).finish_non_exhaustive()
    }
}

impl<'a> Pace<'a> {
    /// At most `rate` bytes a second on average; 0: as fast as it goes. `sleep` waits.
    #[must_use]
    pub fn new(clock: &'a dyn Clock, rate: u64, sleep: &'a dyn Fn(Duration)) -> Self {
        Self { clock, rate, sleep, begun: clock.instant(), read: Cell::new(0) }
    }

    /// Bytes that were read.
    #[must_use]
    pub fn read(&self) -> u64 {
        self.read.get()
    }

    /// `bytes` are going to be read: waits until they may.
    fn wait(&self, bytes: u64, stop: &AtomicBool) {
        self.read.set(self.read.get() + bytes);
        if self.rate == 0 {
            return;
        }
        let nanos = u128::from(self.read.get()) * 1_000_000_000 / u128::from(self.rate);
        let due = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let mut left = due.saturating_sub(self.clock.instant().saturating_duration_since(self.begun));
        while !left.is_zero() && !stop.load(Ordering::Relaxed) {
            let nap = left.min(NAP);
            (self.sleep)(nap);
            left -= nap;
        }
    }
}

/// What a scrub has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Objects that were read.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What is wrong, the worst first.
    pub findings: Vec<Finding>,
    /// The objects that are damaged, under each of their numbers.
    pub damaged: Vec<ObjectId>,
}

/// Reads every object and compares it with its digest. It runs beside everything else: an object that goes meanwhile is none of its concern.
pub fn scrub(store: &Arc<Store>, pace: &Pace<'_>, stop: &AtomicBool) -> Result<Scrubbed, VerifyError> {
    let begun = ScrubProgress { begun_at: pace.clock.now(), next: ObjectId(0), objects: 0, bytes: 0, damaged: Vec::new() };
    scrub_from(store, begun, pace, stop, &mut |_| Ok(()))
}

/// The same from where another scrub has come to; `told` hears how far it is, after each object.
pub fn scrub_from(
    store: &Arc<Store>,
    mut progress: ScrubProgress,
    pace: &Pace<'_>,
    stop: &AtomicBool,
    told: &mut dyn FnMut(&ScrubProgress) -> Result<(), StoreError>,
) -> Result<Scrubbed, VerifyError> {
    let mut damaged: HashMap<ObjectId, String> = HashMap::new();
    for id in progress.damaged.clone() {
        // What is wrong with it is found once more.
        read(store, id, pace, stop, &mut Scrubbed::default(), &mut damaged)?;
    }
    let mut scrubbed = Scrubbed { objects: progress.objects, bytes: progress.bytes, findings: Vec::new(), damaged: Vec::new() };
    while let page = store.catalog().object_ids(progress.next, BATCH)?
        && !page.is_empty()
    {
        for id in page {
            if stop.load(Ordering::Relaxed) {
                return Err(VerifyError::Stopped);
            }
            let before = damaged.len();
            read(store, id, pace, stop, &mut scrubbed, &mut damaged)?;
            if damaged.len() > before && progress.damaged.len() < MOST_DAMAGED {
                progress.damaged.push(id);
            }
            progress = ScrubProgress { next: id.next(), objects: scrubbed.objects, bytes: scrubbed.bytes, ..progress };
            told(&progress)?;
        }
    }
    let mut findings = Findings::default();
    if !damaged.is_empty() {
        add_aliases(store, &mut damaged)?;
        name(store, &damaged, &mut findings, stop)?;
    }
    scrubbed.findings = findings.into_list();
    scrubbed.damaged = damaged.into_keys().collect();
    scrubbed.damaged.sort_unstable();
    store.objects().set_damaged(scrubbed.damaged.iter().copied());
    Ok(scrubbed)
}

fn read(
    store: &Store,
    id: ObjectId,
    pace: &Pace<'_>,
    stop: &AtomicBool,
    scrubbed: &mut Scrubbed,
    damaged: &mut HashMap<ObjectId, String>,
) -> Result<(), VerifyError> {
    let record = match store.catalog().object(id) {
        Ok(Some(record)) => record,
        Ok(None) => return Ok(()),
        Err(StoreError::Damaged { what }) => {
            damaged.insert(id, what);
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    if matches!(record.location, Location::Alias(_)) {
        return Ok(());
    }
    let paced = |bytes: u64| {
        pace.wait(bytes, stop);
        // The error only ends the reading.
        if stop.load(Ordering::Relaxed) { Err(StoreError::damaged("stopped")) } else { Ok(()) }
    };
    let digest = store.objects().digest_at_pace(id, &paced);
    if stop.load(Ordering::Relaxed) {
        return Err(VerifyError::Stopped);
    }
    let what = match digest {
        Ok(digest) if digest == record.digest => None,
        Ok(_) => Some(format!("object {id}: its bytes in {} are not what was sealed", place(id, &record.location))),
        // EIO on a block is damage, too: what the disk does not give back is lost.
        Err(error @ (StoreError::Damaged { .. } | StoreError::Io { .. })) => Some(format!("object {id}: {error}")),
        Err(error) => return Err(error.into()),
    };
    scrubbed.objects += 1;
    // A damaged record may claim any length.
    scrubbed.bytes = scrubbed.bytes.saturating_add(record.len);
    // A sweep may have removed it meanwhile.
    if let Some(what) = what
        && store.catalog().object(id)?.is_some()
    {
        damaged.insert(id, what);
    }
    Ok(())
}

fn place(id: ObjectId, location: &Location) -> String {
    match location {
        Location::Pack { pack, offset } => format!("packs/{pack} at {offset}"),
        Location::File | Location::Alias(_) => format!("objects/{:02x}/{id}", id.0 & 0xff),
    }
}

/// What is damaged is so under its other numbers as well.
fn add_aliases(store: &Store, damaged: &mut HashMap<ObjectId, String>) -> Result<(), StoreError> {
    let mut from = ObjectId(0);
    while let page = store.catalog().object_ids(from, BATCH)?
        && let Some(last) = page.last()
    {
        from = last.next();
        for id in page {
            // One that can't be read is among the damaged already.
            if let Ok(Some(record)) = store.catalog().object(id)
                && let Location::Alias(target) = record.location
                && let Some(what) = damaged.get(&target).cloned()
            {
                damaged.insert(id, what);
            }
        }
    }
    Ok(())
}

/// Finds the files that consist of damaged objects.
fn name(store: &Arc<Store>, damaged: &HashMap<ObjectId, String>, findings: &mut Findings, stop: &AtomicBool) -> Result<(), VerifyError> {
    let look = |object: ObjectId| Ok(damaged.get(&object).map_or_else(|| Ok(Digest::default()), |what| Err(what.clone())));
    let mut survey = Survey::new(Box::new(look), false, stop);
    let nodes = Nodes::over(Arc::clone(store) as Arc<dyn NodeSource>, CACHE_BYTES);
    for record in with_trees(store, findings)? {
        let Some(root) = record.root else { continue };
        let snapshot = Snapshot::new(Tree::stored(Arc::clone(&nodes), root), Arc::clone(store));
        let hits = survey.tree(&snapshot.tree)?;
        // Nodes are the matter of `fsck`.
        let objects: Vec<Hit> = hits.iter().filter(|hit| matches!(hit, Hit::Object { .. })).cloned().collect();
        report(&snapshot, record.version, &objects, findings)?;
    }
    for (object, what) in damaged.iter().filter(|(object, _)| !survey.reach.objects.contains(**object)) {
        // An alias is named by files in the place of what it is.
        let by_alias = damaged.iter().any(|(other, same)| other != object && same == what && survey.reach.objects.contains(*other));
        if !by_alias {
            findings.add(Finding::new(Severity::Warning, format!("{what}; no file of any version is object {object}")));
        }
    }
    Ok(())
}

/// The bytes of all contents: what a scrub will read.
pub fn content_bytes(store: &Store) -> Result<u64, StoreError> {
    let (mut total, mut from) = (0, ObjectId(0));
    while let page = store.catalog().object_ids(from, BATCH)?
        && let Some(last) = page.last()
    {
        from = last.next();
        for id in page {
            if let Ok(Some(record)) = store.catalog().object(id)
                && !matches!(record.location, Location::Alias(_))
            {
                total += record.len;
            }
        }
    }
    Ok(total)
}
