//! Backing files that the kernel reads and writes without asking.
//!
//! The kernel demands one backing number for all handles that an inode has open in passthrough, so a number is kept, by host
//! file, as long as one of them is open.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use fuser::BackingId;
use parking_lot::Mutex;

use crate::version::staging::Handle;

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
                let id = Arc::new(register(file)?);
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
