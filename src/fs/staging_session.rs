//! The session of staging: translates requests, counts them, decides nothing.
//!
//! Every change comes through this mount or is made known by a notice, so entries and attributes stay in the kernel; only while
//! a file is open in passthrough are its attributes asked for every time. There is no writeback cache: passthrough excludes it,
//! and without it the bytes are here before `write` returns, so a seal never misses what a program wrote.
//! POSIX locks and `flock` are the kernel's own: they are local to this machine, as the mount is.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, INodeNo, InitFlags, IoctlFlags, KernelConfig,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::adapter_attr::{self, FOREVER, GENERATION};
use super::adapter_backing::{Opener, Served};
use super::adapter_errno::of_staging;
use super::adapter_reply;
use super::adapter_staging::{caller, reply_empty};
use super::attendance::{Attendance, Turn};
use super::counters::{Counters, Op};
use super::nodes::{RawNode, StagingNodes};
use super::slow_lane::SlowLane;
use super::views::xattr::OWN;
use crate::store::Store;
use crate::tree::key::FileKind;
use crate::version::staging::{Allocate, DirEntry, Handle, NodeRef, RenameMode, Seek, SetAttr, Staging, XattrMode};
use crate::version::{FsError, FsResult};

/// Entries asked of a directory at a time: about what fits into one answer.
const BATCH: usize = 128;

/// How long the kernel may believe what it is told of a new file that it writes itself: open(2) asks for it once more at once. It is too
/// early to be wrong: a write makes the kernel ask, and before a page of an empty file can be mapped its length is set.
const NEW: Duration = Duration::from_secs(1);

/// Copies from this size on leave the way free for other requests.
const LARGE: u64 = 1 << 20;

/// Staging as a FUSE filesystem.
#[derive(Debug)]
pub(super) struct StagingSession {
    pub(super) staging: Arc<Staging>,
    pub(super) store: Arc<Store>,
    pub(super) counters: Arc<Counters>,
    pub(super) attendance: Arc<Attendance>,
    pub(super) slow: SlowLane,
    pub(super) opener: Opener,
    pub(super) passthrough: bool,
    pub(super) nodes: StagingNodes,
}

impl StagingSession {
    /// One more request of this kind.
    fn turn(&self, op: Op) -> Turn<'_> {
        self.counters.count(op);
        self.attendance.turn()
    }

    /// Waits for the disk without others having to wait with it: here if another thread listens, else in the slow lane.
    fn aside(&self, job: impl FnOnce() + Send + 'static) {
        if self.attendance.make_way() { job() } else { self.slow.run(job) }
    }

    /// Hands the entries from `offset` on to `add` until it says that the answer is full.
    fn list(&self, handle: Handle, offset: u64, plus: bool, mut add: impl FnMut(&DirEntry) -> FsResult<bool>) -> FsResult<()> {
        let mut offset = offset;
        loop {
            let batch = self.staging.read_dir(handle, offset, BATCH, plus)?;
            let Some(last) = batch.last() else { return Ok(()) };
            offset = last.next_offset;
            for entry in &batch {
                if add(entry)? {
                    return Ok(());
                }
            }
        }
    }

    fn list_plus(&self, dir: NodeRef, handle: Handle, offset: u64, reply: &mut ReplyDirectoryPlus) -> FsResult<()> {
        self.list(handle, offset, true, |entry| {
            let name = OsStr::from_bytes(&entry.name);
            let (attr, ttl) = match &entry.attr {
                _ if matches!(&*entry.name, b"." | b"..") => {
                    (adapter_attr::bare(self.nodes.raw(entry.node)?, FileKind::Directory), Duration::ZERO)
                }
                Some(attr) => self.nodes.told(attr)?,
                // The handle shows the directory as it was. What has the name now is what a lookup must find.
                None => match self.staging.lookup(dir, &entry.name) {
                    Ok(attr) => self.nodes.told(&attr)?,
                    Err(FsError::NotFound | FsError::Stale) => return Ok(false),
                    Err(error) => return Err(error),
                },
            };
            Ok(reply.add(attr.ino, entry.next_offset, name, &ttl, &attr, GENERATION))
        })
    }
}

