//! Decisions of the history, one situation each.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::*;
use crate::ids::{Digest, Ino, NodeId, ObjectId, PackId};
use crate::store::record::RootRef;

pub(super) const AT: Timestamp = Timestamp { secs: 1_000, nanos: 0 };

pub(super) fn t(number: u64) -> VersionId {
    VersionId(number)
}

pub(super) fn root_of(version: VersionId) -> RootRef {
    RootRef { node: NodeId(version.0), digest: Digest::of(&version.0.to_le_bytes()), entries: 1 }
}

/// A store as `init` leaves it: t0 in production.
pub(super) fn fresh() -> History {
    let pointers = Pointers {
        production: t(0),
        valid: t(0),
        base: t(0),
        next_version: t(1),
        next_ino: Ino(2),
        next_object: ObjectId(0),
        next_node: NodeId(1),
        next_pack: PackId(0),
    };
    let record = VersionRecord {
        version: t(0),
        state: VersionState::Promoted,
        parent: None,
        root: Some(root_of(t(0))),
        message: None,
        opened_at: AT,
        sealed_at: Some(AT),
        decided_at: Some(AT),
        promoted_at: Some(AT),
        changes: ChangeCounts::default(),
        writers: Vec::new(),
        reason: None,
        passed: true,
        held: false,
        pinned: false,
        rebased_from: None,
        restored_from: None,
    };
    History::new(vec![record], &pointers)
}

/// Opens and seals `version` on the base.
pub(super) fn seal(history: &mut History, version: VersionId) {
    let parent = history.base();
    history.apply(history.opened(version, parent, AT, None).unwrap());
    let open = history.get(version).unwrap().clone();
    history.sealed(VersionRecord { state: VersionState::Checking, root: Some(root_of(version)), sealed_at: Some(AT), ..open });
}

/// t1 to `count` on top of one another, without verdicts.
fn chain(count: u64) -> History {
    let mut history = fresh();
    (1..=count).for_each(|number| seal(&mut history, t(number)));
    history
}

pub(super) fn failed() -> Reason {
    Reason::ChecksFailed { checks: vec!["rows".to_owned()], summary: "rows failed".to_owned() }
}

fn states(history: &History) -> Vec<&'static str> {
    history.records().map(|record| record.state.as_str()).collect()
}

fn pass(history: &mut History, version: VersionId) {
    history.apply(history.passed(version, AT).unwrap());
}

/// t1 to t3 passed and promoted one by one.
fn published() -> History {
    let mut history = fresh();
    for number in 1..=3 {
        seal(&mut history, t(number));
        pass(&mut history, t(number));
        history.apply(history.promoted(t(number), AT).unwrap());
    }
    history
}

#[test]
fn a_version_is_valid_only_when_its_ancestors_are() {
    let mut history = chain(3);
    pass(&mut history, t(2));
    pass(&mut history, t(3));
    assert_eq!(states(&history), ["promoted", "checking", "checking", "checking"]);
    assert_eq!(history.valid(), t(0));
    let decision = history.passed(t(1), AT).unwrap();
    let validated: Vec<_> = decision.events.iter().map(|(version, what)| (version.unwrap(), what.clone())).collect();
    assert_eq!(validated, [1, 2, 3].map(|number| (t(number), EventKind::Validated)));
    history.apply(decision);
    assert_eq!(history.valid(), t(3));
    assert_eq!(history.flagged(), [t(1), t(2), t(3)]);
}

#[test]
fn a_batch_goes_as_one_and_its_older_ones_are_superseded() {
    let mut history = chain(3);
    (1..=3).for_each(|number| pass(&mut history, t(number)));
    let decision = history.promoted(t(3), AT).unwrap();
    assert_eq!(
        decision.events.first().unwrap().1,
        EventKind::Promoted { replaces: t(0), batch: vec![t(1), t(2), t(3)], digest: root_of(t(3)).digest }
    );
    history.apply(decision);
    assert_eq!(states(&history), ["superseded", "superseded", "superseded", "promoted"]);
    assert_eq!((history.production(), history.flagged()), (t(3), vec![]));
}

