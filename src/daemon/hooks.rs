//! `[[notify]]`: commands that are told of events, each on a thread of its own, so that they are in nobody's way.
//!
//! The lineage is their queue: a hook remembers in the store how far it was told (`notify-NAME`), so its memory is bounded, and an event
//! of the last day is told after a crash as well; at worst twice.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, after, bounded, never, select};

use super::dispatcher::Dispatcher;
use super::message::{Message, Report};
use crate::check::{self, Cancel, CancelHandle, CommandJob};
use crate::clock::Clock;
use crate::config::{Notify, Topic};
use crate::ids::EventSeq;
use crate::lineage::{event, text};
use crate::store::event::{Event, EventKind};
use crate::store::record::{Outcome, Reason};
use crate::store::{Store, StoreError};

/// The wait before a hook that failed is tried again. It doubles up to the longest.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// What is older is not told any more: a hook that comes back after a week must not hear the whole week.
const NEWS: Duration = Duration::from_secs(24 * 3600);
/// So many events are looked at in one go.
const AT_ONCE: usize = 256;
/// How often free space is looked at.
const LOOK_AT_DISK: Duration = Duration::from_secs(30);

/// What hooks need of the daemon.
#[derive(Clone, Debug)]
pub(super) struct Surroundings {
    pub(super) store: Arc<Store>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) mount: PathBuf,
    /// Where a hook's last output lies.
    pub(super) run_dir: PathBuf,
    pub(super) reports: Sender<Message>,
}

/// The threads.
#[derive(Debug)]
pub(super) struct Hooks {
    around: Surroundings,
    running: Vec<Running>,
}

#[derive(Debug)]
struct Running {
    config: Notify,
    stir: Sender<()>,
    /// Dropped, it ends the thread and what it runs.
    cancel: CancelHandle,
    thread: JoinHandle<()>,
}

impl Hooks {
    pub(super) const fn new(around: Surroundings) -> Self {
        Self { around, running: Vec::new() }
    }

    /// Has just these hooks from now on. One that is new hears what happens from here on; one that is gone forgets where it was.
    pub(super) fn configure(&mut self, hooks: &[Notify]) -> Result<(), StoreError> {
        let (kept, ended): (Vec<_>, Vec<_>) = self.running.drain(..).partition(|running| hooks.contains(&running.config));
        self.running = kept;
        let mut done = Ok(());
        for Running { config, cancel, thread, .. } in ended {
            drop(cancel);
            let _ = thread.join();
            self.around.report(&config.name, None);
            if !hooks.iter().any(|hook| hook.name == config.name) {
                done = done.and(self.around.store.remove_note(&note(&config.name)));
            }
        }
        for hook in hooks {
            if !self.running.iter().any(|running| running.config == *hook) {
                done = done.and(self.start(hook));
            }
        }
        done
    }

    fn start(&mut self, config: &Notify) -> Result<(), StoreError> {
        let told = Told::of(&self.around.store, &config.name)?;
        let ((stir, stirred), (handle, cancel)) = (bounded(1), Cancel::new());
        let hook = Hook { config: config.clone(), around: self.around.clone(), told, stirred, cancel };
        let thread = std::thread::Builder::new().name(format!("notify-{}", config.name)).spawn(move || hook.serve());
        let thread = thread.map_err(|source| StoreError::Io { what: "start a thread".to_owned(), source })?;
        self.running.push(Running { config: config.clone(), stir, cancel: handle, thread });
        Ok(())
    }

    /// The lineage has something new.
    pub(super) fn stir(&self) {
        for running in &self.running {
            // One that has been stirred already looks anyway.
            let _ = running.stir.try_send(());
        }
    }

    /// Ends them. What they were not told yet they are told at the next mount.
    pub(super) fn stop(self) {
        for Running { cancel, thread, .. } in self.running {
            drop(cancel);
            let _ = thread.join();
        }
    }
}

impl Surroundings {
    fn report(&self, name: &str, failing: Option<String>) {
        let _ = self.reports.send(Message::Errand(Report::Notified { name: name.to_owned(), failing }));
    }
}

fn note(name: &str) -> String {
    format!("notify-{name}")
}

