//! A small real filesystem, filled: writers get ENOSPC, what must go on does, and with room again so does the rest. Needs root and a loop device.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::io::Write;
use std::path::Path;

use common::filesystem::Filesystem;
use common::{Sandbox, eventually};

/// Writes until there is no room; returns how many bytes went in.
fn fill(path: &Path, block: usize) -> usize {
    let mut file = match fs::File::create(path) {
        // Not even for its name (xfs).
        Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => return 0,
        file => file.unwrap(),
    };
    let bytes: Vec<u8> = (0..block).map(|at| at as u8).collect();
    let mut written = 0;
    loop {
        match file.write(&bytes) {
            Ok(n) => written += n,
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
                return written;
            }
        }
    }
}

fn production(sandbox: &Sandbox) -> String {
    sandbox.status()["production"].as_str().unwrap().to_owned()
}

fn work_goes_on(kind: &str, mib: u64) {
    let Some(small) = Filesystem::new(kind, mib) else { return };
    let sandbox = Sandbox::below(&small.path());
    sandbox.init("[staging]\nsettle = \"1h\"\nreserve = \"16MiB\"\n[promotion]\nwindow = \"0s\"\nrequire_free = \"0%\"\n").mount();
    let staging = sandbox.staging();
    for (name, text) in [("a", "1"), ("b", "1")] {
        fs::write(staging.join(name), text).unwrap();
    }
    sandbox.on(["commit", "--wait"]).expect(0);
    fs::write(staging.join("a"), "2").unwrap();
    fs::write(staging.join("ballast"), vec![7; 30 << 20]).unwrap();
    sandbox.on(["commit", "--wait"]).expect(0);
    eventually("t2 in production", || production(&sandbox) == "t2");

    // Full: what staging did not take, another program does.
    let in_staging = fill(&staging.join("large"), 1 << 20);
    assert!(in_staging > 20 << 20, "{in_staging}");
    fill(&small.path().join("stranger"), 4096);
    // xfs keeps some blocks that it says are free.
    assert!(small.free() < 64 << 10, "{}", small.free());
    // Small files are refused as well, not taken and lost.
    let mut refused = None;
    eventually("a small file is refused", || {
        refused = fs::File::create(staging.join("small")).and_then(|mut file| file.write_all(&[1; 100_000])).err();
        refused.is_some()
    });
    assert_eq!(refused.unwrap().raw_os_error(), Some(libc::ENOSPC));

    // Deleting and sealing work, on disk, and so does the way back.
    fs::remove_file(staging.join("large")).unwrap();
    fs::remove_file(staging.join("small")).unwrap();
    fill(&small.path().join("stranger 2"), 4096);
    fs::remove_file(staging.join("b")).unwrap();
    fs::File::open(&staging).unwrap().sync_all().unwrap();
    sandbox.on(["commit", "--wait"]).expect(0);
    eventually("t3 in production", || production(&sandbox) == "t3");
    sandbox.on(["rollback", "t1"]).expect(0);
    assert_eq!(production(&sandbox), "t1");
    assert_eq!(fs::read_to_string(sandbox.production().join("a")).unwrap(), "1");
    let warnings = sandbox.status()["warnings"].to_string();
    // xfs may have had room enough without the reserve.
    assert!(kind == "xfs" || warnings.contains("the store's disk is full"), "{warnings}");

    // It survives a kill, and mounts on the full disk.
    Sandbox::kill(sandbox.status()["pid"].as_u64().unwrap());
    sandbox.mount();
    assert_eq!(production(&sandbox), "t1");
    assert_eq!(fs::read_to_string(staging.join("b")).unwrap(), "1");

    // With room again work goes on, without a restart, and the reserve is taken back.
    fs::remove_file(small.path().join("stranger")).unwrap();
    let _it_may_have_had_no_room = fs::remove_file(small.path().join("stranger 2"));
    eventually("room", || fs::write(staging.join("after"), vec![3; 3 << 20]).is_ok());
    sandbox.on(["commit", "--wait"]).expect(0);
    assert_eq!(fs::read(sandbox.mnt().join("versions/latest/after")).unwrap(), vec![3; 3 << 20]);
    eventually("the reserve", || !sandbox.status()["warnings"].to_string().contains("the store's disk is full"));
    sandbox.on(["lineage", "verify"]).expect(0);
    sandbox.unmount();
}

#[test]
fn deleting_and_rolling_back_work_on_a_full_disk_and_work_goes_on_with_room_again() {
    work_goes_on("ext4", 160);
}

#[test]
fn the_same_on_xfs() {
    work_goes_on("xfs", 320);
}
