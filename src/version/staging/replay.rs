//! After a crash: the open version, and frozen ones that the catalog does not have, as the journals hold them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Context;
use super::state::{Edit, OpenVersion, Pending, State, put_record};
use super::types::StagingEvent;
use super::version_journal::VersionJournal;
use crate::clock::Timestamp;
use crate::ids::{Ino, ObjectId, VersionId};
use crate::store::record::{VersionState, Writer};
use crate::store::{HostFile, JournalRecord, SealObject, StoreError, codec};
use crate::tree::key::{Content, FileKind, InodeRecord, Key, Part, Value};
use crate::tree::{Snapshot, Tree, object_of};
use crate::version::error::FsResult;
use crate::version::seal::Frozen;

/// What a journal says.
struct Told {
    version: VersionId,
    parent: VersionId,
    opened_at: Timestamp,
    writers: Vec<Writer>,
    edits: Vec<Edit>,
    bytes: HashMap<ObjectId, Vec<u8>>,
    /// Every object that it names, those that are gone again as well: their numbers must not come back.
    objects: HashSet<ObjectId>,
    sealed: Option<Option<String>>,
}

/// Brings back what the journals hold. Journals of versions that are in the catalog go.
pub(super) fn replay(cx: &Context, state: &mut State) -> FsResult<Vec<Frozen>> {
    let mut frozen: Vec<Frozen> = Vec::new();
    for version in cx.store.journals()? {
        cx.store.ids().raise_version(version.next());
        let decided = cx.store.catalog().version(version)?.is_some_and(|record| record.state != VersionState::Open);
        let told = if decided { None } else { read(version, cx.store.replay(version)?)? };
        let Some(told) = told else {
            cx.store.remove_journal(version)?;
            continue;
        };
        if let Some(open) = &state.open {
            // A version is durable before anything on top of it is: this was never synced.
            tracing::warn!(%version, below = %open.version, "a journal stands on an unfinished one and is left out");
            state.outbox.push(StagingEvent::Failed { what: format!("{version}: its unsaved changes did not survive the crash") });
            cx.store.remove_journal(version)?;
            continue;
        }
        let Some(base) = parent_tree(cx, state, &frozen, told.parent)? else {
            state.outbox.push(StagingEvent::Failed {
                what: format!("{version} stands on {}, whose content is gone; its journal is kept", told.parent),
            });
            continue;
        };
        if let Some(done) = restore(cx, state, base, told, &frozen)? {
            frozen.push(done);
        }
    }
    Ok(frozen)
}

fn read(version: VersionId, records: Vec<JournalRecord>) -> FsResult<Option<Told>> {
    let mut told = Told {
        version,
        parent: version,
        opened_at: Timestamp::default(),
        writers: Vec::new(),
        edits: Vec::new(),
        bytes: HashMap::new(),
        objects: HashSet::new(),
        sealed: None,
    };
    let mut based = false;
    let mut aside: Vec<Edit> = Vec::new();
    for record in records {
        match record {
            JournalRecord::Base { parent, opened_at } => {
                // A second one: the version was put on another parent, and what follows is all of it.
                (told.parent, told.opened_at, based) = (parent, opened_at, true);
                told.edits.clear();
            }
            JournalRecord::Writer(writer) => told.writers.push(writer),
            JournalRecord::Edit { key, value } => {
                let edit = decode(version, &key, value)?;
                told.objects.extend(edit.1.as_ref().and_then(object_of));
                told.edits.push(edit);
            }
            JournalRecord::Aside { key, value } => {
                let edit = decode(version, &key, value)?;
                told.objects.extend(edit.1.as_ref().and_then(object_of));
                aside.push(edit);
            }
            JournalRecord::Join { base, edits } => {
                if let Some((parent, opened_at)) = base {
                    (told.parent, told.opened_at, based) = (parent, opened_at, true);
                    told.edits.clear();
                }
                // Those before belong to a join that never came.
                let from = usize::try_from(edits).ok().and_then(|edits| aside.len().checked_sub(edits));
                let few = || StoreError::Damaged { what: format!("journal of {version}: {edits} edits are to be there, {}", aside.len()) };
                told.edits.extend(aside.drain(from.ok_or_else(few)?..));
                aside.clear();
            }
            JournalRecord::Data { object, offset, bytes } => {
                told.objects.insert(object);
                put_bytes(told.bytes.entry(object).or_default(), offset, &bytes);
            }
            JournalRecord::Truncate { object, len } => {
                told.objects.insert(object);
                let len = usize::try_from(len).unwrap_or(usize::MAX);
                told.bytes.entry(object).or_default().truncate(len);
            }
            JournalRecord::InFile { object } => {
                told.objects.insert(object);
                told.bytes.remove(&object);
            }
            JournalRecord::Sealed { message } => told.sealed = Some(message),
        }
    }
    if let Some(object) = told.objects.iter().find(|object| !object.is_plausible()) {
        return Err(StoreError::Damaged { what: format!("journal of {version}: there is no object {object}") }.into());
    }
    Ok(based.then_some(told))
}

