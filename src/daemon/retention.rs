//! Retention: what has had its time expires by itself, a few at a time, and what they held is swept.

use std::time::{Duration, Instant};

use super::dispatcher::Dispatcher;
use super::message::Retired;
use crate::clock::{Clock, Timestamp};
use crate::ids::VersionId;
use crate::retain::{self, Expiry, Plan, sweep_is_due};
use crate::store::StoreError;

/// Versions that expire in one transaction by themselves: it must not keep the dispatcher for long.
const AT_ONCE: usize = 64;
/// The wait after something happened: much may happen at once.
const SOON: Duration = Duration::from_millis(500);
/// The wall clock may jump: the plan is made anew this often at the least, and more often if it has to look at free space.
const AT_LEAST: Duration = Duration::from_secs(600);
const SPACE: Duration = Duration::from_secs(10);
/// Of the versions that could go before their time, one in so many goes before it is looked again what that has freed.
const EARLY_SHARE: usize = 8;

/// By how much the wall clock may be apart from the one that does not jump before it is not believed, and for how long then.
const APART: Duration = Duration::from_secs(60);
const DOUBT: Duration = Duration::from_secs(24 * 3600);

/// The wall clock, for what ends by age: who sets it ahead by mistake has a day to set it right before anything is removed for it. While
/// it is behind, things stay longer.
#[derive(Debug, Default)]
pub(super) struct PatientClock {
    /// The wall clock when it was believed last, by the other.
    believed: Option<(Timestamp, Instant)>,
    doubted_since: Option<Instant>,
}

impl PatientClock {
    pub(super) fn now(&mut self, clock: &dyn Clock) -> Timestamp {
        let (wall, instant) = (clock.now(), clock.instant());
        let expected = self.believed.map(|(at, when)| at.plus(instant.saturating_duration_since(when)));
        if let Some(expected) = expected.filter(|expected| wall.since(*expected).max(expected.since(wall)) > APART) {
            let since = *self.doubted_since.get_or_insert(instant);
            if instant.saturating_duration_since(since) < DOUBT {
                return wall.min(expected);
            }
        }
        (self.believed, self.doubted_since) = (Some((wall, instant)), None);
        wall
    }
}

/// When retention is looked at, and what it waits for.
#[derive(Debug, Default)]
pub(super) struct Retention {
    /// `None`: at the next turn.
    pub(super) at: Option<Instant>,
    /// Versions went before their time, and what that has freed is not known before the sweep.
    awaits_sweep: bool,
    pub(super) clock: PatientClock,
}

impl Dispatcher {
    /// Something has happened that may end a version's time.
    pub(super) fn stir_retention(&mut self) {
        let soon = self.clock.instant() + SOON;
        self.retention.at = self.retention.at.map(|at| at.min(soon));
    }

    /// Ends the retention of what has had its time.
    pub(super) fn retire_due(&mut self) {
        let now = self.clock.instant();
        if self.stopping.is_some() || self.retention.at.is_some_and(|at| now < at) {
            return;
        }
        // What staging is about to follow may still need what it stood on.
        if !self.todo.is_empty() || self.staging_base != self.history.base() {
            self.retention.at = Some(now + SOON);
            return;
        }
        let plan = self.retention_plan();
        let mut versions: Vec<VersionId> = plan.expire.iter().map(|expiry| expiry.version).take(AT_ONCE).collect();
        if versions.is_empty() && !self.retention.awaits_sweep && self.is_space_short() {
            let early = plan.early(usize::MAX);
            versions = early.iter().copied().take(early.len().div_ceil(EARLY_SHARE)).collect();
            self.retention.awaits_sweep = !versions.is_empty();
        }
        let wall = self.retention.clock.now(&*self.clock);
        let until = plan.next().map_or(AT_LEAST, |next| next.since(wall));
        let least = if self.config.retention.min_free.0 > 0 { SPACE } else { AT_LEAST };
        // What is being read goes when that ends: nobody tells when.
        let busy = plan.keep.iter().any(|(_, keep)| *keep == retain::Keep::InUse);
        self.retention.at = Some(now + if versions.is_empty() && !busy { until.clamp(SOON, least) } else { SOON });
        if versions.is_empty() {
            return;
        }
        match self.expire(&versions) {
            Ok(()) => self.keeper.wake(),
            Err(error) => {
                let line = format!("what has had its time can't be recorded as expired yet, it is tried again: {error}");
                self.warn("retention".to_owned(), line);
            }
        }
    }

    /// What goes now and what stays: what is read is not among the former.
    pub(super) fn retention_plan(&mut self) -> Plan {
        let now = self.retention.clock.now(&*self.clock);
        let tags: Vec<(String, VersionId)> = self.shared.visible().tags.iter().map(|(name, version)| (name.clone(), *version)).collect();
        let plan = retain::plan(&self.history, &tags, &self.config.retention, &self.config.ghosts, now);
        plan.but(&|version| self.reads(version))
    }

    /// Whether the daemon itself reads a version: for its checks, for someone's question, for staging's way back.
    pub(super) fn reads(&self, version: VersionId) -> bool {
        self.shared.leases.has(version)
            || self.runs.contains_key(&version)
            || self.promotion.as_ref().is_some_and(|promotion| promotion.version == version)
            || self.staging_base == version
    }

    fn is_space_short(&mut self) -> bool {
        let least = self.config.retention.min_free;
        if least.0 == 0 {
            self.warnings.remove("space");
            return false;
        }
        let Ok(figures) = self.store.filesystem() else { return false };
        let (free, total) = (figures.blocks_available() * figures.fragment_size(), figures.blocks() * figures.fragment_size());
        let short = free < least.of(total);
        if short {
            let line = format!("less than {least} is free on the store's filesystem: the oldest versions and ghosts go before their time");
            self.warn("space".to_owned(), line);
        } else {
            self.warnings.remove("space");
        }
        short
    }

    /// Expires versions that may go, and shows it.
    fn expire(&mut self, versions: &[VersionId]) -> Result<(), String> {
        let decision = self.history.all_expired(versions, self.clock.now()).map_err(|error| error.to_string())?;
        self.staging.leave_bases().map_err(|error| error.to_string())?;
        self.write_with(decision, sweep_is_due).map_err(|error: StoreError| error.to_string())?;
        self.warnings.remove("retention");
        self.show();
        Ok(())
    }

    /// `gc`: all that has had its time, now; or what that would be.
    pub(super) fn retire(&mut self, dry_run: bool) -> Result<Retired, String> {
        self.work();
        if !self.todo.is_empty() || self.staging_base != self.history.base() {
            return Err("something could not be recorded yet (see `shadowfs status`); try again when that is done".to_owned());
        }
        let plan = self.retention_plan();
        let expired: Vec<Expiry> = plan.expire.clone();
        let busy = plan.keep.iter().filter(|(_, keep)| *keep == retain::Keep::InUse).map(|(version, _)| *version).collect();
        if !dry_run && !expired.is_empty() {
            let versions: Vec<VersionId> = expired.iter().map(|expiry| expiry.version).collect();
            self.expire(&versions).map_err(|error| format!("nothing has expired, the store can't record it: {error}"))?;
        }
        Ok(Retired { expired, busy })
    }

    /// A sweep has come to its end, or why it has not.
    pub(super) fn swept(&mut self, warning: Option<String>) {
        self.retention.awaits_sweep = false;
        self.stir_retention();
        match warning {
            Some(line) => self.warn("gc".to_owned(), line),
            None => drop(self.warnings.remove("gc")),
        }
    }
}
