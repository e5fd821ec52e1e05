//! The store as a whole: init, its refusals, open, the lock, a kill.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize};

use super::disk::{Disk, DiskOp};
use super::record::{ChangeCounts, VersionRecord, VersionState};
use super::*;
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::ids::{Digest, ObjectId};

/// A disk that refuses writes, lengths or syncs: an errno, or 0.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    pub(super) write: AtomicI32,
    pub(super) len: AtomicI32,
    pub(super) sync: AtomicI32,
    /// So many syncs come through first.
    pub(super) good_syncs: AtomicUsize,
    /// How many operations were refused.
    pub(super) refused: AtomicUsize,
}

impl Disk for Refusals {
    fn around(&self, op: &DiskOp<'_>, run: &mut dyn FnMut(usize) -> io::Result<usize>) -> io::Result<usize> {
        let refusal = match op {
            DiskOp::Write { .. } => &self.write,
            DiskOp::SetLen { .. } => &self.len,
            DiskOp::SyncFile { .. } | DiskOp::SyncDir { .. } | DiskOp::SyncAll => &self.sync,
            _ => return run(usize::MAX),
        };
        match refusal.load(SeqCst) {
            0 => run(usize::MAX),
            _ if matches!(op, DiskOp::SyncFile { .. })
                && self.good_syncs.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok() =>
            {
                run(usize::MAX)
            }
            errno => {
                self.refused.fetch_add(1, SeqCst);
                Err(io::Error::from_raw_os_error(errno))
            }
        }
    }
}

/// A disk that is full until room is given back.
#[derive(Debug, Default)]
struct Full {
    full: AtomicBool,
}

impl Disk for Full {
    fn around(&self, op: &DiskOp<'_>, run: &mut dyn FnMut(usize) -> io::Result<usize>) -> io::Result<usize> {
        match op {
            DiskOp::SetLen { len: 0, .. } => self.full.store(false, SeqCst),
            DiskOp::Write { .. } | DiskOp::Open { create: true, .. } | DiskOp::Allocate { .. } if self.full.load(SeqCst) => {
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
            _ => {}
        }
        run(usize::MAX)
    }
}

#[test]
fn on_a_full_disk_the_reserve_goes_to_what_must_go_on_and_not_to_large_files() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(Full::default());
    let store = Store::init_on(&dir.path().join("store"), &SystemClock, Some(Arc::clone(&disk) as _)).unwrap();
    let commit = || {
        let mut transaction = store.catalog().begin()?;
        transaction.put_version(&version_record(VersionId(0), VersionState::Valid))?;
        transaction.commit()
    };
    let full = || disk.full.store(true, SeqCst);
    store.keep_reserve(1 << 20).unwrap();
    assert_eq!(store.reserve_missing(), 0);
    full();
    let error = store.objects().create(ObjectId(1)).unwrap_err();
    assert_eq!((error.errno(), store.reserve_missing()), (libc::ENOSPC, 0));
    commit().unwrap();
    assert_eq!(store.reserve_missing(), 1 << 20);
    full();
    assert_eq!(commit().unwrap_err().errno(), libc::ENOSPC, "it is spent");
    disk.full.store(false, SeqCst);
    commit().unwrap();
    assert_eq!(store.renew_reserve().unwrap(), 0);
    full();
    let mut journal = store.journal(VersionId(1)).unwrap();
    journal.append(&[JournalRecord::Sealed { message: None }]).unwrap();
    journal.sync().unwrap();
    assert_eq!(store.reserve_missing(), 1 << 20);
    assert_eq!(store.renew_reserve().unwrap(), 0);
    store.keep_reserve(0).unwrap();
    full();
    assert_eq!(store.put_note("hold", b"{}").unwrap_err().errno(), libc::ENOSPC, "none is kept");
}

