//! What makes the open version survive: its journal, fsync, and the thread that writes behind.
//!
//! Every edit of the tree is queued for its version's journal when it is made; nothing is encoded or written before fsync or the
//! writer's round asks for it. Bytes of small files are taken along then. A version is sealed from memory, so most are over before
//! any of this costs anything.
//!
//! A journal ends with `Sealed` once its version was frozen and everything that belongs to it is in the journal or in durable host
//! files. What stands on a frozen version must not be in a journal before that.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError};

use super::Staging;
use super::state::Pending;
use super::types::{Handle, StagingEvent};
use super::version_journal::{JournalFile, Sync, VersionJournal};
use super::working::{FileCell, Work};
use crate::ids::{Ino, ObjectId};
use crate::store::{JournalRecord, StoreError};
use crate::tree::key::{Content, InodeRecord, Key, Value};
use crate::version::error::{FsError, FsResult};

/// How often the writer hands edits to the kernel, and in how many rounds it makes them durable.
const ROUND: Duration = Duration::from_secs(1);
const ROUNDS_TO_SYNC: u32 = 5;
/// After so long, what is made, synced and removed is over.
const MOMENT: Duration = Duration::from_millis(10);
/// About so many bytes are handed to the kernel at a time.
const CHUNK: usize = 1 << 20;

impl Staging {
    /// fsync(2), fdatasync(2): the file's bytes and every edit so far are durable, and so is what the open version stands on. With `datasync`
    /// the times may be left out, if there is nothing else to write.
    pub fn fsync(&self, handle: Handle, datasync: bool) -> FsResult<()> {
        let slot = self.file_slot(handle)?;
        slot.cell.check()?;
        slot.cell.check_poison()?;
        self.sync_file(&slot.cell, datasync).inspect_err(|error| {
            slot.cell.poison();
            self.told(&format!("fsync of inode {}", slot.cell.ino), error);
        })
    }

    fn sync_file(&self, cell: &FileCell, datasync: bool) -> FsResult<()> {
        let (object, along, only_times) = {
            let mut state = self.lock();
            state.refresh(&self.cx, cell.ino)?;
            let record = state.record(cell.ino)?;
            let object = match record.content {
                Content::Object(object) if state.pending(cell.ino, object) == Some(Pending::File) => Some(object),
                Content::Extents => state.overlay(cell.ino),
                _ => None,
            };
            let journal = state.open.as_ref().filter(|_| !state.orphans.contains_key(&cell.ino)).map(|open| &open.journal);
            let along = object.filter(|object| journal.is_some_and(|journal| self.goes_along(journal, *object)));
            let taken = object.zip(journal).is_some_and(|(object, journal)| journal.queue.lock().has_taken(object));
            if let (Some(object), Some(journal), true) = (object, journal, along.is_some() || taken) {
                // Also what no look at its times has shown: a store through a mapping, a write within a tick of the host's clock.
                journal.queue_object(object, cell.ino, true);
            }
            let object = object.filter(|_| along.is_none());
            (object, along, datasync && object.is_some() && !taken && state.is_saved_but_for_times(cell.ino, &record)?)
        };
        if let Some(object) = object {
            self.cx.store.objects().sync(object)?;
        }
        if only_times {
            return Ok(());
        }
        self.save(Sync::Journal)?;
        // It may have grown meanwhile: then the journal leads to its file.
        let named = along.filter(|object| !self.cx.store.objects().is_unnamed(*object));
        named.map_or(Ok(()), |object| Ok(self.cx.store.objects().sync(object)?))
    }

    /// fsync(2) of a directory.
    pub fn fsync_dir(&self, _handle: Handle) -> FsResult<()> {
        self.save(Sync::Journal).inspect_err(|error| self.told("fsync of a directory", error))
    }

    /// Makes everything durable: for an orderly end.
    pub fn sync_all(&self) -> FsResult<()> {
        self.save(Sync::All).inspect_err(|error| self.failed(&format!("sync: {error}")))
    }

