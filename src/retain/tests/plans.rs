//! The plan, a rule at a time.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::config::{Ghosts, Retention};
use crate::ids::{Digest, Ino, NodeId, ObjectId, PackId, VersionId};
use crate::retain::plan::{Keep, Plan, plan};
use crate::store::record::{ChangeCounts, Pointers, Reason, RootRef, VersionRecord, VersionState};
use crate::version::history::History;

const DAY: i64 = 86_400;

fn at(day: i64) -> Timestamp {
    Timestamp { secs: day * DAY, nanos: 0 }
}

fn days(days: u64) -> Duration {
    Duration::from_secs(days * DAY.unsigned_abs())
}

/// A version that was sealed and decided on the day of its number.
fn record(version: u64, state: VersionState) -> VersionRecord {
    let day = i64::try_from(version).unwrap();
    VersionRecord {
        version: VersionId(version),
        state,
        parent: version.checked_sub(1).map(VersionId),
        root: Some(RootRef { node: NodeId(version), digest: Digest::default(), entries: 1 }),
        message: None,
        opened_at: at(day),
        sealed_at: Some(at(day)),
        decided_at: Some(at(day)),
        promoted_at: None,
        changes: ChangeCounts::default(),
        writers: Vec::new(),
        reason: None,
        passed: true,
        held: false,
        pinned: false,
        rebased_from: None,
        restored_from: None,
    }
}

/// t0 to t9, all superseded but the last, which is in production; `change` may make them something else.
fn history(change: impl Fn(&mut VersionRecord)) -> History {
    let mut records: Vec<_> = (0..9).map(|version| record(version, VersionState::Superseded)).collect();
    records.push(record(9, VersionState::Promoted));
    records.iter_mut().for_each(change);
    history_of(records, 9, 9, 9)
}

fn history_of(records: Vec<VersionRecord>, production: u64, valid: u64, base: u64) -> History {
    let pointers = Pointers {
        production: VersionId(production),
        valid: VersionId(valid),
        base: VersionId(base),
        next_version: VersionId(100),
        next_ino: Ino(2),
        next_object: ObjectId(1),
        next_node: NodeId(1),
        next_pack: PackId(1),
    };
    History::new(records, &pointers)
}

fn planned(history: &History, keep_last: u64, keep_for: u64, now: Timestamp) -> Plan {
    plan(
        history,
        &[("release".to_owned(), VersionId(3))],
        &Retention { keep_last, keep_for: days(keep_for), ..Retention::default() },
        &Ghosts { retain: days(2) },
        now,
    )
}

fn gone(plan: &Plan) -> Vec<u64> {
    plan.expire.iter().map(|expiry| expiry.version.0).collect()
}

fn why(plan: &Plan, version: u64) -> Keep {
    plan.keep.iter().find(|(kept, _)| *kept == VersionId(version)).unwrap().1.clone()
}

#[test]
fn a_version_goes_when_both_its_number_and_its_age_are_passed() {
    let plain = history(|_| ());
    let on_day_10 = planned(&plain, 4, 5, at(10));
    assert_eq!(gone(&on_day_10), [0, 1, 2, 4, 5]);
    assert_eq!(why(&on_day_10, 3), Keep::Tagged);
    assert_eq!(why(&on_day_10, 6), Keep::Newest);
    assert!(matches!(why(&on_day_10, 9), Keep::Needed(_)));
    // Five days old to the second goes; a second less does not.
    assert_eq!(gone(&planned(&plain, 0, 5, Timestamp { secs: 10 * DAY - 1, nanos: 0 })), [0, 1, 2, 4]);
    assert!(gone(&planned(&plain, 100, 0, at(10_000))).is_empty());
    let young = planned(&plain, 0, 8, at(10));
    assert_eq!(gone(&young), [0, 1, 2]);
    assert_eq!(young.next(), Some(at(12)));
    let in_use = planned(&plain, 4, 5, at(10)).but(&|version| version == VersionId(1));
    assert_eq!((gone(&in_use), why(&in_use, 1)), (vec![0, 2, 4, 5], Keep::InUse));
}

#[test]
fn pins_holds_and_what_waits_never_go() {
    let history = history(|record| match record.version.0 {
        1 => record.pinned = true,
        2 => record.held = true,
        _ => {}
    });
    let plan = planned(&history, 0, 0, at(100));
    assert_eq!(gone(&plan), [0, 4, 5, 6, 7, 8]);
    assert_eq!((why(&plan, 1), why(&plan, 2)), (Keep::Pinned, Keep::Held));

    // Production is t4; what is valid above it waits for promotion, t8 is being checked.
    let mut records: Vec<_> = (0..4).map(|version| record(version, VersionState::Superseded)).collect();
    records.push(record(4, VersionState::Promoted));
    records.extend((5..8).map(|version| record(version, VersionState::Valid)));
    records.push(record(8, VersionState::Checking));
    let mut open = record(9, VersionState::Open);
    (open.root, open.sealed_at, open.decided_at) = (None, None, None);
    records.push(open);
    let plan = planned(&history_of(records, 4, 7, 8), 0, 0, at(100));
    assert_eq!(gone(&plan), [0, 1, 2]);
    assert_eq!((why(&plan, 5), why(&plan, 8)), (Keep::Flagged, Keep::Unjudged));
}

#[test]
fn ghosts_go_by_their_verdict_unless_something_undecided_stands_on_them() {
    let ghost = |version: u64, parent: u64| {
        let reason = Some(Reason::ChecksFailed { checks: Vec::new(), summary: String::new() });
        VersionRecord { parent: Some(VersionId(parent)), reason, passed: false, ..record(version, VersionState::Ghost) }
    };
    let on = |version: u64, parent: u64, state| VersionRecord { parent: Some(VersionId(parent)), ..record(version, state) };
    let mut late = ghost(6, 0);
    late.decided_at = Some(at(9));
    let mut pinned = ghost(7, 0);
    pinned.pinned = true;
    let records = vec![
        on(0, 0, VersionState::Promoted),
        ghost(1, 0),
        ghost(2, 0),
        // t4 stands on t3, which stands on t2: a crash came before the rest of a rejection.
        ghost(3, 2),
        on(4, 3, VersionState::Checking),
        ghost(5, 0),
        late,
        pinned,
    ];
    let mut records = records;
    records[0].parent = None;
    let plan = planned(&history_of(records, 0, 0, 0), 0, 0, at(10));
    assert_eq!(gone(&plan), [1, 5]);
    assert!(matches!(why(&plan, 3), Keep::Tagged | Keep::Needed(_)) && matches!(why(&plan, 2), Keep::Needed(_)));
    assert_eq!((why(&plan, 6), why(&plan, 7)), (Keep::Young { until: at(11) }, Keep::Pinned));
}

#[test]
fn a_clock_that_jumps_back_expires_nothing_early() {
    let plain = history(|_| ());
    assert!(gone(&planned(&plain, 0, 5, at(-1_000))).is_empty());
    // It was wrong by decades while t6 and t7 were sealed: they are no older than t5.
    let behind = history(|record| {
        if [6, 7].contains(&record.version.0) {
            (record.sealed_at, record.decided_at) = (Some(at(-7_000)), Some(at(-7_000)));
        }
    });
    assert_eq!(gone(&planned(&behind, 0, 6, at(10))), [0, 1, 2, 4]);
    // It was ahead while t1 was sealed: that one stays until then, and only that one.
    let ahead = history(|record| {
        if record.version.0 == 1 {
            record.sealed_at = Some(at(500));
        }
    });
    assert_eq!(gone(&planned(&ahead, 0, 5, at(10))), [0, 2, 4, 5]);
}
