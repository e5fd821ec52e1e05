//! The open version: POSIX semantics on top of the copy-on-write tree, without FUSE.

mod types;

pub use types::{
    Activity, Allocate, Attr, Caller, DirEntry, Handle, Invalidation, NodeRef, OpenMode, Opened, RenameMode, Seek, SetAttr,
    StagingEvent, StagingOptions, StatFs, TimeSet, XattrMode,
};

use super::error::{FsError, FsResult};
use crate::tree::key::FileKind;

/// What staging shows, and the open version behind it. Share it as `Arc<Staging>`.
#[derive(Debug)]
pub struct Staging {}

macro_rules! unfinished {
    ($($arg:expr),*) => {{ let _ = ($($arg),*); Err(FsError::NotSupported) }};
}

/// Names.
impl Staging {
    /// What `name` in `dir` leads to.
    pub fn lookup(&self, dir: NodeRef, name: &[u8]) -> FsResult<Attr> {
        unfinished!(dir, name)
    }

    /// Makes a regular file and opens it. `flags` are open(2)'s; an existing file is an error only with `O_EXCL`.
    pub fn create(&self, caller: &Caller, dir: NodeRef, name: &[u8], mode: u32, umask: u32, flags: i32) -> FsResult<(Attr, Opened)> {
        unfinished!(caller, dir, name, mode, umask, flags)
    }

    /// mknod(2): a regular file, pipe, socket or device.
    #[allow(clippy::too_many_arguments)]
    pub fn make_node(&self, caller: &Caller, dir: NodeRef, name: &[u8], kind: FileKind, mode: u32, umask: u32, rdev: u32) -> FsResult<Attr> {
        unfinished!(caller, dir, name, kind, mode, umask, rdev)
    }

    /// mkdir(2).
    pub fn make_dir(&self, caller: &Caller, dir: NodeRef, name: &[u8], mode: u32, umask: u32) -> FsResult<Attr> {
        unfinished!(caller, dir, name, mode, umask)
    }

    /// symlink(2).
    pub fn symlink(&self, caller: &Caller, dir: NodeRef, name: &[u8], target: &[u8]) -> FsResult<Attr> {
        unfinished!(caller, dir, name, target)
    }

    /// readlink(2).
    pub fn read_link(&self, node: NodeRef) -> FsResult<Vec<u8>> {
        unfinished!(node)
    }

    /// link(2).
    pub fn link(&self, caller: &Caller, node: NodeRef, dir: NodeRef, name: &[u8]) -> FsResult<Attr> {
        unfinished!(caller, node, dir, name)
    }

    /// unlink(2).
    pub fn unlink(&self, caller: &Caller, dir: NodeRef, name: &[u8]) -> FsResult<()> {
        unfinished!(caller, dir, name)
    }

    /// rmdir(2).
    pub fn remove_dir(&self, caller: &Caller, dir: NodeRef, name: &[u8]) -> FsResult<()> {
        unfinished!(caller, dir, name)
    }

    /// renameat2(2).
    pub fn rename(
        &self, caller: &Caller, dir: NodeRef, name: &[u8], new_dir: NodeRef, new_name: &[u8], mode: RenameMode,
    ) -> FsResult<()> {
        unfinished!(caller, dir, name, new_dir, new_name, mode)
    }
}

/// Attributes.
impl Staging {
    /// stat(2), with a handle if there is one.
    pub fn attr(&self, node: NodeRef, handle: Option<Handle>) -> FsResult<Attr> {
        unfinished!(node, handle)
    }

    /// chmod(2), chown(2), truncate(2), utimensat(2).
    pub fn set_attr(&self, caller: &Caller, node: NodeRef, handle: Option<Handle>, change: &SetAttr) -> FsResult<Attr> {
        unfinished!(caller, node, handle, change)
    }

    /// getxattr(2).
    pub fn get_xattr(&self, node: NodeRef, name: &[u8]) -> FsResult<Vec<u8>> {
        unfinished!(node, name)
    }

