//! Checks of versions: which run, how they ended, and the verdict.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::Sender;

use super::dispatcher::{Dispatcher, Key, StepError};
use super::errands::{Errand, Sides};
use super::leases::Lease;
use super::message::Changes;
use super::requests::{failed, refused};
use super::todo::Todo;
use crate::check::{Attempted, BuiltinJob, Cancel, CancelHandle, CommandJob, Job, Limits, Plan, Progress, Run, Start, Work};
use crate::config::{Action, Check, Config, Severity};
use crate::control::protocol::{ErrorKind, Reply, RunningDoc, VersionDoc};
use crate::ids::VersionId;
use crate::store::StoreError;
use crate::store::event::EventKind;
use crate::store::record::{AttemptRecord, Outcome, Reason, VersionState};

/// The wait before changes that could not be read are looked for once more.
const PLAN_AGAIN: Duration = Duration::from_secs(5);

/// A job that a worker has.
#[derive(Debug)]
pub(super) struct Running {
    /// Dropped, it stops the job.
    pub(super) _cancel: CancelHandle,
    pub(super) since: Instant,
}

/// The run of a version's checks.
#[derive(Debug)]
pub(super) struct VersionRun {
    /// `None` until what the version changed is known.
    run: Option<Run>,
    changes: Arc<Changes>,
    /// What it stands on: its own changes are those against this one.
    ground: VersionId,
    /// The last valid version below it when the run began: what its commands compare it with, in every attempt.
    base: VersionId,
    /// The configuration in force when the version was sealed.
    config: Arc<Config>,
    /// Whether it decides on the version; a run by hand only tells.
    decides: bool,
    /// Only this check.
    only: Option<String>,
    replies: Vec<Sender<Reply>>,
    /// When its changes are looked for once more: they could not be read, or what was to be noted could not be written.
    plan_at: Option<Instant>,
    /// What its checks read.
    leases: Vec<Lease>,
}

impl VersionRun {
    fn new(version: VersionId, config: Arc<Config>, decides: bool) -> Self {
        let changes = Arc::default();
        Self {
            run: None,
            changes,
            ground: version,
            base: version,
            config,
            decides,
            only: None,
            replies: Vec::new(),
            plan_at: None,
            leases: Vec::new(),
        }
    }

    fn is_failing(&self) -> bool {
        self.decides && self.run.as_ref().is_some_and(Run::is_failing)
    }

    pub(super) fn next_due(&self, retries: bool) -> Option<Instant> {
        self.run.as_ref().and_then(|run| run.next_due(retries)).into_iter().chain(self.plan_at).min()
    }

    pub(super) fn waiting(&self) -> impl Iterator<Item = (&str, &str)> {
        self.run.iter().flat_map(Run::waiting)
    }

    pub(super) fn requeue(&mut self, check: &str, now: Instant) {
        if let Some(run) = &mut self.run {
            run.requeue(check, now);
        }
    }

    fn checks(&self) -> impl Iterator<Item = &Check> {
        self.config.check.iter().filter(|check| self.only.as_ref().is_none_or(|only| *only == check.name))
    }
}

impl Dispatcher {
    /// The checks of a sealed version begin.
    pub(super) fn begin_checks(&mut self, version: VersionId) {
        if self.config.check.is_empty() {
            self.todo.push_back(Todo::Pass(version));
            return;
        }
        self.runs.insert(version, VersionRun::new(version, Arc::clone(&self.config), true));
        self.plan(version);
    }

