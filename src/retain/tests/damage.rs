//! Damage: whatever byte is turned over, it is found, and named by file and version; and what the structure must never be is found.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::lab::{How, Lab};
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::ids::{Ino, ObjectId, VersionId};
use crate::store::record::{AttemptRecord, Location, Outcome, VersionState};
use crate::store::verify::{self, Finding, Findings, Severity};
use crate::tree::key::{Content, Extent, FileKind, InodeRecord, Key, Value};
use crate::tree::verify::{Pace, Scrubbed, scrub};
use crate::tree::{Snapshot, Tree};

/// Three versions: many small files, so that the tree has several nodes; files of every kind of place; an alias.
fn lab() -> Lab {
    let mut lab = Lab::new();
    let names: Vec<String> = (0..150).map(|n| format!("many{n}")).collect();
    // Above what a pack takes at the seal.
    let own = vec![7; 150_000];
    let mut edits: Vec<(&str, Option<&[u8]>, How)> = names.iter().map(|name| (name.as_str(), Some(name.as_bytes()), How::Pack)).collect();
    edits.push(("own", Some(&own), How::Own));
    edits.push(("parts", Some(b"first half, other half"), How::Extents));
    let t1 = lab.seal(&edits);
    lab.pass(t1);
    let t2 = lab.seal(&[("many7", Some(b"new"), How::Pack), ("alias", Some(b"many8"), How::Pack), ("copy", Some(&own), How::Own)]);
    lab.pass(t2);
    lab.promote(t2);
    let t3 = lab.seal(&[("own", None, How::Own), ("parts", Some(b"again"), How::Pack)]);
    lab.reject(t3);
    let attempt = AttemptRecord {
        version: t3,
        check: "rows".to_owned(),
        attempt: 1,
        started_at: Timestamp::default(),
        took: Duration::ZERO,
        outcome: Outcome::Failed { code: Some(1) },
        rejects: true,
        metrics: vec![("rows".to_owned(), 3.0)],
    };
    let mut transaction = lab.store.catalog().begin().unwrap();
    transaction.put_attempt(&attempt).unwrap();
    transaction.commit().unwrap();
    assert_eq!(lab.fsck(), []);
    lab
}

fn scrubbed(lab: &Lab) -> Scrubbed {
    scrub(&lab.store, &Pace::new(&SystemClock, 0, &|_| ()), &AtomicBool::new(false)).unwrap()
}

/// Which files, by path, are concerned in which versions.
fn named(findings: &[Finding]) -> BTreeMap<String, BTreeSet<VersionId>> {
    let mut named: BTreeMap<String, BTreeSet<VersionId>> = BTreeMap::new();
    for finding in findings.iter().filter(|finding| finding.severity == Severity::Error) {
        if let Some(path) = &finding.path {
            named.entry(String::from_utf8(path.clone()).unwrap()).or_default().extend(&finding.versions);
        }
    }
    named
}

fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
}

/// The files that do not read as they must, by version.
fn differing(lab: &Lab) -> BTreeMap<String, BTreeSet<VersionId>> {
    let mut found: BTreeMap<String, BTreeSet<VersionId>> = BTreeMap::new();
    for (version, files) in &lab.model {
        let read = lab.try_read(*version);
        for (name, _) in files.iter().filter(|(name, bytes)| read.get(*name).and_then(|read| read.as_ref().ok()) != Some(bytes)) {
            found.entry(name.clone()).or_default().insert(*version);
        }
    }
    found
}

#[test]
fn a_byte_turned_over_in_any_content_is_named_by_files_and_versions() {
    let lab = lab();
    let whole = scrubbed(&lab);
    assert_eq!(whole.findings, []);
    let records = lab.store.catalog().objects(ObjectId(0), 1 << 20).unwrap();
    let own = |record: &&(ObjectId, crate::store::record::ObjectRecord)| !matches!(record.1.location, Location::Alias(_));
    assert_eq!(whole.objects, records.iter().filter(own).count() as u64);
    assert_eq!(whole.bytes, records.iter().filter(own).map(|(_, record)| record.len).sum::<u64>());
    let mut flips = 0;
    for (n, (id, record)) in records.iter().enumerate() {
        let (path, start): (PathBuf, u64) = match record.location {
            Location::File => (lab.path(&format!("objects/{:02x}/{id}", id.0 & 0xff)), 0),
            Location::Pack { pack, offset } => (lab.path(&format!("packs/{pack}")), offset),
            Location::Alias(_) => continue,
        };
        // Every byte of some, the first and the last of others: one file in ten of the many that are alike.
        let every = record.len < 30 && n % 50 == 0;
        let some = if every { (0..record.len).collect() } else { vec![0, record.len - 1] };
        for at in some.into_iter().filter(|_| every || n % 10 == 0 || record.len != 6) {
            flip(&path, start + at);
            let findings = scrubbed(&lab).findings;
            let concerned = differing(&lab);
            assert!(!concerned.is_empty());
            assert_eq!(named(&findings), concerned, "byte {at} of object {id}: {findings:?}");
            flip(&path, start + at);
            flips += 1;
        }
    }
    assert!(flips > 60, "{flips}");
    assert_eq!(scrubbed(&lab).findings, []);
}

