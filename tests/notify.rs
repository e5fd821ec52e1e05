//! Hooks from the outside: commands that are told of events.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use common::{Sandbox, eventually};
use serde_json::Value;

const CONFIG: &str = r#"
[staging]
settle = "1h"
[checks]
retries = 0
rollback_threshold = 0
[promotion]
window = "0s"
require_free = "0%"
[[check]]
name = "no-bad"
run = ["test", "!", "-e", "bad"]
"#;

/// A configuration with the hook `name`, which runs `script` with the file `heard` as its first argument.
fn hook(sandbox: &Sandbox, name: &str, script: &str, more: &str) -> String {
    let file = sandbox.path(name);
    fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    format!("[[notify]]\nname = {name:?}\nrun = [{file:?}, {:?}]\n{more}\n", sandbox.path("heard"))
}

fn heard(sandbox: &Sandbox) -> Vec<Value> {
    let text = fs::read_to_string(sandbox.path("heard")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|why| panic!("{why}: {line}"))).collect()
}

fn change(sandbox: &Sandbox, name: &str, code: i32) {
    fs::write(sandbox.staging().join(name), name).unwrap();
    sandbox.on(["commit", "--wait"]).expect(code);
}

fn kinds(events: &[Value]) -> Vec<String> {
    let word = |event: &Value| format!("{} {}", event["event"].as_str().unwrap(), event["version"].as_str().unwrap_or("-"));
    events.iter().map(word).collect()
}

fn warnings(sandbox: &Sandbox) -> String {
    sandbox.status()["warnings"].to_string()
}

#[test]
fn a_hook_has_limits_of_its_own_as_checks_have() {
    let sandbox = Sandbox::new();
    let limited = hook(&sandbox, "limited", "cat > /dev/null; ulimit -n > $1", "open_files = 77");
    let usual = hook(&sandbox, "usual", "cat > /dev/null; ulimit -n > $1.usual", "");
    sandbox.init(&(CONFIG.replace("[checks]", "[checks]\nopen_files = 88") + &limited + &usual)).mount();
    change(&sandbox, "good", 0);
    let told = |file: &str| fs::read_to_string(sandbox.path(file)).unwrap_or_default().trim().to_owned();
    eventually("both are told", || !told("heard").is_empty() && !told("heard.usual").is_empty());
    assert_eq!(told("heard"), "77");
    assert_ne!(told("heard.usual"), "88");
    sandbox.unmount();
    sandbox.configure("[[notify]]\nname = \"a\"\nrun = [\"true\"]\nmemory = \"1KiB\"\n");
    let refused = sandbox.on(["config", "check"]).expect(2).stderr;
    assert!(refused.trim().ends_with(":4: \"memory\" must be at least \"1MiB\": no program starts with less"), "{refused}");
}

#[test]
fn a_hook_hears_what_happens_in_order_with_all_that_is_known_of_it() {
    let sandbox = Sandbox::new();
    let hooks = hook(&sandbox, "all", "cat >> $1", "") + &hook(&sandbox, "some", "cat >> $1.ghosts", "on = [\"rejected\"]");
    sandbox.init(&(CONFIG.to_owned() + &hooks)).mount();
    change(&sandbox, "good", 0);
    sandbox.on(["wait", "t1", "--promoted"]).expect(0);
    change(&sandbox, "bad", 3);
    sandbox.on(["rollback", "t0"]).expect(0);
    eventually("all is heard", || heard(&sandbox).len() >= 5);
    let events = heard(&sandbox);
    let expected = ["promoted t1", "rejected t2", "rolled_back t2", "production_rolled_back t0", "rolled_back t0"];
    let mut kinds = kinds(&events);
    kinds.sort();
    let mut expected: Vec<_> = expected.iter().map(|word| (*word).to_owned()).collect();
    expected.sort();
    assert_eq!(kinds, expected);
    let seqs: Vec<_> = events.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert!(seqs.is_sorted(), "{seqs:?}");
    let rejected = events.iter().find(|event| event["event"] == "rejected").unwrap();
    assert_eq!(rejected["reason"]["checks"], serde_json::json!(["no-bad"]));
    assert_eq!(rejected["store"], sandbox.store().canonicalize().unwrap().to_str().unwrap());
    assert_eq!(rejected["mount_point"], sandbox.mnt().canonicalize().unwrap().to_str().unwrap());
    let ghosts = || fs::read_to_string(sandbox.path("heard.ghosts")).unwrap_or_default();
    eventually("the other heard of the ghost", || !ghosts().is_empty());
    assert_eq!(ghosts().lines().count(), 1, "{}", ghosts());
    assert_eq!(warnings(&sandbox), "[]");
}

