//! `csv`: every record parses and has as many fields as the first.

use std::io;

use csv::{ByteRecord, ErrorKind, ReaderBuilder};

use super::reader::FileReader;
use super::{FileCheck, Finding, Look};

/// Findings of one file after which the rest of it is not looked at.
const ENOUGH: usize = 20;

pub(super) struct Csv;

impl FileCheck for Csv {
    fn look(&self, file: &mut FileReader<'_>) -> io::Result<Look> {
        let mut reader = ReaderBuilder::new().has_headers(false).flexible(true).buffer_capacity(256 << 10).from_reader(file);
        let mut look = Look::default();
        let mut record = ByteRecord::new();
        let (mut width, mut rows) = (None, 0u64);
        loop {
            match reader.read_byte_record(&mut record) {
                Ok(false) => break,
                Ok(true) => rows += 1,
                Err(error) => match error.into_kind() {
                    ErrorKind::Io(error) => return Err(error),
                    // With bytes and any number of fields nothing else can go wrong.
                    other => look.findings.push(Finding { line: reader.position().line(), what: format!("{other:?}") }),
                },
            }
            let line = record.position().map_or(0, csv::Position::line);
            let expected = *width.get_or_insert(record.len());
            if record.len() != expected {
                look.findings.push(Finding { line, what: fields(record.len(), expected) });
            } else if let Some(column) = record.iter().position(|field| std::str::from_utf8(field).is_err()) {
                look.findings.push(Finding { line, what: format!("field {} is not UTF-8", column + 1) });
            }
            if look.findings.len() >= ENOUGH {
                break;
            }
        }
        look.rows = Some(rows.saturating_sub(1));
        Ok(look)
    }
}

fn fields(found: usize, expected: usize) -> String {
    let s = if found == 1 { "" } else { "s" };
    format!("{found} field{s} where the first record has {expected}")
}
