//! The journal of an open version: what happened since its parent was sealed, so that what was fsynced survives.
//!
//! A file of frames, each a batch of records that is replayed wholly or not at all. A frame is
//!
//! | bytes | what |
//! | --- | --- |
//! | 4 | `MARK` |
//! | 4 | length of the payload, little-endian |
//! | 8 | how much of the file was durable when the frame was made, little-endian |
//! | 8 | checksum: the first bytes of BLAKE3 over the frame's place in the file, the two fields before, the payload |
//! | n | payload: the codec's form of the records |
//!
//! Zeros may follow the last one: room for what comes.
//!
//! What a crash tears is the end that was never synced: replay stops before the first frame that does not hold. But if a
//! frame behind it holds and says that the broken one was durable, that is damage, not a torn tail, and an error.

#[cfg(test)]
mod tests;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::disk::HostFile;
use super::host::HostDir;
use super::record::Writer;
use super::{Result, StoreError, codec};
use crate::clock::Timestamp;
use crate::ids::{ObjectId, VersionId};

/// The first bytes of a journal.
const MAGIC: &[u8] = b"shadowfs journal 1\n";
/// The first bytes of a frame: none that text or zeros have.
const MARK: [u8; 4] = [0xf5, b'J', 0xf6, 1];
const HEADER: usize = 24;
/// Room that is made ahead: as much as is written, within these bounds, in bytes.
const ROOM: (u64, u64) = (16 << 10, 1 << 20);
/// Longest payload; what is longer could not be decoded.
const PAYLOAD_LIMIT: usize = codec::DECODE_LIMIT - (1 << 20);

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
    /// Bytes of an object that has no file, or one without a name.
    Data {
        /// The object.
        object: ObjectId,
        /// Where they go.
        offset: u64,
        /// The bytes.
        #[serde(with = "codec::bytes")]
        bytes: Vec<u8>,
    },
    /// Such an object has a new length.
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
    /// An edit that counts once a `Join` takes it up: what belongs together may be too much for one batch.
    Aside {
        /// The key.
        #[serde(with = "codec::bytes")]
        key: Vec<u8>,
        /// The new value; `None` removes the key.
        #[serde(with = "codec::optional_bytes")]
        value: Option<Vec<u8>>,
    },
    /// The last `edits` asides are edits now, all of them at once.
    Join {
        /// The version stands on this parent from here on, since then, and these edits are all of it.
        base: Option<(VersionId, Timestamp)>,
        /// How many.
        edits: u64,
    },
    /// The object's bytes are in a file of its own, and durable there: what `Data` and `Truncate` said before is over.
    InFile {
        /// The object.
        object: ObjectId,
    },
}

/// The journal of an open version, to append to.
#[derive(Debug)]
pub struct Journal {
    host: Arc<HostDir>,
    name: String,
    file: HostFile,
    /// How much of the file is written.
    written: u64,
    /// How much of it is durable.
    durable: u64,
    /// Up to here the file is long, with zeros behind what is written. A sync that changes no length costs one flush of the disk; one that
    /// does costs a commit of the host's own journal as well (on ext4 0.3 against 4 ms, on a busy machine).
    room: u64,
    /// Frames that follow what is written.
    pending: Vec<u8>,
    /// Whether the directory is known to have the file's name on disk.
    named: bool,
    poisoned: Option<i32>,
}

impl Journal {
    /// Opens the journal `name` ("journal/t7"), making it if there is none. A torn tail is cut off.
    pub(super) fn open(host: Arc<HostDir>, name: String) -> Result<Self> {
        use nix::fcntl::OFlag;
        let file = host.file("open", &name, OFlag::O_RDWR | OFlag::O_CREAT)?;
        let bytes = read_all(&file, &name)?;
        let written = scan(&bytes, &name, |_| Ok(()))?;
        let pending = if written == 0 { MAGIC.to_vec() } else { Vec::new() };
        if written < bytes.len() as u64 {
            file.set_len(written).map_err(|error| StoreError::io(format!("cut the torn tail of {name}"), error))?;
        }
        Ok(Self { host, name, file, written, durable: 0, room: written, pending, named: false, poisoned: None })
    }

    /// Adds a batch that will be replayed wholly or not at all. In memory until `write`.
    pub fn append(&mut self, batch: &[JournalRecord]) -> Result<()> {
        self.refuse_if_poisoned()?;
        if batch.is_empty() {
            return Ok(());
        }
        self.frame(batch)
    }

    /// Makes durable what is in it, and says so with an empty batch at its end: damage to the last one can be told from a torn tail then.
    /// Nothing is behind it any more.
    pub fn finish(&mut self) -> Result<()> {
        self.sync()?;
        self.frame(&[])?;
        self.write()?;
        self.file.set_len(self.written).map_err(|error| StoreError::io(format!("cut {}", self.name), error))?;
        self.room = self.written;
        self.sync_written()
    }

