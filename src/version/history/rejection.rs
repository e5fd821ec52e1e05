//! A version is rejected: where staging goes, and what becomes of the versions on top.

use std::collections::BTreeMap;

use super::draft::Draft;
use super::{Decision, History, HistoryError};
use crate::clock::Timestamp;
use crate::ids::VersionId;
use crate::store::event::EventKind;
use crate::store::record::{ChangeCounts, Reason, RootRef, VersionRecord, VersionState};
use crate::version::lifecycle::Transition;

/// A version that stood on a rejected one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carried {
    /// The version.
    pub old: VersionId,
    /// What became of its changes.
    pub fate: Fate,
}

/// What became of the changes of a version whose ground was rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// They live on in a new version.
    Onto {
        /// Its number.
        new: VersionId,
        /// Its tree.
        root: RootRef,
    },
    /// They overlap with what was rejected.
    Conflict {
        /// The version that they overlap with.
        with: VersionId,
        /// Some of the paths.
        paths: Vec<String>,
    },
}

impl History {
    /// The sealed versions on top of `version` whose changes must be carried over if it is rejected; parents come before their children.
    #[must_use]
    pub fn stranded_by(&self, version: VersionId) -> Vec<VersionId> {
        let judged = |version: &VersionId| self.get(*version).is_some_and(|record| record.state == VersionState::Checking);
        self.descendants(version).into_iter().filter(judged).collect()
    }

    /// Unjudged versions on top of ghosts (a crash came between a rejection and what follows from it); parents come before their children.
    #[must_use]
    pub fn stranded(&self) -> Vec<VersionId> {
        let ghosts_below = |version| self.ancestry(version).skip(1).any(|record| record.state == VersionState::Ghost);
        let mut found: Vec<_> = self.unjudged().map(|record| record.version).filter(|version| ghosts_below(*version)).collect();
        found.sort_by_key(|version| self.ancestry(*version).count());
        found
    }

    /// `version` is rejected, and `carried` says what became of those on top of it (all of `stranded_by`, in its order).
    pub fn rejected(&self, version: VersionId, reason: Reason, carried: &[Carried], at: Timestamp) -> Result<Decision, HistoryError> {
        let mut draft = Draft::new(self, at);
        draft.reject(version, reason, at)?;
        let parent = self.require(version)?.parent.ok_or(HistoryError::Unknown(version))?;
        let mut landed = BTreeMap::from([(version, self.landing(parent))]);
        self.carry(&mut draft, &mut landed, carried, at)?;
        self.move_base(&mut draft, version, &landed);
        draft.finish()
    }

    /// The versions on top of ghosts (all of `stranded`, in its order) are carried over.
    pub fn recovered(&self, carried: &[Carried], at: Timestamp) -> Result<Decision, HistoryError> {
        let mut draft = Draft::new(self, at);
        let mut landed = BTreeMap::new();
        self.carry(&mut draft, &mut landed, carried, at)?;
        self.move_base(&mut draft, self.base, &landed);
        draft.finish()
    }

    fn carry(
        &self,
        draft: &mut Draft<'_>,
        landed: &mut BTreeMap<VersionId, VersionId>,
        carried: &[Carried],
        at: Timestamp,
    ) -> Result<(), HistoryError> {
        for Carried { old, fate } in carried {
            let record = self.require(*old)?;
            let ground = record.parent.ok_or(HistoryError::Unknown(*old))?;
            let onto = landed.get(&ground).copied().unwrap_or_else(|| self.landing(ground));
            let reason = match fate {
                Fate::Onto { new, root } => {
                    draft.insert(carried_over(record, *new, onto, *root, at));
                    draft.event(*new, EventKind::Rebased { from: *old, onto });
                    let (changes, writers, message) = (record.changes, record.writers.clone(), record.message.clone());
                    draft.event(*new, EventKind::Sealed { digest: root.digest, changes, writers, message });
                    landed.insert(*old, *new);
                    Reason::Rebased { into: *new }
                }
                Fate::Conflict { with, paths } => {
                    landed.insert(*old, onto);
                    Reason::Conflict { with: *with, paths: paths.clone() }
                }
            };
            draft.reject(*old, reason, at)?;
        }
        Ok(())
    }

    fn move_base(&self, draft: &mut Draft<'_>, from: VersionId, landed: &BTreeMap<VersionId, VersionId>) {
        let to = landed.get(&self.base).copied().unwrap_or_else(|| self.landing(self.base));
        if to != draft.base() {
            draft.set_base(to);
            draft.event(from, EventKind::RolledBack { from, to });
        }
    }
}

impl Draft<'_> {
    fn reject(&mut self, version: VersionId, reason: Reason, at: Timestamp) -> Result<(), HistoryError> {
        let record = self.transition(version, Transition::Reject)?;
        record.decided_at = Some(at);
        record.reason = Some(reason.clone());
        self.event(version, EventKind::Rejected { reason });
        Ok(())
    }
}

/// The record of `new`, which has the changes of `old` on another parent.
fn carried_over(old: &VersionRecord, new: VersionId, onto: VersionId, root: RootRef, at: Timestamp) -> VersionRecord {
    VersionRecord {
        version: new,
        state: VersionState::Checking,
        parent: Some(onto),
        root: Some(root),
        message: old.message.clone(),
        opened_at: old.opened_at,
        sealed_at: Some(at),
        decided_at: None,
        promoted_at: None,
        // The same paths; their bytes are stored once and counted with the old one.
        changes: ChangeCounts { bytes: 0, ..old.changes },
        writers: old.writers.clone(),
        reason: None,
        passed: false,
        held: old.held,
        pinned: false,
        rebased_from: Some(old.version),
        restored_from: old.restored_from,
    }
}
