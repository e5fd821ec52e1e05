//! The output of an attempt of a check: a file in `logs/tN`, or one beside the store that nobody needs after a crash.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::OFlag;

use super::disk::Appender;
use super::host::HostDir;
use super::{HostFile, Result, StoreError};

/// Where the output of an attempt goes.
#[derive(Clone, Debug)]
pub struct LogPlace {
    path: PathBuf,
    /// The store, and the file's name and its directory's in it.
    within: Option<(Arc<HostDir>, String, String)>,
}

impl LogPlace {
    pub(super) fn within(host: &Arc<HostDir>, store: &Path, dir: String, name: &str) -> Self {
        let name = format!("{dir}/{name}");
        Self { path: store.join(&name), within: Some((Arc::clone(host), name, dir)) }
    }

    /// Its path, for readers.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file, empty.
    pub fn create(&self) -> Result<Log> {
        let file = match &self.within {
            Some((host, name, _)) => {
                let file = host.file("create", name, OFlag::O_WRONLY | OFlag::O_CREAT)?;
                file.set_len(0).map_err(|error| StoreError::io(format!("empty {name}"), error))?;
                file
            }
            None => {
                HostFile::new(beside(&self.path).map_err(|error| StoreError::io(format!("create {}", self.path.display()), error))?, None)
            }
        };
        Ok(Log { place: self.clone(), out: Appender::new(file) })
    }
}

/// A log beside the store.
impl From<PathBuf> for LogPlace {
    fn from(path: PathBuf) -> Self {
        Self { path, within: None }
    }
}

fn beside(path: &Path) -> io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path)
}

/// A log being written.
#[derive(Debug)]
pub struct Log {
    place: LogPlace,
    out: Appender,
}

impl Log {
    /// Makes durable what is in it, and with `names` that it is there.
    pub fn sync(self, names: bool) -> Result<()> {
        let Some((host, name, dir)) = &self.place.within else { return Ok(()) };
        self.out.into_file().sync_data().map_err(|error| StoreError::io(format!("sync {name}"), error))?;
        if names {
            host.sync_dir(dir)?;
            host.sync_dir("logs")?;
        }
        Ok(())
    }
}

impl Write for Log {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.out.write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
