//! The numbers that checks report, version by version: rules held against them, trends told of, and the document that `log --metric`
//! draws. What they mean is in `check::metric`; here they are found.

use std::collections::BTreeMap;

use super::dispatcher::{Dispatcher, StepError};
use super::requests::{failed, refused};
use super::shared::Shared;
use crate::check::{Attempted, metric};
use crate::config::{Config, MetricRule};
use crate::control::protocol::{ErrorKind, MetricDoc, MetricRuleDoc, PointDoc, Reply};
use crate::ids::VersionId;
use crate::store::record::{AttemptRecord, Outcome, VersionRecord, VersionState};
use crate::store::{Catalog, StoreError};

/// Versions that are looked at for each one whose number is wanted: not every version has one.
const SPARSE: usize = 10;
/// Numbers that `log --metric` shows unless it is told how many.
const SHOWN: u64 = 20;
/// Names that a refusal lists.
const LISTED: usize = 20;

/// A number that a check reported on a version.
#[derive(Clone, Debug)]
struct Point {
    version: VersionId,
    state: VersionState,
    at: String,
    value: f64,
    /// Whether later versions are held against it.
    counts: bool,
}

/// Whether later versions are held against the numbers of this one.
fn is_valid(record: &VersionRecord) -> bool {
    let passed = match record.state {
        VersionState::Valid | VersionState::Promoted | VersionState::Superseded => true,
        VersionState::Expired => record.passed && record.reason.is_none(),
        VersionState::Open | VersionState::Checking | VersionState::Ghost | VersionState::Aborted => false,
    };
    passed && !record.held
}

/// The numbers `name`, by the check that reported them, oldest first: of each check the newest `count`.
fn series<'a>(
    catalog: &Catalog,
    newest_first: impl Iterator<Item = &'a VersionRecord>,
    name: &str,
    check: Option<&str>,
    count: usize,
) -> Result<BTreeMap<String, Vec<Point>>, StoreError> {
    let mut found: BTreeMap<String, Vec<Point>> = BTreeMap::new();
    for record in newest_first.take(count.saturating_mul(SPARSE)) {
        let wanted = |attempt: &&AttemptRecord| check.is_none_or(|check| attempt.check == check);
        let mut last: BTreeMap<String, f64> = BTreeMap::new();
        for attempt in catalog.attempts(record.version)?.iter().filter(wanted) {
            let value = attempt.metrics.iter().find(|(known, _)| known == name).map(|(_, value)| *value);
            // Of a valid version, what the attempt said that passed.
            if let Some(value) = value.filter(|_| attempt.outcome == Outcome::Passed || !is_valid(record)) {
                last.insert(attempt.check.clone(), value);
            }
        }
        for (check, value) in last {
            let at = record.sealed_at.unwrap_or(record.opened_at).to_string();
            let point = Point { version: record.version, state: record.state, at, value, counts: is_valid(record) };
            let points = found.entry(check).or_default();
            if points.len() < count {
                points.push(point);
            }
        }
        if check.is_some() && found.values().all(|points| points.len() >= count) && !found.is_empty() {
            break;
        }
    }
    found.values_mut().for_each(|points| points.reverse());
    Ok(found)
}

fn values(points: &[Point]) -> Vec<f64> {
    points.iter().filter(|point| point.counts).map(|point| point.value).collect()
}

impl Dispatcher {
    /// The rules in force are those that `status` and `log --metric` speak of.
    pub(super) fn share_rules(&self) {
        self.shared.set_rules(self.config.metric.clone().into());
    }

    /// An attempt that passed fails if a rule refuses a number that it reported.
    pub(super) fn by_rules(&self, version: VersionId, check: &str, config: &Config, attempted: &Attempted) -> Result<Attempted, StepError> {
        let mut attempted = attempted.clone();
        if attempted.outcome != Outcome::Passed {
            return Ok(attempted);
        }
        let mut broken = Vec::new();
        for (name, value) in &attempted.metrics {
            for rule in config.metric.iter().filter(|rule| rule.is_about(check, name)) {
                let before = self.history.records().rev().filter(|record| record.version < version && is_valid(record));
                let past = series(self.store.catalog(), before, name, Some(check), rule.window)?;
                let past = past.get(check).map(|points| values(points)).unwrap_or_default();
                broken.extend(metric::allowed(rule, &past).refuses(*value).map(|why| format!("the metric {name}: {why}")));
            }
        }
        let more = broken.len().saturating_sub(1);
        if let Some(first) = broken.into_iter().next() {
            let summary = if more == 0 { first } else { format!("{first} (and {more} more)") };
            attempted.outcome = Outcome::Found { summary };
        }
        Ok(attempted)
    }
}

