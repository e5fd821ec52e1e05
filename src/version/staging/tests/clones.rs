//! Large files of sealed versions, on a host that shares blocks: who opens one for writing gets a clone. The blocks are copied here, so
//! that this can be tried on every host; `tests/reflink.rs` has a real one.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use parking_lot::Mutex;

use super::bench::{Bench, ROOT, TOP, backing, host_files, noise, read_in, stored, through, with_passthrough};
use crate::ids::VersionId;
use crate::store::disk::{Disk, DiskOp};
use crate::version::staging::{OpenMode, Opened, SetAttr, StagingEvent};

const LARGE: usize = 300 << 10;

/// A disk that clones, and knows what was done to files and names that matter, in order.
#[derive(Debug, Default)]
struct Cloning(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    opened: usize,
    journals: Vec<usize>,
    /// Directories whose names are not durable, by a file that got one there.
    named: HashMap<usize, String>,
    done: Vec<Done>,
    refuse: Option<i32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Done {
    Cloned(usize),
    Synced(usize),
    SyncedName(usize),
    Journaled,
}

fn dir_of(name: &str) -> String {
    name.rsplit_once('/').unwrap().0.to_owned()
}

impl Cloning {
    fn clones(&self) -> usize {
        // The first one asks whether the host can.
        self.0.lock().done.iter().filter(|done| matches!(done, Done::Cloned(_))).count().saturating_sub(1)
    }
}

impl Disk for Cloning {
    fn around(&self, op: &DiskOp<'_>, run: &mut dyn FnMut(usize) -> io::Result<usize>) -> io::Result<usize> {
        let mut state = self.0.lock();
        match *op {
            DiskOp::Clone { to, host, from } => {
                if let (Some(errno), true) = (state.refuse, from.metadata()?.len() > 0) {
                    return Err(io::Error::from_raw_os_error(errno));
                }
                copy(from, host)?;
                state.done.push(Done::Cloned(to));
                return Ok(0);
            }
            DiskOp::Open { .. } | DiskOp::OpenUnnamed { .. } => {
                run(usize::MAX)?;
                state.opened += 1;
                let number = state.opened;
                match op {
                    DiskOp::Open { name, .. } if name.starts_with("journal/") => state.journals.push(number),
                    DiskOp::Open { name, create: true } if name.starts_with("objects/") => drop(state.named.insert(number, dir_of(name))),
                    _ => {}
                }
                return Ok(number);
            }
            DiskOp::Link { file, name } => drop(state.named.insert(file, dir_of(name))),
            DiskOp::SyncFile { file } if !state.journals.contains(&file) => state.done.push(Done::Synced(file)),
            DiskOp::SyncDir { name } => {
                let files: Vec<_> = state.named.iter().filter(|(_, dir)| *dir == name).map(|(file, _)| Done::SyncedName(*file)).collect();
                state.done.extend(files);
            }
            DiskOp::Write { file, .. } if state.journals.contains(&file) => state.done.push(Done::Journaled),
            _ => {}
        }
        run(usize::MAX)
    }
}

fn copy(from: &File, to: &File) -> io::Result<()> {
    let mut bytes = vec![0; usize::try_from(from.metadata()?.len()).unwrap()];
    from.read_exact_at(&mut bytes, 0)?;
    to.write_all_at(&bytes, 0)
}

/// A store with a sealed large file `f`.
fn sealed(passthrough: bool) -> (Bench, Arc<Cloning>) {
    let disk = Arc::new(Cloning::default());
    let bench = if passthrough { with_passthrough() } else { Bench::new() }.on(Arc::clone(&disk) as Arc<dyn Disk>);
    bench.put("f", &noise(LARGE, 1));
    let _ = bench.seal();
    (bench, disk)
}

#[test]
fn who_opens_a_large_sealed_file_for_writing_writes_to_a_clone_and_the_sealed_bytes_stay() {
    let (bench, disk) = sealed(true);
    assert!(bench.staging.writer_waits(bench.node("f")), "a clone takes time");
    let opened = through(&bench, "f", libc::O_RDWR);
    assert_eq!(disk.clones(), 1);
    assert_eq!(bench.staging.activity().version, None, "nothing has changed");
    backing(&opened).write_all_at(b"news", 100_000).unwrap();
    bench.staging.flush(opened.handle).unwrap();
    assert!(bench.staging.activity().version.is_some());
    assert_eq!(disk.clones(), 1, "the open has it");
    bench.staging.release(opened.handle);
    let mut expected = noise(LARGE, 1);
    expected[100_000..100_004].copy_from_slice(b"news");
    assert!(bench.get("f") == expected);
    let again = through(&bench, "f", libc::O_RDWR);
    backing(&again).write_all_at(b"more", 0).unwrap();
    bench.staging.release(again.handle);
    assert_eq!(disk.clones(), 1, "it is the open version's own now");
    expected[..4].copy_from_slice(b"more");
    let (_, snapshot) = bench.seal();
    assert!(read_in(&snapshot, "f").unwrap() == expected);
    assert!(read_in(&stored(&bench.store, VersionId(1)), "f").unwrap() == noise(LARGE, 1));
    assert_eq!(host_files(&bench.store), 2);
}

#[test]
fn an_open_that_changes_nothing_leaves_nothing() {
    let (bench, disk) = sealed(true);
    for _ in 0..3 {
        let opened = through(&bench, "f", libc::O_RDWR);
        bench.staging.sync_all().unwrap();
        bench.staging.release(opened.handle);
    }
    assert_eq!((disk.clones(), host_files(&bench.store), bench.staging.activity().version), (3, 1, None));
    assert!(bench.get("f") == noise(LARGE, 1));
}

#[test]
fn no_clone_is_made_for_who_reads_or_cuts_to_nothing_and_none_beside_a_reader_through_the_daemon() {
    let (bench, disk) = sealed(true);
    let reader = bench.open_at("f", libc::O_RDONLY);
    assert_eq!(disk.clones(), 0);
    let opened = through(&bench, "f", libc::O_RDWR);
    assert!(matches!(opened.mode, OpenMode::Cached { .. }), "no inode is open both ways");
    bench.staging.release(opened.handle);
    bench.staging.release(reader);
    let emptied = bench.open_at("f", libc::O_RDWR | libc::O_TRUNC);
    bench.staging.release(emptied);
    assert_eq!((disk.clones(), bench.get("f")), (0, Vec::new()));
}

#[test]
fn a_file_whose_clone_has_no_room_is_written_another_way() {
    let (bench, disk) = sealed(true);
    disk.0.lock().refuse = Some(libc::ENOSPC);
    let opened = through(&bench, "f", libc::O_RDWR);
    assert!(matches!(opened.mode, OpenMode::Cached { .. }));
    bench.write(opened.handle, 5, b"news");
    bench.staging.release(opened.handle);
    let mut expected = noise(LARGE, 1);
    expected[5..9].copy_from_slice(b"news");
    assert!(bench.get("f") == expected);
    // It was for want of room: the next one is tried again.
    let _ = bench.seal();
    disk.0.lock().refuse = None;
    bench.put("g", &noise(LARGE, 2));
    let _ = bench.seal();
    assert!(matches!(through(&bench, "g", libc::O_RDWR).mode, OpenMode::Passthrough(_)));
}

#[test]
fn a_write_through_the_daemon_goes_to_a_clone_of_what_counts_of_the_object() {
    let (bench, disk) = sealed(false);
    let handle = bench.open_at("f", libc::O_RDWR);
    assert_eq!(disk.clones(), 0, "not before it is written");
    bench.write(handle, 7, b"news");
    assert_eq!(disk.clones(), 1);
    let longer = SetAttr { size: Some(LARGE as u64 + 10), ..SetAttr::default() };
    bench.staging.set_attr(&ROOT, bench.node("f"), Some(handle), &longer).unwrap();
    bench.staging.release(handle);
    let mut expected = noise(LARGE, 1);
    expected[7..11].copy_from_slice(b"news");
    expected.resize(LARGE + 10, 0);
    let (_, snapshot) = bench.seal();
    assert!(read_in(&snapshot, "f").unwrap() == expected);
}

/// What is not sealed yet is not cloned: that would wait until all of it is on the disk.
#[test]
fn a_first_write_does_not_wait_for_the_disk_to_take_what_is_being_sealed() {
    let disk = Arc::new(Cloning::default());
    let bench = with_passthrough().on(Arc::clone(&disk) as Arc<dyn Disk>);
    bench.put("f", &noise(LARGE, 1));
    let frozen = bench.staging.freeze(true).unwrap().unwrap();
    let handle = bench.open_at("f", libc::O_RDWR);
    bench.write(handle, 7, b"news");
    assert_eq!(disk.clones(), 0);
    bench.staging.release(handle);
    assert!(read_in(frozen.snapshot(), "f").unwrap() == noise(LARGE, 1));
}

/// The same of a small file, whose bytes go to a host file for who writes it, once it is not small any more.
#[test]
fn a_journal_leads_to_a_small_file_s_new_host_file_only_once_its_old_bytes_are_there() {
    let (bench, disk) = sealed(true);
    bench.put("small", b"these were durable before");
    let _ = bench.seal();
    bench.put("other", b"small");
    bench.staging.sync_all().unwrap();
    disk.0.lock().done.clear();
    let opened = through(&bench, "small", libc::O_RDWR);
    backing(&opened).write_all_at(b"T", LARGE as u64).unwrap();
    // By way of another file.
    bench.staging.fsync_dir(opened.handle).unwrap();
    let done = disk.0.lock().done.clone();
    let journaled = done.iter().position(|done| *done == Done::Journaled).expect("it is in the journal");
    let before = &done[..journaled];
    assert!(before.iter().any(|done| matches!(done, Done::Synced(_))), "{done:?}");
    assert!(before.iter().any(|done| matches!(done, Done::SyncedName(_))), "{done:?}");
}

/// The sealed bytes were durable, so after a loss of power a file that was changed a little must not be all zeros, or gone: whatever makes
/// a journal durable that leads to a clone.
#[test]
fn a_journal_leads_to_a_clone_only_once_that_is_on_the_disk_with_its_name() {
    for passthrough in [false, true] {
        let (bench, disk) = sealed(passthrough);
        bench.put("other", b"small");
        bench.staging.sync_all().unwrap();
        disk.0.lock().done.clear();
        let opened = through(&bench, "f", libc::O_RDWR);
        match &opened.mode {
            OpenMode::Passthrough(file) => file.write_all_at(b"news", 0).unwrap(),
            _ => bench.write(opened.handle, 0, b"news"),
        }
        // By way of another file.
        bench.staging.fsync_dir(opened.handle).unwrap();
        let done = disk.0.lock().done.clone();
        let clone = done.iter().rev().find_map(|done| if let Done::Cloned(file) = done { Some(*file) } else { None }).unwrap();
        let at = |wanted: &Done| done.iter().position(|done| done == wanted);
        let journaled = at(&Done::Journaled).expect("it is in the journal");
        assert!(at(&Done::Synced(clone)).is_some_and(|synced| synced < journaled), "passthrough: {passthrough}: {done:?}");
        assert!(at(&Done::SyncedName(clone)).is_some_and(|synced| synced < journaled), "passthrough: {passthrough}: {done:?}");
    }
}

/// A sealed version has a copy of what was open in passthrough. The original was perhaps never synced, but once the next version leads to it,
/// it stands for bytes that were durable.
#[test]
fn a_journal_leads_to_what_a_sealed_version_has_a_copy_of_only_once_that_is_on_the_disk() {
    for named in [false, true] {
        let (bench, disk) = sealed(true);
        let opened = bench.staging.create(&ROOT, TOP, b"kept", 0o644, 0, libc::O_RDWR).unwrap().1;
        backing(&opened).write_all_at(&noise(LARGE, 3), 0).unwrap();
        if named {
            // By way of another file, which makes only the name.
            bench.staging.fsync_dir(opened.handle).unwrap();
        }
        let _ = bench.seal();
        bench.put("other", b"small");
        bench.staging.sync_all().unwrap();
        disk.0.lock().done.clear();
        backing(&opened).write_all_at(b"news", 0).unwrap();
        bench.staging.fsync_dir(opened.handle).unwrap();
        let done = disk.0.lock().done.clone();
        let journaled = done.iter().position(|done| *done == Done::Journaled).expect("it is in the journal");
        let before = &done[..journaled];
        assert!(before.iter().any(|done| matches!(done, Done::Synced(_))), "named: {named}: {done:?}");
        assert!(before.iter().any(|done| matches!(done, Done::SyncedName(_))), "named: {named}: {done:?}");
    }
}

/// Where the host's clock ticks a hundred times a second, a write of the same length may have the time of the moment before.
#[test]
fn a_write_is_noticed_however_coarse_the_host_s_clock_is() {
    let (bench, _disk) = sealed(true);
    bench.put("small", b"12345");
    let _ = bench.seal();
    for name in ["small", "f"] {
        let opened = through(&bench, name, libc::O_RDWR);
        let before = backing(&opened).metadata().unwrap().modified().unwrap();
        let ago = std::time::SystemTime::now().duration_since(before).unwrap();
        assert!(ago.as_secs() > 60, "{name}: what fills a file must not have the time of a write that may follow at once");
        bench.staging.release(opened.handle);
    }
    assert_eq!(bench.staging.activity().version, None);
}

/// Another open file, which stands for a mapping: neither goes with the descriptor that it was made from.
fn mapped(opened: &Opened) -> File {
    File::options().write(true).open(format!("/proc/self/fd/{}", backing(opened).host().as_raw_fd())).unwrap()
}

#[test]
fn what_is_mapped_is_open_until_it_is_unmapped() {
    let (bench, _disk) = sealed(true);
    bench.put("small", b"12345");
    let _ = bench.seal();
    for (name, len) in [("small", 5), ("f", LARGE as u64)] {
        let opened = through(&bench, name, libc::O_RDWR);
        let mapping = mapped(&opened);
        let Opened { handle, mode, .. } = opened;
        // The kernel has let go of its own.
        drop(mode);
        bench.staging.release(handle);
        assert_eq!(bench.staging.activity().writers, 1, "{name}");
        mapping.write_all_at(b"news", len - 4).unwrap();
        assert_eq!(&bench.get(name)[len as usize - 4..], b"news");
        assert!(bench.staging.let_go_of_unmapped(true).is_some(), "{name}");
        let _earlier: Vec<_> = bench.events.try_iter().collect();
        drop(mapping);
        super::mapped::none_is_mapped(&bench);
        assert!(bench.events.try_iter().any(|event| event == StagingEvent::Quiet), "who waits for the last writer is told");
        let (_, snapshot) = bench.seal();
        assert_eq!(&read_in(&snapshot, name).unwrap()[len as usize - 4..], b"news");
    }
}

/// A seal that does not wait takes a copy of what is mapped, as of what is open.
#[test]
fn stores_into_a_mapping_after_a_forced_seal_are_the_next_version_s() {
    let (bench, _disk) = sealed(true);
    let opened = through(&bench, "f", libc::O_RDWR);
    let mapping = mapped(&opened);
    mapping.write_all_at(b"one", 0).unwrap();
    let Opened { handle, mode, .. } = opened;
    drop(mode);
    bench.staging.release(handle);
    let (_, first) = bench.seal();
    mapping.write_all_at(b"two", 0).unwrap();
    drop(mapping);
    super::mapped::none_is_mapped(&bench);
    let (_, second) = bench.seal();
    assert_eq!(&read_in(&first, "f").unwrap()[..3], b"one");
    assert_eq!(&read_in(&second, "f").unwrap()[..3], b"two");
}
