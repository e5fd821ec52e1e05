//! The forms that scripts and people rely on, written out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use serde_json::{Value, json};

use super::doc::{AttemptDoc, ChangeDoc, ChangeKind, VersionDoc};
use super::event::{EventLine, json_line};
use super::{dot, files, html, openlineage, text};
use crate::clock::Timestamp;
use crate::ids::{Digest, EventSeq, NodeId, VersionId};
use crate::store::event::{Event, EventKind};
use crate::store::record::{AttemptRecord, ChangeCounts, Outcome, Reason, RootRef, VersionRecord, VersionState, Writer};

const AT: Timestamp = Timestamp { secs: 1_767_225_600, nanos: 250_000_000 };

fn event(version: Option<u64>, what: EventKind) -> Event {
    Event { seq: EventSeq(3), at: AT, version: version.map(VersionId), what, previous: Digest([1; 32]), digest: Digest([2; 32]) }
}

fn writer() -> Writer {
    Writer { uid: 1000, pid: 42, command: "cp".to_owned() }
}

fn counts() -> ChangeCounts {
    ChangeCounts { added: 1, modified: 2, deleted: 3, bytes: 4 }
}

/// One of each kind, with the sentence that tells of it.
fn every_kind() -> Vec<(EventKind, &'static str)> {
    let (t1, t2) = (VersionId(1), VersionId(2));
    let digest = Digest([7; 32]);
    let conflict = Reason::Conflict { with: t1, paths: ["a", "b", "c", "d"].map(str::to_owned).to_vec() };
    let failed = Reason::ChecksFailed { checks: vec!["rows".to_owned()], summary: "rows failed 3 times".to_owned() };
    vec![
        (EventKind::Initialized { from: None }, "store made, empty"),
        (EventKind::Initialized { from: Some("/data".to_owned()) }, "store made from /data"),
        (EventKind::Opened { parent: t1, writer: Some(writer()) }, "opened on t1 by cp (pid 42, uid 1000)"),
        (EventKind::Opened { parent: t1, writer: None }, "opened on t1"),
        (
            EventKind::Sealed { digest, changes: counts(), writers: vec![writer()], message: Some("new rows".to_owned()) },
            "sealed: +1 ~2 -3, by cp (pid 42, uid 1000): new rows",
        ),
        (
            EventKind::Checked { check: "rows".to_owned(), attempt: 2, outcome: Outcome::Failed { code: Some(1) }, took_ms: 2_540 },
            "check rows, attempt 2: failed (exit 1) after 2.5 s",
        ),
        (EventKind::Validated, "valid: all its checks and its ancestors' passed"),
        (EventKind::Rejected { reason: failed }, "rejected, a ghost now: rows failed 3 times"),
        (
            EventKind::Rejected { reason: conflict },
            "rejected, a ghost now: its changes overlap with those of t1, which was rejected: a, b, c and 1 more",
        ),
        (EventKind::RolledBack { from: t2, to: t1 }, "staging rolled back from t2 to t1"),
        (EventKind::Rebased { from: t2, onto: t1 }, "carries the changes of t2 over onto t1"),
        (EventKind::Aborted { reason: Reason::Unchanged }, "aborted: nothing had changed"),
        (EventKind::Aborted { reason: Reason::Discarded }, "aborted: discarded by the user"),
        (EventKind::Aborted { reason: Reason::Lost }, "aborted: a crash came before its changes were on disk"),
        (EventKind::Aborted { reason: Reason::Rebased { into: t2 } }, "aborted: its changes live on in t2"),
        (EventKind::Promoted { replaces: t1, batch: vec![t2], digest }, "promoted to production in place of t1"),
        (EventKind::Promoted { replaces: t1, batch: vec![t1, t2], digest }, "promoted to production in place of t1, batch t1, t2"),
        (EventKind::Superseded { by: t2 }, "superseded by t2"),
        (EventKind::HeldBack { why: "3% free".to_owned() }, "promotion put off: 3% free"),
        (EventKind::ProductionRolledBack { from: t2, to: t1 }, "production put back by hand from t2 to t1"),
        (EventKind::Held, "held: not promoted until someone says so"),
        (EventKind::Released, "released: may be promoted again"),
        (EventKind::Restored { from: t1 }, "restores the content of t1"),
        (EventKind::Tagged { name: "q3".to_owned() }, "tagged q3"),
        (EventKind::Pinned, "pinned: kept whatever its age"),
        (EventKind::Expired, "expired: only its record and logs are left"),
        (EventKind::ConfigLoaded, "configuration loaded"),
        (EventKind::ConfigRefused { why: "x:1: y".to_owned() }, "configuration refused, the old one stays: x:1: y"),
        (EventKind::Mounted { at: "/mnt".to_owned(), recovered: false }, "mounted at /mnt"),
        (
            EventKind::Mounted { at: "/mnt".to_owned(), recovered: true },
            "mounted at /mnt, recovered: the daemon before ended without unmounting",
        ),
        (EventKind::Unmounted, "unmounted"),
        (EventKind::Untagged { name: "q3".to_owned() }, "no longer tagged q3"),
        (EventKind::DiskLow { free: 3 << 20, total: 100 << 20 }, "little space is left on the store's filesystem: 3 MiB of 100 MiB"),
        (EventKind::Unpinned, "no longer pinned: its age counts again"),
    ]
}

