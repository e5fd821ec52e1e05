//! Mounting and unmounting without root, through the set-user-id helper `fusermount3`.
//!
//! fuser can call it too, but its teardown unmounts by path whatever is mounted there by then.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use super::mountinfo::printable_source;

const HELPER: &str = "fusermount3";

/// Mounts at `target` with the comma-separated `options`, naming `source`; the answer is the open `/dev/fuse`.
///
/// # Errors
/// The helper is missing or refuses; its own words are passed on.
pub fn mount(target: &Path, source: &Path, options: &[&str]) -> io::Result<File> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut list = OsString::from("fsname=");
    list.push(printable_source(source));
    for option in options {
        list.push(",");
        list.push(option);
    }
    let mut command = Command::new(HELPER);
    command.arg("-o").arg(list).arg("--").arg(target);
    command.env("_FUSE_COMMFD", theirs.as_raw_fd().to_string()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let passed = theirs.as_raw_fd();
    // SAFETY: the closure only calls fcntl, which is safe between fork and exec; the descriptor is open until `theirs` drops below.
    unsafe {
        command.pre_exec(move || if libc::fcntl(passed, libc::F_SETFD, 0) < 0 { Err(io::Error::last_os_error()) } else { Ok(()) });
    }
    let child = command.spawn().map_err(missing)?;
    drop(theirs);
    let device = receive(&ours);
    let output = child.wait_with_output()?;
    match device? {
        Some(device) if output.status.success() => Ok(device),
        _ => Err(refusal(&output.stderr)),
    }
}

/// Unmounts `target`; `lazy` detaches it although it is in use.
///
/// # Errors
/// The helper is missing or refuses: `ResourceBusy` when something is in use there.
pub fn unmount(target: &Path, lazy: bool) -> io::Result<()> {
    let mut command = Command::new(HELPER);
    // Not -q: it hides why.
    command.arg("-u").args(lazy.then_some("-z")).arg("--").arg(target);
    let output = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).output().map_err(missing)?;
    if output.status.success() { Ok(()) } else { Err(refusal(&output.stderr)) }
}

fn missing(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::NotFound => {
            io::Error::new(io::ErrorKind::NotFound, "fusermount3 is not installed; install the package fuse3, or mount as root")
        }
        _ => error,
    }
}

fn refusal(words: &[u8]) -> io::Error {
    let words = String::from_utf8_lossy(words);
    let words = words.trim();
    if words.contains("failed to open /dev/fuse") && words.contains("Permission denied") {
        let what = "users may not open /dev/fuse here; let them, as root: chmod 666 /dev/fuse";
        return io::Error::new(io::ErrorKind::PermissionDenied, what);
    }
    let kind = if words.contains("busy") { io::ErrorKind::ResourceBusy } else { io::ErrorKind::PermissionDenied };
    io::Error::new(kind, if words.is_empty() { "fusermount3 refused without a reason".to_owned() } else { words.to_owned() })
}

/// The descriptor that the helper sends over the socket; `None` if it hangs up without one.
fn receive(socket: &UnixStream) -> io::Result<Option<File>> {
    let mut byte = [0_u8];
    let mut buffers = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([libc::c_int; 1]);
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut buffers, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control
            && let Some(fd) = descriptors.first()
        {
            // SAFETY: the kernel has just installed the descriptor for us; nobody else owns it.
            return Ok(Some(File::from(unsafe { OwnedFd::from_raw_fd(*fd) })));
        }
    }
    Ok(None)
}
