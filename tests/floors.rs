//! Holds the layout of the sources: which floor may import which, and where fuser, child processes, clocks and `unsafe` may be.
//!
//! The compiler does not know floors, and a reviewer overlooks one `use`. So this reads every file below `src/` and complains.
//! The rules are tested as well: a bad sample for each must be complained about, or the test holds nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

/// The floors from the ground up. A module may import from floors below its own and from itself; modules of one floor are
/// neighbours and share only what lies below them.
const FLOORS: &[&[&str]] = &[
    &["ids", "clock"],
    &["config"],
    &["sys"],
    &["store"],
    &["tree"],
    &["version"],
    &["lineage", "retain", "promote", "check", "fs"],
    &["control"],
    &["daemon"],
    &["cli"],
];

/// Where a thing may be used; everywhere else it is complained about.
struct Place {
    what: &'static str,
    allowed: fn(&str) -> bool,
    instead: &'static str,
}

const FUSER: Place = Place {
    what: "fuser",
    allowed: |path| path.starts_with("src/fs/") && ["adapter", "session"].iter().any(|word| file_name(path).contains(word)),
    instead: "only the adapter and session files of src/fs speak fuser; everything else speaks the core's types",
};
const PROCESS: Place = Place {
    what: "std::process::Command",
    allowed: |path| {
        let worker = path.starts_with("src/check/") && file_name(path).starts_with("worker");
        // fusermount3 is what an unprivileged process has for the mount system calls.
        worker || ["src/cli/run.rs", "src/sys/fusermount.rs"].contains(&path)
    },
    instead: "children are started by src/check/worker*.rs, src/cli/run.rs and src/sys/fusermount.rs alone",
};
const CLOCK: Place = Place {
    what: "the machine's clock",
    allowed: |path| path == "src/clock.rs",
    instead: "take a `&dyn Clock` (src/clock.rs), so that tests decide what time it is",
};
const UNSAFE: Place = Place {
    what: "`unsafe`",
    allowed: |path| path == "src/sys.rs" || path.starts_with("src/sys/"),
    instead: "unsafe code lives in src/sys alone, each block with its reason",
};

/// The most lines of code in a file: no blank lines, comments or test modules counted.
const MAX_CODE_LINES: usize = 450;

