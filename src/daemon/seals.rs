//! The open version: opened, held, discarded, settled, sealed.

use std::time::{Duration, Instant};

use crossbeam::channel::Sender;

use super::dispatcher::{Dispatcher, StepError};
use super::errands::Errand;
use super::hold::Hold;
use super::requests::{failed, refused};
use super::todo::Todo;
use crate::clock::Timestamp;
use crate::control::protocol::{ErrorKind, Reply, VersionDoc};
use crate::ids::VersionId;
use crate::store::record::{Reason, VersionRecord, VersionState, Writer};
use crate::version::FsError;
use crate::version::seal::Frozen;

/// How long a `commit` waits for files whose close is still on its way from the kernel; what is open after that is copied.
const RELEASES: Duration = Duration::from_millis(500);
/// The wait before a freeze that could not be is tried again.
const AGAIN: Duration = Duration::from_millis(20);
/// Versions without a verdict at which settled changes go on gathering in the open one: the queue of checks is bounded.
const MOST_UNJUDGED: usize = 64;

/// A `commit` that waits for its turn.
#[derive(Debug)]
pub(super) struct Commit {
    message: Option<String>,
    reply: Sender<Reply>,
    deadline: Instant,
}

/// The version that the errand thread seals.
#[derive(Debug)]
pub(super) struct Sealing {
    pub(super) version: VersionId,
    /// Who asked for it.
    replies: Vec<Sender<Reply>>,
    /// It goes down as it is sealed: its ground is gone and its changes overlap.
    conflict: bool,
}

impl Dispatcher {
    pub(super) fn opened(&mut self, version: VersionId, at: Timestamp, writer: Option<Writer>) -> Result<(), StepError> {
        let known = self.history.get(version).is_some() || self.sealing.as_ref().is_some_and(|sealing| sealing.version == version);
        if known {
            return Ok(());
        }
        // Not the parent of the event: staging may have been moved since.
        let mut decision = self.history.opened(version, self.staging_base, at, writer)?;
        if let (Some(hold), Some(record)) = (&self.hold, decision.records.first_mut()) {
            record.message.clone_from(&hold.message);
        }
        Ok(self.write(decision)?)
    }

    /// Seals what has settled, or what a `commit` asks for. Files that were mapped when they were closed are looked at before.
    pub(super) fn settle(&mut self) {
        self.settle_at = None;
        if self.sealing.is_some() || !self.todo.is_empty() || self.stopping.is_some() {
            return;
        }
        // Who commits waits for what can be had at once.
        let look_at = self.staging.let_go_of_unmapped(!self.commits.is_empty());
        self.settle_open();
        self.settle_at = [self.settle_at, look_at].into_iter().flatten().min();
    }

    fn settle_open(&mut self) {
        let activity = self.staging.activity();
        // Nothing is sealed before it is told that it is open: the message is on its way, and brings us here again.
        if activity.version.is_some_and(|version| self.history.get(version).is_none()) {
            return;
        }
        let now = self.clock.instant();
        if let Some(commit) = self.commits.front() {
            if !activity.dirty {
                self.nothing_to_commit();
            } else if activity.writers == 0 || now >= commit.deadline {
                self.freeze(true);
            } else {
                self.settle_at = Some(commit.deadline.min(now + AGAIN));
            }
            return;
        }
        if !activity.dirty || self.hold.is_some() || activity.writers > 0 || self.history.unjudged().count() >= MOST_UNJUDGED {
            return;
        }
        let rules = &self.config.staging;
        let aged = activity.opened.is_some_and(|at| now.saturating_duration_since(at) >= rules.max_open);
        let due = activity.last_change + rules.settle;
        if aged || now >= due {
            self.freeze(false);
        } else {
            self.settle_at = Some(due);
        }
    }

