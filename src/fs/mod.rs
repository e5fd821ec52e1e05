//! The two FUSE sessions of a mount: views (read-only, at the mount point) and staging (read-write, on `MNT/staging`).
//!
//! Only the files named `adapter_*` and `*_session` speak fuser; they translate, the rest decides.

pub mod counters;
pub mod nodes;
