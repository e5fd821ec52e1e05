//! Large files of sealed versions that are opened for writing, where the host shares blocks: the kernel gets a clone to write to, as it
//! gets a scratch file of a small one. It becomes the open version's with the first write; without one it goes with the last close.

use std::sync::Arc;

use super::Staging;
use super::state::State;
use super::types::{Caller, Opened};
use super::working::keep_reserve;
use crate::ids::{Ino, ObjectId};
use crate::store::HostFile;
use crate::tree::key::Content;
use crate::version::error::FsResult;

/// What an open for writing needs before it can be answered. It is made with no lock held: it takes time.
#[derive(Clone, Copy, Debug)]
pub(super) enum First {
    /// The copy that a frozen version still has to get of the file.
    Copy(ObjectId),
    /// A clone of this sealed object's first bytes.
    Clone { of: ObjectId, len: u64 },
}

/// A clone that was made for an open.
#[derive(Debug)]
pub(super) struct WriterClone {
    of: ObjectId,
    len: u64,
    /// `None`: it could not be had, so the file is served another way.
    made: Option<(ObjectId, Arc<HostFile>)>,
}

impl Staging {
    /// The sealed object that a file is, if who opens it for writing now should get a clone.
    pub(super) fn clone_first(&self, state: &State, ino: Ino) -> FsResult<Option<First>> {
        if !self.cx.options.passthrough || state.files.contains_key(&ino) {
            return Ok(None);
        }
        let record = state.record(ino)?;
        let Content::Object(of) = record.content else { return Ok(None) };
        let objects = self.cx.store.objects();
        let wanted = record.size > self.cx.options.small_file
            && state.pending(ino, of).is_none()
            && !Self::is_privileged(state, ino, &record)?
            && objects.may_clone(of).and_then(|may| Ok(may && objects.len(of)? >= record.size)).unwrap_or_else(|error| {
                tracing::warn!(%error, %ino, "a file is opened without a clone of its own");
                false
            });
        Ok(wanted.then_some(First::Clone { of, len: record.size }))
    }

    /// Makes the clone. No failure of that is one of the open: the file can be served without it.
    pub(super) fn clone_for_writer(&self, of: ObjectId, len: u64) -> WriterClone {
        let object = self.cx.store.ids().object();
        let made = match self.cx.store.objects().clone_unnamed(of, object, len) {
            Ok(made) => made.map(|file| (object, file)),
            Err(error) => {
                tracing::warn!(%error, "a file is opened without a clone of its own");
                None
            }
        };
        let mut clone = WriterClone { of, len, made };
        if clone.made.as_ref().is_some_and(|(_, file)| keep_reserve(file).is_err() || forget_time(file).is_err()) {
            self.drop_clone(&mut clone);
        }
        clone
    }

    /// Opens the file with the clone for its backing, or if that is not to be had, or something else has become of the file meanwhile, as
    /// any file. Then the clone is left for the caller to drop.
    pub(super) fn open_clone(&self, state: &mut State, caller: &Caller, ino: Ino, flags: i32, clone: &mut WriterClone) -> FsResult<Opened> {
        let fits = matches!(self.clone_first(state, ino)?, Some(First::Clone { of, len }) if (of, len) == (clone.of, clone.len));
        let Some((object, file)) = clone.made.take_if(|_| fits) else { return self.open_in(state, caller, ino, flags) };
        let opened = state.back(ino, object, &file).and_then(|()| self.open_in(state, caller, ino, flags));
        if opened.is_err() {
            // It was nobody's before.
            state.files.remove(&ino);
            clone.made = Some((object, file));
        }
        opened
    }

    /// Removes a clone that nobody needs.
    pub(super) fn drop_clone(&self, clone: &mut WriterClone) {
        if let Some((object, file)) = clone.made.take() {
            // Without it, so that nobody has the file any more.
            drop(file);
            self.cx.store.objects().discard(object);
        }
    }
}

/// Makes the next write show in the file's time of change, however coarse the host's clock is: where it ticks a hundred times a second, one
/// that follows at once would have the same time as what filled the file, and, if the length stays the same as well, nobody would learn of
/// it.
pub(super) fn forget_time(file: &HostFile) -> std::io::Result<()> {
    file.host().set_modified(std::time::SystemTime::UNIX_EPOCH)
}
