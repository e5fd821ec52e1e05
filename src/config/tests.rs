//! The configuration from the outside: what is read, what is refused with which line, what is written back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("shadowfs.toml"))
}

fn refusal(text: &str) -> String {
    parse(text).expect_err(text).to_string()
}

/// The example of the contract, whole.
const CONTRACT: &str = r#"
[staging]
settle = "200ms"
max_open = "10m"          # seal at the first moment without writers past this age

[checks]
workers = 4               # default: CPU cores
rollback_threshold = 2
retries = 2
backoff = "250ms"         # doubles each time
timeout = "5m"

[[check]]
name = "rows"
run = ["python3", "/etc/shadowfs/rows.py"]
paths = ["**/*.csv"]
severity = "error"
user = "root"

[[check]]
name = "csv"
builtin = "csv"
severity = "warn"

[promotion]
mode = "auto"
window = "2s"
require_free = "5%"
pre = []

[ghosts]
retain = "24h"

[retention]
keep_last = 50
keep_for = "30d"
"#;

#[test]
fn the_example_of_the_contract_is_read_and_its_values_are_the_defaults() {
    let config = parse(CONTRACT).unwrap();
    assert_eq!(config.staging, Staging::default());
    assert_eq!(config.checks, Checks { workers: 4, ..Checks::default() });
    assert_eq!(config.promotion, Promotion::default());
    assert_eq!(config.ghosts, Ghosts::default());
    assert_eq!(config.retention, Retention::default());
    let [rows, csv] = config.check.as_slice() else { panic!("two checks") };
    assert_eq!(rows.action, Action::Run(vec!["python3".to_owned(), "/etc/shadowfs/rows.py".to_owned()]));
    assert_eq!(rows.user, Some(User { name: "root".to_owned(), uid: 0, gid: 0 }));
    assert_eq!((csv.severity, &csv.action), (Severity::Warn, &Action::Builtin("csv".to_owned())));
}

#[test]
fn nothing_and_the_file_that_init_writes_are_the_defaults() {
    assert_eq!(parse("").unwrap(), Config::default());
    assert_eq!(parse(DEFAULT_FILE).unwrap(), Config::default());
}

#[test]
fn the_example_check_in_the_file_that_init_writes_is_valid() {
    let example: String = DEFAULT_FILE
        .lines()
        .skip_while(|line| !line.contains("[[check]]"))
        .filter(|line| line.starts_with("# ") && line.contains([']', '=']))
        .fold(String::new(), |all, line| all + line.trim_start_matches("# ") + "\n");
    let read = parse(&example.replace("nobody", "root").replace("\"tables\"", "\"rows\"")).unwrap();
    assert_eq!((read.check.len(), read.metric.len()), (1, 1));
    assert!(read.check[0].user.is_some() && read.metric[0].check.is_some());
}

