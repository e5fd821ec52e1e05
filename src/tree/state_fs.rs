//! A small filesystem on top of the map: it makes the states that the tests of changes and merges need.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::{Arc, LazyLock};

use super::key::{Content, FileKind, InodeRecord, Key, Part, Value};
use super::tests::memory;
use super::*;
use crate::clock::{SystemClock, Timestamp};
use crate::ids::{Ino, VersionId};
use crate::store::Store;

/// A filesystem in a tree, with the operations that states are made of. Clones give out inode numbers from one counter.
#[derive(Clone)]
pub(super) struct Fs {
    now: Rc<Cell<u64>>,
    pub(super) state: Snapshot,
}

/// One store for all: these states have their bytes in their records, so nothing is written to it.
pub(super) fn store() -> Arc<Store> {
    static STORE: LazyLock<Arc<Store>> = LazyLock::new(|| {
        let dir = tempfile::tempdir().unwrap();
        Arc::new(Store::init(&dir.path().join("store"), &SystemClock).unwrap())
    });
    Arc::clone(&STORE)
}

impl Fs {
    pub(super) fn new() -> Self {
        let (_, nodes) = memory(1 << 20);
        let mut fs = Self { now: Rc::new(Cell::new(1)), state: Snapshot::new(Tree::new_empty(nodes), store()) };
        let root = fs.record(FileKind::Directory, Ino::ROOT, b"");
        fs.put(Ino::ROOT, root);
        fs
    }

    pub(super) fn tick(&self) -> Timestamp {
        self.now.set(self.now.get() + 1);
        Timestamp { secs: i64::try_from(self.now.get()).unwrap(), nanos: 0 }
    }

    pub(super) fn record(&self, kind: FileKind, parent: Ino, name: &[u8]) -> InodeRecord {
        let now = self.tick();
        let (nlink, size) = if kind == FileKind::Directory { (2, 4096) } else { (1, 0) };
        InodeRecord {
            kind,
            perm: 0o755,
            uid: 0,
            gid: 0,
            nlink,
            size,
            rdev: 0,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            content: Content::None,
            parent,
            name: name.into(),
            changed_in: VersionId(0),
        }
    }

    pub(super) fn put(&mut self, ino: Ino, record: InodeRecord) {
        self.state.tree.insert(Key::inode(ino), Value::Inode(Arc::new(record))).unwrap();
    }

    pub(super) fn get(&self, path: &str) -> Option<(Ino, InodeRecord)> {
        let ino = self.state.resolve(path.as_bytes()).unwrap()?;
        Some((ino, InodeRecord::clone(&*self.state.inode(ino).unwrap()?)))
    }

