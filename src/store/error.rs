//! What can go wrong in the store, each with the place where it did and the errno that a caller of the filesystem sees.

use std::io;
use std::path::PathBuf;

use super::codec::CodecError;

/// The result of everything in the store.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// An error of the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The host refused an operation on a file of the store.
    #[error("{what}: {source}")]
    Io {
        /// What was tried, with the file's name below the store ("read objects/3f/1023").
        what: String,
        /// The host's answer.
        source: io::Error,
    },
    /// The catalog's database failed.
    #[error("{what}: {source}")]
    Catalog {
        /// What was tried ("commit to the catalog").
        what: String,
        /// The database's answer.
        source: Box<redb::Error>,
    },
    /// What is on disk can't have been written by us: it is damaged or a part is gone.
    #[error("damaged store: {what}")]
    Damaged {
        /// What is damaged ("node 17: its checksum does not match").
        what: String,
    },
    /// There is no store.
    #[error("{0} is not a store; \"shadowfs init {0}\" makes one", .path.display())]
    NotAStore {
        /// Where.
        path: PathBuf,
    },
    /// The store was made, but `init` did not come to its end.
    #[error("{} is a store whose init did not finish; run init again, it begins anew", .path.display())]
    Unfinished {
        /// Where.
        path: PathBuf,
    },
    /// The store was written by a newer program.
    #[error("{} has store format {found}, this shadowfs knows formats up to {known}; use a newer shadowfs", .path.display())]
    NewerFormat {
        /// Where.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format that this program reads.
        known: u32,
    },
    /// Another process has the store open.
    #[error("{} is in use by another shadowfs process", .path.display())]
    InUse {
        /// Where.
        path: PathBuf,
    },
    /// `init` does not touch a directory that holds something.
    #[error("{} exists and is not an empty directory; init needs a new or empty one", .path.display())]
    Exists {
        /// Where.
        path: PathBuf,
    },
    /// The store's directory is another's.
    #[error("{0} belongs to uid {owner}, this is uid {own}; mount it as its owner, or make it yours: chown -R {own} {0}", .path.display())]
    Foreign {
        /// Where.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        own: u32,
    },
    /// Others than its owner may write to the store's directory.
    #[error("{0} has mode {mode:04o}: others may have put anything into it; if not, run: chmod 700 {0}", .path.display())]
    Exposed {
        /// Where.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A link where a store has a file or directory.
    #[error("{} is a symbolic link; a store's files lie in the store: put the real one there", .path.display())]
    Link {
        /// The link.
        path: PathBuf,
    },
    /// A sync failed before: what it should have made durable may be lost, whatever a later sync says.
    #[error("{what}: an earlier sync failed: {}", io::Error::from_raw_os_error(*.errno))]
    Poisoned {
        /// Whose sync ("journal/t7").
        what: String,
        /// The errno of the sync that failed.
        errno: i32,
    },
    /// A record is larger than what can be read back.
    #[error("{what} is too large: {len} bytes, at most {limit}")]
    TooLarge {
        /// Which record.
        what: String,
        /// Its length.
        len: u64,
        /// The most.
        limit: u64,
    },
}

impl StoreError {
    /// An error of the host about a file of the store.
    pub(crate) fn io(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io { what: what.into(), source: source.into() }
    }

    /// An error of the catalog's database.
    pub(crate) fn catalog(what: impl Into<String>, source: impl Into<redb::Error>) -> Self {
        Self::Catalog { what: what.into(), source: Box::new(source.into()) }
    }

    /// Damage.
    pub(crate) fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged { what: what.into() }
    }

    /// A record that can't be decoded.
    pub(crate) fn undecodable(what: impl std::fmt::Display, error: &CodecError) -> Self {
        Self::Damaged { what: format!("{what}: {error}") }
    }

    /// The errno for a caller of the filesystem: the disk's own (ENOSPC stays ENOSPC), EIO for damage.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::Io { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
            Self::Catalog { source, .. } => match source.as_ref() {
                redb::Error::Io(source) => source.raw_os_error().unwrap_or(libc::EIO),
                _ => libc::EIO,
            },
            Self::Poisoned { errno, .. } => *errno,
            Self::InUse { .. } => libc::EBUSY,
            Self::Exists { .. } => libc::EEXIST,
            Self::NotAStore { .. } => libc::ENOENT,
            Self::TooLarge { .. } => libc::EFBIG,
            Self::Foreign { .. } | Self::Exposed { .. } => libc::EPERM,
            Self::Link { .. } => libc::ELOOP,
            Self::Damaged { .. } | Self::Unfinished { .. } | Self::NewerFormat { .. } => libc::EIO,
        }
    }
}
