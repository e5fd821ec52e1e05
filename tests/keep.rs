//! What is kept, let go and brought back by hand, on real mounts: `restore`, `drop`, `pin`, `tag`, `check` of a ghost, `lineage verify`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::os::unix::fs::symlink;

use common::Sandbox;
use common::story::{self, kinds, promoted, refusal, show};
use serde_json::{Value, json};

fn mounted() -> Sandbox {
    story::mounted("")
}

/// A ghost; staging is back when this returns.
fn ghost(sandbox: &Sandbox) -> String {
    story::ghost(sandbox, "rows")
}

#[test]
fn a_ghost_comes_back_into_staging_is_mended_and_becomes_valid() {
    let sandbox = mounted();
    promoted(&sandbox, "good", "1");
    let ghost = ghost(&sandbox);
    sandbox.on(["begin", "-m", "mended"]).expect(0);
    let restored = sandbox.on(["restore", &ghost, "--json"]).expect(0).json();
    let new = restored["version"].as_str().unwrap();
    assert_eq!((&restored["state"], &restored["restored_from"]), (&json!("open"), &json!(ghost)));
    assert_eq!(fs::read_to_string(sandbox.staging().join("bad")).unwrap(), "rows");
    assert_eq!(fs::read_to_string(sandbox.staging().join("good")).unwrap(), "1");
    // It is open, and so it survives as an open version does.
    sandbox.kill_daemon();
    sandbox.mount();
    fs::rename(sandbox.staging().join("bad"), sandbox.staging().join("mended")).unwrap();
    let sealed = sandbox.on(["commit", "--wait", "--json"]).expect(0).json();
    assert_eq!((&sealed["version"], &sealed["state"]), (&json!(new), &json!("valid")));
    assert_eq!((&sealed["restored_from"], &sealed["message"]), (&json!(ghost), &json!("mended")));
    sandbox.on(["wait", new, "--promoted"]).expect(0);
    assert_eq!(fs::read_to_string(sandbox.production().join("mended")).unwrap(), "rows");
    assert!(kinds(&sandbox, new).contains(&"restored".to_owned()));
    assert_eq!(show(&sandbox, &ghost)["state"], "ghost");
}

#[test]
fn restore_takes_any_version_whole_and_loses_nothing() {
    let sandbox = mounted();
    let first = promoted(&sandbox, "a", "1");
    fs::create_dir(sandbox.staging().join("dir")).unwrap();
    fs::write(sandbox.staging().join("dir/b"), "b").unwrap();
    promoted(&sandbox, "a", "2");
    sandbox.on(["begin"]).expect(0);
    fs::write(sandbox.staging().join("mine"), "x").unwrap();
    let line = refusal(sandbox.on(["restore", &first]), 4);
    assert!(line.ends_with("is open with changes of its own; first `shadowfs commit` or `shadowfs abort`"), "{line}");
    assert_eq!(fs::read_to_string(sandbox.staging().join("mine")).unwrap(), "x");
    sandbox.on(["abort"]).expect(0);
    // Through the same paths that the kernel knows already.
    assert_eq!(fs::read_to_string(sandbox.staging().join("a")).unwrap(), "2");
    let said = sandbox.on(["restore", &first]).expect(0).stdout;
    assert!(said.starts_with(&format!("staging has the content of {first} again, as t")), "{said}");
    assert_eq!(fs::read_to_string(sandbox.staging().join("a")).unwrap(), "1");
    assert!(!sandbox.staging().join("dir").exists());
    sandbox.on(["commit"]).expect(0);
    let last = sandbox.on(["wait", "--promoted", "--json"]).expect(0).json();
    assert_eq!(last["digest"], show(&sandbox, &first)["digest"]);
    assert_eq!(fs::read_dir(sandbox.production()).unwrap().count(), 1);
    assert_eq!(sandbox.on(["restore", "latest"]).expect(0).stdout, "staging has that content already\n");
    refusal(sandbox.on(["restore", "t99"]), 1);
    sandbox.on(["lineage", "verify"]).expect(0);
}

