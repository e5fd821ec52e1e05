//! A store with versions of a few files, and what each version must read as.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::clock::{SystemClock, Timestamp};
use crate::ids::{Digest, Ino, ObjectId, VersionId};
use crate::retain::gc::{Collector, GcError, Report, expire};
use crate::store::event::EventKind;
use crate::store::record::{ChangeCounts, Reason, VersionState};
use crate::store::verify::{Finding, Severity};
use crate::store::{SealObject, Store};
use crate::tree::key::{Content, Extent, FileKind, InodeRecord, Key, Part, Value};
use crate::tree::verify::fsck;
use crate::tree::{Nodes, Reach, Snapshot, Tree, TreeError};
use crate::version::history::{Decision, History};
use crate::version::import;

pub(crate) type Files = BTreeMap<String, Vec<u8>>;

pub(crate) struct Lab {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: Arc<Store>,
    pub(crate) history: History,
    /// What every version must read as.
    pub(crate) model: BTreeMap<VersionId, Files>,
}

fn at(secs: u64) -> Timestamp {
    Timestamp { secs: i64::try_from(secs).unwrap(), nanos: 0 }
}

/// Where the contents of a file go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    Pack,
    Own,
    /// The first half in a pack, the second in a file of its own.
    Extents,
}

impl Lab {
    pub(crate) fn new() -> Self {
        // In memory where that is to be had: what is tested is not the disk.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let store = Arc::new(Store::init(&dir.path().join("store"), &SystemClock).unwrap());
        import::empty(&store, &SystemClock).unwrap();
        let history = History::new(store.catalog().versions().unwrap(), &store.catalog().pointers().unwrap());
        Self { dir, store, history, model: BTreeMap::from([(VersionId::FIRST, Files::new())]) }
    }

    /// As after a crash: nothing is said to the store before it is opened again.
    pub(crate) fn reopened(self) -> Self {
        let Self { dir, store, model, .. } = self;
        assert_eq!(Arc::strong_count(&store), 1);
        drop(store);
        let store = Arc::new(Store::open(&dir.path().join("store")).unwrap());
        let history = History::new(store.catalog().versions().unwrap(), &store.catalog().pointers().unwrap());
        Self { dir, store, history, model }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("store").join(name)
    }

    pub(crate) fn tree(&self, version: VersionId) -> Tree {
        let root = self.history.get(version).unwrap().root.unwrap();
        Tree::stored(Nodes::new(Arc::clone(&self.store)), root)
    }

    fn object(&self, bytes: &[u8], own: bool, seal: &mut Vec<SealObject>) -> ObjectId {
        let id = self.store.ids().object();
        if own {
            self.store.objects().create(id).unwrap().write_all_at(bytes, 0).unwrap();
            seal.push(SealObject::File(id));
        } else {
            self.store.objects().hold(id, bytes.into());
            seal.push(SealObject::Held(id));
        }
        id
    }

    fn put(&self, tree: &mut Tree, name: &str, bytes: &[u8], how: How, version: VersionId, seal: &mut Vec<SealObject>) {
        self.delete(tree, name);
        let ino = self.store.ids().ino();
        let content = match how {
            How::Pack => Content::Object(self.object(bytes, false, seal)),
            How::Own => Content::Object(self.object(bytes, true, seal)),
            How::Extents => {
                let (first, second) = bytes.split_at(bytes.len() / 2);
                for (offset, part, own) in [(0, first, false), (first.len() as u64, second, true)] {
                    if !part.is_empty() {
                        let extent = Extent { len: part.len() as u64, object: self.object(part, own, seal), start: 0 };
                        tree.insert(Key::extent(ino, offset), Value::Extent(extent)).unwrap();
                    }
                }
                Content::Extents
            }
        };
        let record = InodeRecord {
            kind: FileKind::Regular,
            perm: 0o644,
            uid: 0,
            gid: 0,
            nlink: 1,
            size: bytes.len() as u64,
            rdev: 0,
            atime: at(1),
            mtime: at(version.0),
            ctime: at(1),
            btime: at(1),
            content,
            parent: Ino::ROOT,
            name: name.as_bytes().into(),
            changed_in: version,
        };
        tree.insert(Key::inode(ino), Value::Inode(Arc::new(record))).unwrap();
        tree.insert(Key::dirent(Ino::ROOT, name.as_bytes()), Value::Dirent(ino, FileKind::Regular)).unwrap();
    }

