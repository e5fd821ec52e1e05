//! The run of a version's checks: what starts when, and when the verdict falls. Pure; times come in.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{Check, Checks, Severity};
use crate::store::record::Outcome;

/// The longest wait before a retry, however often it doubled.
const LONGEST_BACKOFF: Duration = Duration::from_secs(3600);
/// The longest wait before a check that could not start is tried again.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// What a run bears.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Failed attempts of the version that are borne.
    pub rollback_threshold: u32,
    /// How often a failed check is tried again.
    pub retries: u32,
    /// The wait before the first retry.
    pub backoff: Duration,
}

impl From<&Checks> for Limits {
    fn from(checks: &Checks) -> Self {
        Self { rollback_threshold: checks.rollback_threshold, retries: checks.retries, backoff: checks.backoff }
    }
}

/// An attempt to start.
#[derive(Clone, Debug)]
pub struct Start {
    /// Of which check.
    pub check: Arc<Check>,
    /// The attempt's number in the lineage.
    pub attempt: u32,
}

/// Where a run stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Something is still to be tried or running.
    Undecided,
    /// All that can reject have passed, and all others have ended.
    Passed,
    /// Rejected.
    Rejected {
        /// The checks that failed.
        checks: Vec<String>,
        /// Why, in one line.
        summary: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// To be tried from this moment on.
    Due(Instant),
    Running,
    /// Ended for good, with success or without consequence.
    Done,
    /// Could not start; tried again from this moment on.
    Waiting(Instant, String),
}

#[derive(Clone, Debug)]
struct Item {
    check: Arc<Check>,
    /// The number that the next attempt gets.
    attempt: u32,
    /// Failed attempts in this run.
    failed: u32,
    /// Starts that failed one after the other.
    unstarted: u32,
    /// Why the last of them did.
    why: Option<String>,
    state: State,
}

/// The run of a version's checks.
#[derive(Clone, Debug)]
pub struct Run {
    items: Vec<Item>,
    limits: Limits,
    /// Failed attempts of checks that can reject.
    failures: u32,
}

impl Item {
    const fn may_start(&self, retries: bool) -> bool {
        retries || self.failed == 0
    }
}

impl Run {
    /// A run of these checks, each with the number of its first attempt, from `now` on.
    #[must_use]
    pub fn new(checks: Vec<(Arc<Check>, u32)>, limits: Limits, now: Instant) -> Self {
        let item = |(check, attempt)| Item { check, attempt, failed: 0, unstarted: 0, why: None, state: State::Due(now) };
        Self { items: checks.into_iter().map(item).collect(), limits, failures: 0 }
    }

    /// At most `room` attempts that are due, with or without those after a failure; they count as running from here on.
    pub fn start(&mut self, now: Instant, room: usize, retries: bool) -> Vec<Start> {
        let due = |item: &&mut Item| item.may_start(retries) && matches!(item.state, State::Due(at) | State::Waiting(at, _) if at <= now);
        let begin = |item: &mut Item| {
            item.state = State::Running;
            item.attempt += 1;
            Start { check: Arc::clone(&item.check), attempt: item.attempt - 1 }
        };
        self.items.iter_mut().filter(due).take(room).map(begin).collect()
    }

    /// When the next attempt is due, if one waits for its time; with or without those after a failure.
    #[must_use]
    pub fn next_due(&self, retries: bool) -> Option<Instant> {
        let items = self.items.iter().filter(|item| item.may_start(retries));
        items.filter_map(|item| if let State::Due(at) | State::Waiting(at, _) = item.state { Some(at) } else { None }).min()
    }

    /// Whether an attempt after a failure is to be made.
    #[must_use]
    pub fn has_retry(&self) -> bool {
        self.items.iter().any(|item| item.failed > 0 && matches!(item.state, State::Due(_) | State::Waiting(..)))
    }