    fn freeze(&mut self, force: bool) {
        match self.staging.freeze(force) {
            Ok(Some(frozen)) => {
                let commit = self.commits.pop_front();
                let held = self.hold.take();
                if let Some(held) = &held {
                    self.hold_until_sealed(held, frozen.version());
                }
                let (message, replies) = match commit {
                    Some(commit) => (commit.message, vec![commit.reply]),
                    None => (None, Vec::new()),
                };
                let message = message.or(held.and_then(|hold| hold.message));
                self.warnings.remove("freeze");
                self.seal(frozen, message, replies, false);
            }
            Ok(None) => self.nothing_to_commit(),
            Err(FsError::Busy) => self.settle_at = Some(self.clock.instant() + AGAIN),
            Err(error) => {
                let line = format!("the open version can't be sealed: {error}");
                if let Some(commit) = self.commits.pop_front() {
                    let _ = commit.reply.send(failed(&line));
                }
                self.warn("freeze".to_owned(), line);
                self.settle_at = Some(self.clock.instant() + Duration::from_secs(1));
            }
        }
    }

    fn seal(&mut self, frozen: Frozen, message: Option<String>, replies: Vec<Sender<Reply>>, conflict: bool) {
        self.drain_staging();
        self.staging_base = if frozen.is_unchanged() { frozen.parent() } else { frozen.version() };
        self.sealing = Some(Sealing { version: frozen.version(), replies, conflict });
        self.errands.send(Errand::Seal { frozen: Box::new(frozen), message });
    }

    /// The open version could not follow staging's way back: it is sealed as what it is, and becomes a ghost.
    pub(super) fn seal_conflict(&mut self, mut frozen: Frozen, with: VersionId, paths: &[Vec<u8>]) {
        let paths = paths.iter().take(100).map(|path| String::from_utf8_lossy(path).into_owned()).collect();
        let base = self.staging_base;
        // A job that is under way goes on: what it still writes is not to be sealed as if it were all of it.
        let message = self.hold.as_mut().and_then(|hold| {
            hold.lost = Some(frozen.version());
            hold.message.clone()
        });
        if let Some(Err(error)) = self.hold.as_ref().map(|hold| hold.save(&self.store)) {
            self.warn("hold".to_owned(), format!("what became of the version that was begun can't be written: {error}"));
        }
        frozen.reject(Reason::Conflict { with, paths });
        self.seal(frozen, message, Vec::new(), true);
        // Staging itself stands on the new base already.
        self.staging_base = base;
    }

    /// A version is sealed: the catalog has it.
    pub(super) fn sealed(&mut self, record: VersionRecord) {
        let version = record.version;
        self.warnings.remove(&format!("seal {version}"));
        // What its journal could not take is in the catalog; what still fails says so again.
        self.warnings.remove("staging");
        let sealing = self.sealing.take_if(|sealing| sealing.version == version);
        let (replies, conflict) = sealing.map_or_else(Default::default, |sealing| (sealing.replies, sealing.conflict));
        self.drain_staging();
        if self.hold.is_none() && !conflict {
            self.release_hold();
        }
        let doc = VersionDoc::from(&record);
        let state = record.state;
        self.history.sealed(record);
        self.hooks.stir();
        self.waiters.stir();
        self.shared.publish(&self.history, [version]);
        self.stir_retention();
        tracing::info!("{version} sealed");
        match state {
            VersionState::Aborted => {}
            VersionState::Ghost => self.went_down(&doc),
            _ => self.begin_checks(version),
        }
        for reply in replies {
            let _ = reply.send(match (state, &doc.reason) {
                (VersionState::Aborted, _) => Reply::Nothing,
                (VersionState::Ghost, Some(reason)) => {
                    refused(ErrorKind::Rejected, format!("{version} was rejected: {}", crate::lineage::text::why(reason)))
                }
                _ => Reply::Version(Box::new(doc.clone())),
            });
        }
    }

    /// A version was sealed as a ghost: it overlapped with what was rejected, and staging has left it behind; or the disk took files of
    /// it, and staging goes back to what is below it.
    fn went_down(&mut self, doc: &VersionDoc) {
        let version = doc.version;
        let why = doc.reason.as_ref().map(crate::lineage::text::why).unwrap_or_default();
        tracing::info!("{version} rejected: {why}");
        if !matches!(doc.reason, Some(Reason::Unreadable { .. })) {
            return;
        }
        self.warn(format!("lost {version}"), format!("{version} was rejected: {why}; what can be read of it is in ghosts/{version}"));
        if self.history.base() != self.staging_base {
            self.todo.push_front(Todo::Restage { with: version });
        }
    }

