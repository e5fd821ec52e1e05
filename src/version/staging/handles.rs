//! Open files: who has what open, and how the kernel must treat it.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use super::clone::{First, WriterClone};
use super::privileges::CAPABILITY;
use super::state::{Pending, State};
use super::types::{Caller, Handle, NodeRef, OpenMode, Opened};
use super::working::{FileCell, keep_reserve};
use super::{Context, Staging};
use crate::clock::Timestamp;
use crate::ids::{Ino, ObjectId};
use crate::store::HostFile;
use crate::tree::Tree;
use crate::tree::key::{Content, FileKind, InodeRecord, Key};
use crate::version::error::{FsError, FsResult};

/// What a handle leads to.
#[derive(Debug)]
pub(super) enum Slot {
    File(FileSlot),
    /// With the state that is being listed: that of when the listing began.
    Dir {
        ino: Ino,
        tree: Option<Tree>,
    },
}

/// A handle of a regular file.
#[derive(Clone, Debug)]
pub(super) struct FileSlot {
    pub(super) cell: Arc<FileCell>,
    pub(super) read: bool,
    pub(super) write: bool,
    pub(super) append: bool,
    pub(super) how: How,
    /// Every write is to be durable, and the kernel does not ask for it: `true` if its bytes and length are enough (`O_DSYNC`).
    pub(super) durable: Option<bool>,
    /// Who made the file with this handle.
    pub(super) maker: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    Cached,
    Direct,
    Passthrough,
}

/// A regular file that is in use.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) cell: Arc<FileCell>,
    /// Handles, and operations under way that have none.
    pub(super) handles: u32,
    pub(super) writers: u32,
    /// Those that are not in passthrough, and of these the ones past the page cache.
    pub(super) cached: u32,
    pub(super) direct: u32,
    /// Who opened it for writing last: passthrough writes tell nothing.
    writer: Caller,
    /// The host file that the kernel uses itself.
    pub(super) backing: Option<Backing>,
}

/// A host file that is open in passthrough.
#[derive(Clone, Debug)]
pub(super) struct Backing {
    pub(super) object: ObjectId,
    pub(super) file: Arc<HostFile>,
    /// Whether we have it open for reading only, because nobody has it open for writing but a mapping, if that (`mapped`).
    pub(super) reading: bool,
    pub(super) handles: u32,
    /// The copy of it that the last frozen version has, if nobody was writing then: nobody may before it is made.
    copy: Option<ObjectId>,
    /// What its attributes were when they were last looked at.
    pub(super) seen: Seen,
}

/// The attributes that a write changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) size: u64,
    mtime: Timestamp,
}

impl Seen {
    pub(super) fn of(file: &HostFile) -> FsResult<Self> {
        let meta = file.metadata().map_err(|error| FsError::host("stat an object", error))?;
        let nanos = u32::try_from(meta.mtime_nsec()).unwrap_or(0);
        Ok(Self { size: meta.len(), mtime: Timestamp { secs: meta.mtime(), nanos } })
    }
}

/// Keeps a file in use while an operation without a handle works on it.
pub(super) struct InUse<'a> {
    staging: &'a Staging,
    pub(super) cell: Arc<FileCell>,
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        let _only_handles_leave_something = self.staging.let_go(self.cell.ino, None);
    }
}

const ACCESS_MODE: i32 = libc::O_ACCMODE;

/// Whether every write is to be durable (`O_SYNC` has the bit of `O_DSYNC`, too). In passthrough the kernel would see to the bytes in the host
/// file, and not to what leads to them, so these writes come here. Through the page cache it sends an fsync after each.
const fn is_synchronous(flags: i32) -> bool {
    flags & ACCESS_MODE != libc::O_RDONLY && flags & libc::O_DSYNC != 0
}

impl Staging {
    /// Opens a regular file; `flags` are open(2)'s.
    pub fn open(&self, caller: &Caller, node: NodeRef, flags: i32) -> FsResult<Opened> {
        let mut clone = None;
        let opened = loop {
            match self.try_open(caller, node, flags, &mut clone) {
                Ok(Err(First::Copy(copy))) => match self.cx.store.objects().make_copy(copy) {
                    Ok(()) => {}
                    Err(error) => break Err(error.into()),
                },
                Ok(Err(First::Clone { of, len })) => clone = Some(self.clone_for_writer(of, len)),
                Ok(Ok(opened)) => break Ok(opened),
                Err(error) => break Err(error),
            }
        };
        if let Some(clone) = &mut clone {
            self.drop_clone(clone);
        }
        opened
    }

