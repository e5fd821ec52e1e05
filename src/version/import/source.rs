//! Reading the directory that is brought in: one entry at a time, with everything that a record keeps of it.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use rustix::fs::{AtFlags, Mode, OFlags, SeekFrom, Statx, StatxFlags, StatxTimestamp};
use rustix::io::Errno;

use super::ImportError;
use crate::clock::Timestamp;
use crate::ids::{Ino, VersionId};
use crate::store::HostFile;
use crate::tree::Xattr;
use crate::tree::key::{Content, FileKind, InodeRecord, Name};

/// Attributes of the host's or of this filesystem's own, which say nothing of the data.
const NOT_KEPT: [&[u8]; 4] = [b"user.shadowfs.", b"system.nfs4_", b"trusted.SGI_ACL_", b"btrfs."];

/// An open directory of the source.
pub(super) struct Dir {
    pub(super) fd: OwnedFd,
    pub(super) path: PathBuf,
    pub(super) ino: Ino,
}

impl Dir {
    pub(super) fn open_root(path: &Path) -> Result<Self, ImportError> {
        let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        Ok(Self { fd: fd.map_err(fail(path, "open"))?, path: path.to_owned(), ino: Ino::ROOT })
    }

    pub(super) fn open_below(&self, name: &[u8], ino: Ino) -> Result<Self, ImportError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::empty()).map_err(self.fail(name, "open"))?;
        Ok(Self { fd, path: self.below(name), ino })
    }

    pub(super) fn below(&self, name: &[u8]) -> PathBuf {
        self.path.join(OsStr::from_bytes(name))
    }

    /// An entry that was listed and is not there any more has changed; everything else is the host's refusal.
    pub(super) fn fail(&self, name: &[u8], what: &'static str) -> impl FnOnce(Errno) -> ImportError {
        let path = self.below(name);
        move |error| match error {
            Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::STALE => ImportError::Changed { path },
            error => ImportError::Source { path, what, source: error.into() },
        }
    }

    /// The names in it, sorted.
    pub(super) fn names(&self) -> Result<Vec<Name>, ImportError> {
        let list = || -> Result<Vec<Name>, Errno> {
            let mut names: Vec<Name> = Vec::new();
            for entry in rustix::fs::Dir::read_from(&self.fd)? {
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                if name != b"." && name != b".." {
                    names.push(name.into());
                }
            }
            names.sort_unstable();
            Ok(names)
        };
        list().map_err(fail(&self.path, "list"))
    }

    pub(super) fn status(&self) -> Result<Statx, ImportError> {
        status_of(&self.fd, b"").map_err(fail(&self.path, "stat"))
    }

    pub(super) fn status_of(&self, name: &[u8]) -> Result<Statx, ImportError> {
        status_of(&self.fd, name).map_err(self.fail(name, "stat"))
    }

    pub(super) fn read_link(&self, name: &[u8]) -> Result<Arc<[u8]>, ImportError> {
        let target = rustix::fs::readlinkat(&self.fd, name, Vec::new()).map_err(self.fail(name, "read"))?;
        Ok(target.to_bytes().into())
    }

    /// Opens a regular file, without leaving a trace in its access time where that is allowed.
    pub(super) fn open_file(&self, name: &[u8]) -> Result<File, ImportError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let open = |flags| rustix::fs::openat(&self.fd, name, flags, Mode::empty());
        let opened = match open(flags | OFlags::NOATIME) {
            Err(Errno::PERM) => open(flags),
            opened => opened,
        };
        Ok(opened.map_err(self.fail(name, "open"))?.into())
    }

    /// The extended attributes of an entry of whatever kind (an empty name: of the directory itself).
    pub(super) fn xattrs(&self, name: &[u8]) -> Result<Vec<Xattr>, ImportError> {
        // By this path the directory is the open one, wherever it was moved to, and symbolic links can be asked.
        let mut path = format!("/proc/self/fd/{}/", self.fd.as_raw_fd()).into_bytes();
        path.extend_from_slice(if name.is_empty() { b"." } else { name });
        let read = || -> Result<Vec<Xattr>, Errno> {
            let mut xattrs = Vec::new();
            let names = grow(|buffer| rustix::fs::llistxattr(&path[..], buffer))?;
            for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
                if NOT_KEPT.iter().any(|prefix| name.starts_with(prefix)) {
                    continue;
                }
                match grow(|buffer| rustix::fs::lgetxattr(&path[..], name, buffer)) {
                    Ok(value) => xattrs.push((name.into(), value.into())),
                    // A name that is listed but has no value for us.
                    Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(xattrs)
        };
        match read() {
            Err(Errno::OPNOTSUPP) => Ok(Vec::new()),
            found => found.map_err(self.fail(name, "read the extended attributes of")),
        }
    }
}

