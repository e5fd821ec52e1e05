//! A wall clock that jumps while the daemon runs, by days, forwards and backwards: nothing comes early, and nothing hangs.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::super::dispatcher::Dispatcher;
use super::super::retention::PatientClock;
use super::super::todo::Todo;
use super::*;
use crate::clock::Timestamp;

const DAY: u64 = 24 * 3600;

/// Time passes when the test says so, and the wall clock is set by it.
#[derive(Debug)]
struct Jumping {
    began: Instant,
    passed: AtomicU64,
    off_by: AtomicI64,
}

impl Jumping {
    fn new() -> Arc<Self> {
        Arc::new(Self { began: Instant::now(), passed: AtomicU64::new(0), off_by: AtomicI64::new(0) })
    }

    /// Seconds go by.
    fn pass(&self, seconds: u64) {
        self.passed.fetch_add(seconds, Ordering::Relaxed);
    }

    /// The wall clock is wrong by so many days now.
    fn jump(&self, days: i64) {
        self.off_by.store(days * DAY as i64, Ordering::Relaxed);
    }
}

impl Clock for Jumping {
    fn now(&self) -> Timestamp {
        let secs = self.passed.load(Ordering::Relaxed) as i64 + self.off_by.load(Ordering::Relaxed);
        Timestamp { secs: 1_790_000_000 + secs, nanos: 0 }
    }

    fn instant(&self) -> Instant {
        self.began + Duration::from_secs(self.passed.load(Ordering::Relaxed))
    }
}

