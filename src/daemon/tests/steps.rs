//! Orders of events that chance brings seldom, one by one.

use std::time::Duration;

use super::super::dispatcher::{Dispatcher, Key};
use super::super::hold::Hold;
use super::super::message::{Changes, Message, Report};
use super::super::todo::Todo;
use super::*;
use crate::check::Attempted;
use crate::store::record::Outcome;

const T1: VersionId = VersionId(1);

/// Seals what is open, as the errand thread does; what the version changed is known at once.
pub(super) fn seal(daemon: &Daemon, dispatcher: &mut Dispatcher) {
    dispatcher.drain_staging();
    dispatcher.work();
    let frozen = daemon.connections().staging.freeze(true).unwrap().unwrap();
    let (record, _) = crate::version::seal::seal(&daemon.connections().shared.store, &frozen, None, SystemClock.now()).unwrap();
    dispatcher.staging_base = if frozen.is_unchanged() { frozen.parent() } else { record.version };
    dispatcher.sealed(record);
}

pub(super) fn config(text: &str) -> Arc<Config> {
    Arc::new(Config::parse(text, std::path::Path::new("")).unwrap())
}

fn could_not_start(attempt: u32) -> (Key, Attempted) {
    let outcome = Outcome::CouldNotStart { why: "no such file".to_owned() };
    let attempted = Attempted { started_at: SystemClock.now(), took: Duration::ZERO, outcome, metrics: Vec::new() };
    (Key::Check { version: T1, check: "v".to_owned(), attempt }, attempted)
}

#[test]
fn a_check_that_is_put_right_while_it_fails_to_start_is_tried_as_it_is_now() {
    let (daemon, mut dispatcher) = Daemon::driven(&waiting());
    daemon.put("a.json", "1");
    seal(&daemon, &mut dispatcher);
    dispatcher.planned(T1, Ok(Arc::new(Changes::default())));
    dispatcher.start_due();
    dispatcher.config = config(JSON);
    dispatcher.renew_waiting();
    let (key, attempted) = could_not_start(1);
    dispatcher.ended(&key, &attempted).unwrap();
    assert_eq!(dispatcher.runs[&T1].waiting().count(), 0, "it still waits for the old definition");
    take_apart(dispatcher);
}

#[test]
fn a_check_that_can_not_start_for_the_same_reason_is_noted_once() {
    let (daemon, mut dispatcher) = Daemon::driven(&waiting());
    daemon.put("a.json", "1");
    seal(&daemon, &mut dispatcher);
    dispatcher.planned(T1, Ok(Arc::new(Changes::default())));
    dispatcher.start_due();
    for attempt in [1, 2, 2, 2] {
        let (key, attempted) = could_not_start(attempt);
        dispatcher.ended(&key, &attempted).unwrap();
        // Its time has come.
        dispatcher.renew_waiting();
        dispatcher.start_due();
    }
    let attempts = daemon.connections().shared.store.catalog().attempts(T1).unwrap();
    assert_eq!(attempts.iter().map(|attempt| attempt.attempt).collect::<Vec<_>>(), [1]);
    take_apart(dispatcher);
}

#[test]
fn a_version_that_can_not_be_planned_is_tried_again() {
    let (daemon, mut dispatcher) = Daemon::driven(JSON);
    daemon.put("a.json", "1");
    seal(&daemon, &mut dispatcher);
    dispatcher.planned(T1, Err("no space left on device".to_owned()));
    assert!(dispatcher.runs[&T1].next_due(true).is_some());
    assert!(dispatcher.warnings.values().any(|line| line.contains("t1 can't be checked yet")), "{:?}", dispatcher.warnings);
    dispatcher.planned(T1, Ok(Arc::new(Changes::default())));
    assert!(dispatcher.warnings.is_empty(), "{:?}", dispatcher.warnings);
    take_apart(dispatcher);
}

fn committed(dispatcher: &mut Dispatcher) -> crossbeam::channel::Receiver<Reply> {
    let (reply, answer) = crossbeam::channel::bounded(1);
    dispatcher.commit(None, reply);
    dispatcher.settle();
    answer
}

