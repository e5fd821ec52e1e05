//! The whole lifecycle on a disk that keeps only what was synced: every operation on it as a crash point.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::disk::{Dice, KEPT, Lie, SimulatedDisk};
use super::*;
use crate::ids::{EventSeq, Ino};
use crate::retain::gc::{Collector, GcError};
use crate::store::event::Event;
use crate::store::record::{Outcome, Pointers, VersionRecord};
use crate::store::verify::{self, Finding, Severity};
use crate::tree::verify::fsck;
use crate::tree::{Nodes, Snapshot, Tree};
use crate::version::{FsError, FsResult};

/// So many crashes in an ordinary run (`SHADOWFS_CRASH_POINTS` asks for more), and so many of one history.
const CRASHES: usize = 300;
const OF_ONE: usize = 60;

pub(super) type Files = BTreeMap<String, String>;

/// What the catalog says, all of it but the events.
pub(super) type Said = (Vec<VersionRecord>, Pointers, Vec<(String, VersionId)>, usize);

/// What was done, and what was said of it when. Numbers are lengths of the disk's record.
#[derive(Default)]
pub(super) struct Recorded {
    pub(super) begun: usize,
    pub(super) events: Vec<Event>,
    /// So many events were in the catalog then.
    pub(super) told: Vec<(usize, usize)>,
    pub(super) contents: BTreeMap<VersionId, Files>,
    /// Files whose fsync had returned.
    pub(super) fsynced: Vec<(usize, String, String)>,
    /// When something began that may take a file's bytes away (`*`: any file's).
    pub(super) touched: Vec<(usize, String)>,
    /// Whether a version was held, or it is not known for sure.
    pub(super) held: Vec<(usize, Option<bool>)>,
    /// A sync of the catalog has failed: the transaction that it was for, which nobody was told of, is there after a crash or not.
    pub(super) unsure: bool,
    /// No log of a check was refused: each that failed must have its own.
    logs: bool,
}

pub(super) fn content(snapshot: &Snapshot) -> Files {
    content_but(snapshot, &[])
}

/// The files but those that the disk has taken, of which there is what there is.
pub(super) fn content_but(snapshot: &Snapshot, lost: &[String]) -> Files {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let entries = snapshot.entries(Ino::ROOT, 0, 1000).unwrap().into_iter().map(|(name, ino, _)| (text(&name), ino));
    let there = entries.filter(|(name, _)| !lost.contains(name));
    there.map(|(name, ino)| (name, text(&snapshot.read(ino, 0, 1 << 20).unwrap()))).collect()
}

/// The files of a version that its reason says the disk has taken.
pub(super) fn lost_in(record: &VersionRecord) -> &[String] {
    match &record.reason {
        Some(Reason::Unreadable { paths, .. }) => paths,
        _ => &[],
    }
}

struct Workload<'a> {
    daemon: &'a Daemon,
    disk: &'a SimulatedDisk,
    dice: Dice,
    recorded: Recorded,
    unique: u64,
}

