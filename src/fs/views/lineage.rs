//! `lineage/`: the audit trail as files. Their content grows, so the kernel keeps nothing of it.

use super::{AFTER_DOTS, Listed, ViewError, ViewResult, Views, dots, raw};
use crate::clock::Timestamp;
use crate::fs::attr::NodeAttr;
use crate::fs::nodes::{LineageNode, ViewNode};
use crate::ids::VersionId;
use crate::tree::key::FileKind;

/// A file of the lineage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LineageFile {
    /// `log.jsonl`.
    Log,
    /// `tN/version.json`.
    Version(VersionId),
    /// `tN/changes.jsonl`.
    Changes(VersionId),
    /// `tN/checks/NAME.json`.
    Summary {
        /// The version.
        version: VersionId,
        /// The check's name.
        check: String,
    },
    /// `tN/checks/NAME.K.log`.
    Output {
        /// The version.
        version: VersionId,
        /// The check's name.
        check: String,
        /// K, from 1.
        attempt: u32,
    },
}

/// A check of a version and how many attempts it made, running ones included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckOutputs {
    /// The check's name.
    pub check: String,
    /// Attempts are numbered from 1 to this.
    pub attempts: u32,
}

/// Where the audit trail comes from. Called from FUSE threads.
pub trait LineageSource: Send + Sync {
    /// Every version that was ever opened, oldest first.
    fn versions(&self) -> ViewResult<Vec<VersionId>>;
    /// Whether that version was ever opened.
    fn has(&self, version: VersionId) -> ViewResult<bool> {
        Ok(self.versions()?.binary_search(&version).is_ok())
    }
    /// The checks of a version in the order of their first attempts: a check's place in it never changes.
    fn checks(&self, version: VersionId) -> ViewResult<Vec<CheckOutputs>>;
    /// A file's length in bytes; `NotFound` if it is not there.
    fn len(&self, file: &LineageFile) -> ViewResult<u64>;
    /// Bytes of a file; fewer than asked for only at its end.
    fn read(&self, file: &LineageFile, offset: u64, len: usize) -> ViewResult<Vec<u8>>;
    /// When the file last changed, if that is known.
    fn modified(&self, file: &LineageFile) -> Option<Timestamp>;
}

const AFTER_LOG: u64 = AFTER_DOTS + 1;

impl Views {
    pub(super) fn lookup_lineage(&self, name: &[u8]) -> ViewResult<Option<ViewNode>> {
        if name == b"log.jsonl" {
            return Ok(Some(ViewNode::Log));
        }
        let Some(version) = std::str::from_utf8(name).ok().and_then(|name| name.parse().ok()) else { return Ok(None) };
        Ok(self.lineage().has(version)?.then_some(ViewNode::OfVersion(version, LineageNode::Directory)))
    }

    pub(super) fn list_lineage(&self, offset: u64, n: usize) -> ViewResult<Vec<Listed>> {
        let mut listed = dots(ViewNode::Lineage, ViewNode::Root, offset);
        listed.push(Listed { name: b"log.jsonl"[..].into(), node: ViewNode::Log, kind: FileKind::Regular, next: AFTER_LOG });
        listed.extend(self.lineage().versions()?.into_iter().map(|version| Listed {
            name: version.to_string().into_bytes().into(),
            node: ViewNode::OfVersion(version, LineageNode::Directory),
            kind: FileKind::Directory,
            next: AFTER_LOG.saturating_add(version.0).saturating_add(1),
        }));
        listed.retain(|entry| entry.next > offset);
        listed.truncate(n);
        Ok(listed)
    }

    pub(super) fn lookup_of_version(&self, version: VersionId, dir: LineageNode, name: &[u8]) -> ViewResult<Option<ViewNode>> {
        let entries = self.entries_of(version, dir)?;
        let node = entries.into_iter().find(|(own, _)| own.as_bytes() == name).map(|(_, node)| node);
        match node {
            // The changes are known from the seal on.
            Some(LineageNode::Changes) if !self.is_there(version, LineageNode::Changes)? => Ok(None),
            node => Ok(node.map(|node| ViewNode::OfVersion(version, node))),
        }
    }

