//! A file of a version as a stream that ends when the check is to stop.

use std::io::{self, BufRead, Read, Seek, SeekFrom};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::ids::Ino;
use crate::tree::Snapshot;
use crate::tree::key::InodeRecord;

/// Bytes that are read at once.
const CHUNK: usize = 256 << 10;

/// Why an attempt can't go on. Kept beside the errors that readers return, which parsers on top wrap in their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Halt {
    /// It was told to stop.
    Cancelled,
    /// The store could not read.
    Unreadable(String),
}

/// Asks whether the attempt is to stop, and remembers why it can't go on.
pub(super) struct Stop<'a> {
    cancelled: &'a (dyn Fn() -> bool + Sync),
    /// A leaf lock: nothing is called with it held.
    halt: Mutex<Option<Halt>>,
}

impl<'a> Stop<'a> {
    pub(super) const fn new(cancelled: &'a (dyn Fn() -> bool + Sync)) -> Self {
        Self { cancelled, halt: Mutex::new(None) }
    }

    /// Fails if the attempt is to stop.
    pub(super) fn check(&self) -> io::Result<()> {
        if self.is_cancelled() {
            // Not `Interrupted`: readers on top would try that again for ever.
            return Err(self.because(Halt::Cancelled));
        }
        Ok(())
    }

    /// Whether the attempt is to stop.
    pub(super) fn is_cancelled(&self) -> bool {
        (self.cancelled)()
    }

    /// Why the attempt can't go on, if it can't.
    pub(super) fn halt(&self) -> Option<Halt> {
        self.halt.lock().clone()
    }

    fn because(&self, halt: Halt) -> io::Error {
        let error = match &halt {
            Halt::Cancelled => io::Error::other("the check is to stop"),
            Halt::Unreadable(why) => io::Error::other(why.clone()),
        };
        self.halt.lock().get_or_insert(halt);
        error
    }
}

/// A regular file of a version.
#[derive(Clone)]
pub(super) struct File<'a> {
    snapshot: &'a Snapshot,
    ino: Ino,
    record: Arc<InodeRecord>,
    stop: &'a Stop<'a>,
}

impl<'a> File<'a> {
    pub(super) const fn new(snapshot: &'a Snapshot, ino: Ino, record: Arc<InodeRecord>, stop: &'a Stop<'a>) -> Self {
        Self { snapshot, ino, record, stop }
    }

    pub(super) fn len(&self) -> u64 {
        self.record.size
    }

    /// Whether it is the same file, unchanged (one that was only touched counts as changed).
    pub(super) fn is_unchanged_from(&self, base: &File<'_>) -> bool {
        self.ino == base.ino && *self.record == *base.record
    }

    /// Its bytes from `offset` on.
    pub(super) fn reader(&self, offset: u64) -> Reader<'a> {
        Reader { file: self.clone(), by: CHUNK, chunk: Vec::new(), from: offset, at: 0 }
    }

    /// Fails if reading it has failed before, whatever a parser made of that, or if the attempt is to stop.
    pub(super) fn can_go_on(&self) -> io::Result<()> {
        match self.stop.halt() {
            Some(halt) => Err(self.stop.because(halt)),
            None => self.stop.check(),
        }
    }

    /// Up to `len` bytes; fewer only at its end.
    pub(super) fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        self.stop.check()?;
        self.snapshot.read_record(self.ino, &self.record, offset, len).map_err(|error| {
            let path = self.snapshot.path_of(self.ino).ok().flatten().unwrap_or_default();
            self.stop.because(Halt::Unreadable(format!("{} can't be read: {error}", super::report::shown(&path))))
        })
    }
}

/// A file's bytes as a stream.
pub(super) struct Reader<'a> {
    file: File<'a>,
    /// Bytes that are read at once.
    by: usize,
    chunk: Vec<u8>,
    /// Where in the file the chunk begins.
    from: u64,
    /// How much of the chunk is consumed.
    at: usize,
}

impl Reader<'_> {
    /// Reads `by` bytes at once: for who looks at few of them.
    pub(super) const fn by(mut self, by: usize) -> Self {
        self.by = by;
        self
    }

    fn position(&self) -> u64 {
        self.from + self.at as u64
    }
}

impl BufRead for Reader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at >= self.chunk.len() {
            let from = self.position();
            self.chunk = self.file.read(from, self.by)?;
            (self.from, self.at) = (from, 0);
        }
        Ok(self.chunk.get(self.at..).unwrap_or_default())
    }

    fn consume(&mut self, n: usize) {
        self.at = self.at.saturating_add(n).min(self.chunk.len());
    }
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buffer)?;
        self.consume(n);
        Ok(n)
    }
}

impl Seek for Reader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let to = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(by) => self.file.len().checked_add_signed(by),
            SeekFrom::Current(by) => self.position().checked_add_signed(by),
        };
        let to = to.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a seek before the file's beginning"))?;
        match to.checked_sub(self.from).and_then(|at| usize::try_from(at).ok()) {
            Some(at) if at <= self.chunk.len() => self.at = at,
            _ => {
                self.chunk.clear();
                (self.from, self.at) = (to, 0);
            }
        }
        Ok(to)
    }
}
