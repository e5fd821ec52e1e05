//! Tests of the import: a directory with every kind of file is brought in and compared with what it was.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt};

use tempfile::TempDir;

use super::*;
use crate::clock::SystemClock;
use crate::tree::Snapshot;

struct Made {
    _dir: TempDir,
    source: PathBuf,
    store: Arc<Store>,
}

fn made() -> Made {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    let store = Arc::new(Store::init(&dir.path().join("store"), &SystemClock).unwrap());
    Made { source, store, _dir: dir }
}

impl Made {
    fn write(&self, path: &str, bytes: &[u8]) {
        fs::write(self.source.join(path), bytes).unwrap();
    }

    fn import(&self) -> Result<VersionRecord, ImportError> {
        import(&self.store, &self.source, &SystemClock, &|_, _| ())
    }
}

fn snapshot(store: &Arc<Store>, record: &VersionRecord) -> Snapshot {
    Snapshot::new(Tree::stored(Nodes::new(Arc::clone(store)), record.root.unwrap()), Arc::clone(store))
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) -> bool {
    rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty()).is_ok()
}

/// Every kind of entry that this user may make.
fn fill(made: &Made) {
    let at = |path: &str| made.source.join(path);
    made.write("small", b"some bytes");
    made.write("empty", b"");
    made.write("large", &(0..300_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>());
    for dir in ["dir", "dir/below", "dir/empty", "many"] {
        fs::create_dir(at(dir)).unwrap();
    }
    for n in 0..700 {
        made.write(&format!("many/{n}"), format!("{}", n % 400).as_bytes());
    }
    made.write("dir/below/file", b"x");
    fs::hard_link(at("small"), at("dir/small-again")).unwrap();
    fs::hard_link(at("small"), at("dir/below/small-too")).unwrap();
    std::os::unix::fs::symlink("../nowhere/\u{e9}", at("dir/symlink")).unwrap();
    let odd = at("").join(std::ffi::OsStr::from_bytes(b"odd \xff\n name"));
    fs::write(&odd, b"odd").unwrap();
    let sparse = File::create(at("sparse")).unwrap();
    sparse.set_len(50 << 20).unwrap();
    sparse.write_all_at(b"middle", 20 << 20).unwrap();
    File::create(at("hole")).unwrap().set_len(10_000).unwrap();
    nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::from_bits_truncate(0o640)).unwrap();
    drop(std::os::unix::net::UnixListener::bind(at("socket")).unwrap());
    if nix::unistd::geteuid().is_root() {
        use nix::sys::stat::{Mode, SFlag, makedev, mknod};
        mknod(&at("char"), SFlag::S_IFCHR, Mode::from_bits_truncate(0o600), makedev(1, 3)).unwrap();
        mknod(&at("block"), SFlag::S_IFBLK, Mode::from_bits_truncate(0o600), makedev(7, 300)).unwrap();
        std::os::unix::fs::lchown(at("dir/symlink"), Some(1234), Some(70_000)).unwrap();
        std::os::unix::fs::chown(at("dir"), Some(4321), Some(80_000)).unwrap();
    }
    set_xattr(&at("small"), "user.note", b"a value");
    set_xattr(&at("dir"), "user.long", &[b'v'; 2000]);
    fs::set_permissions(at("small"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::set_permissions(at("dir/empty"), fs::Permissions::from_mode(0o1777)).unwrap();
    let old = std::time::UNIX_EPOCH - std::time::Duration::new(1000, 5);
    File::open(at("empty")).unwrap().set_modified(old).unwrap();
}

/// Compares an entry of the source with the one that was brought in, and goes on below.
fn compare(path: &Path, state: &Snapshot, ino: Ino, inodes: &mut BTreeMap<u64, Ino>) -> u64 {
    let status = path.symlink_metadata().unwrap();
    let record = state.inode(ino).unwrap().unwrap();
    let shown = path.display();
    assert_eq!(*inodes.entry(status.ino()).or_insert(ino), ino, "{shown}: names of one file stay names of one file");
    let kind = status.file_type();
    let found = match record.kind {
        FileKind::Regular => kind.is_file(),
        FileKind::Directory => kind.is_dir(),
        FileKind::Symlink => kind.is_symlink(),
        FileKind::Fifo => kind.is_fifo(),
        FileKind::Socket => kind.is_socket(),
        FileKind::CharDevice => kind.is_char_device(),
        FileKind::BlockDevice => kind.is_block_device(),
    };
    assert!(found, "{shown}: {kind:?}");
    let of_record = (u32::from(record.perm), record.uid, record.gid, u64::from(record.rdev));
    assert_eq!(of_record, (status.mode() & 0o7777, status.uid(), status.gid(), status.rdev()), "{shown}");
    // Some hosts do not count the directories in a directory (btrfs).
    if !kind.is_dir() || status.nlink() > 1 {
        assert_eq!(u64::from(record.nlink), status.nlink(), "{shown}");
    }
    assert_eq!((record.mtime.secs, i64::from(record.mtime.nanos)), (status.mtime(), status.mtime_nsec()), "{shown}");
    assert_eq!((record.ctime.secs, i64::from(record.ctime.nanos)), (status.ctime(), status.ctime_nsec()), "{shown}");
    let mut xattrs = BTreeMap::new();
    for (name, value) in state.xattrs(ino).unwrap() {
        let mut there = [0; 5000];
        let len = rustix::fs::lgetxattr(path, &*name, &mut there[..]).unwrap();
        assert_eq!(there[..len], *value, "{shown}");
        xattrs.insert(name, value);
    }
    let listed = rustix::fs::llistxattr(path, &mut [0_u8; 5000][..]).unwrap();
    assert_eq!(listed, xattrs.keys().map(|name| name.len() + 1).sum::<usize>(), "{shown}");
    let mut count = 1;
    match record.kind {
        FileKind::Regular => {
            assert_eq!(record.size, status.len(), "{shown}");
            let bytes = state.read(ino, 0, usize::MAX).unwrap();
            assert!(bytes == fs::read(path).unwrap(), "{shown}: other bytes");
        }
        FileKind::Symlink => {
            assert_eq!(record.content, Content::Inline(fs::read_link(path).unwrap().as_os_str().as_bytes().into()), "{shown}");
        }
        FileKind::Directory => {
            let mut names: Vec<Vec<u8>> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().as_bytes().to_vec()).collect();
            names.sort();
            let entries = state.entries(ino, 0, usize::MAX).unwrap();
            assert_eq!(names, entries.iter().map(|(name, ..)| name.to_vec()).collect::<Vec<_>>(), "{shown}");
            for (name, below, _) in entries {
                count += compare(&path.join(std::ffi::OsStr::from_bytes(&name)), state, below, inodes);
            }
        }
        _ => {}
    }
    count
}

#[test]
fn every_kind_of_entry_comes_in_as_it_is() {
    let made = made();
    fill(&made);
    let told = Cell::new((0, 0));
    let record = import(&made.store, &made.source, &SystemClock, &|files, bytes| told.set((files, bytes))).unwrap();
    let state = snapshot(&made.store, &record);
    let count = compare(&made.source, &state, Ino::ROOT, &mut BTreeMap::new());
    assert_eq!(told.get().0, count - 1, "progress counts every entry but the root");
    assert_eq!(record.changes.added, count - 1);
    let digest = |object| Ok(made.store.objects().digest(object)?);
    state.tree.verify(&digest, &mut |_| false).unwrap();
    // Names of one inode are found from the inode.
    let small = state.resolve(b"small").unwrap().unwrap();
    let mut paths = state.all_paths_of(small).unwrap();
    paths.sort();
    assert_eq!(paths, [&b"dir/below/small-too"[..], b"dir/small-again", b"small"]);
}

#[test]
fn a_sparse_file_stays_sparse() {
    let made = made();
    fill(&made);
    let record = made.import().unwrap();
    let state = snapshot(&made.store, &record);
    let hole = state.inode(state.resolve(b"hole").unwrap().unwrap()).unwrap().unwrap();
    assert_eq!((&hole.content, hole.size), (&Content::None, 10_000));
    let sparse = state.inode(state.resolve(b"sparse").unwrap().unwrap()).unwrap().unwrap();
    let Content::Object(object) = sparse.content else { panic!("{:?}", sparse.content) };
    let file = made.store.objects().open_file(object).unwrap().unwrap();
    assert_eq!(file.metadata().unwrap().len(), 50 << 20);
    assert!(file.metadata().unwrap().blocks() < 1000);
}

#[test]
fn the_first_version_is_there_after_the_store_is_opened_again() {
    let made = made();
    fill(&made);
    let record = made.import().unwrap();
    let path = made.store.path().to_owned();
    drop(made.store);
    let store = Arc::new(Store::open(&path).unwrap());
    assert_eq!(store.catalog().version(VersionId::FIRST).unwrap(), Some(record.clone()));
    assert_eq!((record.state, record.passed), (VersionState::Promoted, true));
    compare(&made.source, &snapshot(&store, &record), Ino::ROOT, &mut BTreeMap::new());
    // No number is given twice.
    let state = snapshot(&store, &record);
    assert!(state.inode(store.ids().ino()).unwrap().is_none());
    assert!(store.catalog().object(store.ids().object()).unwrap().is_none());
    let events: Vec<_> = store.catalog().events(crate::ids::EventSeq(0)).unwrap().into_iter().map(|event| event.what).collect();
    assert!(
        matches!(&events[..], [EventKind::Initialized { from: Some(_) }, EventKind::Sealed { .. }, EventKind::Validated]),
        "{events:?}"
    );
}

#[test]
fn an_empty_store_has_an_empty_root() {
    let made = made();
    let record = empty(&made.store, &SystemClock).unwrap();
    let state = snapshot(&made.store, &record);
    assert_eq!(state.tree.len(), 1);
    assert_eq!(state.inode(Ino::ROOT).unwrap().unwrap().kind, FileKind::Directory);
}

#[test]
fn a_store_in_its_own_dataset_is_refused() {
    let made = made();
    let above = made.source.parent().unwrap().to_owned();
    let error = import(&made.store, &above, &SystemClock, &|_, _| ()).unwrap_err();
    assert!(matches!(error, ImportError::Inside { .. }), "{error}");
    assert!(error.to_string().contains(&above.display().to_string()));
}

#[test]
fn a_source_that_is_not_there_or_no_directory_is_named() {
    let made = made();
    made.write("file", b"");
    for path in ["nothing", "file"] {
        let path = made.source.join(path);
        let error = import(&made.store, &path, &SystemClock, &|_, _| ()).unwrap_err();
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    }
}

#[test]
fn a_file_that_changes_under_the_import_is_named() {
    let made = made();
    made.write("file", &[1; 100_000]);
    // The listing has seen the file as it was; then it grows, gives way to another, or goes.
    let changes: [&dyn Fn(&Path); 3] = [
        &|path| fs::write(path, [2; 100_001]).unwrap(),
        &|path| {
            fs::remove_file(path).unwrap();
            std::os::unix::fs::symlink("/etc/passwd", path).unwrap();
        },
        &|path| fs::remove_file(path).unwrap(),
    ];
    for change in changes {
        let dir = Dir::open_root(&made.source).unwrap();
        let before = dir.status_of(b"file").unwrap();
        change(&made.source.join("file"));
        let error = match dir.open_file(b"file") {
            Ok(file) => {
                use std::os::fd::AsFd;
                let after = source::status_of_open(file.as_fd()).unwrap();
                assert!(!source::is_unchanged(&before, &after));
                continue;
            }
            Err(error) => error,
        };
        assert!(matches!(error, ImportError::Changed { .. }), "{error}");
        assert!(error.to_string().contains("file changed while it was read"), "{error}");
    }
}
