//! Runs and their verdicts, one situation each.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::verdict::{Limits, Progress, Run};
use crate::clock::{Clock as _, SystemClock};
use crate::config::{Action, Check, Severity};
use crate::store::record::Outcome;

const FAILED: Outcome = Outcome::Failed { code: Some(1) };
const BACKOFF: Duration = Duration::from_millis(250);

fn check(name: &str, severity: Severity) -> (Arc<Check>, u32) {
    let action = Action::Run(vec!["true".to_owned()]);
    (Arc::new(Check { severity, ..Check::new(name, action) }), 1)
}

fn run(names: &[&str], threshold: u32, retries: u32) -> (Run, Instant) {
    let now = SystemClock.instant();
    let checks =
        names.iter().map(|name| check(name.trim_end_matches('?'), if name.ends_with('?') { Severity::Warn } else { Severity::Error }));
    (Run::new(checks.collect(), Limits { rollback_threshold: threshold, retries, backoff: BACKOFF }, now), now)
}

fn started(run: &mut Run, now: Instant) -> Vec<(String, u32)> {
    run.start(now, 99, true).into_iter().map(|start| (start.check.name.clone(), start.attempt)).collect()
}

fn rejected(progress: Progress) -> (Vec<String>, String) {
    match progress {
        Progress::Rejected { checks, summary } => (checks, summary),
        other => panic!("{other:?}"),
    }
}

#[test]
fn no_checks_at_all_pass() {
    assert_eq!(run(&[], 2, 2).0.outset(), Progress::Passed);
    assert_eq!(run(&["a"], 2, 2).0.outset(), Progress::Undecided);
}

#[test]
fn all_must_pass() {
    let (mut run, now) = run(&["a", "b"], 2, 2);
    assert_eq!(started(&mut run, now), [("a".to_owned(), 1), ("b".to_owned(), 1)]);
    assert_eq!(run.ended("b", &Outcome::Passed, now), Progress::Undecided);
    assert_eq!(run.ended("a", &Outcome::Passed, now), Progress::Passed);
}

#[test]
fn only_as_many_start_as_there_is_room_for() {
    let (mut run, now) = run(&["a", "b"], 2, 2);
    assert_eq!(run.start(now, 1, true).len(), 1);
    assert_eq!(run.start(now, 1, true).len(), 1);
    assert_eq!(run.start(now, 1, true).len(), 0);
}

#[test]
fn a_transient_failure_costs_nothing_and_the_wait_doubles() {
    let (mut run, now) = run(&["a"], 2, 2);
    started(&mut run, now);
    assert_eq!(run.ended("a", &FAILED, now), Progress::Undecided);
    assert_eq!(run.next_due(true), Some(now + BACKOFF));
    assert_eq!(started(&mut run, now), []);
    let then = now + BACKOFF;
    assert_eq!(started(&mut run, then), [("a".to_owned(), 2)]);
    assert_eq!(run.ended("a", &Outcome::TimedOut, then), Progress::Undecided);
    assert_eq!(run.next_due(true), Some(then + 2 * BACKOFF));
    assert_eq!(started(&mut run, then + 2 * BACKOFF), [("a".to_owned(), 3)]);
    assert_eq!(run.ended("a", &Outcome::Passed, then), Progress::Passed);
}

#[test]
fn a_check_without_retries_left_rejects_whatever_the_threshold() {
    let (mut run, now) = run(&["a", "b"], 100, 0);
    started(&mut run, now);
    let (checks, summary) = rejected(run.ended("a", &FAILED, now));
    assert_eq!((checks, summary.as_str()), (vec!["a".to_owned()], "a: exit code 1 (1 failed attempt)"));
}

#[test]
fn the_failures_of_all_checks_count_together_against_the_threshold() {
    let (mut run, now) = run(&["a", "b", "c"], 2, 9);
    started(&mut run, now);
    assert_eq!(run.ended("a", &FAILED, now), Progress::Undecided);
    assert_eq!(run.ended("b", &FAILED, now), Progress::Undecided);
    let (checks, summary) = rejected(run.ended("c", &Outcome::Killed { signal: 9 }, now));
    assert_eq!(checks, ["a", "b", "c"]);
    assert_eq!(summary, "c: killed by signal 9 (3 failed attempts)");
}

