//! A store in memory that targets share: made once a process, put back to what it was after each input.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use shadowfs::clock::SystemClock;
use shadowfs::store::Store;
use shadowfs::version::import;

/// A directory for this process, in memory where that is to be had: what is fuzzed is not the disk.
pub fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let parent = Path::new("/dev/shm");
        let parent = if parent.is_dir() { parent.to_owned() } else { std::env::temp_dir() };
        // A fuzzer ends by exit: nobody would remove it. So one for each process number, taken over by the next that has it.
        let directory = parent.join(format!("shadowfs-fuzz-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir(&directory).unwrap();
        directory
    })
}

/// A new store with an empty t0.
pub fn store(name: &str) -> Arc<Store> {
    let path = directory().join(name);
    let store = Arc::new(Store::init(&path, &SystemClock).unwrap());
    import::empty(&store, &SystemClock).unwrap();
    store
}