/// A complaint: where, and what is wrong.
fn complain(path: &str, line: usize, what: impl std::fmt::Display) -> String {
    format!("{path}:{line}: {what}")
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Everything wrong with one source file. `path` is relative to the package, with forward slashes.
fn complaints(path: &str, source: &str) -> Vec<String> {
    let tokens = tokens(source);
    let mut found = imports(path, &tokens);
    let tested = is_test_file(path);
    for (index, token) in tokens.iter().enumerate() {
        let place = if token.is("unsafe") {
            &UNSAFE
        } else if token.is("fuser") && (starts_path(&tokens, index) || follows(&tokens, index, &["::"])) {
            &FUSER
        } else if !tested && !token.in_test && is_process(&tokens, index) {
            &PROCESS
        } else if !tested && !token.in_test && is_clock(&tokens, index) {
            &CLOCK
        } else {
            continue;
        };
        if !(place.allowed)(path) {
            found.push(complain(path, token.line, format_args!("{}: {}", place.what, place.instead)));
        }
    }
    let lines = code_lines(&tokens);
    if !tested && lines > MAX_CODE_LINES {
        found.push(complain(path, 1, format_args!("{lines} lines of code, at most {MAX_CODE_LINES}: split it by nouns")));
    }
    if !tested && !source.trim_start().starts_with("//!") {
        found.push(complain(path, 1, "begins without a `//!` that says what the file is"));
    }
    found
}

/// A file of tests only, declared by its parent under `#[cfg(test)]`.
fn is_test_file(path: &str) -> bool {
    file_name(path) == "tests.rs" || file_name(path).ends_with("_tests.rs") || path.contains("/tests/")
}

/// Imports that do not point down.
fn imports(path: &str, tokens: &[Token]) -> Vec<String> {
    let mut found = Vec::new();
    let Some(own) = module_path(path).first().cloned() else { return found };
    let own_floor = floor_of(&own);
    if own_floor.is_none() && own != "main" {
        found.push(complain(path, 1, format_args!("src/{own} is on no floor: add it to FLOORS and to the table in src/lib.rs")));
    }
    for (line, target) in roots(path, tokens) {
        if target == own {
            continue;
        }
        match (own_floor, floor_of(&target)) {
            (_, None) => found.push(complain(path, line, format_args!("crate::{target} is no floor: name the module it lives in"))),
            (Some(from), Some(to)) if to > from => {
                found.push(complain(path, line, format_args!("upward import: {own} must not know {target}")));
            }
            (Some(from), Some(to)) if to == from => {
                found.push(complain(path, line, format_args!("sideways import: {own} and {target} are neighbours")));
            }
            _ => {}
        }
    }
    found
}

fn floor_of(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

/// The first segment below the crate's root of every path that begins there, with its line: `crate::a::b`, `crate::{a, b::c}`,
/// `super::super::a` where that leaves the floor, and `shadowfs::a` in the binary.
fn roots(path: &str, tokens: &[Token]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        let from_root = token.is("crate") || (token.is("shadowfs") && path == "src/main.rs");
        let mut at = index;
        if token.is("super") && !(index > 1 && tokens[index - 1].is("::")) {
            let mut depth = module_path(path).len() + token.inline_modules;
            while tokens[at].is("super") {
                depth = depth.saturating_sub(1);
                if !follows(tokens, at, &["::", "super"]) {
                    break;
                }
                at += 2;
            }
            if depth > 0 {
                continue;
            }
        } else if !from_root {
            continue;
        }
        if !follows(tokens, at, &["::"]) {
            continue;
        }
        match tokens.get(at + 2) {
            Some(next) if next.is("{") => found.extend(group_heads(&tokens[at + 3..])),
            Some(next) => found.push((next.line, next.text.clone())),
            None => {}
        }
    }
    found
}

/// The first word of each item of a `{...}` group in a `use`, whose opening brace is already past.
fn group_heads(tokens: &[Token]) -> Vec<(usize, String)> {
    let (mut depth, mut at_head, mut heads) = (1, true, Vec::new());
    for token in tokens {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            "," if depth == 1 => {
                at_head = true;
                continue;
            }
            word if at_head && depth == 1 => heads.push((token.line, word.to_owned())),
            _ => {}
        }
        at_head = false;
        if depth == 0 {
            break;
        }
    }
    heads
}

/// `src/store/objects/pool.rs` is the module `store::objects::pool`; `src/lib.rs` is the root, which has none.
fn module_path(path: &str) -> Vec<String> {
    let inner = path.strip_prefix("src/").unwrap_or(path).trim_end_matches(".rs");
    inner.split('/').filter(|part| *part != "mod" && *part != "lib").map(str::to_owned).collect()
}

fn follows(tokens: &[Token], index: usize, texts: &[&str]) -> bool {
    texts.iter().enumerate().all(|(step, text)| tokens.get(index + 1 + step).is_some_and(|token| token.is(text)))
}

/// Whether the token begins a path in a `use`: `use fuser;`, `use fuser as f;`.
fn starts_path(tokens: &[Token], index: usize) -> bool {
    index > 0 && (tokens[index - 1].is("use") || tokens[index - 1].is("crate") && tokens[index.saturating_sub(2)].is("extern"))
}

/// `process::Command`, also in a group: `process::{self, Command}`, or a command reached through the module: `use std::process;`.
fn is_process(tokens: &[Token], index: usize) -> bool {
    if !tokens[index].is("process") {
        return false;
    }
    if follows(tokens, index, &["::", "{"]) {
        return group_heads(&tokens[index + 3..]).iter().any(|(_, word)| word == "Command");
    }
    follows(tokens, index, &["::", "Command"]) || follows(tokens, index, &["::", "*"])
}

