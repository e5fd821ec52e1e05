//! The command line on real mounts: mounting twice, dead daemons, fstab's helper, and every verb once in earnest.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use common::{Ran, Sandbox, eventually};
use serde_json::json;

const CONFIG: &str = r#"
[staging]
settle = "50ms"
[checks]
backoff = "10ms"
[promotion]
window = "50ms"
require_free = "0%"
[[check]]
name = "no-bad"
run = ["sh", "-c", "echo looked; test ! -e bad"]
"#;

/// The line on standard error, with the sandbox's directory as `DIR`.
fn said(ran: &Ran, sandbox: &Sandbox) -> String {
    let dir = sandbox.path("").canonicalize().unwrap();
    ran.stderr.replace(dir.to_str().unwrap(), "DIR").trim_end().to_owned()
}

fn mounted() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.init(CONFIG).mount();
    sandbox
}

/// A change, committed; the version's number.
fn change(sandbox: &Sandbox, name: &str, code: i32) -> String {
    fs::write(sandbox.staging().join(name), name).unwrap();
    sandbox.on(["commit", "-m", name, "--wait", "--json"]).expect(code).json()["version"].as_str().unwrap().to_owned()
}

#[test]
fn mounting_twice_is_a_conflict() {
    let sandbox = mounted();
    fs::create_dir(sandbox.path("other")).unwrap();
    let line = "shadowfs: DIR/store: mounted at DIR/mnt already; unmount it first: shadowfs unmount DIR/mnt";
    for place in ["mnt", "other"] {
        let ran = sandbox.run([Path::new("mount"), &sandbox.store(), &sandbox.path(place)]).expect(4);
        assert_eq!(said(&ran, &sandbox), line);
    }
    sandbox.run([Path::new("init"), &sandbox.path("second")]).expect(0);
    let ran = sandbox.run([Path::new("mount"), &sandbox.path("second"), &sandbox.mnt()]).expect(4);
    assert_eq!(said(&ran, &sandbox), "shadowfs: DIR/mnt: DIR/store is mounted there already");
    let ran = sandbox.run([Path::new("mount"), &sandbox.mnt(), &sandbox.path("other")]).expect(2);
    assert_eq!(said(&ran, &sandbox), "shadowfs: DIR/mnt: is in the mount of DIR/store, not a store");
    sandbox.on(["status"]).expect(0);
}

#[test]
fn any_path_in_the_mount_names_the_store() {
    let sandbox = mounted();
    fs::create_dir(sandbox.staging().join("deep")).unwrap();
    for path in ["mnt", "mnt/staging/deep", "mnt/production", "mnt/versions", "mnt/versions/t0", "mnt/ghosts", "mnt/lineage/log.jsonl"] {
        let ran = sandbox.run([Path::new("-C"), &sandbox.path(path), Path::new("status"), Path::new("--json")]).expect(0);
        assert_eq!(ran.json()["store"], sandbox.store().canonicalize().unwrap().to_str().unwrap(), "{path}");
    }
    let inside: Ran = sandbox.command(["status"]).current_dir(sandbox.staging().join("deep")).output().unwrap().into();
    inside.expect(0);
}

#[test]
fn unmount_and_mount_follow_each_other_at_once() {
    let sandbox = mounted();
    for _ in 0..3 {
        sandbox.unmount().mount();
    }
    sandbox.on(["unmount"]).expect(0);
    assert_eq!(fs::read_dir(sandbox.mnt()).unwrap().count(), 0);
    sandbox.on(["status"]).expect(5);
}

#[test]
fn a_mount_whose_daemon_died_is_told_and_cleaned_up() {
    let sandbox = mounted();
    // What the kernel has cached of the mount must not make it look alive once its daemon is dead.
    assert_eq!(fs::read_dir(sandbox.mnt()).unwrap().filter(|entry| entry.as_ref().unwrap().metadata().is_ok()).count(), 5);
    assert!(fs::metadata(sandbox.mnt()).unwrap().is_dir());
    sandbox.kill_daemon();
    let ran = sandbox.run([Path::new("-C"), &sandbox.mnt(), Path::new("status")]).expect(5);
    let path = sandbox.mnt();
    let path = path.display();
    let line = format!("shadowfs: {path}: the daemon of this mount is gone; mount the store again, or clean up: shadowfs unmount {path}\n");
    assert_eq!(ran.stderr, line);
    sandbox.on(["status"]).expect(5);
    sandbox.mount();
    assert_eq!(sandbox.status()["production"], "t0");
    sandbox.kill_daemon();
    sandbox.unmount();
    assert_eq!(fs::read_dir(sandbox.mnt()).unwrap().count(), 0);
}

