//! Views and staging in one session: what a user other than root can mount.
//!
//! Without root, `fusermount3` mounts; it runs as root, and the kernel keeps root out of a mount that is for its owner alone, so it
//! could never mount staging inside the views. Here `MNT/staging` is a directory of the one mount. The node's number says which of
//! the two sessions answers; all that this one decides is what neither of them can: requests that name a node of each.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, INodeNo, IoctlFlags, KernelConfig, LockOwner, OpenFlags,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek,
    ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::nodes::RawNode;
use super::staging_session::StagingSession;
use super::views_session::ViewsSession;

/// Both sides as one FUSE filesystem.
#[derive(Debug)]
pub(super) struct CombinedSession {
    pub(super) views: ViewsSession,
    pub(super) staging: StagingSession,
}

const fn in_staging(ino: INodeNo) -> bool {
    RawNode(ino.0).is_staging_beside_views()
}

/// Forwards requests about one node, the first argument after the request itself, to the side that it belongs to.
macro_rules! forward {
    ($($operation:ident($node:ident $(, $argument:ident: $kind:ty)*);)*) => {
        $(
            #[allow(clippy::too_many_arguments)]
            fn $operation(&self, req: &Request, $node: INodeNo $(, $argument: $kind)*) {
                if in_staging($node) {
                    self.staging.$operation(req, $node $(, $argument)*);
                } else {
                    self.views.$operation(req, $node $(, $argument)*);
                }
            }
        )*
    };
}

impl Filesystem for CombinedSession {
    fn init(&mut self, req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // What the views would ask for beyond it (no opens, listings that expire by time) would hold for staging as well.
        self.staging.init(req, config)
    }

    fn forget(&self, req: &Request, ino: INodeNo, nlookup: u64) {
        // For staging nothing is kept for a node.
        if !in_staging(ino) {
            self.views.forget(req, ino, nlookup);
        }
    }

    forward! {
        lookup(dir, name: &OsStr, reply: ReplyEntry);
        getattr(ino, fh: Option<FileHandle>, reply: ReplyAttr);
        setattr(
            ino, mode: Option<u32>, uid: Option<u32>, gid: Option<u32>, size: Option<u64>, atime: Option<TimeOrNow>,
            mtime: Option<TimeOrNow>, ctime: Option<SystemTime>, fh: Option<FileHandle>, crtime: Option<SystemTime>,
            chgtime: Option<SystemTime>, bkuptime: Option<SystemTime>, flags: Option<BsdFileFlags>, reply: ReplyAttr
        );
        readlink(ino, reply: ReplyData);
        mknod(dir, name: &OsStr, mode: u32, umask: u32, rdev: u32, reply: ReplyEntry);
        mkdir(dir, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry);
        unlink(dir, name: &OsStr, reply: ReplyEmpty);
        rmdir(dir, name: &OsStr, reply: ReplyEmpty);
        symlink(dir, name: &OsStr, target: &Path, reply: ReplyEntry);
        create(dir, name: &OsStr, mode: u32, umask: u32, flags: i32, reply: ReplyCreate);
        open(ino, flags: OpenFlags, reply: ReplyOpen);
        read(
            ino, fh: FileHandle, offset: u64, size: u32, flags: OpenFlags, owner: Option<LockOwner>, reply: ReplyData
        );
        write(
            ino, fh: FileHandle, offset: u64, data: &[u8], write_flags: WriteFlags, flags: OpenFlags, owner: Option<LockOwner>,
            reply: ReplyWrite
        );
        flush(ino, fh: FileHandle, owner: LockOwner, reply: ReplyEmpty);
        release(ino, fh: FileHandle, flags: OpenFlags, owner: Option<LockOwner>, flush: bool, reply: ReplyEmpty);
        fsync(ino, fh: FileHandle, datasync: bool, reply: ReplyEmpty);
        opendir(ino, flags: OpenFlags, reply: ReplyOpen);
        readdir(ino, fh: FileHandle, offset: u64, reply: ReplyDirectory);
        readdirplus(ino, fh: FileHandle, offset: u64, reply: ReplyDirectoryPlus);
        releasedir(ino, fh: FileHandle, flags: OpenFlags, reply: ReplyEmpty);
        fsyncdir(ino, fh: FileHandle, datasync: bool, reply: ReplyEmpty);
        statfs(ino, reply: ReplyStatfs);
        getxattr(ino, name: &OsStr, size: u32, reply: ReplyXattr);
        setxattr(ino, name: &OsStr, value: &[u8], flags: i32, position: u32, reply: ReplyEmpty);
        listxattr(ino, size: u32, reply: ReplyXattr);
        removexattr(ino, name: &OsStr, reply: ReplyEmpty);
        access(ino, mask: AccessFlags, reply: ReplyEmpty);
        fallocate(ino, fh: FileHandle, offset: u64, len: u64, mode: i32, reply: ReplyEmpty);
        lseek(ino, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek);
        ioctl(ino, fh: FileHandle, flags: IoctlFlags, cmd: u32, in_data: &[u8], out_size: u32, reply: ReplyIoctl);
    }

    fn rename(&self, req: &Request, dir: INodeNo, name: &OsStr, new_dir: INodeNo, new_name: &OsStr, flags: RenameFlags, reply: ReplyEmpty) {
        match (in_staging(dir), in_staging(new_dir)) {
            (true, true) => self.staging.rename(req, dir, name, new_dir, new_name, flags, reply),
            (false, false) => self.views.rename(req, dir, name, new_dir, new_name, flags, reply),
            // As between the two mounts that root makes: who moves copies then.
            _ => reply.error(Errno::EXDEV),
        }
    }

    fn link(&self, req: &Request, ino: INodeNo, new_dir: INodeNo, new_name: &OsStr, reply: ReplyEntry) {
        match (in_staging(ino), in_staging(new_dir)) {
            (true, true) => self.staging.link(req, ino, new_dir, new_name, reply),
            (false, false) => self.views.link(req, ino, new_dir, new_name, reply),
            _ => reply.error(Errno::EXDEV),
        }
    }

    fn copy_file_range(
        &self,
        req: &Request,
        ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        match (in_staging(ino_in), in_staging(ino_out)) {
            (true, true) => {
                self.staging.copy_file_range(req, ino_in, fh_in, offset_in, ino_out, fh_out, offset_out, len, flags, reply);
            }
            (false, false) => self.views.copy_file_range(req, ino_in, fh_in, offset_in, ino_out, fh_out, offset_out, len, flags, reply),
            // The kernel copies by itself then.
            _ => reply.error(Errno::EXDEV),
        }
    }
}
