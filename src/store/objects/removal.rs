//! What lets objects go while others seal: who relies on what, and the removal of files that no commit names any more.
//!
//! A seal makes an object an alias of one with the same bytes, and a sweep removes objects that no tree names: the two must never
//! meet. So a seal *promises* itself the object that it aliases, and looks once more whether it is there; a sweep *claims* what it is
//! going to remove. What is promised, or was since the sweep began, can't be claimed; what is claimed can't be promised. Both happen
//! under one lock, so of two that want the same object one gives way: the seal writes its own bytes, or the sweep leaves them.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::os::unix::fs::MetadataExt;

use nix::fcntl::OFlag;

use super::files::FileKey;
use super::seal::PACK_MAGIC;
use super::{Live, Objects, SealObject, dir_name, file_name, hash, missing, pack_name};
use crate::ids::set::IdSet;
use crate::ids::{Digest, ObjectId, PackId};
use crate::store::disk::Appender;
use crate::store::record::{Location, ObjectRecord};
use crate::store::{Result, StoreError};

/// Who relies on what.
#[derive(Debug, Default)]
pub(super) struct Reliance {
    /// Objects being sealed as aliases, each with the one that it relies on. One whose transaction failed stays until it is sealed
    /// again: all it costs is that the other is kept.
    promised: HashMap<ObjectId, ObjectId>,
    /// Packs that were begun and that no commit is known to name.
    unsettled: HashSet<PackId>,
    /// While a sweep is under way.
    sweep: Option<Claims>,
}

#[derive(Debug, Default)]
struct Claims {
    /// What was promised at its begin or later.
    promised: HashSet<ObjectId>,
    /// What it removes.
    claimed: IdSet<ObjectId>,
}

impl Reliance {
    /// Whether `object` may rely on `target`.
    fn promise(&mut self, object: ObjectId, target: ObjectId) -> bool {
        if let Some(sweep) = &mut self.sweep {
            if sweep.claimed.contains(target) {
                return false;
            }
            sweep.promised.insert(target);
        }
        self.promised.insert(object, target);
        true
    }

    pub(super) fn begun(&mut self, pack: PackId) {
        self.unsettled.insert(pack);
    }

    pub(super) fn settled(&mut self, pack: PackId) {
        self.unsettled.remove(&pack);
    }

    pub(super) fn release(&mut self, object: ObjectId) {
        self.promised.remove(&object);
    }
}

/// A sweep under way: there is one at a time. It ends when this is dropped.
#[must_use = "the sweep ends when this is dropped"]
#[derive(Debug)]
pub struct Sweep<'a> {
    objects: &'a Objects,
}

impl Sweep<'_> {
    /// Takes objects that nothing reachable names out of use, and returns those that it got: a seal may have begun to rely on the others.
    #[must_use]
    pub fn claim(&self, ids: &[ObjectId]) -> Vec<ObjectId> {
        let mut reliance = self.objects.reliance.lock();
        let Some(sweep) = &mut reliance.sweep else { return Vec::new() };
        let got: Vec<ObjectId> = ids.iter().copied().filter(|id| !sweep.promised.contains(id)).collect();
        sweep.claimed.extend(got.iter().copied());
        got
    }

    /// Whether an object was claimed.
    #[must_use]
    pub fn has_claimed(&self, id: ObjectId) -> bool {
        self.objects.reliance.lock().sweep.as_ref().is_some_and(|sweep| sweep.claimed.contains(id))
    }
}

impl Drop for Sweep<'_> {
    fn drop(&mut self) {
        self.objects.reliance.lock().sweep = None;
    }
}

/// A pack with the live bytes of another: to be committed, then [`Objects::repacked`].
#[must_use = "the new pack is a leftover until its records are committed"]
#[derive(Debug)]
pub struct Repack {
    old: PackId,
    new: PackId,
    /// The records of the objects that moved.
    pub records: Vec<(ObjectId, ObjectRecord)>,
}

