//! Clones: host files that share their blocks with a sealed object's, where the host can do that (xfs, btrfs). A large file of a sealed
//! version gets one for its next writer.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Live, Objects, PlaceKind, Source, file_name};
use crate::ids::ObjectId;
use crate::store::{HostFile, Result, StoreError};

/// What takes more pieces than this on the disk is not cloned for a writer: a clone takes some 20 to 40 us a piece.
const PIECES: usize = 4096;

impl Objects {
    /// Whether `clone_named` and `clone_unnamed` may succeed: the object is sealed and has a file of its own. What is not sealed can still
    /// change, and a clone of it would wait until its bytes are on the disk.
    pub fn may_clone(&self, of: ObjectId) -> Result<bool> {
        Ok(self.can_share_blocks()? && self.has_sealed_file(of)?)
    }

    /// Whether the host can share blocks. Asked of the host once: with a clone of nothing.
    pub(in crate::store) fn can_share_blocks(&self) -> Result<bool> {
        if !self.asked_for_clones.swap(true, Ordering::Relaxed)
            && let (Some(from), Some(to)) = (self.host.unnamed_file("objects")?, self.host.unnamed_file("objects")?)
        {
            let _told_elsewhere = self.clone_blocks(&from, &to);
        }
        Ok(!self.no_reflink.load(Ordering::Relaxed))
    }

    fn has_sealed_file(&self, id: ObjectId) -> Result<bool> {
        Ok(matches!(self.source(id)?, Some(Source::Sealed(place)) if matches!(place.kind, PlaceKind::File(_))))
    }

    /// A new file for the object `to` that shares the first `len` bytes of the sealed object `from`, where that can be had.
    pub fn clone_named(&self, from: ObjectId, to: ObjectId, len: u64) -> Result<Option<Arc<HostFile>>> {
        self.clone_into(from, to, len, || self.create(to))
    }

    /// The same, but the file gets its name only when it is needed.
    pub fn clone_unnamed(&self, from: ObjectId, to: ObjectId, len: u64) -> Result<Option<Arc<HostFile>>> {
        self.clone_into(from, to, len, || self.create_unnamed(to))
    }

    fn clone_into(
        &self,
        from: ObjectId,
        to: ObjectId,
        len: u64,
        create: impl FnOnce() -> Result<Arc<HostFile>>,
    ) -> Result<Option<Arc<HostFile>>> {
        if !self.may_clone(from)? {
            return Ok(None);
        }
        let Some(source) = self.open_file(from)? else { return Ok(None) };
        if !crate::sys::has_few_extents(source.host(), PIECES) {
            return Ok(None);
        }
        let target = create()?;
        // The object may be longer than the part of it that counts.
        let cloned =
            self.clone_blocks(&source, &target).and_then(|cloned| if cloned { target.set_len(len).map(|()| true) } else { Ok(false) });
        if let Ok(true) = cloned {
            self.inherits(to);
            return Ok(Some(target));
        }
        drop(target);
        self.discard(to);
        match cloned {
            Err(error) => Err(StoreError::io(format!("clone {} to {}", file_name(from), file_name(to)), error)),
            Ok(_) => Ok(None),
        }
    }

    /// Lets an empty file share all blocks of another; `false` where the host can't.
    pub(super) fn clone_blocks(&self, from: &HostFile, to: &HostFile) -> std::io::Result<bool> {
        if self.no_reflink.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let Err(error) = to.clone_from(from.host()) else { return Ok(true) };
        match error.raw_os_error() {
            Some(libc::EOPNOTSUPP | libc::EXDEV | libc::EINVAL | libc::ENOTTY | libc::ENOSYS) => {
                // It is one filesystem: what it can't do once it can't do at all.
                self.no_reflink.store(true, Ordering::Relaxed);
                Ok(false)
            }
            // xfs refuses when one of its allocation groups has no room for what it must note; elsewhere there may be plenty. What came
            // over so far goes.
            Some(libc::ENOSPC) => to.set_len(0).map(|()| false),
            _ => Err(error),
        }
    }

    /// The object's file has bytes that are durable elsewhere.
    pub fn inherits(&self, id: ObjectId) {
        if let Some(Live::File { inherited, .. }) = self.live.write().get_mut(&id) {
            *inherited += 1;
        }
    }

    /// Whether a journal may name the object now: its file survives the process, and if it has inherited bytes, the power.
    ///
    /// What is new in a file nobody has been promised before its fsync. But what it has inherited was durable already, in a sealed version or
    /// by an fsync, so it must be there when what is durable leads to the new file.
    pub fn may_be_named(&self, id: ObjectId) -> bool {
        !self.is_unnamed(id) && !self.is_fresh_heir(id)
    }

    /// Sees to it that a journal may name the object. That its bytes can't be written its own fsync tells, and its seal.
    pub fn prepare_to_be_named(&self, id: ObjectId) -> Result<()> {
        self.name(id)?;
        if self.is_fresh_heir(id)
            && let Err(error) = self.sync_file(id)
        {
            tracing::warn!(%error, "what a file has inherited is not on the disk");
            // It could not even be tried.
            if self.is_fresh_heir(id) {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Whether the object has a file whose name is on disk, with the bytes of when it got that, and no sync of it has failed since.
    pub fn is_durable_file(&self, id: ObjectId) -> bool {
        let is = |live: &Live| matches!(live, Live::File { named: true, poisoned: None, inherited, settled } if settled >= inherited);
        self.live.read().get(&id).is_some_and(is)
    }

    fn is_fresh_heir(&self, id: ObjectId) -> bool {
        let is = |live: &Live| matches!(live, Live::File { poisoned: None, inherited, settled, .. } if settled < inherited);
        self.live.read().get(&id).is_some_and(is)
    }
}
