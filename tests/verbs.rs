//! Every verb against a daemon that answers from a script: what is asked, what is printed, and the exit code. No mount is needed,
//! so this runs anywhere, and shows what a slow, odd or refusing daemon looks like from the outside.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::VecDeque;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::{Arc, Mutex};

use common::{Ran, Sandbox};
use serde_json::json;
use shadowfs::clock::Timestamp;
use shadowfs::control::protocol::{
    AttemptDoc, ChangeDoc, ChangeKind, DiffDoc, ErrorKind, FindingDoc, FsckDoc, GcDoc, GoneDoc, Refusal, Reply, Request, ScrubDoc,
    ScrubbedDoc, ShowDoc, SpaceDoc, StatusDoc, SweptDoc, TagDoc, UpkeepDoc, VerifyDoc, VersionDoc, VersionName,
};
use shadowfs::control::server::{self, Handler};
use shadowfs::ids::VersionId;
use shadowfs::store::record::{AttemptRecord, ChangeCounts, Outcome, Reason, VersionState, Writer};

/// Answers in order, and keeps what it was asked.
struct Script {
    replies: Mutex<VecDeque<Reply>>,
    asked: Mutex<Vec<Request>>,
}

impl Handler for Script {
    fn handle(&self, request: Request) -> Reply {
        self.asked.lock().unwrap().push(request);
        self.replies.lock().unwrap().pop_front().expect("a request too many")
    }
}

/// Runs one command line on a store whose daemon gives these replies.
struct Stage {
    sandbox: Sandbox,
}

impl Stage {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        fs::create_dir(sandbox.store()).unwrap();
        fs::write(sandbox.store().join("format"), "shadowfs store, format 1\n").unwrap();
        Self { sandbox }
    }

    fn run(&self, words: &[&str], replies: impl IntoIterator<Item = Reply>) -> (Ran, Vec<Request>) {
        let script = Arc::new(Script { replies: Mutex::new(replies.into_iter().collect()), asked: Mutex::default() });
        let serving = server::serve(&self.sandbox.store(), script.clone()).unwrap();
        let ran = self.sandbox.on(words);
        drop(serving);
        assert!(script.replies.lock().unwrap().is_empty(), "not asked often enough: {ran:?}");
        let asked = script.asked.lock().unwrap().clone();
        (ran, asked)
    }

    /// One reply, one request, exit 0: what was printed.
    #[track_caller]
    fn print(&self, words: &[&str], reply: Reply) -> String {
        let (ran, _) = self.run(words, [reply]);
        let ran = ran.expect(0);
        assert_eq!(ran.stderr, "");
        ran.stdout
    }
}

fn version(number: u64, state: VersionState) -> VersionDoc {
    VersionDoc {
        version: VersionId(number),
        state,
        parent: number.checked_sub(1).map(VersionId),
        digest: None,
        message: Some("new rows".to_owned()),
        opened_at: "2020-01-01T00:00:00.000000Z".to_owned(),
        sealed_at: Some("2020-01-02T00:00:00.000000Z".to_owned()),
        decided_at: None,
        promoted_at: None,
        changes: ChangeCounts { added: 1, modified: 2, deleted: 0, bytes: 2048 },
        writers: vec![Writer { uid: 0, pid: 7, command: "cp".to_owned() }],
        reason: None,
        passed: true,
        held: false,
        pinned: false,
        rebased_from: None,
        restored_from: None,
    }
}

fn ghost(number: u64) -> VersionDoc {
    let reason = Reason::ChecksFailed { checks: vec!["rows".to_owned()], summary: "rows: exit code 1 in 3 attempts".to_owned() };
    VersionDoc { reason: Some(reason), passed: false, ..version(number, VersionState::Ghost) }
}

fn reply(doc: VersionDoc) -> Reply {
    Reply::Version(Box::new(doc))
}

