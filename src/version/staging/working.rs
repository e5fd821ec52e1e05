//! The working content of open files: bytes in memory or in a host file, and how a file's bytes get there before its first write.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::RwLock;

use super::extents;
use super::state::{Edit, Pending, State};
use super::{Context, Staging};
use crate::ids::{Ino, ObjectId};
use crate::store::{HostFile, StoreError};
use crate::sys::open_files;
use crate::tree::Snapshot;
use crate::tree::key::{Content, InodeRecord};
use crate::version::error::{FsError, FsResult};

/// A regular file with handles.
#[derive(Debug)]
pub(super) struct FileCell {
    pub(super) ino: Ino,
    pub(super) work: RwLock<Work>,
    /// Its content went down with a version: every handle of it is void.
    stale: AtomicBool,
    /// An fsync of it failed: what should be durable may be lost.
    poisoned: AtomicBool,
    /// How many requests brought bytes.
    pieces: AtomicU32,
}

/// Where the bytes of an open file are.
#[derive(Debug)]
pub(super) enum Work {
    /// Where its record says.
    Stored,
    /// In memory.
    Memory(Memory),
    /// In a host file that may be written.
    Host(Host),
}

/// A small file while it is written.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) object: ObjectId,
    pub(super) bytes: Vec<u8>,
    /// What the journal does not have.
    pub(super) unsaved: Option<Range<usize>>,
}

/// A host file that takes what is written.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) object: ObjectId,
    pub(super) file: Arc<HostFile>,
    /// Whether it holds all of the file (`Content::Object`), or what was written over a base (`Content::Extents`).
    pub(super) whole: bool,
}

impl FileCell {
    pub(super) fn new(ino: Ino) -> Arc<Self> {
        let [stale, poisoned] = std::array::from_fn(|_| AtomicBool::new(false));
        Arc::new(Self { ino, work: RwLock::new(Work::Stored), stale, poisoned, pieces: AtomicU32::new(0) })
    }

    /// One more request brought bytes.
    pub(super) fn count_piece(&self) {
        self.pieces.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn pieces(&self) -> u32 {
        self.pieces.load(Ordering::Relaxed)
    }

    pub(super) fn check(&self) -> FsResult<()> {
        if self.stale.load(Ordering::Acquire) { Err(FsError::Stale) } else { Ok(()) }
    }

    pub(super) fn make_stale(&self) {
        self.stale.store(true, Ordering::Release);
    }

    pub(super) fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Acquire)
    }

    pub(super) fn poison(&self) {
        self.poisoned.store(true, Ordering::Release);
    }

    pub(super) fn check_poison(&self) -> FsResult<()> {
        if self.poisoned.load(Ordering::Acquire) { Err(FsError::Poisoned) } else { Ok(()) }
    }
}

impl Memory {
    /// Puts bytes; what lies between the end and them becomes zeros.
    pub(super) fn put(&mut self, offset: usize, data: &[u8]) {
        let end = offset + data.len();
        let from = offset.min(self.bytes.len());
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[offset..end].copy_from_slice(data);
        self.note(from..end);
    }

    pub(super) fn zero(&mut self, from: usize, to: usize) {
        let to = to.min(self.bytes.len());
        if from < to {
            self.bytes[from..to].fill(0);
            self.note(from..to);
        }
    }

    pub(super) fn truncate(&mut self, len: usize) {
        if len < self.bytes.len() {
            self.bytes.truncate(len);
            let unsaved = self.unsaved.take().unwrap_or(len..len);
            self.unsaved = Some(unsaved.start.min(len)..unsaved.end.min(len));
        }
    }

    fn note(&mut self, range: Range<usize>) {
        self.unsaved = Some(match self.unsaved.take() {
            Some(old) => old.start.min(range.start)..old.end.max(range.end),
            None => range,
        });
    }
}

/// What a copy-up changes in the record and the tree.
#[derive(Debug, Default)]
pub(super) struct CopyUp {
    pub(super) content: Option<Content>,
    pub(super) edits: Vec<Edit>,
}

impl CopyUp {
    fn to(object: ObjectId) -> Self {
        Self { content: Some(Content::Object(object)), edits: Vec::new() }
    }
}

impl Staging {
    /// Makes the file's bytes writable up to `end`: in memory while they are few, else in a host file; constant time for
    /// a large file of a sealed version. Of the old bytes the first `record.size` count.
    pub(super) fn prepare(&self, ino: Ino, work: &mut Work, record: &InodeRecord, end: u64) -> FsResult<CopyUp> {
        match work {
            Work::Host(_) => return Ok(CopyUp::default()),
            Work::Memory(_) if end <= self.cx.options.small_file => return Ok(CopyUp::default()),
            // It grew past the limit.
            Work::Memory(memory) => {
                let old = memory.object;
                let bytes = std::mem::take(&mut memory.bytes);
                let (host, up) = match self.to_host(ino, &bytes, record.size) {
                    Ok(done) => done,
                    Err(error) => {
                        memory.bytes = bytes;
                        return Err(error);
                    }
                };
                *work = Work::Host(host);
                self.lock().drop_object(&self.cx, ino, old);
                return Ok(up);
            }
            Work::Stored => {}
        }
        self.copy_up(ino, work, record, end)
    }