/// Calls `read` with larger and larger buffers until what it reads fits.
fn grow(mut read: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = vec![0; 512];
    loop {
        match read(&mut buffer[..]) {
            Ok(len) => {
                buffer.truncate(len);
                return Ok(buffer);
            }
            // No list or value can be longer than 64 KiB.
            Err(Errno::RANGE) if buffer.len() < 1 << 17 => buffer.resize(buffer.len() * 16, 0),
            Err(error) => return Err(error),
        }
    }
}

fn status_of(fd: &OwnedFd, name: &[u8]) -> rustix::io::Result<Statx> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
    rustix::fs::statx(fd, name, flags, StatxFlags::BASIC_STATS | StatxFlags::BTIME)
}

pub(super) fn fail(path: &Path, what: &'static str) -> impl FnOnce(Errno) -> ImportError {
    let path = path.to_owned();
    move |error| ImportError::Source { path, what, source: error.into() }
}

/// Whether nothing has changed between two looks at a file.
pub(super) fn is_unchanged(before: &Statx, after: &Statx) -> bool {
    let look = |status: &Statx| {
        let time = |time: StatxTimestamp| (time.tv_sec, time.tv_nsec);
        (status.stx_ino, identity(status), status.stx_size, time(status.stx_mtime), time(status.stx_ctime))
    };
    look(before) == look(after)
}

/// What tells a file from all others of the host.
pub(super) const fn identity(status: &Statx) -> (u32, u32, u64) {
    (status.stx_dev_major, status.stx_dev_minor, status.stx_ino)
}

/// The kind of a file by its mode.
pub(super) fn kind_of(status: &Statx) -> FileKind {
    use rustix::fs::FileType;
    match FileType::from_raw_mode(status.stx_mode.into()) {
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        FileType::Fifo => FileKind::Fifo,
        FileType::Socket => FileKind::Socket,
        FileType::CharacterDevice => FileKind::CharDevice,
        FileType::BlockDevice => FileKind::BlockDevice,
        _ => FileKind::Regular,
    }
}

/// Who brings a directory in: without root, what other users own becomes theirs, as with `cp -a`. It would be nobody's to change.
struct Taker {
    uid: u32,
    /// Every group, the effective one first.
    groups: Vec<u32>,
}

static TAKER: LazyLock<Taker> = LazyLock::new(|| {
    let mut groups = vec![nix::unistd::getegid().as_raw()];
    groups.extend(nix::unistd::getgroups().unwrap_or_default().into_iter().map(nix::unistd::Gid::as_raw));
    Taker { uid: nix::unistd::geteuid().as_raw(), groups }
});

impl Taker {
    /// Owner, group and permissions of what had these; who does not keep the owner does not keep the right to act as them.
    fn take(&self, uid: u32, gid: u32, perm: u16) -> (u32, u32, u16) {
        if self.uid == 0 {
            return (uid, gid, perm);
        }
        let group = if self.groups.contains(&gid) { gid } else { self.groups.first().copied().unwrap_or(gid) };
        let lost = if uid == self.uid { 0 } else { 0o4000 } | if gid == group { 0 } else { 0o2000 };
        (self.uid, group, perm & !lost)
    }
}

