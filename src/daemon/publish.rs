//! Promotion: the pre-promotion checks, the switch, and the ways by hand.

use std::sync::Arc;

use crossbeam::channel::Sender;

use super::dispatcher::{Dispatcher, Key, StepError};
use super::requests::{failed, refused};
use super::todo::Todo;
use crate::check::{CommandJob, Work};
use crate::config::Config;
use crate::control::protocol::{ErrorKind, Reply, VersionDoc};
use crate::ids::VersionId;
use crate::promote::{Action, enough_free};
use crate::store::StoreError;
use crate::store::event::EventKind;
use crate::store::record::Outcome;
use crate::version::history::{HistoryError, Release};

/// A promotion under way.
#[derive(Debug)]
pub(super) struct Promotion {
    pub(super) version: VersionId,
    /// Tells its pre-promotion checks from those of one before.
    id: u64,
    /// The pre-promotion commands, as they were configured when it began.
    config: Arc<Config>,
    /// How many of them have passed.
    passed: usize,
    /// Whether it was taken back before, so that staging goes forward with it.
    taken_back: bool,
    /// Who asked for it by hand.
    reply: Option<Sender<Reply>>,
}

impl Dispatcher {
    /// Starts a promotion that is due.
    pub(super) fn promote_due(&mut self) {
        self.promote_at = None;
        if self.promotion.is_some() || self.stopping.is_some() {
            return;
        }
        let flagged = self.history.flagged();
        match self.scheduler.choose(&flagged, &self.config.promotion, self.clock.instant()) {
            Action::Idle => {}
            Action::WaitUntil(at) => self.promote_at = Some(at),
            Action::Promote(version) => self.start_promotion(version, false, None),
        }
    }

    fn start_promotion(&mut self, version: VersionId, taken_back: bool, reply: Option<Sender<Reply>>) {
        self.promotions += 1;
        self.scheduler.started(version);
        let config = Arc::clone(&self.config);
        self.promotion = Some(Promotion { version, id: self.promotions, config, passed: 0, taken_back, reply });
        let space = self.store.filesystem().map_err(|error| format!("free space is not known: {error}")).and_then(|figures| {
            let fragment = figures.fragment_size();
            enough_free(figures.blocks_available() * fragment, figures.blocks() * fragment, self.config.promotion.require_free)
        });
        match space {
            Ok(()) => self.next_pre(),
            Err(why) => self.hold_back(why),
        }
    }

    /// Starts the next pre-promotion command; after the last, the switch.
    fn next_pre(&mut self) {
        let Some(promotion) = &self.promotion else { return };
        let (version, number, key) = (promotion.version, promotion.passed, Key::Pre { promotion: promotion.id });
        let (timeout, limits) = (promotion.config.checks.timeout, promotion.config.checks.limits.clone());
        let Some(command) = promotion.config.promotion.pre.get(number).cloned() else {
            self.todo.push_back(Todo::Switch(promotion.id));
            return;
        };
        let attempt = u32::try_from(self.promotions).unwrap_or(u32::MAX);
        let log = match self.store.log_place(version, &format!("pre-promotion-{}", number + 1), attempt) {
            Ok(log) => log,
            Err(error) => return self.hold_back(format!("{}: no log: {error}", command.join(" "))),
        };
        let job = CommandJob {
            command,
            directory: self.tree_of(version),
            environment: self.environment(version, self.history.production(), None),
            user: None,
            log,
            timeout,
            input: Vec::new(),
            limits,
        };
        self.submit(key, Work::Command(Box::new(job)));
    }

    pub(super) fn pre_ended(&mut self, id: u64, outcome: &Outcome) {
        let Some(promotion) = self.promotion.as_mut().filter(|promotion| promotion.id == id) else { return };
        if *outcome == Outcome::Passed {
            promotion.passed += 1;
            return self.next_pre();
        }
        let command = promotion.config.promotion.pre.get(promotion.passed).map_or_else(String::new, |command| command.join(" "));
        let line = format!("pre-promotion check {command}: {}", crate::lineage::text::ending(outcome));
        self.hold_back(line);
    }

    /// The promotion is put off, and tried again later.
    fn hold_back(&mut self, why: String) {
        let Some(promotion) = self.promotion.take() else { return };
        let news = self.scheduler.held_back(why.clone(), self.clock.instant());
        if news && let Err(error) = self.note(Some(promotion.version), EventKind::HeldBack { why: why.clone() }) {
            self.warn("store".to_owned(), format!("the lineage can't be written: {error}"));
        }
        if let Some(reply) = promotion.reply {
            let line = format!("{} is not promoted: {why}", promotion.version);
            let _ = reply.send(refused(ErrorKind::Temporary, line));
        }
    }

