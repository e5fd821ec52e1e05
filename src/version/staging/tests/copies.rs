//! Files that are open in passthrough when their version is frozen: the version has a copy, which the seal makes.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::bench::{Bench, ROOT, backing, host_files, noise, read_in, stored, through, with_passthrough};
use crate::clock::{Clock, SystemClock};
use crate::store::disk::{Disk, DiskOp};
use crate::store::record::{Reason, VersionRecord, VersionState};
use crate::tree::Snapshot;
use crate::version::error::FsError;
use crate::version::seal::{self, Frozen};
use crate::version::staging::SetAttr;

const LARGE: usize = 300 << 10;

/// The first 4 KiB of the first object's file can't be read any more once it is bad.
#[derive(Debug, Default)]
struct BadSector {
    bad: AtomicBool,
    opened: AtomicUsize,
    first_object: AtomicUsize,
}

impl Disk for BadSector {
    fn around(&self, op: &DiskOp<'_>, run: &mut dyn FnMut(usize) -> io::Result<usize>) -> io::Result<usize> {
        match op {
            DiskOp::Read { file, offset: ..4096, .. }
                if self.bad.load(Ordering::Acquire) && *file == self.first_object.load(Ordering::Acquire) =>
            {
                Err(io::Error::from_raw_os_error(libc::EIO))
            }
            // Who shares blocks reads nothing.
            DiskOp::Clone { .. } => Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)),
            DiskOp::Open { .. } | DiskOp::OpenUnnamed { .. } => {
                run(usize::MAX)?;
                let number = self.opened.fetch_add(1, Ordering::AcqRel) + 1;
                let object = match op {
                    DiskOp::Open { name, create } => *create && name.starts_with("objects/"),
                    _ => true,
                };
                if object {
                    let _only_the_first = self.first_object.compare_exchange(0, number, Ordering::AcqRel, Ordering::Acquire);
                }
                Ok(number)
            }
            _ => run(usize::MAX),
        }
    }
}

fn freeze(bench: &Bench) -> Frozen {
    bench.staging.freeze(true).unwrap().unwrap()
}

fn seal(bench: &Bench, frozen: &Frozen) -> (VersionRecord, Snapshot) {
    seal::seal(&bench.store, frozen, None, SystemClock.now()).unwrap()
}

#[test]
fn a_freeze_copies_nothing_and_the_original_goes_once_the_version_is_sealed_and_nobody_has_it() {
    let bench = with_passthrough();
    bench.put("read", &noise(LARGE, 1));
    bench.put("written", &noise(LARGE, 2));
    bench.staging.sync_all().unwrap();
    let (reader, writer) = (through(&bench, "read", libc::O_RDONLY), through(&bench, "written", libc::O_RDWR));
    let frozen = freeze(&bench);
    assert_eq!(host_files(&bench.store), 2, "the seal's work is not the freeze's");
    assert_eq!(read_in(frozen.snapshot(), "read").unwrap(), noise(LARGE, 1), "it can be read before there is a copy");
    bench.staging.release(writer.handle);
    assert_eq!(bench.get("written"), noise(LARGE, 2));
    let (_, snapshot) = seal(&bench, &frozen);
    assert_eq!(host_files(&bench.store), 3, "two copies, and the original that is still open");
    assert_eq!(bench.staging.read(reader.handle, 0, 64).unwrap(), noise(LARGE, 1)[..64]);
    bench.staging.release(reader.handle);
    assert_eq!(host_files(&bench.store), 2);
    for (name, seed) in [("read", 1), ("written", 2)] {
        assert_eq!(bench.get(name), noise(LARGE, seed));
        assert_eq!(read_in(&snapshot, name).unwrap(), noise(LARGE, seed));
    }
    assert_eq!(bench.staging.activity().version, None, "nobody changed anything");
}

