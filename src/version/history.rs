//! The history: every version's record and the pointers, in memory, and the pure decisions about them.
//!
//! A decision changes nothing. It says which records change, which events the lineage gets and where the pointers go; the caller writes
//! that in one transaction and then calls [`History::apply`]. So nothing is in memory that is not on disk.
//!
//! The *line* is the base (what staging stands on) with its ancestors. Production and the newest valid version are always on it; nothing
//! on it is a ghost or held. Numbers say nothing about ancestry: a rebased version is newer than the open one that comes to stand on it.

mod by_hand;
mod draft;
mod expiry;
mod keeping;
#[cfg(test)]
mod model;
mod rejection;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

pub use by_hand::Release;
use draft::Draft;
pub use rejection::{Carried, Fate};

use super::lifecycle::{self, Transition};
use crate::clock::Timestamp;
use crate::ids::VersionId;
use crate::store::event::EventKind;
use crate::store::record::{ChangeCounts, Pointers, Reason, VersionRecord, VersionState, Writer};

/// Why a decision is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// No such version.
    #[error("there is no version {0}")]
    Unknown(VersionId),
    /// The table has no such transition.
    #[error("{version} is {state}, it can't be {wanted}")]
    Refused {
        /// The version.
        version: VersionId,
        /// Its state.
        state: VersionState,
        /// What was asked for, as a participle.
        wanted: &'static str,
    },
    /// It contradicts where production or staging stand.
    #[error("{0}")]
    Contradicts(String),
}

/// What a decision changes. To be written in one transaction, then applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "a decision does nothing until it is written and applied"]
pub struct Decision {
    /// The records that change or are new.
    pub records: Vec<VersionRecord>,
    /// What the lineage gets, in order.
    pub events: Vec<(Option<VersionId>, EventKind)>,
    /// Where production goes, if it moves.
    pub production: Option<VersionId>,
    /// Where the newest valid version is, if it moves.
    pub valid: Option<VersionId>,
    /// What staging comes to stand on, if that moves.
    pub base: Option<VersionId>,
}

impl Decision {
    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Moves the pointers that this decision moves; the counters are left alone.
    pub fn move_pointers(&self, pointers: &mut Pointers) {
        pointers.production = self.production.unwrap_or(pointers.production);
        pointers.valid = self.valid.unwrap_or(pointers.valid);
        pointers.base = self.base.unwrap_or(pointers.base);
    }
}

/// Every version's record and the pointers.
#[derive(Clone, Debug)]
pub struct History {
    records: BTreeMap<VersionId, VersionRecord>,
    /// Who stands on whom, in the order of their numbers.
    children: BTreeMap<VersionId, Vec<VersionId>>,
    /// Those that are open or without a verdict: few of many, and asked for at each turn.
    unsettled: BTreeSet<VersionId>,
    production: VersionId,
    valid: VersionId,
    base: VersionId,
}

impl History {
    /// The history that a catalog holds.
    #[must_use]
    pub fn new(records: Vec<VersionRecord>, pointers: &Pointers) -> Self {
        let mut history = Self {
            records: BTreeMap::new(),
            children: BTreeMap::new(),
            unsettled: BTreeSet::new(),
            production: pointers.production,
            valid: pointers.valid,
            base: pointers.base,
        };
        records.into_iter().for_each(|record| history.put(record));
        history
    }

    fn put(&mut self, record: VersionRecord) {
        let (version, parent) = (record.version, record.parent);
        match record.state {
            VersionState::Open | VersionState::Checking => self.unsettled.insert(version),
            _ => self.unsettled.remove(&version),
        };
        let before = self.records.insert(version, record).and_then(|old| old.parent);
        if before == parent && parent.is_some_and(|parent| self.children_of(parent).contains(&version)) {
            return;
        }
        if let Some(siblings) = before.and_then(|before| self.children.get_mut(&before)) {
            siblings.retain(|child| *child != version);
        }
        if let Some(parent) = parent {
            let siblings = self.children.entry(parent).or_default();
            siblings.push(version);
            siblings.sort_unstable();
        }
    }

