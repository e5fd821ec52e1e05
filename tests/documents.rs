//! Documents say what is so: configuration examples parse, verbs exist, links lead somewhere, the transcript is the demo's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use shadowfs::config::{Config, DEFAULT_FILE};

const DOCUMENTS: &[&str] =
    &["README.md", "CHANGELOG.md", "docs/design.md", "docs/format.md", "docs/json.md", "docs/security.md", "docs/semantics.md"];

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap_or_else(|why| panic!("{path}: {why}"))
}

/// The contents of the fenced blocks of one language.
fn blocks<'a>(document: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    document.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
fn configuration_examples_are_accepted() {
    let readme = read("README.md");
    let examples = blocks(&readme, "toml");
    assert!(examples.len() >= 2);
    for example in examples {
        Config::parse(example, Path::new("README.md")).unwrap_or_else(|why| panic!("{why}\n{example}"));
    }
}

#[test]
fn the_defaults_in_the_readme_are_the_defaults() {
    let readme = read("README.md");
    let shown = blocks(&readme, "toml").into_iter().find(|block| block.contains("[staging]")).unwrap();
    let mut shown = Config::parse(shown, Path::new("README.md")).unwrap();
    let defaults = Config::parse(DEFAULT_FILE, Path::new("shadowfs.toml")).unwrap();
    // The example has a check, a rule and a hook, and the number of cores is the machine's.
    shown.check.clear();
    shown.metric.clear();
    shown.notify.clear();
    shown.checks.workers = defaults.checks.workers;
    assert_eq!(shown, defaults);
}

/// The verbs that `--help` lists.
fn verbs() -> BTreeSet<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_shadowfs")).arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let listed = help.split("Commands:\n").nth(1).unwrap_or_default().split("\n\n").next().unwrap_or_default();
    // A wrapped description is indented further than a verb.
    let verbs = listed.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    verbs.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// The first words of the commands in the first column of the README's table.
fn verbs_of_the_readme() -> BTreeSet<String> {
    let readme = read("README.md");
    let table = readme.split("| verb | does |\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let cells = table.lines().skip(1).map(|row| row.split(" | ").next().unwrap());
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).filter_map(|code| code.split_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn the_readme_names_every_verb_and_no_other() {
    assert!(verbs().len() > 10);
    assert_eq!(verbs_of_the_readme(), verbs());
}

#[test]
fn links_lead_somewhere() {
    for document in DOCUMENTS {
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
        for link in read(document).split("](").skip(1).map(|rest| rest.split(')').next().unwrap().to_owned()) {
            let target = link.split('#').next().unwrap();
            assert!(target.starts_with("https://") || base.parent().unwrap().join(target).exists(), "{document}: {link}");
        }
    }
}

#[test]
fn the_transcript_has_the_steps_of_the_demo() {
    let titles = |text: &str| -> Vec<String> {
        let lines = text.lines().filter_map(|line| line.split_once(". "));
        lines.filter(|(number, _)| number.parse::<u32>().is_ok()).map(|(_, title)| title.to_owned()).collect()
    };
    let demo = read("scripts/demo");
    let steps = demo.lines().filter_map(|line| line.strip_prefix("step \"")).map(|rest| rest.split('"').next().unwrap().to_owned());
    let readme = read("README.md");
    let transcript = readme.split("<!-- transcript").nth(1).unwrap().split("<!-- end of transcript").next().unwrap();
    assert_eq!(titles(transcript), steps.collect::<Vec<_>>());
}

#[test]
fn lines_fit_a_screen() {
    for document in DOCUMENTS {
        for (number, line) in read(document).lines().enumerate().filter(|(_, line)| !line.starts_with('|')) {
            // What programs print is as long as it is.
            let printed = *document == "README.md" && read(document).split("<!-- transcript").nth(1).unwrap().contains(line);
            assert!(printed || line.chars().count() <= 140, "{document}:{}: {} columns", number + 1, line.chars().count());
        }
    }
}
