//! A kernel mount of a version, kept at a directory and switched atomically (`mount --production DIR`).
//!
//! The version's directory is cloned as a detached mount, made read-only, slid beneath the mount that is there, and the one on
//! top is detached: a path walk ends in the old or the new one, and whoever holds the old one keeps it.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::mount::{MntFlags, umount2};

/// `struct mount_attr` of `mount_setattr(2)`.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

const ATTR_RDONLY: u64 = 0x1;
const ATTR_NOSUID: u64 = 0x2;
const ATTR_NODEV: u64 = 0x4;
const MOVE_FROM_EMPTY: libc::c_uint = 0x4;
const MOVE_BENEATH: libc::c_uint = 0x200;

/// A detached read-only mount of `source`.
fn clone_of(source: &Path) -> io::Result<OwnedFd> {
    let source = CString::new(source.as_os_str().as_bytes())?;
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    // SAFETY: the path is a C string that outlives the call; the answer is a new descriptor or an error.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, source.as_ptr(), flags) };
    let fd = descriptor(fd)?;
    let attr = MountAttr { set: ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV, clear: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: the structure has the layout and size that are passed with it, and outlives the call.
    let done = unsafe {
        libc::syscall(libc::SYS_mount_setattr, fd.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, &raw const attr, size_of::<MountAttr>())
    };
    if done == 0 { Ok(fd) } else { Err(io::Error::last_os_error()) }
}

fn descriptor(fd: libc::c_long) -> io::Result<OwnedFd> {
    match i32::try_from(fd) {
        // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

fn move_to(tree: &OwnedFd, target: &Path, flags: libc::c_uint) -> io::Result<()> {
    let target = CString::new(target.as_os_str().as_bytes())?;
    // SAFETY: both paths are C strings that outlive the call; the descriptor is open.
    let done = unsafe {
        libc::syscall(libc::SYS_move_mount, tree.as_raw_fd(), c"".as_ptr(), libc::AT_FDCWD, target.as_ptr(), MOVE_FROM_EMPTY | flags)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Mounts the directory `source` at `target`, read-only, nosuid, nodev.
///
/// # Errors
/// Not root, or the kernel refused.
pub fn attach(source: &Path, target: &Path) -> io::Result<()> {
    move_to(&clone_of(source)?, target, 0)
}

/// Puts `source` in the place of what `attach` or `switch` mounted at `target`, atomically for every path walk.
///
/// # Errors
/// Not root, nothing is mounted at `target`, or the kernel (before 6.5) can't mount beneath.
pub fn switch(source: &Path, target: &Path) -> io::Result<()> {
    move_to(&clone_of(source)?, target, MOVE_BENEATH)?;
    umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
    Ok(())
}

/// Takes the mount at `target` away; who holds a file in it keeps it.
///
/// # Errors
/// Not root, or nothing is mounted there.
pub fn detach(target: &Path) -> io::Result<()> {
    umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use std::fs;

    #[test]
    fn a_switch_is_seen_at_once_and_the_old_tree_stays_with_its_holders() {
        if !crate::sys::mount::privileged() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (old, new, target) = (dir.path().join("old"), dir.path().join("new"), dir.path().join("target"));
        for (path, text) in [(&old, "old"), (&new, "new")] {
            fs::create_dir(path).unwrap();
            fs::write(path.join("file"), text).unwrap();
        }
        fs::create_dir(&target).unwrap();
        attach(&old, &target).unwrap();
        let mut held = fs::File::open(target.join("file")).unwrap();
        switch(&new, &target).unwrap();
        assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "new");
        let mut text = String::new();
        io::Read::read_to_string(&mut held, &mut text).unwrap();
        assert_eq!(text, "old");
        assert_eq!(fs::write(target.join("file"), "x").unwrap_err().raw_os_error(), Some(libc::EROFS));
        drop(held);
        detach(&target).unwrap();
        assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
        assert!(crate::sys::mountinfo::mounted_at(&target).unwrap().is_none());
    }
}
