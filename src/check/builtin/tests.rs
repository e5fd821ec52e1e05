//! Built-in checks on versions made by hand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::cell::Cell;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::clock::{SystemClock, Timestamp};
use crate::ids::{Ino, VersionId};
use crate::store::Store;
use crate::tree::key::{Content, Key, Value};
use crate::tree::{Nodes, Tree, changes};

/// A version that is put together file by file. A clone is the next version, which is then changed.
#[derive(Clone)]
pub(super) struct World {
    pub(super) state: Snapshot,
}

/// One store for all: these versions have their bytes in their records, so nothing is written to it.
fn store() -> Arc<Store> {
    static STORE: LazyLock<Arc<Store>> = LazyLock::new(|| {
        let dir = tempfile::tempdir().unwrap();
        Arc::new(Store::init(&dir.path().join("store"), &SystemClock).unwrap())
    });
    Arc::clone(&STORE)
}

/// What a check said.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) verdict: Verdict,
    pub(super) log: String,
    metrics: Vec<(String, f64)>,
}

impl Said {
    pub(super) fn metric(&self, name: &str) -> f64 {
        self.metrics.iter().find(|(known, _)| known == name).unwrap_or_else(|| panic!("no {name}: {self:?}")).1
    }

    /// Its lines, which are there if and only if it failed.
    pub(super) fn lines(&self) -> Vec<&str> {
        assert_eq!(self.verdict == Verdict::Passed, self.log.is_empty(), "{self:?}");
        self.log.lines().collect()
    }
}

impl World {
    pub(super) fn new() -> Self {
        let store = store();
        let mut world = Self { state: Snapshot::new(Tree::new_empty(Nodes::new(Arc::clone(&store))), store) };
        world.put(Ino::ROOT, FileKind::Directory, b"", Content::None, 4096, Ino::ROOT);
        world
    }

    fn put(&mut self, ino: Ino, kind: FileKind, name: &[u8], content: Content, size: u64, parent: Ino) {
        static NOW: AtomicU64 = AtomicU64::new(1);
        let now = Timestamp { secs: i64::try_from(NOW.fetch_add(1, Ordering::Relaxed)).unwrap(), nanos: 0 };
        let record = InodeRecord {
            kind,
            perm: 0o644,
            uid: 0,
            gid: 0,
            nlink: 1,
            size,
            rdev: 0,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            content,
            parent,
            name: name.into(),
            changed_in: VersionId(0),
        };
        self.state.tree.insert(Key::inode(ino), Value::Inode(Arc::new(record))).unwrap();
    }

    fn enter(&mut self, path: &[u8], kind: FileKind, content: Content, size: u64) {
        static NEXT: AtomicU64 = AtomicU64::new(10);
        let (dir, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&b""[..], path),
        };
        if self.state.resolve(dir).unwrap().is_none() {
            self.enter(dir, FileKind::Directory, Content::None, 4096);
        }
        let dir = self.state.resolve(dir).unwrap().unwrap();
        let ino = match self.state.lookup(dir, name).unwrap() {
            Some((ino, _)) => ino,
            None => Ino(NEXT.fetch_add(1, Ordering::Relaxed)),
        };
        self.put(ino, kind, name, content, size, dir);
        self.state.tree.insert(Key::dirent(dir, name), Value::Dirent(ino, kind)).unwrap();
    }

    pub(super) fn file(mut self, path: impl AsRef<[u8]>, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        self.enter(path.as_ref(), FileKind::Regular, Content::Inline(bytes.into()), bytes.len() as u64);
        self
    }

    pub(super) fn link(mut self, path: &str, to: &str) -> Self {
        self.enter(path.as_bytes(), FileKind::Symlink, Content::Inline(to.as_bytes().into()), to.len() as u64);
        self
    }

    pub(super) fn without(mut self, path: &str) -> Self {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let dir = self.state.resolve(dir.as_bytes()).unwrap().unwrap();
        let (ino, _) = self.state.lookup(dir, name.as_bytes()).unwrap().unwrap();
        self.state.tree.remove(&Key::dirent(dir, name.as_bytes())).unwrap();
        self.state.tree.remove(&Key::inode(ino)).unwrap();
        self
    }

    /// What the check says of this version on top of `base`.
    pub(super) fn check(&self, name: &str, base: &Self) -> Said {
        self.check_with(name, &Options::default(), base)
    }

    /// The same with options.
    pub(super) fn check_with(&self, name: &str, options: &Options, base: &Self) -> Said {
        let changes = changes(&base.state, &self.state).unwrap();
        let mut log = Vec::new();
        let mut cx = Context::new(&self.state, &base.state, &changes, &mut log);
        let verdict = by_name(name, options).unwrap().run(&mut cx);
        let metrics = cx.metrics;
        Said { verdict, log: String::from_utf8(log).unwrap(), metrics }
    }
}

