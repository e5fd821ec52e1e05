//! Reading a version from the mount: every entry once, with all that belongs to it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, FileType, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::failed_at;
use crate::cli::exit::Result;

/// The longest list of names or value of an extended attribute that Linux has.
const XATTR_MAX: usize = 64 << 10;

/// An entry.
pub(super) struct Entry {
    /// Where it is read.
    pub(super) source: PathBuf,
    /// Its path in the version; empty for the root.
    pub(super) path: PathBuf,
    pub(super) data: Metadata,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What an entry is.
pub(super) enum Kind {
    Directory,
    /// A file, and the ranges of it that are no holes.
    File(File, Vec<(u64, u64)>),
    Symlink(PathBuf),
    /// Another name of the file with this path.
    HardLink(PathBuf),
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

/// Where entries go. A directory comes before what is in it, a file before its other names.
pub(super) trait Sink {
    fn put(&mut self, entry: &Entry, kind: &mut Kind) -> Result;
    /// Everything was put: it is complete and on disk afterwards.
    fn finish(&mut self) -> Result;
    /// What could not be put, one line each.
    fn left_out(&mut self) -> Vec<String>;
}

/// Puts all of a version into a sink; `told` is called after each entry with the bytes of its content.
pub(super) fn walk(root: &Path, sink: &mut dyn Sink, told: &mut dyn FnMut(u64)) -> Result {
    let mut names: HashMap<u64, PathBuf> = HashMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(path) = todo.pop() {
        let source = if path.as_os_str().is_empty() { root.to_owned() } else { root.join(&path) };
        let read = |error: io::Error| failed_at(&source, "can't be read", error);
        let data = fs::symlink_metadata(&source).map_err(read)?;
        let xattrs = xattrs(&source).map_err(read)?;
        let mut kind = kind_of(&source, &data, names.get(&data.ino())).map_err(read)?;
        if data.is_dir() {
            let mut below = fs::read_dir(&source)
                .and_then(|entries| entries.map(|entry| entry.map(|entry| path.join(entry.file_name()))).collect::<io::Result<Vec<_>>>());
            if let Ok(below) = &mut below {
                below.sort_by(|a, b| b.cmp(a));
            }
            todo.extend(below.map_err(read)?);
        } else if data.nlink() > 1 {
            names.entry(data.ino()).or_insert_with(|| path.clone());
        }
        let bytes = if let Kind::File(_, ranges) = &kind { ranges.iter().map(|(_, len)| len).sum() } else { 0 };
        sink.put(&Entry { source, path, data, xattrs }, &mut kind)?;
        told(bytes);
    }
    Ok(())
}

fn kind_of(source: &Path, data: &Metadata, first: Option<&PathBuf>) -> io::Result<Kind> {
    let kind: FileType = data.file_type();
    if let Some(first) = first.filter(|_| !kind.is_dir()) {
        return Ok(Kind::HardLink(first.clone()));
    }
    Ok(if kind.is_dir() {
        Kind::Directory
    } else if kind.is_symlink() {
        Kind::Symlink(fs::read_link(source)?)
    } else if kind.is_fifo() {
        Kind::Fifo
    } else if kind.is_socket() {
        Kind::Socket
    } else if kind.is_char_device() {
        Kind::CharDevice
    } else if kind.is_block_device() {
        Kind::BlockDevice
    } else {
        let file = File::open(source)?;
        let ranges = ranges(&file, data.len())?;
        Kind::File(file, ranges)
    })
}

/// The ranges of a file that hold data: offset and length.
fn ranges(file: &File, len: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < len {
        let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => break,
            // A filesystem that knows no holes.
            Err(Errno::INVAL) => return Ok(vec![(0, len)]),
            Err(errno) => return Err(errno.into()),
        };
        let hole = rustix::fs::seek(file, SeekFrom::Hole(data))?.min(len);
        if data < hole {
            ranges.push((data, hole - data));
        }
        at = hole.max(data + 1);
    }
    Ok(ranges)
}

/// Extended attributes with their values, access lists included.
fn xattrs(path: &Path) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut buffer = vec![0; XATTR_MAX];
    let len = match rustix::fs::llistxattr(path, &mut buffer[..]) {
        Ok(len) => len,
        Err(Errno::NOTSUP) => 0,
        Err(errno) => return Err(errno.into()),
    };
    let names: Vec<Vec<u8>> =
        buffer.get(..len).unwrap_or_default().split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect();
    let mut found = Vec::with_capacity(names.len());
    for name in names {
        match rustix::fs::lgetxattr(path, OsStr::from_bytes(&name), &mut buffer[..]) {
            Ok(len) => found.push((name, buffer.get(..len).unwrap_or_default().to_vec())),
            Err(Errno::NODATA) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(found)
}

/// The bytes of some ranges of a file, one after the other.
pub(super) struct Ranges<'a> {
    file: &'a File,
    left: std::collections::VecDeque<(u64, u64)>,
}

impl<'a> Ranges<'a> {
    pub(super) fn new(file: &'a File, ranges: &[(u64, u64)]) -> Self {
        Self { file, left: ranges.iter().copied().collect() }
    }
}

impl Read for Ranges<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some((offset, len)) = self.left.front_mut() else { return Ok(0) };
        let want = usize::try_from(*len).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read_at(buffer.get_mut(..want).unwrap_or_default(), *offset)?;
        if read == 0 && want > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it is shorter than it says"));
        }
        (*offset, *len) = (*offset + read as u64, *len - read as u64);
        if *len == 0 {
            self.left.pop_front();
        }
        Ok(read)
    }
}

/// A path's bytes, for archives.
pub(super) fn bytes_of(path: &Path) -> Vec<u8> {
    path.as_os_str().to_owned().into_vec()
}