/// Waits for the errand thread's seal and hands it on.
pub(super) fn await_seal(dispatcher: &mut Dispatcher) {
    loop {
        if let Message::Errand(Report::Sealed(record)) = dispatcher.sources.messages.recv().unwrap() {
            return dispatcher.sealed(*record);
        }
    }
}

#[test]
fn what_was_begun_is_held_on_disk_until_it_is_sealed() {
    let (daemon, mut dispatcher) = Daemon::driven(JSON);
    let held = || Hold::load(&daemon.connections().shared.store);
    assert_eq!(dispatcher.begin(Some("job".to_owned())), Reply::Nothing);
    daemon.put("a.json", "1");
    dispatcher.drain_staging();
    dispatcher.work();
    // A crash in here finds it held, whatever the journal has of it; unless it is sealed.
    dispatcher.take_up_hold();
    let answer = committed(&mut dispatcher);
    assert_eq!(held().unwrap().committing, Some(T1));
    dispatcher.take_up_hold();
    assert_eq!(dispatcher.hold.take(), Some(Hold { message: Some("job".to_owned()), ..Hold::default() }));
    await_seal(&mut dispatcher);
    assert_eq!(held(), None);
    assert!(matches!(answer.recv().unwrap(), Reply::Version(doc) if doc.message.as_deref() == Some("job")));
    Hold { committing: Some(T1), ..Hold::default() }.save(&daemon.connections().shared.store).unwrap();
    dispatcher.take_up_hold();
    assert_eq!((dispatcher.hold.take(), held()), (None, None));
    take_apart(dispatcher);
}

#[test]
fn a_commit_of_nothing_ends_its_hold_although_a_seal_is_under_way() {
    let (daemon, mut dispatcher) = Daemon::driven(JSON);
    daemon.put("a.json", "1");
    dispatcher.drain_staging();
    dispatcher.work();
    let first = committed(&mut dispatcher);
    assert!(dispatcher.sealing.is_some());
    dispatcher.begin(None);
    let second = committed(&mut dispatcher);
    assert!(matches!(dispatcher.begin(None), Reply::Refused(_)));
    await_seal(&mut dispatcher);
    dispatcher.settle();
    assert!(matches!(first.recv().unwrap(), Reply::Version(_)));
    assert_eq!((second.recv().unwrap(), &dispatcher.hold), (Reply::Nothing, &None));
    take_apart(dispatcher);
}

#[test]
fn a_job_that_loses_its_first_part_does_not_end_as_its_second_alone() {
    let (daemon, mut dispatcher) = Daemon::driven(&waiting());
    for text in ["0", "{"] {
        daemon.put("a.json", text);
        seal(&daemon, &mut dispatcher);
    }
    dispatcher.begin(None);
    daemon.put("a.json", "2");
    dispatcher.drain_staging();
    dispatcher.work();
    let reason = Reason::ChecksFailed { checks: vec!["v".to_owned()], summary: "v failed".to_owned() };
    dispatcher.todo.push_back(Todo::Reject(VersionId(2), reason));
    dispatcher.work();
    await_seal(&mut dispatcher);
    dispatcher.work();
    assert_eq!(dispatcher.history.get(VersionId(3)).unwrap().state, VersionState::Ghost);
    daemon.put("b.json", "2");
    dispatcher.drain_staging();
    dispatcher.work();
    let refused = committed(&mut dispatcher).recv().unwrap();
    assert!(matches!(&refused, Reply::Refused(refusal) if refusal.message.starts_with("t3, the first part")), "{refused:?}");
    assert!(dispatcher.hold.is_some() && dispatcher.sealing.is_none());
    let sealed = committed(&mut dispatcher);
    await_seal(&mut dispatcher);
    assert!(matches!(sealed.recv().unwrap(), Reply::Version(_)));
    take_apart(dispatcher);
}

#[test]
fn a_switch_that_waited_is_not_another_promotion_s() {
    let (daemon, mut dispatcher) = Daemon::driven(&JSON.replace("[promotion]", "[promotion]\npre = [[\"false\"]]"));
    daemon.put("a.json", "1");
    seal(&daemon, &mut dispatcher);
    dispatcher.todo.push_back(Todo::Pass(T1));
    dispatcher.work();
    dispatcher.promote_due();
    // Its command still runs; what comes is the switch of one before, whose checks had passed.
    assert!(dispatcher.promotion.is_some());
    dispatcher.todo.push_back(Todo::Switch(0));
    dispatcher.work();
    assert_eq!(dispatcher.history.production(), VersionId(0));
    take_apart(dispatcher);
}

