//! Versions as tests of retention need them: good ones, ghosts, and what is told of them.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use super::{Ran, Sandbox, eventually};

/// A configuration with one check, which reads its rule from outside so that a test can mend it, and rules of its own behind it.
pub fn config(sandbox: &Sandbox, more: &str) -> String {
    let rule = sandbox.path("rule");
    fs::write(&rule, "test ! -e bad\n").unwrap();
    format!(
        r#"
[staging]
settle = "10m"
[checks]
backoff = "10ms"
[promotion]
window = "50ms"
require_free = "0%"
[[check]]
name = "rule"
run = ["sh", "{}"]
{more}
"#,
        rule.display()
    )
}

/// A store with that configuration, mounted.
pub fn mounted(more: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.init(&config(&sandbox, more)).mount();
    sandbox
}

/// A change, committed and judged; the version.
pub fn change(sandbox: &Sandbox, name: &str, text: impl AsRef<[u8]>, code: i32) -> String {
    fs::write(sandbox.staging().join(name), text).unwrap();
    sandbox.on(["commit", "--wait", "--json"]).expect(code).json()["version"].as_str().unwrap().to_owned()
}

/// A change that is in production when this returns.
pub fn promoted(sandbox: &Sandbox, name: &str, text: impl AsRef<[u8]>) -> String {
    let version = change(sandbox, name, text, 0);
    sandbox.on(["wait", &version, "--promoted"]).expect(0);
    version
}

/// A ghost with this content in the file `bad`; staging is back when this returns.
pub fn ghost(sandbox: &Sandbox, text: impl AsRef<[u8]>) -> String {
    let ghost = change(sandbox, "bad", text, 3);
    eventually("staging rolls back", || !sandbox.staging().join("bad").exists());
    ghost
}

pub fn show(sandbox: &Sandbox, version: &str) -> Value {
    sandbox.on(["show", version, "--json"]).expect(0).json()
}

pub fn state(sandbox: &Sandbox, version: &str) -> String {
    show(sandbox, version)["state"].as_str().unwrap().to_owned()
}

/// What was said on standard error, one line.
#[track_caller]
pub fn refusal(ran: Ran, code: i32) -> String {
    let ran = ran.expect(code);
    assert_eq!((ran.stdout.as_str(), ran.stderr.lines().count()), ("", 1), "{ran:?}");
    ran.stderr.trim_end().trim_start_matches("shadowfs: ").to_owned()
}

/// The kinds of a version's events, in order.
pub fn kinds(sandbox: &Sandbox, version: &str) -> Vec<String> {
    let events = sandbox.on(["lineage", version, "--json"]).expect(0).json();
    events.as_array().unwrap().iter().map(|event| event["event"].as_str().unwrap().to_owned()).collect()
}

/// Bytes that compress to nothing and equal no others: of `len`, by a seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Unmounts, and waits until the daemon has let go of everything: it answers a moment before.
pub fn at_rest(sandbox: &Sandbox) {
    sandbox.unmount();
    eventually("the daemon is gone", || !sandbox.store().join("control.sock").exists());
}

/// Every file below a directory of the store.
pub fn files_below(sandbox: &Sandbox, dir: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![sandbox.store().join(dir)];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() { todo.push(entry.path()) } else { found.push(entry.path()) }
        }
    }
    found.sort();
    found
}

/// How many objects of exactly this length have a file of their own in the store.
pub fn objects_of(sandbox: &Sandbox, len: usize) -> usize {
    files_below(sandbox, "objects").iter().filter(|file| fs::metadata(file).is_ok_and(|data| data.len() == len as u64)).count()
}
