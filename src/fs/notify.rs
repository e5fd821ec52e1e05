//! What the kernel must be told when something changed that no request of its own changed.
//!
//! Only the dispatcher and the notice thread send notices: the kernel takes locks for them that a request may hold, so a FUSE
//! thread that waited for one would wait for itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::nodes::{RawNode, StagingNodes, ViewNode};
use super::views::Visible;
use crate::ids::VersionId;
use crate::version::staging::Invalidation;

/// Something that the kernel must forget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// A name in a directory.
    Entry(RawNode, Arc<[u8]>),
    /// Attributes and pages of a node.
    Inode(RawNode),
    /// Attributes of a node, but not its pages.
    Attributes(RawNode),
}

/// What changed in the views between two states of what is visible.
pub(super) fn of_views(old: &Visible, new: &Visible) -> Vec<Notice> {
    // Their times tell the kernel whether the listings that it keeps are old.
    let listings = [ViewNode::Versions, ViewNode::Ghosts].into_iter().filter_map(ViewNode::pack);
    let mut notices: Vec<_> = listings.map(Notice::Attributes).collect();
    let mut entry = |dir: ViewNode, name: &[u8]| notices.extend(dir.pack().map(|dir| Notice::Entry(dir, name.into())));
    if old.production != new.production {
        entry(ViewNode::Root, b"production");
    }
    if old.latest != new.latest {
        entry(ViewNode::Versions, b"latest");
    }
    if old.valid != new.valid {
        entry(ViewNode::Versions, b"valid");
    }
    for (name, version) in &old.tags {
        if new.tags.get(name) != Some(version) {
            entry(ViewNode::Versions, name.as_bytes());
        }
    }
    for version in gone(&old.versions, &new.versions) {
        entry(ViewNode::Versions, version.to_string().as_bytes());
    }
    for version in gone(&old.ghosts, &new.ghosts) {
        entry(ViewNode::Ghosts, version.to_string().as_bytes());
    }
    notices
}

fn gone<'a, T>(old: &'a BTreeMap<VersionId, T>, new: &'a BTreeMap<VersionId, T>) -> impl Iterator<Item = VersionId> + 'a {
    old.keys().copied().filter(|version| !new.contains_key(version))
}

/// What staging says the kernel must forget. A number that fits into no node id was never given to the kernel.
pub(super) fn of_staging(nodes: StagingNodes, invalidations: &[Invalidation]) -> Vec<Notice> {
    let notice = |invalidation: &Invalidation| match invalidation {
        Invalidation::Inode(node) => nodes.pack(node.ino, node.generation).map(Notice::Inode),
        Invalidation::Entry { dir, name } => nodes.pack(dir.ino, dir.generation).map(|dir| Notice::Entry(dir, Arc::clone(name))),
    };
    invalidations.iter().filter_map(notice).collect()
}
