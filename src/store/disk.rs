//! The disk under the store: every operation on its files goes through here, so that tests can see each one, refuse it, and work out
//! what a crash at that moment would have left.
//!
//! A store that is served has no [`Disk`]: then an operation is the system call and one look at an `Option`. What the kernel writes
//! itself, in passthrough and through mappings, goes past this; the file below is a real one in any case.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use nix::fcntl::{FallocateFlags, fallocate};

use super::reserve::Reserve;

/// The number that a [`Disk`] knows a file by.
pub type FileNumber = usize;

/// An operation. Names are relative to the store's directory.
#[derive(Clone, Copy, Debug)]
pub enum DiskOp<'a> {
    /// A file is opened; made, if `create`, and there was none.
    Open {
        /// Its name.
        name: &'a str,
        /// Whether it is made.
        create: bool,
    },
    /// A new file without a name is opened.
    OpenUnnamed {
        /// A directory of its filesystem.
        dir: &'a str,
    },
    /// A file without a name gets its first.
    Link {
        /// The file.
        file: FileNumber,
        /// Its name.
        name: &'a str,
    },
    /// A directory is made.
    MakeDir {
        /// Its name.
        name: &'a str,
    },
    /// A file is removed.
    Remove {
        /// Its name.
        name: &'a str,
    },
    /// A file is renamed, in the place of another if there is one.
    Rename {
        /// Its name.
        from: &'a str,
        /// Its new name.
        to: &'a str,
    },
    /// A directory is listed.
    List {
        /// Its name.
        name: &'a str,
    },
    /// A file's status is asked for.
    Stat {
        /// The file.
        file: FileNumber,
    },
    /// Bytes are read.
    Read {
        /// The file.
        file: FileNumber,
        /// Where.
        offset: u64,
        /// How many at most.
        len: usize,
    },
    /// Bytes are written.
    Write {
        /// The file.
        file: FileNumber,
        /// Where.
        offset: u64,
        /// What.
        data: &'a [u8],
    },
    /// A file's length is set.
    SetLen {
        /// The file.
        file: FileNumber,
        /// The new length.
        len: u64,
    },
    /// fallocate(2): room is made (`punch`: given back).
    Allocate {
        /// The file.
        file: FileNumber,
        /// Where it begins.
        offset: u64,
        /// How long it is.
        len: u64,
        /// Whether the range reads as zeros afterwards.
        punch: bool,
        /// Whether the file's length stays as it is.
        keep_size: bool,
    },
    /// An empty file gets all blocks of another, which both share from then on.
    Clone {
        /// The file that gets them.
        to: FileNumber,
        /// The same, open for writing.
        host: &'a File,
        /// The file whose they are, open for reading.
        from: &'a File,
    },
    /// A file gets a range of another's bytes without their passing through the process.
    Share {
        /// The file that gets them.
        to: FileNumber,
    },
    /// A file's bytes and length are made durable.
    SyncFile {
        /// The file.
        file: FileNumber,
    },
    /// The names in a directory are made durable.
    SyncDir {
        /// The directory.
        name: &'a str,
    },
    /// Everything is made durable.
    SyncAll,
}

/// What stands between the store and its files in a test.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Runs an operation, or refuses it. `run` takes the most bytes to write (only a write looks at that) and returns how many were
    /// written or read. The result of `Open` is the number that the file is known by.
    fn around(&self, op: &DiskOp<'_>, run: &mut dyn FnMut(usize) -> io::Result<usize>) -> io::Result<usize>;
}

/// An open file of the store.
#[derive(Debug)]
pub struct HostFile {
    file: File,
    disk: Option<(Arc<dyn Disk>, FileNumber)>,
    /// Where room comes from when there is none.
    reserve: Option<Arc<Reserve>>,
}

impl HostFile {
    pub(super) const fn new(file: File, disk: Option<(Arc<dyn Disk>, FileNumber)>) -> Self {
        Self { file, disk, reserve: None }
    }

    /// A write that finds no room gets the store's.
    pub(super) fn with_reserve(self, reserve: &Arc<Reserve>) -> Self {
        Self { reserve: Some(Arc::clone(reserve)), ..self }
    }

    /// The file itself: for the kernel's passthrough, `lseek` and locks. What is written to it directly, no test sees.
    #[must_use]
    pub const fn host(&self) -> &File {
        &self.file
    }

    /// The number that a test's disk knows it by.
    pub(super) fn number(&self) -> Option<FileNumber> {
        self.disk.as_ref().map(|(_, number)| *number)
    }

    /// The same file, opened anew for reading, and for writing as well or not.
    pub(super) fn reopened(&self, writable: bool) -> io::Result<Self> {
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let file = File::options().read(true).write(writable).open(path)?;
        Ok(Self { file, disk: self.disk.clone(), reserve: self.reserve.clone() })
    }

