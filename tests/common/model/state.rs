//! The maps: nodes, names and open files; dumps of them, and rollbacks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::locks::Locks;
use super::node::{Id, Node};
use super::{CAPABILITY, DEVICE, Dump, Entry, Kind, Name, Op, Path, SLOTS, UMASK, acl};

pub(super) const ROOT: Id = 0;

/// An open file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) id: Id,
    pub(super) write: bool,
    pub(super) append: bool,
}

#[derive(Clone, Debug)]
pub struct Model {
    pub(super) nodes: BTreeMap<Id, Node>,
    pub(super) slots: [Option<Slot>; SLOTS],
    pub(super) locks: Locks,
}

impl Model {
    /// An empty root directory.
    pub fn new(perm: u16) -> Self {
        let mut nodes = BTreeMap::new();
        nodes.insert(ROOT, Node::new(Kind::Dir, perm, 0, 0, ROOT));
        Self { nodes, slots: [None; SLOTS], locks: Locks::default() }
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
                device: (node.kind == Kind::Device).then_some(DEVICE),
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

    /// Whether `op` stores into a mapping of a file with capabilities: whether they go is not laid down, and ext4 keeps them.
    pub fn is_undefined(&self, op: &Op) -> bool {
        let Op::Map { slot, shared: true, .. } = op else { return false };
        self.slots[*slot].is_some_and(|slot| self.nodes[&slot.id].xattrs.contains_key(CAPABILITY))
    }

    pub fn is_open(&self, slot: usize) -> bool {
        self.slots[slot].is_some()
    }

    pub fn close_all(&mut self) {
        (0..SLOTS).for_each(|slot| self.close(slot));
    }

    /// Frees a slot.
    pub fn close(&mut self, slot: usize) {
        if let Some(old) = self.slots[slot].take() {
            self.locks.close(slot, old.id);
        }
    }

    /// Puts an open file into a slot, instead of the one that is there.
    pub(super) fn put(&mut self, slot: usize, opened: Slot) {
        self.close(slot);
        self.slots[slot] = Some(opened);
    }

    /// Someone read every file that has a name, and closed it: the locks of the process on them are gone.
    pub fn all_were_read(&mut self) {
        let nodes = &self.nodes;
        self.locks.forget_process(|id| nodes.get(&id).is_some_and(|node| node.names > 0));
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

    pub(super) fn node_mut(&mut self, id: Id) -> &mut Node {
        self.nodes.get_mut(&id).unwrap()
    }

    pub(super) fn add(&mut self, node: Node) -> Id {
        // Unique over all models: states of one history are put in each other's places.
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        self.nodes.insert(id, node);
        id
    }

    pub(super) fn dir(&self, path: &[Name]) -> Result<Id, i32> {
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

    pub(super) fn split<'a>(&self, path: &'a Path) -> Result<(Id, &'a Name), i32> {
        let (name, dir) = path.split_last().unwrap();
        Ok((self.dir(dir)?, name))
    }

    pub(super) fn find(&self, path: &Path) -> Result<Id, i32> {
        if path.is_empty() {
            return Ok(ROOT);
        }
        let (dir, name) = self.split(path)?;
        self.nodes[&dir].entries.get(name).copied().ok_or(libc::ENOENT)
    }

    pub(super) fn make(&mut self, path: &Path, kind: Kind, mode: u32, uid: u32) -> Result<Id, i32> {
        let (dir, name) = self.split(path)?;
        if self.nodes[&dir].entries.contains_key(name) {
            return Err(libc::EEXIST);
        }
        let parent = &self.nodes[&dir];
        let mut perm = if kind == Kind::Symlink { 0o777 } else { (mode & 0o7777) as u16 };
        let mut gid = uid;
        if parent.perm & 0o2000 != 0 {
            gid = parent.gid;
            perm |= if kind == Kind::Dir { 0o2000 } else { 0 };
        }
        let mut node = Node { names: 1, ..Node::new(kind, perm, uid, gid, dir) };
        node.inherit(parent.list(acl::DEFAULT), UMASK as u16);
        let id = self.add(node);
        self.node_mut(dir).entries.insert(name.clone(), id);
        self.node_mut(dir).mtime = None;
        Ok(id)
    }

    pub(super) fn take_name(&mut self, dir: Id, name: &Name) -> Id {
        let node = self.node_mut(dir);
        node.mtime = None;
        let id = node.entries.remove(name).unwrap();
        self.node_mut(id).names -= 1;
        id
    }

    pub(super) fn opened(&self, slot: usize) -> Result<Slot, i32> {
        self.slots[slot].ok_or(libc::EBADF)
    }

    pub(super) fn writable(&self, slot: usize) -> Result<Slot, i32> {
        self.opened(slot).and_then(|slot| if slot.write { Ok(slot) } else { Err(libc::EBADF) })
    }

    pub(super) fn is_below(&self, dir: Id, above: Id) -> bool {
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
}
