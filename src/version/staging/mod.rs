//! The open version: POSIX semantics on top of the copy-on-write tree, without FUSE.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `state` | the namespace behind one lock, and the edits that everything goes through |
//! | `namespace`, `rename`, `attr`, `xattr`, `dirs`, `privileges` | operations on it |
//! | `handles`, `habits`, `mapped`, `data`, `truncate`, `working`, `extents`, `share` | open files and their bytes |
//! | `journal`, `replay` | what makes the open version survive |
//! | `lifecycle`, `rebase`, `restore` | freeze, discard, carry over, put back |
//!
//! Lock order: the gate, then a journal's file, then a file's cell, then the state, then a journal's queue. Everything that changes
//! or reads a file's bytes holds the gate shared; freeze, rebase and discard hold it alone, and only they may take a cell's lock
//! while they hold the state's, because then nobody else holds one. No lock but the gate is held while bytes go to or from
//! a host file, except the file's own cell; none at all while an event is sent.

mod along;
mod attr;
mod clone;
mod closing;
mod data;
mod dirs;
mod extents;
mod habits;
mod handles;
mod journal;
mod lifecycle;
mod mapped;
mod namespace;
mod privileges;
mod rebase;
mod rename;
mod replay;
mod restore;
mod scratch;
mod share;
mod state;
#[cfg(test)]
mod tests;
mod truncate;
mod types;
pub(in crate::version) mod version_journal;
mod working;
mod xattr;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use crossbeam::channel::Sender;
use parking_lot::{Mutex, MutexGuard, RwLock};

pub use attr::blocks;
pub use rebase::{RebaseOutcome, Rebased};
pub use restore::Restored;
pub use types::{
    Activity, Allocate, Attr, Caller, DirEntry, Handle, Invalidation, NodeRef, OpenMode, Opened, RenameMode, Seek, SetAttr, StagingEvent,
    StagingOptions, StatFs, TimeSet, XattrMode,
};

use super::error::FsResult;
use super::seal::Frozen;
use crate::clock::{Clock, Timestamp};
use crate::ids::VersionId;
use crate::store::Store;
use crate::tree::Snapshot;
use state::State;

/// What staging shows, and the open version behind it. Share it as `Arc<Staging>`.
#[derive(Debug)]
pub struct Staging {
    cx: Context,
    events: Sender<StagingEvent>,
    gate: RwLock<()>,
    state: Mutex<State>,
    /// Frozen versions found in journals at start, for who seals them.
    recovered: Mutex<Vec<Frozen>>,
    habits: habits::Habits,
    /// Asks the journal's writer for a look between its rounds. Dropped with the rest: that ends it.
    alive: Option<Sender<()>>,
}

/// What operations need beside the state.
#[derive(Debug)]
struct Context {
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    options: StagingOptions,
    /// Bytes of small files in memory, open and frozen versions' together.
    memory: Arc<AtomicU64>,
    /// Bytes that memory may take before the disk is asked again whether it has room for them, and until when. A leaf.
    credit: Mutex<(u64, Instant)>,
}

impl Staging {
    /// Staging on top of `base`, with the open version that the journals hold, if there is one. Frozen versions that were not in the
    /// catalog yet come out of [`Staging::take_recovered`]; seal them in order before anything else.
    pub fn new(
        base: Snapshot,
        version: VersionId,
        events: Sender<StagingEvent>,
        clock: Arc<dyn Clock>,
        options: StagingOptions,
    ) -> FsResult<Arc<Self>> {
        let credit = Mutex::new((0, clock.instant()));
        let cx = Context { store: Arc::clone(&base.store), clock, options, memory: Arc::default(), credit };
        let mut state = State {
            base_tree: base.tree.clone(),
            tree: base.tree,
            base: version,
            open: None,
            dirty: BTreeMap::new(),
            files: HashMap::new(),
            orphans: HashMap::new(),
            removed: VecDeque::new(),
            handles: HashMap::new(),
            last_handle: 0,
            generations: HashMap::new(),
            frozen: Vec::new(),
            pages_old: HashSet::new(),
            writers: 0,
            mapped: Vec::new(),
            look_at: None,
            quiet_wanted: true,
            last_change: cx.clock.instant(),
            outbox: Vec::new(),
        };
        let recovered = replay::replay(&cx, &mut state)?;
        let (alive, asked) = crossbeam::channel::bounded(1);
        let staging = Arc::new(Self {
            cx,
            events,
            gate: RwLock::new(()),
            state: Mutex::new(state),
            recovered: Mutex::new(recovered),
            habits: habits::Habits::default(),
            alive: options.flusher.then_some(alive),
        });
        if options.flusher {
            journal::start_writer(&staging, asked)?;
        }
        // What replay has to tell goes out with the first lock that is let go.
        drop(staging.lock());
        Ok(staging)
    }

    /// The state. Events that are queued while it is held go out when it is let go.
    fn lock(&self) -> Locked<'_> {
        Locked { guard: self.state.lock(), later: Later { events: &self.events, list: Vec::new() } }
    }

    fn now(&self) -> Timestamp {
        self.cx.clock.now()
    }

    fn snapshot_of(&self, state: &State, ino: crate::ids::Ino) -> Snapshot {
        Snapshot::new(state.tree_of(ino).clone(), Arc::clone(&self.cx.store))
    }
}

/// The state, locked.
struct Locked<'a> {
    // The order counts: the lock is let go before the events are sent.
    guard: MutexGuard<'a, State>,
    later: Later<'a>,
}

struct Later<'a> {
    events: &'a Sender<StagingEvent>,
    list: Vec<StagingEvent>,
}

impl Deref for Locked<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.guard
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.guard
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.later.list = std::mem::take(&mut self.guard.outbox);
    }
}

impl Drop for Later<'_> {
    fn drop(&mut self) {
        for event in self.list.drain(..) {
            // Whoever listened is gone: staging works on without a dispatcher.
            let _nobody_listens = self.events.send(event);
        }
    }
}
