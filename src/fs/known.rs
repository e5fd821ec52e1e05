//! What the kernel still knows of the dataset in the views: lookups minus forgets, a count a node.
//!
//! The views answer no opens, so who has a file open, mapped, or for a working directory shows in one way only: the kernel keeps the node.
//! What it keeps may be in use, and its bytes stay. The counts take some 30 bytes a node where the kernel's own inode takes a kilobyte;
//! past a bound only versions are counted, so that memory stays bounded, and what is kept then is rather too much than too little.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::nodes::{RawNode, View, ViewNode};
use crate::ids::{Ino, VersionId};

/// Nodes that are counted one by one.
const MOST: usize = 4 << 20;
const SHARDS: usize = 16;
const VIEWS: [View; 3] = [View::Versions, View::Ghosts, View::Production];

/// All files of one version's change, or all directories of one version in one view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Group {
    Files(VersionId),
    Directories(View, VersionId),
}

/// The group and inode of a node that is counted; nothing else here ever goes.
const fn place(node: ViewNode) -> Option<(Group, Ino)> {
    match node {
        ViewNode::File(version, ino) => Some((Group::Files(version), ino)),
        ViewNode::Directory(view, version, ino) => Some((Group::Directories(view, version), ino)),
        _ => None,
    }
}

/// The counts. Called for every entry that is answered, so they are spread over several locks; each is a leaf.
#[derive(Debug)]
pub struct Known {
    shards: [Mutex<HashMap<Group, HashMap<Ino, u64>>>; SHARDS],
    /// Lookups of nodes that are not counted by themselves.
    rest: Mutex<HashMap<Group, u64>>,
    len: AtomicUsize,
    most: usize,
}

impl Default for Known {
    fn default() -> Self {
        Self::bounded(MOST)
    }
}

