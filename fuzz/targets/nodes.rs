//! Tree nodes as a catalog could hold them, each good or bad by itself and whatever they say of each other: reading, walking,
//! comparing and editing such a tree ends, with an answer or an error.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use shadowfs::clock::Timestamp;
use shadowfs::ids::{Digest, Ino, NodeId, ObjectId, VersionId};
use shadowfs::store::codec;
use shadowfs::store::record::RootRef;
use shadowfs::tree::key::{Content, Extent, FileKind, InodeRecord, Key, Part, Value};
use shadowfs::tree::{NodeSink, NodeSource, Nodes, Tree, TreeError};

use super::input::Input;

/// How far a walk goes: counts may promise more entries than there are bytes in the world.
const STEPS: usize = 2000;

#[derive(Debug)]
struct Table {
    nodes: Vec<Vec<u8>>,
    next: AtomicU64,
}

impl NodeSource for Table {
    fn read_node(&self, id: NodeId) -> Result<Vec<u8>, TreeError> {
        let found = usize::try_from(id.0).ok().and_then(|id| self.nodes.get(id));
        found.cloned().ok_or_else(|| TreeError::Node { node: id, what: "is not there".to_owned() })
    }

    fn new_node_id(&self) -> NodeId {
        NodeId(self.next.fetch_add(1, Ordering::Relaxed))
    }
}

struct Nowhere;

impl NodeSink for Nowhere {
    fn write_node(&mut self, _: NodeId, _: &[u8]) -> Result<(), TreeError> {
        Ok(())
    }
}

// The forms that `tree::nodes` keeps to itself.
#[derive(Serialize)]
enum NodeForm {
    Leaf(Vec<(Key, Value)>),
    Inner(u8, Vec<ChildForm>),
}

#[derive(Serialize)]
struct ChildForm {
    from: Key,
    count: u64,
    node: NodeId,
    digest: Digest,
}

pub fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let entries = input.small();
    let probes: Vec<Key> = (0..4).map(|_| key(&mut input)).collect();
    let edits = input.0.get(..8).map(<[u8]>::to_vec).unwrap_or_default();
    let mut nodes = Vec::new();
    while !input.is_empty() && nodes.len() < 32 {
        nodes.push(match input.below(3) {
            0 => [&[1][..], input.run()].concat(),
            1 => leaf(&mut input),
            _ => inner(&mut input),
        });
    }
    let next = AtomicU64::new(1000);
    let source = Arc::new(Table { nodes, next });
    let nodes = Nodes::over(source, 1 << 20);
    let tree = Tree::stored(Arc::clone(&nodes), RootRef { node: NodeId(0), digest: Digest([0; 32]), entries });
    look(&tree, &probes);
    let mut edited = tree.clone();
    edit(&mut edited, &mut Input(&edits), &probes);
    for (old, new) in [(&tree, &edited), (&edited, &tree), (&Tree::new_empty(Arc::clone(&nodes)), &tree)] {
        let _ends = old.diff(new).take(STEPS).find(Result::is_err);
    }
    look(&edited, &probes);
    edited.settle();
    if let Ok(persisted) = edited.persist(&mut Nowhere, &|_| Ok(Digest([3; 32]))) {
        drop(persisted);
    }
}

fn look(tree: &Tree, probes: &[Key]) {
    let _ends = tree.iter().take(STEPS).find(Result::is_err);
    for key in probes {
        let found = tree.get(key);
        if let (Ok(Some(value)), Ok(rank)) = (&found, tree.rank(key))
            && let Ok(Some((at, same))) = tree.nth(rank)
        {
            let _damaged_trees_need_not_agree = (at == *key, same == *value);
        }
        let _ = tree.before(key);
        let _ends = tree.starting_at(key).take(STEPS).find(Result::is_err);
        let _ends = tree.after(key).take(STEPS).find(Result::is_err);
    }
    let _ = tree.nth(u64::MAX);
    let _ends = tree.iter_at(u64::MAX).take(STEPS).find(Result::is_err);
    let mut seen = HashSet::new();
    let _ = tree.visit_nodes(&mut |id, _| seen.insert(id));
    let mut known = HashSet::new();
    let _ = tree.verify(&|_| Ok(Digest([3; 32])), &mut |id| !known.insert(id));
}

