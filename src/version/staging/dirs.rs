//! Open directories: a listing is of one snapshot of the tree, so offsets stay right while entries come and go.
//!
//! The snapshot is taken when the listing begins, not at opendir(3). rewinddir(3) has to show what came since; and the kernel keeps a
//! listing for everybody under the time and change counter that the directory had when the listing began, so one that was older than that
//! would hide a name from all who list the directory later.

use std::sync::Arc;

use super::Staging;
use super::handles::Slot;
use super::types::{DirEntry, Handle, NodeRef};
use crate::ids::Ino;
use crate::tree::key::{FileKind, Name};
use crate::tree::{Snapshot, Tree};
use crate::version::error::{FsError, FsResult};

impl Staging {
    /// Opens a directory.
    pub fn open_dir(&self, node: NodeRef) -> FsResult<Handle> {
        let mut state = self.lock();
        let (ino, _) = state.dir(node)?;
        Ok(state.add_handle(Slot::Dir { ino, tree: None }))
    }

    /// At most `n` entries from `offset` on (0, or an entry's `next_offset`); with their attributes if `plus`. From 0 on it is the
    /// directory as it is now, from there on as it was then, whatever comes and goes.
    pub fn read_dir(&self, handle: Handle, offset: u64, n: usize, plus: bool) -> FsResult<Vec<DirEntry>> {
        let (dir, tree) = self.listed(handle, offset == 0)?;
        let snapshot = Snapshot::new(tree, Arc::clone(&self.cx.store));
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

    /// The directory of a handle, and the state that it lists: the present one if it begins anew.
    fn listed(&self, handle: Handle, anew: bool) -> FsResult<(Ino, Tree)> {
        let mut state = self.lock();
        let now = state.tree.clone();
        let Some(Slot::Dir { ino, tree }) = state.handles.get_mut(&handle) else { return Err(FsError::BadHandle) };
        let shown = tree.take().filter(|_| !anew).unwrap_or(now);
        *tree = Some(shown.clone());
        Ok((*ino, shown))
    }

    /// The last close of a directory.
    pub fn release_dir(&self, handle: Handle) {
        let slot = self.lock().handles.remove(&handle);
        // Letting go of the last snapshot of a state frees its nodes: not under the lock.
        drop(slot);
    }
}
