//! Every operation on the disk as a crash point: what recovery makes of it is a state that was, no older than what was promised.

use std::path::Path as HostPath;

use proptest::strategy::ValueTree;
use proptest::test_runner::{RngAlgorithm, TestRng};
use shadowfs::ids::EventSeq;
use shadowfs::store::event::Event;

use super::disk::{Dice, KEPT, Kept, Lie, SimulatedDisk};
use super::*;

/// So many crashes in an ordinary run.
const CRASHES: usize = 1_500;
/// So many of one history.
const OF_ONE: usize = 250;

/// How many to try, and from which seed on.
fn wanted() -> (usize, u64) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    (number("SHADOWFS_CRASH_POINTS").unwrap_or(CRASHES as u64) as usize, number("SHADOWFS_CRASH_SEED").unwrap_or(1))
}

/// What was done, and what was promised when.
struct Recorded {
    /// The states, each with the length of the disk's record when the step that led to it began.
    states: Vec<(usize, Model)>,
    /// From this length of the record on, no earlier state may come back.
    durable: Vec<(usize, usize)>,
    /// The same for the bytes of one file.
    durable_bytes: Vec<(usize, usize, usize)>,
    /// Versions whose seal had returned at that length, and what they hold.
    sealed: Vec<(usize, VersionId)>,
    events: Vec<Event>,
    /// Events that were in the catalog at that length.
    told: Vec<(usize, usize)>,
    dumps: BTreeMap<VersionId, Dump>,
    /// The record's length when the workload began.
    begun: usize,
}

fn workload(passthrough: bool, focus: Focus) -> impl Strategy<Value = Vec<Step>> {
    let uids = if passthrough { &model::UIDS[..1] } else { &model::UIDS };
    let unit = if passthrough { 61 } else { 13 };
    let step = prop_oneof![
        30 => model::op(unit, uids, focus).prop_map(Step::Op),
        6 => (0..SLOTS).prop_map(|slot| Step::Op(Op::Fsync { slot })),
        3 => Just(Step::Seal),
        1 => prop::bool::ANY.prop_map(|sync| Step::Round { sync }),
        3 => Just(Step::Look),
        1 => Just(Step::FreezeAndDie { synced: true }),
        1 => Just(Step::Die { synced: true }),
    ];
    prop::collection::vec(step, 20..80)
}

fn record(steps: &[Step], passthrough: bool, disk: &Arc<SimulatedDisk>) -> Recorded {
    let mut real = Real::new_on(passthrough, Some(Arc::clone(disk) as _));
    let mut recorded = Recorded {
        states: vec![(0, real.model.clone())],
        durable: Vec::new(),
        durable_bytes: Vec::new(),
        sealed: Vec::new(),
        events: Vec::new(),
        told: Vec::new(),
        dumps: BTreeMap::new(),
        begun: disk.len(),
    };
    for step in steps {
        let began = disk.len();
        real.step(step);
        let ended = disk.len();
        recorded.states.push((began, real.model.clone()));
        let state = recorded.states.len() - 1;
        let fsynced = match step {
            Step::Op(Op::Fsync { slot }) => real.model.id_in(*slot),
            _ => None,
        };
        if let Some(id) = fsynced {
            recorded.durable.push((ended, state));
            recorded.durable_bytes.push((ended, id, state));
        }
        let all = match step {
            Step::Seal => real.staging.activity().version.is_none(),
            Step::Die { .. } | Step::FreezeAndDie { .. } => true,
            _ => false,
        };
        if all {
            recorded.durable.push((ended, state));
            recorded.durable_bytes.extend(real.model.ids().values().map(|id| (ended, *id, state)));
        }
        let known: Vec<_> = recorded.sealed.iter().map(|(_, version)| *version).collect();
        recorded.sealed.extend(real.sealed.keys().filter(|version| !known.contains(version)).map(|version| (ended, *version)));
        recorded.told.push((ended, real.store.catalog().events(EventSeq(0)).unwrap().len()));
    }
    recorded.events = real.store.catalog().events(EventSeq(0)).unwrap();
    recorded.dumps = std::mem::take(&mut real.sealed);
    recorded
}

/// Says on a failure how to have it again.
struct Told<'a>(u64, bool, usize, Kept, &'a str);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self(seed, passthrough, at, kept, what) = self;
            eprintln!("history {seed} (passthrough: {passthrough}), crash after {at} operations, {kept:?} kept {what}");
        }
    }
}

