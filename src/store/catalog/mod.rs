//! The catalog: tree nodes, versions, objects, lineage events, attempts of checks, tags and pointers, each a table of a redb
//! database. A change of state and the event that tells of it are one transaction.
//!
//! Every value carries a checksum over its name and its bytes, so damage is found when it is read, and named.

mod backend;
mod database;
mod listing;
mod pages;
#[cfg(test)]
mod tests;
mod transaction;

use std::fmt;
use std::sync::Arc;

use redb::ReadableTable;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::pages::Pages;
pub(super) use self::pages::check as check_pages;
pub use self::transaction::Transaction;
use super::codec;
use super::counters::Ids;
use super::event::Event;
use super::record::{AttemptRecord, ObjectRecord, Pointers, Upkeep, VersionRecord};
use super::{HostFile, Result, StoreError};
use crate::clock::Timestamp;
use crate::ids::{Digest, EventSeq, Ino, NodeId, ObjectId, PackId, VersionId};

/// The catalog. Lookups see the last commit and run beside one another and beside a transaction.
pub struct Catalog {
    database: database::Store,
    ids: Arc<Ids>,
}

impl fmt::Debug for Catalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Catalog").field("ids", &self.ids).finish_non_exhaustive()
    }
}

impl Catalog {
    /// Makes the catalog in an empty file.
    pub(crate) fn create(file: HostFile, at: Timestamp) -> Result<Self> {
        let first = Pointers {
            production: VersionId::FIRST,
            valid: VersionId::FIRST,
            base: VersionId::FIRST,
            next_version: VersionId::FIRST.next(),
            next_ino: Ino::ROOT.next(),
            next_object: ObjectId(1),
            next_node: NodeId(1),
            next_pack: PackId(1),
        };
        let database = database::Store::open(file, true)?;
        let catalog = Self { database, ids: Arc::new(Ids::new(&first)) };
        let mut transaction = catalog.begin()?;
        transaction.put_single("created", &at)?;
        transaction.set_pointers(&first)?;
        transaction.commit()?;
        Ok(catalog)
    }

    /// Opens the catalog that a file holds.
    pub(crate) fn open(file: HostFile) -> Result<Self> {
        let len = file.metadata().map_err(|error| StoreError::io("stat catalog.redb", error))?.len();
        if len == 0 {
            return Err(StoreError::damaged("catalog.redb is empty"));
        }
        let database = database::Store::open(file, false)?;
        let pointers = read_pointers(&database)?;
        Ok(Self { database, ids: Arc::new(Ids::new(&pointers)) })
    }

    /// The numbers not given out yet.
    pub(crate) fn ids(&self) -> &Arc<Ids> {
        &self.ids
    }

    /// The bytes of a tree node. One that is missing is damage: nothing names a node before it is stored.
    pub fn node(&self, id: NodeId) -> Result<Vec<u8>> {
        let name = node_name(id);
        let found = self.database.read("read a node", |tables| Ok(tables.nodes.get(id.0)?.map(|value| value.value().to_vec())))?;
        let mut value = found.ok_or_else(|| StoreError::damaged(format!("{name} is missing")))?;
        let len = check(&name, &value)?.len();
        value.truncate(len);
        Ok(value)
    }

    /// Where an object is; `None` for one that is not sealed.
    pub fn object(&self, id: ObjectId) -> Result<Option<ObjectRecord>> {
        let found =
            self.database.read("read an object's record", |tables| Ok(tables.objects.get(id.0)?.map(|value| value.value().to_vec())))?;
        found.map(|value| unpack(&object_name(id), &value)).transpose()
    }

    /// A sealed object with these contents.
    pub fn object_with_digest(&self, digest: &Digest) -> Result<Option<ObjectId>> {
        Ok(self.objects_with_digests(&[*digest])?.pop().flatten())
    }

    /// For each digest, a sealed object with these contents.
    pub(crate) fn objects_with_digests(&self, digests: &[Digest]) -> Result<Vec<Option<ObjectId>>> {
        self.database.read("look for a digest", |tables| {
            digests.iter().map(|digest| Ok(tables.digests.get(digest.0)?.map(|id| ObjectId(id.value())))).collect()
        })
    }

