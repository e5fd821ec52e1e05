//! What the core does most, apart from FUSE: edits and lookups of the tree, the difference of two versions, a commit of the catalog,
//! packing. `cargo bench`, or `cargo bench -- diff`.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use shadowfs::clock::{Clock, SystemClock, Timestamp};
use shadowfs::ids::{Digest, Ino, VersionId};
use shadowfs::store::event::EventKind;
use shadowfs::store::{SealObject, Store};
use shadowfs::tree::key::{Content, FileKind, InodeRecord, Key, Value};
use shadowfs::tree::{Nodes, Snapshot, Tree, changes};

/// A store in a directory that goes with it. `BENCH_DIR` says on which filesystem; commits and packs are synced there.
struct Bench {
    store: Arc<Store>,
    _dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let at = std::env::var_os("BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
        let dir = tempfile::tempdir_in(at).unwrap();
        let store = Arc::new(Store::init(&dir.path().join("store"), &SystemClock).unwrap());
        Self { store, _dir: dir }
    }

    /// A tree of `files` empty files, in directories of 200, written to the catalog.
    fn tree(&self, files: u64) -> Tree {
        let mut tree = Tree::new_empty(Nodes::new(Arc::clone(&self.store)));
        put(&mut tree, Ino::ROOT, FileKind::Directory, Ino::ROOT, "", 0);
        for n in 0..files {
            let dir = Ino(2 + n / 200 * 201);
            if n % 200 == 0 {
                put(&mut tree, dir, FileKind::Directory, Ino::ROOT, &format!("dir{}", n / 200), 0);
            }
            put(&mut tree, Ino(dir.0 + 1 + n % 200), FileKind::Regular, dir, &format!("file{}", n % 200), 0);
        }
        self.persist(&tree)
    }

    fn persist(&self, tree: &Tree) -> Tree {
        let mut transaction = self.store.catalog().begin().unwrap();
        let persisted = tree.persist(&mut transaction, &|_| Ok(Digest::default())).unwrap();
        transaction.commit().unwrap();
        persisted.committed()
    }

    fn snapshot(&self, tree: &Tree) -> Snapshot {
        Snapshot::new(tree.clone(), Arc::clone(&self.store))
    }
}

/// The inode of file `n`.
fn file(n: u64) -> Ino {
    Ino(2 + n / 200 * 201 + 1 + n % 200)
}

fn record(kind: FileKind, parent: Ino, name: &str, size: u64) -> InodeRecord {
    let at = Timestamp { secs: 1_700_000_000, nanos: 0 };
    InodeRecord {
        kind,
        perm: 0o644,
        uid: 0,
        gid: 0,
        nlink: 1,
        size,
        rdev: 0,
        atime: at,
        mtime: at,
        ctime: at,
        btime: at,
        content: Content::None,
        parent,
        name: name.as_bytes().into(),
        changed_in: VersionId(0),
    }
}

fn put(tree: &mut Tree, ino: Ino, kind: FileKind, parent: Ino, name: &str, size: u64) {
    tree.insert(Key::inode(ino), Value::Inode(Arc::new(record(kind, parent, name, size)))).unwrap();
    if ino != Ino::ROOT {
        tree.insert(Key::dirent(parent, name.as_bytes()), Value::Dirent(ino, kind)).unwrap();
    }
}

/// Numbers spread over 0 to `n`, the same in every run.
fn scattered(n: u64) -> impl FnMut() -> u64 {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % n
    }
}

const FILES: u64 = 100_000;

fn tree(c: &mut Criterion) {
    let bench = Bench::new();
    let base = bench.tree(FILES);
    let mut group = c.benchmark_group("tree of 100,000 files");
    let mut next = scattered(FILES);
    group.bench_function("inode by number", |b| b.iter(|| base.get(black_box(&Key::inode(file(next())))).unwrap()));
    let mut grown = base.clone();
    let mut at = 0;
    group.bench_function("create: record and entry", |b| {
        b.iter(|| {
            at += 1;
            put(&mut grown, Ino(10_000_000 + at), FileKind::Regular, Ino(2), &format!("new{at}"), 0);
        });
    });
    let mut next = scattered(FILES);
    group.bench_function("first edit of a snapshot", |b| {
        b.iter_batched_ref(
            || (base.clone(), file(next())),
            |(tree, ino)| tree.insert(Key::inode(*ino), Value::Inode(Arc::new(record(FileKind::Regular, Ino(2), "changed", 7)))).unwrap(),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn diff(c: &mut Criterion) {
    let mut group = c.benchmark_group("diff of 10 changes");
    for files in [1_000, 100_000] {
        let bench = Bench::new();
        let old = bench.tree(files);
        let mut new = old.clone();
        let mut next = scattered(files);
        for _ in 0..10 {
            let ino = file(next());
            let Some(Value::Inode(before)) = new.get(&Key::inode(ino)).unwrap() else { panic!("no inode {ino}") };
            new.insert(Key::inode(ino), Value::Inode(Arc::new(InodeRecord { size: 9, ..(*before).clone() }))).unwrap();
        }
        let new = bench.persist(&new);
        let (old, new) = (bench.snapshot(&old), bench.snapshot(&new));
        group.bench_function(format!("among {files} files"), |b| b.iter(|| changes(&old, &new).unwrap()));
    }
    group.finish();
}

fn catalog(c: &mut Criterion) {
    let mut group = c.benchmark_group("catalog");
    group.sample_size(50);
    for files in [1_000, 100_000] {
        let bench = Bench::new();
        let _tree = bench.tree(files);
        group.bench_function(format!("commit of an event, durable, beside {files} files"), |b| {
            b.iter(|| {
                let mut transaction = bench.store.catalog().begin().unwrap();
                transaction.append_event(SystemClock.now(), Some(VersionId(0)), EventKind::Validated).unwrap();
                transaction.commit().unwrap();
            });
        });
    }
    group.finish();
}

fn packing(c: &mut Criterion) {
    const OBJECTS: u64 = 1_000;
    let bench = Bench::new();
    let mut group = c.benchmark_group("packing");
    group.sample_size(20).throughput(Throughput::Bytes(OBJECTS * 4096));
    let mut next = scattered(u64::MAX);
    group.bench_function("1,000 objects of 4 KiB, hashed, written, synced", |b| {
        b.iter_batched(
            || {
                let hold = |_| {
                    let object = bench.store.ids().object();
                    let bytes: Vec<u8> = std::iter::repeat_with(|| next().to_le_bytes()).take(512).flatten().collect();
                    bench.store.objects().hold(object, bytes.into());
                    SealObject::Held(object)
                };
                (0..OBJECTS).map(hold).collect::<Vec<_>>()
            },
            |objects| {
                let records = bench.store.objects().seal(&objects).unwrap();
                let mut transaction = bench.store.catalog().begin().unwrap();
                transaction.put_objects(&records).unwrap();
                transaction.commit().unwrap();
                bench.store.objects().sealed(&records);
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, tree, diff, catalog, packing);
criterion_main!(benches);
