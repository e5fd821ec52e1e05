//! Commands that behave badly: each is bounded, and said to be what it is.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use common::{Sandbox, eventually};
use serde_json::Value;

/// A store with one command check, `keys` beside it.
fn mounted(script: &str, keys: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    let script = script.replace("DIR", sandbox.path("").to_str().unwrap().trim_end_matches('/'));
    let checks = "[checks]\nretries = 0\nrollback_threshold = 0\nbackoff = \"10ms\"\ngrace = \"300ms\"\n";
    sandbox.init(&format!("{checks}[[check]]\nname = \"bad\"\nrun = ['sh', '-c', '''{script}''']\n{keys}\n")).mount();
    sandbox
}

/// One version; `code` is what `commit --wait` exits with.
#[track_caller]
fn change(sandbox: &Sandbox, code: i32) -> String {
    sandbox.on(["begin"]).expect(0);
    fs::write(sandbox.staging().join("file"), format!("{:?}", std::time::Instant::now())).unwrap();
    sandbox.on(["commit", "--wait"]).expect(code).stderr
}

/// The attempts of a version.
fn attempts(sandbox: &Sandbox, version: &str) -> Vec<Value> {
    sandbox.on(["show", version, "--json"]).expect(0).json()["attempts"].as_array().unwrap().clone()
}

fn log(sandbox: &Sandbox, attempt: u32) -> String {
    fs::read_to_string(sandbox.mnt().join(format!("lineage/t1/checks/bad.{attempt}.log"))).unwrap()
}

/// Whether a process runs whose number is in this file; it is waited for.
fn pid_in(sandbox: &Sandbox, file: &str) -> i32 {
    let path = sandbox.path(file);
    let read = || fs::read_to_string(&path).unwrap_or_default().trim().parse().ok();
    eventually("its number is written", || read().is_some());
    read().unwrap()
}

fn runs(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.rsplit(") ").next().unwrap().starts_with('Z'))
}

#[test]
fn a_flood_of_output_is_kept_up_to_its_bound_and_searched_to_its_end() {
    let sandbox = mounted("head -c 30000000 /dev/zero; echo; echo shadowfs-metric last 7", "output = \"64KiB\"");
    change(&sandbox, 0);
    let log = fs::read(sandbox.mnt().join("lineage/t1/checks/bad.1.log")).unwrap();
    assert!(log.len() > 64 << 10 && log.len() < (64 << 10) + 100, "{}", log.len());
    assert!(log.ends_with(b"more bytes of output were not kept]\n"));
    assert_eq!(attempts(&sandbox, "t1")[0]["metrics"]["last"], 7.0);
    sandbox.unmount();
}

#[test]
fn children_that_are_left_or_flee_into_sessions_of_their_own_are_ended() {
    let flee = "sleep 1000 & echo $! >DIR/left\n\
                setsid sh -c 'echo $$ >DIR/fled; exec sleep 1000' &\n\
                (setsid env -i sh -c 'setsid sh -c \"echo \\$\\$ >DIR/twice; exec sleep 1000\" & exit' &)\n\
                until [ -s DIR/fled ] && [ -s DIR/twice ]; do sleep 0.02; done";
    let sandbox = mounted(flee, "");
    change(&sandbox, 0);
    for file in ["left", "fled", "twice"] {
        let pid = pid_in(&sandbox, file);
        assert!(!runs(pid), "{file} still runs after the verdict");
    }
    sandbox.unmount();
}

#[test]
fn one_that_ignores_sigterm_is_killed_after_the_grace_with_all_that_it_started() {
    let script = "trap 'echo got the signal' TERM\n(trap '' TERM; setsid sh -c 'trap \"\" TERM; echo $$ >DIR/child; sleep 1000') &\n\
                  while :; do sleep 0.05; done";
    let sandbox = mounted(script, "timeout = \"400ms\"");
    let refused = change(&sandbox, 3);
    assert!(refused.contains("bad: timed out"), "{refused}");
    assert_eq!(attempts(&sandbox, "t1")[0]["outcome"], "timed_out");
    assert!(log(&sandbox, 1).contains("got the signal"), "it is asked before it is killed");
    assert!(!runs(pid_in(&sandbox, "child")));
    sandbox.unmount();
}

#[test]
fn one_that_ends_at_sigterm_is_not_killed() {
    let sandbox = mounted("trap 'echo cleaned up; exit' TERM; while :; do sleep 0.02; done", "timeout = \"300ms\"\ngrace = \"1h\"");
    change(&sandbox, 3);
    assert!(log(&sandbox, 1).contains("cleaned up"));
    sandbox.unmount();
}

