//! The command line from the outside: what every mistake is told, with its exit code, and that it changes nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::path::Path;

use common::{Ran, Sandbox};

/// The one line on standard error, with the sandbox's directory as `DIR`.
fn said(ran: &Ran, sandbox: &Sandbox) -> String {
    let dir = sandbox.path("");
    let dir = dir.to_str().unwrap().trim_end_matches('/');
    ran.stderr.replace(&fs::canonicalize(dir).unwrap().display().to_string(), "DIR").replace(dir, "DIR")
}

/// `shadowfs WORDS` ends with `code` and this one line. `DIR` in the words is the sandbox's directory.
#[track_caller]
fn refused(sandbox: &Sandbox, words: &str, code: i32, line: &str) {
    let dir = sandbox.path("");
    let dir = dir.to_str().unwrap().trim_end_matches('/').to_owned();
    let ran = sandbox.run(words.split(' ').map(|word| word.replace("DIR", &dir))).expect(code);
    assert_eq!(said(&ran, sandbox), format!("shadowfs: {line}\n"), "shadowfs {words}");
    assert_eq!(ran.stdout, "", "shadowfs {words}");
}

#[test]
fn a_path_that_is_no_store() {
    let sandbox = Sandbox::new();
    let hint = "not a shadowfs store or mount; make one: shadowfs init";
    refused(&sandbox, "-C DIR status", 2, &format!("DIR: {hint} DIR"));
    refused(&sandbox, "-C DIR/none log", 2, "DIR/none: No such file or directory");
    refused(&sandbox, "status", 2, ".: not a shadowfs store or mount; name one with -C PATH or in $SHADOWFS");
    refused(&sandbox, "mount DIR DIR/mnt", 2, "DIR: not a shadowfs store; make one: shadowfs init DIR");
    refused(&sandbox, "mount DIR/none DIR/mnt", 2, "DIR/none: No such file or directory");
    refused(&sandbox, "unmount DIR/mnt", 5, "DIR/mnt: no shadowfs is mounted there");
    refused(&sandbox, "-C DIR config check", 2, &format!("DIR: {hint} DIR"));
    assert_eq!(fs::read_dir(sandbox.path("")).unwrap().count(), 1, "something was made");
}

#[test]
fn the_environment_names_a_store_after_the_working_directory() {
    let sandbox = Sandbox::new();
    sandbox.init("");
    let from_environment: Ran = sandbox.command(["log"]).env("SHADOWFS", sandbox.store()).output().unwrap().into();
    let from_inside: Ran = sandbox.command(["log"]).current_dir(sandbox.store()).output().unwrap().into();
    for ran in [from_environment, from_inside] {
        let ran = ran.expect(5);
        let line = "shadowfs: DIR/store: no daemon serves this store; mount it: shadowfs mount DIR/store MNT\n";
        assert_eq!(said(&ran, &sandbox), line);
    }
}

#[test]
fn a_store_without_a_daemon() {
    let sandbox = Sandbox::new();
    sandbox.init("");
    let line = "DIR/store: no daemon serves this store; mount it: shadowfs mount DIR/store MNT";
    for verb in [
        "status",
        "log",
        "show t0",
        "diff t0 t0",
        "begin",
        "commit",
        "abort",
        "run -- true",
        "wait",
        "check t0",
        "promote",
        "rollback",
        "ghosts",
        "lineage",
        "unmount",
    ] {
        refused(&sandbox, &format!("-C DIR/store {verb}"), 5, line);
    }
}

#[test]
fn a_store_of_a_newer_format() {
    let sandbox = Sandbox::new();
    sandbox.init("");
    fs::write(sandbox.store().join("format"), "shadowfs store, format 9\n").unwrap();
    let line = "DIR/store has store format 9, this shadowfs knows formats up to 1; use a newer shadowfs";
    refused(&sandbox, "mount DIR/store DIR/mnt", 2, line);
}

#[test]
fn init_where_something_is() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("full")).unwrap();
    fs::write(sandbox.path("full/file"), "x").unwrap();
    let line = "DIR/full exists and is not an empty directory; init needs a new or empty one";
    refused(&sandbox, "init DIR/full", 4, line);
    refused(&sandbox, "init DIR/store --from DIR/none", 2, "--from DIR/none: No such file or directory");
    refused(&sandbox, "init DIR/store --from DIR/full/file", 2, "--from DIR/full/file: Not a directory");
    assert!(!sandbox.store().exists());
    assert_eq!(fs::read_dir(sandbox.path("full")).unwrap().count(), 1);
    // A store in its own dataset would never end.
    let ran = sandbox.run([Path::new("init"), &sandbox.path("full/store"), Path::new("--from"), &sandbox.path("full")]).expect(2);
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
    assert!(!sandbox.path("full/store").exists());
}

