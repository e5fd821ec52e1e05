//! A store in a temporary directory with staging on it.

use std::io;
use std::sync::Arc;

use crossbeam::channel::Receiver;

use crate::clock::{Clock, SystemClock};
use crate::ids::VersionId;
use crate::store::disk::{Disk, DiskOp};
use crate::store::record::{VersionRecord, VersionState};
use crate::store::{HostFile, Store};
use crate::tree::{Nodes, Snapshot, Tree};
use crate::version::error::FsResult;
use crate::version::staging::{Attr, Caller, Handle, NodeRef, OpenMode, Opened, Staging, StagingEvent, StagingOptions};
use crate::version::{import, seal};

pub(super) const ROOT: Caller = Caller { uid: 0, gid: 0, pid: 0 };
pub(super) const USER: Caller = Caller { uid: 1000, gid: 1000, pid: 0 };
pub(super) const TOP: NodeRef = NodeRef::ROOT;

pub(super) struct Bench {
    pub(super) staging: Arc<Staging>,
    pub(super) events: Receiver<StagingEvent>,
    pub(super) store: Arc<Store>,
    pub(super) options: StagingOptions,
    pub(super) dir: Arc<tempfile::TempDir>,
}

pub(super) fn options() -> StagingOptions {
    StagingOptions { flusher: false, ..StagingOptions::default() }
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::with(options())
    }

    pub(super) fn with(options: StagingOptions) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let path = dir.path().join("store");
        let store = Arc::new(Store::init(&path, &SystemClock).unwrap());
        let _t0 = import::empty(&store, &SystemClock).unwrap();
        drop(store);
        Self::open(dir, options)
    }

    fn open(dir: Arc<tempfile::TempDir>, options: StagingOptions) -> Self {
        Self::open_on(dir, options, None)
    }

    /// The same store from now on with a disk that a test looks at.
    pub(super) fn on(self, disk: Arc<dyn Disk>) -> Self {
        let Self { staging, store, options, dir, events } = self;
        drop((staging, store, events));
        Self::open_on(dir, options, Some(disk))
    }

    fn open_on(dir: Arc<tempfile::TempDir>, options: StagingOptions, disk: Option<Arc<dyn Disk>>) -> Self {
        let store = Arc::new(Store::open_on(&dir.path().join("store"), disk).unwrap());
        let (sender, events) = crossbeam::channel::unbounded();
        let base = store.catalog().pointers().unwrap().base;
        let snapshot = stored(&store, base);
        let staging = Staging::new(snapshot, base, sender, Arc::new(SystemClock), options).unwrap();
        for frozen in staging.take_recovered() {
            seal::seal(&store, &frozen, None, SystemClock.now()).unwrap();
        }
        Self { staging, events, store, options, dir }
    }

    /// As a kill and a new start: what is only in memory is lost.
    pub(super) fn crash(self) -> Self {
        self.crash_with(|| {})
    }

    /// The same, and something happens to the files before the next start.
    pub(super) fn crash_with(self, harm: impl FnOnce()) -> Self {
        let Self { staging, store, options, dir, events } = self;
        drop((staging, store, events));
        harm();
        Self::open(dir, options)
    }

    /// Seals what is open.
    pub(super) fn seal(&self) -> (VersionRecord, Snapshot) {
        let frozen = self.staging.freeze(true).unwrap().expect("a version is open");
        seal::seal(&self.store, &frozen, None, SystemClock.now()).unwrap()
    }

    pub(super) fn lookup(&self, path: &str) -> FsResult<Attr> {
        let mut attr = self.staging.attr(TOP, None)?;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            attr = self.staging.lookup(attr.node, name.as_bytes())?;
        }
        Ok(attr)
    }

    pub(super) fn node(&self, path: &str) -> NodeRef {
        self.lookup(path).unwrap().node
    }

    fn split<'a>(&self, path: &'a str) -> (NodeRef, &'a [u8]) {
        match path.rsplit_once('/') {
            Some((dir, name)) => (self.node(dir), name.as_bytes()),
            None => (TOP, path.as_bytes()),
        }
    }

    pub(super) fn mkdir(&self, path: &str) -> Attr {
        let (dir, name) = self.split(path);
        self.staging.make_dir(&ROOT, dir, name, 0o755, 0).unwrap()
    }

    pub(super) fn create(&self, path: &str) -> Handle {
        let (dir, name) = self.split(path);
        self.staging.create(&ROOT, dir, name, 0o644, 0, libc::O_RDWR | libc::O_CREAT).unwrap().1.handle
    }

    pub(super) fn open_at(&self, path: &str, flags: i32) -> Handle {
        self.staging.open(&ROOT, self.node(path), flags).unwrap().handle
    }

    pub(super) fn write(&self, handle: Handle, offset: u64, data: &[u8]) {
        let mut done = 0;
        while done < data.len() {
            done += self.staging.write(&ROOT, handle, offset + done as u64, &data[done..], false).unwrap() as usize;
        }
    }

    /// Makes or replaces a file.
    pub(super) fn put(&self, path: &str, data: &[u8]) {
        let handle = match self.lookup(path) {
            Ok(_) => self.open_at(path, libc::O_RDWR | libc::O_TRUNC),
            Err(_) => self.create(path),
        };
        self.write(handle, 0, data);
        self.staging.release(handle);
    }

    pub(super) fn unlink(&self, path: &str) -> FsResult<()> {
        let (dir, name) = self.split(path);
        self.staging.unlink(&ROOT, dir, name)
    }

    pub(super) fn get(&self, path: &str) -> Vec<u8> {
        let handle = self.open_at(path, libc::O_RDONLY);
        let bytes = self.read_all(handle);
        self.staging.release(handle);
        bytes
    }

    pub(super) fn read_all(&self, handle: Handle) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            let more = self.staging.read(handle, bytes.len() as u64, 1 << 20).unwrap();
            if more.is_empty() {
                return bytes;
            }
            bytes.extend(more);
        }
    }
}

