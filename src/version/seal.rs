//! From a frozen version to a sealed one: bytes durable, then one transaction.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::error::FsResult;
use super::staging::version_journal::VersionJournal;
use crate::clock::Timestamp;
use crate::ids::{Digest, ObjectId, VersionId};
use crate::store::event::EventKind;
use crate::store::record::{ChangeCounts, ObjectRecord, Reason, VersionRecord, VersionState, Writer};
use crate::store::{Loss, SealObject, Store, StoreError, is_lost};
use crate::tree::{ChangeKind, Merge, Snapshot, TreeError, changes, merge, object_of};

/// A version that takes no more changes and is not in the catalog yet. It must be sealed, or given up.
#[must_use = "a frozen version lives in memory alone until it is sealed"]
#[derive(Debug)]
pub struct Frozen {
    pub(super) version: VersionId,
    pub(super) parent: VersionId,
    pub(super) opened_at: Timestamp,
    pub(super) writers: Vec<Writer>,
    pub(super) base: Snapshot,
    pub(super) snapshot: Snapshot,
    pub(super) objects: Vec<SealObject>,
    /// Bytes of its small files, counted in `memory` until they are packed.
    pub(super) held: u64,
    pub(super) memory: Arc<AtomicU64>,
    pub(super) journal: Arc<VersionJournal>,
    pub(super) message: Option<String>,
    /// Nothing differs from the parent but what came and went: staging goes on on top of the parent.
    pub(super) unchanged: bool,
    pub(super) done: AtomicBool,
    /// Set if it goes down in the moment in which it is sealed.
    pub(super) rejected: Option<Reason>,
}

impl Frozen {
    /// Its number.
    #[must_use]
    pub const fn version(&self) -> VersionId {
        self.version
    }

    /// The version it stands on.
    #[must_use]
    pub const fn parent(&self) -> VersionId {
        self.parent
    }

    /// When its first change came.
    #[must_use]
    pub const fn opened_at(&self) -> Timestamp {
        self.opened_at
    }

    /// Who changed it.
    #[must_use]
    pub fn writers(&self) -> &[Writer] {
        &self.writers
    }

    /// Its state, readable at once.
    #[must_use]
    pub const fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The message that a seal before a crash would have had.
    #[must_use]
    pub fn message(&self) -> Option<&str> {
        self.message.as_deref()
    }

    /// Whether there is nothing to seal: `seal` aborts it, and staging still stands on its parent.
    #[must_use]
    pub const fn is_unchanged(&self) -> bool {
        self.unchanged
    }

    /// It is a ghost as soon as it is sealed: staging has left its ground, and its changes could not follow. Nothing comes to stand on it.
    pub fn reject(&mut self, reason: Reason) {
        self.rejected = Some(reason);
    }

    /// The paths that both it and what lies between its ground and `onto` have changed; at most 100.
    pub fn overlaps(&self, onto: &Snapshot) -> FsResult<Vec<String>> {
        let paths = match merge(&self.base, onto, &self.snapshot)? {
            Merge::Clean { .. } => Vec::new(),
            Merge::Conflict { paths } => paths,
        };
        Ok(paths.iter().take(100).map(|path| String::from_utf8_lossy(path).into_owned()).collect())
    }

    /// Gives it up: its bytes and its journal go. Nothing may stand on it.
    pub fn abandon(&self, store: &Store) -> FsResult<()> {
        self.journal.retire(store)?;
        for object in &self.objects {
            match object {
                SealObject::Held(object) => store.objects().unhold(*object),
                SealObject::File(object) => store.objects().discard(*object),
            }
        }
        self.finish();
        Ok(())
    }

    fn finish(&self) {
        if !self.done.swap(true, Ordering::AcqRel) {
            self.memory.fetch_sub(self.held, Ordering::Relaxed);
        }
    }
}

