//! The catalog.

use super::event::{Event, EventKind};
use super::record::{AttemptRecord, ObjectRecord, Pointers, VersionRecord};
use super::{Result, unfinished};
use crate::clock::Timestamp;
use crate::ids::{Digest, EventSeq, NodeId, ObjectId, VersionId};

/// The catalog: nodes, versions, objects, events, attempts, tags, pointers.
#[derive(Debug)]
pub struct Catalog;

impl Catalog {
    /// The bytes of a tree node.
    pub fn node(&self, _id: NodeId) -> Result<Vec<u8>> {
        Err(unfinished())
    }

    /// Where an object is.
    pub fn object(&self, _id: ObjectId) -> Result<Option<ObjectRecord>> {
        Err(unfinished())
    }

    /// A sealed object with these contents.
    pub fn object_with_digest(&self, _digest: &Digest) -> Result<Option<ObjectId>> {
        Err(unfinished())
    }

    /// A version's record.
    pub fn version(&self, _version: VersionId) -> Result<Option<VersionRecord>> {
        Err(unfinished())
    }

    /// Every version's record, by number.
    pub fn versions(&self) -> Result<Vec<VersionRecord>> {
        Err(unfinished())
    }

    /// The pointers and counters.
    pub fn pointers(&self) -> Result<Pointers> {
        Err(unfinished())
    }

    /// The events from `from` on.
    pub fn events(&self, _from: EventSeq) -> Result<Vec<Event>> {
        Err(unfinished())
    }

    /// The attempts of checks on a version, in the order in which they started.
    pub fn attempts(&self, _version: VersionId) -> Result<Vec<AttemptRecord>> {
        Err(unfinished())
    }

    /// The tags, by name.
    pub fn tags(&self) -> Result<Vec<(String, VersionId)>> {
        Err(unfinished())
    }

    /// When the store was made.
    pub fn created_at(&self) -> Result<Timestamp> {
        Err(unfinished())
    }

    /// Begins a transaction; waits for the one before it to end. Nothing of it is seen until its commit.
    pub fn begin(&self) -> Result<Transaction<'_>> {
        Err(unfinished())
    }
}

/// Changes of the catalog that happen together. Dropped without `commit`, it never was.
#[must_use = "a transaction that is not committed changes nothing"]
#[derive(Debug)]
pub struct Transaction<'a> {
    _catalog: &'a Catalog,
}

impl Transaction<'_> {
    /// Stores a tree node.
    pub fn put_node(&mut self, _id: NodeId, _bytes: &[u8]) -> Result<()> {
        Err(unfinished())
    }

    /// Removes a tree node.
    pub fn remove_node(&mut self, _id: NodeId) -> Result<()> {
        Err(unfinished())
    }

    /// Stores where an object is.
    pub fn put_object(&mut self, _id: ObjectId, _record: &ObjectRecord) -> Result<()> {
        Err(unfinished())
    }

    /// Removes an object's record.
    pub fn remove_object(&mut self, _id: ObjectId) -> Result<()> {
        Err(unfinished())
    }

    /// Stores a version's record.
    pub fn put_version(&mut self, _record: &VersionRecord) -> Result<()> {
        Err(unfinished())
    }

    /// Stores an attempt.
    pub fn put_attempt(&mut self, _record: &AttemptRecord) -> Result<()> {
        Err(unfinished())
    }

    /// Stores a tag.
    pub fn put_tag(&mut self, _name: &str, _version: VersionId) -> Result<()> {
        Err(unfinished())
    }

    /// Removes a tag.
    pub fn remove_tag(&mut self, _name: &str) -> Result<()> {
        Err(unfinished())
    }

    /// Appends an event to the lineage: gives it its number and chains it to the one before.
    pub fn append_event(&mut self, _at: Timestamp, _version: Option<VersionId>, _what: EventKind) -> Result<Event> {
        Err(unfinished())
    }

    /// The pointers, as this transaction sees them.
    pub fn pointers(&self) -> Result<Pointers> {
        Err(unfinished())
    }

    /// Sets the pointers. The counters in them are raised at commit to what `Ids` gave out.
    pub fn set_pointers(&mut self, _pointers: &Pointers) -> Result<()> {
        Err(unfinished())
    }

    /// Makes it all durable, or nothing of it.
    pub fn commit(self) -> Result<()> {
        Err(unfinished())
    }
}
