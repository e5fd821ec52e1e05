//! The first version: an existing directory brought into a new store, or an empty one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::clock::Clock;
use crate::store::record::VersionRecord;
use crate::store::{Store, StoreError};
use crate::tree::TreeError;

/// Why a directory could not be brought in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The host refused to read something.
    #[error("{}: {what}: {source}", .path.display())]
    Source {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The host's answer.
        source: std::io::Error,
    },
    /// A file changed while it was read.
    #[error("{} changed while it was read; stop its writers and run init again", .path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The store is in the directory, or is it.
    #[error("the store {} lies in {}; a dataset can't hold its own store", .store.display(), .dir.display())]
    Inside {
        /// The store.
        store: PathBuf,
        /// The directory.
        dir: PathBuf,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The tree failed.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

/// Makes the directory `dir` version t0 of a new store: valid, and in production. `progress` is told from time to time how many
/// files and bytes are in, always on the calling thread.
pub fn import(_store: &Arc<Store>, dir: &Path, _clock: &dyn Clock, _progress: &dyn Fn(u64, u64)) -> Result<VersionRecord, ImportError> {
    Err(ImportError::Changed { path: dir.to_owned() })
}

/// Makes an empty directory version t0 of a new store: valid, and in production.
pub fn empty(store: &Arc<Store>, _clock: &dyn Clock) -> Result<VersionRecord, ImportError> {
    Err(ImportError::Changed { path: store.path().to_owned() })
}
