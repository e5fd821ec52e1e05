//! Random operations on staging, without a mount, beside the reference model: with seals, rollbacks, rebases, kills and new starts between.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/check_tree.rs"]
mod check_tree;
#[path = "staging_model/crash_points.rs"]
mod crash_points;
#[path = "common/disk.rs"]
mod disk;
#[path = "common/model/mod.rs"]
mod model;

use std::collections::BTreeMap;
use std::sync::Arc;

use model::{Dump, Entry, Fallocate, Focus, Kind, Model, Name, Op, OpenHow, Outcome, Path, Rename, SLOTS, compare};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use shadowfs::clock::{Clock, SystemClock, Timestamp};
use shadowfs::ids::{Ino, VersionId};
use shadowfs::store::disk::Disk;
use shadowfs::store::{HostFile, Store};
use shadowfs::tree::key::{Content, FileKind, InodeRecord};
use shadowfs::tree::{Nodes, Snapshot, Tree};
use shadowfs::version::acl::{ACCESS, DEFAULT};
use shadowfs::version::staging::{
    Allocate, Attr, Caller, Handle, NodeRef, OpenMode, RebaseOutcome, RenameMode, Seek, SetAttr, Staging, StagingOptions, TimeSet,
    XattrMode,
};
use shadowfs::version::{FsError, import, seal};

/// Files of more bytes than this leave memory, so that short sequences reach every form that content has.
const SMALL: u64 = 64;

#[derive(Clone, Debug)]
enum Step {
    Op(Op),
    /// Freeze, whatever is open, and seal.
    Seal,
    /// Freeze, and be killed before the seal.
    FreezeAndDie {
        synced: bool,
    },
    Discard,
    /// What the journal's writer does by itself: a round, or a look at what was synced a moment ago.
    Round {
        sync: bool,
    },
    Look,
    /// The base is rejected: staging goes onto its parent.
    Rebase,
    Die {
        synced: bool,
    },
}

struct Real {
    staging: Arc<Staging>,
    store: Arc<Store>,
    dir: Arc<tempfile::TempDir>,
    disk: Option<Arc<dyn Disk>>,
    model: Model,
    handles: [Option<Handle>; SLOTS],
    /// Host files that a kernel would use itself.
    through: [Option<Arc<HostFile>>; SLOTS],
    appends: [bool; SLOTS],
    passthrough: bool,
    /// The base and its ancestors, oldest first, as the model knows them.
    line: Vec<(VersionId, Model)>,
    /// What was ever sealed.
    sealed: BTreeMap<VersionId, Dump>,
}

/// In memory where there is such a place: thousands of commits are synced in these tests.
fn fast_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn who(uid: u32) -> Caller {
    Caller { uid, gid: uid, pid: 0 }
}

const ROOT: Caller = Caller { uid: 0, gid: 0, pid: 0 };

fn errno(error: FsError) -> i32 {
    match error {
        FsError::NotFound => libc::ENOENT,
        FsError::Exists => libc::EEXIST,
        FsError::NotDirectory => libc::ENOTDIR,
        FsError::IsDirectory => libc::EISDIR,
        FsError::NotEmpty => libc::ENOTEMPTY,
        FsError::NoData => libc::ENODATA,
        FsError::Invalid => libc::EINVAL,
        FsError::NotPermitted => libc::EPERM,
        FsError::NotSupported => libc::EOPNOTSUPP,
        FsError::BadHandle => libc::EBADF,
        FsError::AccessDenied => libc::EACCES,
        FsError::NoSuchOffset => libc::ENXIO,
        other => panic!("unexpected: {other:?}"),
    }
}

impl Real {
    fn new(passthrough: bool) -> Self {
        Self::new_on(passthrough, None)
    }

    fn new_on(passthrough: bool, disk: Option<Arc<dyn Disk>>) -> Self {
        let dir = Arc::new(fast_dir());
        let store = Arc::new(Store::init_on(&dir.path().join("store"), &SystemClock, disk.clone()).unwrap());
        let t0 = import::empty(&store, &SystemClock).unwrap();
        drop(store);
        let (staging, store) = Self::open(&dir, passthrough, disk.clone());
        let model = Model::new(snapshot_of(&store, t0.version).inode(Ino::ROOT).unwrap().unwrap().perm);
        let line = vec![(t0.version, model.clone())];
        Self {
            staging,
            store,
            dir,
            disk,
            model,
            handles: [None; SLOTS],
            through: Default::default(),
            appends: [false; SLOTS],
            passthrough,
            line,
            sealed: BTreeMap::new(),
        }
    }

