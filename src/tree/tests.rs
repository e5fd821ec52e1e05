//! Tests of the map itself: a plain `BTreeMap` is the oracle of edits, walks, ranks, differences and of what comes back from disk.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use proptest::prelude::*;

use super::key::{Extent, FileKind, InodeRecord, Key, Part, Value};
use super::*;
use crate::clock::Timestamp;
use crate::ids::{Digest, Ino, NodeId, ObjectId, VersionId};
use crate::store::codec;

/// A catalog in memory that counts what is read.
#[derive(Default)]
pub(super) struct Memory {
    nodes: Mutex<HashMap<NodeId, Vec<u8>>>,
    next: AtomicU64,
    reads: AtomicUsize,
}

impl NodeSource for Memory {
    fn read_node(&self, id: NodeId) -> Result<Vec<u8>, TreeError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.nodes.lock().get(&id).cloned().ok_or_else(|| TreeError::node(id, "not there"))
    }

    fn new_node_id(&self) -> NodeId {
        NodeId(self.next.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

struct Sink<'a>(&'a Memory);

impl NodeSink for Sink<'_> {
    fn write_node(&mut self, id: NodeId, bytes: &[u8]) -> Result<(), TreeError> {
        self.0.nodes.lock().insert(id, bytes.to_vec());
        Ok(())
    }
}

pub(super) fn memory(cache: usize) -> (Arc<Memory>, Arc<Nodes>) {
    let memory = Arc::new(Memory::default());
    let nodes = Nodes::over(Arc::clone(&memory) as Arc<dyn NodeSource>, cache);
    (memory, nodes)
}

fn object_digest(id: ObjectId) -> Result<Digest, TreeError> {
    Ok(Digest::of(&id.0.to_le_bytes()))
}

fn persist(tree: &Tree, memory: &Memory) -> Tree {
    tree.persist(&mut Sink(memory), &object_digest).unwrap().committed()
}

fn record(size: u64) -> Arc<InodeRecord> {
    Arc::new(InodeRecord {
        kind: FileKind::Regular,
        perm: 0o644,
        uid: 0,
        gid: 0,
        nlink: 1,
        size,
        rdev: 0,
        atime: Timestamp::default(),
        mtime: Timestamp { secs: 1_700_000_000, nanos: 7 },
        ctime: Timestamp::default(),
        btime: Timestamp::default(),
        content: key::Content::Object(ObjectId(size)),
        parent: Ino::ROOT,
        name: b"some-file-name"[..].into(),
        changed_in: VersionId(3),
    })
}

/// A key and a value of the right kind from a few small numbers.
fn entry(ino: u64, part: u8, rest: u16, value: u64) -> (Key, Value) {
    let ino = Ino(ino);
    let name = format!("{rest:0width$}", width = usize::from(rest % 60));
    match part % 5 {
        0 => (Key::inode(ino), Value::Inode(record(value))),
        1 => (Key::dirent(ino, name.as_bytes()), Value::Dirent(Ino(value), FileKind::Regular)),
        2 => (Key::link(ino, Ino(u64::from(rest)), name.as_bytes()), Value::Link),
        3 => (Key::xattr(ino, name.as_bytes()), Value::Xattr(vec![7; usize::try_from(value % 3000).unwrap()].into())),
        _ => (Key::extent(ino, u64::from(rest)), Value::Extent(Extent { len: value + 1, object: ObjectId(value), start: value })),
    }
}

#[derive(Clone, Debug)]
enum Op {
    Insert(u64, u8, u16, u64),
    Remove(u64, u8, u16),
    RemoveNth(u16),
    RemoveRun(u16, u8),
    Append(u8),
    Persist,
    Reload,
    Settle,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        20 => (0..40_u64, any::<u8>(), 0..40_u16, 0..9000_u64).prop_map(|(a, b, c, d)| Op::Insert(a, b, c, d)),
        4 => (0..40_u64, any::<u8>(), 0..40_u16).prop_map(|(a, b, c)| Op::Remove(a, b, c)),
        6 => any::<u16>().prop_map(Op::RemoveNth),
        3 => (any::<u16>(), any::<u8>()).prop_map(|(a, b)| Op::RemoveRun(a, b)),
        4 => any::<u8>().prop_map(Op::Append),
        1 => Just(Op::Persist),
        1 => Just(Op::Reload),
        1 => Just(Op::Settle),
    ]
}

struct World {
    memory: Arc<Memory>,
    tree: Tree,
    model: BTreeMap<Key, Value>,
}

