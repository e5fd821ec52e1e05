//! Small files that are open for writing in passthrough: the kernel writes to a host file without a name, and what is in it at the last
//! close moves to memory. So a program writes at the host's speed whatever the file becomes, and a small file still costs no host file.

use std::ops::DerefMut;
use std::sync::Arc;

use super::Staging;
use super::clone::forget_time;
use super::handles::Backing;
use super::mapped::Others;
use super::state::State;
use super::working::{Work, data_len, keep_reserve};
use crate::ids::{Ino, ObjectId};
use crate::store::HostFile;
use crate::sys::open_files;
use crate::tree::key::{Content, InodeRecord};
use crate::version::error::{FsError, FsResult};

impl Staging {
    /// A host file with the bytes of a small file that nobody has open, for one who is going to write. `None` where it can't be had:
    /// then the bytes are written through the daemon.
    pub(super) fn scratch(&self, state: &mut State, ino: Ino, record: &InodeRecord) -> FsResult<Option<Arc<HostFile>>> {
        let possible = !state.files.contains_key(&ino) && record.size <= self.cx.options.small_file;
        if !possible || !matches!(record.content, Content::None | Content::Object(_)) {
            return Ok(None);
        }
        let object = self.cx.store.ids().object();
        let Ok(file) = self.cx.store.objects().create_unnamed(object) else { return Ok(None) };
        if keep_reserve(&file).is_err() {
            // While we hold it, so that it is closed and not kept for the next.
            self.cx.store.objects().discard(object);
            return Ok(None);
        }
        if self.fill(state, ino, record, &file).is_err() {
            drop(file);
            self.cx.store.objects().discard(object);
            return Ok(None);
        }
        if record.size > 0 {
            self.cx.store.objects().inherits(object);
        }
        state.back(ino, object, &file)?;
        Ok(Some(file))
    }

    fn fill(&self, state: &State, ino: Ino, record: &InodeRecord, file: &HostFile) -> FsResult<()> {
        if record.size == 0 {
            return Ok(());
        }
        let snapshot = self.snapshot_of(state, ino);
        let held = usize::try_from(data_len(&snapshot, record)?).unwrap_or(usize::MAX);
        let bytes = snapshot.read_record(ino, record, 0, held)?;
        let filled = file.write_all_at(&bytes, 0).and_then(|()| file.set_len(record.size)).and_then(|()| forget_time(file));
        filled.map_err(|error| FsError::host("write a new object", error))
    }

    /// The last passthrough handle is gone: the bytes of a version stay its own, in memory if they are few. What comes back is the object
    /// that is of no use any more, because no version took it or because its bytes have moved, and whether nobody else has its file.
    pub(super) fn end_backing(
        &self,
        state: &mut State,
        work: &mut impl DerefMut<Target = Work>,
        ino: Ino,
        backing: Backing,
        others: Others,
    ) -> Option<(ObjectId, bool)> {
        let object = backing.object;
        if state.pending(ino, object).is_none() {
            **work = Work::Stored;
            return Some((object, others == Others::None));
        }
        match self.move_to_memory(state, ino, &backing, others) {
            Ok(true) => {
                **work = Work::Stored;
                // Since it was asked for its name the journal may have got to lead to it: then it goes once it does no more.
                let named = !self.cx.store.objects().is_unnamed(object);
                let stays = named && state.open.as_ref().is_some_and(|open| open.journal.queue_removed(object));
                (!stays).then_some((object, true))
            }
            Ok(false) => {
                if backing.reading
                    && let Err(error) = self.cx.store.objects().stop_stepping_back(object)
                {
                    tracing::warn!(%error, %ino, "a file stays open for reading only until somebody writes it");
                }
                // Without a name it would stay open until the journal gives it one.
                if open_files::are_many(backing.file.host())
                    && let Err(error) = self.cx.store.objects().name(object)
                {
                    tracing::warn!(%error, %ino, "a file stays open");
                }
                None
            }
            Err(error) => {
                tracing::warn!(%error, %ino, "a small file keeps its host file");
                None
            }
        }
    }

    /// A file that has a name may have been promised to last under it, so it stays where it is.
    fn move_to_memory(&self, state: &mut State, ino: Ino, backing: &Backing, others: Others) -> FsResult<bool> {
        let objects = self.cx.store.objects();
        let record = state.record(ino)?;
        let small = record.size <= self.cx.options.small_file && record.content == Content::Object(backing.object);
        if !small || !self.cx.memory_left() || state.orphans.contains_key(&ino) || !objects.is_unnamed(backing.object) {
            return Ok(false);
        }
        // In passthrough a mapping outlives its file's close, and the kernel says nothing of it: what is mapped, if only for reading, stays
        // where it is.
        if others != Others::None && !crate::sys::is_alone(backing.file.host()) {
            return Ok(false);
        }
        let mut bytes = vec![0; usize::try_from(record.size).unwrap_or(0)];
        super::data::read_full(&backing.file, &mut bytes, 0).map_err(|error| FsError::host("read an object", error))?;
        let content = if bytes.is_empty() {
            Content::None
        } else {
            let held = self.cx.store.ids().object();
            state.hold(&self.cx, ino, held, bytes.into());
            Content::Object(held)
        };
        state.disown(ino, backing.object);
        state.touch(ino, InodeRecord { content, ..(*record).clone() })?;
        Ok(true)
    }
}

impl State {
    /// The open version lets go of an object whose bytes it has elsewhere.
    fn disown(&mut self, ino: Ino, object: ObjectId) {
        let _its_bytes_moved = self.take_pending(ino, object);
        if let Some(open) = &self.open {
            open.journal.forget_object(object);
        }
    }
}