#[test]
fn init_says_what_it_made() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("data")).unwrap();
    fs::write(sandbox.path("data/file"), "x").unwrap();
    let store = sandbox.store();
    let made = sandbox.run([Path::new("init"), &store, Path::new("--from"), &sandbox.path("data"), Path::new("--json")]).expect(0).json();
    assert_eq!((&made["version"], &made["state"], &made["parent"]), (&"t0".into(), &"promoted".into(), &serde_json::Value::Null));
    sandbox.on(["config", "check"]).expect(0);
}

#[test]
fn mount_points_that_do_not_do() {
    let sandbox = Sandbox::new();
    sandbox.init("");
    fs::create_dir(sandbox.path("full")).unwrap();
    fs::write(sandbox.path("full/file"), "x").unwrap();
    refused(&sandbox, "mount DIR/store DIR/none", 2, "DIR/none: no such directory");
    refused(&sandbox, "mount DIR/store DIR/full/file", 2, "DIR/full/file: is not a directory");
    refused(&sandbox, "mount DIR/store DIR/full", 4, "DIR/full: is not empty; mount on an empty directory");
    let line = "-o sync: no such mount option; there are allow_other, production=DIR and foreground";
    refused(&sandbox, "mount DIR/store DIR/mnt -o rw,sync", 2, line);
}

#[test]
fn a_wrong_configuration() {
    let sandbox = Sandbox::new();
    sandbox.init("");
    for (config, line) in [("[staging]\nsetle = \"1s\"\n", 2), ("\n\n[promotion]\nwindow = \"soon\"\n", 4), ("[checks\n", 1)] {
        sandbox.configure(config);
        let checked = sandbox.on(["config", "check"]).expect(2);
        let told = said(&checked, &sandbox);
        assert!(told.starts_with(&format!("shadowfs: DIR/store/shadowfs.toml:{line}: ")), "{told}");
        assert_eq!(told.lines().count(), 1, "{told}");
        let json = sandbox.on(["config", "check", "--json"]).expect(2).json();
        assert_eq!((&json["valid"], &json["line"]), (&false.into(), &line.into()));
        sandbox.on(["config", "show"]).expect(2);
        let mounted = sandbox.run([Path::new("mount"), &sandbox.store(), &sandbox.mnt()]).expect(2);
        assert_eq!(said(&mounted, &sandbox), told);
        assert_eq!(fs::read_dir(sandbox.mnt()).unwrap().count(), 0);
    }
    sandbox.configure("[staging]\nsetle = \"1s\"\n");
    assert!(sandbox.on(["config", "check"]).expect(2).stderr.contains("settle"), "the nearest key is named");
    sandbox.configure("[staging]\nsettle = \"7s\"\n");
    assert_eq!(sandbox.on(["config", "check", "--json"]).expect(0).json()["valid"], true);
    assert_eq!(sandbox.on(["config", "show", "--json"]).expect(0).json()["staging"]["settle"], "7s");
    assert!(sandbox.on(["config", "show"]).expect(0).stdout.contains("rollback_threshold = 2"), "defaults are written out");
}

#[test]
fn wrong_usage_is_exit_2_and_help_is_not() {
    let sandbox = Sandbox::new();
    for words in [
        &["frob"][..],
        &[],
        &["diff", "t0"],
        &["log", "-n", "x"],
        &["run"],
        &["diff", "t0", "t1", "--stat", "--patch"],
        &["completions", "cmd"],
    ] {
        let ran = sandbox.run(words).expect(2);
        assert_eq!(ran.stdout, "");
        assert!(!ran.stderr.is_empty());
    }
    for words in [&["--help"][..], &["log", "--help"], &["--version"], &["completions", "zsh"]] {
        assert!(!sandbox.run(words).expect(0).stdout.is_empty());
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let sandbox = Sandbox::new();
    let mut child =
        sandbox.command(["completions", "bash"]).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert_eq!(ran.expect(0).stderr, "");
}