    fn open(dir: &tempfile::TempDir, passthrough: bool, disk: Option<Arc<dyn Disk>>) -> (Arc<Staging>, Arc<Store>) {
        let store = Arc::new(Store::open_on(&dir.path().join("store"), disk).unwrap());
        let base = store.catalog().pointers().unwrap().base;
        let options = StagingOptions { small_file: SMALL, flusher: false, passthrough, ..StagingOptions::default() };
        let (events, _) = crossbeam::channel::unbounded();
        let staging = Staging::new(snapshot_of(&store, base), base, events, Arc::new(SystemClock), options).unwrap();
        (staging, store)
    }

    fn node(&self, path: &[Name]) -> Result<NodeRef, i32> {
        let mut attr = self.staging.attr(NodeRef::ROOT, None).map_err(errno)?;
        for name in path {
            attr = match attr.kind {
                FileKind::Symlink => return Err(libc::ENOENT),
                _ => self.staging.lookup(attr.node, name).map_err(errno)?,
            };
        }
        Ok(attr.node)
    }

    fn split<'a>(&self, path: &'a Path) -> Result<(NodeRef, &'a [u8]), i32> {
        let (name, dir) = path.split_last().unwrap();
        let node = self.node(dir)?;
        match self.staging.attr(node, None).map_err(errno)?.kind {
            FileKind::Symlink => Err(libc::ENOENT),
            FileKind::Directory => Ok((node, name)),
            _ => Err(libc::ENOTDIR),
        }
    }

    fn handle(&self, slot: usize) -> Result<Handle, i32> {
        self.handles[slot].ok_or(libc::EBADF)
    }

    fn close(&mut self, slot: usize) {
        self.through[slot] = None;
        if let Some(handle) = self.handles[slot].take() {
            let _stale_or_not = self.staging.flush(handle);
            self.staging.release(handle);
        }
    }

    fn set(&self, path: &Path, uid: u32, change: &SetAttr) -> Result<Outcome, i32> {
        let node = self.node(path)?;
        self.staging.set_attr(&who(uid), node, None, change).map_err(errno).map(|_| Outcome::Done)
    }

    fn apply(&mut self, op: &Op) -> Result<Outcome, i32> {
        let staging = Arc::clone(&self.staging);
        match op {
            // The kernel looks first.
            Op::Create { path, slot, exclusive: false, .. } if self.node(path).is_ok() => {
                return self.open_slot(path, *slot, OpenHow { write: true, ..OpenHow::default() });
            }
            Op::Create { path, mode, slot, uid, .. } => {
                let (dir, name) = self.split(path)?;
                let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
                let (_, opened) = staging.create(&who(*uid), dir, name, *mode, model::UMASK, flags).map_err(errno)?;
                self.close(*slot);
                self.handles[*slot] = Some(opened.handle);
            }
            Op::Mkdir { path, mode, uid } => {
                let (dir, name) = self.split(path)?;
                staging.make_dir(&who(*uid), dir, name, *mode, model::UMASK).map_err(errno)?;
            }
            Op::Mknod { path, kind, mode } => {
                let (dir, name) = self.split(path)?;
                let (kind, rdev) = match kind {
                    Kind::Fifo => (FileKind::Fifo, 0),
                    Kind::Socket => (FileKind::Socket, 0),
                    _ => (FileKind::CharDevice, model::DEVICE.0 << 8 | model::DEVICE.1),
                };
                staging.make_node(&ROOT, dir, name, kind, *mode, model::UMASK, rdev).map_err(errno)?;
            }
            Op::Symlink { path, target } => {
                let (dir, name) = self.split(path)?;
                staging.symlink(&ROOT, dir, name, target).map_err(errno)?;
            }
            Op::Link { from, to } => {
                let from = self.node(from)?;
                let (dir, name) = self.split(to)?;
                staging.link(&ROOT, from, dir, name).map_err(errno)?;
            }
            Op::Unlink { path } => {
                let (dir, name) = self.split(path)?;
                staging.unlink(&ROOT, dir, name).map_err(errno)?;
            }
            Op::Rmdir { path } => {
                let (dir, name) = self.split(path)?;
                staging.remove_dir(&ROOT, dir, name).map_err(errno)?;
            }
            Op::Rename { from, to, how } => {
                let (dir, name) = self.split(from)?;
                let (new_dir, new_name) = self.split(to)?;
                let mode = match how {
                    Rename::Replace => RenameMode::Replace,
                    Rename::NoReplace => RenameMode::NoReplace,
                    Rename::Exchange => RenameMode::Exchange,
                };
                staging.rename(&ROOT, dir, name, new_dir, new_name, mode).map_err(errno)?;
            }
            Op::Chmod { path, mode } => return self.set(path, 0, &SetAttr { perm: Some(*mode), ..SetAttr::default() }),
            Op::Chown { path, uid, gid } => {
                return self.set(path, 0, &SetAttr { uid: Some(*uid), gid: Some(*gid), ..SetAttr::default() });
            }
            Op::Truncate { path, size, uid } => {
                return self.set(path, *uid, &SetAttr { size: Some(*size), ..SetAttr::default() });
            }
            Op::Times { path, atime, mtime } => {
                let time = |time: Option<model::Time>| time.map(|(secs, nanos)| TimeSet::At(Timestamp { secs, nanos }));
                return self.set(path, 0, &SetAttr { atime: time(*atime), mtime: time(*mtime), ..SetAttr::default() });
            }
            Op::SetXattr { path, name, value, create, replace } => {
                let mode = match (create, replace) {
                    (true, _) => XattrMode::Create,
                    (_, true) => XattrMode::Replace,
                    _ => XattrMode::Set,
                };
                staging.set_xattr(&ROOT, self.node(path)?, name, value, mode).map_err(errno)?;
            }
            Op::RemoveXattr { path, name } => staging.remove_xattr(&ROOT, self.node(path)?, name).map_err(errno)?,
            Op::SetAcl { path, default, acl } => {
                let name = if *default { DEFAULT } else { ACCESS };
                let node = self.node(path)?;
                match acl {
                    Some(acl) => staging.set_xattr(&ROOT, node, name, &acl.to_bytes(), XattrMode::Set).map_err(errno)?,
                    None => staging.remove_xattr(&ROOT, node, name).map_err(errno)?,
                }
            }
            Op::List { path } => return self.list(path),
            _ => return self.apply_to_slot(op),
        }
        Ok(Outcome::Done)
    }

    fn list(&self, path: &Path) -> Result<Outcome, i32> {
        let handle = self.staging.open_dir(self.node(path)?).map_err(errno)?;
        let (mut names, mut offset) = (Vec::new(), 0);
        loop {
            let entries = self.staging.read_dir(handle, offset, 2, true).map_err(errno)?;
            let Some(last) = entries.last() else { break };
            offset = last.next_offset;
            names.extend(entries.iter().map(|entry| entry.name.to_vec()));
        }
        self.staging.release_dir(handle);
        assert_eq!(names.drain(..2).collect::<Vec<_>>(), [b".".to_vec(), b"..".to_vec()]);
        Ok(Outcome::Names(names))
    }

    fn open_slot(&mut self, path: &Path, slot: usize, how: OpenHow) -> Result<Outcome, i32> {
        let node = self.node(path)?;
        if self.staging.attr(node, None).map_err(errno)?.kind == FileKind::Symlink {
            return Err(libc::ELOOP);
        }
        let flag = |on: bool, flag: i32| if on { flag } else { 0 };
        let flags = flag(how.write, libc::O_RDWR) | flag(how.append, libc::O_APPEND) | flag(how.truncate, libc::O_TRUNC);
        let opened = self.staging.open(&ROOT, node, flags).map_err(errno)?;
        self.close(slot);
        self.handles[slot] = Some(opened.handle);
        self.appends[slot] = how.append;
        if let OpenMode::Passthrough(file) = opened.mode {
            self.through[slot] = Some(file);
        }
        Ok(Outcome::Done)
    }

    /// As `SEEK_DATA` and `SEEK_HOLE` show the file.
    fn sparse(&self, handle: Handle, offset: u64) -> Result<Outcome, i32> {
        let size = self.staging.attr(self.staging.node_of(handle).map_err(errno)?, Some(handle)).map_err(errno)?.size;
        let mut bytes = Vec::new();
        while offset + (bytes.len() as u64) < size {
            let at = offset + bytes.len() as u64;
            let data = match self.staging.seek(handle, at, Seek::Data) {
                Err(FsError::NoSuchOffset) => size,
                data => data.map_err(errno)?,
            };
            bytes.resize((data - offset) as usize, 0);
            if data < size {
                let hole = self.staging.seek(handle, data, Seek::Hole).map_err(errno)?;
                assert!(hole > data && hole <= size, "a hole at {hole} after data at {data} of {size}");
                bytes.extend(self.staging.read(handle, data, (hole - data) as u32).map_err(errno)?);
            }
        }
        if bytes.is_empty() {
            self.staging.seek(handle, offset, Seek::Data).map(Outcome::Count).map_err(errno)
        } else {
            Ok(Outcome::Bytes(bytes))
        }
    }

    /// What the kernel does with stores into a mapping: the pages that they touch come back, as far as the file goes.
    fn store(&self, slot: usize, offset: u64, len: usize, seed: u8, shared: bool) -> Result<Outcome, i32> {
        let handle = self.handle(slot)?;
        if shared && self.staging.write(&ROOT, handle, 0, b"", false).is_err() {
            return Err(libc::EACCES);
        }
        let mut bytes = self.read_slot(slot, 0, usize::MAX >> 1)?;
        let len = len.min(bytes.len().saturating_sub(offset as usize));
        if shared && len > 0 {
            const PAGE: usize = 4096;
            let (from, to) = (offset as usize, offset as usize + len);
            bytes[from..to].copy_from_slice(&model::bytes(seed, len));
            let pages = from / PAGE * PAGE..to.next_multiple_of(PAGE).min(bytes.len());
            let at = pages.start as u64;
            match &self.through[slot] {
                Some(file) => file.write_all_at(&bytes[pages], at).unwrap(),
                None => drop(self.staging.write_back(&ROOT, handle, at, &bytes[pages]).map_err(errno)?),
            }
        }
        Ok(Outcome::Count(len as u64))
    }

    fn read_slot(&self, slot: usize, offset: u64, len: usize) -> Result<Vec<u8>, i32> {
        match &self.through[slot] {
            Some(file) => {
                let size = file.metadata().unwrap().len().saturating_sub(offset);
                let mut bytes = vec![0; len.min(size as usize)];
                file.read_exact_at(&mut bytes, offset).unwrap();
                Ok(bytes)
            }
            None => self.staging.read(self.handle(slot)?, offset, u32::try_from(len).unwrap_or(u32::MAX)).map_err(errno),
        }
    }

    fn apply_to_slot(&mut self, op: &Op) -> Result<Outcome, i32> {
        let staging = Arc::clone(&self.staging);
        match *op {
            Op::Open { ref path, slot, how } => return self.open_slot(path, slot, how),
            Op::Close { slot } => {
                self.handle(slot)?;
                self.close(slot);
            }
            Op::Read { slot, offset, len } => {
                self.handle(slot)?;
                return self.read_slot(slot, offset, len).map(Outcome::Bytes);
            }
            Op::ReadMap { slot, .. } => {
                self.handle(slot)?;
                return self.read_slot(slot, 0, usize::MAX >> 1).map(Outcome::Bytes);
            }
            Op::Map { slot, offset, len, seed, shared } => return self.store(slot, offset, len, seed, shared),
            Op::Sparse { slot, offset } => return self.sparse(self.handle(slot)?, offset),
            Op::Write { slot, offset, len, seed, .. } if self.through[slot].is_some() => {
                // As the kernel asks: may this handle write, and are there capabilities to take away? Then, where is the end?
                let handle = self.handle(slot)?;
                staging.write(&ROOT, handle, 0, b"", false).map_err(errno)?;
                match staging.remove_xattr(&ROOT, staging.node_of(handle).map_err(errno)?, model::CAPABILITY) {
                    Err(FsError::NoData) => {}
                    removed => removed.map_err(errno)?,
                }
                let file = self.through[slot].as_ref().unwrap();
                let offset = if self.appends[slot] { file.metadata().unwrap().len() } else { offset };
                file.write_all_at(&model::bytes(seed, len), offset).unwrap();
                return Ok(Outcome::Count(len as u64));
            }
            Op::Write { slot, offset, len, seed, uid } => {
                let written = staging.write(&who(uid), self.handle(slot)?, offset, &model::bytes(seed, len), uid != 0);
                return written.map(|n| Outcome::Count(u64::from(n))).map_err(errno);
            }
            Op::Resize { slot, size, uid } => {
                let handle = self.handle(slot)?;
                // The kernel lets only writers through; an empty write asks the same question.
                staging.write(&ROOT, handle, 0, b"", false).map_err(errno)?;
                self.resize(handle, size, uid)?;
            }
            Op::Fallocate { slot, how, offset, len, uid } => {
                let handle = self.handle(slot)?;
                let mode = match how {
                    Fallocate::Extend => Allocate::Extend,
                    Fallocate::KeepSize => Allocate::KeepSize,
                    Fallocate::Punch => Allocate::PunchHole,
                    Fallocate::Zero => Allocate::ZeroRange { keep_size: false },
                    Fallocate::ZeroKeepSize => Allocate::ZeroRange { keep_size: true },
                    Fallocate::Collapse | Fallocate::Insert => {
                        // The kernel refuses it, but it looks at the descriptor first.
                        staging.write(&ROOT, handle, 0, b"", false).map_err(errno)?;
                        return Err(libc::EOPNOTSUPP);
                    }
                };
                staging.allocate(&who(uid), handle, mode, offset, len).map_err(errno)?;
            }
            Op::Copy { from, offset, to, to_offset, len } => {
                let (from, to) = (self.handle(from)?, self.handle(to)?);
                return staging.copy_range(&ROOT, from, offset, to, to_offset, len).map(Outcome::Count).map_err(errno);
            }
            Op::Fsync { slot } => staging.fsync(self.handle(slot)?, false).map_err(errno)?,
            _ => unreachable!("{op:?}"),
        }
        Ok(Outcome::Done)
    }

    fn resize(&self, handle: Handle, size: u64, uid: u32) -> Result<(), i32> {
        let node = self.staging.node_of(handle).map_err(errno)?;
        let change = SetAttr { size: Some(size), mtime: Some(TimeSet::Now), ..SetAttr::default() };
        self.staging.set_attr(&who(uid), node, Some(handle), &change).map_err(errno).map(drop)
    }

    fn dump(&self) -> Dump {
        let mut dump = Dump::new();
        let mut first: BTreeMap<Ino, Path> = BTreeMap::new();
        self.dump_below(NodeRef::ROOT, &mut Vec::new(), &mut dump, &mut first);
        dump
    }

    fn dump_below(&self, node: NodeRef, path: &mut Path, dump: &mut Dump, first: &mut BTreeMap<Ino, Path>) {
        let attr = self.staging.attr(node, None).unwrap();
        let data = match attr.kind {
            FileKind::Regular => {
                let handle = self.staging.open(&ROOT, node, libc::O_RDONLY).unwrap().handle;
                let data = self.staging.read(handle, 0, u32::MAX).unwrap();
                self.staging.release(handle);
                assert_eq!(data.len() as u64, attr.size);
                data
            }
            FileKind::Symlink => self.staging.read_link(node).unwrap(),
            _ => Vec::new(),
        };
        let names = self.staging.list_xattrs(&ROOT, node).unwrap();
        let xattrs = names.into_iter().map(|name| (name.clone(), self.staging.get_xattr(node, &name).unwrap())).collect();
        let same_as = first.entry(node.ino).or_insert_with(|| path.clone()).clone();
        dump.insert(path.clone(), entry(&attr, data, xattrs, same_as));
        if attr.kind == FileKind::Directory {
            let handle = self.staging.open_dir(node).unwrap();
            let entries = self.staging.read_dir(handle, 2, usize::MAX, false).unwrap();
            self.staging.release_dir(handle);
            for entry in entries {
                path.push(entry.name.to_vec());
                self.dump_below(entry.node, path, dump, first);
                path.pop();
            }
        }
    }

    /// Staging shows what the model does, and its tree is sound.
    fn check(&self, what: &str) {
        // A host file that a slot got for reading may be open for writing: then it stands for a mapping.
        let _when_to_ask_again = self.staging.let_go_of_unmapped(true);
        compare(&self.model.dump(), &self.dump(), what);
        check_tree::check(&self.staging.snapshot().unwrap());
    }

    fn snapshot(&self, version: VersionId) -> Snapshot {
        let root = self.store.catalog().version(version).unwrap().unwrap().root.unwrap();
        let tree = Tree::stored(Arc::clone(self.staging.snapshot().unwrap().tree.nodes()), root);
        Snapshot::new(tree, Arc::clone(&self.store))
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Op(op) if self.model.is_undefined(op) => {}
            Step::Op(op) => {
                let (expected, found) = (self.model.apply(op), self.apply(op));
                assert_eq!(expected, found, "{op:?}");
                for slot in 0..SLOTS {
                    if let Some((data, _)) = self.model.slot(slot) {
                        let found = self.staging.read(self.handles[slot].unwrap(), 0, u32::MAX).unwrap();
                        assert_eq!(data, found, "slot {slot} after {op:?}");
                    }
                }
            }
            Step::Seal => self.seal(),
            Step::FreezeAndDie { synced } => self.freeze_and_die(*synced),
            Step::Discard => {
                self.staging.discard().unwrap();
                let base = self.line.last().unwrap().1.clone();
                self.rolled_back(&base);
            }
            Step::Round { sync } => assert!(!self.staging.write_behind(*sync, false)),
            Step::Look => self.staging.settle_along().unwrap(),
            Step::Rebase => self.rebase(),
            Step::Die { synced } => {
                if *synced {
                    self.staging.sync_all().unwrap();
                }
                self.die(*synced);
            }
        }
    }

    fn seal(&mut self) {
        let Some(frozen) = self.staging.freeze(true).unwrap() else { return };
        let (record, snapshot) = seal::seal(&self.store, &frozen, None, SystemClock.now()).unwrap();
        self.sealed_as(record.version, &snapshot, frozen.is_unchanged());
    }

    fn sealed_as(&mut self, version: VersionId, snapshot: &Snapshot, unchanged: bool) {
        if unchanged {
            // Times of directories where something came and went are forgotten; nothing else may be.
            let base = self.line.last().unwrap().1.clone();
            self.forget(&base);
            return;
        }
        compare(&self.model.dump(), &dump_of(snapshot), "what was sealed");
        check_tree::check(snapshot);
        self.sealed.insert(version, self.model.dump());
        self.line.push((version, self.model.clone()));
    }

    fn rebase(&mut self) {
        if self.line.len() < 2 {
            return;
        }
        let (from, _) = self.line.pop().unwrap();
        let (onto, onto_model) = self.line.last().unwrap().clone();
        let rebased = self.staging.rebase(&self.snapshot(from), &self.snapshot(onto), onto).unwrap();
        self.set_base(onto);
        match rebased.outcome {
            RebaseOutcome::NothingOpen => self.rolled_back(&onto_model),
            RebaseOutcome::Conflict { frozen, paths } => {
                assert!(!paths.is_empty());
                let (record, snapshot) = seal::seal(&self.store, &frozen, None, SystemClock.now()).unwrap();
                compare(&self.model.dump(), &dump_of(&snapshot), "what conflicted");
                self.sealed.insert(record.version, self.model.dump());
                self.set_base(onto);
                self.rolled_back(&onto_model);
            }
            RebaseOutcome::Clean => {
                for slot in 0..SLOTS {
                    if let (Some(handle), Some((data, _))) = (self.handles[slot], self.model.slot(slot)) {
                        match self.staging.read(handle, 0, u32::MAX) {
                            Err(FsError::Stale) => {}
                            read => assert_eq!(read.unwrap(), data, "slot {slot} after a rebase"),
                        }
                    }
                    self.close(slot);
                }
                self.model = Model::from_dump(&self.dump());
            }
        }
    }

    /// As the dispatcher does with its verdicts.
    fn set_base(&self, version: VersionId) {
        let mut transaction = self.store.catalog().begin().unwrap();
        let mut pointers = transaction.pointers().unwrap();
        pointers.base = version;
        transaction.set_pointers(&pointers).unwrap();
        transaction.commit().unwrap();
    }

    /// The model goes back. Slots on files that only a model read from a dump knows are closed on both sides.
    fn forget(&mut self, earlier: &Model) {
        for slot in self.model.roll_back(earlier) {
            self.close(slot);
            self.model.close(slot);
        }
    }

    /// Staging went back to an earlier state: stale handles are closed, others show what the model says.
    fn rolled_back(&mut self, earlier: &Model) {
        self.forget(earlier);
        for slot in 0..SLOTS {
            let Some(handle) = self.handles[slot] else { continue };
            match self.staging.read(handle, 0, u32::MAX) {
                Err(FsError::Stale) => {
                    assert!(matches!(self.staging.fsync(handle, false), Err(FsError::Stale)));
                    self.close(slot);
                    self.model.close(slot);
                }
                read => assert_eq!(read.unwrap(), self.model.slot(slot).unwrap().0, "slot {slot} after a rollback"),
            }
        }
    }

    fn freeze_and_die(&mut self, synced: bool) {
        let Some(frozen) = self.staging.freeze(true).unwrap() else { return };
        if synced {
            self.staging.sync_all().unwrap();
        }
        drop(frozen);
        self.die(synced);
    }

    fn die(&mut self, synced: bool) {
        self.handles = [None; SLOTS];
        self.through = Default::default();
        self.model.close_all();
        let dir = Arc::clone(&self.dir);
        self.reopen(&dir);
        for frozen in self.staging.take_recovered() {
            let (record, snapshot) = seal::seal(&self.store, &frozen, None, SystemClock.now()).unwrap();
            assert!(synced, "only what was made durable comes back frozen");
            self.sealed_as(record.version, &snapshot, frozen.is_unchanged());
        }
        check_tree::check(&self.staging.snapshot().unwrap());
        let (from, onto) = (self.staging.base(), self.line.last().unwrap().0);
        if from != onto {
            assert!(!synced, "the journal knows every rebase that was made durable");
            // As the daemon does at its start: the open version still stands on what was rejected.
            let rebased = self.staging.rebase(&self.snapshot(from), &self.snapshot(onto), onto).unwrap();
            if let RebaseOutcome::Conflict { frozen, .. } = rebased.outcome {
                let _ = seal::seal(&self.store, &frozen, None, SystemClock.now()).unwrap();
                self.set_base(onto);
            }
        }
        if !synced {
            self.model = Model::from_dump(&self.dump());
        }
    }

    fn reopen(&mut self, dir: &tempfile::TempDir) {
        // The old store must be closed before the new one opens: stand-ins take the places.
        let elsewhere = fast_dir();
        let store = Arc::new(Store::init(&elsewhere.path().join("store"), &SystemClock).unwrap());
        let _t0 = import::empty(&store, &SystemClock).unwrap();
        drop(store);
        (self.staging, self.store) = Self::open(&elsewhere, false, None);
        (self.staging, self.store) = Self::open(dir, self.passthrough, self.disk.clone());
    }
}

