//! Small files that are synced, or waited for by the journal, while they are open in passthrough: the journal takes their bytes along.
//!
//! A host file that is to be durable needs a name and a sync of its own, which changes what the host knows of its files: on ext4 a commit
//! of the host's journal (0.7 ms where a flush takes 0.2). Most files that are synced at all are small and new, like the rollback journal
//! of each of SQLite's transactions, or what replaces a file. So as long as a small file has no name its bytes go into our journal whenever
//! they are to last, and one sync makes these and the edits durable.
//!
//! From then on the journal has something of the object that a replay believes, whatever became of the file. When it gets a name after all
//! (it grew, or was synced too often) it is synced first, as what has inherited durable bytes always is, and an `InFile` record says so.
//!
//! That happens in any case to a file that is still there after a moment, behind its writer's back: it may be mapped, and an msync, of which
//! nobody hears, is to make the bytes durable that lie where the journal leads to.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::Staging;
use super::version_journal::{Queue, Sync, VersionJournal};
use crate::ids::ObjectId;
use crate::store::Store;
use crate::version::error::FsResult;

/// At most about so many bytes of one file are taken: who syncs it again and again is better off with its own file.
const OF_ONE: u64 = 256 << 10;
/// Of all files together: a journal is read as a whole when it is needed. (In tests next to nothing.)
const OF_ALL: u64 = if cfg!(test) { 1 << 20 } else { 64 << 20 };
/// What a file counts for at least.
const LEAST: u64 = 4 << 10;

/// Which files' bytes a journal has taken along.
#[derive(Debug, Default)]
pub(super) struct Along {
    /// How many bytes of each, all times together. At most `OF_ALL / LEAST` files.
    taken: HashMap<ObjectId, u64>,
    all: u64,
    /// Those since the last look at which are still there.
    fresh: BTreeSet<ObjectId>,
}

impl Along {
    fn has_room(&self, object: ObjectId) -> bool {
        self.all < OF_ALL && self.taken.get(&object).is_none_or(|taken| *taken < OF_ONE)
    }

    /// The journal takes that many bytes of the object.
    pub(super) fn took(&mut self, object: ObjectId, len: usize) {
        let len = (len as u64).max(LEAST);
        self.all += len;
        *self.taken.entry(object).or_default() += len;
        self.fresh.insert(object);
    }

    /// It did not take them.
    fn put_back(&mut self, object: ObjectId, len: usize) {
        let len = (len as u64).max(LEAST);
        self.all -= len;
        if let Some(taken) = self.taken.get_mut(&object) {
            *taken -= len;
            if *taken == 0 {
                self.taken.remove(&object);
            }
        }
    }

    /// The object is gone, or somewhere else.
    pub(super) fn forget(&mut self, object: ObjectId) {
        self.fresh.remove(&object);
    }

    fn no_more_of(&mut self, object: ObjectId) {
        *self.taken.entry(object).or_default() += OF_ONE;
    }
}

impl Queue {
    /// Whether the journal has bytes of the object that a replay would believe.
    pub(super) fn has_taken(&self, object: ObjectId) -> bool {
        self.along.taken.contains_key(&object)
    }

    /// Nothing was taken after all. What is neither `ready` nor was to be taken has to get a name first.
    pub(super) fn put_back(&mut self, taken: &BTreeMap<ObjectId, Vec<u8>>, ready: impl Fn(&ObjectId) -> bool) {
        let Self { files, along, .. } = self;
        files.iter().filter(|object| !ready(object)).for_each(|object| along.no_more_of(*object));
        for (object, bytes) in taken {
            along.put_back(*object, bytes.len());
            files.insert(*object);
        }
    }

    /// Those whose bytes the journal has, and which are in files that it may lead to instead from now on.
    pub(super) fn are_in_files(&mut self, store: &Store) -> Vec<ObjectId> {
        let over = |object: &&ObjectId| self.has_taken(**object) && store.objects().is_durable_file(**object);
        let over: Vec<ObjectId> = self.files.iter().filter(over).copied().collect();
        // They have names: they are never taken again.
        for object in &over {
            self.along.taken.remove(object);
            self.changes += 1;
        }
        over
    }
}

impl Staging {
    /// Whether the journal takes the object's bytes with its next flush, so that its host file needs neither a name nor a sync.
    pub(super) fn goes_along(&self, journal: &VersionJournal, object: ObjectId) -> bool {
        let small = |len| len <= self.cx.options.small_file;
        // What room is set aside for a full disk is for less.
        self.cx.store.reserve_missing() == 0
            && journal.queue.lock().along.has_room(object)
            && self.cx.store.objects().unnamed_len(object).is_ok_and(|len| len.is_some_and(small))
    }

    /// Takes what goes along from the host files that are to be seen to.
    pub(super) fn take_along(&self, journal: &VersionJournal) -> BTreeMap<ObjectId, Vec<u8>> {
        let candidates: Vec<ObjectId> = journal.queue.lock().files.iter().copied().collect();
        let mut taken = BTreeMap::new();
        for object in candidates {
            // From the queue first: what is written from now on is queued again when it is seen.
            if self.goes_along(journal, object) && journal.queue.lock().files.remove(&object) {
                let bytes = self.cx.store.objects().unnamed_bytes(object, self.cx.options.small_file);
                let mut queue = journal.queue.lock();
                match bytes {
                    Ok(Some(bytes)) => {
                        self.cx.store.objects().inherits(object);
                        queue.along.took(object, bytes.len());
                        taken.insert(object, bytes);
                    }
                    // It grew, or got a name, or can't be read, which its own sync tells.
                    other => {
                        if other.is_err() {
                            queue.along.no_more_of(object);
                        }
                        queue.files.insert(object);
                    }
                }
            }
        }
        taken
    }

    /// Has the journal's writer look at what was taken, in a moment.
    pub(super) fn look_again(&self) {
        // One look is enough for all.
        let _asked_already = self.alive.as_ref().map(|writer| writer.try_send(()));
    }

    /// What was taken along and is still there gets a name, and the journal leads to it. The journal's writer does that by itself.
    pub fn settle_along(&self) -> FsResult<()> {
        let Some(journal) = self.lock().open.as_ref().map(|open| Arc::clone(&open.journal)) else { return Ok(()) };
        let mut queue = journal.queue.lock();
        let fresh = std::mem::take(&mut queue.along.fresh);
        let still: Vec<ObjectId> = fresh.into_iter().filter(|object| self.cx.store.objects().is_unnamed(*object)).collect();
        if still.is_empty() {
            return Ok(());
        }
        still.iter().for_each(|object| queue.along.no_more_of(*object));
        queue.files.extend(still);
        drop(queue);
        self.save(Sync::Journal)
    }
}
