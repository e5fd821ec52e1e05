//! A filesystem as plain maps: the oracle that random operations are compared with, on the core and through a mount.
//!
//! What a driver compares is a [`Dump`]: every path with all that `stat`, `read`, `readlink` and `getxattr` say. Operations name paths and
//! a few slots for open files; both sides answer with an [`Outcome`] or an errno.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

pub const SLOTS: usize = 3;
pub const UMASK: u32 = 0o022;
/// Who asks: root, and a user.
pub const UIDS: [u32; 2] = [0, 1000];

pub type Name = Vec<u8>;
pub type Path = Vec<Name>;
pub type Time = (i64, u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Dir,
    Symlink,
    Fifo,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rename {
    Replace,
    NoReplace,
    Exchange,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallocate {
    Extend,
    KeepSize,
    Punch,
    Zero,
    ZeroKeepSize,
}

#[derive(Clone, Debug)]
pub enum Op {
    Create { path: Path, mode: u32, slot: usize, uid: u32 },
    Mkdir { path: Path, mode: u32, uid: u32 },
    Mkfifo { path: Path, mode: u32 },
    Symlink { path: Path, target: Name },
    Link { from: Path, to: Path },
    Unlink { path: Path },
    Rmdir { path: Path },
    Rename { from: Path, to: Path, how: Rename },
    Chmod { path: Path, mode: u16 },
    Chown { path: Path, uid: u32, gid: u32 },
    Truncate { path: Path, size: u64, uid: u32 },
    Times { path: Path, atime: Time, mtime: Time },
    SetXattr { path: Path, name: Name, value: Vec<u8>, create: bool, replace: bool },
    RemoveXattr { path: Path, name: Name },
    Open { path: Path, slot: usize, write: bool, append: bool, truncate: bool },
    Close { slot: usize },
    Read { slot: usize, offset: u64, len: usize },
    Write { slot: usize, offset: u64, len: usize, seed: u8, uid: u32 },
    Resize { slot: usize, size: u64 },
    Fallocate { slot: usize, how: Fallocate, offset: u64, len: u64 },
    Copy { from: usize, offset: u64, to: usize, to_offset: u64, len: u64 },
    Fsync { slot: usize },
    List { path: Path },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Bytes(Vec<u8>),
    Count(u64),
    Names(Vec<Name>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub kind: Kind,
    pub perm: u16,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub data: Vec<u8>,
    pub xattrs: BTreeMap<Name, Vec<u8>>,
    /// `None`: not known to the model, anything goes.
    pub atime: Option<Time>,
    pub mtime: Option<Time>,
    /// The least path of the same inode.
    pub same_as: Path,
}

pub type Dump = BTreeMap<Path, Entry>;

/// Panics with the first difference.
#[track_caller]
pub fn compare(model: &Dump, real: &Dump, what: &str) {
    let paths = |dump: &Dump| dump.keys().map(|path| path.join(&b'/').escape_ascii().to_string()).collect::<Vec<_>>();
    assert_eq!(paths(model), paths(real), "{what}: paths");
    for ((path, expected), found) in model.iter().zip(real.values()) {
        let times = |entry: &Entry| Entry {
            atime: entry.atime.filter(|_| expected.atime.is_some()),
            mtime: entry.mtime.filter(|_| expected.mtime.is_some()),
            ..entry.clone()
        };
        assert_eq!(*expected, times(found), "{what}: {}", path.join(&b'/').escape_ascii());
    }
}

type Id = usize;
const ROOT: Id = 0;

#[derive(Clone, Debug)]
struct Node {
    kind: Kind,
    perm: u16,
    uid: u32,
    gid: u32,
    names: u32,
    data: Vec<u8>,
    entries: BTreeMap<Name, Id>,
    parent: Id,
    xattrs: BTreeMap<Name, Vec<u8>>,
    atime: Option<Time>,
    mtime: Option<Time>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    id: Id,
    write: bool,
    append: bool,
}

#[derive(Clone, Debug)]
pub struct Model {
    nodes: BTreeMap<Id, Node>,
    slots: [Option<Slot>; SLOTS],
}

type Answer = Result<Outcome, i32>;

impl Model {
    /// An empty root directory.
    pub fn new(perm: u16) -> Self {
        let mut nodes = BTreeMap::new();
        nodes.insert(ROOT, Node::new(Kind::Dir, perm, 0, 0, ROOT));
        Self { nodes, slots: [None; SLOTS] }
    }

    /// The state that a dump shows, with nothing open. Times are taken as they are.
    pub fn from_dump(dump: &Dump) -> Self {
        let mut model = Self::new(0o755);
        let mut ids: BTreeMap<Path, Id> = BTreeMap::new();
        for (path, entry) in dump {
            let id = match ids.get(&entry.same_as) {
                Some(id) => *id,
                None if path.is_empty() => ROOT,
                None => model.add(Node::new(entry.kind, 0, 0, 0, ROOT)),
            };
            ids.insert(path.clone(), id);
            let parent = path.split_last().map(|(name, dir)| (ids[dir], name.clone()));
            let node = model.node_mut(id);
            (node.perm, node.uid, node.gid) = (entry.perm, entry.uid, entry.gid);
            node.data.clone_from(&entry.data);
            node.xattrs.clone_from(&entry.xattrs);
            (node.atime, node.mtime) = (entry.atime, entry.mtime);
            if let Some((dir, name)) = parent {
                node.names += 1;
                node.parent = dir;
                model.node_mut(dir).entries.insert(name, id);
            }
        }
        model
    }

    pub fn dump(&self) -> Dump {
        let mut dump = Dump::new();
        let mut first: BTreeMap<Id, Path> = BTreeMap::new();
        let mut all: BTreeMap<Path, Id> = BTreeMap::new();
        self.walk(ROOT, &mut Vec::new(), &mut all);
        for (path, id) in all {
            let node = &self.nodes[&id];
            let subdirs = node.entries.values().filter(|id| self.nodes[*id].kind == Kind::Dir).count() as u32;
            let entry = Entry {
                kind: node.kind,
                perm: node.perm,
                uid: node.uid,
                gid: node.gid,
                nlink: if node.kind == Kind::Dir { 2 + subdirs } else { node.names },
                data: node.data.clone(),
                xattrs: node.xattrs.clone(),
                atime: node.atime,
                mtime: node.mtime,
                same_as: first.entry(id).or_insert_with(|| path.clone()).clone(),
            };
            dump.insert(path, entry);
        }
        dump
    }

    fn walk(&self, id: Id, path: &mut Path, all: &mut BTreeMap<Path, Id>) {
        all.insert(path.clone(), id);
        for (name, child) in &self.nodes[&id].entries {
            path.push(name.clone());
            self.walk(*child, path, all);
            path.pop();
        }
    }

    /// What a slot's file holds, and whether it has a name; `None` if the slot is free.
    pub fn slot(&self, slot: usize) -> Option<(Vec<u8>, bool)> {
        let id = self.slots[slot]?.id;
        let node = &self.nodes[&id];
        Some((node.data.clone(), node.names > 0))
    }

    /// Which file each path leads to, by a number that is the same in all states of one history.
    pub fn ids(&self) -> BTreeMap<Path, usize> {
        let mut all = BTreeMap::new();
        self.walk(ROOT, &mut Vec::new(), &mut all);
        all
    }

    /// Which file a slot has open.
    pub fn id_in(&self, slot: usize) -> Option<usize> {
        self.slots[slot].map(|slot| slot.id)
    }

    /// Mode and bytes of a file.
    pub fn file(&self, id: usize) -> Option<(u16, &[u8])> {
        self.nodes.get(&id).map(|node| (node.perm, node.data.as_slice()))
    }

    pub fn is_open(&self, slot: usize) -> bool {
        self.slots[slot].is_some()
    }

    pub fn close_all(&mut self) {
        (0..SLOTS).for_each(|slot| self.close(slot));
    }

    /// Frees a slot.
    pub fn close(&mut self, slot: usize) {
        self.slots[slot] = None;
    }

    /// Puts this state back to `earlier`, as a rollback does. Files without a name stay as they are now, and so do the slots; those that
    /// come back are open on files that `earlier` does not know.
    pub fn roll_back(&mut self, earlier: &Self) -> Vec<usize> {
        let mut nodes = earlier.nodes.clone();
        let mut unknown = Vec::new();
        for (at, slot) in self.slots.iter().enumerate() {
            let Some(slot) = slot else { continue };
            let now = &self.nodes[&slot.id];
            if earlier.nodes.get(&slot.id).is_none_or(|node| node.names == 0) {
                if now.names > 0 {
                    unknown.push(at);
                }
                nodes.insert(slot.id, Node { names: 0, ..now.clone() });
            }
        }
        self.nodes = nodes;
        unknown
    }

    fn node_mut(&mut self, id: Id) -> &mut Node {
        self.nodes.get_mut(&id).unwrap()
    }

    fn add(&mut self, node: Node) -> Id {
        // Unique over all models: states of one history are put in each other's places.
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        self.nodes.insert(id, node);
        id
    }

    fn dir(&self, path: &[Name]) -> Result<Id, i32> {
        let mut at = ROOT;
        for name in path {
            let node = &self.nodes[&at];
            match node.kind {
                Kind::Dir => at = *node.entries.get(name).ok_or(libc::ENOENT)?,
                Kind::Symlink => return Err(libc::ENOENT),
                _ => return Err(libc::ENOTDIR),
            }
        }
        match self.nodes[&at].kind {
            Kind::Dir => Ok(at),
            Kind::Symlink => Err(libc::ENOENT),
            _ => Err(libc::ENOTDIR),
        }
    }

    fn split<'a>(&self, path: &'a Path) -> Result<(Id, &'a Name), i32> {
        let (name, dir) = path.split_last().unwrap();
        Ok((self.dir(dir)?, name))
    }

    fn find(&self, path: &Path) -> Result<Id, i32> {
        if path.is_empty() {
            return Ok(ROOT);
        }
        let (dir, name) = self.split(path)?;
        self.nodes[&dir].entries.get(name).copied().ok_or(libc::ENOENT)
    }

    fn make(&mut self, path: &Path, kind: Kind, mode: u32, uid: u32) -> Result<Id, i32> {
        let (dir, name) = self.split(path)?;
        if self.nodes[&dir].entries.contains_key(name) {
            return Err(libc::EEXIST);
        }
        let parent = &self.nodes[&dir];
        let mut perm = if kind == Kind::Symlink { 0o777 } else { (mode & 0o7777 & !UMASK) as u16 };
        let mut gid = uid;
        if parent.perm & 0o2000 != 0 {
            gid = parent.gid;
            perm |= if kind == Kind::Dir { 0o2000 } else { 0 };
        }
        let id = self.add(Node { names: 1, ..Node::new(kind, perm, uid, gid, dir) });
        self.node_mut(dir).entries.insert(name.clone(), id);
        self.node_mut(dir).mtime = None;
        Ok(id)
    }

    fn take_name(&mut self, dir: Id, name: &Name) -> Id {
        let node = self.node_mut(dir);
        node.mtime = None;
        let id = node.entries.remove(name).unwrap();
        self.node_mut(id).names -= 1;
        id
    }

    fn opened(&self, slot: usize) -> Result<Slot, i32> {
        self.slots[slot].ok_or(libc::EBADF)
    }

    fn writable(&self, slot: usize) -> Result<Slot, i32> {
        self.opened(slot).and_then(|slot| if slot.write { Ok(slot) } else { Err(libc::EBADF) })
    }

    fn is_below(&self, dir: Id, above: Id) -> bool {
        let mut at = dir;
        loop {
            if at == above {
                return true;
            }
            if at == ROOT {
                return false;
            }
            at = self.nodes[&at].parent;
        }
    }

    pub fn apply(&mut self, op: &Op) -> Answer {
        match op {
            Op::Create { path, mode, slot, uid } => {
                let id = self.make(path, Kind::File, *mode, *uid)?;
                self.slots[*slot] = Some(Slot { id, write: true, append: false });
            }
            Op::Mkdir { path, mode, uid } => drop(self.make(path, Kind::Dir, *mode, *uid)?),
            Op::Mkfifo { path, mode } => drop(self.make(path, Kind::Fifo, *mode, 0)?),
            Op::Symlink { path, target } => {
                let id = self.make(path, Kind::Symlink, 0, 0)?;
                self.node_mut(id).data.clone_from(target);
            }
            Op::Link { from, to } => return self.link(from, to),
            Op::Unlink { path } => return self.remove(path, false),
            Op::Rmdir { path } => return self.remove(path, true),
            Op::Rename { from, to, how } => return self.rename(from, to, *how),
            Op::Chmod { path, mode } => {
                let id = self.find(path)?;
                let node = self.node_mut(id);
                if node.kind == Kind::Symlink {
                    return Err(libc::EOPNOTSUPP);
                }
                node.perm = *mode;
            }
            Op::Chown { path, uid, gid } => {
                let id = self.find(path)?;
                let node = self.node_mut(id);
                (node.uid, node.gid) = (*uid, *gid);
                if node.kind != Kind::Dir {
                    node.drop_set_id();
                }
            }
            Op::Truncate { path, size, uid } => {
                let id = self.find(path)?;
                match self.nodes[&id].kind {
                    Kind::Dir => return Err(libc::EISDIR),
                    Kind::File => self.node_mut(id).resize(*size, *uid),
                    Kind::Symlink | Kind::Fifo => return Err(libc::EINVAL),
                }
            }
            Op::Times { path, atime, mtime } => {
                let id = self.find(path)?;
                let node = self.node_mut(id);
                (node.atime, node.mtime) = (Some(*atime), Some(*mtime));
            }
            Op::SetXattr { path, name, value, create, replace } => {
                let id = self.find(path)?;
                let node = self.node_mut(id);
                node.may_have(name)?;
                match node.xattrs.contains_key(name) {
                    true if *create => return Err(libc::EEXIST),
                    false if *replace => return Err(libc::ENODATA),
                    _ => drop(node.xattrs.insert(name.clone(), value.clone())),
                }
            }
            Op::RemoveXattr { path, name } => {
                let id = self.find(path)?;
                let node = self.node_mut(id);
                node.may_have(name)?;
                node.xattrs.remove(name).ok_or(libc::ENODATA)?;
            }
            Op::List { path } => {
                let id = self.find(path)?;
                let node = &self.nodes[&id];
                if node.kind != Kind::Dir {
                    return Err(libc::ENOTDIR);
                }
                return Ok(Outcome::Names(node.entries.keys().cloned().collect()));
            }
            _ => return self.apply_to_slot(op),
        }
        Ok(Outcome::Done)
    }

    fn apply_to_slot(&mut self, op: &Op) -> Answer {
        match *op {
            Op::Open { ref path, slot, write, append, truncate } => {
                let id = self.find(path)?;
                let node = self.node_mut(id);
                match node.kind {
                    Kind::File => {}
                    Kind::Dir => return Err(libc::EISDIR),
                    Kind::Symlink => return Err(libc::ELOOP),
                    Kind::Fifo => return Err(libc::EINVAL),
                }
                if truncate && write {
                    node.data.clear();
                    node.mtime = None;
                }
                self.slots[slot] = Some(Slot { id, write, append: write && append });
            }
            Op::Close { slot } => {
                self.opened(slot)?;
                self.close(slot);
            }
            Op::Read { slot, offset, len } => {
                let slot = self.opened(slot)?;
                let data = &self.nodes[&slot.id].data;
                let from = (offset as usize).min(data.len());
                return Ok(Outcome::Bytes(data[from..(from + len).min(data.len())].to_vec()));
            }
            Op::Write { slot, offset, len, seed, uid } => {
                let slot = self.writable(slot)?;
                let node = self.node_mut(slot.id);
                let offset = if slot.append { node.data.len() } else { offset as usize };
                node.write(offset, &bytes(seed, len), uid);
                return Ok(Outcome::Count(len as u64));
            }
            Op::Resize { slot, size } => {
                let slot = self.writable(slot)?;
                self.node_mut(slot.id).resize(size, 0);
            }
            Op::Fallocate { slot, how, offset, len } => {
                let slot = self.writable(slot)?;
                self.node_mut(slot.id).fallocate(how, offset as usize, len as usize);
            }
            Op::Copy { from, offset, to, to_offset, len } => {
                let (from, to) = (self.opened(from)?, self.writable(to)?);
                if to.append {
                    return Err(libc::EBADF);
                }
                if from.id == to.id && offset < to_offset + len && to_offset < offset + len {
                    return Err(libc::EINVAL);
                }
                let data = &self.nodes[&from.id].data;
                let start = (offset as usize).min(data.len());
                let data = data[start..(start + len as usize).min(data.len())].to_vec();
                self.node_mut(to.id).write(to_offset as usize, &data, 0);
                return Ok(Outcome::Count(data.len() as u64));
            }
            Op::Fsync { slot } => drop(self.opened(slot)?),
            _ => unreachable!("{op:?}"),
        }
        Ok(Outcome::Done)
    }

    fn link(&mut self, from: &Path, to: &Path) -> Answer {
        let id = self.find(from)?;
        let (dir, name) = self.split(to)?;
        if self.nodes[&dir].entries.contains_key(name) {
            return Err(libc::EEXIST);
        }
        if self.nodes[&id].kind == Kind::Dir {
            return Err(libc::EPERM);
        }
        self.node_mut(id).names += 1;
        let dir = self.node_mut(dir);
        dir.entries.insert(name.clone(), id);
        dir.mtime = None;
        Ok(Outcome::Done)
    }

    fn remove(&mut self, path: &Path, directory: bool) -> Answer {
        let (dir, name) = self.split(path)?;
        let id = *self.nodes[&dir].entries.get(name).ok_or(libc::ENOENT)?;
        match (self.nodes[&id].kind, directory) {
            (Kind::Dir, false) => return Err(libc::EISDIR),
            (Kind::Dir, true) if !self.nodes[&id].entries.is_empty() => return Err(libc::ENOTEMPTY),
            (Kind::Dir, true) | (_, false) => {}
            (_, true) => return Err(libc::ENOTDIR),
        }
        self.take_name(dir, name);
        Ok(Outcome::Done)
    }

    fn rename(&mut self, from: &Path, to: &Path, how: Rename) -> Answer {
        let (dir, name) = self.split(from)?;
        let (new_dir, new_name) = self.split(to)?;
        let id = *self.nodes[&dir].entries.get(name).ok_or(libc::ENOENT)?;
        let there = self.nodes[&new_dir].entries.get(new_name).copied();
        let is_dir = |id: Id| self.nodes[&id].kind == Kind::Dir;
        match (how, there) {
            (Rename::NoReplace, Some(_)) => return Err(libc::EEXIST),
            (Rename::Exchange, None) => return Err(libc::ENOENT),
            _ => {}
        }
        if is_dir(id) && self.is_below(new_dir, id) {
            return Err(libc::EINVAL);
        }
        if let Some(there) = there.filter(|there| is_dir(*there))
            && self.is_below(dir, there)
        {
            return Err(if how == Rename::Exchange { libc::EINVAL } else { libc::ENOTEMPTY });
        }
        if there == Some(id) {
            return Ok(Outcome::Done);
        }
        if let (Some(there), Rename::Replace) = (there, how) {
            match (is_dir(id), is_dir(there)) {
                (true, false) => return Err(libc::ENOTDIR),
                (false, true) => return Err(libc::EISDIR),
                (true, true) if !self.nodes[&there].entries.is_empty() => return Err(libc::ENOTEMPTY),
                _ => {}
            }
            self.take_name(new_dir, new_name);
        }
        let name = name.clone();
        self.take_name(dir, &name);
        if how == Rename::Exchange {
            let other = self.take_name(new_dir, new_name);
            self.give_name(dir, name, other);
        }
        self.give_name(new_dir, new_name.clone(), id);
        Ok(Outcome::Done)
    }

    fn give_name(&mut self, dir: Id, name: Name, id: Id) {
        let node = self.node_mut(id);
        node.names += 1;
        node.parent = dir;
        let dir = self.node_mut(dir);
        dir.mtime = None;
        dir.entries.insert(name, id);
    }
}

impl Node {
    fn new(kind: Kind, perm: u16, uid: u32, gid: u32, parent: Id) -> Self {
        let (data, entries, xattrs) = Default::default();
        Self { kind, perm, uid, gid, names: 0, data, entries, parent, xattrs, atime: None, mtime: None }
    }

    fn drop_set_id(&mut self) {
        self.perm &= !0o4000;
        if self.perm & 0o010 != 0 {
            self.perm &= !0o2000;
        }
    }

    fn may_have(&self, name: &[u8]) -> Result<(), i32> {
        match self.kind {
            Kind::Symlink | Kind::Fifo if name.starts_with(b"user.") => Err(libc::EPERM),
            _ => Ok(()),
        }
    }

    fn changed(&mut self, uid: u32) {
        self.mtime = None;
        if uid != 0 {
            self.drop_set_id();
        }
    }

    fn write(&mut self, offset: usize, data: &[u8], uid: u32) {
        if data.is_empty() {
            return;
        }
        let end = offset + data.len();
        if self.data.len() < end {
            self.data.resize(end, 0);
        }
        self.data[offset..end].copy_from_slice(data);
        self.changed(uid);
    }

    fn resize(&mut self, size: u64, uid: u32) {
        if size as usize != self.data.len() {
            self.data.resize(size as usize, 0);
            self.changed(uid);
        }
    }

    fn fallocate(&mut self, how: Fallocate, offset: usize, len: usize) {
        let end = offset + len;
        if matches!(how, Fallocate::Extend | Fallocate::Zero) && end > self.data.len() {
            self.data.resize(end, 0);
        }
        if matches!(how, Fallocate::Punch | Fallocate::Zero | Fallocate::ZeroKeepSize) {
            let (from, to) = (offset.min(self.data.len()), end.min(self.data.len()));
            self.data[from..to].fill(0);
        }
        self.changed(0);
    }
}

/// What `Op::Write` writes.
pub fn bytes(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| seed.wrapping_add((at as u8).wrapping_mul(7)) | 1).collect()
}

/// What most operations are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Focus {
    /// Making, moving and removing names, three directories deep.
    Names,
    /// The bytes of a few files that are often opened and closed.
    Bytes,
}