    fn plan(&mut self, version: VersionId) {
        let Some(record) = self.history.get(version).filter(|_| self.runs.contains_key(&version)) else { return };
        // t0, and what has lost its ground to retention, are compared with themselves: nothing has changed.
        let base = self.history.compared_with(version).unwrap_or(record);
        let parent = record.parent.and_then(|parent| self.history.get(parent)).filter(|parent| parent.root.is_some()).unwrap_or(base);
        let content = |record| self.shared.snapshot(record);
        let (Some(snapshot), Some(below), Some(valid)) = (content(record), content(parent), content(base)) else {
            return self.planned(version, Err("its content is gone".to_owned()));
        };
        let sides = Box::new(Sides { version: snapshot, parent: below, base: (base.version != parent.version).then_some(valid) });
        let (ground, base) = (parent.version, base.version);
        let Some(run) = self.runs.get_mut(&version) else { return };
        (run.ground, run.base) = (ground, base);
        let commands = run.checks().any(|check| matches!(check.action, Action::Run(_)));
        let file = commands.then(|| self.run_dir.join(format!("{version}.changes")));
        run.leases = [version, ground, base].into_iter().filter_map(|version| self.shared.lease(version)).collect();
        self.errands.send(Errand::Plan { version, sides, file });
    }

    /// What a version changed is known: its checks are due.
    pub(super) fn planned(&mut self, version: VersionId, changes: Result<Arc<Changes>, String>) {
        let changes = match changes {
            Ok(changes) => changes,
            Err(why) => return self.plan_failed(version, &why),
        };
        match self.start_run(version, &changes) {
            Ok(()) => drop(self.warnings.remove(&format!("plan {version}"))),
            Err(error) => self.plan_failed(version, &error.to_string()),
        }
    }

    /// The disk's fault (full, most likely) or worse, not the data's: the version waits until it can be checked.
    fn plan_failed(&mut self, version: VersionId, why: &str) {
        self.warn(format!("plan {version}"), format!("{version} can't be checked yet, it is tried again: {why}"));
        let now = self.clock.instant();
        let Some(run) = self.runs.get_mut(&version) else { return };
        for reply in run.replies.drain(..) {
            let _ = reply.send(failed(format!("{version} can't be checked: {why}")));
        }
        run.plan_at = Some(now + PLAN_AGAIN);
        if !run.decides {
            self.runs.remove(&version);
        }
    }

    fn start_run(&mut self, version: VersionId, changes: &Arc<Changes>) -> Result<(), StepError> {
        let attempts = self.store.catalog().attempts(version)?;
        // One that was stopped a moment ago may not have ended yet: its number is taken, too.
        let ended = attempts.into_iter().map(|attempt| (attempt.check, attempt.attempt));
        let taken: Vec<_> = ended.chain(self.shared.running(version)).collect();
        let next = |name: &str| taken.iter().filter(|(check, _)| check == name).map(|(_, attempt)| attempt + 1).max().unwrap_or(1);
        let Some(run) = self.runs.get(&version) else { return Ok(()) };
        let (mut applicable, mut skipped) = (Vec::new(), Vec::new());
        for check in run.checks() {
            let paths = changes.list.iter().map(|change| change.path.as_slice());
            let applies = Plan::new(check).is_ok_and(|plan| plan.applies(paths));
            if applies { &mut applicable } else { &mut skipped }.push((Arc::new(check.clone()), next(&check.name)));
        }
        self.record_skipped(version, &skipped)?;
        let now = self.clock.instant();
        let Some(run) = self.runs.get_mut(&version) else { return Ok(()) };
        let started = Run::new(applicable, Limits::from(&run.config.checks), now);
        let progress = started.outset();
        run.changes = Arc::clone(changes);
        run.run = Some(started);
        self.progressed(version, progress);
        Ok(())
    }

    fn record_skipped(&self, version: VersionId, skipped: &[(Arc<Check>, u32)]) -> Result<(), StoreError> {
        if skipped.is_empty() {
            return Ok(());
        }
        let mut transaction = self.store.catalog().begin()?;
        let now = self.clock.now();
        for (check, attempt) in skipped {
            transaction.put_attempt(&AttemptRecord {
                version,
                check: check.name.clone(),
                attempt: *attempt,
                started_at: now,
                took: Duration::ZERO,
                outcome: Outcome::Skipped,
                rejects: check.severity == Severity::Error,
                metrics: Vec::new(),
            })?;
            let what = EventKind::Checked { check: check.name.clone(), attempt: *attempt, outcome: Outcome::Skipped, took_ms: 0 };
            transaction.append_event(now, Some(version), what)?;
        }
        transaction.commit()
    }

