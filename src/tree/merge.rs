//! Carrying changes over: three-way merge of states.
//!
//! `ours` was built on `base`, which was rejected; its changes go onto `theirs`, on which `base` was built. So there are two lists of
//! changes: the rejected ones (theirs to base) and ours (base to ours). What only ours touch is carried over. What both touch
//! is a conflict, but for what follows from other changes and merges by itself:
//!
//! - a change whose outcome `theirs` already has (ours took back what was rejected) is no change;
//! - a directory's times and link count follow its entries, so two new files in one directory merge;
//! - a file's names are a set to which both may add and from which both may take, beside a change of its content on one side.
//!
//! Afterwards whatever was carried over must stand on something: a name's inode, the directory it is in. What stands on an inode that
//! only the rejected version had is a conflict.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::diff::Change;
use super::key::{FileKind, InodeRecord, Key, Name, Part, Value};
use super::snapshot::MAX_DEPTH;
use super::{Snapshot, Tree, TreeError};
use crate::ids::Ino;

/// What became of a merge.
#[derive(Debug)]
pub enum Merge {
    /// The changes do not overlap.
    Clean {
        /// `theirs` with the changes carried over.
        tree: Tree,
        /// The same as edits to `theirs`, in the order of their keys. Records keep the `changed_in` that they had in `ours`.
        edits: Vec<(Key, Option<Value>)>,
    },
    /// They do.
    Conflict {
        /// The paths that both changed, sorted, each once.
        paths: Vec<Vec<u8>>,
    },
}

/// Carries what `ours` changed on top of `base` (rejected) over onto `theirs` (the last valid state, below `base`).
pub fn merge(base: &Snapshot, theirs: &Snapshot, ours: &Snapshot) -> Result<Merge, TreeError> {
    let mut merger = Merger { base, theirs, ours, rejected: by_inode(theirs, base)?, edits: BTreeMap::new(), conflicts: BTreeSet::new() };
    for (ino, changes) in by_inode(base, ours)? {
        merger.inode(ino, changes)?;
    }
    merger.link_counts()?;
    let mut merged = theirs.clone();
    for (key, value) in &merger.edits {
        merged.tree.set(key, value.clone())?;
    }
    merger.check(&merged)?;
    if merger.conflicts.is_empty() {
        Ok(Merge::Clean { tree: merged.tree, edits: merger.edits.into_iter().collect() })
    } else {
        Ok(Merge::Conflict { paths: merger.conflicts.into_iter().collect() })
    }
}

type ByInode = BTreeMap<Ino, BTreeMap<Part, Change>>;

fn by_inode(old: &Snapshot, new: &Snapshot) -> Result<ByInode, TreeError> {
    let mut changes = ByInode::new();
    for change in old.tree.diff(&new.tree) {
        let change = change?;
        changes.entry(change.key.ino).or_default().insert(change.key.part.clone(), change);
    }
    Ok(changes)
}

struct Merger<'a> {
    base: &'a Snapshot,
    theirs: &'a Snapshot,
    ours: &'a Snapshot,
    rejected: ByInode,
    /// What is carried over; never what `theirs` has already.
    edits: BTreeMap<Key, Option<Value>>,
    conflicts: BTreeSet<Vec<u8>>,
}

/// An inode's record in the three states.
struct Three {
    theirs: Option<Arc<InodeRecord>>,
    base: Option<Arc<InodeRecord>>,
    ours: Option<Arc<InodeRecord>>,
}