#[test]
fn names_that_nothing_has() {
    let sandbox = mounted();
    for words in [
        &["show", "t99"][..],
        &["diff", "t0", "nonsense"],
        &["promote", "t99"],
        &["rollback", "t99"],
        &["wait", "t99"],
        &["lineage", "t99"],
    ] {
        let ran = sandbox.on(words);
        assert!([1, 2].contains(&ran.code), "{words:?}: {ran:?}");
        assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
        assert!(ran.stderr.contains(words.last().unwrap()), "{ran:?}");
    }
    let ran = sandbox.on(["check", "t0", "--name", "nonsense"]);
    assert!(ran.code != 0 && ran.stderr.contains("nonsense"), "{ran:?}");
}

#[test]
fn a_good_change_a_bad_one_and_their_trail() {
    let sandbox = mounted();
    let good = change(&sandbox, "good", 0);
    sandbox.on(["wait", &good, "--promoted"]).expect(0);
    assert_eq!(sandbox.status()["production"], good.as_str());
    let bad = change(&sandbox, "bad", 3);
    eventually("staging rolls back", || !sandbox.staging().join("bad").exists());
    let ghosts = sandbox.on(["ghosts", "--json"]).expect(0).json();
    assert_eq!((&ghosts[0]["version"], &ghosts[0]["reason"]["kind"]), (&json!(bad), &json!("checks_failed")));
    let shown = sandbox.on(["show", &bad, "--json"]).expect(0).json();
    assert_eq!((&shown["state"], &shown["paths"][0]["path"]), (&json!("ghost"), &json!("bad")));
    let attempt = &shown["attempts"][0];
    assert_eq!((&attempt["outcome"], &attempt["code"]), (&json!("failed"), &json!(1)));
    let output = sandbox.mnt().join(attempt["log"].as_str().unwrap());
    assert_eq!(fs::read_to_string(output).unwrap(), "looked\n");
    let names = sandbox.on(["diff", "t0", &good]).expect(0).stdout;
    assert_eq!(names, "A\tgood\n");
    let patch = sandbox.on(["diff", "t0", &bad, "--patch", "bad"]).expect(0).stdout;
    assert!(patch.ends_with("+++ b/bad\n@@ -0,0 +1 @@\n+bad\n\\ No newline at end of file\n"), "{patch}");
    let events = sandbox.on(["lineage", &bad, "--json"]).expect(0).json();
    let kinds: Vec<_> = events.as_array().unwrap().iter().map(|event| event["event"].as_str().unwrap()).collect();
    for kind in ["opened", "sealed", "checked", "rejected"] {
        assert!(kinds.contains(&kind), "{kinds:?}");
    }
    // What the mount shows is what the commands print.
    let file: serde_json::Value =
        serde_json::from_slice(&fs::read(sandbox.mnt().join(format!("lineage/{bad}/version.json"))).unwrap()).unwrap();
    assert_eq!(file, ghosts[0]);
    let log = fs::read_to_string(sandbox.mnt().join("lineage/log.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let all = sandbox.on(["lineage", "--json"]).expect(0).json();
    assert_eq!(all.as_array().unwrap()[..lines.len()], lines);
    let log = sandbox.on(["log"]).expect(0).stdout;
    assert!(log.lines().count() >= 4, "{log}");
}

#[test]
fn production_by_hand() {
    let sandbox = mounted();
    let (first, second) = (change(&sandbox, "first", 0), change(&sandbox, "second", 0));
    sandbox.on(["wait", &second, "--promoted"]).expect(0);
    sandbox.on(["rollback", &first]).expect(0);
    assert_eq!(sandbox.status()["production"], first.as_str());
    assert!(!sandbox.production().join("second").exists() && sandbox.production().join("first").exists());
    sandbox.on(["promote", &second]).expect(0);
    assert!(sandbox.production().join("second").exists());
}

#[test]
fn run_is_one_version_or_none() {
    let sandbox = mounted();
    let ran = sandbox.on(["run", "-m", "both", "--wait", "--json", "--", "sh", "-c", "echo a > a; sleep 0.2; echo b > b"]).expect(0).json();
    assert_eq!((&ran["changes"]["added"], &ran["message"]), (&json!(2), &json!("both")));
    let ran = sandbox.on(["run", "--", "sh", "-c", "echo c > c; exit 9"]).expect(1);
    assert_eq!(ran.stderr, "shadowfs: sh: exit code 9; its changes are discarded\n");
    assert!(!sandbox.staging().join("c").exists());
    sandbox.on(["run", "--wait", "--", "touch", "bad"]).expect(3);
    assert_eq!(sandbox.status()["open"], json!(null));
}

#[test]
fn begin_holds_and_abort_discards() {
    let sandbox = mounted();
    sandbox.on(["begin", "-m", "later"]).expect(0);
    fs::write(sandbox.staging().join("x"), "x").unwrap();
    assert_eq!(sandbox.status()["open"]["held_open"], true);
    sandbox.on(["begin"]).expect(4);
    sandbox.on(["abort"]).expect(0);
    assert!(!sandbox.staging().join("x").exists());
    assert_eq!(sandbox.on(["commit"]).expect(0).stdout, "nothing had changed\n");
}

#[test]
fn fstab_mounts_by_the_helpers_name() {
    let sandbox = Sandbox::new();
    sandbox.init(CONFIG);
    let helper = sandbox.path("mount.fuse.shadowfs");
    symlink(env!("CARGO_BIN_EXE_shadowfs"), &helper).unwrap();
    let mut command = std::process::Command::new(helper);
    let ran: Ran = command.arg(sandbox.store()).arg(sandbox.mnt()).args(["-o", "rw,noauto,x-systemd.automount"]).output().unwrap().into();
    ran.expect(0);
    sandbox.on(["status"]).expect(0);
}

#[test]
fn in_the_foreground_it_ends_with_the_mount() {
    let sandbox = Sandbox::new();
    sandbox.init(CONFIG);
    let mut command = sandbox.command(["mount", "--foreground"]);
    let child = command.arg(sandbox.store()).arg(sandbox.mnt()).stderr(std::process::Stdio::null()).spawn().unwrap();
    eventually("it answers", || sandbox.on(["status"]).code == 0);
    sandbox.unmount();
    assert_eq!(Ran::from(child.wait_with_output().unwrap()).code, 0);
}

#[test]
fn a_store_with_a_long_path() {
    let sandbox = Sandbox::new();
    let deep = sandbox.path(&["d"; 60].join("/"));
    fs::create_dir_all(&deep).unwrap();
    let store = deep.join("store");
    sandbox.run([Path::new("init"), &store]).expect(0);
    sandbox.run([Path::new("mount"), &store, &sandbox.mnt()]).expect(0);
    sandbox.run([Path::new("-C"), &sandbox.mnt(), Path::new("status")]).expect(0);
}

#[test]
fn a_copy_of_the_mount_in_another_namespace_does_not_keep_the_daemon() {
    let sandbox = mounted();
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt")).unwrap();
    let mut copy = std::process::Command::new("unshare").args(["-m", "--propagation", "private", "sleep", "600"]).spawn().unwrap();
    let apart = copy.id().to_string();
    eventually("a namespace of its own", || namespace(&apart) != namespace("self"));
    fs::write(sandbox.staging().join("a"), "a").unwrap();
    sandbox.unmount();
    sandbox.mount();
    assert_eq!(fs::read_to_string(sandbox.staging().join("a")).unwrap(), "a");
    copy.kill().unwrap();
    copy.wait().unwrap();
    sandbox.unmount();
}

#[test]
fn waits_that_were_interrupted_do_not_keep_others_out() {
    let sandbox = Sandbox::new();
    sandbox.init("[staging]\nsettle = \"1h\"\n").mount();
    fs::write(sandbox.staging().join("a"), "a").unwrap();
    eventually("t1 is open", || !sandbox.status()["open"].is_null());
    // More than the daemon serves at once: some are told to try again.
    let waits: Vec<_> =
        (0..80).map(|_| sandbox.command(["-C", sandbox.store().to_str().unwrap(), "wait", "t1"]).spawn().unwrap()).collect();
    eventually("no room is left", || sandbox.on(["status"]).code == 75);
    for mut wait in waits {
        wait.kill().unwrap();
        wait.wait().unwrap();
    }
    eventually("there is room again", || sandbox.on(["status"]).code == 0);
    sandbox.unmount();
}
