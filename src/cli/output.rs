//! What commands print: one JSON document or text, tables, colours and ages.

use std::fmt::Display;
use std::io::{self, IsTerminal, StdoutLock, Write};

use serde::Serialize;

use crate::clock::{Clock, SystemClock, Timestamp};
use crate::store::record::VersionState;

/// Colours, by what they say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// Good.
    Green,
    /// Bad.
    Red,
    /// Under way.
    Yellow,
    /// Names.
    Cyan,
    /// Beside the point.
    Dim,
    /// Headings.
    Bold,
}

/// Colours on a terminal, and nowhere else.
#[derive(Clone, Copy, Debug)]
pub struct Paint(bool);

impl Paint {
    /// Colours if standard output is a terminal that has them and nobody said no.
    #[must_use]
    pub fn detect() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self(io::stdout().is_terminal() && !refused && !dumb)
    }

    /// No colours.
    #[must_use]
    pub const fn none() -> Self {
        Self(false)
    }

    /// `text` in a colour.
    #[must_use]
    pub fn paint(self, colour: Colour, text: impl Display) -> String {
        let code = match colour {
            Colour::Green => 32,
            Colour::Red => 31,
            Colour::Yellow => 33,
            Colour::Cyan => 36,
            Colour::Dim => 2,
            Colour::Bold => 1,
        };
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
}

/// The colour of a state.
#[must_use]
pub const fn state_colour(state: VersionState) -> Colour {
    match state {
        VersionState::Promoted | VersionState::Valid => Colour::Green,
        VersionState::Ghost => Colour::Red,
        VersionState::Open | VersionState::Checking => Colour::Yellow,
        VersionState::Superseded | VersionState::Expired | VersionState::Aborted => Colour::Dim,
    }
}

/// Standard output.
#[derive(Debug)]
pub struct Out {
    stdout: io::BufWriter<StdoutLock<'static>>,
    /// Colours or none.
    pub paint: Paint,
}

impl Out {
    /// Standard output, with colours where they belong.
    #[must_use]
    pub fn new() -> Self {
        Self { stdout: io::BufWriter::new(io::stdout().lock()), paint: Paint::detect() }
    }

    /// One line.
    pub fn line(&mut self, line: impl Display) -> io::Result<()> {
        writeln!(self.stdout, "{line}")
    }

    /// Bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stdout.write_all(bytes)
    }

    /// One document: indented for people, on one line for programs.
    pub fn json<T: Serialize + ?Sized>(&mut self, value: &T) -> io::Result<()> {
        if io::stdout().is_terminal() {
            serde_json::to_writer_pretty(&mut self.stdout, value)?;
        } else {
            serde_json::to_writer(&mut self.stdout, value)?;
        }
        self.raw(b"\n")
    }

    /// Everything is out.
    pub fn flush(&mut self) -> io::Result<()> {
        self.stdout.flush()
    }
}

impl Default for Out {
    fn default() -> Self {
        Self::new()
    }
}

/// A cell of a table: its text, and the colour it is painted with once the widths are known.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    text: String,
    colour: Option<Colour>,
}

impl Cell {
    /// A painted cell.
    #[must_use]
    pub fn painted(colour: Colour, text: impl Display) -> Self {
        Self { text: text.to_string(), colour: Some(colour) }
    }
}

impl<T: Display> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: text.to_string(), colour: None }
    }
}

/// Rows with aligned columns; the last column takes what it needs.
#[must_use]
pub fn table(heading: &[&str], rows: &[Vec<Cell>], paint: Paint) -> String {
    let mut widths: Vec<usize> = heading.iter().map(|title| title.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.text.chars().count());
        }
    }
    let heading: Vec<Cell> = heading.iter().map(|title| Cell::painted(Colour::Bold, title)).collect();
    std::iter::once(&heading).chain(rows).map(|row| line(row, &widths, paint)).collect()
}