/// What a check says of a file that is new.
pub(super) fn check(name: &str, bytes: impl AsRef<[u8]>) -> Said {
    World::new().file("f", bytes).check(name, &World::new())
}

pub(super) fn summary(said: &Said) -> &str {
    match &said.verdict {
        Verdict::Failed { summary } => summary,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_name_of_the_configuration_is_a_check_and_the_other_way_round() {
    for name in NAMES {
        assert!(by_name(name, &Options::default()).is_some(), "{name}");
    }
    assert_eq!(NAMES, crate::config::BUILTINS);
    let source = include_str!("mod.rs");
    assert_eq!(source.matches("\" => Box::new(").count(), NAMES.len(), "a check that the configuration does not know");
    assert!(by_name("cvs", &Options::default()).is_none());
}

#[test]
fn utf8_says_where_across_pieces_and_lines() {
    assert!(check("utf8", "añb\n€\n😀").lines().is_empty());
    assert_eq!(
        check("utf8", b"ok\na\xc3\xb1\xffb\xe2\x82\n\xf0\x9f").lines(),
        ["f:2:3: the byte 0xff is not UTF-8", "f:2:5: the byte 0xe2 is not UTF-8", "f:3:1: the byte 0xf0 is not UTF-8",]
    );
    // Three bytes do not divide the pieces that files are read in, so that characters are cut; one bad byte far behind.
    let mut long = "€".repeat(400_000).into_bytes();
    assert!(check("utf8", &long).lines().is_empty());
    long.push(0x80);
    assert_eq!(check("utf8", &long).lines(), ["f:1:400001: the byte 0x80 is not UTF-8"]);
    assert_eq!(check("utf8", &long).metric("bytes"), 1_200_001.0);
}

#[test]
fn output_is_bounded_and_the_rest_counted() {
    let said = World::new().file("a", vec![0xff; 1000]).file("b", [0xff]).check("utf8", &World::new());
    let lines = said.lines();
    assert_eq!(lines.len(), 102);
    assert_eq!(lines[99..], ["a:1:100: the byte 0xff is not UTF-8", "a: 900 more findings", "b:1:1: the byte 0xff is not UTF-8"]);
    assert_eq!(summary(&said), "a:1:1: the byte 0xff is not UTF-8 (and 1000 more; 2 files in all)");
    assert_eq!((said.metric("files"), said.metric("bytes")), (2.0, 1001.0));
}

#[test]
fn json_is_one_value() {
    for good in ["{}", " [1, {\"a\": \"\\u00e9\"}, null]\n", "3", "\"x\""] {
        assert!(check("json", good).lines().is_empty(), "{good}");
    }
    assert_eq!(check("json", "{\n  \"a\": 1,\n}").lines(), ["f:3:1: key must be a string"]);
    assert_eq!(check("json", "[1] [2]").lines(), ["f:1:5: trailing characters"]);
    assert_eq!(check("json", "").lines(), ["f:1:1: EOF while parsing a value"]);
    assert_eq!(check("json", b"[\"\xff\"]").lines(), ["f:1:3: the byte 0xff is not UTF-8"]);
    // Depth takes no stack.
    let deep = 300_000;
    assert!(check("json", format!("{}{}", "[".repeat(deep), "]".repeat(deep))).lines().is_empty());
}

#[test]
fn jsonl_is_a_value_a_line_however_long() {
    let said = check("jsonl", "{\"a\":1}\n\n[2]\r\n3");
    assert!(said.lines().is_empty());
    assert_eq!(said.metric("rows"), 3.0);
    assert_eq!(
        check("jsonl", "{}\n{\"a\" 1}\n3 4\n{").lines(),
        ["f:2:6: expected `:`", "f:3:3: trailing characters", "f:4:1: EOF while parsing an object",]
    );
    let long = format!("\"{}\"", "x".repeat(3 << 20));
    let said = check("jsonl", format!("{long}\n{long},\n{{}}\n{long}"));
    assert_eq!(said.lines(), [format!("f:2:{}: trailing characters", long.len() + 1)]);
    assert_eq!(said.metric("rows"), 4.0);
}

#[test]
fn size_reports_and_never_fails() {
    let base = World::new().file("a", "12345").file("same", "x").file("gone", "123");
    let said = base.clone().file("a", "1234567").file("d/new", "1").without("gone").check("size", &base);
    assert!(said.lines().is_empty());
    assert_eq!((said.metric("files"), said.metric("bytes"), said.metric("bytes_before")), (2.0, 8.0, 8.0));
}

#[test]
fn deletes_fails_when_more_than_half_is_gone() {
    let of = |files: usize| (0..files).fold(World::new(), |world, at| world.file(format!("d/{at}"), "x"));
    let less = |world: &World, files: usize| (0..files).fold(world.clone(), |world, at| world.without(&format!("d/{at}")));
    let ten = of(10);
    assert!(less(&ten, 5).check("deletes", &ten).lines().is_empty());
    let said = less(&ten, 6).check("deletes", &ten);
    assert_eq!(said.lines(), ["removes 6 of 10 files (60 %); at most 50% may go"]);
    assert_eq!(said.metric("deleted"), 6.0);
    let nine = of(9);
    assert!(less(&nine, 9).check("deletes", &nine).lines().is_empty());
    // What only moved is not gone.
    let mut moved = less(&ten, 10);
    for at in 0..10 {
        let (name, path) = (format!("{at}"), format!("d/{at}"));
        let ino = ten.state.resolve(path.as_bytes()).unwrap().unwrap();
        moved.put(ino, FileKind::Regular, name.as_bytes(), Content::Inline(b"x"[..].into()), 1, Ino::ROOT);
        moved.state.tree.insert(Key::dirent(Ino::ROOT, name.as_bytes()), Value::Dirent(ino, FileKind::Regular)).unwrap();
    }
    assert!(moved.check("deletes", &ten).lines().is_empty());
}

#[test]
fn deletes_counts_only_where_it_looks() {
    let base = (0..20).fold(World::new(), |world, at| world.file(format!("{}/{at}", if at < 12 { "in" } else { "out" }), "x"));
    let next = (0..7).fold(base.clone(), |world, at| world.without(&format!("in/{at}")));
    let changes = changes(&base.state, &next.state).unwrap();
    let mut log = Vec::new();
    let mut cx = Context { looks_at: &|path| path.starts_with(b"in/"), ..Context::new(&next.state, &base.state, &changes, &mut log) };
    let verdict = by_name("deletes", &Options::default()).unwrap().run(&mut cx);
    assert_eq!(verdict, Verdict::Failed { summary: "removes 7 of 12 files (58 %); at most 50% may go".to_owned() });
    assert!(next.check("deletes", &base).lines().is_empty());
}

#[test]
fn names_are_utf8_and_have_no_control_characters() {
    let base = World::new().file(b"old\xff", "x");
    let next = base.clone().file(b"old\xff", "y").file("fine é", "x").file("d\n/inner", "x").file(b"bad\xff", "x").file("a\x1b[2Jb", "x");
    assert_eq!(
        next.check("names", &base).lines(),
        [
            "a\\u{1b}[2Jb: the name \"a\\u{1b}[2Jb\" has the control character U+001B",
            "bad\\xff: the name \"bad\\xff\" is not UTF-8 (byte 0xff)",
            "d\\n: the name \"d\\n\" has the control character U+000A",
        ]
    );
}

#[test]
fn only_what_changed_is_read() {
    let base = World::new().file("bad.json", "{").file("touched.json", "{");
    let next = base.clone().file("good.json", "{}").link("link", "bad.json");
    assert_eq!(next.check("json", &base).metric("files"), 1.0);
    assert!(next.check("json", &base).lines().is_empty());
}

#[test]
fn a_check_stops_when_it_is_told_to() {
    let (world, base) = (World::new().file("f", vec![b' '; 4 << 20]).file("SHA256SUMS", "x"), World::new());
    for name in NAMES {
        let changes = changes(&base.state, &world.state).unwrap();
        let mut log = Vec::new();
        let mut cx = Context { cancelled: &|| true, ..Context::new(&world.state, &base.state, &changes, &mut log) };
        assert_eq!(by_name(name, &Options::default()).unwrap().run(&mut cx), Verdict::Cancelled, "{name}");
    }
    // In the middle of a file, too.
    let asked = AtomicU64::new(0);
    let changes = changes(&base.state, &world.state).unwrap();
    let mut log = Vec::new();
    let cancelled = || asked.fetch_add(1, Ordering::Relaxed) > 5;
    let mut cx = Context { cancelled: &cancelled, ..Context::new(&world.state, &base.state, &changes, &mut log) };
    assert_eq!(by_name("json", &Options::default()).unwrap().run(&mut cx), Verdict::Cancelled);
}

#[test]
fn a_store_that_can_not_read_is_not_the_datas_fault() {
    let mut world = World::new();
    // An object that is not there.
    world.enter(b"f", FileKind::Regular, Content::Object(crate::ids::ObjectId(77)), 10);
    world.enter(b"SHA256SUMS", FileKind::Regular, Content::Object(crate::ids::ObjectId(78)), 10);
    for name in ["csv", "json", "jsonl", "manifest", "parquet", "sqlite", "utf8"] {
        let said = world.check(name, &World::new());
        let Verdict::CouldNotStart { why } = &said.verdict else { panic!("{name}: {said:?}") };
        assert!(why.contains(" can't be read: "), "{why}");
        assert_eq!(said.log.lines().collect::<Vec<_>>(), [why]);
    }
}

#[test]
fn an_attempt_filters_logs_and_keeps_to_its_time() {
    let (base, world) = (World::new(), World::new().file("in/a", "x,y\n1\n").file("out/b", "x,y\n1\n"));
    let dir = tempfile::tempdir().unwrap();
    let check = crate::config::Check::new("rows", crate::config::Action::Builtin("csv".to_owned()));
    let check = crate::config::Check { paths: vec!["in/*".to_owned()], ..check };
    let job = |timeout| BuiltinJob {
        name: "csv".to_owned(),
        options: Options::default(),
        version: world.state.clone(),
        base: base.state.clone(),
        changes: changes(&base.state, &world.state).unwrap().into(),
        plan: crate::check::Plan::new(&check).unwrap(),
        log: dir.path().join("log").into(),
        timeout: std::time::Duration::from_secs(timeout),
        output: 1 << 20,
    };
    let (handle, cancel) = crate::check::Cancel::new();
    let (outcome, metrics) = attempt(&job(600), &cancel, &SystemClock);
    assert_eq!(outcome, crate::store::record::Outcome::Found { summary: "in/a:2:1: the row has 1 field, the header 2".to_owned() });
    assert_eq!(metrics.iter().find(|(name, _)| name == "files"), Some(&("files".to_owned(), 1.0)));
    let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
    assert_eq!(log.lines().next(), Some("in/a:2:1: the row has 1 field, the header 2"));
    assert!(log.lines().any(|line| line == "shadowfs-metric rows 1"), "{log}");
    assert_eq!(attempt(&job(0), &cancel, &SystemClock).0, crate::store::record::Outcome::TimedOut);
    drop(handle);
    assert_eq!(attempt(&job(600), &cancel, &SystemClock).0, crate::store::record::Outcome::Cancelled);
}

#[test]
fn a_log_that_breaks_does_not_change_the_verdict() {
    struct Broken(Cell<u32>);
    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            self.0.set(self.0.get() + 1);
            Err(io::Error::other("disk full"))
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (world, base) = (World::new().file("f", b"\xff\xff"), World::new());
    let changes = changes(&base.state, &world.state).unwrap();
    let mut log = Broken(Cell::new(0));
    let verdict = by_name("utf8", &Options::default()).unwrap().run(&mut Context::new(&world.state, &base.state, &changes, &mut log));
    assert!(matches!(verdict, Verdict::Failed { .. }));
    assert_eq!(log.0.get(), 1);
}
