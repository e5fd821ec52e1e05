//! The life of a version's content: the open version that staging shows, its seal, its rebase, its rollback.

pub mod acl;
pub mod error;
pub mod history;
pub mod import;
pub mod lifecycle;
pub mod seal;
pub mod staging;
pub mod tag;

pub use error::{FsError, FsResult};
pub use history::History;
pub use staging::Staging;