    /// setxattr(2).
    pub fn set_xattr(&self, caller: &Caller, node: NodeRef, name: &[u8], value: &[u8], mode: XattrMode) -> FsResult<()> {
        unfinished!(caller, node, name, value, mode)
    }

    /// listxattr(2): names that the caller may see.
    pub fn list_xattrs(&self, caller: &Caller, node: NodeRef) -> FsResult<Vec<Vec<u8>>> {
        unfinished!(caller, node)
    }

    /// removexattr(2).
    pub fn remove_xattr(&self, caller: &Caller, node: NodeRef, name: &[u8]) -> FsResult<()> {
        unfinished!(caller, node, name)
    }

    /// statfs(2), of the filesystem that the store is on.
    pub fn statfs(&self) -> FsResult<StatFs> {
        unfinished!()
    }
}

/// Open files.
impl Staging {
    /// Opens a regular file; `flags` are open(2)'s.
    pub fn open(&self, caller: &Caller, node: NodeRef, flags: i32) -> FsResult<Opened> {
        unfinished!(caller, node, flags)
    }

    /// pread(2): at most `len` bytes, fewer only at the end.
    pub fn read(&self, handle: Handle, offset: u64, len: u32) -> FsResult<Vec<u8>> {
        unfinished!(handle, offset, len)
    }

    /// pwrite(2), or at the end with `O_APPEND`. `kill_priv`: drop set-id bits (the kernel's `FUSE_WRITE_KILL_SUIDGID`).
    pub fn write(&self, caller: &Caller, handle: Handle, offset: u64, data: &[u8], kill_priv: bool) -> FsResult<u32> {
        unfinished!(caller, handle, offset, data, kill_priv)
    }

    /// A close(2) of one of its descriptors.
    pub fn flush(&self, handle: Handle) -> FsResult<()> {
        unfinished!(handle)
    }

    /// fsync(2), fdatasync(2).
    pub fn fsync(&self, handle: Handle, datasync: bool) -> FsResult<()> {
        unfinished!(handle, datasync)
    }

    /// The last close(2) or munmap(2).
    pub fn release(&self, handle: Handle) {
        let _ = handle;
    }

    /// fallocate(2).
    pub fn allocate(&self, caller: &Caller, handle: Handle, mode: Allocate, offset: u64, len: u64) -> FsResult<()> {
        unfinished!(caller, handle, mode, offset, len)
    }

    /// lseek(2) with `SEEK_DATA` or `SEEK_HOLE`.
    pub fn seek(&self, handle: Handle, offset: u64, what: Seek) -> FsResult<u64> {
        unfinished!(handle, offset, what)
    }

    /// copy_file_range(2); may copy less than asked.
    pub fn copy_range(&self, caller: &Caller, from: Handle, offset: u64, to: Handle, to_offset: u64, len: u64) -> FsResult<u64> {
        unfinished!(caller, from, offset, to, to_offset, len)
    }
}

/// Open directories.
impl Staging {
    /// Opens a directory: the handle shows it as it is now, whatever comes and goes.
    pub fn open_dir(&self, node: NodeRef) -> FsResult<Handle> {
        unfinished!(node)
    }

    /// At most `n` entries from `offset` on (0, or an entry's `next_offset`); with their attributes if `plus`.
    pub fn read_dir(&self, handle: Handle, offset: u64, n: usize, plus: bool) -> FsResult<Vec<DirEntry>> {
        unfinished!(handle, offset, n, plus)
    }

    /// The last close of a directory.
    pub fn release_dir(&self, handle: Handle) {
        let _ = handle;
    }

    /// fsync(2) of a directory.
    pub fn fsync_dir(&self, handle: Handle) -> FsResult<()> {
        unfinished!(handle)
    }
}

/// The lifecycle's side, for the dispatcher.
impl Staging {
    /// What goes on.
    #[must_use]
    pub fn activity(&self) -> Option<Activity> {
        None
    }
}
