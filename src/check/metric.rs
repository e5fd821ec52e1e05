//! What the numbers of checks say: rules held against a value, and where a trend leads. Pure.
//!
//! A trend is the Theil-Sen line, the median of the slopes of all pairs (H. Theil 1950; P. K. Sen, "Estimates of the Regression
//! Coefficient Based on Kendall's Tau", JASA 63, 1968): up to 29 % of the values may be wild before it follows them. It counts only if the
//! test of Mann (1945) and Kendall says that order and value go together at the level of 5 %.

use crate::config::{MetricRule, Percent};

/// The fewest values that make a trend, and the most that are looked at.
const FEWEST: usize = 5;
const MOST: usize = 100;
/// How many versions ahead a trend is followed.
pub const AHEAD: u32 = 5;
/// Two-sided 5 % of the normal distribution.
const SIGNIFICANT: f64 = 1.96;

/// The median; `None` of nothing.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get((sorted.len() - 1) / 2)?;
    Some(lower / 2.0 + upper / 2.0)
}

/// What a rule allows, given the values of the last valid versions: the least and the most, each with its reason.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Allowed {
    /// The least.
    pub least: Option<(f64, String)>,
    /// The most.
    pub most: Option<(f64, String)>,
}

/// What `rule` allows after `past`, the values of the last valid versions, oldest first.
#[must_use]
pub fn allowed(rule: &MetricRule, past: &[f64]) -> Allowed {
    let past = last(past, rule.window);
    let versions = if past.len() == 1 { "valid version".to_owned() } else { format!("{} valid versions", past.len()) };
    let part = |percent: Percent| f64::from(percent.0) / 100_000.0;
    let relative = |limit: Option<Percent>, sign: f64, key: &str| {
        let (limit, median) = (limit?, median(past)?);
        let what = format!("{limit} off {}, the median of the last {versions} ({key})", shown(median));
        Some((median + sign * median.abs() * part(limit), what))
    };
    let fixed = |limit: Option<f64>, key: &str| limit.map(|limit| (limit, format!("({key})")));
    let (drop, rise) = (relative(rule.max_drop, -1.0, "max_drop"), relative(rule.max_rise, 1.0, "max_rise"));
    let least = drop.into_iter().chain(fixed(rule.min, "min")).max_by(|a, b| a.0.total_cmp(&b.0));
    let most = rise.into_iter().chain(fixed(rule.max, "max")).min_by(|a, b| a.0.total_cmp(&b.0));
    Allowed { least, most }
}

impl Allowed {
    /// What is wrong with `value`, if something is: "800 is below 850, 15% off 1000, the median of ...".
    #[must_use]
    pub fn refuses(&self, value: f64) -> Option<String> {
        let line = |word: &str, (limit, why): &(f64, String)| {
            let comma = if why.starts_with('(') { " " } else { ", " };
            format!("{} is {word} {}{comma}{why}", shown(value), shown(*limit))
        };
        match (&self.least, &self.most) {
            (Some(least), _) if value < least.0 => Some(line("below", least)),
            (_, Some(most)) if value > most.0 => Some(line("above", most)),
            _ => None,
        }
    }
}

/// A trend of values, one a version.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trend {
    /// The change from one version to the next.
    pub slope: f64,
    /// Where the line is at the last value.
    pub last: f64,
}

/// The trend of `values`, oldest first, if they have one.
#[must_use]
pub fn trend(values: &[f64]) -> Option<Trend> {
    let values = last(values, MOST);
    if values.len() < FEWEST || !is_monotone(values) {
        return None;
    }
    let pairs =
        values.iter().enumerate().flat_map(|(i, a)| values.iter().enumerate().skip(i + 1).map(move |(j, b)| (b - a) / steps(j - i)));
    let slope = median(&pairs.collect::<Vec<_>>())?;
    let end = values.len() - 1;
    let at_end: Vec<_> = values.iter().enumerate().map(|(i, value)| value + slope * steps(end - i)).collect();
    Some(Trend { slope, last: median(&at_end)? }).filter(|trend| trend.slope.is_finite() && trend.slope != 0.0)
}

fn last(values: &[f64], count: usize) -> &[f64] {
    values.get(values.len().saturating_sub(count)..).unwrap_or_default()
}

/// A number of versions as a float; there are never so many that one gets lost.
fn steps(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::MAX, f64::from)
}

/// The Mann-Kendall test, with its correction for values that are equal.
fn is_monotone(values: &[f64]) -> bool {
    let mut agreement = 0.0;
    for (i, a) in values.iter().enumerate() {
        for b in values.iter().skip(i + 1) {
            agreement += match a.total_cmp(b) {
                std::cmp::Ordering::Less => 1.0,
                std::cmp::Ordering::Equal => 0.0,
                std::cmp::Ordering::Greater => -1.0,
            };
        }
    }
    let term = |n: f64| n * (n - 1.0) * (2.0 * n + 5.0);
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let ties: f64 = sorted.chunk_by(|a, b| a.total_cmp(b).is_eq()).map(|equal| term(steps(equal.len()))).sum();
    let deviation = ((term(steps(values.len())) - ties) / 18.0).sqrt();
    // One is taken off for the discrete steps of the sum.
    deviation > 0.0 && (f64::abs(agreement) - 1.0) / deviation > SIGNIFICANT
}

