//! Extended attributes: those of the dataset, and our own, which no listing shows so that copies do not carry them.

use std::os::unix::ffi::OsStrExt;

use super::dataset::Found;
use super::{ViewError, ViewResult, Views};
use crate::fs::nodes::ViewNode;
use crate::ids::{Digest, VersionId};
use crate::store::record::VersionState;
use crate::tree::key::{Content, FileKind};

/// What our own attributes begin with.
pub(in crate::fs) const OWN: &[u8] = b"user.shadowfs.";

impl Views {
    /// The value of an extended attribute.
    pub fn xattr(&self, node: ViewNode, name: &[u8]) -> ViewResult<Vec<u8>> {
        if let Some(own) = name.strip_prefix(OWN) {
            return self.own_xattr(node, own);
        }
        match node {
            ViewNode::Directory(..) | ViewNode::File(..) => {
                let Found { snapshot, ino, .. } = self.found(node)?;
                snapshot.xattr(ino, name)?.map(|value| value.to_vec()).ok_or(ViewError::NoData)
            }
            _ => Err(ViewError::NoData),
        }
    }

    /// The names of the extended attributes that `privileged` (root) or not may see.
    pub fn xattrs(&self, node: ViewNode, privileged: bool) -> ViewResult<Vec<Vec<u8>>> {
        match node {
            ViewNode::Directory(..) | ViewNode::File(..) => {
                let Found { snapshot, ino, .. } = self.found(node)?;
                let names = snapshot.xattrs(ino)?.into_iter().map(|(name, _)| name.to_vec());
                Ok(names.filter(|name| privileged || !name.starts_with(b"trusted.")).collect())
            }
            _ => Ok(Vec::new()),
        }
    }

    fn own_xattr(&self, node: ViewNode, name: &[u8]) -> ViewResult<Vec<u8>> {
        if name == b"store" {
            return Ok(self.store.path().as_os_str().as_bytes().to_vec());
        }
        let version = match node {
            ViewNode::Directory(_, version, _) | ViewNode::File(version, _) | ViewNode::Link(version) => version,
            ViewNode::OfVersion(version, _) => version,
            _ => return Err(ViewError::NoData),
        };
        match name {
            b"version" => Ok(version.to_string().into_bytes()),
            b"state" => Ok(self.state(version)?.as_str().into()),
            b"digest" => self.digest(node).map(|digest| digest.to_string().into_bytes()),
            _ => Err(ViewError::NoData),
        }
    }

    fn state(&self, version: VersionId) -> ViewResult<VersionState> {
        match self.visible().find(version) {
            Some(found) => Ok(found.record.state),
            // A file may outlive the version in which it last changed.
            None => Ok(self.store.catalog().version(version)?.map_or(VersionState::Expired, |record| record.state)),
        }
    }

    /// A version's digest for its root, the content's for a file whose bytes are one object.
    fn digest(&self, node: ViewNode) -> ViewResult<Digest> {
        if let ViewNode::Directory(_, version, crate::ids::Ino::ROOT) = node {
            let visible = self.visible();
            let root = visible.find(version).ok_or(ViewError::Stale)?.record.root;
            return root.map(|root| root.digest).ok_or(ViewError::NoData);
        }
        let ViewNode::File(changed_in, ino) = node else { return Err(ViewError::NoData) };
        let Found { record, .. } = self.file(changed_in, ino)?;
        match (&record.content, record.kind) {
            (Content::None, FileKind::Regular) if record.size == 0 => Ok(Digest::of(b"")),
            (Content::Inline(bytes), _) => Ok(Digest::of(bytes)),
            (Content::Object(object), _) => match self.store.catalog().object(*object)? {
                // A hole at the end is not part of the object.
                Some(object) if object.len == record.size => Ok(object.digest),
                _ => Err(ViewError::NoData),
            },
            _ => Err(ViewError::NoData),
        }
    }
}