    /// Takes over what was written.
    pub fn apply(&mut self, decision: Decision) {
        self.production = decision.production.unwrap_or(self.production);
        self.valid = decision.valid.unwrap_or(self.valid);
        self.base = decision.base.unwrap_or(self.base);
        decision.records.into_iter().for_each(|record| self.put(record));
    }

    /// The version in production.
    #[must_use]
    pub const fn production(&self) -> VersionId {
        self.production
    }

    /// The newest valid version on the line.
    #[must_use]
    pub const fn valid(&self) -> VersionId {
        self.valid
    }

    /// The newest sealed version that can still become valid: what staging stands on.
    #[must_use]
    pub const fn base(&self) -> VersionId {
        self.base
    }

    /// A version's record.
    #[must_use]
    pub fn get(&self, version: VersionId) -> Option<&VersionRecord> {
        self.records.get(&version)
    }

    fn require(&self, version: VersionId) -> Result<&VersionRecord, HistoryError> {
        self.get(version).ok_or(HistoryError::Unknown(version))
    }

    /// All records, in the order of their numbers.
    pub fn records(&self) -> impl DoubleEndedIterator<Item = &VersionRecord> {
        self.records.values()
    }

    fn children_of(&self, version: VersionId) -> &[VersionId] {
        self.children.get(&version).map_or(&[], Vec::as_slice)
    }

    /// `version` and its ancestors, nearest first.
    pub fn ancestry(&self, version: VersionId) -> impl Iterator<Item = &VersionRecord> {
        std::iter::successors(self.get(version), |record| record.parent.and_then(|parent| self.get(parent)))
    }

    /// Whether `older` is `newer` or an ancestor of it.
    #[must_use]
    pub fn is_ancestor(&self, older: VersionId, newer: VersionId) -> bool {
        self.ancestry(newer).any(|record| record.version == older)
    }

    /// What stands on `version`, through any number of steps; parents come before their children.
    #[must_use]
    pub fn descendants(&self, version: VersionId) -> Vec<VersionId> {
        let mut found = self.children_of(version).to_vec();
        let mut at = 0;
        while let Some(next) = found.get(at).copied() {
            found.extend_from_slice(self.children_of(next));
            at += 1;
        }
        found
    }

    /// The open version, if it has a record yet.
    #[must_use]
    pub fn open(&self) -> Option<&VersionRecord> {
        self.unsettled().rev().find(|record| record.state == VersionState::Open)
    }

    /// What a version that stood on `version` stands on now: itself, or where a rejection has taken its place.
    #[must_use]
    pub fn landing(&self, version: VersionId) -> VersionId {
        let mut at = version;
        // Each step goes to an ancestor, or to the version that a rebase made of it; a damaged catalog can't make it endless.
        for _ in 0..=self.records.len() {
            let Some(record) = self.get(at) else { return at };
            at = match (record.state, &record.reason, record.parent) {
                (VersionState::Ghost, Some(Reason::Rebased { into }), _) => *into,
                (VersionState::Ghost, _, Some(parent)) => parent,
                _ => return at,
            };
        }
        at
    }

    /// Sealed versions without a verdict, oldest first.
    pub fn unjudged(&self) -> impl Iterator<Item = &VersionRecord> {
        self.unsettled().filter(|record| record.state == VersionState::Checking)
    }

    fn unsettled(&self) -> impl DoubleEndedIterator<Item = &VersionRecord> {
        self.unsettled.iter().filter_map(|version| self.get(*version))
    }

    /// What the checks of `version` compare it with: its nearest ancestor that is valid and still has its content.
    #[must_use]
    pub fn compared_with(&self, version: VersionId) -> Option<&VersionRecord> {
        self.ancestry(version).skip(1).find(|record| {
            record.root.is_some() && matches!(record.state, VersionState::Valid | VersionState::Promoted | VersionState::Superseded)
        })
    }

