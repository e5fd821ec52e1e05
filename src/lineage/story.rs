//! What the events tell of each version: the ground of the graphs and pages.

use std::collections::BTreeMap;

use super::event::EventLine;
use crate::ids::{Digest, VersionId};
use crate::store::event::EventKind;
use crate::store::record::{ChangeCounts, Outcome, Reason, VersionState, Writer};

/// A version as its events tell of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Story<'a> {
    /// The version.
    pub version: VersionId,
    /// Where its last event leaves it; `None` if its events (of those that were given) say nothing of that.
    pub state: Option<VersionState>,
    /// What it stands on.
    pub parent: Option<VersionId>,
    /// The version whose changes it carries over.
    pub carries: Option<VersionId>,
    /// The version whose content it restores.
    pub restores: Option<VersionId>,
    /// The digest of its content.
    pub content: Option<Digest>,
    /// What it changed.
    pub changes: ChangeCounts,
    /// Who changed it.
    pub writers: &'a [Writer],
    /// Its message.
    pub message: Option<&'a str>,
    /// Why it went down.
    pub reason: Option<&'a Reason>,
    /// The attempts of its checks, in the order in which they ended.
    pub attempts: Vec<Attempt<'a>>,
    /// The names that it has.
    pub tags: Vec<&'a str>,
    /// Its events.
    pub events: Vec<&'a EventLine>,
}

/// An attempt of a check.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attempt<'a> {
    /// The check.
    pub check: &'a str,
    /// The attempt, from 1.
    pub number: u32,
    /// How it ended.
    pub outcome: &'a Outcome,
    /// How long it took.
    pub took_ms: u64,
}

/// The versions that the events are about, in the order of their numbers.
#[must_use]
pub fn stories(events: &[EventLine]) -> Vec<Story<'_>> {
    let mut stories: BTreeMap<VersionId, Story<'_>> = BTreeMap::new();
    for event in events {
        let Some(version) = event.version else { continue };
        let story = stories.entry(version).or_insert_with(|| Story::new(version));
        story.events.push(event);
        story.hear(&event.what);
    }
    stories.into_values().collect()
}

impl<'a> Story<'a> {
    const fn new(version: VersionId) -> Self {
        Self {
            version,
            state: None,
            parent: None,
            carries: None,
            restores: None,
            content: None,
            changes: ChangeCounts { added: 0, modified: 0, deleted: 0, bytes: 0 },
            writers: &[],
            message: None,
            reason: None,
            attempts: Vec::new(),
            tags: Vec::new(),
            events: Vec::new(),
        }
    }

    fn hear(&mut self, what: &'a EventKind) {
        match what {
            EventKind::Opened { parent, .. } => (self.state, self.parent) = (Some(VersionState::Open), Some(*parent)),
            EventKind::Sealed { digest, changes, writers, message } => {
                self.state = Some(VersionState::Checking);
                (self.content, self.changes, self.writers, self.message) = (Some(*digest), *changes, writers, message.as_deref());
            }
            EventKind::Checked { check, attempt, outcome, took_ms } => {
                self.attempts.push(Attempt { check, number: *attempt, outcome, took_ms: *took_ms });
            }
            // The first version is in production from the start, without a word of its own on that.
            EventKind::Validated if self.version == VersionId::FIRST => self.state = Some(VersionState::Promoted),
            EventKind::Validated => self.state = Some(VersionState::Valid),
            EventKind::Rejected { reason } => (self.state, self.reason) = (Some(VersionState::Ghost), Some(reason)),
            EventKind::Aborted { reason } => (self.state, self.reason) = (Some(VersionState::Aborted), Some(reason)),
            EventKind::Promoted { .. } | EventKind::ProductionRolledBack { .. } => self.state = Some(VersionState::Promoted),
            EventKind::Superseded { .. } => self.state = Some(VersionState::Superseded),
            EventKind::Expired => self.state = Some(VersionState::Expired),
            // An open version that stands on something else now is no other version.
            EventKind::Rebased { from, onto } => {
                self.parent = Some(*onto);
                self.carries = (*from != self.version).then_some(*from).or(self.carries);
            }
            EventKind::Restored { from } => self.restores = Some(*from),
            EventKind::Tagged { name } => self.tags.push(name),
            EventKind::Untagged { name } => self.tags.retain(|tag| tag != name),
            EventKind::Initialized { .. }
            | EventKind::RolledBack { .. }
            | EventKind::HeldBack { .. }
            | EventKind::Held
            | EventKind::Released
            | EventKind::Pinned
            | EventKind::Unpinned
            | EventKind::ConfigLoaded
            | EventKind::ConfigRefused { .. }
            | EventKind::Mounted { .. }
            | EventKind::Unmounted
            | EventKind::DiskLow { .. } => {}
        }
    }

    /// The last attempt of each check, by name.
    #[must_use]
    pub fn verdicts(&self) -> BTreeMap<&'a str, Attempt<'a>> {
        self.attempts.iter().map(|attempt| (attempt.check, *attempt)).collect()
    }

    /// The state in the contract's word.
    #[must_use]
    pub fn state_word(&self) -> &'static str {
        self.state.map_or("unknown", VersionState::as_str)
    }
}
