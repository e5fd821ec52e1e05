//! A node of the tree: a leaf of entries or an inner node of children, with the limits that keep nodes about a page large.

use std::sync::{Arc, OnceLock};

use super::TreeError;
use super::key::{Content, Key, Part, Value};
use super::nodes::Nodes;
use crate::ids::{Digest, NodeId};

/// A node splits when it has more entries or children than this,
pub(super) const MAX_ITEMS: usize = 64;
/// or when they weigh more bytes than this (unless there is only one).
pub(super) const MAX_BYTES: usize = 8 * 1024;
/// A node with fewer items than this, and
const MIN_ITEMS: usize = MAX_ITEMS / 4;
/// fewer bytes than this, looks for a neighbour to merge with.
const MIN_BYTES: usize = MAX_BYTES / 4;

/// What a stored node is called: where the catalog has it, and the digest of everything in and below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) id: NodeId,
    pub(super) digest: Digest,
}

/// A node. Nodes that more than one tree holds never change.
#[derive(Debug)]
pub struct Node {
    /// Set once the catalog has the node; an edit takes it away.
    stored: OnceLock<Link>,
    /// Distance from the leaves. It falls by one at each step down, so damage can't make a walk run in a circle.
    pub(super) level: u8,
    pub(super) body: Body,
}

/// What a node holds.
#[derive(Clone, Debug)]
pub(super) enum Body {
    Leaf(Leaf),
    Inner(Inner),
}

/// Entries in ascending order of their keys.
#[derive(Clone, Debug, Default)]
pub(super) struct Leaf {
    pub(super) entries: Vec<(Key, Value)>,
    pub(super) bytes: usize,
}

/// Children in ascending order, never none.
#[derive(Clone, Debug, Default)]
pub(super) struct Inner {
    pub(super) children: Vec<Child>,
    pub(super) bytes: usize,
}

/// A child of an inner node.
#[derive(Clone, Debug)]
pub(super) struct Child {
    /// No key below is less than this, and no key below the child before reaches it.
    pub(super) from: Key,
    /// Number of entries below.
    pub(super) count: u64,
    pub(super) at: At,
}

/// Where a node is.
#[derive(Clone, Debug)]
pub(super) enum At {
    /// In the catalog, and perhaps in the cache.
    Stored(Link),
    /// In memory: edited since it was loaded, or held by its tree since it was written.
    Live(Arc<Node>),
}

impl Clone for Node {
    /// A copy to be edited: the catalog does not have it.
    fn clone(&self) -> Self {
        Self::new(self.level, self.body.clone())
    }
}

impl Node {
    pub(super) const fn new(level: u8, body: Body) -> Self {
        Self { stored: OnceLock::new(), level, body }
    }

    pub(super) fn empty() -> Self {
        Self::new(0, Body::Leaf(Leaf::default()))
    }

    pub(super) const fn body(&self) -> &Body {
        &self.body
    }

    /// The node for editing: its own copy if another tree holds it, and no longer the one that the catalog has.
    pub(super) fn edit(this: &mut Arc<Self>) -> &mut Self {
        let node = Arc::make_mut(this);
        node.stored.take();
        node
    }

    pub(super) fn link(&self) -> Option<Link> {
        self.stored.get().copied()
    }

    /// Notes that the catalog has it. If two seals wrote it at once, the first one's name stays.
    pub(super) fn set_stored(&self, link: Link) {
        let _first_one_wins = self.stored.set(link);
    }

    /// The entries, if it is a leaf.
    #[must_use]
    pub fn entries(&self) -> &[(Key, Value)] {
        match &self.body {
            Body::Leaf(leaf) => &leaf.entries,
            Body::Inner(_) => &[],
        }
    }

    /// The children, if it is an inner node.
    pub(super) fn children(&self) -> &[Child] {
        match &self.body {
            Body::Leaf(_) => &[],
            Body::Inner(inner) => &inner.children,
        }
    }

    /// Number of entries in it and below.
    pub(super) fn count(&self) -> u64 {
        match &self.body {
            Body::Leaf(leaf) => leaf.entries.len() as u64,
            Body::Inner(inner) => inner.children.iter().map(|child| child.count).sum(),
        }
    }