fn snapshot_of(store: &Arc<Store>, version: VersionId) -> Snapshot {
    let root = store.catalog().version(version).unwrap().unwrap().root.unwrap();
    Snapshot::new(Tree::stored(Nodes::new(Arc::clone(store)), root), Arc::clone(store))
}

fn kind_of(kind: FileKind) -> Kind {
    match kind {
        FileKind::Regular => Kind::File,
        FileKind::Directory => Kind::Dir,
        FileKind::Symlink => Kind::Symlink,
        FileKind::Fifo => Kind::Fifo,
        FileKind::Socket => Kind::Socket,
        FileKind::CharDevice => Kind::Device,
        other => panic!("{other:?}"),
    }
}

fn entry(attr: &Attr, data: Vec<u8>, xattrs: BTreeMap<Name, Vec<u8>>, same_as: Path) -> Entry {
    let time = |time: Timestamp| Some((time.secs, time.nanos));
    let (atime, mtime) = (time(attr.atime), time(attr.mtime));
    Entry {
        kind: kind_of(attr.kind),
        perm: attr.perm,
        uid: attr.uid,
        gid: attr.gid,
        nlink: attr.nlink,
        device: (attr.rdev != 0).then_some((attr.rdev >> 8, attr.rdev & 0xff)),
        data,
        xattrs,
        atime,
        mtime,
        same_as,
    }
}

