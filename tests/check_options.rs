//! Built-in checks with their options: what they refuse, with which words, and what of the configuration is refused.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;

use common::Sandbox;
use serde_json::Value;

/// A store with one built-in check.
fn mounted(builtin: &str, options: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    let check = format!("[[check]]\nname = \"it\"\nbuiltin = \"{builtin}\"\n{options}\n");
    sandbox.init(&format!("[checks]\nretries = 0\nrollback_threshold = 0\n{check}")).mount();
    sandbox
}

/// These files as one version; gives the findings, none if it is valid.
#[track_caller]
fn found(sandbox: &Sandbox, files: &[(&str, &str)]) -> Vec<String> {
    sandbox.on(["begin"]).expect(0);
    for (name, content) in files {
        let path = sandbox.staging().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let ran = sandbox.on(["commit", "--wait", "--json"]);
    if ran.code == 0 {
        return Vec::new();
    }
    assert_eq!(ran.code, 3, "{ran:?}");
    let ghosts = sandbox.on(["ghosts", "--json"]).expect(0).json();
    let version = ghosts[0]["version"].as_str().unwrap().to_owned();
    let log = fs::read_to_string(sandbox.mnt().join(format!("lineage/{version}/checks/it.1.log"))).unwrap();
    log.lines().filter(|line| !line.starts_with("shadowfs-metric")).map(str::to_owned).collect()
}

#[test]
fn csv_types_ranges_and_what_must_not_be_missing() {
    let options = "delimiter = \";\"\nrequired = [\"id\"]\n\
                   types = { id = \"integer\", day = \"date\" }\nranges = { price = [0, 100] }";
    let sandbox = mounted("csv", options);
    assert_eq!(found(&sandbox, &[("a.csv", "id;day;price\n1;2024-02-29;99.5\n2;;\n")]), Vec::<String>::new());
    let bad = "id;day;price\n1.5;2023-02-29;-1\n;2024-01-01;101\n3;2024-01-01;much\n";
    let expected = [
        "a.csv:2:1: column \"id\": \"1.5\" is no integer",
        "a.csv:2:5: column \"day\": \"2023-02-29\" is no date",
        "a.csv:2:16: column \"price\": \"-1\" is below 0",
        "a.csv:3:1: column \"id\": is missing",
        "a.csv:3:13: column \"price\": \"101\" is above 100",
        "a.csv:4:14: column \"price\": \"much\" is no number",
    ];
    assert_eq!(found(&sandbox, &[("a.csv", bad)]), expected);
    assert_eq!(found(&sandbox, &[("b.csv", "id;day\n1;2024-01-01\n")]), ["b.csv:1: there is no column \"price\""]);
    sandbox.unmount();
}

#[test]
fn csv_columns_can_be_held_or_left() {
    let more = ("a.csv", "x,y,z\n1,2,3\n");
    let sandbox = mounted("csv", "columns = \"equal\"");
    assert!(found(&sandbox, &[("a.csv", "x,y\n1,2\n")]).is_empty());
    assert_eq!(found(&sandbox, &[more]), ["a.csv:1: the column \"z\" is new; columns must stay as they are"]);
    sandbox.unmount();
    let sandbox = mounted("csv", "columns = \"any\"");
    assert!(found(&sandbox, &[more]).is_empty());
    assert!(found(&sandbox, &[("a.csv", "other\n1\n")]).is_empty());
    sandbox.unmount();
}

#[test]
fn size_holds_totals_growth_and_single_files() {
    let options =
        "min_files = 1\nmax_files = 3\nmax_bytes = \"1KiB\"\nmax_file_bytes = \"600B\"\nmax_growth = \"100%\"\nmax_shrink = \"50%\"";
    let sandbox = mounted("size", options);
    let text = |len: usize| "x".repeat(len);
    assert!(found(&sandbox, &[("a", &text(200)), ("d/b", &text(200))]).is_empty());
    let metrics = sandbox.on(["show", "t1", "--json"]).expect(0).json()["attempts"][0]["metrics"].clone();
    assert_eq!((&metrics["total_files"], &metrics["total_bytes"]), (&Value::from(2.0), &Value::from(400.0)));
    assert_eq!(
        found(&sandbox, &[("c", &text(601))]),
        ["c: has 601 bytes, at most 600 are allowed", "grows from 400 bytes to 1001, by more than 100% (max_growth)"]
    );
    assert_eq!(found(&sandbox, &[("c", ""), ("e", "")]), ["there are 4 files, at most 3 are allowed (max_files)"]);
    assert_eq!(found(&sandbox, &[("a", ""), ("d/b", &text(199))]), ["shrinks from 400 bytes to 199, by more than 50% (max_shrink)"]);
    assert!(found(&sandbox, &[("a", &text(400))]).is_empty(), "what did not change is counted as well");
    assert_eq!(
        found(&sandbox, &[("c", &text(425))]),
        ["there are 1025 bytes, at most 1024 are allowed (max_bytes)"],
        "600 bytes were there"
    );
    sandbox.unmount();
}

#[test]
fn deletes_has_a_share_and_a_least() {
    let sandbox = mounted("deletes", "max_deleted = \"25%\"\nignore_below = 2");
    assert!(found(&sandbox, &[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")]).is_empty());
    fs::remove_file(sandbox.staging().join("a")).unwrap();
    fs::remove_file(sandbox.staging().join("b")).unwrap();
    let refused = sandbox.on(["commit", "--wait"]).expect(3).stderr;
    assert!(refused.contains("removes 2 of 4 files (50 %); at most 25% may go"), "{refused}");
    fs::remove_file(sandbox.staging().join("a")).unwrap();
    sandbox.on(["commit", "--wait"]).expect(0);
    sandbox.unmount();
}

#[test]
fn names_are_allowed_and_forbidden_by_pattern() {
    let sandbox = mounted("names", "allow = [\"**/*.csv\", \"*.md\"]\nforbid = [\"tmp/**\", \"**/.*\"]");
    assert!(found(&sandbox, &[("a.md", ""), ("d/b.csv", "")]).is_empty());
    let expected = [
        "d/.x.csv: the name matches the forbidden pattern **/.*",
        "d/a.md: the name matches none of the patterns that are allowed: **/*.csv, *.md",
        "tmp/a.csv: the name matches the forbidden pattern tmp/**",
    ];
    assert_eq!(found(&sandbox, &[("d/a.md", ""), ("tmp/a.csv", ""), ("d/.x.csv", "")]), expected);
    sandbox.unmount();
}

#[test]
fn values_are_held_against_a_schema_of_the_dataset_and_a_missing_one_is_nobodys_fault_but_the_configurations() {
    let sandbox = mounted("json-schema", "schema = \"schema/day.json\"\npaths = [\"days/**\"]");
    let schema = |words: &str| ("schema/day.json", format!("{{\"properties\": {{\"rain\": {words}}}}}"));
    let number = schema("{\"type\": \"number\", \"minimum\": 0}");
    let days = ("days/1.jsonl", "{\"rain\": 1}\n{\"rain\": 0.5}\n");
    assert!(found(&sandbox, &[(number.0, &number.1), days, ("other.json", "{\"rain\": -1}")]).is_empty(), "paths say what is looked at");
    assert_eq!(
        found(&sandbox, &[("days/2.json", "{\"rain\": -1}"), ("days/3.jsonl", "{}\n{\"rain\": \"much\"}\n")]),
        [
            "days/2.json: /rain: -1 is less than the minimum of 0 (schema: /properties/rain/minimum)",
            "days/3.jsonl:2: /rain: \"much\" is not of type \"number\" (schema: /properties/rain/type)"
        ]
    );
    let whole = schema("{\"type\": \"integer\"}");
    assert_eq!(
        found(&sandbox, &[(whole.0, &whole.1)]),
        ["days/1.jsonl:2: /rain: 0.5 is not of type \"integer\" (schema: /properties/rain/type)"],
        "a new schema is held against what is there"
    );
    fs::remove_file(sandbox.staging().join("schema/day.json")).unwrap();
    let waits = "schema = \"schema/day.json\": there is no such file in the version";
    sandbox.on(["commit"]).expect(0);
    common::eventually("the version waits", || {
        let status = sandbox.on(["status"]).expect(0).stdout;
        status.contains(waits)
    });
    assert_eq!(sandbox.on(["ghosts", "--json"]).expect(0).json().as_array().unwrap().len(), 2, "it is no ghost");
    let outside = sandbox.path("outside.json");
    fs::write(&outside, "{\"type\": \"object\"}").unwrap();
    let check = format!("[[check]]\nname = \"it\"\nbuiltin = \"json-schema\"\nschema = {:?}\n", outside.to_str().unwrap());
    sandbox.configure(&format!("[checks]\nretries = 0\nrollback_threshold = 0\n{check}"));
    sandbox.on(["wait"]).expect(0);
    assert_eq!(found(&sandbox, &[("a.json", "[]")]), ["a.json: [] is not of type \"object\" (schema: /type)"]);
    sandbox.unmount();
}

#[test]
fn options_that_are_malformed_are_refused_with_their_line() {
    let sandbox = Sandbox::new();
    sandbox.init("");
    for (builtin, option, reason) in [
        ("json", "delimiter = \",\"", "\"delimiter\" is an option of the built-in check \"csv\", not of this one"),
        ("utf8", "columns = \"any\"", "\"columns\" is an option of the built-in check \"csv\" and \"parquet\", not of this one"),
        ("csv", "delimiter = \"ab\"", "\"delimiter\" must be one ASCII character, and no quote or line end"),
        ("csv", "columns = \"same\"", "\"columns\" in [[check]] must be \"stable\" or \"equal\" or \"any\", not \"same\""),
        ("csv", "types = { a = \"float\" }", "the type of column \"a\" must be one of integer, number, boolean, date, datetime"),
        ("csv", "types = 1", "\"types\" in [[check]] must be a table of columns, such as { id = \"integer\", day = \"date\" }, not 1"),
        ("csv", "ranges = { a = [2, 1] }", "the range of column \"a\" must be two numbers, the least and the most"),
        ("json", "schema = \"a.json\"", "\"schema\" is an option of the built-in check \"json-schema\", not of this one"),
        (
            "json-schema",
            "schema = \"../a.json\"",
            "\"schema\" is a path from the dataset's top, without \".\" and \"..\", or an absolute one; \"../a.json\" is neither",
        ),
        ("names", "forbid = [\"a[\"]", "\"a[\" in \"forbid\" is not a glob: unclosed character class; missing ']'"),
        ("size", "max_growth = 2", "\"max_growth\" in [[check]] must be a percentage from \"0%\" to \"1000000%\", not 2"),
    ] {
        sandbox.configure(&format!("[[check]]\nname = \"a\"\nbuiltin = \"{builtin}\"\n{option}\n"));
        let refused = sandbox.on(["config", "check"]).expect(2).stderr;
        assert!(refused.trim().ends_with(&format!(":4: {reason}")), "{option}: {refused}");
    }
    sandbox.configure("[[check]]\nname = \"a\"\nbuiltin = \"json-schema\"\n");
    let refused = sandbox.on(["config", "check"]).expect(2).stderr;
    assert!(
        refused.contains(":3: the built-in check \"json-schema\" needs \"schema\", a file of the dataset or an absolute path"),
        "{refused}"
    );
    sandbox.configure("[[check]]\nname = \"a\"\nrun = [\"true\"]\nmax_files = 1\n");
    let refused = sandbox.on(["config", "check"]).expect(2).stderr;
    assert!(refused.contains("\"max_files\" is an option of the built-in check \"size\", not of this one"), "{refused}");
}
