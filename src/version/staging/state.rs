//! The namespace of staging: one structure behind one lock, and the edits that everything goes through.
//!
//! A record that only its file's data changed (size, times) waits in `dirty` until something needs it in the tree (flush, fsync,
//! freeze, the journal's writer): a write of 4 KiB must not cost an edit of the tree. Everything reads records through
//! [`State::record`], which knows both places.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::handles::{OpenFile, Slot};
use super::mapped::Mapped;
use super::types::{Caller, Handle, NodeRef, StagingEvent};
use super::version_journal::VersionJournal;
use crate::clock::Timestamp;
use crate::ids::{Ino, ObjectId, VersionId};
use crate::store::record::Writer;
use crate::tree::key::{FileKind, InodeRecord, Key, Name, Part, Value};
use crate::tree::{Tree, TreeError};
use crate::version::error::{FsError, FsResult};

/// A change of one entry; `None` removes it.
pub(super) type Edit = (Key, Option<Value>);

/// The longest name.
pub(super) const MAX_NAME: usize = 255;
/// So many processes are named in a version's record.
const MAX_WRITERS: usize = 64;
/// So many inodes that were removed while nothing had them open still answer `stat` (a working directory, for example).
const MAX_REMOVED: usize = 256;

/// Everything under the namespace's lock.
#[derive(Debug)]
pub(super) struct State {
    /// What staging shows, but for what waits in `dirty`.
    pub(super) tree: Tree,
    /// The version that staging stands on, and its tree.
    pub(super) base: VersionId,
    pub(super) base_tree: Tree,
    pub(super) open: Option<OpenVersion>,
    /// Records newer than the tree's. Empty while no version is open.
    pub(super) dirty: BTreeMap<Ino, Arc<InodeRecord>>,
    /// Regular files with handles.
    pub(super) files: HashMap<Ino, OpenFile>,
    /// Files with handles and without a name.
    pub(super) orphans: HashMap<Ino, Orphan>,
    /// Inodes removed lately.
    pub(super) removed: VecDeque<(Ino, Arc<InodeRecord>)>,
    pub(super) handles: HashMap<Handle, Slot>,
    pub(super) last_handle: u64,
    /// Generations that are not 0.
    pub(super) generations: HashMap<Ino, u32>,
    /// Frozen versions that the catalog may not have yet, oldest first: their journals, and what they hold.
    pub(super) frozen: Vec<(Arc<VersionJournal>, Tree)>,
    /// Inodes whose pages in the kernel may be older than the file: it was open in passthrough since.
    pub(super) pages_old: HashSet<Ino>,
    pub(super) writers: u64,
    /// Handles that were released and still count, and when their turn is to be asked about.
    pub(super) mapped: Vec<Mapped>,
    pub(super) look_at: Option<Instant>,
    pub(super) last_change: Instant,
    /// Whether someone has seen writers at work and wants to know when the last of them closes. Who saw none has a timer running.
    pub(super) quiet_wanted: bool,
    /// Events to send once the lock is let go.
    pub(super) outbox: Vec<StagingEvent>,
}

/// The version that takes the changes.
#[derive(Debug)]
pub(super) struct OpenVersion {
    pub(super) version: VersionId,
    pub(super) opened_at: Timestamp,
    pub(super) opened: Instant,
    pub(super) writers: Vec<Writer>,
    /// The objects that it made. Only these may change, and each belongs to one inode.
    pub(super) pending: HashMap<ObjectId, Pending>,
    /// The object that takes what is written into a file of extents.
    pub(super) overlays: HashMap<Ino, ObjectId>,
    /// Whether someone set attributes of a directory: a change even if nothing else is one.
    pub(super) explicit: bool,
    pub(super) journal: Arc<VersionJournal>,
}

/// Where the bytes of an unsealed object are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pending {
    /// In memory: held by the store (so many bytes, 0 before the first hold), or in the file's cell while it is written.
    Held(u64),
    /// In a host file of its own.
    File,
}

/// A file that has lost its last name but is still open: its record, attributes and extents in a tree of its own.
#[derive(Debug)]
pub(super) struct Orphan {
    pub(super) tree: Tree,
    pub(super) pending: HashMap<ObjectId, Pending>,
    pub(super) overlay: Option<ObjectId>,
}

impl State {
    /// The inode that the kernel means.
    pub(super) fn ino(&self, node: NodeRef) -> FsResult<Ino> {
        match self.generations.get(&node.ino).copied().unwrap_or(0) == node.generation {
            true => Ok(node.ino),
            false => Err(FsError::Stale),
        }
    }