/// What a sealed version shows.
fn dump_of(snapshot: &Snapshot) -> Dump {
    let mut dump = Dump::new();
    let mut first = BTreeMap::new();
    dump_snapshot(snapshot, Ino::ROOT, &mut Vec::new(), &mut dump, &mut first);
    dump
}

fn dump_snapshot(snapshot: &Snapshot, ino: Ino, path: &mut Path, dump: &mut Dump, first: &mut BTreeMap<Ino, Path>) {
    let record: Arc<InodeRecord> = snapshot.inode(ino).unwrap().unwrap();
    let data = match (&record.kind, &record.content) {
        (FileKind::Symlink, Content::Inline(target)) => target.to_vec(),
        (FileKind::Regular, _) => snapshot.read(ino, 0, usize::try_from(record.size).unwrap()).unwrap(),
        _ => Vec::new(),
    };
    let time = |time: Timestamp| Some((time.secs, time.nanos));
    let xattrs = snapshot.xattrs(ino).unwrap().into_iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
    let entry = Entry {
        kind: kind_of(record.kind),
        perm: record.perm,
        uid: record.uid,
        gid: record.gid,
        nlink: record.nlink,
        device: (record.rdev != 0).then_some((record.rdev >> 8, record.rdev & 0xff)),
        data,
        xattrs,
        atime: time(record.atime),
        mtime: time(record.mtime),
        same_as: first.entry(ino).or_insert_with(|| path.clone()).clone(),
    };
    dump.insert(path.clone(), entry);
    for (name, child, _) in snapshot.entries(ino, 0, usize::MAX).unwrap() {
        path.push(name.to_vec());
        dump_snapshot(snapshot, child, path, dump, first);
        path.pop();
    }
}

