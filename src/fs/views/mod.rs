//! What the mount's root shows: versions, ghosts, production, lineage. All of it is read-only, and decided here without FUSE.

mod dataset;
mod lineage;
mod names;
pub(super) mod xattr;

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::attr::NodeAttr;
use super::nodes::{RawNode, ViewNode};
use crate::clock::{Clock, Timestamp};
use crate::ids::{Ino, VersionId};
use crate::store::record::VersionRecord;
use crate::store::{Store, StoreError};
use crate::tree::key::{FileKind, Name};
use crate::tree::{Snapshot, TreeError};

pub use lineage::{CheckOutputs, LineageFile, LineageSource};

/// Where the views get what they show: the daemon. Called from FUSE threads: it must not wait for the dispatcher.
pub trait ViewSource: Send + Sync {
    /// What can be browsed now.
    fn visible(&self) -> Arc<Visible>;
    /// The audit trail.
    fn lineage(&self) -> &dyn LineageSource;
}

/// The versions that can be browsed. Immutable: a change makes a new one.
#[derive(Clone, Debug)]
pub struct Visible {
    /// Every sealed version that is not a ghost.
    pub versions: BTreeMap<VersionId, Arc<VisibleVersion>>,
    /// Rejected versions.
    pub ghosts: BTreeMap<VersionId, Arc<VisibleVersion>>,
    /// Versions whose retention has ended, but not their use: no name leads to them, and who holds something of one goes on reading it.
    pub departed: BTreeMap<VersionId, Arc<VisibleVersion>>,
    /// The version in production; one of `versions`.
    pub production: VersionId,
    /// The newest sealed version.
    pub latest: VersionId,
    /// The newest that passed.
    pub valid: VersionId,
    /// Names given to versions.
    pub tags: BTreeMap<String, VersionId>,
}

/// A version with its content.
#[derive(Clone, Debug)]
pub struct VisibleVersion {
    /// Its record.
    pub record: VersionRecord,
    /// Its content.
    pub snapshot: Snapshot,
}

impl Visible {
    /// A version or ghost, or one that is gone but in use.
    #[must_use]
    pub fn find(&self, version: VersionId) -> Option<&VisibleVersion> {
        [&self.versions, &self.ghosts, &self.departed].into_iter().find_map(|versions| versions.get(&version)).map(Arc::as_ref)
    }

    /// Whether a version or ghost that can be browsed has the file as it was changed in `changed_in`.
    pub fn shows(&self, changed_in: VersionId, ino: Ino) -> Result<bool, TreeError> {
        for version in self.versions.range(changed_in..).chain(self.ghosts.range(changed_in..)).map(|(_, version)| version) {
            if version.snapshot.inode(ino)?.is_some_and(|record| record.changed_in == changed_in) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Why the views did not answer.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// ENOENT.
    #[error("no such file or directory")]
    NotFound,
    /// ENOTDIR.
    #[error("not a directory")]
    NotDirectory,
    /// EINVAL.
    #[error("invalid argument")]
    Invalid,
    /// ESTALE: the version that it belonged to is gone.
    #[error("stale file handle")]
    Stale,
    /// ENODATA: no such extended attribute.
    #[error("no such attribute")]
    NoData,
    /// ENXIO: no data past that offset.
    #[error("no such offset")]
    NoSuchOffset,
    /// EOVERFLOW: its number does not fit into a node id.
    #[error("number too large for a node id")]
    Overflow,
    /// The tree or its store failed.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file of the host failed.
    #[error(transparent)]
    Host(#[from] std::io::Error),
}

/// The result of an operation on the views.
pub type ViewResult<T> = Result<T, ViewError>;

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: Name,
    /// What it leads to.
    pub node: ViewNode,
    /// Its kind.
    pub kind: FileKind,
    /// The offset that continues after it.
    pub next: u64,
}

/// How long the kernel may keep what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Until a notice: it never changes, or a notice is sent when it does.
    Forever,
    /// Not at all.
    Never,
}

/// The views of one mount.
pub struct Views {
    source: Arc<dyn ViewSource>,
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    owner: (u32, u32),
    started: Timestamp,
    /// When the directories of versions and of the lineage last changed; the kernel drops its listings when it moves.
    /// A leaf lock: nothing is called while it is held.
    touched: Mutex<Timestamp>,
}

impl Views {
    /// Views of what `source` has, as files of `owner` (user, group).
    #[must_use]
    pub fn new(source: Arc<dyn ViewSource>, store: Arc<Store>, clock: Arc<dyn Clock>, owner: (u32, u32)) -> Self {
        let started = clock.now();
        Self { source, store, clock, owner, started, touched: Mutex::new(started) }
    }

    /// Versions, tags or the lineage changed: listings that the kernel keeps are old.
    pub fn touch(&self) {
        let now = self.clock.now();
        let mut touched = self.touched.lock();
        // Always later than before, even if the clock went back.
        *touched = now.max(touched.plus(std::time::Duration::from_nanos(1)));
    }

    pub(super) fn visible(&self) -> Arc<Visible> {
        self.source.visible()
    }

