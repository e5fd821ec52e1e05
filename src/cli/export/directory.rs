//! A directory as the destination: a copy with everything that the filesystem there can take.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use super::failed_at;
use super::source::{Entry, Kind, Ranges, Sink};
use crate::cli::exit::{Exit, Failure, Result};

pub(super) struct Directory {
    root: PathBuf,
    /// Whether it was there, empty.
    was_there: bool,
    /// Their modes and times are set at the end, the deepest first.
    directories: Vec<Entry>,
    owners: u64,
    xattrs: u64,
}

impl Directory {
    pub(super) fn make(root: &Path) -> Result<Self> {
        let refuse = |error: io::Error| Failure::failed(format!("{}: {error}", root.display()));
        let was_there = match fs::DirBuilder::new().mode(0o700).create(root) {
            Ok(()) => false,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let empty = root.is_dir() && fs::read_dir(root).map_err(refuse)?.next().is_none();
                if !empty {
                    let line = format!("{}: is there already, and is no empty directory", root.display());
                    return Err(Failure::new(Exit::Conflict, line));
                }
                true
            }
            Err(error) => return Err(refuse(error)),
        };
        Ok(Self { root: root.to_owned(), was_there, directories: Vec::new(), owners: 0, xattrs: 0 })
    }

    /// Takes away what was made.
    pub(super) fn remove(&self) {
        // It failed before: what can't be removed either stays.
        if self.was_there {
            for entry in fs::read_dir(&self.root).into_iter().flatten().flatten() {
                let path = entry.path();
                let _ = if entry.file_type().is_ok_and(|kind| kind.is_dir()) { fs::remove_dir_all(path) } else { fs::remove_file(path) };
            }
        } else {
            let _ = fs::remove_dir_all(&self.root);
        }
    }

    fn place(&self, path: &Path) -> PathBuf {
        if path.as_os_str().is_empty() { self.root.clone() } else { self.root.join(path) }
    }

    /// Owner, mode, attributes, times, in the order in which none undoes another.
    fn dress(&mut self, to: &Path, entry: &Entry, symlink: bool) -> io::Result<()> {
        let data = &entry.data;
        match lchown(to, Some(data.uid()), Some(data.gid())) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => self.owners += 1,
            other => other?,
        }
        if !symlink {
            fs::set_permissions(to, fs::Permissions::from_mode(data.mode() & 0o7777))?;
        }
        for (name, value) in &entry.xattrs {
            match rustix::fs::lsetxattr(to, OsStr::from_bytes(name), value, XattrFlags::empty()) {
                Err(Errno::PERM | Errno::NOTSUP | Errno::ACCESS) => self.xattrs += 1,
                other => other?,
            }
        }
        let time = |secs, nanos| Timespec { tv_sec: secs, tv_nsec: nanos };
        let times =
            Timestamps { last_access: time(data.atime(), data.atime_nsec()), last_modification: time(data.mtime(), data.mtime_nsec()) };
        Ok(rustix::fs::utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn make_entry(&mut self, to: &Path, entry: &Entry, kind: &Kind) -> io::Result<()> {
        let node = |kind: FileType, device: u64| Ok(rustix::fs::mknodat(CWD, to, kind, Mode::from_raw_mode(0o600), device)?);
        match kind {
            Kind::Directory if entry.path.as_os_str().is_empty() => Ok(()),
            // Its mode comes at the end: until then we must get into it.
            Kind::Directory => fs::DirBuilder::new().mode(0o700).create(to),
            Kind::File(file, ranges) => copy(file, ranges, entry.data.len(), to),
            Kind::Symlink(target) => symlink(target, to),
            Kind::HardLink(first) => fs::hard_link(self.place(first), to),
            Kind::Fifo => node(FileType::Fifo, 0),
            Kind::Socket => node(FileType::Socket, 0),
            Kind::CharDevice => node(FileType::CharacterDevice, entry.data.rdev()),
            Kind::BlockDevice => node(FileType::BlockDevice, entry.data.rdev()),
        }
    }
}

fn copy(from: &File, ranges: &[(u64, u64)], len: u64, to: &Path) -> io::Result<()> {
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    out.set_len(len)?;
    for range in ranges {
        out.seek(SeekFrom::Start(range.0))?;
        let copied = io::copy(&mut io::BufReader::with_capacity(1 << 20, Ranges::new(from, &[*range])), &mut out)?;
        debug_assert_eq!(copied, range.1);
    }
    Ok(())
}

impl Sink for Directory {
    fn put(&mut self, entry: &Entry, kind: &mut Kind) -> Result {
        let to = self.place(&entry.path);
        self.make_entry(&to, entry, kind).map_err(|error| failed_at(&to, "can't be made", error))?;
        match kind {
            Kind::Directory => {
                let Entry { source, path, data, xattrs } = entry;
                self.directories.push(Entry { source: source.clone(), path: path.clone(), data: data.clone(), xattrs: xattrs.clone() });
                Ok(())
            }
            Kind::HardLink(_) => Ok(()),
            _ => {
                let link = matches!(kind, Kind::Symlink(_));
                self.dress(&to, entry, link).map_err(|error| failed_at(&to, "its attributes can't be set", error))
            }
        }
    }

    fn finish(&mut self) -> Result {
        let root = File::open(&self.root).map_err(|error| failed_at(&self.root, "can't be opened", error))?;
        for entry in std::mem::take(&mut self.directories).into_iter().rev() {
            let to = self.place(&entry.path);
            self.dress(&to, &entry, false).map_err(|error| failed_at(&to, "its attributes can't be set", error))?;
        }
        rustix::fs::syncfs(&root).map_err(|errno| failed_at(&self.root, "can't be synced", errno))
    }

    fn left_out(&mut self) -> Vec<String> {
        let owners = (self.owners > 0).then(|| format!("{} entries belong to you there; only root can give files away", self.owners));
        let xattrs = (self.xattrs > 0).then(|| format!("{} extended attributes were refused there", self.xattrs));
        owners.into_iter().chain(xattrs).collect()
    }
}
