//! The journal.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::record::Writer;
use super::{Result, codec, unfinished};
use crate::clock::Timestamp;
use crate::ids::{ObjectId, VersionId};

/// What the journal of an open version holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JournalRecord {
    /// The first record: what the version stands on.
    Base {
        /// Its parent.
        parent: VersionId,
        /// When its first change came.
        opened_at: Timestamp,
    },
    /// A process that changed something.
    Writer(Writer),
    /// A change of the tree, in the codec's form: the floor above knows what keys and values are.
    Edit {
        /// The key.
        #[serde(with = "codec::bytes")]
        key: Vec<u8>,
        /// The new value; `None` removes the key.
        #[serde(with = "codec::optional_bytes")]
        value: Option<Vec<u8>>,
    },
    /// Bytes of an object held in memory.
    Data {
        /// The object.
        object: ObjectId,
        /// Where they go.
        offset: u64,
        /// The bytes.
        #[serde(with = "codec::bytes")]
        bytes: Vec<u8>,
    },
    /// A held object has a new length.
    Truncate {
        /// The object.
        object: ObjectId,
        /// Its length.
        len: u64,
    },
    /// No more edits follow: the version is being sealed.
    Sealed {
        /// Its message.
        message: Option<String>,
    },
}

/// The journal of an open version, to append to.
#[derive(Debug)]
pub struct Journal;

impl Journal {
    /// Adds a batch that will be replayed wholly or not at all. In memory until `write`.
    pub fn append(&mut self, _batch: &[JournalRecord]) -> Result<()> {
        Err(unfinished())
    }

    /// Hands what was appended to the kernel: it survives this process, not the machine.
    pub fn write(&mut self) -> Result<()> {
        Err(unfinished())
    }

    /// Makes durable what was appended. Once it failed it fails for good, whatever the disk says later.
    pub fn sync(&mut self) -> Result<()> {
        Err(unfinished())
    }

    /// The records of the journal at `path`, up to a torn tail.
    pub fn replay(_path: &Path) -> Result<Vec<JournalRecord>> {
        Err(unfinished())
    }
}
