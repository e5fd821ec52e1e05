//! `[[metric]]`: what the numbers that checks report may be, by themselves and against those of the versions before.

use std::fmt::Write as _;

use toml::de::DeTable;

use super::default::quoted;
use super::value::{Section, Source, sections};
use super::{Check, ConfigError, Percent};

/// The longest name of a metric, in bytes.
pub const METRIC_NAME: usize = 200;
/// The most versions that a number is compared with.
const MOST: u64 = 1000;

/// One `[[metric]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricRule {
    /// The number's name.
    pub name: String,
    /// Only as this check reports it; `None`: whichever does.
    pub check: Option<String>,
    /// How far it may fall below the median of the last valid versions.
    pub max_drop: Option<Percent>,
    /// How far it may rise above it.
    pub max_rise: Option<Percent>,
    /// The least that it may be.
    pub min: Option<f64>,
    /// The most that it may be.
    pub max: Option<f64>,
    /// How many of the last valid versions that reported it are looked at.
    pub window: usize,
}

impl MetricRule {
    /// A rule without a limit, over the last ten valid versions.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), check: None, max_drop: None, max_rise: None, min: None, max: None, window: 10 }
    }

    /// Whether it is about `metric` of `check`.
    #[must_use]
    pub fn is_about(&self, check: &str, metric: &str) -> bool {
        self.name == metric && self.check.as_ref().is_none_or(|own| own == check)
    }
}

/// All `[[metric]]` of the file.
pub(super) fn read(source: Source<'_>, table: &DeTable<'_>, checks: &[Check]) -> Result<Vec<MetricRule>, ConfigError> {
    let read = |(section, span)| {
        let known = ["name", "check", "max_drop", "max_rise", "min", "max", "window"];
        read_one(&Section::new(source, "[[metric]]", section, span, &known)?, checks)
    };
    sections(source, table, "metric")?.into_iter().map(read).collect()
}

fn read_one(section: &Section<'_>, checks: &[Check]) -> Result<MetricRule, ConfigError> {
    let Some(name) = section.text("name")? else {
        return Err(section.refuse_at("name", "a [[metric]] has no \"name\""));
    };
    if name.is_empty() || name.len() > METRIC_NAME || name.chars().any(|c| c.is_whitespace() || c.is_control()) {
        let line = format!("the name of a metric has no blanks, and at most {METRIC_NAME} bytes; \"{name}\" has not such a form");
        return Err(section.refuse_at("name", line));
    }
    let check = section.text("check")?;
    if let Some(check) = check.filter(|check| !checks.iter().any(|known| known.name == *check)) {
        return Err(section.refuse_at("check", format!("metric \"{name}\" is for a check \"{check}\", and there is none of that name")));
    }
    let usual = MetricRule::new(name);
    let rule = MetricRule {
        check: check.map(str::to_owned),
        max_drop: section.percent_up_to("max_drop", 100)?,
        max_rise: section.percent_up_to("max_rise", 1_000_000)?,
        min: section.real("min")?,
        max: section.real("max")?,
        window: section.number("window", 1, MOST)?.and_then(|window| usize::try_from(window).ok()).unwrap_or(usual.window),
        ..usual
    };
    match (rule.min, rule.max) {
        (None, None) if rule.max_drop.is_none() && rule.max_rise.is_none() => {
            Err(section.refuse_at("name", format!("metric \"{name}\" has no limit; give it min, max, max_drop or max_rise")))
        }
        (Some(min), Some(max)) if min > max => {
            Err(section.refuse_at("min", format!("metric \"{name}\" can't be at least {min} and at most {max}")))
        }
        _ => Ok(rule),
    }
}

/// The rule as it stands in the file.
pub(super) fn write(rule: &MetricRule, out: &mut String) -> std::fmt::Result {
    let MetricRule { name, check, max_drop, max_rise, min, max, window } = rule;
    writeln!(out, "[[metric]]\nname = {}", quoted(name))?;
    if let Some(check) = check {
        writeln!(out, "check = {}", quoted(check))?;
    }
    for (key, percent) in [("max_drop", max_drop), ("max_rise", max_rise)] {
        if let Some(percent) = percent {
            writeln!(out, "{key} = {}", quoted(&percent.to_string()))?;
        }
    }
    for (key, number) in [("min", min), ("max", max)] {
        if let Some(number) = number {
            writeln!(out, "{key} = {}", toml::Value::Float(*number))?;
        }
    }
    writeln!(out, "window = {window}\n")
}