/// What the trends of the numbers that have rules lead to, one line each; it needs an operator's eye.
pub(super) fn forecasts(shared: &Shared) -> Vec<String> {
    let rules = shared.rules();
    if rules.is_empty() {
        return Vec::new();
    }
    let read = || -> Result<Vec<String>, StoreError> {
        let records = shared.store.catalog().versions()?;
        let mut lines = Vec::new();
        for rule in rules.iter() {
            let valid = records.iter().rev().filter(|record| is_valid(record));
            let found = series(shared.store.catalog(), valid, &rule.name, rule.check.as_deref(), rule.window)?;
            lines.extend(found.iter().filter_map(|(check, points)| forecast_line(rule, check, &values(points))));
        }
        Ok(lines)
    };
    read().unwrap_or_else(|error| vec![format!("the metrics can't be read: {error}")])
}

fn forecast_line(rule: &MetricRule, check: &str, past: &[f64]) -> Option<String> {
    let (ahead, why) = metric::forecast(rule, past)?;
    let slope = metric::trend(past)?.slope;
    let word = if slope < 0.0 { "falls" } else { "rises" };
    let when = if ahead == 1 { "with the next version".to_owned() } else { format!("in {ahead} versions") };
    Some(format!("the metric {} of check {check} {word} by {} a version; {when} {why}", rule.name, metric::shown(slope.abs())))
}

/// `Reply::Metrics`.
pub(super) fn metrics(shared: &Shared, name: &str, check: Option<&str>, limit: Option<u64>) -> Result<Reply, Reply> {
    let count = usize::try_from(limit.unwrap_or(SHOWN)).unwrap_or(usize::MAX);
    let unreadable = |error: StoreError| failed(format!("the metrics can't be read: {error}"));
    let catalog = shared.store.catalog();
    let records = catalog.versions().map_err(unreadable)?;
    let found = series(catalog, records.iter().rev(), name, check, count).map_err(unreadable)?;
    if found.is_empty() {
        return Err(refused(ErrorKind::Usage, unknown(catalog, &records, name, check).map_err(unreadable)?));
    }
    let rules = shared.rules();
    let mut docs = Vec::new();
    for (check, points) in found {
        let mut about = Vec::new();
        for rule in rules.iter().filter(|rule| rule.is_about(&check, name)) {
            let valid = records.iter().rev().filter(|record| is_valid(record));
            let past = series(catalog, valid, name, Some(&check), rule.window).map_err(unreadable)?;
            let past = past.get(&check).map(|points| values(points)).unwrap_or_default();
            let limits = metric::allowed(rule, &past);
            about.push(MetricRuleDoc {
                window: rule.window as u64,
                median: metric::median(&past),
                least: limits.least.map(|(least, _)| least),
                most: limits.most.map(|(most, _)| most),
                forecast: forecast_line(rule, &check, &past),
            });
        }
        let trend = metric::trend(&values(&points)).map(|trend| trend.slope);
        let doc =
            |point: Point| PointDoc { version: point.version, state: point.state, at: point.at, value: point.value, counts: point.counts };
        docs.push(MetricDoc { metric: name.to_owned(), check, points: points.into_iter().map(doc).collect(), trend, rules: about });
    }
    Ok(Reply::Metrics(docs))
}

/// A refusal that names what there is instead.
fn unknown(catalog: &Catalog, records: &[VersionRecord], name: &str, check: Option<&str>) -> Result<String, StoreError> {
    let mut known = std::collections::BTreeSet::new();
    for record in records.iter().rev().take(100) {
        for attempt in catalog.attempts(record.version)? {
            known.extend(attempt.metrics.iter().map(|(metric, _)| format!("{metric} ({})", attempt.check)));
        }
    }
    let whose = check.map_or_else(|| "no check has".to_owned(), |check| format!("the check \"{check}\" has not"));
    let more = known.len().saturating_sub(LISTED);
    let list = known.into_iter().take(LISTED).collect::<Vec<_>>().join(", ");
    Ok(match (list.is_empty(), more) {
        (true, _) => format!("{whose} reported a metric \"{name}\"; none has reported any"),
        (false, 0) => format!("{whose} reported a metric \"{name}\"; there are {list}"),
        (false, more) => format!("{whose} reported a metric \"{name}\"; there are {list} and {more} more"),
    })
}
