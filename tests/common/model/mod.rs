//! A filesystem as plain maps: the oracle that random operations are compared with, on the core and through a mount.
//!
//! What a driver compares is a [`Dump`]: every path with all that `stat`, `read`, `readlink` and `getxattr` say. Operations name paths and
//! a few slots for open files; both sides answer with an [`Outcome`] or an errno.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `op` | operations and what they answer |
//! | `state` | the maps: dumps, rollbacks, names |
//! | `node` | a file's bytes and mode |
//! | `apply` | what each operation does to them |
//! | `acl` | access control lists |
//! | `locks` | who has locked which bytes |
//! | `generate` | random operations |

#![allow(dead_code, unused_imports, unreachable_pub, missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod acl;
mod apply;
mod generate;
mod locks;
mod node;
mod op;
mod state;

use std::collections::BTreeMap;

pub use acl::Acl;
pub use generate::{Focus, lock, op};
pub use locks::{Claim, Lock};
pub use op::{Fallocate, Op, OpenHow, Outcome, Rename};
pub use state::Model;

pub const SLOTS: usize = 3;
pub const UMASK: u32 = 0o022;
/// Who asks: root, and a user.
pub const UIDS: [u32; 2] = [0, 1000];

pub type Name = Vec<u8>;
pub type Path = Vec<Name>;
pub type Time = (i64, u32);
pub type Answer = Result<Outcome, i32>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Dir,
    Symlink,
    Fifo,
    Socket,
    /// A character device.
    Device,
}

/// The device that `mknod` makes: /dev/null's.
pub const DEVICE: (u32, u32) = (1, 3);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub kind: Kind,
    pub perm: u16,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    /// Major and minor number of a device.
    pub device: Option<(u32, u32)>,
    pub data: Vec<u8>,
    pub xattrs: BTreeMap<Name, Vec<u8>>,
    /// `None`: not known to the model, anything goes.
    pub atime: Option<Time>,
    pub mtime: Option<Time>,
    /// The least path of the same inode.
    pub same_as: Path,
}

pub type Dump = BTreeMap<Path, Entry>;

/// Panics with the first difference.
#[track_caller]
pub fn compare(model: &Dump, real: &Dump, what: &str) {
    let paths = |dump: &Dump| dump.keys().map(|path| path.join(&b'/').escape_ascii().to_string()).collect::<Vec<_>>();
    assert_eq!(paths(model), paths(real), "{what}: paths");
    for ((path, expected), found) in model.iter().zip(real.values()) {
        let times = |entry: &Entry| Entry {
            atime: entry.atime.filter(|_| expected.atime.is_some()),
            mtime: entry.mtime.filter(|_| expected.mtime.is_some()),
            ..entry.clone()
        };
        assert_eq!(*expected, times(found), "{what}: {}", path.join(&b'/').escape_ascii());
    }
}

/// What `Op::Write` and `Op::Map` write.
pub fn bytes(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| seed.wrapping_add((at as u8).wrapping_mul(7)) | 1).collect()
}

/// A program's capabilities, as the kernel keeps them (`vfs_cap_data`, version 2, with CAP_NET_RAW).
pub const CAPABILITY: &[u8] = b"security.capability";
pub const CAPABILITIES: [u8; 20] = [0, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
