//! Tells when the configuration file may have changed on disk.

use std::ffi::OsStr;
use std::path::Path;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};

use super::FILE_NAME;

/// A watch on a store's configuration; it ends when this is dropped.
#[derive(Debug)]
pub struct Watch {
    _watcher: RecommendedWatcher,
}

impl Watch {
    /// Calls `changed` (on a thread of its own) each time the file in `store` may have changed. One save can be several calls: wait
    /// until they cease before reading.
    ///
    /// The directory is watched, not the file: editors that write a new file and rename it would leave a watch on the old one.
    pub fn new(store: &Path, mut changed: impl FnMut() + Send + 'static) -> notify::Result<Self> {
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| match event {
            Ok(event) if concerns(&event) => changed(),
            Ok(_) => {}
            // The kernel's queue ran over, or the like: look rather than miss a change.
            Err(_) => changed(),
        })?;
        watcher.watch(store, RecursiveMode::NonRecursive)?;
        Ok(Self { _watcher: watcher })
    }
}

fn concerns(event: &Event) -> bool {
    // Reading the file is an event as well (the daemon's own reading too): only what can have written counts.
    let wrote = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        EventKind::Any | EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_) | EventKind::Other => true,
    };
    wrote && (event.need_rescan() || event.paths.iter().any(|path| path.file_name() == Some(OsStr::new(FILE_NAME))))
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
