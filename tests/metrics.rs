//! Numbers that checks report: kept, held against rules, drawn, and followed to where they lead.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;

use common::{Ran, Sandbox, eventually};
use serde_json::{Value, json};

/// A check that reports the number in the file `rows`, and what rules are to say of it.
fn config(rules: &str) -> String {
    format!(
        "[checks]\nretries = 0\n[promotion]\nwindow = \"0s\"\n[[check]]\nname = \"count\"\n\
         run = ['sh', '-c', 'echo shadowfs-metric rows $(cat rows)']\n{rules}"
    )
}

/// The number as one version; `code` is what `commit --wait` exits with.
#[track_caller]
fn rows(sandbox: &Sandbox, rows: u32, code: i32) -> Ran {
    sandbox.on(["begin"]).expect(0);
    fs::write(sandbox.staging().join("rows"), rows.to_string()).unwrap();
    sandbox.on(["commit", "--wait"]).expect(code)
}

fn summary(sandbox: &Sandbox, version: &str) -> Value {
    sandbox.on(["show", version, "--json"]).expect(0).json()["attempts"][0]["summary"].clone()
}

#[test]
fn a_rule_holds_a_number_against_the_last_valid_versions() {
    let sandbox = Sandbox::new();
    sandbox.init(&config("")).mount();
    for number in [10, 1000, 900, 950] {
        rows(&sandbox, number, 0);
    }
    sandbox.configure(&config("[[metric]]\nname = \"rows\"\nmax_drop = \"20%\"\nmax_rise = \"50%\"\nwindow = 3\n"));
    eventually("the rule is in force", || sandbox.on(["config", "show"]).expect(0).stdout.contains("[[metric]]"));
    let ran = rows(&sandbox, 700, 3);
    let why = "the metric rows: 700 is below 760, 20% off 950, the median of the last 3 valid versions (max_drop)";
    assert!(ran.stderr.contains(why), "{}", ran.stderr);
    assert_eq!(summary(&sandbox, "t5"), why);
    let lineage = sandbox.on(["lineage", "t5"]).expect(0).stdout;
    assert!(lineage.contains(&format!("check count, attempt 1: failed: {why}")), "{lineage}");
    let shown = sandbox.on(["show", "t5"]).expect(0).stdout;
    assert!(shown.contains("rows=700") && shown.contains(&format!("\ncount: {why}\n")), "{shown}");
    // What was rejected is not compared with: the median is still 950.
    rows(&sandbox, 1500, 3);
    assert!(summary(&sandbox, "t6").as_str().unwrap().contains("1500 is above 1425, 50% off 950"));
    rows(&sandbox, 1400, 0);
    sandbox.unmount();
}

#[test]
fn limits_need_no_versions_before_and_a_warning_never_rejects() {
    let sandbox = Sandbox::new();
    sandbox.init(&config("[[metric]]\nname = \"rows\"\ncheck = \"count\"\nmin = 10\nmax = 20.5\n")).mount();
    rows(&sandbox, 9, 3);
    assert_eq!(summary(&sandbox, "t1"), "the metric rows: 9 is below 10 (min)");
    rows(&sandbox, 21, 3);
    assert_eq!(summary(&sandbox, "t2"), "the metric rows: 21 is above 20.5 (max)");
    rows(&sandbox, 20, 0);
    let warns = config("severity = \"warn\"\n[[metric]]\nname = \"rows\"\nmin = 10\n");
    sandbox.configure(&warns);
    eventually("it only warns", || sandbox.on(["config", "show"]).expect(0).stdout.contains("\"warn\""));
    rows(&sandbox, 5, 0);
    assert_eq!(summary(&sandbox, "t4"), "the metric rows: 5 is below 10 (min)");
    sandbox.unmount();
}

#[test]
fn a_trend_is_warned_of_in_status_before_it_crosses_the_limit() {
    let sandbox = Sandbox::new();
    sandbox.init(&config("[[metric]]\nname = \"rows\"\nmin = 895\n")).mount();
    // The machine may have warnings of its own, of a full disk for one.
    let is_ours = |line: &&Value| line.as_str().unwrap().starts_with("the metric");
    let warnings = |sandbox: &Sandbox| sandbox.status()["warnings"].as_array().unwrap().iter().filter(is_ours).cloned().collect::<Vec<_>>();
    for step in 0..7 {
        assert_eq!(warnings(&sandbox), Vec::<Value>::new(), "before version {step}");
        rows(&sandbox, 1000 - 10 * step, 0);
    }
    let expected = "the metric rows of check count falls by 10 a version; in 5 versions 890 is below 895 (min)";
    assert_eq!(warnings(&sandbox), [expected]);
    assert!(sandbox.on(["status"]).expect(0).stdout.contains(expected));
    for number in [1000, 990, 1005, 995, 1000] {
        rows(&sandbox, number, 0);
    }
    assert_eq!(warnings(&sandbox), Vec::<Value>::new(), "it has no trend any more");
    sandbox.unmount();
}

