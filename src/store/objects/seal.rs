//! Sealing: contents get their digests, held ones go into packs, and everything is durable before a record names it.

use std::collections::HashMap;
use std::io::Write;

use super::files::FileKey;
use super::hash::{self, Input};
use super::{Live, Objects, file_name, pack_name, read_error, read_up_to};
use crate::ids::{Digest, ObjectId, PackId};
use crate::store::disk::Appender;
use crate::store::record::{Location, ObjectRecord};
use crate::store::{HostFile, Result, StoreError};

/// The first bytes of a pack; objects follow, one after the other.
pub(super) const PACK_MAGIC: &[u8; 16] = b"shadowfs pack 1\n";
/// The length of what begins a pack.
pub const PACK_HEADER: u64 = PACK_MAGIC.len() as u64;
/// A pack that has reached this length gets no more objects.
const PACK_FULL: u64 = 64 << 20;
/// Objects up to this length go into packs: as for directories of small files elsewhere, a host file each costs more than its bytes.
const PACKED: u64 = 128 << 10;
/// With more files than this, one `syncfs` is cheaper than a sync a file.
const SYNC_EACH: usize = 16;

/// An object to seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealObject {
    /// It is held in memory.
    Held(ObjectId),
    /// It has a host file of its own.
    File(ObjectId),
}

impl SealObject {
    /// Its number.
    #[must_use]
    pub const fn id(self) -> ObjectId {
        match self {
            Self::Held(id) | Self::File(id) => id,
        }
    }
}

/// A pack being written.
struct PackWriter {
    pack: PackId,
    len: u64,
    out: std::io::BufWriter<Appender>,
}

impl Objects {
    /// Makes objects durable and returns their records, in the order given, for the caller's transaction; after its commit:
    /// `sealed`. Until then nothing has changed for readers, and after an error nothing has changed at all.
    ///
    /// The caller sees to it that nobody writes to the objects any more. An object may be sealed as an alias of one that is there;
    /// that one is not removed before the commit (`removal`).
    pub fn seal(&self, objects: &[SealObject]) -> Result<Vec<(ObjectId, ObjectRecord)>> {
        let inputs = objects.iter().map(|object| self.input(*object)).collect::<Result<Vec<_>>>()?;
        let hashed = hash::all(&inputs, &|id| self.pending_file(id))?;
        let mut packs = Vec::new();
        let placed = self.aliases(objects, &hashed).and_then(|mut places| {
            self.write_packs(&inputs, &mut places, &mut packs)?;
            self.sync_all(objects, &places, &packs)?;
            Ok(places)
        });
        let places = placed.inspect_err(|_| self.undo(objects, &packs))?;
        let records = objects.iter().zip(hashed).zip(places).map(|((object, (len, digest)), location)| {
            (object.id(), ObjectRecord { len, digest, location: location.unwrap_or(Location::File) })
        });
        Ok(records.collect())
    }

    /// Lets go of what a seal that failed has taken.
    fn undo(&self, objects: &[SealObject], packs: &[(PackId, Option<HostFile>)]) {
        for (pack, _) in packs {
            if let Err(error) = self.host.remove(&pack_name(*pack)) {
                tracing::warn!(%error, "a pack that came to nothing stays behind");
            }
        }
        let mut reliance = self.reliance.lock();
        packs.iter().for_each(|(pack, _)| reliance.settled(*pack));
        objects.iter().for_each(|object| reliance.release(object.id()));
    }

    fn input(&self, object: SealObject) -> Result<Input> {
        match object {
            SealObject::Held(id) => self.held(id).map(Input::Bytes).ok_or_else(|| StoreError::damaged(format!("object {id} is not held"))),
            SealObject::File(id) => {
                self.source(id)?;
                self.refuse_if_poisoned(id)?;
                self.name(id)?;
                // Opened when its turn comes: a version may have more files than a process descriptors.
                Ok(Input::File(id))
            }
        }
    }

    /// `Alias` for every object whose bytes are sealed already, or earlier in this batch.
    fn aliases(&self, objects: &[SealObject], hashed: &[(u64, Digest)]) -> Result<Vec<Option<Location>>> {
        let digests: Vec<Digest> = hashed.iter().map(|(_, digest)| *digest).collect();
        let known = self.rely_on(objects, hashed, self.catalog.objects_with_digests(&digests)?)?;
        let mut first: HashMap<Digest, ObjectId> = HashMap::with_capacity(objects.len());
        let places = objects.iter().zip(digests).zip(known).map(|((object, digest), known)| {
            // A second attempt to seal what is committed must not make an object an alias of itself.
            let same = known.or_else(|| first.get(&digest).copied()).filter(|same| *same != object.id());
            if same.is_none() {
                first.insert(digest, object.id());
            }
            same.map(Location::Alias)
        });
        Ok(places.collect())
    }