#[test]
fn every_mistake_is_one_line_with_its_place() {
    let check = "[[check]]\nname = \"a\"\n";
    let cases = [
        ("\n[staging]\nsetle = \"1s\"", "shadowfs.toml:3: unknown key \"setle\" in [staging]; did you mean \"settle\"?"),
        ("[stageing]\n", "shadowfs.toml:1: unknown key \"stageing\"; did you mean \"staging\"?"),
        (
            "[checks]\nzzz = 1",
            "shadowfs.toml:2: unknown key \"zzz\" in [checks]; the nearest known keys are workers, \
            rollback_threshold, retries, backoff, timeout, grace, output, memory, processes, open_files, cpu",
        ),
        (
            "[staging]\nsettle = \"soon\"",
            "shadowfs.toml:2: \"settle\" in [staging] must be a duration such as \"200ms\", \"2s\", \
            \"10m\" or \"30d\", not \"soon\"",
        ),
        (
            "[staging]\nsettle = 200",
            "shadowfs.toml:2: \"settle\" in [staging] must be a duration such as \"200ms\", \"2s\", \"10m\" \
            or \"30d\", not 200",
        ),
        ("[ghosts]\nretain = \"900y\"", "shadowfs.toml:2: \"retain\" in [ghosts] must be a duration of at most 100 years, not \"900y\""),
        (
            "[promotion]\nrequire_free = \"105%\"",
            "shadowfs.toml:2: \"require_free\" in [promotion] must be a percentage from \"0%\" to \
            \"100%\", not \"105%\"",
        ),
        ("[promotion]\nmode = \"automatic\"", "shadowfs.toml:2: \"mode\" in [promotion] must be \"auto\" or \"manual\", not \"automatic\""),
        (
            "[promotion]\npre = [\"true\"]",
            "shadowfs.toml:2: \"pre\" in [promotion] must be a list of commands, such as \
            [[\"/etc/shadowfs/ready\", \"--fast\"]], not a value of type array",
        ),
        ("[checks]\nworkers = 0", "shadowfs.toml:2: \"workers\" in [checks] must be a whole number from 1 to 1024, not 0"),
        ("[checks]\ntimeout = \"0s\"", "shadowfs.toml:2: \"timeout\" must be longer than nothing"),
        (
            "[retention]\nmin_free = \"5\"",
            "shadowfs.toml:2: \"min_free\" in [retention] must be a percentage from \"0%\" to \"100%\", not \"5\"",
        ),
        (
            "[scrub]\nrate = \"fast\"",
            "shadowfs.toml:2: \"rate\" in [scrub] must be a size such as \"512KiB\", \"32MiB\" or \"1GiB\", not \"fast\"",
        ),
        ("[scrub]\nrate = 5", "shadowfs.toml:2: \"rate\" in [scrub] must be a size such as \"512KiB\", \"32MiB\" or \"1GiB\", not 5"),
        ("[scrub]\nintervall = \"1d\"", "shadowfs.toml:2: unknown key \"intervall\" in [scrub]; did you mean \"interval\"?"),
        ("[retention]\nkeep_last = -1", "shadowfs.toml:2: \"keep_last\" in [retention] must be a whole number of at least 1, not -1"),
        ("staging = 1", "shadowfs.toml:1: \"staging\" must be a section: [staging]"),
        ("[check]\nname = \"a\"", "shadowfs.toml:1: \"check\" must be a list of sections: [[check]]"),
        ("[[check]]\nrun = [\"true\"]", "shadowfs.toml:1: a [[check]] has no \"name\""),
        (
            &format!("{check}run = [\"true\"]\n{check}run = [\"true\"]"),
            "shadowfs.toml:5: two checks are named \"a\"; give each a name \
            of its own",
        ),
        (check, "shadowfs.toml:2: check \"a\" does nothing; give it \"run\" (a command) or \"builtin\""),
        (&format!("{check}run = [\"true\"]\nbuiltin = \"csv\""), "shadowfs.toml:4: check \"a\" has both \"run\" and \"builtin\"; keep one"),
        (
            &format!("{check}run = []"),
            "shadowfs.toml:3: \"run\" in [[check]] must be a command as a list, such as [\"python3\", \
            \"/etc/shadowfs/rows.py\"], not a value of type array",
        ),
        (
            &format!("{check}builtin = \"cvs\""),
            "shadowfs.toml:3: there is no built-in check \"cvs\"; there are csv, \
            deletes, json, json-schema, jsonl, manifest, names, parquet, size, sqlite, utf8",
        ),
        (
            &format!("{check}run = [\"true\"]\npaths = [\"a[\"]"),
            "shadowfs.toml:4: \"a[\" in \"paths\" is not a glob: unclosed character \
            class; missing ']'",
        ),
        (
            &format!("{check}run = [\"true\"]\nuser = \"no-such-user\""),
            "shadowfs.toml:4: there is no user \"no-such-user\" on this machine",
        ),
        (
            &format!("{check}builtin = \"csv\"\nuser = \"root\""),
            "shadowfs.toml:4: \"user\" is for commands; a built-in check runs in the \
            daemon",
        ),
        (
            "[[check]]\nname = \"a/b\"",
            "shadowfs.toml:2: the name of a check is made of letters, digits, \"-\", \"_\" and \".\" (not \
            first), at most 64; \"a/b\" is not",
        ),
    ];
    for (text, message) in cases {
        assert_eq!(refusal(text), message, "{text}");
    }
}

