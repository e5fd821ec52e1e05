//! `fsck` and `scrub` from the outside: damage is found and named by file and version, what is good stays readable, and what can be put
//! right without a loss is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use common::story::{self, files_below, ghost, noise, promoted};
use common::{Sandbox, eventually};
use serde_json::{Value, json};

/// Turns a byte over.
fn flip(file: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x20], at).unwrap();
}

fn object(sandbox: &Sandbox, len: usize) -> PathBuf {
    let is = |file: &PathBuf| fs::metadata(file).unwrap().len() == len as u64;
    files_below(sandbox, "objects").into_iter().find(is).unwrap()
}

/// `large` in a file of its own, `small` in a pack, a ghost: t1 to t3.
fn stored() -> Sandbox {
    let sandbox = story::mounted("");
    fs::write(sandbox.staging().join("large"), noise(1, 300_000)).unwrap();
    promoted(&sandbox, "small", noise(2, 3_000));
    fs::create_dir(sandbox.staging().join("dir")).unwrap();
    promoted(&sandbox, "dir/other", noise(3, 3_000));
    ghost(&sandbox, noise(4, 400_000));
    sandbox
}

fn findings(doc: &Value) -> Vec<(String, Value, Value)> {
    let one = |finding: &Value| (finding["severity"].as_str().unwrap().to_owned(), finding["path"].clone(), finding["versions"].clone());
    doc["findings"].as_array().unwrap().iter().map(one).collect()
}

#[test]
fn a_store_that_is_whole_is_clean_with_a_daemon_and_without() {
    let sandbox = stored();
    for mounted in [true, false] {
        if !mounted {
            sandbox.unmount();
        }
        let said = sandbox.on(["fsck"]).expect(0).stdout;
        assert!(said.ends_with("; `shadowfs scrub` reads their contents\n"), "{said}");
        let doc = sandbox.on(["fsck", "--json"]).expect(0).json();
        assert_eq!((&doc["findings"], &doc["pages"]), (&json!([]), &json!(!mounted)), "{doc}");
        let doc = sandbox.on(["scrub", "--json"]).expect(0).json();
        assert_eq!((&doc["objects"], &doc["findings"]), (&json!(4), &json!([])), "{doc}");
    }
    assert_eq!(sandbox.on(["scrub"]).expect(0).stdout, "4 contents (689.45 KiB) are what was sealed\n");
    sandbox.on(["fsck", "--repair"]).expect(0);
    sandbox.mount();
    let scrubbed = sandbox.status()["upkeep"]["scrubbed"].clone();
    assert_eq!((&scrubbed["objects"], &scrubbed["findings"]), (&json!(4), &json!([])));
    assert!(sandbox.on(["status"]).expect(0).stdout.contains("scrub:      "));
}

#[test]
fn a_byte_of_a_content_is_named_by_file_and_version_and_the_rest_stays_readable() {
    let sandbox = stored();
    sandbox.unmount();
    flip(&object(&sandbox, 300_000), 123_456);
    flip(&object(&sandbox, 400_000), 7);
    // The pack of t2 has one content.
    let pack = files_below(&sandbox, "packs").into_iter().next_back().unwrap();
    flip(&pack, 500);
    for mounted in [false, true] {
        if mounted {
            sandbox.mount();
        }
        let ran = sandbox.on(["scrub"]).expect(1);
        assert_eq!(ran.stderr, "shadowfs: contents are damaged: 3 findings; what else there is stays readable\n");
        assert!(ran.stdout.contains("error: large: object ") && ran.stdout.contains("(t1 to t3, 3 versions)"), "{ran:?}");
        let doc = sandbox.on(["scrub", "--json"]).expect(1).json();
        let named = findings(&doc);
        let expected = [
            ("error", json!("bad"), json!(["t3"])),
            ("error", json!("dir/other"), json!(["t2", "t3"])),
            ("error", json!("large"), json!(["t1", "t2", "t3"])),
        ];
        for (severity, path, versions) in expected {
            assert!(named.contains(&(severity.to_owned(), path, versions)), "{doc}");
        }
        // The structure is whole: it does not read contents.
        assert_eq!(sandbox.on(["fsck", "--json"]).expect(0).json()["findings"], json!([]));
    }
    assert_eq!(fs::read(sandbox.production().join("small")).unwrap(), noise(2, 3_000));
    let warnings = sandbox.status()["warnings"].clone();
    assert!(warnings[0].as_str().unwrap().starts_with("the last scrub found damage; `shadowfs scrub` lists all of it: "), "{warnings}");
    // With the damage gone, so is the warning.
    sandbox.unmount();
    flip(&object(&sandbox, 300_000), 123_456);
    flip(&object(&sandbox, 400_000), 7);
    flip(&pack, 500);
    sandbox.on(["scrub"]).expect(0);
    sandbox.mount();
    assert_eq!(sandbox.status()["warnings"], json!([]));
}

