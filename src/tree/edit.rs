//! Insert and remove: copy the path from the root, edit the leaf, split what grew too large and merge what shrank.

use std::sync::Arc;

use super::key::{Key, Value};
use super::node::{At, Body, Child, Inner, Node, weight};
use super::nodes::Nodes;
use super::{Tree, TreeError};

/// What an insertion below did to a node.
struct Inserted {
    old: Option<Value>,
    /// A new right neighbour, and the key it begins at.
    split: Option<(Key, Arc<Node>)>,
}

impl Tree {
    /// Puts `value` under `key` and gives what was there.
    pub fn insert(&mut self, key: Key, value: Value) -> Result<Option<Value>, TreeError> {
        debug_assert!(value.fits(&key), "a value of the wrong kind under {key:?}");
        let root = self.root.live(&self.nodes)?;
        let inserted = insert_in(&self.nodes, root, key, value)?;
        if let Some((from, right)) = inserted.split {
            let level = right.level + 1;
            let lowest = match &root.body {
                Body::Leaf(leaf) => &leaf.entries[0].0,
                Body::Inner(inner) => &inner.children[0].from,
            };
            let children = vec![Child::new(lowest.clone(), Arc::clone(root)), Child::new(from, right)];
            self.root = At::Live(Arc::new(Node::new(level, Body::Inner(Inner::new(children)))));
        }
        self.count(inserted.old.is_none(), u64::checked_add)?;
        Ok(inserted.old)
    }

    /// Takes the entry under `key` out and gives what was there.
    pub fn remove(&mut self, key: &Key) -> Result<Option<Value>, TreeError> {
        // A removal that finds nothing must leave the nodes shared.
        if self.get(key)?.is_none() {
            return Ok(None);
        }
        let root = self.root.live(&self.nodes)?;
        let old = remove_in(&self.nodes, root, key)?;
        self.count(old.is_some(), u64::checked_sub)?;
        loop {
            let root = self.root.live(&self.nodes)?;
            let below = match &root.body {
                Body::Inner(inner) if inner.children.is_empty() => At::Live(Arc::new(Node::empty())),
                Body::Inner(inner) if inner.children.len() == 1 => inner.children[0].at.clone(),
                _ => return Ok(old),
            };
            self.root = below;
        }
    }

    /// Notes that there is an entry more or less. What the version's record counts may be damaged.
    fn count(&mut self, changed: bool, by: fn(u64, u64) -> Option<u64>) -> Result<(), TreeError> {
        let len = by(self.len, u64::from(changed));
        self.len = len.ok_or_else(|| {
            let node = self.root.link().map_or(crate::ids::NodeId(0), |link| link.id);
            TreeError::node(node, format!("its version counts {} entries, which can't be", self.len))
        })?;
        Ok(())
    }

    /// Inserts or removes.
    pub fn set(&mut self, key: &Key, value: Option<Value>) -> Result<Option<Value>, TreeError> {
        match value {
            Some(value) => self.insert(key.clone(), value),
            None => self.remove(key),
        }
    }

    /// Lets go of nodes in memory that the catalog has; they are loaded again when they are needed. For a tree that lives on
    /// after a version cloned from it was sealed.
    pub fn settle(&mut self) {
        settle(&mut self.root);
    }
}

fn insert_in(nodes: &Nodes, node: &mut Arc<Node>, key: Key, value: Value) -> Result<Inserted, TreeError> {
    let node = Node::edit(node);
    let level = node.level;
    let (old, touched) = match &mut node.body {
        Body::Leaf(leaf) => match leaf.find(&key) {
            Ok(at) => {
                let slot = &mut leaf.entries[at].1;
                leaf.bytes = leaf.bytes + weight(&key, &value) - weight(&key, slot);
                (Some(std::mem::replace(slot, value)), at)
            }
            Err(at) => {
                leaf.bytes += weight(&key, &value);
                leaf.entries.insert(at, (key, value));
                (None, at)
            }
        },
        Body::Inner(inner) => {
            let at = inner.find(&key);
            inner.lower_first(&key);
            let child = &mut inner.children[at];
            let inserted = insert_in(nodes, child.live(nodes, level)?, key, value)?;
            child.count += u64::from(inserted.old.is_none());
            match inserted.split {
                // A lower bound may be a longer name: that can be too much as well.
                None => (inserted.old, at),
                Some((from, right)) => {
                    let right = Child::new(from, right);
                    child.count -= right.count;
                    inner.insert(at + 1, right);
                    (inserted.old, at + 1)
                }
            }
        }
    };
    let split = node.is_overfull().then(|| split(node, touched));
    Ok(Inserted { old, split })
}