    fn delete(&self, tree: &mut Tree, name: &str) {
        let Some(Value::Dirent(ino, _)) = tree.remove(&Key::dirent(Ino::ROOT, name.as_bytes())).unwrap() else { return };
        let entries: Vec<Key> = tree.range(&Key::inode(ino), &Key::inode(ino.next())).map(|entry| entry.unwrap().0).collect();
        entries.iter().for_each(|key| drop(tree.remove(key).unwrap()));
    }

    /// A tree with changes on top of the base's, with its objects not sealed.
    pub(crate) fn edited(&self, version: VersionId, edits: &[(&str, Option<&[u8]>, How)]) -> (Tree, Files, Vec<SealObject>) {
        let mut tree = self.tree(self.history.base());
        let mut files = self.model[&self.history.base()].clone();
        let mut seal = Vec::new();
        for (name, bytes, how) in edits {
            match bytes {
                Some(bytes) => {
                    self.put(&mut tree, name, bytes, *how, version, &mut seal);
                    files.insert((*name).to_owned(), bytes.to_vec());
                }
                None => {
                    self.delete(&mut tree, name);
                    files.remove(*name);
                }
            }
        }
        (tree, files, seal)
    }

    /// Opens and seals a version on the base.
    pub(crate) fn seal(&mut self, edits: &[(&str, Option<&[u8]>, How)]) -> VersionId {
        let version = self.store.ids().version();
        let (tree, files, objects) = self.edited(version, edits);
        self.seal_tree(version, &tree, files, &objects);
        version
    }

    pub(crate) fn seal_tree(&mut self, version: VersionId, tree: &Tree, files: Files, objects: &[SealObject]) {
        let now = at(version.0 * 100);
        let opened = self.history.opened(version, self.history.base(), now, None).unwrap();
        self.write(opened);
        let sealed = self.store.objects().seal(objects).unwrap();
        let digests: BTreeMap<ObjectId, Digest> = sealed.iter().map(|(id, record)| (*id, record.digest)).collect();
        let mut transaction = self.store.catalog().begin().unwrap();
        transaction.put_objects(&sealed).unwrap();
        let digest =
            |id: ObjectId| Ok(digests.get(&id).copied().unwrap_or_else(|| self.store.catalog().object(id).unwrap().unwrap().digest));
        let persisted = tree.persist(&mut transaction, &digest).unwrap();
        let mut record = self.history.get(version).unwrap().clone();
        record.state = VersionState::Checking;
        record.root = Some(persisted.root);
        record.sealed_at = Some(now);
        transaction.put_version(&record).unwrap();
        let event =
            EventKind::Sealed { digest: persisted.root.digest, changes: ChangeCounts::default(), writers: Vec::new(), message: None };
        transaction.append_event(now, Some(version), event).unwrap();
        let mut pointers = transaction.pointers().unwrap();
        pointers.base = version;
        transaction.set_pointers(&pointers).unwrap();
        transaction.commit().unwrap();
        drop(persisted.committed());
        self.store.objects().sealed(&sealed);
        self.history.sealed(record);
        self.model.insert(version, files);
    }

    fn write(&mut self, decision: Decision) {
        let mut transaction = self.store.catalog().begin().unwrap();
        let mut pointers = transaction.pointers().unwrap();
        decision.move_pointers(&mut pointers);
        transaction.set_pointers(&pointers).unwrap();
        decision.records.iter().for_each(|record| transaction.put_version(record).unwrap());
        for (version, what) in &decision.events {
            transaction.append_event(at(1), *version, what.clone()).unwrap();
        }
        transaction.commit().unwrap();
        self.history.apply(decision);
    }

