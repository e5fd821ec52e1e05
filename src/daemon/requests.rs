//! Requests: what the dispatcher answers, and what a connection's own thread can answer from shared state.

use std::sync::{Arc, Weak};
use std::time::Duration;

use crossbeam::channel::{RecvTimeoutError, Sender, bounded};

use super::dispatcher::Dispatcher;
use super::documents;
use super::examine;
use super::keeper::{GcFailure, Keeper};
use super::message::Message;
use super::metrics;
use super::shared::Shared;
use super::todo::Todo;
use crate::control::protocol::{ErrorKind, OpenDoc, Refusal, Reply, Request, SpaceDoc, StatusDoc, UpkeepDoc, VersionDoc, VersionName};
use crate::control::server::Handler;
use crate::ids::VersionId;
use crate::retain::GcError;
use crate::store::record::{VersionRecord, VersionState};
use crate::version::Staging;

/// How often it is looked whether who waits for an answer is still there.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A refusal.
pub(super) fn refused(kind: ErrorKind, message: impl Into<String>) -> Reply {
    Reply::Refused(Refusal { kind, message: message.into() })
}

/// A failure.
pub(super) fn failed(message: impl Into<String>) -> Reply {
    refused(ErrorKind::Failed, message)
}

impl Dispatcher {
    pub(super) fn ask(&mut self, request: Request, reply: Sender<Reply>) {
        self.work();
        let answer = match request {
            Request::Status => Reply::Status(Box::new(self.status())),
            Request::Log { limit } => self.log(limit, |_| true),
            Request::Ghosts => self.log(None, |record| record.state == VersionState::Ghost),
            Request::ConfigShow => Reply::Text(self.config.to_toml()),
            Request::Begin { message } => self.begin(message),
            Request::Abort => self.abort(),
            Request::Commit { message } => return self.commit(message, reply),
            Request::Check { version, check } => {
                return self.with_version(Some(version), reply, |this, version, reply| {
                    this.check_by_hand(version, check, reply);
                });
            }
            Request::Promote { version } => return self.by_hand(version, reply, Todo::Promote),
            Request::Rollback { version } => return self.by_hand(version, reply, Todo::RollBack),
            Request::Restore { version } => {
                return self.with_version(Some(version), reply, |this, version, reply| {
                    this.todo.push_back(Todo::Restore(version, reply));
                });
            }
            Request::Drop { version } => self.of(&version, Self::drop_version),
            Request::Pin { version, on } => self.of(&version, |this, version| this.pin(version, on)),
            Request::Tag { name, version, force } => self.of(&version, |this, version| this.tag(&name, version, force)),
            Request::Untag { name } => self.untag(&name),
            Request::Tags => self.tags(),
            Request::Find { version } => {
                self.find(&version).map_or_else(Reply::Refused, |record| Reply::Version(Box::new(VersionDoc::from(&record))))
            }
            Request::Unmount => return self.stopping.get_or_insert_default().push(reply),
            Request::Wait { .. }
            | Request::Show { .. }
            | Request::Diff { .. }
            | Request::Metric { .. }
            | Request::Lineage { .. }
            | Request::Verify
            | Request::Fsck
            | Request::Scrub
            | Request::Progress
            | Request::Gc { .. } => failed("not a request for the dispatcher"),
        };
        let _ = reply.send(answer);
    }

    /// An answer about the version that a name means.
    fn of(&mut self, name: &VersionName, answer: impl FnOnce(&mut Self, VersionId) -> Reply) -> Reply {
        match self.find(name) {
            Ok(record) => answer(self, record.version),
            Err(refusal) => Reply::Refused(refusal),
        }
    }

    fn by_hand(&mut self, version: Option<VersionName>, reply: Sender<Reply>, todo: fn(Option<VersionId>, Sender<Reply>) -> Todo) {
        let version = match version.map(|name| self.find(&name)).transpose() {
            Ok(record) => record.map(|record| record.version),
            Err(refusal) => return drop(reply.send(Reply::Refused(refusal))),
        };
        self.todo.push_back(todo(version, reply));
    }

    fn with_version(&mut self, name: Option<VersionName>, reply: Sender<Reply>, then: impl FnOnce(&mut Self, VersionId, Sender<Reply>)) {
        match name.map(|name| self.find(&name)).transpose() {
            Ok(Some(record)) => then(self, record.version, reply),
            Ok(None) => drop(reply.send(Reply::Nothing)),
            Err(refusal) => drop(reply.send(Reply::Refused(refusal))),
        }
    }

