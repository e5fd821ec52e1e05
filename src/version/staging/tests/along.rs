//! Small files that are synced in passthrough: their bytes are in the journal, until they have names.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::bench::{Bench, ROOT, TOP, backing, host_files, noise, read_in, through, with_passthrough};
use crate::store::JournalRecord;
use crate::store::disk::{Disk, DiskOp};
use crate::version::staging::{Opened, RenameMode};

const LARGE: usize = 300 << 10;

/// A new file, as a program has it open.
fn new(bench: &Bench, name: &str) -> Opened {
    bench.staging.create(&ROOT, TOP, name.as_bytes(), 0o644, 0, libc::O_RDWR).unwrap().1
}

fn write(opened: &Opened, at: u64, bytes: &[u8]) {
    backing(opened).write_all_at(bytes, at).unwrap();
}

/// How often the journal says that an object is in a file now.
fn in_file(bench: &Bench) -> usize {
    let version = bench.staging.activity().version.unwrap();
    let records = bench.store.replay(version).unwrap();
    records.iter().filter(|record| matches!(record, JournalRecord::InFile { .. })).count()
}

/// A disk that counts syncs by what they are of, and refuses those of objects while it fails.
#[derive(Debug, Default)]
struct Syncs(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    opened: usize,
    journals: HashSet<usize>,
    of_journals: usize,
    of_objects: usize,
    of_directories: usize,
    links: usize,
    fails: bool,
}

impl Disk for Syncs {
    fn around(&self, op: &DiskOp<'_>, run: &mut dyn FnMut(usize) -> io::Result<usize>) -> io::Result<usize> {
        let mut seen = self.0.lock();
        match op {
            DiskOp::Open { .. } | DiskOp::OpenUnnamed { .. } => {
                run(usize::MAX)?;
                seen.opened += 1;
                let number = seen.opened;
                if matches!(op, DiskOp::Open { name, .. } if name.starts_with("journal/")) {
                    seen.journals.insert(number);
                }
                return Ok(number);
            }
            DiskOp::SyncFile { file } if seen.journals.contains(file) => seen.of_journals += 1,
            DiskOp::SyncFile { .. } if seen.fails => return Err(io::Error::from_raw_os_error(libc::EIO)),
            DiskOp::SyncFile { .. } => seen.of_objects += 1,
            DiskOp::SyncDir { .. } => seen.of_directories += 1,
            DiskOp::Link { .. } => seen.links += 1,
            _ => {}
        }
        run(usize::MAX)
    }
}

fn on_disk() -> (Bench, Arc<Syncs>) {
    let disk = Arc::new(Syncs::default());
    (with_passthrough().on(Arc::clone(&disk) as Arc<dyn Disk>), disk)
}

#[test]
fn an_fsync_of_a_small_new_file_is_one_sync_of_the_journal() {
    let (bench, disk) = on_disk();
    bench.put("before", b"the journal is there");
    bench.staging.sync_all().unwrap();
    let counts = || {
        let seen = disk.0.lock();
        (seen.of_journals, seen.of_objects, seen.of_directories, seen.links)
    };
    let before = counts();
    for turn in 0..5 {
        // As SQLite does it with its rollback journal.
        let opened = new(&bench, "small-journal");
        write(&opened, 0, &noise(9000, turn));
        bench.staging.fsync(opened.handle, true).unwrap();
        bench.unlink("small-journal").unwrap();
        bench.staging.release(opened.handle);
    }
    assert_eq!(counts(), (before.0 + 5, before.1, before.2, before.3));
    assert_eq!(host_files(&bench.store), 0);
}

#[test]
fn what_was_fsynced_comes_back_as_it_was_then_or_later() {
    for rounds in 1..4u64 {
        let bench = with_passthrough();
        bench.put("old", b"what was there before");
        let _ = bench.seal();
        let files = [new(&bench, "new"), through(&bench, "old", libc::O_RDWR)];
        for round in 0..rounds {
            for (opened, seed) in files.iter().zip([1, 2]) {
                // Of the same length, shorter, longer.
                let bytes = noise(500 + [0, 0, 400, 100][round as usize], seed + round);
                backing(opened).set_len(bytes.len() as u64).unwrap();
                write(opened, 0, &bytes);
                bench.staging.fsync(opened.handle, round % 2 == 0).unwrap();
            }
        }
        assert_eq!(host_files(&bench.store), 0);
        // Neither asked for nor known: lost, and no harm to what was.
        write(&files[0], 100_000, b"late");
        let bench = bench.crash();
        let expected = |seed| noise(500 + [0, 0, 400, 100][rounds as usize - 1], seed + rounds - 1);
        assert!(bench.get("new") == expected(1) && bench.get("old") == expected(2), "{rounds}");
        let (_, snapshot) = bench.seal();
        assert!(read_in(&snapshot, "new").unwrap() == expected(1) && read_in(&snapshot, "old").unwrap() == expected(2));
    }
}