impl Objects {
    /// Begins a sweep, unless one is under way.
    pub fn begin_sweep(&self) -> Option<Sweep<'_>> {
        let mut reliance = self.reliance.lock();
        if reliance.sweep.is_some() {
            return None;
        }
        reliance.sweep = Some(Claims { promised: reliance.promised.values().copied().collect(), claimed: IdSet::default() });
        Some(Sweep { objects: self })
    }

    /// Of the objects found for the digests of those to be sealed, the ones that can be relied on until the seal is committed.
    pub(super) fn rely_on(
        &self,
        objects: &[SealObject],
        hashed: &[(u64, Digest)],
        mut found: Vec<Option<ObjectId>>,
    ) -> Result<Vec<Option<ObjectId>>> {
        if found.iter().all(Option::is_none) {
            return Ok(found);
        }
        let mut reliance = self.reliance.lock();
        for (object, slot) in objects.iter().zip(&mut found) {
            *slot = slot.filter(|target| reliance.promise(object.id(), *target));
        }
        drop(reliance);
        // It may have gone between the lookup and the promise. And the table of digests has no checksums: what it leads to
        // must be what it says, or the bytes that are let go in its favour are lost.
        for (slot, (len, digest)) in found.iter_mut().zip(hashed) {
            let Some(target) = *slot else { continue };
            let record = self.catalog.object(target)?;
            let same =
                |record: &ObjectRecord| (record.len, record.digest) == (*len, *digest) && !matches!(record.location, Location::Alias(_));
            if !record.as_ref().is_some_and(same) {
                *slot = None;
            }
        }
        Ok(found)
    }

    /// The space that an object's own file takes on disk; `None` if there is no such file.
    pub fn own_file(&self, id: ObjectId) -> Result<Option<HostSize>> {
        self.size(&file_name(id))
    }

    /// The size of a pack; `None` if there is no such file.
    pub fn pack_file(&self, pack: PackId) -> Result<Option<HostSize>> {
        self.size(&pack_name(pack))
    }

    fn size(&self, name: &str) -> Result<Option<HostSize>> {
        let Some(file) = self.host.existing("stat", name, OFlag::O_PATH)? else { return Ok(None) };
        let status = file.metadata().map_err(|error| StoreError::io(format!("stat {name}"), error))?;
        Ok(Some(HostSize { len: status.len(), allocated: status.blocks() * 512 }))
    }

    /// Whether a pack begins as packs do.
    pub fn has_pack_magic(&self, pack: PackId) -> Result<bool> {
        let Some(file) = self.files.open(FileKey::Pack(pack))? else { return Ok(false) };
        let mut magic = [0; PACK_MAGIC.len()];
        let read = super::read_up_to(&file, &mut magic, 0).map_err(|error| super::read_error(&pack_name(pack), error))?;
        Ok(read == magic.len() && magic == *PACK_MAGIC)
    }

    /// Records of these objects were removed from the catalog: what is known of them goes, with their own files. Returns the
    /// space that this freed.
    pub fn removed(&self, gone: &[(ObjectId, Location)]) -> Result<u64> {
        let mut places = self.places.lock();
        for (id, _) in gone {
            places.pop(id);
        }
        drop(places);
        gone.iter().filter(|(_, location)| *location == Location::File).try_fold(0, |freed, (id, _)| Ok(freed + self.remove_file(*id)?))
    }

    /// Removes an object's own file that nothing names; returns the space that it took.
    pub fn remove_file(&self, id: ObjectId) -> Result<u64> {
        let size = self.own_file(id)?;
        self.files.forget(FileKey::Sealed(id));
        self.host.remove(&file_name(id))?;
        Ok(size.map_or(0, |size| size.allocated))
    }

    /// The objects whose file is in the directory `objects/xx` for `low`, with or without a record.
    pub fn own_files(&self, low: u8) -> Result<Vec<ObjectId>> {
        let names = self.host.names(&dir_name(ObjectId(u64::from(low))))?;
        let ids = names.iter().filter_map(|name| name.to_str()?.parse().ok()).map(ObjectId);
        Ok(ids.filter(|id| id.0 & 0xff == u64::from(low)).collect())
    }

    /// Which of these files no commit names and nobody is writing: what a crash left behind. (The journal may name some.)
    pub fn leftovers(&self, files: Vec<ObjectId>) -> Result<Vec<ObjectId>> {
        let mut found = Vec::new();
        for id in files {
            let live = Self::is_live_file(&self.live.read(), id);
            if self.is_leftover(live, id)? {
                found.push(id);
            }
        }
        Ok(found)
    }

    /// Removes a file that `leftovers` found; returns the space that it took, `None` if the number has got an object since: the numbers
    /// of leftovers are given out again, and a new object's file must not go in the place of an old one.
    pub fn remove_leftover(&self, id: ObjectId) -> Result<Option<u64>> {
        // An object is live before its file is made, so with the lock held nobody begins to make this one.
        let live = self.live.write();
        if !self.is_leftover(Self::is_live_file(&live, id), id)? {
            return Ok(None);
        }
        self.remove_file(id).map(Some)
    }

    fn is_live_file(live: &HashMap<ObjectId, Live>, id: ObjectId) -> bool {
        matches!(live.get(&id), Some(Live::File { .. }))
    }

    /// `live` was looked at before this is asked: an object has its record before it stops being live, so that one that somebody works
    /// with is always seen.
    fn is_leftover(&self, live: bool, id: ObjectId) -> Result<bool> {
        Ok(!live && !self.catalog.object(id)?.is_some_and(|record| record.location == Location::File))
    }

    /// The packs on disk, but for those that a seal is writing.
    pub fn settled_packs(&self) -> Result<Vec<PackId>> {
        let names = self.host.names("packs")?;
        let packs = names.iter().filter_map(|name| name.to_str()?.parse().ok()).map(PackId);
        let reliance = self.reliance.lock();
        let mut packs: Vec<PackId> = packs.filter(|pack| !reliance.unsettled.contains(pack)).collect();
        packs.sort_unstable();
        Ok(packs)
    }

    /// Removes a pack that no record names; returns the space that it took.
    pub fn remove_pack(&self, pack: PackId) -> Result<u64> {
        let size = self.pack_file(pack)?;
        self.files.forget(FileKey::Pack(pack));
        self.host.remove(&pack_name(pack))?;
        Ok(size.map_or(0, |size| size.len))
    }

    /// Copies the live objects of a pack to a new one, durably. Bytes that are not what their record says are damage, which is not
    /// carried on: then the pack stays as it is.
    pub fn repack(&self, old: PackId, live: &[(ObjectId, ObjectRecord)]) -> Result<Repack> {
        let new = self.catalog.ids().pack();
        self.reliance.lock().begun(new);
        let mut repack = Repack { old, new, records: Vec::with_capacity(live.len()) };
        match self.copy_live(&mut repack, live) {
            Ok(()) => Ok(repack),
            Err(error) => {
                if let Err(error) = self.host.remove(&pack_name(new)) {
                    tracing::warn!(%error, "a pack that came to nothing stays behind");
                }
                self.abandon_repack(&repack);
                Err(error)
            }
        }
    }

    fn copy_live(&self, repack: &mut Repack, live: &[(ObjectId, ObjectRecord)]) -> Result<()> {
        let name = pack_name(repack.new);
        let fail = |error: std::io::Error| StoreError::io(format!("write {name}"), error);
        let mut out = std::io::BufWriter::with_capacity(1 << 20, Appender::new(self.host.new_file(&name, || Ok(true))?));
        out.write_all(PACK_MAGIC).map_err(fail)?;
        let mut offset = PACK_MAGIC.len() as u64;
        let mut buffer = Vec::new();
        for (id, record) in live {
            let len = usize::try_from(record.len).map_err(|_| StoreError::damaged(format!("object {id} is too large for a pack")))?;
            buffer.resize(len, 0);
            let read = self.read_at(*id, &mut buffer, 0)?;
            if read != len || hash::of_bytes(&buffer)? != record.digest {
                return Err(StoreError::damaged(format!("object {id}: its bytes in {} are not what was sealed", pack_name(repack.old))));
            }
            out.write_all(&buffer).map_err(fail)?;
            let location = Location::Pack { pack: repack.new, offset };
            repack.records.push((*id, ObjectRecord { location, ..record.clone() }));
            offset += record.len;
        }
        let file = out.into_inner().map_err(|error| fail(error.into_error()))?.into_file();
        file.sync_data().map_err(|error| StoreError::io(format!("sync {name}"), error))?;
        self.host.sync_dir("packs")
    }

    /// The records of a repack are committed: reads go to the new pack.
    pub fn repacked(&self, repack: &Repack) {
        self.reliance.lock().settled(repack.new);
        // Places of aliases lead to the old pack, too. One that is read at this moment and put in afterwards leads to a file
        // that is not there, and whoever follows it looks once more.
        self.places.lock().clear();
    }

    /// The records of a repack were not committed, as far as is known: the next sweep sees which pack is a leftover.
    pub fn abandon_repack(&self, repack: &Repack) {
        self.places.lock().clear();
        self.reliance.lock().settled(repack.new);
    }

    /// The digest of a sealed object's bytes as they are on disk now, read as fast as `pace` lets it: it is told how many bytes were
    /// read, and its error ends the reading.
    pub fn digest_at_pace(&self, id: ObjectId, pace: &dyn Fn(u64) -> Result<()>) -> Result<Digest> {
        // As for reads: a repack may move the object while we look.
        for _ in 0..2 {
            let place = self.place(id)?.ok_or_else(|| missing(id))?;
            if let Some(file) = self.files.open(place.kind.into())? {
                let (start, name) = place.kind.host();
                return hash::range(&file, start, place.len, &name, pace);
            }
            self.places.lock().pop(&id);
        }
        Err(missing(id))
    }
}

/// The size of a host file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostSize {
    /// Its length.
    pub len: u64,
    /// The space that it takes: less than its length if it has holes.
    pub allocated: u64,
}
