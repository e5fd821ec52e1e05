//! Lengths and holes: truncate(2) and fallocate(2).

use nix::fcntl::FallocateFlags;

use super::Staging;
use super::data::{DataChange, MAX_SIZE};
use super::extents;
use super::state::{Edit, put_record};
use super::types::{Allocate, Caller, Handle};
use super::working::{CopyUp, FileCell, Host, Work, as_extents, data_len};
use crate::ids::Ino;
use crate::tree::key::{Content, InodeRecord};
use crate::version::error::{FsError, FsResult};

impl Staging {
    /// Sets the length. `opened`: it is the `O_TRUNC` of an open, which counts as a change even of an empty file.
    pub(super) fn truncate(&self, caller: &Caller, cell: &FileCell, size: u64, opened: bool) -> FsResult<()> {
        if size > MAX_SIZE {
            return Err(FsError::FileTooLarge);
        }
        let mut work = cell.work.write();
        let ino = cell.ino;
        {
            let mut state = self.lock();
            state.refresh(&self.cx, ino)?;
            if state.record(ino)?.size == size && !opened {
                return self.drop_privileges(&mut state, caller, ino, caller.uid != 0);
            }
        }
        let (record, version) = self.begin_data(caller, ino, &mut work)?;
        let up = if size < record.size { self.shorten(ino, &mut work, &record, size)? } else { CopyUp::default() };
        if let (Work::Host(host), true) = (&*work, size > record.size)
            && host.whole
        {
            set_len(host, size)?;
        }
        let kill = (caller.uid != 0).then_some(*caller);
        // The size may shrink: it is put right before the rest is noted.
        let mut edits = up.edits;
        let content = up.content.unwrap_or_else(|| record.content.clone());
        let mut state = self.lock();
        let now = state.record(ino)?;
        edits.push(put_record(ino, InodeRecord { size, content, ..(*now).clone() }));
        state.apply(edits)?;
        drop(state);
        let change = DataChange { version, from: 0, end: size, wrote: false, kill };
        self.finish_data(ino, &work, CopyUp::default(), &change)
    }

    /// Cuts the bytes off that a shorter file does not have, wherever they are.
    fn shorten(&self, ino: Ino, work: &mut Work, record: &InodeRecord, size: u64) -> FsResult<CopyUp> {
        if matches!(work, Work::Stored) {
            if size == 0 {
                return self.empty(ino, record);
            }
            let snapshot = self.snapshot_of(&self.lock(), ino);
            let cut = InodeRecord { size, ..record.clone() };
            let held = data_len(&snapshot, &cut)?;
            if held > self.cx.options.small_file {
                // Of a large sealed object only the beginning counts from now on.
                let mut up = as_extents(ino, &cut, held);
                if matches!(record.content, Content::Extents) {
                    up.edits = extents::replace(&snapshot, ino, size, u64::MAX, None, &[])?;
                }
                return Ok(up);
            }
            let up = self.prepare(ino, work, &cut, 0)?;
            return self.cut(ino, work, size, up);
        }
        self.cut(ino, work, size, CopyUp::default())
    }

    fn cut(&self, ino: Ino, work: &mut Work, size: u64, mut up: CopyUp) -> FsResult<CopyUp> {
        match work {
            Work::Memory(memory) => memory.truncate(usize::try_from(size).unwrap_or(usize::MAX)),
            Work::Host(host) if host.whole => set_len(host, size)?,
            Work::Host(host) => {
                if host.file.metadata().map_err(|error| FsError::host("stat an object", error))?.len() > size {
                    set_len(host, size)?;
                }
                let snapshot = self.snapshot_of(&self.lock(), ino);
                let more = extents::replace(&snapshot, ino, size, u64::MAX, None, &up.edits)?;
                up.edits.extend(more);
            }
            Work::Stored => {}
        }
        Ok(up)
    }

    /// Forgets all bytes of a file that nobody writes.
    fn empty(&self, ino: Ino, record: &InodeRecord) -> FsResult<CopyUp> {
        let mut state = self.lock();
        if let Content::Object(object) = record.content {
            state.drop_object(&self.cx, ino, object);
        }
        let edits = state.drop_extents(&self.cx, ino)?;
        Ok(CopyUp { content: Some(Content::None), edits })
    }

