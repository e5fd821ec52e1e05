//! `json-schema` on versions made by hand: what it finds, and schemas that are none.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::tests::{Said, World};
use super::*;

const PRICES: &str = r#"{"type": "object", "required": ["id"], "properties": {"price": {"minimum": 0}}, "additionalProperties": true}"#;

fn check(world: &World, base: &World, schema: &str) -> Said {
    world.check_with("json-schema", &Options { schema: Some(schema.to_owned()), ..Options::default() }, base)
}

/// What is said of a file with this value when this is the schema.
fn held(schema: &str, name: &str, bytes: impl AsRef<[u8]>) -> Said {
    let base = World::new().file("s", schema);
    check(&base.clone().file(name, bytes), &base, "s")
}

#[track_caller]
fn unusable(said: &Said) -> &str {
    match &said.verdict {
        Verdict::CouldNotStart { why } => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_is_a_value_or_each_line_is_one_and_findings_say_where() {
    assert!(held(PRICES, "a.json", r#"{"id": 1, "price": 0}"#).lines().is_empty());
    assert_eq!(
        held(PRICES, "a.json", r#"{"price": -1}"#).lines(),
        [
            "a.json: \"id\" is a required property (schema: /required)",
            "a.json: /price: -1 is less than the minimum of 0 (schema: /properties/price/minimum)",
        ]
    );
    let said = held(PRICES, "d/a.jsonl", "{\"id\": 1}\n\n[]\n{\"id\": 2, \"price\": -0.5}\n{\"id\"\n");
    assert_eq!(
        said.lines(),
        [
            "d/a.jsonl:3: [] is not of type \"object\" (schema: /type)",
            "d/a.jsonl:4: /price: -0.5 is less than the minimum of 0 (schema: /properties/price/minimum)",
            "d/a.jsonl:5:5: EOF while parsing an object",
        ]
    );
    assert_eq!(said.metric("rows"), 4.0);
    assert_eq!(held(PRICES, "a.json", "{\"id\":\n1,}").lines(), ["a.json:2:3: trailing comma"]);
    let long = held(PRICES, "a.ndjson", format!("\"{}\"", "x".repeat(5000)));
    let line = long.lines()[0];
    assert!(line.len() < 500 && line.contains("… (schema: /type)"), "{line}");
}

#[test]
fn a_schema_that_changes_is_held_against_every_file_that_the_check_looks_at() {
    let base = World::new().file("s.json", PRICES).file("a.json", r#"{"id": 1}"#).file("d/b.jsonl", "{\"id\": 2}\n");
    assert!(check(&base.clone().file("c.json", r#"{"id": 3}"#), &base, "s.json").lines().is_empty());
    let stricter = base.clone().file("s.json", r#"{"required": ["id", "day"]}"#);
    let said = check(&stricter, &base, "s.json");
    let mut lines = said.lines();
    lines.sort_unstable();
    assert_eq!(
        lines,
        ["a.json: \"day\" is a required property (schema: /required)", "d/b.jsonl:1: \"day\" is a required property (schema: /required)"]
    );
    // Nobody holds a schema against itself, and what did not change is not read.
    assert!(check(&stricter.clone().file("e.json", r#"{"id": 1, "day": 2}"#), &stricter, "s.json").lines().is_empty());
}

#[test]
fn a_schema_that_is_missing_or_none_says_nothing_about_the_data() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let base = World::new();
    let world = base.clone().file("a.json", "{}").file("d/x.json", r#"{"id": 1}"#);
    for (schema, why) in [("s.json".to_owned(), "there is no such file in the version"), ("d".to_owned(), "there is no such file")] {
        assert_eq!(unusable(&check(&world, &base, &schema)).find(why).map(|_| ()), Some(()), "{schema}");
    }
    nix::unistd::mkfifo(path("pipe").as_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::fs::write(path("long"), vec![b' '; (4 << 20) + 1]).unwrap();
    std::fs::write(path("good"), PRICES).unwrap();
    for (schema, why) in [
        (path("none"), "can't be opened: No such file or directory"),
        (path(""), "is not a regular file"),
        (path("pipe"), "is not a regular file"),
        (path("long"), "is longer than 4 MiB"),
    ] {
        let said = check(&world, &base, &schema);
        let named = format!("schema = \"{schema}\": {why}");
        assert!(unusable(&said).starts_with(&named), "{said:?}");
    }
    assert_eq!(check(&world, &base, &path("good")).lines(), ["a.json: \"id\" is a required property (schema: /required)"]);
    for (schema, why) in [
        ("{", "is not JSON: EOF while parsing an object at line 1 column 1"),
        (
            r#"{"type": "objekt"}"#,
            "is no JSON Schema: /type: \"objekt\" is not valid under any of the schemas listed in the 'anyOf' keyword",
        ),
        ("[]", "is no JSON Schema: [] is not"),
        (r#"{"pattern": "("}"#, "is no JSON Schema: /pattern: \"(\" is not a \"regex\""),
        (r##"{"$ref": "#/nowhere"}"##, "is no JSON Schema: "),
        (r#"{"$ref": "file:///etc/passwd"}"#, "is no JSON Schema: "),
        (r#"{"$ref": "http://127.0.0.1:9/x"}"#, "is no JSON Schema: "),
        (r#"{"$ref": "other.json"}"#, "is no JSON Schema: "),
    ] {
        let said = held(schema, "a.json", "{}");
        assert!(unusable(&said).starts_with(&format!("schema = \"s\": {why}")), "{schema}: {said:?}");
    }
}

#[test]
fn a_schema_that_runs_in_circles_or_matches_for_ever_ends_nobody() {
    for schema in [
        r##"{"$ref": "#"}"##,
        r##"{"allOf": [{"$ref": "#"}]}"##,
        r##"{"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}"##,
        r##"{"$schema": "http://json-schema.org/draft-07/schema#", "$ref": "#"}"##,
        r##"{"$dynamicAnchor": "x", "anyOf": [{"$dynamicRef": "#x"}]}"##,
    ] {
        let said = held(schema, "a.json", r#"{"a": [1, {"b": 2}]}"#);
        assert_ne!(said.verdict, Verdict::Cancelled, "{schema}: {said:?}");
    }
    let nested = format!("{}1{}", "[".repeat(100), "]".repeat(100));
    let said = held(r##"{"items": {"$ref": "#"}, "type": "array"}"##, "a.json", &nested);
    assert_eq!(said.lines().len(), 1, "{said:?}");
    let slow = format!("\"{}!\"", "a".repeat(40));
    assert!(!held(r#"{"pattern": "^(a+)+$"}"#, "a.json", &slow).lines().is_empty());
    assert!(!held(r#"{"pattern": "^(?=(a+)+$)b"}"#, "a.json", &slow).lines().is_empty());
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(held("{}", "a.json", deep).lines(), ["a.json:1:128: recursion limit exceeded"]);
}
