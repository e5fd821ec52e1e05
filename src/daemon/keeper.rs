//! What frees space: versions that are gone are let go of once nobody uses them, and swept.
//!
//! A version that expires, or is dropped, is *departed* first: no name leads to it any more, but its content stays for as long as the
//! kernel knows a directory of it, or a file that no other version shows. The kernel is asked to look its names up anew, whereupon it
//! forgets what nobody uses. What it still knows then is open, mapped or a working directory. Nothing of this is on disk: a daemon that
//! ends has no readers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{io, thread};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use parking_lot::Mutex;

use super::message::{Message, Retired};
use super::shared::Shared;
use crate::control::protocol::GcDoc;
use crate::fs::known::Known;
use crate::fs::nodes::ViewNode;
use crate::fs::{Visible, VisibleVersion};
use crate::ids::{Ino, VersionId};
use crate::retain::{Collector, GcError, Leisure, swept};
use crate::store::StoreError;
use crate::tree::key::{FileKind, Name, Part, Value};
use crate::tree::verify::VerifyError;
use crate::tree::{Change, Tree, TreeError};
use crate::version::Staging;

/// Names that the kernel is asked at once to look up anew.
const MOST_NAMES: usize = 4096;
/// How long `gc` waits for the kernel to forget what nobody uses.
const FORGETS: Duration = Duration::from_secs(1);
/// How often it is looked meanwhile.
const LOOK: Duration = Duration::from_millis(10);
/// How often it is looked whether a version that is gone is still in use: at first, and after a long time.
const OFTEN: Duration = Duration::from_secs(1);
const SELDOM: Duration = Duration::from_secs(30);
/// How long a sweep by hand waits for the one in the background to stop.
const GIVES_WAY: Duration = Duration::from_secs(30);

/// Finds out what is in use, and frees what is not.
#[derive(Debug)]
pub(super) struct Keeper {
    shared: Arc<Shared>,
    staging: Arc<Staging>,
    known: Arc<Known>,
    messages: Sender<Message>,
    /// Files of departed versions that no other version shows and that were in use when the last directory of theirs was forgotten. A
    /// leaf lock.
    watched: Mutex<BTreeMap<VersionId, Vec<ViewNode>>>,
    /// Ends the sweep in the background: another is to be made by hand, or the daemon is ending.
    give_way: AtomicBool,
    wake: Sender<()>,
}

impl Keeper {
    /// With what tells the background that there is something to sweep.
    pub(super) fn new(
        shared: Arc<Shared>,
        staging: Arc<Staging>,
        known: Arc<Known>,
        messages: Sender<Message>,
    ) -> (Arc<Self>, Receiver<()>) {
        let (wake, woken) = unbounded();
        let (watched, give_way) = (Mutex::default(), AtomicBool::new(false));
        (Arc::new(Self { shared, staging, known, messages, watched, give_way, wake }), woken)
    }

    /// There is something to sweep.
    pub(super) fn wake(&self) {
        let _ = self.wake.send(());
    }

    /// The trees that are not in the catalog, or not any more.
    pub(super) fn live(&self) -> Vec<Tree> {
        let mut live = self.staging.live();
        live.extend(self.shared.visible().departed.values().map(|version| version.snapshot.tree.clone()));
        live
    }

    /// Lets go of what is gone and not in use; the versions that are.
    pub(super) fn let_go(&self) -> Vec<VersionId> {
        let visible = self.shared.visible();
        let mut used = Vec::new();
        for (version, shown) in &visible.departed {
            let in_use = self.is_used(&visible, *version, shown).unwrap_or_else(|error| {
                tracing::warn!(
                    "{version} is gone, and whether it is in use can't be found out, so it is kept until the daemon ends: {error}"
                );
                true
            });
            if in_use || !self.shared.let_go(*version) {
                used.push(*version);
            } else {
                self.watched.lock().remove(version);
            }
        }
        used
    }

    fn is_used(&self, visible: &Visible, version: VersionId, shown: &VisibleVersion) -> Result<bool, TreeError> {
        if self.known.knows_directory_of(version) {
            return Ok(true);
        }
        // From here on nobody finds a file through it that was not known before.
        let watched = self.watched.lock().get(&version).cloned();
        let watched = match watched {
            Some(watched) => watched,
            None => {
                let watched = self.files_only_in(visible, shown)?;
                self.watched.lock().insert(version, watched.clone());
                watched
            }
        };
        Ok(watched.iter().any(|file| self.known.knows(*file)))
    }