    pub(super) fn commit(&mut self, message: Option<String>, reply: Sender<Reply>) {
        if let Some(lost) = self.hold.as_mut().and_then(|hold| hold.lost.take()) {
            let line = format!(
                "{lost}, the first part of what was begun, overlaps with a rejected version and became a ghost; \
                 `shadowfs abort` discards what came after it, another `shadowfs commit` seals that alone"
            );
            return drop(reply.send(refused(ErrorKind::Conflict, line)));
        }
        // What is to be committed may have settled a moment ago: then that version is the answer. (Not to who began: that ends the hold.)
        if let (Some(sealing), false, None) = (&mut self.sealing, self.staging.activity().dirty, &self.hold) {
            return sealing.replies.push(reply);
        }
        let deadline = self.clock.instant() + RELEASES;
        self.commits.push_back(Commit { message, reply, deadline });
    }

    fn nothing_to_commit(&mut self) {
        if self.commits.is_empty() {
            return;
        }
        if self.hold.take().is_some() {
            self.release_hold();
        }
        for commit in self.commits.drain(..) {
            let _ = commit.reply.send(Reply::Nothing);
        }
    }

    pub(super) fn begin(&mut self, message: Option<String>) -> Reply {
        if self.hold.is_some() {
            return refused(ErrorKind::Conflict, "a version is held open already; commit or abort it first");
        }
        if !self.commits.is_empty() {
            // It would end this hold along with what it commits.
            return refused(ErrorKind::Temporary, "a commit is under way; try again");
        }
        let hold = Hold { message, ..Hold::default() };
        if let Err(error) = hold.save(&self.store) {
            return failed(format!("the hold can't be written: {error}"));
        }
        self.hold = Some(hold);
        match self.history.open() {
            Some(record) => Reply::Version(Box::new(VersionDoc::from(record))),
            None => Reply::Nothing,
        }
    }

    /// A crash before the version is sealed may leave less than all of it: then it is still held.
    fn hold_until_sealed(&mut self, held: &Hold, version: VersionId) {
        let until = Hold { committing: Some(version), ..held.clone() };
        if let Err(error) = until.save(&self.store) {
            // On disk it is held as before, and after a crash it is to be committed once more.
            tracing::warn!("the hold of `begin` can't be written: {error}");
        }
    }

    /// The hold that the daemon before left, unless the version that was being committed is sealed.
    pub(super) fn take_up_hold(&mut self) {
        let Some(hold) = Hold::load(&self.store) else { return };
        let sealed = |version| self.history.get(version).is_some_and(|record| record.state != VersionState::Open);
        if hold.committing.is_some_and(sealed) {
            return self.release_hold();
        }
        self.hold = Some(Hold { committing: None, ..hold });
    }

    fn release_hold(&mut self) {
        if let Err(error) = Hold::release(&self.store) {
            self.warn("hold".to_owned(), format!("the hold of `begin` can't be removed: {error}; remove the file \"hold\" of the store"));
        }
    }

    pub(super) fn abort(&mut self) -> Reply {
        if self.hold.take().is_some() {
            self.release_hold();
        }
        let (version, invalid) = match self.staging.discard() {
            Ok(discarded) => discarded,
            Err(error) => return failed(format!("the open version can't be discarded: {error}")),
        };
        self.drain_staging();
        self.kernel.invalidate_staging(&invalid);
        let Some(version) = version else { return Reply::Nothing };
        self.todo.push_back(Todo::Discarded(version));
        self.work();
        match self.history.get(version) {
            Some(record) if record.state == VersionState::Aborted => Reply::Version(Box::new(VersionDoc::from(record))),
            _ => failed(format!("{version} is discarded, but its end could not be recorded yet; see `shadowfs status`")),
        }
    }
}
