//! Who else has a file open.

use std::fs::File;
use std::os::fd::AsRawFd;

/// Whether anybody may have the file open for writing, in whatever way: by a descriptor, by a mapping, or through a mount whose daemon is
/// gone, which no list of descriptors shows. `file` is open for reading only. Where the host has no leases the answer is yes.
///
/// fcntl(2), F_SETLEASE: a read lease is refused while the file is open for writing.
#[must_use]
pub fn may_be_written(file: &File) -> bool {
    let lease = |kind: libc::c_int| {
        // SAFETY: F_SETLEASE takes an int by value; the descriptor is open as long as the borrow lives.
        unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) == 0 }
    };
    let alone = lease(libc::F_RDLCK);
    // It was there to ask only. A lease that stayed would go with the descriptor.
    let _ = alone && lease(libc::F_UNLCK);
    !alone
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn writers_are_seen_by_descriptor_and_by_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let writer = File::create_new(&path).unwrap();
        let reader = File::open(&path).unwrap();
        assert!(may_be_written(&reader));
        drop(writer);
        let _another = File::open(&path).unwrap();
        assert!(!may_be_written(&reader));
        assert!(!may_be_written(&reader), "the question leaves nothing behind");
        let _writer = File::options().append(true).open(&path).unwrap();
        assert!(may_be_written(&reader));
    }
}