fn decode(version: VersionId, key: &[u8], value: Option<Vec<u8>>) -> FsResult<Edit> {
    let damage = |error| StoreError::Damaged { what: format!("journal of {version}: {error}") };
    let value: Option<Value> = value.map(|value| codec::decode(&value)).transpose().map_err(damage)?;
    let key: Key = codec::decode(key).map_err(damage)?;
    if !key.ino.is_plausible() {
        return Err(StoreError::Damaged { what: format!("journal of {version}: there is no inode {}", key.ino) }.into());
    }
    if value.as_ref().is_some_and(|value| !value.fits(&key)) {
        return Err(StoreError::Damaged { what: format!("journal of {version}: a value of the wrong kind under {key:?}") }.into());
    }
    Ok((key, value))
}

fn put_bytes(bytes: &mut Vec<u8>, offset: u64, data: &[u8]) {
    /// No small file is larger: more would be damage.
    const LIMIT: usize = 1 << 30;
    let Ok(offset) = usize::try_from(offset) else { return };
    let Some(end) = offset.checked_add(data.len()).filter(|end| *end <= LIMIT) else { return };
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(data);
}

fn parent_tree(cx: &Context, state: &State, frozen: &[Frozen], parent: VersionId) -> FsResult<Option<Tree>> {
    if let Some(below) = frozen.iter().find(|frozen| frozen.version == parent) {
        return Ok(Some(below.snapshot.tree.clone()));
    }
    if parent == state.base {
        return Ok(Some(state.base_tree.clone()));
    }
    let root = cx.store.catalog().version(parent)?.and_then(|record| record.root);
    Ok(root.map(|root| Tree::stored(Arc::clone(state.base_tree.nodes()), root)))
}

/// Makes the version that a journal tells of: frozen if it was, else the open one.
fn restore(cx: &Context, state: &mut State, base: Tree, told: Told, below: &[Frozen]) -> FsResult<Option<Frozen>> {
    let mut tree = base.clone();
    for (key, value) in &told.edits {
        cx.store.ids().raise_ino(key.ino.next());
        tree.set(key, value.clone())?;
    }
    for object in &told.objects {
        cx.store.ids().raise_object(object.next());
    }
    let below: HashSet<ObjectId> = below.iter().flat_map(|frozen| frozen.objects.iter().map(|object| object.id())).collect();
    let found = find_bytes(cx, &base, &tree, told.bytes, &below)?;
    for (key, value) in &found.repairs {
        tree.set(key, value.clone())?;
    }
    let journal = VersionJournal::resumed(told.version);
    state.base = told.parent;
    state.base_tree = base.clone();
    state.tree = tree.clone();
    let writers = told.writers;
    if let Some(message) = told.sealed {
        let unchanged = base.diff(&tree).next().transpose()?.is_none();
        if !unchanged {
            state.base = told.version;
            state.base_tree = tree.clone();
        }
        state.frozen.push((Arc::clone(&journal), tree.clone()));
        return Ok(Some(Frozen {
            version: told.version,
            parent: told.parent,
            opened_at: told.opened_at,
            writers,
            unchanged,
            base: Snapshot::new(base, Arc::clone(&cx.store)),
            snapshot: Snapshot::new(tree, Arc::clone(&cx.store)),
            held: found.pending.values().map(|pending| if let Pending::Held(len) = pending { *len } else { 0 }).sum(),
            objects: found
                .pending
                .iter()
                .map(|(object, pending)| match pending {
                    Pending::Held(_) => SealObject::Held(*object),
                    Pending::File => SealObject::File(*object),
                })
                .collect(),
            memory: Arc::clone(&cx.memory),
            journal,
            message,
            done: AtomicBool::new(false),
            rejected: None,
        }));
    }
    if !found.repairs.is_empty() {
        journal.queue_edits(found.repairs);
    }
    state.outbox.push(StagingEvent::Opened {
        version: told.version,
        parent: told.parent,
        at: told.opened_at,
        writer: writers.first().cloned(),
    });
    state.open = Some(OpenVersion {
        version: told.version,
        opened_at: told.opened_at,
        opened: age_of(cx, told.opened_at),
        writers,
        pending: found.pending,
        overlays: found.overlays,
        explicit: true,
        journal,
    });
    Ok(None)
}

