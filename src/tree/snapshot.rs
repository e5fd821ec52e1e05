//! A tree read as a filesystem: names, records, attributes, bytes. The views, staging, diff and checks all read through it.

use std::sync::Arc;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use super::key::{Content, Extent, FileKind, InodeRecord, Key, Name, Part, Value};
use super::{Range, Tree, TreeError};
use crate::ids::{Ino, ObjectId};
use crate::store::{Store, StoreError};

/// No path can be deeper than this: a walk to the root that takes longer runs in a circle.
pub(super) const MAX_DEPTH: usize = 1 << 16;

/// An extended attribute: its name and its value.
pub type Xattr = (Name, Arc<[u8]>);

/// A frozen state of the dataset. A clone takes constant time.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Its entries.
    pub tree: Tree,
    /// Where its bytes are.
    pub store: Arc<Store>,
}

impl Snapshot {
    /// The state that `tree` holds, with its bytes in `store`.
    #[must_use]
    pub const fn new(tree: Tree, store: Arc<Store>) -> Self {
        Self { tree, store }
    }

    /// What `name` leads to in the directory.
    pub fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Option<(Ino, FileKind)>, TreeError> {
        match self.tree.get(&Key::dirent(dir, name))? {
            Some(Value::Dirent(ino, kind)) => Ok(Some((ino, kind))),
            _ => Ok(None),
        }
    }

    /// The inode's record.
    pub fn inode(&self, ino: Ino) -> Result<Option<Arc<InodeRecord>>, TreeError> {
        match self.tree.get(&Key::inode(ino))? {
            Some(Value::Inode(record)) => Ok(Some(record)),
            _ => Ok(None),
        }
    }

    /// The inode that a path leads to. The path is taken from the root, a leading slash or not; symbolic links are not followed.
    pub fn resolve(&self, path: &[u8]) -> Result<Option<Ino>, TreeError> {
        let mut at = Ino::ROOT;
        for name in path.split(|byte| *byte == b'/') {
            match name {
                b"" | b"." => {}
                b".." => match self.inode(at)? {
                    Some(record) => at = record.parent,
                    None => return Ok(None),
                },
                name => match self.lookup(at, name)? {
                    Some((ino, _)) => at = ino,
                    None => return Ok(None),
                },
            }
        }
        Ok(Some(at))
    }

    /// The path of the inode's own link, without a leading slash; empty for the root, `None` if there is no such inode.
    pub fn path_of(&self, ino: Ino) -> Result<Option<Vec<u8>>, TreeError> {
        match self.inode(ino)? {
            Some(_) if ino == Ino::ROOT => Ok(Some(Vec::new())),
            Some(record) => self.path_below(record.parent, &record.name).map(Some),
            None => Ok(None),
        }
    }

    /// The paths of all links of the inode, its own first.
    pub fn all_paths_of(&self, ino: Ino) -> Result<Vec<Vec<u8>>, TreeError> {
        let mut paths = Vec::from_iter(self.path_of(ino)?);
        for (dir, name) in self.further_links(ino)? {
            paths.push(self.path_below(dir, &name)?);
        }
        Ok(paths)
    }

    /// The links of the inode beside its own.
    pub fn further_links(&self, ino: Ino) -> Result<Vec<(Ino, Name)>, TreeError> {
        self.links(ino).collect()
    }

    /// The first of them. It takes the same time however many there are.
    pub fn further_link(&self, ino: Ino) -> Result<Option<(Ino, Name)>, TreeError> {
        self.links(ino).next().transpose()
    }

    fn links(&self, ino: Ino) -> impl Iterator<Item = Result<(Ino, Name), TreeError>> {
        let first = Key { ino, part: Part::Link(Ino(0), Name::default()) };
        self.tree.starting_at(&first).map_while(move |entry| match entry {
            Ok((Key { ino: of, part: Part::Link(dir, name) }, _)) if of == ino => Some(Ok((dir, name))),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        })
    }

    /// The path of an entry of the directory.
    pub fn path_below(&self, dir: Ino, name: &[u8]) -> Result<Vec<u8>, TreeError> {
        let mut names: Vec<Name> = vec![name.into()];
        let mut at = dir;
        while at != Ino::ROOT {
            let record = self.inode(at)?.ok_or_else(|| TreeError::inode(at, "it is the parent of an entry but has no record"))?;
            names.push(Arc::clone(&record.name));
            at = record.parent;
            if names.len() > MAX_DEPTH {
                return Err(TreeError::inode(dir, "its parents run in a circle"));
            }
        }
        names.reverse();
        Ok(names.join(&b'/'))
    }

