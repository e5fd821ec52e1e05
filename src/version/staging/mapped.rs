//! Files that were closed for writing while a mapping may still write them.
//!
//! In passthrough a mapping holds the host file, not ours: the kernel tells of the last close(2), and of no munmap(2). So when the last
//! handle for writing is to go, the host is asked whether anybody else has its file open for writing (`sys::lease`). As long as somebody
//! has, the handle stays, without a number: it counts as a writer, the file stays in passthrough, a forced seal copies it, a rollback makes
//! it stale. It goes when the answer is no. The question is put again and again: the kernel would not tell.
//!
//! To be asked about others, the host file must not be open for writing by us: meanwhile it is open for reading only (`step_back`), until
//! somebody opens it for writing or a request changes it. A new mapping needs an open; what fork(2) and mremap(2) make keeps the host file
//! in use.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Staging;
use super::handles::{FileSlot, OpenFile};
use super::state::State;
use super::types::StagingEvent;
use super::working::Work;
use crate::ids::Ino;
use crate::store::{HostFile, SteppedBack};
use crate::sys;
use crate::version::error::{FsError, FsResult};

/// The wait before the host is asked again. It doubles up to the longest. The first is for a close of which the kernel told before it let
/// go of the host file.
const FIRST: Duration = Duration::from_millis(2);
const LONGEST: Duration = Duration::from_secs(1);

/// A handle that was released while a mapping may still write its file.
#[derive(Debug)]
pub(super) struct Mapped {
    slot: FileSlot,
    wait: Duration,
    again: Instant,
}

/// Who beside the handle that is to go has its host file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Others {
    /// Nobody.
    None,
    /// Nobody who writes, or other handles that do.
    Known,
    /// A mapping that may write it, as far as can be told.
    Unknown,
}

impl Staging {
    /// Keeps a handle that was released, if a mapping may still write its file. The caller holds the gate.
    pub(super) fn keep_mapped(&self, slot: FileSlot) {
        self.step_back(&slot);
        if self.part(&slot) {
            return;
        }
        let mut state = self.lock();
        let again = self.cx.clock.instant() + FIRST;
        state.mapped.push(Mapped { slot, wait: FIRST, again });
        if state.look_at.is_none_or(|at| again < at) {
            state.look_at = Some(again);
            state.outbox.push(StagingEvent::Mapped);
        }
    }

    /// Lets go of the files that no mapping writes any more. Asks about those whose turn it is, or about `all`. What comes back is when to
    /// ask again.
    pub fn let_go_of_unmapped(&self, all: bool) -> Option<Instant> {
        let nothing_to_ask = {
            let mut state = self.lock();
            if state.mapped.is_empty() {
                state.look_at = None;
            }
            state.mapped.is_empty()
        };
        if nothing_to_ask {
            return None;
        }
        let _gate = self.gate.read();
        let now = self.cx.clock.instant();
        let due: Vec<Mapped> = self.lock().mapped.extract_if(.., |mapped| all || mapped.again <= now).collect();
        for mut mapped in due {
            self.step_back(&mapped.slot);
            if self.part(&mapped.slot) {
                continue;
            }
            if mapped.again <= now {
                mapped.wait = LONGEST.min(mapped.wait * 2);
                mapped.again = now + mapped.wait;
            }
            self.lock().mapped.push(mapped);
        }
        let mut state = self.lock();
        state.look_at = state.mapped.iter().map(|mapped| mapped.again).min();
        state.look_at
    }

    /// Sees to it that the host file is not open for writing by us, unless there is another handle for writing.
    fn step_back(&self, slot: &FileSlot) {
        // Who works on it may be about to write: the next time.
        let Some(mut work) = slot.cell.work.try_write() else { return };
        let mut state = self.lock();
        let Some(file) = state.current(slot).filter(|file| file.writers == 1) else { return };
        let Some(backing) = &mut file.backing else { return };
        let objects = self.cx.store.objects();
        if backing.reading {
            // Who was opening it meanwhile may have left it open.
            let left = objects.forget_writer(backing.object);
            drop((state, work));
            drop(left);
            return;
        }
        match objects.step_back(backing.object, &backing.file) {
            Ok(SteppedBack { reader, before }) => {
                let writer = std::mem::replace(&mut backing.file, reader);
                backing.reading = true;
                // Whoever writes next takes it from the backing.
                let worked = std::mem::replace(&mut *work, Work::Stored);
                drop((state, work));
                // A close can take its time.
                drop((writer, before, worked));
            }
            Err(error) => tracing::warn!(%error, ino = %slot.cell.ino, "whether a file is still mapped can't be asked"),
        }
    }

    /// The host file of a file in passthrough for one who writes.
    pub(super) fn step_forward(&self, state: &mut State, ino: Ino) -> FsResult<Arc<HostFile>> {
        let backing = state.files.get_mut(&ino).and_then(|file| file.backing.as_mut()).ok_or(FsError::Stale)?;
        if backing.reading {
            backing.file = self.host_file(backing.object)?;
            backing.reading = false;
        }
        Ok(Arc::clone(&backing.file))
    }
}

impl State {
    /// The file that a handle leads to, unless the handle is stale.
    fn current(&mut self, slot: &FileSlot) -> Option<&mut OpenFile> {
        self.files.get_mut(&slot.cell.ino).filter(|file| Arc::ptr_eq(&file.cell, &slot.cell))
    }

    /// Asks who has the host file beside this handle for writing in passthrough, which is to go. With the lock of the state held and no
    /// other handle for writing, the kernel does not open it for anybody meanwhile.
    pub(super) fn others(&mut self, slot: &FileSlot) -> Others {
        // What has lost its name comes into no version.
        if self.orphans.contains_key(&slot.cell.ino) {
            return Others::Known;
        }
        let Some(file) = self.current(slot).filter(|file| file.writers == 1) else { return Others::Known };
        match &file.backing {
            None => Others::Known,
            Some(backing) if backing.reading && sys::is_open_for_writing(backing.file.host()) => Others::Unknown,
            Some(backing) if backing.reading => Others::Known,
            Some(backing) if backing.handles == 1 && sys::is_alone(backing.file.host()) => Others::None,
            Some(_) => Others::Unknown,
        }
    }

    /// Forgets the released handle of a file that has gone stale.
    pub(super) fn forget_mapped(&mut self, file: &OpenFile) {
        self.mapped.retain(|mapped| !Arc::ptr_eq(&mapped.slot.cell, &file.cell));
        self.look_at = self.mapped.iter().map(|mapped| mapped.again).min();
    }
}
