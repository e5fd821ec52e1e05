//! `lineage/`: the audit trail as the views read it.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::shared::Shared;
use crate::clock::Timestamp;
use crate::fs::views::{CheckOutputs, LineageFile, LineageSource, ViewError, ViewResult};
use crate::ids::{EventSeq, VersionId};
use crate::lineage::doc::ChangeDoc;
use crate::lineage::{event, files};
use crate::store::event::Event;
use crate::store::record::VersionRecord;
use crate::store::{Store, StoreError};
use crate::tree;

/// Events a page of `log.jsonl`.
const PAGE: usize = 256;

/// `log.jsonl`. Lines never change, so it is enough to know where each page of them begins: a page is rendered when it is read.
#[derive(Debug)]
pub(super) struct LineageLog {
    store: Arc<Store>,
    /// Reads the catalog while it is held, and nothing else.
    text: Mutex<Text>,
}

#[derive(Debug, Default)]
struct Text {
    /// Where the pages begin, the last one included.
    starts: Vec<u64>,
    /// The last page, as far as there are events.
    tail: Vec<u8>,
    /// The page that was read last: a file is read in pieces.
    recent: Option<(usize, Vec<u8>)>,
    next: u64,
    last: Option<Timestamp>,
}

impl Text {
    fn add(&mut self, events: &[Event]) {
        for event in events {
            if self.next.is_multiple_of(PAGE as u64) {
                let start = self.len();
                self.starts.push(start);
                self.tail.clear();
            }
            render(event, &mut self.tail);
            self.next = event.seq.next().0;
            self.last = Some(event.at);
        }
    }

    fn len(&self) -> u64 {
        self.starts.last().map_or(0, |start| start + self.tail.len() as u64)
    }
}

fn render(event: &Event, out: &mut Vec<u8>) {
    out.extend_from_slice(event::json_line(event).as_bytes());
    out.push(b'\n');
}

impl LineageLog {
    pub(super) fn new(store: Arc<Store>) -> Self {
        Self { store, text: Mutex::default() }
    }

    /// The text, with what has been appended since.
    fn text(&self) -> Result<MutexGuard<'_, Text>, StoreError> {
        let mut text = self.text.lock();
        loop {
            let events = self.store.catalog().some_events(EventSeq(text.next), PAGE)?;
            text.add(&events);
            if events.len() < PAGE {
                return Ok(text);
            }
        }
    }

    fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, StoreError> {
        let mut text = self.text()?;
        let end = text.len().min(offset.saturating_add(len as u64));
        let mut read = Vec::with_capacity(usize::try_from(end.saturating_sub(offset)).unwrap_or(0));
        let mut at = offset;
        while at < end {
            let page = text.starts.partition_point(|start| *start <= at) - 1;
            let skip = usize::try_from(at - text.starts[page]).unwrap_or(usize::MAX);
            let want = usize::try_from(end - at).unwrap_or(usize::MAX);
            let more = part(self.page(&mut text, page)?, skip, want);
            if more.is_empty() {
                return Err(StoreError::Damaged { what: format!("the lineage's events from {} on have changed", page * PAGE) });
            }
            at += more.len() as u64;
            read.extend_from_slice(more);
        }
        Ok(read)
    }

    fn page<'a>(&self, text: &'a mut Text, page: usize) -> Result<&'a [u8], StoreError> {
        if page + 1 == text.starts.len() {
            return Ok(&text.tail);
        }
        if text.recent.as_ref().is_none_or(|(recent, _)| *recent != page) {
            let mut bytes = Vec::new();
            let events = self.store.catalog().some_events(EventSeq((page * PAGE) as u64), PAGE)?;
            events.iter().for_each(|event| render(event, &mut bytes));
            text.recent = Some((page, bytes));
        }
        Ok(text.recent.as_ref().map_or(&[], |(_, bytes)| bytes))
    }
}

impl Shared {
    fn record(&self, version: VersionId) -> ViewResult<VersionRecord> {
        self.store.catalog().version(version)?.ok_or(ViewError::NotFound)
    }

    fn log_file(&self, version: VersionId, check: &str, attempt: u32) -> PathBuf {
        self.store.path().join("logs").join(version.to_string()).join(format!("{check}.{attempt}.log"))
    }

    /// A file that is made when it is read; `None` for those that are read in place.
    fn rendered(&self, file: &LineageFile) -> ViewResult<Option<Vec<u8>>> {
        match file {
            LineageFile::Log | LineageFile::Output { .. } => Ok(None),
            LineageFile::Version(version) => Ok(Some(files::version_json(&self.record(*version)?))),
            LineageFile::Changes(version) => {
                let record = self.record(*version)?;
                let parent = record.parent.map(|parent| self.record(parent)).transpose()?;
                let new = self.snapshot(&record).ok_or(ViewError::NotFound)?;
                let Some(parent) = parent else { return Ok(Some(Vec::new())) };
                let old = self.snapshot(&parent).ok_or(ViewError::NotFound)?;
                Ok(Some(files::changes_jsonl(tree::changes(&old, &new)?.iter().map(ChangeDoc::from))))
            }
            LineageFile::Summary { version, check } => {
                let attempts = self.store.catalog().attempts(*version)?;
                Ok(Some(files::check_json(*version, check, &attempts)))
            }
        }
    }
}

