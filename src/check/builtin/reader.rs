//! A file of a version as a stream that ends early when the check is to stop.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Instant;

use crate::check::cancel::Cancel;
use crate::clock::Clock;
use crate::ids::Ino;
use crate::store::record::Outcome;
use crate::tree::Snapshot;
use crate::tree::key::InodeRecord;

/// Bytes that are read at once.
const CHUNK: usize = 256 << 10;

/// When a check must stop.
pub(super) struct Limit<'a> {
    pub(super) cancel: &'a Cancel,
    pub(super) clock: &'a dyn Clock,
    pub(super) deadline: Instant,
}

impl Limit<'_> {
    /// How the check ends, if it must stop now.
    pub(super) fn over(&self) -> Option<Outcome> {
        if self.cancel.is_cancelled() {
            Some(Outcome::Cancelled)
        } else if self.clock.instant() >= self.deadline {
            Some(Outcome::TimedOut)
        } else {
            None
        }
    }
}

/// The bytes of a file, from its beginning.
pub(super) struct FileReader<'a> {
    snapshot: &'a Snapshot,
    ino: Ino,
    record: Arc<InodeRecord>,
    limit: &'a Limit<'a>,
    offset: u64,
    chunk: Vec<u8>,
    /// How much of the chunk is consumed.
    at: usize,
}

impl<'a> FileReader<'a> {
    pub(super) fn open(snapshot: &'a Snapshot, ino: Ino, limit: &'a Limit<'a>) -> io::Result<Self> {
        let record = snapshot.inode(ino).map_err(io::Error::other)?.ok_or_else(|| io::Error::other("it has no inode"))?;
        Ok(Self { snapshot, ino, record, limit, offset: 0, chunk: Vec::new(), at: 0 })
    }

    fn fill(&mut self) -> io::Result<()> {
        if self.limit.over().is_some() {
            // Not `Interrupted`: readers on top would try that again for ever.
            return Err(io::Error::other("the check is to stop"));
        }
        self.chunk = self.snapshot.read_record(self.ino, &self.record, self.offset, CHUNK).map_err(io::Error::other)?;
        self.offset += self.chunk.len() as u64;
        self.at = 0;
        Ok(())
    }
}

impl Read for FileReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.chunk.len() {
            self.fill()?;
        }
        let rest = self.chunk.get(self.at..).unwrap_or_default();
        let n = rest.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..n), rest.get(..n)) {
            to.copy_from_slice(from);
        }
        self.at += n;
        Ok(n)
    }
}
