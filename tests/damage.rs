//! A byte turned over anywhere in a small store: it is found, or nothing reads otherwise for it; and what reads at all reads as it was.
//!
//! `SHADOWFS_FLIPS=N` tries N bytes of each file instead of a few.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::Sandbox;
use common::story::{self, files_below, ghost, noise, promoted};
use shadowfs::clock::{Clock, SystemClock};
use shadowfs::daemon::offline;
use shadowfs::ids::{EventSeq, Ino};
use shadowfs::store::Store;
use shadowfs::tree::key::FileKind;
use shadowfs::tree::{Nodes, Snapshot, Tree};
use shadowfs::version::Staging;
use shadowfs::version::staging::StagingOptions;

/// What a store says, item by item; an error where it says that it can't.
type Said = BTreeMap<String, Result<Vec<u8>, String>>;

fn put<T: std::fmt::Debug, E: std::fmt::Display>(said: &mut Said, name: String, what: Result<T, E>) -> Option<T> {
    let text = what.as_ref().map(|what| format!("{what:?}").into_bytes()).map_err(ToString::to_string);
    said.insert(name, text);
    what.ok()
}

fn look_at_tree(said: &mut Said, of: &str, snapshot: &Snapshot) {
    let mut todo = vec![(String::new(), Ino::ROOT)];
    while let Some((path, dir)) = todo.pop() {
        put(said, format!("{of}: {path}/ itself"), snapshot.inode(dir));
        let Some(entries) = put(said, format!("{of}: {path}/"), snapshot.entries(dir, 0, 1_000)) else { continue };
        for (name, ino, kind) in entries {
            let path = format!("{path}/{}", String::from_utf8_lossy(&name));
            put(said, format!("{of}: {path} itself"), snapshot.inode(ino));
            put(said, format!("{of}: {path} attributes"), snapshot.xattrs(ino));
            if kind == FileKind::Directory {
                todo.push((path, ino));
            } else {
                let bytes = snapshot.read(ino, 0, 1 << 20).map_err(|error| error.to_string());
                said.insert(format!("{of}: {path} content"), bytes);
            }
        }
    }
}

/// Everything that a store says.
fn look(path: &Path) -> Result<Said, String> {
    let store = Arc::new(Store::open(path).map_err(|error| error.to_string())?);
    let mut said = Said::new();
    put(&mut said, "events".to_owned(), store.catalog().events(EventSeq(0)));
    put(&mut said, "tags".to_owned(), store.catalog().tags());
    let pointers = put(&mut said, "pointers".to_owned(), store.catalog().pointers());
    let nodes = Nodes::new(Arc::clone(&store));
    let versions = put(&mut said, "which versions".to_owned(), store.catalog().version_ids()).unwrap_or_default();
    for version in versions {
        let record = put(&mut said, version.to_string(), store.catalog().version(version)).flatten();
        put(&mut said, format!("{version} attempts"), store.catalog().attempts(version));
        let root = record.as_ref().and_then(|record| record.root);
        let Some(root) = root else { continue };
        let snapshot = Snapshot::new(Tree::stored(Arc::clone(&nodes), root), Arc::clone(&store));
        look_at_tree(&mut said, &version.to_string(), &snapshot);
        if pointers.as_ref().is_some_and(|pointers| pointers.base == version) {
            let clock: Arc<dyn Clock> = Arc::new(SystemClock);
            let (events, _) = crossbeam::channel::unbounded();
            let options = StagingOptions { flusher: false, ..StagingOptions::default() };
            let staging = Staging::new(snapshot, version, events, clock, options);
            match staging.and_then(|staging| staging.snapshot()) {
                Ok(snapshot) => look_at_tree(&mut said, "staging", &snapshot),
                Err(error) => drop(said.insert("staging".to_owned(), Err(error.to_string()))),
            }
        }
    }
    Ok(said)
}

/// Lines of `fsck` and `scrub` about what is more than a note.
fn found(path: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    match offline::fsck(path, false) {
        Ok(doc) => lines.extend(doc.findings.iter().filter(|finding| finding.is_damage()).map(|finding| finding.line.clone())),
        Err(error) => lines.push(error.to_string()),
    }
    match offline::scrub(path, &mut |_, _| ()) {
        Ok(doc) => lines.extend(doc.findings.iter().map(|finding| finding.line.clone())),
        Err(error) => lines.push(error.to_string()),
    }
    lines
}

