//! Random operations through a real mount beside the reference model, with seals, verdicts and rollbacks between.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "common/model/mod.rs"]
mod model;
#[path = "common/raw.rs"]
mod raw;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path as HostPath, PathBuf};

use common::Sandbox;
use common::overlay::Overlay;
use model::{Answer, Claim, Dump, Entry, Fallocate, Focus, Kind, Lock, Model, Op, OpenHow, Outcome, Path, Rename, SLOTS, compare};
use nix::fcntl::{AT_FDCWD, AtFlags, FallocateFlags, FcntlArg, RenameFlags};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, UtimensatFlags};
use nix::sys::time::TimeSpec;
use nix::unistd::Whence;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use raw::{Aligned, Mapping, acting_as};
use rustix::fs::{FlockOperation, XattrFlags};

/// Nothing is sealed but by `commit`; a version with a file `.bad` anywhere in its root is rejected at once.
const CONFIG: &str = r#"
[staging]
settle = "1h"
max_open = "10h"
[checks]
rollback_threshold = 0
retries = 0
[[check]]
name = "bad"
run = ["sh", "-c", "! test -e .bad"]
[promotion]
window = "10ms"
"#;

/// A unit of offsets: the largest files are past what is kept in memory and packed.
const UNIT: u64 = 20_000;

#[derive(Clone, Debug)]
enum Step {
    Op(Op),
    /// `commit --wait`: it is valid. Files stay open, or are closed before.
    Seal {
        close: bool,
    },
    /// The same with what the check refuses: staging goes back to the last valid version.
    Reject {
        close: bool,
    },
}

/// A directory of staging and the model of it.
struct Beside<'a> {
    sandbox: &'a Sandbox,
    name: String,
    model: Model,
    /// As the last valid version has it.
    valid: Model,
    slots: [Option<Slot>; SLOTS],
}

/// An open file.
struct Slot {
    file: File,
    /// Opened with `O_DIRECT`.
    direct: bool,
}

impl Slot {
    /// pread(2).
    fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, i32> {
        let mut buffer = Aligned::new(if self.direct { len.next_multiple_of(Aligned::UNIT) } else { len });
        let read = code(self.file.read_at(buffer.bytes_mut(), offset))?;
        Ok(buffer.bytes()[..read].to_vec())
    }

    /// pwrite(2).
    fn write(&self, offset: u64, data: &[u8]) -> Result<Outcome, i32> {
        let mut buffer = Aligned::new(data.len());
        buffer.bytes_mut().copy_from_slice(data);
        Ok(Outcome::Count(code(self.file.write_at(buffer.bytes(), offset))? as u64))
    }

    fn len(&self) -> u64 {
        self.file.metadata().unwrap().len()
    }

    /// As `SEEK_DATA` and `SEEK_HOLE` show the file.
    fn sparse(&self, offset: u64) -> Answer {
        let size = self.len();
        let seek = |at: u64, whence| {
            let found = nix::unistd::lseek(&self.file, i64::try_from(at).unwrap(), whence);
            found.map(|at| u64::try_from(at).unwrap()).map_err(|errno| errno as i32)
        };
        let mut bytes = Vec::new();
        while offset + (bytes.len() as u64) < size {
            let data = match seek(offset + bytes.len() as u64, Whence::SeekData) {
                Err(libc::ENXIO) => size,
                data => data?,
            };
            bytes.resize(usize::try_from(data - offset).unwrap(), 0);
            if data < size {
                let hole = seek(data, Whence::SeekHole)?;
                assert!(hole > data && hole <= size, "a hole at {hole} after data at {data} of {size}");
                // Whole blocks, for O_DIRECT.
                let (from, unit) = (data / Aligned::UNIT as u64 * Aligned::UNIT as u64, usize::try_from(hole - data).unwrap());
                let skipped = usize::try_from(data - from).unwrap();
                let read = self.read(from, skipped + unit)?;
                bytes.extend(&read[skipped..skipped + unit]);
            }
        }
        if bytes.is_empty() { seek(offset, Whence::SeekData).map(Outcome::Count) } else { Ok(Outcome::Bytes(bytes)) }
    }

