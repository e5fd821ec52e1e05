//! What an operator keeps, lets go or brings back: pins, tags, `drop`, `restore`.

use super::draft::Draft;
use super::{Decision, History, HistoryError};
use crate::clock::Timestamp;
use crate::ids::VersionId;
use crate::store::event::EventKind;
use crate::store::record::{VersionRecord, VersionState};
use crate::version::lifecycle;
use crate::version::tag::TagName;

const DROPPED: &str = "dropped";

impl History {
    /// `version` is kept whatever its age, or (`on` false) its age counts again. Empty if that is so already.
    pub fn pinned(&self, version: VersionId, on: bool, at: Timestamp) -> Result<Decision, HistoryError> {
        let record = self.with_content(version, "pinned")?;
        if record.pinned == on {
            return Ok(Decision::default());
        }
        let mut draft = Draft::new(self, at);
        draft.record(version)?.pinned = on;
        draft.event(version, if on { EventKind::Pinned } else { EventKind::Unpinned });
        draft.finish()
    }

    /// `version` gets a name. Only what has passed can have one: the name leads into `versions/`, where a ghost is not.
    pub fn tagged(&self, version: VersionId, name: &TagName, at: Timestamp) -> Result<Decision, HistoryError> {
        let record = self.with_content(version, "tagged")?;
        match record.state {
            VersionState::Ghost => {
                let line = format!("{version} is a ghost, it can't be tagged; `shadowfs pin {version}` keeps it");
                return Err(HistoryError::Contradicts(line));
            }
            VersionState::Checking => {
                let line = format!("{version} has no verdict yet, it can't be tagged; `shadowfs wait {version}` first");
                return Err(HistoryError::Contradicts(line));
            }
            _ => {}
        }
        let mut draft = Draft::new(self, at);
        draft.event(version, EventKind::Tagged { name: name.as_str().to_owned() });
        draft.finish()
    }

    /// A name is taken from `version`.
    pub fn untagged(&self, version: VersionId, name: &str, at: Timestamp) -> Result<Decision, HistoryError> {
        let mut draft = Draft::new(self, at);
        draft.event(version, EventKind::Untagged { name: name.to_owned() });
        draft.finish()
    }

    /// The retention of `version` ends by hand; `tag` is a name that it has. Refused while anything needs or keeps it.
    pub fn dropped(&self, version: VersionId, tag: Option<&str>, at: Timestamp) -> Result<Decision, HistoryError> {
        let record = self.with_content(version, DROPPED)?;
        let refused = |why: String| Err(HistoryError::Contradicts(format!("{version} can't be dropped: {why}")));
        if record.state == VersionState::Checking {
            return refused(format!("it has no verdict yet; `shadowfs wait {version}` first"));
        }
        if let Some(why) = self.needed(version) {
            return refused(why);
        }
        if record.pinned {
            return refused(format!("it is pinned; `shadowfs pin --remove {version}` first"));
        }
        if let Some(tag) = tag {
            return refused(format!("it has the tag {tag}; `shadowfs tag --remove {tag}` first"));
        }
        if self.flagged().contains(&version) {
            return refused("it waits for its promotion".to_owned());
        }
        self.expired(version, at)
    }

    /// Whether the content of `from` can be put back into staging.
    pub fn restorable(&self, from: VersionId) -> Result<&VersionRecord, HistoryError> {
        self.with_content(from, "restored")
    }

    /// `new`, open on top of `parent`, has the content of `from`.
    pub fn restored(&self, new: VersionId, parent: VersionId, from: VersionId, at: Timestamp) -> Result<Decision, HistoryError> {
        let mut decision = self.opened(new, parent, at, None)?;
        for record in &mut decision.records {
            record.restored_from = Some(from);
        }
        decision.events.push((Some(new), EventKind::Restored { from }));
        Ok(decision)
    }

    /// The record of a sealed version whose content is there.
    fn with_content(&self, version: VersionId, wanted: &'static str) -> Result<&VersionRecord, HistoryError> {
        let record = self.require(version)?;
        match record.state {
            VersionState::Open => {
                let remedy = if wanted == DROPPED { "`shadowfs abort` discards it" } else { "`shadowfs commit` first" };
                Err(HistoryError::Contradicts(format!("{version} is open, it can't be {wanted}; {remedy}")))
            }
            VersionState::Expired | VersionState::Aborted => {
                Err(HistoryError::Contradicts(format!("{version} is {}, it can't be {wanted}: its content is gone", record.state)))
            }
            state => {
                debug_assert!(lifecycle::is_browsable(state) || state == VersionState::Ghost);
                Ok(record)
            }
        }
    }
}