/// In passthrough are files of one host file that no version has yet: large ones, and seals that come late.
fn step(passthrough: bool, focus: Focus) -> impl Strategy<Value = Step> {
    let uids = if passthrough { &model::UIDS[..1] } else { &model::UIDS };
    let (unit, ops) = if passthrough { (61, 120) } else { (13, 40) };
    prop_oneof![
        ops => model::op(unit, uids, focus).prop_map(Step::Op),
        4 => Just(Step::Seal),
        1 => any::<bool>().prop_map(|synced| Step::FreezeAndDie { synced }),
        1 => Just(Step::Discard),
        2 => Just(Step::Rebase),
        1 => any::<bool>().prop_map(|sync| Step::Round { sync }),
        1 => Just(Step::Look),
        1 => any::<bool>().prop_map(|synced| Step::Die { synced }),
    ]
}

fn run(steps: &[Step], passthrough: bool) {
    let mut real = Real::new(passthrough);
    for (at, step) in steps.iter().enumerate() {
        real.step(step);
        if !matches!(step, Step::Op(_)) || at % 8 == 0 {
            real.check(&format!("after step {at}, {step:?}"));
        }
    }
    real.check("at the end");
    for (version, dump) in &real.sealed {
        compare(dump, &dump_of(&real.snapshot(*version)), &format!("{version} at the end"));
    }
}

fn many(passthrough: bool) {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(128);
    let mut runner = TestRunner::new(Config { cases, max_shrink_iters: 1000, failure_persistence: None, ..Config::default() });
    let steps = |focus| prop::collection::vec(step(passthrough, focus), 1..120);
    let steps = prop_oneof![1 => steps(Focus::Names), 2 => steps(Focus::Bytes)];
    let test = |steps: Vec<Step>| {
        run(&steps, passthrough);
        Ok(())
    };
    runner.run(&steps, test).unwrap();
}

#[test]
fn random_operations_agree_with_the_model() {
    many(false);
}

/// Reads and writes of handles in passthrough go to the host file behind staging's back, by root: such a write drops no set-id bits.
#[test]
fn random_operations_agree_with_the_model_in_passthrough() {
    many(true);
}
