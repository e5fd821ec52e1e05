//! What the dispatcher asks of staging: what goes on, freeze, discard, a snapshot.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::Staging;
use super::handles::{Backing, Slot};
use super::state::{OpenVersion, Pending, State};
use super::types::{Activity, Invalidation, StagingEvent};
use super::working::{FileCell, Host, Work};
use crate::ids::{Ino, VersionId};
use crate::store::SealObject;
use crate::tree::key::{Content, FileKind, InodeRecord, Part, Value};
use crate::tree::{Change, Snapshot, Tree};
use crate::version::error::{FsError, FsResult};
use crate::version::seal::Frozen;

/// What is known of an open version that is ready to end.
#[derive(Clone, Copy, Debug)]
#[must_use = "its files are settled: end it under the same lock"]
pub(super) struct Ending {
    /// Nothing differs from its base but what came and went.
    unchanged: bool,
}

/// The lifecycle's side, for the dispatcher.
impl Staging {
    /// What goes on.
    #[must_use]
    pub fn activity(&self) -> Activity {
        let mut state = self.lock();
        state.quiet_wanted |= state.writers > 0;
        // What the kernel has written by itself nobody has told yet.
        if state.open.is_none()
            && state.writers > 0
            && let Err(error) = state.refresh_all(&self.cx)
        {
            state.outbox.push(StagingEvent::Failed { what: format!("what was written in passthrough: {error}") });
        }
        Activity {
            version: state.open.as_ref().map(|open| open.version),
            opened_at: state.open.as_ref().map(|open| open.opened_at),
            opened: state.open.as_ref().map(|open| open.opened),
            writers: state.writers,
            mapped: state.mapped.len() as u64,
            last_change: state.last_change,
            dirty: state.open.is_some(),
        }
    }

    /// The version that staging stands on: the last frozen one, or what the last rebase or discard put it on.
    #[must_use]
    pub fn base(&self) -> VersionId {
        self.lock().base
    }

    /// Frozen versions that journals held at start, oldest first. To be sealed before anything else is.
    pub fn take_recovered(&self) -> Vec<Frozen> {
        std::mem::take(&mut *self.recovered.lock())
    }

    /// What staging shows now.
    pub fn snapshot(&self) -> FsResult<Snapshot> {
        let _gate = self.gate.write();
        let mut state = self.lock();
        state.refresh_all(&self.cx)?;
        for (ino, cell, _) in open_files(&state) {
            if let (Work::Memory(memory), false) = (&*cell.work.read(), state.orphans.contains_key(&ino)) {
                let bytes: Arc<[u8]> = memory.bytes.as_slice().into();
                state.hold(&self.cx, ino, memory.object, bytes);
            }
        }
        state.publish()?;
        Ok(Snapshot::new(state.tree.clone(), Arc::clone(&self.cx.store)))
    }

    /// The trees that must stay readable whatever the catalog says: what staging shows and stands on, what is frozen and not sealed
    /// yet, files that have lost their last name while they are open, and directories as those who list them see them.
    #[must_use]
    pub fn live(&self) -> Vec<Tree> {
        let state = self.lock();
        let frozen = state.frozen.iter().filter(|(journal, _)| !journal.is_committed()).map(|(_, tree)| tree);
        let orphans = state.orphans.values().map(|orphan| &orphan.tree);
        let listed = state.handles.values().filter_map(|slot| match slot {
            Slot::Dir { tree, .. } => tree.as_ref(),
            Slot::File(_) => None,
        });
        let mut live: Vec<Tree> = Vec::new();
        for tree in [&state.tree, &state.base_tree].into_iter().chain(frozen).chain(orphans).chain(listed) {
            // Many who list directories see the same state.
            if !live.last().is_some_and(|last| last.is_same(tree)) {
                live.push(tree.clone());
            }
        }
        drop(state);
        live.extend(self.recovered.lock().iter().map(|frozen| frozen.snapshot.tree.clone()));
        live
    }

    /// Ends the open version, in constant time for each file that is open; later changes open the next one on top of it. `None` if none is
    /// open. Refuses while there are writers unless `force`: then what they wrote so far is in it, and what they write later in the next.
    pub fn freeze(&self, force: bool) -> FsResult<Option<Frozen>> {
        let _gate = self.gate.write();
        let mut state = self.lock();
        state.refresh_all(&self.cx)?;
        if state.open.is_none() {
            return Ok(None);
        }
        if state.writers > 0 && !force {
            return Err(FsError::Busy);
        }
        let ending = self.ending(&mut state)?;
        Ok(self.end_open(&mut state, ending))
    }

    /// Makes the open version ready to end. After an error it is open as before. The caller holds the gate alone.
    pub(super) fn ending(&self, state: &mut State) -> FsResult<Ending> {
        self.settle_files(state)?;
        state.publish()?;
        Ok(Ending { unchanged: state.is_unchanged()? })
    }

    /// Ends the open version, which was made ready for it.
    pub(super) fn end_open(&self, state: &mut State, ending: Ending) -> Option<Frozen> {
        let Ending { unchanged } = ending;
        let OpenVersion { version, opened_at, writers, pending, journal, .. } = state.open.take()?;
        let store = &self.cx.store;
        let parent = state.base;
        let base = Snapshot::new(state.base_tree.clone(), Arc::clone(store));
        if unchanged {
            state.tree = state.base_tree.clone();
            // So that a replay finds it unchanged as well.
            journal.queue_rebase(parent, opened_at, Vec::new());
        } else {
            state.base = version;
            state.base_tree = state.tree.clone();
        }
        journal.queue_sealed(None);
        state.frozen.retain(|(journal, _)| !journal.is_committed());
        let frozen = state.base_tree.clone();
        state.frozen.push((Arc::clone(&journal), frozen));
        let held = pending.values().map(|pending| if let Pending::Held(len) = pending { *len } else { 0 }).sum();
        let objects = pending
            .into_iter()
            .map(|(object, pending)| match pending {
                Pending::Held(_) => SealObject::Held(object),
                Pending::File => SealObject::File(object),
            })
            .collect();
        Some(Frozen {
            version,
            parent,
            opened_at,
            writers,
            base,
            snapshot: Snapshot::new(state.base_tree.clone(), Arc::clone(store)),
            objects,
            held,
            memory: Arc::clone(&self.cx.memory),
            journal,
            message: None,
            unchanged,
            done: AtomicBool::new(false),
            rejected: None,
        })
    }