    /// Whether a copy must be made before anybody may change the file: `open` for writing and `set_attr` of the length wait for it.
    #[must_use]
    pub fn waits_for_copy(&self, node: NodeRef) -> bool {
        self.copy_first(&self.lock(), node.ino).is_some()
    }

    /// Whether a copy or a clone must be made before the file can be opened for writing.
    #[must_use]
    pub fn writer_waits(&self, node: NodeRef) -> bool {
        let state = self.lock();
        self.copy_first(&state, node.ino).is_some() || self.clone_first(&state, node.ino).is_ok_and(|first| first.is_some())
    }

    pub(super) fn copy_first(&self, state: &State, ino: Ino) -> Option<ObjectId> {
        let copy = state.files.get(&ino)?.backing.as_ref()?.copy?;
        self.cx.store.objects().owes_copy(copy).then_some(copy)
    }

    /// `Err`: this is to be made first.
    fn try_open(&self, caller: &Caller, node: NodeRef, flags: i32, clone: &mut Option<WriterClone>) -> FsResult<Result<Opened, First>> {
        let _gate = self.gate.read();
        let mut state = self.lock();
        let ino = state.ino(node)?;
        match state.record(ino)?.kind {
            FileKind::Regular => {}
            FileKind::Directory => return Err(FsError::IsDirectory),
            _ => return Err(FsError::Invalid),
        }
        let writes = flags & ACCESS_MODE != libc::O_RDONLY;
        if let Some(copy) = self.copy_first(&state, ino).filter(|_| writes) {
            return Ok(Err(First::Copy(copy)));
        }
        let opened = match clone {
            Some(clone) => self.open_clone(&mut state, caller, ino, flags, clone)?,
            None => {
                // What is cut to nothing needs no clone. (From a mount that comes as a change of the length of its own, after the open.)
                if let (true, Some(first)) = (writes && flags & libc::O_TRUNC == 0, self.clone_first(&state, ino)?) {
                    return Ok(Err(first));
                }
                self.open_in(&mut state, caller, ino, flags)?
            }
        };
        drop(state);
        if flags & libc::O_TRUNC != 0 && flags & ACCESS_MODE != libc::O_RDONLY {
            let cell = self.file_slot(opened.handle)?.cell;
            if let Err(error) = self.truncate(caller, &cell, 0, true) {
                self.close(opened.handle);
                return Err(error);
            }
        }
        Ok(Ok(opened))
    }

    /// Opens a file that the caller has just made.
    pub(super) fn open_new(&self, state: &mut State, caller: &Caller, ino: Ino, flags: i32) -> FsResult<Opened> {
        // Who is going to read as well, or to map, is better off with pages.
        let plain = flags & ACCESS_MODE == libc::O_WRONLY && !is_synchronous(flags);
        let opened = match plain && self.habits.expect_small(caller.pid) {
            true => self.open_as(state, caller, ino, flags, OpenMode::Direct),
            false => self.open_in(state, caller, ino, flags)?,
        };
        if let Some(Slot::File(slot)) = state.handles.get_mut(&opened.handle) {
            slot.maker = Some(caller.pid);
        }
        Ok(opened)
    }

    /// Opens a file that is there.
    pub(super) fn open_in(&self, state: &mut State, caller: &Caller, ino: Ino, flags: i32) -> FsResult<Opened> {
        let record = state.record(ino)?;
        let write = flags & ACCESS_MODE != libc::O_RDONLY;
        let fresh = !state.files.contains_key(&ino) && record.content == Content::None;
        let mut mode = self.choose_mode(state, ino, &record, write)?;
        let beside_direct = state.files.get(&ino).is_some_and(|file| file.direct > 0);
        match &mut mode {
            // Kernels before 6.19 (and stable ones without "fuse: Invalidate the page cache after FOPEN_DIRECT_IO write") can keep a page from
            // before a write that goes past them.
            OpenMode::Cached { keep } if beside_direct => {
                *keep = false;
                state.pages_old.insert(ino)
            }
            OpenMode::Cached { .. } | OpenMode::Direct => state.pages_old.remove(&ino),
            // What has no bytes has no pages either.
            // What comes here all the same may leave some (sendfile).
            OpenMode::Passthrough(_) => (!fresh || is_synchronous(flags)) && state.pages_old.insert(ino),
        };
        Ok(self.open_as(state, caller, ino, flags, mode))
    }