/// When by the clock that does not jump something began that the wall clock has a stamp of.
fn age_of(cx: &Context, at: Timestamp) -> std::time::Instant {
    let now = cx.clock.instant();
    now.checked_sub(cx.clock.now().since(at)).unwrap_or(now)
}

/// What is there of the bytes that a replayed tree names.
#[derive(Default)]
struct Found {
    pending: HashMap<ObjectId, Pending>,
    overlays: HashMap<Ino, ObjectId>,
    /// Where bytes are missing or sizes were not known: only what nobody had synced.
    repairs: Vec<Edit>,
}

fn find_bytes(cx: &Context, base: &Tree, tree: &Tree, mut bytes: HashMap<ObjectId, Vec<u8>>, below: &HashSet<ObjectId>) -> FsResult<Found> {
    let mut found = Found::default();
    for change in base.diff(tree) {
        let change = change?;
        match change.new {
            Some(Value::Inode(record)) if record.kind == FileKind::Regular => {
                if let Content::Object(object) = record.content
                    && !below.contains(&object)
                    && cx.store.catalog().object(object)?.is_none()
                {
                    found.whole(cx, change.key.ino, &record, object, bytes.remove(&object))?;
                }
            }
            Some(Value::Extent(extent)) => {
                let object = extent.object;
                if below.contains(&object) || found.pending.contains_key(&object) || cx.store.catalog().object(object)?.is_some() {
                    continue;
                }
                cx.store.objects().take_back(object)?;
                if let Some(file) = cx.store.objects().open_file(object)? {
                    found.pending.insert(object, Pending::File);
                    found.overlays.insert(change.key.ino, object);
                    reach(cx, &file, tree, change.key.ino, object)?;
                } else if let Part::Extent(_) = change.key.part {
                    found.repairs.push((change.key, None));
                }
            }
            _ => {}
        }
    }
    Ok(found)
}

/// Bytes that nobody had synced may be missing at the end of an overlay, though the journal has the extents that lead to them: a hole then.
fn reach(cx: &Context, overlay: &HostFile, tree: &Tree, ino: Ino, object: ObjectId) -> FsResult<()> {
    let of_it = Snapshot::new(tree.clone(), Arc::clone(&cx.store)).extents(ino)?.into_iter().filter(|(_, extent)| extent.object == object);
    let end = of_it.map(|(_, extent)| extent.start.saturating_add(extent.len)).max().unwrap_or(0);
    let failed = |error| StoreError::io(format!("lengthen object {object}"), error);
    if overlay.metadata().map_err(failed)?.len() < end {
        overlay.set_len(end).map_err(failed)?;
    }
    Ok(())
}

impl Found {
    /// A file that is one object of the open version.
    fn whole(&mut self, cx: &Context, ino: Ino, record: &InodeRecord, object: ObjectId, bytes: Option<Vec<u8>>) -> FsResult<()> {
        if let Some(mut bytes) = bytes {
            bytes.truncate(usize::try_from(record.size).unwrap_or(usize::MAX));
            let len = bytes.len() as u64;
            cx.store.objects().hold(object, bytes.into());
            cx.memory.fetch_add(len, Ordering::Relaxed);
            self.pending.insert(object, Pending::Held(len));
            return Ok(());
        }
        cx.store.objects().take_back(object)?;
        let (size, content) = match cx.store.objects().open_file(object)? {
            Some(_) => {
                self.pending.insert(object, Pending::File);
                (cx.store.objects().len(object)?, Content::Object(object))
            }
            // Its bytes never left memory.
            None => (0, Content::None),
        };
        if size != record.size || content != record.content {
            self.repairs.push(put_record(ino, InodeRecord { size, content, ..record.clone() }));
        }
        Ok(())
    }
}
