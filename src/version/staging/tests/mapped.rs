//! Files that are closed while a mapping may still write them. A descriptor of the host file stands for the mapping: either keeps it in use.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use super::bench::{Bench, ROOT, TOP, backing, host_files, noise, read_in, through, with_passthrough};
use crate::version::error::FsError;
use crate::version::staging::{Handle, Opened, SetAttr, StagingEvent};

const LARGE: usize = 300 << 10;

fn create(bench: &Bench, name: &str, bytes: &[u8]) -> Opened {
    let (_, opened) = bench.staging.create(&ROOT, TOP, name.as_bytes(), 0o644, 0, libc::O_RDWR).unwrap();
    backing(&opened).write_all_at(bytes, 0).unwrap();
    opened
}

fn map(opened: &Opened, write: bool) -> File {
    let path = format!("/proc/self/fd/{}", backing(opened).host().as_raw_fd());
    File::options().read(true).write(write).open(path).unwrap()
}

fn close(bench: &Bench, opened: Opened) -> Handle {
    let Opened { handle, mode, .. } = opened;
    // The kernel has let go of its own.
    drop(mode);
    bench.staging.release(handle);
    handle
}

/// How many writers there are, and how many of them are mappings.
fn writers(bench: &Bench) -> (u64, u64) {
    let activity = bench.staging.activity();
    (activity.writers, activity.mapped)
}

