//! The two FUSE sessions of a mount: views (read-only, at the mount point) and staging (read-write, on `MNT/staging`). Without
//! root both are answered in one session.
//!
//! Only the files named `adapter_*` and `*_session` speak fuser; they translate, the rest decides.

mod adapter_attr;
mod adapter_backing;
mod adapter_errno;
mod adapter_reply;
mod adapter_staging;
mod attendance;
pub mod attr;
mod combined_session;
pub mod counters;
pub mod known;
mod mount;
pub mod nodes;
mod notify;
mod session;
mod slow_lane;
mod staging_session;
pub mod views;
mod views_session;
mod wakeful;

pub use mount::{MountOptions, Mounts, Notifier, mount, passthrough_works};
pub use session::Side;
pub use views::{CheckOutputs, LineageFile, LineageSource, ViewError, ViewResult, ViewSource, Visible, VisibleVersion};