/// A file as a crash may leave it: its mode and bytes since they were last durable.
fn is_in_flux(recorded: &Recorded, id: usize, at: usize, last: usize, found: &Entry) -> bool {
    let from = recorded.durable_bytes.iter().filter(|(length, of, _)| *length <= at && *of == id).map(|(_, _, state)| *state).max();
    let were: Vec<_> = recorded.states[from.unwrap_or(0)..=last].iter().filter_map(|(_, model)| model.file(id)).collect();
    let known = |offset: usize, byte: u8| byte == 0 || were.iter().any(|(_, data)| data.get(offset) == Some(&byte));
    let differs = were.iter().any(|was| was.1 != were[0].1);
    let longest = were.iter().map(|(_, data)| data.len()).max().unwrap_or(0);
    differs
        && found.data.len() <= longest
        && found.data.iter().enumerate().all(|(offset, byte)| known(offset, *byte))
        && were.iter().any(|(perm, _)| *perm == found.perm)
}

fn could_be(recorded: &Recorded, state: usize, at: usize, last: usize, found: &Dump) -> bool {
    let model = &recorded.states[state].1;
    let (expected, ids) = (model.dump(), model.ids());
    expected.keys().eq(found.keys())
        && expected.iter().zip(found.values()).all(|((path, expected), found)| {
            let times = |entry: &Entry| Entry {
                atime: entry.atime.filter(|_| expected.atime.is_some()),
                mtime: entry.mtime.filter(|_| expected.mtime.is_some()),
                ..entry.clone()
            };
            if *expected == times(found) {
                return true;
            }
            let but_data = |entry: &Entry| Entry { data: Vec::new(), perm: 0, atime: None, mtime: None, ..entry.clone() };
            but_data(expected) == but_data(found) && is_in_flux(recorded, ids[path], at, last, found)
        })
}

/// Opens what a crash has left, and compares it with what was promised.
fn verify(recorded: &Recorded, at: usize, dir: &HostPath, disk: Option<Arc<dyn Disk>>, passthrough: bool) {
    let store = Arc::new(Store::open_on(&dir.join("store"), disk).unwrap());
    let events = store.catalog().events(EventSeq(0)).unwrap();
    let told = recorded.told.iter().filter(|(length, _)| *length <= at).map(|(_, events)| *events).max().unwrap_or(0);
    assert!(events.len() >= told, "{} events of {told} that were told", events.len());
    assert!(recorded.events.starts_with(&events), "the lineage is another");
    for (_, version) in recorded.sealed.iter().filter(|(length, _)| *length <= at) {
        let known = store.catalog().version(*version).unwrap();
        assert!(known.is_some_and(|record| record.root.is_some()), "{version} was sealed");
    }
    for record in store.catalog().versions().unwrap() {
        if let (Some(_), Some(dump)) = (record.root, recorded.dumps.get(&record.version)) {
            compare(dump, &dump_of(&snapshot_of(&store, record.version)), &format!("{}", record.version));
        }
    }
    let base = store.catalog().pointers().unwrap().base;
    let options = StagingOptions { small_file: SMALL, flusher: false, passthrough, ..StagingOptions::default() };
    let (sender, _) = crossbeam::channel::unbounded();
    let staging = Staging::new(snapshot_of(&store, base), base, sender, Arc::new(SystemClock), options).unwrap();
    for frozen in staging.take_recovered() {
        let (record, snapshot) = seal::seal(&store, &frozen, None, SystemClock.now()).unwrap();
        if let (Some(dump), false) = (recorded.dumps.get(&record.version), frozen.is_unchanged()) {
            compare(dump, &dump_of(&snapshot), &format!("{}, sealed anew", record.version));
        }
    }
    check_tree::check(&staging.snapshot().unwrap());
    let found = dump_of(&staging.snapshot().unwrap());
    let first = recorded.durable.iter().filter(|(length, _)| *length <= at).map(|(_, state)| *state).max().unwrap_or(0);
    let last = recorded.states.iter().rposition(|(length, _)| *length < at).unwrap_or(0).max(first);
    if !(first..=last).rev().any(|state| could_be(recorded, state, at, last, &found)) {
        compare(&recorded.states[first].1.dump(), &found, &format!("none of the states {first} to {last}; the first of them"));
        panic!("none of the states {first} to {last}");
    }
    // Work goes on.
    let (_, opened) = staging.create(&ROOT, NodeRef::ROOT, b"after the crash", 0o644, 0, libc::O_WRONLY).unwrap();
    staging.write(&ROOT, opened.handle, 0, b"new", false).unwrap();
    staging.fsync(opened.handle, false).unwrap();
    staging.release(opened.handle);
    let frozen = staging.freeze(true).unwrap().unwrap();
    let _ = seal::seal(&store, &frozen, None, SystemClock.now()).unwrap();
}

