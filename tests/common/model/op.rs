//! Operations, and what they answer.

use super::{Acl, Kind, Lock, Name, Path, Time};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rename {
    Replace,
    NoReplace,
    Exchange,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallocate {
    Extend,
    KeepSize,
    Punch,
    Zero,
    ZeroKeepSize,
    /// Not there: the kernel does not hand it on.
    Collapse,
    /// Neither.
    Insert,
}

/// How a file is opened; always for reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenHow {
    pub write: bool,
    /// These two only with `write`.
    pub append: bool,
    pub truncate: bool,
    /// `O_DIRECT`: offsets, lengths and buffers are whole blocks.
    pub direct: bool,
}

#[derive(Clone, Debug)]
pub enum Op {
    /// open(2) with `O_CREAT`, and `O_EXCL` if `exclusive`.
    Create {
        path: Path,
        mode: u32,
        slot: usize,
        uid: u32,
        exclusive: bool,
    },
    Mkdir {
        path: Path,
        mode: u32,
        uid: u32,
    },
    /// A fifo, a socket or a device.
    Mknod {
        path: Path,
        kind: Kind,
        mode: u32,
    },
    Symlink {
        path: Path,
        target: Name,
    },
    Link {
        from: Path,
        to: Path,
    },
    Unlink {
        path: Path,
    },
    Rmdir {
        path: Path,
    },
    Rename {
        from: Path,
        to: Path,
        how: Rename,
    },
    Chmod {
        path: Path,
        mode: u16,
    },
    Chown {
        path: Path,
        uid: u32,
        gid: u32,
    },
    Truncate {
        path: Path,
        size: u64,
        uid: u32,
    },
    /// `None` is `UTIME_OMIT`.
    Times {
        path: Path,
        atime: Option<Time>,
        mtime: Option<Time>,
    },
    SetXattr {
        path: Path,
        name: Name,
        value: Vec<u8>,
        create: bool,
        replace: bool,
    },
    RemoveXattr {
        path: Path,
        name: Name,
    },
    /// `None` takes the list away.
    SetAcl {
        path: Path,
        default: bool,
        acl: Option<Acl>,
    },
    Open {
        path: Path,
        slot: usize,
        how: OpenHow,
    },
    Close {
        slot: usize,
    },
    Read {
        slot: usize,
        offset: u64,
        len: usize,
    },
    Write {
        slot: usize,
        offset: u64,
        len: usize,
        seed: u8,
        uid: u32,
    },
    /// Reads the file through a mapping.
    ReadMap {
        slot: usize,
        shared: bool,
    },
    /// Stores into a mapping of the file, as far as the file goes.
    Map {
        slot: usize,
        offset: u64,
        len: usize,
        seed: u8,
        shared: bool,
    },
    Resize {
        slot: usize,
        size: u64,
        uid: u32,
    },
    Fallocate {
        slot: usize,
        how: Fallocate,
        offset: u64,
        len: u64,
        uid: u32,
    },
    Copy {
        from: usize,
        offset: u64,
        to: usize,
        to_offset: u64,
        len: u64,
    },
    /// Reads the file from `offset` by what `SEEK_DATA` and `SEEK_HOLE` say of it: holes as zeros, unread.
    Sparse {
        slot: usize,
        offset: u64,
    },
    Fsync {
        slot: usize,
    },
    Lock {
        slot: usize,
        lock: Lock,
    },
    List {
        path: Path,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Bytes(Vec<u8>),
    Count(u64),
    Names(Vec<Name>),
}
