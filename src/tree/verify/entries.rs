//! Whether the entries of a tree agree with one another: names with records, records with names, counts of links, extents.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{VerifyError, damage_is_nothing};
use crate::ids::{Ino, VersionId};
use crate::store::verify::{Finding, Findings, Severity};
use crate::tree::key::{Content, Extent, FileKind, InodeRecord, Key, Name, Part, Value};
use crate::tree::{Snapshot, Tree, TreeError};

/// Checks a version's entries; those alone that what differs from `clean`, a tree in order, can concern, if there is one. Returns
/// whether something is wrong.
pub(super) fn check(
    snapshot: &Snapshot,
    clean: Option<&Tree>,
    version: VersionId,
    findings: &mut Findings,
    stop: &AtomicBool,
) -> Result<bool, VerifyError> {
    let mut entries = Entries { snapshot, version, findings, wrong: false, at: None };
    match clean {
        None => entries.run(snapshot.tree.iter(), stop)?,
        Some(clean) => {
            for ino in concerned(clean, &snapshot.tree)? {
                entries.run(snapshot.tree.range(&Key::inode(ino), &Key::inode(Ino(ino.0.saturating_add(1)))), stop)?;
            }
        }
    }
    if snapshot.inode(Ino::ROOT)?.is_none_or(|root| root.kind != FileKind::Directory) {
        entries.complain(Ino::ROOT, "there is no root directory".to_owned());
    }
    Ok(entries.wrong)
}

/// The inodes whose entries, or whose neighbours' entries, differ.
fn concerned(old: &Tree, new: &Tree) -> Result<BTreeSet<Ino>, TreeError> {
    let mut inos = BTreeSet::new();
    for change in old.diff(new) {
        let change = change?;
        inos.insert(change.key.ino);
        if let Part::Link(dir, _) = change.key.part {
            inos.insert(dir);
        }
        for value in [change.old, change.new].into_iter().flatten() {
            match value {
                Value::Inode(record) => inos.insert(record.parent),
                Value::Dirent(target, _) => inos.insert(target),
                Value::Link | Value::Xattr(_) | Value::Extent(_) => false,
            };
        }
    }
    Ok(inos)
}

struct Entries<'a> {
    snapshot: &'a Snapshot,
    version: VersionId,
    findings: &'a mut Findings,
    wrong: bool,
    at: Option<Inode>,
}

/// An inode whose entries are passing by.
struct Inode {
    ino: Ino,
    record: Arc<InodeRecord>,
    subdirs: u32,
    links: u32,
    /// Where its last extent ended.
    end: u64,
}

impl Entries<'_> {
    fn complain(&mut self, ino: Ino, what: String) {
        self.wrong = true;
        let path = self.snapshot.path_of(ino).ok().flatten();
        self.complain_at(path, what);
    }

    fn complain_at(&mut self, path: Option<Vec<u8>>, what: String) {
        self.wrong = true;
        let finding = Finding { path, ..Finding::new(Severity::Error, what).of(self.version) };
        self.findings.add(finding);
    }

    fn run(&mut self, entries: impl Iterator<Item = Result<(Key, Value), TreeError>>, stop: &AtomicBool) -> Result<(), VerifyError> {
        for entry in entries {
            if stop.load(Ordering::Relaxed) {
                return Err(VerifyError::Stopped);
            }
            let (key, value) = entry?;
            self.entry(key, value)?;
        }
        self.finish()
    }

    fn entry(&mut self, key: Key, value: Value) -> Result<(), VerifyError> {
        let ino = key.ino;
        if let Value::Inode(record) = value {
            self.finish()?;
            self.at = Some(Inode { ino, record, subdirs: 0, links: 0, end: 0 });
            return Ok(());
        }
        let Some(mut at) = self.at.take().filter(|at| at.ino == ino) else {
            self.complain(ino, format!("inode {ino} has entries and no record"));
            return Ok(());
        };
        match (key.part, value) {
            (Part::Dirent(name), Value::Dirent(target, kind)) => self.name(&mut at, &name, target, kind)?,
            (Part::Link(dir, name), _) => {
                at.links += 1;
                self.link(ino, at.record.kind, dir, &name)?;
            }
            (Part::Extent(offset), Value::Extent(extent)) => self.extent(&mut at, offset, &extent),
            _ => {}
        }
        self.at = Some(at);
        Ok(())
    }

    /// A directory's entry leads to an inode of that kind, which knows of it.
    fn name(&mut self, at: &mut Inode, name: &Name, target: Ino, kind: FileKind) -> Result<(), VerifyError> {
        let dir = at.ino;
        if at.record.kind != FileKind::Directory {
            self.complain(dir, "it has directory entries, and is none".to_owned());
        }
        at.subdirs += u32::from(kind == FileKind::Directory);
        let what = match self.snapshot.inode(target)? {
            None => format!("it leads to inode {target}, which has no record"),
            Some(record) if record.kind != kind => format!("its entry says {kind:?}, its inode {:?}", record.kind),
            Some(record) if record.parent == dir && record.name == *name => return Ok(()),
            Some(_) if self.snapshot.tree.get(&Key::link(target, dir, name))?.is_some() => return Ok(()),
            Some(_) => format!("inode {target} does not know of this name"),
        };
        let path = damage_is_nothing(self.snapshot.path_below(dir, name))?;
        self.complain_at(path, what);
        Ok(())
    }

    /// A name that an inode has leads to it.
    fn link(&mut self, ino: Ino, kind: FileKind, dir: Ino, name: &Name) -> Result<(), VerifyError> {
        if self.snapshot.lookup(dir, name)? != Some((ino, kind)) {
            let name = String::from_utf8_lossy(name).into_owned();
            self.complain(ino, format!("inode {ino} is \"{name}\" in directory {dir}, which does not know of it"));
        }
        Ok(())
    }

    fn extent(&mut self, at: &mut Inode, offset: u64, extent: &Extent) {
        let end = offset.checked_add(extent.len);
        let what = match end {
            _ if at.record.content != Content::Extents => "it has extents that do not belong to its content",
            None => "an extent ends past what a file can be",
            Some(_) if extent.len == 0 => "an extent has no bytes",
            Some(_) if offset < at.end => "extents overlap",
            Some(end) => {
                at.end = end;
                return;
            }
        };
        self.complain(at.ino, format!("{what} (at {offset})"));
    }

    /// All entries of an inode have passed by.
    fn finish(&mut self) -> Result<(), VerifyError> {
        let Some(Inode { ino, record, subdirs, links, .. }) = self.at.take() else { return Ok(()) };
        let directory = record.kind == FileKind::Directory;
        let nlink = if directory { subdirs.saturating_add(2) } else { links.saturating_add(1) };
        if record.nlink != nlink {
            self.complain(ino, format!("its link count is {} where it has {nlink}", record.nlink));
        }
        if directory && links > 0 {
            self.complain(ino, "a directory has more than one name".to_owned());
        }
        if ino == Ino::ROOT {
            return Ok(());
        }
        self.link(ino, record.kind, record.parent, &record.name)?;
        // A circle of directories: each is in the other, and none below the root.
        if directory && damage_is_nothing(self.snapshot.path_of(ino))?.is_none() {
            self.complain_at(None, format!("directory {ino} is not below the root"));
        }
        Ok(())
    }
}
