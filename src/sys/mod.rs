//! The system calls that no safe crate has: the only module with unsafe code, a reason at each block.

#![allow(unsafe_code)]

pub mod bind;
pub mod child;
pub mod daemon;
pub mod device;
pub mod fusermount;
pub mod heap;
pub mod inherit;
pub mod lease;
pub mod mount;
pub mod mountinfo;
pub mod open_files;
pub mod reflink;

pub use child::with_all_signals;
pub use daemon::{Daemonized, Ready, daemonize};
pub use heap::few_heaps;
pub use inherit::close_inherited;
pub use lease::{is_alone, is_open_for_writing, may_be_written};
pub use reflink::{Run, each_run, has_few_extents, reflink};