    fn copy_up(&self, ino: Ino, work: &mut Work, record: &InodeRecord, end: u64) -> FsResult<CopyUp> {
        let (pending, overlay, snapshot) = {
            let state = self.lock();
            let pending = match record.content {
                Content::Object(object) => state.pending(ino, object).map(|pending| (object, pending)),
                _ => None,
            };
            (pending, state.overlay(ino), self.snapshot_of(&state, ino))
        };
        let held = data_len(&snapshot, record)?;
        let small = self.cx.options.small_file;
        if held.max(end) <= small && (pending.is_some() || self.cx.memory_left()) {
            return self.to_memory(ino, work, record, held, pending.map(|(object, _)| object), &snapshot);
        }
        if held <= small {
            let bytes = snapshot.read_record(ino, record, 0, usize::try_from(held).unwrap_or(usize::MAX))?;
            let (host, mut up) = self.to_host(ino, &bytes, record.size)?;
            *work = Work::Host(host);
            let mut state = self.lock();
            if let Some((old, _)) = pending {
                state.drop_object(&self.cx, ino, old);
            }
            up.edits = state.drop_extents(&self.cx, ino)?;
            return Ok(up);
        }
        if let Content::Object(from) = record.content {
            let object = self.cx.store.ids().object();
            if held == record.size
                && let Some(file) = self.cx.store.objects().clone_named(from, object, held)?
            {
                self.lock().set_pending(ino, object, Pending::File);
                *work = Work::Host(Host { object, file, whole: true });
                return Ok(CopyUp::to(object));
            }
        }
        self.overlay_on(ino, work, record, held, overlay)
    }

    fn to_memory(
        &self,
        ino: Ino,
        work: &mut Work,
        record: &InodeRecord,
        held: u64,
        object: Option<ObjectId>,
        snapshot: &Snapshot,
    ) -> FsResult<CopyUp> {
        let bytes = snapshot.read_record(ino, record, 0, usize::try_from(held).unwrap_or(usize::MAX))?;
        let mut state = self.lock();
        let edits = state.drop_extents(&self.cx, ino)?;
        // A new object: the journal knows none of its bytes.
        let unsaved = object.is_none().then_some(0..bytes.len());
        let object = object.unwrap_or_else(|| self.cx.store.ids().object());
        if state.pending(ino, object).is_none() {
            state.set_pending(ino, object, Pending::Held(0));
        }
        *work = Work::Memory(Memory { object, bytes, unsaved });
        Ok(CopyUp { content: Some(Content::Object(object)), edits })
    }

    /// A new host file that begins with `bytes`. Its length is the file's from now on, also for the kernel and after a crash.
    fn to_host(&self, ino: Ino, bytes: &[u8], size: u64) -> FsResult<(Host, CopyUp)> {
        let object = self.cx.store.ids().object();
        let file = self.create_for_writer(object)?;
        if let Err(error) = file.write_all_at(bytes, 0).and_then(|()| file.set_len(size)) {
            self.cx.store.objects().discard(object);
            return Err(FsError::host("write a new object", error));
        }
        self.lock().set_pending(ino, object, Pending::File);
        Ok((Host { object, file, whole: true }, CopyUp::to(object)))
    }

    fn overlay_on(&self, ino: Ino, work: &mut Work, record: &InodeRecord, held: u64, overlay: Option<ObjectId>) -> FsResult<CopyUp> {
        let (object, file) = match overlay {
            Some(object) => (object, self.host_file(object)?),
            None => {
                let object = self.cx.store.ids().object();
                (object, self.create_for_writer(object)?)
            }
        };
        let mut state = self.lock();
        if overlay.is_none() {
            state.set_pending(ino, object, Pending::File);
            state.set_overlay(ino, Some(object));
        }
        *work = Work::Host(Host { object, file, whole: false });
        drop(state);
        Ok(as_extents(ino, record, held))
    }

    /// A new host file for one who holds it open as long as they like: not one of the last that this process may have.
    fn create_for_writer(&self, object: ObjectId) -> FsResult<Arc<HostFile>> {
        let file = self.cx.store.objects().create(object)?;
        if let Err(error) = keep_reserve(&file) {
            self.cx.store.objects().discard(object);
            return Err(error);
        }
        Ok(file)
    }

    /// The host file of a pending object, open for writing.
    pub(super) fn host_file(&self, object: ObjectId) -> FsResult<Arc<HostFile>> {
        let gone = || StoreError::Damaged { what: format!("object {object} has lost its file") };
        let objects = self.cx.store.objects();
        match objects.step_forward(object)? {
            Some(file) => Ok(file),
            None => Ok(objects.open_file(object)?.ok_or_else(gone)?),
        }
    }

