//! What a version's journal still has to get, and the journal itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::along::Along;
use super::state::Edit;
use crate::clock::Timestamp;
use crate::ids::{Ino, ObjectId, VersionId};
use crate::store::record::Writer;
use crate::store::{Journal, JournalRecord, Store, StoreError, codec};

/// So many bytes of edits are one batch; a batch has room for three times as much. (In tests next to nothing.)
const AT_ONCE: usize = if cfg!(test) { 1 << 10 } else { 16 << 20 };

/// The journal of a version, and what it still has to get.
#[derive(Debug)]
pub(in crate::version) struct VersionJournal {
    pub(super) version: VersionId,
    pub(super) queue: Mutex<Queue>,
    pub(super) file: Mutex<JournalFile>,
    /// As of when the queue is on disk, in terms of `Queue::changes`.
    pub(super) durable: AtomicU64,
    committed: AtomicBool,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    /// What was queued so far, but for host files.
    pub(super) changes: u64,
    pub(super) batches: Vec<Batch>,
    /// Small objects with bytes that the journal does not have.
    pub(super) small: BTreeMap<ObjectId, Ino>,
    /// Host files with bytes that may not be durable.
    pub(super) files: BTreeSet<ObjectId>,
    pub(super) along: Along,
    /// Host files that no edit leads to any more, and those of the flush before. The journal on disk still does, until it says otherwise.
    removed: Vec<ObjectId>,
    removed_before: Vec<ObjectId>,
    /// What `changes` was when the version was put on another parent last.
    rebased: u64,
    /// The version was frozen, with this message.
    pub(super) sealed: Option<Option<String>>,
    /// Objects that are copies of what was open in passthrough. Nothing of the journal is written before they are made: what it says
    /// of these files so far leads to the originals.
    copies: Vec<ObjectId>,
}

#[derive(Debug)]
pub(super) enum Batch {
    Base {
        parent: VersionId,
        opened_at: Timestamp,
    },
    Writer(Writer),
    Edits(Vec<Edit>),
    /// The version stands on another parent now, and these edits are all of it.
    Rebase {
        parent: VersionId,
        opened_at: Timestamp,
        edits: Vec<Edit>,
    },
}

#[derive(Debug, Default)]
pub(super) struct JournalFile {
    pub(super) journal: Option<Journal>,
    /// As of when the queue was appended.
    pub(super) appended: u64,
    /// The errno of a write or sync that failed: the journal is of no use any more.
    pub(super) failed: Option<i32>,
}

/// Which host files a flush makes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sync {
    /// None, and the journal is only handed to the kernel.
    Write,
    /// The journal, and no other file.
    Journal,
    /// The journal and all host files.
    All,
}

impl Queue {
    fn push(&mut self, batch: Batch) {
        self.changes += 1;
        self.batches.push(batch);
    }

    pub(super) fn owes(&self, store: &Store) -> bool {
        self.copies.iter().any(|copy| store.objects().owes_copy(*copy))
    }

    /// Whether a flush would find nothing to do.
    pub(super) fn has_nothing(&self) -> bool {
        self.batches.is_empty() && self.small.is_empty() && self.files.is_empty() && self.sealed.is_none()
    }
}

impl VersionJournal {
    pub(super) fn new(version: VersionId, parent: VersionId, opened_at: Timestamp) -> Arc<Self> {
        let journal = Self::resumed(version);
        journal.queue.lock().push(Batch::Base { parent, opened_at });
        journal
    }

    /// For a version whose journal is there already.
    pub(super) fn resumed(version: VersionId) -> Arc<Self> {
        // What is in the journal may be in the kernel's cache alone: one sync is to come.
        let queue = Mutex::new(Queue { changes: 1, ..Queue::default() });
        Arc::new(Self { version, queue, file: Mutex::default(), durable: AtomicU64::new(0), committed: AtomicBool::new(false) })
    }

    pub(super) fn queue_writer(&self, writer: Writer) {
        self.queue.lock().push(Batch::Writer(writer));
    }

    pub(super) fn queue_edits(&self, edits: Vec<Edit>) {
        self.queue.lock().push(Batch::Edits(edits));
    }

    pub(super) fn queue_rebase(&self, parent: VersionId, opened_at: Timestamp, edits: Vec<Edit>) {
        let mut queue = self.queue.lock();
        queue.push(Batch::Rebase { parent, opened_at, edits });
        queue.rebased = queue.changes;
    }

    pub(super) fn queue_object(&self, object: ObjectId, ino: Ino, file: bool) {
        let mut queue = self.queue.lock();
        if file {
            queue.files.insert(object);
        } else {
            queue.changes += 1;
            queue.small.insert(object, ino);
        }
    }

    /// A host file that nothing leads to once the edits that are being made are durable: then it goes. `false`: the journal is over.
    pub(super) fn queue_removed(&self, object: ObjectId) -> bool {
        let mut queue = self.queue.lock();
        let takes = !self.is_committed();
        if takes {
            queue.removed.push(object);
        }
        takes
    }

    pub(super) fn has_removed(&self) -> bool {
        let queue = self.queue.lock();
        !queue.removed.is_empty() || !queue.removed_before.is_empty()
    }

    /// What can go once a sync that begins now has succeeded: what was queued before the last one. The edit that goes with it may still have
    /// been on its way then, and is not now.
    pub(super) fn take_removed(&self) -> Vec<ObjectId> {
        let mut queue = self.queue.lock();
        let fresh = std::mem::take(&mut queue.removed);
        std::mem::replace(&mut queue.removed_before, fresh)
    }