#[test]
fn hooks_that_are_wrong_are_refused_with_their_line() {
    let hook = "[[notify]]\nname = \"pager\"\nrun = [\"/bin/page\"]\n";
    let config = parse(hook).unwrap();
    assert_eq!(config.notify[0].on, Topic::ALL);
    assert_eq!((config.notify[0].timeout, config.notify[0].retries), (Duration::from_secs(30), 3));
    let all = "there are rejected, promoted, rolled_back, held_back, disk_low";
    let cases = [
        ("notify = 1".to_owned(), "1: \"notify\" must be a list of sections: [[notify]]".to_owned()),
        ("[[notify]]\nrun = [\"a\"]".to_owned(), "1: a [[notify]] has no \"name\"".to_owned()),
        ("[[notify]]\nname = \"a\"".to_owned(), "2: hook \"a\" does nothing; give it \"run\" (a command)".to_owned()),
        (format!("{hook}{hook}"), "5: two hooks are named \"pager\"; give each a name of its own".to_owned()),
        (format!("{hook}on = [\"promotd\"]"), format!("4: there is no event \"promotd\" to be told of; {all}")),
        (format!("{hook}on = []"), format!("4: \"on\" in [[notify]] is empty; {all}")),
        (format!("{hook}timeout = \"0s\""), "4: \"timeout\" in [[notify]] must be longer than nothing".to_owned()),
        (format!("{hook}retries = 101"), "4: \"retries\" in [[notify]] must be a whole number from 0 to 100, not 101".to_owned()),
        (format!("{hook}user = \"no-such-user\""), "4: there is no user \"no-such-user\" on this machine".to_owned()),
        (format!("{hook}onn = []"), "4: unknown key \"onn\" in [[notify]]; did you mean \"on\"?".to_owned()),
    ];
    for (text, message) in cases {
        assert_eq!(refusal(&text), format!("shadowfs.toml:{message}"), "{text}");
    }
    let many: String = (0..17).map(|number| hook.replace("pager", &format!("h{number}"))).collect();
    assert_eq!(refusal(&many), "shadowfs.toml:49: there are more than 16 [[notify]]; let one command tell the others");
}

