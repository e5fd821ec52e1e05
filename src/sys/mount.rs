//! Mounting FUSE and taking mounts down again, with care for what is at the path already.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};

use super::mountinfo::{self, MountEntry};
use super::{device, fusermount};

/// The filesystem's type as `/proc/mounts` shows it.
pub const FILESYSTEM: &str = "fuse.shadowfs";

/// Why a mount point can't be used, or a mount can't be made or taken down. Each is one line for people.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// It is not there.
    #[error("{0}: no such directory")]
    Missing(PathBuf),
    /// It is something else.
    #[error("{0}: is not a directory")]
    NotADirectory(PathBuf),
    /// Mounting would hide what is in it.
    #[error("{0}: is not empty; mount on an empty directory")]
    NotEmpty(PathBuf),
    /// A living filesystem is mounted exactly there.
    #[error("{path}: {source_name} is mounted there already")]
    Mounted {
        /// Where.
        path: PathBuf,
        /// What.
        source_name: String,
    },
    /// Something has a file or a working directory there.
    #[error("{0}: is in use; end what uses it (fuser -vm {0}), or detach it with --lazy")]
    Busy(PathBuf),
    /// Something else is on top of the mount.
    #[error("{0}: something else is mounted over it; unmount that first")]
    Covered(PathBuf),
    /// The system does not let users share their mounts.
    #[error("{0}: --allow-other needs root, or a line \"user_allow_other\" in /etc/fuse.conf")]
    OthersNotAllowed(PathBuf),
    /// The kernel or the helper refused.
    #[error("{path}: {doing} failed: {source}")]
    Refused {
        /// Where.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl MountError {
    fn refused(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Refused { path, doing, source }
    }
}

/// A mount of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// Where.
    pub path: PathBuf,
    /// How it is told from a stranger at the same path. No part is enough alone: the kernel gives device and mount numbers of
    /// what is gone to the next filesystem, but that one has another type, or another source than a store that is in use.
    entry: MountEntry,
}

impl Mounted {
    fn is(&self, other: &MountEntry) -> bool {
        self.entry == *other
    }
}

/// What to mount.
#[derive(Clone, Copy, Debug)]
pub struct FuseMount<'a> {
    /// Where; must exist.
    pub target: &'a Path,
    /// What `findmnt` shows as the source: the store's path.
    pub source: &'a Path,
    /// Let the kernel refuse every write.
    pub read_only: bool,
    /// Let other users in.
    pub allow_other: bool,
}

/// Whether we mount by ourselves; otherwise `fusermount3` does.
#[must_use]
pub fn privileged() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Checks that `path` can be mounted on, detaches what a dead daemon left there, and returns the path without links.
///
/// # Errors
/// It is missing, no directory, not empty, or a living mount.
pub fn prepare(path: &Path) -> Result<PathBuf, MountError> {
    while let Some(corpse) = corpse_at(path)? {
        detach_all(&corpse)?;
    }
    let path = match path.canonicalize() {
        Ok(path) => path,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(MountError::Missing(path.to_owned())),
        Err(error) => return Err(MountError::refused(path, "resolving the path")(error)),
    };
    if !path.is_dir() {
        return Err(MountError::NotADirectory(path));
    }
    if let Some(mount) = mountinfo::mounted_at(&path).map_err(MountError::refused(&path, "reading /proc/self/mountinfo"))? {
        // An empty filesystem of the system's (a tmpfs, a volume) is a fine mount point; another FUSE is somebody's work.
        if mount.kind.starts_with("fuse") {
            return Err(MountError::Mounted { source_name: mount.source.to_string_lossy().into_owned(), path });
        }
    }
    let mut entries = path.read_dir().map_err(MountError::refused(&path, "reading the directory"))?;
    if entries.next().is_some() { Err(MountError::NotEmpty(path)) } else { Ok(path) }
}

/// Whether the filesystem at `path` is a FUSE whose daemon is gone. Asked with statfs: the kernel never answers it from what it
/// has cached, while a `stat` of a dead mount still succeeds for as long as its attributes are valid.
#[must_use]
pub fn lost_its_daemon(path: &Path) -> bool {
    matches!(nix::sys::statfs::statfs(path), Err(nix::errno::Errno::ENOTCONN | nix::errno::Errno::ECONNABORTED))
}

/// The mount point, without links, if the filesystem there lost its daemon.
fn corpse_at(path: &Path) -> Result<Option<PathBuf>, MountError> {
    if !lost_its_daemon(path) {
        return Ok(None);
    }
    // The last component can't be resolved on a corpse, so only its parent is.
    let absolute = std::path::absolute(path).map_err(MountError::refused(path, "resolving the path"))?;
    let resolved = match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => parent.canonicalize().map(|parent| parent.join(name)).unwrap_or(absolute),
        _ => absolute,
    };
    let mounted = mountinfo::mounted_at(&resolved).map_err(MountError::refused(path, "reading /proc/self/mountinfo"))?;
    Ok(mounted.filter(|mount| mount.kind.starts_with("fuse")).map(|_| resolved))
}

