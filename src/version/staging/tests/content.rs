//! Bytes: small and large files, over sealed versions, holes, copies.

use super::bench::{Bench, ROOT, noise, options, read_in, without_clones};
use crate::version::error::FsError;
use crate::version::staging::{Allocate, Seek, SetAttr, StagingOptions};

const LARGE: usize = 300 << 10;

#[test]
fn what_is_written_is_read_before_and_after_the_seal() {
    let bench = Bench::new();
    for (path, data) in [("small", noise(1000, 1)), ("large", noise(LARGE, 2)), ("empty", Vec::new())] {
        bench.put(path, &data);
        assert_eq!(bench.get(path), data);
    }
    let (_, snapshot) = bench.seal();
    for (path, data) in [("small", noise(1000, 1)), ("large", noise(LARGE, 2)), ("empty", Vec::new())] {
        assert_eq!(bench.get(path), data);
        assert_eq!(read_in(&snapshot, path), Some(data));
    }
    drop(snapshot);
    let bench = bench.crash();
    assert_eq!(bench.get("large"), noise(LARGE, 2));
}

#[test]
fn a_sealed_version_keeps_its_bytes_while_staging_changes_them() {
    let bench = Bench::new();
    bench.put("small", &noise(1000, 1));
    bench.put("large", &noise(LARGE, 2));
    let (_, before) = bench.seal();
    for path in ["small", "large"] {
        let handle = bench.open_at(path, libc::O_RDWR);
        bench.write(handle, 10, b"changed");
        bench.staging.release(handle);
    }
    let mut large = noise(LARGE, 2);
    large[10..17].copy_from_slice(b"changed");
    assert_eq!(bench.get("large"), large);
    let (_, after) = bench.seal();
    assert_eq!(read_in(&before, "large"), Some(noise(LARGE, 2)));
    assert_eq!(read_in(&before, "small"), Some(noise(1000, 1)));
    assert_eq!(read_in(&after, "large"), Some(large));
}

#[test]
fn an_overlay_takes_writes_appends_holes_and_cuts() {
    let bench = without_clones();
    let mut model = noise(LARGE, 3);
    bench.put("f", &model);
    let _ = bench.seal();
    let handle = bench.open_at("f", libc::O_RDWR);
    let write = |model: &mut Vec<u8>, at: usize, data: &[u8]| {
        bench.write(handle, at as u64, data);
        if model.len() < at + data.len() {
            model.resize(at + data.len(), 0);
        }
        model[at..at + data.len()].copy_from_slice(data);
        assert_eq!(bench.read_all(handle), *model);
    };
    write(&mut model, 5000, &noise(100, 4));
    write(&mut model, 4900, &noise(150, 5));
    write(&mut model, LARGE - 10, &noise(1000, 6));
    write(&mut model, LARGE + 50_000, b"far");
    bench.staging.allocate(&ROOT, handle, Allocate::PunchHole, 4950, 10_000).unwrap();
    model[4950..14_950].fill(0);
    assert_eq!(bench.read_all(handle), model);
    let cut = SetAttr { size: Some(200_000), ..SetAttr::default() };
    bench.staging.set_attr(&ROOT, bench.node("f"), Some(handle), &cut).unwrap();
    model.truncate(200_000);
    let grow = SetAttr { size: Some(250_000), ..SetAttr::default() };
    bench.staging.set_attr(&ROOT, bench.node("f"), Some(handle), &grow).unwrap();
    model.resize(250_000, 0);
    assert_eq!(bench.read_all(handle), model);
    assert_eq!(bench.staging.seek(handle, 4960, Seek::Data).unwrap(), 14_950);
    assert_eq!(bench.staging.seek(handle, 0, Seek::Hole).unwrap(), 4950);
    assert!(matches!(bench.staging.seek(handle, 200_001, Seek::Data), Err(FsError::NoSuchOffset)));
    bench.staging.release(handle);
    let (_, snapshot) = bench.seal();
    assert_eq!(read_in(&snapshot, "f"), Some(model.clone()));
    let handle = bench.open_at("f", libc::O_RDWR);
    bench.write(handle, 0, b"again");
    model[..5].copy_from_slice(b"again");
    bench.staging.release(handle);
    let handle = bench.open_at("f", libc::O_WRONLY | libc::O_APPEND);
    bench.write(handle, 0, b"end");
    model.extend(b"end");
    bench.staging.release(handle);
    assert_eq!(bench.get("f"), model);
}