    pub(super) const fn items(&self) -> usize {
        match &self.body {
            Body::Leaf(leaf) => leaf.entries.len(),
            Body::Inner(inner) => inner.children.len(),
        }
    }

    const fn bytes(&self) -> usize {
        match &self.body {
            Body::Leaf(leaf) => leaf.bytes,
            Body::Inner(inner) => inner.bytes,
        }
    }

    pub(super) const fn is_overfull(&self) -> bool {
        self.items() > MAX_ITEMS || (self.bytes() > MAX_BYTES && self.items() > 1)
    }

    pub(super) const fn is_underfull(&self) -> bool {
        self.items() < MIN_ITEMS && self.bytes() < MIN_BYTES
    }

    /// Whether both together make a node with room to grow.
    pub(super) const fn fits_with(&self, other: &Self) -> bool {
        self.items() + other.items() <= MAX_ITEMS / 4 * 3 && self.bytes() + other.bytes() <= MAX_BYTES / 4 * 3
    }

    /// About how many bytes of memory it takes.
    pub(super) fn memory(&self) -> usize {
        const RECORD: usize = 240;
        match &self.body {
            Body::Leaf(leaf) => leaf.entries.iter().fold(size_of::<Self>(), |sum, (key, value)| {
                let heap = match value {
                    Value::Inode(_) => RECORD,
                    _ => 0,
                };
                sum + size_of::<(Key, Value)>() + weight(key, value) + heap
            }),
            Body::Inner(inner) => size_of::<Self>() + inner.children.capacity() * size_of::<Child>() + inner.bytes,
        }
    }
}

impl Leaf {
    pub(super) fn new(entries: Vec<(Key, Value)>) -> Self {
        let bytes = entries.iter().map(|(key, value)| weight(key, value)).sum();
        Self { entries, bytes }
    }

    /// Where `key` is, or where it would go.
    pub(super) fn find(&self, key: &Key) -> Result<usize, usize> {
        self.entries.binary_search_by(|(have, _)| have.cmp(key))
    }

    /// Cuts the second half off. When `at` (what was just inserted) is the last one, only that goes: files written one after
    /// the other leave full nodes behind.
    pub(super) fn split(&mut self, at: usize) -> Self {
        let cut = cut(self.entries.len(), at, self.bytes, |i| weight(&self.entries[i].0, &self.entries[i].1));
        let right = Self::new(self.entries.split_off(cut));
        self.bytes -= right.bytes;
        right
    }
}

impl Inner {
    pub(super) fn new(children: Vec<Child>) -> Self {
        let bytes = children.iter().map(Child::weight).sum();
        Self { children, bytes }
    }

    /// The child under which `key` is or would go: the first one takes whatever is less than the second's bound.
    pub(super) fn find(&self, key: &Key) -> usize {
        self.children.get(1..).map_or(0, |rest| rest.partition_point(|child| child.from <= *key))
    }

    pub(super) fn insert(&mut self, at: usize, child: Child) {
        self.bytes += child.weight();
        self.children.insert(at, child);
    }

    /// Lowers the bound of the first child, under which a lesser key goes.
    pub(super) fn lower_first(&mut self, key: &Key) {
        if let Some(first) = self.children.first_mut()
            && *key < first.from
        {
            self.bytes = self.bytes + key_weight(key) - key_weight(&first.from);
            first.from = key.clone();
        }
    }

    pub(super) fn remove(&mut self, at: usize) -> Child {
        let child = self.children.remove(at);
        self.bytes -= child.weight();
        child
    }

    /// As [`Leaf::split`].
    pub(super) fn split(&mut self, at: usize) -> Self {
        let cut = cut(self.children.len(), at, self.bytes, |i| self.children[i].weight());
        let right = Self::new(self.children.split_off(cut));
        self.bytes -= right.bytes;
        right
    }
}

/// Where to split `len` items of `bytes` together: at least one stays on each side.
fn cut(len: usize, inserted: usize, bytes: usize, weight: impl Fn(usize) -> usize) -> usize {
    if inserted + 1 == len {
        return len - 1;
    }
    let mut left = 0;
    for i in 0..len {
        left += weight(i);
        if left * 2 >= bytes {
            return (i + 1).clamp(1, len - 1);
        }
    }
    len - 1
}

