//! Many threads at once, while versions are frozen below them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::bench::{Bench, ROOT, TOP, noise, options, read_in};
use crate::clock::{Clock, SystemClock};
use crate::version::seal;
use crate::version::staging::{NodeRef, RenameMode, SetAttr, StagingOptions};

const WRITERS: u64 = 4;
const ROUNDS: u64 = 150;

/// Writes a file of its own over and over, through every form that content has, and reads it back.
fn write_and_read(bench: &Bench, dir: NodeRef, who: u64) -> Vec<u8> {
    let staging = &bench.staging;
    let (_, opened) = staging.create(&ROOT, dir, format!("f{who}").as_bytes(), 0o644, 0, libc::O_RDWR).unwrap();
    let mut model: Vec<u8> = Vec::new();
    let mut handle = opened.handle;
    for round in 0..ROUNDS {
        let data = noise(60, round * WRITERS + who);
        let at = (round * 37 % 300) as usize;
        bench.write(handle, at as u64, &data);
        if model.len() < at + data.len() {
            model.resize(at + data.len(), 0);
        }
        model[at..at + data.len()].copy_from_slice(&data);
        let node = staging.node_of(handle).unwrap();
        match round % 10 {
            3 => staging.fsync(handle, false).unwrap(),
            5 => {
                model.truncate(100);
                let size = Some(model.len() as u64);
                staging.set_attr(&ROOT, node, Some(handle), &SetAttr { size, ..SetAttr::default() }).unwrap();
            }
            7 => {
                staging.release(handle);
                handle = staging.open(&ROOT, node, libc::O_RDWR).unwrap().handle;
            }
            8 => {
                let name = |suffix: &str| format!("t{who}{suffix}").into_bytes();
                let (_, other) = staging.create(&ROOT, dir, &name(""), 0o644, 0, libc::O_RDWR).unwrap();
                staging.rename(&ROOT, dir, &name(""), dir, &name("x"), RenameMode::Replace).unwrap();
                staging.unlink(&ROOT, dir, &name("x")).unwrap();
                bench.write(other.handle, 0, &data);
                assert_eq!(bench.read_all(other.handle), data);
                staging.release(other.handle);
            }
            _ => {}
        }
        assert_eq!(bench.read_all(handle), model, "writer {who}, round {round}");
    }
    staging.release(handle);
    model
}

#[test]
fn writers_go_on_while_versions_are_frozen_sealed_and_read() {
    let bench = Arc::new(Bench::with(StagingOptions { small_file: 128, ..options() }));
    let dir = bench.mkdir("d").node;
    let done = Arc::new(AtomicBool::new(false));
    let sealer = {
        let (bench, done) = (Arc::clone(&bench), Arc::clone(&done));
        std::thread::spawn(move || {
            while !done.load(Ordering::Acquire) {
                if let Some(frozen) = bench.staging.freeze(true).unwrap() {
                    let before = read_in(frozen.snapshot(), "d/f0");
                    let (_, sealed) = seal::seal(&bench.store, &frozen, None, SystemClock.now()).unwrap();
                    assert_eq!(before, read_in(&sealed, "d/f0"), "a frozen version does not change");
                }
                let snapshot = bench.staging.snapshot().unwrap();
                assert!(snapshot.resolve(b"d").unwrap().is_some());
                bench.staging.sync_all().unwrap();
            }
        })
    };
    let watcher = {
        let (bench, done) = (Arc::clone(&bench), Arc::clone(&done));
        std::thread::spawn(move || {
            while !done.load(Ordering::Acquire) {
                let handle = bench.staging.open_dir(dir).unwrap();
                let entries = bench.staging.read_dir(handle, 0, 100, true).unwrap();
                assert!(entries.len() >= 2);
                bench.staging.release_dir(handle);
                let _ = bench.staging.lookup(TOP, b"d").unwrap();
            }
        })
    };
    let writers: Vec<_> = (0..WRITERS)
        .map(|who| {
            let bench = Arc::clone(&bench);
            std::thread::spawn(move || write_and_read(&bench, dir, who))
        })
        .collect();
    let models: Vec<Vec<u8>> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
    done.store(true, Ordering::Release);
    sealer.join().unwrap();
    watcher.join().unwrap();
    for (who, model) in models.iter().enumerate() {
        assert_eq!(bench.get(&format!("d/f{who}")), *model);
    }
    assert_eq!(bench.staging.activity().writers, 0);
}
