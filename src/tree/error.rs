//! What can go wrong with a tree: its store fails, or what the store holds is damaged.

use crate::ids::{Ino, NodeId};
use crate::store::StoreError;

/// Why a tree could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The store could not read or write.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A node is not what a node must be. `fsck` looks for others.
    #[error("tree node {node} is damaged: {what}")]
    Node {
        /// The node.
        node: NodeId,
        /// What is wrong with it.
        what: String,
    },
    /// Entries contradict each other.
    #[error("inode {ino} is damaged: {what}")]
    Inode {
        /// The inode whose entries they are.
        ino: Ino,
        /// What is wrong with them.
        what: String,
    },
}

impl TreeError {
    /// The errno for whoever asked: the disk's own, EIO for damage.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::Store(error) => error.errno(),
            Self::Node { .. } | Self::Inode { .. } => libc::EIO,
        }
    }

    pub(super) fn node(node: NodeId, what: impl Into<String>) -> Self {
        Self::Node { node, what: what.into() }
    }

    pub(super) fn inode(ino: Ino, what: impl Into<String>) -> Self {
        Self::Inode { ino, what: what.into() }
    }
}
