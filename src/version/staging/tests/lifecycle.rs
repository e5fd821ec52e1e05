//! Freeze, discard, rebase, passthrough, handles that outlive what they were opened on.

use std::sync::Arc;

use super::bench::{Bench, ROOT, TOP, backing, host_files, noise, read_in, through, with_passthrough};
use crate::clock::{Clock, SystemClock};
use crate::ids::VersionId;
use crate::store::HostFile;
use crate::store::record::{Reason, VersionState};
use crate::version::error::FsError;
use crate::version::seal;
use crate::version::staging::{Caller, Invalidation, OpenMode, Opened, RebaseOutcome, SetAttr, StagingEvent, XattrMode};

const LARGE: usize = 300 << 10;

#[test]
fn the_first_change_opens_a_version_and_the_last_writer_ends_the_unrest() {
    let bench = Bench::new();
    assert_eq!(bench.staging.activity().version, None);
    assert!(bench.staging.freeze(false).unwrap().is_none());
    let writer = Caller { pid: std::process::id(), ..ROOT };
    let (_, opened) = bench.staging.create(&writer, TOP, b"f", 0o644, 0, libc::O_WRONLY).unwrap();
    let activity = bench.staging.activity();
    assert_eq!((activity.version, activity.writers, activity.dirty), (Some(VersionId(1)), 1, true));
    match bench.events.try_recv().unwrap() {
        StagingEvent::Opened { version, parent, writer: Some(who), .. } => {
            assert_eq!((version, parent, who.pid), (VersionId(1), VersionId(0), std::process::id()));
            assert!(!who.command.is_empty());
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(bench.staging.freeze(false), Err(FsError::Busy)));
    bench.staging.release(opened.handle);
    assert_eq!(bench.events.try_recv().unwrap(), StagingEvent::Quiet);
    let (record, _) = bench.seal();
    assert_eq!((record.version, record.state, record.parent), (VersionId(1), VersionState::Checking, Some(VersionId(0))));
    assert_eq!((record.changes.added, record.writers.len()), (1, 1));
    assert_eq!(bench.store.catalog().pointers().unwrap().base, VersionId(1));
    assert_eq!(bench.staging.activity().version, None);
    bench.mkdir("next");
    assert_eq!(bench.staging.activity().version, Some(VersionId(2)));
    assert_eq!(bench.staging.base(), VersionId(1));
}

#[test]
fn a_forced_freeze_takes_what_is_written_so_far_and_later_writes_go_to_the_next() {
    let bench = Bench::new();
    bench.put("large", &noise(LARGE, 1));
    let _ = bench.seal();
    let (small, large) = (bench.create("small"), bench.open_at("large", libc::O_RDWR));
    bench.write(small, 0, b"first");
    bench.write(large, 0, b"first");
    let frozen = bench.staging.freeze(true).unwrap().unwrap();
    bench.write(small, 5, b" second");
    bench.write(large, 5, b" second");
    assert_eq!(bench.staging.activity().version, Some(frozen.version().next()));
    // The frozen version can be read at once, and is the same once it is sealed.
    for snapshot in [frozen.snapshot().clone(), seal::seal(&bench.store, &frozen, None, SystemClock.now()).unwrap().1] {
        assert_eq!(read_in(&snapshot, "small").unwrap(), b"first");
        assert_eq!(read_in(&snapshot, "large").unwrap()[..12], [&b"first"[..], &noise(12, 1)[5..12]].concat());
    }
    bench.staging.release(small);
    bench.staging.release(large);
    let (_, next) = bench.seal();
    assert_eq!(read_in(&next, "small").unwrap(), b"first second");
    assert_eq!(&read_in(&next, "large").unwrap()[..12], b"first second");
}

#[test]
fn an_unlinked_open_file_lives_on_and_is_in_no_version() {
    let bench = Bench::new();
    bench.put("f", &noise(LARGE, 2));
    let _ = bench.seal();
    let handle = bench.open_at("f", libc::O_RDWR);
    bench.unlink("f").unwrap();
    bench.write(handle, 3, b"orphan");
    let mut expected = noise(LARGE, 2);
    expected[3..9].copy_from_slice(b"orphan");
    let (_, snapshot) = bench.seal();
    assert_eq!(read_in(&snapshot, "f"), None);
    assert_eq!(bench.read_all(handle), expected);
    let node = bench.staging.node_of(handle).unwrap();
    let attr = bench.staging.attr(node, Some(handle)).unwrap();
    assert_eq!((attr.nlink, attr.size), (0, LARGE as u64));
    bench.staging.set_attr(&ROOT, node, Some(handle), &SetAttr { perm: Some(0o600), size: Some(10), ..SetAttr::default() }).unwrap();
    bench.staging.set_xattr(&ROOT, node, b"user.x", b"y", XattrMode::Set).unwrap();
    assert_eq!(bench.staging.activity().version, None, "nothing of it is a change");
    assert!(matches!(bench.staging.link(&ROOT, node, TOP, b"back"), Err(FsError::NotFound)));
    bench.staging.fsync(handle, false).unwrap();
    bench.staging.release(handle);
    assert!(matches!(bench.staging.open(&ROOT, node, libc::O_RDONLY), Err(FsError::Stale)));
}

#[test]
fn files_that_only_come_and_go_are_no_change() {
    let bench = Bench::new();
    bench.put(".swap", b"bytes");
    bench.unlink(".swap").unwrap();
    let frozen = bench.staging.freeze(false).unwrap().unwrap();
    assert!(frozen.is_unchanged());
    let (record, _) = seal::seal(&bench.store, &frozen, None, SystemClock.now()).unwrap();
    assert_eq!((record.state, record.reason), (VersionState::Aborted, Some(Reason::Unchanged)));
    bench
        .staging
        .set_attr(&ROOT, TOP, None, &SetAttr { mtime: Some(crate::version::staging::TimeSet::Now), ..SetAttr::default() })
        .unwrap();
    let (record, _) = bench.seal();
    assert_eq!((record.state, record.parent), (VersionState::Checking, Some(VersionId(0))), "a time that was set is one");
}

#[test]
fn discard_brings_the_base_back_and_makes_writers_stale() {
    let bench = Bench::new();
    bench.put("kept", b"kept");
    bench.put("changed", b"before");
    let _ = bench.seal();
    let (kept, changed) = (bench.open_at("kept", libc::O_RDWR), bench.open_at("changed", libc::O_RDWR));
    let node = bench.node("changed");
    bench.write(changed, 0, b"after!");
    bench.put("new", &noise(LARGE, 3));
    bench.unlink("kept").unwrap();
    let (version, invalidate) = bench.staging.discard().unwrap();
    assert_eq!(version, Some(VersionId(2)));
    assert_eq!(bench.get("changed"), b"before");
    assert_eq!(bench.get("kept"), b"kept");
    assert!(matches!(bench.lookup("new"), Err(FsError::NotFound)));
    assert!(matches!(bench.staging.write(&ROOT, changed, 0, b"x", false), Err(FsError::Stale)));
    assert!(matches!(bench.staging.fsync(changed, false), Err(FsError::Stale)));
    assert!(matches!(bench.staging.flush(changed), Err(FsError::Stale)));
    assert!(matches!(bench.staging.attr(node, None), Err(FsError::Stale)), "the kernel's node is of another generation");
    assert_ne!(bench.node("changed"), node);
    let entry = |name: &[u8]| invalidate.contains(&Invalidation::Entry { dir: TOP, name: name.into() });
    assert!(entry(b"changed") && entry(b"new") && entry(b"kept"));
    assert_eq!(bench.staging.activity().writers, 0, "stale writers do not count");
    bench.staging.release(kept);
    bench.staging.release(changed);
    assert_eq!(bench.staging.activity().writers, 0);
    assert!(bench.staging.discard().unwrap().0.is_none());
}

#[test]
fn a_rebase_carries_over_what_does_not_overlap_and_sets_the_rest_aside() {
    let bench = Bench::new();
    bench.put("rejected", b"good");
    let (good, good_snapshot) = bench.seal();
    bench.put("rejected", b"bad");
    let (_, bad_snapshot) = bench.seal();
    bench.put("mine", b"mine");
    let reader = bench.open_at("rejected", libc::O_RDONLY);
    let writer = bench.open_at("mine", libc::O_RDWR);
    let rebased = bench.staging.rebase(&bad_snapshot, &good_snapshot, good.version).unwrap();
    assert!(matches!(rebased.outcome, RebaseOutcome::Clean));
    assert_eq!(bench.get("rejected"), b"good");
    assert_eq!(bench.get("mine"), b"mine");
    assert!(matches!(bench.staging.read(reader, 0, 10), Err(FsError::Stale)));
    bench.write(writer, 4, b"!");
    bench.staging.release(reader);
    bench.staging.release(writer);
    bench.staging.sync_all().unwrap();
    assert!(!rebased.invalidate.is_empty());
    let (record, snapshot) = bench.seal();
    assert_eq!(record.parent, Some(good.version));
    assert_eq!(read_in(&snapshot, "mine").unwrap(), b"mine!");

    bench.put("mine", b"worse");
    let writer = bench.open_at("mine", libc::O_RDWR);
    bench.write(writer, 0, b"W");
    let rebased = bench.staging.rebase(&snapshot, &good_snapshot, good.version).unwrap();
    let RebaseOutcome::Conflict { frozen, paths } = rebased.outcome else { panic!("{:?}", rebased.outcome) };
    assert_eq!(paths, [b"mine".to_vec()]);
    assert!(matches!(bench.staging.write(&ROOT, writer, 0, b"x", false), Err(FsError::Stale)));
    bench.staging.release(writer);
    assert!(matches!(bench.lookup("mine"), Err(FsError::NotFound)));
    let (record, ghost) = seal::seal(&bench.store, &frozen, None, SystemClock.now()).unwrap();
    assert_eq!(record.parent, Some(record.version).map(|version| VersionId(version.0 - 1)));
    assert_eq!(read_in(&ghost, "mine").unwrap(), b"Worse");
    bench.put("again", b"");
    assert_eq!(bench.staging.base(), good.version);
}

#[test]
fn passthrough_is_for_files_of_one_pending_host_file_that_nobody_has_cached() {
    let bench = with_passthrough();
    bench.put("small", b"small");
    bench.put("f", &noise(LARGE, 4));
    assert!(matches!(through(&bench, "small", libc::O_RDONLY).mode, OpenMode::Cached { .. }));
    assert!(matches!(through(&bench, "small", libc::O_RDWR).mode, OpenMode::Cached { .. }), "someone has it cached");
    let writer = through(&bench, "f", libc::O_RDWR);
    backing(&writer).write_all_at(b"by the kernel", LARGE as u64).unwrap();
    let attr = bench.lookup("f").unwrap();
    assert_eq!((attr.size, attr.volatile), (LARGE as u64 + 13, true));
    let reader = through(&bench, "f", libc::O_RDONLY);
    let same = |a: &HostFile, b: &HostFile| std::ptr::eq(a, b);
    assert!(same(backing(&writer), backing(&reader)));
    let mut expected = noise(LARGE, 4);
    expected.extend(b"by the kernel");
    assert_eq!(bench.read_all(reader.handle), expected);
    bench.staging.set_attr(&ROOT, bench.node("f"), None, &SetAttr { perm: Some(0o4755), ..SetAttr::default() }).unwrap();
    let armed = through(&bench, "f", libc::O_RDWR);
    assert!(same(backing(&writer), backing(&armed)), "the kernel has it in passthrough, and opens it in no other way meanwhile");
    for opened in [writer, reader, armed] {
        bench.staging.release(opened.handle);
    }
    let cached = through(&bench, "f", libc::O_RDWR);
    assert!(matches!(cached.mode, OpenMode::Cached { keep: false }), "pages from before the passthrough are old");
    bench.staging.release(cached.handle);
    bench.staging.set_attr(&ROOT, bench.node("f"), None, &SetAttr { perm: Some(0o755), ..SetAttr::default() }).unwrap();
    let reader = through(&bench, "f", libc::O_RDONLY);
    assert!(matches!(reader.mode, OpenMode::Passthrough(_)));
    bench.staging.release(reader.handle);
    let (_, snapshot) = bench.seal();
    assert_eq!(read_in(&snapshot, "f").unwrap(), expected);
    assert!(matches!(through(&bench, "f", libc::O_RDONLY).mode, OpenMode::Cached { .. }), "sealed bytes are never handed out");
    assert!(matches!(through(&bench, "f", libc::O_RDWR).mode, OpenMode::Cached { .. }));
}

#[test]
fn a_passthrough_reader_that_changes_nothing_leaves_nothing_behind() {
    let bench = with_passthrough();
    bench.put("f", &noise(LARGE, 7));
    let reader = through(&bench, "f", libc::O_RDONLY);
    let before = Arc::clone(&bench.store);
    let (_, snapshot) = bench.seal();
    bench.staging.release(reader.handle);
    assert_eq!(bench.staging.activity().version, None);
    assert_eq!(bench.get("f"), noise(LARGE, 7));
    assert_eq!(read_in(&snapshot, "f").unwrap(), noise(LARGE, 7));
    assert_eq!(host_files(&before), 1, "one object file for one file");
}

#[test]
fn a_small_file_is_written_in_passthrough_and_costs_no_host_file() {
    let bench = with_passthrough();
    bench.put("old", b"what was there");
    let _ = bench.seal();
    let kernel = |opened: &Opened, at: u64, bytes: &[u8]| backing(opened).write_all_at(bytes, at).unwrap();
    let old = through(&bench, "old", libc::O_RDWR);
    let (_, new) = bench.staging.create(&ROOT, TOP, b"new", 0o644, 0, libc::O_RDWR).unwrap();
    let (_, gone) = bench.staging.create(&ROOT, TOP, b"gone", 0o644, 0, libc::O_RDWR).unwrap();
    let (_, grown) = bench.staging.create(&ROOT, TOP, b"grown", 0o644, 0, libc::O_RDWR).unwrap();
    kernel(&old, 5, b"has been ");
    kernel(&new, 0, b"brand new");
    kernel(&gone, 0, b"never seen");
    kernel(&grown, 0, &noise(LARGE, 8));
    assert_eq!((bench.lookup("old").unwrap().size, bench.lookup("new").unwrap().size), (14, 9));
    bench.staging.unlink(&ROOT, TOP, b"gone").unwrap();
    assert_eq!(&bench.staging.read(gone.handle, 0, 100).unwrap(), b"never seen");
    let reader = through(&bench, "new", libc::O_RDONLY);
    assert!(std::ptr::eq(backing(&reader), backing(&new)));
    let idle = through(&bench, "old", libc::O_RDWR);
    for opened in [old, new, gone, grown, reader, idle] {
        bench.staging.release(opened.handle);
    }
    assert_eq!(host_files(&bench.store), 0, "the large one has no name yet either");
    assert_eq!((bench.get("old"), bench.get("new")), (b"what has been ".to_vec(), b"brand new".to_vec()));
    // Opened again, and left alone: nothing changes.
    let again = through(&bench, "new", libc::O_RDWR);
    assert!(matches!(again.mode, OpenMode::Passthrough(_)) || matches!(again.mode, OpenMode::Cached { .. }));
    bench.staging.release(again.handle);
    let (record, snapshot) = bench.seal();
    assert_eq!((record.changes.added, record.changes.modified), (2, 1));
    assert_eq!(read_in(&snapshot, "old").unwrap(), b"what has been ");
    assert_eq!(read_in(&snapshot, "new").unwrap(), b"brand new");
    assert_eq!(read_in(&snapshot, "grown").unwrap(), noise(LARGE, 8));
    assert_eq!(bench.staging.activity().version, None);
}

#[test]
fn a_stale_writer_never_reaches_the_host_file_of_another() {
    let bench = with_passthrough();
    let (_, stale) = bench.staging.create(&ROOT, TOP, b"f", 0o644, 0, libc::O_RDWR).unwrap();
    backing(&stale).write_all_at(b"mine", 0).unwrap();
    let _ = bench.staging.discard().unwrap();
    let (_, other) = bench.staging.create(&ROOT, TOP, b"g", 0o644, 0, libc::O_RDWR).unwrap();
    backing(&other).write_all_at(b"other", 0).unwrap();
    backing(&stale).write_all_at(b"late", 0).unwrap();
    let path = |opened: &Opened| std::os::unix::fs::MetadataExt::ino(&backing(opened).metadata().unwrap());
    assert_ne!(path(&stale), path(&other));
    bench.staging.release(other.handle);
    bench.staging.release(stale.handle);
    assert_eq!(bench.get("g"), b"other");
}

#[test]
fn content_is_put_back_as_an_open_version_that_survives_a_kill() {
    let bench = Bench::new();
    bench.mkdir("d");
    bench.put("d/f", b"good");
    bench.put("large", &noise(LARGE, 1));
    let (_, good) = bench.seal();
    let held = bench.open_at("d/f", libc::O_RDWR);
    bench.put("d/f", b"bad");
    bench.put("new", b"new");
    bench.unlink("large").unwrap();
    assert!(matches!(bench.staging.restore(&good), Err(FsError::Busy)), "an open version has changes");
    let (_, bad) = bench.seal();
    assert!(bench.staging.restore(&bad).unwrap().is_none(), "it is what staging shows");
    let restored = bench.staging.restore(&good).unwrap().unwrap();
    assert_eq!((restored.version, bench.staging.activity().version), (VersionId(3), Some(VersionId(3))));
    assert!(!restored.invalidate.is_empty());
    assert!(matches!(bench.staging.write(&ROOT, held, 0, b"x", false), Err(FsError::Stale)));
    bench.staging.sync_all().unwrap();
    drop((good, bad));
    let bench = bench.crash();
    assert_eq!((bench.get("d/f"), bench.get("large")), (b"good".to_vec(), noise(LARGE, 1)));
    bench.put("d/f", b"mended");
    let (record, snapshot) = bench.seal();
    assert_eq!((record.version, record.parent, record.state), (VersionId(3), Some(VersionId(2)), VersionState::Checking));
    assert_eq!((record.changes.added, record.changes.modified, record.changes.deleted), (1, 1, 1));
    assert_eq!(read_in(&snapshot, "d/f").unwrap(), b"mended");
    assert_eq!(read_in(&snapshot, "large").unwrap(), noise(LARGE, 1));
    assert_eq!(read_in(&snapshot, "new"), None);
}

#[test]
fn what_is_put_back_and_left_alone_is_that_content() {
    let bench = Bench::new();
    bench.put("f", b"1");
    let (first, one) = bench.seal();
    bench.put("f", b"2");
    let _ = bench.seal();
    bench.staging.restore(&one).unwrap().unwrap();
    let (record, _) = bench.seal();
    assert_eq!(record.root.unwrap().digest, first.root.unwrap().digest);
}