#[test]
fn more_processes_than_allowed_end_it() {
    let sandbox = mounted("for i in $(seq 30); do sleep 1000 & done; wait", "processes = 10");
    let refused = change(&sandbox, 3);
    assert!(refused.contains("bad: it had ") && refused.contains(" processes at once, 10 are allowed"), "{refused}");
    let attempt = &attempts(&sandbox, "t1")[0];
    assert_eq!(attempt["outcome"], "over_limit");
    assert!(attempt["what"].as_str().unwrap().ends_with("processes at once, 10 are allowed"));
    assert!(log(&sandbox, 1).contains("10 are allowed"));
    assert!(sandbox.on(["lineage", "t1"]).expect(0).stdout.contains("over its limit: it had "));
    sandbox.unmount();
}

#[test]
fn memory_is_bounded_for_each_process_and_for_all() {
    let grow = "python3 -c 'x = bytearray(200 << 20)'";
    let sandbox = mounted(grow, "memory = \"100MiB\"");
    change(&sandbox, 3);
    assert!(log(&sandbox, 1).contains("MemoryError"), "{}", log(&sandbox, 1));
    assert_eq!(attempts(&sandbox, "t1")[0]["outcome"], "failed");
    // Each is below the limit, all together are not.
    let many = "for i in 1 2 3; do python3 -c 'import time; x = b\"x\" * (60 << 20); time.sleep(1000)' & done; wait";
    let config = fs::read_to_string(sandbox.store().join("shadowfs.toml")).unwrap();
    sandbox.configure(&config.replace(grow, many));
    eventually("it is in force", || sandbox.on(["config", "show"]).expect(0).stdout.contains("60 << 20"));
    let refused = change(&sandbox, 3);
    assert!(refused.contains("MiB of memory, 100 MiB are allowed"), "{refused}");
    assert_eq!(attempts(&sandbox, "t2")[0]["outcome"], "over_limit");
    sandbox.unmount();
}

#[test]
fn the_processor_and_open_files_are_bounded() {
    let sandbox = mounted("ulimit -n; while :; do :; done", "cpu = \"1s\"\nopen_files = 33");
    let refused = change(&sandbox, 3);
    assert!(refused.contains("bad: it took more than 1 s on a processor"), "{refused}");
    assert!(log(&sandbox, 1).starts_with("33\n"), "{}", log(&sandbox, 1));
    sandbox.unmount();
}

#[test]
fn a_version_can_not_be_written_by_its_check() {
    let script = "echo x >file && exit 0; echo x >new || rm -f file || mv file other || chmod 777 file; touch $SHADOWFS_BASE_TREE/x";
    let sandbox = mounted(script, "");
    change(&sandbox, 3);
    let log = log(&sandbox, 1);
    assert_eq!(log.matches("Read-only file system").count(), 6, "{log}");
    sandbox.unmount();
}