#[test]
fn who_changes_a_file_that_was_only_read_at_the_freeze_changes_nothing_of_the_version() {
    let bench = with_passthrough();
    for (name, seed) in [("opened", 1), ("cut", 2), ("emptied", 3)] {
        bench.put(name, &noise(LARGE, seed));
    }
    let readers = ["opened", "cut", "emptied"].map(|name| through(&bench, name, libc::O_RDONLY));
    let frozen = freeze(&bench);
    assert!(bench.staging.waits_for_copy(bench.node("opened")));
    let writer = through(&bench, "opened", libc::O_RDWR);
    assert!(!bench.staging.waits_for_copy(bench.node("opened")), "to open it for writing made the copy");
    backing(&writer).write_all_at(b"news", 0).unwrap();
    // A write through a request meets the passthrough reader on the same host file.
    bench.staging.write(&ROOT, writer.handle, 4, b" by both", false).unwrap();
    assert_eq!(&bench.staging.read(readers[0].handle, 0, 12).unwrap(), b"news by both");
    let mut found = [0; 12];
    backing(&readers[0]).read_exact_at(&mut found, 0).unwrap();
    assert_eq!(&found, b"news by both");
    bench.staging.set_attr(&ROOT, bench.node("cut"), None, &SetAttr { size: Some(7), ..SetAttr::default() }).unwrap();
    let emptier = through(&bench, "emptied", libc::O_WRONLY | libc::O_TRUNC);
    let (record, snapshot) = seal(&bench, &frozen);
    for opened in readers.iter().chain([&writer, &emptier]) {
        bench.staging.release(opened.handle);
    }
    let (_, next) = bench.seal();
    for sealed in [&snapshot, &stored(&bench.store, record.version)] {
        for (name, seed) in [("opened", 1), ("cut", 2), ("emptied", 3)] {
            assert_eq!(read_in(sealed, name).unwrap(), noise(LARGE, seed), "{name}");
        }
    }
    assert_eq!(&read_in(&next, "opened").unwrap()[..12], b"news by both");
    assert_eq!(read_in(&next, "cut").unwrap(), noise(LARGE, 2)[..7]);
    assert_eq!(read_in(&next, "emptied").unwrap(), b"");
}

#[test]
fn a_forced_version_has_of_a_file_under_the_pen_what_was_there_when_it_was_copied_and_then_never_changes() {
    let bench = with_passthrough();
    for (name, seed) in [("written", 4), ("grown", 5), ("cut", 6)] {
        bench.put(name, &noise(LARGE, seed));
    }
    let [written, grown, cut] = ["written", "grown", "cut"].map(|name| through(&bench, name, libc::O_RDWR));
    backing(&written).write_all_at(b"before", 0).unwrap();
    let frozen = freeze(&bench);
    assert!(!bench.staging.waits_for_copy(bench.node("written")), "who forces a seal does not stop writers");
    backing(&written).write_all_at(b"while it is sealed", 100).unwrap();
    backing(&grown).write_all_at(b"more", LARGE as u64).unwrap();
    backing(&cut).set_len(5).unwrap();
    let (record, snapshot) = seal(&bench, &frozen);
    backing(&written).write_all_at(b"behind", 0).unwrap();
    bench.staging.flush(written.handle).unwrap();
    assert_eq!(bench.staging.activity().version, Some(record.version.next()), "the write opens the next version as soon as anyone looks");
    for opened in [&written, &grown, &cut] {
        bench.staging.release(opened.handle);
    }
    let (_, next) = bench.seal();
    let mut expected = noise(LARGE, 4);
    expected[..6].copy_from_slice(b"before");
    expected[100..118].copy_from_slice(b"while it is sealed");
    let mut short = noise(LARGE, 6);
    short[5..].fill(0);
    for sealed in [&snapshot, &stored(&bench.store, record.version)] {
        assert_eq!(read_in(sealed, "written").unwrap(), expected);
        assert_eq!(read_in(sealed, "grown").unwrap(), noise(LARGE, 5), "as long as it was at the freeze");
        assert_eq!(read_in(sealed, "cut").unwrap(), short, "zeros for what had gone");
    }
    expected[..6].copy_from_slice(b"behind");
    assert_eq!(read_in(&next, "written").unwrap(), expected);
    assert_eq!(read_in(&next, "grown").unwrap(), [&noise(LARGE, 5)[..], b"more"].concat());
    assert_eq!(read_in(&next, "cut").unwrap(), noise(LARGE, 6)[..5]);
}

#[test]
fn what_was_synced_survives_a_kill_between_freeze_and_seal_though_its_file_was_closed() {
    let bench = with_passthrough();
    bench.put("f", &noise(LARGE, 7));
    let opened = through(&bench, "f", libc::O_RDWR);
    backing(&opened).write_all_at(b"synced", 0).unwrap();
    bench.staging.fsync(opened.handle, false).unwrap();
    let frozen = freeze(&bench);
    bench.staging.release(opened.handle);
    drop((opened, frozen));
    let bench = bench.crash();
    let mut expected = noise(LARGE, 7);
    expected[..6].copy_from_slice(b"synced");
    assert_eq!(bench.get("f"), expected, "the journal still led to the original");
    let (_, snapshot) = bench.seal();
    assert_eq!(read_in(&snapshot, "f").unwrap(), expected);
    assert_eq!(host_files(&bench.store), 1);
}

