//! Writing a tree's new nodes to the catalog, and checking the digests of those that are there.

use std::sync::Arc;

use super::digest::{self, ObjectDigests};
use super::node::{At, Body, Link, Node};
use super::nodes::{self, NodeSink, Nodes};
use super::{Tree, TreeError};
use crate::ids::Digest;
use crate::store::record::RootRef;

/// A tree that a transaction holds but that is not durable yet. Call [`Persisted::committed`] once the transaction is; if it fails,
/// drop this, and the tree's nodes count as unwritten, as they are.
#[must_use = "the nodes are written again with every seal until `committed` is called"]
pub struct Persisted {
    /// What the catalog calls the tree.
    pub root: RootRef,
    nodes: Arc<Nodes>,
    written: Vec<(Arc<Node>, Link)>,
}

impl std::fmt::Debug for Persisted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Persisted").field("root", &self.root).field("written", &self.written.len()).finish_non_exhaustive()
    }
}

impl Persisted {
    /// The transaction is durable: trees that share the nodes need not write them again. The tree as stored, which holds on to
    /// no memory.
    pub fn committed(self) -> Tree {
        for (node, link) in &self.written {
            node.set_stored(*link);
            self.nodes.remember(link.id, node);
        }
        Tree::stored(self.nodes, self.root)
    }
}

impl Tree {
    /// Writes the nodes that the catalog does not have, children first. `objects` gives the digest of each object that a new
    /// entry names.
    pub fn persist(&self, sink: &mut impl NodeSink, objects: &ObjectDigests<'_>) -> Result<Persisted, TreeError> {
        let mut written = Vec::new();
        let link = write(&self.nodes, &self.root, sink, objects, &mut written)?;
        let root = RootRef { node: link.id, digest: link.digest, entries: self.len };
        Ok(Persisted { root, nodes: Arc::clone(&self.nodes), written })
    }

    /// Reads every node and checks order, levels, counts and digests. `objects` gives the digests of objects; the nodes that
    /// `known` says were found good before are not entered again.
    pub fn verify(&self, objects: &ObjectDigests<'_>, known: &mut dyn FnMut(crate::ids::NodeId) -> bool) -> Result<(), TreeError> {
        let Some(link) = self.root.link() else { return Ok(()) };
        let root = self.root.load(&self.nodes)?;
        if root.count() != self.len {
            return Err(TreeError::node(link.id, format!("it has {} entries where its version counts {}", root.count(), self.len)));
        }
        verify(&self.nodes, link, &root, objects, known)
    }
}

fn write(
    nodes: &Nodes,
    at: &At,
    sink: &mut impl NodeSink,
    objects: &ObjectDigests<'_>,
    written: &mut Vec<(Arc<Node>, Link)>,
) -> Result<Link, TreeError> {
    let node = match at {
        At::Stored(link) => return Ok(*link),
        At::Live(node) => match node.link() {
            Some(link) => return Ok(link),
            None => node,
        },
    };
    let (digest, bytes) = match &node.body {
        Body::Leaf(leaf) => (digest::leaf(&leaf.entries, objects)?, nodes::encode_leaf(leaf)),
        Body::Inner(inner) => {
            let links: Result<Vec<Link>, TreeError> =
                inner.children.iter().map(|child| write(nodes, &child.at, sink, objects, written)).collect();
            let links = links?;
            (digest::inner(&links), nodes::encode_inner(node.level, inner, &links))
        }
    };
    let link = Link { id: nodes.new_id(), digest };
    sink.write_node(link.id, &bytes)?;
    written.push((Arc::clone(node), link));
    Ok(link)
}

fn verify(
    nodes: &Nodes,
    link: Link,
    node: &Node,
    objects: &ObjectDigests<'_>,
    known: &mut dyn FnMut(crate::ids::NodeId) -> bool,
) -> Result<(), TreeError> {
    if known(link.id) {
        return Ok(());
    }
    let found: Digest = match &node.body {
        Body::Leaf(leaf) => digest::leaf(&leaf.entries, objects)?,
        Body::Inner(inner) => {
            let mut links = Vec::with_capacity(inner.children.len());
            for child in &inner.children {
                let below = child.load(nodes, node.level)?;
                let Some(link) = child.at.link() else { continue };
                verify(nodes, link, &below, objects, known)?;
                links.push(link);
            }
            digest::inner(&links)
        }
    };
    if found == link.digest {
        Ok(())
    } else {
        Err(TreeError::node(link.id, format!("its digest is {found} where {} is on record", link.digest)))
    }
}
