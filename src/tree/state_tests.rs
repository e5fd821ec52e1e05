//! Tests of states as filesystems: what changed, and what merges. A small filesystem on top of the map makes the states.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::{Arc, LazyLock};

use proptest::prelude::*;

use super::key::{Content, FileKind, InodeRecord, Key, Part, Value};
use super::tests::memory;
use super::*;
use crate::clock::{SystemClock, Timestamp};
use crate::ids::{Ino, VersionId};
use crate::store::Store;

/// A filesystem in a tree, with the operations that states are made of. Clones give out inode numbers from one counter.
#[derive(Clone)]
struct Fs {
    now: Rc<Cell<u64>>,
    state: Snapshot,
}

/// One store for all: these states have their bytes in their records, so nothing is written to it.
fn store() -> Arc<Store> {
    static STORE: LazyLock<Arc<Store>> = LazyLock::new(|| {
        let dir = tempfile::tempdir().unwrap();
        Arc::new(Store::init(&dir.path().join("store"), &SystemClock).unwrap())
    });
    Arc::clone(&STORE)
}

impl Fs {
    fn new() -> Self {
        let (_, nodes) = memory(1 << 20);
        let mut fs = Self { now: Rc::new(Cell::new(1)), state: Snapshot::new(Tree::new_empty(nodes), store()) };
        let root = fs.record(FileKind::Directory, Ino::ROOT, b"");
        fs.put(Ino::ROOT, root);
        fs
    }

    fn tick(&self) -> Timestamp {
        self.now.set(self.now.get() + 1);
        Timestamp { secs: i64::try_from(self.now.get()).unwrap(), nanos: 0 }
    }

    fn record(&self, kind: FileKind, parent: Ino, name: &[u8]) -> InodeRecord {
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

    fn put(&mut self, ino: Ino, record: InodeRecord) {
        self.state.tree.insert(Key::inode(ino), Value::Inode(Arc::new(record))).unwrap();
    }

    fn get(&self, path: &str) -> Option<(Ino, InodeRecord)> {
        let ino = self.state.resolve(path.as_bytes()).unwrap()?;
        Some((ino, InodeRecord::clone(&*self.state.inode(ino).unwrap()?)))
    }

    fn split(&self, path: &str) -> Option<(Ino, Vec<u8>)> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let (ino, record) = self.get(dir)?;
        (record.kind == FileKind::Directory).then(|| (ino, name.as_bytes().to_vec()))
    }

    fn edit(&mut self, ino: Ino, change: impl FnOnce(&mut InodeRecord)) {
        let mut record = InodeRecord::clone(&*self.state.inode(ino).unwrap().unwrap());
        record.ctime = self.tick();
        change(&mut record);
        self.put(ino, record);
    }

    fn enter(&mut self, dir: Ino, name: &[u8], ino: Ino, kind: FileKind) {
        self.state.tree.insert(Key::dirent(dir, name), Value::Dirent(ino, kind)).unwrap();
        let now = self.tick();
        self.edit(dir, |dir| {
            dir.mtime = now;
            dir.nlink += u32::from(kind == FileKind::Directory);
        });
    }

    fn leave(&mut self, dir: Ino, name: &[u8], kind: FileKind) {
        self.state.tree.remove(&Key::dirent(dir, name)).unwrap().unwrap();
        let now = self.tick();
        self.edit(dir, |dir| {
            dir.mtime = now;
            dir.nlink -= u32::from(kind == FileKind::Directory);
        });
    }