    /// Gives the bytes of a small file that nobody writes any more to the store.
    pub(super) fn settle_memory(&self, cell: &FileCell) {
        let mut work = cell.work.write();
        if let Work::Memory(memory) = &mut *work {
            let bytes: Arc<[u8]> = std::mem::take(&mut memory.bytes).into();
            let object = memory.object;
            self.lock().hold(&self.cx, cell.ino, object, bytes);
            *work = Work::Stored;
        }
    }
}

/// The same content as extents, if it is one object.
pub(super) fn as_extents(ino: Ino, record: &InodeRecord, held: u64) -> CopyUp {
    match record.content {
        Content::Object(from) => CopyUp { content: Some(Content::Extents), edits: extents::single(ino, held, from).into_iter().collect() },
        Content::None => CopyUp { content: Some(Content::Extents), edits: Vec::new() },
        Content::Extents | Content::Inline(_) => CopyUp::default(),
    }
}

/// How many of the file's first bytes are anywhere; a hole follows.
pub(super) fn data_len(snapshot: &Snapshot, record: &InodeRecord) -> FsResult<u64> {
    Ok(match &record.content {
        Content::None => 0,
        Content::Inline(bytes) => (bytes.len() as u64).min(record.size),
        Content::Object(object) => snapshot.store.objects().len(*object)?.min(record.size),
        Content::Extents => record.size,
    })
}

impl Context {
    /// Bytes that go to memory need room on the disk later: what would not fit is refused now, as a disk would. The disk is asked at
    /// most every 50 ms, or when an eighth of what it had is used up.
    pub(super) fn room_for(&self, len: usize) -> FsResult<()> {
        const LASTS: Duration = Duration::from_millis(50);
        let (len, now) = (len as u64, self.clock.instant());
        let mut credit = self.credit.lock();
        if let (Some(left), true) = (credit.0.checked_sub(len), now < credit.1) {
            credit.0 = left;
            return Ok(());
        }
        drop(credit);
        let figures = self.store.filesystem()?;
        let free = figures.blocks_available().saturating_mul(figures.fragment_size());
        let promised = self.memory.load(Ordering::Relaxed) + self.store.reserve_missing();
        let left = free.saturating_sub(promised);
        if left < len {
            return Err(FsError::host("write a file", nix::errno::Errno::ENOSPC));
        }
        *self.credit.lock() = (left / 8, now + LASTS);
        Ok(())
    }

    pub(super) fn memory_left(&self) -> bool {
        self.memory.load(Ordering::Relaxed) < self.options.memory
    }
}

impl State {
    /// Bytes of a small object become readable under its name.
    pub(super) fn hold(&mut self, cx: &Context, ino: Ino, object: ObjectId, bytes: Arc<[u8]>) {
        let len = bytes.len() as u64;
        cx.store.objects().hold(object, bytes);
        if let Some(Pending::Held(old)) = self.pending(ino, object) {
            cx.memory.fetch_sub(old, Ordering::Relaxed);
        }
        cx.memory.fetch_add(len, Ordering::Relaxed);
        self.set_pending(ino, object, Pending::Held(len));
    }

    /// Forgets an unsealed object that nothing names any more. Sealed ones stay as they are.
    pub(super) fn drop_object(&mut self, cx: &Context, ino: Ino, object: ObjectId) {
        let Some(pending) = self.take_pending(ino, object) else { return };
        // First: from then on the journal does not come to lead to it.
        if let Some(open) = &self.open {
            open.journal.forget_object(object);
        }
        self.let_object_go(cx, object, pending);
    }

    /// Removes the bytes of an unsealed object that no edit leads to from here on. A file that has a name may have been promised to last: it
    /// stays until it is on disk that nothing leads to it, or a crash would bring its entry back without it.
    pub(super) fn let_object_go(&self, cx: &Context, object: ObjectId, pending: Pending) {
        let journal = self.open.as_ref().map(|open| &open.journal).or_else(|| self.frozen.last().map(|(journal, _)| journal));
        let stays = matches!(pending, Pending::File) && !cx.store.objects().is_unnamed(object);
        if !(stays && journal.is_some_and(|journal| journal.queue_removed(object))) {
            cx.discard(object, pending);
        }
    }

    /// Edits that take all extents of a file away, and its overlay with them.
    pub(super) fn drop_extents(&mut self, cx: &Context, ino: Ino) -> FsResult<Vec<Edit>> {
        if let Some(object) = self.overlay(ino) {
            self.drop_object(cx, ino, object);
            self.set_overlay(ino, None);
        }
        extents::all(self.tree_of(ino), ino)
    }
}

impl Context {
    /// Removes an unsealed object's bytes.
    pub(super) fn discard(&self, object: ObjectId, pending: Pending) {
        match pending {
            Pending::Held(len) => {
                self.memory.fetch_sub(len, Ordering::Relaxed);
                self.store.objects().unhold(object);
            }
            Pending::File => self.store.objects().discard(object),
        }
    }
}

/// Refuses a file that would be one of the last that this process may have open.
pub(super) fn keep_reserve(file: &HostFile) -> FsResult<()> {
    open_files::keep_reserve(file.host()).map_err(|errno| FsError::host("open one more file for a writer", errno))
}
