//! `csv`: every row has as many fields as the header, no quote is left open, and the columns of the base's file are still there,
//! in their order; new ones stand behind them. Fields are counted as a stream: a row can be of any length.

use std::collections::HashSet;
use std::io::{self, BufRead as _};

use csv_core::ReadFieldResult;

use super::fields::Wanted;
use super::file::{File, Reader};
use super::report::{Place, Report, counted, quoted};
use super::{Builtin, Context, Verdict, each_file, judge};
use crate::config::{Columns, Options};

/// The longest header that is read, in bytes, and the most columns that it has.
const HEADER_BYTES: usize = 1 << 20;
const HEADER_COLUMNS: usize = 100_000;

pub(super) struct Csv {
    pub(super) options: Options,
}

impl Builtin for Csv {
    fn run(&self, cx: &mut Context<'_>) -> Verdict {
        judge(cx, |view, report| {
            report.add("rows", 0);
            each_file(view, report, |path, file, report| {
                let Some(header) = rows(file, &self.options, report)? else { return Ok(()) };
                if self.options.columns != Columns::Any
                    && let Some(base) = view.base_file(path)?
                    && let Header::Columns(before) = Fields::new(&base, self.options.delimiter).header()?
                {
                    columns(&before, &header, report);
                    if self.options.columns == Columns::Equal {
                        new_columns(&before, &header, report);
                    }
                }
                Ok(())
            })
        })
    }
}

/// A header, by its place in the file.
enum Header {
    Columns(Vec<Vec<u8>>),
    /// The file is empty.
    None,
    /// A quote that begins here is never closed.
    Open(Place),
    TooLong,
}

/// A field that was read, or the end.
enum Next {
    Field {
        /// Where it begins.
        place: Place,
        /// Its length in bytes, without its quotes.
        len: u64,
        /// Whether it is the row's last.
        last: bool,
    },
    /// A quote that begins here was never closed.
    Open(Place),
    End,
}

/// The fields of a file.
struct Fields<'a> {
    reader: Reader<'a>,
    parser: csv_core::Reader,
    /// What the parser puts out; only a header's is looked at.
    out: Vec<u8>,
    /// Where the next byte is: its line, and its offset in it.
    line: u64,
    column: u64,
    at_row: bool,
    /// The file's end was reached and a line end handed in behind it.
    ended: bool,
}

impl<'a> Fields<'a> {
    fn new(file: &File<'a>, delimiter: u8) -> Self {
        Self {
            reader: file.reader(0),
            parser: csv_core::ReaderBuilder::new().delimiter(delimiter).build(),
            out: vec![0; 8 << 10],
            line: 1,
            column: 1,
            at_row: true,
            ended: false,
        }
    }

    /// The next field; what it holds goes to `keep` in pieces.
    fn next(&mut self, keep: &mut dyn FnMut(&[u8])) -> io::Result<Next> {
        if self.at_row {
            self.skip_line_ends()?;
        }
        let place = Place::Column(self.line, self.column);
        let mut len = 0;
        loop {
            let chunk = self.reader.fill_buf()?;
            // A line end behind the last byte ends the last row, unless a quote is open: then it is one more byte of the field.
            let at_end = chunk.is_empty();
            let input: &[u8] = if at_end && !self.ended { b"\n" } else { chunk };
            let (result, taken, put) = self.parser.read_field(input, &mut self.out);
            len += put as u64;
            keep(self.out.get(..put).unwrap_or_default());
            if at_end {
                if self.ended && matches!(result, ReadFieldResult::Field { .. }) {
                    return Ok(Next::Open(place));
                }
                self.ended |= taken > 0;
            } else {
                advance(&mut self.line, &mut self.column, input.get(..taken).unwrap_or_default());
                self.reader.consume(taken);
            }
            match result {
                ReadFieldResult::InputEmpty | ReadFieldResult::OutputFull => {}
                ReadFieldResult::Field { record_end } => {
                    self.at_row = record_end;
                    return Ok(Next::Field { place, len, last: record_end });
                }
                ReadFieldResult::End => return Ok(Next::End),
            }
        }
    }

    /// Empty lines are no rows; neither is what is left of a line end.
    fn skip_line_ends(&mut self) -> io::Result<()> {
        loop {
            let chunk = self.reader.fill_buf()?;
            let n = chunk.iter().take_while(|byte| matches!(byte, b'\n' | b'\r')).count();
            if n == 0 {
                return Ok(());
            }
            advance(&mut self.line, &mut self.column, chunk.get(..n).unwrap_or_default());
            self.reader.consume(n);
        }
    }

    /// The first row.
    fn header(&mut self) -> io::Result<Header> {
        let (mut columns, mut bytes) = (Vec::new(), 0);
        loop {
            let mut column = Vec::new();
            let next = self.next(&mut |piece| {
                bytes += piece.len();
                if bytes <= HEADER_BYTES {
                    column.extend_from_slice(piece);
                }
            })?;
            match next {
                Next::End => return Ok(Header::None),
                Next::Open(place) => return Ok(Header::Open(place)),
                Next::Field { .. } if bytes > HEADER_BYTES || columns.len() >= HEADER_COLUMNS => return Ok(Header::TooLong),
                Next::Field { last, .. } => {
                    columns.push(column);
                    if last {
                        return Ok(Header::Columns(columns));
                    }
                }
            }
        }
    }
}