impl Merger<'_> {
    fn inode(&mut self, ino: Ino, changes: BTreeMap<Part, Change>) -> Result<(), TreeError> {
        if !self.rejected.contains_key(&ino) {
            self.edits.extend(changes.into_values().map(|change| (change.key, change.new)));
            return Ok(());
        }
        let mut left = BTreeMap::new();
        for (part, change) in changes {
            if self.theirs.tree.get(&change.key)? != change.new {
                left.insert(part, change);
            }
        }
        if left.is_empty() {
            return Ok(());
        }
        let three = Three { theirs: self.theirs.inode(ino)?, base: self.base.inode(ino)?, ours: self.ours.inode(ino)? };
        let kind = three.ours.as_ref().or(three.base.as_ref()).or(three.theirs.as_ref()).map(|record| record.kind);
        if kind == Some(FileKind::Directory) { self.directory(ino, &three, left) } else { self.file(ino, &three, left) }
    }

    fn rejected_part(&self, ino: Ino, part: &Part) -> bool {
        self.rejected.get(&ino).is_some_and(|changes| changes.contains_key(part))
    }

    /// A directory that both touched: entry by entry.
    fn directory(&mut self, ino: Ino, three: &Three, changes: BTreeMap<Part, Change>) -> Result<(), TreeError> {
        let entries = changes.keys().any(|part| matches!(part, Part::Dirent(_)));
        for (part, change) in changes {
            if !self.rejected_part(ino, &part) {
                self.edits.insert(change.key, change.new);
            } else if part != Part::Inode {
                self.conflict(&change.key)?;
            } else {
                match (&three.theirs, &three.base, &three.ours) {
                    (Some(theirs), Some(base), Some(ours)) => match merge_directory(theirs, base, ours) {
                        Some(record) => drop(self.edits.insert(change.key, Some(Value::Inode(Arc::new(record))))),
                        None => self.conflict(&change.key)?,
                    },
                    // Ours removed it. Whether the rejected version put something into it shows in the end.
                    (Some(theirs), Some(base), None) if attributes(theirs) == attributes(base) && place(theirs) == place(base) => {
                        self.edits.insert(change.key, None);
                    }
                    // Only the rejected version has it: its entries are what can't be carried over.
                    (None, Some(base), Some(ours)) if entries && attributes(base) == attributes(ours) => {}
                    _ => self.conflict(&change.key)?,
                }
            }
        }
        Ok(())
    }

    /// Anything else that both touched: a change of content or attributes on one side only, and of its names on both.
    fn file(&mut self, ino: Ino, three: &Three, changes: BTreeMap<Part, Change>) -> Result<(), TreeError> {
        let rejected_really = self.rejected.get(&ino).is_some_and(really);
        let links = |state: &Snapshot, record: &InodeRecord| links(state, ino, record);
        let (Some(theirs), Some(base)) = (&three.theirs, &three.base) else {
            // Only the rejected version has it, or it took it away.
            return self.conflict(&Key::inode(ino));
        };
        let (at_theirs, at_base) = (links(self.theirs, theirs)?, links(self.base, base)?);
        let Some(ours) = &three.ours else {
            if rejected_really || at_theirs != at_base {
                return self.conflict(&Key::inode(ino));
            }
            self.edits.extend(changes.into_values().map(|change| (change.key, change.new)));
            return Ok(());
        };
        let ours_really = really(&changes);
        let at_ours = links(self.ours, ours)?;
        let added: BTreeSet<_> = at_ours.difference(&at_base).cloned().collect();
        let removed: BTreeSet<_> = at_base.difference(&at_ours).cloned().collect();
        let moved_by_both = !added.is_empty() && !removed.is_subset(&at_theirs);
        let merged: BTreeSet<_> = at_theirs.difference(&removed).chain(&added).cloned().collect();
        if (ours_really && rejected_really) || moved_by_both || merged.is_empty() {
            return self.conflict(&Key::inode(ino));
        }
        let mut record = InodeRecord::clone(if ours_really { ours } else { theirs });
        record.ctime = ours.ctime;
        record.atime = if ours.atime == base.atime { theirs.atime } else { ours.atime };
        record.changed_in = ours.changed_in;
        let own = [place(ours), place(theirs)].into_iter().find(|link| merged.contains(link));
        if let Some((parent, name)) = own.or_else(|| merged.first().cloned()) {
            record.parent = parent;
            record.name = name;
        }
        record.nlink = u32::try_from(merged.len()).unwrap_or(u32::MAX);
        let own = place(&record);
        for link in at_theirs.union(&merged) {
            let key = Key { ino, part: Part::Link(link.0, Arc::clone(&link.1)) };
            let value = (merged.contains(link) && *link != own).then_some(Value::Link);
            if self.theirs.tree.get(&key)? != value {
                self.edits.insert(key, value);
            }
        }
        self.edits.insert(Key::inode(ino), Some(Value::Inode(Arc::new(record))));
        let rest = changes.into_values().filter(|change| matches!(change.key.part, Part::Xattr(_) | Part::Extent(_)));
        self.edits.extend(rest.map(|change| (change.key, change.new)));
        Ok(())
    }

    /// The link counts of directories, by the subdirectories that are carried over.
    fn link_counts(&mut self) -> Result<(), TreeError> {
        let mut grown: BTreeMap<Ino, i64> = BTreeMap::new();
        for (key, new) in &self.edits {
            if let Part::Dirent(_) = key.part {
                let old = self.theirs.tree.get(key)?;
                let is_dir = |value: &Option<Value>| i64::from(matches!(value, Some(Value::Dirent(_, FileKind::Directory))));
                *grown.entry(key.ino).or_default() += is_dir(new) - is_dir(&old);
            }
        }
        for (dir, grown) in grown {
            let theirs = self.theirs.inode(dir)?;
            let nlink = theirs.as_ref().map_or(2, |record| i64::from(record.nlink)) + grown;
            let nlink = u32::try_from(nlink.max(2)).unwrap_or(u32::MAX);
            let record = match self.edits.get(&Key::inode(dir)) {
                Some(Some(Value::Inode(record))) => Arc::clone(record),
                Some(_) => continue,
                None => match theirs {
                    Some(record) => record,
                    None => continue,
                },
            };
            if record.nlink != nlink {
                let record = InodeRecord { nlink, ..InodeRecord::clone(&record) };
                self.edits.insert(Key::inode(dir), Some(Value::Inode(Arc::new(record))));
            }
        }
        Ok(())
    }

    /// Whether what was carried over stands on what `theirs` has.
    fn check(&mut self, merged: &Snapshot) -> Result<(), TreeError> {
        let mut lost = Vec::new();
        for (key, value) in &self.edits {
            match (&key.part, value) {
                (Part::Dirent(_), Some(Value::Dirent(ino, _))) => {
                    let dir = merged.inode(key.ino)?.is_some_and(|dir| dir.kind == FileKind::Directory);
                    if !dir || merged.inode(*ino)?.is_none() {
                        lost.push(key.clone());
                    }
                }
                (Part::Inode, Some(Value::Inode(record))) => {
                    let named = key.ino == Ino::ROOT || merged.lookup(record.parent, &record.name)?.is_some_and(|(ino, _)| ino == key.ino);
                    if !named || (record.kind == FileKind::Directory && !reaches_root(merged, key.ino)?) {
                        lost.push(key.clone());
                    }
                }
                (Part::Inode, _) => {
                    // A directory that ours removed and into which the rejected version's removal would have to be carried over, too.
                    for entry in merged.each_entry(key.ino) {
                        lost.push(Key::dirent(key.ino, &entry?.0));
                    }
                }
                (_, Some(_)) if merged.inode(key.ino)?.is_none() => lost.push(key.clone()),
                _ => {}
            }
        }
        lost.iter().try_for_each(|key| self.conflict(key))
    }

    /// Notes the path that a key belongs to, as the newest state that has it calls it.
    fn conflict(&mut self, key: &Key) -> Result<(), TreeError> {
        for state in [self.ours, self.base, self.theirs] {
            let path = match &key.part {
                Part::Dirent(name) if state.inode(key.ino)?.is_some() => Some(state.path_below(key.ino, name)?),
                Part::Dirent(_) => None,
                _ => state.path_of(key.ino)?,
            };
            if let Some(path) = path {
                self.conflicts.insert(path);
                return Ok(());
            }
        }
        self.conflicts.insert(format!("inode {}", key.ino).into_bytes());
        Ok(())
    }
}

