//! Who else has a file open.

use std::fs::File;
use std::os::fd::AsRawFd;

/// Whether anybody may have the file open for writing, in whatever way: by a descriptor, by a mapping, or through a mount whose daemon is
/// gone, which no list of descriptors shows. `file` is open for reading only. Where the host has no leases the answer is yes.
///
/// fcntl(2), F_SETLEASE: a read lease is refused while the file is open for writing.
#[must_use]
pub fn may_be_written(file: &File) -> bool {
    !takes(file, libc::F_RDLCK)
}

/// Whether nobody but `file` itself, which is open for writing, has the file open: not by another descriptor, and not by a mapping, which in
/// a FUSE mount's passthrough outlives the close. Where the host has no leases the answer is no.
///
/// fcntl(2), F_SETLEASE: a write lease is refused while the file is open elsewhere.
#[must_use]
pub fn is_alone(file: &File) -> bool {
    takes(file, libc::F_WRLCK)
}

fn takes(file: &File, kind: libc::c_int) -> bool {
    let lease = |kind: libc::c_int| {
        // SAFETY: F_SETLEASE takes an int by value; the descriptor is open as long as the borrow lives.
        unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) == 0 }
    };
    let taken = lease(kind);
    // It was there to ask only. A lease that stayed would go with the descriptor.
    let _ = taken && lease(libc::F_UNLCK);
    taken
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

    #[test]
    fn who_is_alone_has_neither_readers_nor_writers_beside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let own = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        let _same = own.try_clone().unwrap();
        assert!(is_alone(&own));
        let reader = File::open(&path).unwrap();
        assert!(!is_alone(&own));
        drop(reader);
        assert!(is_alone(&own));
        let _writer = File::options().write(true).open(&path).unwrap();
        assert!(!is_alone(&own));
    }
}
