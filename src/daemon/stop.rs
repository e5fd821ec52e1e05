//! The end in order: nothing is sealed, nothing is lost, running checks are left to the next mount.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::DaemonError;
use super::dispatcher::{Dispatcher, Key};
use super::production::ProductionMount;
use super::requests::refused;
use super::start::{MARKER, Started};
use super::supervisor;
use super::todo::Todo;
use crate::control::protocol::{ErrorKind, Reply};
use crate::fs::Mounts;
use crate::store::event::EventKind;
use crate::store::record::Outcome;
use crate::sys;
use crate::sys::mount::MountError;

/// How long stopped checks have to be gone; they are killed, so it takes a moment.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves until the end.
pub(super) fn run(started: Started) -> Result<(), DaemonError> {
    let Started { mut dispatcher, mounts, server, _watch: watch } = started;
    loop {
        let askers = dispatcher.serve();
        dispatcher.suspend();
        // Who asks gets told if the mount is in use; a signal, or a mount that somebody took down, does not wait.
        match take_down(&mut dispatcher, &mounts, askers.is_empty()) {
            Ok(()) => {
                supervisor::stopping();
                drop(watch);
                let ended = finish(dispatcher, mounts);
                for asker in askers {
                    let _ = asker.send(match &ended {
                        Ok(()) => Reply::Nothing,
                        Err(error) => refused(ErrorKind::Failed, error.to_string()),
                    });
                }
                drop(server);
                return ended;
            }
            Err(error) => {
                dispatcher.bind_production();
                for asker in askers {
                    let _ = asker.send(refused(ErrorKind::Temporary, error.to_string()));
                }
            }
        }
    }
}

fn take_down(dispatcher: &mut Dispatcher, mounts: &Mounts, lazy: bool) -> Result<(), MountError> {
    if let Some(mount) = &mut dispatcher.production_mount
        && std::mem::take(&mut mount.attached)
    {
        detach_production(&mount.dir);
    }
    mounts.unmount(lazy)
}

/// Takes the kernel mount of production away, if it is there.
fn detach_production(target: &Path) {
    let ours = sys::mountinfo::mounted_at(target).ok().flatten().is_some_and(|mount| mount.kind == sys::mount::FILESYSTEM);
    if ours && let Err(error) = sys::bind::detach(target) {
        tracing::warn!("{}: {error}", target.display());
    }
}

/// After the mounts are gone.
fn finish(mut dispatcher: Dispatcher, mounts: Arc<Mounts>) -> Result<(), DaemonError> {
    drop(mounts);
    dispatcher.drain_staging();
    dispatcher.work();
    let Dispatcher { errands, pool, staging, store, run_dir, sources, production_mount, sweeper, scrubber, hooks, .. } = dispatcher;
    hooks.stop();
    sweeper.finish();
    scrubber.finish();
    // A version that is being sealed is sealed; what fails is in its journal.
    errands.finish();
    if let Some(ProductionMount { dir, binder, .. }) = production_mount {
        binder.finish();
        detach_production(&dir);
    }
    drop(sources);
    pool.stop();
    staging.sync_all().map_err(|error| DaemonError::Other(format!("the open version could not be synced: {error}")))?;
    let _ = fs::remove_dir_all(run_dir);
    for version in store.journals()? {
        store.journal(version)?.finish()?;
    }
    let mut transaction = store.catalog().begin()?;
    transaction.append_event(crate::clock::Clock::now(&crate::clock::SystemClock), None, EventKind::Unmounted)?;
    transaction.commit()?;
    fs::remove_file(store.path().join(MARKER)).map_err(|error| DaemonError::Other(format!("{MARKER}: {error}")))?;
    tracing::info!("unmounted");
    Ok(())
}

impl Dispatcher {
    /// Stops running checks, which are in the mount and would keep it busy. They are to be tried again.
    fn suspend(&mut self) {
        self.abandon_promotion("the daemon is ending");
        let mut left: Vec<_> = self.running.drain().map(|(key, _)| key).collect();
        while !left.is_empty() {
            let Ok((key, attempted)) = self.sources.attempts.recv_timeout(PATIENCE) else { break };
            left.retain(|waiting| *waiting != key);
            let Key::Check { version, check, attempt } = &key else { continue };
            self.shared.attempt_ended(*version, check, *attempt);
            if attempted.outcome != Outcome::Cancelled {
                self.todo.push_back(Todo::Ended(key, attempted));
                continue;
            }
            let now = self.clock.instant();
            if let Some(run) = self.runs.get_mut(version) {
                run.requeue(check, now);
            }
        }
        self.work();
    }
}
