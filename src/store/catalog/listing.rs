//! What the catalog holds, key by key: for sweeps and for `fsck`, which goes on where a single value is damaged.

use redb::ReadableTable;

use super::{Catalog, attempt_name, event_name, unpack};
use crate::ids::{Digest, EventSeq, NodeId, ObjectId, VersionId};
use crate::store::Result;
use crate::store::event::Event;
use crate::store::record::AttemptRecord;

impl Catalog {
    /// The node numbers from `from` on with the bytes that each takes in the catalog, at most `most`.
    pub fn node_sizes(&self, from: NodeId, most: usize) -> Result<Vec<(NodeId, u64)>> {
        self.database.read("read the nodes", |tables| {
            let nodes = tables.nodes.range(from.0..)?.take(most);
            nodes.map(|entry| entry.map(|(key, value)| (NodeId(key.value()), value.value().len() as u64))).collect()
        })
    }

    /// The object numbers from `from` on, at most `most`.
    pub fn object_ids(&self, from: ObjectId, most: usize) -> Result<Vec<ObjectId>> {
        self.database.read("read the objects", |tables| {
            tables.objects.range(from.0..)?.take(most).map(|entry| entry.map(|(key, _)| ObjectId(key.value()))).collect()
        })
    }

    /// The digests above `after` (from the least on if there is none) with the object that each leads to, at most `most`.
    pub fn digests(&self, after: Option<Digest>, most: usize) -> Result<Vec<(Digest, ObjectId)>> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.database.read("read the digests", |tables| {
            let from = after.map_or(Unbounded, |digest| Excluded(digest.0));
            let found = tables.digests.range::<[u8; 32]>((from, Unbounded))?.take(most);
            found.map(|entry| entry.map(|(key, value)| (Digest(key.value()), ObjectId(value.value())))).collect()
        })
    }

    /// The numbers of all versions.
    pub fn version_ids(&self) -> Result<Vec<VersionId>> {
        self.database
            .read("read the versions", |tables| tables.versions.iter()?.map(|entry| entry.map(|(key, _)| VersionId(key.value()))).collect())
    }

    /// The numbers of the events from `from` on, at most `most`.
    pub fn event_seqs(&self, from: EventSeq, most: usize) -> Result<Vec<EventSeq>> {
        self.database.read("read the events", |tables| {
            tables.events.range(from.0..)?.take(most).map(|entry| entry.map(|(key, _)| EventSeq(key.value()))).collect()
        })
    }

    /// The number that the next event will have.
    pub fn next_event(&self) -> Result<EventSeq> {
        self.database
            .read("read the events", |tables| Ok(tables.events.last()?.map_or(EventSeq(0), |(key, _)| EventSeq(key.value()).next())))
    }

    /// One event.
    pub fn event(&self, seq: EventSeq) -> Result<Option<Event>> {
        let found = self.database.read("read an event", |tables| Ok(tables.events.get(seq.0)?.map(|value| value.value().to_vec())))?;
        found.map(|value| unpack(&event_name(seq), &value)).transpose()
    }

    /// Which attempts there are: version, check and number.
    pub fn attempt_keys(&self) -> Result<Vec<(VersionId, String, u32)>> {
        self.database.read("read the attempts", |tables| {
            let mut keys = Vec::new();
            for entry in tables.attempts.iter()? {
                let (key, _) = entry?;
                let (version, check, attempt) = key.value();
                keys.push((VersionId(version), check.to_owned(), attempt));
            }
            Ok(keys)
        })
    }

    /// One attempt.
    pub fn attempt(&self, version: VersionId, check: &str, attempt: u32) -> Result<Option<AttemptRecord>> {
        let key = (version.0, check, attempt);
        let found = self.database.read("read an attempt", |tables| Ok(tables.attempts.get(key)?.map(|value| value.value().to_vec())))?;
        found.map(|value| unpack(&attempt_name(version, check, attempt), &value)).transpose()
    }
}

/// Damage, for tests: one bit of a value is turned over.
#[cfg(test)]
impl Catalog {
    /// How many bytes the values of a table have, by position.
    pub(crate) fn value_lengths(&self, table: &str) -> Result<Vec<usize>> {
        self.database.read("read for a test", |tables| {
            let of = |values: &redb::ReadOnlyTable<u64, &'static [u8]>| {
                values.iter()?.map(|entry| entry.map(|(_, value)| value.value().len())).collect()
            };
            match table {
                "nodes" => of(&tables.nodes),
                "objects" => of(&tables.objects),
                "versions" => of(&tables.versions),
                "events" => of(&tables.events),
                "attempts" => tables.attempts.iter()?.map(|entry| entry.map(|(_, value)| value.value().len())).collect(),
                "digests" => tables.digests.iter()?.map(|entry| entry.map(|_| 8)).collect(),
                _ => tables.single.iter()?.map(|entry| entry.map(|(_, value)| value.value().len())).collect(),
            }
        })
    }

    /// Turns a bit over in the value at a position of a table.
    pub(crate) fn flip(&self, table: &str, at: usize, byte: usize) -> Result<()> {
        use super::database::{ATTEMPTS, DIGESTS, EVENTS, NODES, OBJECTS, SINGLE, VERSIONS, shielded};
        macro_rules! flip {
            ($table:expr, $key:ident, $own:expr, $borrow:expr) => {{
                let mut values = $table;
                let found = values.iter()?.nth(at).transpose()?;
                let found = found.map(|($key, value)| ($own, value.value().to_vec()));
                if let Some(($key, mut bytes)) = found {
                    bytes[byte] ^= 0x10;
                    values.insert($borrow, bytes.as_slice())?;
                }
            }};
        }
        let writing = self.database.begin()?;
        shielded("damage for a test", || {
            let transaction = &writing.transaction;
            match table {
                "nodes" => flip!(transaction.open_table(NODES)?, key, key.value(), key),
                "objects" => flip!(transaction.open_table(OBJECTS)?, key, key.value(), key),
                "versions" => flip!(transaction.open_table(VERSIONS)?, key, key.value(), key),
                "events" => flip!(transaction.open_table(EVENTS)?, key, key.value(), key),
                "attempts" => {
                    flip!(
                        transaction.open_table(ATTEMPTS)?,
                        key,
                        (key.value().0, key.value().1.to_owned(), key.value().2),
                        (key.0, &*key.1, key.2)
                    );
                }
                "digests" => {
                    let mut values = transaction.open_table(DIGESTS)?;
                    let found = values.iter()?.nth(at).transpose()?.map(|(key, value)| (key.value(), value.value()));
                    if let Some((key, value)) = found {
                        values.insert(key, value ^ (0x10 << (8 * byte)))?;
                    }
                }
                _ => flip!(transaction.open_table(SINGLE)?, key, key.value().to_owned(), &*key),
            }
            Ok(())
        })?;
        self.database.commit(writing)
    }
}
