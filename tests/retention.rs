//! Retention and gc, from the outside: what goes when, what that frees, and that nobody who reads is disturbed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use common::story::{self, ghost, kinds, noise, objects_of, promoted, state};
use common::user::as_user;
use common::{Sandbox, eventually};
use serde_json::{Value, json};

/// Large enough for an object with a file of its own, and more than the kernel reads ahead.
const LARGE: usize = 4 << 20;
/// Where nothing was read before, nor read ahead.
const FAR: u64 = 3 << 20;

/// Nothing expires by itself.
const PATIENT: &str = "";
const GHOSTS_GO: &str = "[ghosts]\nretain = \"0s\"\n";
const VERSIONS_GO: &str = "[retention]\nkeep_last = 1\nkeep_for = \"0s\"\n";

fn gc(sandbox: &Sandbox, dry_run: bool) -> Value {
    let args: &[&str] = if dry_run { &["gc", "--dry-run", "--json"] } else { &["gc", "--json"] };
    sandbox.on(args).expect(0).json()
}

fn read_at(file: &File, offset: u64) -> Vec<u8> {
    let mut buffer = vec![0; 4096];
    file.read_exact_at(&mut buffer, offset).unwrap();
    buffer
}

fn part(bytes: &[u8], offset: u64) -> &[u8] {
    &bytes[usize::try_from(offset).unwrap()..][..4096]
}

#[test]
fn a_ghost_is_browsable_until_its_retention_ends_and_its_trail_stays() {
    let sandbox = story::mounted(PATIENT);
    promoted(&sandbox, "good", "1");
    let (kept, goes) = (ghost(&sandbox, "rows"), ghost(&sandbox, noise(1, LARGE)));
    sandbox.on(["pin", &kept]).expect(0);
    let path = |ghost: &str| sandbox.mnt().join("ghosts").join(ghost).join("bad");
    assert_eq!(fs::read(path(&goes)).unwrap().len(), LARGE);
    let log = sandbox.mnt().join("lineage").join(&goes).join("checks/rule.1.log");
    assert!(log.exists() && objects_of(&sandbox, LARGE) == 1);
    sandbox.configure(&story::config(&sandbox, GHOSTS_GO));
    eventually("the ghost goes", || state(&sandbox, &goes) == "expired");
    assert!(!path(&goes).exists());
    eventually("its space is free", || objects_of(&sandbox, LARGE) == 0);
    // The record, the reason and the logs stay.
    let record: Value = serde_json::from_slice(&fs::read(sandbox.mnt().join("lineage").join(&goes).join("version.json")).unwrap()).unwrap();
    assert_eq!((&record["state"], &record["reason"]["kind"]), (&json!("expired"), &json!("checks_failed")));
    assert!(log.exists());
    assert_eq!(kinds(&sandbox, &goes).last().unwrap(), "expired");
    // A pinned one stays.
    assert_eq!((state(&sandbox, &kept).as_str(), fs::read_to_string(path(&kept)).unwrap().as_str()), ("ghost", "rows"));
    sandbox.on(["lineage", "verify"]).expect(0);
}

#[test]
fn a_version_goes_when_both_are_passed_and_production_tags_and_pins_never() {
    let sandbox = story::mounted(PATIENT);
    let versions: Vec<String> = (0..6).map(|n| promoted(&sandbox, "a", format!("{n}"))).collect();
    sandbox.on(["tag", "first", &versions[0]]).expect(0);
    sandbox.on(["pin", &versions[1]]).expect(0);
    sandbox.on(["rollback", &versions[4]]).expect(0);
    // One is passed, the other is not: nothing goes.
    for rules in ["[retention]\nkeep_last = 1\n", "[retention]\nkeep_for = \"0s\"\n"] {
        sandbox.configure(&story::config(&sandbox, rules));
        let in_force = rules.lines().last().unwrap();
        eventually("it is in force", || sandbox.on(["config", "show"]).expect(0).stdout.contains(in_force));
        assert_eq!(gc(&sandbox, false)["expired"], json!([]));
    }
    sandbox.configure(&story::config(&sandbox, VERSIONS_GO));
    eventually("what is past both goes", || ["t0", &versions[2], &versions[3]].iter().all(|version| state(&sandbox, version) == "expired"));
    // Nothing else is due.
    assert_eq!(gc(&sandbox, false)["expired"], json!([]));
    let states: Vec<String> = [0, 1, 4, 5].map(|at: usize| state(&sandbox, &versions[at])).into();
    assert_eq!(states, ["superseded", "superseded", "promoted", "superseded"]);
    assert_eq!(fs::read_to_string(sandbox.mnt().join("versions/first/a")).unwrap(), "0");
    assert_eq!(fs::read_to_string(sandbox.mnt().join("versions").join(&versions[1]).join("a")).unwrap(), "1");
    assert_eq!(fs::read_to_string(sandbox.production().join("a")).unwrap(), "4");
    assert!(!sandbox.mnt().join("versions").join(&versions[2]).exists());
    sandbox.on(["lineage", "verify"]).expect(0);
}

