//! What trees reach: the stored nodes and the objects that must stay for them to read as they do.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

use super::key::{Content, Value};
use super::node::{At, Node};
use super::nodes::Nodes;
use super::{Tree, TreeError};
use crate::ids::set::IdSet;
use crate::ids::{NodeId, ObjectId};
use crate::store::{Catalog, JournalRecord, Store, StoreError, codec};

/// The nodes and objects that some trees reach. Nodes that trees share are entered once.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    /// Nodes in the catalog.
    pub nodes: IdSet<NodeId>,
    /// Objects that entries name.
    pub objects: IdSet<ObjectId>,
}

/// How much of the catalog is read at once.
const BATCH: usize = 4096;
/// How many nodes are entered between two rests.
const NODES_A_REST: u64 = 64;

impl Reach {
    /// Everything that the catalog holds now, reached by something or not.
    pub fn all(catalog: &Catalog) -> Result<Self, StoreError> {
        let mut all = Self::default();
        let mut from = NodeId(0);
        while let page = catalog.nodes(from, BATCH)?
            && let Some(last) = page.last()
        {
            from = last.next();
            all.nodes.extend(page);
        }
        let mut from = ObjectId(0);
        while let page = catalog.object_ids(from, BATCH)?
            && let Some(last) = page.last()
        {
            from = last.next();
            all.objects.extend(page);
        }
        Ok(all)
    }

    /// Adds what a tree reaches. False if `stop` ended it early: then the tree is only partly in it. After an error, too.
    pub fn add(&mut self, tree: &Tree, stop: &AtomicBool) -> Result<bool, TreeError> {
        self.add_resting(tree, stop, &|| ())
    }

    /// The same; `rest` is called now and then.
    pub fn add_resting(&mut self, tree: &Tree, stop: &AtomicBool, rest: &dyn Fn()) -> Result<bool, TreeError> {
        if !self.is_new(&tree.root) {
            return Ok(true);
        }
        let root = tree.root.load(&tree.nodes)?;
        self.enter(&tree.nodes, &root, stop, rest)
    }

    /// Whether the node was not met before. One that is in memory alone is always new.
    fn is_new(&mut self, at: &At) -> bool {
        at.link().is_none_or(|link| self.nodes.insert(link.id))
    }

    fn enter(&mut self, nodes: &Nodes, node: &Node, stop: &AtomicBool, rest: &dyn Fn()) -> Result<bool, TreeError> {
        self.objects.extend(node.entries().iter().filter_map(|(_, value)| object_of(value)));
        for child in node.children() {
            if !self.is_new(&child.at) {
                continue;
            }
            if stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
            if self.nodes.len().is_multiple_of(NODES_A_REST) {
                rest();
            }
            let below = child.load(nodes, node.level)?;
            if !self.enter(nodes, &below, stop, rest)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The object that an entry names.
#[must_use]
pub fn object_of(value: &Value) -> Option<ObjectId> {
    match value {
        Value::Inode(record) => match record.content {
            Content::Object(object) => Some(object),
            Content::None | Content::Inline(_) | Content::Extents => None,
        },
        Value::Extent(extent) => Some(extent.object),
        Value::Dirent(..) | Value::Link | Value::Xattr(_) => None,
    }
}

/// The objects that versions which are not sealed have written: their files are not in the catalog yet.
pub fn named_by_journals(store: &Store) -> Result<HashSet<ObjectId>, StoreError> {
    let mut named = HashSet::new();
    for version in store.journals()? {
        for record in store.replay(version)? {
            match record {
                JournalRecord::Data { object, .. } | JournalRecord::Truncate { object, .. } | JournalRecord::InFile { object } => {
                    named.insert(object);
                }
                // Asides that no join came for as well: it costs space, not content.
                JournalRecord::Edit { value: Some(value), .. } | JournalRecord::Aside { value: Some(value), .. } => {
                    let value: Value =
                        codec::decode(&value).map_err(|error| StoreError::Damaged { what: format!("journal/{version}: {error}") })?;
                    named.extend(object_of(&value));
                }
                JournalRecord::Edit { value: None, .. }
                | JournalRecord::Aside { value: None, .. }
                | JournalRecord::Join { .. }
                | JournalRecord::Base { .. }
                | JournalRecord::Writer(_)
                | JournalRecord::Sealed { .. } => {}
            }
        }
    }
    Ok(named)
}
