//! The bytes of open files: read, write, seek, copy.

use std::sync::Arc;

use nix::unistd::Whence;

use super::Staging;
use super::extents;
use super::privileges::{drop_capability, without_set_id};
use super::share::CopyRange;
use super::state::{Pending, put_record};
use super::types::{Caller, Handle, Seek};
use super::working::{CopyUp, FileCell, Host, Work};
use crate::ids::{Ino, VersionId};
use crate::store::{HostFile, StoreError};
use crate::tree::key::{Content, InodeRecord};
use crate::version::error::{FsError, FsResult};

/// The largest file: as ext4's with blocks of 4 KiB.
pub(super) const MAX_SIZE: u64 = (1 << 44) - 4096;
/// At most so much is copied at one request, so that it can be interrupted.
const COPY_AT_ONCE: u64 = 64 << 20;
const COPY_CHUNK: usize = 1 << 20;

impl Staging {
    /// pread(2): at most `len` bytes, fewer only at the end.
    pub fn read(&self, handle: Handle, offset: u64, len: u32) -> FsResult<Vec<u8>> {
        // In tests it shows if a byte is not filled in.
        let mut bytes = vec![if cfg!(test) { 0xaa } else { 0 }; len as usize];
        let read = self.read_into(handle, offset, &mut bytes)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// The same into a buffer, whatever is in it. How many bytes there were comes back.
    pub fn read_into(&self, handle: Handle, offset: u64, buffer: &mut [u8]) -> FsResult<usize> {
        let _gate = self.gate.read();
        let slot = self.file_slot(handle)?;
        slot.cell.check()?;
        // Whether the handle may read is not asked: the kernel fills up pages of files that are only written.
        self.read_cell(&slot.cell, offset, buffer)
    }

    pub(super) fn read_cell(&self, cell: &FileCell, offset: u64, buffer: &mut [u8]) -> FsResult<usize> {
        let work = cell.work.read();
        let (record, snapshot) = {
            let mut state = self.lock();
            state.refresh(&self.cx, cell.ino)?;
            (state.record(cell.ino)?, self.snapshot_of(&state, cell.ino))
        };
        let left = usize::try_from(record.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = left.min(buffer.len());
        let buffer = &mut buffer[..len];
        match &*work {
            Work::Memory(memory) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX).min(memory.bytes.len());
                let n = (memory.bytes.len() - from).min(len);
                buffer[..n].copy_from_slice(&memory.bytes[from..from + n]);
                buffer[n..].fill(0);
                Ok(len)
            }
            Work::Host(host) if host.whole => {
                read_full(&host.file, buffer, offset).map_err(|error| FsError::host("read an object", error))?;
                Ok(len)
            }
            Work::Host(_) | Work::Stored => Ok(snapshot.read_record_into(cell.ino, &record, offset, buffer)?),
        }
    }

    /// pwrite(2), or at the end with `O_APPEND`. `kill_priv`: drop set-id bits (the kernel's `FUSE_WRITE_KILL_SUIDGID`).
    pub fn write(&self, caller: &Caller, handle: Handle, offset: u64, data: &[u8], kill_priv: bool) -> FsResult<u32> {
        let _gate = self.gate.read();
        let slot = self.file_slot(handle)?;
        slot.cell.check()?;
        if !slot.write {
            return Err(FsError::BadHandle);
        }
        let offset = if slot.append { None } else { Some(offset) };
        slot.cell.count_piece();
        self.write_cell(caller, &slot.cell, offset, data, kill_priv)
    }

    /// What follows a write by a handle whose writes are to be durable (`O_SYNC`, `O_DSYNC`), unless the kernel asks for it.
    pub fn sync_written(&self, handle: Handle) -> FsResult<()> {
        self.file_slot(handle)?.durable.map_or(Ok(()), |datasync| self.fsync(handle, datasync))
    }

    /// Pages that were changed through a mapping, or by writes that the kernel had put off: they have their place, also in a file that was
    /// opened for appending.
    pub fn write_back(&self, caller: &Caller, handle: Handle, offset: u64, data: &[u8]) -> FsResult<u32> {
        let _gate = self.gate.read();
        let slot = self.file_slot(handle)?;
        slot.cell.check()?;
        if !slot.write {
            return Err(FsError::BadHandle);
        }
        self.write_cell(caller, &slot.cell, Some(offset), data, false)
    }