#[test]
fn cutting_a_large_sealed_file_does_not_bring_its_bytes_back() {
    let bench = Bench::new();
    bench.put("f", &noise(LARGE, 7));
    let _ = bench.seal();
    let node = bench.node("f");
    let size = |size: u64| {
        bench.staging.set_attr(&ROOT, node, None, &SetAttr { size: Some(size), ..SetAttr::default() }).unwrap();
    };
    size(200_000);
    size(LARGE as u64);
    let mut model = noise(LARGE, 7);
    model[200_000..].fill(0);
    assert_eq!(bench.get("f"), model);
    size(100);
    size(1000);
    model.truncate(100);
    model.resize(1000, 0);
    assert_eq!(bench.get("f"), model);
    size(0);
    assert_eq!(bench.get("f"), b"");
    let _ = bench.seal();
    assert_eq!(bench.get("f"), b"");
}

#[test]
fn a_file_that_grows_past_the_limit_moves_to_a_host_file_and_memory_is_bounded() {
    let bench = Bench::with(StagingOptions { memory: 1000, ..options() });
    for n in 0..10 {
        bench.put(&format!("f{n}"), &noise(900, n));
    }
    for n in 0..10 {
        assert_eq!(bench.get(&format!("f{n}")), noise(900, n));
    }
    let (record, snapshot) = bench.seal();
    assert_eq!(record.changes.added, 10);
    for n in 0..10 {
        assert_eq!(read_in(&snapshot, &format!("f{n}")), Some(noise(900, n)));
    }
}

#[test]
fn holes_of_a_new_file_cost_nothing_and_read_as_zeros() {
    let bench = Bench::new();
    let handle = bench.create("f");
    let node = bench.node("f");
    bench.staging.set_attr(&ROOT, node, None, &SetAttr { size: Some(1 << 40), ..SetAttr::default() }).unwrap();
    assert_eq!(bench.staging.attr(node, None).unwrap().blocks, 0);
    bench.write(handle, 1 << 39, b"middle");
    assert_eq!(bench.staging.read(handle, (1 << 39) - 2, 10).unwrap(), b"\0\0middle\0\0");
    assert!(bench.staging.attr(node, None).unwrap().blocks <= 64);
    assert!(matches!(bench.staging.write(&ROOT, handle, 1 << 44, b"x", false), Err(FsError::FileTooLarge)));
    assert_eq!(bench.staging.write(&ROOT, handle, (1 << 44) - 4097, b"xyz", false).unwrap(), 1);
    let too_long = SetAttr { size: Some((1 << 44) + 1), ..SetAttr::default() };
    assert!(matches!(bench.staging.set_attr(&ROOT, node, None, &too_long), Err(FsError::FileTooLarge)));
    bench.staging.release(handle);
}

#[test]
fn a_copy_of_a_sealed_file_shares_its_object_and_later_writes_part_them() {
    let bench = Bench::new();
    bench.put("from", &noise(LARGE, 8));
    let _ = bench.seal();
    let (from, to) = (bench.open_at("from", libc::O_RDONLY), bench.create("to"));
    assert_eq!(bench.staging.copy_range(&ROOT, from, 0, to, 0, u64::from(u32::MAX)).unwrap(), LARGE as u64);
    let (_, snapshot) = {
        bench.staging.release(to);
        bench.seal()
    };
    let content = |path: &str| snapshot.inode(snapshot.resolve(path.as_bytes()).unwrap().unwrap()).unwrap().unwrap().content.clone();
    assert_eq!(content("from"), content("to"));
    let to = bench.open_at("to", libc::O_RDWR);
    bench.write(to, 0, b"other");
    assert_eq!(bench.get("from"), noise(LARGE, 8));
    assert_eq!(bench.staging.copy_range(&ROOT, from, 100, to, 3, 2000).unwrap(), 2000);
    assert_eq!(bench.staging.read(to, 3, 2000).unwrap(), noise(LARGE, 8)[100..2100]);
}

#[test]
fn zero_range_and_allocation_beyond_the_end() {
    let bench = Bench::new();
    for len in [2000, LARGE] {
        let handle = bench.create(&format!("f{len}"));
        bench.write(handle, 0, &noise(len, 9));
        let size = |handle| bench.staging.attr(bench.node(&format!("f{len}")), Some(handle)).unwrap().size;
        let allocate = |mode, offset, len| bench.staging.allocate(&ROOT, handle, mode, offset, len).unwrap();
        let len = len as u64;
        allocate(Allocate::KeepSize, 0, len * 2);
        assert_eq!(size(handle), len);
        allocate(Allocate::ZeroRange { keep_size: true }, 500, len);
        assert_eq!(size(handle), len);
        allocate(Allocate::ZeroRange { keep_size: false }, len - 10, 30);
        assert_eq!(size(handle), len + 20);
        allocate(Allocate::Extend, 0, len + 100);
        assert_eq!(size(handle), len + 100);
        allocate(Allocate::Extend, 0, 1);
        assert_eq!(size(handle), len + 100);
        let bytes = bench.read_all(handle);
        assert_eq!(bytes[..500], noise(500, 9));
        assert!(bytes[500..].iter().all(|byte| *byte == 0));
        bench.staging.release(handle);
    }
}
