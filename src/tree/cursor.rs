//! Walking entries in order.

use std::sync::Arc;

use super::key::{Key, Value};
use super::node::{Body, Node};
use super::nodes::Nodes;
use super::{Tree, TreeError};
use crate::ids::NodeId;

/// Entries in ascending order of their keys, as they were when the walk began. It ends after an error.
pub struct Range {
    nodes: Arc<Nodes>,
    /// From the root down: nodes with the position that comes next in each.
    stack: Vec<(Arc<Node>, usize)>,
    /// The first key that is not wanted any more.
    end: Option<Key>,
    /// The last key of the leaf before the present one.
    passed: Option<Key>,
    failed: Option<TreeError>,
}

impl std::fmt::Debug for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Range").field("depth", &self.stack.len()).field("end", &self.end).finish_non_exhaustive()
    }
}

impl Tree {
    /// All entries.
    #[must_use]
    pub fn iter(&self) -> Range {
        self.iter_at(0)
    }

    /// The entries from `from` on, that included, up to `to`, that left out.
    #[must_use]
    pub fn range(&self, from: &Key, to: &Key) -> Range {
        let mut range = self.starting_at(from);
        range.end = Some(to.clone());
        range
    }

    /// The entries from `key` on, that included.
    #[must_use]
    pub fn starting_at(&self, key: &Key) -> Range {
        self.walk(|nodes, node, stack| {
            seek(nodes, node, stack, &mut |node| match &node.body {
                Body::Leaf(leaf) => leaf.find(key).unwrap_or_else(|at| at),
                Body::Inner(inner) => inner.find(key),
            })
        })
    }

    /// The entries after `key`.
    #[must_use]
    pub fn after(&self, key: &Key) -> Range {
        self.walk(|nodes, node, stack| {
            seek(nodes, node, stack, &mut |node| match &node.body {
                Body::Leaf(leaf) => leaf.find(key).map_or_else(|at| at, |at| at + 1),
                Body::Inner(inner) => inner.find(key),
            })
        })
    }

    /// The entries that have at least `n` before them.
    #[must_use]
    pub fn iter_at(&self, n: u64) -> Range {
        let mut left = n;
        self.walk(|nodes, node, stack| {
            seek(nodes, node, stack, &mut |node| match &node.body {
                Body::Leaf(leaf) => usize::try_from(left).unwrap_or(usize::MAX).min(leaf.entries.len()),
                Body::Inner(inner) => {
                    let last = inner.children.len() - 1;
                    let at = inner.children.iter().take(last).take_while(|child| {
                        let before = left >= child.count;
                        left -= if before { child.count } else { 0 };
                        before
                    });
                    at.count()
                }
            })
        })
    }

    fn walk(&self, seek: impl FnOnce(&Nodes, Arc<Node>, &mut Vec<(Arc<Node>, usize)>) -> Result<(), TreeError>) -> Range {
        let mut stack = Vec::with_capacity(4);
        let found = self.root.load(&self.nodes).and_then(|root| seek(&self.nodes, root, &mut stack));
        Range { nodes: Arc::clone(&self.nodes), stack, end: None, passed: None, failed: found.err() }
    }
}

fn seek(
    nodes: &Nodes,
    mut node: Arc<Node>,
    stack: &mut Vec<(Arc<Node>, usize)>,
    choose: &mut dyn FnMut(&Node) -> usize,
) -> Result<(), TreeError> {
    loop {
        let at = choose(&node);
        let below = match &node.body {
            Body::Leaf(_) => None,
            Body::Inner(inner) => Some(inner.children[at].load(nodes, node.level)?),
        };
        stack.push((node, at + usize::from(below.is_some())));
        match below {
            Some(below) => node = below,
            None => return Ok(()),
        }
    }
}

impl Iterator for Range {
    type Item = Result<(Key, Value), TreeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.failed.take() {
            self.stack.clear();
            return Some(Err(error));
        }
        loop {
            let (node, at) = self.stack.last_mut()?;
            match &node.body {
                Body::Leaf(leaf) => {
                    if let Some((key, value)) = leaf.entries.get(*at) {
                        *at += 1;
                        if self.end.as_ref().is_some_and(|end| key >= end) {
                            self.stack.clear();
                            return None;
                        }
                        return Some(Ok((key.clone(), value.clone())));
                    }
                    self.passed = leaf.entries.last().map(|(key, _)| key.clone());
                    self.stack.pop();
                }
                Body::Inner(inner) => {
                    let Some(child) = inner.children.get(*at) else {
                        self.stack.pop();
                        continue;
                    };
                    *at += 1;
                    match child.load(&self.nodes, node.level).and_then(|below| follows(below, self.passed.as_ref())) {
                        Ok(below) => self.stack.push((below, 0)),
                        Err(error) => {
                            self.stack.clear();
                            return Some(Err(error));
                        }
                    }
                }
            }
        }
    }
}

/// Refuses a leaf that begins before the one on its left ends: whoever reads on would miss entries or meet them twice.
fn follows(node: Arc<Node>, passed: Option<&Key>) -> Result<Arc<Node>, TreeError> {
    match (node.entries().first(), passed) {
        (Some((first, _)), Some(passed)) if first <= passed => {
            let id = node.link().map_or(NodeId(0), |link| link.id);
            Err(TreeError::node(id, "it begins before its left neighbour ends"))
        }
        _ => Ok(node),
    }
}
