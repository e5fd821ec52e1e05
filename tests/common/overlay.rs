//! Stores that the kernel does not serve in passthrough, whoever mounts them.

use std::fs;
use std::path::PathBuf;

/// An overlay, on which the kernel stacks nothing more: a store on it is served from the cache, also for root.
pub struct Overlay {
    store: PathBuf,
    _dir: tempfile::TempDir,
}

impl Overlay {
    /// Mounts it where the store will be.
    pub fn at(store: PathBuf) -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let at = |name: &str| dir.path().join(name);
        for path in [&at("lower"), &at("upper"), &at("work"), &store] {
            fs::create_dir(path).unwrap();
        }
        let options = format!("lowerdir={},upperdir={},workdir={}", at("lower").display(), at("upper").display(), at("work").display());
        nix::mount::mount(Some("overlay"), &store, Some("overlay"), nix::mount::MsFlags::empty(), Some(options.as_str())).unwrap();
        Self { store, _dir: dir }
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.store, nix::mount::MntFlags::MNT_DETACH);
        // The sandbox could not remove its directory while this was mounted in it.
        let _ = self.store.parent().map(fs::remove_dir_all);
    }
}