    pub(super) fn list_of_version(&self, version: VersionId, dir: LineageNode, offset: u64) -> ViewResult<Vec<Listed>> {
        let parent = match dir {
            LineageNode::Checks => ViewNode::OfVersion(version, LineageNode::Directory),
            _ => ViewNode::Lineage,
        };
        let mut listed = dots(ViewNode::OfVersion(version, dir), parent, offset);
        for ((name, node), at) in self.entries_of(version, dir)?.into_iter().zip(AFTER_DOTS..) {
            if at + 1 > offset && (node != LineageNode::Changes || self.is_there(version, node)?) {
                let kind = if matches!(node, LineageNode::Checks) { FileKind::Directory } else { FileKind::Regular };
                listed.push(Listed { name: name.into_bytes().into(), node: ViewNode::OfVersion(version, node), kind, next: at + 1 });
            }
        }
        Ok(listed)
    }

    fn is_there(&self, version: VersionId, node: LineageNode) -> ViewResult<bool> {
        match self.lineage_file(ViewNode::OfVersion(version, node)).and_then(|file| self.lineage().len(&file)) {
            Ok(_) => Ok(true),
            Err(ViewError::NotFound) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn entries_of(&self, version: VersionId, dir: LineageNode) -> ViewResult<Vec<(String, LineageNode)>> {
        match dir {
            LineageNode::Directory => Ok(vec![
                ("checks".to_owned(), LineageNode::Checks),
                ("version.json".to_owned(), LineageNode::Version),
                ("changes.jsonl".to_owned(), LineageNode::Changes),
            ]),
            LineageNode::Checks => {
                let mut entries = Vec::new();
                for (CheckOutputs { check, attempts }, at) in self.lineage().checks(version)?.into_iter().zip(0_u16..) {
                    entries.push((format!("{check}.json"), LineageNode::Summary(at)));
                    let attempts = u16::try_from(attempts).unwrap_or(u16::MAX);
                    entries.extend((1..=attempts).map(|k| (format!("{check}.{k}.log"), LineageNode::Output(at, k))));
                }
                Ok(entries)
            }
            _ => Err(ViewError::NotDirectory),
        }
    }

    fn lineage_file(&self, node: ViewNode) -> ViewResult<LineageFile> {
        let check = |version, at: u16| {
            let checks = self.lineage().checks(version)?;
            checks.into_iter().nth(usize::from(at)).map(|outputs| outputs.check).ok_or(ViewError::Stale)
        };
        match node {
            ViewNode::Log => Ok(LineageFile::Log),
            ViewNode::OfVersion(version, node) => match node {
                LineageNode::Version => Ok(LineageFile::Version(version)),
                LineageNode::Changes => Ok(LineageFile::Changes(version)),
                LineageNode::Summary(at) => Ok(LineageFile::Summary { version, check: check(version, at)? }),
                LineageNode::Output(at, attempt) => {
                    Ok(LineageFile::Output { version, check: check(version, at)?, attempt: u32::from(attempt) })
                }
                LineageNode::Directory | LineageNode::Checks => Err(ViewError::Invalid),
            },
            _ => Err(ViewError::Invalid),
        }
    }

    pub(super) fn lineage_attr(&self, node: ViewNode) -> ViewResult<NodeAttr> {
        let directory = self.directory(raw(node)?, *self.touched.lock());
        match node {
            ViewNode::Lineage | ViewNode::OfVersion(_, LineageNode::Directory | LineageNode::Checks) => Ok(directory),
            _ => {
                let file = self.lineage_file(node)?;
                let size = self.lineage().len(&file)?;
                let at = self.lineage().modified(&file).unwrap_or(directory.mtime);
                let times = NodeAttr { atime: at, mtime: at, ctime: at, ..directory };
                Ok(NodeAttr { kind: FileKind::Regular, perm: 0o644, nlink: 1, size, blocks: size.div_ceil(512), ..times })
            }
        }
    }

    pub(super) fn read_lineage(&self, node: ViewNode, offset: u64, len: usize) -> ViewResult<Vec<u8>> {
        self.lineage().read(&self.lineage_file(node)?, offset, len)
    }
}