/// Detaches the corpse at `path` with everything that is mounted below it.
fn detach_all(path: &Path) -> Result<(), MountError> {
    // Without root, fusermount3 can't reach what is mounted below a corpse; but a detached mount takes along what is below it.
    if privileged() {
        let below = mountinfo::mounted_below(path).map_err(MountError::refused(path, "reading /proc/self/mountinfo"))?;
        for mount in below.iter().rev() {
            // The way to it leads through the corpse, which may not answer for the name any more.
            if let Err(error) = detach(&mount.mount_point) {
                tracing::debug!(%error, "it goes with what it is mounted on");
            }
        }
    }
    detach(path)
}

fn detach(path: &Path) -> Result<(), MountError> {
    let refused = MountError::refused(path, "detaching a dead mount");
    if privileged() {
        nix::mount::umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).map_err(|errno| refused(errno.into()))
    } else {
        fusermount::unmount(path, true).map_err(refused)
    }
}

/// Mounts, and returns the device to serve.
///
/// # Errors
/// The kernel or the helper refused.
pub fn mount(what: &FuseMount<'_>) -> Result<(File, Mounted), MountError> {
    let path = what.target;
    let fuse = if privileged() { mount_as_root(what) } else { mount_as_user(what) };
    let fuse = fuse.map_err(|error| match error.to_string() {
        // The helper's own words; it alone knows which file and which lines it goes by.
        words if what.allow_other && words.contains("user_allow_other") => MountError::OthersNotAllowed(path.to_owned()),
        _ => MountError::refused(path, "mounting")(error),
    })?;
    let mounted = mountinfo::mounted_at(path).map_err(MountError::refused(path, "reading /proc/self/mountinfo"))?;
    match mounted {
        Some(entry) => Ok((fuse, Mounted { path: path.to_owned(), entry })),
        None => Err(MountError::refused(path, "mounting")(io::Error::other("the new mount is not in /proc/self/mountinfo"))),
    }
}

fn mount_as_root(what: &FuseMount<'_>) -> io::Result<File> {
    let fuse = device::open()?;
    let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    flags.set(MsFlags::MS_RDONLY, what.read_only);
    // Only numbers and words of our own go into the option string; the source is an argument of its own.
    let mut options = format!("fd={},rootmode=40000,user_id=0,group_id=0,default_permissions", fuse.as_raw_fd());
    if what.allow_other {
        options.push_str(",allow_other");
    }
    nix::mount::mount(Some(what.source), what.target, Some(FILESYSTEM), flags, Some(options.as_str()))?;
    Ok(fuse)
}

fn mount_as_user(what: &FuseMount<'_>) -> io::Result<File> {
    let mut options = vec!["subtype=shadowfs", "nosuid", "nodev", "default_permissions"];
    options.extend(what.read_only.then_some("ro"));
    options.extend(what.allow_other.then_some("allow_other"));
    fusermount::mount(what.target, what.source, &options)
}

/// Takes `mounted` down. A stranger that was mounted at its path since stays; it is an error only if it covers ours.
///
/// # Errors
/// `Busy` if something is in use there and `lazy` was not asked for; `Covered`; or the kernel refused.
pub fn unmount(mounted: &Mounted, lazy: bool) -> Result<(), MountError> {
    let path = &mounted.path;
    match is_on_top(mounted)? {
        Position::Gone => return Ok(()),
        Position::Covered => return Err(MountError::Covered(path.clone())),
        Position::Top => {}
    }
    let done = if privileged() {
        let mut flags = MntFlags::UMOUNT_NOFOLLOW;
        flags.set(MntFlags::MNT_DETACH, lazy);
        nix::mount::umount2(path, flags).map_err(io::Error::from)
    } else {
        fusermount::unmount(path, lazy)
    };
    match done {
        Ok(()) => Ok(()),
        Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) || error.kind() == io::ErrorKind::ResourceBusy => {
            Err(MountError::Busy(path.clone()))
        }
        // Somebody else was faster.
        Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => Ok(()),
        Err(error) => Err(MountError::refused(path, "unmounting")(error)),
    }
}

enum Position {
    Gone,
    Covered,
    Top,
}

fn is_on_top(mounted: &Mounted) -> Result<Position, MountError> {
    let stack = mountinfo::stack_at(&mounted.path).map_err(MountError::refused(&mounted.path, "reading /proc/self/mountinfo"))?;
    Ok(match stack.split_last() {
        Some((top, _)) if mounted.is(top) => Position::Top,
        Some((_, below)) if below.iter().any(|mount| mounted.is(mount)) => Position::Covered,
        _ => Position::Gone,
    })
}

/// Makes the kernel read ahead up to `kib` KiB on the mounted filesystem. Only root can, and it is only speed: failing is fine.
pub fn set_read_ahead(mounted: &Mounted, kib: u32) {
    let _ = std::fs::write(format!("/sys/class/bdi/{}/read_ahead_kb", mounted.entry.device), kib.to_string());
}
