//! Sharing a file's blocks with another file (xfs, btrfs).

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
}