    /// Ends all writing into the open version's bytes: what is in cells goes to the store, and host files that the kernel may write
    /// itself are left to staging while the version gets a copy (`make_copies`).
    fn settle_files(&self, state: &mut State) -> FsResult<()> {
        for (ino, cell, backing) in open_files(state) {
            if state.orphans.contains_key(&ino) {
                continue;
            }
            let mut work = cell.work.write();
            match (&mut *work, backing) {
                (Work::Memory(memory), _) => {
                    let bytes: Arc<[u8]> = std::mem::take(&mut memory.bytes).into();
                    let object = memory.object;
                    state.hold(&self.cx, ino, object, bytes);
                    *work = Work::Stored;
                }
                (_, Some(backing)) if state.pending(ino, backing.object).is_some() => {
                    self.detach(state, ino, &backing)?;
                    *work = match backing.reading {
                        true => Work::Stored,
                        false => Work::Host(Host { object: backing.object, file: backing.file, whole: true }),
                    };
                }
                // Still apart from the sealed version that got a copy earlier.
                (_, Some(_)) => {}
                (_, None) => *work = Work::Stored,
            }
        }
        Ok(())
    }

    /// Gives the version a copy of a file that is open in passthrough, to be made before it is sealed. The original is no version's until
    /// it changes again. Where nobody has it open for writing, whoever wants to change it waits until the copy is made: then the version
    /// has the file as it is now. Where somebody writes, it has what the copy finds.
    fn detach(&self, state: &mut State, ino: Ino, backing: &Backing) -> FsResult<()> {
        let copy = self.cx.store.ids().object();
        let record = state.record(ino)?;
        let written = state.files.get(&ino).is_some_and(|file| file.writers > 0);
        self.cx.store.objects().owe_copy(copy, backing.object, &backing.file, record.size, written);
        // What the next version has of it will be durable in the copy.
        self.cx.store.objects().inherits(backing.object);
        if let Some(open) = &state.open {
            open.journal.owe(copy);
        }
        state.set_pending(ino, copy, Pending::File);
        let _staging_keeps_it = state.take_pending(ino, backing.object);
        state.leave_copy(ino, copy);
        state.touch(ino, InodeRecord { content: Content::Object(copy), ..(*record).clone() })
    }

    /// Throws the open version away: its number, and what the kernel must forget.
    pub fn discard(&self) -> FsResult<(Option<VersionId>, Vec<Invalidation>)> {
        // What comes back must be what is sealed below: not an original that one who has gone stale still writes to.
        let frozen: Vec<_> = self.lock().frozen.iter().map(|(journal, _)| Arc::clone(journal)).collect();
        frozen.iter().try_for_each(|journal| journal.make_copies(&self.cx.store))?;
        let _gate = self.gate.write();
        let mut state = self.lock();
        state.refresh_all(&self.cx)?;
        state.publish()?;
        if state.open.is_none() {
            return Ok((None, Vec::new()));
        }
        let tree = state.base_tree.clone();
        let invalidations = self.switch(&mut state, tree)?;
        // Only now: what can't be discarded stays open.
        let Some(open) = state.open.take() else { return Ok((None, Vec::new())) };
        drop(state);
        // First the journal, for good. If it came back after a crash without the files that it names, so would the version, with empty ones.
        let given_up = open.journal.give_up(&self.cx.store, frozen.last().map(|journal| &**journal));
        if let Err(error) = &given_up {
            // It is discarded all the same, and said to be: the next start removes the journal of what has ended, a sweep the files.
            tracing::warn!(%error, version = %open.version, "the journal of a discarded version stays behind");
        }
        for (object, pending) in open.pending {
            if given_up.is_ok() || matches!(pending, Pending::Held(_)) {
                self.cx.discard(object, pending);
            }
        }
        Ok((Some(open.version), invalidations))
    }
}

fn open_files(state: &State) -> Vec<(Ino, Arc<FileCell>, Option<Backing>)> {
    state.files.iter().map(|(ino, file)| (*ino, Arc::clone(&file.cell), file.backing.clone())).collect()
}

impl State {
    /// Whether the open version holds nothing that anyone did: at most times of directories in which something came and went.
    pub(super) fn is_unchanged(&self) -> FsResult<bool> {
        match &self.open {
            Some(open) if open.explicit => Ok(false),
            _ => only_directory_times(&self.base_tree, &self.tree),
        }
    }
}

/// Whether nothing differs but times of directories in which something came and went.
fn only_directory_times(old: &Tree, new: &Tree) -> FsResult<bool> {
    for change in old.diff(new) {
        match change? {
            Change { key, old: Some(Value::Inode(old)), new: Some(Value::Inode(new)) }
                if key.part == Part::Inode && old.kind == FileKind::Directory =>
            {
                let times = InodeRecord { mtime: new.mtime, ctime: new.ctime, changed_in: new.changed_in, ..(*old).clone() };
                if times != *new {
                    return Ok(false);
                }
            }
            _ => return Ok(false),
        }
    }
    Ok(true)
}
