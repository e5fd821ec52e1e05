//! What an operator decides: production back to an older version, and forward again.

use super::draft::Draft;
use super::{Decision, History, HistoryError};
use crate::clock::Timestamp;
use crate::ids::VersionId;
use crate::store::event::EventKind;
use crate::store::record::VersionState;
use crate::version::lifecycle;

/// How a version goes to production by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// It is there.
    AlreadyThere,
    /// It is on the line: as the scheduler would.
    OnTheLine,
    /// It was taken back: staging goes forward to it as well.
    TakenBack,
}

impl History {
    /// The version that was in production before the one that is there now.
    #[must_use]
    pub fn before_production(&self) -> Option<VersionId> {
        let older = self.ancestry(self.production).skip(1);
        older.into_iter().find(|record| record.promoted_at.is_some() && lifecycle::is_good(record.state)).map(|record| record.version)
    }

    /// Production (if it is above `target`) and staging go back to `target`; what stands on it is held.
    pub fn rolled_back(&self, target: VersionId, at: Timestamp) -> Result<Decision, HistoryError> {
        let state = self.require(target)?.state;
        if !lifecycle::is_good(state) {
            return Err(HistoryError::Refused { version: target, state, wanted: "rolled back to" });
        }
        if !self.is_ancestor(target, self.production) {
            let production = self.production;
            return Err(HistoryError::Contradicts(format!(
                "{target} is not below production ({production}); `shadowfs promote {target}` puts a newer version there"
            )));
        }
        let mut draft = Draft::new(self, at);
        if target != self.production {
            draft.reinstate(target)?;
        }
        for version in self.descendants(target) {
            let free = self.get(version).is_some_and(|record| !record.held && lifecycle::is_browsable(record.state));
            if free {
                draft.record(version)?.held = true;
                draft.event(version, EventKind::Held);
            }
        }
        if self.base != target {
            draft.set_base(target);
            draft.event(target, EventKind::RolledBack { from: self.base, to: target });
        }
        draft.finish()
    }

    /// Whether and how `version` can go to production by hand.
    pub fn release(&self, version: VersionId) -> Result<Release, HistoryError> {
        let record = self.require(version)?;
        if version == self.production {
            return Ok(Release::AlreadyThere);
        }
        if self.is_ancestor(version, self.production) {
            let production = self.production;
            return Err(HistoryError::Contradicts(format!(
                "{version} is older than production ({production}); `shadowfs rollback {version}` puts it back there"
            )));
        }
        if !lifecycle::is_good(record.state) {
            return Err(HistoryError::Refused { version, state: record.state, wanted: "promoted" });
        }
        if self.is_ancestor(version, self.base) {
            return Ok(Release::OnTheLine);
        }
        if self.is_ancestor(self.base, version) {
            return Ok(Release::TakenBack);
        }
        let base = self.base;
        let fork = self.ancestry(version).find(|record| self.is_ancestor(record.version, base)).map_or(base, |record| record.version);
        Err(HistoryError::Contradicts(format!(
            "{base} was made without {version}; `shadowfs rollback {fork}` first, then promote {version}"
        )))
    }

    /// `version`, which was taken back, goes to production, and staging stands on it.
    pub fn released(&self, version: VersionId, at: Timestamp) -> Result<Decision, HistoryError> {
        let mut draft = Draft::new(self, at);
        let mut path: Vec<_> =
            self.ancestry(version).take_while(|record| record.version != self.production).map(|record| record.version).collect();
        path.reverse();
        for step in &path {
            let record = draft.record(*step)?;
            if std::mem::take(&mut record.held) {
                draft.event(*step, EventKind::Released);
            }
        }
        let mut batch = path;
        batch.retain(|step| *step == version || self.get(*step).is_some_and(|record| record.state == VersionState::Valid));
        draft.promote(version, batch)?;
        draft.set_base(version);
        draft.finish()
    }
}
