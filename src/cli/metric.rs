//! `log --metric`: a number of the checks over the versions, drawn.

use std::io;

use super::output::{Cell, Colour, Out, state_colour, table};
use crate::check::metric::shown;
use crate::control::protocol::{MetricDoc, PointDoc};
use crate::lineage::text;

/// Columns of the drawing.
const WIDTH: u32 = 40;

/// Prints what each check said.
pub(super) fn print(docs: &[MetricDoc], out: &mut Out) -> io::Result<()> {
    for (number, doc) in docs.iter().enumerate() {
        if number > 0 {
            out.line("")?;
        }
        for line in heading(doc) {
            out.line(text::printable(&line))?;
        }
        let scale = Scale::of(doc);
        let title = format!("{} .. {}", shown(scale.low), shown(scale.high));
        let rows: Vec<Vec<Cell>> = doc.points.iter().map(|point| row(point, &scale)).collect();
        out.raw(table(&["VERSION", "STATE", "VALUE", &title], &rows, out.paint).as_bytes())?;
    }
    Ok(())
}

/// What it is, what the rules say, where it leads.
fn heading(doc: &MetricDoc) -> Vec<String> {
    let mut lines = vec![format!("{} of check {}", doc.metric, doc.check)];
    if let Some(slope) = doc.trend {
        let word = if slope < 0.0 { "falls" } else { "rises" };
        lines.push(format!("  {word} by {} a version", shown(slope.abs())));
    }
    for rule in &doc.rules {
        let mut parts = Vec::new();
        parts.extend(rule.least.map(|least| format!("at least {}", shown(least))));
        parts.extend(rule.most.map(|most| format!("at most {}", shown(most))));
        if parts.is_empty() {
            parts.push("nothing to compare it with yet".to_owned());
        }
        parts.extend(rule.median.map(|median| format!("median {} of the last {} valid versions", shown(median), rule.window)));
        lines.push(format!("  next: {}", parts.join(", ")));
        lines.extend(rule.forecast.as_ref().map(|forecast| format!("  {forecast}")));
    }
    lines
}

/// What the drawing spans: the values, and the limits that they are held against.
struct Scale {
    low: f64,
    high: f64,
    limits: Vec<f64>,
}

impl Scale {
    fn of(doc: &MetricDoc) -> Self {
        let limits: Vec<f64> = doc.rules.iter().flat_map(|rule| [rule.least, rule.most]).flatten().collect();
        let all = doc.points.iter().map(|point| point.value).chain(limits.iter().copied());
        let (low, high) = all.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        Self { low, high, limits }
    }

    /// The column of a value.
    fn column(&self, value: f64) -> u32 {
        // Halved, so that the span of the largest numbers is one still.
        let (span, above) = (self.high / 2.0 - self.low / 2.0, value / 2.0 - self.low / 2.0);
        if span <= 0.0 {
            return 0;
        }
        let last = WIDTH - 1;
        let share = above / span * f64::from(last);
        (0..=last).min_by(|a, b| (f64::from(*a) - share).abs().total_cmp(&(f64::from(*b) - share).abs())).unwrap_or(0)
    }

    fn line(&self, value: f64) -> String {
        let (at, limits) = (self.column(value), self.limits.iter().map(|limit| self.column(*limit)).collect::<Vec<_>>());
        let symbol = |column: u32| match column {
            column if column == at => '●',
            column if limits.contains(&column) => '|',
            _ => '·',
        };
        (0..WIDTH).map(symbol).collect()
    }
}

fn row(point: &PointDoc, scale: &Scale) -> Vec<Cell> {
    let colour = if point.counts { Colour::Green } else { state_colour(point.state) };
    vec![
        Cell::painted(Colour::Cyan, point.version),
        Cell::painted(state_colour(point.state), point.state),
        shown(point.value).into(),
        Cell::painted(colour, scale.line(point.value)),
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::control::protocol::MetricRuleDoc;
    use crate::ids::VersionId;
    use crate::store::record::VersionState;

    fn doc(values: &[f64], least: Option<f64>) -> MetricDoc {
        let point = |(number, value): (u64, &f64)| PointDoc {
            version: VersionId(number),
            state: VersionState::Valid,
            at: "2026-01-01T00:00:00Z".to_owned(),
            value: *value,
            counts: true,
        };
        let rule = MetricRuleDoc { window: 10, median: Some(2.0), least, most: None, forecast: Some("falls".to_owned()) };
        let rules = if least.is_some() { vec![rule] } else { Vec::new() };
        MetricDoc {
            metric: "rows".to_owned(),
            check: "a".to_owned(),
            points: (1..).zip(values).map(point).collect(),
            trend: Some(-1.0),
            rules,
        }
    }

    #[test]
    fn values_lie_between_the_ends_and_limits_are_marked() {
        let scale = Scale::of(&doc(&[0.0, 39.0], Some(13.0)));
        assert_eq!(scale.line(0.0), format!("●{}|{}", "·".repeat(12), "·".repeat(26)));
        assert_eq!(scale.line(39.0), format!("{}|{}●", "·".repeat(13), "·".repeat(25)));
        assert!(Scale::of(&doc(&[5.0, 5.0], None)).line(5.0).starts_with('●'));
        let widest = Scale::of(&doc(&[f64::MIN, f64::MAX], None));
        assert_eq!((widest.column(f64::MIN), widest.column(0.0), widest.column(f64::MAX)), (0, 19, 39));
    }

    #[test]
    fn the_heading_says_what_holds_next() {
        let lines = heading(&doc(&[1.0], Some(1.5)));
        let expected =
            ["rows of check a", "  falls by 1 a version", "  next: at least 1.5, median 2 of the last 10 valid versions", "  falls"];
        assert_eq!(lines, expected);
    }
}