#[test]
fn log_is_a_table_and_an_array() {
    let stage = Stage::new();
    let versions = vec![ghost(10), VersionDoc { held: true, ..version(9, VersionState::Valid) }];
    let (ran, asked) = stage.run(&["log", "-n", "2"], [Reply::Log(versions.clone())]);
    let expected = "\
VERSION  STATE       ON  CHANGES   WHEN        WHAT
t10      ghost       t9  +1 ~2 -0  2020-01-02  new rows; rows: exit code 1 in 3 attempts
t9       valid held  t8  +1 ~2 -0  2020-01-02  new rows
";
    assert_eq!(ran.expect(0).stdout, expected);
    assert_eq!(asked, [Request::Log { limit: Some(2) }]);
    let shown: serde_json::Value = serde_json::from_str(&stage.print(&["log", "--json"], Reply::Log(versions))).unwrap();
    assert_eq!(shown[0]["version"], "t10");
    assert_eq!(shown[0]["reason"], json!({"kind": "checks_failed", "checks": ["rows"], "summary": "rows: exit code 1 in 3 attempts"}));
    assert_eq!(stage.print(&["ghosts"], Reply::Log(Vec::new())), "no ghosts\n");
    assert_eq!(stage.print(&["ghosts", "--json"], Reply::Log(Vec::new())), "[]\n");
}

fn show() -> ShowDoc {
    let attempt = AttemptRecord {
        version: VersionId(10),
        check: "rows".to_owned(),
        attempt: 1,
        started_at: Timestamp { secs: 1_577_836_800, nanos: 0 },
        took: std::time::Duration::from_millis(1_500),
        outcome: Outcome::Failed { code: Some(1) },
        rejects: true,
        metrics: vec![("rows".to_owned(), 12.0)],
    };
    let changes = vec![
        ChangeDoc::new(b"a\nb", ChangeKind::Added, None, Some(3), true),
        ChangeDoc::new("ü".as_bytes(), ChangeKind::Properties, Some(1), Some(1), true),
    ];
    ShowDoc { version: ghost(10), attempts: vec![AttemptDoc::new(&attempt)], changes }
}

#[test]
fn show_has_checks_and_changes() {
    let stage = Stage::new();
    let expected = "\
t10 ghost
message:  new rows
reason:   rows: exit code 1 in 3 attempts
on:       t9
opened:   2020-01-01 00:00:00
sealed:   2020-01-02 00:00:00
writer:   cp (pid 7, uid 0)
changes:  +1 ~2 -0, 2.00 KiB

CHECK  ATTEMPT  OUTCOME          TOOK   METRICS  OUTPUT
rows   1        failed (exit 1)  1.5 s  rows=12  lineage/t10/checks/rows.1.log

A  \"a\\nb\"
P  ü
... and 1 more; all: lineage/t10/changes.jsonl
";
    assert_eq!(stage.print(&["show", "t10"], Reply::Show(Box::new(show()))), expected);
    let shown: serde_json::Value = serde_json::from_str(&stage.print(&["show", "t10", "--json"], Reply::Show(Box::new(show())))).unwrap();
    assert_eq!((&shown["version"], &shown["state"]), (&json!("t10"), &json!("ghost")));
    assert_eq!(shown["changes"]["added"], 1);
    assert_eq!(shown["attempts"][0]["outcome"], "failed");
    assert_eq!(shown["paths"][0]["path"], "a\nb");
}

#[test]
fn verdicts_are_exit_codes() {
    let stage = Stage::new();
    let (ran, asked) =
        stage.run(&["commit", "-m", "x", "--wait"], [reply(version(3, VersionState::Checking)), reply(version(3, VersionState::Valid))]);
    assert_eq!(ran.expect(0).stdout, "t3 valid: new rows\n");
    let wait = Request::Wait { version: Some(VersionName::Number(VersionId(3))), promoted: false };
    assert_eq!(asked, [Request::Commit { message: Some("x".to_owned()) }, wait]);
    let (ran, _) = stage.run(&["commit", "--wait"], [reply(version(3, VersionState::Checking)), reply(ghost(3))]);
    let ran = ran.expect(3);
    let line = "shadowfs: t3 was rejected: rows: exit code 1 in 3 attempts; see ghosts/t3 in the mount and: shadowfs show t3\n";
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", line));
    let (ran, asked) = stage.run(&["wait", "t3", "--promoted", "--json"], [reply(ghost(3))]);
    assert_eq!(ran.expect(3).json()["state"], "ghost");
    assert_eq!(asked, [Request::Wait { version: Some(VersionName::Number(VersionId(3))), promoted: true }]);
    let (ran, asked) = stage.run(&["check", "t3", "--name", "rows"], [reply(version(3, VersionState::Valid))]);
    ran.expect(0);
    assert_eq!(asked, [Request::Check { version: VersionName::Number(VersionId(3)), check: Some("rows".to_owned()) }]);
}

