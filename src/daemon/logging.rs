//! The daemon's log.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;

/// The size past which the log is put aside; one older log is kept.
const LIMIT: u64 = 4 << 20;

/// STORE/daemon.log, with STORE/daemon.log.1 before it: no more than twice the limit.
#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    file: File,
    len: u64,
    limit: u64,
}

impl LogFile {
    fn open(path: PathBuf, limit: u64) -> io::Result<Self> {
        let file = append_to(&path)?;
        let len = file.metadata()?.len();
        Ok(Self { path, file, len, limit })
    }

    /// Puts a full log aside. If that can't be, lines go on into the one that is there.
    fn turn(&mut self) -> io::Result<()> {
        fs::rename(&self.path, self.path.with_extension("log.1"))?;
        self.file = append_to(&self.path)?;
        self.len = 0;
        Ok(())
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

impl Write for LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.len > 0 && self.len + line.len() as u64 > self.limit && self.turn().is_err() {
            // Not with every line: again after as much as fits a log.
            self.len = 0;
        }
        let written = self.file.write(line)?;
        self.len += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

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
    if let Ok(file) = LogFile::open(store.join("daemon.log"), LIMIT) {
        let _ = plain.with_ansi(false).with_writer(Mutex::new(file)).try_init();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn a_full_log_is_put_aside_and_both_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("daemon.log");
        fs::write(&path, "from the daemon before\n").unwrap();
        let mut log = LogFile::open(path.clone(), 100).unwrap();
        for number in 0..50 {
            log.write_all(format!("line {number:02}\n").as_bytes()).unwrap();
        }
        let (now, before) = (fs::read_to_string(&path).unwrap(), fs::read_to_string(dir.path().join("daemon.log.1")).unwrap());
        assert!(now.len() <= 100 && before.len() <= 100, "{} {}", now.len(), before.len());
        assert!(now.ends_with("line 49\n") && before.ends_with('\n'));
        let last = before.lines().last().unwrap()[5..].parse::<u32>().unwrap();
        assert_eq!(now.lines().next().unwrap()[5..].parse::<u32>().unwrap(), last + 1, "no line is lost between the two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