/// Sizes and offsets come in units of `unit` bytes, and now and then a few bytes off.
pub fn op(unit: u64, uids: &'static [u32], focus: Focus) -> impl Strategy<Value = Op> {
    let bytes = u32::from(focus == Focus::Bytes);
    let names = u32::from(focus == Focus::Names);
    prop_oneof![
        2 + 8 * names => name_op(uids, focus),
        1 => attribute_op(unit, uids, focus),
        1 + 6 * bytes => byte_op(unit, uids, focus),
    ]
}

fn path(focus: Focus, least: usize) -> impl Strategy<Value = Path> {
    let name = prop::sample::select(vec![b"a".to_vec(), b"b".to_vec(), b"c".to_vec()]);
    let longest = if focus == Focus::Names { 3 } else { 1 };
    (prop::collection::vec(name, 3), least..10_usize).prop_map(move |(mut path, len)| {
        // Short ones are the most: what is deep needs directories above it.
        path.truncate([0, 1, 1, 1, 1, 2, 2, 2, 2, 3][len].min(longest));
        path
    })
}

fn name_op(uids: &'static [u32], focus: Focus) -> impl Strategy<Value = Op> {
    let path = move || path(focus, 1);
    let slot = || 0..SLOTS;
    let uid = move || prop::sample::select(uids);
    let how = prop::sample::select(vec![Rename::Replace, Rename::Replace, Rename::NoReplace, Rename::Exchange]);
    let dirs = if focus == Focus::Names { 8 } else { 0 };
    prop_oneof![
        10 => (path(), mode(), slot(), uid()).prop_map(|(path, mode, slot, uid)| Op::Create { path, mode, slot, uid }),
        dirs => (path(), mode(), uid()).prop_map(|(path, mode, uid)| Op::Mkdir { path, mode, uid }),
        dirs / 8 => (path(), mode()).prop_map(|(path, mode)| Op::Mkfifo { path, mode }),
        dirs / 4 => path().prop_map(|path| Op::Symlink { path, target: b"no/where".to_vec() }),
        5 => (path(), path()).prop_map(|(from, to)| Op::Link { from, to }),
        4 => path().prop_map(|path| Op::Unlink { path }),
        3 => path().prop_map(|path| Op::Rmdir { path }),
        8 => (path(), path(), how).prop_map(|(from, to, how)| Op::Rename { from, to, how }),
        2 => self::path(focus, 0).prop_map(|path| Op::List { path }),
    ]
}

