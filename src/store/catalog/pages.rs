//! The check of the database's own pages: each against its checksum, and what is free against what is used. Opening looks at none of that.

use redb::{Database, DatabaseError, StorageError};

use super::super::{HostFile, Result};
use super::backend::{Aside, CatalogFile};
use super::database::shielded;

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// Every page that is in use is as it was written.
    Good,
    /// They are, but the list of the free ones was not what it should be. Nothing is lost by that; a repair puts it right.
    FreeListWrong,
}

/// Checks the pages of a catalog that nobody has open; with `repair`, puts the list of free pages right. A damaged page is an error.
pub(crate) fn check(file: &HostFile, repair: bool) -> Result<Pages> {
    let clean = shielded("check the pages of catalog.redb", || {
        let builder = Database::builder();
        let opened = if repair {
            builder.create_with_backend(CatalogFile::new(file.try_clone()?)?.backend())
        } else {
            builder.create_with_backend(Aside::over(file)?)
        };
        let mut database = opened?;
        database.check_integrity().map_err(|error| match error {
            // Its own words are few.
            DatabaseError::Storage(StorageError::Corrupted(why)) => {
                redb::Error::Corrupted(format!("a page does not match its checksum: {why}"))
            }
            other => other.into(),
        })
    })?;
    Ok(if clean { Pages::Good } else { Pages::FreeListWrong })
}