    /// Up to `n` entries of the directory in the order of their names, after `skip` others.
    pub fn entries(&self, dir: Ino, skip: u64, n: usize) -> Result<Vec<(Name, Ino, FileKind)>, TreeError> {
        let (first, end) = self.entry_ranks(dir)?;
        let at = first.saturating_add(skip).min(end);
        let n = usize::try_from(end - at).unwrap_or(usize::MAX).min(n);
        let mut entries = Vec::with_capacity(n.min(1024));
        for entry in self.tree.iter_at(at).take(n) {
            if let (Key { part: Part::Dirent(name), .. }, Value::Dirent(ino, kind)) = entry? {
                entries.push((name, ino, kind));
            }
        }
        Ok(entries)
    }

    /// Number of entries of the directory.
    pub fn entry_count(&self, dir: Ino) -> Result<u64, TreeError> {
        let (first, end) = self.entry_ranks(dir)?;
        Ok(end - first)
    }

    fn entry_ranks(&self, dir: Ino) -> Result<(u64, u64), TreeError> {
        let first = self.tree.rank(&Key::dirent(dir, b""))?;
        let end = self.tree.rank(&Key { ino: dir, part: Part::Link(Ino(0), Name::default()) })?;
        Ok((first, end.max(first)))
    }

    /// All entries of the directory, one at a time.
    pub fn each_entry(&self, dir: Ino) -> impl Iterator<Item = Result<(Name, Ino, FileKind), TreeError>> + use<> {
        let end = Key { ino: dir, part: Part::Link(Ino(0), Name::default()) };
        self.tree.range(&Key::dirent(dir, b""), &end).filter_map(|entry| match entry {
            Ok((Key { part: Part::Dirent(name), .. }, Value::Dirent(ino, kind))) => Some(Ok((name, ino, kind))),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        })
    }

    /// The directories in the directory.
    pub fn subdirs(&self, dir: Ino) -> Result<Vec<(Name, Ino)>, TreeError> {
        let of_kind = |entry: Result<(Name, Ino, FileKind), TreeError>| match entry {
            Ok((name, ino, FileKind::Directory)) => Some(Ok((name, ino))),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        };
        self.each_entry(dir).filter_map(of_kind).collect()
    }

    /// The value of an extended attribute.
    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Option<Arc<[u8]>>, TreeError> {
        match self.tree.get(&Key::xattr(ino, name))? {
            Some(Value::Xattr(value)) => Ok(Some(value)),
            _ => Ok(None),
        }
    }

    /// The names and values of all extended attributes.
    pub fn xattrs(&self, ino: Ino) -> Result<Vec<Xattr>, TreeError> {
        let mut xattrs = Vec::new();
        for entry in self.tree.range(&Key::xattr(ino, b""), &Key::extent(ino, 0)) {
            if let (Key { part: Part::Xattr(name), .. }, Value::Xattr(value)) = entry? {
                xattrs.push((name, value));
            }
        }
        Ok(xattrs)
    }

    /// The extents of a file, by offset.
    pub fn extents(&self, ino: Ino) -> Result<Vec<(u64, Extent)>, TreeError> {
        extents_of(self.tree.range(&Key::extent(ino, 0), &Key::inode(ino.next())))
    }

    /// The extents that reach into `from..to`, by offset.
    pub fn extents_in(&self, ino: Ino, from: u64, to: u64) -> Result<Vec<(u64, Extent)>, TreeError> {
        let start = match self.tree.before(&Key::extent(ino, from.saturating_add(1)))? {
            Some((Key { ino: of, part: Part::Extent(offset) }, Value::Extent(extent)))
                if of == ino && offset.saturating_add(extent.len) > from =>
            {
                offset
            }
            _ => from,
        };
        extents_of(self.tree.range(&Key::extent(ino, start), &Key::extent(ino, to)))
    }
}

fn extents_of(range: Range) -> Result<Vec<(u64, Extent)>, TreeError> {
    let mut extents = Vec::new();
    for entry in range {
        if let (Key { part: Part::Extent(offset), .. }, Value::Extent(extent)) = entry? {
            extents.push((offset, extent));
        }
    }
    Ok(extents)
}

/// Bytes.
impl Snapshot {
    /// Up to `len` bytes of a file from `offset` on; fewer only at its end. Holes read as zeros.
    pub fn read(&self, ino: Ino, offset: u64, len: usize) -> Result<Vec<u8>, TreeError> {
        match self.inode(ino)? {
            Some(record) => self.read_record(ino, &record, offset, len),
            None => Ok(Vec::new()),
        }
    }

