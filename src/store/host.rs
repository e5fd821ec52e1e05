//! The host's files below the store's directory. Every path is opened beneath it, through no symbolic link, whatever someone
//! has put there; every error names the file as the store names it ("read objects/3f/1023").

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat2, renameat};
use nix::sys::stat::{Mode, mkdirat};
use nix::sys::statvfs::{Statvfs, fstatvfs};
use nix::unistd::{UnlinkatFlags, fsync, linkat, syncfs, unlinkat};

use super::disk::{Disk, DiskOp, HostFile};
use super::reserve::{self, Reserve};
use super::{Result, StoreError};

/// The store's directory. The descriptor lives as long as the store is open: `syncfs` on it reports every failed write back
/// on the filesystem since then, seen by someone else or not.
#[derive(Debug)]
pub(crate) struct HostDir {
    dir: File,
    /// What stands before it in a test.
    disk: Option<Arc<dyn Disk>>,
    reserve: Arc<Reserve>,
}

impl HostDir {
    /// Opens the store's directory itself.
    pub(crate) fn open(path: &Path, disk: Option<Arc<dyn Disk>>) -> io::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt;
        let dir = File::options().read(true).custom_flags(libc::O_DIRECTORY | libc::O_CLOEXEC).open(path)?;
        Ok(Self { dir, disk, reserve: Arc::default() })
    }

    /// Keeps so much room for what must go on when the disk is full.
    pub(crate) fn keep_reserve(&self, wanted: u64) -> Result<()> {
        let kept = |error| StoreError::io(format!("keep {wanted} bytes of room"), error);
        match wanted {
            0 => {
                self.reserve.forget();
                self.remove(reserve::NAME)?;
            }
            _ => {
                let file = self.file("open", reserve::NAME, OFlag::O_RDWR | OFlag::O_CREAT)?;
                self.reserve.keep(file, wanted).map_err(kept)?;
            }
        }
        Ok(())
    }

    /// Takes back what of it was spent, if there is room to spare; returns how much is missing now.
    pub(crate) fn renew_reserve(&self) -> Result<u64> {
        let missing = self.reserve.missing();
        if missing > 0 {
            let figures = self.filesystem()?;
            if figures.blocks_available() * figures.fragment_size() >= 2 * missing {
                self.reserve.renew().map_err(|error| StoreError::io("take back the room that was spent", error))?;
            }
        }
        Ok(self.reserve.missing())
    }

    /// How much of it is missing.
    pub(crate) fn reserve_missing(&self) -> u64 {
        self.reserve.missing()
    }

    /// Whether names and bytes in a file may use it: all but large files' bytes and the output of checks.
    fn may_spend(name: &str) -> bool {
        !name.starts_with("objects/") && !name.starts_with("logs/") && name != reserve::NAME
    }

    /// Runs an operation that is no open file's.
    fn run<T>(&self, op: &DiskOp<'_>, mut run: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
        match self.run_once(op, &mut run) {
            Err(Errno::ENOSPC | Errno::EDQUOT) if self.reserve.spend() => self.run_once(op, &mut run),
            result => result,
        }
    }

    fn run_once<T>(&self, op: &DiskOp<'_>, run: &mut dyn FnMut() -> nix::Result<T>) -> nix::Result<T> {
        let Some(disk) = &self.disk else { return run() };
        let mut done = None;
        let ran = disk.around(op, &mut |_| {
            done = Some(run()?);
            Ok(0)
        });
        match (ran, done) {
            (Ok(_), Some(done)) => Ok(done),
            (Ok(_), None) => Err(Errno::EIO),
            (Err(error), _) => Err(error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)),
        }
    }

    /// Opens a file or directory; new ones are for their owner alone.
    pub(crate) fn file(&self, verb: &str, name: &str, flags: OFlag) -> Result<HostFile> {
        self.open_raw(name, flags).map_err(|errno| StoreError::io(format!("{verb} {name}"), errno))
    }

    /// The same, `None` if there is no such file.
    pub(crate) fn existing(&self, verb: &str, name: &str, flags: OFlag) -> Result<Option<HostFile>> {
        match self.open_raw(name, flags) {
            Ok(file) => Ok(Some(file)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(StoreError::io(format!("{verb} {name}"), errno)),
        }
    }

    /// A new file, for reading and writing. One that is there already is in the way: `leftover` says whether it may go.
    pub(crate) fn new_file(&self, name: &str, leftover: impl FnOnce() -> Result<bool>) -> Result<HostFile> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL;
        match self.open_raw(name, flags) {
            Err(Errno::EEXIST) if leftover()? => {
                self.remove(name)?;
                self.file("create", name, flags)
            }
            result => result.map_err(|errno| StoreError::io(format!("create {name}"), errno)),
        }
    }

    /// A new file that has no name yet, for reading and writing, on the filesystem of the directory `dir`; `None` where the host has no
    /// such files.
    pub(crate) fn unnamed_file(&self, dir: &str) -> Result<Option<HostFile>> {
        match self.opened(&DiskOp::OpenUnnamed { dir }, || self.open_beneath(dir, OFlag::O_RDWR | OFlag::O_TMPFILE)) {
            Ok(file) => Ok(Some(file)),
            Err(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::EINVAL) => Ok(None),
            Err(errno) => Err(StoreError::io(format!("create a file in {dir}"), errno)),
        }
    }

    /// Gives a file that has no name its first. One that is there already is in the way: `leftover` says whether it may go.
    pub(crate) fn name_file(&self, file: &HostFile, name: &str, leftover: impl FnOnce() -> Result<bool>) -> Result<()> {
        let (dir, leaf) = self.parent("name", name)?;
        // As open(2) tells to: AT_EMPTY_PATH needs a capability that a container may lack.
        let unnamed = format!("/proc/self/fd/{}", file.host().as_raw_fd());
        let op = DiskOp::Link { file: file.number().unwrap_or_default(), name };
        let link = || self.run_once(&op, &mut || linkat(AT_FDCWD, unnamed.as_str(), &dir, leaf, AtFlags::AT_SYMLINK_FOLLOW));
        match link() {
            Err(Errno::EEXIST) if leftover()? => {
                self.remove(name)?;
                link()
            }
            result => result,
        }
        .map_err(|errno| StoreError::io(format!("name {name}"), errno))
    }

    fn open_raw(&self, name: &str, flags: OFlag) -> nix::Result<HostFile> {
        if !Self::may_spend(name) {
            return self.open_once(name, flags);
        }
        let opened = match self.open_once(name, flags) {
            Err(Errno::ENOSPC | Errno::EDQUOT) if self.reserve.spend() => self.open_once(name, flags),
            result => result,
        };
        Ok(opened?.with_reserve(&self.reserve))
    }

    fn open_once(&self, name: &str, flags: OFlag) -> nix::Result<HostFile> {
        self.opened(&DiskOp::Open { name, create: flags.contains(OFlag::O_CREAT) }, || self.open_beneath(name, flags))
    }

    fn opened(&self, op: &DiskOp<'_>, open: impl Fn() -> nix::Result<File>) -> nix::Result<HostFile> {
        let Some(disk) = &self.disk else { return Ok(HostFile::new(open()?, None)) };
        let mut opened = None;
        let number = disk.around(op, &mut |_| {
            opened = Some(open()?);
            Ok(0)
        });
        let number = number.map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
        Ok(HostFile::new(opened.ok_or(Errno::EIO)?, Some((Arc::clone(disk), number))))
    }

    fn open_beneath(&self, name: &str, flags: OFlag) -> nix::Result<File> {
        let creates = flags.contains(OFlag::O_CREAT) || flags.contains(OFlag::O_TMPFILE);
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .mode(if creates { Mode::S_IRUSR | Mode::S_IWUSR } else { Mode::empty() })
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        loop {
            match openat2(&self.dir, name, how) {
                // A rename elsewhere can make the kernel unsure for a moment.
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                result => return result.map(File::from),
            }
        }
    }

    fn parent<'a>(&self, verb: &str, name: &'a str) -> Result<(File, &'a str)> {
        let (parent, leaf) = name.rsplit_once('/').unwrap_or((".", name));
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let dir = self.open_beneath(parent, flags).map_err(|errno| StoreError::io(format!("{verb} {name}"), errno))?;
        Ok((dir, leaf))
    }

    /// Makes a directory for its owner alone; false if it was there.
    pub(crate) fn make_dir(&self, name: &str) -> Result<bool> {
        let (parent, leaf) = self.parent("make", name)?;
        match self.run(&DiskOp::MakeDir { name }, || mkdirat(&parent, leaf, Mode::S_IRWXU)) {
            Ok(()) => Ok(true),
            Err(Errno::EEXIST) => Ok(false),
            Err(errno) => Err(StoreError::io(format!("make {name}"), errno)),
        }
    }

    /// Removes a file; false if there was none.
    pub(crate) fn remove(&self, name: &str) -> Result<bool> {
        let (parent, leaf) = self.parent("remove", name)?;
        match self.run(&DiskOp::Remove { name }, || unlinkat(&parent, leaf, UnlinkatFlags::NoRemoveDir)) {
            Ok(()) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(StoreError::io(format!("remove {name}"), errno)),
        }
    }

    /// Makes the names in a directory durable.
    pub(crate) fn sync_dir(&self, name: &str) -> Result<()> {
        let synced = self.run(&DiskOp::SyncDir { name }, || fsync(self.open_beneath(name, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?));
        synced.map_err(|errno| StoreError::io(format!("sync {name}"), errno))
    }

    /// Renames a file; what has the new name already is replaced.
    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<()> {
        let ((from_dir, from_leaf), (to_dir, to_leaf)) = (self.parent("rename", from)?, self.parent("rename", to)?);
        let renamed = self.run(&DiskOp::Rename { from, to }, || renameat(&from_dir, from_leaf, &to_dir, to_leaf));
        renamed.map_err(|errno| StoreError::io(format!("rename {from} to {to}"), errno))
    }

    /// Makes everything on the store's filesystem durable.
    pub(crate) fn sync_filesystem(&self) -> Result<()> {
        self.run(&DiskOp::SyncAll, || syncfs(&self.dir)).map_err(|errno| StoreError::io("sync the store's filesystem", errno))
    }

    /// The names in a directory, in no order.
    pub(crate) fn names(&self, name: &str) -> Result<Vec<OsString>> {
        let fail = |errno: Errno| StoreError::io(format!("list {name}"), errno);
        let listed = self.run(&DiskOp::List { name }, || self.open_beneath(name, OFlag::O_RDONLY | OFlag::O_DIRECTORY));
        let mut dir = Dir::from_fd(listed.map_err(fail)?.into()).map_err(fail)?;
        let mut names = Vec::new();
        for entry in dir.iter() {
            let entry = entry.map_err(fail)?;
            let leaf = entry.file_name().to_bytes();
            if leaf != b"." && leaf != b".." {
                names.push(OsStr::from_bytes(leaf).to_owned());
            }
        }
        Ok(names)
    }

    /// The directory itself, for a lock.
    pub(super) const fn host(&self) -> &File {
        &self.dir
    }

    /// The directory's own owner and mode.
    pub(crate) fn status(&self) -> io::Result<std::fs::Metadata> {
        self.dir.metadata()
    }

    /// The figures of the filesystem.
    pub(crate) fn filesystem(&self) -> Result<Statvfs> {
        fstatvfs(&self.dir).map_err(|errno| StoreError::io("statvfs", errno))
    }
}
