//! Everything durable: the catalog (redb), objects and packs, the journal of the open version.
//!
//! Layout of a store:
//!
//! ```text
//! STORE/format            "shadowfs store, format 1\n"
//! STORE/shadowfs.toml     the user's configuration
//! STORE/catalog.redb      nodes, versions, objects, events, attempts, tags, pointers
//! STORE/objects/xx/N      objects of a file of their own (xx: two hex digits of N's low byte)
//! STORE/packs/N           packs
//! STORE/journal/tN        edits of the open version since the seal before it
//! STORE/logs/tN/NAME.K.log  output of attempt K of check NAME
//! STORE/control.sock      the daemon's socket (0600)
//! ```

pub mod catalog;
pub mod codec;
mod counters;
mod error;
pub mod event;
pub mod journal;
pub mod objects;
pub mod record;

use std::path::{Path, PathBuf};

pub use catalog::{Catalog, Transaction};
pub use counters::Ids;
pub use error::{Result, StoreError};
pub use journal::{Journal, JournalRecord};
pub use objects::{Objects, SealObject};

use crate::clock::Clock;
use crate::ids::VersionId;

/// What the store takes, and what its filesystem has, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// What the store takes.
    pub used: u64,
    /// What an ordinary user may still write there.
    pub free: u64,
    /// The size of the filesystem.
    pub total: u64,
}

/// An open store. Share it as `Arc<Store>`.
#[derive(Debug)]
pub struct Store;

impl Store {
    /// Makes a store at `path`, which must not exist or be an empty directory. It has no version yet: who makes t0 appends
    /// `EventKind::Initialized` with it. Leaves nothing behind on failure.
    pub fn init(path: &Path, clock: &dyn Clock) -> Result<Self> {
        let _ = (path, clock);
        Err(unfinished())
    }

    /// Opens the store at `path` for this process alone.
    pub fn open(path: &Path) -> Result<Self> {
        let _ = path;
        Err(unfinished())
    }

    /// Removes a store that has no version yet: for an `init` whose import failed.
    pub fn undo_init(self) -> Result<()> {
        Err(unfinished())
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        Path::new("")
    }

    /// The catalog.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &Catalog
    }

    /// The objects.
    #[must_use]
    pub fn objects(&self) -> &Objects {
        &Objects
    }

    /// The numbers not given out yet.
    #[must_use]
    pub fn ids(&self) -> &Ids {
        static IDS: std::sync::LazyLock<Ids> = std::sync::LazyLock::new(|| {
            Ids::new(&record::Pointers {
                production: VersionId(0),
                valid: VersionId(0),
                base: VersionId(0),
                next_version: VersionId(0),
                next_ino: crate::ids::Ino(0),
                next_object: crate::ids::ObjectId(0),
                next_node: crate::ids::NodeId(0),
                next_pack: crate::ids::PackId(0),
            })
        });
        &IDS
    }

    /// What the store takes (every file of it is looked at) and what is left.
    pub fn space(&self) -> Result<Space> {
        Err(unfinished())
    }

    /// The figures of the filesystem that the store is on: for `statfs`, cheap.
    pub fn filesystem(&self) -> Result<nix::sys::statvfs::Statvfs> {
        Err(unfinished())
    }

    /// Where the output of an attempt goes; its directory is there afterwards.
    pub fn log_path(&self, version: VersionId, check: &str, attempt: u32) -> Result<PathBuf> {
        let _ = (version, check, attempt);
        Err(unfinished())
    }

    /// The journal of a version, made if it is not there, to append to.
    pub fn journal(&self, version: VersionId) -> Result<Journal> {
        let _ = version;
        Err(unfinished())
    }

    /// What the journal of a version holds; nothing if there is none.
    pub fn replay(&self, version: VersionId) -> Result<Vec<JournalRecord>> {
        let _ = version;
        Err(unfinished())
    }

    /// The versions that have a journal, oldest first.
    pub fn journals(&self) -> Result<Vec<VersionId>> {
        Err(unfinished())
    }

    /// Removes the journal of a version that is sealed or gone.
    pub fn remove_journal(&self, version: VersionId) -> Result<()> {
        let _ = version;
        Err(unfinished())
    }
}

fn unfinished() -> StoreError {
    StoreError::Damaged { what: "not written yet".to_owned() }
}