/// One history, crashed at many points; a part of the recoveries crashes as well.
fn history(seed: u64, most: usize, lie: Option<Lie>) -> usize {
    let passthrough = seed % 3 == 2;
    let focus = if seed.is_multiple_of(2) { Focus::Names } else { Focus::Bytes };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &std::array::from_fn::<u8, 32, _>(|at| (seed >> (at % 8 * 8)) as u8));
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let steps = workload(passthrough, focus).new_tree(&mut runner).unwrap().current();
    let disk = Arc::new(SimulatedDisk::default());
    disk.can_clone(seed % 4 < 2);
    let recorded = record(&steps, passthrough, &disk);
    let mut dice = Dice::new(seed);
    let dir = fast_dir();
    std::fs::create_dir(dir.path().join("store")).unwrap();
    let every = ((disk.len() - recorded.begun) / most).max(1);
    let (mut crashes, mut tried, mut at) = (disk.crashes(), 0, recorded.begun);
    crashes.advance(at, &mut dice);
    crashes.lie = lie;
    while at <= disk.len() {
        crashes.advance(at, &mut dice);
        let kept = KEPT[dice.below(KEPT.len())];
        let image = crashes.image(kept, &mut dice);
        image.lay_out(&dir.path().join("store"));
        let again = dice.chance(10).then(|| Arc::new(SimulatedDisk::after(image)));
        {
            let _told = Told(seed, passthrough, at, kept, "");
            verify(&recorded, at, dir.path(), again.clone().map(|disk| disk as _), passthrough);
        }
        tried += 1;
        if let Some(again) = again {
            // The recovery itself, crashed somewhere (and the work that follows it, which nobody was told of).
            let second = dice.below(again.len() + 1);
            let mut crashes = again.crashes();
            crashes.advance(second, &mut dice);
            let kept = KEPT[dice.below(KEPT.len())];
            crashes.image(kept, &mut dice).lay_out(&dir.path().join("store"));
            let _told = Told(seed, passthrough, at, kept, &format!("of the recovery, after {second} operations of it"));
            verify_again(&recorded, at, dir.path(), passthrough);
            tried += 1;
        }
        at += 1 + dice.below(2 * every - 1);
    }
    tried
}

/// After a second crash there may be one more version, with the file that `verify` made.
fn verify_again(recorded: &Recorded, at: usize, dir: &HostPath, _passthrough: bool) {
    let store = Arc::new(Store::open(&dir.join("store")).unwrap());
    let events = store.catalog().events(EventSeq(0)).unwrap();
    let told = recorded.told.iter().filter(|(length, _)| *length <= at).map(|(_, events)| *events).max().unwrap_or(0);
    assert!(events.len() >= told && events[..told] == recorded.events[..told], "the lineage is another");
    for (_, version) in recorded.sealed.iter().filter(|(length, _)| *length <= at) {
        compare(&recorded.dumps[version], &dump_of(&snapshot_of(&store, *version)), &format!("{version}"));
    }
    let base = store.catalog().pointers().unwrap().base;
    let options = StagingOptions { small_file: SMALL, flusher: false, ..StagingOptions::default() };
    let (sender, _) = crossbeam::channel::unbounded();
    let staging = Staging::new(snapshot_of(&store, base), base, sender, Arc::new(SystemClock), options).unwrap();
    for frozen in staging.take_recovered() {
        let _ = seal::seal(&store, &frozen, None, SystemClock.now()).unwrap();
    }
    check_tree::check(&staging.snapshot().unwrap());
    let mut found = dump_of(&staging.snapshot().unwrap());
    let first = recorded.durable.iter().filter(|(length, _)| *length <= at).map(|(_, state)| *state).max().unwrap_or(0);
    let last = recorded.states.iter().rposition(|(length, _)| *length < at).unwrap_or(0).max(first);
    if found.remove([b"after the crash".to_vec()].as_slice()).is_some() {
        // The root's times are the new file's.
        let root = found.get_mut([].as_slice()).unwrap();
        (root.atime, root.mtime) = (None, None);
    }
    let is = |state: usize| {
        let model = &recorded.states[state].1;
        let mut with_times = found.clone();
        let expected = model.dump();
        let (root, expected) = (with_times.get_mut([].as_slice()).unwrap(), &expected[[].as_slice()]);
        (root.atime, root.mtime) = (root.atime.or(expected.atime), root.mtime.or(expected.mtime));
        could_be(recorded, state, at, last, &with_times)
    };
    assert!((first..=last).rev().any(is), "none of the states {first} to {last}: {found:#?}");
}

#[test]
fn every_crash_leaves_a_state_that_was_and_all_that_was_promised() {
    let (wanted, mut seed) = wanted();
    let mut tried = 0;
    let first = seed;
    while tried < wanted {
        tried += history(seed, OF_ONE, None);
        seed += 1;
    }
    println!("{tried} crashes of {} histories (from {first} on)", seed - first);
}

/// The test above can fail: on a disk whose syncs do nothing, it does.
#[test]
fn a_disk_that_lies_is_found_out() {
    for lie in [Lie::Files, Lie::Dirs] {
        let caught = (1..20).any(|seed| std::panic::catch_unwind(|| history(seed, 60, Some(lie))).is_err());
        assert!(caught, "{lie:?} are not synced, and nothing is missed");
    }
}
