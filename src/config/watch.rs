//! Tells when the configuration file may have changed on disk.

use std::ffi::OsStr;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::AsFd as _;
use std::path::Path;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent};

use super::FILE_NAME;

/// A watch on a store's configuration; it ends when this is dropped.
#[derive(Debug)]
pub struct Watch {
    /// Closed, it ends the thread.
    _alive: PipeWriter,
}

impl Watch {
    /// Calls `changed` (on a thread of its own) each time the file in `store` may have changed. One save can be several calls: wait
    /// until they cease before reading.
    ///
    /// The directory is watched, not the file: editors that write a new file and rename it would leave a watch on the old one.
    /// Of writes only their end is told: the catalog lies beside the file, and each commit writes it a dozen times.
    ///
    /// # Errors
    /// The directory can't be watched, or no thread started.
    pub fn new(store: &Path, mut changed: impl FnMut() + Send + 'static) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let moved = AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_MOVED_FROM;
        let made = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE;
        inotify.add_watch(store, AddWatchFlags::IN_CLOSE_WRITE | moved | made)?;
        let (over, alive) = io::pipe()?;
        let watch = move || {
            while wait(&inotify, &over) {
                match inotify.read_events() {
                    Ok(events) if events.iter().any(concerns) => changed(),
                    Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => {}
                    Err(error) => return tracing::warn!("changes of {FILE_NAME} are no longer seen by themselves: {error}"),
                }
            }
        };
        std::thread::Builder::new().name("config".to_owned()).spawn(watch)?;
        Ok(Self { _alive: alive })
    }
}

/// Waits for events; false once the watch is over.
fn wait(inotify: &Inotify, over: &PipeReader) -> bool {
    let mut both = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN), PollFd::new(over.as_fd(), PollFlags::empty())];
    match poll(&mut both, PollTimeout::NONE) {
        Ok(_) => !both[1].any().unwrap_or(true),
        Err(error) => error == Errno::EINTR,
    }
}

fn concerns(event: &InotifyEvent) -> bool {
    // If the kernel's queue ran over: look rather than miss a change.
    event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) || event.name.as_deref() == Some(OsStr::new(FILE_NAME))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::fs;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_save_in_place_and_a_rename_over_it_are_told_and_a_reader_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE_NAME);
        fs::write(&file, "a").unwrap();
        let (tell, told) = crossbeam::channel::unbounded();
        let _watch = Watch::new(dir.path(), move || {
            let _ = tell.send(());
        })
        .unwrap();
        let patience = Duration::from_secs(20);
        let settle = || while told.recv_timeout(Duration::from_millis(300)).is_ok() {};

        fs::write(&file, "b").unwrap();
        told.recv_timeout(patience).unwrap();
        settle();
        fs::write(dir.path().join("other"), "c").unwrap();
        fs::rename(dir.path().join("other"), &file).unwrap();
        told.recv_timeout(patience).unwrap();
        settle();
        fs::read(&file).unwrap();
        fs::write(dir.path().join("unrelated"), "d").unwrap();
        assert!(told.recv_timeout(Duration::from_millis(300)).is_err());
    }
}
