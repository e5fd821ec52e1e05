//! A store with a few versions and both sessions mounted in this process, for tests that use them through the kernel.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code, missing_docs, unreachable_pub)]

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crossbeam::channel::Receiver;
use parking_lot::Mutex;
use shadowfs::clock::{Clock, SystemClock, Timestamp};
use shadowfs::fs::{
    CheckOutputs, LineageFile, LineageSource, MountOptions, Mounts, ViewError, ViewResult, ViewSource, Visible, VisibleVersion,
};
use shadowfs::ids::{Digest, Ino, ObjectId, VersionId};
use shadowfs::store::record::{ChangeCounts, RootRef, VersionRecord, VersionState};
use shadowfs::store::{SealObject, Store};
use shadowfs::tree::key::{Content, FileKind, InodeRecord, Key, Value};
use shadowfs::tree::{Nodes, Snapshot, Tree};
use shadowfs::version::staging::{Staging, StagingEvent, StagingOptions};

/// A dataset under construction.
pub struct Dataset {
    pub store: Arc<Store>,
    pub tree: Tree,
    pub version: VersionId,
    objects: Vec<ObjectId>,
    digests: BTreeMap<ObjectId, Digest>,
}

impl Dataset {
    pub fn new(store: &Arc<Store>) -> Self {
        let tree = Tree::new_empty(Nodes::new(Arc::clone(store)));
        let version = VersionId::FIRST;
        let mut dataset = Self { store: Arc::clone(store), tree, version, objects: Vec::new(), digests: BTreeMap::new() };
        let root = dataset.record(FileKind::Directory, 0o755, 2, 4096, Content::None, Ino::ROOT, "");
        dataset.put(Ino::ROOT, root);
        dataset
    }

    #[allow(clippy::too_many_arguments)] // what a record has
    fn record(&self, kind: FileKind, perm: u16, nlink: u32, size: u64, content: Content, parent: Ino, name: &str) -> InodeRecord {
        let at = Timestamp { secs: 1_600_000_000, nanos: 123_456_789 };
        let (uid, gid) = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
        let name = name.as_bytes().into();
        let changed_in = self.version;
        InodeRecord {
            kind,
            perm,
            uid,
            gid,
            nlink,
            size,
            rdev: 0,
            atime: at,
            mtime: at,
            ctime: at,
            btime: at,
            content,
            parent,
            name,
            changed_in,
        }
    }

    fn put(&mut self, ino: Ino, record: InodeRecord) {
        self.tree.insert(Key::inode(ino), Value::Inode(Arc::new(record))).unwrap();
    }

    fn add(&mut self, parent: Ino, name: &str, record: InodeRecord) -> Ino {
        let ino = self.store.ids().ino();
        let kind = record.kind;
        self.put(ino, record);
        self.tree.insert(Key::dirent(parent, name.as_bytes()), Value::Dirent(ino, kind)).unwrap();
        ino
    }

    pub fn dir(&mut self, parent: Ino, name: &str) -> Ino {
        let record = self.record(FileKind::Directory, 0o755, 2, 4096, Content::None, parent, name);
        self.add(parent, name, record)
    }

    fn content(&mut self, bytes: &[u8]) -> Content {
        if bytes.is_empty() {
            return Content::None;
        }
        let object = self.store.ids().object();
        self.store.objects().hold(object, bytes.into());
        self.objects.push(object);
        Content::Object(object)
    }

    pub fn file(&mut self, parent: Ino, name: &str, bytes: &[u8]) -> Ino {
        let content = self.content(bytes);
        let record = self.record(FileKind::Regular, 0o644, 1, bytes.len() as u64, content, parent, name);
        self.add(parent, name, record)
    }

    pub fn symlink(&mut self, parent: Ino, name: &str, target: &str) -> Ino {
        let record = self.record(FileKind::Symlink, 0o777, 1, target.len() as u64, Content::Inline(target.as_bytes().into()), parent, name);
        self.add(parent, name, record)
    }

    pub fn xattr(&mut self, ino: Ino, name: &str, value: &[u8]) {
        self.tree.insert(Key::xattr(ino, name.as_bytes()), Value::Xattr(value.into())).unwrap();
    }

    /// Other bytes in an existing file.
    pub fn rewrite(&mut self, ino: Ino, bytes: &[u8]) {
        let Some(Value::Inode(old)) = self.tree.get(&Key::inode(ino)).unwrap() else { panic!("no inode {ino}") };
        let content = self.content(bytes);
        self.put(ino, InodeRecord { size: bytes.len() as u64, content, changed_in: self.version, ..(*old).clone() });
    }

