//! The daemon: composition root, and the one dispatcher that owns the lifecycle.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `start`, `stop` | recovery at the mount, and the end in order |
//! | `dispatcher`, `message`, `todo` | the thread that decides: what reaches it, what it has to do |
//! | `seals`, `judge`, `rollback`, `publish` | the open version, checks and verdicts, the way back, promotion |
//! | `requests`, `keeping`, `documents`, `waiters`, `hold` | what the command line asks for |
//! | `retention`, `keeper`, `leases` | what has had its time, what is in use, and the sweep of what is not |
//! | `metrics` | the numbers that checks report: rules and trends |
//! | `examine`, `scrubber`, `offline` | checks of the store, by hand and in the background; what works without a daemon |
//! | `errands` | what takes long, one after the other, on a thread of its own |
//! | `shared`, `lineage_log`, `kernel`, `production` | what FUSE threads read, and what the kernel is told |
//! | `hooks` | commands that are told of events |
//! | `logging`, `signals`, `supervisor` | the process |

mod dispatcher;
mod documents;
mod errands;
mod examine;
mod hold;
mod hooks;
mod judge;
mod keeper;
mod keeping;
mod kernel;
mod leases;
mod lineage_log;
mod logging;
mod message;
mod metrics;
pub mod offline;
mod production;
mod publish;
mod requests;
mod retention;
mod rollback;
mod scrubber;
mod seals;
mod shared;
mod signals;
mod start;
mod stop;
mod supervisor;
#[cfg(test)]
mod tests;
mod todo;
mod waiters;

use std::path::PathBuf;
use std::sync::Arc;

use crate::clock::SystemClock;
use crate::control::protocol::{ErrorKind, Refusal};
use crate::store::StoreError;
use crate::sys::mount::MountError;

/// What a daemon is started with.
#[derive(Clone, Debug, Default)]
pub struct DaemonOptions {
    /// The store.
    pub store: PathBuf,
    /// Where it is mounted (absolute).
    pub mount_point: PathBuf,
    /// Let other users in (`allow_other`).
    pub allow_other: bool,
    /// Keep a kernel mount of production here.
    pub production_dir: Option<PathBuf>,
    /// Log to STORE/daemon.log (the daemon runs in the background), not to standard error.
    pub log_to_file: bool,
}

/// Why a daemon could not start or did not end in order.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The configuration was refused.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// The store or the mount point can't be used as they are.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Something else, in one line.
    #[error("{0}")]
    Other(String),
}

impl From<StoreError> for DaemonError {
    fn from(error: StoreError) -> Self {
        let kind = match &error {
            StoreError::NotAStore { .. } | StoreError::NewerFormat { .. } => ErrorKind::Usage,
            StoreError::Exists { .. } | StoreError::InUse { .. } => ErrorKind::Conflict,
            _ => ErrorKind::Failed,
        };
        Self::Refused(Refusal { kind, message: error.to_string() })
    }
}

impl From<MountError> for DaemonError {
    fn from(error: MountError) -> Self {
        let kind = match &error {
            MountError::Missing(_) | MountError::NotADirectory(_) | MountError::OthersNotAllowed(_) => ErrorKind::Usage,
            MountError::NotEmpty(_) | MountError::Mounted { .. } | MountError::Covered(_) => ErrorKind::Conflict,
            MountError::Busy(_) => ErrorKind::Temporary,
            MountError::Refused { .. } => ErrorKind::Failed,
        };
        Self::Refused(Refusal { kind, message: error.to_string() })
    }
}

/// Runs a daemon until it is unmounted. `ready` is called once: when the mount answers, or with why it never will.
///
/// Must be called before any other thread is started: it blocks signals for the threads to come.
pub fn run(options: DaemonOptions, ready: impl FnOnce(Result<(), &DaemonError>)) -> Result<(), DaemonError> {
    crate::sys::few_heaps();
    match start::start(&options, Arc::new(SystemClock)) {
        Ok(started) => {
            ready(Ok(()));
            supervisor::ready(started.mounts.mount_point());
            stop::run(started)
        }
        Err(error) => {
            tracing::error!("{error}");
            ready(Err(&error));
            Err(error)
        }
    }
}