#[test]
fn a_check_that_can_not_start_is_no_verdict_and_goes_on_when_it_can() {
    let sandbox = Sandbox::new();
    let script = sandbox.path("check.sh");
    let put = |text: &str| {
        let new = sandbox.path("new");
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(new, &script).unwrap();
    };
    // It fails once, and removes itself.
    put("#!/bin/sh\nrm \"$0\"\nexit 1\n");
    let checks = "[checks]\nretries = 1\nrollback_threshold = 1\nbackoff = \"10ms\"\n";
    sandbox.init(&format!("{checks}[[check]]\nname = \"gone\"\nrun = [\"{}\"]\n", script.display())).mount();
    sandbox.on(["begin"]).expect(0);
    fs::write(sandbox.staging().join("file"), "x").unwrap();
    sandbox.on(["commit"]).expect(0);
    let waits = format!("t1 waits: check gone can't be started: {} can't be started: No such file", script.display());
    let warned = || sandbox.status()["warnings"].as_array().unwrap().iter().any(|line| line.as_str().unwrap().starts_with(&waits));
    eventually("status says why", warned);
    assert!(sandbox.on(["status"]).expect(0).stdout.contains(&waits));
    assert_eq!(sandbox.status()["checking"][0]["version"], "t1");
    let outcomes = |version: &str| {
        attempts(&sandbox, version).iter().map(|attempt| attempt["outcome"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(outcomes("t1"), ["failed", "could_not_start"]);
    // An interpreter that is not there is the same, and one reason more.
    put("#!/no/such/interpreter\n");
    put("#!/bin/sh\nexit 0\n");
    sandbox.on(["wait", "t1"]).expect(0);
    assert_eq!(outcomes("t1").last().unwrap(), "passed");
    assert!(!warned(), "status says it no longer");
    sandbox.unmount();
}

#[test]
fn commands_end_with_a_daemon_that_is_killed() {
    let sandbox = mounted("echo $$ >DIR/command; setsid sh -c 'echo $$ >DIR/child; sleep 1000' & sleep 1000", "");
    fs::write(sandbox.staging().join("file"), "x").unwrap();
    sandbox.on(["commit"]).expect(0);
    let (command, child) = (pid_in(&sandbox, "command"), pid_in(&sandbox, "child"));
    sandbox.kill_daemon();
    eventually("what it had started ends", || !runs(command) && !runs(child));
}

#[test]
fn a_command_that_kills_its_warden_has_failed() {
    let sandbox = mounted("sleep 1000 & echo $! >DIR/child; kill -9 $PPID; sleep 1000", "");
    let refused = change(&sandbox, 3);
    assert!(refused.contains("bad: killed by signal 9"), "{refused}");
    assert!(!runs(pid_in(&sandbox, "child")), "what it had started outlives it");
    sandbox.unmount();
}

#[test]
fn an_early_verdict_ends_what_still_runs() {
    let sandbox = Sandbox::new();
    let checks = "[checks]\nworkers = 2\nretries = 0\nrollback_threshold = 0\n";
    let slow = format!("echo $$ >{0}/slow; sleep 1000", sandbox.path("").display());
    let fails = format!("until [ -s {}/slow ]; do sleep 0.02; done; false", sandbox.path("").display());
    let check = |name: &str, script: &str| format!("[[check]]\nname = \"{name}\"\nrun = ['sh', '-c', '{script}']\n");
    sandbox.init(&format!("{checks}{}{}", check("slow", &slow), check("fails", &fails))).mount();
    change(&sandbox, 3);
    let slow = pid_in(&sandbox, "slow");
    eventually("it ends", || !runs(slow));
    eventually("it is recorded", || attempts(&sandbox, "t1").iter().any(|attempt| attempt["outcome"] == "cancelled"));
    sandbox.unmount();
}

#[test]
fn limits_that_are_malformed_are_refused_with_their_line() {
    let sandbox = Sandbox::new();
    sandbox.init("");
    let run = "[[check]]\nname = \"a\"\nrun = [\"true\"]\n";
    for (text, reason) in [
        (
            format!("{run}memory = \"lots\""),
            ":4: \"memory\" in [[check]] must be a size such as \"512KiB\", \"32MiB\" or \"1GiB\", not \"lots\"",
        ),
        (format!("{run}memory = \"1KiB\""), ":4: \"memory\" must be at least \"1MiB\": no program starts with less"),
        (format!("{run}processes = 0"), ":4: \"processes\" in [[check]] must be a whole number from 1 to 1000000, not 0"),
        (format!("{run}cpu = \"10ms\""), ":4: \"cpu\" must be at least \"1s\": the kernel counts whole seconds"),
        (format!("{run}timeout = \"0s\""), ":4: \"timeout\" must be longer than nothing"),
        ("[checks]\nopen_files = 1".to_owned(), ":2: \"open_files\" in [checks] must be a whole number from 8 to 1000000, not 1"),
        (
            "[[check]]\nname = \"a\"\nbuiltin = \"csv\"\nmemory = \"1GiB\"".to_owned(),
            ":4: \"memory\" is for commands; a built-in check runs in the daemon",
        ),
        (format!("{run}{run}"), ":5: two checks are named \"a\"; give each a name of its own"),
        (format!("{run}paths = [\"a[\"]"), ":4: \"a[\" in \"paths\" is not a glob: unclosed character class; missing ']'"),
        (
            format!("{run}unless = [\"{{a\"]"),
            ":4: \"{a\" in \"unless\" is not a glob: unclosed alternate group; missing '}' (maybe escape '{' with '[{]'?)",
        ),
    ] {
        sandbox.configure(&format!("{text}\n"));
        let refused = sandbox.on(["config", "check"]).expect(2).stderr;
        assert!(refused.trim().ends_with(reason), "{text}: {refused}");
    }
}