    /// Whether a check that can reject has failed and is still to be tried again.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.items.iter().any(|item| item.failed > 0 && item.state != State::Done && item.check.severity == Severity::Error)
    }

    /// The checks that can't start, and why.
    pub fn waiting(&self) -> impl Iterator<Item = (&str, &str)> {
        self.items.iter().filter_map(|item| match &item.state {
            State::Waiting(_, why) => Some((item.check.name.as_str(), why.as_str())),
            State::Due(_) | State::Running | State::Done => None,
        })
    }

    /// Checks that could not start are tried again at once; they have said nothing of the data, so `renewed` may put another definition
    /// in their place, or (`None`) drop them.
    pub fn renew(&mut self, now: Instant, renewed: impl Fn(&str) -> Option<Arc<Check>>) -> Progress {
        for item in &mut self.items {
            if !matches!(item.state, State::Waiting(..)) {
                continue;
            }
            item.unstarted = 0;
            item.state = match renewed(&item.check.name) {
                Some(check) => {
                    item.check = check;
                    State::Due(now)
                }
                None => State::Done,
            };
        }
        self.progress()
    }

    /// The attempt of `check` that runs was stopped before it said anything: it is to be tried again under the same number.
    pub fn requeue(&mut self, check: &str, now: Instant) {
        for item in self.items.iter_mut().filter(|item| item.check.name == check && item.state == State::Running) {
            item.attempt -= 1;
            item.state = State::Due(now);
        }
    }

    /// Whether this attempt is the one of `check` that runs. One that was stopped may still end after a new run has begun.
    #[must_use]
    pub fn awaits(&self, check: &str, attempt: u32) -> bool {
        self.items.iter().any(|item| item.check.name == check && item.state == State::Running && item.attempt == attempt + 1)
    }

    /// Whether an attempt of `check` that ended like this could not start for the same reason as the one before: that is no news, and
    /// the next one gets its number.
    #[must_use]
    pub fn repeats(&self, check: &str, outcome: &Outcome) -> bool {
        let Outcome::CouldNotStart { why } = outcome else { return false };
        self.items.iter().any(|item| item.check.name == check && item.why.as_ref() == Some(why))
    }

    /// An attempt of `check` ended.
    pub fn ended(&mut self, check: &str, outcome: &Outcome, now: Instant) -> Progress {
        let limits = self.limits;
        let repeats = self.repeats(check, outcome);
        let Some(item) = self.items.iter_mut().find(|item| item.check.name == check) else { return self.progress() };
        match outcome {
            Outcome::Passed | Outcome::Skipped | Outcome::Cancelled => item.state = State::Done,
            Outcome::CouldNotStart { why } => {
                item.unstarted += 1;
                item.attempt -= u32::from(repeats);
                item.why = Some(why.clone());
                let wait = doubled(limits.backoff.max(Duration::from_millis(100)), item.unstarted - 1).min(LONGEST_WAIT);
                item.state = State::Waiting(now + wait, why.clone());
            }
            Outcome::Failed { .. } | Outcome::Found { .. } | Outcome::Killed { .. } | Outcome::TimedOut | Outcome::OverLimit { .. } => {
                item.failed += 1;
                let spent = item.failed > limits.retries;
                let rejects = item.check.severity == Severity::Error;
                item.state = if spent { State::Done } else { State::Due(now + doubled(limits.backoff, item.failed - 1)) };
                self.failures += u32::from(rejects);
                if rejects && (spent || self.failures > limits.rollback_threshold) {
                    return self.rejected(check, outcome);
                }
            }
        }
        self.progress()
    }

    fn progress(&self) -> Progress {
        match self.items.iter().all(|item| item.state == State::Done) {
            true => Progress::Passed,
            false => Progress::Undecided,
        }
    }

    /// Where the run stands before anything has started: one without checks has passed.
    #[must_use]
    pub fn outset(&self) -> Progress {
        self.progress()
    }

    fn rejected(&self, last: &str, outcome: &Outcome) -> Progress {
        let failed = |item: &&Item| item.failed > 0 && item.check.severity == Severity::Error;
        let checks: Vec<_> = self.items.iter().filter(failed).map(|item| item.check.name.clone()).collect();
        let attempts = self.items.iter().filter(failed).map(|item| item.failed).sum::<u32>();
        let ending = match outcome {
            Outcome::Failed { code: Some(code) } => format!("exit code {code}"),
            Outcome::Killed { signal } => format!("killed by signal {signal}"),
            Outcome::TimedOut => "timed out".to_owned(),
            Outcome::Found { summary } => summary.clone(),
            Outcome::OverLimit { what } => what.clone(),
            _ => "failed".to_owned(),
        };
        let count = if attempts == 1 { "1 failed attempt".to_owned() } else { format!("{attempts} failed attempts") };
        Progress::Rejected { checks, summary: format!("{last}: {ending} ({count})") }
    }
}

fn doubled(wait: Duration, times: u32) -> Duration {
    wait.checked_mul(2u32.saturating_pow(times)).unwrap_or(LONGEST_BACKOFF).min(LONGEST_BACKOFF.max(wait))
}
