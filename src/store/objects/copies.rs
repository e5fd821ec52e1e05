//! Copies that are owed: what a frozen version has of a file that somebody has open in passthrough.
//!
//! The kernel may write into such a file as long as it is open, so the version gets a copy. To make it takes as long as the file is
//! large, so it is made by who seals, with no lock held that others wait for. Until then the object is read from the original.
//!
//! The original stays where it is until the version that has the copy is in the catalog, or given up: the journal may still lead to it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::OFlag;
use nix::unistd::Whence;
use parking_lot::Mutex;

use super::{Live, Objects, dir_name, file_name, read_error};
use crate::ids::ObjectId;
use crate::store::{HostFile, Result, StoreError};

/// What one read of the original asks for, and one where the disk has failed before.
const CHUNK: usize = 1 << 20;
const BLOCK: usize = 4 << 10;

/// What becomes the file of an object that somebody else writes to.
const TAKEN_BACK: &str = "objects/taken-back";

/// The copies that are owed, or made for versions that are not in the catalog yet.
#[derive(Debug, Default)]
pub(super) struct Copies(Mutex<HashMap<ObjectId, Arc<Copy>>>);

#[derive(Debug)]
struct Copy {
    of: ObjectId,
    len: u64,
    /// Whether somebody may write the original meanwhile.
    written: bool,
    /// What is copied; nothing once it is. Held while the copy is made, so that it is made once.
    original: Mutex<Option<Arc<HostFile>>>,
    made: AtomicBool,
    /// Nobody needs it any more.
    moot: AtomicBool,
    /// The original was discarded meanwhile, and goes with this.
    discarded: AtomicBool,
}

/// What is done about bytes that can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unreadable {
    Fails,
    IsZeros,
}

impl Copy {
    fn new(of: ObjectId, len: u64, original: Option<Arc<HostFile>>, written: bool) -> Self {
        let [made, moot, discarded] = std::array::from_fn(|_| AtomicBool::new(false));
        Self { of, len, written, original: Mutex::new(original), made, moot, discarded }
    }
}

impl Copies {
    fn get(&self, id: ObjectId) -> Option<Arc<Copy>> {
        self.0.lock().get(&id).cloned()
    }

    /// Whether the object is the original of a copy that still needs it; it is discarded with the last of these.
    pub(super) fn keep(&self, of: ObjectId) -> bool {
        let copies = self.0.lock();
        let mut kept = false;
        for copy in copies.values().filter(|copy| copy.of == of) {
            copy.discarded.store(true, Ordering::Release);
            kept = true;
        }
        kept
    }
}

impl Objects {
    /// The object `id` will be a copy of the first `len` bytes of the pending object `of`, whose file this is. It can be read at once.
    /// `written`: somebody may write the original meanwhile.
    pub fn owe_copy(&self, id: ObjectId, of: ObjectId, original: &Arc<HostFile>, len: u64, written: bool) {
        self.files.stand_in(id, original);
        self.live.write().insert(id, Live::new_file());
        let copy = Copy::new(of, len, Some(Arc::clone(original)), written);
        self.copies.0.lock().insert(id, Arc::new(copy));
    }

    /// Whether a copy is owed that nobody has made yet.
    #[must_use]
    pub fn owes_copy(&self, id: ObjectId) -> bool {
        self.copies.get(id).is_some_and(|copy| !copy.made.load(Ordering::Acquire))
    }

    /// Makes a copy that is owed, or waits for who is making it. Takes as long as the file is large, unless the host shares blocks.
    /// After a failure it is owed as before.
    pub fn make_copy(&self, id: ObjectId) -> Result<()> {
        self.make(id, Unreadable::Fails)
    }

    /// Makes a copy of what the disk still gives of the original. It can't be sealed if that is not all.
    pub fn salvage_copy(&self, id: ObjectId) -> Result<()> {
        self.make(id, Unreadable::IsZeros)
    }

    fn make(&self, id: ObjectId, unreadable: Unreadable) -> Result<()> {
        let Some(copy) = self.copies.get(id) else { return Ok(()) };
        let mut original = copy.original.lock();
        let Some(from) = original.as_ref().filter(|_| !copy.moot.load(Ordering::Acquire)) else { return Ok(()) };
        let name = file_name(id);
        // A store through a mapping into a page that is written already changes no time, and would be no news after the copy. What is on the
        // disk the kernel has to make writable anew.
        if copy.written
            && let Err(error) = from.sync_data()
        {
            self.mark(copy.of, Some(error.raw_os_error().unwrap_or(libc::EIO)), 0);
        }
        // What a try before this one left.
        let to = self.host.new_file(&name, || Ok(true))?;
        let lost = match self.fill(&copy, from, &to, id, unreadable) {
            Ok(lost) => lost,
            Err(error) => {
                if let Err(error) = self.host.remove(&name) {
                    tracing::warn!(%error, "a copy that came to nothing stays behind");
                }
                return Err(error);
            }
        };
        self.files.stand_down(id, Arc::new(to));
        self.inherits(id);
        if let Some(errno) = lost {
            self.mark(id, Some(errno), 0);
        }
        *original = None;
        copy.made.store(true, Ordering::Release);
        Ok(())
    }