fn split(node: &mut Node, touched: usize) -> (Key, Arc<Node>) {
    let (from, right) = match &mut node.body {
        Body::Leaf(leaf) => {
            let right = leaf.split(touched);
            (right.entries[0].0.clone(), Body::Leaf(right))
        }
        Body::Inner(inner) => {
            let right = inner.split(touched);
            (right.children[0].from.clone(), Body::Inner(right))
        }
    };
    (from, Arc::new(Node::new(node.level, right)))
}

fn remove_in(nodes: &Nodes, node: &mut Arc<Node>, key: &Key) -> Result<Option<Value>, TreeError> {
    let node = Node::edit(node);
    let level = node.level;
    match &mut node.body {
        Body::Leaf(leaf) => match leaf.find(key) {
            Ok(at) => {
                let (key, value) = leaf.entries.remove(at);
                leaf.bytes -= weight(&key, &value);
                Ok(Some(value))
            }
            Err(_) => Ok(None),
        },
        Body::Inner(inner) => {
            let at = inner.find(key);
            let child = &mut inner.children[at];
            let below = child.live(nodes, level)?;
            let old = remove_in(nodes, below, key)?;
            let (empty, underfull) = (below.items() == 0, below.is_underfull());
            child.count -= u64::from(old.is_some());
            if empty {
                inner.remove(at);
            } else if underfull {
                merge(nodes, level, inner, at);
            }
            Ok(old)
        }
    }
}

/// Merges the child at `at` with a neighbour if both fit into one node. It saves room and changes no entry, so a neighbour that
/// can't be loaded is left for whoever needs its entries to complain about.
fn merge(nodes: &Nodes, level: u8, inner: &mut Inner, at: usize) {
    let pairs = [at.checked_sub(1), Some(at)];
    for left in pairs.into_iter().flatten().filter(|left| left + 1 < inner.children.len()) {
        let (Ok(a), Ok(b)) = (inner.children[left].load(nodes, level), inner.children[left + 1].load(nodes, level)) else {
            continue;
        };
        if !a.fits_with(&b) {
            continue;
        }
        let right = inner.remove(left + 1);
        let child = &mut inner.children[left];
        child.count += right.count;
        child.at = At::Live(Arc::new(join(&a, &b)));
        return;
    }
}

/// Both nodes in one.
fn join(left: &Node, right: &Node) -> Node {
    let mut joined = left.clone();
    match (&mut joined.body, &right.body) {
        (Body::Leaf(left), Body::Leaf(right)) => {
            left.entries.extend_from_slice(&right.entries);
            left.bytes += right.bytes;
        }
        (Body::Inner(left), Body::Inner(right)) => {
            left.children.extend_from_slice(&right.children);
            left.bytes += right.bytes;
        }
        // Both are children of one node, and loading checked their level.
        _ => debug_assert!(false, "neighbours of different levels"),
    }
    joined
}

fn settle(at: &mut At) {
    if let Some(link) = at.link() {
        *at = At::Stored(link);
        return;
    }
    let At::Live(node) = at else { return };
    let Body::Inner(inner) = &node.body else { return };
    if !inner.children.iter().any(|child| matches!(child.at, At::Live(_))) {
        return;
    }
    if let Body::Inner(inner) = &mut Node::edit(node).body {
        inner.children.iter_mut().for_each(|child| settle(&mut child.at));
    }
}