impl World {
    fn new() -> Self {
        // A cache so small that nodes come and go.
        let (memory, nodes) = memory(20_000);
        Self { memory, tree: Tree::new_empty(nodes), model: BTreeMap::new() }
    }

    fn insert(&mut self, (key, value): (Key, Value)) {
        let old = self.model.insert(key.clone(), value.clone());
        assert_eq!(self.tree.insert(key, value).unwrap(), old);
    }

    fn remove(&mut self, key: &Key) {
        assert_eq!(self.tree.remove(key).unwrap(), self.model.remove(key));
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Insert(ino, part, rest, value) => self.insert(entry(ino, part, rest, value)),
            Op::Remove(ino, part, rest) => self.remove(&entry(ino, part, rest, 0).0),
            Op::RemoveNth(n) => {
                let at = usize::from(n) % self.model.len().max(1);
                if let Some(key) = self.model.keys().nth(at).cloned() {
                    self.remove(&key);
                }
            }
            Op::RemoveRun(n, len) => {
                let at = usize::from(n) % self.model.len().max(1);
                let keys: Vec<Key> = self.model.keys().skip(at).take(len.into()).cloned().collect();
                keys.iter().for_each(|key| self.remove(key));
            }
            Op::Append(n) => {
                let last = self.model.keys().last().map_or(0, |key| key.ino.0);
                (0..u64::from(n)).for_each(|i| self.insert(entry(last + i + 1, 0, 0, i)));
            }
            Op::Persist => drop(persist(&self.tree, &self.memory)),
            Op::Reload => self.tree = persist(&self.tree, &self.memory),
            Op::Settle => self.tree.settle(),
        }
    }

    fn check(&self) {
        let all: Vec<(Key, Value)> = self.tree.iter().map(Result::unwrap).collect();
        let model: Vec<(Key, Value)> = self.model.clone().into_iter().collect();
        assert_eq!(all, model);
        assert_eq!(self.tree.len(), model.len() as u64);
        check_nodes(&self.tree);
    }
}

#[test]
fn a_node_whose_lowest_bound_grows_is_split_in_time() {
    let mut world = World::new();
    // Each goes below all that are there: the bound of the first child becomes a longer name or a shorter one, and most often no child comes in.
    for n in (0..4_000_u32).rev() {
        let name = format!("{n:04}{}", "x".repeat(n as usize * 97 % 250));
        world.insert((Key::dirent(Ino(1), name.as_bytes()), Value::Dirent(Ino(u64::from(n)), FileKind::Regular)));
        check_nodes(&world.tree);
    }
    world.check();
}

/// Every node is within its limits, counts are right, bounds hold.
fn check_nodes(tree: &Tree) {
    fn below(tree: &Tree, node: &Node, from: Option<&Key>, to: Option<&Key>) -> u64 {
        assert!(!node.is_overfull());
        match node.body() {
            Body::Leaf(leaf) => {
                assert_eq!(leaf.bytes, leaf.entries.iter().map(|(k, v)| node::weight(k, v)).sum::<usize>());
                for (key, _) in &leaf.entries {
                    assert!(from.is_none_or(|from| from <= key) && to.is_none_or(|to| key < to));
                }
                leaf.entries.len() as u64
            }
            Body::Inner(inner) => {
                assert!(inner.children.is_sorted_by(|a, b| a.from < b.from));
                for (at, child) in inner.children.iter().enumerate() {
                    let lower = Some(&child.from);
                    let upper = inner.children.get(at + 1).map_or(to, |next| Some(&next.from));
                    let node = child.load(tree.nodes(), node.level).unwrap();
                    assert!(node.items() > 0);
                    assert_eq!(below(tree, &node, from.max(lower), upper), child.count);
                }
                node.count()
            }
        }
    }
    let root = tree.root.load(tree.nodes()).unwrap();
    assert_eq!(below(tree, &root, None, None), tree.len());
}