fn line(row: &[Cell], widths: &[usize], paint: Paint) -> String {
    let mut line = String::new();
    let used = row.iter().rposition(|cell| !cell.text.is_empty()).map_or(0, |last| last + 1);
    for (index, (cell, width)) in row.iter().zip(widths).take(used).enumerate() {
        match cell.colour {
            Some(colour) => line.push_str(&paint.paint(colour, &cell.text)),
            None => line.push_str(&cell.text),
        }
        if index + 1 < used {
            line.extend(std::iter::repeat_n(' ', width - cell.text.chars().count() + 2));
        }
    }
    line.push('\n');
    line
}

/// `5 s ago`, `3 min ago`, `2 h ago`, then the date: how long ago an RFC 3339 time was.
#[must_use]
pub fn age(at: &str) -> String {
    age_at(at, SystemClock.now())
}

fn age_at(at: &str, now: Timestamp) -> String {
    let Ok(then) = humantime::parse_rfc3339(at) else { return at.to_owned() };
    match now.since(then.into()).as_secs() {
        0 => "now".to_owned(),
        secs @ 1..60 => format!("{secs} s ago"),
        secs @ 60..3_600 => format!("{} min ago", secs / 60),
        secs @ 3_600..86_400 => format!("{} h ago", secs / 3_600),
        secs @ 86_400..2_592_000 => format!("{} d ago", secs / 86_400),
        _ => at.get(..10).unwrap_or(at).to_owned(),
    }
}

/// A path's bytes for a line of text, as git shows them: quoted, with escapes, if they hold what could break the line.
#[must_use]
pub fn quoted(path: &[u8]) -> String {
    let plain = std::str::from_utf8(path).ok().filter(|text| !text.chars().any(|c| c.is_control() || c == '"' || c == '\\'));
    if let Some(text) = plain {
        return text.to_owned();
    }
    let mut quoted = String::from('"');
    for byte in path {
        match byte {
            b'\n' => quoted.push_str("\\n"),
            b'\t' => quoted.push_str("\\t"),
            b'"' => quoted.push_str("\\\""),
            b'\\' => quoted.push_str("\\\\"),
            b' '..=b'~' => quoted.push(char::from(*byte)),
            other => quoted.push_str(&format!("\\{other:03o}")),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_without_blanks() {
        let rows = [
            vec!["t10".into(), Cell::painted(Colour::Red, "ghost"), "".into()],
            vec!["t9".into(), Cell::painted(Colour::Green, "promoted"), "häh".into()],
        ];
        let shown = table(&["VERSION", "STATE", "MESSAGE"], &rows, Paint::none());
        assert_eq!(shown, "VERSION  STATE     MESSAGE\nt10      ghost\nt9       promoted  häh\n");
        let painted = table(&["A"], &[vec![Cell::painted(Colour::Red, "x")]], Paint(true));
        assert_eq!(painted, "\x1b[1mA\x1b[0m\n\x1b[31mx\x1b[0m\n");
    }

    #[test]
    fn ages_are_short() {
        let now = Timestamp { secs: 1_767_225_600, nanos: 0 };
        let ages = [
            ("2026-01-01T00:00:00.000001Z", "now"),
            ("2025-12-31T23:59:55Z", "5 s ago"),
            ("2025-12-31T23:58:00Z", "2 min ago"),
            ("2025-12-31T20:00:00Z", "4 h ago"),
            ("2025-12-29T00:00:00Z", "3 d ago"),
            ("2025-06-01T00:00:00Z", "2025-06-01"),
            ("@-5.000000000", "@-5.000000000"),
        ];
        for (at, expected) in ages {
            assert_eq!(age_at(at, now), expected);
        }
    }

    #[test]
    fn paths_that_could_break_a_line_are_quoted() {
        assert_eq!(quoted("a b/ü".as_bytes()), "a b/ü");
        assert_eq!(quoted(b"a\nb\"\\\x1b\xff"), r#""a\nb\"\\\033\377""#);
    }
}