/// Ghosts and versions whose contents are in packs, in files of their own and shared.
fn rich() -> Sandbox {
    let sandbox = story::mounted(PATIENT);
    for n in 0..4 {
        fs::write(sandbox.staging().join("large"), noise(n, 300_000)).unwrap();
        promoted(&sandbox, "small", noise(100 + n, 3_000));
    }
    promoted(&sandbox, "copy", noise(2, 300_000));
    ghost(&sandbox, noise(7, 500_000));
    sandbox
}

#[test]
fn the_dry_run_says_just_what_goes_without_a_daemon() {
    let sandbox = rich();
    sandbox.unmount();
    sandbox.configure(&story::config(&sandbox, &format!("{VERSIONS_GO}{GHOSTS_GO}")));
    let used =
        || story::files_below(&sandbox, "").iter().filter(|file| !file.ends_with("catalog.redb")).map(|file| disk(file)).sum::<u64>();
    let before = used();
    let said = sandbox.on(["gc", "--dry-run"]).expect(0).stdout;
    assert!(said.contains("t6 (ghost): its time is over, it would go\n") && said.contains("would free"), "{said}");
    let dry = gc(&sandbox, true);
    assert_eq!((dry["expired"].as_array().unwrap().len(), &dry["dry_run"]), (6, &json!(true)));
    assert_eq!(used(), before);
    let real = gc(&sandbox, false);
    let same = |doc: &Value| {
        Value::Object(doc.as_object().unwrap().iter().filter(|(key, _)| *key != "dry_run").map(|(k, v)| (k.clone(), v.clone())).collect())
    };
    assert_eq!(same(&real), same(&dry));
    assert!(real["freed"].as_u64().unwrap() > 1_000_000, "{real}");
    assert_eq!(before - used(), real["freed"].as_u64().unwrap());
    assert_eq!((&gc(&sandbox, false)["freed"], &gc(&sandbox, true)["expired"]), (&json!(0), &json!([])));
    sandbox.mount();
    assert_eq!(fs::read(sandbox.production().join("copy")).unwrap(), noise(2, 300_000));
    assert_eq!(fs::read(sandbox.production().join("small")).unwrap(), noise(103, 3_000));
    sandbox.on(["lineage", "verify"]).expect(0);
}

/// What a file takes on disk; a pack counts with its length.
fn disk(file: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let data = fs::metadata(file).unwrap();
    if file.parent().is_some_and(|dir| dir.ends_with("packs")) { data.len() } else { data.blocks() * 512 }
}

#[test]
fn the_dry_run_says_just_what_goes_with_a_daemon() {
    let sandbox = story::mounted(VERSIONS_GO);
    // The daemon may be faster than we are: then there is nothing to compare, and another one is made.
    let compared = (0..50).any(|n| {
        let goes = promoted(&sandbox, "large", noise(n, 300_000));
        sandbox.on(["pin", &goes]).expect(0);
        promoted(&sandbox, "large", noise(n + 1_000, 300_000));
        sandbox.on(["pin", "--remove", &goes]).expect(0);
        let (dry, real) = (gc(&sandbox, true), gc(&sandbox, false));
        let both = [&dry, &real].iter().all(|doc| doc["expired"].as_array().unwrap().contains(&json!({"version": goes, "ghost": false})));
        if both {
            assert_eq!((&dry["freed"], &dry["objects"], &dry["nodes"]), (&real["freed"], &real["objects"], &real["nodes"]));
            assert!(real["freed"].as_u64().unwrap() >= 300_000, "{real}");
        }
        both
    });
    assert!(compared);
}

