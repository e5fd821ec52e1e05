//! Sharing a file's blocks with another file (xfs, btrfs), and where a file's blocks are.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Makes `to` share all blocks of `from`: constant time, whatever the size.
///
/// # Errors
/// `EOPNOTSUPP`, `EXDEV`, `EINVAL` or `ENOTTY` where the filesystem can't; anything else is an error of the disk.
pub fn reflink(from: &File, to: &File) -> io::Result<()> {
    // SAFETY: FICLONE takes the source's descriptor by value; both descriptors are open as long as the borrows live.
    let done = unsafe { libc::ioctl(to.as_raw_fd(), libc::FICLONE, from.as_raw_fd()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How many extents one question asks for.
const AT_ONCE: usize = 512;

/// `struct fiemap` (linux/fiemap.h) with room for extents.
#[repr(C)]
struct Fiemap {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
    extents: [FiemapExtent; AT_ONCE],
}

#[repr(C)]
#[derive(Clone, Copy)]
struct FiemapExtent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

/// `FS_IOC_FIEMAP`: `_IOWR('f', 11, struct fiemap)`, of which the extents are no part.
const FS_IOC_FIEMAP: libc::Ioctl = 0xc020_660b_u32 as libc::Ioctl;
const FIEMAP_EXTENT_LAST: u32 = 0x1;
const FIEMAP_EXTENT_ENCODED: u32 = 0x8;
const FIEMAP_EXTENT_SHARED: u32 = 0x2000;

/// A run of a file's bytes on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Where it is on the disk. What is not there yet has no place: 0.
    pub physical: u64,
    /// Its length in bytes.
    pub len: u64,
    /// Whether other files may have the same blocks, as far as it can be said which.
    pub shared: bool,
}

/// Tells of a file's runs in their order, until `each` returns `false`.
///
/// # Errors
/// The filesystem does not tell where its files' bytes are, or the disk fails.
pub fn each_run(file: &File, mut each: impl FnMut(Run) -> bool) -> io::Result<()> {
    const NOTHING: FiemapExtent = FiemapExtent { logical: 0, physical: 0, length: 0, reserved64: [0; 2], flags: 0, reserved: [0; 3] };
    let mut map = Box::new(Fiemap {
        start: 0,
        length: u64::MAX,
        flags: 0,
        mapped_extents: 0,
        extent_count: u32::try_from(AT_ONCE).unwrap_or(0),
        reserved: 0,
        extents: [NOTHING; AT_ONCE],
    });
    loop {
        // SAFETY: FS_IOC_FIEMAP reads and writes the head, and writes at most `extent_count` extents behind it, which there is room for;
        // the descriptor is open as long as the borrow lives.
        if unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FIEMAP, &raw mut *map) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let found = map.extents.get(..map.mapped_extents as usize).unwrap_or_default();
        let Some(last) = found.last().copied() else { return Ok(()) };
        for extent in found {
            // Of what is compressed the length on the disk is not told: it counts for itself.
            let shared = extent.flags & (FIEMAP_EXTENT_SHARED | FIEMAP_EXTENT_ENCODED) == FIEMAP_EXTENT_SHARED;
            if !each(Run { physical: extent.physical, len: extent.length, shared }) {
                return Ok(());
            }
        }
        let end = last.logical.saturating_add(last.length);
        if last.flags & FIEMAP_EXTENT_LAST != 0 || end <= map.start {
            return Ok(());
        }
        (map.start, map.length) = (end, u64::MAX - end);
    }
}

/// Whether the file is in at most so many pieces on the disk; asks for no more than that. Where the host does not tell: yes.
#[must_use]
pub fn has_few_extents(file: &File, most: usize) -> bool {
    let mut runs = 0;
    let told = each_run(file, |_| {
        runs += 1;
        runs <= most
    });
    told.is_err() || runs <= most
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_clone_has_the_same_bytes_or_the_filesystem_says_that_it_cannot() {
        let dir = tempfile::tempdir().unwrap();
        let mut from = File::create_new(dir.path().join("from")).unwrap();
        from.write_all(&[7; 8192]).unwrap();
        let to = File::create_new(dir.path().join("to")).unwrap();
        match reflink(&from, &to) {
            Ok(()) => {
                let mut bytes = Vec::new();
                File::open(dir.path().join("to")).unwrap().read_to_end(&mut bytes).unwrap();
                assert_eq!(bytes, [7; 8192]);
            }
            Err(error) => {
                let known = [libc::EOPNOTSUPP, libc::EXDEV, libc::EINVAL, libc::ENOTTY];
                assert!(known.contains(&error.raw_os_error().unwrap()), "{error}");
            }
        }
    }

    #[test]
    fn pieces_are_counted_up_to_a_limit_and_holes_are_none() {
        use std::os::unix::fs::FileExt;
        let dir = tempfile::tempdir().unwrap();
        let file = File::create_new(dir.path().join("f")).unwrap();
        assert!(has_few_extents(&file, 0), "it is empty");
        for piece in 0..1300_u64 {
            file.write_all_at(&[1; 4096], piece * 131_072).unwrap();
        }
        file.sync_all().unwrap();
        let (mut runs, mut bytes) = (0, 0);
        match each_run(&file, |run| {
            runs += 1;
            bytes += run.len;
            true
        }) {
            // More of them where the host has made room ahead (xfs).
            Ok(()) => {
                assert!(runs >= 1300 && bytes >= 1300 * 4096, "{runs}, {bytes}");
                assert!(!has_few_extents(&file, runs - 1) && has_few_extents(&file, runs));
            }
            // tmpfs
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP));
                assert!(has_few_extents(&file, 1));
            }
        }
    }
}