    fn open_as(&self, state: &mut State, caller: &Caller, ino: Ino, flags: i32, mode: OpenMode) -> Opened {
        let write = flags & ACCESS_MODE != libc::O_RDONLY;
        let read = flags & ACCESS_MODE != libc::O_WRONLY;
        let how = match &mode {
            OpenMode::Cached { .. } => How::Cached,
            OpenMode::Direct => How::Direct,
            OpenMode::Passthrough(_) => How::Passthrough,
        };
        let file = state.files.entry(ino).or_insert_with(|| OpenFile::new(ino));
        file.handles += 1;
        file.cached += u32::from(how != How::Passthrough);
        file.direct += u32::from(how == How::Direct);
        if let (How::Passthrough, Some(backing)) = (how, &mut file.backing) {
            backing.handles += 1;
        }
        if write {
            file.writers += 1;
            file.writer = *caller;
        }
        let cell = Arc::clone(&file.cell);
        let synchronous = how == How::Passthrough && is_synchronous(flags);
        let durable = synchronous.then_some(flags & libc::O_SYNC != libc::O_SYNC);
        let slot = FileSlot { cell, read, write, append: flags & libc::O_APPEND != 0, how, durable, maker: None };
        state.writers += u64::from(write);
        Opened { handle: state.add_handle(Slot::File(slot)), mode, synchronous }
    }

    /// An inode must never be open in passthrough and in another way at once, nor on two host files: the kernel answers EIO. Files whose
    /// set-id bits or capabilities a write must drop do not go to passthrough; where they are there already, the kernel asks for those to go.
    fn choose_mode(&self, state: &mut State, ino: Ino, record: &InodeRecord, write: bool) -> FsResult<OpenMode> {
        let privileged = write && Self::is_privileged(state, ino, record)?;
        let (cached, backing) = state.files.get(&ino).map_or((0, None), |file| (file.cached, file.backing.as_ref()));
        if let Some(backing) = backing {
            let file = if write { self.step_forward(state, ino)? } else { Arc::clone(&backing.file) };
            return Ok(OpenMode::Passthrough(file));
        }
        let own = match record.content {
            Content::Object(object) => (state.pending(ino, object) == Some(Pending::File)).then_some(object),
            _ => None,
        };
        let possible = self.cx.options.passthrough && cached == 0 && !privileged;
        let Some(object) = own.filter(|_| possible) else {
            if possible
                && write
                && let Some(file) = self.scratch(state, ino, record)?
            {
                return Ok(OpenMode::Passthrough(file));
            }
            return Ok(OpenMode::Cached { keep: !state.pages_old.contains(&ino) });
        };
        let file = self.host_file(object)?;
        if keep_reserve(&file).is_err() {
            // Through the daemon it needs no descriptor of its own.
            return Ok(OpenMode::Cached { keep: !state.pages_old.contains(&ino) });
        }
        if record.size > Seen::of(&file)?.size {
            // From now on the host file's size is the file's.
            file.set_len(record.size).map_err(|error| FsError::host("lengthen an object", error))?;
        }
        state.back(ino, object, &file)?;
        Ok(OpenMode::Passthrough(file))
    }

    /// Whether the file has what a write must drop.
    pub(super) fn is_privileged(state: &State, ino: Ino, record: &InodeRecord) -> FsResult<bool> {
        Ok(record.perm & 0o6000 != 0 || state.tree_of(ino).get(&Key::xattr(ino, CAPABILITY))?.is_some())
    }

    /// The regular file behind a handle.
    pub(super) fn file_slot(&self, handle: Handle) -> FsResult<FileSlot> {
        match self.lock().handles.get(&handle) {
            Some(Slot::File(slot)) => Ok(slot.clone()),
            _ => Err(FsError::BadHandle),
        }
    }