fn edit(tree: &mut Tree, input: &mut Input<'_>, probes: &[Key]) {
    for key in probes {
        let done = match input.below(2) {
            0 => tree.remove(key),
            _ => match value(input, key) {
                value if value.fits(key) => tree.insert(key.clone(), value),
                _ => return,
            },
        };
        if done.is_err() {
            return;
        }
    }
}

fn leaf(input: &mut Input<'_>) -> Vec<u8> {
    let mut entries: Vec<(Key, Value)> = Vec::new();
    for _ in 0..input.below(8) {
        let key = key(input);
        let value = value(input, &key);
        entries.push((key, value));
    }
    if input.below(8) != 0 {
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        entries.dedup_by(|a, b| a.0 == b.0);
    }
    codec::encode(&NodeForm::Leaf(entries))
}

fn inner(input: &mut Input<'_>) -> Vec<u8> {
    let level = input.byte();
    let mut children: Vec<ChildForm> = Vec::new();
    for _ in 0..input.below(8) {
        children.push(ChildForm {
            from: key(input),
            count: input.small(),
            node: NodeId(input.small()),
            digest: Digest([input.byte(); 32]),
        });
    }
    if input.below(8) != 0 {
        children.sort_by(|a, b| a.from.cmp(&b.from));
        children.dedup_by(|a, b| a.from == b.from);
    }
    codec::encode(&NodeForm::Inner(level, children))
}

/// A key of few inodes, so that entries meet.
pub fn key(input: &mut Input<'_>) -> Key {
    let ino = Ino(input.small());
    let part = match input.below(5) {
        0 => Part::Inode,
        1 => Part::Dirent(name(input)),
        2 => Part::Link(Ino(input.small()), name(input)),
        3 => Part::Xattr(name(input)),
        _ => Part::Extent(input.small() << 12),
    };
    Key { ino, part }
}

fn name(input: &mut Input<'_>) -> Arc<[u8]> {
    match input.below(4) {
        0 => input.run().into(),
        _ => [b'a' + input.below(4)][..].into(),
    }
}

/// A value, nearly always of the kind that the key calls for.
pub fn value(input: &mut Input<'_>, key: &Key) -> Value {
    let kinds = [FileKind::Regular, FileKind::Directory, FileKind::Symlink, FileKind::Fifo];
    let kind = kinds[usize::from(input.below(4))];
    match &key.part {
        _ if input.below(32) == 31 => Value::Link,
        Part::Inode => {
            let time = Timestamp { secs: i64::from(input.byte()) - 128, nanos: u32::from(input.byte()) };
            Value::Inode(Arc::new(InodeRecord {
                kind,
                perm: u16::from(input.byte()),
                uid: 0,
                gid: 0,
                nlink: u32::from(input.byte()),
                size: input.small(),
                rdev: 0,
                atime: time,
                mtime: time,
                ctime: time,
                btime: time,
                content: match input.below(4) {
                    0 => Content::None,
                    1 => Content::Inline(input.run().into()),
                    2 => Content::Object(ObjectId(input.small())),
                    _ => Content::Extents,
                },
                parent: Ino(input.small()),
                name: name(input),
                changed_in: VersionId(input.small()),
            }))
        }
        Part::Dirent(_) => Value::Dirent(Ino(input.small()), kind),
        Part::Link(..) => Value::Link,
        Part::Xattr(_) => Value::Xattr(input.run().into()),
        Part::Extent(_) => Value::Extent(Extent { len: input.small() << 10, object: ObjectId(input.small()), start: input.small() }),
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    // Choices have no form to be made from: runs of numbers that reach most of them.
    (0..8u32)
        .map(|seed| {
            let mut state = seed.wrapping_mul(2_654_435_761) | 1;
            let mut next = || {
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5;
                (state >> 24) as u8
            };
            (0..64 << (seed % 4)).map(|_| next() % if seed % 2 == 0 { 16 } else { 255 }).collect()
        })
        .collect()
}