/// The record of an inode of the source, but for its content.
pub(super) fn record(status: &Statx, parent: Ino, name: Name) -> InodeRecord {
    let time = |time: StatxTimestamp| Timestamp { secs: time.tv_sec, nanos: time.tv_nsec };
    let kind = kind_of(status);
    // Not every filesystem keeps the time of creation.
    let has_btime = StatxFlags::from_bits_retain(status.stx_mask).contains(StatxFlags::BTIME);
    let is_device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice);
    let (uid, gid, perm) = TAKER.take(status.stx_uid, status.stx_gid, status.stx_mode & 0o7777);
    InodeRecord {
        kind,
        perm,
        uid,
        gid,
        nlink: if kind == FileKind::Directory { 2 } else { 1 },
        size: match kind {
            FileKind::Directory => 4096,
            FileKind::Regular | FileKind::Symlink => status.stx_size,
            _ => 0,
        },
        rdev: if is_device { device(status.stx_rdev_major, status.stx_rdev_minor) } else { 0 },
        atime: time(status.stx_atime),
        mtime: time(status.stx_mtime),
        ctime: time(status.stx_ctime),
        btime: time(if has_btime { status.stx_btime } else { status.stx_mtime }),
        content: Content::None,
        parent,
        name,
        changed_in: VersionId::FIRST,
    }
}

/// A device's number as the kernel packs it into 32 bits (`new_encode_dev`).
const fn device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// Whether a file that takes no blocks is one hole: some filesystems keep small contents elsewhere.
pub(super) fn is_one_hole(file: &File, status: &Statx) -> bool {
    status.stx_size > 0 && status.stx_blocks == 0 && rustix::fs::seek(file, SeekFrom::Data(0)) == Err(Errno::NXIO)
}

/// Copies `len` bytes into an empty file, holes left out: shared blocks where the host can, else in the kernel, else through
/// memory.
pub(super) fn copy(from: &File, to: &HostFile, len: u64) -> io::Result<()> {
    if to.clone_from(from).is_ok() {
        return Ok(());
    }
    to.set_len(len)?;
    let mut at = 0;
    while at < len {
        let data = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => break,
            // Not a file that knows of holes.
            Err(_) => return copy_range(from, to, at, len),
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(data))?.min(len);
        copy_range(from, to, data, end)?;
        // It can't be before `data`, but what if it were: there must be an end to this.
        at = end.max(data + 1);
    }
    Ok(())
}

fn copy_range(from: &File, to: &HostFile, mut at: u64, end: u64) -> io::Result<()> {
    while at < end {
        let wanted = usize::try_from(end - at).unwrap_or(usize::MAX).min(1 << 30);
        let copied = to.share(|to| {
            let (mut read, mut written) = (at, at);
            Ok(rustix::fs::copy_file_range(from, Some(&mut read), to, Some(&mut written), wanted)?)
        });
        match copied {
            Ok(0) => return copy_through_memory(from, to, at, end),
            Ok(n) => at += n as u64,
            Err(error) => match error.raw_os_error() {
                Some(libc::EXDEV | libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP) => return copy_through_memory(from, to, at, end),
                Some(libc::EINTR) => {}
                _ => return Err(error),
            },
        }
    }
    Ok(())
}

fn copy_through_memory(from: &File, to: &HostFile, mut at: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    while at < end {
        let wanted = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        match from.read_at(&mut buffer[..wanted], at) {
            // It became shorter; who looks at its status afterwards sees that.
            Ok(0) => break,
            Ok(n) => {
                to.write_all_at(&buffer[..n], at)?;
                at += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The status of an open file.
pub(super) fn status_of_open(file: BorrowedFd<'_>) -> rustix::io::Result<Statx> {
    rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::BTIME)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_root_what_others_own_becomes_the_taker_s() {
        let user = Taker { uid: 1000, groups: vec![100, 27] };
        assert_eq!(user.take(0, 0, 0o6755), (1000, 100, 0o755));
        assert_eq!(user.take(1000, 27, 0o6755), (1000, 27, 0o6755));
        assert_eq!(user.take(5, 100, 0o7644), (1000, 100, 0o3644));
        let root = Taker { uid: 0, groups: vec![0] };
        assert_eq!(root.take(7, 8, 0o7777), (7, 8, 0o7777));
    }
}