    /// The files that the kernel knows and that no version has which can be browsed. The cost follows what differs from the version
    /// below, or another one.
    fn files_only_in(&self, visible: &Visible, shown: &VisibleVersion) -> Result<Vec<ViewNode>, TreeError> {
        let browsable = |version: VersionId| visible.versions.get(&version).or_else(|| visible.ghosts.get(&version));
        let above = || visible.versions.range(shown.record.version..).next().map(|(_, version)| version);
        let near = shown.record.parent.and_then(browsable).or_else(above).or_else(|| browsable(visible.production));
        let mut found = Vec::new();
        let Some(near) = near else { return Ok(found) };
        for change in shown.snapshot.tree.diff(&near.snapshot.tree) {
            let Change { key, old: Some(Value::Inode(record)), .. } = change? else { continue };
            let node = ViewNode::File(record.changed_in, key.ino);
            let is_file = key.part == Part::Inode && record.kind != FileKind::Directory;
            if is_file && self.known.knows(node) && !visible.shows(record.changed_in, key.ino)? {
                found.push(node);
            }
        }
        Ok(found)
    }

    /// Names below directories of versions that are gone: the kernel keeps what was looked up from a working directory long after
    /// that was left.
    fn names(&self) -> Vec<(ViewNode, Name)> {
        let mut names = Vec::new();
        for (version, shown) in &self.shared.visible().departed {
            for (view, dir) in self.known.directories_of(*version) {
                // What can't be read was not looked up either.
                for (name, ino, kind) in shown.snapshot.entries(dir, 0, usize::MAX).unwrap_or_default() {
                    let node = match kind {
                        FileKind::Directory => Some(ViewNode::Directory(view, *version, ino)),
                        _ => self.file(shown, ino),
                    };
                    if node.is_some_and(|node| self.known.knows(node)) {
                        names.push((ViewNode::Directory(view, *version, dir), name));
                    }
                    if names.len() >= MOST_NAMES {
                        return names;
                    }
                }
            }
        }
        names
    }

    fn file(&self, shown: &VisibleVersion, ino: Ino) -> Option<ViewNode> {
        shown.snapshot.inode(ino).ok().flatten().map(|record| ViewNode::File(record.changed_in, ino))
    }

    /// Asks the kernel to forget what nobody uses of the versions that are gone, and waits a moment for it; those that are in use.
    pub(super) fn release(&self) -> Vec<VersionId> {
        let mut waited = Duration::ZERO;
        loop {
            let used = self.let_go();
            if used.is_empty() || waited >= FORGETS {
                return used;
            }
            let names = self.names();
            if !names.is_empty() {
                // The dispatcher sends the notices, with no lock held.
                let _ = self.messages.send(Message::LetGo(names));
            }
            thread::sleep(LOOK);
            waited += LOOK;
        }
    }

    /// `gc`: retention now, and a sweep at full speed. Not from the dispatcher's thread.
    pub(super) fn gc(&self, dry_run: bool, gone: &dyn Fn() -> bool) -> Result<GcDoc, GcFailure> {
        let (reply, answer) = bounded(1);
        self.messages.send(Message::Retire { dry_run, reply }).map_err(|_| GcFailure::Ending)?;
        let Retired { expired, busy } = answer.recv().map_err(|_| GcFailure::Ending)?.map_err(GcFailure::Refused)?;
        let expiries = self.expiries().map_err(GcError::from)?;
        let in_use = self.release();
        let go_on = AtomicBool::new(false);
        let live = || self.live();
        let versions: Vec<VersionId> = expired.iter().map(|expiry| expiry.version).collect();
        let report = self.alone(gone, || {
            let collector = Collector::new(&self.shared.store, &live, &go_on);
            if dry_run { collector.preview(&versions) } else { collector.collect() }
        })?;
        let mut doc = GcDoc::new(dry_run, &expired, &report);
        doc.busy = busy;
        if !in_use.is_empty() {
            // What a sweep would free if they were let go.
            let without = || self.staging.live();
            let preview = self.alone(gone, || Collector::new(&self.shared.store, &without, &go_on).preview(&versions))?;
            let already = if dry_run { report.freed() } else { 0 };
            doc.later = preview.freed().saturating_sub(already);
            doc.in_use = in_use;
        }
        if !dry_run {
            let seen_to = doc.in_use.is_empty().then_some(expiries);
            swept(&self.shared.store, &report, seen_to, self.shared.clock.now()).map_err(GcError::from)?;
        }
        Ok(doc)
    }

