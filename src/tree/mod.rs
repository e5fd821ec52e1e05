//! The copy-on-write ordered map that a version is.
//!
//! A [`Tree`] is a B+-tree of immutable, reference-counted nodes. Cloning it is a snapshot and takes constant time; an edit
//! copies only the nodes from the root to its leaf that another tree still shares. Nodes come from the catalog when they are
//! first needed ([`Nodes`] keeps the recent ones) and go there when a version is sealed ([`Tree::persist`]).

mod changes;
mod cursor;
mod diff;
mod digest;
mod edit;
mod error;
pub mod key;
mod merge;
mod node;
mod nodes;
mod persist;
mod reach;
mod snapshot;
#[cfg(test)]
mod state_fs;
#[cfg(test)]
mod state_tests;
#[cfg(test)]
mod tests;
pub mod verify;

use std::sync::Arc;

pub use changes::{ChangeKind, PathChange, changes};
pub use cursor::Range;
pub use diff::{Change, Diff};
pub use digest::ObjectDigests;
pub use error::TreeError;
pub use merge::{Merge, merge};
pub use node::Node;
pub use nodes::{NodeSink, NodeSource, Nodes};
pub use persist::Persisted;
pub use reach::{Reach, named_by_journals, object_of};
pub use snapshot::{Snapshot, Xattr};

use crate::ids::NodeId;
use crate::store::record::RootRef;
use key::{Key, Value};
use node::{At, Body, Child, Link};

/// A version's entries. A clone is a snapshot: it takes constant time, and neither sees the other's later edits.
#[derive(Clone)]
pub struct Tree {
    nodes: Arc<Nodes>,
    root: At,
    len: u64,
}

impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tree").field("len", &self.len).field("stored", &self.root.link().map(|link| link.id)).finish_non_exhaustive()
    }
}

impl Tree {
    /// A tree without entries.
    #[must_use]
    pub fn new_empty(nodes: Arc<Nodes>) -> Self {
        Self { nodes, root: At::Live(Arc::new(Node::empty())), len: 0 }
    }

    /// The tree that a version's record names. Nothing is read before it is needed.
    #[must_use]
    pub fn stored(nodes: Arc<Nodes>, root: RootRef) -> Self {
        Self { nodes, root: At::Stored(Link { id: root.node, digest: root.digest }), len: root.entries }
    }

    /// Where this tree's nodes come from; trees that are compared or derived from each other share it.
    #[must_use]
    pub const fn nodes(&self) -> &Arc<Nodes> {
        &self.nodes
    }

    /// Number of entries.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are no entries.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What the catalog calls this tree, if it is there and unchanged since.
    #[must_use]
    pub fn root_ref(&self) -> Option<RootRef> {
        self.root.link().map(|link| RootRef { node: link.id, digest: link.digest, entries: self.len })
    }

    /// Whether both are the same nodes, so that they surely hold the same entries. Two trees that differ here can still be equal.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.root.is_same(&other.root)
    }

    /// The value under `key`.
    pub fn get(&self, key: &Key) -> Result<Option<Value>, TreeError> {
        self.root.with(&self.nodes, |root| get_in(&self.nodes, root, key))
    }

    /// Number of entries before `key`, whether it is there or not.
    pub fn rank(&self, key: &Key) -> Result<u64, TreeError> {
        self.root.with(&self.nodes, |root| rank_in(&self.nodes, root, key))
    }

    /// The entry with `n` entries before it.
    pub fn nth(&self, n: u64) -> Result<Option<(Key, Value)>, TreeError> {
        self.iter_at(n).next().transpose()
    }

    /// The last entry before `key`.
    pub fn before(&self, key: &Key) -> Result<Option<(Key, Value)>, TreeError> {
        match self.rank(key)? {
            0 => Ok(None),
            rank => self.nth(rank - 1),
        }
    }

    /// All nodes that are in the catalog, each once, parents first; `enter` says whether to look below a node. For gc and fsck.
    pub fn visit_nodes(&self, enter: &mut dyn FnMut(NodeId, &Node) -> bool) -> Result<(), TreeError> {
        visit(&self.nodes, &self.root, enter)
    }
}

fn get_in(nodes: &Nodes, node: &Node, key: &Key) -> Result<Option<Value>, TreeError> {
    match node.body() {
        Body::Leaf(leaf) => Ok(leaf.find(key).ok().map(|at| leaf.entries[at].1.clone())),
        Body::Inner(inner) => inner.children[inner.find(key)].with(nodes, node.level, |below| get_in(nodes, below, key)),
    }
}

fn rank_in(nodes: &Nodes, node: &Node, key: &Key) -> Result<u64, TreeError> {
    match node.body() {
        Body::Leaf(leaf) => Ok(leaf.find(key).unwrap_or_else(|at| at) as u64),
        Body::Inner(inner) => {
            let at = inner.find(key);
            let before: u64 = inner.children[..at].iter().map(|child| child.count).sum();
            Ok(before + inner.children[at].with(nodes, node.level, |below| rank_in(nodes, below, key))?)
        }
    }
}

fn visit(nodes: &Nodes, at: &At, enter: &mut dyn FnMut(NodeId, &Node) -> bool) -> Result<(), TreeError> {
    at.with(nodes, |node| {
        let below = at.link().is_none_or(|link| enter(link.id, node));
        match node.body() {
            Body::Inner(inner) if below => inner.children.iter().try_for_each(|child: &Child| {
                // The checked load: a damaged child is found here, before its own children are followed.
                drop(child.load(nodes, node.level)?);
                visit(nodes, &child.at, enter)
            }),
            _ => Ok(()),
        }
    })
}