fn model_diff(old: &BTreeMap<Key, Value>, new: &BTreeMap<Key, Value>) -> Vec<Change> {
    let keys: std::collections::BTreeSet<&Key> = old.keys().chain(new.keys()).collect();
    keys.into_iter()
        .filter(|key| old.get(key) != new.get(key))
        .map(|key| Change { key: key.clone(), old: old.get(key).cloned(), new: new.get(key).cloned() })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn edits_are_those_of_a_map(ops in prop::collection::vec(op(), 1..400)) {
        let mut world = World::new();
        ops.iter().for_each(|op| world.apply(op));
        world.check();
        world.tree = persist(&world.tree, &world.memory);
        world.check();
        world.tree.verify(&object_digest, &mut |_| false).unwrap();
    }

    #[test]
    fn walks_and_ranks_are_those_of_a_map(
        ops in prop::collection::vec(op(), 1..200),
        probes in prop::collection::vec((0..60_u64, any::<u8>(), 0..40_u16), 1..20),
    ) {
        let mut world = World::new();
        ops.iter().for_each(|op| world.apply(op));
        let World { tree, model, .. } = world;
        let keys: Vec<Key> = probes.iter().map(|(ino, part, rest)| entry(*ino, *part, *rest, 0).0).collect();
        for key in &keys {
            prop_assert_eq!(tree.get(key).unwrap(), model.get(key).cloned());
            let rank = model.range(..key.clone()).count();
            prop_assert_eq!(tree.rank(key).unwrap(), rank as u64);
            prop_assert_eq!(tree.nth(rank as u64).unwrap(), model.iter().nth(rank).map(|(k, v)| (k.clone(), v.clone())));
            prop_assert_eq!(tree.before(key).unwrap(), model.range(..key.clone()).next_back().map(|(k, v)| (k.clone(), v.clone())));
            let from: Vec<Key> = tree.starting_at(key).map(|entry| entry.unwrap().0).collect();
            prop_assert_eq!(from, model.range(key.clone()..).map(|(k, _)| k.clone()).collect::<Vec<_>>());
            let after: Vec<Key> = tree.after(key).map(|entry| entry.unwrap().0).collect();
            prop_assert_eq!(after, model.keys().filter(|k| *k > key).cloned().collect::<Vec<_>>());
            let to = &keys[0];
            if key < to {
                let range: Vec<Key> = tree.range(key, to).map(|entry| entry.unwrap().0).collect();
                prop_assert_eq!(range, model.range(key.clone()..to.clone()).map(|(k, _)| k.clone()).collect::<Vec<_>>());
            }
        }
        prop_assert_eq!(tree.nth(tree.len()).unwrap(), None);
    }

    #[test]
    fn differences_are_those_of_maps(
        common in prop::collection::vec(op(), 1..200),
        left in prop::collection::vec(op(), 0..30),
        right in prop::collection::vec(op(), 0..30),
    ) {
        let mut old = World::new();
        common.iter().for_each(|op| old.apply(op));
        let mut new = World { memory: Arc::clone(&old.memory), tree: old.tree.clone(), model: old.model.clone() };
        left.iter().for_each(|op| old.apply(op));
        right.iter().for_each(|op| new.apply(op));
        let found: Vec<Change> = old.tree.diff(&new.tree).map(Result::unwrap).collect();
        prop_assert_eq!(found, model_diff(&old.model, &new.model));
        old.check();
        new.check();
    }
}

fn big(nodes: &Arc<Nodes>, n: u64) -> Tree {
    let mut tree = Tree::new_empty(Arc::clone(nodes));
    for ino in 1..=n {
        let (key, value) = entry(ino, 0, 0, ino);
        tree.insert(key, value).unwrap();
        tree.insert(Key::dirent(Ino(1), format!("file-{ino}").as_bytes()), Value::Dirent(Ino(ino), FileKind::Regular)).unwrap();
    }
    tree
}

#[test]
fn the_cost_of_a_difference_follows_the_change() {
    let (memory, nodes) = memory(1 << 30);
    let old = persist(&big(&nodes, 20_000), &memory);
    let mut new = old.clone();
    for ino in [5, 10_000, 19_999] {
        let (key, value) = entry(ino, 0, 0, ino + 1);
        new.insert(key, value).unwrap();
    }
    // Another shape: many entries more in the middle.
    for n in 0..500_u16 {
        let (key, value) = entry(10_001, 4, n, 1);
        new.insert(key, value).unwrap();
    }
    let new = persist(&new, &memory);
    let cold = Nodes::over(Arc::clone(&memory) as Arc<dyn NodeSource>, 1 << 30);
    let stored = |tree: &Tree| Tree::stored(Arc::clone(&cold), tree.root_ref().unwrap());
    let before = memory.reads.load(Ordering::Relaxed);
    assert_eq!(stored(&old).diff(&stored(&new)).count(), 503);
    let reads = memory.reads.load(Ordering::Relaxed) - before;
    assert!(reads < 60, "{reads} nodes read for a change of about 15 of {}", memory.nodes.lock().len());
    assert_eq!(stored(&old).diff(&stored(&old)).count(), 0);
}