    /// As [`Snapshot::read`], for who has the record at hand.
    pub fn read_record(&self, ino: Ino, record: &InodeRecord, offset: u64, len: usize) -> Result<Vec<u8>, TreeError> {
        let left = usize::try_from(record.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        // In tests it shows if a byte is not filled in.
        let mut buffer = vec![if cfg!(test) { 0xaa } else { 0 }; left.min(len)];
        self.read_record_into(ino, record, offset, &mut buffer)?;
        Ok(buffer)
    }

    /// As [`Snapshot::read_record`], into a buffer, whatever is in it. How many bytes there were comes back.
    pub fn read_record_into(&self, ino: Ino, record: &InodeRecord, offset: u64, buffer: &mut [u8]) -> Result<usize, TreeError> {
        let left = usize::try_from(record.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = left.min(buffer.len());
        let buffer = &mut buffer[..len];
        match &record.content {
            Content::None => buffer.fill(0),
            Content::Inline(bytes) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                let n = (bytes.len() - from).min(len);
                buffer[..n].copy_from_slice(&bytes[from..from + n]);
                buffer[n..].fill(0);
            }
            Content::Object(object) => {
                let read = self.store.objects().read_at(*object, buffer, offset)?;
                // What the object does not reach is a hole.
                buffer[read..].fill(0);
            }
            Content::Extents => self.read_extents(ino, offset, buffer)?,
        }
        Ok(len)
    }

    fn read_extents(&self, ino: Ino, offset: u64, buffer: &mut [u8]) -> Result<(), TreeError> {
        // What no extent covers is a hole.
        buffer.fill(0);
        let end = offset.saturating_add(buffer.len() as u64);
        for (at, extent) in self.extents_in(ino, offset, end)? {
            let from = at.max(offset);
            let to = at.saturating_add(extent.len).min(end);
            // Both lie in the buffer, because the extent reaches into it.
            let (Ok(start), Ok(stop)) = (usize::try_from(from - offset), usize::try_from(to.saturating_sub(offset))) else { continue };
            if let Some(part) = buffer.get_mut(start..stop) {
                self.store.objects().read_at(extent.object, part, extent.start.saturating_add(from - at))?;
            }
        }
        Ok(())
    }

    /// The first byte from `offset` on that may hold data; `None` if only a hole follows, or the file's end.
    pub fn seek_data(&self, ino: Ino, record: &InodeRecord, offset: u64) -> Result<Option<u64>, TreeError> {
        let data = match &record.content {
            Content::None => None,
            Content::Inline(bytes) => (offset < bytes.len() as u64).then_some(offset),
            Content::Object(object) => self.seek_in_object(*object, offset, true)?,
            Content::Extents => self.extents_in(ino, offset, u64::MAX)?.first().map(|(at, _)| offset.max(*at)),
        };
        Ok(data.filter(|at| *at < record.size))
    }

    /// The first byte from `offset` on in a hole; the file's end is one. `None` from the end on.
    pub fn seek_hole(&self, ino: Ino, record: &InodeRecord, offset: u64) -> Result<Option<u64>, TreeError> {
        if offset >= record.size {
            return Ok(None);
        }
        let hole = match &record.content {
            Content::None => offset,
            Content::Inline(bytes) => offset.max(bytes.len() as u64),
            Content::Object(object) => self.seek_in_object(*object, offset, false)?.unwrap_or(offset),
            Content::Extents => {
                let mut at = offset;
                for (from, extent) in self.extents_in(ino, offset, u64::MAX)? {
                    if from > at {
                        break;
                    }
                    at = at.max(from.saturating_add(extent.len));
                }
                at
            }
        };
        Ok(Some(hole.min(record.size)))
    }

    /// Where data or a hole begins in an object from `offset` on; its end is a hole. `None` from the end on, and if no more data follows.
    /// Only an object with a host file of its own can have holes: there the host knows them.
    fn seek_in_object(&self, object: ObjectId, offset: u64, data: bool) -> Result<Option<u64>, TreeError> {
        let len = self.store.objects().len(object)?;
        if offset >= len {
            return Ok(None);
        }
        let whole = if data { offset } else { len };
        let Some(file) = self.store.objects().open_file(object)? else { return Ok(Some(whole)) };
        // Everything else reads it by offset: that the descriptor's position moves is no matter.
        match lseek(&*file, i64::try_from(offset).unwrap_or(i64::MAX), if data { Whence::SeekData } else { Whence::SeekHole }) {
            Ok(at) => Ok(Some(u64::try_from(at).unwrap_or(whole).min(len)).filter(|at| !data || *at < len)),
            Err(Errno::ENXIO) => Ok(None),
            // A host that knows no holes.
            Err(Errno::EINVAL) => Ok(Some(whole)),
            Err(errno) => Err(StoreError::io(format!("seek in object {object}"), errno).into()),
        }
    }
}
