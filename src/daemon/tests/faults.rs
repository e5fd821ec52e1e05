//! A disk that refuses one operation of the store, whichever: the caller hears that errno, what was reported stays, work goes on.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::crash_points::{Recorded, content, fast_dir, quiet, recorded_daemon, sweep, verify_daemon, verify_store};
use super::disk::{Dice, KEPT, Refusal, SimulatedDisk, Sort};
use super::*;
use crate::ids::EventSeq;
use crate::store::StoreError;
use crate::version::FsError;

/// So many faults in an ordinary run; `SHADOWFS_FAULT_POINTS` asks for more.
const FAULTS: usize = 100;
/// As many at once: most of a run is waiting for what is tried again.
const AT_ONCE: usize = 12;

/// What is refused: the operation of this number among those of a sort, with this errno.
#[derive(Clone, Copy, Debug)]
struct Fault {
    number: usize,
    sort: Sort,
    errno: i32,
}

const SORTS: [Sort; 7] = [Sort::Open, Sort::Name, Sort::List, Sort::Stat, Sort::Read, Sort::Write, Sort::Sync];

impl Fault {
    /// Room can be made; a disk that failed a read or a sync can't be put right by anybody.
    fn is_room(&self) -> bool {
        self.errno == libc::ENOSPC
    }

    fn refusal(&self) -> Refusal {
        Refusal::Once { number: self.number, sort: Some(self.sort), errno: self.errno }
    }
}

struct Script<'a> {
    daemon: &'a Daemon,
    disk: &'a SimulatedDisk,
    errno: i32,
    recorded: Recorded,
}

impl Script<'_> {
    /// The caller hears the disk's errno, and no other.
    fn heard<T>(&self, what: &str, result: Result<T, FsError>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(FsError::Poisoned | FsError::Stale) => None,
            Err(error) => {
                assert!(error.to_string().contains(&format!("(os error {})", self.errno)), "{what}: {error}");
                None
            }
        }
    }

    /// `None` if there was no answer within a time in which all that is tried again soon has been.
    fn ask(&self, request: Request) -> Option<Reply> {
        let Connections { shared, staging, messages, keeper } = self.daemon.connections();
        let asker = Connections {
            shared: Arc::clone(shared),
            staging: Arc::clone(staging),
            messages: messages.clone(),
            keeper: Arc::clone(keeper),
        };
        let (sender, answer) = crossbeam::channel::bounded(1);
        std::thread::spawn(move || {
            let reply = asker.handle(request);
            drop(asker);
            let _ = sender.send(reply);
        });
        answer.recv_timeout(Duration::from_millis(1_500)).ok()
    }

    fn request(&self, request: Request) -> Option<Reply> {
        let text = format!("{request:?}");
        let reply = self.ask(request)?;
        if let Reply::Refused(refusal) = &reply
            && refusal.kind == crate::control::protocol::ErrorKind::Failed
        {
            let says = |text: &str| refusal.message.contains(text);
            assert!(
                says(&format!("(os error {})", self.errno)) || says("see `shadowfs status`") || says("there is no version"),
                "{text}: {refusal:?}"
            );
        }
        Some(reply)
    }

    fn put(&mut self, name: &str, text: &str, sync: bool) {
        self.recorded.touched.push((self.disk.len(), name.to_owned()));
        let staging = &self.daemon.connections().staging;
        let flags = libc::O_WRONLY | libc::O_TRUNC;
        let opened = match staging.lookup(NodeRef::ROOT, name.as_bytes()) {
            Ok(attr) => staging.open(&ROOT, attr.node, flags),
            Err(_) => staging.create(&ROOT, NodeRef::ROOT, name.as_bytes(), 0o644, 0, flags).map(|(_, opened)| opened),
        };
        let Some(opened) = self.heard("open", opened) else { return };
        let mut at = 0;
        while let Some(n) = self.heard("write", staging.write(&ROOT, opened.handle, at as u64, &text.as_bytes()[at..], false)) {
            at += n as usize;
            if at == text.len() {
                break;
            }
        }
        if sync && at == text.len() && self.heard("fsync", staging.fsync(opened.handle, false)).is_some() {
            self.recorded.fsynced.push((self.disk.len(), name.to_owned(), text.to_owned()));
        }
        let _ = self.heard("flush", staging.flush(opened.handle));
        staging.release(opened.handle);
        self.note();
    }

    fn touch_all(&mut self) {
        self.recorded.touched.push((self.disk.len(), "*".to_owned()));
    }

    /// Waits for the verdicts that can fall.
    fn settle(&mut self) {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(1_500) {
            match self.ask(Request::Status) {
                Some(Reply::Status(status)) if status.checking.is_empty() && status.flagged.is_empty() => break,
                _ => std::thread::sleep(Duration::from_millis(2)),
            }
        }
        self.note();
    }

    fn commit(&mut self) {
        let _ = self.request(Request::Commit { message: None });
        self.settle();
    }

    fn note(&mut self) {
        let connections = self.daemon.connections();
        let Ok(events) = connections.shared.store.catalog().events(EventSeq(0)) else { return };
        self.recorded.told.push((self.disk.len(), events.len()));
    }

    fn rename(&mut self, from: &str, to: &str) {
        self.recorded.touched.extend([from, to].map(|name| (self.disk.len(), name.to_owned())));
        let (root, mode) = (NodeRef::ROOT, crate::version::staging::RenameMode::Replace);
        let renamed = self.daemon.connections().staging.rename(&ROOT, root, from.as_bytes(), root, to.as_bytes(), mode);
        if !matches!(renamed, Err(FsError::NotFound)) {
            let _ = self.heard("rename", renamed);
        }
    }

    fn run(&mut self) {
        let large = |text: &str| text.repeat(140_000 / text.len() + 1);
        self.put("a.json", "1", true);
        self.put("large.txt", &large("one\n"), true);
        self.commit();
        self.put("a.json", "{", false);
        self.commit();
        self.put("b.json", "2", true);
        self.rename("b.json", "c.json");
        self.put("large.txt", &large("two\n"), false);
        self.put("other.txt", &large("three\n"), true);
        self.commit();
        self.touch_all();
        let _ = self.request(Request::Rollback { version: None });
        self.settle();
        let _ = self.request(Request::Begin { message: Some("job".to_owned()) });
        self.put("d.json", "4", true);
        self.commit();
        self.put("e.json", "5", false);
        self.touch_all();
        let _ = self.request(Request::Abort);
        let _ = self.request(Request::Drop { version: VersionName::Number(VersionId(2)) });
        let _ = self.request(Request::Tag { name: "kept".to_owned(), version: VersionName::Number(VersionId(1)), force: false });
    }
}