#[test]
fn what_is_missing_or_cut_is_named_and_read_as_an_error() {
    let sandbox = stored();
    sandbox.unmount();
    fs::remove_file(object(&sandbox, 300_000)).unwrap();
    let cut = object(&sandbox, 400_000);
    OpenOptions::new().write(true).open(cut).unwrap().set_len(1_000).unwrap();
    for mounted in [false, true] {
        if mounted {
            sandbox.mount();
        }
        let named = findings(&sandbox.on(["fsck", "--json"]).expect(1).json());
        assert!(named.contains(&("error".to_owned(), json!("large"), json!(["t1", "t2", "t3"]))), "{named:?}");
        assert!(named.contains(&("error".to_owned(), json!("bad"), json!(["t3"]))), "{named:?}");
        sandbox.on(["scrub"]).expect(1);
        if mounted {
            sandbox.on(["lineage", "verify"]).expect(1);
        }
    }
    let read = |path: PathBuf| fs::read(path).map_err(|error| error.raw_os_error());
    assert_eq!(read(sandbox.production().join("large")), Err(Some(libc::EIO)));
    assert_eq!(read(sandbox.mnt().join("ghosts/t3/bad")), Err(Some(libc::EIO)));
    assert_eq!(read(sandbox.production().join("small")), Ok(noise(2, 3_000)));
    // It is mended in staging, as a new version: another file takes its place.
    fs::remove_file(sandbox.staging().join("large")).unwrap();
    fs::write(sandbox.staging().join("large"), "new").unwrap();
    sandbox.on(["commit", "--wait"]).expect(0);
    sandbox.on(["wait", "--promoted"]).expect(0);
    assert_eq!(read(sandbox.production().join("large")), Ok(b"new".to_vec()));
}

#[test]
fn what_nothing_needs_is_a_note_and_a_repair_removes_it() {
    let sandbox = stored();
    sandbox.unmount();
    fs::write(sandbox.store().join("objects/3f/256000063"), noise(9, 5_000)).unwrap();
    fs::copy(&files_below(&sandbox, "packs")[0], sandbox.store().join("packs/77777")).unwrap();
    let doc = sandbox.on(["fsck", "--json"]).expect(0).json();
    let notes = findings(&doc);
    assert_eq!(notes.len(), 2, "{doc}");
    assert!(notes.iter().all(|(severity, ..)| severity == "note") && doc["findings"][0]["repairable"] == true, "{doc}");
    let said = sandbox.on(["fsck", "--repair"]).expect(0).stdout;
    assert!(said.contains("repaired: removed what nothing needs: 0 tree nodes, 0 contents, 2 files left behind\n"), "{said}");
    assert!(!sandbox.store().join("packs/77777").exists());
    assert_eq!(sandbox.on(["fsck", "--json"]).expect(0).json()["findings"], json!([]));
    sandbox.on(["scrub"]).expect(0);
    // A repair is for a store at rest.
    sandbox.mount();
    let line = sandbox.on(["fsck", "--repair"]).expect(4).stderr;
    assert!(line.ends_with("is mounted: fsck --repair is for a store at rest; first: shadowfs unmount\n"), "{line}");
}

