//! The contents: runs of bytes that trees name by `ObjectId`. Before its seal an object is held in memory or has a host file
//! of its own, and may change; from then on it never does, and is a file, a range of a pack, or the same as another object.

mod clones;
mod copies;
mod damage;
mod files;
mod hash;
mod loss;
mod removal;
mod seal;
#[cfg(test)]
mod tests;
mod unnamed;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use lru::LruCache;
use nix::fcntl::OFlag;
use parking_lot::{Mutex, RwLock};

use self::files::{FileKey, Files};
pub use self::loss::{Loss, is_lost};
use self::removal::Reliance;
pub use self::removal::{HostSize, Repack, Sweep};
pub use self::seal::{PACK_HEADER, SealObject};
use super::catalog::Catalog;
use super::host::HostDir;
use super::record::{Location, ObjectRecord};
use super::{HostFile, Result, StoreError};
use crate::ids::{Digest, ObjectId, PackId};

/// How many objects' places are remembered (some 100 bytes each).
const PLACES: NonZeroUsize = NonZeroUsize::new(1 << 16).unwrap();
/// The longest chain of aliases that is followed: they are made to name no alias, so a longer one is damage.
const ALIASES: usize = 8;

/// An object that is not sealed.
#[derive(Clone, Debug)]
enum Live {
    /// Its bytes, in memory.
    Held(Arc<[u8]>),
    /// It has a host file.
    File {
        /// Whether the file's name is known to be on disk.
        named: bool,
        /// The errno of a sync that failed.
        poisoned: Option<i32>,
        /// It has bytes that are durable elsewhere, and may not be here: it began as a clone, or with those of a small file; a sealed
        /// version got a copy of it; a journal took its bytes along. How often that was, and how often it was by the last sync.
        inherited: u32,
        settled: u32,
    },
}

impl Live {
    const fn new_file() -> Self {
        Self::File { named: false, poisoned: None, inherited: 0, settled: 0 }
    }
}

/// Where the bytes of a sealed object are, aliases followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    len: u64,
    digest: Digest,
    kind: PlaceKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PlaceKind {
    File(ObjectId),
    Pack(PackId, u64),
}

/// The contents.
#[derive(Debug)]
pub struct Objects {
    host: Arc<HostDir>,
    catalog: Arc<Catalog>,
    /// Lock order: none of the locks here is taken while another is held, nor over a system call or a lookup.
    live: RwLock<HashMap<ObjectId, Live>>,
    places: Mutex<LruCache<ObjectId, Place>>,
    files: Files,
    reliance: Mutex<Reliance>,
    damaged: damage::Damaged,
    copies: copies::Copies,
    /// Files without a name that wait for their next use.
    spare: Mutex<Vec<HostFile>>,
    /// Held while a file gets its name; taken before any other lock here.
    naming: Mutex<()>,
    /// The host can't share blocks between files.
    no_reflink: AtomicBool,
    /// It was asked whether it can.
    asked_for_clones: AtomicBool,
}

/// Where reads of an object go.
enum Source {
    Held(Arc<[u8]>),
    Pending,
    Sealed(Place),
}

/// A file that is open for reading only from now on.
#[derive(Debug)]
pub struct SteppedBack {
    /// The file.
    pub reader: Arc<HostFile>,
    /// What was open before, to be closed with no lock held.
    pub before: [Option<Arc<HostFile>>; 2],
}

impl Objects {
    pub(super) fn new(host: Arc<HostDir>, catalog: Arc<Catalog>) -> Self {
        let files = Files::new(Arc::clone(&host));
        Self {
            host,
            catalog,
            live: RwLock::default(),
            places: Mutex::new(LruCache::new(PLACES)),
            files,
            reliance: Mutex::default(),
            damaged: damage::Damaged::default(),
            copies: copies::Copies::default(),
            spare: Mutex::default(),
            naming: Mutex::default(),
            no_reflink: AtomicBool::new(false),
            asked_for_clones: AtomicBool::new(false),
        }
    }

