//! Tests of states as filesystems: what changed, and what merges.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::state_fs::{Fs, check, store, tree_of};
use super::*;

fn merged(base: &Fs, theirs: &Fs, ours: &Fs) -> Result<BTreeMap<String, String>, Vec<String>> {
    match merge(&base.state, &theirs.state, &ours.state).unwrap() {
        Merge::Clean { tree, edits } => {
            let mut again = theirs.state.tree.clone();
            for (key, value) in &edits {
                again.set(key, value.clone()).unwrap();
            }
            assert_eq!(again.diff(&tree).count(), 0);
            let state = Snapshot::new(tree, store());
            check(&state);
            Ok(tree_of(&state))
        }
        Merge::Conflict { paths } => Err(paths.into_iter().map(|path| String::from_utf8(path).unwrap()).collect()),
    }
}

/// What `ours` on top of `rejected` on top of a small dataset becomes without the latter.
fn rebase(rejected: impl FnOnce(&mut Fs), ours: impl FnOnce(&mut Fs)) -> Result<BTreeMap<String, String>, Vec<String>> {
    let theirs = Fs::new().with(|fs| {
        assert!(fs.mkdir("d") && fs.mkdir("e") && fs.mkdir("d/sub"));
        assert!(fs.write("a", "A") && fs.write("b", "B") && fs.write("d/f", "F") && fs.write("d/sub/g", "G"));
        assert!(fs.link("a", "d/a2"));
    });
    let base = theirs.with(rejected);
    let ours = base.with(ours);
    merged(&base, &theirs, &ours)
}

fn conflict(paths: &[&str]) -> Result<BTreeMap<String, String>, Vec<String>> {
    Err(paths.iter().map(|path| (*path).to_owned()).collect())
}

#[test]
fn changes_of_different_files_merge() {
    let found = rebase(|fs| assert!(fs.write("a", "bad")), |fs| assert!(fs.write("b", "good"))).unwrap();
    assert_eq!((found["/a"].as_str(), found["/b"].as_str()), ("A 755 2 ", "good 755 1 "));
}

#[test]
fn changes_of_one_file_conflict() {
    assert_eq!(rebase(|fs| assert!(fs.write("b", "bad")), |fs| assert!(fs.write("b", "good"))), conflict(&["b"]));
    assert_eq!(rebase(|fs| assert!(fs.write("b", "bad")), |fs| assert!(fs.chmod("b", 0o600))), conflict(&["b"]));
    assert_eq!(rebase(|fs| assert!(fs.xattr("b", "bad")), |fs| assert!(fs.write("b", "good"))), conflict(&["b"]));
    // By renaming a new file over it, as editors do.
    let replace = |fs: &mut Fs, text: &str| assert!(fs.write(".new", text) && fs.rename(".new", "b"));
    assert_eq!(rebase(|fs| replace(fs, "bad"), |fs| replace(fs, "good")), conflict(&["b"]));
}

#[test]
fn new_files_in_one_directory_merge() {
    let found = rebase(
        |fs| assert!(fs.write("d/bad", "bad") && fs.mkdir("d/bad-dir")),
        |fs| assert!(fs.write("d/good", "good") && fs.mkdir("d/good-dir") && fs.mkdir("d/good-dir-2")),
    )
    .unwrap();
    assert!(found.contains_key("/d/good") && !found.contains_key("/d/bad") && !found.contains_key("/d/bad-dir"));
    assert_eq!(found["/d"], "dir 755 5 ");
}

#[test]
fn what_stands_on_the_rejected_conflicts() {
    assert_eq!(rebase(|fs| assert!(fs.mkdir("n")), |fs| assert!(fs.write("n/x", "x"))), conflict(&["n/x"]));
    assert_eq!(rebase(|fs| assert!(fs.write("n", "n")), |fs| assert!(fs.write("n", "m"))), conflict(&["n"]));
    assert_eq!(rebase(|fs| assert!(fs.write("n", "n")), |fs| assert!(fs.link("n", "m"))), conflict(&["m", "n"]));
    let found = rebase(|fs| assert!(fs.write("n", "n")), |fs| assert!(fs.rename("n", "m"))).unwrap_err();
    assert!(found.contains(&"m".to_owned()), "{found:?}");
}