    fn lock(&self, lock: Lock) -> Answer {
        let range = |claim, from: u64, len: u64| libc::flock {
            l_type: match claim {
                Claim::Shared => libc::F_RDLCK,
                Claim::Exclusive => libc::F_WRLCK,
                Claim::None => libc::F_UNLCK,
            } as i16,
            l_whence: libc::SEEK_SET as i16,
            l_start: i64::try_from(from).unwrap(),
            l_len: i64::try_from(len).unwrap(),
            l_pid: 0,
        };
        let done = match lock {
            Lock::Whole(claim) => {
                let operation = match claim {
                    Claim::Shared => FlockOperation::NonBlockingLockShared,
                    Claim::Exclusive => FlockOperation::NonBlockingLockExclusive,
                    Claim::None => FlockOperation::NonBlockingUnlock,
                };
                return nothing(rustix::fs::flock(&self.file, operation).map_err(|error| error.raw_os_error()));
            }
            Lock::OfProcess { claim, from, len } => nix::fcntl::fcntl(&self.file, FcntlArg::F_SETLK(&range(claim, from, len))),
            Lock::OfFile { claim, from, len } => nix::fcntl::fcntl(&self.file, FcntlArg::F_OFD_SETLK(&range(claim, from, len))),
        };
        nothing(os(done.map(drop)))
    }

    /// Stores into a mapping, as far as the file goes, and looks at what the mapping shows.
    fn store(&self, offset: u64, len: usize, seed: u8, shared: bool) -> Answer {
        let size = usize::try_from(self.len()).unwrap();
        let from = usize::try_from(offset).unwrap();
        let len = len.min(size.saturating_sub(from));
        // A file without bytes can't be mapped: who may not is found out all the same.
        let mut mapping = Mapping::new(&self.file, size.max(1), shared, true)?;
        mapping.bytes_mut()[from.min(size)..from.min(size) + len].copy_from_slice(&model::bytes(seed, len));
        assert!(mapping.bytes()[from.min(size)..from.min(size) + len] == model::bytes(seed, len));
        mapping.sync()?;
        Ok(Outcome::Count(len as u64))
    }
}

fn os(result: nix::Result<()>) -> Result<(), i32> {
    result.map_err(|errno| errno as i32)
}

fn code<T>(result: io::Result<T>) -> Result<T, i32> {
    result.map_err(|error| error.raw_os_error().unwrap())
}

fn nothing(result: Result<(), i32>) -> Answer {
    result.map(|()| Outcome::Done)
}

impl<'a> Beside<'a> {
    fn new(sandbox: &'a Sandbox, name: String) -> Self {
        DirBuilder::new().mode(0o755).create(sandbox.staging().join(&name)).unwrap();
        sandbox.on(["commit", "--wait"]).expect(0);
        let model = Model::new(0o755);
        Self { sandbox, name, valid: model.clone(), model, slots: Default::default() }
    }

    fn at(&self, path: &Path) -> PathBuf {
        let mut at = self.sandbox.staging().join(&self.name);
        at.extend(path.iter().map(|name| OsStr::from_bytes(name)));
        at
    }

    /// The operation as it can be asked through the kernel, or `None` where the kernel itself answers otherwise than the core is asked.
    fn asked(&self, op: Op) -> Option<Op> {
        let kind = |path: &Path| fs::symlink_metadata(self.at(path)).map(|meta| meta.file_type()).ok();
        Some(match op {
            // Another user's rights are the kernel's to judge: root asks. mkdir(2) and mknod(2) take no set-id bits.
            Op::Create { ref path, exclusive: false, .. } if kind(path).is_some_and(|kind| !kind.is_file()) => return None,
            Op::Create { path, mode, slot, exclusive, .. } => Op::Create { path, mode, slot, uid: 0, exclusive },
            Op::Mkdir { path, mode, .. } => Op::Mkdir { path, mode: mode & 0o1777, uid: 0 },
            Op::Mknod { path, kind, mode } => Op::Mknod { path, kind, mode: mode & 0o777 },
            // Whole blocks where the file is open for such.
            Op::Read { slot, offset, len } if self.is_direct(slot) => {
                Op::Read { slot, offset: whole(offset), len: len.next_multiple_of(Aligned::UNIT) }
            }
            Op::Write { slot, offset, len, seed, uid } if self.is_direct(slot) => {
                Op::Write { slot, offset: whole(offset), len: len.next_multiple_of(Aligned::UNIT), seed, uid }
            }
            Op::Truncate { path, size, .. } if kind(&path).is_none_or(|kind| !kind.is_symlink()) => Op::Truncate { path, size, uid: 0 },
            // These follow a symlink, a directory can be opened for reading, and a named pipe would wait for its other end.
            Op::Truncate { .. } => return None,
            Op::List { ref path } if kind(path).is_some_and(|kind| kind.is_symlink()) => return None,
            Op::Open { ref path, how, .. } if kind(path).is_some_and(|kind| is_special(kind) || (kind.is_dir() && !how.write)) => {
                return None;
            }
            op => op,
        })
    }

