//! What operations on staging take and give: plain data.

use std::sync::Arc;
use std::time::Instant;

use crate::clock::Timestamp;
use crate::ids::{Ino, VersionId};
use crate::store::HostFile;
use crate::store::record::Writer;
use crate::tree::key::{FileKind, Name};

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Process, in the daemon's namespace; 0 if unknown.
    pub pid: u32,
}

/// An inode as the kernel holds it. Whoever holds an old generation gets `Stale`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeRef {
    /// The inode.
    pub ino: Ino,
    /// Raised when a rollback replaced the content of a regular file, so that the kernel never mixes pages of both.
    pub generation: u32,
}

impl NodeRef {
    /// The root directory.
    pub const ROOT: Self = Self { ino: Ino::ROOT, generation: 0 };
}

/// An inode's attributes, as `stat` shows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attr {
    /// The inode.
    pub node: NodeRef,
    /// What it is.
    pub kind: FileKind,
    /// Permission bits with set-id and sticky.
    pub perm: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Hard links.
    pub nlink: u32,
    /// Bytes.
    pub size: u64,
    /// Blocks of 512 bytes that hold something.
    pub blocks: u64,
    /// Device number.
    pub rdev: u32,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change.
    pub ctime: Timestamp,
    /// Creation.
    pub btime: Timestamp,
    /// Whether someone has the file open in passthrough: size and times may change without a request, so they must not be cached.
    pub volatile: bool,
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeSet {
    /// The current one.
    Now,
    /// This one.
    At(Timestamp),
}

/// What `set_attr` changes; `None` stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission bits (0o7777).
    pub perm: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<TimeSet>,
    /// Last change of the content.
    pub mtime: Option<TimeSet>,
    /// Last change, from a kernel that keeps times itself.
    pub ctime: Option<Timestamp>,
}

/// An open file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle(pub u64);

/// How the kernel must treat an open file.
#[derive(Clone, Debug)]
pub enum OpenMode {
    /// Through the page cache.
    Cached {
        /// Whether pages that the kernel has of the inode are right.
        keep: bool,
    },
    /// Past the page cache: a new file whose bytes are likely to be few, and to come in few pieces.
    Direct,
    /// Reads and writes go to this file without asking.
    Passthrough(Arc<HostFile>),
}

/// An opened file.
#[derive(Clone, Debug)]
pub struct Opened {
    /// Its handle.
    pub handle: Handle,
    /// How the kernel must treat it.
    pub mode: OpenMode,
    /// In passthrough: reads and writes are to come here all the same, because each write is to be durable.
    pub synchronous: bool,
}

/// How to rename.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    /// What has the new name goes.
    Replace,
    /// Nothing may have the new name.
    NoReplace,
    /// The two change places.
    Exchange,
}

/// What `allocate` does to a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocate {
    /// Mode 0: the file is at least so long.
    Extend,
    /// `FALLOC_FL_KEEP_SIZE`.
    KeepSize,
    /// `FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE`.
    PunchHole,
    /// `FALLOC_FL_ZERO_RANGE`, with `FALLOC_FL_KEEP_SIZE` or not.
    ZeroRange {
        /// Whether the size stays.
        keep_size: bool,
    },
}

impl Allocate {
    /// From the bits of fallocate(2); `None` for what is not supported.
    #[must_use]
    pub const fn from_bits(mode: i32) -> Option<Self> {
        const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
        const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
        const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
        const ZERO_KEEP: i32 = ZERO | KEEP;
        match mode {
            0 => Some(Self::Extend),
            KEEP => Some(Self::KeepSize),
            PUNCH => Some(Self::PunchHole),
            ZERO => Some(Self::ZeroRange { keep_size: false }),
            ZERO_KEEP => Some(Self::ZeroRange { keep_size: true }),
            _ => None,
        }
    }
}

/// What `seek` looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// `SEEK_DATA`.
    Data,
    /// `SEEK_HOLE`.
    Hole,
}

/// How `set_xattr` treats what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrMode {
    /// Either way.
    Set,
    /// `XATTR_CREATE`: nothing may be there.
    Create,
    /// `XATTR_REPLACE`: something must be there.
    Replace,
}

/// An entry of a directory as it was when it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Its name ("." and ".." come first).
    pub name: Name,
    /// What it leads to.
    pub node: NodeRef,
    /// Its kind.
    pub kind: FileKind,
    /// The offset that continues after it.
    pub next_offset: u64,
    /// Its attributes now, if they were asked for; `None` if the entry is gone by now or leads elsewhere.
    pub attr: Option<Attr>,
}

/// The figures of `statfs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatFs {
    /// Bytes in a block, the unit of the figures below.
    pub block_size: u32,
    /// Blocks of the filesystem.
    pub blocks: u64,
    /// Free ones.
    pub free: u64,
    /// Free ones for ordinary users.
    pub available: u64,
    /// Inodes.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
    /// Longest name.
    pub name_max: u32,
}

/// What goes on in staging.
#[derive(Clone, Debug)]
pub struct Activity {
    /// The open version.
    pub version: Option<VersionId>,
    /// When its first change came.
    pub opened_at: Option<Timestamp>,
    /// The same moment by a clock that does not jump (`Clock::instant`).
    pub opened: Option<Instant>,
    /// Handles open for writing.
    pub writers: u64,
    /// Those of them that were closed while a mapping may still write the file.
    pub mapped: u64,
    /// When something last changed (`Clock::instant`).
    pub last_change: Instant,
    /// Whether a version is open, so something may have changed.
    pub dirty: bool,
}

/// What staging tells the dispatcher. Sent with no lock held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StagingEvent {
    /// The first change of a version came (or its journal was found at start).
    Opened {
        /// The version.
        version: VersionId,
        /// What it stands on.
        parent: VersionId,
        /// When.
        at: Timestamp,
        /// Who.
        writer: Option<Writer>,
    },
    /// The last handle open for writing went, and a version is open.
    Quiet,
    /// A file was closed while a mapping may still write it: `Staging::let_go_of_unmapped` says when it does not.
    Mapped,
    /// A background write or an fsync failed: for `status`.
    Failed {
        /// What, in one line.
        what: String,
    },
}

/// What the kernel knows that is no longer so.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Invalidation {
    /// Attributes and pages of an inode.
    Inode(NodeRef),
    /// A name in a directory.
    Entry {
        /// The directory.
        dir: NodeRef,
        /// The name.
        name: Name,
    },
}

/// How staging behaves.
#[derive(Clone, Copy, Debug)]
pub struct StagingOptions {
    /// Whether files of one host file may be opened in passthrough.
    pub passthrough: bool,
    /// Files up to this size stay in memory until they are sealed.
    pub small_file: u64,
    /// At most so many bytes stay in memory.
    pub memory: u64,
    /// Whether a thread writes the journal once a second and syncs it every five.
    pub flusher: bool,
}

impl Default for StagingOptions {
    fn default() -> Self {
        Self { passthrough: false, small_file: 128 << 10, memory: 256 << 20, flusher: true }
    }
}