    pub(super) fn has_room(&self) -> bool {
        self.running.len() < self.config.checks.workers
    }

    /// Starts attempts that are due, oldest version first.
    pub(super) fn start_due(&mut self) {
        let now = self.clock.instant();
        let versions: Vec<_> = self.runs.keys().copied().collect();
        for version in versions {
            let room = self.config.checks.workers.saturating_sub(self.running.len());
            if room == 0 || self.stopping.is_some() {
                return;
            }
            if self.runs.get_mut(&version).is_some_and(|run| run.plan_at.take_if(|at| *at <= now).is_some()) {
                self.plan(version);
            }
            let retries = self.may_retry(version);
            let run = self.runs.get_mut(&version).and_then(|run| run.run.as_mut());
            let starts = run.map(|run| run.start(now, room, retries)).unwrap_or_default();
            for start in starts {
                self.start_attempt(version, &start);
            }
        }
    }

    /// When the next attempt is due that waits for nothing but its time.
    pub(super) fn next_attempt(&self) -> Option<Instant> {
        self.runs.iter().filter_map(|(version, run)| run.next_due(self.may_retry(*version))).min()
    }

    /// Failures of a version on top of one that fails as well may come from there: it is tried again once that is judged. If that one is
    /// rejected, this one is carried over and checked anew, and its tries were not used up for what it did not do.
    fn may_retry(&self, version: VersionId) -> bool {
        // Seldom, so that a tall stack costs a look at each version and not at all below each.
        if !self.runs.get(&version).is_some_and(|run| run.run.as_ref().is_some_and(Run::has_retry)) {
            return true;
        }
        let below = self.history.ancestry(version).skip(1).take_while(|record| record.state == VersionState::Checking);
        !below.into_iter().any(|record| self.runs.get(&record.version).is_some_and(VersionRun::is_failing))
    }

    fn start_attempt(&mut self, version: VersionId, start: &Start) {
        let key = Key::Check { version, check: start.check.name.clone(), attempt: start.attempt };
        match self.work_of(version, start) {
            Ok(work) => {
                self.shared.attempt_started(version, &start.check.name, start.attempt);
                self.submit(key, work);
            }
            Err(why) => {
                let outcome = Outcome::CouldNotStart { why };
                let attempted = Attempted { started_at: self.clock.now(), took: Duration::ZERO, outcome, metrics: Vec::new() };
                self.todo.push_back(Todo::Ended(key, attempted));
            }
        }
    }

    pub(super) fn submit(&mut self, key: Key, work: Work) {
        let (handle, cancel) = Cancel::new();
        self.running.insert(key.clone(), Running { _cancel: handle, since: self.clock.instant() });
        if let Err(error) = self.pool.grow(self.running.len()) {
            self.warn("pool".to_owned(), format!("no thread for a check: {error}"));
        }
        self.pool.submit(Job { key, work, cancel });
    }

    fn work_of(&self, version: VersionId, start: &Start) -> Result<Work, String> {
        let run = self.runs.get(&version).ok_or("its run is gone")?;
        let log = self.store.log_place(version, &start.check.name, start.attempt).map_err(|error| error.to_string())?;
        let (timeout, limits) = (start.check.timeout, start.check.limits.clone());
        match &start.check.action {
            Action::Run(command) => Ok(Work::Command(Box::new(CommandJob {
                command: command.clone(),
                directory: self.tree_of(version),
                environment: self.environment(version, run.base, run.changes.file.clone()),
                user: start.check.user.clone(),
                log,
                timeout,
                input: Vec::new(),
                limits,
            }))),
            Action::Builtin(name) => {
                let record = self.history.get(version).ok_or("its record is gone")?;
                let ground = self.history.get(run.ground).unwrap_or(record);
                let content = |record| self.shared.snapshot(record).ok_or("its content or its parent's is gone");
                let (content, base) = (content(record)?, content(ground)?);
                let plan = Plan::new(&start.check).map_err(|error| error.to_string())?;
                let changes = Arc::clone(&run.changes.list);
                Ok(Work::Builtin(Box::new(BuiltinJob {
                    name: name.clone(),
                    options: start.check.options.clone(),
                    version: content,
                    base,
                    changes,
                    plan,
                    log,
                    timeout,
                    output: limits.output,
                })))
            }
        }
    }

