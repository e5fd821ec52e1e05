//! Digests of contents, on all processors.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use parking_lot::Mutex;

use super::super::{HostFile, Result, StoreError};
use super::file_name;
use crate::ids::{Digest, ObjectId};

/// What one read of a file asks for: whole blocks.
const READ: usize = 1 << 20;
/// The same where most is holes.
const SPARSE_READ: usize = 2 * BLOCK;
/// Contents up to this length have the plain digest, whatever they are.
const PLAIN: u64 = 1 << 20;
/// The unit in which zeros are left out.
const BLOCK: usize = 1 << 16;
/// Keeps digests with zeros left out apart from plain ones.
const SPARSE_CONTEXT: &str = "shadowfs 2026-11-22 digest of sparse contents";
/// Contents of fewer bytes together are hashed on the caller's thread: starting another costs more.
const ALONE: u64 = 1 << 20;
/// A block of zeros.
static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// Something to hash.
pub(super) enum Input {
    /// Bytes in memory.
    Bytes(Arc<[u8]>),
    /// An object with a file of its own.
    File(ObjectId),
}

/// Opens the file of an object.
type Open<'a> = dyn Fn(ObjectId) -> Result<Arc<HostFile>> + Sync + 'a;

/// Length and digest of each input. Several threads share the inputs; within one input there is one. A file is open while it is read.
pub(super) fn all(inputs: &[Input], open: &Open<'_>) -> Result<Vec<(u64, Digest)>> {
    let total = inputs.iter().map(size_hint).fold(0, u64::saturating_add);
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if total < ALONE { 1 } else { processors.min(inputs.len()).min(8) };
    if threads <= 1 {
        return inputs.iter().map(|input| one(input, open)).collect();
    }
    let next = AtomicUsize::new(0);
    let done = Mutex::new(vec![None; inputs.len()]);
    let work = || -> Result<()> {
        // A run of inputs at a time, so that small ones do not fight for the lock.
        let run = (inputs.len() / (threads * 8)).clamp(1, 256);
        loop {
            let from = next.fetch_add(run, Ordering::Relaxed);
            let Some(inputs) = inputs.get(from..).filter(|rest| !rest.is_empty()) else { return Ok(()) };
            let results = inputs.iter().take(run).map(|input| one(input, open)).collect::<Result<Vec<_>>>()?;
            let mut done = done.lock();
            for (slot, result) in done.iter_mut().skip(from).zip(results) {
                *slot = Some(result);
            }
        }
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut outcome = work();
        for other in others {
            outcome = outcome.and(other.join().unwrap_or_else(|_| Err(StoreError::io("hash contents", Errno::EIO))));
        }
        outcome
    })?;
    done.into_inner().into_iter().map(|result| result.ok_or_else(|| StoreError::io("hash contents", Errno::EIO))).collect()
}

fn size_hint(input: &Input) -> u64 {
    match input {
        Input::Bytes(bytes) => bytes.len() as u64,
        // Whatever is in a file of its own is large.
        Input::File(..) => ALONE / 2,
    }
}

fn one(input: &Input, open: &Open<'_>) -> Result<(u64, Digest)> {
    match input {
        Input::Bytes(bytes) => Ok((bytes.len() as u64, of_bytes(bytes)?)),
        Input::File(id) => whole_file(&*open(*id)?, &file_name(*id)),
    }
}

/// The digest of bytes in memory.
pub(super) fn of_bytes(bytes: &[u8]) -> Result<Digest> {
    digest(&Contents { len: bytes.len() as u64, place: Place::Memory(bytes), pace: &UNPACED })
}

/// Length and digest of a file.
pub(super) fn whole_file(file: &HostFile, name: &str) -> Result<(u64, Digest)> {
    let len = file.metadata().map_err(|error| StoreError::io(format!("stat {name}"), error))?.len();
    Ok((len, digest(&Contents { len, place: Place::File { file, start: 0, name }, pace: &UNPACED })?))
}

/// The digest of a range of a file. `pace` is told of every read, and may wait, or end it.
pub(super) fn range(file: &HostFile, start: u64, len: u64, name: &str, pace: &Pace<'_>) -> Result<Digest> {
    digest(&Contents { len, place: Place::File { file, start, name }, pace })
}