    /// Sweeps, or checks, as soon as the sweep in the background has given way. `gone`: whoever asked does not wait any more.
    pub(super) fn alone<T, E: IsBusy>(&self, gone: &dyn Fn() -> bool, mut run: impl FnMut() -> Result<T, E>) -> Result<T, E> {
        let mut waited = Duration::ZERO;
        loop {
            match run() {
                Err(error) if error.is_busy() && waited < GIVES_WAY && !gone() => {
                    self.give_way.store(true, Ordering::Relaxed);
                    thread::sleep(LOOK);
                    waited += LOOK;
                }
                ended => {
                    // What gave way goes on.
                    self.wake();
                    return ended;
                }
            }
        }
    }

    /// How often versions have expired: what expires later is the next sweep's matter.
    fn expiries(&self) -> Result<u64, StoreError> {
        Ok(self.shared.store.catalog().upkeep()?.expiries)
    }

    /// A sweep in the background. Whether there is nothing left for another.
    fn sweep(&self) -> Result<bool, GcError> {
        let expiries = self.expiries()?;
        let in_use = self.release();
        let live = || self.live();
        let leisure = Leisure::new(self.shared.clock.as_ref(), &thread::sleep);
        let rest = || leisure.rest();
        let report = Collector::new(&self.shared.store, &live, &self.give_way).resting(&rest).collect()?;
        if report.complete {
            swept(&self.shared.store, &report, in_use.is_empty().then_some(expiries), self.shared.clock.now())?;
            if report.freed() > 0 {
                tracing::info!("gc freed {} bytes", report.freed());
            }
        }
        Ok(report.complete)
    }
}

/// There is one sweep, or check of the structure, at a time.
pub(super) trait IsBusy {
    /// Whether another one was under way.
    fn is_busy(&self) -> bool;
}

impl IsBusy for GcError {
    fn is_busy(&self) -> bool {
        matches!(self, Self::Busy)
    }
}

impl IsBusy for VerifyError {
    fn is_busy(&self) -> bool {
        matches!(self, Self::Busy)
    }
}

/// Why `gc` did not happen.
#[derive(Debug, thiserror::Error)]
pub(super) enum GcFailure {
    #[error("the daemon is ending; try again once it is mounted")]
    Ending,
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Gc(#[from] GcError),
}

/// The thread that sweeps in the background.
#[derive(Debug)]
pub(super) struct Sweeper {
    keeper: Arc<Keeper>,
    /// Dropped, it ends the thread.
    alive: Sender<()>,
    thread: JoinHandle<()>,
}

impl Sweeper {
    pub(super) fn start(keeper: Arc<Keeper>, woken: Receiver<()>) -> io::Result<Self> {
        let (alive, ended) = bounded(0);
        let own = Arc::clone(&keeper);
        let thread = thread::Builder::new().name("gc".to_owned()).spawn(move || run(&own, &woken, &ended))?;
        Ok(Self { keeper, alive, thread })
    }

    /// Ends once the piece of work under way is done; the rest is left to the next mount.
    pub(super) fn finish(self) {
        let Self { keeper, alive, thread } = self;
        drop(alive);
        keeper.give_way.store(true, Ordering::Relaxed);
        keeper.wake();
        let _ = thread.join();
    }
}

fn run(keeper: &Keeper, woken: &Receiver<()>, ended: &Receiver<()>) {
    // What the daemon before did not come to.
    let mut due = keeper.shared.store.catalog().upkeep().is_ok_and(|upkeep| upkeep.sweep_is_due());
    let mut pause = OFTEN;
    let over = || ended.try_recv() == Err(crossbeam::channel::TryRecvError::Disconnected);
    loop {
        if over() {
            return;
        }
        if due {
            keeper.give_way.store(over(), Ordering::Relaxed);
            let outcome = keeper.sweep();
            // One by hand that was in the way wakes us when it is done.
            due = matches!(outcome, Ok(false));
            let warning = match outcome {
                Ok(_) | Err(GcError::Busy) => None,
                Err(error) => Some(format!("gc: {error}")),
            };
            let _ = keeper.messages.send(Message::Swept { warning });
        }
        let departed = keeper.shared.visible().departed.len();
        let woke = match (departed, due) {
            (0, false) => woken.recv().map_err(|_| RecvTimeoutError::Disconnected),
            _ => woken.recv_timeout(pause),
        };
        match woke {
            Ok(()) => {
                while woken.try_recv().is_ok() {}
                (due, pause) = (true, OFTEN);
            }
            Err(RecvTimeoutError::Timeout) => {
                pause = (pause * 2).min(SELDOM);
                due |= departed > 0 && keeper.release().len() < departed;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