impl Workload<'_> {
    fn touch(&mut self, name: &str) {
        self.recorded.touched.push((self.disk.len(), name.to_owned()));
    }

    fn put(&mut self, name: &str, text: &str, sync: bool) {
        self.touch(name);
        match self.try_put(name, text, sync) {
            // A verdict that nobody waited for took the version away under the writer.
            Ok(()) | Err(FsError::Stale) => {}
            Err(error) => panic!("{name}: {error}"),
        }
    }

    fn try_put(&mut self, name: &str, text: &str, sync: bool) -> FsResult<()> {
        let staging = &self.daemon.connections().staging;
        let flags = libc::O_WRONLY | libc::O_TRUNC;
        let opened = match staging.lookup(NodeRef::ROOT, name.as_bytes()) {
            Ok(attr) => staging.open(&ROOT, attr.node, flags)?,
            Err(_) => staging.create(&ROOT, NodeRef::ROOT, name.as_bytes(), 0o644, 0, flags)?.1,
        };
        let done = staging.write(&ROOT, opened.handle, 0, text.as_bytes(), false).and_then(|_| {
            if sync {
                staging.fsync(opened.handle, false)?;
                self.recorded.fsynced.push((self.disk.len(), name.to_owned(), text.to_owned()));
            }
            staging.flush(opened.handle)
        });
        staging.release(opened.handle);
        done
    }

    /// Writes into a file that is there: if its bytes are a sealed version's, they are cloned where the disk can.
    fn patch(&mut self, name: &str, text: &str, sync: bool) -> FsResult<()> {
        self.touch(name);
        let staging = &self.daemon.connections().staging;
        let opened = staging.open(&ROOT, staging.lookup(NodeRef::ROOT, name.as_bytes())?.node, libc::O_RDWR)?;
        let done = staging.write(&ROOT, opened.handle, 1000, text.as_bytes(), false).and_then(|_| {
            if sync {
                staging.fsync(opened.handle, false)?;
                let whole = String::from_utf8(staging.read(opened.handle, 0, 1 << 20)?).unwrap();
                self.recorded.fsynced.push((self.disk.len(), name.to_owned(), whole));
            }
            staging.flush(opened.handle)
        });
        staging.release(opened.handle);
        done
    }

    fn name(&mut self) -> String {
        format!("{}.json", self.dice.below(5))
    }

    fn step(&mut self) {
        self.unique += 1;
        let number = self.unique;
        let sync = self.dice.chance(50);
        match self.dice.below(28) {
            0..=8 => {
                let (name, bad) = (self.name(), self.dice.chance(15));
                self.put(&name, &if bad { format!("[{number}") } else { number.to_string() }, sync);
            }
            9 if self.dice.chance(60) => {
                let name = format!("{}.txt", self.dice.below(3));
                match self.patch(&name, &format!("{number} "), sync) {
                    Ok(()) | Err(FsError::Stale | FsError::NotFound) => {}
                    Err(error) => panic!("{name}: {error}"),
                }
            }
            // Past what is packed: a host file of its own.
            9..=11 => {
                let name = format!("{}.txt", self.dice.below(3));
                self.put(&name, &format!("{number}\n").repeat(140_000 / 4), sync);
            }
            // More files than are synced one by one.
            12 if self.dice.chance(30) => {
                for file in 0..17 {
                    self.put(&format!("many{file}"), &format!("{number} {file}\n").repeat(20_000), false);
                }
            }
            12 | 13 => {
                let name = self.name();
                self.touch(&name);
                let _ = self.daemon.connections().staging.unlink(&ROOT, NodeRef::ROOT, name.as_bytes());
            }
            14 => self.rename(),
            15..=19 => self.commit(),
            20 => self.quiet(),
            21 => {
                self.touch("*");
                self.daemon.ask(Request::Rollback { version: None });
            }
            22 => self.restore(),
            23 => self.keep(),
            24 => self.drop_and_sweep(),
            25 => {
                self.recorded.held.push((self.disk.len(), None));
                let held = !matches!(self.daemon.ask(Request::Begin { message: Some("job".to_owned()) }), Reply::Refused(_));
                if held {
                    self.recorded.held.push((self.disk.len(), Some(true)));
                }
            }
            26 => {
                self.touch("*");
                self.recorded.held.push((self.disk.len(), None));
                self.daemon.ask(Request::Abort);
                self.recorded.held.push((self.disk.len(), Some(false)));
            }
            _ => drop(self.daemon.ask(Request::Promote { version: None })),
        }
        self.note();
    }

    fn rename(&mut self) {
        let (from, to) = (self.name(), self.name());
        self.touch(&from);
        self.touch(&to);
        let mode = crate::version::staging::RenameMode::Replace;
        let staging = &self.daemon.connections().staging;
        let _ = staging.rename(&ROOT, NodeRef::ROOT, from.as_bytes(), NodeRef::ROOT, to.as_bytes(), mode);
    }

    fn commit(&mut self) {
        self.recorded.held.push((self.disk.len(), None));
        let sealed = self.daemon.ask(Request::Commit { message: None });
        self.recorded.held.push((self.disk.len(), if matches!(sealed, Reply::Refused(_)) { None } else { Some(false) }));
        if let (Reply::Version(doc), true) = (sealed, self.dice.chance(70)) {
            self.daemon.verdict(doc.version.0);
        }
    }

    fn any_version(&mut self) -> VersionName {
        let Reply::Log(versions) = self.daemon.ask(Request::Log { limit: None }) else { panic!("no log") };
        VersionName::Number(versions[self.dice.below(versions.len())].version)
    }

    fn restore(&mut self) {
        let version = self.any_version();
        self.touch("*");
        self.daemon.ask(Request::Restore { version });
    }

    fn keep(&mut self) {
        let version = self.any_version();
        match self.dice.below(3) {
            0 => self.daemon.ask(Request::Pin { version, on: true }),
            1 => self.daemon.ask(Request::Tag { name: "release".to_owned(), version, force: true }),
            _ => self.daemon.ask(Request::Untag { name: "release".to_owned() }),
        };
    }

    fn drop_and_sweep(&mut self) {
        self.quiet();
        for _ in 0..4 {
            let version = self.any_version();
            self.touch("*");
            self.daemon.ask(Request::Drop { version });
        }
        sweep(self.daemon);
    }

    fn quiet(&self) {
        quiet(self.daemon);
    }

    /// Notes what is reported now. What is read from the catalog first is on the disk by the time that its length is taken.
    fn note(&mut self) {
        let connections = self.daemon.connections();
        let events = connections.shared.store.catalog().events(EventSeq(0)).unwrap().len();
        let visible = connections.shared.visible();
        for (version, shown) in visible.versions.iter().chain(&visible.ghosts) {
            self.recorded.contents.entry(*version).or_insert_with(|| content(&shown.snapshot));
        }
        self.recorded.told.push((self.disk.len(), events));
    }
}

