//! Checks: what applies (`plan`), the state of a version's run and its verdict (`verdict`), and the workers that try (`pool`, `worker`
//! with its `worker_warden`, `builtin`).
//!
//! `plan`, `verdict` and `metric` (rules and trends of the numbers that checks report) are pure. A worker sends how its attempt ended; the dispatcher asks `verdict` what follows.

pub mod builtin;
mod cancel;
pub mod metric;
mod output;
mod plan;
mod pool;
mod verdict;
#[cfg(test)]
mod verdict_tests;
mod worker;
#[cfg(test)]
mod worker_tests;
pub mod worker_warden;

pub use builtin::BuiltinJob;
pub use cancel::{Cancel, CancelHandle};
pub use plan::{Plan, PlanError};
pub use pool::{Job, Pool, Work};
pub use verdict::{Limits, Progress, Run, Start};
pub use worker::{CommandJob, run};

use std::time::Duration;

use crate::clock::Timestamp;
use crate::store::record::Outcome;

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempted {
    /// When it began.
    pub started_at: Timestamp,
    /// How long it took.
    pub took: Duration,
    /// How it ended.
    pub outcome: Outcome,
    /// The numbers that it reported, each name once (the last one counts).
    pub metrics: Vec<(String, f64)>,
}