fn mode() -> impl Strategy<Value = u32> {
    prop::sample::select(vec![0o644_u32, 0o755, 0o600, 0o2775, 0o4755, 0o6711, 0o1777])
}

fn attribute_op(unit: u64, uids: &'static [u32], focus: Focus) -> impl Strategy<Value = Op> {
    let anywhere = move || path(focus, 0);
    let uid = move || prop::sample::select(uids);
    let xattr = || prop::sample::select(vec![b"user.x".to_vec(), b"user.y".to_vec(), b"trusted.z".to_vec()]);
    let time = || (-5_000_000_000..5_000_000_000_i64, 0..1_000_000_000_u32);
    prop_oneof![
        3 => (anywhere(), mode()).prop_map(|(path, mode)| Op::Chmod { path, mode: mode as u16 }),
        2 => (anywhere(), uid(), uid()).prop_map(|(path, uid, gid)| Op::Chown { path, uid, gid }),
        4 => (anywhere(), at(unit), uid()).prop_map(|(path, size, uid)| Op::Truncate { path, size, uid }),
        2 => (anywhere(), time(), time()).prop_map(|(path, atime, mtime)| Op::Times { path, atime, mtime }),
        4 => (anywhere(), xattr(), 0..40_usize, any::<bool>(), any::<bool>()).prop_map(|(path, name, len, create, replace)| {
            Op::SetXattr { path, name, value: bytes(len as u8, len), create, replace: replace && !create }
        }),
        2 => (anywhere(), xattr()).prop_map(|(path, name)| Op::RemoveXattr { path, name }),
    ]
}