/// A sealed version.
pub(super) fn stored(store: &Arc<Store>, version: VersionId) -> Snapshot {
    let record = store.catalog().version(version).unwrap().unwrap();
    assert_ne!(record.state, VersionState::Open);
    Snapshot::new(Tree::stored(Nodes::new(Arc::clone(store)), record.root.unwrap()), Arc::clone(store))
}

/// The content of a path in a version.
pub(super) fn read_in(snapshot: &Snapshot, path: &str) -> Option<Vec<u8>> {
    let ino = snapshot.resolve(path.as_bytes()).unwrap()?;
    let size = snapshot.inode(ino).unwrap()?.size;
    Some(snapshot.read(ino, 0, usize::try_from(size).unwrap()).unwrap())
}

/// Bytes that differ from place to place.
pub(super) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..len).map(|_| (next() >> 32) as u8).collect()
}

/// Here no host shares blocks: a write into a large sealed file goes over it.
#[derive(Debug)]
struct NoClones;

impl Disk for NoClones {
    fn around(&self, op: &DiskOp<'_>, run: &mut dyn FnMut(usize) -> io::Result<usize>) -> io::Result<usize> {
        match op {
            DiskOp::Clone { .. } => Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)),
            _ => run(usize::MAX),
        }
    }
}

pub(super) fn without_clones() -> Bench {
    Bench::new().on(Arc::new(NoClones))
}

pub(super) fn with_passthrough() -> Bench {
    Bench::with(StagingOptions { passthrough: true, ..options() })
}

pub(super) fn through(bench: &Bench, path: &str, flags: i32) -> Opened {
    bench.staging.open(&ROOT, bench.node(path), flags).unwrap()
}

/// The host file that the kernel uses itself.
pub(super) fn backing(opened: &Opened) -> &HostFile {
    match &opened.mode {
        OpenMode::Passthrough(file) => file,
        other => panic!("{other:?}"),
    }
}

/// How many host files the store's objects have.
pub(super) fn host_files(store: &Store) -> usize {
    fn count(dir: &std::path::Path) -> usize {
        let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        entries.map(|path| if path.is_dir() { count(&path) } else { 1 }).sum()
    }
    count(&store.path().join("objects"))
}