impl Child {
    pub(super) fn new(from: Key, node: Arc<Node>) -> Self {
        Self { from, count: node.count(), at: At::Live(node) }
    }

    fn weight(&self) -> usize {
        const LINK: usize = 8 + 32 + 4;
        LINK + key_weight(&self.from)
    }

    /// The node, checked against what its parent (of `parent_level`) says of it.
    pub(super) fn load(&self, nodes: &Nodes, parent_level: u8) -> Result<Arc<Node>, TreeError> {
        match &self.at {
            At::Live(node) => Ok(Arc::clone(node)),
            At::Stored(link) => {
                let node = nodes.load(*link)?;
                self.check(link.id, &node, parent_level)?;
                Ok(node)
            }
        }
    }

    /// Calls `f` with the node, without touching its reference count if it is in memory.
    pub(super) fn with<T>(&self, nodes: &Nodes, parent_level: u8, f: impl FnOnce(&Node) -> Result<T, TreeError>) -> Result<T, TreeError> {
        match &self.at {
            At::Live(node) => f(node),
            At::Stored(_) => f(&*self.load(nodes, parent_level)?),
        }
    }

    /// The node in memory, to be edited through [`Node::edit`].
    pub(super) fn live(&mut self, nodes: &Nodes, parent_level: u8) -> Result<&mut Arc<Node>, TreeError> {
        if matches!(self.at, At::Stored(_)) {
            self.at = At::Live(self.load(nodes, parent_level)?);
        }
        self.at.live(nodes)
    }

    fn check(&self, id: NodeId, node: &Node, parent_level: u8) -> Result<(), TreeError> {
        if node.level.checked_add(1) != Some(parent_level) {
            return Err(TreeError::node(id, format!("it is at level {} below a node of level {parent_level}", node.level)));
        }
        if node.count() != self.count {
            return Err(TreeError::node(id, format!("it has {} entries where its parent counts {}", node.count(), self.count)));
        }
        Ok(())
    }
}

impl At {
    /// What the catalog calls the node, if it is there.
    pub(super) fn link(&self) -> Option<Link> {
        match self {
            Self::Stored(link) => Some(*link),
            Self::Live(node) => node.link(),
        }
    }

    /// Whether both are one node.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        if let (Self::Live(a), Self::Live(b)) = (self, other)
            && Arc::ptr_eq(a, b)
        {
            return true;
        }
        matches!((self.link(), other.link()), (Some(a), Some(b)) if a.id == b.id)
    }

    pub(super) fn load(&self, nodes: &Nodes) -> Result<Arc<Node>, TreeError> {
        match self {
            Self::Live(node) => Ok(Arc::clone(node)),
            Self::Stored(link) => nodes.load(*link),
        }
    }

    pub(super) fn with<T>(&self, nodes: &Nodes, f: impl FnOnce(&Node) -> Result<T, TreeError>) -> Result<T, TreeError> {
        match self {
            Self::Live(node) => f(node),
            Self::Stored(link) => f(&*nodes.load(*link)?),
        }
    }

    /// The node in memory, loaded if need be, to be edited through [`Node::edit`].
    pub(super) fn live(&mut self, nodes: &Nodes) -> Result<&mut Arc<Node>, TreeError> {
        if let Self::Stored(link) = self {
            *self = Self::Live(nodes.load(*link)?);
        }
        match self {
            Self::Live(node) => Ok(node),
            Self::Stored(link) => Err(TreeError::node(link.id, "it could not be brought into memory")),
        }
    }
}

/// About how many bytes an entry takes in the catalog.
pub(super) fn weight(key: &Key, value: &Value) -> usize {
    key_weight(key)
        + match value {
            Value::Inode(record) => {
                let inline = match &record.content {
                    Content::Inline(bytes) => bytes.len(),
                    _ => 0,
                };
                90 + record.name.len() + inline
            }
            Value::Dirent(..) => 6,
            Value::Link => 1,
            Value::Xattr(bytes) => 3 + bytes.len(),
            Value::Extent(_) => 16,
        }
}

fn key_weight(key: &Key) -> usize {
    6 + match &key.part {
        Part::Inode => 0,
        Part::Dirent(name) | Part::Xattr(name) => 1 + name.len(),
        Part::Link(_, name) => 6 + name.len(),
        Part::Extent(_) => 5,
    }
}
