//! What is to be done, in order. A step that the disk refuses stays at the front and is tried again.

use crossbeam::channel::Sender;

use super::dispatcher::{Dispatcher, Key, StepError};
use crate::check::Attempted;
use crate::clock::Timestamp;
use crate::control::protocol::Reply;
use crate::ids::VersionId;
use crate::store::record::{Reason, Writer};

/// A step.
#[derive(Clone, Debug)]
pub(super) enum Todo {
    /// The first change of a version came.
    Opened { version: VersionId, at: Timestamp, writer: Option<Writer> },
    /// An attempt ended.
    Ended(Key, Attempted),
    /// A version's own checks have passed.
    Pass(VersionId),
    /// A version is rejected.
    Reject(VersionId, Reason),
    /// Staging is to follow the history's base; `with` is the version that went down.
    Restage { with: VersionId },
    /// The open version was discarded.
    Discarded(VersionId),
    /// Production goes back.
    RollBack(Option<VersionId>, Sender<Reply>),
    /// Production goes forward by hand.
    Promote(Option<VersionId>, Sender<Reply>),
    /// A version's content is put back into staging.
    Restore(VersionId, Sender<Reply>),
    /// The pre-promotion checks of this promotion have passed.
    Switch(u64),
}

impl Todo {
    /// Whether it changes what staging stands on: then no version may be on its way to be sealed on top of the old.
    const fn moves_staging(&self) -> bool {
        matches!(
            self,
            Self::Reject(..) | Self::Restage { .. } | Self::RollBack(..) | Self::Promote(..) | Self::Restore(..) | Self::Switch(_)
        )
    }

    fn subject(&self) -> String {
        match self {
            Self::Opened { version, .. } => format!("{version}: its record"),
            Self::Ended(Key::Check { version, check, attempt }, _) => format!("{version}: attempt {attempt} of {check}"),
            Self::Ended(Key::Pre { .. }, _) => "a pre-promotion check".to_owned(),
            Self::Pass(version) | Self::Reject(version, _) => format!("{version}: its verdict"),
            Self::Restage { with } => format!("staging's way back from {with}"),
            Self::Discarded(version) => format!("{version}: its end"),
            Self::RollBack(..) => "rollback".to_owned(),
            Self::Restore(..) => "restore".to_owned(),
            Self::Promote(..) | Self::Switch(_) => "promotion".to_owned(),
        }
    }
}

impl Dispatcher {
    /// Whether there is a step that can be taken now.
    pub(super) fn has_work(&self) -> bool {
        let waits = |step: &Todo| step.moves_staging() && self.sealing.is_some();
        self.retry_at.is_none_or(|at| at <= self.clock.instant()) && self.todo.front().is_some_and(|step| !waits(step))
    }

    /// Takes the steps that can be taken now.
    pub(super) fn work(&mut self) {
        while self.has_work() {
            self.retry_at = None;
            let Some(step) = self.todo.pop_front() else { return };
            match self.step(step.clone()) {
                Ok(()) => drop(self.warnings.remove(&step.subject())),
                Err(StepError::History(error)) => tracing::warn!("{} is moot: {error}", step.subject()),
                Err(error) => {
                    let subject = step.subject();
                    let line = format!("{subject} can't be recorded, it is tried again: {error}");
                    self.warn(subject, line);
                    self.todo.push_front(step);
                    self.retry_later();
                }
            }
        }
    }

    fn step(&mut self, step: Todo) -> Result<(), StepError> {
        match step {
            Todo::Opened { version, at, writer } => self.opened(version, at, writer),
            Todo::Ended(key, attempted) => self.ended(&key, &attempted),
            Todo::Pass(version) => {
                let decision = self.history.passed(version, self.clock.now())?;
                Ok(self.write(decision)?)
            }
            Todo::Reject(version, reason) => self.reject(version, reason),
            Todo::Restage { with } => self.restage(with),
            Todo::Discarded(version) => {
                let decision = self.history.aborted(version, Reason::Discarded, self.clock.now())?;
                Ok(self.write(decision)?)
            }
            Todo::RollBack(target, reply) => self.roll_back(target, &reply),
            Todo::Promote(version, reply) => self.promote_by_hand(version, reply),
            Todo::Restore(from, reply) => {
                self.restore(from, &reply);
                Ok(())
            }
            Todo::Switch(promotion) => self.switch(promotion),
        }
    }
}