/// Is told how many bytes were read.
type Pace<'a> = dyn Fn(u64) -> Result<()> + 'a;
/// As fast as it goes.
const UNPACED: fn(u64) -> Result<()> = |_| Ok(());

struct Contents<'a> {
    len: u64,
    place: Place<'a>,
    pace: &'a Pace<'a>,
}

enum Place<'a> {
    Memory(&'a [u8]),
    File { file: &'a HostFile, start: u64, name: &'a str },
}

impl Contents<'_> {
    /// Where the next byte at or after `at` is that may not be zero.
    fn next_data(&self, at: u64) -> Result<u64> {
        let Place::File { file, start: 0, name } = self.place else { return Ok(at) };
        let offset = i64::try_from(at).map_err(|_| StoreError::io(format!("seek in {name}"), Errno::EFBIG))?;
        match lseek(file, offset, Whence::SeekData) {
            Ok(found) => Ok(u64::try_from(found).unwrap_or(at).min(self.len)),
            Err(Errno::ENXIO) => Ok(self.len),
            // A host that knows no holes has none.
            Err(Errno::EINVAL | Errno::EOPNOTSUPP) => Ok(at),
            Err(errno) => Err(StoreError::io(format!("seek in {name}"), errno)),
        }
    }

    /// As much of `buf` as there is at `at`.
    fn read<'b>(&self, at: u64, buf: &'b mut [u8]) -> Result<&'b [u8]> {
        let len = (self.len - at).min(buf.len() as u64) as usize;
        let buf = &mut buf[..len];
        (self.pace)(len as u64)?;
        match self.place {
            Place::Memory(bytes) => buf.copy_from_slice(&bytes[at as usize..at as usize + len]),
            Place::File { file, start, name } => file.read_exact_at(buf, start + at).map_err(|error| match error.kind() {
                std::io::ErrorKind::UnexpectedEof => StoreError::damaged(format!("{name} is too short")),
                _ => StoreError::io(format!("read {name}"), error),
            })?,
        }
        Ok(buf)
    }
}

/// BLAKE3 of the bytes, or, for contents of more than `PLAIN` bytes with a whole block of zeros, the digest without those
/// blocks: otherwise one byte written at the end of a huge hole would cost a day's hashing. Which of the two follows from the
/// bytes alone, not from how a host lays out its holes, so equal contents have equal digests.
fn digest(contents: &Contents<'_>) -> Result<Digest> {
    if let Place::Memory(bytes) = contents.place
        && contents.len <= PLAIN
    {
        return Ok(Digest::of(bytes));
    }
    match plain(contents)? {
        Some(digest) => Ok(digest),
        None => sparse(contents),
    }
}

/// `None` if a block of zeros is in the way.
fn plain(contents: &Contents<'_>) -> Result<Option<Digest>> {
    let mut buf = vec![0; contents.len.min(READ as u64) as usize];
    let mut hasher = blake3::Hasher::new();
    let mut at = 0;
    while at < contents.len {
        if contents.len > PLAIN && contents.next_data(at)? >= at + BLOCK as u64 {
            return Ok(None);
        }
        let bytes = contents.read(at, &mut buf)?;
        if contents.len > PLAIN && bytes.chunks(BLOCK).any(|block| block == ZEROS) {
            return Ok(None);
        }
        hasher.update(bytes);
        at += bytes.len() as u64;
    }
    Ok(Some(hasher.finalize().into()))
}

/// The length, then every block that is short or not all zeros, each behind its number.
fn sparse(contents: &Contents<'_>) -> Result<Digest> {
    let mut buf = vec![0; SPARSE_READ];
    let mut hasher = blake3::Hasher::new_derive_key(SPARSE_CONTEXT);
    hasher.update(&contents.len.to_le_bytes());
    let block = BLOCK as u64;
    let whole = contents.len - contents.len % block;
    let mut at = 0;
    while at < contents.len {
        let data = contents.next_data(at)?;
        at = at.max((data - data % block).min(whole));
        if at == contents.len {
            break;
        }
        let bytes = contents.read(at, &mut buf)?;
        for (number, bytes) in (at / block..).zip(bytes.chunks(BLOCK)) {
            if bytes != ZEROS {
                hasher.update(&number.to_le_bytes()).update(bytes);
            }
        }
        at += bytes.len() as u64;
    }
    Ok(hasher.finalize().into())
}