fn at(unit: u64) -> impl Strategy<Value = u64> {
    (0..12_u64, 0..3_u64).prop_map(move |(units, off)| units * unit + off)
}

fn byte_op(unit: u64, uids: &'static [u32], focus: Focus) -> impl Strategy<Value = Op> {
    let slot = || 0..SLOTS;
    let len = move || at(unit).prop_map(|len| len.max(1));
    let uid = move || prop::sample::select(uids);
    let open = (path(focus, 1), slot(), prop::bool::weighted(0.7), prop::bool::weighted(0.2), prop::bool::weighted(0.1));
    let allocate =
        prop::sample::select(vec![Fallocate::Extend, Fallocate::KeepSize, Fallocate::Punch, Fallocate::Zero, Fallocate::ZeroKeepSize]);
    prop_oneof![
        12 => open.prop_map(|(path, slot, write, append, truncate)| Op::Open { path, slot, write, append, truncate }),
        14 => slot().prop_map(|slot| Op::Close { slot }),
        4 => (slot(), at(unit), len()).prop_map(|(slot, offset, len)| Op::Read { slot, offset, len: len as usize }),
        16 => (slot(), at(unit), len(), any::<u8>(), uid()).prop_map(|(slot, offset, len, seed, uid)| {
            Op::Write { slot, offset, len: len as usize, seed, uid }
        }),
        3 => (slot(), at(unit)).prop_map(|(slot, size)| Op::Resize { slot, size }),
        4 => (slot(), allocate, at(unit), len()).prop_map(|(slot, how, offset, len)| Op::Fallocate { slot, how, offset, len }),
        3 => (slot(), at(unit), slot(), at(unit), len()).prop_map(|(from, offset, to, to_offset, len)| {
            Op::Copy { from, offset, to, to_offset, len }
        }),
        2 => (slot(), slot()).prop_map(move |(from, to)| Op::Copy { from, offset: 0, to, to_offset: 0, len: unit * 64 }),
        1 => slot().prop_map(|slot| Op::Fsync { slot }),
    ]
}
