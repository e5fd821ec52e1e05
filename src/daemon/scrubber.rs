//! The scrub in the background: when it is due, as fast as it may, from where the daemon before has come to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{io, thread};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use super::examine::remember;
use super::shared::Shared;
use crate::config::Scrub;
use crate::ids::ObjectId;
use crate::store::record::{ScrubProgress, Upkeep};
use crate::store::{Store, StoreError};
use crate::tree::verify::{Pace, VerifyError, scrub_from};

/// The wall clock may jump: it is looked this often whether a scrub is due.
const LOOK: Duration = Duration::from_secs(600);
/// The wait after one that the store prevented.
const AGAIN: Duration = Duration::from_secs(600);
/// How much is read, and how much time passes, between two notes of how far it is.
const NOTE_BYTES: u64 = 256 << 20;
const NOTE: Duration = Duration::from_secs(60);

/// The thread.
#[derive(Debug)]
pub(super) struct Scrubber {
    rules: Sender<Scrub>,
    flags: Arc<Flags>,
    thread: JoinHandle<()>,
}

/// Told to the thread.
#[derive(Debug, Default)]
struct Flags {
    /// The scrub under way stops.
    stop: AtomicBool,
    /// And no other begins.
    ended: AtomicBool,
}

impl Scrubber {
    pub(super) fn start(shared: Arc<Shared>, rules: Scrub) -> io::Result<Self> {
        let (sender, changes) = unbounded();
        let flags = Arc::<Flags>::default();
        let runner = Runner { shared, changes, flags: Arc::clone(&flags) };
        let thread = thread::Builder::new().name("scrub".to_owned()).spawn(move || runner.run(rules))?;
        Ok(Self { rules: sender, flags, thread })
    }

    /// Other rules are in force: one that is under way goes on by them.
    pub(super) fn configure(&self, rules: Scrub) {
        // In this order: the thread takes the flag back with the change that it gets.
        self.flags.stop.store(true, Ordering::SeqCst);
        let _ = self.rules.send(rules);
    }

    /// Ends; what is left of a scrub is the next daemon's.
    pub(super) fn finish(self) {
        let Self { rules, flags, thread } = self;
        // In this order: the thread takes the second back, and then looks at the first.
        flags.ended.store(true, Ordering::SeqCst);
        flags.stop.store(true, Ordering::SeqCst);
        drop(rules);
        let _ = thread.join();
    }
}

struct Runner {
    shared: Arc<Shared>,
    changes: Receiver<Scrub>,
    flags: Arc<Flags>,
}

impl Runner {
    fn run(&self, mut rules: Scrub) {
        while !self.flags.ended.load(Ordering::SeqCst) {
            let wait = match self.due_in(&rules) {
                Ok(Some(Duration::ZERO)) => match self.scrub(&rules) {
                    Ok(()) => Duration::ZERO,
                    // Other rules, or the end, are a moment away.
                    Err(VerifyError::Stopped) => Duration::from_millis(10),
                    Err(error) => {
                        tracing::warn!("scrub: {error}; it is tried again");
                        AGAIN
                    }
                },
                Ok(Some(wait)) => wait.min(LOOK),
                Ok(None) => LOOK,
                Err(error) => {
                    tracing::warn!("scrub: {error}; it is tried again");
                    AGAIN
                }
            };
            match self.changes.recv_timeout(wait) {
                Ok(changed) => {
                    self.flags.stop.store(false, Ordering::SeqCst);
                    rules = self.changes.try_iter().last().unwrap_or(changed);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// How long until a scrub is due; `None` if none ever is by itself.
    fn due_in(&self, rules: &Scrub) -> Result<Option<Duration>, StoreError> {
        if rules.interval.is_zero() {
            return Ok(None);
        }
        let Upkeep { scrub, scrubbed, .. } = self.shared.store.catalog().upkeep()?;
        if scrub.is_some() {
            return Ok(Some(Duration::ZERO));
        }
        let last = match scrubbed {
            Some(result) => result.at,
            None => self.shared.store.catalog().created_at()?,
        };
        let now = self.shared.clock.now();
        // One that was in the future says that the clock has jumped: then it was now.
        Ok(Some(last.min(now).plus(rules.interval).since(now)))
    }

    fn scrub(&self, rules: &Scrub) -> Result<(), VerifyError> {
        let (store, clock) = (&self.shared.store, &self.shared.clock);
        let begun = ScrubProgress { begun_at: clock.now(), next: ObjectId(0), objects: 0, bytes: 0, damaged: Vec::new() };
        let begun = store.catalog().upkeep()?.scrub.unwrap_or(begun);
        note(store, &begun)?;
        let pace = Pace::new(clock.as_ref(), rules.rate, &thread::sleep);
        let (mut last, mut noted) = (begun.clone(), (begun.bytes, clock.instant()));
        let mut told = |progress: &ScrubProgress| {
            last = progress.clone();
            if progress.bytes - noted.0 >= NOTE_BYTES || clock.instant().saturating_duration_since(noted.1) >= NOTE {
                note(store, progress)?;
                noted = (progress.bytes, clock.instant());
            }
            Ok(())
        };
        let scrubbed = scrub_from(store, begun, &pace, &self.flags.stop, &mut told);
        let scrubbed = match scrubbed {
            Ok(scrubbed) => scrubbed,
            Err(error) => {
                note(store, &last)?;
                return Err(error);
            }
        };
        remember(store, &scrubbed, clock.now())?;
        for finding in &scrubbed.findings {
            tracing::error!("scrub: {finding}");
        }
        tracing::info!("scrub: {} contents, {} bytes, {} findings", scrubbed.objects, scrubbed.bytes, scrubbed.findings.len());
        Ok(())
    }
}

/// Makes durable how far a scrub has come.
fn note(store: &Store, progress: &ScrubProgress) -> Result<(), StoreError> {
    let mut transaction = store.catalog().begin()?;
    let upkeep = transaction.upkeep()?;
    transaction.set_upkeep(&Upkeep { scrub: Some(progress.clone()), ..upkeep })?;
    transaction.commit()
}