#[test]
fn a_reload_in_the_midst_of_a_promotion_skips_none_of_its_commands() {
    let two = JSON.replace("[promotion]", "[promotion]\npre = [[\"true\"], [\"false\"]]");
    let (daemon, mut dispatcher) = Daemon::driven(&two);
    daemon.put("a.json", "1");
    seal(&daemon, &mut dispatcher);
    dispatcher.todo.push_back(Todo::Pass(T1));
    dispatcher.work();
    dispatcher.promote_due();
    let id = dispatcher.promotions;
    // The first command has passed; before the second begins, the configuration comes to have one alone.
    dispatcher.config = config(&JSON.replace("[promotion]", "[promotion]\npre = [[\"true\"]]"));
    dispatcher.pre_ended(id, &Outcome::Passed);
    assert!(dispatcher.todo.is_empty(), "it went to production with a command left out: {:?}", dispatcher.todo);
    dispatcher.pre_ended(id, &Outcome::Failed { code: Some(1) });
    assert_eq!(dispatcher.scheduler.reason(), Some("pre-promotion check false: failed (exit 1)"));
    take_apart(dispatcher);
}

#[test]
fn who_went_away_waits_no_more() {
    let (daemon, mut dispatcher) = Daemon::driven(&waiting());
    daemon.put("a.json", "1");
    seal(&daemon, &mut dispatcher);
    for _ in 0..3 {
        let (reply, _answer) = crossbeam::channel::bounded(1);
        let here = Arc::new(());
        dispatcher.wait(None, false, reply, Arc::downgrade(&here));
        assert_eq!(dispatcher.waiters.count(), 1);
    }
    take_apart(dispatcher);
}

#[test]
fn a_version_on_top_of_one_that_fails_does_not_use_up_its_tries_before_that_is_judged() {
    const T2: VersionId = VersionId(2);
    let config = waiting().replace("workers = 1", "workers = 4").replace("retries = 0", "retries = 2\nbackoff = \"0s\"");
    let (daemon, mut dispatcher) = Daemon::driven(&config);
    for name in ["a.json", "b.json"] {
        daemon.put(name, "1");
        seal(&daemon, &mut dispatcher);
    }
    for version in [T1, T2] {
        dispatcher.planned(version, Ok(Arc::new(Changes::default())));
    }
    let failed = |dispatcher: &mut Dispatcher, version, attempt| {
        let outcome = Outcome::Found { summary: "a.json: it is bad".to_owned() };
        let attempted = Attempted { started_at: SystemClock.now(), took: Duration::ZERO, outcome, metrics: Vec::new() };
        dispatcher.ended(&Key::Check { version, check: "v".to_owned(), attempt }, &attempted).unwrap();
        dispatcher.work();
        dispatcher.start_due();
    };
    let tries = |dispatcher: &Dispatcher, version| {
        dispatcher.running.keys().filter(|key| matches!(key, Key::Check { version: of, .. } if *of == version)).count()
    };
    dispatcher.start_due();
    assert_eq!((tries(&dispatcher, T1), tries(&dispatcher, T2)), (1, 1), "first tries wait for nobody");
    failed(&mut dispatcher, T1, 1);
    failed(&mut dispatcher, T2, 1);
    assert_eq!((tries(&dispatcher, T1), tries(&dispatcher, T2)), (1, 0));
    assert_eq!(dispatcher.next_attempt(), None, "nothing is due until something happens");
    failed(&mut dispatcher, T1, 2);
    assert_eq!((tries(&dispatcher, T1), tries(&dispatcher, T2)), (1, 0));
    failed(&mut dispatcher, T1, 3);
    let state = |version| dispatcher.history.get(version).map(|record| (record.state, record.rebased_from));
    assert_eq!(state(T1), Some((VersionState::Ghost, None)));
    assert_eq!(state(VersionId(3)), Some((VersionState::Checking, Some(T2))), "it is carried over");
    take_apart(dispatcher);
}