    pub(super) fn node(&self, ino: Ino) -> NodeRef {
        NodeRef { ino, generation: self.generations.get(&ino).copied().unwrap_or(0) }
    }

    /// The tree that holds the inode's entries.
    pub(super) fn tree_of(&self, ino: Ino) -> &Tree {
        self.orphans.get(&ino).map_or(&self.tree, |orphan| &orphan.tree)
    }

    /// The inode's record as it is now.
    pub(super) fn find(&self, ino: Ino) -> FsResult<Option<Arc<InodeRecord>>> {
        if let Some(record) = self.dirty.get(&ino) {
            return Ok(Some(Arc::clone(record)));
        }
        match self.tree_of(ino).get(&Key::inode(ino))? {
            Some(Value::Inode(record)) => Ok(Some(record)),
            _ => Ok(None),
        }
    }

    /// The record of an inode that the kernel holds.
    pub(super) fn record(&self, ino: Ino) -> FsResult<Arc<InodeRecord>> {
        self.find(ino)?.ok_or(FsError::Stale)
    }

    /// The directory that the kernel means.
    pub(super) fn dir(&self, node: NodeRef) -> FsResult<(Ino, Arc<InodeRecord>)> {
        let ino = self.ino(node)?;
        let record = match self.find(ino)? {
            Some(record) => record,
            // A directory that was removed while someone stands in it: nothing is in it and nothing comes into it.
            None if self.removed.iter().any(|(gone, _)| *gone == ino) => return Err(FsError::NotFound),
            None => return Err(FsError::Stale),
        };
        match record.kind {
            FileKind::Directory => Ok((ino, record)),
            _ => Err(FsError::NotDirectory),
        }
    }

    /// What a name leads to.
    pub(super) fn entry(&self, dir: Ino, name: &[u8]) -> FsResult<Option<(Ino, FileKind)>> {
        match self.tree.get(&Key::dirent(dir, name))? {
            Some(Value::Dirent(ino, kind)) => Ok(Some((ino, kind))),
            _ => Ok(None),
        }
    }

    /// What a name leads to, with its record; the record must be there.
    pub(super) fn child(&self, dir: Ino, name: &[u8]) -> FsResult<(Ino, Arc<InodeRecord>)> {
        if name.len() > MAX_NAME {
            return Err(FsError::NameTooLong);
        }
        let (ino, _) = self.entry(dir, name)?.ok_or(FsError::NotFound)?;
        let record = self.find(ino)?.ok_or_else(|| damaged(ino, "a name leads to it, but it has no record"))?;
        Ok((ino, record))
    }

    /// Whether a directory has an entry.
    pub(super) fn has_entries(&self, dir: Ino) -> FsResult<bool> {
        let end = Key { ino: dir, part: Part::Link(Ino(0), Name::default()) };
        Ok(self.tree.range(&Key::dirent(dir, b""), &end).next().transpose()?.is_some())
    }

    /// Makes sure that a version is open, and notes who changes it. Call it once nothing can be refused any more.
    pub(super) fn begin(&mut self, caller: &Caller, cx: &super::Context) -> VersionId {
        self.last_change = cx.clock.instant();
        let base = self.base;
        let mut opened = false;
        let open = self.open.get_or_insert_with(|| {
            opened = true;
            let version = cx.store.ids().version();
            let opened_at = cx.clock.now();
            OpenVersion {
                version,
                opened_at,
                opened: cx.clock.instant(),
                writers: Vec::new(),
                pending: HashMap::new(),
                overlays: HashMap::new(),
                explicit: false,
                journal: VersionJournal::new(version, base, opened_at),
            }
        });
        let known = |writer: &Writer| writer.pid == caller.pid && writer.uid == caller.uid;
        let writer = (open.writers.len() < MAX_WRITERS && caller.pid != 0 && !open.writers.iter().any(known)).then(|| writer(caller));
        if let Some(writer) = &writer {
            open.writers.push(writer.clone());
            open.journal.queue_writer(writer.clone());
        }
        if opened {
            self.outbox.push(StagingEvent::Opened { version: open.version, parent: base, at: open.opened_at, writer });
        }
        open.version
    }

