//! kill -9 of the daemon at random moments under load, then remount: what was fsynced is there, what was reported stays so.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::Sandbox;

/// Rounds of write, kill, remount, compare. `SHADOWFS_KILL_ROUNDS` asks for more.
fn rounds() -> u64 {
    std::env::var("SHADOWFS_KILL_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(6)
}

/// Bytes that tell which file and generation they are of, of a length from a few bytes to past what is packed.
fn content(name: &str, generation: u64) -> Vec<u8> {
    let line = format!("{name} {generation}\n");
    let repeat = match generation % 4 {
        0 => 1,
        1 => 300,
        2 => 9_000,
        _ => 40,
    };
    line.repeat(repeat).into_bytes()
}

/// Acknowledged writes: the newest generation of each file that an fsync returned for.
type Acknowledged = Arc<Mutex<BTreeMap<String, u64>>>;

fn write_until_stopped(dir: &Path, worker: u64, stop: &AtomicBool, acknowledged: &Acknowledged, first: u64) {
    let mut generation = first;
    while !stop.load(Ordering::Relaxed) {
        let name = format!("w{worker}-{}", generation % 7);
        let done = (|| -> std::io::Result<()> {
            let mut file = fs::OpenOptions::new().create(true).write(true).truncate(true).open(dir.join(&name))?;
            file.write_all(&content(&name, generation))?;
            file.sync_all()?;
            fs::File::open(dir)?.sync_all()
        })();
        if done.is_err() {
            // The daemon is dead: what was in flight may be there or not.
            acknowledged.lock().unwrap().insert(format!("{name} unknown"), generation);
            return;
        }
        acknowledged.lock().unwrap().insert(name, generation);
        generation += 1;
    }
}

/// The versions that `log` reports with what must never change about them once sealed.
fn reported(sandbox: &Sandbox) -> BTreeMap<String, String> {
    let log = sandbox.on(["log", "--json"]).expect(0).json();
    let sealed = log.as_array().unwrap().iter().filter(|version| !version["digest"].is_null());
    sealed.map(|version| (version["version"].as_str().unwrap().to_owned(), version["digest"].as_str().unwrap().to_owned())).collect()
}

#[test]
fn acknowledged_writes_and_reported_versions_survive_kill_9() {
    let sandbox = Sandbox::new();
    sandbox.init("[staging]\nsettle = \"20ms\"\n[promotion]\nwindow = \"50ms\"\n").mount();
    let acknowledged: Acknowledged = Arc::default();
    for round in 0..rounds() {
        let stop = AtomicBool::new(false);
        let mut before = BTreeMap::new();
        let mut production = String::new();
        std::thread::scope(|scope| {
            for worker in 0..3 {
                let (dir, stop, acknowledged) = (sandbox.staging(), &stop, &acknowledged);
                scope.spawn(move || write_until_stopped(&dir, worker, stop, acknowledged, (round + 1) * 1_000_000));
            }
            // Odd moments, so that kills fall into writes, seals, promotions and the idle time between.
            std::thread::sleep(Duration::from_millis(40 + round * 97 % 400));
            before = reported(&sandbox);
            let status = sandbox.status();
            production = status["production"].as_str().unwrap().to_owned();
            Sandbox::kill(status["pid"].as_u64().unwrap());
            stop.store(true, Ordering::Relaxed);
        });
        sandbox.mount();

        let acknowledged = acknowledged.lock().unwrap();
        for (name, generation) in acknowledged.iter().filter(|(name, _)| !name.contains(' ')) {
            if let Some(unknown) = acknowledged.get(&format!("{name} unknown")).filter(|unknown| *unknown > generation) {
                // A write that was under way may have truncated the file or written a part; later rounds overwrite it.
                let found = fs::read(sandbox.staging().join(name)).unwrap();
                let (old, new) = (content(name, *generation), content(name, *unknown));
                assert!(found == old || new.starts_with(&found) || found.iter().all(|byte| *byte == 0), "round {round}: {name}");
                continue;
            }
            let found = fs::read(sandbox.staging().join(name)).unwrap_or_else(|why| panic!("round {round}: {name}: {why}"));
            assert_eq!(found, content(name, *generation), "round {round}: {name} is not what fsync acknowledged");
        }
        drop(acknowledged);
        let after = reported(&sandbox);
        for (version, digest) in &before {
            assert_eq!(after.get(version), Some(digest), "round {round}: {version} was reported with this digest");
        }
        let now = sandbox.status()["production"].as_str().unwrap().to_owned();
        let number = |version: &str| version[1..].parse::<u64>().unwrap();
        assert!(number(&now) >= number(&production), "round {round}: production went back from {production} to {now}");
    }
    sandbox.unmount();
}