impl Known {
    fn bounded(most: usize) -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()), rest: Mutex::default(), len: AtomicUsize::new(0), most }
    }

    fn shard(&self, ino: Ino) -> &Mutex<HashMap<Group, HashMap<Ino, u64>>> {
        &self.shards[usize::try_from(ino.0 % SHARDS as u64).unwrap_or(0)]
    }

    /// The kernel is going to be told of a node: to be called before it is, because it may forget at once.
    pub fn told(&self, node: RawNode) {
        let Some((group, ino)) = ViewNode::unpack(node).and_then(place) else { return };
        let mut shard = self.shard(ino).lock();
        let nodes = shard.entry(group).or_default();
        if let Some(count) = nodes.get_mut(&ino) {
            *count += 1;
        } else if self.len.load(Ordering::Relaxed) < self.most {
            nodes.insert(ino, 1);
            self.len.fetch_add(1, Ordering::Relaxed);
        } else {
            if nodes.is_empty() {
                shard.remove(&group);
            }
            drop(shard);
            *self.rest.lock().entry(group).or_insert(0) += 1;
        }
    }

    /// The kernel forgets `lookups` of a node.
    pub fn forgotten(&self, node: RawNode, lookups: u64) {
        let Some((group, ino)) = ViewNode::unpack(node).and_then(place) else { return };
        let mut left = lookups;
        let mut shard = self.shard(ino).lock();
        if let Some(nodes) = shard.get_mut(&group) {
            if let Some(count) = nodes.get_mut(&ino) {
                let taken = left.min(*count);
                left -= taken;
                *count -= taken;
                if *count == 0 {
                    nodes.remove(&ino);
                    self.len.fetch_sub(1, Ordering::Relaxed);
                }
            }
            if nodes.is_empty() {
                shard.remove(&group);
            }
        }
        drop(shard);
        if left > 0 {
            // It was told of first when there was no room, and later when there was.
            let mut rest = self.rest.lock();
            if let Some(count) = rest.get_mut(&group) {
                *count = count.saturating_sub(left);
                if *count == 0 {
                    rest.remove(&group);
                }
            }
        }
    }

    /// Whether the kernel may know a node.
    #[must_use]
    pub fn knows(&self, node: ViewNode) -> bool {
        let Some((group, ino)) = place(node) else { return true };
        let counted = self.shard(ino).lock().get(&group).is_some_and(|nodes| nodes.contains_key(&ino));
        counted || self.rest.lock().contains_key(&group)
    }

    /// Whether the kernel may know a directory of a version, in any view.
    #[must_use]
    pub fn knows_directory_of(&self, version: VersionId) -> bool {
        let groups = VIEWS.map(|view| Group::Directories(view, version));
        let counted = self.shards.iter().any(|shard| {
            let shard = shard.lock();
            groups.iter().any(|group| shard.contains_key(group))
        });
        let rest = self.rest.lock();
        counted || groups.iter().any(|group| rest.contains_key(group))
    }

    /// The directories of a version that the kernel knows, in all views, as far as they are counted one by one.
    #[must_use]
    pub fn directories_of(&self, version: VersionId) -> Vec<(View, Ino)> {
        let mut found = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            for view in VIEWS {
                let nodes = shard.get(&Group::Directories(view, version)).into_iter().flat_map(HashMap::keys);
                found.extend(nodes.map(|ino| (view, *ino)));
            }
        }
        found.sort_unstable_by_key(|(_, ino)| *ino);
        found
    }

    /// How many nodes are counted one by one.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether the kernel knows nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && self.rest.lock().is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn file(version: u64, ino: u64) -> ViewNode {
        ViewNode::File(VersionId(version), Ino(ino))
    }

    fn told(known: &Known, node: ViewNode) {
        known.told(node.pack().unwrap());
    }

    fn forgotten(known: &Known, node: ViewNode, lookups: u64) {
        known.forgotten(node.pack().unwrap(), lookups);
    }

    #[test]
    fn a_node_is_known_until_as_many_lookups_are_forgotten_as_were_answered() {
        let known = Known::default();
        let dir = ViewNode::Directory(View::Ghosts, VersionId(3), Ino(7));
        for node in [file(3, 5), file(3, 5), dir, ViewNode::Log, ViewNode::Root] {
            told(&known, node);
        }
        assert_eq!((known.len(), known.knows(file(3, 5)), known.knows(file(2, 5)), known.knows(file(3, 6))), (2, true, false, false));
        assert!(known.knows_directory_of(VersionId(3)) && !known.knows_directory_of(VersionId(5)));
        assert_eq!(known.directories_of(VersionId(3)), [(View::Ghosts, Ino(7))]);
        forgotten(&known, file(3, 5), 1);
        assert!(known.knows(file(3, 5)));
        forgotten(&known, file(3, 5), 1);
        forgotten(&known, dir, 1);
        assert!(!known.knows(file(3, 5)) && !known.knows_directory_of(VersionId(3)) && known.is_empty());
        // What was never told, or was told by a session before, takes nothing below nothing.
        forgotten(&known, dir, 9);
        assert!(known.is_empty());
    }

    #[test]
    fn past_the_bound_versions_are_counted_and_every_count_comes_down_again() {
        let known = Known::bounded(10);
        let nodes: Vec<ViewNode> = (0..100).map(|n| file(n % 3, n)).collect();
        for round in 0..3 {
            nodes.iter().for_each(|node| told(&known, *node));
            assert_eq!(known.len(), 10, "{round}");
        }
        assert!(nodes.iter().all(|node| known.knows(*node)));
        // Room comes while nodes are known that were not counted by themselves.
        forgotten(&known, nodes[0], 3);
        told(&known, nodes[99]);
        assert!(known.len() == 10 && known.knows(file(0, 1_000)), "all files of the version may be known");
        forgotten(&known, nodes[99], 4);
        nodes[1..99].iter().for_each(|node| forgotten(&known, *node, 3));
        assert!(known.is_empty() && known.rest.lock().is_empty());
    }
}
