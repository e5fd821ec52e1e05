//! Checks as operators meet them: what they are told, what they say, and what is kept of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;

use common::{Sandbox, eventually};
use serde_json::Value;

/// The attempts of a version, as `show --json` has them.
fn attempts(sandbox: &Sandbox, version: &str) -> Vec<Value> {
    sandbox.on(["show", version, "--json"]).expect(0).json()["attempts"].as_array().unwrap().clone()
}

/// Writes a file as one version and waits for its verdict; the exit code is `code`.
#[track_caller]
fn write(sandbox: &Sandbox, name: &str, content: &str, code: i32) -> common::Ran {
    sandbox.on(["begin"]).expect(0);
    let path = sandbox.staging().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
    sandbox.on(["commit", "--wait", "--json"]).expect(code)
}

#[test]
fn a_command_is_told_the_last_valid_version_and_what_differs_from_it() {
    let sandbox = Sandbox::new();
    let (seen, go) = (sandbox.path("seen"), sandbox.path("go"));
    let script = format!(
        "echo $SHADOWFS_VERSION on $(basename $SHADOWFS_BASE_TREE): $(cat $SHADOWFS_CHANGES) >>{}; \
         [ $SHADOWFS_VERSION != t1 ] || until [ -e {} ]; do sleep 0.02; done",
        seen.display(),
        go.display()
    );
    sandbox.init(&format!("[checks]\nworkers = 4\n[[check]]\nname = \"told\"\nrun = ['sh', '-c', '{script}']\n")).mount();
    let lines = || fs::read_to_string(&seen).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>();
    for (number, name) in ["a", "b"].iter().enumerate() {
        fs::write(sandbox.staging().join(name), "x").unwrap();
        sandbox.on(["commit"]).expect(0);
        eventually("its check runs", || lines().len() == number + 1);
    }
    // t2 stands on t1, which nobody has judged: both are compared with t0.
    assert_eq!(lines(), ["t1 on t0: a", "t2 on t0: a b"]);
    fs::write(go, "").unwrap();
    sandbox.on(["wait", "t2"]).expect(0);
    write(&sandbox, "c", "x", 0);
    assert_eq!(lines()[2], "t3 on t2: c");
    // Once more by hand: a version is compared with what was valid below it, not with what came after.
    sandbox.on(["check", "t2"]).expect(0);
    assert_eq!(lines()[3], "t2 on t1: b");
    sandbox.unmount();
}

#[test]
fn what_a_built_in_check_found_is_told_everywhere() {
    let sandbox = Sandbox::new();
    sandbox.init("[checks]\nretries = 1\nbackoff = \"1ms\"\n[[check]]\nname = \"tables\"\nbuiltin = \"csv\"\n").mount();
    let found = "a.csv:3:5: the row has 3 fields, the header 2";
    let ran = write(&sandbox, "a.csv", "x,y\n1,2\n1,2,3\n", 3);
    assert!(ran.stderr.contains(found), "{}", ran.stderr);
    let attempts = attempts(&sandbox, "t1");
    assert_eq!(attempts.len(), 2);
    for attempt in &attempts {
        assert_eq!((&attempt["outcome"], &attempt["summary"], &attempt["code"]), (&"failed".into(), &found.into(), &Value::Null));
    }
    let shown = sandbox.on(["show", "t1"]).expect(0).stdout;
    assert!(shown.contains(&format!("\ntables: {found}\n")), "{shown}");
    let lineage = sandbox.on(["lineage", "t1"]).expect(0).stdout;
    assert!(lineage.contains(&format!("check tables, attempt 2: failed: {found}")), "{lineage}");
    let summary: Value = serde_json::from_slice(&fs::read(sandbox.mnt().join("lineage/t1/checks/tables.json")).unwrap()).unwrap();
    assert_eq!(summary["attempts"][1]["summary"], found);
    let log = fs::read_to_string(sandbox.mnt().join("lineage/t1/checks/tables.2.log")).unwrap();
    assert!(log.starts_with(found), "{log}");
    sandbox.unmount();
}

#[test]
fn a_check_with_nothing_to_look_at_is_skipped_and_recorded_so() {
    let sandbox = Sandbox::new();
    let config = "[[check]]\nname = \"tables\"\nbuiltin = \"csv\"\nunless = [\"tmp/**\"]\n\
                  [[check]]\nname = \"data\"\nrun = [\"false\"]\npaths = [\"data/**\"]\nunless = [\"**/*.tmp\"]\n";
    sandbox.init(config).mount();
    write(&sandbox, "tmp/a.csv", "x,y\n1\n", 0);
    write(&sandbox, "data/b.tmp", "", 0);
    for version in ["t1", "t2"] {
        let mut outcomes: Vec<_> =
            attempts(&sandbox, version).iter().map(|attempt| format!("{} {}", attempt["check"], attempt["outcome"])).collect();
        outcomes.sort();
        assert_eq!(outcomes, ["\"data\" \"skipped\"", "\"tables\" \"skipped\""], "{version}");
    }
    write(&sandbox, "data/b", "", 3);
    sandbox.unmount();
}
