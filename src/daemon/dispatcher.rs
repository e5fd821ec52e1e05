//! The dispatcher: one thread that owns the history and decides everything; all others tell it what happened.
//!
//! Everything arrives as a message. Between two messages it takes a *turn*: work that is to be done, the settle timer, checks that are
//! due, promotion. A step that the disk refuses stays to be done, and is tried again; nothing is reported before it is committed.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, never, select};

use super::errands::Errands;
use super::hold::Hold;
use super::hooks::{DiskWatch, Hooks};
use super::judge::{Running, VersionRun};
use super::keeper::{Keeper, Sweeper};
use super::kernel::Kernel;
use super::message::{Message, Report};
use super::production::ProductionMount;
use super::publish::Promotion;
use super::retention::Retention;
use super::scrubber::Scrubber;
use super::seals::{Commit, Sealing};
use super::shared::Shared;
use super::todo::Todo;
use super::waiters::Waiters;
use crate::check::{Attempted, Pool};
use crate::clock::Clock;
use crate::config::Config;
use crate::control::protocol::Reply;
use crate::ids::VersionId;
use crate::promote::Scheduler;
use crate::store::event::EventKind;
use crate::store::{Store, StoreError, Transaction};
use crate::tree::TreeError;
use crate::version::history::{Decision, HistoryError};
use crate::version::staging::StagingEvent;
use crate::version::{FsError, History, Staging};

/// The wait before a step that the disk refused is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// The wait for a save of the configuration to be complete.
const CONFIG_DEBOUNCE: Duration = Duration::from_millis(100);

/// How long the first change of a version is left alone before its record is written: whoever made it waits for the same processors.
const OPENING: Duration = Duration::from_millis(1);

/// Why a step could not be taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error(transparent)]
    Fs(#[from] FsError),
    /// It makes no sense (any more): trying again would not help.
    #[error(transparent)]
    History(#[from] HistoryError),
}

/// What a worker's job is known by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Check {
        version: VersionId,
        check: String,
        attempt: u32,
    },
    /// A pre-promotion command of a promotion.
    Pre {
        promotion: u64,
    },
}

/// Where messages come from.
#[derive(Debug)]
pub(super) struct Sources {
    pub(super) messages: Receiver<Message>,
    pub(super) staging: Receiver<StagingEvent>,
    pub(super) attempts: Receiver<(Key, Attempted)>,
}

pub(super) struct Dispatcher {
    pub(super) shared: Arc<Shared>,
    pub(super) store: Arc<Store>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) staging: Arc<Staging>,
    pub(super) kernel: Box<dyn Kernel>,
    pub(super) history: History,
    /// What staging stands on: the base of the history, but for the moments when staging is still to follow it.
    pub(super) staging_base: VersionId,
    pub(super) config: Arc<Config>,
    pub(super) config_due: Option<Instant>,
    pub(super) errands: Errands,
    pub(super) pool: Pool<Key>,
    pub(super) running: HashMap<Key, Running>,
    pub(super) runs: BTreeMap<VersionId, VersionRun>,
    pub(super) todo: VecDeque<Todo>,
    /// The version that was opened a moment ago, and when its record is to be written at the latest.
    pub(super) fresh: Option<(Instant, Todo)>,
    pub(super) retry_at: Option<Instant>,
    pub(super) sealing: Option<Sealing>,
    pub(super) commits: VecDeque<Commit>,
    pub(super) hold: Option<Hold>,
    pub(super) settle_at: Option<Instant>,
    pub(super) scheduler: Scheduler,
    pub(super) promotion: Option<Promotion>,
    pub(super) promotions: u64,
    pub(super) promote_at: Option<Instant>,
    pub(super) production_mount: Option<ProductionMount>,
    pub(super) hooks: Hooks,
    pub(super) disk: DiskWatch,
    pub(super) waiters: Waiters,
    pub(super) retention: Retention,
    pub(super) keeper: Arc<Keeper>,
    pub(super) sweeper: Sweeper,
    pub(super) scrubber: Scrubber,
    /// What needs an operator's eye, by subject.
    pub(super) warnings: BTreeMap<String, String>,
    /// Where the files with changed paths lie.
    pub(super) run_dir: PathBuf,
    pub(super) production_changed: bool,
    pub(super) sources: Sources,
    /// Those who asked for the end; set once it is to come.
    pub(super) stopping: Option<Vec<Sender<Reply>>>,
}