    /// A version's record.
    pub fn version(&self, version: VersionId) -> Result<Option<VersionRecord>> {
        let found = self
            .database
            .read("read a version's record", |tables| Ok(tables.versions.get(version.0)?.map(|value| value.value().to_vec())))?;
        found.map(|value| unpack(&version_name(version), &value)).transpose()
    }

    /// Every version's record, by number.
    pub fn versions(&self) -> Result<Vec<VersionRecord>> {
        let found = self.database.read("read the versions", |tables| {
            let mut found = Vec::new();
            for entry in tables.versions.iter()? {
                let (key, value) = entry?;
                found.push((VersionId(key.value()), value.value().to_vec()));
            }
            Ok(found)
        })?;
        found.iter().map(|(version, value)| unpack(&version_name(*version), value)).collect()
    }

    /// Whether there is any version: an `init` that did not come to its end has left none.
    pub(crate) fn has_versions(&self) -> Result<bool> {
        self.database.read("read the versions", |tables| Ok(tables.versions.first()?.is_some()))
    }

    /// The pointers and counters as of the last commit.
    pub fn pointers(&self) -> Result<Pointers> {
        read_pointers(&self.database)
    }

    /// The events from `from` on, oldest first.
    pub fn events(&self, from: EventSeq) -> Result<Vec<Event>> {
        self.some_events(from, usize::MAX)
    }

    /// The events from `from` on, oldest first, at most `most`.
    pub fn some_events(&self, from: EventSeq, most: usize) -> Result<Vec<Event>> {
        let found = self.database.read("read the events", |tables| {
            let mut found = Vec::new();
            for entry in tables.events.range(from.0..)?.take(most) {
                let (key, value) = entry?;
                found.push((EventSeq(key.value()), value.value().to_vec()));
            }
            Ok(found)
        })?;
        found.iter().map(|(seq, value)| unpack(&event_name(*seq), value)).collect()
    }

    /// The attempts of checks on a version, in the order in which they started.
    pub fn attempts(&self, version: VersionId) -> Result<Vec<AttemptRecord>> {
        let found = self.database.read("read the attempts", |tables| {
            let mut found = Vec::new();
            for entry in tables.attempts.range((version.0, "", 0)..(version.0.saturating_add(1), "", 0))? {
                let (key, value) = entry?;
                let (_, check, attempt) = key.value();
                found.push((attempt_name(version, check, attempt), value.value().to_vec()));
            }
            Ok(found)
        })?;
        let mut attempts = found.iter().map(|(name, value)| unpack(name, value)).collect::<Result<Vec<AttemptRecord>>>()?;
        // Stable, so attempts that started together stay in the order of their checks' names.
        attempts.sort_by_key(|attempt| attempt.started_at);
        Ok(attempts)
    }

    /// The tags, by name.
    pub fn tags(&self) -> Result<Vec<(String, VersionId)>> {
        self.database.read("read the tags", |tables| {
            tables.tags.iter()?.map(|entry| entry.map(|(name, version)| (name.value().to_owned(), VersionId(version.value())))).collect()
        })
    }

    /// What upkeep remembers; a store in which there was none yet has nothing to remember.
    pub fn upkeep(&self) -> Result<Upkeep> {
        Ok(read_single(&self.database, "upkeep")?.unwrap_or_default())
    }

    /// When the store was made.
    pub fn created_at(&self) -> Result<Timestamp> {
        read_single(&self.database, "created")?.ok_or_else(|| StoreError::damaged("the catalog has no \"created\""))
    }

    /// The object records with numbers from `from` on, by number, at most `most`: for sweeps over all of them.
    pub fn objects(&self, from: ObjectId, most: usize) -> Result<Vec<(ObjectId, ObjectRecord)>> {
        let found = self.database.read("read the objects", |tables| {
            let mut found = Vec::new();
            for entry in tables.objects.range(from.0..)?.take(most) {
                let (key, value) = entry?;
                found.push((ObjectId(key.value()), value.value().to_vec()));
            }
            Ok(found)
        })?;
        found.into_iter().map(|(id, value)| Ok((id, unpack(&object_name(id), &value)?))).collect()
    }

