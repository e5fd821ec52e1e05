//! What the fields of a csv column may be: types, ranges, and whether they may be missing.

use crate::config::{FieldType, Options};

use super::report::quoted;

/// The longest field that is looked into; no number or date is longer.
const LONGEST: usize = 256;

/// What is wanted of a column.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Wanted {
    kind: Option<FieldType>,
    range: Option<(f64, f64)>,
    required: bool,
}

impl Wanted {
    /// What `options` want of the column `name`.
    pub(super) fn of(options: &Options, name: &[u8]) -> Self {
        let Ok(name) = str::from_utf8(name) else { return Self::default() };
        Self {
            kind: options.types.get(name).copied(),
            range: options.ranges.get(name).copied(),
            required: options.required.iter().any(|column| column == name),
        }
    }

    /// Whether a field must be kept to be looked into.
    pub(super) const fn looks_into(&self) -> bool {
        self.kind.is_some() || self.range.is_some()
    }

    /// What is wrong with a field, of which the first bytes are in `bytes` and which has `len` in all.
    pub(super) fn refuses(&self, bytes: &[u8], len: u64) -> Option<String> {
        if len == 0 {
            return self.required.then(|| "is missing".to_owned());
        }
        if !self.looks_into() {
            return None;
        }
        let text = str::from_utf8(bytes).ok().filter(|_| len <= LONGEST as u64);
        if let Some(kind) = self.kind.filter(|kind| !text.is_some_and(|text| is(*kind, text))) {
            return Some(format!("{} is no {}", quoted(bytes), kind.as_str()));
        }
        let (least, most) = self.range?;
        match text.and_then(number) {
            None => Some(format!("{} is no number", quoted(bytes))),
            Some(value) if value < least => Some(format!("{} is below {least}", quoted(bytes))),
            Some(value) if value > most => Some(format!("{} is above {most}", quoted(bytes))),
            Some(_) => None,
        }
    }

    /// Adds a piece of a field to what is kept of it.
    pub(super) fn keep(&self, piece: &[u8], kept: &mut Vec<u8>) {
        if self.looks_into() {
            let room = (LONGEST + 1).saturating_sub(kept.len()).min(piece.len());
            kept.extend_from_slice(piece.get(..room).unwrap_or_default());
        }
    }
}

/// A number as data has it: no "inf", no "NaN".
fn number(text: &str) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| number.is_finite() && !text.contains(['n', 'N']))
}

fn is(kind: FieldType, text: &str) -> bool {
    match kind {
        FieldType::Integer => {
            let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
            !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
        }
        FieldType::Number => number(text).is_some(),
        FieldType::Boolean => ["true", "false"].iter().any(|word| text.eq_ignore_ascii_case(word)),
        FieldType::Date => is_date(text),
        FieldType::Datetime => is_datetime(text),
    }
}

/// `YYYY-MM-DD`, a day that there is.
fn is_date(text: &str) -> bool {
    let bytes = text.as_bytes();
    if bytes.len() != 10 || bytes.get(4) != Some(&b'-') || bytes.get(7) != Some(&b'-') {
        return false;
    }
    let part =
        |range: std::ops::Range<usize>| text.get(range).filter(|part| part.bytes().all(|byte| byte.is_ascii_digit()))?.parse::<u32>().ok();
    let (Some(year), Some(month), Some(day)) = (part(0..4), part(5..7), part(8..10)) else { return false };
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => 0,
    };
    (1..=days).contains(&day)
}

/// RFC 3339: date, `T` or a blank, time, fraction, `Z` or an offset.
fn is_datetime(text: &str) -> bool {
    let two = |text: &str, most: u32| {
        text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u32>().is_ok_and(|number| number <= most)
    };
    let (Some(date), Some(separator), Some(rest)) = (text.get(..10), text.get(10..11), text.get(11..)) else { return false };
    let (Some(time), Some(rest)) = (rest.get(..8), rest.get(8..)) else { return false };
    let parts: Vec<&str> = time.split(':').collect();
    let time = matches!(parts.as_slice(), [hour, minute, second] if two(hour, 23) && two(minute, 59) && two(second, 60));
    let zone = match rest.strip_prefix('.') {
        Some(fraction) => {
            let zone = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
            if zone.len() == fraction.len() {
                return false;
            }
            zone
        }
        None => rest,
    };
    let offset = |offset: &str| offset.split_once(':').is_some_and(|(hour, minute)| two(hour, 23) && two(minute, 59));
    let zone = matches!(zone, "Z" | "z") || zone.strip_prefix(['+', '-']).is_some_and(offset);
    is_date(date) && ["T", "t", " "].contains(&separator) && time && zone
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_told_apart() {
        for (kind, good, bad) in [
            (FieldType::Integer, &["0", "-12", "+7", "99999999999999999999"][..], &["", "1.0", "1e3", "-", "1 ", "0x1"][..]),
            (FieldType::Number, &["0", "-1.5", "1e-3", ".5"], &["", "inf", "NaN", "1,5", "1e999", "infinity"]),
            (FieldType::Boolean, &["true", "False"], &["1", "yes", ""]),
            (
                FieldType::Date,
                &["2024-02-29", "1969-12-31", "2000-02-29"],
                &["2023-02-29", "1900-02-29", "2024-13-01", "2024-1-1", "24-01-01", "2024-01-00", "2024-01-32"],
            ),
            (
                FieldType::Datetime,
                &["2026-11-22T12:00:00Z", "1969-12-31 23:59:60.5+01:00"],
                &[
                    "2026-11-22",
                    "2026-11-22T12:00:00",
                    "2026-11-22T24:00:00Z",
                    "2026-11-22T12:00:00.Z",
                    "2026-11-22T12:00:00+1",
                    "2026-11-22T1:00:000Z",
                ],
            ),
        ] {
            assert!(good.iter().all(|text| is(kind, text)), "{kind:?} {good:?}");
            assert!(!bad.iter().any(|text| is(kind, text)), "{kind:?} {bad:?}");
        }
    }
}