#[test]
fn a_ghost_that_passes_now_comes_back_by_restore() {
    let sandbox = mounted();
    let ghost = ghost(&sandbox);
    assert!(refusal(sandbox.on(["check", &ghost]), 3).contains("does not pass"));
    fs::write(sandbox.path("rule"), "true\n").unwrap();
    let said = sandbox.on(["check", &ghost]).expect(0).stdout;
    assert_eq!(
        said,
        format!("{ghost} passes now; it stays a ghost, and its content comes back as a new version: shadowfs restore {ghost}\n")
    );
    let doc = sandbox.on(["check", &ghost, "--name", "rule", "--json"]).expect(0).json();
    assert_eq!((&doc["state"], &doc["passed"]), (&json!("ghost"), &json!(true)));
    sandbox.on(["restore", &ghost]).expect(0);
    sandbox.on(["commit"]).expect(0);
    let last = sandbox.on(["wait", "--promoted", "--json"]).expect(0).json();
    assert_eq!((&last["restored_from"], &last["state"]), (&json!(ghost), &json!("promoted")));
    assert_eq!(fs::read_to_string(sandbox.production().join("bad")).unwrap(), "rows");
}

#[test]
fn a_dropped_ghost_is_gone_and_its_trail_stays() {
    let sandbox = mounted();
    let ghost = ghost(&sandbox);
    let path = sandbox.mnt().join("ghosts").join(&ghost);
    assert_eq!(fs::read_to_string(path.join("bad")).unwrap(), "rows");
    sandbox.on(["pin", &ghost]).expect(0);
    let line = refusal(sandbox.on(["drop", &ghost]), 4);
    assert_eq!(line, format!("{ghost} can't be dropped: it is pinned; `shadowfs pin --remove {ghost}` first"));
    sandbox.on(["pin", "--remove", &ghost]).expect(0);
    let doc = sandbox.on(["drop", &ghost, "--json"]).expect(0).json();
    assert_eq!((&doc["state"], &doc["digest"]), (&json!("expired"), &json!(null)));
    assert!(!path.exists() && fs::read_dir(sandbox.mnt().join("ghosts")).unwrap().count() == 0);
    assert_eq!(sandbox.on(["ghosts", "--json"]).expect(0).json(), json!([]));
    let trail = sandbox.mnt().join("lineage").join(&ghost);
    let record: Value = serde_json::from_slice(&fs::read(trail.join("version.json")).unwrap()).unwrap();
    assert_eq!((&record["state"], &record["reason"]["kind"]), (&json!("expired"), &json!("checks_failed")));
    assert!(trail.join("checks/rule.1.log").exists());
    assert_eq!(kinds(&sandbox, &ghost).last().unwrap(), "expired");
    for verb in ["drop", "restore", "pin", "check"] {
        let line = refusal(sandbox.on([verb, &ghost]), 4);
        assert!(line.starts_with(&format!("{ghost} is expired")), "{line}");
    }
    sandbox.unmount().mount();
    assert!(!path.exists());
    sandbox.on(["lineage", "verify"]).expect(0);
}

#[test]
fn what_is_in_use_is_not_dropped() {
    let sandbox = mounted();
    let (first, second) = (promoted(&sandbox, "a", "1"), promoted(&sandbox, "a", "2"));
    assert_eq!(refusal(sandbox.on(["drop", "production"]), 4), format!("{second} can't be dropped: it is in production"));
    sandbox.on(["tag", "v1", &first]).expect(0);
    let line = refusal(sandbox.on(["drop", &first]), 4);
    assert_eq!(line, format!("{first} can't be dropped: it has the tag v1; `shadowfs tag --remove v1` first"));
    sandbox.on(["tag", "--remove", "v1"]).expect(0);
    sandbox.on(["drop", &first]).expect(0);
    assert!(!sandbox.mnt().join("versions").join(&first).exists());
    assert_eq!(fs::read_to_string(sandbox.production().join("a")).unwrap(), "2");
    sandbox.on(["lineage", "verify"]).expect(0);
}