    /// The node numbers from `from` on, at most `most`: for sweeps over all of them.
    pub fn nodes(&self, from: NodeId, most: usize) -> Result<Vec<NodeId>> {
        self.database.read("read the nodes", |tables| {
            tables.nodes.range(from.0..)?.take(most).map(|entry| entry.map(|(key, _)| NodeId(key.value()))).collect()
        })
    }

    /// Begins a transaction; waits for the one before it to end (so a thread that has one must not begin another).
    /// Nothing of it is seen until its commit.
    pub fn begin(&self) -> Result<Transaction<'_>> {
        self.refuse_if_poisoned()?;
        Transaction::new(self)
    }

    /// How many transactions were committed since the store was made.
    pub(crate) fn commits(&self) -> Result<u64> {
        Ok(read_single(&self.database, "commits")?.unwrap_or(0))
    }

    fn refuse_if_poisoned(&self) -> Result<()> {
        self.database.refuse_if_poisoned()
    }

    /// After a commit that ended with an error: whether it is on disk all the same. It is if only what comes after the commit point was
    /// refused (the file is made shorter there). After any other refusal the catalog is what it was, and the next commit can succeed; but
    /// a sync that failed may have lost pages that later reads still show: no commit ever again.
    fn settle(&self, error: StoreError, before: u64) -> Result<()> {
        if self.refuse_if_poisoned().is_err() {
            return Err(error);
        }
        match self.commits() {
            Ok(now) if now == before => Err(error),
            Ok(now) if now == before + 1 => {
                tracing::warn!(%error, "the disk refused something after a commit, which is on disk");
                Ok(())
            }
            Ok(_) | Err(_) => {
                self.database.poison(error.errno());
                Err(error)
            }
        }
    }
}

fn read_single<T: DeserializeOwned>(database: &database::Store, key: &str) -> Result<Option<T>> {
    let found = database.read("read the catalog", |tables| Ok(tables.single.get(key)?.map(|value| value.value().to_vec())))?;
    found.map(|value| unpack(key, &value)).transpose()
}

fn read_pointers(database: &database::Store) -> Result<Pointers> {
    read_single(database, "pointers")?.ok_or_else(|| StoreError::damaged("the catalog has no \"pointers\""))
}

fn node_name(id: NodeId) -> String {
    format!("node {id}")
}

fn object_name(id: ObjectId) -> String {
    format!("object {id}")
}

fn version_name(version: VersionId) -> String {
    format!("version {version}")
}

fn event_name(seq: EventSeq) -> String {
    format!("event {seq}")
}

fn attempt_name(version: VersionId, check: &str, attempt: u32) -> String {
    format!("attempt {attempt} of {check} on {version}")
}

/// Length of the checksum that ends every value.
const CHECKSUM: usize = 8;

/// The checksum covers the value's name, so that a value under the wrong key is found, too.
fn checksum(name: &str, bytes: &[u8]) -> [u8; CHECKSUM] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(name.as_bytes()).update(&[0]).update(bytes);
    let mut sum = [0; CHECKSUM];
    hasher.finalize_xof().fill(&mut sum);
    sum
}

/// A value as it is stored: the bytes, then their checksum.
fn with_checksum(name: &str, mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = checksum(name, &bytes);
    bytes.extend_from_slice(&sum);
    bytes
}

/// The bytes of a stored value, if its checksum holds.
fn check<'a>(name: &str, value: &'a [u8]) -> Result<&'a [u8]> {
    match value.split_last_chunk::<CHECKSUM>() {
        Some((bytes, sum)) if *sum == checksum(name, bytes) => Ok(bytes),
        _ => Err(StoreError::damaged(format!("{name}: its checksum does not match"))),
    }
}

fn pack<T: Serialize>(name: &str, record: &T) -> Vec<u8> {
    with_checksum(name, codec::encode(record))
}

fn unpack<T: DeserializeOwned>(name: &str, value: &[u8]) -> Result<T> {
    codec::decode(check(name, value)?).map_err(|error| StoreError::undecodable(name, &error))
}
