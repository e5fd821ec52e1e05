//! The dataset in a version: directories belong to one view, files are shared by all versions in which they did not change.

use std::sync::Arc;

use super::{AFTER_DOTS, Listed, ViewError, ViewResult, Views, Visible, VisibleVersion, dots, raw};
use crate::fs::attr::NodeAttr;
use crate::fs::nodes::{View, ViewNode};
use crate::ids::{Ino, VersionId};
use crate::tree::Snapshot;
use crate::tree::key::{Content, FileKind, InodeRecord};

/// A node of the dataset, found.
pub(super) struct Found {
    pub(super) snapshot: Snapshot,
    pub(super) ino: Ino,
    pub(super) record: Arc<InodeRecord>,
}

impl Views {
    /// The directory of a version. Whoever holds one of a version that was rejected since keeps reading it among the ghosts.
    pub(super) fn directory_of(&self, version: VersionId, ino: Ino) -> ViewResult<Found> {
        let visible = self.visible();
        let snapshot = visible.find(version).ok_or(ViewError::Stale)?.snapshot.clone();
        let record = snapshot.inode(ino)?.ok_or(ViewError::Stale)?;
        Ok(Found { snapshot, ino, record })
    }

    /// A file, through any version that still has it as it was changed in `changed_in`.
    pub(super) fn file(&self, changed_in: VersionId, ino: Ino) -> ViewResult<Found> {
        let visible = self.visible();
        for version in candidates(&visible, changed_in) {
            match version.snapshot.inode(ino)? {
                Some(record) if record.changed_in == changed_in => return Ok(Found { snapshot: version.snapshot.clone(), ino, record }),
                _ => {}
            }
        }
        Err(ViewError::Stale)
    }

    /// A directory or file of the dataset.
    pub(super) fn found(&self, node: ViewNode) -> ViewResult<Found> {
        match node {
            ViewNode::Directory(_, version, ino) => self.directory_of(version, ino),
            ViewNode::File(changed_in, ino) => self.file(changed_in, ino),
            _ => Err(ViewError::Invalid),
        }
    }

    pub(super) fn lookup_dataset(&self, view: View, version: VersionId, dir: Ino, name: &[u8]) -> ViewResult<Option<ViewNode>> {
        let Found { snapshot, record, .. } = self.directory_of(version, dir)?;
        if record.kind != FileKind::Directory {
            return Err(ViewError::NotDirectory);
        }
        match snapshot.lookup(dir, name)? {
            Some((ino, kind)) => node_of(&snapshot, view, version, ino, kind),
            None => Ok(None),
        }
    }

    pub(super) fn dataset_attr(&self, node: ViewNode) -> ViewResult<NodeAttr> {
        let Found { snapshot, ino, record } = self.found(node)?;
        let allocated = match record.content {
            Content::Extents => snapshot.extents(ino)?.iter().map(|(_, extent)| extent.len).sum(),
            _ => 0,
        };
        Ok(NodeAttr::of_record(raw(node)?, &record, || allocated))
    }

    pub(super) fn list_dataset(&self, view: View, version: VersionId, dir: Ino, offset: u64, n: usize) -> ViewResult<Vec<Listed>> {
        let Found { snapshot, record, .. } = self.directory_of(version, dir)?;
        let mut listed = Vec::new();
        if offset < AFTER_DOTS {
            let parent = match (dir, view) {
                (Ino::ROOT, View::Versions) => ViewNode::Versions,
                (Ino::ROOT, View::Ghosts) => ViewNode::Ghosts,
                (Ino::ROOT, View::Production) => ViewNode::Root,
                _ => ViewNode::Directory(view, version, record.parent),
            };
            listed = dots(ViewNode::Directory(view, version, dir), parent, offset);
        }
        // The tree of a sealed version never changes, so an entry's ordinal is a stable offset.
        let skip = offset.saturating_sub(AFTER_DOTS);
        for ((name, ino, kind), at) in snapshot.entries(dir, skip, n)?.into_iter().zip(skip + AFTER_DOTS..) {
            // An entry without an inode is damage; it is left out here, and a lookup of it says so.
            if let Some(node) = node_of(&snapshot, view, version, ino, kind)? {
                listed.push(Listed { name, node, kind, next: at + 1 });
            }
        }
        Ok(listed)
    }

    pub(super) fn read_dataset(&self, changed_in: VersionId, ino: Ino, offset: u64, buffer: &mut [u8]) -> ViewResult<usize> {
        let Found { snapshot, record, .. } = self.file(changed_in, ino)?;
        Ok(snapshot.read_record_into(ino, &record, offset, buffer)?)
    }

    pub(super) fn read_dataset_link(&self, changed_in: VersionId, ino: Ino) -> ViewResult<Vec<u8>> {
        let Found { snapshot, record, .. } = self.file(changed_in, ino)?;
        if record.kind != FileKind::Symlink {
            return Err(ViewError::Invalid);
        }
        let len = usize::try_from(record.size).map_err(|_| ViewError::Invalid)?;
        Ok(snapshot.read_record(ino, &record, 0, len)?)
    }

    /// `SEEK_DATA` and `SEEK_HOLE`.
    pub fn seek(&self, node: ViewNode, offset: u64, data: bool) -> ViewResult<u64> {
        let ViewNode::File(changed_in, ino) = node else {
            // The lineage's files have no holes.
            let size = self.attr(node)?.size;
            return if offset >= size { Err(ViewError::NoSuchOffset) } else { Ok(if data { offset } else { size }) };
        };
        let Found { snapshot, record, .. } = self.file(changed_in, ino)?;
        let found = if data { snapshot.seek_data(ino, &record, offset)? } else { snapshot.seek_hole(ino, &record, offset)? };
        found.ok_or(ViewError::NoSuchOffset)
    }
}

/// The node of an entry of a directory.
fn node_of(snapshot: &Snapshot, view: View, version: VersionId, ino: Ino, kind: FileKind) -> ViewResult<Option<ViewNode>> {
    if kind == FileKind::Directory {
        return Ok(Some(ViewNode::Directory(view, version, ino)));
    }
    Ok(snapshot.inode(ino)?.map(|record| ViewNode::File(record.changed_in, ino)))
}

/// The versions that can have a file of `changed_in`: that one first, then later ones; those that are gone come last.
fn candidates(visible: &Visible, changed_in: VersionId) -> impl Iterator<Item = &VisibleVersion> {
    let later = visible.versions.range(changed_in..).chain(visible.ghosts.range(changed_in..)).chain(visible.departed.range(changed_in..));
    visible
        .find(changed_in)
        .into_iter()
        .chain(later.filter(move |(version, _)| **version != changed_in).map(|(_, version)| version.as_ref()))
}
