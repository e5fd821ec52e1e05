//! The session of the views: translates requests, counts them, decides nothing.
//!
//! Mounted read-only, so the kernel refuses writes by itself. Nothing changes but by our own notice: entries, attributes,
//! symlinks, absent names, listings and pages stay in the kernel, and opens need no request (the first one is answered ENOSYS).
//!
//! Without root it shares its session with staging (`combined_session`). Then the kernel can't refuse writes, so they are refused
//! here, and nothing may be answered ENOSYS: the kernel would not ask for staging either.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

use fuser::{
    AccessFlags, Errno, FileAttr, FileHandle, Filesystem, FopenFlags, INodeNo, InitFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, WriteFlags,
};

use super::adapter_attr::{self, FOREVER, GENERATION};
use super::adapter_errno::{of_staging, of_views};
use super::adapter_reply;
use super::attendance::{Attendance, Turn};
use super::counters::{Counters, Op};
use super::known::Known;
use super::nodes::{RawNode, StagingNodes, ViewNode};
use super::views::{Keep, Listed, ViewError, ViewResult, Views, raw};
use crate::ids::Ino;
use crate::tree::key::FileKind;
use crate::version::staging::{NodeRef, Staging};

/// Entries asked of a directory at a time: about what fits into one answer.
const BATCH: usize = 128;

/// Where staging begins.
const STAGING_ROOT: NodeRef = NodeRef { ino: Ino::ROOT, generation: 0 };

/// The views as a FUSE filesystem.
#[derive(Debug)]
pub(super) struct ViewsSession {
    pub(super) views: Arc<Views>,
    pub(super) counters: Arc<Counters>,
    pub(super) attendance: Arc<Attendance>,
    /// What the kernel knows of the dataset.
    pub(super) known: Arc<Known>,
    /// Staging, if it is a directory of this session instead of a mount of its own.
    pub(super) beside: Option<Arc<Staging>>,
}

fn node(ino: INodeNo) -> ViewResult<ViewNode> {
    ViewNode::unpack(RawNode(ino.0)).ok_or(ViewError::Stale)
}

const fn ttl(keep: Keep) -> Duration {
    match keep {
        Keep::Forever => FOREVER,
        Keep::Never => Duration::ZERO,
    }
}

impl ViewsSession {
    /// One more request of this kind.
    fn turn(&self, op: Op) -> Turn<'_> {
        self.counters.count(op);
        self.attendance.turn()
    }

    /// What the kernel is told of a node, and how long it may keep that.
    fn told(&self, node: ViewNode) -> ViewResult<(FileAttr, Duration)> {
        match &self.beside {
            Some(staging) if node == ViewNode::Staging => {
                let told = staging.attr(STAGING_ROOT, None).and_then(|attr| StagingNodes::BesideViews.told(&attr));
                told.map_err(|error| ViewError::Host(io::Error::from_raw_os_error(of_staging(&error).code())))
            }
            _ => Ok((adapter_attr::attr(&self.views.attr(node)?), ttl(self.views.keeps_attr(node)))),
        }
    }

    /// The number of a node that a listing shows.
    fn number(&self, node: ViewNode) -> ViewResult<RawNode> {
        match (&self.beside, node) {
            (Some(_), ViewNode::Staging) => {
                StagingNodes::BesideViews.pack(STAGING_ROOT.ino, STAGING_ROOT.generation).ok_or(ViewError::Overflow)
            }
            _ => raw(node),
        }
    }

    /// An answer that only a session of the views alone may give: that the kernel need not ask for this operation again.
    fn never_again(&self, reply: ReplyEmpty) {
        if self.beside.is_some() { reply.ok() } else { reply.error(Errno::ENOSYS) }
    }

    fn lookup_reply(&self, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let dir = match node(parent) {
            Ok(dir) => dir,
            Err(error) => return reply.error(of_views(&error)),
        };
        let found = self.views.lookup(dir, name.as_bytes());
        match found.and_then(|node| node.map(|node| self.told(node)).transpose()) {
            Ok(Some((attr, ttl))) => {
                self.known.told(RawNode(attr.ino.0));
                reply.entry_with_ttls(&ttl, &FOREVER, &attr, GENERATION);
            }
            Ok(None) => match self.views.keeps_absence(dir) {
                // Node 0: the kernel remembers that there is nothing.
                Keep::Forever => reply.entry(&FOREVER, &adapter_attr::bare(RawNode(0), FileKind::Regular), GENERATION),
                Keep::Never => reply.error(Errno::ENOENT),
            },
            Err(error) => reply.error(of_views(&error)),
        }
    }

    /// Hands the entries from `offset` on to `add` until it says that the answer is full.
    fn list(&self, dir: INodeNo, offset: u64, mut add: impl FnMut(&Listed) -> ViewResult<bool>) -> ViewResult<()> {
        let dir = node(dir)?;
        let mut offset = offset;
        loop {
            let batch = self.views.list(dir, offset, BATCH)?;
            let Some(last) = batch.last() else { return Ok(()) };
            offset = last.next;
            for entry in &batch {
                if add(entry)? {
                    return Ok(());
                }
            }
        }
    }

    fn list_plus(&self, dir: INodeNo, offset: u64, reply: &mut ReplyDirectoryPlus) -> ViewResult<()> {
        self.list(dir, offset, |entry| {
            let name = OsStr::from_bytes(&entry.name);
            let dots = matches!(&*entry.name, b"." | b"..");
            let (attr, ttl) = if dots {
                (adapter_attr::bare(raw(entry.node)?, entry.kind), Duration::ZERO)
            } else {
                match self.told(entry.node) {
                    Ok(told) => told,
                    // It went between the listing and now (a log, a version).
                    Err(ViewError::NotFound | ViewError::Stale) => return Ok(false),
                    Err(error) => return Err(error),
                }
            };
            let full = reply.add(attr.ino, entry.next, name, &ttl, &attr, GENERATION);
            // The kernel looks at what is in the answer, and does not remember the two that it knows anyway.
            if !full && !dots {
                self.known.told(RawNode(attr.ino.0));
            }
            Ok(full)
        })
    }
}

