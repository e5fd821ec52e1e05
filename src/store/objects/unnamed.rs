//! Files without a name: what the bytes of a new file go to before it is known how many they are.
//!
//! To give a file a name and to take it away again costs more than writing a few pages. Most files are small, and closed before anybody
//! asks for their bytes to be durable: then the bytes move to memory, on their way into a pack, and the next new file gets the host
//! file. It gets a name when something durable is to lead to it: a sync or the journal (which take along the bytes of small ones instead), a
//! seal. Until then it is like memory: it ends with the process.

use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use super::{Live, Objects, file_name, read_error, read_up_to};
use crate::ids::ObjectId;
use crate::store::{HostFile, Result, StoreError};

/// So many files wait for their next use at most.
const SPARE: usize = 64;

impl Objects {
    /// As `create`, but the file gets its name only when it is needed (`name`, `sync`, `seal`), if the host can do that.
    pub fn create_unnamed(&self, id: ObjectId) -> Result<Arc<HostFile>> {
        let spare = self.spare.lock().pop();
        let file = match spare {
            Some(file) => file,
            None => match self.host.unnamed_file("objects")? {
                Some(file) => file,
                None => return self.create(id),
            },
        };
        let file = Arc::new(file);
        self.files.keep_unnamed(id, &file);
        self.live.write().insert(id, Live::new_file());
        Ok(file)
    }

    /// Whether an object's file has no name.
    #[must_use]
    pub fn is_unnamed(&self, id: ObjectId) -> bool {
        self.files.unnamed(id).is_some()
    }

    /// All bytes of a file that has no name, if they are `most` at most.
    pub fn unnamed_bytes(&self, id: ObjectId, most: u64) -> Result<Option<Vec<u8>>> {
        let Some((file, len)) = self.unnamed_file(id)?.filter(|(_, len)| *len <= most) else { return Ok(None) };
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        let read = read_up_to(&file, &mut bytes, 0).map_err(|error| read_error(&file_name(id), error))?;
        bytes.truncate(read);
        Ok(Some(bytes))
    }

    /// How many bytes there are in a file that has no name; `None` if it has one.
    pub fn unnamed_len(&self, id: ObjectId) -> Result<Option<u64>> {
        Ok(self.unnamed_file(id)?.map(|(_, len)| len))
    }

    fn unnamed_file(&self, id: ObjectId) -> Result<Option<(Arc<HostFile>, u64)>> {
        let Some(file) = self.files.unnamed(id) else { return Ok(None) };
        let len = file.metadata().map_err(|error| StoreError::io(format!("stat {}", file_name(id)), error))?.len();
        Ok(Some((file, len)))
    }

    /// Sees to it that a pending object's file has a name, though not a durable one yet: it survives the process.
    pub fn name(&self, id: ObjectId) -> Result<()> {
        if self.files.unnamed(id).is_none() {
            return Ok(());
        }
        // One at a time: who comes second must not take the name for a leftover.
        let _naming = self.naming.lock();
        let Some(file) = self.files.unnamed(id) else { return Ok(()) };
        self.host.name_file(&file, &file_name(id), || Ok(self.catalog.object(id)?.is_none()))?;
        drop(file);
        // Meanwhile it may have been opened anew, for reading only or for writing again: what counts is how it is open now.
        self.files.has_name(id);
        Ok(())
    }

    /// Empties a file that nobody has open for its next use (`alone`: as is known already). What can't be emptied is closed.
    pub(super) fn spare(&self, file: Arc<HostFile>, alone: bool) {
        let Ok(file) = Arc::try_unwrap(file) else { return };
        // A mapping that outlives its file must find its bytes, and so must a handle that has gone stale.
        let alone = || alone || crate::sys::is_alone(file.host());
        if self.spare.lock().len() >= SPARE || !alone() || file.set_len(0).is_err() {
            return;
        }
        // After a cut to nothing ext4 takes the next close for a replacement of the file and writes its bytes to the disk at once
        // (auto_da_alloc): the cut of the next use would wait for that. A close now, while there are no bytes, spends it.
        let _ = std::fs::File::open(format!("/proc/self/fd/{}", file.host().as_raw_fd()));
        // Room that was reserved past the end would be the next one's.
        if file.metadata().is_ok_and(|meta| meta.blocks() == 0) {
            self.spare.lock().push(file);
        }
    }
}
