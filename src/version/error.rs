//! What an operation on staging can answer instead of a result; each has one errno (the table is in `fs`).

use crate::store::StoreError;
use crate::tree::TreeError;

/// The result of an operation on staging.
pub type FsResult<T> = Result<T, FsError>;

/// Why an operation was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// ENOENT.
    #[error("no such file or directory")]
    NotFound,
    /// EEXIST.
    #[error("file exists")]
    Exists,
    /// ENOTDIR.
    #[error("not a directory")]
    NotDirectory,
    /// EISDIR.
    #[error("is a directory")]
    IsDirectory,
    /// ENOTEMPTY.
    #[error("directory not empty")]
    NotEmpty,
    /// ESTALE: what the caller holds went down with a version.
    #[error("stale file handle")]
    Stale,
    /// ENODATA: no such extended attribute.
    #[error("no such attribute")]
    NoData,
    /// E2BIG: a value of an extended attribute past 64 KiB.
    #[error("value too big")]
    TooBig,
    /// ENAMETOOLONG.
    #[error("name too long")]
    NameTooLong,
    /// ERANGE.
    #[error("out of range")]
    OutOfRange,
    /// EINVAL.
    #[error("invalid argument")]
    Invalid,
    /// EPERM.
    #[error("operation not permitted")]
    NotPermitted,
    /// EACCES.
    #[error("permission denied")]
    AccessDenied,
    /// EROFS.
    #[error("read-only file system")]
    ReadOnly,
    /// EMLINK.
    #[error("too many links")]
    TooManyLinks,
    /// EOPNOTSUPP.
    #[error("operation not supported")]
    NotSupported,
    /// EFBIG.
    #[error("file too large")]
    FileTooLarge,
    /// ENXIO: no data or no hole past that offset.
    #[error("no such offset")]
    NoSuchOffset,
    /// EBADF.
    #[error("bad file handle")]
    BadHandle,
    /// EBUSY.
    #[error("busy")]
    Busy,
    /// EXDEV.
    #[error("crosses devices")]
    CrossDevice,
    /// EIO for good: an earlier fsync of this file failed, and what it should have saved may be lost.
    #[error("an earlier fsync of the file failed")]
    Poisoned,
    /// The disk's own errno.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl FsError {
    /// An error of the host about a file of the store.
    pub(crate) fn host(what: impl Into<String>, error: impl Into<std::io::Error>) -> Self {
        Self::Store(StoreError::Io { what: what.into(), source: error.into() })
    }
}

impl From<TreeError> for FsError {
    fn from(error: TreeError) -> Self {
        match error {
            TreeError::Store(error) => Self::Store(error),
            other => Self::Store(StoreError::Damaged { what: other.to_string() }),
        }
    }
}