    /// A new, empty host file for an object, open for reading and writing. A leftover of a crash gives way to it.
    pub fn create(&self, id: ObjectId) -> Result<Arc<HostFile>> {
        let name = file_name(id);
        // Live before the file is there: whoever finds the file sees that it is nobody's leftover.
        let pending = Live::new_file();
        let new = match self.live.write().entry(id) {
            Entry::Occupied(_) => false,
            Entry::Vacant(entry) => {
                entry.insert(pending.clone());
                true
            }
        };
        let leftover = || Ok(new && self.catalog.object(id)?.is_none());
        let made = self.host.new_file(&name, leftover);
        let mut live = self.live.write();
        let file = match made {
            Ok(file) => Arc::new(file),
            Err(error) => {
                if new {
                    live.remove(&id);
                }
                return Err(error);
            }
        };
        live.insert(id, pending);
        drop(live);
        self.files.remember(FileKey::Pending(id), &file);
        Ok(file)
    }

    /// The host file of an object that has one of its own, pending (open for writing, too) or sealed (read-only); an alias
    /// has the file of the object that it names. `None` if the object is held or in a pack, or there is none.
    pub fn open_file(&self, id: ObjectId) -> Result<Option<Arc<HostFile>>> {
        match self.source_with_file(id)? {
            Some((Source::Pending, file)) => Ok(file),
            Some((Source::Sealed(Place { kind: PlaceKind::File(file), .. }), _)) => {
                self.refuse_damaged(id)?;
                self.sealed_file(file).map(Some)
            }
            Some((Source::Held(_) | Source::Sealed(_), _)) | None => Ok(None),
        }
    }

    /// Where an object is, with its file if it is pending.
    fn source_with_file(&self, id: ObjectId) -> Result<Option<(Source, Option<Arc<HostFile>>)>> {
        // As in `read_at`: a seal may turn the object into an alias while we look, and its file goes.
        for _ in 0..2 {
            match self.source(id)? {
                Some(Source::Pending) => match self.files.open(FileKey::Pending(id))? {
                    Some(file) => return Ok(Some((Source::Pending, Some(file)))),
                    None => drop(self.places.lock().pop(&id)),
                },
                other => return Ok(other.map(|source| (source, None))),
            }
        }
        Err(missing(id))
    }

    fn pending_file(&self, id: ObjectId) -> Result<Arc<HostFile>> {
        self.files.open(FileKey::Pending(id))?.ok_or_else(|| missing(id))
    }

    fn sealed_file(&self, id: ObjectId) -> Result<Arc<HostFile>> {
        self.files.open(FileKey::Sealed(id))?.ok_or_else(|| missing(id))
    }

    /// Opens the file of a pending object, which is `file`, anew for reading only. Once what was open before is closed, who has the file
    /// open for writing is somebody else (`sys::is_open_for_writing`).
    pub fn step_back(&self, id: ObjectId, file: &HostFile) -> Result<SteppedBack> {
        let reader = file.reopened(false).map_err(|error| StoreError::io(format!("open {} for reading", file_name(id)), error))?;
        let reader = Arc::new(reader);
        let before = self.files.keep_reader(id, &reader);
        Ok(SteppedBack { reader, before })
    }

    /// Takes that back: the file of the pending object, open for writing again. `None` if that was never given up.
    pub fn step_forward(&self, id: ObjectId) -> Result<Option<Arc<HostFile>>> {
        let Some(reader) = self.files.reader(id) else { return Ok(None) };
        let writer = reader.reopened(true).map_err(|error| StoreError::io(format!("open {} for writing", file_name(id)), error))?;
        let writer = Arc::new(writer);
        self.files.keep_writer(id, &writer);
        Ok(Some(writer))
    }