impl Filesystem for StagingSession {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = [
            // Without it the kernel asks for security.capability before every write.
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
            InitFlags::FUSE_POSIX_ACL,
            // Default ACLs replace the umask, so it is applied where both are known.
            InitFlags::FUSE_DONT_MASK,
            // Not ATOMIC_O_TRUNC: with it the kernel cuts the file before it finds that it is being executed (O_RDONLY | O_TRUNC).
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_CACHE_SYMLINKS,
        ];
        adapter_reply::negotiate(config, &wanted);
        self.opener.direct = config.add_capabilities(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP).is_ok();
        if self.passthrough && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok() {
            // Depth 1: backing files on an ordinary filesystem, and overlayfs may still stand on this mount.
            let _ = config.set_max_stack_depth(1);
        }
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let _turn = self.turn(Op::Lookup);
        match self.staging.lookup(self.nodes.node(parent), name.as_bytes()) {
            // Node 0: the kernel remembers that there is nothing. It learns of what comes by its own requests, or by a notice.
            Err(FsError::NotFound) => reply.entry(&FOREVER, &adapter_attr::bare(RawNode(0), FileKind::Regular), GENERATION),
            found => self.nodes.reply_entry(reply, found),
        }
    }

    // Nothing is kept for a node, and a forget is not answered: it is not counted either.
    fn forget(&self, _req: &Request, _ino: INodeNo, _nlookup: u64) {}

    fn getattr(&self, _req: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        let _turn = self.turn(Op::GetAttr);
        self.nodes.reply_attr(reply, self.staging.attr(self.nodes.node(ino), fh.map(|fh| Handle(fh.0))));
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let _turn = self.turn(Op::SetAttr);
        let change = SetAttr {
            // Twelve bits of permissions; the kind of a file never changes.
            perm: mode.map(|mode| (mode & 0o7777) as u16),
            uid,
            gid,
            size,
            atime: atime.map(adapter_attr::time_set),
            mtime: mtime.map(adapter_attr::time_set),
            ctime: ctime.map(adapter_attr::time),
        };
        let (staging, nodes, caller, node) = (Arc::clone(&self.staging), self.nodes, caller(req), self.nodes.node(ino));
        let set = move || nodes.reply_attr(reply, staging.set_attr(&caller, node, fh.map(|fh| Handle(fh.0)), &change));
        if size.is_some() && self.staging.waits_for_copy(node) { self.slow.run(set) } else { set() }
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        let _turn = self.turn(Op::ReadLink);
        match self.staging.read_link(self.nodes.node(ino)) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(of_staging(&error)),
        }
    }

    fn mknod(&self, req: &Request, dir: INodeNo, name: &OsStr, mode: u32, umask: u32, rdev: u32, reply: ReplyEntry) {
        let _turn = self.turn(Op::MakeNode);
        let Some(kind) = adapter_attr::kind_of_mode(mode) else { return reply.error(Errno::EINVAL) };
        let dir = self.nodes.node(dir);
        self.nodes.reply_entry(reply, self.staging.make_node(&caller(req), dir, name.as_bytes(), kind, mode & 0o7777, umask, rdev));
    }

    fn mkdir(&self, req: &Request, dir: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let _turn = self.turn(Op::MakeDir);
        self.nodes.reply_entry(reply, self.staging.make_dir(&caller(req), self.nodes.node(dir), name.as_bytes(), mode & 0o7777, umask));
    }

    fn unlink(&self, req: &Request, dir: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let _turn = self.turn(Op::Unlink);
        reply_empty(reply, self.staging.unlink(&caller(req), self.nodes.node(dir), name.as_bytes()));
    }

    fn rmdir(&self, req: &Request, dir: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let _turn = self.turn(Op::RemoveDir);
        reply_empty(reply, self.staging.remove_dir(&caller(req), self.nodes.node(dir), name.as_bytes()));
    }

    fn symlink(&self, req: &Request, dir: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let _turn = self.turn(Op::Symlink);
        let made = self.staging.symlink(&caller(req), self.nodes.node(dir), name.as_bytes(), target.as_os_str().as_bytes());
        self.nodes.reply_entry(reply, made);
    }

    fn rename(&self, req: &Request, dir: INodeNo, name: &OsStr, new_dir: INodeNo, new_name: &OsStr, flags: RenameFlags, reply: ReplyEmpty) {
        let _turn = self.turn(Op::Rename);
        let mode = match flags.bits() {
            0 => RenameMode::Replace,
            libc::RENAME_NOREPLACE => RenameMode::NoReplace,
            libc::RENAME_EXCHANGE => RenameMode::Exchange,
            _ => return reply.error(Errno::EINVAL),
        };
        let (dir, new_dir) = (self.nodes.node(dir), self.nodes.node(new_dir));
        reply_empty(reply, self.staging.rename(&caller(req), dir, name.as_bytes(), new_dir, new_name.as_bytes(), mode));
    }

    fn link(&self, req: &Request, ino: INodeNo, new_dir: INodeNo, new_name: &OsStr, reply: ReplyEntry) {
        let _turn = self.turn(Op::Link);
        self.nodes.reply_entry(reply, self.staging.link(&caller(req), self.nodes.node(ino), self.nodes.node(new_dir), new_name.as_bytes()));
    }

    fn create(&self, req: &Request, dir: INodeNo, name: &OsStr, mode: u32, umask: u32, flags: i32, reply: ReplyCreate) {
        let _turn = self.turn(Op::Create);
        let created = self.staging.create(&caller(req), self.nodes.node(dir), name.as_bytes(), mode & 0o7777, umask, flags);
        let (attr, opened) = match created {
            Ok((attr, opened)) => (attr, opened),
            Err(error) => return reply.error(of_staging(&error)),
        };
        let (attr, ttl) = match self.nodes.told(&attr) {
            Ok(told) => told,
            Err(error) => {
                self.staging.release(opened.handle);
                return reply.error(of_staging(&error));
            }
        };
        let handle = FileHandle(opened.handle.0);
        match self.opener.serve(&opened, flags, |file| reply.open_backing(file)) {
            Served::Here(flags) => reply.created(&ttl, &attr, GENERATION, handle, flags),
            Served::Kernel(flags, id) => reply.created_passthrough(&NEW, &attr, GENERATION, handle, flags, &id),
        }
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let _turn = self.turn(Op::Open);
        let (opener, caller, node) = (self.opener.clone(), caller(req), self.nodes.node(ino));
        let writes = flags.0 & libc::O_ACCMODE != libc::O_RDONLY;
        let open = move || opener.open(&caller, node, RawNode(ino.0), flags.0, reply);
        if writes && self.staging.writer_waits(node) { self.slow.run(open) } else { open() }
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let _turn = self.turn(Op::Read);
        let _ = self.attendance.make_way();
        adapter_reply::with_buffer(size, |buffer| match self.staging.read_into(Handle(fh.0), offset, buffer) {
            Ok(read) => reply.data(&buffer[..read]),
            Err(error) => reply.error(of_staging(&error)),
        });
    }

    fn write(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let _turn = self.turn(Op::Write);
        let kill_priv = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let (caller, handle) = (caller(req), Handle(fh.0));
        let written = match write_flags.contains(WriteFlags::FUSE_WRITE_CACHE) {
            true => self.staging.write_back(&caller, handle, offset, data),
            false => self.staging.write(&caller, handle, offset, data, kill_priv),
        };
        match written {
            Ok(written) if flags.0 & libc::O_DSYNC != 0 => {
                let staging = Arc::clone(&self.staging);
                self.aside(move || match staging.sync_written(handle) {
                    Ok(()) => reply.written(written),
                    Err(error) => reply.error(of_staging(&error)),
                });
            }
            Ok(written) => reply.written(written),
            Err(error) => reply.error(of_staging(&error)),
        }
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        let _turn = self.turn(Op::Flush);
        reply_empty(reply, self.staging.flush(Handle(fh.0)));
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let _turn = self.turn(Op::Release);
        let (staging, backings, handle) = (Arc::clone(&self.staging), Arc::clone(&self.opener.backings), Handle(fh.0));
        // No program waits for the answer.
        self.attendance.later(move || {
            // In this order: staging asks who else has the host file.
            backings.release(handle);
            staging.release(handle);
            reply.ok();
        });
    }

    fn fsync(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        let _turn = self.turn(Op::FSync);
        let staging = Arc::clone(&self.staging);
        self.aside(move || reply_empty(reply, staging.fsync(Handle(fh.0), datasync)));
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let _turn = self.turn(Op::OpenDir);
        match self.staging.open_dir(self.nodes.node(ino)) {
            // The kernel keeps the listing until it changes the directory itself or gets a notice.
            Ok(handle) => reply.opened(FileHandle(handle.0), FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE),
            Err(error) => reply.error(of_staging(&error)),
        }
    }

    fn readdir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let _turn = self.turn(Op::ReadDir);
        let listed = self.list(Handle(fh.0), offset, false, |entry| {
            let id = INodeNo(self.nodes.raw(entry.node)?.0);
            Ok(reply.add(id, entry.next_offset, adapter_attr::kind(entry.kind), OsStr::from_bytes(&entry.name)))
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(of_staging(&error)),
        }
    }

    fn readdirplus(&self, _req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        let _turn = self.turn(Op::ReadDirPlus);
        match self.list_plus(self.nodes.node(ino), Handle(fh.0), offset, &mut reply) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(of_staging(&error)),
        }
    }

    fn releasedir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        let _turn = self.turn(Op::ReleaseDir);
        self.staging.release_dir(Handle(fh.0));
        reply.ok();
    }

    fn fsyncdir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let _turn = self.turn(Op::FSyncDir);
        let staging = Arc::clone(&self.staging);
        self.aside(move || reply_empty(reply, staging.fsync_dir(Handle(fh.0))));
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let _turn = self.turn(Op::StatFs);
        match self.staging.statfs() {
            Ok(s) => reply.statfs(s.blocks, s.free, s.available, s.files, s.files_free, s.block_size, s.name_max, s.block_size),
            Err(error) => reply.error(of_staging(&error)),
        }
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let _turn = self.turn(Op::GetXattr);
        let value = match name.as_bytes().strip_prefix(OWN) {
            Some(own) => self.own_xattr(own),
            None => self.staging.get_xattr(self.nodes.node(ino), name.as_bytes()),
        };
        match value {
            Ok(value) => adapter_reply::sized(reply, size, &value),
            Err(error) => reply.error(of_staging(&error)),
        }
    }

    fn setxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, value: &[u8], flags: i32, _position: u32, reply: ReplyEmpty) {
        let _turn = self.turn(Op::SetXattr);
        let mode = match flags {
            0 => XattrMode::Set,
            libc::XATTR_CREATE => XattrMode::Create,
            libc::XATTR_REPLACE => XattrMode::Replace,
            _ => return reply.error(Errno::EINVAL),
        };
        if name.as_bytes().starts_with(OWN) {
            return reply.error(Errno::EPERM);
        }
        reply_empty(reply, self.staging.set_xattr(&caller(req), self.nodes.node(ino), name.as_bytes(), value, mode));
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let _turn = self.turn(Op::ListXattr);
        match self.staging.list_xattrs(&caller(req), self.nodes.node(ino)) {
            Ok(names) => adapter_reply::sized(reply, size, &adapter_reply::joined(&names)),
            Err(error) => reply.error(of_staging(&error)),
        }
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let _turn = self.turn(Op::RemoveXattr);
        if name.as_bytes().starts_with(OWN) {
            return reply.error(Errno::EPERM);
        }
        reply_empty(reply, self.staging.remove_xattr(&caller(req), self.nodes.node(ino), name.as_bytes()));
    }

    fn access(&self, _req: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        let _turn = self.turn(Op::Access);
        // The kernel checks by itself (default_permissions).
        reply.ok();
    }

    fn fallocate(&self, req: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, len: u64, mode: i32, reply: ReplyEmpty) {
        let _turn = self.turn(Op::Allocate);
        let Some(mode) = Allocate::from_bits(mode) else { return reply.error(Errno::EOPNOTSUPP) };
        reply_empty(reply, self.staging.allocate(&caller(req), Handle(fh.0), mode, offset, len));
    }

    fn lseek(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let _turn = self.turn(Op::Seek);
        let what = match whence {
            libc::SEEK_DATA => Seek::Data,
            libc::SEEK_HOLE => Seek::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        match self.staging.seek(Handle(fh.0), offset, what).map(i64::try_from) {
            Ok(Ok(offset)) => reply.offset(offset),
            Ok(Err(_)) => reply.error(Errno::EOVERFLOW),
            Err(error) => reply.error(of_staging(&error)),
        }
    }

    fn copy_file_range(
        &self,
        req: &Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        _ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let _turn = self.turn(Op::CopyRange);
        let (staging, caller) = (Arc::clone(&self.staging), caller(req));
        // The answer has 32 bits; a caller asks again for the rest.
        let wanted = len.min(1 << 30);
        let copy = move || match staging.copy_range(&caller, Handle(fh_in.0), offset_in, Handle(fh_out.0), offset_out, wanted) {
            Ok(copied) => reply.written(u32::try_from(copied).unwrap_or(u32::MAX)),
            Err(error) => reply.error(of_staging(&error)),
        };
        if wanted < LARGE { copy() } else { self.slow.run(copy) }
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        let _turn = self.turn(Op::Ioctl);
        reply.error(Errno::ENOTTY);
    }
}
