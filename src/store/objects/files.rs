//! Open host files: a bounded number of descriptors, whatever the number of objects.

use std::collections::HashMap;
use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;

use super::super::Result;
use super::super::disk::HostFile;
use super::super::host::HostDir;
use super::{file_name, flags, pack_name};
use crate::ids::{ObjectId, PackId};
use crate::sys::open_files;

/// How many files are kept open at most. Whoever reads or writes one keeps it open for as long as it needs it.
const OPEN_FILES: usize = 256;

/// Which file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum FileKey {
    /// An object's own, for reading and writing.
    Pending(ObjectId),
    /// An object's own, for reading.
    Sealed(ObjectId),
    /// A pack.
    Pack(PackId),
}

/// The files that are kept open, most recently used first.
#[derive(Debug)]
pub(super) struct Files {
    host: Arc<HostDir>,
    open: Mutex<LruCache<FileKey, Arc<HostFile>>>,
    /// Pending objects whose files have no name: nothing but this descriptor leads to them.
    unnamed: Mutex<HashMap<ObjectId, Arc<HostFile>>>,
    /// Pending objects whose files are open here for reading only: what makes whoever has them open for writing somebody else.
    readers: Mutex<HashMap<ObjectId, Arc<HostFile>>>,
    /// Pending objects that have no file yet, and the files that they are read from meanwhile.
    stand_ins: Mutex<HashMap<ObjectId, Arc<HostFile>>>,
}

impl Files {
    pub(super) fn new(host: Arc<HostDir>) -> Self {
        Self {
            host,
            open: Mutex::new(LruCache::new(open_files::share(OPEN_FILES))),
            unnamed: Mutex::default(),
            readers: Mutex::default(),
            stand_ins: Mutex::default(),
        }
    }

    /// The file, opened if it was not; `None` if it does not exist.
    pub(super) fn open(&self, key: FileKey) -> Result<Option<Arc<HostFile>>> {
        if let Some(file) = self.open.lock().get(&key) {
            return Ok(Some(Arc::clone(file)));
        }
        if let FileKey::Pending(id) = key
            && let Some(file) = self.unnamed(id).or_else(|| self.reader(id)).or_else(|| self.stand_ins.lock().get(&id).cloned())
        {
            return Ok(Some(file));
        }
        let name = match key {
            FileKey::Pending(id) | FileKey::Sealed(id) => file_name(id),
            FileKey::Pack(pack) => pack_name(pack),
        };
        let Some(file) = self.host.existing("open", &name, flags(key))? else { return Ok(None) };
        let file = Arc::new(file);
        self.remember(key, &file);
        Ok(Some(file))
    }

    /// Keeps a file open. What it pushes out is closed after the lock is free: a close can take its time.
    pub(super) fn remember(&self, key: FileKey, file: &Arc<HostFile>) {
        let pushed_out = self.open.lock().push(key, Arc::clone(file));
        drop(pushed_out);
    }

    /// The file of an object, if it has no name.
    pub(super) fn unnamed(&self, id: ObjectId) -> Option<Arc<HostFile>> {
        self.unnamed.lock().get(&id).cloned()
    }

    /// Keeps a file that has no name.
    pub(super) fn keep_unnamed(&self, id: ObjectId, file: &Arc<HostFile>) {
        self.unnamed.lock().insert(id, Arc::clone(file));
    }

    /// Lets go of a file that has no name: because it has one now, or because it is not needed.
    pub(super) fn take_unnamed(&self, id: ObjectId) -> Option<Arc<HostFile>> {
        self.unnamed.lock().remove(&id)
    }

    /// The file of a pending object that is open for reading only.
    pub(super) fn reader(&self, id: ObjectId) -> Option<Arc<HostFile>> {
        self.readers.lock().get(&id).cloned()
    }

    /// From now on the file is open here for reading only, by `reader`. What was open before comes back, to be closed.
    pub(super) fn keep_reader(&self, id: ObjectId, reader: &Arc<HostFile>) -> [Option<Arc<HostFile>>; 2] {
        let mut readers = self.readers.lock();
        readers.insert(id, Arc::clone(reader));
        let unnamed = self.unnamed.lock().get_mut(&id).map(|file| std::mem::replace(file, Arc::clone(reader)));
        [unnamed, self.forget_writer(id)]
    }

    pub(super) fn forget_writer(&self, id: ObjectId) -> Option<Arc<HostFile>> {
        self.open.lock().pop(&FileKey::Pending(id))
    }

    /// From now on it is open for writing, by `writer`.
    pub(super) fn keep_writer(&self, id: ObjectId, writer: &Arc<HostFile>) {
        let mut readers = self.readers.lock();
        let unnamed = self.unnamed.lock().get_mut(&id).map(|file| std::mem::replace(file, Arc::clone(writer)));
        if unnamed.is_none() {
            self.remember(FileKey::Pending(id), writer);
        }
        let gone = readers.remove(&id);
        drop(readers);
        drop(gone);
    }

    /// The file has a name now, and is kept open like others that have one.
    pub(super) fn has_name(&self, id: ObjectId) {
        // With the readers locked, it is not opened in another way in between.
        let readers = self.readers.lock();
        let now = self.take_unnamed(id);
        if let (Some(now), false) = (&now, readers.contains_key(&id)) {
            self.remember(FileKey::Pending(id), now);
        }
        drop(readers);
    }

    /// From now on it is opened as others are.
    pub(super) fn forget_reader(&self, id: ObjectId) {
        let gone = self.readers.lock().remove(&id);
        drop(gone);
    }

    /// The pending object has no file yet: it is read from this one.
    pub(super) fn stand_in(&self, id: ObjectId, file: &Arc<HostFile>) {
        self.stand_ins.lock().insert(id, Arc::clone(file));
    }

    /// Now it has one.
    pub(super) fn stand_down(&self, id: ObjectId, file: Arc<HostFile>) {
        // In this order: there is always one of them.
        self.remember(FileKey::Pending(id), &file);
        self.forget_stand_in(id);
    }

    pub(super) fn forget_stand_in(&self, id: ObjectId) {
        let gone = self.stand_ins.lock().remove(&id);
        drop(gone);
    }

    /// Lets go of a file.
    pub(super) fn forget(&self, key: FileKey) {
        let forgotten = self.open.lock().pop(&key);
        drop(forgotten);
    }

    /// How many files are kept open.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.open.lock().len()
    }
}