    /// Where a version is browsed.
    pub(super) fn tree_of(&self, version: VersionId) -> PathBuf {
        let ghost = self.history.get(version).is_some_and(|record| record.state == VersionState::Ghost);
        self.shared.mount.join(if ghost { "ghosts" } else { "versions" }).join(version.to_string())
    }

    /// What a command is told: the version, and the last valid one with the paths that differ between the two.
    pub(super) fn environment(&self, version: VersionId, base: VersionId, changes: Option<PathBuf>) -> Vec<(String, OsString)> {
        let mut environment: Vec<(String, OsString)> = vec![
            ("SHADOWFS_VERSION".to_owned(), version.to_string().into()),
            ("SHADOWFS_TREE".to_owned(), self.tree_of(version).into()),
            ("SHADOWFS_BASE_TREE".to_owned(), self.tree_of(base).into()),
        ];
        environment.extend(changes.map(|file| ("SHADOWFS_CHANGES".to_owned(), file.into())));
        environment
    }

    /// An attempt ended: it is recorded, and then its run knows what follows.
    pub(super) fn ended(&mut self, key: &Key, attempted: &Attempted) -> Result<(), StepError> {
        let (version, check, attempt) = match key {
            Key::Check { version, check, attempt } => (*version, check, *attempt),
            Key::Pre { promotion } => {
                self.running.remove(key);
                self.pre_ended(*promotion, &attempted.outcome);
                return Ok(());
            }
        };
        let run = self.runs.get(&version);
        let config = run.map_or_else(|| Arc::clone(&self.config), |run| Arc::clone(&run.config));
        let attempted = &self.by_rules(version, check, &config, attempted)?;
        if !run.and_then(|run| run.run.as_ref()).is_some_and(|run| run.repeats(check, &attempted.outcome)) {
            let rejects = config.check.iter().any(|known| known.name == *check && known.severity == Severity::Error);
            self.record_attempt(version, check, attempt, rejects && run.is_some(), attempted)?;
        }
        self.running.remove(key);
        self.shared.attempt_ended(version, check, attempt);
        self.kernel.lineage_changed();
        let now = self.clock.instant();
        let run = self.runs.get_mut(&version).and_then(|run| run.run.as_mut()).filter(|run| run.awaits(check, attempt));
        if let Some(progress) = run.map(|run| run.ended(check, &attempted.outcome, now)) {
            self.progressed(version, progress);
        }
        // The configuration may have put it right while this attempt was under way: then nobody else tries the new definition.
        let outdated = self.runs.get(&version).is_some_and(|run| !Arc::ptr_eq(&run.config, &self.config));
        if outdated && matches!(attempted.outcome, Outcome::CouldNotStart { .. }) {
            self.renew(version);
        }
        Ok(())
    }

    fn record_attempt(
        &self,
        version: VersionId,
        check: &str,
        attempt: u32,
        rejects: bool,
        attempted: &Attempted,
    ) -> Result<(), StoreError> {
        let Attempted { started_at, took, outcome, metrics } = attempted.clone();
        tracing::info!("{version} {check} attempt {attempt}: {}", crate::lineage::text::ending(&outcome));
        let mut transaction = self.store.catalog().begin()?;
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let check = check.to_owned();
        let what = EventKind::Checked { check: check.clone(), attempt, outcome: outcome.clone(), took_ms };
        transaction.put_attempt(&AttemptRecord { version, check, attempt, started_at, took, outcome, rejects, metrics })?;
        transaction.append_event(self.clock.now(), Some(version), what)?;
        transaction.commit()
    }

