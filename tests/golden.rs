//! Stores that are out there stay readable: one of each format, as `scripts/golden` made it then.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use common::Sandbox;
use serde_json::json;

/// The golden store of a format, brought into a sandbox.
fn golden(format: u32) -> Sandbox {
    let sandbox = Sandbox::new();
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/store-{format}.tar.gz"));
    let unpacked = Command::new("tar").arg("-xzf").arg(archive).arg("--no-same-owner").arg("-C").arg(sandbox.path("")).status().unwrap();
    assert!(unpacked.success());
    fs::rename(sandbox.path(&format!("store-{format}")), sandbox.store()).unwrap();
    sandbox
}

/// What is in a version that has everything of t1, and its large file.
fn looks_right(dir: &Path, changed: bool) {
    assert_eq!(fs::read_to_string(dir.join("dir/imported")).unwrap(), "imported\n");
    assert_eq!(fs::read_to_string(dir.join("dir/soft")).unwrap(), "small\n");
    assert_eq!(fs::metadata(dir.join("small")).unwrap().ino(), fs::metadata(dir.join("dir/hard")).unwrap().ino());
    assert_eq!(fs::metadata(dir.join("small")).unwrap().mtime_nsec(), 789_000_000);
    let mut note = [0; 16];
    let length = rustix::fs::getxattr(dir.join("small"), "user.note", &mut note[..]).unwrap();
    assert_eq!(&note[..length], b"a value");
    let mut large = "one line of a large file\n".repeat(12_000).into_bytes();
    if changed {
        large[150_000..150_007].copy_from_slice(b"CHANGED");
    }
    assert!(fs::read(dir.join("large")).unwrap() == large);
    let hole = fs::File::open(dir.join("hole")).unwrap();
    assert_eq!(hole.metadata().unwrap().len(), 5 << 30);
    let mut end = [0; 5];
    hole.read_exact_at(&mut end, 4_999_999_999).unwrap();
    assert_eq!(&end, b"\0end\0");
}

#[test]
fn a_store_of_format_1_opens_with_all_that_was_in_it() {
    let sandbox = golden(1);
    sandbox.mount();
    let log = sandbox.on(["log", "--json"]).expect(0).json();
    let states: Vec<_> = log.as_array().unwrap().iter().map(|version| (version["version"].clone(), version["state"].clone())).collect();
    // The open version settles like any other, as soon as it is mounted.
    assert_eq!(states[0].0, json!("t4"));
    let expected = [("t3", "promoted"), ("t2", "ghost"), ("t1", "superseded"), ("t0", "superseded")];
    assert_eq!(states[1..], expected.map(|(version, state)| (json!(version), json!(state))));
    let at = |place: &str| sandbox.mnt().join(place);
    looks_right(&at("versions/t1"), false);
    looks_right(&at("versions/first"), false);
    looks_right(&at("production"), true);
    looks_right(&at("staging"), true);
    assert!(at("versions/t1/pipe").symlink_metadata().is_ok() && at("versions/t3/pipe").symlink_metadata().is_err());
    assert_eq!(fs::read_to_string(at("ghosts/t2/bad")).unwrap(), "bad\n");
    assert_eq!(fs::read_to_string(at("staging/open")).unwrap(), "not sealed\n");
    assert_eq!(fs::read_to_string(at("lineage/t2/checks/no-bad.1.log")).unwrap(), "looked\n");
    sandbox.on(["lineage", "verify"]).expect(0);
    // And it goes on from there.
    sandbox.on(["commit", "--wait"]).expect(0);
    sandbox.on(["wait", "t4", "--promoted"]).expect(0);
    assert_eq!(fs::read_to_string(at("production/open")).unwrap(), "not sealed\n");
    sandbox.unmount();
}

#[test]
fn a_store_of_a_format_to_come_is_left_alone() {
    let sandbox = golden(1);
    let store = sandbox.store().canonicalize().unwrap();
    fs::write(store.join("format"), "shadowfs store, format 2\n").unwrap();
    let before = fs::read(store.join("catalog.redb")).unwrap();
    let ran = sandbox.run([Path::new("mount"), &sandbox.store(), &sandbox.mnt()]).expect(2);
    let line = format!("shadowfs: {} has store format 2, this shadowfs knows formats up to 1; use a newer shadowfs\n", store.display());
    assert_eq!(ran.stderr, line);
    assert!(fs::read(store.join("catalog.redb")).unwrap() == before);
}
