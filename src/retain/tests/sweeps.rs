//! Sweeps.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;

use super::lab::{How, Lab};
use crate::ids::VersionId;
use crate::retain::gc::{Collector, GcError};

fn bytes(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| seed.wrapping_add((at % 251) as u8)).collect()
}

/// t1 to t4: packs that are wholly dead, more than half dead, live; files of their own; extents; aliases. t4 is in production.
fn lab() -> Lab {
    let mut lab = Lab::new();
    let big = bytes(9, 200_000);
    let t1 = lab.seal(&[
        ("stays", Some(&bytes(1, 100)), How::Pack),
        ("a", Some(&bytes(2, 300)), How::Pack),
        ("b", Some(&bytes(3, 300)), How::Extents),
        ("own", Some(&big), How::Own),
    ]);
    lab.pass(t1);
    let t2 = lab.seal(&[("a", Some(&bytes(4, 500)), How::Pack), ("own", Some(&bytes(5, 150_000)), How::Own)]);
    lab.pass(t2);
    // The same bytes as t1's: aliases of what only t1 named otherwise.
    let t3 = lab.seal(&[("a", None, How::Pack), ("b", None, How::Pack), ("copy", Some(&bytes(2, 300)), How::Pack)]);
    lab.pass(t3);
    let t4 = lab.seal(&[("own", Some(&bytes(6, 10)), How::Pack), ("last", Some(b"x"), How::Pack)]);
    lab.pass(t4);
    lab.promote(t4);
    lab
}

const OLD: [VersionId; 4] = [VersionId(0), VersionId(1), VersionId(2), VersionId(3)];

#[test]
fn the_dead_go_wholly_the_live_stay_and_the_preview_says_the_same() {
    let mut lab = lab();
    assert_eq!(lab.fsck(), []);
    let nothing = lab.collect();
    assert_eq!((nothing.nodes, nothing.objects, nothing.freed(), nothing.complete), (0, 0, 0, true));
    let preview = lab.preview(&OLD);
    let before = lab.store.space().unwrap().used;
    OLD.into_iter().for_each(|version| lab.expire(version).unwrap());
    assert_eq!(lab.preview(&[]), preview);
    let report = lab.collect();
    assert_eq!(report, preview);
    assert!(report.complete && report.nodes > 0 && report.objects >= 4 && report.packs == 1 && report.repacked == 0, "{report:?}");
    assert_eq!(report.leftovers, 0);
    assert!(report.file_bytes >= 350_000 && report.freed() > 350_000, "{report:?}");
    assert!(lab.store.space().unwrap().used + 350_000 <= before + (64 << 10));
    lab.check_reads();
    lab.check_no_garbage();
    assert_eq!(lab.collect().freed(), 0);
    let lab = lab.reopened();
    lab.check_reads();
    lab.check_no_garbage();
}

#[test]
fn a_pack_that_is_mostly_dead_is_written_anew() {
    let mut lab = Lab::new();
    let t1 = lab.seal(&[("small", Some(&bytes(1, 100)), How::Pack), ("large", Some(&bytes(2, 10_000)), How::Pack)]);
    lab.pass(t1);
    let t2 = lab.seal(&[("large", None, How::Pack)]);
    lab.pass(t2);
    lab.promote(t2);
    // Places and descriptors of the old pack are remembered from here on.
    lab.check_reads();
    lab.expire(t1).unwrap();
    let preview = lab.preview(&[]);
    let report = lab.collect();
    assert_eq!(report, preview);
    assert_eq!((report.repacked, report.pack_bytes), (1, 10_000), "{report:?}");
    lab.check_reads();
    lab.check_no_garbage();
    lab.reopened().check_reads();
}

#[test]
fn what_staging_shows_or_still_has_to_seal_stays() {
    let mut lab = lab();
    let version = lab.store.ids().version();
    let (tree, files, objects) = lab.edited(version, &[("new", Some(&bytes(7, 150_000)), How::Own), ("copied", Some(b"1"), How::Pack)]);
    // And a file of t1 is put back, as `restore` does: its old object under a new name.
    let mut tree = tree;
    let old = lab.tree(VersionId(1));
    old.iter().map(Result::unwrap).filter(|(key, _)| super::lab::is_extent(key)).for_each(|(key, value)| {
        tree.insert(crate::tree::key::Key { ino: crate::ids::Ino(key.ino.0), ..key }, value).unwrap();
    });
    OLD.into_iter().for_each(|version| lab.expire(version).unwrap());
    let live = vec![tree.clone()];
    let stop = AtomicBool::new(false);
    let report = Collector::new(&lab.store, &|| live.clone(), &stop).collect().unwrap();
    assert!(report.complete && report.objects > 0 && report.leftovers == 0, "{report:?}");
    let mut reach = crate::tree::Reach::default();
    reach.add(&tree, &stop).unwrap();
    lab.seal_tree(version, &tree, files, &objects);
    let all = crate::tree::Reach::all(lab.store.catalog()).unwrap();
    assert_eq!(reach.objects.count_outside(&[&all.objects]), 0);
    drop((tree, old, live));
    lab.check_reads();
}