    /// The same open file once more.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()?, disk: self.disk.clone(), reserve: self.reserve.clone() })
    }

    fn run(&self, op: impl FnOnce(FileNumber) -> DiskOp<'static>, mut run: impl FnMut() -> io::Result<()>) -> io::Result<()> {
        match &self.disk {
            None => run(),
            Some((disk, file)) => disk.around(&op(*file), &mut |_| run().map(|()| 0)).map(drop),
        }
    }

    /// fstat(2).
    pub fn metadata(&self) -> io::Result<Metadata> {
        let mut found = None;
        self.run(
            |file| DiskOp::Stat { file },
            || {
                found = Some(self.file.metadata()?);
                Ok(())
            },
        )?;
        found.ok_or_else(|| io::ErrorKind::Other.into())
    }

    /// pread(2).
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match &self.disk {
            None => self.file.read_at(buffer, offset),
            Some((disk, file)) => {
                disk.around(&DiskOp::Read { file: *file, offset, len: buffer.len() }, &mut |_| self.file.read_at(buffer, offset))
            }
        }
    }

    /// Reads all of the buffer, or fails.
    pub fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.read_at(buffer, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    buffer = &mut buffer[n..];
                    offset += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// pwrite(2).
    pub fn write_at(&self, data: &[u8], offset: u64) -> io::Result<usize> {
        match (self.write_once(data, offset), &self.reserve) {
            (Err(error), Some(reserve)) if is_full(&error) && reserve.spend() => self.write_once(data, offset),
            (result, _) => result,
        }
    }

    fn write_once(&self, data: &[u8], offset: u64) -> io::Result<usize> {
        match &self.disk {
            None => self.file.write_at(data, offset),
            Some((disk, file)) => disk.around(&DiskOp::Write { file: *file, offset, data }, &mut |most| {
                self.file.write_at(&data[..most.min(data.len())], offset)
            }),
        }
    }

    /// pwrite(2) of what can be done without: the store's reserve is not for it.
    pub(super) fn write_spare(&self, data: &[u8], offset: u64) -> io::Result<usize> {
        self.write_once(data, offset)
    }

    /// Writes all of it, or fails; then a part may be written.
    pub fn write_all_at(&self, mut data: &[u8], mut offset: u64) -> io::Result<()> {
        while !data.is_empty() {
            match self.write_at(data, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    data = &data[n..];
                    offset += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// ftruncate(2).
    pub fn set_len(&self, len: u64) -> io::Result<()> {
        self.run(|file| DiskOp::SetLen { file, len }, || self.file.set_len(len))
    }

    /// fallocate(2) with these flags.
    pub fn allocate(&self, flags: FallocateFlags, offset: u64, len: u64) -> io::Result<()> {
        let too_large = |_| io::Error::from_raw_os_error(libc::EFBIG);
        let (at, count) = (i64::try_from(offset).map_err(too_large)?, i64::try_from(len).map_err(too_large)?);
        let punch = flags.contains(FallocateFlags::FALLOC_FL_PUNCH_HOLE);
        let keep_size = flags.contains(FallocateFlags::FALLOC_FL_KEEP_SIZE);
        self.run(|file| DiskOp::Allocate { file, offset, len, punch, keep_size }, || Ok(fallocate(&self.file, flags, at, count)?))
    }

    /// Lets this file, which is empty, share all blocks of another: `sys::reflink`.
    pub fn clone_from(&self, from: &File) -> io::Result<()> {
        let clone = || crate::sys::reflink(from, &self.file);
        match &self.disk {
            None => clone(),
            Some((disk, to)) => disk.around(&DiskOp::Clone { to: *to, host: &self.file, from }, &mut |_| clone().map(|()| 0)).map(drop),
        }
    }

    /// Takes bytes over from another file without reading them: `share` is the system call that does it.
    pub fn share(&self, mut share: impl FnMut(&File) -> io::Result<usize>) -> io::Result<usize> {
        match &self.disk {
            None => share(&self.file),
            Some((disk, to)) => disk.around(&DiskOp::Share { to: *to }, &mut |_| share(&self.file)),
        }
    }

    /// fdatasync(2): bytes and length are on disk when it returns, not the name.
    pub fn sync_data(&self) -> io::Result<()> {
        self.run(|file| DiskOp::SyncFile { file }, || self.file.sync_data())
    }
}

/// Whether there is no room.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}

impl AsFd for HostFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Writes a new file from its beginning to its end.
#[derive(Debug)]
pub(super) struct Appender {
    file: HostFile,
    at: u64,
}

impl Appender {
    pub(super) const fn new(file: HostFile) -> Self {
        Self { file, at: 0 }
    }

    pub(super) fn into_file(self) -> HostFile {
        self.file
    }
}

impl Write for Appender {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = self.file.write_at(data, self.at)?;
        self.at += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