/// No mapping is left. A child that another test starts has our descriptors until it runs a program of its own, so it may take a moment.
pub(super) fn none_is_mapped(bench: &Bench) {
    let start = std::time::Instant::now();
    while bench.staging.let_go_of_unmapped(true).is_some() {
        assert!(start.elapsed().as_secs() < 60, "it is still mapped after a minute");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert_eq!(writers(bench), (0, 0));
}

#[test]
fn a_mapping_keeps_its_version_open_and_what_it_stored_is_sealed() {
    for size in [100, LARGE] {
        let bench = with_passthrough();
        let opened = create(&bench, "f", &noise(size, 1));
        let mapping = map(&opened, true);
        close(&bench, opened);
        assert_eq!(writers(&bench), (1, 1), "{size}");
        assert!(bench.events.try_iter().any(|event| event == StagingEvent::Mapped));
        assert!(matches!(bench.staging.freeze(false), Err(FsError::Busy)));
        assert!(bench.staging.let_go_of_unmapped(false).is_some() && bench.staging.let_go_of_unmapped(true).is_some());
        mapping.write_all_at(b"stored", 10).unwrap();
        assert_eq!(&bench.get("f")[10..16], b"stored", "it is seen at once");
        drop(mapping);
        none_is_mapped(&bench);
        assert!(bench.events.try_iter().any(|event| event == StagingEvent::Quiet));
        assert_eq!(host_files(&bench.store), 0, "no name was needed");
        let (_, snapshot) = bench.seal();
        let mut expected = noise(size, 1);
        expected[10..16].copy_from_slice(b"stored");
        assert_eq!(read_in(&snapshot, "f").unwrap(), expected);
        assert_eq!(bench.get("f"), expected);
    }
}

#[test]
fn who_only_reads_by_a_mapping_or_a_handle_keeps_nothing_open() {
    for size in [100, LARGE] {
        let bench = with_passthrough();
        let opened = create(&bench, "f", &noise(size, 2));
        let mapping = map(&opened, false);
        close(&bench, opened);
        none_is_mapped(&bench);
        let (_, first) = bench.seal();
        assert_eq!(read_in(&first, "f").unwrap(), noise(size, 2));
        let mut found = vec![0; size];
        mapping.read_exact_at(&mut found, 0).unwrap();
        assert_eq!(found, noise(size, 2));
    }
    let bench = with_passthrough();
    let writer = create(&bench, "f", &noise(LARGE, 3));
    let Opened { handle: reader, mode, .. } = through(&bench, "f", libc::O_RDONLY);
    drop(mode);
    close(&bench, writer);
    none_is_mapped(&bench);
    let frozen = bench.staging.freeze(false).unwrap().unwrap();
    assert!(bench.staging.waits_for_copy(bench.node("f")), "nobody writes it, so the version has it as it is now");
    drop(frozen);
    let again = through(&bench, "f", libc::O_RDWR);
    backing(&again).write_all_at(b"again", 0).unwrap();
    assert_eq!(&bench.staging.read(reader, 0, 5).unwrap(), b"again");
    close(&bench, again);
    bench.staging.release(reader);
    none_is_mapped(&bench);
    assert_eq!(&bench.get("f")[..5], b"again");
}

#[test]
fn a_mapping_is_told_from_those_who_have_the_file_open_for_reading() {
    let bench = with_passthrough();
    let writer = create(&bench, "f", &noise(LARGE, 4));
    let mapping = map(&writer, true);
    let Opened { handle: reader, mode, .. } = through(&bench, "f", libc::O_RDONLY);
    drop(mode);
    close(&bench, writer);
    assert_eq!(writers(&bench), (1, 1));
    drop(mapping);
    // Though it is open for reading.
    none_is_mapped(&bench);
    bench.staging.release(reader);
    let (_, snapshot) = bench.seal();
    assert_eq!(read_in(&snapshot, "f").unwrap(), noise(LARGE, 4));
}

#[test]
fn who_opens_a_mapped_file_joins_it() {
    let bench = with_passthrough();
    let opened = create(&bench, "f", b"first");
    let host = |opened: &Opened| std::os::unix::fs::MetadataExt::ino(&backing(opened).metadata().unwrap());
    let number = host(&opened);
    let mapping = map(&opened, true);
    close(&bench, opened);
    let (reader, writer) = (through(&bench, "f", libc::O_RDONLY), through(&bench, "f", libc::O_RDWR));
    assert_eq!((host(&reader), host(&writer)), (number, number));
    assert_eq!(writers(&bench), (2, 1));
    backing(&writer).write_all_at(b"s", 4).unwrap();
    // A request writes as well.
    bench.staging.write(&ROOT, writer.handle, 5, b" and last", false).unwrap();
    let second = map(&writer, true);
    close(&bench, reader);
    close(&bench, writer);
    assert!(bench.staging.let_go_of_unmapped(true).is_some());
    drop(mapping);
    assert!(bench.staging.let_go_of_unmapped(true).is_some(), "what the second opener mapped is still there");
    assert_eq!(writers(&bench), (1, 1));
    // By name, with no handle.
    bench.staging.set_attr(&ROOT, bench.node("f"), None, &SetAttr { size: Some(9), ..SetAttr::default() }).unwrap();
    assert!(bench.staging.let_go_of_unmapped(true).is_some());
    drop(second);
    none_is_mapped(&bench);
    let (_, snapshot) = bench.seal();
    assert_eq!(read_in(&snapshot, "f").unwrap(), b"firss and");
}

#[test]
fn a_forced_seal_has_a_copy_and_what_is_stored_later_is_in_the_next_version() {
    for size in [100, LARGE] {
        let bench = with_passthrough();
        let opened = create(&bench, "f", &noise(size, 5));
        bench.staging.fsync(opened.handle, false).unwrap();
        let mapping = map(&opened, true);
        close(&bench, opened);
        let (_, first) = bench.seal();
        assert_eq!(writers(&bench), (1, 1));
        mapping.write_all_at(b"later", 7).unwrap();
        assert!(bench.staging.let_go_of_unmapped(true).is_some());
        assert_eq!(read_in(&first, "f").unwrap(), noise(size, 5));
        drop(mapping);
        none_is_mapped(&bench);
        let (_, second) = bench.seal();
        let mut expected = noise(size, 5);
        expected[7..12].copy_from_slice(b"later");
        assert_eq!((read_in(&first, "f").unwrap(), read_in(&second, "f").unwrap()), (noise(size, 5), expected));
    }
}

#[test]
fn what_is_in_no_version_any_more_is_not_waited_for() {
    let bench = with_passthrough();
    let (removed, mapped) = (create(&bench, "removed", b"1"), create(&bench, "mapped", b"2"));
    let mappings = [map(&removed, true), map(&mapped, true)];
    bench.unlink("removed").unwrap();
    close(&bench, removed);
    assert_eq!(writers(&bench), (1, 0), "it lost its name before it was closed");
    close(&bench, mapped);
    assert_eq!(writers(&bench), (1, 1));
    bench.unlink("mapped").unwrap();
    none_is_mapped(&bench);
    for (mapping, byte) in mappings.iter().zip(b"12") {
        let mut found = [0];
        mapping.read_exact_at(&mut found, 0).unwrap();
        assert_eq!(found, [*byte], "nobody else gets its host file");
    }
    let stale = create(&bench, "stale", &noise(LARGE, 6));
    let mapping = map(&stale, true);
    close(&bench, stale);
    bench.staging.discard().unwrap();
    assert_eq!(writers(&bench), (0, 0));
    bench.put("stale", b"anew");
    mapping.write_all_at(b"late", 0).unwrap();
    assert_eq!((bench.staging.let_go_of_unmapped(true), bench.get("stale")), (None, b"anew".to_vec()));
}

#[test]
fn a_daemon_that_dies_leaves_a_mapping_nothing_to_write_into() {
    let bench = with_passthrough();
    let opened = create(&bench, "f", &noise(LARGE, 7));
    bench.staging.fsync(opened.handle, false).unwrap();
    let mapping = map(&opened, true);
    close(&bench, opened);
    bench.staging.sync_all().unwrap();
    let bench = bench.crash();
    mapping.write_all_at(b"late", 0).unwrap();
    assert_eq!(bench.get("f"), noise(LARGE, 7));
    let (_, snapshot) = bench.seal();
    mapping.write_all_at(b"later", 0).unwrap();
    assert_eq!(read_in(&snapshot, "f").unwrap(), noise(LARGE, 7));
}

#[test]
fn after_a_mapped_file_has_gone_down_with_its_version_the_next_one_is_told_of() {
    let bench = with_passthrough();
    let gone = create(&bench, "gone", b"1");
    let _mapping = map(&gone, true);
    close(&bench, gone);
    bench.staging.discard().unwrap();
    let _earlier: Vec<_> = bench.events.try_iter().collect();
    let next = create(&bench, "next", b"2");
    let mapping = map(&next, true);
    close(&bench, next);
    assert!(bench.events.try_iter().any(|event| event == StagingEvent::Mapped), "somebody must know when to look again");
    drop(mapping);
    none_is_mapped(&bench);
}

#[test]
fn what_the_kernel_wrote_and_nobody_told_of_is_a_change() {
    let bench = with_passthrough();
    bench.put("f", b"before");
    let _ = bench.seal();
    let opened = through(&bench, "f", libc::O_RDWR);
    assert!(!bench.staging.activity().dirty, "it is only open");
    backing(&opened).write_all_at(b"after", 0).unwrap();
    assert!(bench.staging.activity().dirty, "who commits now has something to commit");
    close(&bench, opened);
    let (_, snapshot) = bench.seal();
    assert_eq!(read_in(&snapshot, "f").unwrap(), b"aftere");
}