    /// What follows goes into the next version.
    pub fn open(&mut self) {
        self.version = self.store.ids().version();
    }

    /// Seals it as the current version.
    pub fn seal(&mut self) -> VisibleVersion {
        let objects: Vec<_> = self.objects.drain(..).map(SealObject::Held).collect();
        let records = self.store.objects().seal(&objects).unwrap();
        let mut tx = self.store.catalog().begin().unwrap();
        for (id, record) in &records {
            tx.put_object(*id, record).unwrap();
        }
        self.digests.extend(records.iter().map(|(id, record)| (*id, record.digest)));
        let persisted = self.tree.persist(&mut tx, &|id| Ok(self.digests[&id])).unwrap();
        let record = version_record(self.version, persisted.root);
        tx.put_version(&record).unwrap();
        tx.commit().unwrap();
        self.store.objects().sealed(&records);
        self.tree = persisted.committed();
        VisibleVersion { record, snapshot: Snapshot::new(self.tree.clone(), Arc::clone(&self.store)) }
    }
}

fn version_record(version: VersionId, root: RootRef) -> VersionRecord {
    let at = SystemClock.now();
    VersionRecord {
        version,
        state: VersionState::Valid,
        parent: version.0.checked_sub(1).map(VersionId),
        root: Some(root),
        message: None,
        opened_at: at,
        sealed_at: Some(at),
        decided_at: Some(at),
        promoted_at: None,
        changes: ChangeCounts::default(),
        writers: Vec::new(),
        reason: None,
        passed: true,
        held: false,
        pinned: false,
        rebased_from: None,
        restored_from: None,
    }
}

/// What the daemon shows, set by the test.
pub struct Shown {
    pub visible: Mutex<Arc<Visible>>,
    pub log: Mutex<Vec<u8>>,
}

impl ViewSource for Shown {
    fn visible(&self) -> Arc<Visible> {
        Arc::clone(&self.visible.lock())
    }
    fn lineage(&self) -> &dyn LineageSource {
        self
    }
}

impl LineageSource for Shown {
    fn versions(&self) -> ViewResult<Vec<VersionId>> {
        Ok(self.visible().versions.keys().copied().collect())
    }
    fn checks(&self, _version: VersionId) -> ViewResult<Vec<CheckOutputs>> {
        Ok(vec![CheckOutputs { check: "rows".to_owned(), attempts: 2 }])
    }
    fn len(&self, file: &LineageFile) -> ViewResult<u64> {
        Ok(self.read(file, 0, usize::MAX)?.len() as u64)
    }
    fn read(&self, file: &LineageFile, offset: u64, len: usize) -> ViewResult<Vec<u8>> {
        let all = match file {
            LineageFile::Log => self.log.lock().clone(),
            LineageFile::Version(version) => format!("{{\"version\":\"{version}\"}}\n").into_bytes(),
            LineageFile::Changes(VersionId(0)) => return Err(ViewError::NotFound),
            LineageFile::Changes(_) => b"{}\n".to_vec(),
            LineageFile::Summary { check, .. } => format!("{{\"check\":\"{check}\",\"attempts\":[]}}\n").into_bytes(),
            LineageFile::Output { attempt, .. } => format!("attempt {attempt}\n").into_bytes(),
        };
        let from = usize::try_from(offset).unwrap().min(all.len());
        Ok(all[from..from.saturating_add(len).min(all.len())].to_vec())
    }
    fn modified(&self, _file: &LineageFile) -> Option<Timestamp> {
        None
    }
}

/// A store, mounted. It is unmounted when this drops.
pub struct Mounted {
    pub mounts: Mounts,
    pub shown: Arc<Shown>,
    pub staging: Arc<Staging>,
    pub events: Receiver<StagingEvent>,
    pub store: Arc<Store>,
    pub point: PathBuf,
    pub dir: tempfile::TempDir,
}

/// FUSE needs a device; who is not root needs fusermount3, which opens it for them. A test that can't mount fails: it has shown nothing.
#[track_caller]
pub fn must_mount() {
    let opens = || std::fs::File::options().read(true).write(true).open("/dev/fuse").is_ok();
    let helper = || Path::new("/dev/fuse").exists() && ["/usr/bin", "/bin"].iter().any(|dir| Path::new(dir).join("fusermount3").exists());
    let can = if is_root() { opens() } else { helper() };
    assert!(can, "mounting needs /dev/fuse, and without root fusermount3; run: scripts/setup");
}