    pub(super) fn wait(&mut self, version: Option<VersionName>, promoted: bool, reply: Sender<Reply>, here: Weak<()>) {
        let version = match version.map(|name| self.find(&name)).transpose() {
            Ok(Some(record)) => record.version,
            Ok(None) => match self.newest() {
                Some(version) => version,
                None => return drop(reply.send(Reply::Nothing)),
            },
            Err(refusal) => return drop(reply.send(Reply::Refused(refusal))),
        };
        self.waiters.add(version, promoted, reply, here);
    }

    /// The newest open or sealed version.
    fn newest(&self) -> Option<VersionId> {
        let of_interest = |record: &&VersionRecord| !matches!(record.state, VersionState::Aborted | VersionState::Expired);
        self.history.records().rev().find(of_interest).map(|record| record.version)
    }

    /// The record of the version that a name means.
    pub(super) fn find(&self, name: &VersionName) -> Result<VersionRecord, Refusal> {
        let unknown = |message: String| Refusal { kind: ErrorKind::Failed, message };
        let version = match name {
            VersionName::Number(version) => *version,
            VersionName::Staging => match self.history.open() {
                Some(record) => record.version,
                None => self.history.base(),
            },
            VersionName::Production => self.history.production(),
            VersionName::Latest => self.history.base(),
            VersionName::Valid => self.history.valid(),
            VersionName::Tag(tag) => {
                let tags = &self.shared.visible().tags;
                *tags.get(tag).ok_or_else(|| unknown(format!("there is no version or tag \"{tag}\"; `shadowfs log` lists the versions")))?
            }
        };
        let newest = self.history.records().next_back().map_or(VersionId::FIRST, |record| record.version);
        self.history.get(version).cloned().ok_or_else(|| unknown(format!("there is no version {version}; the newest is {newest}")))
    }

    fn log(&self, limit: Option<u64>, wanted: impl Fn(&&VersionRecord) -> bool) -> Reply {
        let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
        Reply::Log(self.history.records().rev().filter(wanted).take(limit).map(VersionDoc::from).collect())
    }

    /// Everything that `status` prints but for the space, which the asking thread adds.
    fn status(&self) -> StatusDoc {
        let activity = self.staging.activity();
        let open = self.history.open().map(|record| OpenDoc {
            version: record.version,
            opened_at: record.opened_at.to_string(),
            writers: activity.writers,
            mapped: activity.mapped,
            held_open: self.hold.is_some(),
            message: record.message.clone().or_else(|| self.hold.as_ref().and_then(|hold| hold.message.clone())),
        });
        let visible = self.shared.visible();
        StatusDoc {
            store: self.store.path().display().to_string(),
            mount: self.shared.mount.display().to_string(),
            pid: std::process::id(),
            mode: self.kernel.mode().to_owned(),
            production: self.history.production(),
            valid: self.history.valid(),
            latest: self.history.base(),
            open,
            checking: self.history.unjudged().map(VersionDoc::from).collect(),
            running: self.running_docs(),
            flagged: self.history.flagged(),
            held_back: self.scheduler.reason().map(str::to_owned),
            ghosts: visible.ghosts.len() as u64,
            versions: visible.versions.len() as u64,
            space: SpaceDoc::default(),
            upkeep: UpkeepDoc::default(),
            warnings: self.warnings.values().cloned().chain(self.unstarted()).chain(self.full_disk()).collect(),
            requests: self.kernel.counters(),
        }
    }

    fn full_disk(&self) -> Option<String> {
        let missing = self.store.reserve_missing();
        (missing > 0).then(|| {
            format!(
                "the store's disk is full: {missing} bytes that were kept for this are in use; `shadowfs drop` and `shadowfs gc` make room"
            )
        })
    }

    fn unstarted(&self) -> impl Iterator<Item = String> {
        self.runs.iter().flat_map(|(version, run)| {
            run.waiting().map(move |(check, why)| format!("{version} waits: check {check} can't be started: {why}"))
        })
    }
}

/// Answers connections: asks the dispatcher, and does on the connection's own thread what may take long.
#[derive(Debug)]
pub(super) struct Connections {
    pub(super) shared: Arc<Shared>,
    pub(super) staging: Arc<Staging>,
    pub(super) messages: Sender<Message>,
    pub(super) keeper: Arc<Keeper>,
}

