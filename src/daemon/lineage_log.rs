//! `lineage/`: the audit trail as the views read it.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::shared::Shared;
use crate::clock::Timestamp;
use crate::fs::views::{CheckOutputs, LineageFile, LineageSource, ViewError, ViewResult};
use crate::ids::{EventSeq, VersionId};
use crate::lineage::doc::ChangeDoc;
use crate::lineage::{event, files};
use crate::store::record::VersionRecord;
use crate::store::{Store, StoreError};
use crate::tree;

/// `log.jsonl`, rendered as far as someone has asked.
#[derive(Debug)]
pub(super) struct LineageLog {
    store: Arc<Store>,
    /// Reads the catalog while it is held, and nothing else.
    text: Mutex<Text>,
}

#[derive(Debug)]
struct Text {
    bytes: Vec<u8>,
    next: EventSeq,
    last: Option<Timestamp>,
}

impl LineageLog {
    pub(super) fn new(store: Arc<Store>) -> Self {
        Self { store, text: Mutex::new(Text { bytes: Vec::new(), next: EventSeq(0), last: None }) }
    }

    fn with<T>(&self, read: impl FnOnce(&Text) -> T) -> Result<T, StoreError> {
        let mut text = self.text.lock();
        for event in self.store.catalog().events(text.next)? {
            text.next = event.seq.next();
            text.last = Some(event.at);
            text.bytes.extend_from_slice(event::json_line(&event).as_bytes());
            text.bytes.push(b'\n');
        }
        Ok(read(&text))
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
            LineageFile::Log => Ok(self.log.with(|text| text.bytes.len() as u64)?),
            LineageFile::Output { version, check, attempt } => {
                Ok(std::fs::metadata(self.log_file(*version, check, *attempt)).map_or(0, |data| data.len()))
            }
            other => Ok(self.rendered(other)?.map_or(0, |bytes| bytes.len() as u64)),
        }
    }

    fn read(&self, file: &LineageFile, offset: u64, len: usize) -> ViewResult<Vec<u8>> {
        match file {
            LineageFile::Log => Ok(self.log.with(|text| part(&text.bytes, offset, len))?),
            LineageFile::Output { version, check, attempt } => {
                let log = self.log_file(*version, check, *attempt);
                let Ok(file) = File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(log) else { return Ok(Vec::new()) };
                let mut buffer = vec![0; len];
                let n = file.read_at(&mut buffer, offset)?;
                buffer.truncate(n);
                Ok(buffer)
            }
            other => Ok(self.rendered(other)?.map_or_else(Vec::new, |bytes| part(&bytes, offset, len))),
        }
    }

    fn modified(&self, file: &LineageFile) -> Option<Timestamp> {
        match file {
            LineageFile::Log => self.log.with(|text| text.last).ok().flatten(),
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

fn part(bytes: &[u8], offset: u64, len: usize) -> Vec<u8> {
    let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    let to = from.saturating_add(len).min(bytes.len());
    bytes.get(from..to).unwrap_or_default().to_vec()
}