    /// Makes the edits, all or none, and queues them for the journal. Edits of one call belong to linked inodes, or all to one orphan.
    pub(super) fn apply(&mut self, edits: Vec<Edit>) -> FsResult<()> {
        let orphan = edits.first().map(|(key, _)| key.ino).filter(|ino| self.orphans.contains_key(ino));
        let tree = match orphan.and_then(|ino| self.orphans.get_mut(&ino)) {
            Some(orphan) => &mut orphan.tree,
            None => &mut self.tree,
        };
        let mut undo: Vec<Edit> = Vec::with_capacity(edits.len());
        for (key, value) in &edits {
            match tree.set(key, value.clone()) {
                Ok(old) => undo.push((key.clone(), old)),
                Err(error) => {
                    for (key, old) in undo.into_iter().rev() {
                        // These nodes were in memory a moment ago: putting the old values back reads nothing.
                        let _already_failed = tree.set(&key, old);
                    }
                    return Err(error.into());
                }
            }
        }
        for (key, _) in &edits {
            if key.part == Part::Inode {
                self.dirty.remove(&key.ino);
            }
        }
        if let (None, Some(open)) = (orphan, &self.open) {
            open.journal.queue_edits(edits);
        }
        Ok(())
    }

    /// Replaces a record whose file's data changed. It reaches the tree with [`State::publish`].
    pub(super) fn touch(&mut self, ino: Ino, record: InodeRecord) -> FsResult<()> {
        if let Some(orphan) = self.orphans.get_mut(&ino) {
            orphan.tree.insert(Key::inode(ino), Value::Inode(Arc::new(record)))?;
        } else {
            self.dirty.insert(ino, Arc::new(record));
        }
        Ok(())
    }

    /// Brings all waiting records into the tree.
    pub(super) fn publish(&mut self) -> FsResult<()> {
        if self.dirty.is_empty() {
            return Ok(());
        }
        let edits = self.dirty.iter().map(|(ino, record)| (Key::inode(*ino), Some(Value::Inode(Arc::clone(record))))).collect();
        self.apply(edits)
    }

    /// The unsealed object, if it is one that the inode may change.
    pub(super) fn pending(&self, ino: Ino, object: ObjectId) -> Option<Pending> {
        match self.orphans.get(&ino) {
            Some(orphan) => orphan.pending.get(&object).copied(),
            None => self.open.as_ref().and_then(|open| open.pending.get(&object).copied()),
        }
    }

    /// Notes an unsealed object, or what became of it.
    pub(super) fn set_pending(&mut self, ino: Ino, object: ObjectId, pending: Pending) {
        match (self.orphans.get_mut(&ino), &mut self.open) {
            (Some(orphan), _) => {
                orphan.pending.insert(object, pending);
            }
            (None, Some(open)) => {
                open.pending.insert(object, pending);
                open.journal.queue_object(object, ino, pending == Pending::File);
            }
            (None, None) => {}
        }
    }

    pub(super) fn take_pending(&mut self, ino: Ino, object: ObjectId) -> Option<Pending> {
        match (self.orphans.get_mut(&ino), &mut self.open) {
            (Some(orphan), _) => orphan.pending.remove(&object),
            (None, Some(open)) => open.pending.remove(&object),
            (None, None) => None,
        }
    }

    pub(super) fn overlay(&self, ino: Ino) -> Option<ObjectId> {
        match self.orphans.get(&ino) {
            Some(orphan) => orphan.overlay,
            None => self.open.as_ref().and_then(|open| open.overlays.get(&ino).copied()),
        }
    }

    pub(super) fn set_overlay(&mut self, ino: Ino, object: Option<ObjectId>) {
        match (self.orphans.get_mut(&ino), &mut self.open) {
            (Some(orphan), _) => orphan.overlay = object,
            (None, Some(open)) => {
                match object {
                    Some(object) => open.overlays.insert(ino, object),
                    None => open.overlays.remove(&ino),
                };
            }
            (None, None) => {}
        }
    }

    /// Remembers an inode that went while nothing had it open.
    pub(super) fn remember_removed(&mut self, ino: Ino, record: &InodeRecord, now: Timestamp) {
        if self.removed.len() == MAX_REMOVED {
            self.removed.pop_front();
        }
        self.removed.push_back((ino, Arc::new(InodeRecord { nlink: 0, ctime: now, ..record.clone() })));
    }
}

/// The process behind a caller. It may be gone already.
fn writer(caller: &Caller) -> Writer {
    let command = std::fs::read(format!("/proc/{}/comm", caller.pid)).unwrap_or_default();
    Writer { uid: caller.uid, pid: caller.pid, command: String::from_utf8_lossy(command.trim_ascii_end()).into_owned() }
}

/// An edit that puts a record.
pub(super) fn put_record(ino: Ino, record: InodeRecord) -> Edit {
    (Key::inode(ino), Some(Value::Inode(Arc::new(record))))
}

pub(super) fn damaged(ino: Ino, what: &str) -> FsError {
    TreeError::Inode { ino, what: what.to_owned() }.into()
}