#[test]
fn an_fdatasync_that_changes_no_length_is_no_less_durable() {
    let bench = with_passthrough();
    let opened = new(&bench, "f");
    write(&opened, 0, b"first");
    bench.staging.fsync(opened.handle, false).unwrap();
    write(&opened, 0, b"again");
    bench.staging.fsync(opened.handle, true).unwrap();
    assert_eq!(bench.crash().get("f"), b"again");
}

#[test]
fn what_was_fsynced_stays_through_close_rename_and_removal() {
    let bench = with_passthrough();
    for name in ["closed", "renamed", "replaced", "removed"] {
        bench.put(name, b"long before");
    }
    bench.staging.sync_all().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let opened = new(&bench, name);
        write(&opened, 0, bytes);
        bench.staging.fsync(opened.handle, false).unwrap();
        bench.staging.release(opened.handle);
    };
    file("c", b"closed");
    file("r", b"renamed");
    file("p", b"in its place");
    file("gone", b"gone");
    bench.staging.rename(&ROOT, TOP, b"r", TOP, b"renamed", RenameMode::Replace).unwrap();
    bench.staging.rename(&ROOT, TOP, b"p", TOP, b"replaced", RenameMode::Replace).unwrap();
    bench.unlink("gone").unwrap();
    bench.staging.write_behind(false, false);
    let bench = bench.crash();
    assert_eq!(bench.get("c"), b"closed");
    assert_eq!(bench.get("renamed"), b"renamed");
    assert_eq!(bench.get("replaced"), b"in its place");
    assert!(bench.lookup("gone").is_err() && bench.lookup("r").is_err());
    assert_eq!(host_files(&bench.store), 0);
}

#[test]
fn a_file_that_grew_is_in_its_own_file_from_then_on() {
    // By its own sync, by that of another, by the writer's round, and by the round that syncs all.
    for how in 0..4 {
        let bench = with_passthrough();
        let opened = new(&bench, "f");
        write(&opened, 0, &noise(1000, 1));
        bench.staging.fsync(opened.handle, false).unwrap();
        assert_eq!((host_files(&bench.store), in_file(&bench)), (0, 0));
        write(&opened, 10, &noise(LARGE, 2));
        match how {
            0 => bench.staging.fsync(opened.handle, false).unwrap(),
            1 => bench.staging.fsync_dir(opened.handle).unwrap(),
            2 => drop(bench.staging.write_behind(false, false)),
            _ => drop(bench.staging.write_behind(true, false)),
        }
        assert_eq!((host_files(&bench.store), in_file(&bench)), (1, 1), "{how}");
        // Small again it stays there.
        backing(&opened).set_len(2000).unwrap();
        bench.staging.fsync(opened.handle, false).unwrap();
        assert_eq!((host_files(&bench.store), in_file(&bench)), (1, 1), "{how}");
        let bench = bench.crash();
        let expected = [&noise(1000, 1)[..10], &noise(LARGE, 2)[..1990]].concat();
        assert!(bench.get("f") == expected, "{how}");
        let (_, snapshot) = bench.seal();
        assert!(read_in(&snapshot, "f").unwrap() == expected, "{how}");
    }
}

#[test]
fn a_file_that_is_synced_again_and_again_gets_its_own_file() {
    let (bench, disk) = on_disk();
    let opened = new(&bench, "log");
    let mut expected = Vec::new();
    for line in 0..200u64 {
        let bytes = noise(500, line);
        write(&opened, expected.len() as u64, &bytes);
        expected.extend(bytes);
        bench.staging.fsync(opened.handle, false).unwrap();
    }
    assert_eq!((host_files(&bench.store), in_file(&bench)), (1, 1));
    assert!(disk.0.lock().of_objects > 100, "then it is synced by itself");
    let journal = bench.store.path().join("journal").join(bench.staging.activity().version.unwrap().to_string());
    assert!(std::fs::metadata(journal).unwrap().len() < 2 << 20);
    assert!(bench.crash().get("log") == expected);
}