impl Filesystem for ViewsSession {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = [
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_NO_OPEN_SUPPORT,
            InitFlags::FUSE_NO_OPENDIR_SUPPORT,
            // Only lineage files and our own directories are ever asked about again; there, a new size or time drops the pages.
            InitFlags::FUSE_AUTO_INVAL_DATA,
            InitFlags::FUSE_POSIX_ACL,
            InitFlags::FUSE_ASYNC_DIO,
        ];
        adapter_reply::negotiate(config, &wanted);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let _turn = self.turn(Op::Lookup);
        self.lookup_reply(parent, name, reply);
    }

    // A forget is not answered: it is not counted among the requests.
    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.known.forgotten(RawNode(ino.0), nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let _turn = self.turn(Op::GetAttr);
        match node(ino).and_then(|node| self.told(node)) {
            Ok((attr, ttl)) => reply.attr(&ttl, &attr),
            Err(error) => reply.error(of_views(&error)),
        }
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        let _turn = self.turn(Op::ReadLink);
        match node(ino).and_then(|node| self.views.read_link(node)) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(of_views(&error)),
        }
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let _turn = self.turn(Op::Open);
        if self.beside.is_none() {
            // The kernel never asks again, and keeps pages from open to open.
            return reply.error(Errno::ENOSYS);
        }
        if flags.acc_mode() != OpenAccMode::O_RDONLY || flags.0 & libc::O_TRUNC != 0 {
            return reply.error(Errno::EROFS);
        }
        match node(ino).map(|node| self.views.keeps_attr(node)) {
            Ok(Keep::Forever) => reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH),
            // What changes by itself is read here every time.
            Ok(Keep::Never) => reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH),
            Err(error) => reply.error(of_views(&error)),
        }
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let _turn = self.turn(Op::Read);
        let _ = self.attendance.make_way();
        adapter_reply::with_buffer(size, |buffer| match node(ino).and_then(|node| self.views.read(node, offset, buffer)) {
            Ok(read) => reply.data(&buffer[..read]),
            Err(error) => reply.error(of_views(&error)),
        });
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        let _turn = self.turn(Op::Flush);
        // Nothing is ever written.
        self.never_again(reply);
    }

    fn fsync(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let _turn = self.turn(Op::FSync);
        self.never_again(reply);
    }

    fn fsyncdir(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let _turn = self.turn(Op::FSyncDir);
        self.never_again(reply);
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let _turn = self.turn(Op::OpenDir);
        if self.beside.is_none() {
            // Offsets need no handle; the kernel never asks again, and keeps listings until the directory's time changes.
            return reply.error(Errno::ENOSYS);
        }
        match node(ino) {
            // Of a version: it never changes.
            Ok(ViewNode::Directory(..)) => reply.opened(FileHandle(0), FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE),
            Ok(_) => reply.opened(FileHandle(0), FopenFlags::empty()),
            Err(error) => reply.error(of_views(&error)),
        }
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let _turn = self.turn(Op::ReadDir);
        let listed = self.list(ino, offset, |entry| {
            let id = INodeNo(self.number(entry.node)?.0);
            Ok(reply.add(id, entry.next, adapter_attr::kind(entry.kind), OsStr::from_bytes(&entry.name)))
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(of_views(&error)),
        }
    }

    fn readdirplus(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        let _turn = self.turn(Op::ReadDirPlus);
        match self.list_plus(ino, offset, &mut reply) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(of_views(&error)),
        }
    }

    fn lseek(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let _turn = self.turn(Op::Seek);
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        let found = match whence {
            libc::SEEK_DATA => node(ino).and_then(|node| self.views.seek(node, offset, true)),
            libc::SEEK_HOLE => node(ino).and_then(|node| self.views.seek(node, offset, false)),
            _ => Err(ViewError::Invalid),
        };
        match found.map(i64::try_from) {
            Ok(Ok(offset)) => reply.offset(offset),
            Ok(Err(_)) => reply.error(Errno::EOVERFLOW),
            Err(error) => reply.error(of_views(&error)),
        }
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let _turn = self.turn(Op::StatFs);
        match self.views.store().filesystem() {
            Ok(host) => reply.statfs(
                host.blocks(),
                host.blocks_free(),
                host.blocks_available(),
                host.files(),
                host.files_free(),
                u32::try_from(host.fragment_size()).unwrap_or(4096),
                255,
                u32::try_from(host.fragment_size()).unwrap_or(4096),
            ),
            Err(error) => reply.error(of_views(&error.into())),
        }
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let _turn = self.turn(Op::GetXattr);
        match node(ino).and_then(|node| self.views.xattr(node, name.as_bytes())) {
            Ok(value) => adapter_reply::sized(reply, size, &value),
            Err(error) => reply.error(of_views(&error)),
        }
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let _turn = self.turn(Op::ListXattr);
        match node(ino).and_then(|node| self.views.xattrs(node, req.uid() == 0)) {
            Ok(names) => adapter_reply::sized(reply, size, &adapter_reply::joined(&names)),
            Err(error) => reply.error(of_views(&error)),
        }
    }

    fn access(&self, _req: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        let _turn = self.turn(Op::Access);
        reply.ok();
    }

    // The rest only arrives where the kernel can't refuse it, because staging is in the same mount.

    fn setattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<fuser::TimeOrNow>,
        _mtime: Option<fuser::TimeOrNow>,
        _ctime: Option<std::time::SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<std::time::SystemTime>,
        _chgtime: Option<std::time::SystemTime>,
        _bkuptime: Option<std::time::SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let _turn = self.turn(Op::SetAttr);
        reply.error(Errno::EROFS);
    }

    fn mknod(&self, _req: &Request, _dir: INodeNo, _name: &OsStr, _mode: u32, _umask: u32, _rdev: u32, reply: ReplyEntry) {
        let _turn = self.turn(Op::MakeNode);
        reply.error(Errno::EROFS);
    }

    fn mkdir(&self, _req: &Request, _dir: INodeNo, _name: &OsStr, _mode: u32, _umask: u32, reply: ReplyEntry) {
        let _turn = self.turn(Op::MakeDir);
        reply.error(Errno::EROFS);
    }

    fn unlink(&self, _req: &Request, _dir: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        let _turn = self.turn(Op::Unlink);
        reply.error(Errno::EROFS);
    }

    fn rmdir(&self, _req: &Request, _dir: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        let _turn = self.turn(Op::RemoveDir);
        reply.error(Errno::EROFS);
    }

    fn symlink(&self, _req: &Request, _dir: INodeNo, _name: &OsStr, _target: &std::path::Path, reply: ReplyEntry) {
        let _turn = self.turn(Op::Symlink);
        reply.error(Errno::EROFS);
    }

    fn rename(
        &self,
        _req: &Request,
        _dir: INodeNo,
        _name: &OsStr,
        _new_dir: INodeNo,
        _new_name: &OsStr,
        _flags: fuser::RenameFlags,
        reply: ReplyEmpty,
    ) {
        let _turn = self.turn(Op::Rename);
        reply.error(Errno::EROFS);
    }

    fn link(&self, _req: &Request, _ino: INodeNo, _dir: INodeNo, _name: &OsStr, reply: ReplyEntry) {
        let _turn = self.turn(Op::Link);
        reply.error(Errno::EROFS);
    }

    fn create(&self, _req: &Request, _dir: INodeNo, _name: &OsStr, _mode: u32, _umask: u32, _flags: i32, reply: ReplyCreate) {
        let _turn = self.turn(Op::Create);
        reply.error(Errno::EROFS);
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let _turn = self.turn(Op::Write);
        reply.error(Errno::EROFS);
    }

    fn fallocate(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _offset: u64, _len: u64, _mode: i32, reply: ReplyEmpty) {
        let _turn = self.turn(Op::Allocate);
        reply.error(Errno::EROFS);
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        _ino_in: INodeNo,
        _fh_in: FileHandle,
        _offset_in: u64,
        _ino_out: INodeNo,
        _fh_out: FileHandle,
        _offset_out: u64,
        _len: u64,
        _flags: fuser::CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let _turn = self.turn(Op::CopyRange);
        reply.error(Errno::EROFS);
    }

    fn setxattr(&self, _req: &Request, _ino: INodeNo, _name: &OsStr, _value: &[u8], _flags: i32, _position: u32, reply: ReplyEmpty) {
        let _turn = self.turn(Op::SetXattr);
        reply.error(Errno::EROFS);
    }

    fn removexattr(&self, _req: &Request, _ino: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        let _turn = self.turn(Op::RemoveXattr);
        reply.error(Errno::EROFS);
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: fuser::IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: fuser::ReplyIoctl,
    ) {
        let _turn = self.turn(Op::Ioctl);
        reply.error(Errno::ENOTTY);
    }
}