#[test]
fn a_warning_is_tried_again_and_never_rejects() {
    let (mut run, now) = run(&["w?", "a"], 0, 1);
    started(&mut run, now);
    assert_eq!(run.ended("w", &FAILED, now), Progress::Undecided);
    assert_eq!(run.ended("a", &Outcome::Passed, now), Progress::Undecided);
    started(&mut run, now + BACKOFF);
    assert_eq!(run.ended("w", &FAILED, now), Progress::Passed);
}

#[test]
fn a_check_that_can_not_start_says_nothing_of_the_data() {
    let (mut run, now) = run(&["a"], 0, 0);
    let why = Outcome::CouldNotStart { why: "no python".to_owned() };
    let mut then = now;
    for attempt in 1..=20 {
        assert_eq!(started(&mut run, then), [("a".to_owned(), attempt.min(2))], "the same reason is one attempt");
        assert_eq!(run.ended("a", &why, then), Progress::Undecided);
        assert_eq!(run.waiting().collect::<Vec<_>>(), [("a", "no python")]);
        let due = run.next_due(true).unwrap();
        assert!(due > then && due <= then + Duration::from_secs(30));
        then = due;
    }
    started(&mut run, then);
    assert_eq!(run.ended("a", &Outcome::Passed, then), Progress::Passed);
}

#[test]
fn a_check_that_can_not_start_takes_a_new_definition_or_goes() {
    let (mut run, now) = run(&["a", "b"], 0, 0);
    started(&mut run, now);
    run.ended("a", &Outcome::CouldNotStart { why: String::new() }, now);
    assert_eq!(run.renew(now, |_| Some(check("a", Severity::Warn).0)), Progress::Undecided);
    assert_eq!(started(&mut run, now), [("a".to_owned(), 2)]);
    assert_eq!(run.ended("a", &FAILED, now), Progress::Undecided, "it only warns now");
    run.ended("b", &Outcome::CouldNotStart { why: String::new() }, now);
    assert_eq!(run.renew(now, |_| None), Progress::Passed);
}

#[test]
fn waits_never_overflow() {
    let (mut run, now) = run(&["a"], 10_000, 1000);
    for _ in 0..1000 {
        started(&mut run, now + Duration::from_secs(4000));
        assert_eq!(run.ended("a", &FAILED, now), Progress::Undecided);
        assert!(run.next_due(true).unwrap() <= now + Duration::from_secs(3600));
    }
}

#[test]
fn a_stopped_attempt_is_tried_again_under_its_number() {
    let (mut run, now) = run(&["a"], 0, 0);
    started(&mut run, now);
    run.requeue("a", now);
    assert_eq!(started(&mut run, now), [("a".to_owned(), 1)]);
    assert_eq!(run.ended("a", &Outcome::Passed, now), Progress::Passed);
}

#[test]
fn retries_can_be_made_to_wait_and_first_attempts_go_on() {
    let (mut run, now) = run(&["a", "b"], 2, 2);
    assert_eq!(run.start(now, 1, false).len(), 1);
    assert!(!run.is_failing() && !run.has_retry());
    assert_eq!(run.ended("a", &FAILED, now), Progress::Undecided);
    assert!(run.is_failing() && run.has_retry());
    let then = now + BACKOFF;
    assert_eq!(run.next_due(false), Some(now), "the other is still to be tried");
    assert_eq!(run.start(then, 99, false).len(), 1);
    assert_eq!((run.next_due(false), run.start(then, 99, false).len()), (None, 0));
    assert_eq!((run.next_due(true), started(&mut run, then)), (Some(then), vec![("a".to_owned(), 2)]));
    assert_eq!(run.ended("a", &Outcome::Passed, then), Progress::Undecided);
    assert!(!run.is_failing(), "it is over");
}
