//! Attributes and times between our types and fuser's.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, Generation, INodeNo, TimeOrNow};

use super::attr::NodeAttr;
use super::nodes::RawNode;
use crate::clock::Timestamp;
use crate::tree::key::FileKind;
use crate::version::staging::TimeSet;

/// As good as for ever: ten years. (The kernel turns it into clock ticks; more could overflow on the way.)
pub(super) const FOREVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Node ids are never given to something else, so no generation has to tell one use of an id from another.
pub(super) const GENERATION: Generation = Generation(0);

pub(super) const fn kind(kind: FileKind) -> FileType {
    match kind {
        FileKind::Regular => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

/// The kind that the type bits of a mode name.
pub(super) const fn kind_of_mode(mode: u32) -> Option<FileKind> {
    match mode & libc::S_IFMT {
        libc::S_IFREG | 0 => Some(FileKind::Regular),
        libc::S_IFIFO => Some(FileKind::Fifo),
        libc::S_IFSOCK => Some(FileKind::Socket),
        libc::S_IFCHR => Some(FileKind::CharDevice),
        libc::S_IFBLK => Some(FileKind::BlockDevice),
        _ => None,
    }
}

pub(super) fn attr(attr: &NodeAttr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.node.0),
        size: attr.size,
        blocks: attr.blocks,
        atime: attr.atime.into(),
        mtime: attr.mtime.into(),
        ctime: attr.ctime.into(),
        crtime: attr.btime.into(),
        kind: kind(attr.kind),
        perm: attr.perm,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        // What programs take as a good size for one read or write.
        blksize: 4096,
        flags: 0,
    }
}

/// A node with nothing known of it but its kind: for "." and ".." (of which the kernel only takes the number).
pub(super) const fn bare(node: RawNode, kind_of: FileKind) -> FileAttr {
    FileAttr {
        ino: INodeNo(node.0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: kind(kind_of),
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// The time that the kernel sent. fuser 0.18 takes the fraction of a time before 1970 away from the seconds instead of
/// adding it ("-1.25 s" for -1 s and 250 ms), so what it made is taken apart again and put together right.
pub(super) fn time(time: SystemTime) -> Timestamp {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Timestamp { secs: i64::try_from(after.as_secs()).unwrap_or(i64::MAX), nanos: after.subsec_nanos() },
        Err(before) => {
            let before = before.duration();
            let secs = i64::try_from(before.as_secs()).map_or(i64::MIN, |secs| -secs);
            Timestamp { secs, nanos: before.subsec_nanos() }
        }
    }
}

pub(super) fn time_set(set: TimeOrNow) -> TimeSet {
    match set {
        TimeOrNow::Now => TimeSet::Now,
        TimeOrNow::SpecificTime(at) => TimeSet::At(time(at)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// fuser's own conversion, as its `time.rs` has it.
    fn as_fuser_reads(secs: i64, nanos: u32) -> SystemTime {
        match u64::try_from(secs) {
            Ok(secs) => UNIX_EPOCH + Duration::new(secs, nanos),
            Err(_) => UNIX_EPOCH - Duration::new(secs.unsigned_abs(), nanos),
        }
    }

    #[test]
    fn times_before_1970_keep_their_fraction() {
        for (secs, nanos) in [(-2, 800_000_000), (-1, 250_000_000), (-1, 0), (0, 0), (7, 1), (-3_000_000_000, 999_999_999)] {
            assert_eq!(time(as_fuser_reads(secs, nanos)), Timestamp { secs, nanos });
        }
    }
}
