//! What survives: fsync, the writer's rounds, kills, versions that were frozen and not sealed.

use std::collections::HashSet;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::bench::{Bench, ROOT, backing, host_files, noise, read_in, stored, through, with_passthrough, without_clones};
use crate::ids::VersionId;
use crate::store::disk::{Disk, DiskOp};
use crate::store::record::VersionState;
use crate::store::{JournalRecord, codec};
use crate::tree::key::{FileKind, Key, Value};
use crate::version::error::FsError;
use crate::version::staging::journal::errno_of;
use crate::version::staging::{NodeRef, RebaseOutcome, RenameMode, StagingEvent};

const LARGE: usize = 300 << 10;

#[test]
fn what_was_fsynced_survives_a_kill_whole() {
    let bench = Bench::new();
    bench.put("base", &noise(LARGE, 1));
    let _ = bench.seal();
    bench.mkdir("d");
    let small = bench.create("d/small");
    bench.write(small, 0, b"small");
    let large = bench.create("large");
    bench.write(large, 0, &noise(LARGE, 2));
    let base = bench.open_at("base", libc::O_RDWR);
    bench.write(base, 100, b"over");
    for handle in [small, large, base] {
        bench.staging.fsync(handle, false).unwrap();
    }
    bench.write(small, 5, b" and more");
    bench.staging.fsync(small, true).unwrap();
    let bench = bench.crash();
    assert_eq!(bench.get("d/small"), b"small and more");
    assert_eq!(bench.get("large"), noise(LARGE, 2));
    assert_eq!(bench.get("base")[100..104], *b"over");
    assert_eq!(bench.staging.activity().version, Some(VersionId(2)), "the version is still open");
    assert!(matches!(bench.events.try_recv().unwrap(), StagingEvent::Opened { version: VersionId(2), parent: VersionId(1), .. }));
    // It takes changes on, in the same objects, and survives once more.
    let base = bench.open_at("base", libc::O_RDWR);
    bench.write(base, 104, b"lay");
    bench.staging.fsync(base, false).unwrap();
    bench.put("d/new", b"new");
    bench.staging.sync_all().unwrap();
    let bench = bench.crash();
    assert_eq!(bench.get("base")[100..107], *b"overlay");
    assert_eq!(bench.get("d/new"), b"new");
    let (record, snapshot) = bench.seal();
    assert_eq!(record.version, VersionId(2));
    assert_eq!(read_in(&snapshot, "d/small").unwrap(), b"small and more");
}

/// A disk that counts syncs of journals, and has no room for them while it is full.
#[derive(Debug, Default)]
struct JournalDisk {
    opened: AtomicUsize,
    journals: Mutex<HashSet<usize>>,
    syncs: AtomicUsize,
    full: AtomicBool,
}

