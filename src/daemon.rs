//! The daemon: composition root, and the one dispatcher that owns the lifecycle.

use std::path::PathBuf;

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
    /// Further mount options, as after `-o`.
    pub extra: Vec<String>,
    /// Log to STORE/daemon.log (the daemon runs in the background), not to standard error.
    pub log_to_file: bool,
}

/// Why a daemon could not start or did not end in order.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The configuration was refused.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// Something else, in one line.
    #[error("{0}")]
    Other(String),
}

/// Runs a daemon until it is unmounted. `ready` is called once: when the mount answers, or with why it never will.
///
/// Must be called before any other thread is started: it blocks signals for the threads to come.
pub fn run(options: DaemonOptions, ready: impl FnOnce(Result<(), &DaemonError>)) -> Result<(), DaemonError> {
    let _ = options;
    let error = DaemonError::Other("the daemon is not built yet".to_owned());
    ready(Err(&error));
    Err(error)
}
