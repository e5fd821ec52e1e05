//! Objects that can't be made durable: what a failing disk took from a version that was being sealed.

use super::{Live, Objects, SealObject, dir_name, file_name, hash};
use crate::ids::{Digest, ObjectId};
use crate::store::StoreError;
use crate::store::record::{Location, ObjectRecord};

/// An object that can't be sealed, and why.
#[derive(Debug)]
pub struct Loss {
    /// The object.
    pub object: ObjectId,
    /// What the disk said.
    pub why: StoreError,
    /// Its record: what of it can be read stays where it is, under a digest that no content has.
    pub record: ObjectRecord,
}

/// The digest that stands for bytes that could not be read or made durable: no content has it, so nothing is ever the same as them.
pub(super) fn lost_digest(id: ObjectId) -> Digest {
    Digest::of(format!("shadowfs 2026-11-22 object {id} was lost").as_bytes())
}

/// Whether the record is that of an object whose bytes were lost before its version was sealed.
#[must_use]
pub fn is_lost(id: ObjectId, record: &ObjectRecord) -> bool {
    record.digest == lost_digest(id)
}

impl Objects {
    /// Those of the objects that can't be read to their end, or not be made durable; for good: each is tried once more here.
    #[must_use]
    pub fn losses(&self, objects: &[SealObject]) -> Vec<Loss> {
        let tried = objects.iter().map(|object| (object.id(), self.try_once(*object)));
        tried.filter_map(|(object, tried)| tried.err().map(|why| Loss { object, why, record: self.lost_record(object) })).collect()
    }

    fn try_once(&self, object: SealObject) -> Result<(), StoreError> {
        let id = object.id();
        match object {
            SealObject::Held(_) => self.held(id).map(drop).ok_or_else(|| StoreError::damaged(format!("object {id} is not held"))),
            SealObject::File(_) => {
                // A pack or a host file that was committed meanwhile is no loss.
                if !matches!(self.live.read().get(&id), Some(Live::File { .. })) && self.place(id)?.is_some() {
                    return Ok(());
                }
                self.sync_file(id)?;
                let file = self.pending_file(id)?;
                hash::whole_file(&file, &file_name(id)).map(drop)
            }
        }
    }

    /// What the disk still gives is to be had after a crash, too, so the file's name is made durable if the disk still does that.
    fn lost_record(&self, id: ObjectId) -> ObjectRecord {
        let named = self.name(id).and_then(|()| self.host.sync_dir(&dir_name(id)));
        if let Err(error) = named {
            tracing::warn!(%error, object = %id, "what is left of a lost object may go with a crash");
        }
        let len = self.pending_file(id).ok().and_then(|file| file.metadata().ok()).map_or(0, |data| data.len());
        ObjectRecord { len, digest: lost_digest(id), location: Location::File }
    }

    /// As if a sync of the object's file had failed.
    #[cfg(test)]
    pub(crate) fn fail(&self, id: ObjectId, errno: i32) {
        self.mark(id, Some(errno), 0);
    }
}