pub(super) fn sweep(daemon: &Daemon) {
    let store = &daemon.connections().shared.store;
    let staging = &daemon.connections().staging;
    let live = || vec![staging.snapshot().unwrap().tree];
    // The daemon's own sweep may be under way.
    while let Err(error) = Collector::new(store, &live, &AtomicBool::new(false)).collect() {
        assert!(matches!(error, GcError::Busy), "{error}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until nothing is checked and nothing waits for promotion.
pub(super) fn quiet(daemon: &Daemon) {
    let begun = Instant::now();
    loop {
        let status = daemon.status();
        if status.checking.is_empty() && (status.flagged.is_empty() || status.held_back.is_some()) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "it does not come to rest: {status:#?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub(super) fn fast_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// An empty store on the disk.
fn store_on(disk: &Arc<SimulatedDisk>) -> tempfile::TempDir {
    let dir = fast_dir();
    let store = Store::init_on(&dir.path().join("store"), &SystemClock, Some(Arc::clone(disk) as _)).unwrap();
    let _t0 = import::empty(&Arc::new(store), &SystemClock).unwrap();
    dir
}

/// A daemon over an empty store on the disk.
pub(super) fn recorded_daemon(disk: &Arc<SimulatedDisk>) -> Daemon {
    Daemon::start_over(store_on(disk), JSON, Some(Arc::clone(disk) as _))
}

fn record(seed: u64, disk: &Arc<SimulatedDisk>) -> Recorded {
    let dir = store_on(disk);
    let begun = disk.len();
    let daemon = Daemon::start_over(dir, JSON, Some(Arc::clone(disk) as _));
    let recorded = Recorded { begun, logs: true, ..Recorded::default() };
    let mut workload = Workload { daemon: &daemon, disk, dice: Dice::new(seed), recorded, unique: 1000 * seed };
    workload.note();
    for _ in 0..40 {
        workload.step();
    }
    workload.quiet();
    workload.note();
    let mut recorded = workload.recorded;
    recorded.events = daemon.connections().shared.store.catalog().events(EventSeq(0)).unwrap();
    recorded
}

/// What the catalog says is what it said at that commit whenever it was looked at, the lineage is the one that was told, and all is whole.
pub(super) fn verify_store(recorded: &Recorded, at: usize, path: &Path, commits: &mut HashMap<u64, Said>) {
    let store = Arc::new(Store::open(path).unwrap());
    let catalog = store.catalog();
    let events = catalog.events(EventSeq(0)).unwrap();
    let told = recorded.told.iter().filter(|(length, _)| *length <= at).map(|(_, events)| *events).max().unwrap_or(0);
    assert!(events.len() >= told, "{} events of {told} that were told", events.len());
    let known = events.len().min(recorded.events.len());
    assert!(recorded.events.starts_with(&events[..known]), "the lineage is another");
    assert!(recorded.unsure || events.len() == known, "{} events that nobody was told of", events.len() - known);
    let said = (catalog.versions().unwrap(), catalog.pointers().unwrap(), catalog.tags().unwrap(), events.len());
    let first = commits.entry(catalog.commits().unwrap()).or_insert_with(|| said.clone());
    assert_eq!(*first, said);
    assert_eq!(verify::lineage(&store, &said.0).unwrap(), []);
    let findings = fsck(&store, &Vec::new, &AtomicBool::new(false)).unwrap();
    let lost_in = |version: VersionId| said.0.iter().find(|record| record.version == version).map(lost_in).unwrap_or_default();
    let is_told = |finding: &Finding| {
        let path = finding.path.as_ref().map(|path| String::from_utf8_lossy(path).into_owned());
        let told = |version: &VersionId| path.as_ref().is_some_and(|path| lost_in(*version).contains(path));
        !finding.versions.is_empty() && finding.versions.iter().all(told)
    };
    assert!(findings.iter().all(|finding| finding.severity != Severity::Error || is_told(finding)), "{findings:#?}");
    let nodes = Nodes::new(Arc::clone(&store));
    for record in &said.0 {
        if recorded.logs {
            verify_logs(&store, record.version);
        }
        if let Some(root) = record.root {
            let found = content_but(&Snapshot::new(Tree::stored(Arc::clone(&nodes), root), Arc::clone(&store)), lost_in(record.version));
            if let Some(expected) = recorded.contents.get(&record.version) {
                let lost = |name: &String| lost_in(record.version).contains(name);
                assert!(expected.iter().filter(|(name, _)| !lost(name)).eq(found.iter()), "{} holds something else", record.version);
            }
        }
    }
}

/// What a failed attempt has found stands in its log.
fn verify_logs(store: &Store, version: VersionId) {
    for attempt in store.catalog().attempts(version).unwrap() {
        if let Outcome::Found { summary } = &attempt.outcome {
            let name = format!("logs/{version}/{}.{}.log", attempt.check, attempt.attempt);
            let log = std::fs::read_to_string(store.path().join(&name)).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(log.lines().any(|line| !line.is_empty() && summary.starts_with(line)), "{name}: {log}");
        }
    }
}

/// What was fsynced and is neither in staging nor in a version or ghost.
fn nowhere(recorded: &Recorded, at: usize, daemon: &Daemon) -> Option<String> {
    let visible = daemon.connections().shared.visible();
    let staging = content(&daemon.connections().staging.snapshot().unwrap());
    let catalog = daemon.connections().shared.store.catalog();
    let lost_in = |version: VersionId| lost_in(&catalog.version(version).unwrap().unwrap()).to_vec();
    let shown = visible.versions.iter().chain(&visible.ghosts);
    let shown: Vec<Files> = shown.map(|(version, shown)| content_but(&shown.snapshot, &lost_in(*version))).collect();
    for (acknowledged, name, text) in recorded.fsynced.iter().filter(|(acknowledged, ..)| *acknowledged <= at) {
        let later = |(begun, touched): &(usize, String)| (touched == name || touched == "*") && begun >= acknowledged && *begun < at;
        let holds = |files: &Files| files.get(name) == Some(text);
        if !recorded.touched.iter().any(later) && !holds(&staging) && !shown.iter().any(holds) {
            return Some(format!("{name} ({text:.20?}) was fsynced and is nowhere"));
        }
    }
    None
}

/// The daemon starts on it, comes to rest, and what was fsynced is somewhere; then work goes on.
pub(super) fn verify_daemon(recorded: &Recorded, at: usize, dir: tempfile::TempDir) -> tempfile::TempDir {
    let mut daemon = Daemon::start_over(dir, JSON, None);
    quiet(&daemon);
    let status = daemon.status();
    assert!(status.warnings.is_empty(), "{:?}", status.warnings);
    // What a rejection takes from staging, a ghost has a moment later, when that is sealed.
    let begun = Instant::now();
    while let Some(lost) = nowhere(recorded, at, &daemon) {
        assert!(begun.elapsed() < Duration::from_secs(60), "{lost}");
        std::thread::sleep(Duration::from_millis(1));
    }
    let begun = recorded.held.iter().rfind(|(begun, _)| *begun < at).map(|(_, held)| *held);
    let ended = recorded.held.iter().rfind(|(ended, _)| *ended <= at).map(|(_, held)| *held);
    if let (Some(Some(held)), true) = (ended, begun == ended) {
        let found = super::super::hold::Hold::load(&daemon.connections().shared.store);
        assert_eq!(found.is_some(), held, "{found:?}");
    }
    daemon.put("after the crash", "new");
    // A job whose first part went down says so once.
    let again = matches!(daemon.ask(Request::Commit { message: None }), Reply::Refused(_)).then(|| daemon.commit());
    let sealed = again.unwrap_or_else(|| daemon.status().latest);
    // Bounded, where a wait for the verdict is not.
    quiet(&daemon);
    assert_ne!(daemon.verdict(sealed.0).state, VersionState::Checking);
    quiet(&daemon);
    sweep(&daemon);
    daemon.end()
}

struct Told(u64, usize, super::disk::Kept);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("history {}, crash after {} operations, kept: {:?}", self.0, self.1, self.2);
        }
    }
}

fn history(seed: u64, most: usize, lie: Option<Lie>) -> usize {
    let disk = Arc::new(SimulatedDisk::default());
    disk.can_clone(seed.is_multiple_of(2));
    let recorded = record(seed, &disk);
    let mut dice = Dice::new(seed);
    let mut dir = fast_dir();
    std::fs::create_dir(dir.path().join("store")).unwrap();
    let every = ((disk.len() - recorded.begun) / most).max(1);
    let (mut crashes, mut tried, mut at, mut commits) = (disk.crashes(), 0, recorded.begun, HashMap::new());
    crashes.advance(at, &mut dice);
    crashes.lie = lie;
    while at <= disk.len() {
        crashes.advance(at, &mut dice);
        let kept = KEPT[dice.below(KEPT.len())];
        crashes.image(kept, &mut dice).lay_out(&dir.path().join("store"));
        let _told = Told(seed, at, kept);
        verify_store(&recorded, at, &dir.path().join("store"), &mut commits);
        if lie.is_none() {
            dir = verify_daemon(&recorded, at, dir);
        }
        tried += 1;
        at += 1 + dice.below(2 * every - 1);
    }
    tried
}

#[test]
fn what_was_reported_survives_a_crash_at_any_operation_of_the_lifecycle() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let (wanted, mut seed) =
        (number("SHADOWFS_CRASH_POINTS").unwrap_or(CRASHES as u64) as usize, number("SHADOWFS_CRASH_SEED").unwrap_or(1));
    let (mut tried, first) = (0, seed);
    while tried < wanted {
        tried += history(seed, OF_ONE, None);
        seed += 1;
    }
    println!("{tried} crashes of {} histories (from {first} on)", seed - first);
}

#[test]
fn what_abort_discards_comes_back_whole_after_a_crash_or_not_at_all() {
    let disk = Arc::new(SimulatedDisk::default());
    let daemon = recorded_daemon(&disk);
    let mut workload = Workload { daemon: &daemon, disk: &disk, dice: Dice::new(1), recorded: Recorded::default(), unique: 0 };
    let text = "large\n".repeat(40_000);
    for number in 0..3 {
        workload.put(&format!("large{number}.txt"), &text, true);
    }
    let from = disk.len();
    assert!(matches!(daemon.ask(Request::Abort), Reply::Version(_)));
    let (to, mut dice, mut crashes, mut came_back) = (disk.len(), Dice::new(1), disk.crashes(), 0);
    drop(daemon);
    for at in from..=to {
        crashes.advance(at, &mut dice);
        for kept in KEPT {
            let dir = fast_dir();
            std::fs::create_dir(dir.path().join("store")).unwrap();
            crashes.image(kept, &mut dice).lay_out(&dir.path().join("store"));
            let daemon = Daemon::start_over(dir, JSON, None);
            let staging = content(&daemon.connections().staging.snapshot().unwrap());
            assert!(staging.values().all(|found| *found == text), "crash after {at} of {from} to {to} operations, kept: {kept:?}");
            assert!(staging.is_empty() || at < to, "it was said to be discarded");
            came_back += usize::from(!staging.is_empty());
        }
    }
    assert!(came_back > 0);
}

/// The first test can fail: on a disk whose syncs do nothing, it does.
#[test]
fn a_disk_that_lies_is_found_out() {
    for lie in [Lie::Files, Lie::Dirs, Lie::All] {
        let caught = (1..20).any(|seed| std::panic::catch_unwind(|| history(seed, 100, Some(lie))).is_err());
        assert!(caught, "{lie:?} are not synced, and nothing is missed");
    }
}