#[test]
fn a_journal_takes_no_more_than_it_should() {
    let bench = with_passthrough();
    for number in 0..40u64 {
        let opened = new(&bench, &format!("f{number}"));
        write(&opened, 0, &noise(50_000, number));
        bench.staging.fsync(opened.handle, false).unwrap();
    }
    let own = host_files(&bench.store);
    assert!((10..30).contains(&own), "{own} have files of their own");
    let bench = bench.crash();
    for number in 0..40 {
        assert!(bench.get(&format!("f{number}")) == noise(50_000, number), "{number}");
    }
}

#[test]
fn where_its_own_file_can_t_be_made_durable_what_was_promised_stays() {
    let (bench, disk) = on_disk();
    let opened = new(&bench, "f");
    write(&opened, 0, &noise(1000, 1));
    bench.staging.fsync(opened.handle, false).unwrap();
    write(&opened, 1000, &noise(LARGE, 2));
    disk.0.lock().fails = true;
    assert!(bench.staging.fsync(opened.handle, false).is_err());
    disk.0.lock().fails = false;
    assert!(bench.staging.fsync(opened.handle, false).is_err(), "it stays failed");
    let _ = bench.staging.fsync_dir(opened.handle);
    assert_eq!(in_file(&bench), 0);
    assert!(bench.crash().get("f").starts_with(&noise(1000, 1)));
}

#[test]
fn a_frozen_version_has_what_its_files_had_when_they_were_synced_and_closed() {
    let bench = with_passthrough();
    let opened = new(&bench, "f");
    write(&opened, 0, b"synced");
    bench.staging.fsync(opened.handle, false).unwrap();
    write(&opened, 6, b" and closed");
    bench.staging.release(opened.handle);
    let frozen = bench.staging.freeze(true).unwrap().unwrap();
    bench.staging.sync_all().unwrap();
    drop(frozen);
    let bench = bench.crash();
    assert_eq!(bench.get("f"), b"synced and closed");
    assert_eq!(bench.staging.activity().version, None, "it was sealed at the start");
}

#[test]
fn a_write_that_is_to_be_durable_is_with_all_that_leads_to_it() {
    for (how, passthrough) in [(libc::O_DSYNC, true), (libc::O_SYNC, true), (libc::O_DSYNC, false), (0, true)] {
        let bench = if passthrough { with_passthrough() } else { Bench::new() };
        let flags = libc::O_WRONLY | libc::O_CREAT | how;
        for name in ["a", "b", "c", "d", "e"] {
            // A habit of small files makes no difference.
            let (_, opened) = bench.staging.create(&ROOT, TOP, name.as_bytes(), 0o644, 0, flags).unwrap();
            assert_eq!(opened.synchronous, passthrough && how != 0, "{how:o}");
            // What the kernel does of it where it asks for an fsync by itself.
            for (at, bytes) in [(0, name.as_bytes()), (1, b" and more")] {
                bench.write(opened.handle, at, bytes);
                match passthrough {
                    true => bench.staging.sync_written(opened.handle).unwrap(),
                    false => bench.staging.fsync(opened.handle, true).unwrap(),
                }
            }
        }
        let bench = bench.crash();
        for name in ["a", "b", "c", "d", "e"] {
            match how {
                0 => assert!(bench.lookup(name).is_err(), "nobody has promised anything"),
                _ => assert_eq!(bench.get(name), [name.as_bytes(), b" and more"].concat(), "{how:o}"),
            }
        }
    }
}

#[test]
fn who_wants_durable_writes_has_them_beside_others_that_have_the_file_in_passthrough() {
    let bench = with_passthrough();
    let plain = new(&bench, "f");
    write(&plain, 0, b"plain");
    let durable = through(&bench, "f", libc::O_RDWR | libc::O_DSYNC);
    assert!(durable.synchronous && std::ptr::eq(backing(&plain), backing(&durable)));
    bench.write(durable.handle, 5, b", durable");
    bench.staging.sync_written(durable.handle).unwrap();
    write(&plain, 14, b", late");
    assert_eq!(bench.read_all(durable.handle), b"plain, durable, late");
    assert!(bench.crash().get("f").starts_with(b"plain, durable"));
}

