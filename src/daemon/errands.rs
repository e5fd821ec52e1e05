//! The errand thread: what takes long and must be done one after the other (hashing, syncing, walking a difference), so that the
//! dispatcher never waits for it.

use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};

use super::message::{Changes, Message, Report};
use crate::clock::Clock;
use crate::ids::VersionId;
use crate::store::Store;
use crate::sys;
use crate::tree::{self, PathChange, Snapshot};
use crate::version::seal::{self, Frozen};

/// The first wait before a failed seal is tried again. It doubles up to the longest.
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// The longest wait before a failed seal is tried again.
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// So many failures, some four seconds, and it is asked whether files of the version are lost: those it need not wait for.
const SEAL_TRIES: u32 = 4;

/// An errand.
#[derive(Debug)]
pub(super) enum Errand {
    /// Seal a frozen version.
    Seal { frozen: Box<Frozen>, message: Option<String> },
    /// Find what a version changed.
    Plan { version: VersionId, sides: Box<Sides>, file: Option<PathBuf> },
    /// Put a version's directory in the place of production's kernel mount.
    Bind { source: PathBuf, target: PathBuf, attached: bool },
}

/// What a version's changes are found from.
#[derive(Debug)]
pub(super) struct Sides {
    pub(super) version: Snapshot,
    pub(super) parent: Snapshot,
    /// The last valid version, if that is not the parent.
    pub(super) base: Option<Snapshot>,
}

/// The thread.
#[derive(Debug)]
pub(super) struct Errands {
    queue: Sender<Errand>,
    /// Dropped, it ends a seal's wait for another try.
    alive: Sender<()>,
    thread: JoinHandle<()>,
}

struct Runner {
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    reports: Sender<Message>,
    stopped: Receiver<()>,
}

impl Errands {
    pub(super) fn start(store: Arc<Store>, clock: Arc<dyn Clock>, reports: Sender<Message>) -> io::Result<Self> {
        let (queue, errands) = unbounded();
        let (alive, stopped) = bounded(0);
        let runner = Runner { store, clock, reports, stopped };
        let thread = std::thread::Builder::new().name("errands".to_owned()).spawn(move || {
            for errand in errands {
                runner.run(errand);
            }
        })?;
        Ok(Self { queue, alive, thread })
    }

    pub(super) fn send(&self, errand: Errand) {
        // The thread lives as long as the queue.
        let _ = self.queue.send(errand);
    }

    /// Ends once the errands that were sent are done; a seal that fails is left to the next mount.
    pub(super) fn finish(self) {
        let Self { queue, alive, thread } = self;
        drop((queue, alive));
        let _ = thread.join();
    }
}

impl Runner {
    fn report(&self, report: Report) {
        let _ = self.reports.send(Message::Errand(report));
    }

    fn run(&self, errand: Errand) {
        match errand {
            Errand::Seal { frozen, message } => self.seal(&frozen, message),
            Errand::Plan { version, sides, file } => {
                let changes = plan(&sides, file).map(Arc::new).map_err(|error| error.to_string());
                self.report(Report::Planned { version, changes });
            }
            Errand::Bind { source, target, attached } => {
                // Somebody may have taken it away by hand.
                let there = attached && sys::mountinfo::mounted_at(&target).is_ok_and(|mount| mount.is_some());
                let bound = if there { sys::bind::switch(&source, &target) } else { sys::bind::attach(&source, &target) };
                self.report(Report::Bound(bound.map_err(|error| format!("production's mount at {}: {error}", target.display()))));
            }
        }
    }

    fn seal(&self, frozen: &Frozen, message: Option<String>) {
        let mut wait = FIRST_RETRY / 2;
        for tried in 1_u32.. {
            let error = match seal::seal(&self.store, frozen, message.clone(), self.clock.now()) {
                Ok((record, _)) => return self.report(Report::Sealed(Box::new(record))),
                Err(error) => error,
            };
            if tried >= SEAL_TRIES {
                match seal::seal_as_ghost(&self.store, frozen, message.clone(), self.clock.now()) {
                    Ok(Some((record, _))) => return self.report(Report::Sealed(Box::new(record))),
                    Ok(None) => {}
                    Err(error) => tracing::debug!("{} can't become a ghost either: {error}", frozen.version()),
                }
            }
            self.report(Report::SealFails { version: frozen.version(), why: error.to_string() });
            wait = (wait * 2).min(LONGEST_RETRY);
            if self.stopped.recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }
}

fn plan(sides: &Sides, file: Option<PathBuf>) -> Result<Changes, Box<dyn std::error::Error>> {
    let list = tree::changes(&sides.parent, &sides.version)?.into();
    let changes = Changes { list, file };
    if let Some(file) = &changes.file {
        let told = match &sides.base {
            Some(base) => &tree::changes(base, &sides.version)?,
            None => changes.list.as_ref(),
        };
        write_paths(file, told).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    Ok(changes)
}

/// One path a line; a name with a newline in it is quoted as C does, so that a line is always one path.
fn write_paths(file: &Path, changes: &[PathChange]) -> io::Result<()> {
    let mut out = BufWriter::new(OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(file)?);
    for change in changes {
        if change.path.contains(&b'\n') {
            write!(out, "\"{}\"", change.path.escape_ascii())?;
        } else {
            out.write_all(&change.path)?;
        }
        out.write_all(b"\n")?;
    }
    out.flush()
}
