//! Objects.

use std::fs::File;
use std::sync::Arc;

use super::record::ObjectRecord;
use super::{Result, unfinished};
use crate::ids::{Digest, ObjectId};

/// An object to seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealObject {
    /// It is held in memory.
    Held(ObjectId),
    /// It has a host file of its own.
    File(ObjectId),
}

/// The contents.
#[derive(Debug)]
pub struct Objects;

impl Objects {
    /// A new, empty host file for an object, open for reading and writing.
    pub fn create(&self, _id: ObjectId) -> Result<Arc<File>> {
        Err(unfinished())
    }

    /// The host file of an object that has one of its own, pending (open for writing, too) or sealed (read-only).
    pub fn open_file(&self, _id: ObjectId) -> Result<Option<Arc<File>>> {
        Err(unfinished())
    }

    /// Keeps the bytes of an object in memory until it is sealed; again: replaces them.
    pub fn hold(&self, _id: ObjectId, _bytes: Arc<[u8]>) {}

    /// The bytes of a held object.
    #[must_use]
    pub fn held(&self, _id: ObjectId) -> Option<Arc<[u8]>> {
        None
    }

    /// Drops the bytes of a held object.
    pub fn unhold(&self, _id: ObjectId) {}

    /// Removes the file of an object that was never sealed.
    pub fn discard(&self, _id: ObjectId) {}

    /// Reads at `offset`; fewer bytes than asked for only at the object's end.
    pub fn read_at(&self, _id: ObjectId, _buf: &mut [u8], _offset: u64) -> Result<usize> {
        Err(unfinished())
    }

    /// The length of an object in bytes.
    pub fn len(&self, _id: ObjectId) -> Result<u64> {
        Err(unfinished())
    }

    /// Makes the file of a pending object durable. Once it failed it fails for good, and so does sealing the object.
    pub fn sync(&self, _id: ObjectId) -> Result<()> {
        Err(unfinished())
    }

    /// Makes objects durable and returns their records, for the caller's transaction; after its commit: `sealed`.
    pub fn seal(&self, _objects: &[SealObject]) -> Result<Vec<(ObjectId, ObjectRecord)>> {
        Err(unfinished())
    }

    /// The records that `seal` returned are committed.
    pub fn sealed(&self, _records: &[(ObjectId, ObjectRecord)]) {}

    /// A new file for the object `to` that shares the bytes of `from`, where the host can; `None` where it can't.
    pub fn reflink(&self, _from: ObjectId, _to: ObjectId) -> Result<Option<Arc<File>>> {
        Err(unfinished())
    }

    /// The digest of an object's bytes as they are on disk now: for scrubbing.
    pub fn digest(&self, _id: ObjectId) -> Result<Digest> {
        Err(unfinished())
    }
}
