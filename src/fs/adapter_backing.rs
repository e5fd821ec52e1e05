//! Opening files of staging, and the backing files that the kernel reads and writes without asking.
//!
//! The kernel demands one backing number for all handles that an inode has open in passthrough, so a number is kept, by host
//! file, as long as one of them is open.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use crossbeam::channel::Sender;
use fuser::{BackingId, FileHandle, FopenFlags, ReplyOpen};
use parking_lot::Mutex;

use super::adapter_errno::of_staging;
use super::nodes::RawNode;
use crate::version::staging::{Caller, Handle, NodeRef, OpenMode, Opened, Staging};

/// A host file, by device and inode.
type HostFile = (u64, u64);

#[derive(Debug, Default)]
struct Open {
    by_handle: HashMap<Handle, HostFile>,
    by_file: HashMap<HostFile, (Arc<BackingId>, usize)>,
}

/// The numbers in use. A leaf lock: `register` is the only call made while it is held, one ioctl.
#[derive(Debug, Default)]
pub(super) struct Backings(Mutex<Open>);

impl Backings {
    /// The number of `file` for `handle`; made with `register` unless a handle has it open already.
    pub(super) fn open(
        &self,
        handle: Handle,
        file: &File,
        register: impl FnOnce(&File) -> io::Result<BackingId>,
    ) -> io::Result<Arc<BackingId>> {
        let host = file.metadata()?;
        let key = (host.dev(), host.ino());
        let mut open = self.0.lock();
        let id = match open.by_file.entry(key) {
            Entry::Occupied(mut known) => {
                known.get_mut().1 += 1;
                Arc::clone(&known.get().0)
            }
            Entry::Vacant(new) => {
                // Its mode is of no account to the kernel. Read only, it does not look like somebody who writes the file.
                let reader = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()));
                let id = Arc::new(register(reader.as_ref().unwrap_or(file))?);
                new.insert((Arc::clone(&id), 1));
                id
            }
        };
        open.by_handle.insert(handle, key);
        Ok(id)
    }

    /// The handle is gone; so is the number after the last one.
    pub(super) fn release(&self, handle: Handle) {
        let mut open = self.0.lock();
        let Some(key) = open.by_handle.remove(&handle) else { return };
        let last = open.by_file.get_mut(&key).is_some_and(|(_, count)| {
            *count -= 1;
            *count == 0
        });
        let gone = if last { open.by_file.remove(&key) } else { None };
        // Letting go of the number is a system call.
        drop(open);
        drop(gone);
    }
}

/// How an opened file is served.
pub(super) enum Served {
    Here(FopenFlags),
    Kernel(FopenFlags, Arc<BackingId>),
}

/// Opens files of staging; on any thread, since an open may have to wait.
#[derive(Clone, Debug)]
pub(super) struct Opener {
    pub(super) staging: Arc<Staging>,
    pub(super) backings: Arc<Backings>,
    /// Nodes whose attributes the kernel must ask for from now on. Sent by another thread: this one may not notify.
    pub(super) volatile: Sender<RawNode>,
    /// Whether the kernel can map files that are opened past the page cache.
    pub(super) direct: bool,
}

impl Opener {
    /// `register` makes a backing number through the reply at hand.
    pub(super) fn serve(&self, opened: &Opened, flags: i32, register: impl FnOnce(&std::fs::File) -> io::Result<BackingId>) -> Served {
        // A close has something to say only to a writer (ESTALE when its version went down), so only writers are asked.
        let reads_only = flags & libc::O_ACCMODE == libc::O_RDONLY;
        let quiet = if reads_only { FopenFlags::FOPEN_NOFLUSH } else { FopenFlags::empty() };
        match &opened.mode {
            OpenMode::Cached { keep: true } => Served::Here(quiet | FopenFlags::FOPEN_KEEP_CACHE),
            OpenMode::Cached { keep: false } => Served::Here(quiet),
            // Without it such a file can't be mapped.
            OpenMode::Direct if self.direct => Served::Here(quiet | FopenFlags::FOPEN_DIRECT_IO),
            OpenMode::Direct => Served::Here(quiet),
            OpenMode::Passthrough(file) => match self.backings.open(opened.handle, file.host(), register) {
                // What the kernel does itself is left to mappings then.
                Ok(id) if opened.synchronous => Served::Kernel(quiet | FopenFlags::FOPEN_DIRECT_IO, id),
                Ok(id) => Served::Kernel(quiet, id),
                Err(error) => {
                    // The probe at mount succeeded, so this is rare: a handle that the page cache knows nothing of is always right.
                    tracing::warn!(%error, "the kernel refused a backing file; serving the file without passthrough");
                    Served::Here(quiet | FopenFlags::FOPEN_DIRECT_IO)
                }
            },
        }
    }

    pub(super) fn open(&self, caller: &Caller, node: NodeRef, raw: RawNode, flags: i32, reply: ReplyOpen) {
        let opened = match self.staging.open(caller, node, flags) {
            Ok(opened) => opened,
            Err(error) => return reply.error(of_staging(&error)),
        };
        let handle = FileHandle(opened.handle.0);
        match self.serve(&opened, flags, |file| reply.open_backing(file)) {
            Served::Here(flags) => reply.opened(handle, flags),
            Served::Kernel(open_flags, id) => {
                if flags & libc::O_ACCMODE != libc::O_RDONLY {
                    // A store through a mapping changes the times unseen. If the queue is full, they show with the next request.
                    let _ = self.volatile.try_send(raw);
                }
                reply.opened_passthrough(handle, open_flags, &id);
            }
        }
    }
}