    /// fallocate(2).
    pub fn allocate(&self, caller: &Caller, handle: Handle, mode: Allocate, offset: u64, len: u64) -> FsResult<()> {
        let _gate = self.gate.read();
        let slot = self.file_slot(handle)?;
        slot.cell.check()?;
        if !slot.write {
            return Err(FsError::BadHandle);
        }
        if len == 0 {
            return Err(FsError::Invalid);
        }
        let end = offset.checked_add(len).filter(|end| *end <= MAX_SIZE).ok_or(FsError::FileTooLarge)?;
        let cell = &slot.cell;
        let mut work = cell.work.write();
        let (record, version) = self.begin_data(caller, cell.ino, &mut work)?;
        let grow = match mode {
            Allocate::Extend | Allocate::ZeroRange { keep_size: false } => end,
            Allocate::KeepSize | Allocate::PunchHole | Allocate::ZeroRange { keep_size: true } => 0,
        };
        let up = match mode {
            Allocate::Extend | Allocate::KeepSize => {
                reserve(&work, mode, offset, len)?;
                CopyUp::default()
            }
            Allocate::PunchHole | Allocate::ZeroRange { .. } if offset < record.size => {
                self.clear(cell.ino, &mut work, &record, offset, end.min(record.size))?
            }
            Allocate::PunchHole | Allocate::ZeroRange { .. } => CopyUp::default(),
        };
        if let (Work::Host(host), true) = (&*work, grow > record.size)
            && host.whole
        {
            set_len(host, grow)?;
        }
        let change = DataChange { version, from: 0, end: grow, wrote: false, kill: (caller.uid != 0).then_some(*caller) };
        self.finish_data(cell.ino, &work, up, &change)
    }

    /// Makes a range inside the file read as zeros.
    fn clear(&self, ino: Ino, work: &mut Work, record: &InodeRecord, from: u64, to: u64) -> FsResult<CopyUp> {
        let up = match (&*work, &record.content) {
            (Work::Stored, Content::None) => return Ok(CopyUp::default()),
            (Work::Stored, _) => self.prepare(ino, work, record, 0)?,
            _ => CopyUp::default(),
        };
        self.clear_prepared(ino, work, from, to, up)
    }

    fn clear_prepared(&self, ino: Ino, work: &mut Work, from: u64, to: u64, mut up: CopyUp) -> FsResult<CopyUp> {
        match work {
            Work::Memory(memory) => {
                let end = memory.bytes.len();
                let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX).min(end);
                memory.zero(at(from), at(to));
            }
            Work::Host(host) => {
                punch(host, from, to)?;
                if !host.whole {
                    let snapshot = self.snapshot_of(&self.lock(), ino);
                    let more: Vec<Edit> = extents::replace(&snapshot, ino, from, to, None, &up.edits)?;
                    up.edits.extend(more);
                }
            }
            Work::Stored => {}
        }
        Ok(up)
    }
}

fn set_len(host: &Host, len: u64) -> FsResult<()> {
    host.file.set_len(len).map_err(|error| FsError::host("set the length of an object", error))
}

/// Asks the host for room where the file has a host file of its own; elsewhere room is found when the bytes come.
fn reserve(work: &Work, mode: Allocate, offset: u64, len: u64) -> FsResult<()> {
    let Work::Host(host) = work else { return Ok(()) };
    if !host.whole {
        return Ok(());
    }
    let flags = match mode {
        Allocate::KeepSize => FallocateFlags::FALLOC_FL_KEEP_SIZE,
        _ => FallocateFlags::empty(),
    };
    match host.file.allocate(flags, offset, len) {
        Ok(()) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
        Err(error) => Err(FsError::host("reserve room for an object", error)),
    }
}

/// Zeros in a host file, as a hole where the host can.
fn punch(host: &Host, from: u64, to: u64) -> FsResult<()> {
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    match host.file.allocate(flags, from, to - from) {
        Ok(()) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            if !host.whole {
                return Ok(());
            }
            let len = host.file.metadata().map_err(|error| FsError::host("stat an object", error))?.len();
            let zeros = [0; 65536];
            let mut at = from;
            while at < to.min(len) {
                let n = usize::try_from(to.min(len) - at).unwrap_or(usize::MAX).min(zeros.len());
                host.file.write_all_at(&zeros[..n], at).map_err(|error| FsError::host("write an object", error))?;
                at += n as u64;
            }
            Ok(())
        }
        Err(error) => Err(FsError::host("punch a hole into an object", error)),
    }
}