fn readers_keep_what_they_hold() {
    let sandbox = story::mounted(PATIENT);
    let bytes = noise(3, LARGE);
    let gone = ghost(&sandbox, &bytes);
    let dir = sandbox.mnt().join("ghosts").join(&gone);
    let file = File::open(dir.join("bad")).unwrap();
    assert_eq!(read_at(&file, 0), part(&bytes, 0));
    sandbox.on(["drop", &gone]).expect(0);
    assert!(!dir.exists());
    let doc = gc(&sandbox, false);
    assert_eq!((&doc["in_use"], &doc["freed"]), (&json!([gone]), &json!(0)), "{doc}");
    assert!(doc["later"].as_u64().unwrap() >= LARGE as u64, "{doc}");
    assert_eq!(read_at(&file, FAR), part(&bytes, FAR));
    let said = sandbox.on(["gc"]).expect(0).stdout;
    assert!(said.contains(&format!("{gone}: gone, but in use: 4.")), "{said}");
    drop(file);
    let doc = gc(&sandbox, false);
    assert_eq!((&doc["in_use"], objects_of(&sandbox, LARGE)), (&json!([]), 0), "{doc}");
    sandbox.on(["lineage", "verify"]).expect(0);
}

#[test]
fn who_has_a_file_of_a_dropped_ghost_open_reads_it_to_the_end() {
    readers_keep_what_they_hold();
}

#[test]
fn a_user_s_readers_keep_what_they_hold_as_well() {
    as_user("a_user_s_readers_keep_what_they_hold_as_well", readers_keep_what_they_hold);
}

#[test]
fn a_working_directory_in_what_was_production_stays_whole_until_it_is_left() {
    let sandbox = story::mounted(PATIENT);
    fs::create_dir_all(sandbox.staging().join("dir/sub")).unwrap();
    fs::write(sandbox.staging().join("dir/sub/never-looked-at"), noise(5, LARGE)).unwrap();
    let old = promoted(&sandbox, "a", "1");
    let held = File::open(sandbox.production().join("dir")).unwrap();
    let through = |path: &str| std::path::PathBuf::from(format!("/proc/self/fd/{}/{path}", std::os::fd::AsRawFd::as_raw_fd(&held)));
    fs::remove_dir_all(sandbox.staging().join("dir")).unwrap();
    promoted(&sandbox, "a", "2");
    sandbox.on(["drop", &old]).expect(0);
    assert_eq!(gc(&sandbox, false)["in_use"], json!([old]));
    // What was never looked at before, too; and it goes on so, however often it is swept.
    for _ in 0..2 {
        assert_eq!(fs::read(through("sub/never-looked-at")).unwrap(), noise(5, LARGE));
        assert_eq!(fs::read_dir(through("sub")).unwrap().count(), 1);
        gc(&sandbox, false);
    }
    // What the kernel has cached below it keeps nothing once the directory is left.
    drop(held);
    eventually("nobody uses it", || gc(&sandbox, false)["in_use"] == json!([]));
    assert_eq!(objects_of(&sandbox, LARGE), 0);
}

#[test]
fn a_file_that_other_versions_show_keeps_no_version_that_is_gone() {
    let sandbox = story::mounted(PATIENT);
    fs::write(sandbox.staging().join("shared"), noise(8, LARGE)).unwrap();
    let old = promoted(&sandbox, "goes", noise(9, 300_000));
    fs::remove_file(sandbox.staging().join("goes")).unwrap();
    promoted(&sandbox, "a", "1");
    // The same file as the one in the version that goes, and known through that as well.
    assert_eq!(fs::metadata(sandbox.mnt().join("versions").join(&old).join("shared")).unwrap().len(), LARGE as u64);
    let file = File::open(sandbox.production().join("shared")).unwrap();
    sandbox.on(["drop", &old]).expect(0);
    let doc = gc(&sandbox, false);
    assert_eq!((&doc["in_use"], objects_of(&sandbox, 300_000)), (&json!([]), 0), "{doc}");
    assert_eq!(read_at(&file, FAR), part(&noise(8, LARGE), FAR));
}

#[test]
fn a_dropped_version_is_freed_by_itself_also_after_a_kill() {
    let sandbox = story::mounted(PATIENT);
    let (one, two) = (ghost(&sandbox, noise(1, LARGE)), ghost(&sandbox, noise(2, LARGE + 4096)));
    sandbox.on(["drop", &one]).expect(0);
    eventually("its space is free", || objects_of(&sandbox, LARGE) == 0);
    let file = File::open(sandbox.mnt().join("ghosts").join(&two).join("bad")).unwrap();
    sandbox.on(["drop", &two]).expect(0);
    sandbox.kill_daemon();
    drop(file);
    assert_eq!(objects_of(&sandbox, LARGE + 4096), 1);
    sandbox.mount();
    eventually("the next daemon frees it", || objects_of(&sandbox, LARGE + 4096) == 0);
}

