//! Changes of the catalog that happen together.

use std::fmt;

use redb::{ReadableTable, TableDefinition};
use serde::Serialize;

use super::super::event::{Event, EventKind};
use super::super::record::{AttemptRecord, Location, ObjectRecord, Pointers, Upkeep, VersionRecord};
use super::super::{Result, StoreError};
use super::database::{ATTEMPTS, DIGESTS, EVENTS, NODES, OBJECTS, SINGLE, TAGS, VERSIONS, Writing, shielded};
use super::{Catalog, attempt_name, event_name, node_name, object_name, pack, unpack, version_name, with_checksum};
use crate::clock::Timestamp;
use crate::ids::{Digest, EventSeq, NodeId, ObjectId, VersionId};

/// Changes of the catalog that happen together. Dropped without `commit`, it never was.
#[must_use = "a transaction that is not committed changes nothing"]
pub struct Transaction<'a> {
    catalog: &'a Catalog,
    writing: Writing,
    /// The pointers, once this transaction has set them.
    pointers: Option<Pointers>,
    /// Number and digest of the last event, once this transaction has looked.
    tip: Option<(EventSeq, Digest)>,
    /// Tree nodes are many and small: they go into their table together, at commit, in order.
    nodes: Vec<(NodeId, Vec<u8>)>,
}

impl fmt::Debug for Transaction<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").field("pointers", &self.pointers).field("tip", &self.tip).finish_non_exhaustive()
    }
}

/// Nodes are handed to redb when this many bytes have gathered, so that a large import does not hold them all.
const NODE_BATCH: usize = 16 << 20;

impl<'a> Transaction<'a> {
    pub(super) fn new(catalog: &'a Catalog) -> Result<Self> {
        let writing = catalog.database.begin()?;
        // Once more, now that no other transaction is under way: the one that this waited for may have failed.
        catalog.refuse_if_poisoned()?;
        Ok(Self { catalog, writing, pointers: None, tip: None, nodes: Vec::new() })
    }

    /// Runs redb on the transaction; its error is named after what was being written.
    fn run<T>(&self, what: &str, run: impl FnOnce(&redb::WriteTransaction) -> std::result::Result<T, redb::Error>) -> Result<T> {
        shielded(what, || run(&self.writing.transaction))
    }

    fn put<T: Serialize>(&self, table: TableDefinition<'_, u64, &'static [u8]>, key: u64, name: &str, record: &T) -> Result<()> {
        let value = pack(name, record);
        self.run(name, |transaction| Ok(transaction.open_table(table)?.insert(key, value.as_slice()).map(drop)?))
    }

    /// Stores a tree node.
    pub fn put_node(&mut self, id: NodeId, bytes: &[u8]) -> Result<()> {
        let mut value = Vec::with_capacity(bytes.len() + super::CHECKSUM);
        value.extend_from_slice(bytes);
        self.nodes.push((id, with_checksum(&node_name(id), value)));
        // The average node has some KiB; counting nodes is as good as counting their bytes.
        if self.nodes.len() * 4096 >= NODE_BATCH { self.flush_nodes() } else { Ok(()) }
    }

    fn flush_nodes(&mut self) -> Result<()> {
        let nodes = std::mem::take(&mut self.nodes);
        self.run("store nodes", |transaction| {
            let mut table = transaction.open_table(NODES)?;
            for (id, value) in &nodes {
                table.insert(id.0, value.as_slice())?;
            }
            Ok(())
        })
    }

    /// Removes a tree node.
    pub fn remove_node(&mut self, id: NodeId) -> Result<()> {
        self.flush_nodes()?;
        self.run("remove a node", |transaction| Ok(transaction.open_table(NODES)?.remove(id.0).map(drop)?))
    }

    /// Removes many tree nodes.
    pub fn remove_nodes(&mut self, ids: &[NodeId]) -> Result<()> {
        self.flush_nodes()?;
        self.run("remove nodes", |transaction| {
            let mut table = transaction.open_table(NODES)?;
            for id in ids {
                table.remove(id.0)?;
            }
            Ok(())
        })
    }

    /// Stores where an object is.
    pub fn put_object(&mut self, id: ObjectId, record: &ObjectRecord) -> Result<()> {
        self.put_objects(&[(id, record.clone())])
    }

    /// Stores where many objects are.
    pub fn put_objects(&mut self, records: &[(ObjectId, ObjectRecord)]) -> Result<()> {
        self.run("store objects", |transaction| {
            let mut objects = transaction.open_table(OBJECTS)?;
            let mut digests = transaction.open_table(DIGESTS)?;
            for (id, record) in records {
                objects.insert(id.0, pack(&object_name(*id), record).as_slice())?;
                let of_its_own = !matches!(record.location, Location::Alias(_));
                if of_its_own && digests.get(record.digest.0)?.is_none() {
                    digests.insert(record.digest.0, id.0)?;
                }
            }
            Ok(())
        })
    }