impl LineageSource for Shared {
    fn versions(&self) -> ViewResult<Vec<VersionId>> {
        Ok(self.store.catalog().versions()?.into_iter().map(|record| record.version).collect())
    }

    fn has(&self, version: VersionId) -> ViewResult<bool> {
        Ok(self.store.catalog().version(version)?.is_some())
    }

    fn checks(&self, version: VersionId) -> ViewResult<Vec<CheckOutputs>> {
        let mut attempts = self.store.catalog().attempts(version)?;
        attempts.sort_by_key(|attempt| attempt.started_at);
        let ended = attempts.into_iter().map(|attempt| (attempt.check, attempt.attempt));
        let mut checks: Vec<CheckOutputs> = Vec::new();
        for (check, attempt) in ended.chain(self.running(version)) {
            match checks.iter_mut().find(|known| known.check == check) {
                Some(known) => known.attempts = known.attempts.max(attempt),
                None => checks.push(CheckOutputs { check, attempts: attempt }),
            }
        }
        Ok(checks)
    }

    fn len(&self, file: &LineageFile) -> ViewResult<u64> {
        match file {
            LineageFile::Log => Ok(self.log.text()?.len()),
            LineageFile::Output { version, check, attempt } => {
                Ok(std::fs::metadata(self.log_file(*version, check, *attempt)).map_or(0, |data| data.len()))
            }
            other => Ok(self.rendered(other)?.map_or(0, |bytes| bytes.len() as u64)),
        }
    }

    fn read(&self, file: &LineageFile, offset: u64, len: usize) -> ViewResult<Vec<u8>> {
        match file {
            LineageFile::Log => Ok(self.log.read(offset, len)?),
            LineageFile::Output { version, check, attempt } => {
                let log = self.log_file(*version, check, *attempt);
                let Ok(file) = File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(log) else { return Ok(Vec::new()) };
                let mut buffer = vec![0; len];
                let n = file.read_at(&mut buffer, offset)?;
                buffer.truncate(n);
                Ok(buffer)
            }
            other => {
                let offset = usize::try_from(offset).unwrap_or(usize::MAX);
                Ok(self.rendered(other)?.map_or_else(Vec::new, |bytes| part(&bytes, offset, len).to_vec()))
            }
        }
    }

    fn modified(&self, file: &LineageFile) -> Option<Timestamp> {
        match file {
            LineageFile::Log => self.log.text().ok().and_then(|text| text.last),
            LineageFile::Version(version) | LineageFile::Changes(version) | LineageFile::Summary { version, .. } => {
                let record = self.record(*version).ok()?;
                [Some(record.opened_at), record.sealed_at, record.decided_at, record.promoted_at].into_iter().flatten().max()
            }
            LineageFile::Output { version, check, attempt } => {
                let data = std::fs::metadata(self.log_file(*version, check, *attempt)).ok()?;
                data.modified().ok().map(Timestamp::from)
            }
        }
    }
}

fn part(bytes: &[u8], offset: usize, len: usize) -> &[u8] {
    let from = offset.min(bytes.len());
    let to = from.saturating_add(len).min(bytes.len());
    bytes.get(from..to).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::clock::{Clock as _, SystemClock};
    use crate::store::event::EventKind;

    #[test]
    fn every_piece_of_the_log_is_as_in_the_whole_while_it_grows() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::init(&dir.path().join("store"), &SystemClock).unwrap());
        let (log, mut whole) = (LineageLog::new(Arc::clone(&store)), Vec::new());
        assert!(log.read(0, 10).unwrap().is_empty());
        for grown in [1, PAGE - 1, 1, 2 * PAGE, PAGE / 2] {
            let mut transaction = store.catalog().begin().unwrap();
            for number in 0..grown {
                let at = "/".repeat(number % 90);
                let event = transaction.append_event(SystemClock.now(), None, EventKind::Mounted { at, recovered: false }).unwrap();
                render(&event, &mut whole);
            }
            transaction.commit().unwrap();
            assert_eq!(log.text().unwrap().len(), whole.len() as u64);
            for (offset, len) in [(0, whole.len()), (whole.len() / 3, 5000), (whole.len() - 10, 100), (whole.len(), 1), (7, 1 << 20)] {
                assert_eq!(log.read(offset as u64, len).unwrap(), part(&whole, offset, len), "{len} bytes from {offset}");
            }
        }
        assert!(log.text().unwrap().tail.len() < whole.len() / 3);
    }
}