/// A directory's record with the changes of both, if they are of different things.
fn merge_directory(theirs: &InodeRecord, base: &InodeRecord, ours: &InodeRecord) -> Option<InodeRecord> {
    let (parent, name) = pick(place(theirs), &place(base), place(ours))?;
    let (perm, uid, gid) = pick(attributes(theirs), &attributes(base), attributes(ours))?;
    // The link count is theirs here: what is carried over is added in the end.
    let mut record = InodeRecord { parent, name, perm, uid, gid, nlink: theirs.nlink, ..ours.clone() };
    if ours.mtime == base.mtime {
        record.mtime = theirs.mtime;
    }
    if ours.atime == base.atime {
        record.atime = theirs.atime;
    }
    Some(record)
}

/// The one of both that differs from `base`; `None` if both do, each in its way.
fn pick<T: PartialEq>(theirs: T, base: &T, ours: T) -> Option<T> {
    if ours == *base || ours == theirs {
        Some(theirs)
    } else if theirs == *base {
        Some(ours)
    } else {
        None
    }
}

const fn attributes(record: &InodeRecord) -> (u16, u32, u32) {
    (record.perm, record.uid, record.gid)
}

/// Where the inode's own link is.
fn place(record: &InodeRecord) -> (Ino, Name) {
    (record.parent, Arc::clone(&record.name))
}

/// Whether the changes of a file touch more than its names.
fn really(changes: &BTreeMap<Part, Change>) -> bool {
    changes.values().any(|change| match (&change.key.part, &change.old, &change.new) {
        (Part::Inode, Some(Value::Inode(old)), Some(Value::Inode(new))) => {
            attributes(old) != attributes(new)
                || (old.kind, old.size, old.rdev, old.mtime, &old.content) != (new.kind, new.size, new.rdev, new.mtime, &new.content)
        }
        (Part::Link(..), ..) => false,
        _ => true,
    })
}

/// All names of a file: where and what.
fn links(state: &Snapshot, ino: Ino, record: &InodeRecord) -> Result<BTreeSet<(Ino, Name)>, TreeError> {
    let mut links: BTreeSet<_> = state.further_links(ino)?.into_iter().collect();
    links.insert(place(record));
    Ok(links)
}

/// Whether the directory is below the root, not in a circle that two moves made.
fn reaches_root(state: &Snapshot, dir: Ino) -> Result<bool, TreeError> {
    let mut at = dir;
    for _ in 0..MAX_DEPTH {
        if at == Ino::ROOT {
            return Ok(true);
        }
        match state.inode(at)? {
            Some(record) => at = record.parent,
            None => return Ok(false),
        }
    }
    Ok(false)
}
