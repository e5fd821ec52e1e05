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
//! STORE/unfinished        while init is under way
//! STORE/reserve           room kept for what must go on when the disk is full
//! STORE/control.sock      the daemon's socket (0600)
//! ```

pub mod catalog;
pub mod codec;
mod counters;
pub mod disk;
mod error;
pub mod event;
mod guard;
mod host;
mod init;
pub mod journal;
mod log;
pub mod objects;
pub mod record;
mod reserve;
mod space;
pub mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use catalog::{Catalog, Pages, Transaction};
pub use counters::Ids;
pub use disk::HostFile;
pub use error::{Result, StoreError};
pub use journal::{Journal, JournalRecord};
pub use log::{Log, LogPlace};
use nix::fcntl::OFlag;
pub use objects::{Loss, Objects, SealObject, SteppedBack, is_lost};

use self::host::HostDir;
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
pub struct Store {
    path: PathBuf,
    host: Arc<HostDir>,
    catalog: Arc<Catalog>,
    objects: Objects,
    /// Whether `init` made the directory, too.
    made_dir: bool,
    /// The format file, locked for as long as the store is open; the lock survives a fork.
    _lock: HostFile,
}

impl Store {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The catalog.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The objects.
    #[must_use]
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// The numbers not given out yet.
    #[must_use]
    pub fn ids(&self) -> &Ids {
        self.catalog.ids()
    }

    /// What the store takes (every file of it is looked at) and what is left.
    pub fn space(&self) -> Result<Space> {
        let figures = self.filesystem()?;
        let fragment = figures.fragment_size();
        let used = space::used_below(&self.path, self.objects.can_share_blocks()?);
        Ok(Space { used, free: figures.blocks_available() * fragment, total: figures.blocks() * fragment })
    }

    /// The figures of the filesystem that the store is on: for `statfs`, cheap.
    pub fn filesystem(&self) -> Result<nix::sys::statvfs::Statvfs> {
        self.host.filesystem()
    }

    /// Keeps so many bytes of room on the disk for what must go on when it is full: 0 for none. An error if there is not so much.
    pub fn keep_reserve(&self, wanted: u64) -> Result<()> {
        self.host.keep_reserve(wanted)
    }

    /// Takes back what was spent of it, if there is room to spare; returns how many bytes are missing now.
    pub fn renew_reserve(&self) -> Result<u64> {
        self.host.renew_reserve()
    }

    /// How many bytes of it are missing: spent, or never to be had.
    #[must_use]
    pub fn reserve_missing(&self) -> u64 {
        self.host.reserve_missing()
    }

    /// Where the output of an attempt goes; its directory is there afterwards.
    pub fn log_place(&self, version: VersionId, check: &str, attempt: u32) -> Result<LogPlace> {
        let dir = format!("logs/{version}");
        self.host.make_dir(&dir)?;
        // Not through a link, whatever was there already.
        self.host.file("open", &dir, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        // A name is a name, not a way out of the directory.
        let check = check.replace(['/', '\0'], "_");
        Ok(LogPlace::within(&self.host, &self.path, dir, &format!("{check}.{attempt}.log")))
    }

    /// The journal of a version, made if it is not there, to append to.
    pub fn journal(&self, version: VersionId) -> Result<Journal> {
        Journal::open(Arc::clone(&self.host), journal_name(version))
    }

    /// What the journal of a version holds; nothing if there is none.
    pub fn replay(&self, version: VersionId) -> Result<Vec<JournalRecord>> {
        let name = journal_name(version);
        match self.host.existing("open", &name, OFlag::O_RDONLY)? {
            Some(file) => journal::replay(&file, &name),
            None => Ok(Vec::new()),
        }
    }

    /// The versions that have a journal, oldest first. A file with another name is none of ours.
    pub fn journals(&self) -> Result<Vec<VersionId>> {
        let names = self.host.names("journal")?;
        let mut versions: Vec<VersionId> =
            names.iter().filter_map(|name| name.to_str()?.parse().ok()).filter(|version: &VersionId| version.is_plausible()).collect();
        versions.sort_unstable();
        Ok(versions)
    }

    /// A small file of the store that is none of the catalog's; `None` if there is none.
    pub fn note(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.host.existing("open", name, OFlag::O_RDONLY)? else { return Ok(None) };
        let read = |what| move |error: std::io::Error| StoreError::io(format!("{what} {name}"), error);
        let mut text = vec![0; file.metadata().map_err(read("stat"))?.len().min(1 << 20) as usize];
        file.read_exact_at(&mut text, 0).map_err(read("read"))?;
        Ok(Some(text))
    }

    /// Makes such a file, durably and at once: after a crash it holds the old text or the new.
    pub fn put_note(&self, name: &str, text: &[u8]) -> Result<()> {
        let new = format!("{name}.new");
        let file = self.host.new_file(&new, || Ok(true))?;
        let written = file.write_all_at(text, 0).and_then(|()| file.sync_data());
        written.map_err(|error| StoreError::io(format!("write {new}"), error))?;
        self.host.rename(&new, name)?;
        self.host.sync_dir(".")
    }

    /// Removes such a file, durably.
    pub fn remove_note(&self, name: &str) -> Result<()> {
        if self.host.remove(name)? { self.host.sync_dir(".") } else { Ok(()) }
    }

    /// Makes durable which journals there are.
    pub fn sync_journals(&self) -> Result<()> {
        self.host.sync_dir("journal")
    }

    /// Removes the journal of a version that is sealed or gone. Nothing depends on the removal being durable: a journal of
    /// a version that is not open is removed by the next `open`.
    pub fn remove_journal(&self, version: VersionId) -> Result<()> {
        self.host.remove(&journal_name(version)).map(drop)
    }
}

fn journal_name(version: VersionId) -> String {
    format!("journal/{version}")
}

#[cfg(test)]
mod tests;
