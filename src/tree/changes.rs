//! The difference of two states as paths, for people and checks.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::key::{Content, FileKind, InodeRecord, Name, Part, Value};
use super::snapshot::MAX_DEPTH;
use super::{Snapshot, TreeError};
use crate::ids::{Ino, ObjectId};

/// The longest path that is spelled out. A tree can be deeper than any path, and to spell out all paths of such a one would take
/// time and memory that grow with the square of its depth.
const PATH_MAX: usize = 4096;

/// How a path differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// Its content differs (its attributes may, too).
    Modified,
    /// It is another kind of file.
    Type,
    /// Only its attributes differ: mode, owner, times, extended attributes.
    Properties,
    /// It is gone.
    Deleted,
}

/// A path that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathChange {
    /// The path, without a leading slash; empty for the root. A path longer than `PATH_MAX`, which no system call takes, is
    /// `//inode N/name`, N being the directory: nothing else begins with a slash.
    pub path: Vec<u8>,
    /// The inode there (in the newer state, unless it is deleted).
    pub ino: Ino,
    /// How it differs.
    pub kind: ChangeKind,
    /// The record in the older state.
    pub old: Option<Arc<InodeRecord>>,
    /// The record in the newer state.
    pub new: Option<Arc<InodeRecord>>,
}

/// The paths that differ, sorted. New and deleted directories come with all that is in them, a renamed one as both.
///
/// A directory whose times and link count differ only because its entries do is not listed, nor is a file that only gained or lost
/// another name. The cost follows the change.
pub fn changes(old: &Snapshot, new: &Snapshot) -> Result<Vec<PathChange>, TreeError> {
    let mut found = Found { old: Side::new(old), new: Side::new(new), touched: BTreeMap::new(), paths: BTreeMap::new() };
    let mut names = Vec::new();
    for change in old.tree.diff(&new.tree) {
        let change = change?;
        let touched = found.touched.entry(change.key.ino).or_default();
        match change.key.part {
            Part::Inode | Part::Link(..) => {}
            Part::Xattr(_) => touched.xattrs = true,
            Part::Extent(_) => touched.extents = true,
            Part::Dirent(name) => {
                touched.entries = true;
                names.push((change.key.ino, name, change.old, change.new));
            }
        }
    }
    for (dir, name, old, new) in names {
        found.name(dir, &name, old, new)?;
    }
    found.touched_inodes()?;
    found.classify()
}

/// What of an inode differs beside its record.
#[derive(Clone, Copy, Default)]
struct Touched {
    entries: bool,
    xattrs: bool,
    extents: bool,
}

/// One of the two states, with the paths of directories met so far.
struct Side<'a> {
    snapshot: &'a Snapshot,
    dirs: HashMap<Ino, Arc<[u8]>>,
}

/// The inodes that a path leads to in the older and in the newer state.
#[derive(Clone, Copy, Default)]
struct Ends {
    old: Option<Ino>,
    new: Option<Ino>,
}

struct Found<'a> {
    old: Side<'a>,
    new: Side<'a>,
    touched: BTreeMap<Ino, Touched>,
    paths: BTreeMap<Vec<u8>, Ends>,
}

impl<'a> Side<'a> {
    fn new(snapshot: &'a Snapshot) -> Self {
        Self { snapshot, dirs: HashMap::from([(Ino::ROOT, Arc::from(&b""[..]))]) }
    }

    fn dir(&mut self, ino: Ino) -> Result<Arc<[u8]>, TreeError> {
        let mut names: Vec<(Ino, Name)> = Vec::new();
        let mut at = ino;
        let mut path = loop {
            if let Some(path) = self.dirs.get(&at) {
                break Arc::clone(path);
            }
            let record = self.snapshot.inode(at)?.ok_or_else(|| TreeError::inode(at, "a directory without a record"))?;
            names.push((at, Arc::clone(&record.name)));
            at = record.parent;
            if names.len() as u64 > self.deepest() {
                return Err(TreeError::inode(ino, "its parents run in a circle"));
            }
        };
        let mut dir = at;
        while let Some((below, name)) = names.pop() {
            path = join(dir, &path, &name).into();
            dir = below;
            self.dirs.insert(below, Arc::clone(&path));
        }
        Ok(path)
    }

    /// No tree is deeper than it has entries.
    fn deepest(&self) -> u64 {
        self.snapshot.tree.len().max(MAX_DEPTH as u64)
    }

    /// Calls `found` with the path and, if it is a directory, those below. What `found` knows already it has with all that is below.
    fn expand(&self, path: Vec<u8>, ino: Ino, kind: FileKind, found: &mut dyn FnMut(&[u8], Ino) -> bool) -> Result<(), TreeError> {
        let mut left = vec![(path, ino, kind, 0_u64)];
        while let Some((path, ino, kind, depth)) = left.pop() {
            if depth > self.deepest() {
                return Err(TreeError::inode(ino, "a directory that is in itself"));
            }
            if found(&path, ino) && kind == FileKind::Directory {
                for entry in self.snapshot.each_entry(ino) {
                    let (name, below, kind) = entry?;
                    left.push((join(ino, &path, &name), below, kind, depth + 1));
                }
            }
        }
        Ok(())
    }
}

/// The path of an entry of the directory `ino`, whose path is `dir`.
fn join(ino: Ino, dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() {
        name.to_vec()
    } else if dir.starts_with(b"/") || dir.len() + name.len() >= PATH_MAX {
        [format!("//inode {ino}").as_bytes(), name].join(&b'/')
    } else {
        [dir, name].join(&b'/')
    }
}