impl Connections {
    fn dispatch(&self, request: Request, gone: &dyn Fn() -> bool) -> Reply {
        let (reply, answer) = bounded(1);
        let ended = || refused(ErrorKind::Temporary, "the daemon is ending; try again once it is mounted");
        let here = Arc::new(());
        let message = match request {
            Request::Wait { version, promoted } => Message::Wait(version, promoted, reply, Arc::downgrade(&here)),
            request => Message::Ask(request, reply),
        };
        if self.messages.send(message).is_err() {
            return ended();
        }
        loop {
            match answer.recv_timeout(LOOK_AGAIN) {
                Ok(reply) => return reply,
                Err(RecvTimeoutError::Timeout) if !gone() => {}
                Err(_) => return ended(),
            }
        }
    }

    fn tell_upkeep(&self, status: &mut StatusDoc) {
        let Ok(upkeep) = self.shared.store.catalog().upkeep() else { return };
        let damaged = upkeep.scrub.as_ref().map_or(0, |progress| progress.damaged.len());
        if damaged > 0 {
            status.warnings.push(format!("the scrub under way has found {damaged} damaged contents so far; `shadowfs scrub` names them"));
        } else if let Some(first) = upkeep.scrubbed.as_ref().and_then(|result| result.findings.first()) {
            status.warnings.push(format!("the last scrub found damage; `shadowfs scrub` lists all of it: {first}"));
        }
        status.upkeep = UpkeepDoc::new(self.shared.visible().departed.keys().copied().collect(), &upkeep);
    }

    fn gc(&self, dry_run: bool, gone: &dyn Fn() -> bool) -> Result<Reply, Reply> {
        self.keeper.gc(dry_run, gone).map(|doc| Reply::Collected(Box::new(doc))).map_err(|error| match error {
            GcFailure::Ending | GcFailure::Refused(_) | GcFailure::Gc(GcError::Busy) => refused(ErrorKind::Temporary, error.to_string()),
            GcFailure::Gc(_) => failed(error.to_string()),
        })
    }

    fn find(&self, name: VersionName) -> Result<VersionRecord, Reply> {
        let (reply, answer) = bounded(1);
        let ended = || refused(ErrorKind::Temporary, "the daemon is ending; try again once it is mounted");
        self.messages.send(Message::Find(name, reply)).map_err(|_| ended())?;
        answer.recv().map_err(|_| ended())?.map_err(Reply::Refused)
    }
}

impl Handler for Connections {
    fn handle(&self, request: Request) -> Reply {
        self.handle_while(request, &|| false)
    }

    fn handle_while(&self, request: Request, gone: &dyn Fn() -> bool) -> Reply {
        let done = match request {
            Request::Status => match self.dispatch(Request::Status, gone) {
                Reply::Status(mut status) => {
                    status.warnings.extend(metrics::forecasts(&self.shared));
                    if let Ok(space) = self.shared.store.space() {
                        status.space = SpaceDoc { used: space.used, free: space.free, total: space.total };
                    }
                    self.tell_upkeep(&mut status);
                    Ok(Reply::Status(status))
                }
                other => Ok(other),
            },
            Request::Show { version } => self.find(version).and_then(|record| documents::show(&self.shared, &self.staging, &record)),
            Request::Diff { from, to, below } => {
                let side = |name: VersionName| {
                    self.find(name.clone()).and_then(|record| documents::side(&self.shared, &self.staging, &name, &record))
                };
                side(from).and_then(|from| side(to).and_then(|to| documents::diff(&self.shared, from, to, below.as_deref())))
            }
            Request::Lineage { version } => {
                let version = version.map(|name| self.find(name)).transpose();
                version.and_then(|record| documents::lineage(&self.shared, record.map(|record| record.version)))
            }
            Request::Metric { name, check, limit } => metrics::metrics(&self.shared, &name, check.as_deref(), limit),
            Request::Verify => examine::verify(&self.shared, &self.keeper, gone),
            Request::Fsck => examine::fsck(&self.shared, &self.keeper, gone),
            Request::Scrub => examine::scrub(&self.shared, gone),
            Request::Progress => Ok(self.shared.meter.reply()),
            Request::Gc { dry_run } => self.gc(dry_run, gone),
            other => Ok(self.dispatch(other, gone)),
        };
        done.unwrap_or_else(|refusal| refusal)
    }
}
