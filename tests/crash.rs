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
            acknowledged.lock().unwrap().insert(format!("{name} unknown {generation}"), generation);
            return;
        }
        acknowledged.lock().unwrap().insert(name, generation);
        generation += 1;
    }
}

/// What `log` reports of a version: its state and its digest, once it has one.
fn reported(sandbox: &Sandbox) -> BTreeMap<String, (String, String)> {
    let log = sandbox.on(["log", "--json"]).expect(0).json();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let versions = log.as_array().unwrap().iter();
    versions.map(|version| (text(&version["version"]), (text(&version["state"]), text(&version["digest"])))).collect()
}

/// Whether a version that was reported in one state may be found in another after the crash.
fn may_become(before: &str, after: &str) -> bool {
    let order: &[&str] = &["open", "checking", "valid", "promoted", "superseded", "expired"];
    let place = |state: &str| order.iter().position(|known| *known == state);
    match (before, place(before), place(after)) {
        (_, Some(before), Some(after)) => before <= after,
        // Rejected, or nothing was left of it.
        ("open" | "checking", _, None) => true,
        ("ghost", _, _) => matches!(after, "ghost" | "expired"),
        _ => before == after,
    }
}

/// Sweeps now and then, until the daemon is gone.
fn sweep_until_stopped(sandbox: &Sandbox, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let _may_meet_another = sandbox.on(["gc"]);
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Checks that fail now and then and pass in the end, promotions, versions that expire and sweeps.
const BUSY: &str = r#"
[staging]
settle = "20ms"
[checks]
retries = 9
rollback_threshold = 9
backoff = "1ms"
[[check]]
name = "moody"
run = ["sh", "-c", "sleep 0.02; test $(od -An -N1 -tu1 /dev/urandom) -gt 60"]
[promotion]
window = "50ms"
require_free = "0%"
[retention]
keep_last = 4
keep_for = "0s"
"#;

#[test]
fn acknowledged_writes_and_reported_versions_survive_kill_9() {
    let sandbox = Sandbox::new();
    sandbox.init(BUSY).mount();
    let acknowledged: Acknowledged = Arc::default();
    for round in 0..rounds() {
        let stop = AtomicBool::new(false);
        let mut before = BTreeMap::new();
        let mut production = String::new();
        let mut lineage = Vec::new();
        std::thread::scope(|scope| {
            for worker in 0..3 {
                let (dir, stop, acknowledged) = (sandbox.staging(), &stop, &acknowledged);
                scope.spawn(move || write_until_stopped(&dir, worker, stop, acknowledged, (round + 1) * 1_000_000));
            }
            scope.spawn(|| sweep_until_stopped(&sandbox, &stop));
            // Odd moments, so that kills fall into writes, seals, promotions and the idle time between.
            std::thread::sleep(Duration::from_millis(40 + round * 97 % 400));
            before = reported(&sandbox);
            lineage = fs::read(sandbox.mnt().join("lineage/log.jsonl")).unwrap();
            let status = sandbox.status();
            production = status["production"].as_str().unwrap().to_owned();
            Sandbox::kill(status["pid"].as_u64().unwrap());
            stop.store(true, Ordering::Relaxed);
        });
        sandbox.mount();

        let acknowledged = acknowledged.lock().unwrap();
        for (name, generation) in acknowledged.iter().filter(|(name, _)| !name.contains(' ')) {
            let begun = acknowledged.iter().filter(|(of, newer)| of.starts_with(&format!("{name} unknown")) && *newer > generation);
            let begun: Vec<_> = begun.map(|(_, newer)| content(name, *newer)).collect();
            if !begun.is_empty() {
                // Writes that were under way, in this round and before, may have truncated the file or written a part, or all.
                let found = fs::read(sandbox.staging().join(name)).unwrap();
                let known = found == content(name, *generation) || begun.iter().any(|new| new.starts_with(&found));
                assert!(known || found.iter().all(|byte| *byte == 0), "round {round}: {name}");
                continue;
            }
            let found = fs::read(sandbox.staging().join(name)).unwrap_or_else(|why| panic!("round {round}: {name}: {why}"));
            assert_eq!(found, content(name, *generation), "round {round}: {name} is not what fsync acknowledged");
        }
        drop(acknowledged);
        let after = reported(&sandbox);
        for (version, (state, digest)) in &before {
            let (now, same) = after.get(version).unwrap_or_else(|| panic!("round {round}: {version} was reported as {state} and is gone"));
            assert!(may_become(state, now), "round {round}: {version} was reported as {state} and is {now}");
            // An expired one has no content any more; its digest is in the lineage, which is compared below.
            assert!(
                digest.is_empty() || digest == same || now == "expired",
                "round {round}: {version} was reported with digest {digest}, not {same}"
            );
        }
        let found = fs::read(sandbox.mnt().join("lineage/log.jsonl")).unwrap();
        assert!(found.starts_with(&lineage), "round {round}: the lineage that was read is not the beginning of what is there");
        // It reads versions and events one after the other, and what is judged in between contradicts itself: then it looks again.
        common::eventually("the lineage holds", || sandbox.on(["lineage", "verify"]).code == 0);
        let now = sandbox.status()["production"].as_str().unwrap().to_owned();
        let number = |version: &str| version[1..].parse::<u64>().unwrap();
        assert!(number(&now) >= number(&production), "round {round}: production went back from {production} to {now}");
    }
    sandbox.unmount();
}
