//! The sweep: what no version reaches any more goes, first from the catalog, then from disk.
//!
//! Four things make it safe beside everything else that goes on:
//!
//! - **Only what was committed before the trees were read can go.** First the nodes, objects and packs are listed, then the trees are read,
//!   those in memory before and after those in the catalog. A version is committed with its nodes and objects in one transaction. So
//!   whatever is on the list belongs to versions whose records are read (or that have expired), and a version sealed meanwhile names,
//!   beside new things, only what the trees in memory name.
//! - **What a seal relies on is left.** An object may become the target of an alias after the trees were read: `store::objects` keeps
//!   claims and promises apart.
//! - **Transaction first, files after.** A crash leaves files that no record names. They are found and removed by the next sweep. Within
//!   the catalog nodes go before objects, and aliases before what they name, so that not even garbage names what is gone.
//! - **Readers do not notice.** They hold open files, which stay readable; a place that has moved is looked up again.

use std::cell::Cell;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::pack::PackUses;
use crate::clock::{Clock, Timestamp};
use crate::ids::{NodeId, ObjectId, PackId, VersionId};
use crate::store::objects::Sweep;
use crate::store::record::{Location, ObjectRecord, Swept, Upkeep};
use crate::store::{Store, StoreError, Transaction};
use crate::tree::{NodeSource, Nodes, Reach, Tree, TreeError, named_by_journals};
use crate::version::history::{History, HistoryError};

/// How much is looked at in one read of the catalog, and removed in one transaction: a seal that comes meanwhile waits for one.
pub(super) const BATCH: usize = if cfg!(test) { 16 } else { 1024 };
/// Memory for nodes while trees are read: little, because each is needed once.
const CACHE_BYTES: usize = 8 << 20;

/// Why a sweep or an expiry did not happen.
#[derive(Debug, thiserror::Error)]
pub enum GcError {
    /// The store could not read or write.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A version can't be read, so what it needs is not known, and nothing is removed.
    #[error("{version} can't be read, so nothing is removed (\"shadowfs fsck\" says more): {source}")]
    Unreadable {
        /// The version.
        version: VersionId,
        /// Why.
        source: TreeError,
    },
    /// The state that staging shows, or another that is not in the catalog yet, can't be read.
    #[error("what staging shows can't be read, so nothing is removed: {0}")]
    UnreadableStaging(TreeError),
    /// Another sweep, or a check of the structure, is under way.
    #[error("another gc or fsck is under way")]
    Busy,
    /// The lifecycle refuses.
    #[error(transparent)]
    Refused(#[from] HistoryError),
    /// A test ends the sweep here.
    #[cfg(test)]
    #[error("stopped at a crash point")]
    Crash,
}

/// What a sweep freed, or would free.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Tree nodes that nothing reached.
    pub nodes: u64,
    /// The space in the catalog that they took. The catalog uses it again; its file does not shrink.
    pub node_bytes: u64,
    /// Objects that nothing reached.
    pub objects: u64,
    /// Their length together, wherever they were.
    pub object_bytes: u64,
    /// The space on disk that those with a file of their own took.
    pub file_bytes: u64,
    /// Packs that held nothing else.
    pub packs: u64,
    /// Packs that held little else and were written anew.
    pub repacked: u64,
    /// The space on disk that packs took less afterwards.
    pub pack_bytes: u64,
    /// Files that a crash had left behind.
    pub leftovers: u64,
    /// The space on disk that they took.
    pub leftover_bytes: u64,
    /// What was left because it is damaged.
    pub damaged: Vec<String>,
    /// Whether it came to its end; if not, the next sweep goes on.
    pub complete: bool,
}

impl Report {
    /// The space that the store takes less on disk.
    #[must_use]
    pub const fn freed(&self) -> u64 {
        self.file_bytes + self.pack_bytes + self.leftover_bytes
    }
}

/// Ends the retention of versions: their records, their events and the lifecycle's pointers in one transaction. The caller has made sure
/// that no view of them is in use, or keeps their trees among those that it names to the [`Collector`].
pub fn expire(store: &Store, history: &mut History, versions: &[VersionId], at: Timestamp) -> Result<(), GcError> {
    let decision = history.all_expired(versions, at)?;
    let mut transaction = store.catalog().begin()?;
    let mut pointers = transaction.pointers()?;
    decision.move_pointers(&mut pointers);
    transaction.set_pointers(&pointers)?;
    for record in &decision.records {
        transaction.put_version(record)?;
    }
    for (version, what) in &decision.events {
        transaction.append_event(at, *version, what.clone())?;
    }
    sweep_is_due(&mut transaction)?;
    transaction.commit()?;
    history.apply(decision);
    Ok(())
}