/// Makes a frozen version durable: its bytes first, then records, tree, lineage event and pointers in one transaction. A version in which
/// nothing changed becomes `aborted`. After a failure nothing is in the catalog, and it can be tried again.
pub fn seal(store: &Store, frozen: &Frozen, message: Option<String>, at: Timestamp) -> FsResult<(VersionRecord, Snapshot)> {
    let record = begin(store, frozen, message, at)?;
    if frozen.unchanged {
        return abort(store, frozen, record, at);
    }
    frozen.journal.make_copies(store)?;
    let sealed = store.objects().seal(&frozen.objects)?;
    write(store, frozen, record, &sealed, frozen.rejected.clone())
}

/// For a version whose seal has failed again and again: if the disk took some of its files, it is sealed with what is left of them,
/// as a ghost whose reason names them; nothing comes to stand on it. `None` if its files are well, and the failure has another cause.
pub fn seal_as_ghost(
    store: &Store,
    frozen: &Frozen,
    message: Option<String>,
    at: Timestamp,
) -> FsResult<Option<(VersionRecord, Snapshot)>> {
    frozen.journal.salvage_copies(store)?;
    let losses = store.objects().losses(&frozen.objects);
    let paths = lost_paths(store, frozen, &losses)?;
    if losses.is_empty() && paths.is_empty() {
        return Ok(None);
    }
    let why = losses.first().map_or_else(|| "its content was lost with another version".to_owned(), |loss| loss.why.to_string());
    let lost = |object: &SealObject| losses.iter().any(|loss| loss.object == object.id());
    let well: Vec<_> = frozen.objects.iter().copied().filter(|object| !lost(object)).collect();
    let mut sealed = store.objects().seal(&well)?;
    sealed.extend(losses.iter().map(|loss| (loss.object, loss.record.clone())));
    let record = begin(store, frozen, message, at)?;
    write(store, frozen, record, &sealed, Some(Reason::Unreadable { paths, why })).map(Some)
}

/// The changed files whose bytes were lost, with this version or with one that they were shared from; at most 100.
fn lost_paths(store: &Store, frozen: &Frozen, losses: &[Loss]) -> FsResult<Vec<String>> {
    let lost = |object: ObjectId| -> FsResult<bool> {
        let known = losses.iter().any(|loss| loss.object == object);
        Ok(known || store.catalog().object(object)?.is_some_and(|record| is_lost(object, &record)))
    };
    let mut paths = BTreeSet::new();
    for change in frozen.base.tree.diff(&frozen.snapshot.tree) {
        let change = change?;
        let Some(object) = change.new.as_ref().and_then(object_of) else { continue };
        if paths.len() < 100 && lost(object)? {
            let path = frozen.snapshot.path_of(change.key.ino)?.unwrap_or_default();
            paths.insert(String::from_utf8_lossy(&path).into_owned());
        }
    }
    Ok(paths.into_iter().collect())
}

fn begin(store: &Store, frozen: &Frozen, message: Option<String>, at: Timestamp) -> FsResult<VersionRecord> {
    let message = message.or_else(|| frozen.message.clone());
    let mut record = match store.catalog().version(frozen.version)? {
        Some(record) => record,
        None => draft(frozen),
    };
    record.parent = Some(frozen.parent);
    record.writers.clone_from(&frozen.writers);
    record.message = message.or(record.message);
    record.sealed_at = Some(at);
    frozen.journal.set_message(record.message.clone());
    Ok(record)
}