    /// Versions that promotion may take: valid, not held, above production on the line; oldest first.
    #[must_use]
    pub fn flagged(&self) -> Vec<VersionId> {
        let above = self.ancestry(self.base).take_while(|record| record.version != self.production);
        let mut flagged: Vec<_> =
            above.filter(|record| record.state == VersionState::Valid && !record.held).map(|record| record.version).collect();
        flagged.reverse();
        flagged
    }

    /// The first change of `version` came.
    pub fn opened(&self, version: VersionId, parent: VersionId, at: Timestamp, writer: Option<Writer>) -> Result<Decision, HistoryError> {
        self.require(parent)?;
        if self.records.contains_key(&version) {
            return Err(HistoryError::Contradicts(format!("{version} was opened before")));
        }
        let record = VersionRecord {
            version,
            state: VersionState::Open,
            parent: Some(parent),
            root: None,
            message: None,
            opened_at: at,
            sealed_at: None,
            decided_at: None,
            promoted_at: None,
            changes: ChangeCounts::default(),
            writers: writer.iter().cloned().collect(),
            reason: None,
            passed: false,
            held: false,
            pinned: false,
            rebased_from: None,
            restored_from: None,
        };
        let events = vec![(Some(version), EventKind::Opened { parent, writer })];
        Ok(Decision { records: vec![record], events, ..Decision::default() })
    }

    /// A version was sealed: its record is in the catalog already, with the base that it became. (If nothing had changed in it, it aborted.)
    pub fn sealed(&mut self, record: VersionRecord) {
        if record.state == VersionState::Checking {
            self.base = record.version;
        }
        self.put(record);
    }

    /// The open version ends without becoming one.
    pub fn aborted(&self, version: VersionId, reason: Reason, at: Timestamp) -> Result<Decision, HistoryError> {
        let mut draft = Draft::new(self, at);
        let record = draft.transition(version, Transition::Abort)?;
        record.decided_at = Some(at);
        record.reason = Some(reason.clone());
        draft.event(version, EventKind::Aborted { reason });
        draft.finish()
    }

    /// The open version stands on `onto` now, with its changes.
    pub fn reparented(&self, version: VersionId, onto: VersionId, at: Timestamp) -> Result<Decision, HistoryError> {
        self.require(onto)?;
        let mut draft = Draft::new(self, at);
        draft.record(version)?.parent = Some(onto);
        draft.event(version, EventKind::Rebased { from: version, onto });
        draft.finish()
    }

    /// All of a version's own checks have passed: it is valid if its ancestors are, and so are those that only waited for it.
    pub fn passed(&self, version: VersionId, at: Timestamp) -> Result<Decision, HistoryError> {
        let state = self.require(version)?.state;
        if state != VersionState::Checking {
            return Err(HistoryError::Refused { version, state, wanted: Transition::Validate.participle() });
        }
        let mut draft = Draft::new(self, at);
        draft.record(version)?.passed = true;
        let mut ready = vec![version];
        while let Some(version) = ready.pop() {
            let parent = draft.record(version)?.parent;
            let founded = match parent {
                Some(parent) => lifecycle::is_good(draft.state(parent)?) || draft.state(parent)? == VersionState::Expired,
                None => true,
            };
            if founded {
                draft.transition(version, Transition::Validate)?.decided_at = Some(at);
                draft.event(version, EventKind::Validated);
                ready.extend(self.children_of(version).iter().filter(|child| self.waits(**child)));
            }
        }
        draft.finish()
    }

    /// Whether only its ancestors keep `version` from being valid.
    fn waits(&self, version: VersionId) -> bool {
        self.get(version).is_some_and(|record| record.state == VersionState::Checking && record.passed)
    }

    /// `newest` goes to production, and with it what is flagged below it.
    pub fn promoted(&self, newest: VersionId, at: Timestamp) -> Result<Decision, HistoryError> {
        let mut batch = self.flagged();
        batch.retain(|version| self.is_ancestor(*version, newest));
        if !batch.contains(&newest) {
            let state = self.require(newest)?.state;
            return Err(HistoryError::Refused { version: newest, state, wanted: Transition::Promote.participle() });
        }
        let mut draft = Draft::new(self, at);
        draft.promote(newest, batch)?;
        draft.finish()
    }
}