    /// What somebody has opened for writing since `step_back`, to be closed.
    pub fn forget_writer(&self, id: ObjectId) -> Option<Arc<HostFile>> {
        self.files.forget_writer(id)
    }

    /// Ends that: the file is opened as others are, when it is needed.
    pub fn stop_stepping_back(&self, id: ObjectId) -> Result<()> {
        // Nothing else leads to what has no name.
        if self.is_unnamed(id) {
            return self.step_forward(id).map(drop);
        }
        self.files.forget_reader(id);
        Ok(())
    }

    /// Keeps the bytes of an object in memory until it is sealed; again: replaces them.
    pub fn hold(&self, id: ObjectId, bytes: Arc<[u8]>) {
        self.live.write().insert(id, Live::Held(bytes));
    }

    /// The bytes of a held object.
    #[must_use]
    pub fn held(&self, id: ObjectId) -> Option<Arc<[u8]>> {
        match self.live.read().get(&id) {
            Some(Live::Held(bytes)) => Some(Arc::clone(bytes)),
            Some(Live::File { .. }) | None => None,
        }
    }

    /// Drops the bytes of a held object.
    pub fn unhold(&self, id: ObjectId) {
        let mut live = self.live.write();
        if matches!(live.get(&id), Some(Live::Held(_))) {
            live.remove(&id);
        }
    }

    /// Removes the file (or the held bytes) of an object that was never sealed. Whoever has it open keeps it. A file that can't be
    /// removed is a leftover that costs space and no more, so that is logged, not returned.
    pub fn discard(&self, id: ObjectId) {
        self.discard_as(id, false);
    }

    /// The same for an object whose file nobody else has open, which is known.
    pub fn discard_alone(&self, id: ObjectId) {
        self.discard_as(id, true);
    }

    fn discard_as(&self, id: ObjectId, alone: bool) {
        if self.copies.keep(id) || self.forgive_copy(id) {
            return;
        }
        match self.source(id) {
            Ok(Some(Source::Held(_))) => self.unhold(id),
            Ok(Some(Source::Pending)) => {
                self.live.write().remove(&id);
                self.files.forget_reader(id);
                if let Some(file) = self.files.take_unnamed(id) {
                    return self.spare(file, alone);
                }
                self.files.forget(FileKey::Pending(id));
                if let Err(error) = self.host.remove(&file_name(id)) {
                    tracing::warn!(%error, "an object that is not needed any more stays behind");
                }
            }
            Ok(Some(Source::Sealed(_)) | None) => {}
            Err(error) => tracing::warn!(%error, object = id.0, "an object that is not needed any more stays behind"),
        }
    }

    /// Reads at `offset`; fewer bytes than asked for only at the object's end.
    pub fn read_at(&self, id: ObjectId, buf: &mut [u8], offset: u64) -> Result<usize> {
        // A seal may turn the object into an alias while we look, and its file goes: then look once more.
        for _ in 0..2 {
            if let Some(read) = self.try_read(id, buf, offset)? {
                return Ok(read);
            }
            self.places.lock().pop(&id);
        }
        Err(missing(id))
    }

    /// `None` if the object's file is not where it should be.
    fn try_read(&self, id: ObjectId, buf: &mut [u8], offset: u64) -> Result<Option<usize>> {
        let (file, place) = match self.source(id)?.ok_or_else(|| missing(id))? {
            Source::Held(bytes) => return Ok(Some(copy_from(&bytes, buf, offset))),
            Source::Pending => (self.files.open(FileKey::Pending(id))?, None),
            Source::Sealed(place) => (self.files.open(place.kind.into())?, Some(place)),
        };
        let Some(file) = file else { return Ok(None) };
        let read = match place {
            Some(place) => {
                self.refuse_damaged(id)?;
                let read = read_place(id, &file, place, buf, offset)?;
                if offset == 0 && place.len <= damage::SMALL && read as u64 == place.len {
                    damage::compare(id, buf.get(..read).unwrap_or_default(), place.digest)?;
                }
                Ok(read)
            }
            None => read_up_to(&file, buf, offset).map_err(|error| read_error(&file_name(id), error)),
        };
        read.map(Some)
    }