#[test]
fn broken_toml_is_one_line_with_its_place() {
    for text in ["[staging\n", "[staging]\nsettle = \n", "[staging]\nsettle = \"1s\"\nsettle = \"2s\"", "a = \u{1}"] {
        let message = refusal(text);
        assert!(message.starts_with("shadowfs.toml:"), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

#[test]
fn a_file_that_can_not_be_read_is_named() {
    let error = Config::load(Path::new("/no/such/shadowfs.toml")).expect_err("no such file");
    assert_eq!(error.to_string(), "/no/such/shadowfs.toml: can't be read: No such file or directory (os error 2)");
}

proptest! {
    #[test]
    fn what_is_written_out_is_read_back(
        settle in 0u64..100_000, workers in 1usize..1024, threshold in 0u32..9, percent in 0u32..=100_000,
        manual: bool, names in prop::collection::btree_set("[a-z][a-z.-]{0,9}", 0..4), word in "\\PC{1,12}",
    ) {
        let mut config = Config::default();
        config.staging.settle = Duration::from_millis(settle);
        let limits = CommandLimits { processes: manual.then_some(3), cpu: Some(Duration::from_secs(9)), ..CommandLimits::default() };
        config.checks = Checks { workers, rollback_threshold: threshold, limits, ..config.checks };
        config.promotion.require_free = Percent(percent);
        config.promotion.mode = if manual { PromotionMode::Manual } else { PromotionMode::Auto };
        config.promotion.pre = vec![vec![word.clone(), String::new()]];
        config.notify = names.iter().map(|name| Notify {
            name: name.clone(),
            run: vec![word.clone(), "\"'\\\n".to_owned()],
            on: if manual { Topic::ALL.to_vec() } else { vec![Topic::DiskLow] },
            timeout: Duration::from_millis(settle + 1),
            retries: threshold,
            user: None,
            limits: CommandLimits { memory: manual.then_some(1 << 21), output: 77, ..CommandLimits::default() },
        }).collect();
        config.check = names.into_iter().map(|name| Check {
            name,
            action: if manual { Action::Run(vec![word.clone(), "\"'\\\n".to_owned()]) } else { Action::Builtin("json".to_owned()) },
            paths: vec!["**/*.csv".to_owned()],
            unless: if manual { Vec::new() } else { vec!["tmp/**".to_owned()] },
            severity: if manual { Severity::Warn } else { Severity::Error },
            user: manual.then(|| User { name: "root".to_owned(), uid: 0, gid: 0 }),
            timeout: Duration::from_secs(if manual { 7 } else { 300 }),
            limits: CommandLimits { memory: manual.then_some(1 << 21), output: 77, ..config.checks.limits.clone() },
            options: Options::default(),
        }).collect();
        let text = config.to_toml();
        prop_assert_eq!(parse(&text).map_err(|error| error.to_string()), Ok(config), "{}", text);
    }

    #[test]
    fn options_are_written_out_and_read_back(column in "\\PC{0,9}", byte in "[ -!#-~\t]", size in 0u64..1 << 40, percent in 0u32..=100_000) {
        let csv = Options {
            delimiter: byte.as_bytes()[0],
            columns: Columns::Equal,
            types: [(column.clone(), FieldType::Date), ("b".to_owned(), FieldType::Integer)].into(),
            ranges: [(column.clone(), (-1.5, 1e20))].into(),
            required: vec![column],
            ..Options::default()
        };
        let size = Options {
            min_files: Some(1),
            max_files: Some(size),
            min_bytes: Some(0),
            max_bytes: Some(size),
            max_file_bytes: Some(size + 1),
            max_growth: Some(Percent(percent)),
            max_shrink: Some(Percent(percent)),
            ..Options::default()
        };
        let deletes = Options { max_deleted: Percent(percent), ignore_below: 0, ..Options::default() };
        let names = Options { allow: vec!["*.csv".to_owned()], forbid: vec!["**/.*".to_owned(), "a".to_owned()], ..Options::default() };
        let parquet = Options { columns: Columns::Any, ..Options::default() };
        let schema = Options { schema: Some("d/s.json".to_owned()), ..Options::default() };
        let all = [("json-schema", schema), ("csv", csv), ("size", size), ("deletes", deletes), ("names", names), ("parquet", parquet)];
        let check = |(name, options): (&str, Options)| Check { options, ..Check::new(name, Action::Builtin(name.to_owned())) };
        let config = Config { check: all.into_iter().map(check).collect(), ..Config::default() };
        let text = config.to_toml();
        prop_assert_eq!(parse(&text).map_err(|error| error.to_string()), Ok(config), "{}", text);
    }

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,60}", section in "(\\[|\\[\\[)?(staging|checks|check|promotion)\\]{0,2}") {
        let _ = parse(&text);
        let _ = parse(&format!("{section}\n{text}"));
    }
}

#[test]
fn sizes_are_read_with_their_units_and_written_as_they_were() {
    for (text, bytes) in [("0B", 0), ("7B", 7), ("512KiB", 512 << 10), ("32MiB", 32 << 20), ("3GiB", 3 << 30), ("1TiB", 1 << 40)] {
        let config = Config::parse(&format!("[scrub]\nrate = \"{text}\""), Path::new("shadowfs.toml")).unwrap();
        assert_eq!(config.scrub.rate, bytes);
        assert!(config.to_toml().contains(&format!("rate = \"{text}\"")), "{}", config.to_toml());
    }
    for (text, bytes) in [("1MB", 1_000_000), ("5 kB", 5_000), ("2GB", 2_000_000_000), ("1024", 1024)] {
        assert_eq!(Config::parse(&format!("[scrub]\nrate = \"{text}\""), Path::new("x")).unwrap().scrub.rate, bytes);
    }
    assert!(Config::parse("[scrub]\nrate = \"99999999999TiB\"", Path::new("x")).is_err());
}