#[test]
fn log_draws_a_number_over_the_versions() {
    let sandbox = Sandbox::new();
    sandbox.init(&config("[[metric]]\nname = \"rows\"\nmin = 100\nwindow = 2\n")).mount();
    for (number, code) in [(100, 0), (200, 0), (50, 3), (300, 0)] {
        rows(&sandbox, number, code);
    }
    let docs = sandbox.on(["log", "--metric", "rows", "--json"]).expect(0).json();
    let [doc] = docs.as_array().unwrap().as_slice() else { panic!("{docs}") };
    assert_eq!((&doc["metric"], &doc["check"]), (&json!("rows"), &json!("count")));
    let points: Vec<_> =
        doc["points"].as_array().unwrap().iter().map(|point| json!([point["version"], point["value"], point["counts"]])).collect();
    assert_eq!(points, [json!(["t1", 100.0, true]), json!(["t2", 200.0, true]), json!(["t3", 50.0, false]), json!(["t4", 300.0, true])]);
    assert_eq!(doc["rules"], json!([{"window": 2, "median": 250.0, "least": 100.0, "most": null, "forecast": null}]));
    let drawn = sandbox.on(["log", "--metric", "rows", "--check", "count", "-n", "3"]).expect(0).stdout;
    let lines: Vec<_> = drawn.lines().collect();
    assert_eq!(lines[..2], ["rows of check count", "  next: at least 100, median 250 of the last 2 valid versions"]);
    assert!(lines[2].starts_with("VERSION  STATE") && lines[2].ends_with("50 .. 300"), "{drawn}");
    assert!(lines[4].starts_with("t3       ghost") && lines[4].contains(" 50 ") && lines[4].contains('●'), "{drawn}");
    assert_eq!(lines.len(), 6, "{drawn}");
    let refused = sandbox.on(["log", "--metric", "rosw"]).expect(2).stderr;
    assert_eq!(refused.trim(), "shadowfs: no check has reported a metric \"rosw\"; there are rows (count)");
    let refused = sandbox.on(["log", "--metric", "rows", "--check", "x"]).expect(2).stderr;
    assert!(refused.contains("the check \"x\" has not reported a metric \"rows\""), "{refused}");
    sandbox.unmount();
}

#[test]
fn built_in_checks_report_rows_and_what_is_missing_by_column() {
    let sandbox = Sandbox::new();
    sandbox
        .init("[checks]\nretries = 0\n[[check]]\nname = \"tables\"\nbuiltin = \"csv\"\n[[metric]]\nname = \"nulls.price\"\nmax = 1\n")
        .mount();
    let table = |rows: &str, code| {
        sandbox.on(["begin"]).expect(0);
        fs::write(sandbox.staging().join("a.csv"), format!("id,price,full name\n{rows}")).unwrap();
        sandbox.on(["commit", "--wait"]).expect(code)
    };
    table("1,2,x\n2,,\n3,\"\",y\n", 3);
    assert_eq!(summary(&sandbox, "t1"), "the metric nulls.price: 2 is above 1 (max)");
    table("1,2,x\n2,,\n", 0);
    let attempt = sandbox.on(["show", "t2", "--json"]).expect(0).json()["attempts"][0].clone();
    let expected = json!({"files": 1.0, "bytes": 29.0, "rows": 2.0, "nulls.id": 0.0, "nulls.price": 1.0, "nulls.full_name": 1.0});
    assert_eq!(attempt["metrics"], expected);
    sandbox.unmount();
}

#[test]
fn a_rule_that_is_malformed_is_refused_with_its_line() {
    let sandbox = Sandbox::new();
    sandbox.init("");
    for (text, reason) in [
        ("name = \"rows\"", ":2: metric \"rows\" has no limit; give it min, max, max_drop or max_rise"),
        ("min = 1", ":1: a [[metric]] has no \"name\""),
        ("name = \"a b\"\nmin = 1", ":2: the name of a metric has no blanks, and at most 200 bytes; \"a b\" has not such a form"),
        (
            "name = \"rows\"\nmax_drop = \"101%\"",
            ":3: \"max_drop\" in [[metric]] must be a percentage from \"0%\" to \"100%\", not \"101%\"",
        ),
        ("name = \"rows\"\nmax_drop = 20", ":3: \"max_drop\" in [[metric]] must be a percentage from \"0%\" to \"100%\", not 20"),
        ("name = \"rows\"\nmin = nan", ":3: \"min\" in [[metric]] must be a number, not nan"),
        ("name = \"rows\"\nmin = \"1\"", ":3: \"min\" in [[metric]] must be a number, not \"1\""),
        ("name = \"rows\"\nmin = 2\nmax = 1", ":3: metric \"rows\" can't be at least 2 and at most 1"),
        ("name = \"rows\"\nmin = 2\nwindow = 0", ":4: \"window\" in [[metric]] must be a whole number from 1 to 1000, not 0"),
        ("name = \"rows\"\ncheck = \"x\"\nmin = 2", ":3: metric \"rows\" is for a check \"x\", and there is none of that name"),
        ("name = \"rows\"\nmax_dorp = \"1%\"", ":3: unknown key \"max_dorp\" in [[metric]]; did you mean \"max_drop\"?"),
    ] {
        sandbox.configure(&format!("[[metric]]\n{text}\n"));
        let refused = sandbox.on(["config", "check"]).expect(2).stderr;
        assert!(refused.trim().ends_with(reason), "{text}: {refused}");
    }
    sandbox.configure("metric = 1\n");
    assert!(sandbox.on(["config", "check"]).expect(2).stderr.contains("\"metric\" must be a list of sections: [[metric]]"));
}