/// There will be something to sweep once this is committed, also after a crash.
pub fn sweep_is_due(transaction: &mut Transaction<'_>) -> Result<(), StoreError> {
    let upkeep = transaction.upkeep()?;
    transaction.set_upkeep(&Upkeep { expiries: upkeep.expiries + 1, ..upkeep })
}

/// A sweep came to its end. `seen_to`: the expiries that there were when it began, if nothing of what they left was in use: then no
/// other sweep is due for them.
pub fn swept(store: &Store, report: &Report, seen_to: Option<u64>, at: Timestamp) -> Result<(), StoreError> {
    let mut transaction = store.catalog().begin()?;
    let upkeep = transaction.upkeep()?;
    let seen_to = upkeep.seen_to.max(seen_to.unwrap_or(0));
    transaction.set_upkeep(&Upkeep { seen_to, swept: Some(Swept { at, freed: report.freed() }), ..upkeep })?;
    transaction.commit()
}

/// The share of the time that a sweep in the background works: one part in so many.
const SHARE: u32 = 4;
/// The longest rest in one piece, so that a sweep that is told to stop does.
const LONGEST_REST: Duration = Duration::from_millis(250);

/// The pace of a sweep in the background: after each piece of work it rests three times as long, so that those who read and write
/// have the disk and the processor for themselves most of the time.
pub struct Leisure<'a> {
    clock: &'a dyn Clock,
    sleep: &'a dyn Fn(Duration),
    since: Cell<Instant>,
}

impl std::fmt::Debug for Leisure<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leisure").field("since", &self.since).finish_non_exhaustive()
    }
}

impl<'a> Leisure<'a> {
    /// Work begins; `sleep` waits.
    #[must_use]
    pub fn new(clock: &'a dyn Clock, sleep: &'a dyn Fn(Duration)) -> Self {
        Self { clock, sleep, since: Cell::new(clock.instant()) }
    }

    /// A piece of work is done.
    pub fn rest(&self) {
        let worked = self.clock.instant().saturating_duration_since(self.since.get());
        (self.sleep)((worked * (SHARE - 1)).min(LONGEST_REST));
        self.since.set(self.clock.instant());
    }
}

/// Finds what no version reaches, and removes it.
pub struct Collector<'a> {
    pub(super) store: &'a Arc<Store>,
    pub(super) live: &'a dyn Fn() -> Vec<Tree>,
    pub(super) stop: &'a AtomicBool,
    /// Called between two pieces of work.
    pub(super) rest: &'a dyn Fn(),
    /// Tests end the sweep between two steps, as a crash would.
    #[cfg(test)]
    pub(super) crash: &'a dyn Fn() -> Result<(), GcError>,
}

impl std::fmt::Debug for Collector<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Collector").field("store", &self.store.path()).finish_non_exhaustive()
    }
}

impl<'a> Collector<'a> {
    /// A collector for a store. `live` gives the trees that are not in the catalog, or that expired while someone still reads them: what
    /// staging shows, what is frozen and not sealed. It is asked more than once. `stop` ends a sweep after the batch under way.
    #[must_use]
    pub fn new(store: &'a Arc<Store>, live: &'a dyn Fn() -> Vec<Tree>, stop: &'a AtomicBool) -> Self {
        Self {
            store,
            live,
            stop,
            rest: &|| (),
            #[cfg(test)]
            crash: &|| Ok(()),
        }
    }

    /// The same, at a pace: `rest` is called between two pieces of work, each of some milliseconds.
    #[must_use]
    pub fn resting(self, rest: &'a dyn Fn()) -> Self {
        Self { rest, ..self }
    }

    /// Removes what no version reaches.
    pub fn collect(&self) -> Result<Report, GcError> {
        self.run(&[], false)
    }

    /// What [`Collector::collect`] would report after these versions have expired. Nothing changes.
    pub fn preview(&self, expiring: &[VersionId]) -> Result<Report, GcError> {
        self.run(expiring, true)
    }

