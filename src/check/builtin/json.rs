//! `json`: the file is one JSON value. `jsonl`: every line is one.

use std::io::{self, BufRead as _, BufReader, Read as _};

use serde::Deserialize as _;
use serde::de::IgnoredAny;

use super::reader::FileReader;
use super::{FileCheck, Finding, Look};

/// The longest line of `jsonl` that is read.
const LINE_LIMIT: u64 = 64 << 20;
/// Findings of one file after which the rest of it is not looked at.
const ENOUGH: usize = 20;

pub(super) struct Json;

impl FileCheck for Json {
    fn look(&self, file: &mut FileReader<'_>) -> io::Result<Look> {
        let mut parser = serde_json::Deserializer::from_reader(BufReader::new(file));
        match IgnoredAny::deserialize(&mut parser).and_then(|_| parser.end()) {
            Ok(()) => Ok(Look { findings: Vec::new(), rows: Some(1) }),
            Err(error) if error.is_io() => Err(error.into()),
            Err(error) => Ok(Look { findings: vec![Finding { line: error.line() as u64, what: plain(&error) }], rows: None }),
        }
    }
}

pub(super) struct JsonLines;

impl FileCheck for JsonLines {
    fn look(&self, file: &mut FileReader<'_>) -> io::Result<Look> {
        let mut reader = BufReader::with_capacity(256 << 10, file);
        let mut look = Look::default();
        let (mut number, mut rows, mut line) = (0u64, 0u64, Vec::new());
        while look.findings.len() < ENOUGH {
            line.clear();
            if reader.by_ref().take(LINE_LIMIT).read_until(b'\n', &mut line)? == 0 {
                break;
            }
            number += 1;
            if line.len() as u64 == LINE_LIMIT && !line.ends_with(b"\n") {
                look.findings.push(Finding { line: number, what: format!("the line is longer than {LINE_LIMIT} bytes") });
                break;
            }
            if line.trim_ascii().is_empty() {
                continue;
            }
            rows += 1;
            if let Err(error) = serde_json::from_slice::<IgnoredAny>(&line) {
                look.findings.push(Finding { line: number, what: plain(&error) });
            }
        }
        look.rows = Some(rows);
        Ok(look)
    }
}

/// The reason without serde_json's own "at line 1 column 7": the line is said already.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let reason = text.split(" at line ").next().unwrap_or(&text);
    format!("{reason} (column {})", error.column())
}