#[test]
fn a_byte_turned_over_in_any_value_of_the_catalog_is_found_and_named() {
    let lab = lab();
    let mut flips = 0;
    for table in ["nodes", "objects", "versions", "events", "attempts", "single", "digests"] {
        for (at, len) in lab.store.catalog().value_lengths(table).unwrap().into_iter().enumerate() {
            if ["objects", "digests"].contains(&table) && at % 12 != 0 {
                continue;
            }
            for byte in BTreeSet::from([0, len / 2, len - 1]) {
                lab.store.catalog().flip(table, at, byte).unwrap();
                let findings = lab.fsck();
                let worse: Vec<_> = findings.iter().filter(|finding| finding.severity > Severity::Note).collect();
                assert!(!worse.is_empty(), "byte {byte} of {table} {at} is not found");
                if ["nodes", "versions", "attempts"].contains(&table) {
                    let says = |finding: &&&Finding| !finding.versions.is_empty() || finding.what.contains("version t");
                    assert!(worse.iter().any(|finding| says(&finding)), "{table}: {worse:?}");
                }
                if ["nodes", "objects"].contains(&table) {
                    unreadable_is_named(&lab, &findings);
                }
                lab.store.catalog().flip(table, at, byte).unwrap();
                flips += 1;
            }
        }
    }
    assert!(flips > 100, "{flips}");
    assert_eq!(lab.fsck(), []);
    lab.check_reads();
}

/// Every file that can't be read is among the findings; the root is, where its names can't be read.
fn unreadable_is_named(lab: &Lab, findings: &[Finding]) {
    let named = named(findings);
    let is_named = |path: &str, version: &VersionId| named.get(path).is_some_and(|versions| versions.contains(version));
    for (version, files) in &lab.model {
        let snapshot = Snapshot::new(lab.tree(*version), Arc::clone(&lab.store));
        for (name, bytes) in files {
            match snapshot.lookup(Ino::ROOT, name.as_bytes()) {
                Err(_) => assert!(is_named("", version), "the root of {version}"),
                Ok(None) => panic!("{name} is gone from {version} without an error"),
                Ok(Some((ino, _))) => match snapshot.read(ino, 0, 1 << 20) {
                    Ok(read) => assert_eq!(&read, bytes, "{name} in {version} reads as garbage"),
                    Err(_) => assert!(is_named(name, version), "{name} in {version}: {findings:?}"),
                },
            }
        }
    }
}

#[test]
fn files_that_are_gone_or_cut_are_named_and_what_nobody_needs_is_a_note() {
    let mut lab = lab();
    let records = lab.store.catalog().objects(ObjectId(0), 1 << 20).unwrap();
    let (own, _) = records.iter().find(|(_, record)| record.location == Location::File && record.len == 150_000).unwrap();
    let path = lab.path(&format!("objects/{:02x}/{own}", own.0 & 0xff));
    let bytes = fs::read(&path).unwrap();
    let both = BTreeMap::from([
        ("copy".to_owned(), BTreeSet::from([VersionId(2), VersionId(3)])),
        ("own".to_owned(), BTreeSet::from([VersionId(1), VersionId(2)])),
    ]);
    fs::write(&path, &bytes[..100_000]).unwrap();
    assert_eq!(named(&lab.fsck()), both);
    fs::remove_file(&path).unwrap();
    assert_eq!(named(&lab.fsck()), both);
    lab = lab.reopened();
    assert_eq!(named(&scrubbed(&lab).findings), both);
    fs::write(&path, &bytes).unwrap();
    assert_eq!(lab.fsck(), []);

    for name in ["packs/999", "objects/07/7", "objects/00/0"] {
        fs::write(lab.path(name), b"x").unwrap();
    }
    let notes = lab.fsck();
    assert!(notes.len() == 3 && notes.iter().all(|finding| finding.severity == Severity::Note), "{notes:?}");
    // What a process before left of an open version is not a leftover.
    let mut journal = lab.store.journal(VersionId(9)).unwrap();
    let edit = crate::store::JournalRecord::Truncate { object: ObjectId(7), len: 1 };
    journal.append(&[edit]).unwrap();
    journal.sync().unwrap();
    let report = lab.collect();
    assert_eq!((report.leftovers, lab.fsck().len()), (2, 0), "{report:?}");
    assert!(lab.path("objects/07/7").exists());
    let pack = lab.store.objects().settled_packs().unwrap()[0];
    fs::rename(lab.path(&format!("packs/{pack}")), lab.path("away")).unwrap();
    lab = lab.reopened();
    assert!(named(&lab.fsck()).len() > 100);
}

