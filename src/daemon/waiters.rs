//! Those who wait for a verdict or for production.

use std::sync::Weak;

use crossbeam::channel::Sender;

use crate::control::protocol::{Reply, VersionDoc};
use crate::ids::VersionId;
use crate::store::record::{Reason, VersionState};
use crate::version::History;

#[derive(Debug)]
struct Waiter {
    version: VersionId,
    promoted: bool,
    reply: Sender<Reply>,
    /// Gone with who waits.
    here: Weak<()>,
}

/// Who waits, and whether something has changed since they were looked at.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    list: Vec<Waiter>,
    stirred: bool,
}

impl Waiters {
    pub(super) fn add(&mut self, version: VersionId, promoted: bool, reply: Sender<Reply>, here: Weak<()>) {
        // Those who went before their answer came: no more are kept than can be connected at once.
        self.list.retain(|waiter| waiter.here.strong_count() > 0);
        self.list.push(Waiter { version, promoted, reply, here });
        self.stirred = true;
    }

    #[cfg(test)]
    pub(super) const fn count(&self) -> usize {
        self.list.len()
    }

    pub(super) fn stir(&mut self) {
        self.stirred = true;
    }

    pub(super) const fn is_stirred(&self) -> bool {
        self.stirred
    }

    /// Answers those whose wait is over.
    pub(super) fn answer(&mut self, history: &History) {
        self.stirred = false;
        self.list.retain(|waiter| match over(history, waiter.version, waiter.promoted) {
            Some(doc) => {
                let _ = waiter.reply.send(Reply::Version(Box::new(doc)));
                false
            }
            None => true,
        });
    }
}

/// The document of the version that a wait for `version` ends with, once it is over. A version that was carried over is followed.
fn over(history: &History, version: VersionId, promoted: bool) -> Option<VersionDoc> {
    let mut record = history.get(version)?;
    while let Some(Reason::Rebased { into }) = record.reason {
        record = history.get(into)?;
    }
    let done = match record.state {
        VersionState::Open | VersionState::Checking => false,
        VersionState::Valid => !promoted || record.held,
        VersionState::Promoted | VersionState::Superseded | VersionState::Ghost | VersionState::Expired | VersionState::Aborted => true,
    };
    done.then(|| VersionDoc::from(record))
}
