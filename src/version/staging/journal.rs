//! What makes the open version survive: its journal, fsync, and the thread that writes behind.
//!
//! Every edit of the tree is queued for its version's journal when it is made; nothing is encoded or written before fsync or the
//! writer's round asks for it. Bytes of small files are taken along then. A version is sealed from memory, so most are over before
//! any of this costs anything.
//!
//! A journal ends with `Sealed` once its version was frozen and everything that belongs to it is in the journal or in durable host
//! files. What stands on a frozen version must not be in a journal before that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError};
use parking_lot::Mutex;

use super::Staging;
use super::state::Edit;
use super::types::{Handle, StagingEvent};
use super::working::{FileCell, Work};
use crate::clock::Timestamp;
use crate::ids::{Ino, ObjectId, VersionId};
use crate::store::record::Writer;
use crate::store::{Journal, JournalRecord, Store, StoreError, codec};
use crate::tree::key::Content;
use crate::version::error::{FsError, FsResult};

/// How often the writer hands edits to the kernel, and in how many rounds it makes them durable.
const ROUND: Duration = Duration::from_secs(1);
const ROUNDS_TO_SYNC: u32 = 5;

/// So many bytes of edits are one batch; a batch has room for three times as much. (In tests next to nothing.)
const AT_ONCE: usize = if cfg!(test) { 1 << 10 } else { 16 << 20 };

/// The journal of a version, and what it still has to get.
#[derive(Debug)]
pub(in crate::version) struct VersionJournal {
    version: VersionId,
    queue: Mutex<Queue>,
    file: Mutex<JournalFile>,
    committed: AtomicBool,
}

#[derive(Debug, Default)]
struct Queue {
    batches: Vec<Batch>,
    /// Small objects with bytes that the journal does not have.
    small: BTreeMap<ObjectId, Ino>,
    /// Host files with bytes that may not be durable.
    files: BTreeSet<ObjectId>,
    /// Host files that no edit leads to any more, and those of the flush before. The journal on disk still does, until it says otherwise.
    removed: Vec<ObjectId>,
    removed_before: Vec<ObjectId>,
    /// The version was frozen, with this message.
    sealed: Option<Option<String>>,
    /// Objects that are copies of what was open in passthrough. Nothing of the journal is written before they are made: what it says
    /// of these files so far leads to the originals.
    copies: Vec<ObjectId>,
}

#[derive(Debug)]
enum Batch {
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
struct JournalFile {
    journal: Option<Journal>,
    /// The errno of a write or sync that failed: the journal is of no use any more.
    failed: Option<i32>,
}

/// Which host files a flush makes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sync {
    /// None, and the journal is only handed to the kernel.
    Write,
    /// The journal, and no other file.
    Journal,
    /// The journal and all host files.
    All,
}

impl Queue {
    fn owes(&self, store: &Store) -> bool {
        self.copies.iter().any(|copy| store.objects().owes_copy(*copy))
    }

    /// Whether a flush would find nothing to do.
    fn has_nothing(&self, sync: Sync) -> bool {
        let files = sync != Sync::All || self.files.is_empty();
        self.batches.is_empty() && self.small.is_empty() && files && self.sealed.is_none()
    }
}

impl VersionJournal {
    pub(super) fn new(version: VersionId, parent: VersionId, opened_at: Timestamp) -> Arc<Self> {
        let journal = Self::resumed(version);
        journal.queue.lock().batches.push(Batch::Base { parent, opened_at });
        journal
    }

    /// For a version whose journal is there already.
    pub(super) fn resumed(version: VersionId) -> Arc<Self> {
        Arc::new(Self { version, queue: Mutex::default(), file: Mutex::default(), committed: AtomicBool::new(false) })
    }

    pub(super) fn queue_writer(&self, writer: Writer) {
        self.queue.lock().batches.push(Batch::Writer(writer));
    }

    pub(super) fn queue_edits(&self, edits: Vec<Edit>) {
        self.queue.lock().batches.push(Batch::Edits(edits));
    }

    pub(super) fn queue_rebase(&self, parent: VersionId, opened_at: Timestamp, edits: Vec<Edit>) {
        self.queue.lock().batches.push(Batch::Rebase { parent, opened_at, edits });
    }