/// Whether these tests mount both sides in one session: always without root; with root, if SHADOWFS_TEST_COMBINED is set.
pub fn combined() -> bool {
    !is_root() || std::env::var_os("SHADOWFS_TEST_COMBINED").is_some()
}

pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

pub fn store() -> (tempfile::TempDir, Arc<Store>) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("mnt")).unwrap();
    let store = Arc::new(Store::init(&dir.path().join("store"), &SystemClock).unwrap());
    (dir, store)
}

pub fn visible(versions: &[VisibleVersion], production: u64) -> Arc<Visible> {
    let latest = versions.last().unwrap().record.version;
    Arc::new(Visible {
        versions: versions.iter().map(|version| (version.record.version, Arc::new(version.clone()))).collect(),
        ghosts: BTreeMap::new(),
        departed: BTreeMap::new(),
        production: VersionId(production),
        latest,
        valid: latest,
        tags: BTreeMap::new(),
    })
}

impl Mounted {
    /// Mounts what `versions` hold; staging stands on the last one.
    pub fn new((dir, store): (tempfile::TempDir, Arc<Store>), versions: &[VisibleVersion], production: u64) -> Self {
        let passthrough = shadowfs::fs::passthrough_works(&store);
        Self::with_passthrough((dir, store), versions, production, passthrough)
    }

    /// As `new`, with passthrough or without.
    pub fn with_passthrough(
        (dir, store): (tempfile::TempDir, Arc<Store>),
        versions: &[VisibleVersion],
        production: u64,
        passthrough: bool,
    ) -> Self {
        let shown = Arc::new(Shown { visible: Mutex::new(visible(versions, production)), log: Mutex::default() });
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let point = dir.path().join("mnt");
        let passthrough = passthrough && !combined();
        let (staging, events) = staging(versions.last().unwrap(), &clock, passthrough);
        // With root, tests act as other users.
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let options = MountOptions { allow_other: is_root(), passthrough, combined: combined(), ..MountOptions::new(point.clone()) };
        let mounts =
            shadowfs::fs::mount(options, Arc::clone(&store), Arc::clone(&staging), Arc::clone(&shown) as Arc<dyn ViewSource>, clock)
                .unwrap();
        Self { mounts, shown, staging, events, store, point, dir }
    }

    pub fn at(&self, path: &str) -> PathBuf {
        self.point.join(path)
    }

    pub fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.at(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Names in a directory, sorted.
    pub fn names(&self, path: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.at(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    pub fn show(&self, visible: Visible) {
        *self.shown.visible.lock() = Arc::new(visible);
        self.mounts.notifier().visible_changed();
    }

    /// Requests of a session so far.
    pub fn requests(&self, session: &str) -> u64 {
        self.mounts.counters()[session].values().sum()
    }
}

/// Staging on top of a version, and what it tells the dispatcher.
fn staging(base: &VisibleVersion, clock: &Arc<dyn Clock>, passthrough: bool) -> (Arc<Staging>, Receiver<StagingEvent>) {
    let (sender, events) = crossbeam::channel::unbounded();
    let options = StagingOptions { passthrough, flusher: false, ..StagingOptions::default() };
    let staging = Staging::new(base.snapshot.clone(), base.record.version, sender, Arc::clone(clock), options).unwrap();
    (staging, events)
}

pub fn getxattr(path: &Path, name: &str) -> Result<String, i32> {
    let (path, name) = (CString::new(path.as_os_str().as_bytes()).unwrap(), CString::new(name).unwrap());
    let mut value = vec![0_u8; 4096];
    #[allow(unsafe_code)]
    // SAFETY: both names are C strings and the buffer has the length that is passed.
    let len = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    let Ok(len) = usize::try_from(len) else { return Err(std::io::Error::last_os_error().raw_os_error().unwrap()) };
    value.truncate(len);
    Ok(String::from_utf8(value).unwrap())
}

pub fn listxattr(path: &Path) -> String {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let mut names = vec![0_u8; 4096];
    #[allow(unsafe_code)]
    // SAFETY: the name is a C string and the buffer has the length that is passed.
    let len = unsafe { libc::listxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    names.truncate(usize::try_from(len).unwrap());
    String::from_utf8(names).unwrap()
}

pub fn setxattr(path: &Path, name: &str, value: &str) -> Result<(), i32> {
    let (path, name) = (CString::new(path.as_os_str().as_bytes()).unwrap(), CString::new(name).unwrap());
    #[allow(unsafe_code)]
    // SAFETY: both names are C strings and the value has the length that is passed.
    let done = unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().raw_os_error().unwrap()) }
}
