//! Calls on an open `/dev/fuse`.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `_IOW(229, 2, u32)`: lets go of a backing file's number.
const BACKING_CLOSE: libc::c_ulong = 0x4004_e502;

const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;

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

/// A FUSE filesystem that is mounted nowhere: the device to answer its handshake on, and the filesystem, which lives as long
/// as this is open. Only root can.
///
/// # Errors
/// Not root, or the kernel (before 5.2) has no such calls.
pub fn connect_nowhere() -> io::Result<(File, OwnedFd)> {
    let fuse = open()?;
    // SAFETY: the name is a C string; the answer is a new descriptor or an error.
    let filesystem = unsafe { libc::syscall(libc::SYS_fsopen, c"fuse".as_ptr(), FSOPEN_CLOEXEC) };
    let filesystem = match i32::try_from(filesystem) {
        // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
        Ok(fd) if fd >= 0 => unsafe { OwnedFd::from_raw_fd(fd) },
        _ => return Err(io::Error::last_os_error()),
    };
    let number = CString::new(fuse.as_raw_fd().to_string())?;
    configure(&filesystem, Some((c"fd", &number)))?;
    configure(&filesystem, Some((c"rootmode", c"40000")))?;
    configure(&filesystem, Some((c"user_id", c"0")))?;
    configure(&filesystem, Some((c"group_id", c"0")))?;
    configure(&filesystem, None)?;
    Ok((fuse, filesystem))
}

/// Sets an option; without one, makes the filesystem.
fn configure(filesystem: &OwnedFd, option: Option<(&CStr, &CStr)>) -> io::Result<()> {
    let (command, key, value) = match option {
        Some((key, value)) => (FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr()),
        None => (FSCONFIG_CMD_CREATE, std::ptr::null(), std::ptr::null()),
    };
    // SAFETY: key and value are C strings that outlive the call, or null where the command takes none.
    let done = unsafe { libc::syscall(libc::SYS_fsconfig, filesystem.as_raw_fd(), command, key, value, 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