    pub(super) fn split(&self, path: &str) -> Option<(Ino, Vec<u8>)> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let (ino, record) = self.get(dir)?;
        (record.kind == FileKind::Directory).then(|| (ino, name.as_bytes().to_vec()))
    }

    pub(super) fn edit(&mut self, ino: Ino, change: impl FnOnce(&mut InodeRecord)) {
        let mut record = InodeRecord::clone(&*self.state.inode(ino).unwrap().unwrap());
        record.ctime = self.tick();
        change(&mut record);
        self.put(ino, record);
    }

    pub(super) fn enter(&mut self, dir: Ino, name: &[u8], ino: Ino, kind: FileKind) {
        self.state.tree.insert(Key::dirent(dir, name), Value::Dirent(ino, kind)).unwrap();
        let now = self.tick();
        self.edit(dir, |dir| {
            dir.mtime = now;
            dir.nlink += u32::from(kind == FileKind::Directory);
        });
    }

    pub(super) fn leave(&mut self, dir: Ino, name: &[u8], kind: FileKind) {
        self.state.tree.remove(&Key::dirent(dir, name)).unwrap().unwrap();
        let now = self.tick();
        self.edit(dir, |dir| {
            dir.mtime = now;
            dir.nlink -= u32::from(kind == FileKind::Directory);
        });
    }

    pub(super) fn make(&mut self, path: &str, kind: FileKind) -> Option<Ino> {
        let (dir, name) = self.split(path)?;
        if self.get(path).is_some() {
            return None;
        }
        let record = self.record(kind, dir, &name);
        let ino = Ino(self.now.get());
        self.put(ino, record);
        self.enter(dir, &name, ino, kind);
        Some(ino)
    }

    pub(super) fn mkdir(&mut self, path: &str) -> bool {
        self.make(path, FileKind::Directory).is_some()
    }

    /// Makes the file if it is not there.
    pub(super) fn write(&mut self, path: &str, text: &str) -> bool {
        let ino = match self.get(path) {
            Some((_, record)) if record.kind != FileKind::Regular => return false,
            Some((ino, _)) => ino,
            None => match self.make(path, FileKind::Regular) {
                Some(ino) => ino,
                None => return false,
            },
        };
        let now = self.tick();
        self.edit(ino, |record| {
            record.mtime = now;
            record.size = text.len() as u64;
            record.content = Content::Inline(text.as_bytes().into());
        });
        true
    }

    pub(super) fn chmod(&mut self, path: &str, perm: u16) -> bool {
        self.get(path).is_some_and(|(ino, _)| {
            self.edit(ino, |record| record.perm = perm);
            true
        })
    }

    pub(super) fn xattr(&mut self, path: &str, value: &str) -> bool {
        self.get(path).is_some_and(|(ino, _)| {
            self.state.tree.insert(Key::xattr(ino, b"user.x"), Value::Xattr(value.as_bytes().into())).unwrap();
            self.edit(ino, |_| ());
            true
        })
    }

    pub(super) fn link(&mut self, from: &str, to: &str) -> bool {
        let (Some((ino, record)), Some((dir, name))) = (self.get(from), self.split(to)) else { return false };
        if record.kind == FileKind::Directory || self.get(to).is_some() {
            return false;
        }
        self.enter(dir, &name, ino, record.kind);
        self.state.tree.insert(Key::link(ino, dir, &name), Value::Link).unwrap();
        self.edit(ino, |record| record.nlink += 1);
        true
    }

    pub(super) fn remove(&mut self, path: &str) -> bool {
        let (Some((ino, record)), Some((dir, name))) = (self.get(path), self.split(path)) else { return false };
        if ino == Ino::ROOT || self.state.entry_count(ino).unwrap() > 0 {
            return false;
        }
        self.leave(dir, &name, record.kind);
        if record.kind == FileKind::Directory || record.nlink == 1 {
            let end = Key::inode(ino.next());
            let keys: Vec<Key> = self.state.tree.range(&Key::inode(ino), &end).map(|entry| entry.unwrap().0).collect();
            keys.iter().for_each(|key| drop(self.state.tree.remove(key).unwrap()));
        } else {
            self.unlink_one(ino, dir, &name);
        }
        true
    }

    /// One of several names of the inode is gone.
    pub(super) fn unlink_one(&mut self, ino: Ino, dir: Ino, name: &[u8]) {
        if self.state.tree.remove(&Key::link(ino, dir, name)).unwrap().is_none() {
            let (dir, name) = self.state.further_links(ino).unwrap()[0].clone();
            self.state.tree.remove(&Key { ino, part: Part::Link(dir, Arc::clone(&name)) }).unwrap();
            self.edit(ino, |record| (record.parent, record.name) = (dir, name));
        }
        self.edit(ino, |record| record.nlink -= 1);
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) -> bool {
        let (Some((ino, record)), Some((dir, name)), Some((new_dir, new_name))) = (self.get(from), self.split(from), self.split(to)) else {
            return false;
        };
        let inside = to.starts_with(&format!("{from}/")) || ino == Ino::ROOT;
        let target = self.get(to);
        if inside
            || target
                .as_ref()
                .is_some_and(|(at, old)| *at == ino || (old.kind == FileKind::Directory) != (record.kind == FileKind::Directory))
        {
            return false;
        }
        if target.is_some() && !self.remove(to) {
            return false;
        }
        self.leave(dir, &name, record.kind);
        self.enter(new_dir, &new_name, ino, record.kind);
        if self.state.tree.remove(&Key::link(ino, dir, &name)).unwrap().is_some() {
            self.state.tree.insert(Key::link(ino, new_dir, &new_name), Value::Link).unwrap();
            self.edit(ino, |_| ());
        } else {
            self.edit(ino, |record| (record.parent, record.name) = (new_dir, new_name[..].into()));
        }
        true
    }

    pub(super) fn with(&self, ops: impl FnOnce(&mut Self)) -> Self {
        let mut fs = self.clone();
        ops(&mut fs);
        check(&fs.state);
        fs
    }

    pub(super) fn paths(&self) -> BTreeMap<String, String> {
        tree_of(&self.state)
    }
}

