//! Which versions and ghosts have had their time. Pure: a decision from records, pointers, tags, configuration and the time.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::config::{Ghosts, Retention};
use crate::ids::VersionId;
use crate::store::record::{VersionRecord, VersionState};
use crate::version::history::History;

/// Why a version stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Production, staging or a version without a verdict needs it; why, in words.
    Needed(String),
    /// It has no verdict yet.
    Unjudged,
    /// It waits for its promotion.
    Flagged,
    /// `rollback` took it back, and someone may say that it goes to production after all.
    Held,
    /// It has a tag.
    Tagged,
    /// It is pinned.
    Pinned,
    /// It is among the newest, which `retention.keep_last` counts.
    Newest,
    /// It is younger than `retention.keep_for` or `ghosts.retain`; it goes at this time at the earliest.
    Young {
        /// When its time is over.
        until: Timestamp,
    },
    /// A view of it is in use; it goes when that ends.
    InUse,
}

/// A version whose time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// The version.
    pub version: VersionId,
    /// Whether it is a ghost.
    pub ghost: bool,
}

/// What goes and what stays, in the order of their numbers. Versions without content are in neither.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What goes.
    pub expire: Vec<Expiry>,
    /// What stays, and why.
    pub keep: Vec<(VersionId, Keep)>,
}

impl Plan {
    /// When the next version's time is over: nothing needs to be planned before, unless something changes.
    #[must_use]
    pub fn next(&self) -> Option<Timestamp> {
        let ends = self.keep.iter().filter_map(|(_, keep)| match keep {
            Keep::Young { until } => Some(*until),
            _ => None,
        });
        ends.min()
    }

    /// What goes before its time if space runs short: the oldest of those that stay for their age alone, at most `most` of them.
    #[must_use]
    pub fn early(&self, most: usize) -> Vec<VersionId> {
        let young = self.keep.iter().filter(|(_, keep)| matches!(keep, Keep::Young { .. }));
        young.map(|(version, _)| *version).take(most).collect()
    }

    /// The same without the versions that are in use: they go later.
    #[must_use]
    pub fn but(mut self, in_use: &dyn Fn(VersionId) -> bool) -> Self {
        let (stay, go): (Vec<Expiry>, Vec<Expiry>) = self.expire.into_iter().partition(|expiry| in_use(expiry.version));
        self.expire = go;
        self.keep.extend(stay.into_iter().map(|expiry| (expiry.version, Keep::InUse)));
        self.keep.sort_by_key(|(version, _)| *version);
        self
    }
}

/// Decides what goes at `now`.
#[must_use]
pub fn plan(history: &History, tags: &[(String, VersionId)], retention: &Retention, ghosts: &Ghosts, now: Timestamp) -> Plan {
    let tagged: BTreeSet<VersionId> = tags.iter().map(|(_, version)| *version).collect();
    let flagged: BTreeSet<VersionId> = history.flagged().into_iter().collect();
    let newest = newest(history, retention.keep_last);
    let needed = history.all_needed();
    let mut plan = Plan::default();
    let mut clock = SteadyClock { now, latest: None };
    for record in history.records() {
        let sealed = clock.at_least(record.sealed_at);
        let ghost = record.state == VersionState::Ghost;
        let keep = match record.state {
            VersionState::Open | VersionState::Expired | VersionState::Aborted => continue,
            VersionState::Checking => Some(Keep::Unjudged),
            VersionState::Promoted | VersionState::Valid | VersionState::Superseded | VersionState::Ghost => None,
        };
        let needed = || needed.get(&record.version).cloned().map(Keep::Needed);
        let keep = keep.or_else(needed).or_else(|| kept_whatever_its_age(record, &tagged, &flagged)).or_else(|| match ghost {
            true => young(record.decided_at.max(sealed), ghosts.retain, now),
            false if newest.contains(&record.version) => Some(Keep::Newest),
            false => young(sealed, retention.keep_for, now),
        });
        match keep {
            Some(keep) => plan.keep.push((record.version, keep)),
            None => plan.expire.push(Expiry { version: record.version, ghost }),
        }
    }
    plan
}

fn kept_whatever_its_age(record: &VersionRecord, tagged: &BTreeSet<VersionId>, flagged: &BTreeSet<VersionId>) -> Option<Keep> {
    let version = record.version;
    let reasons = [
        (record.pinned, Keep::Pinned),
        (tagged.contains(&version), Keep::Tagged),
        (flagged.contains(&version), Keep::Flagged),
        // A ghost can be held, too (it was taken back before its verdict): nobody promotes it any more.
        (record.held && record.state != VersionState::Ghost, Keep::Held),
    ];
    reasons.into_iter().find(|(holds, _)| *holds).map(|(_, keep)| keep)
}

/// The newest `keep_last` of the versions that are browsed below `versions/`: ghosts have a retention of their own.
fn newest(history: &History, keep_last: u64) -> BTreeSet<VersionId> {
    let browsable = history.records().rev().filter(|record| crate::version::lifecycle::is_browsable(record.state));
    browsable.take(usize::try_from(keep_last).unwrap_or(usize::MAX)).map(|record| record.version).collect()
}

/// `Young` while `at` is not `time` ago. What happened at an unknown time, or in the future, is young.
fn young(at: Option<Timestamp>, time: Duration, now: Timestamp) -> Option<Keep> {
    let until = at.unwrap_or(now).plus(time);
    let over = at.is_some_and(|at| at <= now) && until <= now;
    (!over).then_some(Keep::Young { until })
}

/// Makes of the wall clock, which may jump, times that never go back from a version to the next.
///
/// A clock that was behind when a version was sealed would make it look old at once. But versions are numbered in order: it is no
/// older than those before it. Times after `now` are wrong the other way. They make their own version stay, and no other.
struct SteadyClock {
    now: Timestamp,
    latest: Option<Timestamp>,
}

impl SteadyClock {
    fn at_least(&mut self, at: Option<Timestamp>) -> Option<Timestamp> {
        match at {
            Some(at) if at <= self.now => {
                self.latest = self.latest.max(Some(at));
                self.latest
            }
            other => other,
        }
    }
}