#[test]
fn every_event_is_one_flat_line_that_reads_back() {
    for (what, _) in every_kind() {
        let event = event(Some(1), what);
        let line = json_line(&event);
        assert!(!line.contains('\n'));
        assert!(line.starts_with(r#"{"seq":3,"at":"2026-01-01T00:00:00.250000Z","version":"t1","event":""#), "{line}");
        assert!(line.ends_with(&format!(r#","previous":"{}","digest":"{}"}}"#, event.previous, event.digest)), "{line}");
        let back: EventLine = serde_json::from_str(&line).unwrap();
        assert_eq!(back, EventLine::from(&event));
        // A key twice would hide one of the two from every reader.
        let keys = line.matches("\"at\":").count() + line.matches("\"digest\":").count() + line.matches("\"version\":").count();
        assert_eq!(keys, 3, "{line}");
    }
}

#[test]
fn an_outcome_is_flat_beside_its_check() {
    let what = EventKind::Checked { check: "rows".to_owned(), attempt: 1, outcome: Outcome::Killed { signal: 9 }, took_ms: 5 };
    let line: Value = serde_json::from_str(&json_line(&event(Some(1), what))).unwrap();
    assert_eq!(line["event"], "checked");
    assert_eq!(line["outcome"], "killed");
    assert_eq!(line["signal"], 9);
    let line = json_line(&event(None, EventKind::Unmounted));
    assert!(!line.contains("version"), "{line}");
}

#[test]
fn every_outcome_is_read_back_from_its_line() {
    let text = |text: &str| text.to_owned();
    for outcome in [
        Outcome::Passed,
        Outcome::Failed { code: Some(1) },
        Outcome::Failed { code: None },
        Outcome::Found { summary: text("a.csv:2: no") },
        Outcome::Killed { signal: 9 },
        Outcome::TimedOut,
        Outcome::OverLimit { what: text("65 processes") },
        Outcome::CouldNotStart { why: text("no python") },
        Outcome::Cancelled,
        Outcome::Skipped,
    ] {
        let event = event(Some(1), EventKind::Checked { check: text("rows"), attempt: 1, outcome, took_ms: 5 });
        let read: EventLine = serde_json::from_str(&json_line(&event)).unwrap();
        assert_eq!(read.what, event.what);
    }
}

#[test]
fn every_event_is_in_the_table_of_json_md() {
    let table = include_str!("../../docs/json.md").split("## `lineage`").nth(1).unwrap();
    for (what, _) in every_kind() {
        let line: Value = serde_json::from_str(&json_line(&event(Some(1), what))).unwrap();
        let name = line["event"].as_str().unwrap();
        let row = table.lines().find(|row| row.starts_with("| `") && row.split('|').nth(1).unwrap().contains(&format!("`{name}`")));
        let row = row.unwrap_or_else(|| panic!("no row for {name}"));
        let own = ["seq", "at", "version", "event", "previous", "digest", "outcome", "code", "summary"];
        for field in line.as_object().unwrap().keys().filter(|field| !own.contains(&field.as_str())) {
            assert!(row.contains(&format!("`{field}`")), "{name} has {field}");
        }
    }
}

#[test]
fn every_event_has_its_sentence() {
    for (what, expected) in every_kind() {
        assert_eq!(text::sentence(&what), expected);
    }
}

#[test]
fn text_is_aligned_and_never_steers_a_terminal() {
    let mut lines = vec![EventLine::from(&event(None, EventKind::Unmounted)), EventLine::from(&event(Some(10), EventKind::Validated))];
    lines.push(EventLine::from(&event(Some(2), EventKind::Tagged { name: "a\x1b[31m\nb".to_owned() })));
    let shown = text::render(&lines);
    let expected = "2026-01-01 00:00:00       unmounted\n\
                    2026-01-01 00:00:00  t10  valid: all its checks and its ancestors' passed\n\
                    2026-01-01 00:00:00  t2   tagged a\\u{1b}[31m\\nb\n";
    assert_eq!(shown, expected);
}

fn record() -> VersionRecord {
    VersionRecord {
        version: VersionId(7),
        state: VersionState::Ghost,
        parent: Some(VersionId(6)),
        root: Some(RootRef { node: NodeId(1), digest: Digest([3; 32]), entries: 9 }),
        message: None,
        opened_at: AT,
        sealed_at: Some(AT),
        decided_at: None,
        promoted_at: None,
        changes: counts(),
        writers: vec![writer()],
        reason: Some(Reason::ChecksFailed { checks: vec!["rows".to_owned()], summary: "rows failed".to_owned() }),
        passed: false,
        held: false,
        pinned: false,
        rebased_from: None,
        restored_from: None,
    }
}

#[test]
fn a_version_is_the_document_of_the_contract() {
    let shown: Value = serde_json::from_slice(&files::version_json(&record())).unwrap();
    let at = "2026-01-01T00:00:00.250000Z";
    let expected = json!({
        "version": "t7", "state": "ghost", "parent": "t6", "digest": "03".repeat(32), "message": null,
        "opened_at": at, "sealed_at": at, "decided_at": null, "promoted_at": null,
        "changes": {"added": 1, "modified": 2, "deleted": 3, "bytes": 4},
        "writers": [{"uid": 1000, "pid": 42, "command": "cp"}],
        "reason": {"kind": "checks_failed", "checks": ["rows"], "summary": "rows failed"},
        "passed": false, "held": false, "pinned": false, "rebased_from": null, "restored_from": null,
    });
    assert_eq!(shown, expected);
    let doc = VersionDoc::from(&record());
    assert_eq!(serde_json::from_value::<VersionDoc>(shown).unwrap(), doc);
}

fn attempt(number: u32, check: &str, outcome: Outcome) -> AttemptRecord {
    AttemptRecord {
        version: VersionId(7),
        check: check.to_owned(),
        attempt: number,
        started_at: AT,
        took: Duration::from_millis(1_250),
        outcome,
        rejects: true,
        metrics: vec![("rows".to_owned(), 1.5)],
    }
}

#[test]
fn a_check_has_its_own_attempts_in_order() {
    let attempts =
        [attempt(2, "rows", Outcome::Passed), attempt(1, "other", Outcome::Passed), attempt(1, "rows", Outcome::Failed { code: None })];
    let shown: Value = serde_json::from_slice(&files::check_json(VersionId(7), "rows", &attempts)).unwrap();
    let first = json!({
        "version": "t7", "check": "rows", "attempt": 1, "started_at": "2026-01-01T00:00:00.250000Z",
        "ended_at": "2026-01-01T00:00:01.500000Z", "took_ms": 1250, "outcome": "failed", "code": null, "summary": null,
        "rejects": true, "metrics": {"rows": 1.5}, "log": "lineage/t7/checks/rows.1.log",
    });
    assert_eq!(shown["attempts"][0], first);
    assert_eq!(shown["attempts"][1]["outcome"], "passed");
    assert_eq!(shown["attempts"].as_array().unwrap().len(), 2);
    assert_eq!(serde_json::to_value(AttemptDoc::new(&attempts[2])).unwrap(), first);
}

#[test]
fn changed_paths_are_lines_and_keep_bytes_that_are_no_text() {
    let changes = [
        ChangeDoc::new(b"a/b", ChangeKind::Modified, Some(1), Some(2), true),
        ChangeDoc::new(b"\xff", ChangeKind::Added, None, None, false),
    ];
    let lines = String::from_utf8(files::changes_jsonl(changes.clone())).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0], json!({"path": "a/b", "raw": null, "change": "modified", "old_size": 1, "new_size": 2, "regular": true}));
    assert_eq!(lines[1]["path"], "\u{fffd}");
    assert_eq!(lines[1]["raw"], json!([255]));
    assert_eq!(changes[1].bytes(), b"\xff");
}

/// t1 rejected, t2 carries its changes... and a message that would break a page or a graph.
fn a_trail() -> Vec<EventLine> {
    let failed = Reason::ChecksFailed { checks: vec!["rows".to_owned()], summary: "rows: exit code 1".to_owned() };
    let checked = |check: &str, attempt, outcome| EventKind::Checked { check: check.to_owned(), attempt, outcome, took_ms: 5 };
    let message = Some("<b>\"new\" & \\ rows</b>\n\u{1b}[31m".to_owned());
    let digest = Digest([7; 32]);
    let seal = |message| EventKind::Sealed { digest, changes: counts(), writers: vec![writer()], message };
    let events = [
        (0, EventKind::Validated),
        (1, EventKind::Opened { parent: VersionId(0), writer: Some(writer()) }),
        (1, seal(message)),
        (1, checked("rows", 1, Outcome::TimedOut)),
        (1, checked("rows", 2, Outcome::Failed { code: Some(1) })),
        (1, checked("utf8", 1, Outcome::Cancelled)),
        (1, EventKind::Rejected { reason: failed }),
        (2, EventKind::Opened { parent: VersionId(0), writer: None }),
        (2, EventKind::Restored { from: VersionId(1) }),
        (2, seal(None)),
        (2, checked("rows", 1, Outcome::Passed)),
        (2, EventKind::Validated),
        (2, EventKind::Tagged { name: "old".to_owned() }),
        (2, EventKind::Tagged { name: "q3\"".to_owned() }),
        (2, EventKind::Untagged { name: "old".to_owned() }),
    ];
    let mut lines: Vec<_> = events.into_iter().map(|(version, what)| EventLine::from(&event(Some(version), what))).collect();
    lines.push(EventLine::from(&event(None, EventKind::Unmounted)));
    lines
}

#[test]
fn openlineage_has_a_run_a_version_with_its_checks() {
    let trail = a_trail();
    let rendered = openlineage::render(&trail, "/srv/prices");
    let runs: Vec<Value> = rendered.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<_> = runs.iter().map(|run| run["eventType"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["COMPLETE", "FAIL", "COMPLETE"]);
    let run = &runs[1];
    for field in ["eventTime", "producer", "schemaURL"] {
        assert!(run[field].is_string(), "{field}");
    }
    let id = run["run"]["runId"].as_str().unwrap();
    assert_eq!(id, "02020202-0202-8202-8202-020202020202");
    assert_eq!(run["run"]["facets"]["errorMessage"]["message"], "rows: exit code 1");
    assert_eq!(run["run"]["facets"]["shadowfs_version"]["attempts"].as_array().unwrap().len(), 3);
    assert_eq!(
        (&run["inputs"][0]["name"], &run["inputs"][0]["facets"]["version"]["datasetVersion"]),
        (&json!("/srv/prices"), &json!("t0"))
    );
    let output = &run["outputs"][0]["facets"];
    assert_eq!(output["version"]["datasetVersion"], "t1");
    assert_eq!(output["dataQualityAssertions"]["assertions"], json!([{"assertion": "rows", "success": false}]));
    let inputs: Vec<_> = runs[2]["inputs"].as_array().unwrap().iter().map(|input| &input["facets"]["version"]["datasetVersion"]).collect();
    assert_eq!(inputs, ["t0", "t1"], "what it stands on, and what it restores");
    for facet in run["run"]["facets"].as_object().unwrap().values().chain(output.as_object().unwrap().values()) {
        assert!(facet["_producer"].is_string() && facet["_schemaURL"].is_string(), "{facet}");
    }
}

#[test]
fn the_graph_shows_what_stands_on_what() {
    let graph = dot::render(&a_trail(), "/srv/prices");
    for line in [
        "digraph \"/srv/prices\" {",
        "  t0 [label=\"t0\\npromoted\", fillcolor=\"#8ce99a\", tooltip=\"\"];",
        "  t1 [label=\"t1\\nghost\\n<b>\\\"new\\\" & \\\\ rows</b>\\n[31m\", fillcolor=\"#ffa8a8\", tooltip=\"rows: exit code 1\"];",
        "  t0 -> t1;",
        "  t1 -> t2 [style=dashed, label=\"restored\", constraint=false];",
        "  \"q3\\\"\" -> t2 [style=dotted, arrowhead=none];",
    ] {
        assert!(graph.lines().any(|have| have == line), "{line}\nis not in\n{graph}");
    }
    assert!(!graph.contains("old"));
}

#[test]
fn the_page_stands_alone_and_nothing_in_it_is_anyones_markup() {
    let page = html::render(&a_trail(), "/srv/<prices>");
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"));
    for part in [
        "<title>Lineage of /srv/&lt;prices&gt;</title>",
        "<p>3 versions, 16 events, newest version first.</p>",
        "&lt;b&gt;&quot;new&quot; &amp; \\ rows&lt;/b&gt;\\n\\u{1b}[31m",
        "<span class=\"bad\">rows: failed (exit 1), 2 attempts</span>",
        "<span class=\"s ghost\">ghost</span>",
        "restores <a href=\"#t1\">t1</a>",
    ] {
        assert!(page.contains(part), "{part}\nis not in\n{page}");
    }
    for foreign in ["<b>\"new", "http", "<script", "\u{1b}"] {
        assert!(!page.contains(foreign), "{foreign}");
    }
}