    fn is_direct(&self, slot: usize) -> bool {
        self.slots[slot].as_ref().is_some_and(|slot| slot.direct)
    }

    fn slot(&self, slot: usize) -> Result<&Slot, i32> {
        self.slots[slot].as_ref().ok_or(libc::EBADF)
    }

    fn open(&mut self, options: &mut OpenOptions, path: &Path, slot: usize, direct: bool) -> Answer {
        let file = code(options.open(self.at(path)))?;
        self.slots[slot] = Some(Slot { file, direct });
        Ok(Outcome::Done)
    }

    fn apply(&mut self, op: &Op) -> Answer {
        match op {
            Op::Create { path, mode, slot, exclusive, .. } => {
                let mut options = OpenOptions::new();
                options.read(true).write(true).create(true).create_new(*exclusive).truncate(false).mode(*mode);
                self.open(options.custom_flags(libc::O_NOFOLLOW), path, *slot, false)
            }
            Op::Mkdir { path, mode, .. } => nothing(code(DirBuilder::new().mode(*mode).create(self.at(path)))),
            Op::Mknod { path, kind, mode } => {
                let (kind, device) = match kind {
                    Kind::Fifo => (SFlag::S_IFIFO, 0),
                    Kind::Socket => (SFlag::S_IFSOCK, 0),
                    _ => (SFlag::S_IFCHR, nix::sys::stat::makedev(model::DEVICE.0.into(), model::DEVICE.1.into())),
                };
                nothing(os(nix::sys::stat::mknod(&self.at(path), kind, Mode::from_bits_truncate(*mode), device)))
            }
            Op::Symlink { path, target } => nothing(code(std::os::unix::fs::symlink(OsStr::from_bytes(target), self.at(path)))),
            Op::Link { from, to } => nothing(code(fs::hard_link(self.at(from), self.at(to)))),
            Op::Unlink { path } => nothing(os(nix::unistd::unlink(&self.at(path)))),
            Op::Rmdir { path } => nothing(code(fs::remove_dir(self.at(path)))),
            Op::Rename { from, to, how } => {
                let flags = match how {
                    Rename::Replace => RenameFlags::empty(),
                    Rename::NoReplace => RenameFlags::RENAME_NOREPLACE,
                    Rename::Exchange => RenameFlags::RENAME_EXCHANGE,
                };
                nothing(os(nix::fcntl::renameat2(AT_FDCWD, &self.at(from), AT_FDCWD, &self.at(to), flags)))
            }
            Op::Chmod { path, mode } => {
                let mode = Mode::from_bits_truncate(u32::from(*mode));
                nothing(os(nix::sys::stat::fchmodat(AT_FDCWD, &self.at(path), mode, FchmodatFlags::NoFollowSymlink)))
            }
            Op::Chown { path, uid, gid } => {
                let (uid, gid) = (nix::unistd::Uid::from_raw(*uid), nix::unistd::Gid::from_raw(*gid));
                nothing(os(nix::unistd::fchownat(AT_FDCWD, &self.at(path), Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)))
            }
            Op::Truncate { path, size, .. } => nothing(os(nix::unistd::truncate(&self.at(path), i64::try_from(*size).unwrap()))),
            Op::Times { path, atime, mtime } => {
                let time =
                    |time: &Option<model::Time>| time.map_or(TimeSpec::UTIME_OMIT, |(secs, nanos)| TimeSpec::new(secs, i64::from(nanos)));
                let flags = UtimensatFlags::NoFollowSymlink;
                nothing(os(nix::sys::stat::utimensat(AT_FDCWD, &self.at(path), &time(atime), &time(mtime), flags)))
            }
            Op::SetXattr { path, name, value, create, replace } => {
                let flags = match (create, replace) {
                    (true, _) => XattrFlags::CREATE,
                    (_, true) => XattrFlags::REPLACE,
                    _ => XattrFlags::empty(),
                };
                nothing(rustix::fs::lsetxattr(self.at(path), name.as_slice(), value, flags).map_err(|error| error.raw_os_error()))
            }
            Op::RemoveXattr { path, name } => {
                nothing(rustix::fs::lremovexattr(self.at(path), name.as_slice()).map_err(|error| error.raw_os_error()))
            }
            Op::SetAcl { path, default, acl } => {
                let name: &[u8] = if *default { b"system.posix_acl_default" } else { b"system.posix_acl_access" };
                let done = match acl {
                    Some(acl) => rustix::fs::lsetxattr(self.at(path), name, &acl.to_bytes(), XattrFlags::empty()),
                    None => rustix::fs::lremovexattr(self.at(path), name),
                };
                nothing(done.map_err(|error| error.raw_os_error()))
            }
            Op::List { path } => {
                let entries = code(fs::read_dir(self.at(path)))?;
                let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().as_bytes().to_vec()).collect();
                names.sort();
                Ok(Outcome::Names(names))
            }
            _ => self.apply_to_slot(op),
        }
    }

    fn apply_to_slot(&mut self, op: &Op) -> Answer {
        match *op {
            Op::Open { ref path, slot, how: OpenHow { write, append, truncate, direct } } => {
                let flag = |on: bool, flag: i32| if on { flag } else { 0 };
                // `append` of the standard library leaves reading away and refuses `truncate`: the flags as they are.
                let flags = libc::O_NOFOLLOW | flag(append, libc::O_APPEND) | flag(truncate, libc::O_TRUNC) | flag(direct, libc::O_DIRECT);
                return self.open(OpenOptions::new().read(true).write(write).custom_flags(flags), path, slot, direct);
            }
            Op::Close { slot } => drop(self.slots[slot].take().ok_or(libc::EBADF)?),
            Op::Read { slot, offset, len } => return self.slot(slot)?.read(offset, len).map(Outcome::Bytes),
            Op::Sparse { slot, offset } => return self.slot(slot)?.sparse(offset),
            Op::Lock { slot, lock } => return self.slot(slot)?.lock(lock),
            Op::ReadMap { slot, shared } => {
                let slot = self.slot(slot)?;
                let size = usize::try_from(slot.len()).unwrap();
                let mapping = Mapping::new(&slot.file, size.max(1), shared, false)?;
                return Ok(Outcome::Bytes(mapping.bytes()[..size].to_vec()));
            }
            Op::Map { slot, offset, len, seed, shared } => return self.slot(slot)?.store(offset, len, seed, shared),
            Op::Write { slot, offset, len, seed, uid } => {
                let slot = self.slot(slot)?;
                return acting_as(uid, || slot.write(offset, &model::bytes(seed, len)));
            }
            Op::Resize { slot, size, uid } => {
                let slot = self.slot(slot)?;
                // ftruncate(2) calls a file that is not open for writing EINVAL.
                let done = acting_as(uid, || slot.file.set_len(size));
                code(done).map_err(|errno| if errno == libc::EINVAL { libc::EBADF } else { errno })?;
            }
            Op::Fallocate { slot, how, offset, len, uid } => {
                let keep = FallocateFlags::FALLOC_FL_KEEP_SIZE;
                let flags = match how {
                    Fallocate::Extend => FallocateFlags::empty(),
                    Fallocate::KeepSize => keep,
                    Fallocate::Punch => FallocateFlags::FALLOC_FL_PUNCH_HOLE | keep,
                    Fallocate::Zero => FallocateFlags::FALLOC_FL_ZERO_RANGE,
                    Fallocate::ZeroKeepSize => FallocateFlags::FALLOC_FL_ZERO_RANGE | keep,
                    Fallocate::Collapse => FallocateFlags::FALLOC_FL_COLLAPSE_RANGE,
                    Fallocate::Insert => FallocateFlags::FALLOC_FL_INSERT_RANGE,
                };
                let (offset, len) = (i64::try_from(offset).unwrap(), i64::try_from(len).unwrap());
                let slot = self.slot(slot)?;
                os(acting_as(uid, || nix::fcntl::fallocate(&slot.file, flags, offset, len)))?;
            }
            Op::Copy { from, offset, to, to_offset, len } => {
                let (mut offset, mut to_offset) = (i64::try_from(offset).unwrap(), i64::try_from(to_offset).unwrap());
                let (from, to) = (&self.slot(from)?.file, &self.slot(to)?.file);
                let copied = nix::fcntl::copy_file_range(from, Some(&mut offset), to, Some(&mut to_offset), usize::try_from(len).unwrap());
                return copied.map(|n| Outcome::Count(n as u64)).map_err(|errno| errno as i32);
            }
            Op::Fsync { slot } => code(self.slot(slot)?.file.sync_all())?,
            _ => unreachable!("{op:?}"),
        }
        Ok(Outcome::Done)
    }

    fn close_all(&mut self) {
        self.slots = Default::default();
        self.model.close_all();
    }

    fn close(&mut self, slot: usize) {
        self.slots[slot] = None;
        self.model.close(slot);
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Op(op) => {
                let Some(op) = self.asked(op.clone()).filter(|op| !self.model.is_undefined(op)) else { return };
                let (expected, found) = (self.model.apply(&op), self.apply(&op));
                assert_eq!(expected, found, "{op:?}");
                self.check_slots(&format!("after {op:?}"));
            }
            Step::Seal { close } => {
                self.before(*close, "before the seal");
                let before = self.sandbox.status()["latest"].clone();
                self.sandbox.on(["commit", "--wait"]).expect(0);
                if self.sandbox.status()["latest"] == before {
                    // What came and went is no change; the times of the directories where it did are forgotten with it.
                    self.went_back();
                } else {
                    self.valid = self.model.clone();
                }
                self.check("after the seal");
                self.check_slots("after the seal");
                let sealed = self.sandbox.mnt().join("versions/latest").join(&self.name);
                compare(&self.model.dump(), &dump(&sealed), "what was sealed");
            }
            Step::Reject { close } => {
                self.before(*close, "before the rollback");
                fs::write(self.sandbox.staging().join(".bad"), "").unwrap();
                self.sandbox.on(["commit", "--wait"]).expect(3);
                self.went_back();
                self.check("after the rollback");
            }
        }
    }

    fn before(&mut self, close: bool, what: &str) {
        if close {
            self.close_all();
        }
        self.check(what);
    }

    /// Staging shows the last valid version. Files whose bytes went down are stale, and closed then; the others are as they were.
    fn went_back(&mut self) {
        for slot in self.model.roll_back(&self.valid) {
            self.close(slot);
        }
        for slot in 0..SLOTS {
            let Some(open) = &self.slots[slot] else { continue };
            match code(open.file.sync_all()) {
                Err(libc::ESTALE) => self.close(slot),
                synced => synced.unwrap(),
            }
        }
        self.check_slots("after the rollback");
    }

    #[track_caller]
    fn check_slots(&self, what: &str) {
        for slot in 0..SLOTS {
            let Some((data, _)) = self.model.slot(slot) else { continue };
            let found = self.slot(slot).unwrap().read(0, data.len() + 1).unwrap();
            assert!(data == found, "slot {slot} {what}");
        }
    }

    #[track_caller]
    fn check(&mut self, what: &str) {
        let found = dump(&self.at(&Vec::new()));
        self.model.all_were_read();
        compare(&self.model.dump(), &found, what);
    }
}

