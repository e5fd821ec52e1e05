//! A walk over the nodes of many trees that enters each node once, remembers what is wrong in it and below, and never gives up.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::VerifyError;
use crate::ids::{Digest, Ino, NodeId, ObjectId};
use crate::store::StoreError;
use crate::tree::digest;
use crate::tree::key::{Key, Name, Part, Value};
use crate::tree::node::{At, Body, Child, Inner, Leaf, Link, Node};
use crate::tree::nodes::Nodes;
use crate::tree::{Reach, Tree, TreeError, object_of};

/// Something wrong in a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hit {
    /// A node can't be read or is not what it should be.
    Node {
        /// What is wrong.
        what: String,
        /// The first inode with entries in it.
        from: Ino,
        /// The last one that may have some.
        to: Ino,
    },
    /// An entry names an object that is damaged.
    Object {
        /// Whose entry it is.
        ino: Ino,
        /// The object.
        object: ObjectId,
        /// What is wrong with it.
        what: String,
    },
}

/// Tells an object's digest, or what is wrong with it.
type Look<'a> = Box<dyn Fn(ObjectId) -> Result<Result<Digest, String>, StoreError> + 'a>;

/// The walk.
pub(super) struct Survey<'a> {
    look: Look<'a>,
    /// Whether nodes are compared with their digests.
    digests: bool,
    stop: &'a AtomicBool,
    /// The nodes that were entered, and the objects that they name.
    pub(super) reach: Reach,
    /// What is wrong in and below nodes; those that are not here are good.
    wrong: HashMap<NodeId, Arc<[Hit]>>,
}

/// Where a node stands: the inodes that have entries in it.
#[derive(Clone, Copy)]
struct Stretch {
    from: Ino,
    to: Ino,
}

impl<'a> Survey<'a> {
    pub(super) fn new(look: Look<'a>, digests: bool, stop: &'a AtomicBool) -> Self {
        Self { look, digests, stop, reach: Reach::default(), wrong: HashMap::new() }
    }

    /// Whether no node was found damaged.
    pub(super) fn is_clean(&self) -> bool {
        !self.wrong.values().flat_map(|hits| hits.iter()).any(|hit| matches!(hit, Hit::Node { .. }))
    }

    /// What is wrong in a stored tree. Once it was told to stop, the answer is of no use.
    pub(super) fn tree(&mut self, tree: &Tree) -> Result<Arc<[Hit]>, VerifyError> {
        let At::Stored(link) = &tree.root else { return Ok(Arc::default()) };
        let whole = Stretch { from: Ino(0), to: Ino(u64::MAX) };
        let root = tree.root.load(&tree.nodes).and_then(|root| match root.count() {
            count if count == tree.len => Ok(root),
            count => Err(TreeError::node(link.id, format!("it has {count} entries where its version counts {}", tree.len))),
        });
        self.node(&tree.nodes, *link, root, whole)
    }

    fn node(&mut self, nodes: &Nodes, link: Link, node: Result<Arc<Node>, TreeError>, at: Stretch) -> Result<Arc<[Hit]>, VerifyError> {
        if !self.reach.nodes.insert(link.id) {
            return Ok(self.wrong.get(&link.id).cloned().unwrap_or_default());
        }
        if self.stop.load(Ordering::Relaxed) {
            return Err(VerifyError::Stopped);
        }
        let mut hits = Vec::new();
        match node {
            Ok(node) => {
                let found = match node.body() {
                    Body::Leaf(leaf) => self.leaf(leaf, &mut hits)?,
                    Body::Inner(inner) => Some(self.inner(nodes, &node, inner, at, &mut hits)?),
                };
                if let Some(found) = found.filter(|found| self.digests && *found != link.digest) {
                    let what = format!("its digest is {found} where {} is on record", link.digest);
                    hits.push(Hit::Node { what: TreeError::node(link.id, what).to_string(), from: at.from, to: at.to });
                }
            }
            Err(TreeError::Store(error)) if !matches!(error, StoreError::Damaged { .. }) => return Err(error.into()),
            Err(error) => hits.push(Hit::Node { what: error.to_string(), from: at.from, to: at.to }),
        }
        let hits: Arc<[Hit]> = hits.into();
        if !hits.is_empty() {
            self.wrong.insert(link.id, Arc::clone(&hits));
        }
        Ok(hits)
    }