#[test]
fn what_did_not_happen_is_said_too() {
    let stage = Stage::new();
    let nothing = [
        (&["begin"][..], "the next change opens a version that is held until commit or abort\n"),
        (&["commit", "--wait"], "nothing had changed\n"),
        (&["abort"], "nothing was open\n"),
        (&["promote"], "nothing is flagged for promotion\n"),
        (&["rollback"], "nothing to roll back\n"),
        (&["wait"], "nothing to wait for\n"),
    ];
    for (words, expected) in nothing {
        assert_eq!(stage.print(words, Reply::Nothing), expected);
        let json: Vec<&str> = words.iter().copied().chain(["--json"]).collect();
        assert_eq!(stage.print(&json, Reply::Nothing), "null\n");
    }
    let said = [
        (&["begin"][..], VersionState::Open, "t4 is held open until commit or abort\n"),
        (&["commit"], VersionState::Checking, "t4 sealed: +1 ~2 -0\n"),
        (&["abort"], VersionState::Aborted, "t4 discarded\n"),
        (&["promote", "t4"], VersionState::Promoted, "t4 is in production\n"),
        (&["rollback", "t4"], VersionState::Promoted, "production and staging are back at t4\n"),
    ];
    for (words, state, expected) in said {
        assert_eq!(stage.print(words, reply(version(4, state))), expected);
        let json: Vec<&str> = words.iter().copied().chain(["--json"]).collect();
        let shown: serde_json::Value = serde_json::from_str(&stage.print(&json, reply(version(4, state)))).unwrap();
        assert_eq!((&shown["version"], &shown["state"]), (&json!("t4"), &json!(state.as_str())));
    }
    assert_eq!(stage.print(&["unmount"], Reply::Nothing), "");
}

#[test]
fn a_refusal_is_one_line_with_its_code() {
    let stage = Stage::new();
    let kinds =
        [(ErrorKind::Failed, 1), (ErrorKind::Usage, 2), (ErrorKind::Rejected, 3), (ErrorKind::Conflict, 4), (ErrorKind::Temporary, 75)];
    for (kind, code) in kinds {
        let refusal = Refusal { kind, message: "t9: no such version; shadowfs log lists them".to_owned() };
        let (ran, _) = stage.run(&["show", "t9"], [Reply::Refused(refusal)]);
        let ran = ran.expect(code);
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", "shadowfs: t9: no such version; shadowfs log lists them\n"));
    }
    let (ran, _) = stage.run(&["status"], [Reply::Nothing]);
    assert!(ran.expect(1).stderr.contains("unmount and mount again"));
}

fn status(stage: &Stage) -> Reply {
    Reply::Status(Box::new(StatusDoc {
        store: stage.sandbox.store().display().to_string(),
        mount: stage.sandbox.mnt().display().to_string(),
        pid: 1,
        mode: "cached".to_owned(),
        production: VersionId(1),
        valid: VersionId(1),
        latest: VersionId(1),
        open: None,
        checking: Vec::new(),
        running: Vec::new(),
        flagged: Vec::new(),
        held_back: None,
        ghosts: 0,
        versions: 2,
        space: SpaceDoc::default(),
        upkeep: UpkeepDoc::default(),
        warnings: Vec::new(),
        requests: [("staging".to_owned(), [("write".to_owned(), 3)].into())].into(),
    }))
}

#[test]
fn status_is_for_scripts_too() {
    let stage = Stage::new();
    let shown: serde_json::Value = serde_json::from_str(&stage.print(&["status", "--json"], status(&stage))).unwrap();
    assert_eq!(shown["production"], "t1");
    assert_eq!(shown["requests"]["staging"]["write"], 3);
    assert!(stage.print(&["status"], status(&stage)).contains("production:"));
}

