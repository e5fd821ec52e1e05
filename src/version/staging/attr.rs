//! Attributes: stat(2) and what changes them.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use super::Staging;
use super::privileges::{drop_capability, without_set_id};
use super::state::{Edit, State, put_record};
use super::types::{Attr, Caller, Handle, NodeRef, SetAttr, StatFs, TimeSet};
use crate::ids::Ino;
use crate::tree::Snapshot;
use crate::tree::key::{Content, FileKind, InodeRecord, Key, Value};
use crate::version::acl::{self, Acl};
use crate::version::error::{FsError, FsResult};

impl Staging {
    /// stat(2), with a handle if there is one.
    pub fn attr(&self, node: NodeRef, handle: Option<Handle>) -> FsResult<Attr> {
        if let Some(handle) = handle
            && let Ok(slot) = self.file_slot(handle)
        {
            slot.cell.check()?;
        }
        let mut state = self.lock();
        let ino = state.ino(node)?;
        self.attr_in(&mut state, ino)
    }

    pub(super) fn attr_in(&self, state: &mut State, ino: Ino) -> FsResult<Attr> {
        state.refresh(&self.cx, ino)?;
        let record = match state.find(ino)? {
            Some(record) => record,
            None => {
                let gone = state.removed.iter().rev().find(|(gone, _)| *gone == ino).ok_or(FsError::Stale)?;
                Arc::clone(&gone.1)
            }
        };
        self.attr_of(state, ino, &record)
    }

    pub(super) fn attr_of(&self, state: &State, ino: Ino, record: &InodeRecord) -> FsResult<Attr> {
        let backing = state.files.get(&ino).and_then(|file| file.backing.as_ref());
        let blocks = match backing {
            Some(backing) => backing.file.metadata().map_err(|error| FsError::host("stat an object", error))?.blocks(),
            None => blocks(&self.snapshot_of(state, ino), ino, record)?,
        };
        Ok(Attr {
            node: state.node(ino),
            kind: record.kind,
            perm: record.perm,
            uid: record.uid,
            gid: record.gid,
            nlink: record.nlink,
            size: record.size,
            blocks,
            rdev: record.rdev,
            atime: record.atime,
            mtime: record.mtime,
            ctime: record.ctime,
            btime: record.btime,
            volatile: backing.is_some(),
        })
    }

    /// chmod(2), chown(2), truncate(2), utimensat(2).
    pub fn set_attr(&self, caller: &Caller, node: NodeRef, handle: Option<Handle>, change: &SetAttr) -> FsResult<Attr> {
        loop {
            let gate = self.gate.read();
            let copy = change.size.and_then(|_| self.copy_first(&self.lock(), node.ino));
            let Some(copy) = copy else { return self.set_attr_in(caller, node, handle, change) };
            drop(gate);
            self.cx.store.objects().make_copy(copy)?;
        }
    }

    /// As `set_attr`, for who holds the gate.
    fn set_attr_in(&self, caller: &Caller, node: NodeRef, handle: Option<Handle>, change: &SetAttr) -> FsResult<Attr> {
        if let Some(handle) = handle
            && let Ok(slot) = self.file_slot(handle)
        {
            slot.cell.check()?;
        }
        let mut state = self.lock();
        let ino = state.ino(node)?;
        let record = state.record(ino)?;
        if let Some(size) = change.size {
            match record.kind {
                FileKind::Regular => {}
                FileKind::Directory => return Err(FsError::IsDirectory),
                _ => return Err(FsError::Invalid),
            }
            let used = self.use_file(&mut state, ino);
            drop(state);
            self.truncate(caller, &used.cell, size, false)?;
            drop(used);
            state = self.lock();
        }
        if *change == SetAttr::default() {
            // The kernel asks for the privileges to go, and for nothing else: someone writes the file in passthrough. It asks for root as
            // well, who keeps set-id bits, when there are capabilities to take away.
            self.drop_privileges(&mut state, caller, ino, caller.uid != 0)?;
        }
        let only_size = SetAttr { size: change.size, ..SetAttr::default() };
        if *change != only_size {
            state.refresh(&self.cx, ino)?;
            self.set_rest(&mut state, caller, ino, change)?;
        }
        self.attr_in(&mut state, ino)
    }

