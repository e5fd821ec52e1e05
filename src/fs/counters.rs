//! How many requests each session answered, by operation: the figure of cost that does not depend on the machine.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! operations {
    ($($variant:ident $name:literal),* $(,)?) => {
        /// A FUSE request.
        #[allow(missing_docs)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Op { $($variant),* }

        impl Op {
            /// Every operation, in the order of the counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// As `status` names it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
        }
    };
}

operations! {
    Lookup "lookup", GetAttr "getattr", SetAttr "setattr", ReadLink "readlink", MakeNode "mknod", MakeDir "mkdir",
    Unlink "unlink", RemoveDir "rmdir", Symlink "symlink", Rename "rename", Link "link", Open "open", Read "read", Write "write",
    StatFs "statfs", Release "release", FSync "fsync", SetXattr "setxattr", GetXattr "getxattr", ListXattr "listxattr",
    RemoveXattr "removexattr", Flush "flush", OpenDir "opendir", ReadDir "readdir", ReadDirPlus "readdirplus",
    ReleaseDir "releasedir", FSyncDir "fsyncdir", Access "access", Create "create", Allocate "fallocate", Seek "lseek",
    CopyRange "copy_file_range", Ioctl "ioctl",
}

/// The counters of one session.
#[derive(Debug)]
pub struct Counters([AtomicU64; Op::ALL.len()]);

impl Default for Counters {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Counters {
    /// One more request of this kind.
    pub fn count(&self, op: Op) {
        if let Some(counter) = self.0.get(op as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What was counted so far; operations that never came are left out.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<String, u64> {
        let counted = Op::ALL.iter().zip(&self.0).map(|(op, counter)| (op.name().to_owned(), counter.load(Ordering::Relaxed)));
        counted.filter(|(_, count)| *count > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_operation_has_a_counter_of_its_own() {
        let counters = Counters::default();
        for (index, op) in Op::ALL.iter().enumerate() {
            for _ in 0..=index {
                counters.count(*op);
            }
        }
        let snapshot = counters.snapshot();
        assert_eq!(snapshot.len(), Op::ALL.len());
        for (index, op) in Op::ALL.iter().enumerate() {
            assert_eq!(snapshot.get(op.name()), Some(&(index as u64 + 1)), "{}", op.name());
        }
    }
}
