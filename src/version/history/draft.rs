//! A decision in the making: records are copied when they are first touched, every state goes through the transition table.

use std::collections::BTreeMap;

use super::{Decision, History, HistoryError};
use crate::clock::Timestamp;
use crate::ids::VersionId;
use crate::store::event::EventKind;
use crate::store::record::{VersionRecord, VersionState};
use crate::version::lifecycle::{self, Transition};

pub(super) struct Draft<'a> {
    history: &'a History,
    at: Timestamp,
    changed: BTreeMap<VersionId, VersionRecord>,
    events: Vec<(Option<VersionId>, EventKind)>,
    production: VersionId,
    base: VersionId,
}

impl<'a> Draft<'a> {
    pub(super) fn new(history: &'a History, at: Timestamp) -> Self {
        let (production, base) = (history.production, history.base);
        Self { history, at, changed: BTreeMap::new(), events: Vec::new(), production, base }
    }

    fn get(&self, version: VersionId) -> Option<&VersionRecord> {
        self.changed.get(&version).or_else(|| self.history.get(version))
    }

    pub(super) fn state(&self, version: VersionId) -> Result<VersionState, HistoryError> {
        self.get(version).map(|record| record.state).ok_or(HistoryError::Unknown(version))
    }

    /// The record of `version`, to be changed.
    pub(super) fn record(&mut self, version: VersionId) -> Result<&mut VersionRecord, HistoryError> {
        match self.changed.entry(version) {
            std::collections::btree_map::Entry::Occupied(entry) => Ok(entry.into_mut()),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let record = self.history.get(version).ok_or(HistoryError::Unknown(version))?;
                Ok(entry.insert(record.clone()))
            }
        }
    }

    /// A record that is new.
    pub(super) fn insert(&mut self, record: VersionRecord) {
        self.changed.insert(record.version, record);
    }

    pub(super) fn transition(&mut self, version: VersionId, transition: Transition) -> Result<&mut VersionRecord, HistoryError> {
        let state = self.state(version)?;
        let refused = HistoryError::Refused { version, state, wanted: transition.participle() };
        let next = lifecycle::next(state, transition).ok_or(refused)?;
        let record = self.record(version)?;
        record.state = next;
        Ok(record)
    }

    pub(super) fn event(&mut self, version: VersionId, what: EventKind) {
        self.events.push((Some(version), what));
    }

    pub(super) fn set_base(&mut self, base: VersionId) {
        self.base = base;
    }

    pub(super) fn base(&self) -> VersionId {
        self.base
    }

    /// `newest` takes production's place; the others of `batch` are passed over.
    pub(super) fn promote(&mut self, newest: VersionId, batch: Vec<VersionId>) -> Result<(), HistoryError> {
        let replaced = self.production;
        let at = self.at;
        let record = self.transition(newest, Transition::Promote)?;
        record.promoted_at = Some(at);
        let digest = record.root.map(|root| root.digest).unwrap_or_default();
        let passed_over: Vec<_> = batch.iter().copied().filter(|version| *version != newest).collect();
        self.event(newest, EventKind::Promoted { replaces: replaced, batch, digest });
        for version in passed_over.into_iter().chain([replaced]) {
            self.transition(version, Transition::Supersede)?;
            self.event(version, EventKind::Superseded { by: newest });
        }
        self.production = newest;
        Ok(())
    }

    /// `target` takes production's place again.
    pub(super) fn reinstate(&mut self, target: VersionId) -> Result<(), HistoryError> {
        let replaced = self.production;
        let at = self.at;
        self.transition(target, Transition::Promote)?.promoted_at = Some(at);
        self.event(target, EventKind::ProductionRolledBack { from: replaced, to: target });
        self.transition(replaced, Transition::Supersede)?;
        self.event(replaced, EventKind::Superseded { by: target });
        self.production = target;
        Ok(())
    }

    /// The newest valid version below the base, after all that was drafted.
    fn valid(&self) -> VersionId {
        let mut at = self.base;
        while let Some(record) = self.get(at) {
            if lifecycle::is_good(record.state) && !record.held {
                return at;
            }
            let Some(parent) = record.parent else { break };
            at = parent;
        }
        self.production
    }

    pub(super) fn finish(self) -> Result<Decision, HistoryError> {
        let moved = |new: VersionId, old: VersionId| (new != old).then_some(new);
        let valid = self.valid();
        Ok(Decision {
            production: moved(self.production, self.history.production),
            valid: moved(valid, self.history.valid),
            base: moved(self.base, self.history.base),
            records: self.changed.into_values().collect(),
            events: self.events,
        })
    }
}