fn copy(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

/// A store with a version of each kind of content, a ghost, a tag, and an open version in the journal.
fn small_store() -> Sandbox {
    let sandbox = story::mounted("");
    fs::write(sandbox.staging().join("large"), noise(1, 200_000)).unwrap();
    promoted(&sandbox, "small", noise(2, 900));
    fs::create_dir(sandbox.staging().join("dir")).unwrap();
    promoted(&sandbox, "dir/other", noise(3, 2_000));
    sandbox.on(["tag", "v1", "t1"]).expect(0);
    ghost(&sandbox, noise(4, 3_000));
    fs::write(sandbox.staging().join("open"), noise(5, 5_000)).unwrap();
    story::at_rest(&sandbox);
    sandbox
}

/// What is wrong with how a store with one byte turned over answers; `None` if nothing is.
fn judge(truth: &Said, path: &Path) -> Option<String> {
    let said = look(path);
    let found = found(path);
    let said = match said {
        Ok(said) => said,
        Err(why) if found.is_empty() => return Some(format!("it can't be opened ({why}), and that is not found")),
        Err(_) => return None,
    };
    let differs = |name: &&String| said.get(*name) != truth.get(*name);
    let different: Vec<&String> = truth.keys().filter(differs).collect();
    let new = said.keys().find(|name| !truth.contains_key(*name) && said[*name].is_ok());
    match (different.is_empty() && new.is_none(), found.is_empty()) {
        (true, _) => None,
        (false, true) => Some(format!("nothing is found, but these differ: {different:?} {new:?}")),
        (false, false) => {
            // Found, and known from then on: content is an error, or as it was.
            let again = look(path).unwrap_or_default();
            let bytes = |name: &&&String| {
                name.ends_with("content") && again.get(**name).is_some_and(|now| now.is_ok() && Some(now) != truth.get(**name))
            };
            let garbage = different.iter().find(bytes);
            garbage.map(|name| format!("{name} is garbage ({found:?})"))
        }
    }
}

#[test]
fn a_byte_turned_over_anywhere_is_found_or_changes_nothing_and_content_is_never_garbage_once_it_is_known() {
    let sandbox = small_store();
    let truth = look(&sandbox.store()).unwrap();
    assert!(truth.len() > 40 && truth.values().all(Result::is_ok), "{truth:?}");
    assert!(truth.contains_key("staging: /open content") && truth.contains_key("t3: /bad content"));
    assert_eq!(found(&sandbox.store()), Vec::<String>::new());
    // In memory where that is to be had: what is tested is not the disk.
    let place = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let trial = place.path().join("store");
    copy(&sandbox.store(), &trial);
    let flips: Option<u64> = std::env::var("SHADOWFS_FLIPS").ok().and_then(|flips| flips.parse().ok());
    let (mut tried, mut noticed, mut wrong) = (0, 0, Vec::new());
    for file in ["catalog.redb", "packs", "objects", "journal", "format"] {
        let path = sandbox.store().join(file);
        let files: Vec<PathBuf> = if path.is_dir() { files_below(&sandbox, file) } else { vec![path] };
        assert!(!files.is_empty(), "{file}");
        for file in files {
            let (len, name) = (fs::metadata(&file).unwrap().len(), file.strip_prefix(sandbox.store()).unwrap().to_owned());
            let wanted = flips.unwrap_or(if name.ends_with("catalog.redb") { 120 } else { 12 }).min(len);
            for n in 0..wanted {
                // Spread over the file, not on a grid of its own.
                let at = (len * n / wanted + n.wrapping_mul(2_654_435_761) % (len / wanted).max(1)).min(len - 1);
                fs::copy(sandbox.store().join("catalog.redb"), trial.join("catalog.redb")).unwrap();
                fs::copy(&file, trial.join(&name)).unwrap();
                let target = OpenOptions::new().read(true).write(true).open(trial.join(&name)).unwrap();
                let mut byte = [0];
                target.read_exact_at(&mut byte, at).unwrap();
                target.write_all_at(&[byte[0] ^ (1 << (n % 8))], at).unwrap();
                tried += 1;
                // What a look may change beside the file: torn tails of journals are cut only by who appends.
                if let Some(what) = judge(&truth, &trial) {
                    wrong.push(format!("{} at {at}: {what}", name.display()));
                }
                noticed += u64::from(!found(&trial).is_empty());
            }
            fs::copy(&file, trial.join(&name)).unwrap();
        }
    }
    eprintln!("{tried} bytes turned over, {noticed} of them found");
    assert_eq!(wrong, Vec::<String>::new());
    assert!(noticed > 50, "{noticed} of {tried}");
}
