//! A version's retention ends: its record and its logs stay, its content goes.

use std::collections::BTreeMap;

use super::draft::Draft;
use super::{Decision, History, HistoryError};
use crate::clock::Timestamp;
use crate::ids::VersionId;
use crate::store::event::EventKind;
use crate::store::record::{VersionRecord, VersionState};
use crate::version::lifecycle::{self, Transition};

impl History {
    /// `version` loses its content. Refused where another's life depends on it, however it came to be asked for.
    pub fn expired(&self, version: VersionId, at: Timestamp) -> Result<Decision, HistoryError> {
        self.all_expired(&[version], at)
    }

    /// The same for several: all of them, or none.
    pub fn all_expired(&self, versions: &[VersionId], at: Timestamp) -> Result<Decision, HistoryError> {
        let needed = self.all_needed();
        let mut draft = Draft::new(self, at);
        for version in versions {
            self.require(*version)?;
            if let Some(why) = needed.get(version) {
                return Err(HistoryError::Contradicts(format!("{version} can't go: {why}")));
            }
            draft.transition(*version, Transition::Expire)?.root = None;
            draft.event(*version, EventKind::Expired);
        }
        draft.finish()
    }

    /// Why a version's content can't go, whatever its age: production or staging would lose their ground, or a verdict its base.
    #[must_use]
    pub fn needed(&self, version: VersionId) -> Option<String> {
        self.all_needed().remove(&version)
    }

    /// The same of all versions that are needed.
    #[must_use]
    pub fn all_needed(&self) -> BTreeMap<VersionId, String> {
        let mut needed = BTreeMap::new();
        for record in self.records.values().filter(|record| matches!(record.state, VersionState::Open | VersionState::Checking)) {
            let landing = record.parent.map(|parent| self.landing(parent));
            for below in self.ground(record.version).map(|below| below.version).chain(landing) {
                needed.entry(below).or_insert_with(|| format!("{}, which is {}, stands on it", record.version, record.state));
            }
        }
        needed.insert(self.base, "staging stands on it".to_owned());
        needed.insert(self.valid, "it is what a rejection goes back to".to_owned());
        needed.insert(self.production, "it is in production".to_owned());
        needed
    }

    /// What the fate of a version without a verdict depends on: the versions below it, down to the nearest good one, where it
    /// lands when the others are rejected.
    fn ground(&self, version: VersionId) -> impl Iterator<Item = &VersionRecord> {
        let mut met = false;
        self.ancestry(version).skip(1).take_while(move |record| !std::mem::replace(&mut met, lifecycle::is_good(record.state)))
    }
}