    /// Removes an object's record. Its bytes stay: whoever removes it makes sure first that no alias names it, and
    /// removes the bytes after the commit.
    pub fn remove_object(&mut self, id: ObjectId) -> Result<()> {
        let name = object_name(id);
        let removed = self.run("remove an object", |transaction| {
            Ok(transaction.open_table(OBJECTS)?.remove(id.0)?.map(|value| value.value().to_vec()))
        })?;
        let Some(value) = removed else { return Ok(()) };
        let digest = unpack::<ObjectRecord>(&name, &value)?.digest.0;
        self.run("remove an object", |transaction| {
            let mut digests = transaction.open_table(DIGESTS)?;
            let named = digests.get(digest)?.map(|holder| holder.value());
            if named == Some(id.0) {
                digests.remove(digest)?;
            }
            Ok(())
        })
    }

    /// Stores a version's record.
    pub fn put_version(&mut self, record: &VersionRecord) -> Result<()> {
        self.put(VERSIONS, record.version.0, &version_name(record.version), record)
    }

    /// Stores an attempt.
    pub fn put_attempt(&mut self, record: &AttemptRecord) -> Result<()> {
        let name = attempt_name(record.version, &record.check, record.attempt);
        let value = pack(&name, record);
        let key = (record.version.0, record.check.as_str(), record.attempt);
        self.run(&name, |transaction| Ok(transaction.open_table(ATTEMPTS)?.insert(key, value.as_slice()).map(drop)?))
    }

    /// Stores a tag.
    pub fn put_tag(&mut self, name: &str, version: VersionId) -> Result<()> {
        self.run("store a tag", |transaction| Ok(transaction.open_table(TAGS)?.insert(name, version.0).map(drop)?))
    }

    /// Removes a tag.
    pub fn remove_tag(&mut self, name: &str) -> Result<()> {
        self.run("remove a tag", |transaction| Ok(transaction.open_table(TAGS)?.remove(name).map(drop)?))
    }

    /// Removes an entry of the index by digest.
    pub fn remove_digest(&mut self, digest: Digest) -> Result<()> {
        self.run("remove a digest", |transaction| Ok(transaction.open_table(DIGESTS)?.remove(digest.0).map(drop)?))
    }

    /// Appends an event to the lineage: gives it its number and chains it to the one before.
    pub fn append_event(&mut self, at: Timestamp, version: Option<VersionId>, what: EventKind) -> Result<Event> {
        let (seq, previous) = match self.tip()? {
            Some((seq, digest)) => (seq.next(), digest),
            None => (EventSeq(0), Digest::default()),
        };
        let mut event = Event { seq, at, version, what, previous, digest: Digest::default() };
        event.digest = event.expected_digest();
        self.put(EVENTS, seq.0, &event_name(seq), &event)?;
        self.tip = Some((seq, event.digest));
        Ok(event)
    }

    fn tip(&self) -> Result<Option<(EventSeq, Digest)>> {
        if self.tip.is_some() {
            return Ok(self.tip);
        }
        let last = self.run("read the last event", |transaction| {
            let events = transaction.open_table(EVENTS)?;
            Ok(events.last()?.map(|(key, value)| (EventSeq(key.value()), value.value().to_vec())))
        })?;
        let Some((seq, value)) = last else { return Ok(None) };
        Ok(Some((seq, unpack::<Event>(&event_name(seq), &value)?.digest)))
    }

    /// The pointers, as this transaction sees them.
    pub fn pointers(&self) -> Result<Pointers> {
        match &self.pointers {
            Some(pointers) => Ok(pointers.clone()),
            None => self.single("pointers")?.ok_or_else(|| StoreError::damaged("the catalog has no \"pointers\"")),
        }
    }

    /// Sets the pointers. The counters in them are raised at commit to what `Ids` gave out.
    pub fn set_pointers(&mut self, pointers: &Pointers) -> Result<()> {
        self.pointers = Some(pointers.clone());
        Ok(())
    }

    /// What upkeep remembers, as this transaction sees it.
    pub fn upkeep(&self) -> Result<Upkeep> {
        Ok(self.single("upkeep")?.unwrap_or_default())
    }

    /// Has upkeep remember something else.
    pub fn set_upkeep(&mut self, upkeep: &Upkeep) -> Result<()> {
        self.put_single("upkeep", upkeep)
    }

    fn single<T: serde::de::DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let found =
            self.run("read the catalog", |transaction| Ok(transaction.open_table(SINGLE)?.get(key)?.map(|value| value.value().to_vec())))?;
        found.map(|value| unpack(key, &value)).transpose()
    }

    pub(super) fn put_single<T: Serialize>(&self, key: &str, record: &T) -> Result<()> {
        let value = pack(key, record);
        self.run("write the catalog", |transaction| Ok(transaction.open_table(SINGLE)?.insert(key, value.as_slice()).map(drop)?))
    }

    /// Makes it all durable, or nothing of it. After an error the catalog shows what it showed before; if the error was a
    /// failed sync, that can't be known, and every later transaction is refused.
    pub fn commit(mut self) -> Result<()> {
        self.flush_nodes()?;
        let mut pointers = self.pointers()?;
        self.catalog.ids.note(&mut pointers);
        self.put_single("pointers", &pointers)?;
        let before = self.single::<u64>("commits")?.unwrap_or(0);
        self.put_single("commits", &(before + 1))?;
        let Self { catalog, writing, .. } = self;
        catalog.database.commit(writing).or_else(|error| catalog.settle(error, before))
    }
}