    fn frame(&mut self, batch: &[JournalRecord]) -> Result<()> {
        let payload = codec::encode(batch);
        if payload.len() > PAYLOAD_LIMIT {
            let (len, limit) = (payload.len() as u64, PAYLOAD_LIMIT as u64);
            return Err(StoreError::TooLarge { what: format!("a batch for {}", self.name), len, limit });
        }
        let place = self.written + self.pending.len() as u64;
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&MARK);
        header[4..8].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        header[8..16].copy_from_slice(&self.durable.to_le_bytes());
        let sum = checksum(place, &header[4..16], &payload);
        header[16..].copy_from_slice(&sum);
        self.pending.extend_from_slice(&header);
        self.pending.extend_from_slice(&payload);
        Ok(())
    }

    /// Bytes that were appended and not yet written.
    #[must_use]
    pub fn unwritten(&self) -> usize {
        self.pending.len()
    }

    /// Hands what was appended to the kernel: it survives this process, not the machine. After an error (a full disk)
    /// nothing is lost, and the next call tries again.
    pub fn write(&mut self) -> Result<()> {
        self.refuse_if_poisoned()?;
        if self.pending.is_empty() {
            return Ok(());
        }
        self.file.write_all_at(&self.pending, self.written).map_err(|error| StoreError::io(format!("write {}", self.name), error))?;
        self.written += self.pending.len() as u64;
        self.pending.clear();
        // One huge batch must not pin its memory for the life of the version.
        self.pending.shrink_to(1 << 20);
        Ok(())
    }

    /// Makes durable what was appended. Once it failed it fails for good, whatever the disk says later: the kernel drops
    /// pages that it could not write, and a second sync succeeds without them.
    pub fn sync(&mut self) -> Result<()> {
        self.write()?;
        self.make_room();
        self.sync_written()
    }

    /// The length is about to be made durable anyway: then for what comes next as well. On a full disk it is left as it is.
    fn make_room(&mut self) {
        if self.written <= self.room {
            return;
        }
        let zeros = vec![0; self.written.clamp(ROOM.0, ROOM.1) as usize];
        self.room = self.written + self.file.write_spare(&zeros, self.written).unwrap_or(0) as u64;
    }

    fn sync_written(&mut self) -> Result<()> {
        if self.durable == self.written && self.named {
            return Ok(());
        }
        self.sync_now().inspect_err(|error| self.poisoned = Some(error.errno()))?;
        self.durable = self.written;
        self.named = true;
        Ok(())
    }

    fn sync_now(&self) -> Result<()> {
        self.file.sync_data().map_err(|error| StoreError::io(format!("sync {}", self.name), error))?;
        if !self.named {
            self.host.sync_dir("journal")?;
        }
        Ok(())
    }

    fn refuse_if_poisoned(&self) -> Result<()> {
        match self.poisoned {
            Some(errno) => Err(StoreError::Poisoned { what: self.name.clone(), errno }),
            None => Ok(()),
        }
    }

    /// The records of the journal at `path`, up to a torn tail. A batch that a crash tore is not among them.
    pub fn replay(path: &Path) -> Result<Vec<JournalRecord>> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(|error| StoreError::io(format!("open {name}"), error))?;
        replay(&HostFile::new(file, None), &name)
    }
}

/// The records of an open journal.
pub(super) fn replay(file: &HostFile, name: &str) -> Result<Vec<JournalRecord>> {
    let mut records = Vec::new();
    scan(&read_all(file, name)?, name, |payload| {
        let batch: Vec<JournalRecord> = codec::decode(payload).map_err(|error| StoreError::undecodable(name, &error))?;
        records.extend(batch);
        Ok(())
    })?;
    Ok(records)
}

fn read_all(file: &HostFile, name: &str) -> Result<Vec<u8>> {
    let fail = |error: std::io::Error| StoreError::io(format!("read {name}"), error);
    let len = file.metadata().map_err(fail)?.len();
    let mut bytes = vec![0; usize::try_from(len).map_err(|_| StoreError::damaged(format!("{name}: {len} bytes")))?];
    file.read_exact_at(&mut bytes, 0).map_err(fail)?;
    Ok(bytes)
}

/// Visits the payload of every frame that holds, and returns where they end.
fn scan(bytes: &[u8], name: &str, mut visit: impl FnMut(&[u8]) -> Result<()>) -> Result<u64> {
    if bytes.len() < MAGIC.len() && MAGIC.starts_with(bytes) {
        return Ok(0);
    }
    if !bytes.starts_with(MAGIC) {
        // The first write was torn in a way that left other bytes: fine as long as nothing was ever durable.
        return refuse_damage(bytes, 0, name).map(|()| 0);
    }
    let mut at = MAGIC.len();
    while let Some(frame) = frame_at(bytes, at) {
        visit(frame.payload)?;
        at = frame.end;
    }
    refuse_damage(bytes, at, name)?;
    Ok(at as u64)
}

/// Fails if a frame behind `broken` says that the bytes there were durable.
fn refuse_damage(bytes: &[u8], broken: usize, name: &str) -> Result<()> {
    let mut at = broken;
    while let Some(found) = bytes.get(at..).and_then(|rest| rest.windows(MARK.len()).position(|window| window == MARK)) {
        at += found;
        match frame_at(bytes, at) {
            Some(frame) if frame.durable > broken as u64 => {
                return Err(StoreError::damaged(format!("{name}: a batch that was durable is broken, at byte {broken}")));
            }
            Some(frame) => at = frame.end,
            None => at += 1,
        }
    }
    Ok(())
}

struct Frame<'a> {
    payload: &'a [u8],
    durable: u64,
    end: usize,
}

/// The frame that begins at `at`, if it holds.
fn frame_at(bytes: &[u8], at: usize) -> Option<Frame<'_>> {
    let (header, rest) = bytes.get(at..)?.split_first_chunk::<HEADER>()?;
    let (mark, fields) = header.split_first_chunk::<4>()?;
    let (len, durable_and_sum) = fields.split_first_chunk::<4>()?;
    let (durable, sum) = durable_and_sum.split_first_chunk::<8>()?;
    let payload = rest.get(..u32::from_le_bytes(*len) as usize)?;
    let holds = *mark == MARK && *sum == checksum(at as u64, &header[4..16], payload);
    holds.then(|| Frame { payload, durable: u64::from_le_bytes(*durable), end: at + HEADER + payload.len() })
}

fn checksum(place: u64, fields: &[u8], payload: &[u8]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&place.to_le_bytes()).update(fields).update(payload);
    let mut sum = [0; 8];
    hasher.finalize_xof().fill(&mut sum);
    sum
}