    /// After a sync that failed; what comes back can go: the journal is over.
    pub(super) fn put_back_removed(&self, mut objects: Vec<ObjectId>) -> Vec<ObjectId> {
        let mut queue = self.queue.lock();
        if !self.is_committed() {
            queue.removed_before.append(&mut objects);
        }
        objects
    }

    pub(super) fn forget_object(&self, object: ObjectId) {
        let mut queue = self.queue.lock();
        queue.small.remove(&object);
        queue.files.remove(&object);
        queue.along.forget(object);
    }

    /// The edits to come name a copy that is still to be made.
    pub(super) fn owe(&self, copy: ObjectId) {
        let mut queue = self.queue.lock();
        queue.changes += 1;
        queue.copies.push(copy);
    }

    pub(super) fn owes(&self, store: &Store) -> bool {
        self.queue.lock().owes(store)
    }

    /// Makes the copies that the version needs, which takes as long as they are large.
    pub(in crate::version) fn make_copies(&self, store: &Store) -> Result<(), StoreError> {
        let copies = self.queue.lock().copies.clone();
        copies.into_iter().try_for_each(|copy| store.objects().make_copy(copy))
    }

    /// As `make_copies`, where the disk can't read all of the originals.
    pub(in crate::version) fn salvage_copies(&self, store: &Store) -> Result<(), StoreError> {
        let copies = self.queue.lock().copies.clone();
        copies.into_iter().try_for_each(|copy| store.objects().salvage_copy(copy))
    }

    /// The version was frozen: no more edits come.
    pub(super) fn queue_sealed(&self, message: Option<String>) {
        let mut queue = self.queue.lock();
        queue.changes += 1;
        queue.sealed = Some(message);
    }

    /// The message that the seal will have.
    pub(in crate::version) fn set_message(&self, message: Option<String>) {
        if let Some(sealed) = &mut self.queue.lock().sealed {
            *sealed = message;
        }
    }

    /// Whether the journal on disk may still say that the version stands on another than it does.
    pub(super) fn may_stand_elsewhere(&self) -> bool {
        !self.is_committed() && self.queue.lock().rebased > self.durable.load(Ordering::Acquire)
    }

    /// Whether all that was queued is durable, but for host files.
    pub(super) fn is_saved(&self) -> bool {
        self.queue.lock().changes == self.durable.load(Ordering::Acquire)
    }

    pub(super) fn is_committed(&self) -> bool {
        self.committed.load(Ordering::Acquire)
    }

    /// The catalog has the version, or it was given up: its journal goes.
    pub(in crate::version) fn retire(&self, store: &Store) -> Result<(), StoreError> {
        let removed = self.end(store)?;
        removed.into_iter().for_each(|object| store.objects().discard(object));
        Ok(())
    }

    /// What comes back are the files that it led to alone.
    fn end(&self, store: &Store) -> Result<Vec<ObjectId>, StoreError> {
        let mut file = self.file.lock();
        self.committed.store(true, Ordering::Release);
        file.journal = None;
        let queue = std::mem::take(&mut *self.queue.lock());
        queue.copies.into_iter().for_each(|copy| store.objects().settle_copy(copy));
        store.remove_journal(self.version)?;
        Ok([queue.removed, queue.removed_before].concat())
    }

    /// The same for one that was given up: when this returns the journal does not come back. Its files go, or if the version below
    /// is not in the catalog yet, once it is: its journal may lead to them, too.
    pub(in crate::version) fn give_up(&self, store: &Store, below: Option<&Self>) -> Result<(), StoreError> {
        let removed = self.end(store)?;
        store.sync_journals()?;
        let kept = |object: &ObjectId| below.is_some_and(|below| below.queue_removed(*object));
        removed.into_iter().filter(|object| !kept(object)).for_each(|object| store.objects().discard(object));
        Ok(())
    }
}

impl Batch {
    pub(super) fn append_to(self, out: &mut Journal) -> Result<(), StoreError> {
        match self {
            Self::Base { parent, opened_at } => out.append(&[JournalRecord::Base { parent, opened_at }]),
            Self::Writer(writer) => out.append(&[JournalRecord::Writer(writer)]),
            Self::Edits(edits) => append_edits(out, None, &edits, AT_ONCE),
            Self::Rebase { parent, opened_at, edits } => append_edits(out, Some((parent, opened_at)), &edits, AT_ONCE),
        }
    }
}

/// Edits that count wholly or not at all, behind the parent that they are all of a version on. More than `at_once` bytes of them go aside
/// first, in as many batches as it takes.
pub(super) fn append_edits(
    out: &mut Journal,
    base: Option<(VersionId, Timestamp)>,
    edits: &[Edit],
    at_once: usize,
) -> Result<(), StoreError> {
    let encoded: Vec<_> = edits.iter().map(|(key, value)| (codec::encode(key), value.as_ref().map(codec::encode))).collect();
    let size = |(key, value): &(Vec<u8>, Option<Vec<u8>>)| key.len() + value.as_ref().map_or(0, Vec::len) + 16;
    if encoded.iter().map(size).sum::<usize>() <= at_once {
        let begin = base.map(|(parent, opened_at)| JournalRecord::Base { parent, opened_at });
        let edits = encoded.into_iter().map(|(key, value)| JournalRecord::Edit { key, value });
        return out.append(&begin.into_iter().chain(edits).collect::<Vec<_>>());
    }
    let (mut batch, mut len) = (Vec::new(), 0);
    for edit in encoded {
        len += size(&edit);
        let (key, value) = edit;
        batch.push(JournalRecord::Aside { key, value });
        if len > at_once {
            out.append(&std::mem::take(&mut batch))?;
            len = 0;
        }
    }
    batch.push(JournalRecord::Join { base, edits: edits.len() as u64 });
    out.append(&batch)
}
