//! What a daemon must not keep of the process that started it.

use std::io;

/// Closes every descriptor but the three standard ones: a pipe or a lock of whoever started the daemon would stay open as long as
/// it runs.
///
/// Call it before anything is opened and before any thread is started.
///
/// # Errors
/// The kernel has no `close_range` (before 5.9).
pub fn close_inherited() -> io::Result<()> {
    // SAFETY: nothing has been opened yet, so no descriptor from 3 on belongs to anyone in this process.
    match unsafe { libc::close_range(3, libc::c_uint::MAX, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