/// How far a hook was told.
#[derive(Debug)]
struct Told {
    name: String,
    next: EventSeq,
}

impl Told {
    fn of(store: &Store, name: &str) -> Result<Self, StoreError> {
        let name = note(name);
        let known = store.note(&name)?.and_then(|text| String::from_utf8(text).ok()).and_then(|text| text.trim().parse().ok());
        if let Some(next) = known {
            return Ok(Self { name, next: EventSeq(next) });
        }
        let told = Self { next: store.catalog().next_event()?, name };
        told.save(store)?;
        Ok(told)
    }

    fn save(&self, store: &Store) -> Result<(), StoreError> {
        store.put_note(&self.name, format!("{}\n", self.next.0).as_bytes())
    }
}

/// What an event is to hooks, if it is anything.
fn topic(what: &EventKind) -> Option<Topic> {
    match what {
        // Its changes live on in another version.
        EventKind::Rejected { reason: Reason::Rebased { .. } } => None,
        EventKind::Rejected { .. } => Some(Topic::Rejected),
        EventKind::Promoted { .. } => Some(Topic::Promoted),
        EventKind::RolledBack { .. } | EventKind::ProductionRolledBack { .. } => Some(Topic::RolledBack),
        EventKind::HeldBack { .. } => Some(Topic::HeldBack),
        EventKind::DiskLow { .. } => Some(Topic::DiskLow),
        _ => None,
    }
}

/// A hook's thread.
struct Hook {
    config: Notify,
    around: Surroundings,
    told: Told,
    stirred: Receiver<()>,
    cancel: Cancel,
}

/// The thread is to end.
struct Ended;

impl Hook {
    fn serve(mut self) {
        loop {
            let ended = match self.next() {
                Ok(Some((event, topic))) => self.tell(&event, topic),
                Ok(None) => self.wait(None),
                Err(error) => {
                    self.around.report(&self.config.name, Some(format!("the lineage can't be read: {error}")));
                    self.wait(Some(LONGEST_RETRY))
                }
            };
            if matches!(ended, Err(Ended)) {
                return;
            }
        }
    }

    /// Waits until something is new, or for as long as is said.
    fn wait(&self, time: Option<Duration>) -> Result<(), Ended> {
        let (timer, stirred) = match time {
            Some(time) => (after(time), &never()),
            None => (never(), &self.stirred),
        };
        select! {
            recv(self.cancel.receiver()) -> _ => Err(Ended),
            recv(stirred) -> stirred => stirred.map_err(|_| Ended),
            recv(timer) -> _ => Ok(()),
        }
    }

    /// The next event that it is to be told of. Those before it are behind it then.
    fn next(&mut self) -> Result<Option<(Event, Topic)>, StoreError> {
        let catalog = self.around.store.catalog();
        loop {
            let seqs = catalog.event_seqs(self.told.next, AT_ONCE)?;
            if seqs.is_empty() {
                return Ok(None);
            }
            for seq in seqs {
                let event = catalog.event(seq)?;
                let fresh = |event: &Event| self.around.clock.now().since(event.at) <= NEWS;
                let topic = event.as_ref().and_then(|event| topic(&event.what)).filter(|topic| self.config.on.contains(topic));
                if let (Some(event), Some(topic)) = (event.filter(fresh), topic) {
                    return Ok(Some((event, topic)));
                }
                self.told.next = seq.next();
            }
        }
    }

    /// Runs the command until it has taken the event, or has failed as often as it may.
    fn tell(&mut self, event: &Event, topic: Topic) -> Result<(), Ended> {
        let name = self.config.name.clone();
        let subject = event.version.map(|version| format!("{version} ")).unwrap_or_default();
        let mut wait = FIRST_RETRY;
        for attempt in 0..=self.config.retries {
            let outcome = check::run(&self.job(event, topic), &self.cancel);
            match outcome {
                Outcome::Passed => {
                    tracing::info!("notify {name}: told of {subject}{}", topic.as_str());
                    self.around.report(&name, None);
                    break;
                }
                Outcome::Cancelled => return Err(Ended),
                _ => {}
            }
            let last = attempt == self.config.retries;
            let next = if last { "given up".to_owned() } else { "it is tried again".to_owned() };
            let said = self.last_line().map(|line| format!(": {}", text::printable(&line))).unwrap_or_default();
            let line = format!("could not be told of {subject}{}: {}{said}; {next}", topic.as_str(), text::ending(&outcome));
            self.around.report(&name, Some(line));
            if !last {
                self.wait(Some(wait))?;
                wait = (wait * 2).min(LONGEST_RETRY);
            }
        }
        self.told.next = event.seq.next();
        if let Err(error) = self.told.save(&self.around.store) {
            // At worst it is told once more after the next mount.
            tracing::warn!("notify {name}: how far it was told can't be written: {error}");
        }
        Ok(())
    }