/// A look at the wall or the monotonic clock; `elapsed()` is one in disguise.
fn is_clock(tokens: &[Token], index: usize) -> bool {
    let token = &tokens[index];
    let reads = |name: &str| token.is(name) && follows(tokens, index, &["::", "now"]);
    let asks = index > 0 && tokens[index - 1].is(".") && token.is("elapsed") && follows(tokens, index, &["("]);
    reads("SystemTime") || reads("Instant") || asks || token.is("clock_gettime") || token.is("gettimeofday")
}

/// Lines with code on them, outside test modules.
fn code_lines(tokens: &[Token]) -> usize {
    let mut lines: Vec<usize> = tokens.iter().filter(|token| !token.in_test).flat_map(|token| token.line..=token.last_line).collect();
    lines.dedup();
    lines.len()
}

/// A word or a sign of the source; comments are dropped, literals are one token without their text.
struct Token {
    text: String,
    line: usize,
    last_line: usize,
    /// Inside a `#[cfg(test)]` item.
    in_test: bool,
    /// How many inline `mod name {` enclose it.
    inline_modules: usize,
}

impl Token {
    fn is(&self, text: &str) -> bool {
        self.text == text
    }
}

/// Splits a source into tokens and marks test items and inline modules.
fn tokens(source: &str) -> Vec<Token> {
    let mut tokens = lex(source);
    let (mut depth, mut modules, mut test_until) = (0_usize, Vec::new(), None);
    let mut pending_test = false;
    for index in 0..tokens.len() {
        if test_until.is_none() && !pending_test && tokens[index].is("#") && follows(&tokens, index, &["[", "cfg", "(", "test", ")", "]"]) {
            pending_test = true;
        }
        let text = tokens[index].text.clone();
        if text == "{" {
            if index > 1 && tokens[index - 2].is("mod") {
                modules.push(depth);
            }
            if pending_test {
                (test_until, pending_test) = (Some(depth), false);
            }
            depth += 1;
        }
        tokens[index].in_test = test_until.is_some() || pending_test;
        tokens[index].inline_modules = modules.len();
        if text == ";" && test_until.is_none() {
            pending_test = false;
        }
        if text == "}" {
            depth = depth.saturating_sub(1);
            if test_until == Some(depth) {
                test_until = None;
            }
            if modules.last() == Some(&depth) {
                modules.pop();
            }
        }
    }
    tokens
}

/// The tokens themselves. Knows comments (nested too), strings, raw strings, characters and lifetimes; no more is needed.
fn lex(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let (mut at, mut line, mut found) = (0, 1, Vec::new());
    while at < chars.len() {
        let start = at;
        let first = chars[at];
        let next = chars.get(at + 1).copied().unwrap_or('\0');
        let mut text = String::new();
        if first.is_whitespace() {
            at += 1;
        } else if first == '/' && next == '/' {
            at += chars[at..].iter().position(|c| *c == '\n').unwrap_or(chars.len() - at);
        } else if first == '/' && next == '*' {
            at = block_comment_end(&chars, at);
        } else if let Some(end) = string_end(&chars, at) {
            (text, at) = ("\"".to_owned(), end);
        } else if first == '\'' {
            at = char_or_lifetime_end(&chars, at);
            "'".clone_into(&mut text);
        } else if first.is_alphanumeric() || first == '_' {
            at += chars[at..].iter().position(|c| !c.is_alphanumeric() && *c != '_').unwrap_or(chars.len() - at);
            text = chars[start..at].iter().collect();
        } else {
            at += if first == ':' && next == ':' { 2 } else { 1 };
            text = chars[start..at].iter().collect();
        }
        let last_line = line + chars[start..at].iter().filter(|c| **c == '\n').count();
        if !text.is_empty() {
            found.push(Token { text, line, last_line, in_test: false, inline_modules: 0 });
        }
        line = last_line;
    }
    found
}