    pub(crate) fn pass(&mut self, version: VersionId) {
        let decision = self.history.passed(version, at(version.0 * 100)).unwrap();
        self.write(decision);
    }

    pub(crate) fn promote(&mut self, version: VersionId) {
        let decision = self.history.promoted(version, at(version.0 * 100)).unwrap();
        self.write(decision);
    }

    /// Rejects the newest version.
    pub(crate) fn reject(&mut self, version: VersionId) {
        let reason = Reason::ChecksFailed { checks: Vec::new(), summary: String::new() };
        let decision = self.history.rejected(version, reason, &[], at(version.0 * 100)).unwrap();
        self.write(decision);
    }

    pub(crate) fn expire(&mut self, version: VersionId) -> Result<(), GcError> {
        expire(&self.store, &mut self.history, &[version], at(version.0))?;
        self.model.remove(&version);
        Ok(())
    }

    pub(crate) fn collect(&self) -> Report {
        Collector::new(&self.store, &Vec::new, &AtomicBool::new(false)).collect().unwrap()
    }

    pub(crate) fn preview(&self, expiring: &[VersionId]) -> Report {
        Collector::new(&self.store, &Vec::new, &AtomicBool::new(false)).preview(expiring).unwrap()
    }

    pub(crate) fn fsck(&self) -> Vec<Finding> {
        fsck(&self.store, &Vec::new, &AtomicBool::new(false)).unwrap()
    }

    pub(crate) fn read(&self, version: VersionId) -> Files {
        self.try_read(version).into_iter().map(|(name, bytes)| (name, bytes.unwrap())).collect()
    }

    /// As [`Lab::read`], where files may be damaged.
    pub(crate) fn try_read(&self, version: VersionId) -> BTreeMap<String, Result<Vec<u8>, TreeError>> {
        let snapshot = Snapshot::new(self.tree(version), Arc::clone(&self.store));
        let entries = snapshot.entries(Ino::ROOT, 0, usize::MAX).unwrap();
        let file = |(name, ino, _): (Arc<[u8]>, Ino, FileKind)| (String::from_utf8(name.to_vec()).unwrap(), snapshot.read(ino, 0, 1 << 30));
        entries.into_iter().map(file).collect()
    }

    /// Every version reads as it must.
    pub(crate) fn check_reads(&self) {
        for (version, files) in &self.model {
            assert_eq!(&self.read(*version), files, "{version}");
        }
    }

    /// Nothing is there but what versions reach.
    pub(crate) fn check_no_garbage(&self) {
        let mut reach = Reach::default();
        for version in self.model.keys() {
            assert!(reach.add(&self.tree(*version), &AtomicBool::new(false)).unwrap());
        }
        let all = Reach::all(self.store.catalog()).unwrap();
        assert_eq!(all.nodes.count_outside(&[&reach.nodes]), 0, "dead nodes");
        let findings: Vec<Finding> = self.fsck();
        assert_eq!(findings, [], "after a sweep");
        for pack in self.store.objects().settled_packs().unwrap() {
            let len = self.store.objects().pack_file(pack).unwrap().unwrap().len - 16;
            let records = self.store.catalog().objects(ObjectId(0), usize::MAX).unwrap();
            let live: u64 = records.iter().filter(|(_, record)| is_in(record, pack)).map(|(_, record)| record.len).sum();
            assert!((len - live) * 2 <= len, "pack {pack}: {live} of {len} bytes are live");
        }
    }

    /// A crash may leave what costs space, and nothing worse.
    pub(crate) fn check_no_damage(&self) {
        let worse: Vec<Finding> = self.fsck().into_iter().filter(|finding| finding.severity > Severity::Note).collect();
        assert_eq!(worse, []);
    }
}

fn is_in(record: &crate::store::record::ObjectRecord, of: crate::ids::PackId) -> bool {
    matches!(record.location, crate::store::record::Location::Pack { pack, .. } if pack == of)
}

/// Whether a key belongs to an extent, for tests that look for one.
pub(crate) const fn is_extent(key: &Key) -> bool {
    matches!(key.part, Part::Extent(_))
}