/// The findings about a version with the tree that `change` makes of the base's.
fn with(change: impl Fn(&mut Tree)) -> Vec<String> {
    let mut lab = lab();
    let version = lab.store.ids().version();
    let (mut tree, files, objects) = lab.edited(version, &[("f", Some(b"0123456789"), How::Extents)]);
    change(&mut tree);
    lab.seal_tree(version, &tree, files, &objects);
    let findings = lab.fsck();
    assert!(findings.iter().all(|finding| finding.severity == Severity::Note || finding.versions == [version]), "{findings:?}");
    findings.iter().filter(|finding| finding.severity == Severity::Error).map(Finding::to_string).collect()
}

fn ino_of(tree: &Tree, name: &str) -> Ino {
    match tree.get(&Key::dirent(Ino::ROOT, name.as_bytes())).unwrap() {
        Some(Value::Dirent(ino, _)) => ino,
        other => panic!("{name}: {other:?}"),
    }
}

fn change_record(tree: &mut Tree, ino: Ino, change: impl Fn(&mut InodeRecord)) {
    let Some(Value::Inode(record)) = tree.get(&Key::inode(ino)).unwrap() else { panic!("no {ino}") };
    let mut record = InodeRecord::clone(&record);
    change(&mut record);
    tree.insert(Key::inode(ino), Value::Inode(Arc::new(record))).unwrap();
}

#[test]
fn entries_that_contradict_each_other_are_found_where_they_are() {
    assert!(with(|_| ()).is_empty());
    let expect = |change: &dyn Fn(&mut Tree), what: &[&str]| {
        let findings = with(change);
        for what in what {
            assert!(findings.iter().any(|finding| finding.contains(what)), "{what}: {findings:?}");
        }
        assert_eq!(findings.len(), what.len(), "{findings:?}");
    };
    expect(&|tree| change_record(tree, ino_of(tree, "many3"), |record| record.nlink = 2), &["many3: its link count is 2 where it has 1"]);
    expect(&|tree| change_record(tree, Ino::ROOT, |record| record.nlink = 3), &["/: its link count is 3 where it has 2"]);
    let nowhere = |tree: &mut Tree| drop(tree.insert(Key::dirent(Ino::ROOT, b"x"), Value::Dirent(Ino(999), FileKind::Regular)).unwrap());
    expect(&nowhere, &["x: it leads to inode 999, which has no record"]);
    let unnamed = |tree: &mut Tree| drop(tree.remove(&Key::dirent(Ino::ROOT, b"many4")).unwrap());
    expect(&unnamed, &["is \"many4\" in directory 1, which does not know of it"]);
    let record_gone = |tree: &mut Tree| drop(tree.remove(&Key::inode(ino_of(tree, "f"))).unwrap());
    expect(&record_gone, &["f: it leads to inode", "has entries and no record"]);
    let second = |tree: &mut Tree| {
        drop(tree.insert(Key::dirent(Ino::ROOT, b"twin"), Value::Dirent(ino_of(tree, "many5"), FileKind::Regular)).unwrap())
    };
    expect(&second, &["twin: inode"]);
    let link = |tree: &mut Tree| drop(tree.insert(Key::link(ino_of(tree, "many5"), Ino::ROOT, b"many6"), Value::Link).unwrap());
    expect(&link, &["is \"many6\" in directory 1, which does not know of it", "its link count is 1 where it has 2"]);
    let overlap = |tree: &mut Tree| {
        let ino = ino_of(tree, "f");
        let Some(Value::Extent(first)) = tree.get(&Key::extent(ino, 0)).unwrap() else { panic!("no extent") };
        tree.insert(Key::extent(ino, 3), Value::Extent(Extent { len: 1, ..first })).unwrap();
    };
    expect(&overlap, &["f: extents overlap (at 3)"]);
    let kind = |tree: &mut Tree| change_record(tree, ino_of(tree, "many9"), |record| record.kind = FileKind::Fifo);
    expect(&kind, &["many9: its entry says Regular, its inode Fifo", "which does not know of it"]);
    let inline = |tree: &mut Tree| change_record(tree, ino_of(tree, "f"), |record| record.content = Content::None);
    expect(&inline, &["(at 0)", "(at 5)"]);
    // Two directories, each in the other.
    let circle = |tree: &mut Tree| {
        let Some(Value::Inode(root)) = tree.get(&Key::inode(Ino::ROOT)).unwrap() else { panic!("no root") };
        for (ino, other, name) in [(Ino(5_000), Ino(5_001), &b"a"[..]), (Ino(5_001), Ino(5_000), &b"b"[..])] {
            let record = InodeRecord { parent: other, name: name.into(), nlink: 3, ..InodeRecord::clone(&root) };
            tree.insert(Key::inode(ino), Value::Inode(Arc::new(record))).unwrap();
            tree.insert(Key::dirent(other, name), Value::Dirent(ino, FileKind::Directory)).unwrap();
        }
    };
    expect(&circle, &["directory 5000 is not below the root", "directory 5001 is not below the root"]);
}

