//! Digests of contents, on all processors.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use parking_lot::Mutex;

use super::super::{Result, StoreError};
use crate::ids::Digest;

/// What one read of a file asks for.
const READ: usize = 1 << 20;
/// Contents of fewer bytes together are hashed on the caller's thread: starting another costs more.
const ALONE: u64 = 1 << 20;
/// A hole's bytes.
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// Something to hash.
pub(super) enum Input {
    /// Bytes in memory.
    Bytes(Arc<[u8]>),
    /// A file, with its name for errors.
    File(Arc<File>, String),
}

/// Length and digest of each input. Several threads share the inputs; within one input there is one.
pub(super) fn all(inputs: &[Input]) -> Result<Vec<(u64, Digest)>> {
    let total = inputs.iter().map(size_hint).fold(0, u64::saturating_add);
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if total < ALONE { 1 } else { processors.min(inputs.len()).min(8) };
    if threads <= 1 {
        return inputs.iter().map(one).collect();
    }
    let next = AtomicUsize::new(0);
    let done = Mutex::new(vec![None; inputs.len()]);
    let work = || -> Result<()> {
        // A run of inputs at a time, so that small ones do not fight for the lock.
        let run = (inputs.len() / (threads * 8)).clamp(1, 256);
        loop {
            let from = next.fetch_add(run, Ordering::Relaxed);
            let Some(inputs) = inputs.get(from..).filter(|rest| !rest.is_empty()) else { return Ok(()) };
            let results = inputs.iter().take(run).map(one).collect::<Result<Vec<_>>>()?;
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

fn one(input: &Input) -> Result<(u64, Digest)> {
    match input {
        Input::Bytes(bytes) => Ok((bytes.len() as u64, Digest::of(bytes))),
        Input::File(file, name) => whole_file(file, name),
    }
}

/// Length and digest of a file. Holes read as zeros and are not read.
pub(super) fn whole_file(file: &File, name: &str) -> Result<(u64, Digest)> {
    let len = file.metadata().map_err(|error| StoreError::io(format!("stat {name}"), error))?.len();
    let mut hasher = blake3::Hasher::new();
    let mut at = 0;
    while at < len {
        let data = seek(file, at, Whence::SeekData, name)?.map_or(len, |data| data.min(len));
        hash_zeros(&mut hasher, data - at);
        if data == len {
            break;
        }
        let hole = seek(file, data, Whence::SeekHole, name)?.map_or(len, |hole| hole.clamp(data + 1, len));
        hash_range(&mut hasher, file, data, hole - data, name)?;
        at = hole;
    }
    Ok((len, hasher.finalize().into()))
}

/// The next data or hole; `None` if there is none up to the file's end. Where the host can't tell, all is data.
fn seek(file: &File, at: u64, whence: Whence, name: &str) -> Result<Option<u64>> {
    let offset = i64::try_from(at).map_err(|_| StoreError::io(format!("seek in {name}"), Errno::EFBIG))?;
    match (lseek(file, offset, whence), whence) {
        (Ok(found), _) => Ok(u64::try_from(found).ok()),
        (Err(Errno::ENXIO), _) => Ok(None),
        (Err(Errno::EINVAL | Errno::EOPNOTSUPP), Whence::SeekData) => Ok(Some(at)),
        (Err(Errno::EINVAL | Errno::EOPNOTSUPP), _) => Ok(None),
        (Err(errno), _) => Err(StoreError::io(format!("seek in {name}"), errno)),
    }
}

/// The digest of a range of a file.
pub(super) fn range(file: &File, start: u64, len: u64, name: &str) -> Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    hash_range(&mut hasher, file, start, len, name)?;
    Ok(hasher.finalize().into())
}

fn hash_zeros(hasher: &mut blake3::Hasher, mut len: u64) {
    while len > 0 {
        let now = len.min(ZEROS.len() as u64);
        hasher.update(&ZEROS[..now as usize]);
        len -= now;
    }
}

fn hash_range(hasher: &mut blake3::Hasher, file: &File, mut at: u64, mut len: u64, name: &str) -> Result<()> {
    let mut buf = vec![0; len.min(READ as u64) as usize];
    while len > 0 {
        let now = len.min(buf.len() as u64) as usize;
        file.read_exact_at(&mut buf[..now], at).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => StoreError::damaged(format!("{name} is too short")),
            _ => StoreError::io(format!("read {name}"), error),
        })?;
        hasher.update(&buf[..now]);
        at += now as u64;
        len -= now as u64;
    }
    Ok(())
}