    /// Brings the journals up to date.
    pub(super) fn save(&self, sync: Sync) -> FsResult<()> {
        let (frozen, open, removed) = {
            let mut state = self.lock();
            state.refresh_all(&self.cx)?;
            state.publish()?;
            state.frozen.retain(|(journal, _)| !journal.is_committed());
            let frozen: Vec<_> = state.frozen.iter().map(|(journal, _)| Arc::clone(journal)).collect();
            let open = state.open.as_ref().map(|open| Arc::clone(&open.journal));
            let durable = frozen.iter().chain(&open).filter(|_| sync != Sync::Write);
            let removed: Vec<_> = durable.map(|journal| (Arc::clone(journal), journal.take_removed())).collect();
            (frozen, open, removed)
        };
        if let Err(error) = self.flush_all(frozen, open, sync) {
            // The journal may lead to them still: they wait for another sync.
            let over = removed.into_iter().flat_map(|(journal, objects)| journal.put_back_removed(objects));
            over.for_each(|object| self.cx.store.objects().discard(object));
            return Err(error);
        }
        removed.into_iter().flat_map(|(_, objects)| objects).for_each(|object| self.cx.store.objects().discard(object));
        Ok(())
    }

    fn flush_all(&self, frozen: Vec<Arc<VersionJournal>>, open: Option<Arc<VersionJournal>>, sync: Sync) -> FsResult<()> {
        for journal in frozen {
            // Of a frozen version everything: it will be sealed again as it was.
            let whole = if sync == Sync::Write { Sync::Write } else { Sync::All };
            if !self.flush_journal(&journal, whole)? {
                return Ok(());
            }
        }
        open.map_or(Ok(true), |journal| self.flush_journal(&journal, sync)).map(drop)
    }

    /// `false`: something is to be made first, which nobody waits for who only writes behind.
    fn flush_journal(&self, journal: &VersionJournal, sync: Sync) -> FsResult<bool> {
        loop {
            self.prepare_files(journal)?;
            if self.try_flush(journal, sync)? {
                return Ok(true);
            }
            if sync == Sync::Write {
                return Ok(false);
            }
            journal.make_copies(&self.cx.store)?;
        }
    }

    /// What the journal is to name must survive. Without its lock, since it may take a sync; before anything is taken from the queue: what a
    /// full disk refuses is tried again, and nothing is lost by it.
    fn prepare_files(&self, journal: &VersionJournal) -> FsResult<()> {
        if journal.is_committed() || journal.owes(&self.cx.store) {
            return Ok(());
        }
        let files: Vec<ObjectId> = journal.queue.lock().files.iter().copied().collect();
        let mut named = files.into_iter().filter(|object| !self.goes_along(journal, *object));
        Ok(named.try_for_each(|object| self.cx.store.objects().prepare_to_be_named(object))?)
    }

    fn try_flush(&self, journal: &VersionJournal, sync: Sync) -> FsResult<bool> {
        let mut file = journal.file.lock();
        if journal.is_committed() {
            return Ok(true);
        }
        if journal.owes(&self.cx.store) {
            return Ok(false);
        }
        if let Some(errno) = file.failed {
            return Err(StoreError::Poisoned { what: format!("journal of {}", journal.version), errno }.into());
        }
        if file.journal.is_none() {
            // The journal of a process before may be in the kernel's cache alone.
            if journal.queue.lock().has_nothing() && (sync == Sync::Write || journal.is_saved()) {
                return Ok(true);
            }
            // Before anything is taken from the queue: what a full disk refuses is tried again, and nothing is lost by it.
            file.journal = Some(self.cx.store.journal(journal.version)?);
        }
        let appended = self.append_to(&mut file, journal, sync);
        if let Err(error) = appended {
            // What was taken from the queue is in no journal: nothing later may be called durable.
            file.failed = Some(errno_of(&error));
            return Err(error);
        }
        let (true, Some(out)) = (appended?, &mut file.journal) else { return Ok(false) };
        match sync {
            // A full disk loses nothing: what was appended is written the next time.
            Sync::Write => out.write()?,
            Sync::Journal | Sync::All => {
                out.sync()?;
                journal.durable.store(file.appended, Ordering::Release);
            }
        }
        Ok(true)
    }