/// How many operations of a sort the script makes.
fn count(sort: Sort) -> usize {
    let disk = Arc::new(SimulatedDisk::default());
    let daemon = recorded_daemon(&disk);
    disk.refuse(Refusal::Once { number: usize::MAX, sort: Some(sort), errno: libc::EIO });
    Script { daemon: &daemon, disk: &disk, errno: libc::EIO, recorded: Recorded::default() }.run();
    disk.refused().0
}

/// With room again everything goes on, without a restart.
fn goes_on(script: &mut Script<'_>) {
    let begun = Instant::now();
    let patience = || assert!(begun.elapsed() < Duration::from_secs(60), "it does not go on: {:#?}", script.daemon.status());
    while !matches!(script.ask(Request::Commit { message: None }), Some(Reply::Version(_) | Reply::Nothing)) {
        patience();
    }
    quiet(script.daemon);
    script.put("after.json", "6", true);
    assert_eq!(script.recorded.fsynced.last().map(|(_, name, _)| name.as_str()), Some("after.json"));
    let sealed = script.daemon.commit();
    assert_eq!(script.daemon.promoted(sealed.0).state, VersionState::Promoted);
    sweep(script.daemon);
    assert_eq!(script.daemon.production().get("after.json").map(String::as_str), Some("6"));
    script.note();
}

struct Told(Fault, Option<String>);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{:?}: {:?}", self.0, self.1);
        }
    }
}

fn with(fault: Fault) {
    let disk = Arc::new(SimulatedDisk::default());
    let daemon = recorded_daemon(&disk);
    disk.refuse(fault.refusal());
    let mut told = Told(fault, None);
    let mut script = Script { daemon: &daemon, disk: &disk, errno: fault.errno, recorded: Recorded::default() };
    script.run();
    told.1 = disk.refused().1;
    disk.refuse(Refusal::Nothing);
    if fault.is_room() {
        goes_on(&mut script);
    }
    let mut recorded = script.recorded;
    let shared = &daemon.connections().shared;
    recorded.events = shared.store.catalog().events(EventSeq(0)).unwrap();
    let visible = shared.visible();
    for (version, shown) in visible.versions.iter().chain(&visible.ghosts) {
        recorded.contents.insert(*version, content(&shown.snapshot));
    }
    drop(visible);
    recorded.unsure = matches!(shared.store.catalog().begin(), Err(StoreError::Poisoned { .. }));
    drop(daemon);
    let (at, mut dice) = (disk.len(), Dice::new(fault.number as u64));
    let mut crashes = disk.crashes();
    crashes.advance(at, &mut dice);
    let dir = fast_dir();
    std::fs::create_dir(dir.path().join("store")).unwrap();
    crashes.image(KEPT[dice.below(KEPT.len())], &mut dice).lay_out(&dir.path().join("store"));
    verify_store(&recorded, at, &dir.path().join("store"), &mut HashMap::new());
    let _ = verify_daemon(&recorded, at, dir);
}

/// Faults spread over all operations, or all of them.
fn faults(wanted: usize) -> Vec<Fault> {
    let mut all = Vec::new();
    for sort in SORTS {
        let numbers = 0..count(sort);
        all.extend(numbers.clone().map(|number| Fault { number, sort, errno: libc::EIO }));
        if matches!(sort, Sort::Open | Sort::Name | Sort::Write) {
            all.extend(numbers.map(|number| Fault { number, sort, errno: libc::ENOSPC }));
        }
    }
    println!("{} operations and errors", all.len());
    let every = (all.len() / wanted).max(1);
    all.into_iter().step_by(every).collect()
}

#[test]
fn whatever_the_disk_refuses_the_caller_hears_it_and_nothing_that_was_reported_is_lost() {
    let wanted = std::env::var("SHADOWFS_FAULT_POINTS").ok().and_then(|text| text.parse().ok()).unwrap_or(FAULTS);
    let (faults, next) = (faults(wanted), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(fault) = faults.get(next.fetch_add(1, Ordering::Relaxed)) {
                    with(*fault);
                }
            });
        }
    });
    println!("{} faults", faults.len());
}
