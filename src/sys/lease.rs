//! Who else has a file open.

use std::fs::File;
use std::os::fd::AsRawFd;

/// Whether anybody may have the file open for writing, in whatever way: by a descriptor, by a mapping, or through a mount whose daemon is
/// gone, which no list of descriptors shows. `file` is open for reading only. Where the host has no leases the answer is yes.
///
/// fcntl(2), F_SETLEASE: a read lease is refused while the file is open for writing.
#[must_use]
pub fn may_be_written(file: &File) -> bool {
    takes(file, libc::F_RDLCK) != Ok(())
}

/// Whether somebody certainly has the file open for writing: by a descriptor, or by a mapping of what was open for writing, which in a FUSE
/// mount's passthrough outlives the close. `file` is open for reading only. Where the host has no leases the answer is no.
#[must_use]
pub fn is_open_for_writing(file: &File) -> bool {
    takes(file, libc::F_RDLCK) == Err(libc::EAGAIN)
}

/// Whether nobody but `file` itself, which is open for writing, has the file open: not by another descriptor, and not by a mapping, which in
/// a FUSE mount's passthrough outlives the close. Where the host has no leases the answer is no.
///
/// fcntl(2), F_SETLEASE: a write lease is refused while the file is open elsewhere.
#[must_use]
pub fn is_alone(file: &File) -> bool {
    takes(file, libc::F_WRLCK) == Ok(())
}

/// Whoever opens the file at that moment in a way that the lease is against waits until it is given back, and the process gets SIGIO, which
/// the daemon blocks.
fn takes(file: &File, kind: libc::c_int) -> Result<(), i32> {
    let lease = |kind: libc::c_int| {
        // SAFETY: F_SETLEASE takes an int by value; the descriptor is open as long as the borrow lives.
        match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL)),
        }
    };
    lease(kind)?;
    // It was there to ask only. A lease that stayed would go with the descriptor.
    let _ = lease(libc::F_UNLCK);
    Ok(())
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
        assert!(may_be_written(&reader) && is_open_for_writing(&reader));
        drop(writer);
        let _another = File::open(&path).unwrap();
        assert!(!may_be_written(&reader) && !is_open_for_writing(&reader));
        assert!(!may_be_written(&reader), "the question leaves nothing behind");
        let _writer = File::options().append(true).open(&path).unwrap();
        assert!(may_be_written(&reader) && is_open_for_writing(&reader));
    }

    #[test]
    fn where_there_are_no_leases_nothing_is_certain() {
        let directory = File::open("/").unwrap();
        assert!(may_be_written(&directory) && !is_open_for_writing(&directory) && !is_alone(&directory));
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