    fn make(&mut self, path: &str, kind: FileKind) -> Option<Ino> {
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

    fn mkdir(&mut self, path: &str) -> bool {
        self.make(path, FileKind::Directory).is_some()
    }

    /// Makes the file if it is not there.
    fn write(&mut self, path: &str, text: &str) -> bool {
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

    fn chmod(&mut self, path: &str, perm: u16) -> bool {
        self.get(path).is_some_and(|(ino, _)| {
            self.edit(ino, |record| record.perm = perm);
            true
        })
    }

    fn xattr(&mut self, path: &str, value: &str) -> bool {
        self.get(path).is_some_and(|(ino, _)| {
            self.state.tree.insert(Key::xattr(ino, b"user.x"), Value::Xattr(value.as_bytes().into())).unwrap();
            self.edit(ino, |_| ());
            true
        })
    }

    fn link(&mut self, from: &str, to: &str) -> bool {
        let (Some((ino, record)), Some((dir, name))) = (self.get(from), self.split(to)) else { return false };
        if record.kind == FileKind::Directory || self.get(to).is_some() {
            return false;
        }
        self.enter(dir, &name, ino, record.kind);
        self.state.tree.insert(Key::link(ino, dir, &name), Value::Link).unwrap();
        self.edit(ino, |record| record.nlink += 1);
        true
    }

    fn remove(&mut self, path: &str) -> bool {
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
    fn unlink_one(&mut self, ino: Ino, dir: Ino, name: &[u8]) {
        if self.state.tree.remove(&Key::link(ino, dir, name)).unwrap().is_none() {
            let (dir, name) = self.state.further_links(ino).unwrap()[0].clone();
            self.state.tree.remove(&Key { ino, part: Part::Link(dir, Arc::clone(&name)) }).unwrap();
            self.edit(ino, |record| (record.parent, record.name) = (dir, name));
        }
        self.edit(ino, |record| record.nlink -= 1);
    }

    fn rename(&mut self, from: &str, to: &str) -> bool {
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

    fn with(&self, ops: impl FnOnce(&mut Self)) -> Self {
        let mut fs = self.clone();
        ops(&mut fs);
        check(&fs.state);
        fs
    }

    fn paths(&self) -> BTreeMap<String, String> {
        tree_of(&self.state)
    }
}

/// Every path with what is there.
fn tree_of(state: &Snapshot) -> BTreeMap<String, String> {
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
fn check(state: &Snapshot) {
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

fn merged(base: &Fs, theirs: &Fs, ours: &Fs) -> Result<BTreeMap<String, String>, Vec<String>> {
    match merge(&base.state, &theirs.state, &ours.state).unwrap() {
        Merge::Clean { tree, edits } => {
            let mut again = theirs.state.tree.clone();
            for (key, value) in &edits {
                again.set(key, value.clone()).unwrap();
            }
            assert_eq!(again.diff(&tree).count(), 0);
            let state = Snapshot::new(tree, store());
            check(&state);
            Ok(tree_of(&state))
        }
        Merge::Conflict { paths } => Err(paths.into_iter().map(|path| String::from_utf8(path).unwrap()).collect()),
    }
}

/// What `ours` on top of `rejected` on top of a small dataset becomes without the latter.
fn rebase(rejected: impl FnOnce(&mut Fs), ours: impl FnOnce(&mut Fs)) -> Result<BTreeMap<String, String>, Vec<String>> {
    let theirs = Fs::new().with(|fs| {
        assert!(fs.mkdir("d") && fs.mkdir("e") && fs.mkdir("d/sub"));
        assert!(fs.write("a", "A") && fs.write("b", "B") && fs.write("d/f", "F") && fs.write("d/sub/g", "G"));
        assert!(fs.link("a", "d/a2"));
    });
    let base = theirs.with(rejected);
    let ours = base.with(ours);
    merged(&base, &theirs, &ours)
}

fn conflict(paths: &[&str]) -> Result<BTreeMap<String, String>, Vec<String>> {
    Err(paths.iter().map(|path| (*path).to_owned()).collect())
}

#[test]
fn changes_of_different_files_merge() {
    let found = rebase(|fs| assert!(fs.write("a", "bad")), |fs| assert!(fs.write("b", "good"))).unwrap();
    assert_eq!((found["/a"].as_str(), found["/b"].as_str()), ("A 755 2 ", "good 755 1 "));
}

#[test]
fn changes_of_one_file_conflict() {
    assert_eq!(rebase(|fs| assert!(fs.write("b", "bad")), |fs| assert!(fs.write("b", "good"))), conflict(&["b"]));
    assert_eq!(rebase(|fs| assert!(fs.write("b", "bad")), |fs| assert!(fs.chmod("b", 0o600))), conflict(&["b"]));
    assert_eq!(rebase(|fs| assert!(fs.xattr("b", "bad")), |fs| assert!(fs.write("b", "good"))), conflict(&["b"]));
    // By renaming a new file over it, as editors do.
    let replace = |fs: &mut Fs, text: &str| assert!(fs.write(".new", text) && fs.rename(".new", "b"));
    assert_eq!(rebase(|fs| replace(fs, "bad"), |fs| replace(fs, "good")), conflict(&["b"]));
}

#[test]
fn new_files_in_one_directory_merge() {
    let found = rebase(
        |fs| assert!(fs.write("d/bad", "bad") && fs.mkdir("d/bad-dir")),
        |fs| assert!(fs.write("d/good", "good") && fs.mkdir("d/good-dir") && fs.mkdir("d/good-dir-2")),
    )
    .unwrap();
    assert!(found.contains_key("/d/good") && !found.contains_key("/d/bad") && !found.contains_key("/d/bad-dir"));
    assert_eq!(found["/d"], "dir 755 5 ");
}

#[test]
fn what_stands_on_the_rejected_conflicts() {
    assert_eq!(rebase(|fs| assert!(fs.mkdir("n")), |fs| assert!(fs.write("n/x", "x"))), conflict(&["n/x"]));
    assert_eq!(rebase(|fs| assert!(fs.write("n", "n")), |fs| assert!(fs.write("n", "m"))), conflict(&["n"]));
    assert_eq!(rebase(|fs| assert!(fs.write("n", "n")), |fs| assert!(fs.link("n", "m"))), conflict(&["m", "n"]));
    let found = rebase(|fs| assert!(fs.write("n", "n")), |fs| assert!(fs.rename("n", "m"))).unwrap_err();
    assert!(found.contains(&"m".to_owned()), "{found:?}");
}

#[test]
fn taking_back_what_was_rejected_is_no_change() {
    let found = rebase(
        |fs| assert!(fs.mkdir("n") && fs.write("n/x", "x")),
        |fs| {
            assert!(fs.remove("n/x") && fs.remove("n") && fs.write("b", "good"));
        },
    );
    let expected = rebase(|_| (), |fs| assert!(fs.write("b", "good")));
    assert_eq!(found, expected);
}

#[test]
fn removals_and_changes_conflict() {
    assert_eq!(rebase(|fs| assert!(fs.write("b", "bad")), |fs| assert!(fs.remove("b"))), conflict(&["b"]));
    assert_eq!(rebase(|fs| assert!(fs.remove("b")), |fs| assert!(fs.write("b", "good"))), conflict(&["b"]));
    // Ours removes a directory that is only empty because the rejected version emptied it.
    let emptied = |fs: &mut Fs| assert!(fs.remove("d/sub/g"));
    assert_eq!(rebase(emptied, |fs| assert!(fs.remove("d/sub"))), conflict(&["d/sub/g"]));
    let found = rebase(
        |fs| assert!(fs.write("d/sub/bad", "bad")),
        |fs| {
            assert!(fs.remove("d/sub/bad") && fs.remove("d/sub/g") && fs.remove("d/sub"));
        },
    )
    .unwrap();
    assert!(!found.contains_key("/d/sub"));
}

#[test]
fn a_rename_and_a_change_merge() {
    let found = rebase(|fs| assert!(fs.rename("b", "e/bad-name")), |fs| assert!(fs.write("e/bad-name", "good"))).unwrap();
    assert_eq!(found["/b"], "good 755 1 ");
    assert!(!found.contains_key("/e/bad-name"));
    let found = rebase(|fs| assert!(fs.write("b", "bad")), |fs| assert!(fs.rename("b", "e/name"))).unwrap();
    assert_eq!(found["/e/name"], "B 755 1 ");
    let found = rebase(|fs| assert!(fs.rename("d", "bad-name")), |fs| assert!(fs.write("bad-name/new", "good"))).unwrap();
    assert_eq!(found["/d/new"], "good 755 1 ");
    let found = rebase(|fs| assert!(fs.write("d/bad", "bad")), |fs| assert!(fs.rename("d", "e/d"))).unwrap();
    assert!(found.contains_key("/e/d/f") && !found.contains_key("/e/d/bad") && !found.contains_key("/d"));
    assert_eq!((found[""].as_str(), found["/e"].as_str()), ("dir 755 3 ", "dir 755 3 "));
}

#[test]
fn two_renames_of_one_thing_conflict() {
    assert_eq!(rebase(|fs| assert!(fs.rename("d", "bad")), |fs| assert!(fs.rename("bad", "good"))), conflict(&["good"]));
    assert_eq!(rebase(|fs| assert!(fs.rename("b", "bad")), |fs| assert!(fs.rename("bad", "good"))), conflict(&["good"]));
    // Each is fine alone, and together they make a circle.
    let found = rebase(|fs| assert!(fs.rename("d/sub", "sub")), |fs| assert!(fs.rename("d", "sub/d")));
    assert_eq!(found, conflict(&["sub", "sub/d"]));
}

#[test]
fn hard_links_of_one_file_merge() {
    let found = rebase(|fs| assert!(fs.link("a", "bad")), |fs| assert!(fs.link("a", "good") && fs.link("a", "e/good"))).unwrap();
    assert_eq!((found["/a"].as_str(), found.contains_key("/bad")), ("A 755 4 ", false));
    let found = rebase(|fs| assert!(fs.remove("a")), |fs| assert!(fs.rename("d/a2", "d/a3"))).unwrap();
    assert_eq!((found["/a"].as_str(), found["/d/a3"].as_str(), found.contains_key("/d/a2")), ("A 755 2 ", "A 755 2 ", false));
    let found = rebase(|fs| assert!(fs.link("a", "bad")), |fs| assert!(fs.write("a", "good") && fs.remove("d/a2"))).unwrap();
    assert_eq!(found["/a"], "good 755 1 ");
    assert_eq!(rebase(|fs| assert!(fs.remove("a")), |fs| assert!(fs.remove("d/a2"))), conflict(&["d/a2"]));
}

#[test]
fn attributes_of_directories_conflict_only_with_attributes() {
    let found = rebase(|fs| assert!(fs.write("d/bad", "bad")), |fs| assert!(fs.chmod("d", 0o700))).unwrap();
    assert_eq!(found["/d"], "dir 700 3 ");
    let found = rebase(|fs| assert!(fs.chmod("d", 0o700)), |fs| assert!(fs.write("d/good", "good"))).unwrap();
    assert_eq!(found["/d"], "dir 755 3 ");
    assert_eq!(rebase(|fs| assert!(fs.chmod("d", 0o700)), |fs| assert!(fs.chmod("d", 0o711))), conflict(&["d"]));
}

fn kinds(old: &Fs, new: &Fs) -> Vec<(String, ChangeKind)> {
    let found = changes(&old.state, &new.state).unwrap();
    found.into_iter().map(|change| (String::from_utf8(change.path).unwrap(), change.kind)).collect()
}

#[test]
fn changes_are_paths() {
    use ChangeKind::{Added, Deleted, Modified, Properties, Type};
    let old = Fs::new().with(|fs| {
        assert!(fs.mkdir("d") && fs.mkdir("d/sub") && fs.write("d/sub/f", "1") && fs.write("a", "1") && fs.write("b", "1"));
        assert!(fs.write("t", "1") && fs.link("b", "b2") && fs.write("z", "1") && fs.mkdir("p"));
    });
    assert_eq!(kinds(&old, &old), []);
    let new = old.with(|fs| {
        assert!(fs.rename("d", "e") && fs.write("e/sub/f", "2") && fs.write("a", "2") && fs.chmod("b2", 0o600));
        assert!(fs.remove("t") && fs.mkdir("t") && fs.write("n", "1") && fs.link("z", "z2") && fs.xattr("p", "1"));
    });
    let expected = [
        ("a", Modified),
        ("b", Properties),
        ("b2", Properties),
        ("d", Deleted),
        ("d/sub", Deleted),
        ("d/sub/f", Deleted),
        ("e", Added),
        ("e/sub", Added),
        ("e/sub/f", Added),
        ("n", Added),
        ("p", Properties),
        ("t", Type),
        ("z2", Added),
    ];
    assert_eq!(kinds(&old, &new), expected.map(|(path, kind)| (path.to_owned(), kind)));
    let back: Vec<String> = kinds(&new, &old).into_iter().map(|(path, _)| path).collect();
    assert_eq!(back, expected.map(|(path, _)| path.to_owned()));
}

#[test]
fn the_root_and_touched_directories_are_changes_of_their_own() {
    let old = Fs::new().with(|fs| assert!(fs.mkdir("d")));
    let new = old.with(|fs| {
        let now = fs.tick();
        let (ino, _) = fs.get("d").unwrap();
        fs.edit(ino, |record| record.mtime = now);
        assert!(fs.chmod("", 0o700));
    });
    assert_eq!(kinds(&old, &new), [(String::new(), ChangeKind::Properties), ("d".to_owned(), ChangeKind::Properties)]);
}

#[derive(Clone, Debug)]
enum Op {
    Mkdir(usize),
    Write(usize),
    Chmod(usize),
    Xattr(usize),
    Link(usize, usize),
    Remove(usize),
    Rename(usize, usize),
}

const PATHS: &[&str] = &["a", "b", "d", "e", "d/a", "d/b", "d/d", "e/a", "e/d", "d/d/a", "d/d/b", "e/d/a", "e/d/d"];

fn fs_op() -> impl Strategy<Value = Op> {
    let path = || 0..PATHS.len();
    prop_oneof![
        2 => path().prop_map(Op::Mkdir),
        4 => path().prop_map(Op::Write),
        1 => path().prop_map(Op::Chmod),
        1 => path().prop_map(Op::Xattr),
        2 => (path(), path()).prop_map(|(a, b)| Op::Link(a, b)),
        2 => path().prop_map(Op::Remove),
        3 => (path(), path()).prop_map(|(a, b)| Op::Rename(a, b)),
    ]
}

/// Does what it can of the operations; what it writes begins with `tag`.
fn apply(fs: &mut Fs, tag: &str, ops: &[Op]) {
    for (n, op) in ops.iter().enumerate() {
        let text = format!("{tag}{n}");
        let perm = 0o700 + u16::try_from(n % 64).unwrap();
        let _could = match *op {
            Op::Mkdir(at) => fs.mkdir(PATHS[at]),
            Op::Write(at) => fs.write(PATHS[at], &text),
            Op::Chmod(at) => fs.chmod(PATHS[at], perm),
            Op::Xattr(at) => fs.xattr(PATHS[at], &text),
            Op::Link(from, to) => fs.link(PATHS[from], PATHS[to]),
            Op::Remove(at) => fs.remove(PATHS[at]),
            Op::Rename(from, to) => fs.rename(PATHS[from], PATHS[to]),
        };
    }
}

/// Every text that is in a state with this tag.
fn tagged(paths: &BTreeMap<String, String>, tag: &str) -> BTreeSet<String> {
    paths.values().flat_map(|text| text.split(' ')).filter(|word| word.starts_with(tag)).map(ToOwned::to_owned).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_merge_is_sound_and_loses_nothing(
        before in prop::collection::vec(fs_op(), 0..25),
        rejected in prop::collection::vec(fs_op(), 0..6),
        mine in prop::collection::vec(fs_op(), 0..6),
    ) {
        let theirs = Fs::new().with(|fs| apply(fs, "V", &before));
        let base = theirs.with(|fs| apply(fs, "R", &rejected));
        let ours = base.with(|fs| apply(fs, "O", &mine));
        // Nothing rejected: all of ours. Nothing of ours: all of theirs.
        prop_assert_eq!(merged(&base, &base, &ours), Ok(ours.paths()));
        prop_assert_eq!(merged(&base, &theirs, &base), Ok(theirs.paths()));
        if let Ok(found) = merged(&base, &theirs, &ours) {
            prop_assert_eq!(tagged(&found, "R"), BTreeSet::new(), "what was rejected is back");
            prop_assert_eq!(tagged(&found, "O"), tagged(&ours.paths(), "O"), "a change is lost");
        }
    }

    #[test]
    fn changes_tell_old_paths_from_new(
        before in prop::collection::vec(fs_op(), 0..25),
        then in prop::collection::vec(fs_op(), 0..6),
    ) {
        let old = Fs::new().with(|fs| apply(fs, "V", &before));
        let new = old.with(|fs| apply(fs, "N", &then));
        let (a, b) = (old.paths(), new.paths());
        let mut listed = BTreeSet::new();
        for (path, kind) in kinds(&old, &new) {
            let path = if path.is_empty() { path } else { format!("/{path}") };
            let there = (a.contains_key(&path), b.contains_key(&path));
            let expected = match kind {
                ChangeKind::Added => (false, true),
                ChangeKind::Deleted => (true, false),
                _ => (true, true),
            };
            prop_assert_eq!(there, expected, "{} {:?}", &path, kind);
            listed.insert(path);
        }
        // What is not listed is equal but for link counts.
        let without_links = |text: &String| text.split(' ').enumerate().filter(|(n, _)| *n != 2).map(|(_, w)| w.to_owned()).collect::<Vec<_>>();
        for path in a.keys().chain(b.keys()).filter(|path| !listed.contains(*path)) {
            prop_assert_eq!(a.get(path).map(without_links), b.get(path).map(without_links), "{}", path);
        }
    }
}
