//! An attempt's output: kept in its log up to a bound, searched for metrics.

use std::io::{self, Write as _};

use crate::store::{Log, LogPlace, StoreError};

/// The longest line that is searched for a metric.
const LINE_LIMIT: usize = 4096;
/// Metrics of one attempt that are kept.
const METRICS_LIMIT: usize = 1000;
const METRIC: &str = "shadowfs-metric ";

pub(super) struct Output {
    log: Log,
    /// Bytes that are kept; the rest is read and dropped, and the log says so.
    limit: u64,
    kept: u64,
    dropped: u64,
    failed: Option<io::Error>,
    line: Vec<u8>,
    metrics: Vec<(String, f64)>,
}

impl Output {
    /// Output into a new log, of which `limit` bytes are kept.
    pub(super) fn create(place: &LogPlace, limit: u64) -> Result<Self, StoreError> {
        let log = place.create()?;
        Ok(Self { log, limit, kept: 0, dropped: 0, failed: None, line: Vec::new(), metrics: Vec::new() })
    }

    /// Takes what the attempt wrote.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        let room = usize::try_from(self.limit.saturating_sub(self.kept)).unwrap_or(usize::MAX).min(bytes.len());
        let (keep, drop) = bytes.split_at(room);
        if self.failed.is_none() {
            self.failed = self.log.write_all(keep).err();
        }
        self.kept += keep.len() as u64;
        self.dropped += drop.len() as u64;
        self.search(bytes);
    }

    fn search(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, after) = rest.split_at(end);
            self.extend_line(line);
            self.end_line();
            rest = &after[1..];
        }
        self.extend_line(rest);
    }

    fn extend_line(&mut self, bytes: &[u8]) {
        let room = LINE_LIMIT.saturating_sub(self.line.len()).min(bytes.len());
        self.line.extend_from_slice(&bytes[..room]);
    }

    fn end_line(&mut self) {
        if let Some((name, value)) = std::str::from_utf8(&self.line).ok().and_then(metric) {
            let full = self.metrics.len() >= METRICS_LIMIT;
            match self.metrics.iter_mut().find(|(known, _)| *known == name) {
                Some((_, known)) => *known = value,
                None if full => {}
                None => self.metrics.push((name.to_owned(), value)),
            }
        }
        self.line.clear();
    }

    /// Makes the log durable and gives the metrics. A log that can't be written does not change what the check found. The log of an
    /// attempt that has not `passed` is what a ghost is understood by: its names are durable, too. That takes two syncs more.
    pub(super) fn finish(mut self, passed: bool) -> Vec<(String, f64)> {
        self.end_line();
        if self.dropped > 0 {
            let note = format!("\n[shadowfs: {} more bytes of output were not kept]\n", self.dropped);
            self.failed = self.failed.take().or_else(|| self.log.write_all(note.as_bytes()).err());
        }
        let failed = self.failed.take().map(|error| error.to_string());
        if let Some(error) = failed.or_else(|| self.log.sync(!passed).err().map(|error| error.to_string())) {
            tracing::warn!("the log of a check could not be written: {error}");
        }
        self.metrics
    }
}

/// A line "shadowfs-metric NAME VALUE".
fn metric(line: &str) -> Option<(&str, f64)> {
    let mut words = line.trim_end_matches('\r').strip_prefix(METRIC)?.split_ascii_whitespace();
    let (name, value) = (words.next()?, words.next()?);
    let value: f64 = value.parse().ok()?;
    (words.next().is_none() && value.is_finite() && name.len() <= 200).then_some((name, value))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    const LOG_LIMIT: u64 = 8 << 20;

    #[test]
    fn a_metric_is_a_line_of_its_own_with_a_name_and_a_number() {
        assert_eq!(metric("shadowfs-metric rows 12"), Some(("rows", 12.0)));
        assert_eq!(metric("shadowfs-metric mean -1.5e3\r"), Some(("mean", -1500.0)));
        for line in ["shadowfs-metric rows", "shadowfs-metric rows x", "shadowfs-metric rows NaN", "shadowfs-metric a 1 2", "rows 1", ""] {
            assert_eq!(metric(line), None, "{line}");
        }
    }

    #[test]
    fn metrics_are_found_across_pieces_and_past_the_bound_of_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut output = Output::create(&path.clone().into(), LOG_LIMIT).unwrap();
        output.write(b"hello\nshadowfs-me");
        output.write(b"tric rows 1");
        output.write(b"2\nshadowfs-metric rows 13\n");
        let block = vec![b'x'; 1 << 20];
        (0..9).for_each(|_| output.write(&block));
        output.write(b"\nshadowfs-metric last 1");
        assert_eq!(output.finish(true), [("rows".to_owned(), 13.0), ("last".to_owned(), 1.0)]);
        let log = std::fs::read(&path).unwrap();
        assert!(log.starts_with(b"hello\nshadowfs-metric rows 12\n"));
        assert!(log.ends_with(b"more bytes of output were not kept]\n"));
        assert!((log.len() as u64) < LOG_LIMIT + 100);
    }
}