    /// `false`: something has come in between. It was a freeze, and what that queued waits for copies; or a host file that must be seen to.
    fn append_to(&self, file: &mut JournalFile, journal: &VersionJournal, sync: Sync) -> FsResult<bool> {
        let along = self.take_along(journal);
        let (batches, small, files, in_file, sealed, changes) = {
            let mut queue = journal.queue.lock();
            let ready = |object: &ObjectId| along.contains_key(object) || self.cx.store.objects().may_be_named(*object);
            // What was taken and is there again has changed since: it waits for the next flush, which is too late for a whole version.
            let changed = sync == Sync::All && queue.files.iter().any(|object| along.contains_key(object));
            if changed || queue.owes(&self.cx.store) || !queue.files.iter().all(ready) {
                queue.put_back(&along, ready);
                return Ok(false);
            }
            let in_file = queue.are_in_files(&self.cx.store);
            let files = if sync == Sync::All { std::mem::take(&mut queue.files) } else { BTreeSet::new() };
            // Until its host files are durable, a frozen version is not whole.
            let sealed = if sync == Sync::All || queue.files.is_empty() { queue.sealed.take() } else { None };
            // A seal that waits for its files keeps the journal from being all that was queued.
            let changes = if queue.sealed.is_none() { queue.changes } else { 0 };
            (std::mem::take(&mut queue.batches), std::mem::take(&mut queue.small), files, in_file, sealed, changes)
        };
        let Some(out) = &mut file.journal else { return Ok(true) };
        if !along.is_empty() {
            self.look_again();
        }
        // Bytes first: a torn tail may lose what names them, not the other way round.
        let mut most = CHUNK;
        let along = along.into_iter().map(|(object, bytes)| Ok(Some(whole(object, bytes))));
        for records in along.chain(small.into_iter().map(|(object, ino)| self.small_bytes(object, ino))) {
            if let Some(records) = records? {
                out.append(&records)?;
            }
            // Memory for all of them would have to be had from the kernel first. What a full disk refuses now is tried again at the end.
            if out.unwritten() > most && out.write().is_err() {
                most = usize::MAX;
            }
        }
        for object in files {
            self.sync_object(object)?;
        }
        // Before the edits that tell their lengths.
        for object in in_file {
            out.append(&[JournalRecord::InFile { object }])?;
        }
        for batch in batches {
            batch.append_to(out)?;
        }
        if let Some(message) = sealed {
            out.append(&[JournalRecord::Sealed { message }])?;
        }
        file.appended = changes;
        Ok(true)
    }