/// Where the trend of `past` leads within the next versions, if `rule` would refuse that: after how many versions, and why.
#[must_use]
pub fn forecast(rule: &MetricRule, past: &[f64]) -> Option<(u32, String)> {
    let trend = trend(last(past, rule.window))?;
    let mut values = past.to_vec();
    for ahead in 1..=AHEAD {
        let value = trend.last + trend.slope * f64::from(ahead);
        if let Some(why) = allowed(rule, &values).refuses(value) {
            return Some((ahead, why));
        }
        // What is valid then is compared with in its turn.
        values.push(value);
    }
    None
}

/// A number for people: at most six digits after the point, and none that say nothing.
#[must_use]
pub fn shown(value: f64) -> String {
    if value != 0.0 && (value.abs() < 0.001 || value.abs() >= 1e15) {
        return format!("{value:e}");
    }
    let digits = if value.abs() >= 1000.0 { 2 } else { 6 };
    let text = format!("{value:.digits$}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::float_cmp)]
    use super::*;

    fn rule() -> MetricRule {
        MetricRule::new("rows")
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[f64::MAX, f64::MAX]), Some(f64::MAX));
    }

    #[test]
    fn numbers_are_short() {
        for (value, expected) in [
            (0.0, "0"),
            (-0.0, "0"),
            (800.0, "800"),
            (12.5, "12.5"),
            (1e6, "1000000"),
            (1234.5678, "1234.57"),
            (1e-9, "1e-9"),
            (1e20, "1e20"),
        ] {
            assert_eq!(shown(value), expected);
        }
        assert_eq!(shown(1.0 / 3.0), "0.333333");
    }

    #[test]
    fn a_value_is_held_against_limits_and_the_median() {
        let says = |rule: &MetricRule, past: &[f64], value| allowed(rule, past).refuses(value);
        let limits = MetricRule { min: Some(10.0), max: Some(20.0), ..rule() };
        assert_eq!(says(&limits, &[], 9.5).unwrap(), "9.5 is below 10 (min)");
        assert_eq!(says(&limits, &[], 21.0).unwrap(), "21 is above 20 (max)");
        assert_eq!((says(&limits, &[], 10.0), says(&limits, &[], 20.0)), (None, None));

        let moves = MetricRule { max_drop: Some(Percent(15_000)), max_rise: Some(Percent(50_000)), window: 3, ..rule() };
        assert_eq!(says(&moves, &[], 0.0), None, "there is nothing to compare it with");
        let past = [1.0, 900.0, 1000.0, 5000.0];
        assert_eq!(
            says(&moves, &past, 849.0).unwrap(),
            "849 is below 850, 15% off 1000, the median of the last 3 valid versions (max_drop)"
        );
        assert_eq!(
            says(&moves, &past, 1501.0).unwrap(),
            "1501 is above 1500, 50% off 1000, the median of the last 3 valid versions (max_rise)"
        );
        assert_eq!((says(&moves, &past, 850.0), says(&moves, &past, 1500.0)), (None, None));
        assert!(says(&moves, &[10.0], 1.0).unwrap().contains("of the last valid version (max_drop)"));
        // Below zero a fall is still a fall; from zero everything is one.
        assert!(says(&moves, &[-100.0], -116.0).is_some() && says(&moves, &[-100.0], -114.0).is_none());
        assert!(says(&moves, &[0.0], 1.0).is_some() && says(&moves, &[0.0], 0.0).is_none());
    }

    #[test]
    fn a_trend_follows_the_many_and_not_the_wild() {
        let falling: Vec<f64> = (0..10).map(|i| 1000.0 - 10.0 * f64::from(i)).collect();
        let line = trend(&falling).unwrap();
        assert_eq!((line.slope, line.last), (-10.0, 910.0));
        let mut wild = falling;
        (wild[3], wild[7]) = (9000.0, -4000.0);
        let line = trend(&wild).unwrap();
        assert!((line.slope + 10.0).abs() < 3.0 && (line.last - 910.0).abs() < 20.0, "{line:?}");
        assert_eq!(trend(&[1.0, 2.0, 3.0, 4.0]), None, "too few");
        assert_eq!(trend(&[5.0; 10]), None);
        assert_eq!(trend(&[3.0, 1.0, 4.0, 1.0, 5.0, 2.0, 6.0, 1.0]), None, "noise");
    }

    #[test]
    fn a_trend_is_told_of_before_it_crosses_a_limit() {
        let falling: Vec<f64> = (0..10).map(|i| 1000.0 - 10.0 * f64::from(i)).collect();
        let min = |min| MetricRule { min: Some(min), ..rule() };
        assert_eq!(forecast(&min(895.0), &falling), Some((2, "890 is below 895 (min)".to_owned())));
        assert_eq!(forecast(&min(850.0), &falling), None, "that is more than {AHEAD} versions off");
        assert_eq!(forecast(&MetricRule { max: Some(0.0), ..rule() }, &[1.0; 10]), None, "no trend");
        // The median follows a drift, at half the window's distance.
        let drop = |percent| MetricRule { max_drop: Some(Percent(percent)), ..rule() };
        assert_eq!(forecast(&drop(20_000), &falling), None);
        let faster: Vec<f64> = (0..6).map(|i| 1000.0 - 45.0 * f64::from(i)).collect();
        let (ahead, why) = forecast(&drop(20_000), &faster).unwrap();
        assert!(ahead > 1 && why.contains("max_drop"), "{ahead} {why}");
    }
}