/// The start of the block that an offset is in.
const fn whole(offset: u64) -> u64 {
    offset / Aligned::UNIT as u64 * Aligned::UNIT as u64
}

fn is_special(kind: fs::FileType) -> bool {
    kind.is_fifo() || kind.is_socket() || kind.is_char_device()
}

/// Everything below a directory, as the kernel tells it.
fn dump(root: &HostPath) -> Dump {
    let mut found: BTreeMap<Path, PathBuf> = BTreeMap::new();
    let mut todo = vec![(Path::new(), root.to_owned())];
    while let Some((path, at)) = todo.pop() {
        if fs::symlink_metadata(&at).unwrap().is_dir() {
            for entry in fs::read_dir(&at).unwrap() {
                let entry = entry.unwrap();
                let mut below = path.clone();
                below.push(entry.file_name().as_bytes().to_vec());
                todo.push((below, entry.path()));
            }
        }
        found.insert(path, at);
    }
    let mut first: BTreeMap<u64, Path> = BTreeMap::new();
    let entries = found.into_iter().map(|(path, at)| {
        let meta = fs::symlink_metadata(&at).unwrap();
        let same_as = first.entry(meta.ino()).or_insert_with(|| path.clone()).clone();
        (path, entry(&at, &meta, same_as))
    });
    entries.collect()
}