#[test]
fn records_that_the_lineage_contradicts_are_found() {
    let lab = lab();
    let mut record = lab.history.get(VersionId(3)).unwrap().clone();
    record.state = VersionState::Valid;
    let mut other = lab.history.get(VersionId(1)).unwrap().clone();
    other.root = lab.history.get(VersionId(2)).unwrap().root;
    let mut transaction = lab.store.catalog().begin().unwrap();
    transaction.put_version(&record).unwrap();
    transaction.put_version(&other).unwrap();
    transaction.commit().unwrap();
    let findings: Vec<String> = lab.fsck().iter().map(Finding::to_string).collect();
    assert!(findings.contains(&"t3: it is valid, but the lineage says that it is ghost (t3)".to_owned()), "{findings:?}");
    assert!(findings.iter().any(|finding| finding.starts_with("t1: its digest is ")), "{findings:?}");
}

#[test]
fn what_happens_between_two_reads_of_a_check_is_no_damage() {
    let mut lab = lab();
    let t4 = lab.seal(&[("f", Some(b"f"), How::Pack)]);
    let mut findings = Findings::default();
    let read_before = verify::versions(&lab.store, &mut findings).unwrap();
    // While fsck reads on.
    lab.pass(t4);
    lab.promote(t4);
    verify::check_states(&lab.store, &read_before, &mut findings).unwrap();
    assert!(findings.is_empty(), "{:?}", findings.into_list());
}

/// A clock that only waiting moves.
#[derive(Debug)]
struct Waiting {
    begun: Instant,
    waited: parking_lot::Mutex<Duration>,
}

impl Clock for Waiting {
    fn now(&self) -> Timestamp {
        Timestamp::default()
    }

    fn instant(&self) -> Instant {
        self.begun + *self.waited.lock()
    }
}

#[test]
fn a_scrub_waits_as_long_as_its_rate_says() {
    let lab = lab();
    let clock = Waiting { begun: SystemClock.instant(), waited: parking_lot::Mutex::default() };
    let longest = Cell::new(Duration::ZERO);
    let sleep = |nap: Duration| {
        longest.set(longest.get().max(nap));
        *clock.waited.lock() += nap;
    };
    let pace = Pace::new(&clock, 1_000, &sleep);
    let report = scrub(&lab.store, &pace, &AtomicBool::new(false)).unwrap();
    assert_eq!((pace.read(), report.findings.len()), (report.bytes, 0));
    assert_eq!(*clock.waited.lock(), Duration::from_millis(report.bytes));
    assert_eq!(longest.get(), Duration::from_millis(500));
    let stopped = scrub(&lab.store, &pace, &AtomicBool::new(true));
    assert!(matches!(stopped, Err(crate::tree::verify::VerifyError::Stopped)));
}
