//! A node's attributes as both sessions report them.

use crate::clock::Timestamp;
use crate::tree::key::{Content, FileKind, InodeRecord};

use super::nodes::RawNode;

/// What `stat` shows of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAttr {
    /// The node: also its `st_ino`.
    pub node: RawNode,
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
}

impl NodeAttr {
    /// The attributes of an inode's record. `allocated` is the sum of its extents where it has them.
    #[must_use]
    pub fn of_record(node: RawNode, record: &InodeRecord, allocated: impl FnOnce() -> u64) -> Self {
        let bytes = match record.content {
            Content::None | Content::Inline(_) => 0,
            Content::Object(_) => record.size,
            Content::Extents => allocated(),
        };
        Self {
            node,
            kind: record.kind,
            perm: record.perm,
            uid: record.uid,
            gid: record.gid,
            nlink: record.nlink,
            size: record.size,
            blocks: bytes.div_ceil(512),
            rdev: record.rdev,
            atime: record.atime,
            mtime: record.mtime,
            ctime: record.ctime,
            btime: record.btime,
        }
    }
}
