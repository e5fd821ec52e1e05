//! What an error answers: one table, exhaustive, so that a new error has to be given its errno.

use fuser::Errno;

use super::views::ViewError;
use crate::version::FsError;

/// The errno of an error of staging.
pub(super) fn of_staging(error: &FsError) -> Errno {
    let number = match error {
        FsError::NotFound => libc::ENOENT,
        FsError::Exists => libc::EEXIST,
        FsError::NotDirectory => libc::ENOTDIR,
        FsError::IsDirectory => libc::EISDIR,
        FsError::NotEmpty => libc::ENOTEMPTY,
        FsError::Stale => libc::ESTALE,
        FsError::NoData => libc::ENODATA,
        FsError::TooBig => libc::E2BIG,
        FsError::NameTooLong => libc::ENAMETOOLONG,
        FsError::OutOfRange => libc::ERANGE,
        FsError::Invalid => libc::EINVAL,
        FsError::NotPermitted => libc::EPERM,
        FsError::AccessDenied => libc::EACCES,
        FsError::ReadOnly => libc::EROFS,
        FsError::TooManyLinks => libc::EMLINK,
        FsError::NotSupported => libc::EOPNOTSUPP,
        FsError::FileTooLarge => libc::EFBIG,
        FsError::NoSuchOffset => libc::ENXIO,
        FsError::BadHandle => libc::EBADF,
        FsError::Busy => libc::EBUSY,
        FsError::CrossDevice => libc::EXDEV,
        FsError::Poisoned => libc::EIO,
        FsError::Store(error) => {
            tracing::error!(%error, "a request to staging failed");
            error.errno()
        }
    };
    Errno::from_i32(number)
}

/// The errno of an error of the views.
pub(super) fn of_views(error: &ViewError) -> Errno {
    let number = match error {
        ViewError::NotFound => libc::ENOENT,
        ViewError::NotDirectory => libc::ENOTDIR,
        ViewError::Invalid => libc::EINVAL,
        ViewError::Stale => libc::ESTALE,
        ViewError::NoData => libc::ENODATA,
        ViewError::NoSuchOffset => libc::ENXIO,
        ViewError::Overflow => libc::EOVERFLOW,
        ViewError::Tree(_) | ViewError::Store(_) | ViewError::Host(_) => {
            tracing::error!(%error, "a request to the views failed");
            of_disk(error)
        }
    };
    Errno::from_i32(number)
}

fn of_disk(error: &ViewError) -> i32 {
    match error {
        ViewError::Tree(error) => error.errno(),
        ViewError::Store(error) => error.errno(),
        ViewError::Host(error) => error.raw_os_error().unwrap_or(libc::EIO),
        ViewError::NotFound
        | ViewError::NotDirectory
        | ViewError::Invalid
        | ViewError::Stale
        | ViewError::NoData
        | ViewError::NoSuchOffset
        | ViewError::Overflow => libc::EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreError;
    use std::io;

    #[test]
    fn the_disk_s_own_errno_reaches_the_caller() {
        let full = || StoreError::Io { what: "write journal/t7".to_owned(), source: io::Error::from_raw_os_error(libc::ENOSPC) };
        assert_eq!(of_staging(&FsError::Store(full())).code(), libc::ENOSPC);
        assert_eq!(of_views(&ViewError::Store(full())).code(), libc::ENOSPC);
        assert_eq!(of_views(&ViewError::Host(io::Error::other("?"))).code(), libc::EIO);
        assert_eq!(of_staging(&FsError::Stale).code(), libc::ESTALE);
    }
}