/// Every path with what is there.
pub(super) fn tree_of(state: &Snapshot) -> BTreeMap<String, String> {
    let mut paths = BTreeMap::new();
    let mut left = vec![(String::new(), Ino::ROOT)];
    while let Some((path, ino)) = left.pop() {
        let record = state.inode(ino).unwrap().unwrap();
        for (name, ino, _) in state.entries(ino, 0, usize::MAX).unwrap() {
            left.push((format!("{path}/{}", String::from_utf8_lossy(&name)), ino));
        }
        let text = String::from_utf8(state.read(ino, 0, 100).unwrap()).unwrap();
        let text = if record.kind == FileKind::Directory { "dir".to_owned() } else { text };
        let xattr = state.xattr(ino, b"user.x").unwrap().map_or(String::new(), |value| String::from_utf8_lossy(&value).into_owned());
        paths.insert(path, format!("{text} {:o} {} {xattr}", record.perm, record.nlink));
    }
    paths
}

/// Names, links, counts and records fit together.
pub(super) fn check(state: &Snapshot) {
    let mut names: BTreeMap<Ino, BTreeSet<(Ino, Vec<u8>)>> = BTreeMap::new();
    let mut links: BTreeMap<Ino, BTreeSet<(Ino, Vec<u8>)>> = BTreeMap::new();
    let mut records = BTreeMap::new();
    let mut dirs: BTreeMap<Ino, u32> = BTreeMap::new();
    for entry in state.tree.iter() {
        match entry.unwrap() {
            (Key { ino, part: Part::Dirent(name) }, Value::Dirent(to, kind)) => {
                names.entry(to).or_default().insert((ino, name.to_vec()));
                assert_eq!(state.inode(to).unwrap().expect("a name leads nowhere").kind, kind);
                *dirs.entry(ino).or_default() += u32::from(kind == FileKind::Directory);
            }
            (Key { ino, part: Part::Link(dir, name) }, _) => drop(links.entry(ino).or_default().insert((dir, name.to_vec()))),
            (Key { ino, .. }, Value::Inode(record)) => {
                if ino != Ino::ROOT {
                    assert!(links.entry(ino).or_default().insert((record.parent, record.name.to_vec())), "the own link is a further one");
                }
                records.insert(ino, record);
            }
            (Key { ino, .. }, _) => assert!(state.inode(ino).unwrap().is_some()),
        }
    }
    links.retain(|_, links| !links.is_empty());
    assert_eq!(names, links);
    for (ino, record) in records {
        assert!(state.path_of(ino).unwrap().is_some());
        match record.kind {
            FileKind::Directory => assert_eq!(record.nlink, 2 + dirs.get(&ino).copied().unwrap_or(0), "of directory {ino}"),
            _ => assert_eq!(record.nlink as usize, names[&ino].len(), "of {ino}"),
        }
    }
}