    fn run(&self, expiring: &[VersionId], dry: bool) -> Result<Report, GcError> {
        let sweep = self.store.objects().begin_sweep().ok_or(GcError::Busy)?;
        let (reach, uses, report) = (Reach::default(), PackUses::default(), Report::default());
        // Listed before any tree is read.
        let (packs, found) = (self.store.objects().settled_packs()?, Reach::all(self.store.catalog())?);
        let mut run = Run { collector: self, sweep, dry, packs, found, reach, uses, report };
        let complete = run.mark(expiring)? && run.nodes()? && run.objects()? && run.packs()? && run.leftovers()?;
        run.report.complete = complete;
        Ok(run.report)
    }

    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// A point at which a crash leaves the store between two states. It is as good as any for a rest.
    pub(super) fn step(&self) -> Result<(), GcError> {
        (self.rest)();
        #[cfg(test)]
        (self.crash)()?;
        Ok(())
    }
}

/// A sweep under way.
pub(super) struct Run<'a> {
    pub(super) collector: &'a Collector<'a>,
    sweep: Sweep<'a>,
    pub(super) dry: bool,
    /// The packs that there were when it began.
    packs: Vec<PackId>,
    /// What else there was.
    found: Reach,
    reach: Reach,
    pub(super) uses: PackUses,
    pub(super) report: Report,
}