    /// The digest of a leaf, if all objects that it names have one.
    fn leaf(&mut self, leaf: &Leaf, hits: &mut Vec<Hit>) -> Result<Option<Digest>, VerifyError> {
        let mut digests: HashMap<ObjectId, Digest> = HashMap::new();
        let mut whole = true;
        for (key, value) in &leaf.entries {
            let Some(object) = object_of(value) else { continue };
            self.reach.objects.insert(object);
            match (self.look)(object)? {
                Ok(digest) => drop(digests.insert(object, digest)),
                Err(what) => {
                    whole = false;
                    hits.push(Hit::Object { ino: key.ino, object, what });
                }
            }
        }
        if !(whole && self.digests) {
            return Ok(None);
        }
        // Each was looked at above.
        let digest_of = |object: ObjectId| Ok(digests.get(&object).copied().unwrap_or_default());
        Ok(Some(digest::leaf(&leaf.entries, &digest_of)?))
    }

    fn inner(&mut self, nodes: &Nodes, node: &Node, inner: &Inner, at: Stretch, hits: &mut Vec<Hit>) -> Result<Digest, VerifyError> {
        let mut links = Vec::with_capacity(inner.children.len());
        for (n, child) in inner.children.iter().enumerate() {
            let Some(link) = child.at.link() else { continue };
            let next = inner.children.get(n + 1);
            let stretch = Stretch { from: child.from.ino, to: next.map_or(at.to, |next| next.from.ino) };
            // One that was entered before is not loaded again.
            let below = match self.reach.nodes.contains(link.id) {
                true => Err(TreeError::node(link.id, "it was entered before")),
                false => child.load(nodes, node.level).and_then(|below| within(link.id, child, next, below)),
            };
            hits.extend_from_slice(&self.node(nodes, link, below, stretch)?);
            links.push(link);
        }
        Ok(digest::inner(&links))
    }
}

/// The node, if its keys are those that its parent has for it.
fn within(id: NodeId, child: &Child, next: Option<&Child>, node: Arc<Node>) -> Result<Arc<Node>, TreeError> {
    let (first, last): (Option<&Key>, Option<&Key>) = match node.body() {
        Body::Leaf(leaf) => (leaf.entries.first().map(|(key, _)| key), leaf.entries.last().map(|(key, _)| key)),
        Body::Inner(inner) => (inner.children.first().map(|child| &child.from), inner.children.last().map(|child| &child.from)),
    };
    let early = first.is_some_and(|first| *first < child.from);
    let late = last.zip(next).is_some_and(|(last, next)| *last >= next.from);
    match early || late {
        true => Err(TreeError::node(id, "it has entries that belong into another node")),
        false => Ok(node),
    }
}

/// All directory entries that can be read, as (directory, name, inode), whatever is damaged beside them.
pub(super) fn names(tree: &Tree) -> Result<Vec<(Ino, Name, Ino)>, StoreError> {
    let mut found = Vec::new();
    if let Some(root) = readable(tree.root.load(&tree.nodes))? {
        names_in(&tree.nodes, &root, &mut found)?;
    }
    Ok(found)
}

fn names_in(nodes: &Nodes, node: &Node, found: &mut Vec<(Ino, Name, Ino)>) -> Result<(), StoreError> {
    for entry in node.entries() {
        if let (Key { ino, part: Part::Dirent(name) }, Value::Dirent(target, _)) = entry {
            found.push((*ino, Arc::clone(name), *target));
        }
    }
    for child in node.children() {
        if let Some(below) = readable(child.load(nodes, node.level))? {
            names_in(nodes, &below, found)?;
        }
    }
    Ok(())
}

fn readable(node: Result<Arc<Node>, TreeError>) -> Result<Option<Arc<Node>>, StoreError> {
    super::damage_is_nothing(node)
}