#[test]
fn part_of_what_is_flagged_can_go() {
    let mut history = chain(3);
    (1..=3).for_each(|number| pass(&mut history, t(number)));
    history.apply(history.promoted(t(2), AT).unwrap());
    assert_eq!(states(&history), ["superseded", "superseded", "promoted", "valid"]);
    assert_eq!(history.flagged(), [t(3)]);
}

#[test]
fn a_rejection_takes_staging_to_the_newest_that_can_still_become_valid() {
    let mut history = chain(2);
    let decision = history.rejected(t(2), failed(), &[], AT).unwrap();
    assert_eq!(decision.base, Some(t(1)));
    assert!(decision.events.contains(&(Some(t(2)), EventKind::RolledBack { from: t(2), to: t(1) })));
    history.apply(decision);
    assert_eq!(states(&history), ["promoted", "checking", "ghost"]);
    assert_eq!(history.get(t(2)).unwrap().reason, Some(failed()));
}

#[test]
fn what_stands_on_a_rejected_version_is_carried_over_or_becomes_a_ghost_too() {
    let mut history = chain(4);
    assert_eq!(history.stranded_by(t(1)), [t(2), t(3), t(4)]);
    let conflict = Fate::Conflict { with: t(1), paths: vec!["a".to_owned()] };
    let carried = [
        Carried { old: t(2), fate: Fate::Onto { new: t(5), root: root_of(t(5)) } },
        Carried { old: t(3), fate: conflict },
        Carried { old: t(4), fate: Fate::Onto { new: t(6), root: root_of(t(6)) } },
    ];
    history.apply(history.rejected(t(1), failed(), &carried, AT).unwrap());
    assert_eq!(states(&history), ["promoted", "ghost", "ghost", "ghost", "ghost", "checking", "checking"]);
    assert_eq!(history.get(t(5)).unwrap().parent, Some(t(0)));
    assert_eq!(history.get(t(6)).unwrap().parent, Some(t(5)), "the version between them went down");
    assert_eq!(history.get(t(6)).unwrap().rebased_from, Some(t(4)));
    assert_eq!(history.base(), t(6));
    assert_eq!((history.landing(t(3)), history.landing(t(4))), (t(5), t(6)));
    assert_eq!(history.stranded(), []);
}

#[test]
fn a_crash_between_a_rejection_and_its_consequences_is_made_good() {
    let mut history = chain(3);
    let mut decision = history.rejected(t(1), failed(), &[], AT).unwrap();
    decision.base = None;
    history.apply(decision);
    assert_eq!(history.stranded(), [t(2), t(3)]);
    let carried = [
        Carried { old: t(2), fate: Fate::Conflict { with: t(1), paths: Vec::new() } },
        Carried { old: t(3), fate: Fate::Onto { new: t(4), root: root_of(t(4)) } },
    ];
    history.apply(history.recovered(&carried, AT).unwrap());
    assert_eq!(history.get(t(4)).unwrap().parent, Some(t(0)));
    assert_eq!((history.base(), history.stranded()), (t(4), vec![]));
}

#[test]
fn an_open_version_is_moved_or_discarded() {
    let mut history = chain(1);
    history.apply(history.opened(t(2), t(1), AT, None).unwrap());
    history.apply(history.rejected(t(1), failed(), &[], AT).unwrap());
    history.apply(history.reparented(t(2), t(0), AT).unwrap());
    assert_eq!(history.open().unwrap().parent, Some(t(0)));
    assert_eq!(history.descendants(t(1)), []);
    history.apply(history.aborted(t(2), Reason::Discarded, AT).unwrap());
    assert_eq!(history.open(), None);
    assert!(history.aborted(t(2), Reason::Discarded, AT).is_err());
}