    fn lineage(&self) -> &dyn LineageSource {
        self.source.lineage()
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// What `name` in the directory leads to; `None` if there is nothing, with how long that may be believed.
    pub fn lookup(&self, dir: ViewNode, name: &[u8]) -> ViewResult<Option<ViewNode>> {
        match dir {
            ViewNode::Root => self.lookup_root(name),
            ViewNode::Staging => Ok(None),
            ViewNode::Versions => Ok(self.lookup_versions(name)),
            ViewNode::Ghosts => Ok(self.lookup_ghosts(name)),
            ViewNode::Lineage => self.lookup_lineage(name),
            ViewNode::OfVersion(version, node) => self.lookup_of_version(version, node, name),
            ViewNode::Directory(view, version, ino) => self.lookup_dataset(view, version, ino, name),
            ViewNode::Log | ViewNode::File(..) | ViewNode::Link(_) => Err(ViewError::NotDirectory),
        }
    }

    /// Attributes.
    pub fn attr(&self, node: ViewNode) -> ViewResult<NodeAttr> {
        match node {
            ViewNode::Root | ViewNode::Staging => Ok(self.directory(raw(node)?, self.started)),
            ViewNode::Versions | ViewNode::Ghosts => Ok(self.directory(raw(node)?, *self.touched.lock())),
            ViewNode::Lineage | ViewNode::Log | ViewNode::OfVersion(..) => self.lineage_attr(node),
            ViewNode::Link(version) => {
                let target = version.to_string().len() as u64;
                let own = self.directory(raw(node)?, self.started);
                Ok(NodeAttr { kind: FileKind::Symlink, perm: 0o777, nlink: 1, size: target, ..own })
            }
            ViewNode::Directory(..) | ViewNode::File(..) => self.dataset_attr(node),
        }
    }

    /// Entries of a directory from `offset` on: 0, or an entry's `next`. At most `n`; none at the end.
    pub fn list(&self, dir: ViewNode, offset: u64, n: usize) -> ViewResult<Vec<Listed>> {
        match dir {
            ViewNode::Root => Ok(self.list_root(offset)),
            ViewNode::Staging => Ok(dots(ViewNode::Staging, ViewNode::Root, offset)),
            ViewNode::Versions => Ok(self.list_versions(offset, n)),
            ViewNode::Ghosts => Ok(self.list_ghosts(offset, n)),
            ViewNode::Lineage => self.list_lineage(offset, n),
            ViewNode::OfVersion(version, node) => self.list_of_version(version, node, offset),
            ViewNode::Directory(view, version, ino) => self.list_dataset(view, version, ino, offset, n),
            ViewNode::Log | ViewNode::File(..) | ViewNode::Link(_) => Err(ViewError::NotDirectory),
        }
    }

    /// The target of a symlink.
    pub fn read_link(&self, node: ViewNode) -> ViewResult<Vec<u8>> {
        match node {
            ViewNode::Link(version) => Ok(version.to_string().into_bytes()),
            ViewNode::File(changed_in, ino) => self.read_dataset_link(changed_in, ino),
            _ => Err(ViewError::Invalid),
        }
    }

    /// Bytes of a file into a buffer, whatever is in it: so many as come back; fewer than it has room for only at the file's end.
    pub fn read(&self, node: ViewNode, offset: u64, buffer: &mut [u8]) -> ViewResult<usize> {
        match node {
            ViewNode::File(changed_in, ino) => self.read_dataset(changed_in, ino, offset, buffer),
            ViewNode::Log | ViewNode::OfVersion(..) => {
                let bytes = self.read_lineage(node, offset, buffer.len())?;
                buffer[..bytes.len()].copy_from_slice(&bytes);
                Ok(bytes.len())
            }
            _ => Err(ViewError::Invalid),
        }
    }

    /// How long the kernel may keep a node's attributes.
    #[must_use]
    pub const fn keeps_attr(&self, node: ViewNode) -> Keep {
        match node {
            ViewNode::Lineage | ViewNode::Log | ViewNode::OfVersion(..) => Keep::Never,
            // A notice tells of a change in `versions` and `ghosts`; nothing else here ever changes.
            ViewNode::Versions | ViewNode::Ghosts | ViewNode::Root | ViewNode::Staging => Keep::Forever,
            ViewNode::Directory(..) | ViewNode::File(..) | ViewNode::Link(_) => Keep::Forever,
        }
    }

    /// How long the kernel may believe that a name is not in the directory.
    #[must_use]
    pub const fn keeps_absence(&self, dir: ViewNode) -> Keep {
        match dir {
            ViewNode::Root | ViewNode::Staging | ViewNode::Directory(..) => Keep::Forever,
            // Versions, tags and logs come; nothing is gained by remembering that they were not there yet.
            _ => Keep::Never,
        }
    }

    /// A directory of our own, not of the dataset.
    const fn directory(&self, node: RawNode, at: Timestamp) -> NodeAttr {
        NodeAttr {
            node,
            kind: FileKind::Directory,
            perm: 0o755,
            uid: self.owner.0,
            gid: self.owner.1,
            nlink: 2,
            size: 0,
            blocks: 0,
            rdev: 0,
            atime: at,
            mtime: at,
            ctime: at,
            btime: self.started,
        }
    }
}

impl std::fmt::Debug for Views {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Views").field("owner", &self.owner).finish_non_exhaustive()
    }
}

/// The number of a node.
pub fn raw(node: ViewNode) -> ViewResult<RawNode> {
    node.pack().ok_or(ViewError::Overflow)
}

/// The offset of a directory's first entry after "." and "..".
const AFTER_DOTS: u64 = 2;

/// "." and "..", as far as `offset` has not passed them.
fn dots(dir: ViewNode, parent: ViewNode, offset: u64) -> Vec<Listed> {
    let of = |name: &[u8], node, next| Listed { name: name.into(), node, kind: FileKind::Directory, next };
    let both = [of(b".", dir, 1), of(b"..", parent, AFTER_DOTS)];
    both.into_iter().filter(|entry| entry.next > offset).collect()
}
