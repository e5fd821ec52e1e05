//! The catalog's file, as the database under it sees it: what is known to be on disk, whether a sync has ever failed, and an end to
//! everything that an opening which is given up may still do.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use redb::StorageBackend;

use super::super::HostFile;

/// Blocks that are kept apart. The first one holds nothing but redb's header, which selects the root.
const BLOCK: usize = 4096;

/// The catalog's file, through all openings of the database. It takes no lock: the store holds one on its format file for as long as it
/// is open.
#[derive(Debug)]
pub(super) struct CatalogFile {
    file: HostFile,
    /// A leaf lock.
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    /// The first block as it was last written.
    written: Vec<u8>,
    /// The first block as of the last sync that succeeded.
    synced: Vec<u8>,
    /// The errno of the first failure after which nothing may be written any more.
    failed: Option<i32>,
}

impl CatalogFile {
    pub(super) fn new(file: HostFile) -> io::Result<Arc<Self>> {
        let first = block_of(&file, 0)?;
        let known = Known { written: first.clone(), synced: first, failed: None };
        Ok(Arc::new(Self { file, known: Mutex::new(known) }))
    }

    /// The errno of a failed sync.
    pub(super) fn failed(&self) -> Option<i32> {
        self.known.lock().failed
    }

    /// Has the file taken for one whose sync has failed. The first errno stays.
    pub(super) fn fail(&self, errno: i32) {
        self.known.lock().failed.get_or_insert(errno);
    }

    /// Makes durable what is written. After a failure it fails for good: the kernel drops the pages that it could not write, and a later
    /// sync succeeds without them.
    pub(super) fn sync(&self) -> io::Result<()> {
        let covered = self.known.lock().written.clone();
        let synced = self.file.sync_data();
        let mut known = self.known.lock();
        match synced {
            Err(error) => {
                known.failed.get_or_insert(error.raw_os_error().unwrap_or(libc::EIO));
                Err(error)
            }
            Ok(()) => match known.failed {
                Some(errno) => Err(io::Error::from_raw_os_error(errno)),
                None => {
                    known.synced = covered;
                    Ok(())
                }
            },
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)?;
        if let Ok(from) = usize::try_from(offset)
            && from < BLOCK
        {
            let count = data.len().min(BLOCK - from);
            self.known.lock().written[from..from + count].copy_from_slice(&data[..count]);
        }
        Ok(())
    }

    /// For an opening that writes.
    pub(super) fn backend(self: &Arc<Self>) -> Backend {
        Backend { file: Arc::clone(self), ended: End::default() }
    }

    /// For an opening that shows the last state that is known to be on disk, and changes nothing.
    pub(super) fn aside(&self) -> io::Result<Aside> {
        let aside = Aside::over(&self.file)?;
        aside.written.lock().blocks.insert(0, self.known.lock().synced.clone());
        Ok(aside)
    }
}

/// What ends one opening's writing: who holds the other end of it can be sure that nothing of it reaches the file any more.
#[derive(Clone, Debug, Default)]
pub(super) struct End(Arc<RwLock<bool>>);

impl End {
    /// Waits for the operation under way; everything later is refused.
    pub(super) fn put(&self) {
        *self.0.write() = true;
    }
}

/// The answer to an opening that is given up.
#[derive(Debug, thiserror::Error)]
#[error("the catalog was opened anew")]
pub(super) struct Ended;

/// One opening's way to the file.
#[derive(Debug)]
pub(super) struct Backend {
    file: Arc<CatalogFile>,
    ended: End,
}

impl Backend {
    pub(super) fn end(&self) -> End {
        self.ended.clone()
    }

    /// The lock is held over the operation, so that an end waits for it.
    fn run<T>(&self, run: impl FnOnce(&CatalogFile) -> io::Result<T>) -> io::Result<T> {
        let ended = self.ended.0.read();
        if *ended { Err(io::Error::other(Ended)) } else { run(&self.file) }
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.run(|catalog| Ok(catalog.file.metadata()?.len()))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.run(|catalog| catalog.file.read_exact_at(out, offset))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.run(|catalog| catalog.file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.run(CatalogFile::sync)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.run(|catalog| catalog.write(offset, data))
    }
}

/// A file of which nothing is changed: what is written is kept in memory, beside it.
#[derive(Debug)]
pub(super) struct Aside {
    file: HostFile,
    /// A leaf lock.
    written: Mutex<Written>,
}

#[derive(Debug)]
struct Written {
    len: u64,
    blocks: BTreeMap<u64, Vec<u8>>,
}

/// A block as the file has it; zeros past its end.
fn block_of(file: &HostFile, number: u64) -> io::Result<Vec<u8>> {
    let mut block = vec![0; BLOCK];
    let mut at = 0;
    while at < block.len() {
        match file.read_at(block.get_mut(at..).unwrap_or_default(), number * BLOCK as u64 + at as u64)? {
            0 => break,
            n => at += n,
        }
    }
    Ok(block)
}

impl Aside {
    pub(super) fn over(file: &HostFile) -> io::Result<Self> {
        let file = file.try_clone()?;
        let len = file.metadata()?.len();
        Ok(Self { file, written: Mutex::new(Written { len, blocks: BTreeMap::new() }) })
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
            let inside = usize::try_from(at % BLOCK as u64).unwrap_or(0);
            let n = (len - done).min(BLOCK - inside);
            with(at / BLOCK as u64, inside..inside + n, done..done + n)?;
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
                    original = block_of(&self.file, number)?;
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
                std::collections::btree_map::Entry::Vacant(entry) => entry.insert(block_of(&self.file, number)?),
            };
            block[inside].copy_from_slice(&data[range]);
            Ok(())
        })
    }
}