impl Disk for JournalDisk {
    fn around(&self, op: &DiskOp<'_>, run: &mut dyn FnMut(usize) -> io::Result<usize>) -> io::Result<usize> {
        match op {
            DiskOp::Open { .. } | DiskOp::OpenUnnamed { .. } => {
                run(usize::MAX)?;
                let number = self.opened.fetch_add(1, Ordering::AcqRel) + 1;
                if matches!(op, DiskOp::Open { name, .. } if name.starts_with("journal/")) {
                    self.journals.lock().insert(number);
                }
                return Ok(number);
            }
            DiskOp::SyncFile { file } if self.journals.lock().contains(file) => {
                self.syncs.fetch_add(1, Ordering::AcqRel);
            }
            DiskOp::Write { file, .. } | DiskOp::Allocate { file, .. }
                if self.full.load(Ordering::Acquire) && self.journals.lock().contains(file) =>
            {
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
            _ => {}
        }
        run(usize::MAX)
    }
}

#[test]
fn an_fdatasync_writes_the_journal_only_for_more_than_times() {
    let disk = Arc::new(JournalDisk::default());
    let bench = with_passthrough().on(Arc::clone(&disk) as Arc<dyn Disk>);
    bench.put("f", &noise(LARGE, 1));
    let f = through(&bench, "f", libc::O_RDWR);
    let syncs = |datasync| {
        let before = disk.syncs.load(Ordering::Acquire);
        bench.staging.fsync(f.handle, datasync).unwrap();
        disk.syncs.load(Ordering::Acquire) - before
    };
    let write = |byte: u8, offset| backing(&f).write_all_at(&[byte], offset).unwrap();
    assert_eq!(syncs(true), 1, "the file is new");
    write(1, 0);
    assert_eq!(syncs(true), 0, "nothing but its times has changed");
    write(2, 1);
    assert_eq!(syncs(false), 1, "fsync has the times, too");
    write(3, LARGE as u64);
    assert_eq!(syncs(true), 1, "it has grown");
    bench.mkdir("d");
    assert_eq!(syncs(true), 1, "there is another change before it");
    write(4, 2);
    // Handed to the kernel is not durable yet.
    bench.put("g", b"g");
    bench.staging.write_behind(false, false);
    assert_eq!(syncs(true), 1);
    write(5, 3);
    assert_eq!(syncs(true), 0);
    // Who asks for the length has it looked up, which is not the journal's knowledge yet.
    write(6, LARGE as u64 + 1);
    assert_eq!(bench.staging.attr(bench.node("f"), Some(f.handle)).unwrap().size, LARGE as u64 + 2);
    assert_eq!(syncs(true), 1);
    let bench = bench.crash();
    let bytes = bench.get("f");
    assert_eq!((&bytes[..4], &bytes[LARGE..]), (&[1, 2, 4, 5][..], &[3, 6][..]));
    assert_eq!(bench.get("g"), b"g");
}

#[test]
fn an_fdatasync_of_a_new_file_that_somebody_has_asked_for_saves_what_leads_to_it() {
    let bench = with_passthrough();
    let opened = bench.staging.create(&ROOT, NodeRef::ROOT, b"f", 0o644, 0, libc::O_RDWR).unwrap().1;
    bench.staging.fsync(opened.handle, false).unwrap();
    backing(&opened).write_all_at(&noise(LARGE, 1), 0).unwrap();
    assert_eq!(bench.lookup("f").unwrap().size, LARGE as u64);
    bench.staging.fsync(opened.handle, true).unwrap();
    assert!(bench.crash().get("f") == noise(LARGE, 1));
}

#[test]
fn the_first_fsync_after_a_kill_makes_durable_what_the_killed_had_only_written() {
    let disk = Arc::new(JournalDisk::default());
    let bench = Bench::new();
    bench.put("f", b"f");
    bench.staging.write_behind(false, false);
    let bench = bench.crash().on(Arc::clone(&disk) as Arc<dyn Disk>);
    let f = bench.open_at("f", libc::O_RDWR);
    bench.staging.fsync(f, false).unwrap();
    assert_eq!(disk.syncs.load(Ordering::Acquire), 1);
    bench.staging.fsync(f, false).unwrap();
    assert_eq!(disk.syncs.load(Ordering::Acquire), 1, "it is durable");
}

#[test]
fn who_had_a_file_open_when_the_daemon_was_killed_writes_into_nothing_that_is_there_afterwards() {
    let bench = with_passthrough();
    bench.put("written", &noise(LARGE, 1));
    let written = through(&bench, "written", libc::O_RDWR);
    backing(&written).write_all_at(b"before", 0).unwrap();
    bench.staging.sync_all().unwrap();
    backing(&written).write_all_at(b"meanwhile", 6).unwrap();
    // The kernel keeps what it has in passthrough open whatever becomes of the daemon.
    let old = backing(&written).host().try_clone().unwrap();
    let bench = bench.crash();
    let found = bench.get("written");
    assert_eq!(&found[..15], b"beforemeanwhile");
    old.write_all_at(b"after it", 0).unwrap();
    assert!(bench.get("written") == found);
    let (record, snapshot) = bench.seal();
    old.write_all_at(b"after the seal", 0).unwrap();
    assert!(read_in(&snapshot, "written").unwrap() == found && record.state == VersionState::Checking);
    assert_eq!(host_files(&bench.store), 1);
}

#[test]
fn what_a_power_loss_took_from_the_end_of_an_overlay_is_a_hole() {
    let bench = without_clones();
    bench.put("base", &noise(LARGE, 1));
    let _ = bench.seal();
    let base = bench.open_at("base", libc::O_RDWR);
    for (offset, bytes) in [(100, b"one"), (LARGE as u64 - 3, b"two"), (LARGE as u64 + 5000, b"end")] {
        bench.write(base, offset, bytes);
    }
    // The journal alone is durable, by way of another file.
    bench.staging.fsync_dir(base).unwrap();
    let objects = bench.store.path().join("objects");
    let dirs = std::fs::read_dir(objects).unwrap().map(|dir| dir.unwrap().path());
    let files = dirs.flat_map(|dir| std::fs::read_dir(dir).unwrap()).map(|file| file.unwrap().path());
    let overlay = files.max_by_key(|path| path.file_name().unwrap().to_str().unwrap().parse::<u64>().unwrap()).unwrap();
    let bench = bench.crash_with(|| std::fs::File::options().write(true).open(&overlay).unwrap().set_len(103).unwrap());
    let found = bench.get("base");
    let mut expected = noise(LARGE, 1);
    expected[100..103].copy_from_slice(b"one");
    expected[LARGE - 3..].fill(0);
    expected.resize(LARGE + 5003, 0);
    assert!(found == expected);
    let (_, snapshot) = bench.seal();
    assert!(read_in(&snapshot, "base").unwrap() == expected);
}

#[test]
fn a_removed_file_goes_also_if_the_disk_was_full_when_its_removal_was_to_be_saved() {
    let disk = Arc::new(JournalDisk::default());
    let bench = Bench::new().on(Arc::clone(&disk) as Arc<dyn Disk>);
    bench.put("f", &noise(LARGE, 1));
    bench.staging.sync_all().unwrap();
    assert_eq!(host_files(&bench.store), 1);
    bench.unlink("f").unwrap();
    disk.full.store(true, Ordering::Release);
    for number in 0..3u8 {
        // More than the room that the journal has made ahead.
        bench.put(&format!("more{number}"), &noise(30 << 10, u64::from(number)));
        assert_eq!(errno_of(&bench.staging.sync_all().unwrap_err()), libc::ENOSPC);
    }
    assert_eq!(host_files(&bench.store), 1, "a crash may bring its entry back");
    disk.full.store(false, Ordering::Release);
    assert_eq!(kept(&bench), 0);
    assert_eq!(bench.crash().get("more2"), noise(30 << 10, 2));
}

/// How many host files there are after everything that was done is durable, twice.
fn kept(bench: &Bench) -> usize {
    for _ in 0..2 {
        bench.staging.sync_all().unwrap();
    }
    host_files(&bench.store)
}

#[test]
fn what_replaces_or_removes_a_durable_file_takes_it_away_only_when_that_is_durable_too() {
    let (one, two) = (noise(LARGE, 1), noise(LARGE, 2));
    type Change = fn(&Bench);
    let changes: [(Change, Option<&[u8]>); 3] = [
        (|bench| bench.staging.rename(&ROOT, NodeRef::ROOT, b"b", NodeRef::ROOT, b"a", RenameMode::Replace).unwrap(), Some(&two)),
        (|bench| bench.unlink("a").unwrap(), None),
        (
            |bench| {
                // Removed while somebody has it open.
                let handle = bench.open_at("a", libc::O_RDWR);
                bench.unlink("a").unwrap();
                bench.staging.release(handle);
            },
            None,
        ),
    ];
    for (number, (change, after)) in changes.into_iter().enumerate() {
        let begun = || {
            let bench = Bench::new();
            for (name, bytes) in [("a", &one), ("b", &two)] {
                let handle = bench.create(name);
                bench.write(handle, 0, bytes);
                bench.staging.fsync(handle, false).unwrap();
                bench.staging.release(handle);
            }
            bench
        };
        let bench = begun();
        assert_eq!(kept(&bench), 2);
        change(&bench);
        let bench = bench.crash();
        let (a, b) = (bench.get("a"), bench.get("b"));
        assert!(a == one || Some(&a[..]) == after, "{number}: a has {} bytes", a.len());
        assert!(b == two, "{number}: b has {} bytes", b.len());
        // Once it is durable the file goes.
        let bench = begun();
        change(&bench);
        assert_eq!(kept(&bench), 1, "{number}");
        let bench = bench.crash();
        assert_eq!(bench.lookup("a").is_ok().then(|| bench.get("a")), after.map(Vec::from), "{number}");
        // And with the journal, when the version is sealed.
        let bench = begun();
        change(&bench);
        let _sealed = bench.seal();
        assert_eq!(host_files(&bench.store), 1, "{number}");
    }
}

#[test]
fn a_file_that_was_never_saved_is_lost_and_nothing_else_is_harmed() {
    let bench = Bench::new();
    bench.put("saved", b"saved");
    bench.staging.sync_all().unwrap();
    bench.put("lost", b"lost");
    let bench = bench.crash();
    assert_eq!(bench.get("saved"), b"saved");
    assert!(matches!(bench.lookup("lost"), Err(FsError::NotFound)));
    bench.put("lost", b"again");
    assert_eq!(bench.get("lost"), b"again");
    let _ = bench.seal();
}

#[test]
fn numbers_that_a_journal_names_never_come_back() {
    let bench = Bench::new();
    bench.put("gone", b"gone");
    bench.staging.sync_all().unwrap();
    let gone = bench.node("gone").ino;
    bench.unlink("gone").unwrap();
    bench.staging.sync_all().unwrap();
    let bench = bench.crash();
    let handle = bench.create("large");
    assert!(bench.node("large").ino > gone);
    bench.write(handle, 0, &noise(LARGE, 3));
    bench.staging.sync_all().unwrap();
    let bench = bench.crash();
    assert_eq!(bench.get("large"), noise(LARGE, 3), "not the bytes of the object that is gone");
}

#[test]
fn an_fsync_on_top_of_a_frozen_version_saves_that_version_too() {
    let bench = Bench::new();
    bench.put("below", b"below");
    bench.put("large", &noise(LARGE, 4));
    let frozen = bench.staging.freeze(false).unwrap().unwrap();
    let handle = bench.create("above");
    bench.write(handle, 0, b"above");
    bench.staging.fsync(handle, false).unwrap();
    drop(frozen);
    let bench = bench.crash();
    let record = bench.store.catalog().version(VersionId(1)).unwrap().unwrap();
    assert_eq!(record.state, VersionState::Checking, "it was sealed again as it was");
    let snapshot = stored(&bench.store, VersionId(1));
    assert_eq!(read_in(&snapshot, "below").unwrap(), b"below");
    assert_eq!(read_in(&snapshot, "large").unwrap(), noise(LARGE, 4));
    assert_eq!(read_in(&snapshot, "above"), None);
    drop(snapshot);
    assert_eq!(bench.staging.activity().version, Some(VersionId(2)));
    assert_eq!(bench.get("above"), b"above");
    assert_eq!(bench.get("below"), b"below");
}

#[test]
fn journals_go_with_their_versions() {
    let bench = Bench::new();
    bench.put("f", b"1");
    bench.staging.sync_all().unwrap();
    assert_eq!(bench.store.journals().unwrap(), [VersionId(1)]);
    let _ = bench.seal();
    assert!(bench.store.journals().unwrap().is_empty());
    bench.put("f", b"2");
    bench.staging.sync_all().unwrap();
    let _ = bench.staging.discard().unwrap();
    assert!(bench.store.journals().unwrap().is_empty());
    assert_eq!(bench.get("f"), b"1");
}

#[test]
fn an_fsync_without_a_change_is_free() {
    let bench = Bench::new();
    bench.put("f", b"1");
    let _ = bench.seal();
    let handle = bench.open_at("f", libc::O_RDWR);
    bench.staging.fsync(handle, false).unwrap();
    assert!(bench.store.journals().unwrap().is_empty());
    assert_eq!(bench.staging.activity().version, None);
    bench.staging.release(handle);
}

#[test]
fn after_a_failed_fsync_the_file_never_claims_to_be_safe() {
    let bench = Bench::new();
    let handle = bench.create("f");
    bench.write(handle, 0, b"bytes");
    // The journal's directory is in the way of its file.
    std::fs::remove_dir_all(bench.store.path().join("journal")).unwrap();
    assert!(matches!(bench.staging.fsync(handle, false), Err(FsError::Store(_))));
    std::fs::create_dir(bench.store.path().join("journal")).unwrap();
    assert!(matches!(bench.staging.fsync(handle, false), Err(FsError::Poisoned)));
    let other = bench.create("other");
    bench.staging.fsync(other, false).expect("a journal that could not be made has lost nothing");
    assert!(bench.events.try_iter().any(|event| matches!(event, StagingEvent::Failed { .. })));
    bench.staging.release(handle);
    bench.staging.release(other);
    let (_, snapshot) = bench.seal();
    assert_eq!(read_in(&snapshot, "f").unwrap(), b"bytes", "a seal does not need the journal");
    let handle = bench.open_at("f", libc::O_RDWR);
    bench.staging.write(&ROOT, handle, 0, b"B", false).unwrap();
    bench.staging.fsync(handle, false).unwrap();
}

#[test]
fn a_rebase_of_more_edits_than_fit_a_batch_survives_whole() {
    let bench = Bench::new();
    bench.put("base", b"base");
    let (first, onto) = bench.seal();
    bench.put("rejected", b"rejected");
    let (_, from) = bench.seal();
    let names: Vec<String> = (0..200).map(|number| format!("file-{number}")).collect();
    for name in &names {
        bench.put(name, name.as_bytes());
    }
    bench.staging.sync_all().unwrap();
    let rebased = bench.staging.rebase(&from, &onto, first.version).unwrap();
    assert!(matches!(rebased.outcome, crate::version::staging::RebaseOutcome::Clean));
    bench.put("after", b"after");
    bench.staging.sync_all().unwrap();
    let version = bench.staging.activity().version;
    drop((from, onto, rebased));
    let bench = bench.crash();
    assert_eq!(bench.staging.activity().version, version);
    for name in &names {
        assert_eq!(bench.get(name), name.as_bytes());
    }
    assert_eq!(bench.get("after"), b"after");
    assert_eq!(bench.get("base"), b"base");
    let (record, _) = bench.seal();
    assert_eq!(record.parent, Some(first.version));
    assert_eq!(record.changes.added, 201);
}

#[test]
fn edits_aside_count_with_their_join_alone() {
    use crate::store::JournalRecord;
    let bench = Bench::new();
    bench.put("kept", b"kept");
    bench.staging.sync_all().unwrap();
    let version = bench.staging.activity().version.unwrap();
    let edits = |name: &[u8]| {
        let (key, value) = (Key::dirent(crate::ids::Ino::ROOT, name), Value::Dirent(crate::ids::Ino(9), FileKind::Regular));
        JournalRecord::Aside { key: codec::encode(&key), value: Some(codec::encode(&value)) }
    };
    let store = std::sync::Arc::clone(&bench.store);
    let append = |store: &crate::store::Store, records: &[JournalRecord]| {
        let mut journal = store.journal(version).unwrap();
        journal.append(records).unwrap();
        journal.sync().unwrap();
    };
    // A crash came before the first join; what was to be joined then stays out of the second.
    append(&store, &[edits(b"lost")]);
    append(&store, &[edits(b"here"), JournalRecord::Join { base: None, edits: 1 }]);
    drop(store);
    let bench = bench.crash();
    let names: Vec<_> = bench.staging.snapshot().unwrap().entries(crate::ids::Ino::ROOT, 0, 10).unwrap();
    let names: Vec<_> = names.iter().map(|(name, ..)| name.to_vec()).collect();
    assert_eq!(names, [b"here".to_vec(), b"kept".to_vec()]);
}

/// History 60021 of the lifecycle's crash points: the version that the journal on disk stood on was dropped.
#[test]
fn before_a_version_goes_no_journal_on_disk_stands_on_it() {
    let disk = Arc::new(JournalDisk::default());
    let bench = Bench::new().on(Arc::clone(&disk) as Arc<dyn Disk>);
    bench.put("a", b"a");
    let (_, first) = bench.seal();
    let handle = bench.create("b");
    bench.write(handle, 0, b"b");
    bench.staging.fsync(handle, false).unwrap();
    let syncs = || disk.syncs.load(Ordering::Acquire);
    let before = syncs();
    bench.staging.leave_bases().unwrap();
    assert_eq!(syncs(), before, "it stands where it stood");
    let start = stored(&bench.store, VersionId(0));
    let rebased = bench.staging.rebase(&first, &start, VersionId(0)).unwrap();
    assert!(matches!(rebased.outcome, RebaseOutcome::Clean));
    bench.staging.leave_bases().unwrap();
    assert_eq!(syncs(), before + 1);
    bench.staging.leave_bases().unwrap();
    assert_eq!(syncs(), before + 1);
    let mut parents = bench.store.replay(VersionId(2)).unwrap().into_iter().filter_map(|record| match record {
        JournalRecord::Base { parent, .. } | JournalRecord::Join { base: Some((parent, _)), .. } => Some(parent),
        _ => None,
    });
    assert_eq!(parents.next_back(), Some(VersionId(0)));
    drop((first, start));
    let bench = bench.crash();
    assert_eq!((bench.get("b"), bench.lookup("a").is_err()), (b"b".to_vec(), true));
}
