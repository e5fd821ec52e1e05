//! The check of the database's own pages: each against its checksum, and what is free against what is used. Opening looks at none of that.

use std::collections::BTreeMap;
use std::io;

use parking_lot::Mutex;
use redb::{Database, DatabaseError, StorageBackend, StorageError};

use super::super::{HostFile, Result};
use super::database::{backend, shielded};

/// Blocks that are kept apart.
const BLOCK: u64 = 4096;

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// Every page that is in use is as it was written.
    Good,
    /// They are, but the list of the free ones was not what it should be. Nothing is lost by that; a repair puts it right.
    FreeListWrong,
}

/// Checks the pages of a catalog that nobody has open; with `repair`, puts the list of free pages right. A damaged page is an error.
pub(crate) fn check(file: &HostFile, repair: bool) -> Result<Pages> {
    let clean = shielded("check the pages of catalog.redb", || {
        let builder = Database::builder();
        let opened = if repair {
            backend(file).map_err(|error| redb::Error::Io(io::Error::other(error)))?.open(&builder)
        } else {
            builder.create_with_backend(Aside::over(file)?)
        };
        let mut database = opened?;
        database.check_integrity().map_err(|error| match error {
            // Its own words are few.
            DatabaseError::Storage(StorageError::Corrupted(why)) => {
                redb::Error::Corrupted(format!("a page does not match its checksum: {why}"))
            }
            other => other.into(),
        })
    })?;
    Ok(if clean { Pages::Good } else { Pages::FreeListWrong })
}

/// A file of which nothing is changed: what is written is kept in memory, beside it.
#[derive(Debug)]
struct Aside {
    file: HostFile,
    /// A leaf lock.
    written: Mutex<Written>,
}

#[derive(Debug)]
struct Written {
    len: u64,
    blocks: BTreeMap<u64, Vec<u8>>,
}

impl Aside {
    fn over(file: &HostFile) -> std::result::Result<Self, redb::Error> {
        let file = file.try_clone().map_err(redb::Error::Io)?;
        let len = file.metadata().map_err(redb::Error::Io)?.len();
        Ok(Self { file, written: Mutex::new(Written { len, blocks: BTreeMap::new() }) })
    }

    /// A block as the file has it; zeros past its end.
    fn original(&self, number: u64) -> io::Result<Vec<u8>> {
        let mut block = vec![0; BLOCK as usize];
        let mut at = 0;
        while at < block.len() {
            match self.file.read_at(block.get_mut(at..).unwrap_or_default(), number * BLOCK + at as u64)? {
                0 => break,
                n => at += n,
            }
        }
        Ok(block)
    }

    /// Calls `with` for each block that a range touches: its number, where in it, where in the range.
    fn each(
        offset: u64,
        len: usize,
        mut with: impl FnMut(u64, std::ops::Range<usize>, std::ops::Range<usize>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let inside = usize::try_from(at % BLOCK).unwrap_or(0);
            let n = (len - done).min(BLOCK as usize - inside);
            with(at / BLOCK, inside..inside + n, done..done + n)?;
            done += n;
        }
        Ok(())
    }
}

impl StorageBackend for Aside {
    fn len(&self) -> io::Result<u64> {
        Ok(self.written.lock().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let written = self.written.lock();
        if offset.saturating_add(out.len() as u64) > written.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Self::each(offset, out.len(), |number, inside, range| {
            let original;
            let block = match written.blocks.get(&number) {
                Some(block) => block,
                None => {
                    original = self.original(number)?;
                    &original
                }
            };
            out[range].copy_from_slice(&block[inside]);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.written.lock().len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut written = self.written.lock();
        Self::each(offset, data.len(), |number, inside, range| {
            let block = match written.blocks.entry(number) {
                std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::btree_map::Entry::Vacant(entry) => entry.insert(self.original(number)?),
            };
            block[inside].copy_from_slice(&data[range]);
            Ok(())
        })
    }
}