#[test]
fn a_hook_that_fails_is_tried_again_and_is_in_nobodys_way() {
    let sandbox = Sandbox::new();
    // The first hangs until its time is over, the second fails once, the third never reads its input and floods its output.
    let hooks = hook(&sandbox, "hangs", "trap '' TERM; sleep 600", "on = [\"promoted\"]\ntimeout = \"300ms\"\nretries = 0")
        + &hook(
            &sandbox,
            "flaky",
            "test -e $1.once || { touch $1.once; echo the pager is asleep >&2; exit 7; }; cat >> $1",
            "on = [\"promoted\"]",
        )
        + &hook(&sandbox, "floods", "head -c 20000000 /dev/zero; touch $1.flooded", "on = [\"promoted\"]");
    sandbox.init(&(CONFIG.to_owned() + &hooks)).mount();
    change(&sandbox, "good", 0);
    sandbox.on(["wait", "t1", "--promoted"]).expect(0);
    let failing = "notify flaky could not be told of t1 promoted: failed (exit 7): the pager is asleep; it is tried again";
    eventually("why it fails is in status", || warnings(&sandbox).contains(failing));
    eventually("it is told all the same", || kinds(&heard(&sandbox)) == ["promoted t1"]);
    eventually("the one that hangs is given up", || {
        warnings(&sandbox).contains("notify hangs could not be told of t1 promoted: timed out; given up")
    });
    eventually("and what has been put right is no warning", || !warnings(&sandbox).contains("flaky"));
    eventually("the flood is over", || sandbox.path("heard.flooded").exists());
    sandbox.unmount();
}

#[test]
fn what_could_not_be_told_is_told_after_a_crash_and_a_new_hook_hears_no_old_news() {
    let sandbox = Sandbox::new();
    let on = "on = [\"promoted\"]\nretries = 100";
    let deaf = hook(&sandbox, "pager", "test -e $1.awake && cat >> $1", on);
    sandbox.init(&(CONFIG.to_owned() + &deaf)).mount();
    for (name, version) in [("one", "t1"), ("two", "t2")] {
        change(&sandbox, name, 0);
        sandbox.on(["wait", version, "--promoted"]).expect(0);
    }
    eventually("it fails", || warnings(&sandbox).contains("notify pager"));
    sandbox.kill_daemon();
    fs::write(sandbox.path("heard.awake"), "").unwrap();
    sandbox.mount();
    eventually("both are told", || kinds(&heard(&sandbox)) == ["promoted t1", "promoted t2"]);
    let late = hook(&sandbox, "late", "cat >> $1.late", on);
    sandbox.configure(&(CONFIG.to_owned() + &deaf + &late));
    eventually("the new hook is there", || sandbox.store().join("notify-late").exists());
    change(&sandbox, "three", 0);
    sandbox.on(["wait", "t3", "--promoted"]).expect(0);
    let late = || fs::read_to_string(sandbox.path("heard.late")).unwrap_or_default();
    eventually("it hears", || late().ends_with('\n'));
    assert!(late().lines().count() == 1 && late().contains("\"version\":\"t3\""), "{}", late());
    eventually("the old one hears as well", || kinds(&heard(&sandbox)) == ["promoted t1", "promoted t2", "promoted t3"]);
}

#[test]
fn too_little_space_is_an_event() {
    let sandbox = Sandbox::new();
    let hooks = hook(&sandbox, "all", "cat >> $1", "");
    sandbox.init(&(CONFIG.replace("\"0%\"", "\"100%\"") + &hooks)).mount();
    eventually("it is told", || kinds(&heard(&sandbox)) == ["disk_low -"]);
    assert!(heard(&sandbox)[0]["free"].as_u64().unwrap() < heard(&sandbox)[0]["total"].as_u64().unwrap());
    change(&sandbox, "good", 0);
    eventually("a promotion is put off", || kinds(&heard(&sandbox)).contains(&"held_back t1".to_owned()));
    assert!(warnings(&sandbox).contains("promotion.require_free asks for 100%"), "{}", warnings(&sandbox));
}