#[test]
fn run_commits_what_succeeds_and_aborts_what_fails() {
    let stage = Stage::new();
    fs::create_dir(stage.sandbox.staging()).unwrap();
    let (begun, sealed) = (reply(version(5, VersionState::Open)), reply(version(5, VersionState::Checking)));
    let replies = [status(&stage), Reply::Nothing, sealed];
    let (ran, asked) = stage.run(&["run", "-m", "x", "--", "sh", "-c", "pwd > here; echo out"], replies);
    assert_eq!(ran.expect(0).stdout, "out\nt5 sealed: +1 ~2 -0\n");
    assert_eq!(
        fs::read_to_string(stage.sandbox.staging().join("here")).unwrap().trim(),
        stage.sandbox.staging().canonicalize().unwrap().to_str().unwrap()
    );
    let message = Some("x".to_owned());
    assert_eq!(asked, [Request::Status, Request::Begin { message: message.clone() }, Request::Commit { message }]);

    let endings = [("exit 3", "sh: exit code 3"), ("kill -TERM $$", "sh: killed by signal 15")];
    for (script, why) in endings {
        let (ran, asked) = stage.run(&["run", "--wait", "--", "sh", "-c", script], [status(&stage), begun.clone(), begun.clone()]);
        assert_eq!(ran.expect(1).stderr, format!("shadowfs: {why}; its changes are discarded\n"));
        assert_eq!(asked.last(), Some(&Request::Abort));
    }
    let (ran, _) = stage.run(&["run", "/no/such"], [status(&stage), begun.clone(), begun.clone()]);
    assert_eq!(ran.expect(1).stderr, "shadowfs: /no/such: can't be started: No such file or directory; its changes are discarded\n");
    let (ran, _) =
        stage.run(&["run", "--wait", "true"], [status(&stage), begun.clone(), reply(version(5, VersionState::Checking)), reply(ghost(5))]);
    ran.expect(3);
}

/// What an interrupted `run` does: the command gets the signal, and the version does not stay held.
#[test]
fn run_passes_sigterm_on_and_aborts() {
    let stage = Stage::new();
    fs::create_dir(stage.sandbox.staging()).unwrap();
    let replies = [status(&stage), Reply::Nothing, Reply::Nothing];
    let script = Arc::new(Script { replies: Mutex::new(replies.into_iter().collect()), asked: Mutex::default() });
    let _serving = server::serve(&stage.sandbox.store(), script.clone()).unwrap();
    let mut command = stage.sandbox.command(["-C"]);
    command.arg(stage.sandbox.store()).args(["run", "--", "sh", "-c", "echo > started; exec sleep 600"]);
    let child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    common::eventually("the command starts", || stage.sandbox.staging().join("started").exists());
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), nix::sys::signal::Signal::SIGTERM).unwrap();
    let ran = Ran::from(child.wait_with_output().unwrap()).expect(1);
    assert_eq!(ran.stderr, "shadowfs: sh: killed by signal 15; its changes are discarded\n");
    assert_eq!(script.asked.lock().unwrap().last(), Some(&Request::Abort));
}

