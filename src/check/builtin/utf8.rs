//! `utf8`: files are UTF-8.

use std::io::{self, BufRead as _};
use std::mem;

use super::report::{PER_FILE, Place, Report};
use super::{Builtin, Context, Verdict, each_file, judge};

/// Finds bytes that are not UTF-8 in a stream.
#[derive(Debug, Default)]
pub(super) struct Validator {
    /// The beginning of a character that the end of the last piece cut.
    cut: Vec<u8>,
    /// Line ends before here, and characters since the last one.
    lines: u64,
    column: u64,
    /// The first places, and how many there are in all.
    found: Vec<(Place, u8)>,
    count: u64,
}

impl Validator {
    /// Takes the next bytes.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        if self.cut.is_empty() {
            self.cut = self.scan(bytes).to_vec();
        } else {
            let mut joined = mem::take(&mut self.cut);
            joined.extend_from_slice(bytes);
            self.cut = self.scan(&joined).to_vec();
        }
    }

    /// Takes the end of the stream, and reports.
    pub(super) fn finish(mut self, report: &mut Report<'_>) {
        if let Some(first) = self.cut.first().copied() {
            self.bad(first);
        }
        for (place, byte) in &self.found {
            report.find(*place, format_args!("the byte 0x{byte:02x} is not UTF-8"));
        }
        for _ in self.found.len() as u64..self.count {
            report.find(Place::File, "is not UTF-8");
        }
    }

    /// Looks at `bytes`, and gives the cut character at their end.
    fn scan<'b>(&mut self, mut bytes: &'b [u8]) -> &'b [u8] {
        loop {
            let error = match str::from_utf8(bytes) {
                Ok(_) => {
                    self.advance(bytes);
                    return &[];
                }
                Err(error) => error,
            };
            let (good, rest) = bytes.split_at(error.valid_up_to());
            self.advance(good);
            let Some(len) = error.error_len() else { return rest };
            self.bad(rest.first().copied().unwrap_or_default());
            self.column += 1;
            bytes = rest.get(len..).unwrap_or_default();
        }
    }

    fn advance(&mut self, good: &[u8]) {
        let last = match good.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => {
                self.lines += good.iter().filter(|byte| **byte == b'\n').count() as u64;
                self.column = 0;
                good.get(end + 1..).unwrap_or_default()
            }
            None => good,
        };
        // Every byte but those that continue a character begins one.
        self.column += last.iter().filter(|byte| **byte & 0xc0 != 0x80).count() as u64;
    }

    fn bad(&mut self, byte: u8) {
        self.count += 1;
        if self.count <= PER_FILE {
            self.found.push((Place::Column(self.lines + 1, self.column + 1), byte));
        }
    }
}

pub(super) struct Utf8;

impl Builtin for Utf8 {
    fn run(&self, cx: &mut Context<'_>) -> Verdict {
        judge(cx, |view, report| {
            each_file(view, report, |_, file, report| {
                let (mut reader, mut validator) = (file.reader(0), Validator::default());
                loop {
                    let chunk = reader.fill_buf()?;
                    let len = chunk.len();
                    validator.feed(chunk);
                    if len == 0 {
                        break;
                    }
                    reader.consume(len);
                }
                validator.finish(report);
                io::Result::Ok(())
            })
        })
    }
}