    /// The promotion has lost its object.
    pub(super) fn abandon_promotion(&mut self, why: &str) {
        let Some(promotion) = self.promotion.take() else { return };
        self.scheduler.abandoned();
        self.running.remove(&Key::Pre { promotion: promotion.id });
        if let Some(reply) = promotion.reply {
            let line = format!("{} is not promoted: {why}", promotion.version);
            let _ = reply.send(refused(ErrorKind::Conflict, line));
        }
    }

    /// The switch: one transaction, and then the kernel is told.
    pub(super) fn switch(&mut self, id: u64) -> Result<(), StepError> {
        // Another one may have begun since, with checks of its own.
        let promotion = self.promotion.as_ref().filter(|promotion| promotion.id == id);
        let Some((version, taken_back)) = promotion.map(|promotion| (promotion.version, promotion.taken_back)) else {
            return Ok(());
        };
        let now = self.clock.now();
        let decided = self.same_content(version).and_then(|()| match taken_back {
            true => Ok(self.history.released(version, now)?),
            false => Ok(self.history.promoted(version, now)?),
        });
        let decision = match decided {
            Ok(decision) => decision,
            Err(error) => {
                self.hold_back(error.to_string());
                return Ok(());
            }
        };
        if let Err(error) = self.write(decision) {
            self.hold_back(format!("the switch can't be recorded: {error}"));
            return Ok(());
        }
        self.scheduler.done();
        let reply = self.promotion.take().and_then(|promotion| promotion.reply);
        self.show();
        if let (Some(reply), Some(record)) = (reply, self.history.get(version)) {
            let _ = reply.send(Reply::Version(Box::new(VersionDoc::from(record))));
        }
        if self.history.base() != self.staging_base {
            self.todo.push_front(Todo::Restage { with: version });
        }
        Ok(())
    }

    /// What was checked is what is published: the catalog must call the content what it was called when it was checked.
    fn same_content(&self, version: VersionId) -> Result<(), StepError> {
        let stored = self.store.catalog().version(version)?.and_then(|record| record.root);
        let known = self.history.get(version).and_then(|record| record.root);
        match (stored, known) {
            (Some(stored), Some(known)) if stored == known => Ok(()),
            _ => Err(StoreError::Damaged { what: format!("the content of {version} is not what was checked") }.into()),
        }
    }

    /// `promote`: now, by hand.
    pub(super) fn promote_by_hand(&mut self, version: Option<VersionId>, reply: Sender<Reply>) -> Result<(), StepError> {
        let Some(version) = version.or_else(|| self.history.flagged().last().copied()) else {
            let _ = reply.send(Reply::Nothing);
            return Ok(());
        };
        let taken_back = match self.history.release(version) {
            Ok(Release::AlreadyThere) => {
                let doc = self.history.get(version).map(VersionDoc::from);
                let _ = reply.send(doc.map_or(Reply::Nothing, |doc| Reply::Version(Box::new(doc))));
                return Ok(());
            }
            Ok(Release::OnTheLine) => false,
            Ok(Release::TakenBack) => true,
            Err(error) => {
                let _ = reply.send(history_refusal(&error));
                return Ok(());
            }
        };
        if self.promotion.is_some() {
            self.abandon_promotion("another promotion was asked for by hand");
        }
        self.start_promotion(version, taken_back, Some(reply));
        Ok(())
    }

    /// `rollback`: production and staging go back.
    pub(super) fn roll_back(&mut self, target: Option<VersionId>, reply: &Sender<Reply>) -> Result<(), StepError> {
        let Some(target) = target.or_else(|| self.history.before_production()) else {
            let line = format!("nothing was in production before {}", self.history.production());
            let _ = reply.send(refused(ErrorKind::Conflict, line));
            return Ok(());
        };
        let before = self.history.base();
        let decision = match self.history.rolled_back(target, self.clock.now()) {
            Ok(decision) => decision,
            Err(error) => {
                let _ = reply.send(history_refusal(&error));
                return Ok(());
            }
        };
        if let Err(error) = self.write(decision) {
            let _ = reply.send(failed(format!("rollback can't be recorded: {error}")));
            return Ok(());
        }
        self.abandon_promotion("production was rolled back");
        self.scheduler.done();
        if self.history.base() != self.staging_base {
            let restaged = self.restage(before);
            if let Err(error) = restaged {
                self.warn("restage".to_owned(), format!("staging can't go back yet: {error}"));
                self.todo.push_front(Todo::Restage { with: before });
                self.retry_later();
            }
        }
        self.show();
        let doc = self.history.get(target).map(VersionDoc::from);
        let _ = reply.send(doc.map_or(Reply::Nothing, |doc| Reply::Version(Box::new(doc))));
        Ok(())
    }
}

pub(super) fn history_refusal(error: &HistoryError) -> Reply {
    let kind = match error {
        HistoryError::Unknown(_) => ErrorKind::Failed,
        HistoryError::Refused { .. } | HistoryError::Contradicts(_) => ErrorKind::Conflict,
    };
    refused(kind, error.to_string())
}
