//! Nodes from and to the catalog: the form they have there, what makes one valid, and the cache of recent ones.

use std::fmt;
use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::TreeError;
use super::key::{Key, Value};
use super::node::{At, Body, Child, Inner, Leaf, Link, Node};
use crate::ids::{Digest, NodeId};
use crate::store::Store;
use crate::store::codec;

/// Memory that decoded nodes may take beside those that trees hold on to.
const CACHE_BYTES: usize = 64 << 20;

/// Where stored nodes come from.
pub trait NodeSource: Send + Sync {
    /// The bytes of a node.
    fn read_node(&self, id: NodeId) -> Result<Vec<u8>, TreeError>;
    /// A number for a new node, never given before.
    fn new_node_id(&self) -> NodeId;
}

/// Where new nodes go.
pub trait NodeSink {
    /// Keeps the bytes of a node.
    fn write_node(&mut self, id: NodeId, bytes: &[u8]) -> Result<(), TreeError>;
}

/// The stored nodes of all trees, with a cache of those used last, bounded in bytes. Trees share it.
pub struct Nodes {
    source: Arc<dyn NodeSource>,
    /// A leaf lock: nothing is called with it held.
    cache: Mutex<Cache>,
}

struct Cache {
    nodes: LruCache<NodeId, (Arc<Node>, usize)>,
    bytes: usize,
    limit: usize,
}

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nodes").field("cached_bytes", &self.cached_bytes()).finish_non_exhaustive()
    }
}

impl Nodes {
    /// The nodes of a store's catalog.
    #[must_use]
    pub fn new(store: Arc<Store>) -> Arc<Self> {
        Self::over(store, CACHE_BYTES)
    }

    /// The nodes of any source, with a cache of about `limit` bytes.
    #[must_use]
    pub fn over(source: Arc<dyn NodeSource>, limit: usize) -> Arc<Self> {
        Arc::new(Self { source, cache: Mutex::new(Cache { nodes: LruCache::unbounded(), bytes: 0, limit }) })
    }

    /// Memory that the cached nodes take, about.
    #[must_use]
    pub fn cached_bytes(&self) -> usize {
        self.cache.lock().bytes
    }

    pub(super) fn new_id(&self) -> NodeId {
        self.source.new_node_id()
    }

    pub(super) fn load(&self, link: Link) -> Result<Arc<Node>, TreeError> {
        if let Some((node, _)) = self.cache.lock().nodes.get(&link.id) {
            return Ok(Arc::clone(node));
        }
        let node = Arc::new(decode(link.id, &self.source.read_node(link.id)?)?);
        node.set_stored(link);
        self.remember(link.id, &node);
        Ok(node)
    }

    /// Puts a node into the cache, and lets go of others if it is over its limit.
    pub(super) fn remember(&self, id: NodeId, node: &Arc<Node>) {
        let bytes = node.memory();
        let mut dropped = Vec::new();
        let mut cache = self.cache.lock();
        cache.bytes += bytes;
        if let Some((_, (old, freed))) = cache.nodes.push(id, (Arc::clone(node), bytes)) {
            cache.bytes -= freed;
            dropped.push(old);
        }
        while cache.bytes > cache.limit
            && let Some((_, (old, freed))) = cache.nodes.pop_lru()
        {
            cache.bytes -= freed;
            dropped.push(old);
        }
        drop(cache);
        // Freeing a node's entries takes a while: not under the lock.
        drop(dropped);
    }
}

impl NodeSource for Store {
    fn read_node(&self, id: NodeId) -> Result<Vec<u8>, TreeError> {
        Ok(self.catalog().node(id)?)
    }

    fn new_node_id(&self) -> NodeId {
        self.ids().node()
    }
}

impl NodeSink for crate::store::Transaction<'_> {
    fn write_node(&mut self, id: NodeId, bytes: &[u8]) -> Result<(), TreeError> {
        Ok(self.put_node(id, bytes)?)
    }
}

/// A node in the catalog.
#[derive(Serialize, Deserialize)]
enum NodeRecord {
    /// Entries, ascending.
    Leaf(Vec<(Key, Value)>),
    /// The level (1: above the leaves), and the children, ascending.
    Inner(u8, Vec<ChildRecord>),
}

#[derive(Serialize, Deserialize)]
struct ChildRecord {
    from: Key,
    count: u64,
    node: NodeId,
    digest: Digest,
}

/// The bytes of a leaf.
pub(super) fn encode_leaf(leaf: &Leaf) -> Vec<u8> {
    codec::encode(&NodeRecord::Leaf(leaf.entries.clone()))
}

/// The bytes of an inner node whose children are stored as `links`, in order.
pub(super) fn encode_inner(level: u8, inner: &Inner, links: &[Link]) -> Vec<u8> {
    let child =
        |(child, link): (&Child, &Link)| ChildRecord { from: child.from.clone(), count: child.count, node: link.id, digest: link.digest };
    codec::encode(&NodeRecord::Inner(level, inner.children.iter().zip(links).map(child).collect()))
}

/// The node that the bytes hold, if it is one that an edit can leave behind.
fn decode(id: NodeId, bytes: &[u8]) -> Result<Node, TreeError> {
    let record = codec::decode(bytes).map_err(|error| TreeError::node(id, error.to_string()))?;
    match record {
        NodeRecord::Leaf(entries) => {
            if !entries.is_sorted_by(|(a, _), (b, _)| a < b) {
                return Err(TreeError::node(id, "its entries are out of order"));
            }
            if let Some((key, _)) = entries.iter().find(|(key, value)| !value.fits(key)) {
                return Err(TreeError::node(id, format!("a value of the wrong kind under {key:?}")));
            }
            Ok(Node::new(0, Body::Leaf(Leaf::new(entries))))
        }
        NodeRecord::Inner(level, children) => {
            if level == 0 || children.is_empty() {
                return Err(TreeError::node(id, "an inner node without children"));
            }
            if !children.is_sorted_by(|a, b| a.from < b.from) {
                return Err(TreeError::node(id, "its children are out of order"));
            }
            // Counts are added up all over: none may be such that their sum wraps.
            let sum = children.iter().try_fold(0_u64, |sum, child| sum.checked_add(child.count));
            if children.iter().any(|child| child.count == 0) || sum.is_none() {
                return Err(TreeError::node(id, "its counts are impossible"));
            }
            let child = |child: ChildRecord| Child {
                from: child.from,
                count: child.count,
                at: At::Stored(Link { id: child.node, digest: child.digest }),
            };
            Ok(Node::new(level, Body::Inner(Inner::new(children.into_iter().map(child).collect()))))
        }
    }
}
