//! `json`: a file is one JSON value. `jsonl`: every line is one. Values are parsed as a stream and not kept.

use std::io::{self, BufRead, BufReader, Read};

use serde::Deserialize as _;
use serde::de::IgnoredAny;

use super::file::{File, Reader};
use super::report::{Place, Report};
use super::utf8::Validator;
use super::{Builtin, Context, Verdict, each_file, judge};

/// Lines up to this length are parsed in memory, longer ones as a stream.
const IN_MEMORY: u64 = 1 << 20;

/// Hands bytes on and looks whether they are UTF-8: a parser that does not keep strings does not look into them.
struct Validated<'a, 'v> {
    inner: Reader<'a>,
    validator: &'v mut Validator,
}

impl Read for Validated<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.validator.feed(buffer.get(..n).unwrap_or_default());
        Ok(n)
    }
}

pub(super) struct Json;

impl Builtin for Json {
    fn run(&self, cx: &mut Context<'_>) -> Verdict {
        judge(cx, |view, report| each_file(view, report, |_, file, report| one_value(file, report)))
    }
}

fn one_value(file: &File<'_>, report: &mut Report<'_>) -> io::Result<()> {
    let mut validator = Validator::default();
    let source = Validated { inner: file.reader(0), validator: &mut validator };
    let parsed = parse(BufReader::with_capacity(64 << 10, source))?;
    validator.finish(report);
    if let Err(error) = parsed {
        report.find(Place::Column(error.line() as u64, column(&error)), plain(&error));
    }
    Ok(())
}

/// Parses one value; the outer error is the reader's.
fn parse(source: impl Read) -> io::Result<Result<(), serde_json::Error>> {
    let mut parser = serde_json::Deserializer::from_reader(source);
    match IgnoredAny::deserialize(&mut parser).and_then(|_| parser.end()) {
        Err(error) if error.is_io() => Err(error.into()),
        parsed => Ok(parsed),
    }
}

/// The reason without the line and column that serde_json appends: the finding says them already.
pub(super) fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line ") {
        Some((reason, _)) => reason.to_owned(),
        None => text,
    }
}

/// The column of the byte that an error is at; serde_json says 0 before the first.
pub(super) fn column(error: &serde_json::Error) -> u64 {
    error.column().max(1) as u64
}

pub(super) struct JsonLines;

impl Builtin for JsonLines {
    fn run(&self, cx: &mut Context<'_>) -> Verdict {
        judge(cx, |view, report| {
            report.add("rows", 0);
            each_file(view, report, |_, file, report| lines(file, report))
        })
    }
}

fn lines(file: &File<'_>, report: &mut Report<'_>) -> io::Result<()> {
    let mut validator = Validator::default();
    let source = Validated { inner: file.reader(0), validator: &mut validator };
    let mut reader = BufReader::with_capacity(64 << 10, source);
    let (mut number, mut line) = (0, Vec::new());
    loop {
        line.clear();
        if reader.by_ref().take(IN_MEMORY).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        number += 1;
        let parsed = if line.ends_with(b"\n") || (line.len() as u64) < IN_MEMORY {
            // An empty line is no value; the formats' readers pass over it.
            if line.trim_ascii().is_empty() {
                continue;
            }
            serde_json::from_slice::<IgnoredAny>(line.trim_ascii_end()).map(drop)
        } else {
            let mut rest = RestOfLine { reader: &mut reader, ended: false };
            let parsed = parse(BufReader::new(line.chain(&mut rest)))?;
            rest.skip()?;
            parsed
        };
        report.add("rows", 1);
        if let Err(error) = parsed {
            report.find(Place::Column(number, column(&error)), plain(&error));
        }
    }
    validator.finish(report);
    Ok(())
}

/// What is left of a line, without its end.
struct RestOfLine<'a, R> {
    reader: &'a mut R,
    ended: bool,
}

impl<R: BufRead> RestOfLine<'_, R> {
    fn skip(&mut self) -> io::Result<()> {
        io::copy(self, &mut io::sink()).map(drop)
    }
}

impl<R: BufRead> Read for RestOfLine<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ended || buffer.is_empty() {
            return Ok(0);
        }
        let available = self.reader.fill_buf()?;
        let end = available.iter().take(buffer.len()).position(|byte| *byte == b'\n');
        let n = end.unwrap_or_else(|| available.len().min(buffer.len()));
        if let (Some(to), Some(from)) = (buffer.get_mut(..n), available.get(..n)) {
            to.copy_from_slice(from);
        }
        self.ended = end.is_some();
        self.reader.consume(n + usize::from(self.ended));
        Ok(n)
    }
}