#[test]
fn a_seal_in_the_middle_of_a_sweep_never_relies_on_what_goes() {
    // The contents of t1's files come back at every step of the sweep, and while the trees are read.
    for moment in 0..12 {
        let mut lab = lab();
        OLD.into_iter().for_each(|version| lab.expire(version).unwrap());
        let store = std::sync::Arc::clone(&lab.store);
        let lab = RefCell::new(lab);
        let (count, stop) = (Cell::new(0), AtomicBool::new(false));
        let seal = || {
            if count.replace(count.get() + 1) == moment {
                let (one, two, three) = (bytes(2, 300), bytes(9, 200_000), bytes(3, 300));
                let edits = [("x", Some(&one[..]), How::Pack), ("y", Some(&two[..]), How::Own), ("z", Some(&three[..]), How::Extents)];
                lab.borrow_mut().seal(&edits);
            }
        };
        let live = || {
            seal();
            Vec::new()
        };
        let step = || {
            seal();
            Ok(())
        };
        let collector = Collector { crash: &step, ..Collector::new(&store, &live, &stop) };
        assert!(collector.collect().unwrap().complete);
        drop(store);
        let mut lab = lab.into_inner();
        lab.check_reads();
        lab.check_no_damage();
        lab = lab.reopened();
        lab.check_reads();
        lab.collect();
        lab.check_no_garbage();
        lab.check_reads();
    }
}

#[test]
fn a_crash_at_any_step_leaves_nothing_but_leftovers() {
    let mut crashes = 0;
    loop {
        let mut lab = lab();
        let (p1, p2, many) = (bytes(21, 100), bytes(22, 5_000), (0..40).map(|n| format!("m{n}")).collect::<Vec<_>>());
        let mut edits = vec![("p1", Some(&p1[..]), How::Pack), ("p2", Some(&p2[..]), How::Pack), ("p3", Some(&p2[..]), How::Pack)];
        edits.extend(many.iter().map(|name| (name.as_str(), Some(name.as_bytes()), How::Own)));
        let t5 = lab.seal(&edits);
        lab.pass(t5);
        let mut edits = vec![("p2", None, How::Pack), ("p3", None, How::Pack)];
        edits.extend(many.iter().map(|name| (name.as_str(), None, How::Own)));
        let t6 = lab.seal(&edits);
        lab.pass(t6);
        lab.promote(t6);
        OLD.into_iter().chain([VersionId(4), t5]).for_each(|version| lab.expire(version).unwrap());
        let left = Cell::new(crashes);
        let crash = || match left.get() {
            0 => Err(GcError::Crash),
            _ => {
                left.set(left.get() - 1);
                Ok(())
            }
        };
        let stop = AtomicBool::new(false);
        let done = Collector { crash: &crash, ..Collector::new(&lab.store, &Vec::new, &stop) }.collect();
        lab.check_reads();
        let lab = lab.reopened();
        lab.check_no_damage();
        lab.check_reads();
        let report = lab.collect();
        assert!(report.complete);
        lab.check_no_garbage();
        lab.check_reads();
        if done.is_ok() {
            assert_eq!((report.objects, report.freed()), (0, 0), "{report:?}");
            break;
        }
        crashes += 1;
    }
    // Nodes, aliases, objects with their files in several transactions, a pack removed, a pack written, committed, removed.
    assert!(crashes >= 12, "{crashes} crash points");
}

#[test]
fn a_sweep_that_is_stopped_is_taken_up_later_and_there_is_one_at_a_time() {
    let mut lab = lab();
    OLD.into_iter().for_each(|version| lab.expire(version).unwrap());
    let stop = AtomicBool::new(false);
    let step = || {
        stop.store(true, Ordering::Relaxed);
        Ok(())
    };
    let report = Collector { crash: &step, ..Collector::new(&lab.store, &Vec::new, &stop) }.collect().unwrap();
    assert!(!report.complete);
    lab.check_reads();
    lab.check_no_damage();
    let sweep = lab.store.objects().begin_sweep().unwrap();
    stop.store(false, Ordering::Relaxed);
    assert!(matches!(Collector::new(&lab.store, &Vec::new, &stop).collect(), Err(GcError::Busy)));
    drop(sweep);
    assert!(lab.collect().complete);
    lab.check_no_garbage();
}

#[test]
fn a_version_that_cannot_be_read_ends_the_sweep_before_it_begins() {
    let mut lab = lab();
    lab.expire(VersionId(1)).unwrap();
    let root = lab.history.get(VersionId(4)).unwrap().root.unwrap();
    let at = lab.store.catalog().nodes(crate::ids::NodeId(0), 1 << 20).unwrap().iter().position(|id| *id == root.node).unwrap();
    lab.store.catalog().flip("nodes", at, 3).unwrap();
    let stop = AtomicBool::new(false);
    let refused = Collector::new(&lab.store, &Vec::new, &stop).collect();
    assert!(matches!(refused, Err(GcError::Unreadable { version: VersionId(4), .. })), "{refused:?}");
    lab.store.catalog().flip("nodes", at, 3).unwrap();
    lab.check_reads();
}

