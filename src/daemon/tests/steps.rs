//! Orders of events that chance brings seldom, one by one.

use std::time::Duration;

use super::super::dispatcher::{Dispatcher, Key};
use super::super::message::Changes;
use super::*;
use crate::check::Attempted;
use crate::store::record::Outcome;

const T1: VersionId = VersionId(1);

/// Seals what is open, as the errand thread does; what the version changed is known at once.
fn seal(daemon: &Daemon, dispatcher: &mut Dispatcher) {
    dispatcher.drain_staging();
    dispatcher.work();
    let frozen = daemon.connections().staging.freeze(true).unwrap().unwrap();
    let (record, _) = crate::version::seal::seal(&daemon.connections().shared.store, &frozen, None, SystemClock.now()).unwrap();
    dispatcher.staging_base = record.version;
    dispatcher.sealed(record);
}

fn config(text: &str) -> Arc<Config> {
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
    assert!(dispatcher.runs[&T1].next_due().is_some());
    assert!(dispatcher.warnings.values().any(|line| line.contains("t1 can't be checked yet")), "{:?}", dispatcher.warnings);
    dispatcher.planned(T1, Ok(Arc::new(Changes::default())));
    assert!(dispatcher.warnings.is_empty(), "{:?}", dispatcher.warnings);
    take_apart(dispatcher);
}