#[test]
fn taking_back_what_was_rejected_is_no_change() {
    let found = rebase(
        |fs| assert!(fs.mkdir("n") && fs.write("n/x", "x")),
        |fs| {
            assert!(fs.remove("n/x") && fs.remove("n") && fs.write("b", "good"));
        },
    );
    let expected = rebase(|_| (), |fs| assert!(fs.write("b", "good")));
    assert_eq!(found, expected);
}

#[test]
fn removals_and_changes_conflict() {
    assert_eq!(rebase(|fs| assert!(fs.write("b", "bad")), |fs| assert!(fs.remove("b"))), conflict(&["b"]));
    assert_eq!(rebase(|fs| assert!(fs.remove("b")), |fs| assert!(fs.write("b", "good"))), conflict(&["b"]));
    // Ours removes a directory that is only empty because the rejected version emptied it.
    let emptied = |fs: &mut Fs| assert!(fs.remove("d/sub/g"));
    assert_eq!(rebase(emptied, |fs| assert!(fs.remove("d/sub"))), conflict(&["d/sub/g"]));
    let found = rebase(
        |fs| assert!(fs.write("d/sub/bad", "bad")),
        |fs| {
            assert!(fs.remove("d/sub/bad") && fs.remove("d/sub/g") && fs.remove("d/sub"));
        },
    )
    .unwrap();
    assert!(!found.contains_key("/d/sub"));
}

#[test]
fn a_rename_and_a_change_merge() {
    let found = rebase(|fs| assert!(fs.rename("b", "e/bad-name")), |fs| assert!(fs.write("e/bad-name", "good"))).unwrap();
    assert_eq!(found["/b"], "good 755 1 ");
    assert!(!found.contains_key("/e/bad-name"));
    let found = rebase(|fs| assert!(fs.write("b", "bad")), |fs| assert!(fs.rename("b", "e/name"))).unwrap();
    assert_eq!(found["/e/name"], "B 755 1 ");
    let found = rebase(|fs| assert!(fs.rename("d", "bad-name")), |fs| assert!(fs.write("bad-name/new", "good"))).unwrap();
    assert_eq!(found["/d/new"], "good 755 1 ");
    let found = rebase(|fs| assert!(fs.write("d/bad", "bad")), |fs| assert!(fs.rename("d", "e/d"))).unwrap();
    assert!(found.contains_key("/e/d/f") && !found.contains_key("/e/d/bad") && !found.contains_key("/d"));
    assert_eq!((found[""].as_str(), found["/e"].as_str()), ("dir 755 3 ", "dir 755 3 "));
}

#[test]
fn two_renames_of_one_thing_conflict() {
    assert_eq!(rebase(|fs| assert!(fs.rename("d", "bad")), |fs| assert!(fs.rename("bad", "good"))), conflict(&["good"]));
    assert_eq!(rebase(|fs| assert!(fs.rename("b", "bad")), |fs| assert!(fs.rename("bad", "good"))), conflict(&["good"]));
    // Each is fine alone, and together they make a circle.
    let found = rebase(|fs| assert!(fs.rename("d/sub", "sub")), |fs| assert!(fs.rename("d", "sub/d")));
    assert_eq!(found, conflict(&["sub", "sub/d"]));
}

#[test]
fn hard_links_of_one_file_merge() {
    let found = rebase(|fs| assert!(fs.link("a", "bad")), |fs| assert!(fs.link("a", "good") && fs.link("a", "e/good"))).unwrap();
    assert_eq!((found["/a"].as_str(), found.contains_key("/bad")), ("A 755 4 ", false));
    let found = rebase(|fs| assert!(fs.remove("a")), |fs| assert!(fs.rename("d/a2", "d/a3"))).unwrap();
    assert_eq!((found["/a"].as_str(), found["/d/a3"].as_str(), found.contains_key("/d/a2")), ("A 755 2 ", "A 755 2 ", false));
    let found = rebase(|fs| assert!(fs.link("a", "bad")), |fs| assert!(fs.write("a", "good") && fs.remove("d/a2"))).unwrap();
    assert_eq!(found["/a"], "good 755 1 ");
    assert_eq!(rebase(|fs| assert!(fs.remove("a")), |fs| assert!(fs.remove("d/a2"))), conflict(&["d/a2"]));
}

