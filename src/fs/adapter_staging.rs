//! Staging's nodes, attributes and answers as fuser wants them.

use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use fuser::{FileAttr, INodeNo, ReplyAttr, ReplyEmpty, ReplyEntry, Request};

use super::adapter_attr::{self, FOREVER, GENERATION};
use super::adapter_errno::of_staging;
use super::attr::NodeAttr;
use super::nodes::{RawNode, StagingNodes};
use super::staging_session::StagingSession;
use crate::ids::VersionId;
use crate::store::record::VersionState;
use crate::tree::key::FileKind;
use crate::version::staging::{Attr, Caller, NodeRef};
use crate::version::{FsError, FsResult};

pub(super) fn caller(req: &Request) -> Caller {
    Caller { uid: req.uid(), gid: req.gid(), pid: req.pid() }
}

/// The attributes of our own that tell where staging stands.
impl StagingSession {
    /// Which version staging shows, and its state: the open one, or what it stands on.
    fn version(&self) -> FsResult<(VersionId, VersionState)> {
        if let Some(version) = self.staging.activity().version {
            return Ok((version, VersionState::Open));
        }
        let base = self.staging.base();
        Ok((base, self.store.catalog().version(base)?.map_or(VersionState::Expired, |record| record.state)))
    }

    pub(super) fn own_xattr(&self, name: &[u8]) -> FsResult<Vec<u8>> {
        match name {
            b"store" => Ok(self.store.path().as_os_str().as_bytes().to_vec()),
            b"version" => Ok(self.version()?.0.to_string().into_bytes()),
            b"state" => Ok(self.version()?.1.as_str().into()),
            _ => Err(FsError::NoData),
        }
    }
}

impl StagingNodes {
    pub(super) const fn node(self, ino: INodeNo) -> NodeRef {
        let (ino, generation) = self.unpack(RawNode(ino.0));
        NodeRef { ino, generation }
    }

    pub(super) fn raw(self, node: NodeRef) -> FsResult<RawNode> {
        self.pack(node.ino, node.generation).ok_or(FsError::OutOfRange)
    }

    /// What the kernel is told of a node, and how long it may keep the attributes.
    pub(super) fn told(self, attr: &Attr) -> FsResult<(FileAttr, Duration)> {
        // The kernel does not learn that a write took the set-id bits away, so it must ask again for files that have them.
        let set_id = attr.kind == FileKind::Regular && attr.perm & 0o6000 != 0;
        let ttl = if attr.volatile || set_id { Duration::ZERO } else { FOREVER };
        let attr = NodeAttr {
            node: self.raw(attr.node)?,
            kind: attr.kind,
            perm: attr.perm,
            uid: attr.uid,
            gid: attr.gid,
            nlink: attr.nlink,
            size: attr.size,
            blocks: attr.blocks,
            rdev: attr.rdev,
            atime: attr.atime,
            mtime: attr.mtime,
            ctime: attr.ctime,
            btime: attr.btime,
        };
        Ok((adapter_attr::attr(&attr), ttl))
    }

    pub(super) fn reply_entry(self, reply: ReplyEntry, found: FsResult<Attr>) {
        match found.and_then(|attr| self.told(&attr)) {
            Ok((attr, ttl)) => reply.entry_with_ttls(&ttl, &FOREVER, &attr, GENERATION),
            Err(error) => reply.error(of_staging(&error)),
        }
    }

    pub(super) fn reply_attr(self, reply: ReplyAttr, found: FsResult<Attr>) {
        match found.and_then(|attr| self.told(&attr)) {
            Ok((attr, ttl)) => reply.attr(&ttl, &attr),
            Err(error) => reply.error(of_staging(&error)),
        }
    }
}

pub(super) fn reply_empty(reply: ReplyEmpty, done: FsResult<()>) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(of_staging(&error)),
    }
}