    /// The length of an object in bytes.
    pub fn len(&self, id: ObjectId) -> Result<u64> {
        match self.source_with_file(id)?.ok_or_else(|| missing(id))? {
            (_, Some(file)) => Ok(file.metadata().map_err(|error| StoreError::io(format!("stat {}", file_name(id)), error))?.len()),
            (Source::Held(bytes), None) => Ok(bytes.len() as u64),
            (Source::Sealed(place), None) => Ok(place.len),
            (Source::Pending, None) => Err(missing(id)),
        }
    }

    fn source(&self, id: ObjectId) -> Result<Option<Source>> {
        match self.live.read().get(&id) {
            Some(Live::Held(bytes)) => return Ok(Some(Source::Held(Arc::clone(bytes)))),
            Some(Live::File { .. }) => return Ok(Some(Source::Pending)),
            None => {}
        }
        if let Some(place) = self.place(id)? {
            return Ok(Some(Source::Sealed(place)));
        }
        // Not live and not sealed: a file of an open version, written before this process started.
        if self.files.open(FileKey::Pending(id))?.is_none() {
            return Ok(None);
        }
        self.live.write().entry(id).or_insert(Live::new_file());
        Ok(Some(Source::Pending))
    }

    fn place(&self, id: ObjectId) -> Result<Option<Place>> {
        if let Some(place) = self.places.lock().get(&id) {
            return Ok(Some(*place));
        }
        let Some(record) = self.catalog.object(id)? else { return Ok(None) };
        let place = self.follow(id, &record)?;
        self.places.lock().put(id, place);
        Ok(Some(place))
    }

    fn follow(&self, id: ObjectId, record: &ObjectRecord) -> Result<Place> {
        let (mut holder, mut location) = (id, record.location.clone());
        for _ in 0..ALIASES {
            let kind = match location {
                Location::File => PlaceKind::File(holder),
                Location::Pack { pack, offset } => PlaceKind::Pack(pack, offset),
                Location::Alias(other) => {
                    let next = self.catalog.object(other)?;
                    let next = next.ok_or_else(|| StoreError::damaged(format!("object {id} is object {other}, which is missing")))?;
                    if (next.len, next.digest) != (record.len, record.digest) {
                        return Err(StoreError::damaged(format!("object {id} is object {other}, which differs")));
                    }
                    (holder, location) = (other, next.location);
                    continue;
                }
            };
            return Ok(Place { len: record.len, digest: record.digest, kind });
        }
        Err(StoreError::damaged(format!("object {id} is an alias without an end")))
    }

    /// Makes the file of a pending object durable (held bytes are the journal's matter). Once it failed it fails for good, and
    /// so does sealing the object: the kernel drops pages that it could not write, and a later sync succeeds without them.
    pub fn sync(&self, id: ObjectId) -> Result<()> {
        match self.source(id)? {
            Some(Source::Pending) => self.sync_file(id),
            Some(Source::Held(_) | Source::Sealed(_)) | None => Ok(()),
        }
    }

    fn sync_file(&self, id: ObjectId) -> Result<()> {
        let (named, inherited) = self.refuse_if_poisoned(id)?;
        self.name(id)?;
        let synced = self.pending_file(id)?.sync_data().map_err(|error| StoreError::io(format!("sync {}", file_name(id)), error));
        let synced = if named { synced } else { synced.and_then(|()| self.host.sync_dir(&dir_name(id))) };
        self.mark(id, synced.as_ref().err().map(StoreError::errno), inherited);
        synced
    }