/// Counts lines and columns (bytes) over `bytes`.
fn advance(line: &mut u64, column: &mut u64, bytes: &[u8]) {
    match bytes.iter().rposition(|byte| *byte == b'\n') {
        None => *column += bytes.len() as u64,
        Some(end) => {
            *line += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
            *column = (bytes.len() - end) as u64;
        }
    }
}

/// Looks at all rows, and gives the header unless it is no header at all.
fn rows(file: &File<'_>, options: &Options, report: &mut Report<'_>) -> io::Result<Option<Vec<Vec<u8>>>> {
    let mut fields = Fields::new(file, options.delimiter);
    let header = match fields.header()? {
        Header::Columns(header) => header,
        Header::None => return Ok(Some(Vec::new())),
        Header::Open(place) => {
            report.find(place, "the quote that opens here is never closed");
            return Ok(None);
        }
        Header::TooLong => {
            report.find(Place::Line(1), format_args!("the header is longer than {HEADER_BYTES} bytes or {HEADER_COLUMNS} columns"));
            return Ok(None);
        }
    };
    let expected = header.len() as u64;
    let wanted: Vec<Wanted> = header.iter().map(|column| Wanted::of(options, column)).collect();
    missing_columns(options, &header, report);
    let mut kept = Vec::new();
    let mut nulls = vec![0u64; header.len()];
    let (mut rows, mut count, mut surplus) = (0, 0u64, None);
    loop {
        let own = usize::try_from(count).ok().and_then(|count| wanted.get(count)).copied().unwrap_or_default();
        kept.clear();
        match fields.next(&mut |piece| own.keep(piece, &mut kept))? {
            Next::End => break,
            Next::Open(place) => {
                report.find(place, "the quote that opens here is never closed");
                break;
            }
            Next::Field { place, len, last } => {
                if let Some(nulls) = nulls.get_mut(usize::try_from(count).unwrap_or(usize::MAX)) {
                    *nulls += u64::from(len == 0);
                }
                if let Some(what) = own.refuses(&kept, len) {
                    let column = usize::try_from(count).ok().and_then(|count| header.get(count));
                    let column = quoted(column.map_or(&[][..], Vec::as_slice));
                    report.find(place, format_args!("column {column}: {what}"));
                }
                count += 1;
                if count == expected + 1 {
                    surplus = Some(place);
                }
                if !last {
                    continue;
                }
                if count != expected {
                    // At the first field too many, or at the last one that is there.
                    let what = format_args!("the row has {}, the header {expected}", counted(count, "field"));
                    report.find(surplus.unwrap_or(place), what);
                }
                rows += 1;
                (count, surplus) = (0, None);
            }
        }
    }
    report.add("rows", rows);
    for (column, nulls) in header.iter().zip(nulls) {
        report.add_nulls(column, nulls);
    }
    Ok(Some(header))
}

/// Columns that something is wanted of must be there.
fn missing_columns(options: &Options, header: &[Vec<u8>], report: &mut Report<'_>) {
    let mut wanted: Vec<&String> = options.types.keys().chain(options.ranges.keys()).chain(&options.required).collect();
    wanted.sort_unstable();
    wanted.dedup();
    for column in wanted.into_iter().filter(|column| !header.iter().any(|known| known == column.as_bytes())) {
        report.find(Place::Line(1), format_args!("there is no column {}", quoted(column.as_bytes())));
    }
}

/// Columns that were not there before.
fn new_columns(before: &[Vec<u8>], header: &[Vec<u8>], report: &mut Report<'_>) {
    for column in header.iter().filter(|column| !before.contains(column)) {
        report.find(Place::Line(1), format_args!("the column {} is new; columns must stay as they are", quoted(column)));
    }
}

/// Compares a header with the one before. Where nothing is gone, the first column that stands elsewhere says it all.
fn columns(before: &[Vec<u8>], header: &[Vec<u8>], report: &mut Report<'_>) {
    let (old, new): (HashSet<_>, HashSet<_>) = (before.iter().collect(), header.iter().collect());
    let gone: Vec<_> = before.iter().enumerate().filter(|(_, name)| !new.contains(name)).collect();
    for (at, name) in &gone {
        report.find(Place::Line(1), format_args!("the column {} is gone; it was column {}", quoted(name), at + 1));
    }
    if !gone.is_empty() {
        return;
    }
    let Some((at, was)) = before.iter().enumerate().find(|(at, name)| header.get(*at) != Some(name)) else { return };
    let was = quoted(was);
    match header.get(at) {
        Some(now) if old.contains(now) => {
            let now = quoted(now);
            report.find(Place::Line(1), format_args!("column {} is {now}, it was {was}: the columns are reordered", at + 1));
        }
        Some(now) => {
            let now = quoted(now);
            report.find(Place::Line(1), format_args!("the new column {now} stands before {was}; new ones belong behind the others"));
        }
        None => report.find(Place::Line(1), format_args!("the second column {was} is gone; it was column {}", at + 1)),
    }
}