fn entry(at: &HostPath, meta: &fs::Metadata, same_as: Path) -> Entry {
    let kind = match meta.file_type() {
        kind if kind.is_dir() => Kind::Dir,
        kind if kind.is_symlink() => Kind::Symlink,
        kind if kind.is_fifo() => Kind::Fifo,
        kind if kind.is_socket() => Kind::Socket,
        kind if kind.is_char_device() => Kind::Device,
        _ => Kind::File,
    };
    let data = match kind {
        Kind::File => fs::read(at).unwrap(),
        Kind::Symlink => fs::read_link(at).unwrap().as_os_str().as_bytes().to_vec(),
        Kind::Dir | Kind::Fifo | Kind::Socket | Kind::Device => Vec::new(),
    };
    let mut names = vec![0; 4096];
    let listed = rustix::fs::llistxattr(at, names.as_mut_slice()).unwrap();
    let names = names[..listed].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let xattrs = names.map(|name| {
        let mut value = vec![0; 4096];
        let len = rustix::fs::lgetxattr(at, name, value.as_mut_slice()).unwrap();
        value.truncate(len);
        (name.to_vec(), value)
    });
    let time = |secs: i64, nanos: i64| Some((secs, u32::try_from(nanos).unwrap()));
    Entry {
        kind,
        perm: u16::try_from(meta.mode() & 0o7777).unwrap(),
        uid: meta.uid(),
        gid: meta.gid(),
        nlink: u32::try_from(meta.nlink()).unwrap(),
        device: (meta.rdev() != 0).then(|| (libc::major(meta.rdev()), libc::minor(meta.rdev()))),
        data,
        xattrs: xattrs.collect(),
        atime: time(meta.atime(), meta.atime_nsec()),
        mtime: time(meta.mtime(), meta.mtime_nsec()),
        same_as,
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let of = |focus| {
        let step = prop_oneof![
            24 => model::op(UNIT, &model::UIDS, focus).prop_map(Step::Op),
            3 => model::lock().prop_map(Step::Op),
            1 => any::<bool>().prop_map(|close| Step::Seal { close }),
            1 => any::<bool>().prop_map(|close| Step::Reject { close }),
        ];
        prop::collection::vec(step, 1..60)
    };
    prop_oneof![of(Focus::Names), of(Focus::Bytes)]
}

fn agrees_with_the_model(sandbox: &Sandbox, mode: Option<&str>) {
    assert!(nix::unistd::geteuid().is_root(), "owners, trusted attributes and passthrough are root's: run as root");
    nix::sys::stat::umask(Mode::from_bits_truncate(model::UMASK));
    sandbox.init(CONFIG).mount();
    if let Some(mode) = mode {
        assert_eq!(sandbox.status()["mode"], mode);
    }
    // SHADOWFS_MODEL_CASES asks for more.
    let cases = std::env::var("SHADOWFS_MODEL_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(32);
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, max_shrink_iters: 300, ..Config::default() });
    let number = std::cell::Cell::new(0);
    let result = runner.run(&steps(), |steps| {
        number.set(number.get() + 1);
        let mut beside = Beside::new(sandbox, format!("case-{}", number.get()));
        steps.iter().for_each(|step| beside.step(step));
        beside.step(&Step::Seal { close: true });
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    sandbox.unmount();
}

/// In passthrough, where the kernel can.
#[test]
fn a_mount_does_what_the_model_does() {
    agrees_with_the_model(&Sandbox::new(), None);
}

#[test]
fn a_mount_without_passthrough_does_what_the_model_does() {
    let sandbox = Sandbox::new();
    let _overlay = Overlay::at(sandbox.store());
    // Dropped before what it stands on.
    let sandbox = sandbox;
    agrees_with_the_model(&sandbox, Some("cached"));
}