    /// Writes at `offset`, or at the end.
    pub(super) fn write_cell(&self, caller: &Caller, cell: &FileCell, offset: Option<u64>, data: &[u8], kill_priv: bool) -> FsResult<u32> {
        if data.is_empty() {
            return Ok(0);
        }
        let mut work = cell.work.write();
        let (record, version) = self.begin_data(caller, cell.ino, &mut work)?;
        let offset = offset.unwrap_or(record.size);
        let room = MAX_SIZE.checked_sub(offset).filter(|room| *room > 0).ok_or(FsError::FileTooLarge)?;
        let data = &data[..usize::try_from(room).unwrap_or(usize::MAX).min(data.len())];
        let end = offset + data.len() as u64;
        if !matches!(*work, Work::Host(_)) {
            self.cx.room_for(data.len())?;
        }
        let up = self.prepare(cell.ino, &mut work, &record, end)?;
        let mut failed = None;
        let written = match &mut *work {
            Work::Memory(memory) => {
                memory.put(usize::try_from(offset).map_err(|_| FsError::FileTooLarge)?, data);
                data.len()
            }
            Work::Host(host) => {
                let (written, error) = write_some(&host.file, data, offset);
                failed = error;
                written
            }
            Work::Stored => return Err(StoreError::Damaged { what: format!("inode {} was not made writable", cell.ino) }.into()),
        };
        let change = DataChange { version, end: offset + written as u64, from: offset, wrote: true, kill: kill_priv.then_some(*caller) };
        self.finish_data(cell.ino, &work, up, &change)?;
        match failed {
            Some(error) if written == 0 => Err(FsError::host("write an object", error)),
            _ => Ok(u32::try_from(written).unwrap_or(u32::MAX)),
        }
    }

    /// What every change of a file's bytes begins with: the record as it is now, and the version that takes the change. A file that is one
    /// host file of this version gets it as its work, so that its length and the file's stay the same.
    pub(super) fn begin_data(&self, caller: &Caller, ino: Ino, work: &mut Work) -> FsResult<(Arc<InodeRecord>, VersionId)> {
        let mut state = self.lock();
        state.refresh(&self.cx, ino)?;
        let record = state.record(ino)?;
        let version = if state.orphans.contains_key(&ino) { record.changed_in } else { state.begin(caller, &self.cx) };
        if matches!(work, Work::Stored) {
            let backing = state.files.get(&ino).and_then(|file| file.backing.clone());
            let own = match (backing, &record.content) {
                (Some(backing), _) => Some((backing.object, self.step_forward(&mut state, ino)?)),
                (None, Content::Object(object)) if state.pending(ino, *object) == Some(Pending::File) => {
                    drop(state);
                    Some((*object, self.host_file(*object)?))
                }
                _ => None,
            };
            if let Some((object, file)) = own {
                *work = Work::Host(Host { object, file, whole: true });
            }
        }
        Ok((record, version))
    }

    /// What every change of a file's bytes ends with: extents, content, size, times, privileges.
    pub(super) fn finish_data(&self, ino: Ino, work: &Work, up: CopyUp, change: &DataChange) -> FsResult<()> {
        let now = self.now();
        let mut state = self.lock();
        let record = state.record(ino)?;
        let CopyUp { mut content, mut edits } = up;
        if let (Work::Host(host), true) = (work, change.wrote && change.end > change.from)
            && !host.whole
        {
            let snapshot = self.snapshot_of(&state, ino);
            let more = extents::replace(&snapshot, ino, change.from, change.end, Some(host.object), &edits)?;
            edits.extend(more);
        }
        if let Work::Host(host) = work
            && host.whole
            && content.is_none()
            && record.content != Content::Object(host.object)
        {
            if let Content::Object(old) = record.content {
                state.drop_object(&self.cx, ino, old);
            }
            // It was kept apart from a sealed version that got a copy: now it is this version's.
            state.set_pending(ino, host.object, Pending::File);
            content = Some(Content::Object(host.object));
        }
        edits.extend(drop_capability(&self.snapshot_of(&state, ino), ino)?);
        let restructured = content.is_some() || !edits.is_empty();
        let perm = change.kill.map_or(record.perm, |caller| without_set_id(&record, &caller));
        let record = InodeRecord {
            size: record.size.max(if change.wrote && change.end <= change.from { 0 } else { change.end }),
            mtime: now,
            ctime: now,
            perm,
            content: content.unwrap_or_else(|| record.content.clone()),
            changed_in: change.version,
            ..(*record).clone()
        };
        if restructured {
            edits.push(put_record(ino, record));
            state.apply(edits)?;
        } else {
            state.touch(ino, record)?;
        }
        state.note_work(ino, work);
        state.note_backing(ino)
    }

    /// lseek(2) with `SEEK_DATA` or `SEEK_HOLE`.
    pub fn seek(&self, handle: Handle, offset: u64, what: Seek) -> FsResult<u64> {
        let _gate = self.gate.read();
        let slot = self.file_slot(handle)?;
        slot.cell.check()?;
        let work = slot.cell.work.read();
        let ino = slot.cell.ino;
        let (record, snapshot) = {
            let mut state = self.lock();
            state.refresh(&self.cx, ino)?;
            (state.record(ino)?, self.snapshot_of(&state, ino))
        };
        if offset >= record.size {
            return Err(FsError::NoSuchOffset);
        }
        let own = match (&*work, &record.content) {
            (Work::Host(host), _) if host.whole => Some(Arc::clone(&host.file)),
            (Work::Stored, Content::Object(object)) => self.cx.store.objects().open_file(*object)?,
            _ => None,
        };
        let found = match (&*work, own) {
            (Work::Memory(memory), _) => {
                let len = memory.bytes.len() as u64;
                match what {
                    Seek::Data => (offset < len).then_some(offset),
                    Seek::Hole => Some(offset.max(len)),
                }
            }
            (_, Some(file)) => seek_host(&file, offset, what)?,
            (_, None) => match what {
                Seek::Data => snapshot.seek_data(ino, &record, offset)?,
                Seek::Hole => snapshot.seek_hole(ino, &record, offset)?,
            },
        };
        match (found, what) {
            (Some(at), Seek::Data) if at < record.size => Ok(at),
            (_, Seek::Data) => Err(FsError::NoSuchOffset),
            (Some(at), Seek::Hole) => Ok(at.min(record.size)),
            (None, Seek::Hole) => Ok(record.size),
        }
    }