    pub(super) fn queue_object(&self, object: ObjectId, ino: Ino, file: bool) {
        let mut queue = self.queue.lock();
        if file {
            queue.files.insert(object);
        } else {
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

    fn has_removed(&self) -> bool {
        let queue = self.queue.lock();
        !queue.removed.is_empty() || !queue.removed_before.is_empty()
    }

    /// What can go once a sync that begins now has succeeded: what was queued before the last one. The edit that goes with it may still have
    /// been on its way then, and is not now.
    fn take_removed(&self) -> Vec<ObjectId> {
        let mut queue = self.queue.lock();
        let fresh = std::mem::take(&mut queue.removed);
        std::mem::replace(&mut queue.removed_before, fresh)
    }

    pub(super) fn forget_object(&self, object: ObjectId) {
        let mut queue = self.queue.lock();
        queue.small.remove(&object);
        queue.files.remove(&object);
    }

    /// The edits to come name a copy that is still to be made.
    pub(super) fn owe(&self, copy: ObjectId) {
        self.queue.lock().copies.push(copy);
    }

    fn owes(&self, store: &Store) -> bool {
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
        self.queue.lock().sealed = Some(message);
    }

    /// The message that the seal will have.
    pub(in crate::version) fn set_message(&self, message: Option<String>) {
        if let Some(sealed) = &mut self.queue.lock().sealed {
            *sealed = message;
        }
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

    /// The same for one that was given up, whose files are to go: when this returns the journal does not come back.
    pub(in crate::version) fn give_up(&self, store: &Store) -> Result<(), StoreError> {
        let removed = self.end(store)?;
        store.sync_journals()?;
        removed.into_iter().for_each(|object| store.objects().discard(object));
        Ok(())
    }
}

impl Staging {
    /// fsync(2), fdatasync(2): the file's bytes and every edit so far are durable, and so is what the open version stands on.
    pub fn fsync(&self, handle: Handle, _datasync: bool) -> FsResult<()> {
        let slot = self.file_slot(handle)?;
        slot.cell.check()?;
        slot.cell.check_poison()?;
        self.sync_file(&slot.cell).inspect_err(|error| {
            slot.cell.poison();
            self.told(&format!("fsync of inode {}: {error}", slot.cell.ino), error);
        })
    }

    fn sync_file(&self, cell: &FileCell) -> FsResult<()> {
        let object = {
            let mut state = self.lock();
            state.refresh(&self.cx, cell.ino)?;
            match state.record(cell.ino)?.content {
                Content::Object(object) if state.pending(cell.ino, object) == Some(super::state::Pending::File) => Some(object),
                Content::Extents => state.overlay(cell.ino),
                _ => None,
            }
        };
        if let Some(object) = object {
            self.cx.store.objects().sync(object)?;
        }
        self.save(Sync::Journal)
    }

    /// fsync(2) of a directory.
    pub fn fsync_dir(&self, _handle: Handle) -> FsResult<()> {
        self.save(Sync::Journal).inspect_err(|error| self.told(&format!("fsync of a directory: {error}"), error))
    }

    /// Makes everything durable: for an orderly end.
    pub fn sync_all(&self) -> FsResult<()> {
        self.save(Sync::All).inspect_err(|error| self.failed(&format!("sync: {error}")))
    }

    /// Brings the journals up to date.
    fn save(&self, sync: Sync) -> FsResult<()> {
        let (frozen, open, removed) = {
            let mut state = self.lock();
            state.refresh_all(&self.cx)?;
            state.publish()?;
            state.frozen.retain(|(journal, _)| !journal.is_committed());
            let frozen: Vec<_> = state.frozen.iter().map(|(journal, _)| Arc::clone(journal)).collect();
            let open = state.open.as_ref().map(|open| Arc::clone(&open.journal));
            let durable = frozen.iter().chain(&open).filter(|_| sync != Sync::Write);
            let removed: Vec<ObjectId> = durable.flat_map(|journal| journal.take_removed()).collect();
            (frozen, open, removed)
        };
        // After a failure they stay where they are: the journal may lead to them.
        self.flush_all(frozen, open, sync)?;
        removed.into_iter().for_each(|object| self.cx.store.objects().discard(object));
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

    /// `false`: copies are to be made first, which nobody waits for who only writes behind.
    fn flush_journal(&self, journal: &VersionJournal, sync: Sync) -> FsResult<bool> {
        while !self.try_flush(journal, sync)? {
            if sync == Sync::Write {
                return Ok(false);
            }
            journal.make_copies(&self.cx.store)?;
        }
        Ok(true)
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
            if journal.queue.lock().has_nothing(sync) {
                return Ok(true);
            }
            // Before anything is taken from the queue: what a full disk refuses is tried again, and nothing is lost by it.
            file.journal = Some(self.cx.store.journal(journal.version)?);
        }
        // Likewise: what the journal names must survive the process.
        let files: Vec<ObjectId> = journal.queue.lock().files.iter().copied().collect();
        files.into_iter().try_for_each(|object| self.cx.store.objects().name(object))?;
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
            Sync::Journal | Sync::All => out.sync()?,
        }
        Ok(true)
    }

    /// `false`: a freeze has come in between, and what it queued waits for copies.
    fn append_to(&self, file: &mut JournalFile, journal: &VersionJournal, sync: Sync) -> FsResult<bool> {
        let (batches, small, files, sealed) = {
            let mut queue = journal.queue.lock();
            if queue.owes(&self.cx.store) {
                return Ok(false);
            }
            let files = if sync == Sync::All { std::mem::take(&mut queue.files) } else { BTreeSet::new() };
            // Until its host files are durable, a frozen version is not whole.
            let sealed = if sync == Sync::All || queue.files.is_empty() { queue.sealed.take() } else { None };
            (std::mem::take(&mut queue.batches), std::mem::take(&mut queue.small), files, sealed)
        };
        let Some(out) = &mut file.journal else { return Ok(true) };
        // Bytes first: a torn tail may lose what names them, not the other way round.
        for (object, ino) in small {
            if let Some(records) = self.small_bytes(object, ino)? {
                out.append(&records)?;
            }
        }
        for object in files {
            self.sync_object(object)?;
        }
        for batch in batches {
            batch.append_to(out)?;
        }
        if let Some(message) = sealed {
            out.append(&[JournalRecord::Sealed { message }])?;
        }
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
        let Some(bytes) = self.cx.store.objects().held(object) else { return Ok(None) };
        Ok(Some(vec![
            JournalRecord::Truncate { object, len: bytes.len() as u64 },
            JournalRecord::Data { object, offset: 0, bytes: bytes.to_vec() },
        ]))
    }

    /// One round of the writer. A failure is told once, not every second; whether it fails comes back.
    fn write_behind(&self, sync: bool, failing: bool) -> bool {
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
            self.failed(what);
        }
    }

    pub(super) fn failed(&self, what: &str) {
        tracing::error!("{what}");
        self.lock().outbox.push(StagingEvent::Failed { what: what.to_owned() });
    }
}

impl super::state::State {
    /// Looks at every file that is open in passthrough.
    pub(super) fn refresh_all(&mut self, cx: &super::Context) -> FsResult<()> {
        let through: Vec<Ino> = self.files.iter().filter(|(_, file)| file.backing.is_some()).map(|(ino, _)| *ino).collect();
        through.into_iter().try_for_each(|ino| self.refresh(cx, ino))
    }
}

impl Batch {
    fn append_to(self, out: &mut Journal) -> Result<(), StoreError> {
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

fn errno_of(error: &FsError) -> i32 {
    match error {
        FsError::Store(error) => error.errno(),
        _ => libc::EIO,
    }
}

/// Starts the thread that writes behind. It ends when `stopped` is disconnected or staging is gone.
pub(super) fn start_writer(staging: &Arc<Staging>, stopped: Receiver<()>) -> FsResult<()> {
    let staging = Arc::downgrade(staging);
    let run = move || {
        let (mut round, mut failing) = (0, false);
        while stopped.recv_timeout(ROUND) == Err(RecvTimeoutError::Timeout) {
            round = (round + 1) % ROUNDS_TO_SYNC;
            // Nobody waits for a thread that holds the last of it.
            let Some(staging) = staging.upgrade() else { break };
            failing = staging.write_behind(round == 0, failing);
        }
    };
    std::thread::Builder::new().name("journal".to_owned()).spawn(run).map_err(|error| FsError::host("start a thread", error))?;
    Ok(())
}
