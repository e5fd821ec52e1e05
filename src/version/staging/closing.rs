//! Closing: what a close tells, and what happens when the last handle of a file goes.

use std::sync::Arc;

use super::Staging;
use super::handles::{FileSlot, How, OpenFile, Slot};
use super::mapped::Others;
use super::types::{Handle, StagingEvent};
use crate::ids::{Ino, ObjectId};
use crate::version::error::FsResult;

/// A handle can't go yet: a mapping may still write its file.
#[derive(Debug)]
pub(super) struct StillMapped;

impl Staging {
    /// A close(2) of one of its descriptors.
    pub fn flush(&self, handle: Handle) -> FsResult<()> {
        let slot = self.file_slot(handle)?;
        if slot.write {
            slot.cell.check()?;
        }
        if slot.how == How::Passthrough {
            self.lock().refresh(&self.cx, slot.cell.ino)?;
        }
        Ok(())
    }

    /// The last close(2), and where the kernel does not write by itself also the last munmap(2).
    pub fn release(&self, handle: Handle) {
        let _gate = self.gate.read();
        self.close(handle);
    }

    /// As `release`, for who holds the gate.
    pub(super) fn close(&self, handle: Handle) {
        let slot = match self.lock().handles.remove(&handle) {
            Some(Slot::File(slot)) => slot,
            _ => return,
        };
        if self.part(&slot) {
            self.learn(&slot);
        } else {
            self.keep_mapped(slot);
        }
    }

    /// Ends the use of a file by a handle. `false`: it does not end, because a mapping may still write the file.
    pub(super) fn part(&self, slot: &FileSlot) -> bool {
        match self.let_go(slot.cell.ino, Some(slot)) {
            Ok(unowned) => {
                match unowned {
                    Some((object, true)) => self.cx.store.objects().discard_alone(object),
                    Some((object, false)) => self.cx.store.objects().discard(object),
                    None => {}
                }
                true
            }
            Err(StillMapped) => false,
        }
    }

    /// What the program that made the file has made of it.
    fn learn(&self, slot: &FileSlot) {
        let Some(maker) = slot.maker else { return };
        let Ok(record) = self.lock().record(slot.cell.ino) else { return };
        let pieces = (slot.how != How::Passthrough).then(|| slot.cell.pieces());
        self.habits.learn(maker, record.size, pieces);
    }

    /// Ends a use of a file: by a handle, or by an operation that had none. The caller holds the gate. What comes back is an object that
    /// nothing names any more, and whether nobody else has its file.
    pub(super) fn let_go(&self, ino: Ino, slot: Option<&FileSlot>) -> Result<Option<(ObjectId, bool)>, StillMapped> {
        let through = slot.filter(|slot| slot.how == How::Passthrough);
        // Before the namespace's lock, as everywhere.
        let mut work = through.map(|slot| slot.cell.work.write());
        let mut state = self.lock();
        let current = |file: &OpenFile| slot.is_none_or(|slot| Arc::ptr_eq(&file.cell, &slot.cell));
        // A stale handle was taken out of the count when it became so.
        let writes = slot.is_some_and(|slot| slot.write && !slot.cell.is_stale());
        let others = through.filter(|_| writes).map_or(Others::Known, |slot| state.others(slot));
        // Only now: who had the file until we asked may have written it until then.
        if through.is_some()
            && let Err(error) = state.refresh(&self.cx, ino)
        {
            state.outbox.push(StagingEvent::Failed { what: format!("inode {ino}: what was written in passthrough: {error}") });
        }
        if others == Others::Unknown {
            return Err(StillMapped);
        }
        state.writers -= u64::from(writes);
        let quiet = writes && state.writers == 0 && state.open.is_some();
        let (mut settle, mut ended) = (None, None);
        if let Some(file) = state.files.get_mut(&ino).filter(|file| current(file)) {
            file.writers -= u32::from(writes);
            if slot.is_some_and(|slot| slot.how != How::Passthrough) {
                file.cached -= 1;
            }
            if slot.is_some_and(|slot| slot.how == How::Direct) {
                file.direct -= 1;
            }
            if let (Some(_), Some(backing)) = (through, &mut file.backing) {
                backing.handles -= 1;
                if backing.handles == 0 {
                    ended = file.backing.take();
                }
            }
            if file.writers == 0 {
                settle = Some(Arc::clone(&file.cell));
            }
        }
        let unowned = match (ended, &mut work) {
            (Some(backing), Some(work)) => self.end_backing(&mut state, work, ino, backing, others),
            _ => None,
        };
        drop(state);
        drop(work);
        if let Some(cell) = settle.filter(|cell| !cell.is_stale()) {
            self.settle_memory(&cell);
        }
        let mut state = self.lock();
        let last = state.files.get_mut(&ino).filter(|file| current(file)).is_some_and(|file| {
            file.handles -= 1;
            file.handles == 0
        });
        if last {
            state.files.remove(&ino);
            state.bury(&self.cx, ino);
        }
        if quiet {
            state.last_change = self.cx.clock.instant();
            if std::mem::take(&mut state.quiet_wanted) {
                state.outbox.push(StagingEvent::Quiet);
            }
        }
        Ok(unowned)
    }
}
