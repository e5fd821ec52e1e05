//! The directories above the dataset: the root, `versions`, `ghosts`.

use super::{AFTER_DOTS, Listed, ViewResult, Views, dots};
use crate::fs::nodes::{View, ViewNode};
use crate::ids::{Ino, VersionId};
use crate::tree::key::FileKind;

/// Offsets in `versions`: the two symlinks, then versions by number, then tags by their place. Versions come and go while a
/// directory is read; because an offset names the version, none is shown twice or left out.
const AFTER_LINKS: u64 = 4;
const TAGS: u64 = 1 << 40;

/// The directory of a version in a view.
const fn top(view: View, version: VersionId) -> ViewNode {
    ViewNode::Directory(view, version, Ino::ROOT)
}

fn version_of(name: &[u8]) -> Option<VersionId> {
    std::str::from_utf8(name).ok()?.parse().ok()
}

impl Views {
    pub(super) fn lookup_root(&self, name: &[u8]) -> ViewResult<Option<ViewNode>> {
        Ok(match name {
            b"staging" => Some(ViewNode::Staging),
            b"versions" => Some(ViewNode::Versions),
            b"ghosts" => Some(ViewNode::Ghosts),
            b"lineage" => Some(ViewNode::Lineage),
            b"production" => Some(top(View::Production, self.visible().production)),
            _ => None,
        })
    }

    pub(super) fn list_root(&self, offset: u64) -> Vec<Listed> {
        let nodes: [(&[u8], ViewNode); 5] = [
            (b"ghosts", ViewNode::Ghosts),
            (b"lineage", ViewNode::Lineage),
            (b"production", top(View::Production, self.visible().production)),
            (b"staging", ViewNode::Staging),
            (b"versions", ViewNode::Versions),
        ];
        let mut entries = dots(ViewNode::Root, ViewNode::Root, offset);
        for (index, (name, node)) in nodes.into_iter().enumerate() {
            entries.push(Listed { name: name.into(), node, kind: FileKind::Directory, next: AFTER_DOTS + index as u64 + 1 });
        }
        entries.retain(|entry| entry.next > offset);
        entries
    }

    pub(super) fn lookup_versions(&self, name: &[u8]) -> Option<ViewNode> {
        let visible = self.visible();
        match name {
            b"latest" => Some(ViewNode::Link(visible.latest)),
            b"valid" => Some(ViewNode::Link(visible.valid)),
            _ => match version_of(name) {
                Some(version) => visible.versions.contains_key(&version).then_some(top(View::Versions, version)),
                None => visible.tags.get(std::str::from_utf8(name).ok()?).map(|version| ViewNode::Link(*version)),
            },
        }
    }

    pub(super) fn list_versions(&self, offset: u64, n: usize) -> Vec<Listed> {
        let visible = self.visible();
        let mut entries = dots(ViewNode::Versions, ViewNode::Root, offset);
        let link = |name: &[u8], version, next| Listed { name: name.into(), node: ViewNode::Link(version), kind: FileKind::Symlink, next };
        entries.push(link(b"latest", visible.latest, AFTER_DOTS + 1));
        entries.push(link(b"valid", visible.valid, AFTER_LINKS));
        entries.retain(|entry| entry.next > offset);
        entries.extend(list_tops(visible.versions.keys(), View::Versions, AFTER_LINKS, offset, n));
        // A tag that looks like a version or one of the links would be shown twice; lookup prefers the other, so it is left out.
        let tags = visible.tags.iter().filter(|(name, _)| version_of(name.as_bytes()).is_none() && *name != "latest" && *name != "valid");
        let tags = tags.zip(TAGS..).map(|((name, version), at)| link(name.as_bytes(), *version, at + 1));
        entries.extend(tags.filter(|entry| entry.next > offset));
        entries.truncate(n);
        entries
    }

    pub(super) fn lookup_ghosts(&self, name: &[u8]) -> Option<ViewNode> {
        let version = version_of(name)?;
        self.visible().ghosts.contains_key(&version).then_some(top(View::Ghosts, version))
    }

    pub(super) fn list_ghosts(&self, offset: u64, n: usize) -> Vec<Listed> {
        let visible = self.visible();
        let mut entries = dots(ViewNode::Ghosts, ViewNode::Root, offset);
        entries.extend(list_tops(visible.ghosts.keys(), View::Ghosts, AFTER_DOTS, offset, n));
        entries.truncate(n);
        entries
    }
}

fn list_tops<'a>(
    versions: impl Iterator<Item = &'a VersionId>,
    view: View,
    base: u64,
    offset: u64,
    n: usize,
) -> impl Iterator<Item = Listed> {
    versions
        .map(move |version| Listed {
            name: version.to_string().into_bytes().into(),
            node: top(view, *version),
            kind: FileKind::Directory,
            next: base.saturating_add(version.0).saturating_add(1),
        })
        .filter(move |entry| entry.next > offset)
        .take(n)
}