    fn progressed(&mut self, version: VersionId, progress: Progress) {
        if progress == Progress::Undecided {
            return;
        }
        self.stop_checks(version);
        let Some(run) = self.runs.remove(&version) else { return };
        let decides = run.decides && self.history.get(version).is_some_and(|record| record.state == VersionState::Checking);
        for reply in &run.replies {
            let _ = reply.send(self.answer_check(version, &progress));
        }
        if decides {
            self.todo.push_back(match progress {
                Progress::Rejected { checks, summary } => Todo::Reject(version, Reason::ChecksFailed { checks, summary }),
                Progress::Passed | Progress::Undecided => Todo::Pass(version),
            });
        }
    }

    fn answer_check(&self, version: VersionId, progress: &Progress) -> Reply {
        match (progress, self.history.get(version)) {
            (Progress::Rejected { summary, .. }, _) => {
                refused(ErrorKind::Rejected, format!("{version} does not pass: {summary}; see `shadowfs show {version}`"))
            }
            (_, Some(record)) => Reply::Version(Box::new(VersionDoc { passed: true, ..VersionDoc::from(record) })),
            (_, None) => failed(format!("there is no version {version}")),
        }
    }

    /// Stops what still runs for a version: its verdict has fallen without it.
    pub(super) fn stop_checks(&mut self, version: VersionId) {
        // How they ended is recorded when their workers tell.
        self.running.retain(|key, _| !matches!(key, Key::Check { version: of, .. } if *of == version));
    }

    /// A run by hand, or another try of checks that could not start.
    pub(super) fn check_by_hand(&mut self, version: VersionId, only: Option<String>, reply: Sender<Reply>) {
        let Some(record) = self.history.get(version) else {
            return drop(reply.send(failed(format!("there is no version {version}"))));
        };
        if record.root.is_none() {
            let line = format!("{version} is {}: there is nothing to check", record.state);
            return drop(reply.send(refused(ErrorKind::Conflict, line)));
        }
        if let Some(name) = only.as_ref().filter(|name| !self.config.check.iter().any(|check| check.name == **name)) {
            let names: Vec<_> = self.config.check.iter().map(|check| check.name.as_str()).collect();
            let line = format!(
                "there is no check \"{name}\"; the configuration has {}",
                if names.is_empty() { "none".to_owned() } else { names.join(", ") }
            );
            return drop(reply.send(refused(ErrorKind::Usage, line)));
        }
        let decides = record.state == VersionState::Checking && !record.passed;
        if let Some(run) = self.runs.get_mut(&version) {
            run.replies.push(reply);
            return self.renew(version);
        }
        let mut run = VersionRun::new(version, Arc::clone(&self.config), decides && only.is_none());
        run.only = only;
        run.replies.push(reply);
        self.runs.insert(version, run);
        self.plan(version);
    }

    /// Checks that could not start are tried again at once, as the configuration in force defines them.
    pub(super) fn renew_waiting(&mut self) {
        let versions: Vec<_> = self.runs.keys().copied().collect();
        versions.into_iter().for_each(|version| self.renew(version));
    }

    fn renew(&mut self, version: VersionId) {
        let checks: BTreeMap<_, _> = self.config.check.iter().map(|check| (check.name.clone(), Arc::new(check.clone()))).collect();
        let now = self.clock.instant();
        let Some(run) = self.runs.get_mut(&version) else { return };
        let Some(waiting) = run.run.as_mut().filter(|run| run.waiting().next().is_some()) else { return };
        let progress = waiting.renew(now, |name| checks.get(name).cloned());
        run.config = Arc::clone(&self.config);
        self.progressed(version, progress);
    }

    pub(super) fn running_docs(&self) -> Vec<RunningDoc> {
        let now = self.clock.instant();
        let doc = |(key, running): (&Key, &Running)| match key {
            Key::Check { version, check, attempt } => {
                let running_ms = u64::try_from(now.saturating_duration_since(running.since).as_millis()).unwrap_or(u64::MAX);
                Some(RunningDoc { version: *version, check: check.clone(), attempt: *attempt, running_ms })
            }
            Key::Pre { .. } => None,
        };
        let mut docs: Vec<_> = self.running.iter().filter_map(doc).collect();
        docs.sort_by(|a, b| (a.version, &a.check).cmp(&(b.version, &b.check)));
        docs
    }
}
