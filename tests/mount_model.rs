//! Random operations through a real mount beside the reference model, with seals, verdicts and rollbacks between.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "common/model.rs"]
mod model;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path as HostPath, PathBuf};

use common::Sandbox;
use model::{Dump, Entry, Fallocate, Focus, Kind, Model, Op, Outcome, Path, Rename, SLOTS, compare};
use nix::fcntl::{AT_FDCWD, AtFlags, FallocateFlags, RenameFlags};
use nix::sys::stat::{FchmodatFlags, Mode, UtimensatFlags};
use nix::sys::time::TimeSpec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rustix::fs::XattrFlags;

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
    /// `commit --wait`: it is valid.
    Seal,
    /// The same with what the check refuses: staging goes back to the last valid version.
    Reject,
}

/// A directory of staging and the model of it.
struct Beside<'a> {
    sandbox: &'a Sandbox,
    name: String,
    model: Model,
    /// As the last valid version has it.
    valid: Model,
    slots: [Option<File>; SLOTS],
}

type Answer = Result<Outcome, i32>;

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
            Op::Create { path, mode, slot, .. } => Op::Create { path, mode, slot, uid: 0 },
            Op::Mkdir { path, mode, .. } => Op::Mkdir { path, mode: mode & 0o1777, uid: 0 },
            Op::Mkfifo { path, mode } => Op::Mkfifo { path, mode: mode & 0o777 },
            Op::Write { slot, offset, len, seed, .. } => Op::Write { slot, offset, len, seed, uid: 0 },
            Op::Truncate { path, size, .. } if kind(&path).is_none_or(|kind| !kind.is_symlink()) => Op::Truncate { path, size, uid: 0 },
            // These follow a symlink, a directory can be opened for reading, and a named pipe would wait for its other end.
            Op::Truncate { .. } => return None,
            Op::List { ref path } if kind(path).is_some_and(|kind| kind.is_symlink()) => return None,
            Op::Open { ref path, write, .. } if kind(path).is_some_and(|kind| kind.is_fifo() || (kind.is_dir() && !write)) => return None,
            // The kernel cuts the length to the file before it looks for an overlap.
            Op::Copy { from, to, .. } if self.ino(from).is_some() && self.ino(from) == self.ino(to) => return None,
            op => op,
        })
    }

    fn ino(&self, slot: usize) -> Option<u64> {
        self.slots[slot].as_ref().map(|file| file.metadata().unwrap().ino())
    }

    fn slot(&self, slot: usize) -> Result<&File, i32> {
        self.slots[slot].as_ref().ok_or(libc::EBADF)
    }

    fn apply(&mut self, op: &Op) -> Answer {
        match op {
            Op::Create { path, mode, slot, .. } => {
                let mut options = OpenOptions::new();
                let opened = options.read(true).write(true).create_new(true).mode(*mode).open(self.at(path));
                self.slots[*slot] = Some(code(opened)?);
                Ok(Outcome::Done)
            }
            Op::Mkdir { path, mode, .. } => nothing(code(DirBuilder::new().mode(*mode).create(self.at(path)))),
            Op::Mkfifo { path, mode } => nothing(os(nix::unistd::mkfifo(&self.at(path), Mode::from_bits_truncate(*mode)))),
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
                let (atime, mtime) = (TimeSpec::new(atime.0, i64::from(atime.1)), TimeSpec::new(mtime.0, i64::from(mtime.1)));
                let flags = UtimensatFlags::NoFollowSymlink;
                nothing(os(nix::sys::stat::utimensat(AT_FDCWD, &self.at(path), &atime, &mtime, flags)))
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
            Op::Open { ref path, slot, write, append, truncate } => {
                let mut options = OpenOptions::new();
                // `append` of the standard library leaves reading away and refuses `truncate`: the flags as they are.
                let flags =
                    libc::O_NOFOLLOW | if write && append { libc::O_APPEND } else { 0 } | if write && truncate { libc::O_TRUNC } else { 0 };
                self.slots[slot] = Some(code(options.read(true).write(write).custom_flags(flags).open(self.at(path)))?);
            }
            Op::Close { slot } => drop(self.slots[slot].take().ok_or(libc::EBADF)?),
            Op::Read { slot, offset, len } => {
                let mut bytes = vec![0; len];
                let read = code(self.slot(slot)?.read_at(&mut bytes, offset))?;
                bytes.truncate(read);
                return Ok(Outcome::Bytes(bytes));
            }
            Op::Write { slot, offset, len, seed, .. } => {
                let written = code(self.slot(slot)?.write_at(&model::bytes(seed, len), offset))?;
                return Ok(Outcome::Count(written as u64));
            }
            Op::Resize { slot, size } => {
                // ftruncate(2) calls a file that is not open for writing EINVAL.
                code(self.slot(slot)?.set_len(size)).map_err(|errno| if errno == libc::EINVAL { libc::EBADF } else { errno })?;
            }
            Op::Fallocate { slot, how, offset, len } => {
                let keep = FallocateFlags::FALLOC_FL_KEEP_SIZE;
                let flags = match how {
                    Fallocate::Extend => FallocateFlags::empty(),
                    Fallocate::KeepSize => keep,
                    Fallocate::Punch => FallocateFlags::FALLOC_FL_PUNCH_HOLE | keep,
                    Fallocate::Zero => FallocateFlags::FALLOC_FL_ZERO_RANGE,
                    Fallocate::ZeroKeepSize => FallocateFlags::FALLOC_FL_ZERO_RANGE | keep,
                };
                let (offset, len) = (i64::try_from(offset).unwrap(), i64::try_from(len).unwrap());
                os(nix::fcntl::fallocate(self.slot(slot)?, flags, offset, len))?;
            }
            Op::Copy { from, offset, to, to_offset, len } => {
                let (mut offset, mut to_offset) = (i64::try_from(offset).unwrap(), i64::try_from(to_offset).unwrap());
                let (from, to) = (self.slot(from)?, self.slot(to)?);
                let copied = nix::fcntl::copy_file_range(from, Some(&mut offset), to, Some(&mut to_offset), usize::try_from(len).unwrap());
                return copied.map(|n| Outcome::Count(n as u64)).map_err(|errno| errno as i32);
            }
            Op::Fsync { slot } => code(self.slot(slot)?.sync_all())?,
            _ => unreachable!("{op:?}"),
        }
        Ok(Outcome::Done)
    }

    fn close_all(&mut self) {
        self.slots = Default::default();
        self.model.close_all();
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Op(op) => {
                let Some(op) = self.asked(op.clone()) else { return };
                let (expected, found) = (self.model.apply(&op), self.apply(&op));
                assert_eq!(expected, found, "{op:?}");
                for slot in 0..SLOTS {
                    let Some((data, _)) = self.model.slot(slot) else { continue };
                    let mut found = vec![0; data.len() + 1];
                    let read = self.slots[slot].as_ref().unwrap().read_at(&mut found, 0).unwrap();
                    found.truncate(read);
                    assert!(data == found, "slot {slot} after {op:?}");
                }
            }
            Step::Seal => {
                self.close_all();
                self.check("before the seal");
                let before = self.sandbox.status()["latest"].clone();
                self.sandbox.on(["commit", "--wait"]).expect(0);
                if self.sandbox.status()["latest"] == before {
                    // What came and went is no change; the times of the directories where it did are forgotten with it.
                    self.model = self.valid.clone();
                } else {
                    self.valid = self.model.clone();
                }
                self.check("after the seal");
                let sealed = self.sandbox.mnt().join("versions/latest").join(&self.name);
                compare(&self.model.dump(), &dump(&sealed), "what was sealed");
            }
            Step::Reject => {
                self.close_all();
                fs::write(self.sandbox.staging().join(".bad"), "").unwrap();
                self.sandbox.on(["commit", "--wait"]).expect(3);
                self.model = self.valid.clone();
                self.check("after the rollback");
            }
        }
    }

    #[track_caller]
    fn check(&self, what: &str) {
        compare(&self.model.dump(), &dump(&self.at(&Vec::new())), what);
    }
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
        _ => Kind::File,
    };
    let data = match kind {
        Kind::File => fs::read(at).unwrap(),
        Kind::Symlink => fs::read_link(at).unwrap().as_os_str().as_bytes().to_vec(),
        Kind::Dir | Kind::Fifo => Vec::new(),
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
            24 => model::op(UNIT, &[0], focus).prop_map(Step::Op),
            1 => Just(Step::Seal),
            1 => Just(Step::Reject),
        ];
        prop::collection::vec(step, 1..60)
    };
    prop_oneof![of(Focus::Names), of(Focus::Bytes)]
}

#[test]
fn a_mount_does_what_the_model_does() {
    assert!(nix::unistd::geteuid().is_root(), "owners, trusted attributes and passthrough are root's: run as root");
    nix::sys::stat::umask(Mode::from_bits_truncate(model::UMASK));
    let sandbox = Sandbox::new();
    sandbox.init(CONFIG).mount();
    // SHADOWFS_MODEL_CASES asks for more.
    let cases = std::env::var("SHADOWFS_MODEL_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(48);
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, max_shrink_iters: 300, ..Config::default() });
    let number = std::cell::Cell::new(0);
    let result = runner.run(&steps(), |steps| {
        number.set(number.get() + 1);
        let mut beside = Beside::new(&sandbox, format!("case-{}", number.get()));
        steps.iter().for_each(|step| beside.step(step));
        beside.step(&Step::Seal);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    sandbox.unmount();
}