    /// Everything but the length.
    fn set_rest(&self, state: &mut State, caller: &Caller, ino: Ino, change: &SetAttr) -> FsResult<()> {
        let now = self.now();
        let time = |set: TimeSet| match set {
            TimeSet::Now => now,
            TimeSet::At(at) => at,
        };
        let old = state.record(ino)?;
        let mut record = (*old).clone();
        let mut edits: Vec<Edit> = Vec::new();
        if change.uid.is_some() || change.gid.is_some() {
            record.uid = change.uid.unwrap_or(record.uid);
            record.gid = change.gid.unwrap_or(record.gid);
            if record.kind != FileKind::Directory {
                // Whoever does it, root as well: as chown(2) says.
                record.perm = without_set_id(&old, caller);
                edits.extend(drop_capability(&self.snapshot_of(state, ino), ino)?);
            }
        }
        if let Some(perm) = change.perm {
            if record.kind == FileKind::Symlink {
                return Err(FsError::NotSupported);
            }
            record.perm = perm & 0o7777;
            edits.extend(chmod_acl(&self.snapshot_of(state, ino), ino, perm)?);
        }
        record.atime = change.atime.map_or(record.atime, time);
        record.mtime = change.mtime.map_or(record.mtime, time);
        record.ctime = change.ctime.unwrap_or(now);
        record.changed_in = if state.orphans.contains_key(&ino) { record.changed_in } else { state.begin(caller, &self.cx) };
        if let (FileKind::Directory, Some(open)) = (record.kind, &mut state.open) {
            open.explicit = true;
        }
        edits.push(put_record(ino, record));
        state.apply(edits)
    }

    /// statfs(2), of the filesystem that the store is on.
    pub fn statfs(&self) -> FsResult<StatFs> {
        let host = self.cx.store.filesystem()?;
        Ok(StatFs {
            block_size: u32::try_from(host.fragment_size()).unwrap_or(4096),
            blocks: host.blocks(),
            free: host.blocks_free(),
            available: host.blocks_available(),
            files: host.files(),
            files_free: host.files_free(),
            name_max: 255,
        })
    }
}

/// The edit that brings a file's access list in line with new permission bits.
fn chmod_acl(snapshot: &Snapshot, ino: Ino, perm: u16) -> FsResult<Option<Edit>> {
    let Some(value) = snapshot.xattr(ino, acl::ACCESS)? else { return Ok(None) };
    let Ok(Some(list)) = Acl::parse(&value) else { return Ok(None) };
    Ok(Some((Key::xattr(ino, acl::ACCESS), Some(Value::Xattr(list.chmod(perm).to_bytes().into())))))
}

/// Blocks of 512 bytes that an inode's bytes take: what its host file takes, or whole pages of what is elsewhere.
pub fn blocks(snapshot: &Snapshot, ino: Ino, record: &InodeRecord) -> FsResult<u64> {
    const PAGE: u64 = 4096;
    /// Smaller ones are not worth a look at the host: packed, in memory, or a few pages long.
    const SMALL: u64 = 128 << 10;
    /// ext4 keeps shorter targets in the inode.
    const FAST_SYMLINK: u64 = 60;
    let pages = |bytes: u64| bytes.div_ceil(PAGE) * (PAGE / 512);
    Ok(match (record.kind, &record.content) {
        (FileKind::Directory, _) => PAGE / 512,
        (FileKind::Symlink, _) => {
            if record.size < FAST_SYMLINK {
                0
            } else {
                PAGE / 512
            }
        }
        (FileKind::Regular, Content::None) => 0,
        (FileKind::Regular, Content::Inline(bytes)) => pages(bytes.len() as u64),
        (FileKind::Regular, Content::Object(_)) if record.size <= SMALL => pages(record.size),
        (FileKind::Regular, Content::Object(object)) => match snapshot.store.objects().open_file(*object) {
            Ok(Some(file)) => file.metadata().map_err(|error| FsError::host("stat an object", error))?.blocks(),
            // Bytes that are being written have no name yet; the size is as good a guess as any.
            Ok(None) => pages(snapshot.store.objects().len(*object).unwrap_or(record.size).min(record.size)),
            // What can't be read can still be listed, and removed.
            Err(_) => pages(record.size),
        },
        (FileKind::Regular, Content::Extents) => {
            snapshot.extents(ino)?.iter().map(|(_, extent)| extent.len.div_ceil(512)).sum::<u64>().min(pages(record.size))
        }
        (FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice, _) => 0,
    })
}
