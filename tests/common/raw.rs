//! System calls that no safe crate has: mappings, aligned buffers for `O_DIRECT`, and one thread acting as another user.

#![allow(dead_code, unreachable_pub, missing_docs, unsafe_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::File;
use std::os::fd::AsRawFd;

/// A file, mapped from its start; unmapped when this drops.
pub struct Mapping {
    at: *mut u8,
    len: usize,
}

impl Mapping {
    /// mmap(2) of the first `len` bytes, for reading, and for writing if `write`.
    pub fn new(file: &File, len: usize, shared: bool, write: bool) -> Result<Self, i32> {
        let flags = if shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
        let protection = libc::PROT_READ | if write { libc::PROT_WRITE } else { 0 };
        // SAFETY: a new mapping at a place that the kernel chooses touches no memory of ours.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, file.as_raw_fd(), 0) };
        if at == libc::MAP_FAILED { Err(errno()) } else { Ok(Self { at: at.cast(), len }) }
    }

    /// The bytes. The file must not become shorter meanwhile.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping lives as long as this, and has `len` readable bytes.
        unsafe { std::slice::from_raw_parts(self.at, self.len) }
    }

    /// The bytes of a mapping that was made for writing.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; nothing else in this process has a reference into the mapping.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.len) }
    }

    /// msync(2) with `MS_SYNC`.
    pub fn sync(&self) -> Result<(), i32> {
        // SAFETY: the range is the mapping's.
        if unsafe { libc::msync(self.at.cast(), self.len, libc::MS_SYNC) } == 0 { Ok(()) } else { Err(errno()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is the mapping's, and nobody uses it after this.
        unsafe { libc::munmap(self.at.cast(), self.len) };
    }
}

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap()
}

/// A buffer whose bytes begin at a multiple of 4 KiB.
pub struct Aligned {
    all: Vec<u8>,
    from: usize,
    len: usize,
}

impl Aligned {
    pub const UNIT: usize = 4096;

    pub fn new(len: usize) -> Self {
        let all = vec![0; len + Self::UNIT];
        let from = all.as_ptr().align_offset(Self::UNIT);
        Self { all, from, len }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.all[self.from..self.from + self.len]
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.all[self.from..self.from + self.len]
    }
}

/// Runs `body` with the user, and the group of the same number, that files and permissions are asked for; in this thread alone, without
/// further groups, and without root's rights to files unless `uid` is 0. Only root may.
pub fn acting_as<T>(uid: u32, body: impl FnOnce() -> T) -> T {
    acting_with(uid, &[], body)
}

/// The same with further groups.
pub fn acting_with<T>(uid: u32, further: &[u32], body: impl FnOnce() -> T) -> T {
    if uid == 0 {
        return body();
    }
    let before = groups();
    become_user(uid, further);
    let done = body();
    become_user(0, &before);
    done
}

fn groups() -> Vec<libc::gid_t> {
    let mut groups = vec![0; 65_536];
    // SAFETY: the buffer has room for as many groups as are asked for.
    let count = unsafe { libc::getgroups(i32::try_from(groups.len()).unwrap(), groups.as_mut_ptr()) };
    groups.truncate(usize::try_from(count).unwrap());
    groups
}

fn become_user(uid: u32, groups: &[libc::gid_t]) {
    // SAFETY: the list has the length that is passed. The library's setgroups would change all threads; the call itself changes this one.
    let set = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    assert_eq!(set, 0, "setgroups: {}", errno());
    for (call, id) in [(libc::SYS_setfsgid, uid), (libc::SYS_setfsuid, uid)] {
        // SAFETY: these two take a number and change this thread's credentials.
        unsafe { libc::syscall(call, id) };
    }
}
