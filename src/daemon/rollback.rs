//! The way back: rejection with what follows from it, and staging put on another base.

use std::sync::Arc;

use super::dispatcher::{Dispatcher, StepError, put};
use super::todo::Todo;
use crate::ids::VersionId;
use crate::store::StoreError;
use crate::store::record::{Reason, VersionRecord};
use crate::tree::key::{FileKind, InodeRecord, Key, Value};
use crate::tree::{self, Merge, Persisted, Snapshot, Tree, TreeError};
use crate::version::history::{Carried, Fate};
use crate::version::staging::RebaseOutcome;

/// Whom the changes of a version overlap with: the one that was rejected, unless its ground went down for a conflict of its own.
fn blamed(ground: VersionId, carries: &[Carry], rejected: Option<(VersionId, VersionId)>) -> VersionId {
    let carried = carries.iter().any(|carry| matches!(carry, Carry::Clean { old, .. } if *old == ground));
    rejected.filter(|_| carried).map_or(ground, |(version, _)| version)
}

/// A version whose ground went, and what came of its changes.
enum Carry {
    /// They make the version `new`.
    Clean {
        old: VersionId,
        new: VersionId,
        tree: Tree,
    },
    Conflict {
        old: VersionId,
        with: VersionId,
        paths: Vec<Vec<u8>>,
    },
}

/// Files that a merge made of two states were changed by the version that it makes, and by no other: the views know a file by
/// the version of its last change, and under the old version's number they have what that one has, rejected bytes included.
fn claim(mut tree: Tree, edits: &[(Key, Option<Value>)], new: VersionId, below: &Snapshot, onto: &Snapshot) -> Result<Tree, TreeError> {
    for (key, value) in edits {
        let Some(Value::Inode(record)) = value else { continue };
        if record.kind != FileKind::Directory && below.inode(key.ino)? != onto.inode(key.ino)? {
            tree.insert(key.clone(), Value::Inode(Arc::new(InodeRecord { changed_in: new, ..InodeRecord::clone(record) })))?;
        }
    }
    Ok(tree)
}

impl Dispatcher {
    /// Rejects a version: one transaction for it and all that stood on it. Then staging follows.
    pub(super) fn reject(&mut self, version: VersionId, reason: Reason) -> Result<(), StepError> {
        let stranded = self.history.stranded_by(version);
        let parent = self.record(version)?.parent;
        let landing = parent.map_or(version, |parent| self.history.landing(parent));
        let carries = self.carry_over(&stranded, Some((version, landing)))?;
        let decide = |dispatcher: &Self, carried: &[Carried]| {
            dispatcher.history.rejected(version, reason.clone(), carried, dispatcher.clock.now()).map_err(StepError::from)
        };
        self.write_carried(carries, decide)?;
        self.follow(version, &stranded);
        Ok(())
    }

    /// Carries over what a crash left on top of ghosts.
    pub(super) fn recover_stranded(&mut self) -> Result<(), StepError> {
        let stranded = self.history.stranded();
        let carries = self.carry_over(&stranded, None)?;
        self.write_carried(carries, |dispatcher, carried| Ok(dispatcher.history.recovered(carried, dispatcher.clock.now())?))
    }

    /// After a rejection: what ran for the versions that are gone stops, checks of the new ones begin, staging moves.
    fn follow(&mut self, version: VersionId, stranded: &[VersionId]) {
        for gone in stranded.iter().chain([&version]) {
            self.stop_checks(*gone);
            self.runs.remove(gone);
        }
        if self.promotion.as_ref().is_some_and(|promotion| !self.history.flagged().contains(&promotion.version)) {
            self.abandon_promotion("the version was rejected meanwhile");
        }
        let new: Vec<_> = stranded.iter().map(|old| self.history.landing(*old)).collect();
        for carried in self.history.unjudged().map(|record| record.version).filter(|version| new.contains(version)).collect::<Vec<_>>() {
            if !self.runs.contains_key(&carried) && self.history.get(carried).is_some_and(|record| !record.passed) {
                self.begin_checks(carried);
            }
        }
        if self.history.base() != self.staging_base {
            // Before anything else: until then staging shows what was rejected.
            self.todo.push_front(Todo::Restage { with: version });
        }
    }

    fn record(&self, version: VersionId) -> Result<&VersionRecord, StepError> {
        Ok(self.history.get(version).ok_or(crate::version::history::HistoryError::Unknown(version))?)
    }

    fn content(&self, version: VersionId) -> Result<Snapshot, StepError> {
        let gone = || StoreError::Damaged { what: format!("{version} has no content") };
        Ok(self.shared.snapshot(self.record(version)?).ok_or_else(gone)?)
    }