/// Notes that a path leads to `ino` in one of the states; false if that is known.
fn note(paths: &mut BTreeMap<Vec<u8>, Ends>, path: &[u8], ino: Ino, end: fn(&mut Ends) -> &mut Option<Ino>) -> bool {
    match paths.get_mut(path) {
        Some(ends) => end(ends).replace(ino) != Some(ino),
        None => {
            let mut ends = Ends::default();
            *end(&mut ends) = Some(ino);
            paths.insert(path.to_vec(), ends);
            true
        }
    }
}

impl Found<'_> {
    /// A name that leads elsewhere, is new or is gone.
    fn name(&mut self, dir: Ino, name: &[u8], old: Option<Value>, new: Option<Value>) -> Result<(), TreeError> {
        let paths = &mut self.paths;
        if let Some(Value::Dirent(ino, kind)) = old {
            let path = join(dir, &self.old.dir(dir)?, name);
            self.old.expand(path, ino, kind, &mut |path, ino| note(paths, path, ino, |ends| &mut ends.old))?;
        }
        if let Some(Value::Dirent(ino, kind)) = new {
            let path = join(dir, &self.new.dir(dir)?, name);
            self.new.expand(path, ino, kind, &mut |path, ino| note(paths, path, ino, |ends| &mut ends.new))?;
        }
        Ok(())
    }

    /// The paths of inodes that differ themselves. A path that no changed name leads to is the same in both states.
    fn touched_inodes(&mut self) -> Result<(), TreeError> {
        for ino in self.touched.keys() {
            let Some(record) = self.new.snapshot.inode(*ino)? else { continue };
            let mut links = self.new.snapshot.further_links(*ino)?;
            if *ino == Ino::ROOT {
                self.paths.entry(Vec::new()).or_insert(Ends { old: Some(*ino), new: Some(*ino) });
            } else {
                links.push((record.parent, Arc::clone(&record.name)));
            }
            for (dir, name) in links {
                let path = join(dir, &self.new.dir(dir)?, &name);
                self.paths.entry(path).or_insert(Ends { old: Some(*ino), new: Some(*ino) });
            }
        }
        Ok(())
    }

    fn classify(self) -> Result<Vec<PathChange>, TreeError> {
        let mut changes = Vec::with_capacity(self.paths.len());
        for (path, ends) in &self.paths {
            let old = load(self.old.snapshot, ends.old)?;
            let new = load(self.new.snapshot, ends.new)?;
            let kind = match (&old, &new) {
                (Some(old), Some(new)) => self.compare(old, new)?,
                (Some(_), None) => Some(ChangeKind::Deleted),
                (None, Some(_)) => Some(ChangeKind::Added),
                (None, None) => None,
            };
            if let (Some(kind), Some(ino)) = (kind, ends.new.or(ends.old)) {
                let path = path.clone();
                changes.push(PathChange { path, ino, kind, old: old.map(|(_, record)| record), new: new.map(|(_, record)| record) });
            }
        }
        Ok(changes)
    }

    /// How a path that is there in both states differs.
    fn compare(&self, old: &(Ino, Arc<InodeRecord>), new: &(Ino, Arc<InodeRecord>)) -> Result<Option<ChangeKind>, TreeError> {
        let ((old_ino, old), (new_ino, new)) = (old, new);
        let same_inode = old_ino == new_ino;
        let touched = match self.touched.get(new_ino) {
            Some(touched) if same_inode => *touched,
            None if same_inode => return Ok(None),
            _ => Touched::default(),
        };
        if old.kind != new.kind {
            return Ok(Some(ChangeKind::Type));
        }
        let extents = touched.extents || (!same_inode && old.content == Content::Extents);
        if extents || old.size != new.size || !self.same_content(&old.content, &new.content)? {
            return Ok(Some(ChangeKind::Modified));
        }
        let xattrs = if same_inode { touched.xattrs } else { self.old.snapshot.xattrs(*old_ino)? != self.new.snapshot.xattrs(*new_ino)? };
        let attributes = |record: &InodeRecord| (record.perm, record.uid, record.gid, record.rdev);
        // A directory's times follow its entries; on their own they were set.
        let entries = touched.entries || (!same_inode && new.kind == FileKind::Directory);
        let times = !entries && (old.mtime, old.atime) != (new.mtime, new.atime);
        let differs = xattrs || times || attributes(old) != attributes(new);
        Ok(differs.then_some(ChangeKind::Properties))
    }

    fn same_content(&self, old: &Content, new: &Content) -> Result<bool, TreeError> {
        if old == new {
            return Ok(true);
        }
        // Bytes that were written again are the same bytes; known once both are sealed.
        let (Content::Object(old), Content::Object(new)) = (old, new) else { return Ok(false) };
        let catalog = self.new.snapshot.store.catalog();
        let digest = |object: &ObjectId| catalog.object(*object).map(|record| record.map(|record| record.digest));
        let (old, new) = (digest(old)?, digest(new)?);
        Ok(old.is_some() && old == new)
    }
}

fn load(snapshot: &Snapshot, ino: Option<Ino>) -> Result<Option<(Ino, Arc<InodeRecord>)>, TreeError> {
    let Some(ino) = ino else { return Ok(None) };
    let record = snapshot.inode(ino)?.ok_or_else(|| TreeError::inode(ino, "a name leads to it but it has no record"))?;
    Ok(Some((ino, record)))
}