    /// A host file may have gone meanwhile, with the file whose it was.
    fn sync_object(&self, object: ObjectId) -> FsResult<()> {
        match self.cx.store.objects().sync(object) {
            Err(error) if self.cx.store.objects().open_file(object).is_ok_and(|file| file.is_some()) => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// The bytes of a small object that the journal lacks; `None` if it is gone.
    fn small_bytes(&self, object: ObjectId, ino: Ino) -> FsResult<Option<Vec<JournalRecord>>> {
        let cell = self.lock().files.get(&ino).map(|file| Arc::clone(&file.cell));
        if let Some(cell) = cell {
            let mut work = cell.work.write();
            if let Work::Memory(memory) = &mut *work
                && memory.object == object
            {
                let mut records = vec![JournalRecord::Truncate { object, len: memory.bytes.len() as u64 }];
                if let Some(range) = memory.unsaved.take() {
                    let offset = range.start as u64;
                    records.push(JournalRecord::Data { object, offset, bytes: memory.bytes.get(range).unwrap_or_default().to_vec() });
                }
                return Ok(Some(records));
            }
        }
        Ok(self.cx.store.objects().held(object).map(|bytes| whole(object, bytes.to_vec())))
    }

    /// One round of the writer, which it does by itself. A failure is told once, not every second; whether it fails comes back.
    pub fn write_behind(&self, sync: bool, failing: bool) -> bool {
        // Files that are only kept for the journal take room until it is durable.
        let removed = || self.lock().open.as_ref().is_some_and(|open| open.journal.has_removed());
        let kind = match (sync, sync || removed()) {
            (true, _) => Sync::All,
            (false, true) => Sync::Journal,
            (false, false) => Sync::Write,
        };
        let saved = self.save(kind);
        if let (Err(error), false) = (&saved, failing) {
            self.failed(&format!("the journal: {error}"));
        }
        if sync {
            if let Err(error) = self.cx.store.renew_reserve() {
                tracing::debug!(%error, "the room for a full disk is still missing");
            }
            // What was sealed meanwhile need not stay in memory.
            let mut state = self.lock();
            state.tree.settle();
            state.base_tree.settle();
        }
        saved.is_err()
    }

    /// What has failed for good was told when it failed: who asks again and again does not fill the log.
    fn told(&self, what: &str, error: &FsError) {
        if !matches!(error, FsError::Store(StoreError::Poisoned { .. }) | FsError::Poisoned) {
            self.failed(&format!("{what}: {error}"));
        }
    }

    pub(super) fn failed(&self, what: &str) {
        tracing::error!("{what}");
        self.lock().outbox.push(StagingEvent::Failed { what: what.to_owned() });
    }
}

impl super::state::State {
    /// Whether the journal of the open version has all edits on disk, nothing before it is still to be sealed, and the inode differs
    /// from what the journal leads to in its times alone.
    fn is_saved_but_for_times(&self, ino: Ino, record: &InodeRecord) -> FsResult<bool> {
        let saved =
            self.frozen.iter().all(|(journal, _)| journal.is_committed()) && self.open.as_ref().is_none_or(|open| open.journal.is_saved());
        if !saved {
            return Ok(false);
        }
        // Each edit of the tree is queued for the journal when it is made. What is known of an inode beyond that (`dirty`) is not.
        let Some(Value::Inode(known)) = self.tree_of(ino).get(&Key::inode(ino))? else { return Ok(false) };
        Ok(InodeRecord { mtime: known.mtime, ctime: known.ctime, ..record.clone() } == *known)
    }

    /// Looks at every file that is open in passthrough.
    pub(super) fn refresh_all(&mut self, cx: &super::Context) -> FsResult<()> {
        let through: Vec<Ino> = self.files.iter().filter(|(_, file)| file.backing.is_some()).map(|(ino, _)| *ino).collect();
        through.into_iter().try_for_each(|ino| self.refresh(cx, ino))
    }
}

/// All bytes of an object.
fn whole(object: ObjectId, bytes: Vec<u8>) -> Vec<JournalRecord> {
    vec![JournalRecord::Truncate { object, len: bytes.len() as u64 }, JournalRecord::Data { object, offset: 0, bytes }]
}

pub(super) fn errno_of(error: &FsError) -> i32 {
    match error {
        FsError::Store(error) => error.errno(),
        _ => libc::EIO,
    }
}

/// Starts the thread that writes behind, and looks again a moment after it was asked to. It ends when `asked` is disconnected or staging is
/// gone.
pub(super) fn start_writer(staging: &Arc<Staging>, asked: Receiver<()>) -> FsResult<()> {
    let clock = Arc::clone(&staging.cx.clock);
    let staging = Arc::downgrade(staging);
    let run = move || {
        let (mut round, mut failing, mut unsettled) = (0, false, false);
        let mut due = clock.instant() + ROUND;
        loop {
            let look = match asked.recv_timeout(due.saturating_duration_since(clock.instant())) {
                Ok(()) => true,
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if look {
                std::thread::sleep(MOMENT);
            }
            // Nobody waits for a thread that holds the last of it.
            let Some(staging) = staging.upgrade() else { break };
            if look {
                let settled = staging.settle_along();
                if let (Err(error), false) = (&settled, unsettled || failing) {
                    staging.told("the journal", error);
                }
                unsettled = settled.is_err();
            }
            if clock.instant() >= due {
                round = (round + 1) % ROUNDS_TO_SYNC;
                failing = staging.write_behind(round == 0, failing);
                due = clock.instant() + ROUND;
            }
        }
    };
    std::thread::Builder::new().name("journal".to_owned()).spawn(run).map_err(|error| FsError::host("start a thread", error))?;
    Ok(())
}