#[test]
fn a_scrub_in_the_background_comes_by_itself_and_its_interval_is_kept() {
    let sandbox = stored();
    flip(&object(&sandbox, 300_000), 5);
    assert_eq!(sandbox.status()["upkeep"]["scrubbed"], json!(null));
    sandbox.configure(&story::config(&sandbox, "[scrub]\ninterval = \"1ms\"\nrate = \"100MiB\"\n"));
    let found = || sandbox.status()["upkeep"]["scrubbed"]["findings"].clone();
    eventually("a scrub has found it", || found().as_array().is_some_and(|found| found.len() == 1));
    assert!(found()[0].as_str().unwrap().starts_with("large: object "));
    assert!(sandbox.status()["warnings"][0].as_str().unwrap().contains("large: object "));
    // In force at the next mount, too: a long interval counts from the last one, and the result is there.
    sandbox.configure(&story::config(&sandbox, "[scrub]\ninterval = \"1h\"\n"));
    eventually("it is in force", || sandbox.on(["config", "show"]).expect(0).stdout.contains("interval = \"1h\""));
    eventually("the last one has ended", || sandbox.status()["upkeep"]["scrubbing"].is_null());
    let last = sandbox.status()["upkeep"]["scrubbed"].clone();
    sandbox.unmount().mount();
    assert_eq!(sandbox.status()["upkeep"]["scrubbed"], last);
}

#[test]
fn a_scrub_that_was_interrupted_goes_on_where_it_was() {
    let sandbox = stored();
    // So slow that it does not come to its end here.
    sandbox.configure(&story::config(&sandbox, "[scrub]\ninterval = \"1ms\"\nrate = \"64KiB\"\n"));
    eventually("it is under way", || sandbox.status()["upkeep"]["scrubbing"].is_u64());
    sandbox.unmount();
    // The configuration is read at the mount: fast from here on, and only what was begun is due.
    sandbox.configure(&story::config(&sandbox, "[scrub]\ninterval = \"100d\"\n"));
    sandbox.mount();
    eventually("it came to its end", || sandbox.status()["upkeep"]["scrubbed"]["objects"] == 4);
    assert!(sandbox.status()["upkeep"]["scrubbing"].is_null());
}

#[test]
fn a_store_copied_while_it_is_not_mounted_works() {
    let sandbox = stored();
    sandbox.on(["tag", "v1", "t1"]).expect(0);
    fs::write(sandbox.staging().join("open"), "not sealed").unwrap();
    let log = sandbox.on(["log", "--json"]).expect(0).json();
    story::at_rest(&sandbox);
    let copy = Sandbox::new();
    let copied = std::process::Command::new("cp").arg("-a").arg(sandbox.store()).arg(copy.store()).status().unwrap();
    assert!(copied.success());
    // The original goes, so that nothing leans on it.
    fs::remove_dir_all(sandbox.store()).unwrap();
    copy.on(["fsck"]).expect(0);
    copy.on(["scrub"]).expect(0);
    copy.mount();
    assert_eq!(copy.on(["log", "--json"]).expect(0).json(), log);
    assert_eq!(fs::read(copy.production().join("large")).unwrap(), noise(1, 300_000));
    assert_eq!(fs::read(copy.mnt().join("versions/v1/small")).unwrap(), noise(2, 3_000));
    assert_eq!(fs::read_to_string(copy.staging().join("open")).unwrap(), "not sealed");
    let version = copy.on(["commit", "--wait", "--json"]).expect(0).json()["version"].as_str().unwrap().to_owned();
    copy.on(["wait", &version, "--promoted"]).expect(0);
    assert_eq!(fs::read_to_string(copy.production().join("open")).unwrap(), "not sealed");
    copy.on(["lineage", "verify"]).expect(0);
}