#[test]
fn a_sync_on_top_of_a_frozen_version_makes_its_copies_and_it_comes_back_as_it_was() {
    let bench = with_passthrough();
    bench.put("f", &noise(LARGE, 8));
    let opened = through(&bench, "f", libc::O_RDWR);
    let frozen = freeze(&bench);
    let version = frozen.version();
    backing(&opened).write_all_at(b"between", 0).unwrap();
    bench.put("next", b"on top");
    let next = bench.open_at("next", libc::O_RDWR);
    bench.staging.fsync(next, false).unwrap();
    backing(&opened).write_all_at(b"after it", 0).unwrap();
    drop((opened, frozen));
    // The new start seals what was frozen.
    let bench = bench.crash();
    let mut expected = noise(LARGE, 8);
    expected[..7].copy_from_slice(b"between");
    assert_eq!(read_in(&stored(&bench.store, version), "f").unwrap(), expected);
    assert_eq!(bench.get("next"), b"on top");
    assert_eq!(&bench.get("f")[8..], &expected[8..]);
}

#[test]
fn a_copy_that_the_disk_refuses_is_made_by_the_next_try() {
    let bench = with_passthrough();
    bench.put("f", &noise(LARGE, 9));
    let reader = through(&bench, "f", libc::O_RDONLY);
    let frozen = freeze(&bench);
    let (objects, away) = (bench.store.path().join("objects"), bench.store.path().join("away"));
    std::fs::rename(&objects, &away).unwrap();
    assert!(seal::seal(&bench.store, &frozen, None, SystemClock.now()).is_err());
    let refused = bench.staging.open(&ROOT, bench.node("f"), libc::O_RDWR);
    assert!(matches!(refused, Err(FsError::Store(_))), "a writer hears of it: {refused:?}");
    assert_eq!(bench.staging.read(reader.handle, 0, 64).unwrap(), noise(LARGE, 9)[..64]);
    std::fs::rename(&away, &objects).unwrap();
    let (_, snapshot) = seal(&bench, &frozen);
    assert_eq!(read_in(&snapshot, "f").unwrap(), noise(LARGE, 9));
    let writer = through(&bench, "f", libc::O_RDWR);
    backing(&writer).write_all_at(b"x", 0).unwrap();
    assert_eq!(read_in(&snapshot, "f").unwrap(), noise(LARGE, 9));
}

#[test]
fn what_comes_back_at_a_discard_is_what_the_version_below_has() {
    let bench = with_passthrough();
    bench.put("f", &noise(LARGE, 10));
    let opened = through(&bench, "f", libc::O_RDWR);
    let frozen = freeze(&bench);
    backing(&opened).write_all_at(b"to be discarded", 0).unwrap();
    bench.put("g", b"as well");
    bench.staging.discard().unwrap();
    let found = bench.get("f");
    backing(&opened).write_all_at(b"written by one who is stale", 0).unwrap();
    assert_eq!(bench.get("f"), found);
    let (_, snapshot) = seal(&bench, &frozen);
    assert_eq!(read_in(&snapshot, "f").unwrap(), found);
    bench.staging.release(opened.handle);
    assert_eq!((bench.get("f"), host_files(&bench.store)), (found, 1));
}

#[test]
fn of_a_file_that_can_not_be_read_to_be_copied_the_ghost_has_the_rest() {
    let disk = Arc::new(BadSector::default());
    let bench = with_passthrough().on(Arc::clone(&disk) as Arc<dyn Disk>);
    bench.put("f", &noise(LARGE, 11));
    bench.put("well", &noise(LARGE, 12));
    let _readers = ["f", "well"].map(|name| through(&bench, name, libc::O_RDONLY));
    let frozen = freeze(&bench);
    disk.bad.store(true, Ordering::Release);
    assert!(seal::seal(&bench.store, &frozen, None, SystemClock.now()).is_err());
    let ghost = seal::seal_as_ghost(&bench.store, &frozen, None, SystemClock.now()).unwrap();
    let (record, snapshot) = ghost.unwrap();
    assert_eq!(record.state, VersionState::Ghost);
    assert!(matches!(&record.reason, Some(Reason::Unreadable { paths, .. }) if *paths == ["f"]), "{:?}", record.reason);
    let mut rest = noise(LARGE, 11);
    rest[..4096].fill(0);
    assert_eq!(read_in(&snapshot, "f").unwrap(), rest);
    assert_eq!(read_in(&snapshot, "well").unwrap(), noise(LARGE, 12));
}