#[test]
fn attributes_of_directories_conflict_only_with_attributes() {
    let found = rebase(|fs| assert!(fs.write("d/bad", "bad")), |fs| assert!(fs.chmod("d", 0o700))).unwrap();
    assert_eq!(found["/d"], "dir 700 3 ");
    let found = rebase(|fs| assert!(fs.chmod("d", 0o700)), |fs| assert!(fs.write("d/good", "good"))).unwrap();
    assert_eq!(found["/d"], "dir 755 3 ");
    assert_eq!(rebase(|fs| assert!(fs.chmod("d", 0o700)), |fs| assert!(fs.chmod("d", 0o711))), conflict(&["d"]));
}

fn kinds(old: &Fs, new: &Fs) -> Vec<(String, ChangeKind)> {
    let found = changes(&old.state, &new.state).unwrap();
    found.into_iter().map(|change| (String::from_utf8(change.path).unwrap(), change.kind)).collect()
}

#[test]
fn changes_are_paths() {
    use ChangeKind::{Added, Deleted, Modified, Properties, Type};
    let old = Fs::new().with(|fs| {
        assert!(fs.mkdir("d") && fs.mkdir("d/sub") && fs.write("d/sub/f", "1") && fs.write("a", "1") && fs.write("b", "1"));
        assert!(fs.write("t", "1") && fs.link("b", "b2") && fs.write("z", "1") && fs.mkdir("p"));
    });
    assert_eq!(kinds(&old, &old), []);
    let new = old.with(|fs| {
        assert!(fs.rename("d", "e") && fs.write("e/sub/f", "2") && fs.write("a", "2") && fs.chmod("b2", 0o600));
        assert!(fs.remove("t") && fs.mkdir("t") && fs.write("n", "1") && fs.link("z", "z2") && fs.xattr("p", "1"));
    });
    let expected = [
        ("a", Modified),
        ("b", Properties),
        ("b2", Properties),
        ("d", Deleted),
        ("d/sub", Deleted),
        ("d/sub/f", Deleted),
        ("e", Added),
        ("e/sub", Added),
        ("e/sub/f", Added),
        ("n", Added),
        ("p", Properties),
        ("t", Type),
        ("z2", Added),
    ];
    assert_eq!(kinds(&old, &new), expected.map(|(path, kind)| (path.to_owned(), kind)));
    let back: Vec<String> = kinds(&new, &old).into_iter().map(|(path, _)| path).collect();
    assert_eq!(back, expected.map(|(path, _)| path.to_owned()));
}

#[test]
fn the_root_and_touched_directories_are_changes_of_their_own() {
    let old = Fs::new().with(|fs| assert!(fs.mkdir("d")));
    let new = old.with(|fs| {
        let now = fs.tick();
        let (ino, _) = fs.get("d").unwrap();
        fs.edit(ino, |record| record.mtime = now);
        assert!(fs.chmod("", 0o700));
    });
    assert_eq!(kinds(&old, &new), [(String::new(), ChangeKind::Properties), ("d".to_owned(), ChangeKind::Properties)]);
}

#[derive(Clone, Debug)]
enum Op {
    Mkdir(usize),
    Write(usize),
    Chmod(usize),
    Xattr(usize),
    Link(usize, usize),
    Remove(usize),
    Rename(usize, usize),
}

const PATHS: &[&str] = &["a", "b", "d", "e", "d/a", "d/b", "d/d", "e/a", "e/d", "d/d/a", "d/d/b", "e/d/a", "e/d/d"];