/// Two versions as directories, as the mount shows them, and the difference that a daemon tells of them.
fn difference(stage: &Stage) -> DiffDoc {
    let (old, new) = (stage.sandbox.mnt().join("versions/t1"), stage.sandbox.staging());
    fs::create_dir_all(&old).unwrap();
    fs::create_dir_all(new.join("dir")).unwrap();
    fs::write(old.join("changed"), "one\ntwo\nthree\n").unwrap();
    fs::write(new.join("changed"), "one\n2\nthree").unwrap();
    fs::write(new.join("new"), "a\n").unwrap();
    fs::write(old.join("gone"), "b\n").unwrap();
    fs::write(old.join("binary"), b"a\0b").unwrap();
    fs::write(new.join("binary"), b"a\0c").unwrap();
    fs::write(old.join("mode"), "x\n").unwrap();
    fs::write(new.join("mode"), "x\n").unwrap();
    fs::set_permissions(new.join("mode"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(old.join("type"), "file\n").unwrap();
    symlink("target", new.join("type")).unwrap();
    fs::write(old.join("we\"ird"), b"latin \xe9\n").unwrap();
    fs::write(new.join("we\"ird"), b"latin \xe9!\n").unwrap();
    let change = |path: &str, kind| ChangeDoc::new(path.as_bytes(), kind, None, None, true);
    let changes = vec![
        change("binary", ChangeKind::Modified),
        change("changed", ChangeKind::Modified),
        change("dir", ChangeKind::Added),
        change("gone", ChangeKind::Deleted),
        change("mode", ChangeKind::Properties),
        change("new", ChangeKind::Added),
        change("type", ChangeKind::Type),
        change("we\"ird", ChangeKind::Modified),
    ];
    DiffDoc { from: "versions/t1".to_owned(), to: "staging".to_owned(), mount: stage.sandbox.mnt().display().to_string(), changes }
}

#[test]
fn a_difference_by_names_and_by_numbers() {
    let stage = Stage::new();
    let doc = difference(&stage);
    let names = "M\tbinary\nM\tchanged\nA\tdir\nD\tgone\nP\tmode\nA\tnew\nT\ttype\nM\t\"we\\\"ird\"\n";
    let (ran, asked) = stage.run(&["diff", "t1", "staging", "/x/"], [Reply::Diff(doc.clone())]);
    assert_eq!(ran.expect(0).stdout, names);
    let (from, to) = (VersionName::Number(VersionId(1)), VersionName::Staging);
    assert_eq!(asked, [Request::Diff { from, to, below: Some(b"x".to_vec()) }]);
    assert_eq!(stage.print(&["diff", "--name-status", "t1", "staging"], Reply::Diff(doc.clone())), names);
    let stat = " binary    | Bin 3 -> 3 bytes
 changed   |   4 ++--
 dir       | new
 gone      |   1 -
 mode      | properties
 new       |   1 +
 type      |   2 +-
 \"we\\\"ird\" |   2 +-
 8 paths changed, 5 insertions(+), 5 deletions(-)
";
    assert_eq!(stage.print(&["diff", "t1", "staging", "--stat"], Reply::Diff(doc.clone())), stat);
    let shown: serde_json::Value = serde_json::from_str(&stage.print(&["diff", "t1", "staging", "--json"], Reply::Diff(doc))).unwrap();
    assert_eq!(shown["changes"][1]["change"], "modified");
}

#[test]
fn a_patch_is_gits_and_applies() {
    let stage = Stage::new();
    let doc = difference(&stage);
    let (ran, _) = stage.run(&["diff", "t1", "staging", "--patch"], [Reply::Diff(doc)]);
    let patch = ran.expect(0).stdout;
    let changed = "diff --git a/changed b/changed
--- a/changed
+++ b/changed
@@ -1,3 +1,3 @@
 one
-two
-three
+2
+three
\\ No newline at end of file
";
    let mode = "diff --git a/mode b/mode\nold mode 100644\nnew mode 100755\n";
    let new = "diff --git a/new b/new\nnew file mode 100644\n--- /dev/null\n+++ b/new\n@@ -0,0 +1 @@\n+a\n";
    let kind = "diff --git a/type b/type\ndeleted file mode 100644\n--- a/type\n+++ /dev/null\n@@ -1 +0,0 @@\n-file\n\
                diff --git a/type b/type\nnew file mode 120000\n--- /dev/null\n+++ b/type\n@@ -0,0 +1 @@\n+target\n\\ No newline at end of file\n";
    for part in [changed, mode, new, kind, "Binary files a/binary and b/binary differ\n"] {
        assert!(patch.contains(part), "{part}\nis not in\n{patch}");
    }
    assert!(!patch.contains("b/dir"), "git has no directories");
}

#[test]
fn lineage_is_text_or_the_events_as_they_are() {
    let stage = Stage::new();
    let zeros = "0".repeat(64);
    let line = format!(
        r#"{{"seq":0,"at":"2020-01-01T00:00:00.000000Z","version":"t1","event":"validated","previous":"{zeros}","digest":"{zeros}"}}"#
    );
    let events = || Reply::Lineage(vec![line.clone()]);
    let text = "2020-01-01 00:00:00  t1  valid: all its checks and its ancestors' passed\n";
    assert_eq!(stage.print(&["lineage", "t1"], events()), text);
    assert_eq!(stage.print(&["lineage", "--json"], events()), format!("[{line}]\n"));
    assert_eq!(stage.print(&["lineage", "--format", "json"], events()), format!("[{line}]\n"));
    let run: serde_json::Value = serde_json::from_str(&stage.print(&["lineage", "--format", "openlineage"], events())).unwrap();
    assert_eq!((&run["eventType"], &run["job"]["name"]), (&json!("COMPLETE"), &json!(stage.sandbox.store().canonicalize().unwrap())));
    assert!(stage.print(&["lineage", "--format", "dot"], events()).ends_with("tooltip=\"\"];\n}\n"));
    assert!(stage.print(&["lineage", "t1", "--format", "html"], events()).contains("<b>t1</b>"));
    assert_eq!(stage.sandbox.on(["lineage", "--json", "--format", "dot"]).code, 2);
}

fn tags() -> Reply {
    Reply::Tags(vec![TagDoc { name: "2026-q3".to_owned(), version: VersionId(7) }])
}

fn collected() -> Reply {
    let expired = vec![GoneDoc { version: VersionId(3), ghost: true }];
    Reply::Collected(Box::new(GcDoc { expired, freed: 1 << 20, complete: true, ..GcDoc::default() }))
}

fn finding() -> FindingDoc {
    let line = "a.csv: object 17: its file is missing (t3)".to_owned();
    let (severity, path, versions) = ("error".to_owned(), Some("a.csv".to_owned()), vec![VersionId(3)]);
    FindingDoc { severity, line, path, versions, repairable: false }
}

fn checked() -> Reply {
    Reply::Checked(Box::new(FsckDoc { versions: 7, findings: vec![finding()], ..FsckDoc::default() }))
}

#[test]
fn fsck_and_scrub_ask_the_daemon_and_tell_damage_by_their_exit_code() {
    let stage = Stage::new();
    let (ran, asked) = stage.run(&["fsck"], [checked()]);
    let ran = ran.expect(1);
    assert_eq!(ran.stdout, "error: a.csv: object 17: its file is missing (t3)\n");
    assert_eq!((ran.stderr.as_str(), asked), ("shadowfs: the store is damaged: 1 finding\n", vec![Request::Fsck]));
    let note = FindingDoc { severity: "note".to_owned(), ..finding() };
    let notes = FsckDoc { versions: 7, findings: vec![note], ..FsckDoc::default() };
    let said = stage.print(&["fsck"], Reply::Checked(Box::new(notes)));
    assert!(said.ends_with("\nthe structure of 7 versions is whole; `shadowfs scrub` reads their contents\n"), "{said}");
    let (ran, asked) = stage.run(&["fsck", "--repair"], [Reply::Progress(0, 0)]);
    let line = ran.expect(4).stderr;
    assert!(line.ends_with("is mounted: fsck --repair is for a store at rest; first: shadowfs unmount\n"), "{line}");
    assert_eq!(asked, [Request::Progress]);
    let scrubbed = ScrubDoc { objects: 3, bytes: 2048, findings: Vec::new() };
    assert_eq!(stage.print(&["scrub"], Reply::Scrubbed(Box::new(scrubbed.clone()))), "3 contents (2.00 KiB) are what was sealed\n");
    let damaged = ScrubDoc { findings: vec![finding(), finding()], ..scrubbed };
    let (ran, _) = stage.run(&["scrub"], [Reply::Scrubbed(Box::new(damaged))]);
    assert_eq!(ran.expect(1).stderr, "shadowfs: contents are damaged: 2 findings; what else there is stays readable\n");
}

#[test]
fn gc_asks_the_daemon() {
    let stage = Stage::new();
    let (ran, asked) = stage.run(&["gc", "--dry-run"], [collected()]);
    assert_eq!(
        ran.expect(0).stdout,
        "t3 (ghost): its time is over, it is gone\nfreed 1.00 MiB: 0 contents; and 0 B in the catalog: 0 tree nodes\n"
    );
    assert_eq!(asked, [Request::Gc { dry_run: true }]);
}

fn verified(findings: &[&str]) -> VerifyDoc {
    let findings = findings.iter().map(|finding| (*finding).to_owned()).collect();
    VerifyDoc { events: 42, versions: 7, objects: 120, bytes: 2048, findings }
}

#[test]
fn verify_says_what_was_read_or_what_is_wrong() {
    let stage = Stage::new();
    let said = stage.print(&["lineage", "verify"], Reply::Verified(verified(&[])));
    assert_eq!(said, "42 events and 7 versions are as recorded; 120 contents (2.00 KiB) have their digests\n");
    let (ran, asked) = stage.run(&["lineage", "verify"], [Reply::Verified(verified(&["event 3: its digest does not match its content"]))]);
    let ran = ran.expect(1);
    assert_eq!(ran.stdout, "event 3: its digest does not match its content\n");
    assert_eq!(ran.stderr, "shadowfs: the lineage does not hold: 1 finding; `shadowfs fsck` looks at the store's structure\n");
    assert_eq!(asked, [Request::Verify]);
}

#[test]
fn what_is_kept_let_go_and_brought_back() {
    let stage = Stage::new();
    let number = |number| VersionName::Number(VersionId(number));
    let restored = VersionDoc { restored_from: Some(VersionId(5)), ..version(9, VersionState::Open) };
    let pinned = VersionDoc { pinned: true, ..version(5, VersionState::Ghost) };
    let name = || "v1".to_owned();
    let told: [(&[&str], Reply, Request, &str); 9] = [
        (&["restore", "t5"], reply(restored), Request::Restore { version: number(5) }, "staging has the content of t5 again, as t9\n"),
        (&["restore", "t5"], Reply::Nothing, Request::Restore { version: number(5) }, "staging has that content already\n"),
        (
            &["drop", "t5"],
            reply(version(5, VersionState::Expired)),
            Request::Drop { version: number(5) },
            "t5 is dropped; its record and logs stay in the lineage\n",
        ),
        (&["pin", "t5"], reply(pinned), Request::Pin { version: number(5), on: true }, "t5 is kept until: shadowfs pin --remove t5\n"),
        (&["pin", "--remove", "t5"], reply(ghost(5)), Request::Pin { version: number(5), on: false }, "t5 is no longer pinned\n"),
        (
            &["tag", "v1", "valid"],
            reply(version(5, VersionState::Valid)),
            Request::Tag { name: name(), version: VersionName::Valid, force: false },
            "versions/v1 leads to t5\n",
        ),
        (
            &["tag", "-f", "v1", "t5"],
            reply(version(5, VersionState::Valid)),
            Request::Tag { name: name(), version: number(5), force: true },
            "versions/v1 leads to t5\n",
        ),
        (&["tag", "--remove", "v1"], reply(version(5, VersionState::Valid)), Request::Untag { name: name() }, "v1 no longer leads to t5\n"),
        (&["tag"], tags(), Request::Tags, "TAG      VERSION\n2026-q3  t7\n"),
    ];
    for (words, reply, request, expected) in told {
        let (ran, asked) = stage.run(words, [reply]);
        assert_eq!((ran.expect(0).stdout.as_str(), asked), (expected, vec![request]));
    }
}

#[test]
fn configuration_in_force_is_the_daemons() {
    let stage = Stage::new();
    let text = || Reply::Text("[staging]\nsettle = \"9s\"\n".to_owned());
    assert_eq!(stage.print(&["config", "show"], text()), "[staging]\nsettle = \"9s\"\n");
    assert_eq!(stage.print(&["config", "show", "--json"], text()), "{\"staging\":{\"settle\":\"9s\"}}\n");
}

/// The paths of a document's fields; those of an array's elements are taken together.
fn fields(value: &serde_json::Value, at: &str, found: &mut std::collections::BTreeSet<String>) {
    match value {
        serde_json::Value::Object(map) => {
            for (key, value) in map {
                let path = format!("{at}.{key}");
                fields(value, &path, found);
                found.insert(path);
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| fields(item, &format!("{at}[]"), found)),
        _ => {}
    }
}

fn metrics() -> Reply {
    use shadowfs::control::protocol::{MetricDoc, MetricRuleDoc, PointDoc};
    let point = PointDoc { version: VersionId(7), state: VersionState::Promoted, at: String::new(), value: 1200.0, counts: true };
    let rule = MetricRuleDoc { window: 10, median: Some(1200.0), least: Some(960.0), most: None, forecast: None };
    let (metric, check) = ("rows".to_owned(), "tables".to_owned());
    Reply::Metrics(vec![MetricDoc { metric, check, points: vec![point], trend: None, rules: vec![rule] }])
}

/// `docs/json.md` shows every field that is printed, and no other.
#[test]
fn the_documents_of_json_md_are_those_printed() {
    let stage = Stage::new();
    let text = include_str!("../docs/json.md");
    let open = shadowfs::control::protocol::OpenDoc {
        version: VersionId(8),
        opened_at: String::new(),
        writers: 1,
        mapped: 0,
        held_open: false,
        message: None,
    };
    let running = shadowfs::control::protocol::RunningDoc { version: VersionId(7), check: String::new(), attempt: 1, running_ms: 1 };
    let Reply::Status(mut status) = status(&stage) else { unreachable!("a status") };
    (status.open, status.running) = (Some(open), vec![running]);
    status.upkeep = UpkeepDoc {
        swept: Some(SweptDoc { at: String::new(), freed: 1 }),
        scrubbed: Some(ScrubbedDoc { at: String::new(), objects: 1, bytes: 1, findings: Vec::new() }),
        ..UpkeepDoc::default()
    };
    let change = ChangeDoc::new(b"a.csv", ChangeKind::Added, None, Some(4), true);
    let diff = DiffDoc { from: String::new(), to: String::new(), mount: String::new(), changes: vec![change] };
    let what = shadowfs::store::event::EventKind::Checked {
        check: "rows".to_owned(),
        attempt: 1,
        outcome: Outcome::Failed { code: Some(1) },
        took_ms: 1,
    };
    let zeros = shadowfs::ids::Digest::default();
    let (seq, at, version) = (shadowfs::ids::EventSeq(0), Timestamp::default(), Some(VersionId(7)));
    let event = shadowfs::store::event::Event { seq, at, version, what, previous: zeros, digest: zeros };
    let printed = [
        ("version", stage.print(&["commit", "--json"], reply(ghost(7)))),
        ("show", stage.print(&["show", "t7", "--json"], Reply::Show(Box::new(show())))),
        ("diff", stage.print(&["diff", "t1", "staging", "--json"], Reply::Diff(diff))),
        ("status", stage.print(&["status", "--json"], Reply::Status(status))),
        ("event", shadowfs::lineage::event::json_line(&event)),
        ("metric", stage.print(&["log", "--metric", "rows", "--json"], metrics())),
        ("tags", stage.print(&["tag", "--json"], tags())),
        ("verify", stage.print(&["lineage", "verify", "--json"], Reply::Verified(verified(&[])))),
        ("fsck", stage.run(&["fsck", "--json"], [checked()]).0.expect(1).stdout),
        ("scrub", stage.print(&["scrub", "--json"], Reply::Scrubbed(Box::default()))),
        ("gc", stage.print(&["gc", "--json"], collected())),
        ("config-check", {
            fs::write(stage.sandbox.store().join("shadowfs.toml"), "x = 1\n").unwrap();
            stage.sandbox.on(["config", "check", "--json"]).expect(2).stdout
        }),
    ];
    let mut shown = Vec::new();
    for block in text.split("```json ").skip(1) {
        let (name, rest) = block.split_once('\n').unwrap();
        let example: serde_json::Value = serde_json::from_str(rest.split("```").next().unwrap()).unwrap();
        let (_, printed) = printed.iter().find(|(of, _)| *of == name).unwrap_or_else(|| panic!("nothing prints a {name}"));
        let printed: serde_json::Value = serde_json::from_str(printed).unwrap();
        let (mut in_example, mut in_printed) = Default::default();
        fields(&example, name, &mut in_example);
        fields(&printed, name, &mut in_printed);
        assert_eq!(in_example, in_printed);
        shown.push(name);
    }
    assert_eq!(shown.len(), printed.len(), "{shown:?}");
}