    fn job(&self, event: &Event, topic: Topic) -> CommandJob {
        let Surroundings { store, mount, .. } = &self.around;
        let mut environment = vec![
            ("SHADOWFS_EVENT".to_owned(), topic.as_str().into()),
            ("SHADOWFS_STORE".to_owned(), store.path().into()),
            ("SHADOWFS_MOUNT".to_owned(), mount.into()),
        ];
        environment.extend(event.version.map(|version| ("SHADOWFS_VERSION".to_owned(), version.to_string().into())));
        CommandJob {
            command: self.config.run.clone(),
            // Not in the mount: it must not keep it from being unmounted.
            directory: PathBuf::from("/"),
            environment,
            user: self.config.user.clone(),
            log: self.log().into(),
            timeout: self.config.timeout,
            input: self.document(event),
            limits: self.config.limits.clone(),
        }
    }

    /// The event's line of `log.jsonl`, with the store and the mount.
    fn document(&self, event: &Event) -> Vec<u8> {
        let line = event::json_line(event);
        let Ok(mut document) = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&line) else { return line.into_bytes() };
        document.insert("store".to_owned(), self.around.store.path().display().to_string().into());
        document.insert("mount_point".to_owned(), self.around.mount.display().to_string().into());
        format!("{}\n", serde_json::Value::Object(document)).into_bytes()
    }

    fn log(&self) -> PathBuf {
        self.around.run_dir.join(format!("{}.log", note(&self.config.name)))
    }

    /// The last words of a hook that failed.
    fn last_line(&self) -> Option<String> {
        let text = std::fs::read(self.log()).ok()?;
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().rev().find(|line| !line.trim().is_empty())?;
        Some(line.chars().take(200).collect())
    }
}

/// Whether free space is low, and when it is looked at next.
#[derive(Clone, Copy, Debug)]
pub(super) struct DiskWatch {
    low: bool,
    pub(super) look_at: Instant,
}

impl DiskWatch {
    pub(super) const fn new(now: Instant) -> Self {
        Self { low: false, look_at: now }
    }
}

impl Dispatcher {
    /// Looks at free space, and notes when it has become low.
    pub(super) fn look_at_disk(&mut self) {
        let now = self.clock.instant();
        if now < self.disk.look_at {
            return;
        }
        self.disk.look_at = now + LOOK_AT_DISK;
        let Ok(figures) = self.store.filesystem() else { return };
        let (free, total) = (figures.blocks_available() * figures.fragment_size(), figures.blocks() * figures.fragment_size());
        let Err(line) = crate::promote::enough_free(free, total, self.config.promotion.require_free) else {
            self.disk.low = false;
            self.warnings.remove("disk");
            return;
        };
        // A lineage that can't be written now gets it at the next look.
        if !self.disk.low && self.note(None, EventKind::DiskLow { free, total }).is_ok() {
            self.disk.low = true;
        }
        self.warn("disk".to_owned(), line);
    }

    pub(super) fn notified(&mut self, name: &str, failing: Option<String>) {
        match failing {
            Some(line) => self.warn(note(name), format!("notify {name} {line}")),
            None => drop(self.warnings.remove(&note(name))),
        }
    }

    /// The hooks are those of the configuration in force.
    pub(super) fn configure_hooks(&mut self) {
        let config = Arc::clone(&self.config);
        match self.hooks.configure(&config.notify) {
            Ok(()) => drop(self.warnings.remove("notify")),
            Err(error) => self.warn("notify".to_owned(), format!("not all of [[notify]] could be started: {error}")),
        }
    }
}