#[test]
fn production_goes_back_by_hand_and_the_newer_ones_are_held() {
    let mut history = published();
    seal(&mut history, t(4));
    assert_eq!(history.before_production(), Some(t(2)));
    history.apply(history.rolled_back(t(1), AT).unwrap());
    assert_eq!(states(&history), ["superseded", "promoted", "superseded", "superseded", "checking"]);
    assert_eq!(history.records().filter(|record| record.held).map(|record| record.version).collect::<Vec<_>>(), [t(2), t(3), t(4)]);
    assert_eq!((history.production(), history.valid(), history.base()), (t(1), t(1), t(1)));
    pass(&mut history, t(4));
    assert_eq!(history.flagged(), [], "a held one is not promoted");
    seal(&mut history, t(5));
    pass(&mut history, t(5));
    assert_eq!(history.get(t(5)).unwrap().parent, Some(t(1)));
    assert_eq!(history.flagged(), [t(5)]);
}

#[test]
fn a_held_version_is_promoted_when_someone_says_so() {
    let mut history = published();
    history.apply(history.rolled_back(t(1), AT).unwrap());
    assert_eq!(history.release(t(3)), Ok(Release::TakenBack));
    history.apply(history.released(t(3), AT).unwrap());
    assert_eq!((history.production(), history.valid(), history.base()), (t(3), t(3), t(3)));
    assert_eq!(states(&history), ["superseded", "superseded", "superseded", "promoted"]);
    assert!(history.records().all(|record| !record.held));
}

#[test]
fn what_was_made_without_a_held_version_is_not_dropped_for_it() {
    let mut history = published();
    history.apply(history.rolled_back(t(1), AT).unwrap());
    seal(&mut history, t(4));
    let refused = history.release(t(3)).expect_err("t4 has no t3");
    assert_eq!(refused.to_string(), "t4 was made without t3; `shadowfs rollback t1` first, then promote t3");
    history.apply(history.rolled_back(t(1), AT).unwrap());
    assert_eq!(history.release(t(3)), Ok(Release::TakenBack));
}

#[test]
fn what_makes_no_sense_is_refused_with_a_reason() {
    let history = published();
    assert_eq!(history.rolled_back(t(9), AT).expect_err("unknown").to_string(), "there is no version t9");
    assert_eq!(history.release(t(3)), Ok(Release::AlreadyThere));
    assert_eq!(
        history.release(t(2)).expect_err("older").to_string(),
        "t2 is older than production (t3); `shadowfs rollback t2` puts it back there"
    );
    let mut history = chain(1);
    assert_eq!(history.rolled_back(t(1), AT).expect_err("unjudged").to_string(), "t1 is checking, it can't be rolled back to");
    assert_eq!(history.release(t(1)).expect_err("unjudged").to_string(), "t1 is checking, it can't be promoted");
    pass(&mut history, t(1));
    assert_eq!(
        history.rolled_back(t(1), AT).expect_err("above").to_string(),
        "t1 is not below production (t0); `shadowfs promote t1` puts a newer version there"
    );
    assert!(history.passed(t(1), AT).is_err() && history.rejected(t(1), failed(), &[], AT).is_err());
}

fn events(decision: &Decision) -> Vec<EventKind> {
    decision.events.iter().map(|(_, what)| what.clone()).collect()
}

#[track_caller]
fn refused(decision: Result<Decision, HistoryError>) -> String {
    decision.unwrap_err().to_string()
}

/// t1 in production, t2 a ghost, t3 valid on t1.
fn with_a_ghost() -> History {
    let mut history = chain(1);
    pass(&mut history, t(1));
    history.apply(history.promoted(t(1), AT).unwrap());
    seal(&mut history, t(2));
    history.apply(history.rejected(t(2), failed(), &[], AT).unwrap());
    seal(&mut history, t(3));
    pass(&mut history, t(3));
    history
}