#[test]
fn an_open_version_keeps_what_it_restored_from_a_ghost_that_is_gone() {
    let sandbox = story::mounted(PATIENT);
    let bytes = noise(4, LARGE);
    let gone = ghost(&sandbox, &bytes);
    sandbox.on(["begin"]).expect(0);
    sandbox.on(["restore", &gone]).expect(0);
    sandbox.on(["drop", &gone]).expect(0);
    gc(&sandbox, false);
    assert_eq!(fs::read(sandbox.staging().join("bad")).unwrap(), bytes);
    // Only the journal names it now.
    sandbox.unmount();
    gc(&sandbox, false);
    sandbox.mount();
    assert_eq!(fs::read(sandbox.staging().join("bad")).unwrap(), bytes);
    // And an open file that was removed keeps its bytes.
    let file = File::open(sandbox.staging().join("bad")).unwrap();
    sandbox.on(["abort"]).expect(0);
    gc(&sandbox, false);
    assert_eq!(objects_of(&sandbox, LARGE), 0, "an abort makes its files stale");
    drop(file);
}

#[test]
fn a_removed_file_that_is_open_in_staging_stays_readable() {
    let sandbox = story::mounted(VERSIONS_GO);
    let bytes = noise(6, 60_000);
    promoted(&sandbox, "packed", &bytes);
    let file = File::open(sandbox.staging().join("packed")).unwrap();
    fs::remove_file(sandbox.staging().join("packed")).unwrap();
    let last = promoted(&sandbox, "a", "1");
    eventually("only the last one is left", || {
        gc(&sandbox, false);
        sandbox.status()["versions"] == 1
    });
    assert_eq!(state(&sandbox, &last), "promoted");
    assert_eq!(read_at(&file, 50_000), part(&bytes, 50_000));
}

#[test]
fn while_space_is_short_the_oldest_go_before_their_time_but_not_the_newest() {
    let sandbox = story::mounted(PATIENT);
    let versions: Vec<String> = (0..5).map(|n| promoted(&sandbox, "a", format!("{n}"))).collect();
    let (ghost, pinned) = (ghost(&sandbox, "rows"), &versions[1]);
    sandbox.on(["pin", pinned]).expect(0);
    sandbox.configure(&story::config(&sandbox, "[retention]\nkeep_last = 2\nmin_free = \"100%\"\n"));
    let gone = ["t0", &versions[0], &versions[2], &ghost];
    eventually("all go that may", || gone.iter().all(|version| state(&sandbox, version) == "expired"));
    for kept in [pinned, &versions[3], &versions[4]] {
        assert_ne!(state(&sandbox, kept), "expired", "{kept}");
    }
    let warnings = sandbox.status()["warnings"].clone();
    let line = "less than 100% is free on the store's filesystem: the oldest versions and ghosts go before their time";
    assert!(warnings.as_array().unwrap().contains(&json!(line)), "{warnings}");
}

#[test]
fn what_a_check_reads_does_not_go_meanwhile() {
    let sandbox = story::mounted(PATIENT);
    let old = promoted(&sandbox, "a", "1");
    let base = promoted(&sandbox, "a", "2");
    // The check of `slow` waits until it is told, and then reads the version and its base.
    fs::write(
        sandbox.path("rule"),
        format!(
            "echo $SHADOWFS_BASE_TREE > {0}/base; while ! test -e {0}/go; do sleep 0.05; done; cat $SHADOWFS_BASE_TREE/a ./a",
            sandbox.path("").display()
        ),
    )
    .unwrap();
    fs::write(sandbox.staging().join("a"), "3").unwrap();
    let slow = sandbox.on(["commit", "--json"]).expect(0).json()["version"].as_str().unwrap().to_owned();
    eventually("the check runs", || sandbox.path("base").exists());
    sandbox.configure(&format!("{}{GHOSTS_GO}", story::config(&sandbox, VERSIONS_GO)));
    eventually("what nobody reads goes", || state(&sandbox, &old) == "expired");
    gc(&sandbox, false);
    assert!(fs::read_to_string(sandbox.path("base")).unwrap().trim_end().ends_with(&base));
    fs::write(sandbox.path("go"), "").unwrap();
    sandbox.on(["wait", &slow]).expect(0);
    let log = fs::read_to_string(sandbox.mnt().join("lineage").join(&slow).join("checks/rule.1.log")).unwrap();
    assert_eq!(log, "23");
}
