//! The daemon's log.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;

/// The size past which the log is put aside at start; one older log is kept.
const LIMIT: u64 = 4 << 20;

/// Sends what is traced to STORE/daemon.log, or to standard error. `SHADOWFS_LOG` says how much ("debug", "shadowfs::daemon=trace").
/// A log that can't be opened does not keep a dataset from being mounted.
pub(super) fn init(store: &Path, to_file: bool) {
    let filter = EnvFilter::try_from_env("SHADOWFS_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let plain = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    // Another subscriber in this process (a test's) stays.
    if !to_file {
        let _ = plain.with_writer(std::io::stderr).try_init();
        return;
    }
    let path = store.join("daemon.log");
    if fs::metadata(&path).is_ok_and(|data| data.len() > LIMIT) {
        let _ = fs::rename(&path, store.join("daemon.log.1"));
    }
    if let Ok(file) = OpenOptions::new().append(true).create(true).mode(0o600).open(&path) {
        let _ = plain.with_ansi(false).with_writer(Mutex::new(file)).try_init();
    }
}
