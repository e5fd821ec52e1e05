//! Room that is kept on the disk, so that a full one is no dead end: a file that holds it, and gives it back to the filesystem when
//! what must go on (the catalog, journals, packs of what was accepted, notes) finds no room. New bytes of large files never get it.

use parking_lot::Mutex;

use super::disk::HostFile;

/// The file that holds the room.
pub(super) const NAME: &str = "reserve";

/// The room that is kept.
#[derive(Debug, Default)]
pub(super) struct Reserve(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    file: Option<HostFile>,
    wanted: u64,
    held: u64,
}

impl Reserve {
    /// Takes room into the file, or gives some back: `wanted` bytes in all.
    pub(super) fn keep(&self, file: HostFile, wanted: u64) -> std::io::Result<()> {
        let mut state = self.0.lock();
        (state.wanted, state.held) = (wanted, 0);
        // What it holds already, of a daemon before, stays: on a full disk it could not be had again.
        if file.metadata()?.len() > wanted {
            file.set_len(wanted)?;
        }
        state.file = Some(file);
        state.fill()
    }

    /// Takes back what was spent.
    pub(super) fn renew(&self) -> std::io::Result<()> {
        self.0.lock().fill()
    }

    /// Bytes that should be held and are not.
    pub(super) fn missing(&self) -> u64 {
        let state = self.0.lock();
        state.wanted - state.held
    }

    /// Keeps none any more.
    pub(super) fn forget(&self) {
        *self.0.lock() = State::default();
    }

    /// Gives all of it back to the filesystem; false if there was nothing left.
    pub(super) fn spend(&self) -> bool {
        let mut state = self.0.lock();
        let Some(file) = state.file.as_ref().filter(|_| state.held > 0) else { return false };
        // Some filesystems give blocks out again only once it is on disk that they are free, and btrfs only when all of it is: a sync of one
        // file goes to its log, which frees nothing.
        let given = file.set_len(0).and_then(|()| file.sync_data()).and_then(|()| Ok(nix::unistd::syncfs(file.host())?));
        state.held = 0;
        match given {
            Ok(()) => tracing::warn!("the disk is full: the room that was kept for this is in use now"),
            Err(error) => tracing::error!(%error, "the disk is full, and the room that was kept for this can't be had"),
        }
        true
    }
}

impl State {
    fn fill(&mut self) -> std::io::Result<()> {
        let Some(file) = self.file.as_ref().filter(|_| self.held < self.wanted) else { return Ok(()) };
        if let Err(error) = file.allocate(nix::fcntl::FallocateFlags::empty(), 0, self.wanted) {
            // A part of it would be taken from those who need room now.
            let _given_back = file.set_len(0);
            return Err(error);
        }
        self.held = self.wanted;
        Ok(())
    }
}