impl Dispatcher {
    /// Serves until the end is asked for; then whoever asked for it.
    pub(super) fn serve(&mut self) -> Vec<Sender<Reply>> {
        loop {
            self.turn();
            if let Some(askers) = self.stopping.take() {
                return askers;
            }
            let wait = self.next_timer().map(|at| at.saturating_duration_since(self.clock.instant()));
            let timer = wait.map_or_else(never, crossbeam::channel::after);
            let Sources { messages, staging, attempts } = &self.sources;
            select! {
                recv(messages) -> message => if let Ok(message) = message { self.take(message) },
                recv(staging) -> event => if let Ok(event) = event { self.staging_event(event) },
                recv(attempts) -> ended => if let Ok((key, attempted)) = ended { self.todo.push_back(Todo::Ended(key, attempted)) },
                recv(timer) -> _ => {}
            }
        }
    }

    pub(super) fn take(&mut self, message: Message) {
        // What happened in staging before the message was sent comes first: a `wait` after a write must know the version.
        self.drain_staging();
        match message {
            Message::Ask(request, reply) => self.ask(request, reply),
            Message::Wait(version, promoted, reply, here) => {
                self.work();
                self.wait(version, promoted, reply, here);
            }
            Message::Find(name, reply) => {
                self.work();
                let _ = reply.send(self.find(&name));
            }
            Message::Errand(Report::Sealed(record)) => self.sealed(*record),
            Message::Errand(Report::SealFails { version, why }) => {
                self.warn(format!("seal {version}"), format!("{version} can't be sealed, it is tried again: {why}"));
            }
            Message::Errand(Report::Planned { version, changes }) => self.planned(version, changes),
            Message::Errand(Report::Bound(bound)) => self.bound(bound),
            Message::LetGo(entries) => self.kernel.let_go_of(&entries),
            Message::Retire { dry_run, reply } => drop(reply.send(self.retire(dry_run))),
            Message::Swept { warning } => self.swept(warning),
            Message::Errand(Report::Notified { name, failing }) => self.notified(&name, failing),
            Message::ConfigTouched => self.config_due = Some(self.clock.instant() + CONFIG_DEBOUNCE),
            Message::Stop => self.stopping.get_or_insert_default().clear(),
        }
    }

    pub(super) fn drain_staging(&mut self) {
        while let Ok(event) = self.sources.staging.try_recv() {
            self.staging_event(event);
        }
        self.take_fresh(None);
    }

    fn staging_event(&mut self, event: StagingEvent) {
        match event {
            StagingEvent::Opened { version, at, writer, .. } => {
                self.take_fresh(None);
                self.fresh = Some((self.clock.instant() + OPENING, Todo::Opened { version, at, writer }));
            }
            StagingEvent::Quiet | StagingEvent::Mapped => {}
            StagingEvent::Failed { what } => self.warn("staging".to_owned(), what),
        }
    }

    /// Has the record written of the version that was opened a moment ago; with a time, only if it is due by then.
    fn take_fresh(&mut self, by: Option<Instant>) {
        let due = |(at, _): &mut (Instant, Todo)| by.is_none_or(|by| *at <= by);
        self.todo.extend(self.fresh.take_if(due).map(|(_, step)| step));
    }

    pub(super) fn turn(&mut self) {
        loop {
            self.take_fresh(Some(self.clock.instant()));
            self.reload();
            self.work();
            self.settle();
            self.start_due();
            self.promote_due();
            self.bind_due();
            self.retire_due();
            self.look_at_disk();
            if !self.has_work() {
                break;
            }
        }
        self.show();
    }

    fn next_timer(&self) -> Option<Instant> {
        let checks = if self.has_room() { self.next_attempt() } else { None };
        let mount = self.production_mount.as_ref().and_then(ProductionMount::next_try);
        let fresh = self.fresh.as_ref().map(|(at, _)| *at);
        let looks = Some(self.disk.look_at);
        let timers = [self.config_due, self.retry_at, fresh, self.settle_at, self.promote_at, self.retention.at, checks, mount, looks];
        timers.into_iter().flatten().min()
    }