impl<'a> Run<'a> {
    fn store(&self) -> &'a Arc<Store> {
        self.collector.store
    }

    /// Finds out what is reached, and claims the rest. False if it was stopped.
    fn mark(&mut self, expiring: &[VersionId]) -> Result<bool, GcError> {
        // Before: a frozen version that is sealed while the catalog is read is in one or the other. After: staging may
        // have been given the content of a ghost that was dropped before its record was read.
        if !self.mark_live()? || !self.mark_versions(expiring)? || !self.mark_live()? || !self.mark_aliased()? {
            return Ok(false);
        }
        self.claim()
    }

    fn mark_live(&mut self) -> Result<bool, GcError> {
        for tree in (self.collector.live)() {
            let Collector { stop, rest, .. } = self.collector;
            if !self.reach.add_resting(&tree, stop, rest).map_err(GcError::UnreadableStaging)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn mark_versions(&mut self, expiring: &[VersionId]) -> Result<bool, GcError> {
        let nodes = Nodes::over(Arc::clone(self.store()) as Arc<dyn NodeSource>, CACHE_BYTES);
        for record in self.store().catalog().versions()? {
            let Some(root) = record.root.filter(|_| !expiring.contains(&record.version)) else { continue };
            let tree = Tree::stored(Arc::clone(&nodes), root);
            let added = self.reach.add_resting(&tree, self.collector.stop, self.collector.rest);
            if !added.map_err(|source| GcError::Unreadable { version: record.version, source })? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What reached aliases name is reached as well.
    fn mark_aliased(&mut self) -> Result<bool, GcError> {
        self.each_object(|run, page| {
            for (id, record) in page {
                let (mut reached, mut location) = (run.reach.objects.contains(*id), record.location.clone());
                // The end: each step reaches an object that was not reached before.
                while let (true, Location::Alias(target)) = (reached, location) {
                    reached = run.reach.objects.insert(target);
                    let next = run.store().catalog().object(target)?;
                    location = next
                        .ok_or_else(|| StoreError::Damaged { what: format!("object {id} is object {target}, which is missing") })?
                        .location;
                }
            }
            Ok(())
        })
    }

    /// Claims what is not reached, and counts what packs are used for.
    fn claim(&mut self) -> Result<bool, GcError> {
        self.each_object(|run, page| {
            let dead = page.iter().map(|(id, _)| *id).filter(|id| run.found.objects.contains(*id) && !run.reach.objects.contains(*id));
            let dead: Vec<ObjectId> = dead.collect();
            let claimed: HashSet<ObjectId> = run.sweep.claim(&dead).into_iter().collect();
            for (id, record) in page {
                if let Location::Pack { pack, .. } = record.location {
                    run.uses.count(pack, record.len, !claimed.contains(id));
                }
            }
            Ok(())
        })
    }

    /// Calls `each` with all objects, some at a time. False if it was stopped.
    pub(super) fn each_object(
        &mut self,
        mut each: impl FnMut(&mut Self, &[(ObjectId, ObjectRecord)]) -> Result<(), GcError>,
    ) -> Result<bool, GcError> {
        let mut from = ObjectId(0);
        loop {
            if self.collector.stopped() {
                return Ok(false);
            }
            let page = self.store().catalog().objects(from, BATCH)?;
            let Some((last, _)) = page.last() else { return Ok(true) };
            from = last.next();
            each(self, &page)?;
            (self.collector.rest)();
        }
    }

    pub(super) fn is_claimed(&self, id: ObjectId) -> bool {
        self.sweep.has_claimed(id)
    }

    fn nodes(&mut self) -> Result<bool, GcError> {
        let mut from = NodeId(0);
        loop {
            if self.collector.stopped() {
                return Ok(false);
            }
            let mut page = self.store().catalog().node_sizes(from, BATCH)?;
            let Some((last, _)) = page.last() else { return Ok(true) };
            from = last.next();
            page.retain(|(id, _)| self.found.nodes.contains(*id) && !self.reach.nodes.contains(*id));
            if page.is_empty() {
                continue;
            }
            if !self.dry {
                let dead: Vec<NodeId> = page.iter().map(|(id, _)| *id).collect();
                let mut transaction = self.store().catalog().begin()?;
                transaction.remove_nodes(&dead)?;
                transaction.commit()?;
                self.collector.step()?;
            }
            self.report.nodes += page.len() as u64;
            self.report.node_bytes += page.iter().map(|(_, bytes)| bytes).sum::<u64>();
        }
    }

    fn objects(&mut self) -> Result<bool, GcError> {
        let alias = |location: &Location| matches!(location, Location::Alias(_));
        Ok(self.each_object(|run, page| run.remove(page, alias))?
            && self.each_object(|run, page| run.remove(page, |location| !alias(location)))?)
    }

    /// Removes those objects that are claimed and whose place is of the `wanted` kind.
    fn remove(&mut self, page: &[(ObjectId, ObjectRecord)], wanted: impl Fn(&Location) -> bool) -> Result<(), GcError> {
        let claimed = page.iter().filter(|(id, record)| wanted(&record.location) && self.sweep.has_claimed(*id));
        let dead: Vec<(ObjectId, Location)> = claimed.clone().map(|(id, record)| (*id, record.location.clone())).collect();
        if dead.is_empty() {
            return Ok(());
        }
        self.report.objects += dead.len() as u64;
        // An alias has no bytes of its own.
        let own = claimed.filter(|(_, record)| !matches!(record.location, Location::Alias(_)));
        self.report.object_bytes += own.map(|(_, record)| record.len).sum::<u64>();
        let objects = self.store().objects();
        if self.dry {
            for (id, _) in dead.iter().filter(|(_, location)| *location == Location::File) {
                self.report.file_bytes += objects.own_file(*id)?.map_or(0, |size| size.allocated);
            }
            return Ok(());
        }
        let mut transaction = self.store().catalog().begin()?;
        for (id, _) in &dead {
            transaction.remove_object(*id)?;
        }
        transaction.commit()?;
        self.collector.step()?;
        let freed = objects.removed(&dead)?;
        self.report.file_bytes += freed;
        self.collector.step()
    }

    fn packs(&mut self) -> Result<bool, GcError> {
        let packs = std::mem::take(&mut self.packs);
        self.sweep_packs(&packs)
    }

    /// Removes what a crash has left behind.
    fn leftovers(&mut self) -> Result<bool, GcError> {
        let mut named = None;
        for low in 0..=u8::MAX {
            if self.collector.stopped() {
                return Ok(false);
            }
            (self.collector.rest)();
            let objects = self.collector.store.objects();
            for id in objects.leftovers(objects.own_files(low)?)? {
                let named = match &named {
                    Some(named) => named,
                    None => &*named.insert(named_by_journals(self.collector.store)?),
                };
                if named.contains(&id) {
                    continue;
                }
                let freed = if self.dry { objects.own_file(id)?.map(|size| size.allocated) } else { objects.remove_leftover(id)? };
                let Some(freed) = freed else { continue };
                self.report.leftovers += 1;
                self.report.leftover_bytes += freed;
            }
        }
        Ok(true)
    }
}