fn fs_op() -> impl Strategy<Value = Op> {
    let path = || 0..PATHS.len();
    prop_oneof![
        2 => path().prop_map(Op::Mkdir),
        4 => path().prop_map(Op::Write),
        1 => path().prop_map(Op::Chmod),
        1 => path().prop_map(Op::Xattr),
        2 => (path(), path()).prop_map(|(a, b)| Op::Link(a, b)),
        2 => path().prop_map(Op::Remove),
        3 => (path(), path()).prop_map(|(a, b)| Op::Rename(a, b)),
    ]
}

/// Does what it can of the operations; what it writes begins with `tag`.
fn apply(fs: &mut Fs, tag: &str, ops: &[Op]) {
    for (n, op) in ops.iter().enumerate() {
        let text = format!("{tag}{n}");
        let perm = 0o700 + u16::try_from(n % 64).unwrap();
        let _could = match *op {
            Op::Mkdir(at) => fs.mkdir(PATHS[at]),
            Op::Write(at) => fs.write(PATHS[at], &text),
            Op::Chmod(at) => fs.chmod(PATHS[at], perm),
            Op::Xattr(at) => fs.xattr(PATHS[at], &text),
            Op::Link(from, to) => fs.link(PATHS[from], PATHS[to]),
            Op::Remove(at) => fs.remove(PATHS[at]),
            Op::Rename(from, to) => fs.rename(PATHS[from], PATHS[to]),
        };
    }
}

/// Every text that is in a state with this tag.
fn tagged(paths: &BTreeMap<String, String>, tag: &str) -> BTreeSet<String> {
    paths.values().flat_map(|text| text.split(' ')).filter(|word| word.starts_with(tag)).map(ToOwned::to_owned).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_merge_is_sound_and_loses_nothing(
        before in prop::collection::vec(fs_op(), 0..25),
        rejected in prop::collection::vec(fs_op(), 0..6),
        mine in prop::collection::vec(fs_op(), 0..6),
    ) {
        let theirs = Fs::new().with(|fs| apply(fs, "V", &before));
        let base = theirs.with(|fs| apply(fs, "R", &rejected));
        let ours = base.with(|fs| apply(fs, "O", &mine));
        // Nothing rejected: all of ours. Nothing of ours: all of theirs.
        prop_assert_eq!(merged(&base, &base, &ours), Ok(ours.paths()));
        prop_assert_eq!(merged(&base, &theirs, &base), Ok(theirs.paths()));
        if let Ok(found) = merged(&base, &theirs, &ours) {
            prop_assert_eq!(tagged(&found, "R"), BTreeSet::new(), "what was rejected is back");
            prop_assert_eq!(tagged(&found, "O"), tagged(&ours.paths(), "O"), "a change is lost");
        }
    }

    #[test]
    fn changes_tell_old_paths_from_new(
        before in prop::collection::vec(fs_op(), 0..25),
        then in prop::collection::vec(fs_op(), 0..6),
    ) {
        let old = Fs::new().with(|fs| apply(fs, "V", &before));
        let new = old.with(|fs| apply(fs, "N", &then));
        let (a, b) = (old.paths(), new.paths());
        let mut listed = BTreeSet::new();
        for (path, kind) in kinds(&old, &new) {
            let path = if path.is_empty() { path } else { format!("/{path}") };
            let there = (a.contains_key(&path), b.contains_key(&path));
            let expected = match kind {
                ChangeKind::Added => (false, true),
                ChangeKind::Deleted => (true, false),
                _ => (true, true),
            };
            prop_assert_eq!(there, expected, "{} {:?}", &path, kind);
            listed.insert(path);
        }
        // What is not listed is equal but for link counts.
        let without_links = |text: &String| text.split(' ').enumerate().filter(|(n, _)| *n != 2).map(|(_, w)| w.to_owned()).collect::<Vec<_>>();
        for path in a.keys().chain(b.keys()).filter(|path| !listed.contains(*path)) {
            prop_assert_eq!(a.get(path).map(without_links), b.get(path).map(without_links), "{}", path);
        }
    }
}