#[test]
fn a_walk_over_everything_stays_within_the_cache() {
    let (memory, nodes) = memory(200_000);
    let tree = persist(&big(&nodes, 20_000), &memory);
    assert_eq!(tree.iter().map(Result::unwrap).count(), 40_000);
    assert!(nodes.cached_bytes() <= 200_000, "{}", nodes.cached_bytes());
}

#[test]
fn a_failed_transaction_leaves_the_nodes_to_be_written_again() {
    let (memory, nodes) = memory(1 << 20);
    let tree = big(&nodes, 500);
    let lost = Memory::default();
    drop(tree.persist(&mut Sink(&lost), &object_digest).unwrap());
    let stored = persist(&tree, &memory);
    assert_eq!(stored.iter().map(Result::unwrap).count(), 1000);
    // Now they count as written, for a clone as well: only the path of a new edit is.
    let mut tree = tree.clone();
    let (key, value) = entry(3, 0, 0, 99);
    tree.insert(key, value).unwrap();
    let before = memory.nodes.lock().len();
    tree.settle();
    assert_eq!(persist(&tree, &memory).iter().map(Result::unwrap).count(), 1000);
    assert!(memory.nodes.lock().len() <= before + 3);
}

#[test]
fn equal_histories_have_equal_digests_and_any_difference_another() {
    let (memory, nodes) = memory(1 << 20);
    let tree = big(&nodes, 300);
    let digest = |tree: &Tree| persist(tree, &memory).root_ref().unwrap().digest;
    assert_eq!(digest(&tree), digest(&big(&nodes, 300)));
    let mut other = big(&nodes, 300);
    let mut changed = InodeRecord::clone(&record(5));
    changed.changed_in = VersionId(77);
    other.insert(Key::inode(Ino(5)), Value::Inode(Arc::new(changed.clone()))).unwrap();
    assert_eq!(digest(&tree), digest(&other), "the version that last changed a record does not count");
    changed.mtime.nanos += 1;
    other.insert(Key::inode(Ino(5)), Value::Inode(Arc::new(changed))).unwrap();
    assert_ne!(digest(&tree), digest(&other));
}

#[test]
fn damage_is_an_error_that_names_the_node() {
    let (memory, nodes) = memory(1 << 20);
    let tree = persist(&big(&nodes, 3000), &memory);
    let root = tree.root_ref().unwrap();
    let good = memory.nodes.lock().clone();
    let ids: Vec<NodeId> = good.keys().copied().collect();
    let open = || Tree::stored(Nodes::over(Arc::clone(&memory) as Arc<dyn NodeSource>, 1 << 20), root);
    let mut named = 0;
    for (n, id) in ids.iter().enumerate() {
        // Another node's bytes: a wrong level, a wrong count, a wrong order, or a circle.
        let other = ids[(n * 7 + 3) % ids.len()];
        let swapped = if n % 2 == 0 { good[&other].clone() } else { good[&root.node].clone() };
        if swapped == good[id] {
            continue;
        }
        memory.nodes.lock().insert(*id, swapped);
        let tree = open();
        let walked = tree.iter().find_map(Result::err);
        assert!(walked.is_some() || tree.verify(&object_digest, &mut |_| false).is_err(), "node {id}");
        if let Some(TreeError::Node { node, .. }) = walked {
            assert!(node == *id || node == other || good.contains_key(&node), "{node}");
            named += 1;
        }
        memory.nodes.lock().insert(*id, good[id].clone());
    }
    assert!(named > 0);
    for cut in [0, 1, 2, 10] {
        memory.nodes.lock().insert(root.node, good[&root.node][..cut].to_vec());
        let message = open().get(&Key::inode(Ino(1))).unwrap_err().to_string();
        assert!(message.contains(&format!("node {}", root.node)), "{message}");
    }
}

#[test]
fn a_value_of_the_wrong_kind_is_damage() {
    let (memory, nodes) = memory(1 << 20);
    // As `NodeRecord::Leaf` is written: variant 0, then the entries.
    let wrong = vec![(Key { ino: Ino(1), part: Part::Inode }, Value::Link)];
    memory.nodes.lock().insert(NodeId(9), codec::encode(&(0_u8, wrong)));
    let root = crate::store::record::RootRef { node: NodeId(9), digest: Digest::default(), entries: 1 };
    let message = Tree::stored(nodes, root).get(&Key::inode(Ino(1))).unwrap_err().to_string();
    assert!(message.contains("tree node 9 is damaged: a value of the wrong kind"), "{message}");
}