    /// Whether the file's name is durable, and how often it has inherited bytes; an error if a sync of it has failed.
    fn refuse_if_poisoned(&self, id: ObjectId) -> Result<(bool, u32)> {
        match self.live.read().get(&id) {
            Some(Live::File { poisoned: Some(errno), .. }) => Err(StoreError::Poisoned { what: file_name(id), errno: *errno }),
            Some(Live::File { named, inherited, .. }) => Ok((*named, *inherited)),
            Some(Live::Held(_)) | None => Ok((true, 0)),
        }
    }

    /// Notes how a sync of the object's file ended that began when it had inherited bytes that often.
    fn mark(&self, id: ObjectId, failed: Option<i32>, inherited: u32) {
        if let Some(Live::File { named, poisoned, settled, .. }) = self.live.write().get_mut(&id) {
            *poisoned = poisoned.or(failed);
            if failed.is_none() {
                *named = true;
                *settled = (*settled).max(inherited);
            }
        }
    }

    /// The digest of an object's bytes as they are on disk now: for scrubbing.
    pub fn digest(&self, id: ObjectId) -> Result<Digest> {
        match self.source_with_file(id)?.ok_or_else(|| missing(id))? {
            (_, Some(file)) => Ok(hash::whole_file(&file, &file_name(id))?.1),
            (Source::Held(bytes), None) => hash::of_bytes(&bytes),
            (Source::Sealed(_), None) => self.digest_at_pace(id, &|_| Ok(())),
            (Source::Pending, None) => Err(missing(id)),
        }
    }
}

impl PlaceKind {
    /// Where the object begins, in which file.
    fn host(self) -> (u64, String) {
        match self {
            Self::File(holder) => (0, file_name(holder)),
            Self::Pack(pack, offset) => (offset, pack_name(pack)),
        }
    }
}

impl From<PlaceKind> for FileKey {
    fn from(kind: PlaceKind) -> Self {
        match kind {
            PlaceKind::File(id) => Self::Sealed(id),
            PlaceKind::Pack(pack, _) => Self::Pack(pack),
        }
    }
}

fn copy_from(bytes: &[u8], buf: &mut [u8], offset: u64) -> usize {
    let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default();
    let len = rest.len().min(buf.len());
    buf[..len].copy_from_slice(&rest[..len]);
    len
}

/// Reads from a sealed object: never past its end, and never less than what its record says there is.
fn read_place(id: ObjectId, file: &HostFile, place: Place, buf: &mut [u8], offset: u64) -> Result<usize> {
    let len = place.len.saturating_sub(offset).min(buf.len() as u64) as usize;
    if len == 0 {
        return Ok(0);
    }
    let (start, name) = place.kind.host();
    let at = start.checked_add(offset).ok_or_else(|| StoreError::damaged(format!("object {id}: its place in {name}")))?;
    match read_up_to(file, &mut buf[..len], at).map_err(|error| read_error(&name, error))? {
        read if read == len => Ok(len),
        _ => Err(StoreError::damaged(format!("object {id}: {name} is too short"))),
    }
}

/// Reads until the buffer is full or the file ends.
fn read_up_to(file: &HostFile, buf: &mut [u8], offset: u64) -> std::io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(more) => done += more,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

fn read_error(name: &str, error: std::io::Error) -> StoreError {
    StoreError::io(format!("read {name}"), error)
}

fn missing(id: ObjectId) -> StoreError {
    StoreError::damaged(format!("object {id} is missing"))
}

/// The directory of an object's own file.
fn dir_name(id: ObjectId) -> String {
    format!("objects/{:02x}", id.0 & 0xff)
}

/// An object's own file.
fn file_name(id: ObjectId) -> String {
    format!("{}/{id}", dir_name(id))
}

/// A pack.
fn pack_name(pack: PackId) -> String {
    format!("packs/{pack}")
}

/// How files are opened: a sealed one can't be written by mistake.
fn flags(key: FileKey) -> OFlag {
    match key {
        FileKey::Pending(_) => OFlag::O_RDWR,
        FileKey::Sealed(_) | FileKey::Pack(_) => OFlag::O_RDONLY,
    }
}