    /// The inode behind a handle.
    pub fn node_of(&self, handle: Handle) -> FsResult<NodeRef> {
        let state = self.lock();
        match state.handles.get(&handle) {
            Some(Slot::File(slot)) => slot.cell.check().map(|()| state.node(slot.cell.ino)),
            Some(Slot::Dir { ino, .. }) => Ok(state.node(*ino)),
            None => Err(FsError::BadHandle),
        }
    }

    /// The file, kept in use while `InUse` lives.
    pub(super) fn use_file(&self, state: &mut State, ino: Ino) -> InUse<'_> {
        let file = state.files.entry(ino).or_insert_with(|| OpenFile::new(ino));
        file.handles += 1;
        InUse { staging: self, cell: Arc::clone(&file.cell) }
    }
}

impl OpenFile {
    fn new(ino: Ino) -> Self {
        Self {
            cell: FileCell::new(ino),
            handles: 0,
            writers: 0,
            cached: 0,
            direct: 0,
            writer: Caller { uid: 0, gid: 0, pid: 0 },
            backing: None,
        }
    }
}

impl State {
    pub(super) fn add_handle(&mut self, slot: Slot) -> Handle {
        self.last_handle += 1;
        let handle = Handle(self.last_handle);
        self.handles.insert(handle, slot);
        handle
    }

    /// A frozen version gets a copy of what is open in passthrough.
    pub(super) fn leave_copy(&mut self, ino: Ino, copy: ObjectId) {
        let Some(file) = self.files.get_mut(&ino) else { return };
        let quiet = file.writers == 0;
        if let Some(backing) = &mut file.backing {
            backing.copy = quiet.then_some(copy);
        }
    }

    /// From now on the kernel reads and writes this host file itself.
    pub(super) fn back(&mut self, ino: Ino, object: ObjectId, file: &Arc<HostFile>) -> FsResult<()> {
        let seen = Seen::of(file)?;
        let open = self.files.entry(ino).or_insert_with(|| OpenFile::new(ino));
        open.backing = Some(Backing { object, file: Arc::clone(file), reading: false, handles: 0, copy: None, seen });
        Ok(())
    }

    /// Notes what passthrough writes did to size and times.
    pub(super) fn refresh(&mut self, cx: &Context, ino: Ino) -> FsResult<()> {
        let Some(file) = self.files.get_mut(&ino) else { return Ok(()) };
        let Some(backing) = file.backing.as_mut().filter(|_| !file.cell.is_stale()) else { return Ok(()) };
        let seen = Seen::of(&backing.file)?;
        if seen == backing.seen {
            return Ok(());
        }
        backing.seen = seen;
        let (object, writer) = (backing.object, file.writer);
        let record = self.record(ino)?;
        let changed_in = match self.orphans.contains_key(&ino) {
            true => record.changed_in,
            false => self.begin(&writer, cx),
        };
        if let Content::Object(old) = record.content
            && old != object
        {
            self.drop_object(cx, ino, old);
        }
        if self.pending(ino, object).is_none() {
            // It was kept apart from a sealed version that got a copy: now it is this version's.
            self.set_pending(ino, object, Pending::File);
        }
        let content = Content::Object(object);
        let record = InodeRecord { size: seen.size, mtime: seen.mtime, ctime: seen.mtime, content, changed_in, ..(*record).clone() };
        if let (false, Some(open)) = (self.orphans.contains_key(&ino), &self.open) {
            open.journal.queue_object(object, ino, true);
        }
        self.touch(ino, record)
    }

    /// After a change of our own to a host file that is open in passthrough: it is not news.
    pub(super) fn note_backing(&mut self, ino: Ino) -> FsResult<()> {
        let Some(backing) = self.files.get_mut(&ino).and_then(|file| file.backing.as_mut()) else { return Ok(()) };
        let seen = Seen::of(&backing.file)?;
        backing.seen = seen;
        let record = self.record(ino)?;
        match record.size == seen.size {
            true => Ok(()),
            // A passthrough write came in between.
            false => self.touch(ino, InodeRecord { size: seen.size, ..(*record).clone() }),
        }
    }

    /// Drops what an orphan leaves behind, once nothing has it open.
    pub(super) fn bury(&mut self, cx: &Context, ino: Ino) {
        let Some(orphan) = self.orphans.remove(&ino) else { return };
        for (object, pending) in orphan.pending {
            self.let_object_go(cx, object, pending);
        }
    }
}
