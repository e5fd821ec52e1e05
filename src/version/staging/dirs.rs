//! Open directories: a handle is a snapshot of the tree, so offsets stay right while entries come and go.

use std::sync::Arc;

use super::Staging;
use super::handles::Slot;
use super::types::{DirEntry, Handle, NodeRef};
use crate::ids::Ino;
use crate::tree::Snapshot;
use crate::tree::key::{FileKind, Name};
use crate::version::error::{FsError, FsResult};

impl Staging {
    /// Opens a directory: the handle shows it as it is now, whatever comes and goes.
    pub fn open_dir(&self, node: NodeRef) -> FsResult<Handle> {
        let mut state = self.lock();
        let (ino, _) = state.dir(node)?;
        let tree = state.tree.clone();
        Ok(state.add_handle(Slot::Dir { ino, tree }))
    }

    /// At most `n` entries from `offset` on (0, or an entry's `next_offset`); with their attributes if `plus`.
    pub fn read_dir(&self, handle: Handle, offset: u64, n: usize, plus: bool) -> FsResult<Vec<DirEntry>> {
        let (dir, snapshot) = match self.lock().handles.get(&handle) {
            Some(Slot::Dir { ino, tree }) => (*ino, Snapshot::new(tree.clone(), Arc::clone(&self.cx.store))),
            _ => return Err(FsError::BadHandle),
        };
        let parent = snapshot.inode(dir)?.ok_or(FsError::Stale)?.parent;
        let mut found: Vec<(Name, Ino, FileKind)> = Vec::new();
        let dots: [(&[u8], Ino); 2] = [(b".", dir), (b"..", parent)];
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        found.extend(dots.into_iter().skip(skip).take(n).map(|(name, ino)| (name.into(), ino, FileKind::Directory)));
        if found.len() < n {
            found.extend(snapshot.entries(dir, offset.saturating_sub(2), n - found.len())?);
        }
        let mut state = self.lock();
        let mut entries = Vec::with_capacity(found.len());
        for (at, (name, ino, kind)) in (offset + 1..).zip(found) {
            let attr = match plus {
                true if matches!(&*name, b"." | b"..") => self.attr_in(&mut state, ino).ok(),
                true => match state.entry(dir, &name)? {
                    Some((now, _)) if now == ino => Some(self.attr_in(&mut state, ino)?),
                    _ => None,
                },
                false => None,
            };
            entries.push(DirEntry { name, node: state.node(ino), kind, next_offset: at, attr });
        }
        Ok(entries)
    }

    /// The last close of a directory.
    pub fn release_dir(&self, handle: Handle) {
        let slot = self.lock().handles.remove(&handle);
        // Letting go of the last snapshot of a state frees its nodes: not under the lock.
        drop(slot);
    }
}