/// All that can happen now, until `done` says that it has. The threads beside the dispatcher need their time for it.
fn until(dispatcher: &mut Dispatcher, what: &str, mut done: impl FnMut(&Dispatcher) -> bool) {
    for _ in 0..30_000 {
        while let Ok(message) = dispatcher.sources.messages.try_recv() {
            dispatcher.take(message);
        }
        dispatcher.drain_staging();
        while let Ok((key, attempted)) = dispatcher.sources.attempts.try_recv() {
            dispatcher.todo.push_back(Todo::Ended(key, attempted));
        }
        dispatcher.turn();
        if done(dispatcher) {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("never: {what}; {:?}", dispatcher.warnings);
}

fn state(dispatcher: &Dispatcher, version: u64) -> Option<VersionState> {
    dispatcher.history.get(VersionId(version)).map(|record| record.state)
}

/// Wherever the wall clock goes meanwhile, `wait` seconds must pass before `done`, and at most `late` more.
fn after(clock: &Jumping, dispatcher: &mut Dispatcher, (wait, late): (u64, u64), what: &str, done: impl Fn(&Dispatcher) -> bool) {
    for days in [0, 400, -400, 0] {
        clock.jump(days);
        until(dispatcher, "a turn", |_| true);
        assert!(!done(dispatcher), "{what} came early, with the clock {days} days off");
    }
    clock.pass(wait - 1);
    clock.jump(-3);
    until(dispatcher, "a turn", |_| true);
    assert!(!done(dispatcher), "{what} came a second early");
    clock.pass(1 + late);
    clock.jump(3);
    until(dispatcher, what, done);
    clock.jump(0);
}

#[test]
fn settle_backoff_and_window_take_the_time_that_they_take() {
    let clock = Jumping::new();
    let config = JSON
        .replace("settle = \"1h\"", "settle = \"100s\"")
        .replace("retries = 0", "retries = 1\nbackoff = \"50s\"")
        .replace("window = \"0s\"", "window = \"70s\"");
    let (daemon, mut dispatcher) = Daemon::driven_with(Arc::clone(&clock) as Arc<dyn Clock>, &config);
    daemon.put("a.json", "{}");
    until(&mut dispatcher, "t1 is open", |dispatcher| state(dispatcher, 1) == Some(VersionState::Open));
    after(&clock, &mut dispatcher, (100, 0), "the seal of t1", |dispatcher| {
        dispatcher.sealing.is_some() || state(dispatcher, 1) != Some(VersionState::Open)
    });
    until(&mut dispatcher, "t1 is valid", |dispatcher| state(dispatcher, 1) == Some(VersionState::Valid));
    after(&clock, &mut dispatcher, (70, 0), "the promotion of t1", |dispatcher| state(dispatcher, 1) == Some(VersionState::Promoted));
    daemon.put("a.json", "{");
    until(&mut dispatcher, "t2 is open", |dispatcher| state(dispatcher, 2) == Some(VersionState::Open));
    clock.pass(100);
    let attempts = |_: &Dispatcher| daemon.connections().shared.store.catalog().attempts(VersionId(2)).unwrap().len();
    until(&mut dispatcher, "the first attempt", |dispatcher| attempts(dispatcher) == 1);
    after(&clock, &mut dispatcher, (50, 0), "the second attempt", |dispatcher| attempts(dispatcher) == 2);
    until(&mut dispatcher, "t2 is rejected", |dispatcher| state(dispatcher, 2) == Some(VersionState::Ghost));
    take_apart(dispatcher);
}

#[test]
fn max_open_is_counted_by_the_clock_that_does_not_jump() {
    let clock = Jumping::new();
    let config = JSON.replace("settle = \"1h\"", "settle = \"1h\"\nmax_open = \"30m\"");
    let (daemon, mut dispatcher) = Daemon::driven_with(Arc::clone(&clock) as Arc<dyn Clock>, &config);
    daemon.put("a.json", "{}");
    until(&mut dispatcher, "t1 is open", |dispatcher| state(dispatcher, 1) == Some(VersionState::Open));
    after(&clock, &mut dispatcher, (1800, 0), "the seal of t1", |dispatcher| {
        dispatcher.sealing.is_some() || state(dispatcher, 1) != Some(VersionState::Open)
    });
    until(&mut dispatcher, "t1 is sealed", |dispatcher| dispatcher.sealing.is_none());
    take_apart(dispatcher);
}

#[test]
fn retention_ends_when_its_time_is_over_and_not_when_the_clock_says_so_once() {
    let clock = Jumping::new();
    let config = format!(
        "{}[ghosts]\nretain = \"1h\"\n[retention]\nkeep_last = 1\nkeep_for = \"2h\"\n",
        JSON.replace("settle = \"1h\"", "settle = \"1s\"")
    );
    let (daemon, mut dispatcher) = Daemon::driven_with(Arc::clone(&clock) as Arc<dyn Clock>, &config);
    for (number, text) in [(1, "{}"), (2, "{"), (3, "[]"), (4, "1")] {
        daemon.put("a.json", text);
        until(&mut dispatcher, "it is open", |dispatcher| state(dispatcher, number) == Some(VersionState::Open));
        clock.pass(2);
        let judged = |dispatcher: &Dispatcher| matches!(state(dispatcher, number), Some(VersionState::Promoted | VersionState::Ghost));
        until(&mut dispatcher, "it is judged", judged);
    }
    assert_eq!(state(&dispatcher, 2), Some(VersionState::Ghost));
    let ghost_gone = |dispatcher: &Dispatcher| state(dispatcher, 2) == Some(VersionState::Expired);
    // Since the verdict 4 seconds have passed. A plan is made every ten minutes, if nothing happens.
    after(&clock, &mut dispatcher, (3596, 600), "the end of the ghost", ghost_gone);
    assert_ne!(state(&dispatcher, 1), Some(VersionState::Expired));
    after(&clock, &mut dispatcher, (2998, 600), "the end of t1", |dispatcher| state(dispatcher, 1) == Some(VersionState::Expired));
    take_apart(dispatcher);
}

#[test]
fn a_clock_that_stays_ahead_is_believed_after_a_day_and_one_that_is_behind_at_once() {
    let (clock, mut patient) = (Jumping::new(), PatientClock::default());
    let right = || Timestamp { secs: 1_790_000_000 + clock.passed.load(Ordering::Relaxed) as i64, nanos: 0 };
    assert_eq!(patient.now(&*clock), right());
    clock.pass(DAY);
    assert_eq!(patient.now(&*clock), right(), "time that passes is no jump");
    clock.jump(30);
    assert_eq!(patient.now(&*clock), right());
    clock.pass(DAY - 1);
    assert_eq!(patient.now(&*clock), right());
    clock.pass(1);
    assert_eq!(patient.now(&*clock), clock.now());
    clock.jump(0);
    clock.pass(DAY);
    assert_eq!(patient.now(&*clock), right());
    clock.jump(-30);
    assert_eq!(patient.now(&*clock), clock.now(), "behind is safe");
    clock.jump(0);
    assert_eq!(patient.now(&*clock), right(), "set right again it is believed");
}