    /// Sees to it that nobody writes into the file of an object that a journal names. Who had it open in passthrough when the daemon
    /// before this one ended can, for as long as it stays open: the kernel asks no daemon. Then the object gets a file of its own, with what
    /// is in the old one now, and whoever writes goes on in a file without a name. To be called before anything has the object open.
    ///
    /// # Errors
    /// The file can't be read, or there is no room for another.
    pub fn take_back(&self, id: ObjectId) -> Result<()> {
        let name = file_name(id);
        let Some(from) = self.host.existing("open", &name, OFlag::O_RDONLY)? else { return Ok(()) };
        if !crate::sys::may_be_written(from.host()) {
            return Ok(());
        }
        tracing::warn!("{name} is still open for writing in a mount that is gone: it is copied");
        let failed = |error| {
            StoreError::io(format!("copy {name}, which a program still has open in a mount that is gone (end it, or make room)"), error)
        };
        let len = from.metadata().map_err(failed)?.len();
        let to = self.host.new_file(TAKEN_BACK, || Ok(true))?;
        let copy = Copy::new(id, len, None, false);
        if !self.clone_blocks(&from, &to).map_err(failed)? {
            copy_bytes(&copy, &from, &to, id, Unreadable::Fails)?;
        }
        to.set_len(len).and_then(|()| to.sync_data()).map_err(failed)?;
        self.host.rename(TAKEN_BACK, &name)?;
        self.host.sync_dir(&dir_name(id))
    }

    /// Removes what a crash left of `take_back`.
    pub(in crate::store) fn forget_taken_back(&self) -> Result<()> {
        self.host.remove(TAKEN_BACK).map(drop)
    }

    /// The errno of a read that failed.
    fn fill(&self, copy: &Copy, from: &HostFile, to: &HostFile, id: ObjectId, unreadable: Unreadable) -> Result<Option<i32>> {
        let failed = |error| StoreError::io(format!("write {}", file_name(id)), error);
        let lost = match self.clone_blocks(from, to).map_err(failed)? {
            true => None,
            false => copy_bytes(copy, from, to, id, unreadable)?,
        };
        to.set_len(copy.len).map_err(failed)?;
        Ok(lost)
    }

    /// The version that has the copy is in the catalog, or nobody needs it: the original is let go of.
    pub fn settle_copy(&self, id: ObjectId) {
        let gone = self.copies.0.lock().remove(&id);
        let Some(copy) = gone else { return };
        copy.moot.store(true, Ordering::Release);
        if copy.discarded.load(Ordering::Acquire) {
            *copy.original.lock() = None;
            self.discard(copy.of);
        }
    }

    /// Forgets an object whose copy is owed. `false`: there is no such, or it is made.
    pub(super) fn forgive_copy(&self, id: ObjectId) -> bool {
        let Some(copy) = self.copies.get(id) else { return false };
        copy.moot.store(true, Ordering::Release);
        let made = copy.original.lock().take().is_none();
        if !made {
            self.live.write().remove(&id);
            self.files.forget_stand_in(id);
        }
        self.settle_copy(id);
        !made
    }
}

/// Copies bytes and leaves holes out. The original may change meanwhile: of each byte the copy has what was there when it was read, and
/// zero where the original had ended. The errno of a read that failed comes back.
fn copy_bytes(copy: &Copy, from: &HostFile, to: &HostFile, id: ObjectId, unreadable: Unreadable) -> Result<Option<i32>> {
    let mut buffer = vec![0; if unreadable == Unreadable::Fails { CHUNK } else { BLOCK }];
    let (mut at, mut lost) = (0, None);
    while at < copy.len {
        let Some((data, end)) = next_data(from, at, copy.len) else { break };
        at = data;
        while at < end {
            if copy.moot.load(Ordering::Acquire) {
                return Ok(lost);
            }
            let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
            match from.read_at(&mut buffer[..want], at) {
                Ok(0) => return Ok(lost),
                Ok(n) => {
                    to.write_all_at(&buffer[..n], at).map_err(|error| StoreError::io(format!("write {}", file_name(id)), error))?;
                    at += n as u64;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if unreadable == Unreadable::IsZeros => {
                    lost = Some(error.raw_os_error().unwrap_or(libc::EIO));
                    at += want as u64;
                }
                Err(error) => return Err(read_error(&file_name(copy.of), error)),
            }
        }
    }
    Ok(lost)
}

/// Where data begins and ends from `at` on; all of the rest if the host does not tell, `None` if there is none.
fn next_data(file: &HostFile, at: u64, len: u64) -> Option<(u64, u64)> {
    let seek = |at: u64, whence| nix::unistd::lseek(file, i64::try_from(at).unwrap_or(i64::MAX), whence);
    let data = match seek(at, Whence::SeekData) {
        Ok(data) => u64::try_from(data).unwrap_or(at),
        Err(nix::errno::Errno::ENXIO) => return None,
        Err(_) => return Some((at, len)),
    };
    let hole = seek(data, Whence::SeekHole).ok().and_then(|hole| u64::try_from(hole).ok());
    Some((data, hole.unwrap_or(len).clamp(data + 1, len.max(data + 1))))
}