#[test]
fn what_is_still_there_after_a_moment_is_in_its_own_file_for_an_msync_that_nobody_hears_of() {
    let bench = with_passthrough();
    let [kept, closed, removed, quick] = ["kept", "closed", "removed", "quick"].map(|name| new(&bench, name));
    for opened in [&kept, &closed, &removed, &quick] {
        write(opened, 0, b"synced");
        bench.staging.fsync(opened.handle, false).unwrap();
    }
    bench.staging.release(closed.handle);
    bench.unlink("removed").unwrap();
    bench.unlink("quick").unwrap();
    bench.staging.release(quick.handle);
    bench.staging.settle_along().unwrap();
    assert_eq!((host_files(&bench.store), in_file(&bench)), (1, 1), "only what is there and open");
    write(&kept, 0, b"mapped");
    let bench = bench.crash();
    assert_eq!((bench.get("kept"), bench.get("closed")), (b"mapped".to_vec(), b"synced".to_vec()));
    assert!(bench.lookup("removed").is_err() && bench.lookup("quick").is_err());
}

#[test]
fn an_fdatasync_in_place_is_not_undone_by_what_the_journal_took_before() {
    let bench = with_passthrough();
    let opened = new(&bench, "f");
    for round in 0..6u64 {
        write(&opened, 0, &noise(100 << 10, round));
        bench.staging.fsync(opened.handle, true).unwrap();
    }
    // It has its own file by now; and so it has after a look between two of them.
    let looked = new(&bench, "g");
    write(&looked, 0, b"first");
    bench.staging.fsync(looked.handle, true).unwrap();
    bench.staging.settle_along().unwrap();
    write(&looked, 0, b"again");
    bench.staging.fsync(looked.handle, true).unwrap();
    let bench = bench.crash();
    assert!(bench.get("f") == noise(100 << 10, 5));
    assert_eq!(bench.get("g"), b"again");
}

#[test]
fn an_fsync_takes_what_no_time_tells_of() {
    for large in [false, true] {
        let bench = with_passthrough();
        let opened = new(&bench, "f");
        write(&opened, 0, b"first");
        let file = backing(&opened).host();
        let meta = file.metadata().unwrap();
        bench.staging.fsync(opened.handle, false).unwrap();
        if large {
            // It gets its own file, of which the journal is still to be told.
            write(&opened, LARGE as u64, b"end");
            bench.lookup("f").unwrap();
        }
        write(&opened, 0, b"again");
        // As a store through a mapping, or one within a tick of the host's clock.
        let times = std::fs::FileTimes::new().set_modified(meta.modified().unwrap());
        file.set_times(times).unwrap();
        bench.staging.fsync(opened.handle, true).unwrap();
        assert!(bench.crash().get("f").starts_with(b"again"), "{large}");
    }
}

#[test]
fn what_the_writer_s_round_took_is_settled_as_well() {
    let bench = with_passthrough();
    let opened = new(&bench, "f");
    write(&opened, 0, b"first");
    bench.staging.write_behind(false, false);
    assert_eq!(host_files(&bench.store), 0);
    bench.staging.settle_along().unwrap();
    assert_eq!((host_files(&bench.store), in_file(&bench)), (1, 1));
    write(&opened, 0, b"again");
    assert_eq!(bench.crash().get("f"), b"again");
}

#[test]
fn one_flush_takes_no_more_than_a_journal_should_have() {
    let bench = with_passthrough();
    let open: Vec<Opened> = (0..30).map(|number| new(&bench, &format!("f{number}"))).collect();
    for (number, opened) in open.iter().enumerate() {
        write(opened, 0, &noise(50_000, number as u64));
    }
    bench.staging.fsync(open[0].handle, false).unwrap();
    let own = host_files(&bench.store);
    assert!((5..20).contains(&own), "{own} have files of their own");
    for opened in &open {
        bench.staging.fsync(opened.handle, false).unwrap();
    }
    let bench = bench.crash();
    for number in 0..30 {
        assert!(bench.get(&format!("f{number}")) == noise(50_000, number), "{number}");
    }
}
