//! Objects that are known to be damaged: reading them is an error, so that nobody takes garbage for content.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;

use super::{Objects, hash};
use crate::ids::{Digest, ObjectId};
use crate::store::{Result, StoreError};

/// Objects up to this length are compared with their digest whenever they are read whole: small files always are.
pub(super) const SMALL: u64 = 128 << 10;

/// What the last scrub found.
#[derive(Debug, Default)]
pub(super) struct Damaged {
    /// Whether there is any: every read looks at this, and at more only if there is.
    any: AtomicBool,
    /// A leaf lock.
    objects: RwLock<HashSet<ObjectId>>,
}

impl Objects {
    /// These objects are known to be damaged from now on, and no others: their reads fail.
    pub fn set_damaged(&self, objects: impl IntoIterator<Item = ObjectId>) {
        let mut known = self.damaged.objects.write();
        *known = objects.into_iter().collect();
        self.damaged.any.store(!known.is_empty(), Ordering::Release);
    }

    pub(super) fn refuse_damaged(&self, id: ObjectId) -> Result<()> {
        if self.damaged.any.load(Ordering::Acquire) && self.damaged.objects.read().contains(&id) {
            return Err(StoreError::damaged(format!("object {id}: a scrub found that its bytes are not what was sealed")));
        }
        Ok(())
    }
}

/// Whether the bytes of a small object, read whole, are what was sealed.
pub(super) fn compare(id: ObjectId, bytes: &[u8], digest: Digest) -> Result<()> {
    if hash::of_bytes(bytes)? == digest {
        return Ok(());
    }
    Err(StoreError::damaged(format!("object {id}: its bytes are not what was sealed")))
}