/// The transaction of a seal. `rejected`: it goes down in the same moment, and staging stays on what it stands on.
fn write(
    store: &Store,
    frozen: &Frozen,
    mut record: VersionRecord,
    sealed: &[(ObjectId, ObjectRecord)],
    rejected: Option<Reason>,
) -> FsResult<(VersionRecord, Snapshot)> {
    let at = record.sealed_at.unwrap_or_default();
    let digests: HashMap<ObjectId, Digest> = sealed.iter().map(|(object, record)| (*object, record.digest)).collect();
    record.changes = count(frozen, sealed)?;
    let mut transaction = store.catalog().begin()?;
    for (object, record) in sealed {
        transaction.put_object(*object, record)?;
    }
    let lenient = rejected.is_some();
    let persisted = frozen.snapshot.tree.persist(&mut transaction, &|object| digest_of(store, &digests, object, lenient))?;
    record.state = VersionState::Checking;
    record.root = Some(persisted.root);
    let event = EventKind::Sealed {
        digest: persisted.root.digest,
        changes: record.changes,
        writers: record.writers.clone(),
        message: record.message.clone(),
    };
    transaction.append_event(at, Some(frozen.version), event)?;
    if let Some(reason) = rejected {
        record.state = VersionState::Ghost;
        record.decided_at = Some(at);
        record.reason = Some(reason.clone());
        transaction.append_event(at, Some(frozen.version), EventKind::Rejected { reason })?;
    } else {
        let mut pointers = transaction.pointers()?;
        pointers.base = frozen.version;
        transaction.set_pointers(&pointers)?;
    }
    transaction.put_version(&record)?;
    transaction.commit()?;
    let tree = persisted.committed();
    store.objects().sealed(sealed);
    frozen.finish();
    retire(store, frozen);
    Ok((record, Snapshot::new(tree, Arc::clone(&frozen.snapshot.store))))
}

fn abort(store: &Store, frozen: &Frozen, mut record: VersionRecord, at: Timestamp) -> FsResult<(VersionRecord, Snapshot)> {
    record.state = VersionState::Aborted;
    record.decided_at = Some(at);
    record.reason = Some(Reason::Unchanged);
    let mut transaction = store.catalog().begin()?;
    transaction.put_version(&record)?;
    transaction.append_event(at, Some(frozen.version), EventKind::Aborted { reason: Reason::Unchanged })?;
    transaction.commit()?;
    for object in &frozen.objects {
        match object {
            SealObject::Held(object) => store.objects().unhold(*object),
            SealObject::File(object) => store.objects().discard(*object),
        }
    }
    frozen.finish();
    retire(store, frozen);
    Ok((record, frozen.base.clone()))
}

/// The version is in the catalog: a journal that can't be removed is a leftover that the next start removes.
fn retire(store: &Store, frozen: &Frozen) {
    if let Err(error) = frozen.journal.retire(store) {
        tracing::warn!(%error, version = %frozen.version, "the journal of a sealed version stays behind");
    }
}

fn draft(frozen: &Frozen) -> VersionRecord {
    VersionRecord {
        version: frozen.version,
        state: VersionState::Open,
        parent: Some(frozen.parent),
        root: None,
        message: None,
        opened_at: frozen.opened_at,
        sealed_at: None,
        decided_at: None,
        promoted_at: None,
        changes: ChangeCounts::default(),
        writers: frozen.writers.clone(),
        reason: None,
        passed: false,
        held: false,
        pinned: false,
        rebased_from: None,
        restored_from: None,
    }
}

fn count(frozen: &Frozen, sealed: &[(ObjectId, ObjectRecord)]) -> FsResult<ChangeCounts> {
    let mut counts = ChangeCounts { bytes: sealed.iter().map(|(_, record)| record.len).sum(), ..ChangeCounts::default() };
    for change in changes(&frozen.base, &frozen.snapshot)? {
        match change.kind {
            ChangeKind::Added => counts.added += 1,
            ChangeKind::Deleted => counts.deleted += 1,
            ChangeKind::Modified | ChangeKind::Type | ChangeKind::Properties => counts.modified += 1,
        }
    }
    Ok(counts)
}

/// `lenient`: what was lost has a digest, too.
fn digest_of(store: &Store, digests: &HashMap<ObjectId, Digest>, object: ObjectId, lenient: bool) -> Result<Digest, TreeError> {
    if let Some(digest) = digests.get(&object) {
        return Ok(*digest);
    }
    let gone = || StoreError::Damaged { what: format!("object {object} is in no table") };
    let record = store.catalog().object(object)?.ok_or_else(gone)?;
    if !lenient && is_lost(object, &record) {
        // It was shared with a file whose version went down for it.
        return Err(StoreError::Damaged { what: format!("object {object} was lost before it was sealed") }.into());
    }
    Ok(record.digest)
}