    /// copy_file_range(2); may copy less than asked.
    pub fn copy_range(&self, caller: &Caller, from: Handle, offset: u64, to: Handle, to_offset: u64, len: u64) -> FsResult<u64> {
        let _gate = self.gate.read();
        let (source, target) = (self.file_slot(from)?, self.file_slot(to)?);
        source.cell.check()?;
        target.cell.check()?;
        if !source.read || !target.write || target.append {
            return Err(FsError::BadHandle);
        }
        // What the copy itself appends is not copied again.
        let size = {
            let mut state = self.lock();
            state.refresh(&self.cx, source.cell.ino)?;
            state.record(source.cell.ino)?.size
        };
        let len = len.min(size.saturating_sub(offset));
        let same = source.cell.ino == target.cell.ino;
        if same && offset < to_offset.saturating_add(len) && to_offset < offset.saturating_add(len) {
            return Err(FsError::Invalid);
        }
        let range = CopyRange { from: offset, to: to_offset, len };
        if !same
            && len > 0
            && to_offset.checked_add(len).is_some_and(|end| end <= MAX_SIZE)
            && self.share(caller, &source.cell, &target.cell, &range)?
        {
            return Ok(len);
        }
        let mut done = 0;
        let len = len.min(COPY_AT_ONCE);
        let mut buffer = vec![0; usize::try_from(len).unwrap_or(COPY_CHUNK).min(COPY_CHUNK)];
        while done < len {
            let chunk = usize::try_from(len - done).unwrap_or(COPY_CHUNK).min(COPY_CHUNK);
            let copied = self
                .read_cell(&source.cell, offset + done, &mut buffer[..chunk])
                .and_then(|read| self.write_cell(caller, &target.cell, Some(to_offset + done), &buffer[..read], caller.uid != 0));
            match copied {
                Ok(0) => break,
                Ok(n) => done += u64::from(n),
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }
}

/// A change of a file's bytes that was made.
pub(super) struct DataChange {
    pub(super) version: VersionId,
    /// The range that was written, if one was; else `end` is the least size.
    pub(super) from: u64,
    pub(super) end: u64,
    pub(super) wrote: bool,
    /// By whom, if set-id bits go.
    pub(super) kill: Option<Caller>,
}

impl super::state::State {
    /// The journal must have what this work holds now.
    pub(super) fn note_work(&self, ino: Ino, work: &Work) {
        let Some(open) = self.open.as_ref().filter(|_| !self.orphans.contains_key(&ino)) else { return };
        match work {
            Work::Memory(memory) => open.journal.queue_object(memory.object, ino, false),
            Work::Host(host) => open.journal.queue_object(host.object, ino, true),
            Work::Stored => {}
        }
    }
}

pub(super) fn read_full(file: &HostFile, mut buffer: &mut [u8], mut offset: u64) -> std::io::Result<()> {
    while !buffer.is_empty() {
        match file.read_at(buffer, offset) {
            Ok(0) => {
                buffer.fill(0);
                break;
            }
            Ok(n) => {
                buffer = &mut buffer[n..];
                offset += n as u64;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn write_some(file: &HostFile, data: &[u8], offset: u64) -> (usize, Option<std::io::Error>) {
    let mut done = 0;
    while done < data.len() {
        match file.write_at(&data[done..], offset + done as u64) {
            Ok(0) => return (done, Some(std::io::ErrorKind::WriteZero.into())),
            Ok(n) => done += n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return (done, Some(error)),
        }
    }
    (done, None)
}

fn seek_host(file: &HostFile, offset: u64, what: Seek) -> FsResult<Option<u64>> {
    let whence = match what {
        Seek::Data => Whence::SeekData,
        Seek::Hole => Whence::SeekHole,
    };
    let at = i64::try_from(offset).map_err(|_| FsError::Invalid)?;
    match nix::unistd::lseek(file, at, whence) {
        Ok(found) => Ok(u64::try_from(found).ok()),
        // Past the host file's end: the rest is a hole.
        Err(nix::errno::Errno::ENXIO) => Ok((what == Seek::Hole).then_some(offset)),
        Err(error) => Err(FsError::host("seek in an object", error)),
    }
}
