//! The first version: an existing directory brought into a new store, or an empty one.

mod source;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::source::Dir;
use self::walk::{Found, Walk};
use crate::clock::{Clock, Timestamp};
use crate::ids::{Digest, Ino, ObjectId, VersionId};
use crate::store::event::EventKind;
use crate::store::record::{ChangeCounts, VersionRecord, VersionState};
use crate::store::{SealObject, Store, StoreError};
use crate::tree::key::{Content, FileKind, InodeRecord, Key, Name, Part, Value};
use crate::tree::{Nodes, Tree, TreeError};

/// When this many bytes of contents are held in memory or copied, they are sealed.
const BATCH_BYTES: u64 = 64 << 20;
/// Or when there are this many objects.
const BATCH_OBJECTS: usize = 16 * 1024;
/// Results that wait for the thread that builds the tree; each holds at most 4 MiB.
const WAITING: usize = 8;

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
///
/// Symbolic links are not followed; other filesystems below `dir` are brought in, too. Whoever gets an error undoes the store.
pub fn import(store: &Arc<Store>, dir: &Path, clock: &dyn Clock, progress: &dyn Fn(u64, u64)) -> Result<VersionRecord, ImportError> {
    let begun = clock.now();
    let host = |what: &'static str| move |source| ImportError::Source { path: dir.to_owned(), what, source };
    let from = dir.canonicalize().map_err(host("find"))?;
    let inside = store.path().canonicalize().is_ok_and(|store| store.starts_with(&from));
    if inside {
        return Err(ImportError::Inside { store: store.path().to_owned(), dir: dir.to_owned() });
    }
    let mut builder = Builder::new(store);
    let walk = Walk::new(store, Dir::open_root(&from)?);
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8));
    let (sender, results) = crossbeam::channel::bounded(WAITING);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let sender = sender.clone();
            let walk = &walk;
            scope.spawn(move || walk.work(&sender));
        }
        drop(sender);
        let mut outcome = Ok(());
        for found in results {
            if outcome.is_ok() {
                outcome = found.and_then(|found| builder.add(found));
                progress(builder.files, builder.bytes);
            }
            if outcome.is_err() {
                walk.stop();
            }
        }
        outcome
    })?;
    builder.finish(&FirstVersion { from: Some(dir.display().to_string()), begun, now: clock.now() })
}

/// Makes an empty directory version t0 of a new store: valid, and in production.
pub fn empty(store: &Arc<Store>, clock: &dyn Clock) -> Result<VersionRecord, ImportError> {
    let now = clock.now();
    let root = InodeRecord {
        kind: FileKind::Directory,
        perm: 0o755,
        uid: nix::unistd::geteuid().as_raw(),
        gid: nix::unistd::getegid().as_raw(),
        nlink: 2,
        size: 4096,
        rdev: 0,
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
        content: Content::None,
        parent: Ino::ROOT,
        name: Name::default(),
        changed_in: VersionId::FIRST,
    };
    let mut builder = Builder::new(store);
    builder.tree.insert(Key::inode(Ino::ROOT), Value::Inode(Arc::new(root)))?;
    builder.finish(&FirstVersion { from: None, begun: now, now })
}

/// What the record of t0 says beside its content.
struct FirstVersion {
    from: Option<String>,
    begun: Timestamp,
    now: Timestamp,
}

/// Builds the tree from what the walk finds, and seals contents on the way.
struct Builder<'a> {
    store: &'a Arc<Store>,
    tree: Tree,
    files: u64,
    bytes: u64,
    unsealed: Vec<SealObject>,
    unsealed_bytes: u64,
    digests: HashMap<ObjectId, Digest>,
    links: Vec<(Ino, Ino, Name)>,
}

impl<'a> Builder<'a> {
    fn new(store: &'a Arc<Store>) -> Self {
        Self {
            store,
            tree: Tree::new_empty(Nodes::new(Arc::clone(store))),
            files: 0,
            bytes: 0,
            unsealed: Vec::new(),
            unsealed_bytes: 0,
            digests: HashMap::new(),
            links: Vec::new(),
        }
    }

    fn add(&mut self, found: Found) -> Result<(), ImportError> {
        for (key, value) in found.entries {
            self.tree.insert(key, value)?;
        }
        self.links.extend(found.links);
        self.files += found.files;
        self.bytes += found.bytes;
        self.unsealed.extend(found.objects);
        self.unsealed_bytes += found.bytes;
        if self.unsealed_bytes >= BATCH_BYTES || self.unsealed.len() >= BATCH_OBJECTS {
            self.seal()?;
        }
        Ok(())
    }

    /// Makes the contents so far durable and lets go of their memory. Until the last transaction makes a version, the store counts
    /// as unfinished, so it is no harm if there is none.
    fn seal(&mut self) -> Result<(), ImportError> {
        if self.unsealed.is_empty() {
            return Ok(());
        }
        let records = self.store.objects().seal(&self.unsealed)?;
        let mut transaction = self.store.catalog().begin()?;
        transaction.put_objects(&records)?;
        transaction.commit()?;
        self.store.objects().sealed(&records);
        self.digests.extend(records.iter().map(|(object, record)| (*object, record.digest)));
        self.unsealed.clear();
        self.unsealed_bytes = 0;
        Ok(())
    }

    /// Enters further names of files, each beside the record's own.
    fn link(&mut self) -> Result<(), ImportError> {
        for (ino, dir, name) in std::mem::take(&mut self.links) {
            let Some(Value::Inode(record)) = self.tree.get(&Key::inode(ino))? else { continue };
            let record = InodeRecord { nlink: record.nlink + 1, ..InodeRecord::clone(&record) };
            self.tree.insert(Key::inode(ino), Value::Inode(Arc::new(record)))?;
            self.tree.insert(Key { ino, part: Part::Link(dir, name) }, Value::Link)?;
        }
        Ok(())
    }

    /// The one transaction that makes it a version.
    fn finish(mut self, first: &FirstVersion) -> Result<VersionRecord, ImportError> {
        self.seal()?;
        self.link()?;
        let digest = |object: ObjectId| match self.digests.get(&object) {
            Some(digest) => Ok(*digest),
            None => Ok(self.store.objects().digest(object)?),
        };
        let changes = ChangeCounts { added: self.files, bytes: self.bytes, ..ChangeCounts::default() };
        let mut transaction = self.store.catalog().begin()?;
        let persisted = self.tree.persist(&mut transaction, &digest)?;
        let record = VersionRecord {
            version: VersionId::FIRST,
            state: VersionState::Promoted,
            parent: None,
            root: Some(persisted.root),
            message: None,
            opened_at: first.begun,
            sealed_at: Some(first.now),
            decided_at: Some(first.now),
            promoted_at: Some(first.now),
            changes,
            writers: Vec::new(),
            reason: None,
            passed: true,
            held: false,
            pinned: false,
            rebased_from: None,
            restored_from: None,
        };
        transaction.put_version(&record)?;
        let sealed = EventKind::Sealed { digest: persisted.root.digest, changes, writers: Vec::new(), message: None };
        for event in [EventKind::Initialized { from: first.from.clone() }, sealed, EventKind::Validated] {
            transaction.append_event(first.now, Some(VersionId::FIRST), event)?;
        }
        let mut pointers = transaction.pointers()?;
        pointers.production = VersionId::FIRST;
        pointers.valid = VersionId::FIRST;
        pointers.base = VersionId::FIRST;
        transaction.set_pointers(&pointers)?;
        transaction.commit()?;
        drop(persisted.committed());
        self.store.first_version_made();
        Ok(record)
    }
}