#[test]
fn production_and_what_staging_stands_on_do_not_expire() {
    let mut lab = lab();
    let t5 = lab.seal(&[("more", Some(b"1"), How::Pack)]);
    assert!(matches!(lab.expire(VersionId(4)), Err(GcError::Refused(_))));
    assert!(matches!(lab.expire(t5), Err(GcError::Refused(_))));
    assert!(matches!(lab.expire(VersionId(77)), Err(GcError::Refused(_))));
    lab.reject(t5);
    lab.expire(t5).unwrap();
    lab.collect();
    lab.check_reads();
    lab.check_no_garbage();
}

#[derive(Clone, Debug)]
enum Step {
    /// Files with the content and place that each gets; no content: it goes.
    Seal(Vec<(u8, Option<(u8, u8)>)>),
    Reject(Vec<(u8, Option<(u8, u8)>)>),
    Promote,
    Expire(u8),
    Collect,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let edits = || prop::collection::vec((0..6_u8, prop::option::weighted(0.8, (0..8_u8, 0..3_u8))), 1..5);
    let step = prop_oneof![
        6 => edits().prop_map(Step::Seal),
        1 => edits().prop_map(Step::Reject),
        2 => Just(Step::Promote),
        3 => any::<u8>().prop_map(Step::Expire),
        2 => Just(Step::Collect),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..24)
}

fn seal(lab: &mut Lab, edits: &[(u8, Option<(u8, u8)>)]) -> VersionId {
    let named: Vec<_> = edits
        .iter()
        .map(|(file, content)| {
            let how = [How::Pack, How::Own, How::Extents][usize::from(content.map_or(0, |(_, how)| how))];
            (format!("file{file}"), content.map(|(seed, _)| bytes(seed, usize::from(seed) * usize::from(seed) * 37)), how)
        })
        .collect();
    let edits: Vec<_> = named.iter().map(|(name, bytes, how)| (name.as_str(), bytes.as_deref(), *how)).collect();
    lab.seal(&edits)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn any_history_reads_as_before_and_keeps_no_dead_byte(steps in steps()) {
        let mut lab = Lab::new();
        for step in steps {
            match step {
                Step::Seal(edits) => {
                    let version = seal(&mut lab, &edits);
                    lab.pass(version);
                }
                Step::Reject(edits) => {
                    let version = seal(&mut lab, &edits);
                    lab.reject(version);
                }
                Step::Promote => {
                    if let Some(newest) = lab.history.flagged().last().copied() {
                        lab.promote(newest);
                    }
                }
                Step::Expire(which) => {
                    let versions: Vec<VersionId> = lab.model.keys().copied().collect();
                    // Refused where it is needed.
                    let _ = lab.expire(versions[usize::from(which) % versions.len()]);
                }
                Step::Collect => {
                    let preview = lab.preview(&[]);
                    prop_assert_eq!(lab.collect(), preview);
                    lab.check_no_garbage();
                }
                Step::Reopen => lab = lab.reopened(),
            }
        }
        lab.check_reads();
        lab.collect();
        lab.check_no_garbage();
        lab.check_reads();
    }
}

/// A clock that work and rest move.
#[derive(Debug)]
struct Steps {
    begun: std::time::Instant,
    passed: parking_lot::Mutex<std::time::Duration>,
}

impl crate::clock::Clock for Steps {
    fn now(&self) -> crate::clock::Timestamp {
        crate::clock::Timestamp::default()
    }

    fn instant(&self) -> std::time::Instant {
        self.begun + *self.passed.lock()
    }
}

#[test]
fn a_sweep_in_the_background_works_a_quarter_of_the_time() {
    let mut lab = lab();
    OLD.into_iter().for_each(|version| lab.expire(version).unwrap());
    let millis = std::time::Duration::from_millis;
    let clock = Steps { begun: crate::clock::Clock::instant(&crate::clock::SystemClock), passed: parking_lot::Mutex::default() };
    let (rested, longest, worked) = (Cell::new(millis(0)), Cell::new(millis(0)), Cell::new(millis(0)));
    let sleep = |nap: std::time::Duration| {
        rested.set(rested.get() + nap);
        longest.set(longest.get().max(nap));
        *clock.passed.lock() += nap;
    };
    let leisure = crate::retain::Leisure::new(&clock, &sleep);
    let (stop, pieces) = (AtomicBool::new(false), Cell::new(0));
    let rest = || {
        // Each piece took so long; one was a large one.
        let took = millis(if pieces.replace(pieces.get() + 1) == 3 { 1_000 } else { 5 });
        worked.set(worked.get() + took.min(millis(83)));
        *clock.passed.lock() += took;
        leisure.rest();
    };
    let report = Collector::new(&lab.store, &Vec::new, &stop).resting(&rest).collect().unwrap();
    assert!(report.complete && pieces.get() > 256, "{}", pieces.get());
    assert_eq!(longest.get(), millis(250));
    assert!(rested.get() >= worked.get() * 3 && rested.get() <= worked.get() * 3 + millis(1), "{rested:?} {worked:?}");
    lab.check_no_garbage();
}
