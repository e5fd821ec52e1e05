//! Calls on an open `/dev/fuse`.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `_IOW(229, 2, u32)`: lets go of a backing file's number.
const BACKING_CLOSE: libc::c_ulong = 0x4004_e502;

/// Lets go of the backing file that the kernel knows under `id`.
///
/// # Errors
/// The kernel knows none.
pub fn close_backing(fuse: BorrowedFd<'_>, id: u32) -> io::Result<()> {
    // SAFETY: the ioctl reads one u32, which lives until it returns.
    let done = unsafe { libc::ioctl(fuse.as_raw_fd(), BACKING_CLOSE, &raw const id) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Opens `/dev/fuse`.
///
/// # Errors
/// There is none (the kernel module is missing), or it may not be opened.
pub fn open() -> io::Result<File> {
    File::options().read(true).write(true).open("/dev/fuse")
}
