//! Putting staging on another base: carried over, or set aside; and what the kernel must forget then.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Staging;
use super::state::State;
use super::types::Invalidation;
use super::version_journal::Sync;
use crate::ids::{Ino, VersionId};
use crate::tree::key::{FileKind, Name, Part, Value};
use crate::tree::{Merge, Snapshot, Tree, merge};
use crate::version::error::FsResult;
use crate::version::seal::Frozen;

/// Staging stands on another version now.
#[derive(Debug)]
pub struct Rebased {
    /// What became of the open version.
    pub outcome: RebaseOutcome,
    /// What the kernel must forget.
    pub invalidate: Vec<Invalidation>,
}

/// What became of the open version in a rebase.
#[derive(Debug)]
pub enum RebaseOutcome {
    /// Its changes are on top of the new base.
    Clean,
    /// None was open.
    NothingOpen,
    /// Its changes overlap with what was rejected: it ends as it is.
    Conflict {
        /// The version, to be sealed as a ghost.
        frozen: Box<Frozen>,
        /// The paths that both changed.
        paths: Vec<Vec<u8>>,
    },
}

/// What a change of trees does to an inode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// Its attributes differ.
    #[default]
    Changed,
    /// Its bytes differ.
    Replaced,
    /// It was gone and is there again.
    Back,
    /// It is gone.
    Gone,
}

/// A switch to another tree, worked out.
#[derive(Debug)]
pub(super) struct Switching {
    tree: Tree,
    fates: BTreeMap<Ino, Fate>,
    names: Vec<(Ino, Name)>,
}

impl Staging {
    /// Puts staging, which stands on `from`, on `onto` (the state of `base`), with the open version's changes if they do not overlap with
    /// what lies between the two.
    pub fn rebase(&self, from: &Snapshot, onto: &Snapshot, base: VersionId) -> FsResult<Rebased> {
        let _gate = self.gate.write();
        let mut state = self.lock();
        state.refresh_all(&self.cx)?;
        state.publish()?;
        if state.open.is_none() {
            let invalidate = self.switch(&mut state, onto.tree.clone())?;
            state.base = base;
            state.base_tree = onto.tree.clone();
            return Ok(Rebased { outcome: RebaseOutcome::NothingOpen, invalidate });
        }
        // Times of directories in which something came and went are no change to carry, and none to conflict about.
        let ours = if state.is_unchanged()? { state.base_tree.clone() } else { state.tree.clone() };
        let ours = Snapshot::new(ours, Arc::clone(&self.cx.store));
        match merge(from, onto, &ours)? {
            Merge::Clean { tree, edits } => {
                let invalidate = self.switch(&mut state, tree)?;
                state.base = base;
                state.base_tree = onto.tree.clone();
                if let Some(open) = &state.open {
                    open.journal.queue_rebase(base, open.opened_at, edits);
                }
                Ok(Rebased { outcome: RebaseOutcome::Clean, invalidate })
            }
            Merge::Conflict { paths } => {
                // All that can fail comes first: a frozen version must not get lost on the way.
                let ending = self.ending(&mut state)?;
                let switching = self.switching(&state, onto.tree.clone())?;
                let frozen = self.end_open(&mut state, ending);
                let invalidate = self.switch_to(&mut state, switching);
                state.base = base;
                state.base_tree = onto.tree.clone();
                let outcome = match frozen {
                    Some(frozen) => RebaseOutcome::Conflict { frozen: Box::new(frozen), paths },
                    None => RebaseOutcome::NothingOpen,
                };
                Ok(Rebased { outcome, invalidate })
            }
        }
    }

    /// After this no journal on disk leads to a version that staging stood on before: that may go.
    pub fn leave_bases(&self) -> FsResult<()> {
        let elsewhere = {
            let state = self.lock();
            let open = state.open.as_ref().map(|open| &open.journal);
            state.frozen.iter().map(|(journal, _)| journal).chain(open).any(|journal| journal.may_stand_elsewhere())
        };
        if elsewhere { self.save(Sync::Journal) } else { Ok(()) }
    }

    /// Shows another tree from now on. Handles of files whose bytes differ become stale, and what the kernel knows of them a stranger.
    pub(super) fn switch(&self, state: &mut State, tree: Tree) -> FsResult<Vec<Invalidation>> {
        let switching = self.switching(state, tree)?;
        Ok(self.switch_to(state, switching))
    }

    /// What it takes to show `tree`. Changes nothing.
    pub(super) fn switching(&self, state: &State, tree: Tree) -> FsResult<Switching> {
        let mut fates: BTreeMap<Ino, Fate> = BTreeMap::new();
        let mut names = Vec::new();
        for change in state.tree.diff(&tree) {
            let change = change?;
            let ino = change.key.ino;
            let fate = match (&change.key.part, &change.old, &change.new) {
                (Part::Dirent(name), ..) => {
                    names.push((ino, Arc::clone(name)));
                    continue;
                }
                (Part::Inode, Some(Value::Inode(old)), Some(Value::Inode(new))) => {
                    let same = old.kind != FileKind::Regular || (old.content == new.content && old.size == new.size);
                    if same { Fate::Changed } else { Fate::Replaced }
                }
                (Part::Inode, None, _) => Fate::Back,
                (Part::Inode, _, None) => Fate::Gone,
                (Part::Extent(_), ..) => Fate::Replaced,
                _ => Fate::Changed,
            };
            let known = fates.entry(ino).or_insert(fate);
            *known = fate.max(*known);
        }
        let snapshot = Snapshot::new(tree, Arc::clone(&self.cx.store));
        for (ino, _) in fates.iter().filter(|(_, fate)| matches!(fate, Fate::Replaced | Fate::Back)) {
            // Every name leads to the new generation.
            if let Some(record) = snapshot.inode(*ino)? {
                names.push((record.parent, Arc::clone(&record.name)));
                names.extend(snapshot.further_links(*ino)?);
            }
        }
        names.sort_unstable();
        names.dedup();
        Ok(Switching { tree: snapshot.tree, fates, names })
    }

    pub(super) fn switch_to(&self, state: &mut State, switching: Switching) -> Vec<Invalidation> {
        let Switching { tree, fates, names } = switching;
        let mut inodes = Vec::with_capacity(fates.len());
        for (ino, fate) in fates {
            let before = state.node(ino);
            if fate != Fate::Back {
                inodes.push(Invalidation::Inode(before));
            }
            if fate == Fate::Changed {
                continue;
            }
            state.make_stale(self, ino);
            if fate != Fate::Gone {
                *state.generations.entry(ino).or_insert(0) += 1;
            }
        }
        state.tree = tree;
        state.dirty.clear();
        // Names first: the kernel takes one away when nobody is in the middle of reading the directory. So what it keeps of a listing that
        // began before the switch goes with the directory's own notice behind it.
        let names = names.into_iter().map(|(dir, name)| Invalidation::Entry { dir: state.node(dir), name });
        names.chain(inodes).collect()
    }
}

impl State {
    /// Voids every handle of a file.
    fn make_stale(&mut self, staging: &Staging, ino: Ino) {
        self.removed.retain(|(gone, _)| *gone != ino);
        self.pages_old.remove(&ino);
        let Some(file) = self.files.remove(&ino) else { return };
        file.cell.make_stale();
        self.forget_mapped(&file);
        self.writers -= u64::from(file.writers);
        if let Some(backing) = &file.backing
            && self.pending(ino, backing.object).is_none()
        {
            staging.cx.store.objects().discard(backing.object);
        }
        self.bury(&staging.cx, ino);
    }
}