    /// Writes a decision with its events in one transaction, then takes it over.
    pub(super) fn write(&mut self, decision: Decision) -> Result<(), StoreError> {
        self.write_with(decision, |_| Ok(()))
    }

    pub(super) fn write_with(
        &mut self,
        decision: Decision,
        more: impl FnOnce(&mut Transaction<'_>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        if decision.is_empty() {
            return Ok(());
        }
        let mut transaction = self.store.catalog().begin()?;
        more(&mut transaction)?;
        put(&mut transaction, &decision, self.clock.as_ref())?;
        transaction.commit()?;
        self.adopt(decision);
        Ok(())
    }

    /// Takes over what was written.
    pub(super) fn adopt(&mut self, decision: Decision) {
        for (version, what) in &decision.events {
            log_event(*version, what);
        }
        self.production_changed |= decision.production.is_some();
        let changed: Vec<_> = decision.records.iter().map(|record| record.version).collect();
        self.history.apply(decision);
        self.waiters.stir();
        self.shared.publish(&self.history, changed);
        self.stir_retention();
        self.hooks.stir();
    }

    /// Appends an event that changes no state.
    pub(super) fn note(&self, version: Option<VersionId>, what: EventKind) -> Result<(), StoreError> {
        log_event(version, &what);
        let mut transaction = self.store.catalog().begin()?;
        transaction.append_event(self.clock.now(), version, what)?;
        transaction.commit()?;
        self.kernel.lineage_changed();
        self.hooks.stir();
        Ok(())
    }

    /// Tells the kernel and those who wait what has changed.
    pub(super) fn show(&mut self) {
        if self.waiters.is_stirred() {
            self.kernel.visible_changed();
            if std::mem::take(&mut self.production_changed) {
                self.bind_production();
            }
            self.waiters.answer(&self.history);
        }
    }

    pub(super) fn warn(&mut self, subject: String, line: String) {
        if self.warnings.get(&subject) != Some(&line) {
            tracing::warn!("{line}");
            self.warnings.insert(subject, line);
        }
    }

    pub(super) fn retry_later(&mut self) {
        self.retry_at = Some(self.clock.instant() + RETRY);
    }

    fn reload(&mut self) {
        let now = self.clock.instant();
        if self.config_due.is_none_or(|due| now < due) {
            return;
        }
        self.config_due = None;
        let file = self.store.path().join(crate::config::FILE_NAME);
        let event = match Config::load(&file) {
            Ok(config) if config == *self.config => {
                self.warnings.remove("config");
                return;
            }
            Ok(config) => {
                self.warnings.remove("config");
                if config.staging.reserve != self.config.staging.reserve {
                    super::start::keep_reserve(&self.store, config.staging.reserve);
                }
                self.config = Arc::new(config);
                self.share_rules();
                self.renew_waiting();
                self.stir_retention();
                self.configure_hooks();
                self.scrubber.configure(self.config.scrub.clone());
                EventKind::ConfigLoaded
            }
            Err(error) => {
                let line = format!("{error}; the configuration before it stays in force");
                if self.warnings.get("config") == Some(&line) {
                    return;
                }
                self.warn("config".to_owned(), line);
                EventKind::ConfigRefused { why: error.to_string() }
            }
        };
        if let Err(error) = self.note(None, event) {
            self.warn("store".to_owned(), format!("the lineage can't be written: {error}"));
        }
    }
}

/// Puts a decision into a transaction.
pub(super) fn put(transaction: &mut Transaction<'_>, decision: &Decision, clock: &dyn Clock) -> Result<(), StoreError> {
    let mut pointers = transaction.pointers()?;
    decision.move_pointers(&mut pointers);
    transaction.set_pointers(&pointers)?;
    for record in &decision.records {
        transaction.put_version(record)?;
    }
    for (version, what) in &decision.events {
        transaction.append_event(clock.now(), *version, what.clone())?;
    }
    Ok(())
}

fn log_event(version: Option<VersionId>, what: &EventKind) {
    let sentence = crate::lineage::text::sentence(what);
    match version {
        Some(version) => tracing::info!("{version} {sentence}"),
        None => tracing::info!("{sentence}"),
    }
}