    /// Merges the changes of each stranded version onto what its ground has become. `rejected`: a version that is about to be, and
    /// where what stands on it lands.
    fn carry_over(&self, stranded: &[VersionId], rejected: Option<(VersionId, VersionId)>) -> Result<Vec<Carry>, StepError> {
        let mut carries: Vec<Carry> = Vec::with_capacity(stranded.len());
        for old in stranded {
            let ground = self.record(*old)?.parent.unwrap_or(*old);
            let onto = self.ground_now(ground, &carries, rejected)?;
            let below = self.content(ground)?;
            let carry = match tree::merge(&below, &onto, &self.content(*old)?)? {
                Merge::Clean { tree, edits } => {
                    let new = self.store.ids().version();
                    Carry::Clean { old: *old, new, tree: claim(tree, &edits, new, &below, &onto)? }
                }
                Merge::Conflict { paths } => Carry::Conflict { old: *old, with: blamed(ground, &carries, rejected), paths },
            };
            carries.push(carry);
        }
        Ok(carries)
    }

    /// What stands in the place of `ground`: the merged tree of one that is carried over, or the content of where it lands.
    fn ground_now(&self, ground: VersionId, carries: &[Carry], rejected: Option<(VersionId, VersionId)>) -> Result<Snapshot, StepError> {
        let mut at = ground;
        loop {
            let carried =
                carries.iter().find(|carry| matches!(carry, Carry::Clean { old, .. } | Carry::Conflict { old, .. } if *old == at));
            match (carried, rejected) {
                (Some(Carry::Clean { tree, .. }), _) => return Ok(Snapshot::new(tree.clone(), self.store.clone())),
                (Some(Carry::Conflict { .. }), _) => at = self.record(at)?.parent.unwrap_or(at),
                (None, Some((version, landing))) if version == at => return self.content(landing),
                (None, _) => return self.content(self.history.landing(at)),
            }
        }
    }

    /// Writes the carried trees and the decision about them in one transaction.
    fn write_carried(
        &mut self,
        carries: Vec<Carry>,
        decide: impl FnOnce(&Self, &[Carried]) -> Result<crate::version::history::Decision, StepError>,
    ) -> Result<(), StepError> {
        let store = self.store.clone();
        let mut transaction = store.catalog().begin()?;
        let digest = |object| match store.catalog().object(object) {
            Ok(Some(record)) => Ok(record.digest),
            Ok(None) => Err(TreeError::from(StoreError::Damaged { what: format!("object {object} is not in the catalog") })),
            Err(error) => Err(error.into()),
        };
        let (mut carried, mut persisted): (Vec<Carried>, Vec<Persisted>) = (Vec::new(), Vec::new());
        for carry in carries {
            match carry {
                Carry::Clean { old, new, tree } => {
                    let written = tree.persist(&mut transaction, &digest)?;
                    carried.push(Carried { old, fate: Fate::Onto { new, root: written.root } });
                    persisted.push(written);
                }
                Carry::Conflict { old, with, paths } => {
                    let paths = paths.iter().take(100).map(|path| String::from_utf8_lossy(path).into_owned()).collect();
                    carried.push(Carried { old, fate: Fate::Conflict { with, paths } });
                }
            }
        }
        let decision = decide(self, &carried)?;
        put(&mut transaction, &decision, self.clock.as_ref())?;
        transaction.commit()?;
        for written in persisted {
            let _stored = written.committed();
        }
        self.adopt(decision);
        Ok(())
    }

    /// Staging is put on the history's base; the open version's changes go with it if they can.
    /// `with`: the version that went down, for the reason if they can't.
    pub(super) fn restage(&mut self, with: VersionId) -> Result<(), StepError> {
        let to = self.history.base();
        if self.staging_base != to {
            let rebased = self.staging.rebase(&self.content(self.staging_base)?, &self.content(to)?, to)?;
            self.staging_base = to;
            self.kernel.invalidate_staging(&rebased.invalidate);
            if let RebaseOutcome::Conflict { frozen, paths } = rebased.outcome {
                self.seal_conflict(*frozen, with, &paths);
                return Ok(());
            }
        }
        self.drain_staging();
        match self.history.open().map(|record| (record.version, record.parent)) {
            Some((open, parent)) if parent != Some(to) => {
                let decision = self.history.reparented(open, to, self.clock.now())?;
                Ok(self.write(decision)?)
            }
            _ => Ok(()),
        }
    }
}