fn block_comment_end(chars: &[char], start: usize) -> usize {
    let (mut depth, mut at) = (0, start);
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// The end of the string literal that begins at `start`, if one does: "..", b"..", c"..", r"..", r#".."#, br#".."#.
fn string_end(chars: &[char], start: usize) -> Option<usize> {
    let mut at = start;
    while at < start + 2 && matches!(chars.get(at), Some('b' | 'c' | 'r')) {
        at += 1;
    }
    let raw = chars[start..at].contains(&'r');
    let hashes = if raw { chars[at..].iter().take_while(|c| **c == '#').count() } else { 0 };
    at += hashes;
    if chars.get(at) != Some(&'"') {
        return None;
    }
    at += 1;
    while at < chars.len() {
        match chars[at] {
            '\\' if !raw => at += 2,
            '"' if chars[at + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes => return Some(at + 1 + hashes),
            _ => at += 1,
        }
    }
    Some(chars.len())
}

fn char_or_lifetime_end(chars: &[char], start: usize) -> usize {
    if chars.get(start + 1) == Some(&'\\') {
        let escaped = start + 3;
        return chars[escaped.min(chars.len())..].iter().position(|c| *c == '\'').map_or(chars.len(), |step| escaped + step + 1);
    }
    if chars.get(start + 2) == Some(&'\'') {
        return start + 3;
    }
    let name = &chars[start + 1..];
    start + 1 + name.iter().position(|c| !c.is_alphanumeric() && *c != '_').unwrap_or(name.len())
}

/// Every Rust file below `dir`, sorted.
fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_sources_keep_to_their_floors() {
    let found: Vec<String> = rust_files(&package().join("src"))
        .iter()
        .flat_map(|file| {
            let path = file.strip_prefix(package()).unwrap().to_str().unwrap().to_owned();
            complaints(&path, &fs::read_to_string(file).unwrap())
        })
        .collect();
    assert!(found.is_empty(), "{} complaints:\n{}", found.len(), found.join("\n"));
}

#[test]
fn the_map_in_lib_rs_and_the_design_document_name_every_module() {
    let map = fs::read_to_string(package().join("src/lib.rs")).unwrap();
    let design = fs::read_to_string(package().join("docs/design.md")).unwrap_or_default();
    for line in map.lines() {
        let Some(module) = line.strip_prefix("pub mod ").and_then(|rest| rest.strip_suffix(';')) else { continue };
        assert!(floor_of(module).is_some(), "{module} of src/lib.rs is on no floor");
        let named = |text: &str, mark: &str| text.lines().any(|line| line.starts_with(mark) && line.contains(&format!("`{module}`")));
        assert!(named(&map, "//! |"), "the table in src/lib.rs has no row for {module}");
        assert!(named(&design, "|"), "the table of floors in docs/design.md has no row for {module}");
    }
}

/// The complaints about a sample, without the one about the missing heading.
fn about(path: &str, source: &str) -> Vec<String> {
    complaints(path, &format!("//! A sample.\n{source}"))
}

#[test]
fn an_upward_import_is_complained_about() {
    for source in [
        "use crate::version::Staging;",
        "use crate::{ids::Ino, version::{Staging, seal}};",
        "fn f() { let x = crate::cli::run(); }",
        "use super::super::version::Staging;",
        "mod inner { use super::super::super::daemon; }",
        "mod tests { #[test] fn f() { crate::fs::mount(); } }",
    ] {
        let found = about("src/store/objects.rs", source);
        assert_eq!(found.len(), 1, "{source}: {found:?}");
        assert!(found[0].contains("upward import: store"), "{found:?}");
    }
    assert!(about("src/store/objects.rs", "\n\nuse crate::tree;")[0].starts_with("src/store/objects.rs:4:"));
}

#[test]
fn a_sideways_import_is_complained_about() {
    let found = about("src/promote/batch.rs", "use crate::{store::Store, check::Verdict};");
    assert_eq!(found.len(), 1);
    assert!(found[0].contains("promote and check are neighbours"), "{found:?}");
}

#[test]
fn downward_imports_and_those_inside_a_floor_are_fine() {
    for source in [
        "use crate::store::{Store, record::VersionRecord};\nuse crate::ids::Ino;\npub(crate) fn f() {}\npub(super) fn g() {}",
        "use super::merge::Merge;\nmod tests { use super::*; use super::super::diff; }",
        "// use crate::cli::run;\n/* use crate::fs; /* nested */ use crate::daemon; */\nconst A: &str = \"crate::cli::x\";",
        "const B: &str = r#\"\"crate::fs\"\"#; const C: char = '\"'; const D: char = '\\''; fn h<'a>(x: &'a str) -> &'a str { x }",
    ] {
        assert_eq!(about("src/tree/diff.rs", source), Vec::<String>::new(), "{source}");
    }
    assert_eq!(about("src/main.rs", "fn main() { shadowfs::cli::main() }"), Vec::<String>::new());
}

#[test]
fn a_module_that_is_on_no_floor_is_complained_about() {
    assert!(about("src/helpers.rs", "")[0].contains("src/helpers is on no floor"));
    assert!(about("src/tree/mod.rs", "use crate::Thing;")[0].contains("crate::Thing is no floor"));
    assert!(about("src/tree/mod.rs", "use crate::*;")[0].contains("crate::* is no floor"));
}

#[test]
fn fuser_processes_clocks_and_unsafe_have_their_places() {
    let cases = [
        ("fuser", "src/fs/adapter.rs", "src/fs/nodes.rs", "use fuser::Filesystem;"),
        ("fuser", "src/fs/adapter.rs", "src/daemon.rs", "fn f(x: fuser::Errno) {}"),
        ("fuser", "src/fs/staging_session.rs", "src/version/mod.rs", "use fuser as f;"),
        ("std::process::Command", "src/check/worker.rs", "src/check/pool.rs", "use std::process::{Command, Stdio};"),
        ("std::process::Command", "src/cli/run.rs", "src/cli/mount.rs", "fn f() { std::process::Command::new(\"ls\"); }"),
        ("std::process::Command", "src/cli/run.rs", "src/promote/mod.rs", "use std::process; fn f() { process::Command::new(\"ls\"); }"),
        ("the machine's clock", "src/clock.rs", "src/version/seal.rs", "fn f() { let t = std::time::Instant::now(); }"),
        ("the machine's clock", "src/clock.rs", "src/version/seal.rs", "fn f() { let t = SystemTime::now(); }"),
        ("the machine's clock", "src/clock.rs", "src/version/seal.rs", "fn f(t: Instant) { t.elapsed(); }"),
        ("`unsafe`", "src/sys/mount.rs", "src/fs/handles.rs", "fn f() { unsafe { g() } }"),
    ];
    for (what, allowed, elsewhere, source) in cases {
        assert_eq!(about(allowed, source), Vec::<String>::new(), "{source}");
        let found = about(elsewhere, source);
        assert_eq!(found.len(), 1, "{source}: {found:?}");
        assert!(found[0].contains(what), "{found:?}");
    }
    for innocent in ["use clap::Command;", "fn f() { std::process::exit(1) }", "#![allow(unsafe_code)]", "use std::process::ExitCode;"] {
        assert_eq!(about("src/cli/mount.rs", innocent), Vec::<String>::new(), "{innocent}");
    }
}

#[test]
fn test_modules_may_start_children_and_look_at_the_clock() {
    let source = "#[cfg(test)]\nmod tests { fn f() { std::process::Command::new(\"ls\"); Instant::now(); } }";
    assert_eq!(about("src/store/mod.rs", source), Vec::<String>::new());
    assert_eq!(about("src/store/mod.rs", &format!("{source}\nfn after() {{ Instant::now(); }}")).len(), 1);
}

#[test]
fn long_files_and_files_without_a_heading_are_complained_about() {
    let code = "const A: u8 = 0;\n".repeat(MAX_CODE_LINES);
    let padded = format!("{code}\n\n// one\n\n/* two\n three */\n#[cfg(test)]\nmod tests {{\n{code}{code}}}\n");
    assert_eq!(about("src/store/a.rs", &padded), Vec::<String>::new());
    assert!(about("src/store/a.rs", &format!("{padded}const B: u8 = 0;\n"))[0].contains("451 lines of code"));
    assert!(complaints("src/store/a.rs", "fn f() {}")[0].contains("begins without"));
}