#[test]
fn a_pin_is_set_and_taken_and_nothing_happens_twice() {
    let mut history = with_a_ghost();
    let decision = history.pinned(t(2), true, AT).unwrap();
    assert_eq!(events(&decision), [EventKind::Pinned]);
    history.apply(decision);
    assert!(history.get(t(2)).unwrap().pinned && history.pinned(t(2), true, AT).unwrap().is_empty());
    assert_eq!(refused(history.dropped(t(2), None, AT)), "t2 can't be dropped: it is pinned; `shadowfs pin --remove t2` first");
    history.apply(history.pinned(t(2), false, AT).unwrap());
    assert!(!history.get(t(2)).unwrap().pinned && history.pinned(t(2), false, AT).unwrap().is_empty());
    history.apply(history.opened(t(4), t(3), AT, None).unwrap());
    assert_eq!(refused(history.pinned(t(4), true, AT)), "t4 is open, it can't be pinned; `shadowfs commit` first");
}

#[test]
fn only_what_has_passed_gets_a_name() {
    let mut history = with_a_ghost();
    let name: crate::version::tag::TagName = "q3".parse().unwrap();
    for version in [1, 3] {
        assert_eq!(events(&history.tagged(t(version), &name, AT).unwrap()), [EventKind::Tagged { name: "q3".to_owned() }]);
    }
    assert_eq!(refused(history.tagged(t(2), &name, AT)), "t2 is a ghost, it can't be tagged; `shadowfs pin t2` keeps it");
    seal(&mut history, t(4));
    assert_eq!(refused(history.tagged(t(4), &name, AT)), "t4 has no verdict yet, it can't be tagged; `shadowfs wait t4` first");
    assert_eq!(events(&history.untagged(t(3), "q3", AT).unwrap()), [EventKind::Untagged { name: "q3".to_owned() }]);
}

#[test]
fn what_is_dropped_is_expired_and_what_is_in_use_stays() {
    let mut history = with_a_ghost();
    assert_eq!(refused(history.dropped(t(1), None, AT)), "t1 can't be dropped: it is in production");
    let needed = refused(history.dropped(t(3), None, AT));
    assert!(needed.starts_with("t3 can't be dropped: "), "{needed}");
    assert_eq!(refused(history.dropped(t(0), Some("q3"), AT)), "t0 can't be dropped: it has the tag q3; `shadowfs tag --remove q3` first");
    history.apply(history.dropped(t(0), None, AT).unwrap());
    let decision = history.dropped(t(2), None, AT).unwrap();
    assert_eq!(events(&decision), [EventKind::Expired]);
    history.apply(decision);
    let gone = history.get(t(2)).unwrap();
    assert_eq!((gone.state, gone.root, &gone.reason), (VersionState::Expired, None, &Some(failed())));
    assert_eq!(refused(history.dropped(t(2), None, AT)), "t2 is expired, it can't be dropped: its content is gone");
    assert_eq!(history.dropped(t(9), None, AT), Err(HistoryError::Unknown(t(9))));
    seal(&mut history, t(4));
    assert_eq!(refused(history.dropped(t(4), None, AT)), "t4 can't be dropped: it has no verdict yet; `shadowfs wait t4` first");
}

#[test]
fn what_waits_for_promotion_is_not_dropped() {
    let mut history = with_a_ghost();
    seal(&mut history, t(4));
    pass(&mut history, t(4));
    assert_eq!(history.flagged(), [t(3), t(4)]);
    assert_eq!(refused(history.dropped(t(3), None, AT)), "t3 can't be dropped: it waits for its promotion");
}

#[test]
fn a_restored_version_says_whose_content_it_has() {
    let mut history = with_a_ghost();
    assert_eq!(history.restorable(t(2)).unwrap().version, t(2));
    let decision = history.restored(t(4), t(3), t(2), AT).unwrap();
    assert_eq!(events(&decision), [EventKind::Opened { parent: t(3), writer: None }, EventKind::Restored { from: t(2) }]);
    history.apply(decision);
    let new = history.get(t(4)).unwrap();
    assert_eq!((new.state, new.parent, new.restored_from), (VersionState::Open, Some(t(3)), Some(t(2))));
    assert_eq!(history.restorable(t(4)).unwrap_err().to_string(), "t4 is open, it can't be restored; `shadowfs commit` first");
    history.apply(history.dropped(t(2), None, AT).unwrap());
    assert_eq!(history.restorable(t(2)).unwrap_err().to_string(), "t2 is expired, it can't be restored: its content is gone");
}