    /// Puts the small objects that need it into packs and fills in their places. `packs` gets every pack that was begun.
    fn write_packs(&self, inputs: &[Input], places: &mut [Option<Location>], packs: &mut Vec<(PackId, Option<HostFile>)>) -> Result<()> {
        let mut writer: Option<PackWriter> = None;
        for (input, place) in inputs.iter().zip(places) {
            if place.is_some() {
                continue;
            }
            let read;
            let bytes: &[u8] = match input {
                Input::Bytes(bytes) => bytes,
                Input::File(id) => match small_bytes(&*self.pending_file(*id)?, &file_name(*id))? {
                    Some(bytes) => {
                        read = bytes;
                        &read
                    }
                    None => continue,
                },
            };
            let mut current = match writer.take() {
                Some(current) if current.len < PACK_FULL => current,
                full => {
                    finish(full, packs)?;
                    self.begin_pack(packs)?
                }
            };
            current.out.write_all(bytes).map_err(|error| StoreError::io(format!("write {}", pack_name(current.pack)), error))?;
            *place = Some(Location::Pack { pack: current.pack, offset: current.len });
            current.len += bytes.len() as u64;
            writer = Some(current);
        }
        finish(writer, packs)
    }

    fn begin_pack(&self, packs: &mut Vec<(PackId, Option<HostFile>)>) -> Result<PackWriter> {
        let pack = self.catalog.ids().pack();
        let name = pack_name(pack);
        // A pack that no commit names is what a crash left behind; a number is given once, so this one is named by none.
        self.reliance.lock().begun(pack);
        packs.push((pack, None));
        let file = self.host.new_file(&name, || Ok(true))?;
        let mut out = std::io::BufWriter::with_capacity(1 << 20, Appender::new(file));
        out.write_all(PACK_MAGIC).map_err(|error| StoreError::io(format!("write {name}"), error))?;
        Ok(PackWriter { pack, len: PACK_MAGIC.len() as u64, out })
    }

    /// The commit point's first half: the bytes and the names of packs and files are on disk when this returns.
    fn sync_all(&self, objects: &[SealObject], places: &[Option<Location>], packs: &[(PackId, Option<HostFile>)]) -> Result<()> {
        let own = objects.iter().zip(places).filter(|(_, place)| place.is_none());
        let files: Vec<ObjectId> = own.map(|(object, _)| object.id()).collect();
        if files.len() + packs.len() > SYNC_EACH && self.host.sync_filesystem().is_ok() {
            files.iter().for_each(|id| self.mark(*id, None, 0));
            return Ok(());
        }
        // Few files; or something on the filesystem failed, and now each tells whether it was one of ours.
        for (pack, file) in packs {
            let Some(file) = file else { continue };
            file.sync_data().map_err(|error| StoreError::io(format!("sync {}", pack_name(*pack)), error))?;
        }
        if !packs.is_empty() {
            self.host.sync_dir("packs")?;
        }
        files.iter().try_for_each(|id| self.sync_file(*id))
    }

    /// The records that `seal` returned are committed: reads go to where the records say, memory and copies are let go.
    pub fn sealed(&self, records: &[(ObjectId, ObjectRecord)]) {
        let mut reliance = self.reliance.lock();
        for (id, record) in records {
            reliance.release(*id);
            if let Location::Pack { pack, .. } = record.location {
                reliance.settled(pack);
            }
        }
        drop(reliance);
        for (id, record) in records {
            // Until the object is no longer live, reads go where they went; then the catalog knows.
            self.places.lock().pop(id);
            let was = self.live.write().remove(id);
            let Some(Live::File { .. }) = was else { continue };
            self.files.forget(FileKey::Pending(*id));
            self.files.forget_reader(*id);
            if !matches!(record.location, Location::File)
                && let Err(error) = self.host.remove(&file_name(*id))
            {
                tracing::warn!(%error, "a second copy of an object stays behind");
            }
        }
    }
}

/// The bytes of a host file that is better off in a pack; `None` if it is to keep a file of its own. Nobody writes to it any more.
fn small_bytes(file: &HostFile, name: &str) -> Result<Option<Vec<u8>>> {
    let len = file.metadata().map_err(|error| StoreError::io(format!("stat {name}"), error))?.len();
    if len > PACKED {
        return Ok(None);
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    let read = read_up_to(file, &mut bytes, 0).map_err(|error| read_error(name, error))?;
    bytes.truncate(read);
    Ok(Some(bytes))
}

/// Hands a pack's last bytes to the kernel and keeps its file for the sync.
fn finish(writer: Option<PackWriter>, packs: &mut [(PackId, Option<HostFile>)]) -> Result<()> {
    let Some(PackWriter { pack, out, .. }) = writer else { return Ok(()) };
    let file = out.into_inner().map_err(|error| StoreError::io(format!("write {}", pack_name(pack)), error.into_error()))?;
    if let Some((_, slot)) = packs.iter_mut().find(|(begun, _)| *begun == pack) {
        *slot = Some(file.into_file());
    }
    Ok(())
}