#[test]
fn a_tag_is_a_symlink_at_once() {
    let sandbox = mounted();
    let (first, second) = (promoted(&sandbox, "a", "1"), promoted(&sandbox, "a", "2"));
    let link = sandbox.mnt().join("versions/2026-q3");
    let text = || fs::read_to_string(link.join("a"));
    assert!(text().is_err());
    assert_eq!(sandbox.on(["tag"]).expect(0).stdout, "no tags\n");
    assert_eq!(sandbox.on(["tag", "2026-q3", &first]).expect(0).stdout, format!("versions/2026-q3 leads to {first}\n"));
    assert_eq!((fs::read_link(&link).unwrap().to_str().unwrap(), text().unwrap().as_str()), (first.as_str(), "1"));
    let line = refusal(sandbox.on(["tag", "2026-q3", "latest"]), 4);
    assert_eq!(line, format!("the tag 2026-q3 leads to {first}; to move it: shadowfs tag --force 2026-q3 {second}"));
    sandbox.on(["tag", "--force", "2026-q3", "latest"]).expect(0);
    assert_eq!(text().unwrap(), "2");
    sandbox.on(["tag", "best", "2026-q3"]).expect(0);
    assert_eq!(sandbox.on(["tag"]).expect(0).stdout, format!("TAG      VERSION\n2026-q3  {second}\nbest     {second}\n"));
    assert_eq!(show(&sandbox, "best")["version"], json!(second));
    let names: Vec<_> = fs::read_dir(sandbox.mnt().join("versions")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.contains(&"best".into()) && names.contains(&"2026-q3".into()), "{names:?}");
    sandbox.kill_daemon();
    sandbox.mount();
    assert_eq!(text().unwrap(), "2");
    sandbox.on(["tag", "--remove", "2026-q3"]).expect(0);
    assert!(text().is_err() && fs::symlink_metadata(&link).is_err());
    assert_eq!(sandbox.on(["tag", "--json"]).expect(0).json(), json!([{"name": "best", "version": second}]));
    assert_eq!(kinds(&sandbox, &first).iter().filter(|kind| kind.contains("tagged")).collect::<Vec<_>>(), ["tagged", "untagged"]);
    symlink(&link, sandbox.path("elsewhere")).unwrap();
}

#[test]
fn names_that_are_no_tags() {
    let sandbox = mounted();
    for name in ["t7", "latest", "valid", "staging", "production", "a/b", "a\nb", "..", ""] {
        let ran = sandbox.on(["tag", name, "t0"]).expect(2);
        assert!(ran.stderr.contains("can't be a tag") || name.is_empty(), "{ran:?}");
    }
    let line = refusal(sandbox.on(["tag", "v1"]), 2);
    assert!(line.contains("shadowfs tag v1 tN"), "{line}");
    assert!(refusal(sandbox.on(["tag", "--remove", "v1"]), 1).contains("there is no tag \"v1\""));
    let ghost = ghost(&sandbox);
    let line = refusal(sandbox.on(["tag", "v1", &ghost]), 4);
    assert_eq!(line, format!("{ghost} is a ghost, it can't be tagged; `shadowfs pin {ghost}` keeps it"));
}

#[test]
fn a_pin_is_on_record() {
    let sandbox = mounted();
    let ghost = ghost(&sandbox);
    let said = sandbox.on(["pin", &ghost]).expect(0).stdout;
    assert_eq!(said, format!("{ghost} is kept until: shadowfs pin --remove {ghost}\n"));
    sandbox.on(["pin", &ghost]).expect(0);
    sandbox.unmount().mount();
    assert_eq!(show(&sandbox, &ghost)["pinned"], true);
    assert!(sandbox.on(["ghosts"]).expect(0).stdout.contains("ghost pinned"));
    assert_eq!(sandbox.on(["pin", "--remove", &ghost, "--json"]).expect(0).json()["pinned"], false);
    let pins: Vec<_> = kinds(&sandbox, &ghost).into_iter().filter(|kind| kind.contains("pinned")).collect();
    assert_eq!(pins, ["pinned", "unpinned"]);
}

#[test]
fn verify_names_what_was_damaged() {
    let sandbox = mounted();
    let large = "0123456789".repeat(100_000);
    promoted(&sandbox, "large", &large);
    let said = sandbox.on(["lineage", "verify"]).expect(0).stdout;
    assert!(said.contains("events and 2 versions are as recorded"), "{said}");
    sandbox.unmount();
    let objects = sandbox.store().join("objects");
    let files = fs::read_dir(objects).unwrap().flat_map(|dir| fs::read_dir(dir.unwrap().path()).unwrap());
    let object = files.map(|file| file.unwrap().path()).find(|path| fs::metadata(path).unwrap().len() == large.len() as u64).unwrap();
    let mut bytes = fs::read(&object).unwrap();
    bytes[500_000] ^= 1;
    fs::write(&object, bytes).unwrap();
    sandbox.mount();
    let ran = sandbox.on(["lineage", "verify"]).expect(1);
    assert!(ran.stdout.starts_with("large: object ") && ran.stdout.contains("(t1)"), "{ran:?}");
    assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
    let doc = sandbox.on(["lineage", "verify", "--json"]).expect(1).json();
    assert_eq!(doc["findings"].as_array().unwrap().len(), 1);
}