/// A version's record with little in it.
pub(super) fn version_record(version: VersionId, state: VersionState) -> VersionRecord {
    VersionRecord {
        version,
        state,
        parent: version.0.checked_sub(1).map(VersionId),
        root: None,
        message: Some("a message".to_owned()),
        opened_at: Timestamp { secs: 7, nanos: 8 },
        sealed_at: None,
        decided_at: None,
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

/// A store with a version in it, so that it can be opened again.
pub(super) fn made(path: &Path) -> Store {
    let store = Store::init(path, &SystemClock).unwrap();
    let mut transaction = store.catalog().begin().unwrap();
    transaction.put_version(&version_record(VersionId::FIRST, VersionState::Promoted)).unwrap();
    transaction.commit().unwrap();
    store
}

pub(super) fn temp() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in from.read_dir().unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn init_makes_a_private_store_that_opens_again() {
    let temp = temp();
    let path = temp.path().join("store");
    let before = SystemClock.now();
    drop(made(&path));
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o700);
    assert_eq!(std::fs::read_to_string(path.join("format")).unwrap(), "shadowfs store, format 1\n");
    for file in ["format", "catalog.redb"] {
        assert_eq!(path.join(file).metadata().unwrap().permissions().mode() & 0o7777, 0o600, "{file}");
    }
    let store = Store::open(&path).unwrap();
    assert_eq!(store.path(), path);
    assert!(store.catalog().created_at().unwrap() >= before);
    assert_eq!(store.catalog().versions().unwrap().len(), 1);
    let space = store.space().unwrap();
    assert!(space.used > 0 && space.total >= space.free, "{space:?}");
}

#[test]
fn init_takes_an_empty_directory_and_refuses_any_other() {
    let temp = temp();
    let empty = temp.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    drop(made(&empty));
    assert_eq!(empty.metadata().unwrap().permissions().mode() & 0o7777, 0o700);

    let full = temp.path().join("full");
    std::fs::create_dir(&full).unwrap();
    std::fs::write(full.join("file"), "x").unwrap();
    let message = |path: &Path| Store::init(path, &SystemClock).unwrap_err().to_string();
    assert_eq!(message(&full), format!("{} exists and is not an empty directory; init needs a new or empty one", full.display()));
    assert_eq!(full.read_dir().unwrap().count(), 1);
    assert_eq!(message(&empty), format!("{} exists and is not an empty directory; init needs a new or empty one", empty.display()));

    let file = full.join("file");
    assert_eq!(message(&file), format!("{} exists and is not an empty directory; init needs a new or empty one", file.display()));
    let nowhere = temp.path().join("no/where");
    assert_eq!(message(&nowhere), format!("create {}: No such file or directory (os error 2)", nowhere.display()));
    assert!(!temp.path().join("no").exists());
}

#[test]
fn open_says_what_is_wrong() {
    let temp = temp();
    let message = |path: &Path| Store::open(path).unwrap_err().to_string();
    let path = temp.path().join("store");
    let no_store = format!("{0} is not a store; \"shadowfs init {0}\" makes one", path.display());
    assert_eq!(message(&path), no_store);
    std::fs::create_dir(&path).unwrap();
    assert_eq!(message(&path), no_store);
    std::fs::write(path.join("format"), "something else").unwrap();
    assert_eq!(message(&path), no_store);
    std::fs::write(path.join("format"), b"\xff\xfe").unwrap();
    assert_eq!(message(&path), no_store);
    std::fs::write(path.join("format"), "shadowfs store, format 2\n").unwrap();
    assert_eq!(message(&path), format!("{} has store format 2, this shadowfs knows formats up to 1; use a newer shadowfs", path.display()));
    std::fs::write(path.join("format"), "shadowfs store, format 1\n").unwrap();
    assert_eq!(message(&path), format!("damaged store: {} has no catalog.redb", path.display()));
    std::fs::write(path.join("catalog.redb"), "").unwrap();
    assert_eq!(message(&path), "damaged store: catalog.redb is empty");
    std::fs::write(path.join("catalog.redb"), [7; 8192]).unwrap();
    assert!(message(&path).starts_with("damaged store: catalog.redb: "), "{}", message(&path));
    let file = path.join("format");
    assert_eq!(message(&file), format!("{0} is not a store; \"shadowfs init {0}\" makes one", file.display()));
}

#[test]
fn a_store_is_open_once() {
    let temp = temp();
    let path = temp.path().join("store");
    let store = made(&path);
    let error = Store::open(&path).unwrap_err();
    assert_eq!(error.to_string(), format!("{} is in use by another shadowfs process", path.display()));
    assert_eq!(error.errno(), libc::EBUSY);
    drop(store);
    Store::open(&path).unwrap();
}

#[test]
fn an_init_without_a_version_is_unfinished_and_can_be_undone() {
    let temp = temp();
    let path = temp.path().join("store");
    drop(Store::init(&path, &SystemClock).unwrap());
    let message = Store::open(&path).unwrap_err().to_string();
    assert_eq!(message, format!("{} is a store whose init did not finish; run init again, it begins anew", path.display()));
    // As if what is beside its own was another's: that stays.
    std::fs::write(path.join("notes.txt"), "mine").unwrap();
    drop(made(&path));
    assert_eq!(std::fs::read_to_string(path.join("notes.txt")).unwrap(), "mine");
    assert!(path.join("unfinished").exists(), "until the store is opened");
    drop(Store::open(&path).unwrap());
    assert!(!path.join("unfinished").exists());
    assert!(matches!(Store::init(&path, &SystemClock), Err(StoreError::Exists { .. })));

    let running = temp.path().join("running");
    let _held = Store::init(&running, &SystemClock).unwrap();
    assert!(matches!(Store::init(&running, &SystemClock), Err(StoreError::InUse { .. })));
    assert!(running.join("catalog.redb").exists());

    let undone = temp.path().join("undone");
    Store::init(&undone, &SystemClock).unwrap().undo_init().unwrap();
    assert!(!undone.exists());

    let there = temp.path().join("there");
    std::fs::create_dir(&there).unwrap();
    let store = Store::init(&there, &SystemClock).unwrap();
    store.objects().create(ObjectId(3)).unwrap();
    store.undo_init().unwrap();
    assert_eq!(there.read_dir().unwrap().count(), 0);

    let kept = temp.path().join("kept");
    made(&kept).undo_init().unwrap_err();
    Store::open(&kept).unwrap();
}

#[test]
fn a_store_copied_while_it_is_open_opens_as_after_a_kill() {
    let temp = temp();
    let path = temp.path().join("store");
    let store = made(&path);
    for number in 1..=20 {
        let mut transaction = store.catalog().begin().unwrap();
        transaction.put_version(&version_record(VersionId(number), VersionState::Checking)).unwrap();
        transaction.commit().unwrap();
    }
    let mut journal = store.journal(VersionId(21)).unwrap();
    journal.append(&[JournalRecord::Sealed { message: None }]).unwrap();
    journal.sync().unwrap();
    let mut unfinished = store.catalog().begin().unwrap();
    unfinished.put_version(&version_record(VersionId(99), VersionState::Checking)).unwrap();

    let copy = temp.path().join("copy");
    copy_dir(&path, &copy);
    let copy = Store::open(&copy).unwrap();
    assert_eq!(copy.catalog().versions().unwrap().len(), 21);
    assert_eq!(copy.replay(VersionId(21)).unwrap(), [JournalRecord::Sealed { message: None }]);
    assert_eq!(copy.ids().version(), VersionId(22), "a journal's number is taken");
    drop(unfinished);
}

#[test]
fn numbers_given_out_are_not_given_again_after_a_commit() {
    let temp = temp();
    let path = temp.path().join("store");
    let store = made(&path);
    let given = (store.ids().ino(), store.ids().object(), store.ids().node(), store.ids().pack(), store.ids().version());
    assert_eq!(given.0.0, 2);
    assert_eq!(given.4, VersionId(1));
    store.catalog().begin().unwrap().commit().unwrap();
    drop(store);
    // What a crash left, and what somebody did.
    for pack in [70, u64::MAX] {
        std::fs::write(path.join(format!("packs/{pack}")), "x").unwrap();
    }
    let store = Store::open(&path).unwrap();
    assert_eq!(store.ids().pack().0, 71, "a sweep may be about to remove 70");
    store.ids().raise_ino(crate::ids::Ino(100));
    store.ids().raise_ino(crate::ids::Ino(50));
    assert_eq!(store.ids().ino().0, 100);
    assert!(store.ids().object() > given.1 && store.ids().node() > given.2 && store.ids().pack() > given.3);
    assert!(store.ids().version() > given.4);
}

#[test]
fn journals_of_ended_versions_go_at_open_and_those_of_open_ones_stay() {
    let temp = temp();
    let path = temp.path().join("store");
    let store = made(&path);
    let states = [VersionState::Open, VersionState::Checking, VersionState::Aborted];
    let mut transaction = store.catalog().begin().unwrap();
    for (number, state) in (1..).zip(states) {
        transaction.put_version(&version_record(VersionId(number), state)).unwrap();
    }
    transaction.commit().unwrap();
    for number in [1, 2, 3, 40] {
        store.journal(VersionId(number)).unwrap().sync().unwrap();
    }
    std::fs::write(path.join("journal/t01"), "not ours").unwrap();
    drop(store);
    let store = Store::open(&path).unwrap();
    assert_eq!(store.journals().unwrap(), [VersionId(1), VersionId(40)]);
    store.remove_journal(VersionId(1)).unwrap();
    store.remove_journal(VersionId(1)).unwrap();
    assert_eq!(store.journals().unwrap(), [VersionId(40)]);
}

#[test]
fn logs_have_their_place_whatever_the_checks_name() {
    let temp = temp();
    let store = made(&temp.path().join("store"));
    let place = store.log_place(VersionId(3), "rows", 2).unwrap();
    assert!(place.path().ends_with("logs/t3/rows.2.log"));
    for text in ["longer output", "output"] {
        let mut log = place.create().unwrap();
        log.write_all(text.as_bytes()).unwrap();
        log.sync(true).unwrap();
        assert_eq!(std::fs::read_to_string(place.path()).unwrap(), text);
    }
    let other = store.log_place(VersionId(3), "../../format", 1).unwrap();
    assert!(other.path().ends_with("logs/t3/.._.._format.1.log"));
}

#[test]
fn nothing_is_opened_through_a_symbolic_link() {
    let temp = temp();
    let path = temp.path().join("store");
    let store = made(&path);
    let elsewhere = temp.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::remove_dir(path.join("objects/05")).unwrap();
    std::os::unix::fs::symlink(&elsewhere, path.join("objects/05")).unwrap();
    let error = store.objects().create(ObjectId(5)).unwrap_err();
    assert_eq!(error.errno(), libc::ELOOP);
    assert!(error.to_string().starts_with("create objects/05/5: "), "{error}");
    assert_eq!(elsewhere.read_dir().unwrap().count(), 0);
}

#[test]
fn errors_keep_the_disks_errno() {
    let full = || std::io::Error::from_raw_os_error(libc::ENOSPC);
    assert_eq!(StoreError::io("write packs/1", full()).errno(), libc::ENOSPC);
    assert_eq!(StoreError::catalog("commit", redb::Error::Io(full())).errno(), libc::ENOSPC);
    assert_eq!(StoreError::catalog("commit", redb::Error::PreviousIo).errno(), libc::EIO);
    assert_eq!(StoreError::damaged("node 3").errno(), libc::EIO);
    assert_eq!(StoreError::io("write packs/1", full()).to_string(), "write packs/1: No space left on device (os error 28)");
}

#[test]
fn damaged_records_are_errors_and_never_more() {
    let record = version_record(VersionId(4), VersionState::Ghost);
    let bytes = codec::encode(&record);
    assert_eq!(codec::decode::<VersionRecord>(&bytes).unwrap(), record);
    for cut in 0..bytes.len() {
        codec::decode::<VersionRecord>(&bytes[..cut]).unwrap_err();
    }
    assert_eq!(codec::decode::<VersionRecord>(&[]), Err(codec::CodecError::Empty));
    assert_eq!(codec::decode::<u64>(&[9, 1]), Err(codec::CodecError::Format(9)));
    let longer = [bytes.as_slice(), &[0]].concat();
    assert_eq!(codec::decode::<VersionRecord>(&longer), Err(codec::CodecError::Trailing(1)));
    // A length of 2^63 in a few bytes.
    let huge = [1, 253, 0, 0, 0, 0, 0, 0, 0, 128];
    assert!(matches!(codec::decode::<Vec<u8>>(&huge), Err(codec::CodecError::Undecodable(_))));
    assert!(matches!(codec::decode::<String>(&huge), Err(codec::CodecError::Undecodable(_))));
    assert!(matches!(codec::decode::<Vec<Digest>>(&huge), Err(codec::CodecError::Undecodable(_))));
    assert!(matches!(codec::decode::<JournalRecord>(&[1, 2, 253, 0, 0, 0, 0, 0, 0, 0, 128]), Err(codec::CodecError::Undecodable(_))));
}
