//! What a tree maps: keys in their one order, and the records under them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::ids::{Ino, ObjectId, VersionId};

/// A name in a directory or of an extended attribute: bytes, as the kernel sees them.
pub type Name = Arc<[u8]>;

/// A key. The derived order is the tree's: everything of an inode stands together, its record first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// The inode that the entry belongs to (for a directory entry: the directory).
    pub ino: Ino,
    /// Which of the inode's entries.
    pub part: Part,
}

/// Which entry of an inode a key names. The order of the variants is the order in the tree.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Part {
    /// The inode's record.
    Inode,
    /// A directory entry, by name.
    Dirent(Name),
    /// A further hard link beside the record's own (`InodeRecord::parent`, `InodeRecord::name`): the directory and the name.
    Link(Ino, Name),
    /// An extended attribute, by its full name ("user.x").
    Xattr(Name),
    /// A run of a file's bytes, by its offset in the file.
    Extent(u64),
}

impl Key {
    /// The key of an inode's record.
    #[must_use]
    pub const fn inode(ino: Ino) -> Self {
        Self { ino, part: Part::Inode }
    }

    /// The key of a directory entry.
    #[must_use]
    pub fn dirent(dir: Ino, name: &[u8]) -> Self {
        Self { ino: dir, part: Part::Dirent(name.into()) }
    }

    /// The key of a further hard link of `ino`.
    #[must_use]
    pub fn link(ino: Ino, dir: Ino, name: &[u8]) -> Self {
        Self { ino, part: Part::Link(dir, name.into()) }
    }

    /// The key of an extended attribute.
    #[must_use]
    pub fn xattr(ino: Ino, name: &[u8]) -> Self {
        Self { ino, part: Part::Xattr(name.into()) }
    }

    /// The key of the extent that begins at `offset`.
    #[must_use]
    pub const fn extent(ino: Ino, offset: u64) -> Self {
        Self { ino, part: Part::Extent(offset) }
    }
}

/// The kinds of inodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A Unix domain socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// Where an inode's bytes are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// There are none: not a regular file or symlink, or a file of holes alone (its size says how long).
    None,
    /// In the record itself: a symlink's target.
    Inline(Arc<[u8]>),
    /// The object's first bytes, then a hole up to the inode's size.
    Object(ObjectId),
    /// In the inode's extent entries; what none covers is a hole.
    Extents,
}

/// The record of an inode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InodeRecord {
    /// What it is.
    pub kind: FileKind,
    /// Permission bits with set-id and sticky (0o7777).
    pub perm: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of hard links (a directory's: 2 and one a subdirectory).
    pub nlink: u32,
    /// Size in bytes (a directory's is 4096 whatever it holds).
    pub size: u64,
    /// Device number of a device, as `st_rdev`.
    pub rdev: u32,
    /// Last access (kept as set; reads do not change it).
    pub atime: Timestamp,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of the content or the record.
    pub ctime: Timestamp,
    /// Creation.
    pub btime: Timestamp,
    /// Where the bytes are.
    pub content: Content,
    /// The directory of the inode's own link (further ones are `Part::Link` entries); the root's is the root.
    pub parent: Ino,
    /// The name of that link; empty for the root.
    pub name: Name,
    /// The version in which the record, an extended attribute or the bytes last changed.
    pub changed_in: VersionId,
}

/// A run of a file's bytes in an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// Length in bytes, never 0; extents of a file never overlap.
    pub len: u64,
    /// The object that holds the bytes.
    pub object: ObjectId,
    /// Where in the object they begin.
    pub start: u64,
}

/// What is stored under a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Value {
    /// Under `Part::Inode`.
    Inode(Arc<InodeRecord>),
    /// Under `Part::Dirent`: the inode that the name leads to, and its kind.
    Dirent(Ino, FileKind),
    /// Under `Part::Link`.
    Link,
    /// Under `Part::Xattr`: the attribute's bytes.
    Xattr(Arc<[u8]>),
    /// Under `Part::Extent`.
    Extent(Extent),
}

impl Value {
    /// Whether it is of the kind that the key calls for.
    #[must_use]
    pub const fn fits(&self, key: &Key) -> bool {
        matches!(
            (&key.part, self),
            (Part::Inode, Self::Inode(_))
                | (Part::Dirent(_), Self::Dirent(..))
                | (Part::Link(..), Self::Link)
                | (Part::Xattr(_), Self::Xattr(_))
                | (Part::Extent(_), Self::Extent(_))
        )
    }
}
