//! The numbers that were never given out before: inodes, objects, nodes, packs, versions.

use std::sync::atomic::{AtomicU64, Ordering};

use super::record::Pointers;
use crate::ids::{Ino, NodeId, ObjectId, PackId, VersionId};

/// Gives out numbers, each once. What was given is recorded with the next commit (or found in a journal), so a
/// number may be given again after a crash only if nothing durable names it.
#[derive(Debug)]
pub struct Ids {
    ino: AtomicU64,
    object: AtomicU64,
    node: AtomicU64,
    pack: AtomicU64,
    version: AtomicU64,
}

// Relaxed everywhere: the numbers need to differ, nothing else is ordered by them.
impl Ids {
    pub(crate) fn new(pointers: &Pointers) -> Self {
        Self {
            ino: AtomicU64::new(pointers.next_ino.0),
            object: AtomicU64::new(pointers.next_object.0),
            node: AtomicU64::new(pointers.next_node.0),
            pack: AtomicU64::new(pointers.next_pack.0),
            version: AtomicU64::new(pointers.next_version.0),
        }
    }

    /// A new inode number.
    pub fn ino(&self) -> Ino {
        Ino(self.ino.fetch_add(1, Ordering::Relaxed))
    }

    /// A new object number.
    pub fn object(&self) -> ObjectId {
        ObjectId(self.object.fetch_add(1, Ordering::Relaxed))
    }

    /// A new tree node number.
    pub fn node(&self) -> NodeId {
        NodeId(self.node.fetch_add(1, Ordering::Relaxed))
    }

    /// A new pack number.
    pub fn pack(&self) -> PackId {
        PackId(self.pack.fetch_add(1, Ordering::Relaxed))
    }

    /// A new version number.
    pub fn version(&self) -> VersionId {
        VersionId(self.version.fetch_add(1, Ordering::Relaxed))
    }

    /// No inode number below `min` is given from now on (a journal names the ones before).
    pub fn raise_ino(&self, min: Ino) {
        self.ino.fetch_max(min.0, Ordering::Relaxed);
    }

    /// No object number below `min` is given from now on.
    pub fn raise_object(&self, min: ObjectId) {
        self.object.fetch_max(min.0, Ordering::Relaxed);
    }

    /// No node number below `min` is given from now on.
    pub fn raise_node(&self, min: NodeId) {
        self.node.fetch_max(min.0, Ordering::Relaxed);
    }

    /// No pack number below `min` is given from now on.
    pub fn raise_pack(&self, min: PackId) {
        self.pack.fetch_max(min.0, Ordering::Relaxed);
    }

    /// No version number below `min` is given from now on.
    pub fn raise_version(&self, min: VersionId) {
        self.version.fetch_max(min.0, Ordering::Relaxed);
    }

    /// Records in `pointers` what was given out.
    pub(crate) fn note(&self, pointers: &mut Pointers) {
        pointers.next_ino = pointers.next_ino.max(Ino(self.ino.load(Ordering::Relaxed)));
        pointers.next_object = pointers.next_object.max(ObjectId(self.object.load(Ordering::Relaxed)));
        pointers.next_node = pointers.next_node.max(NodeId(self.node.load(Ordering::Relaxed)));
        pointers.next_pack = pointers.next_pack.max(PackId(self.pack.load(Ordering::Relaxed)));
        pointers.next_version = pointers.next_version.max(VersionId(self.version.load(Ordering::Relaxed)));
    }
}
