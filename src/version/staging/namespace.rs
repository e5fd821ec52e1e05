//! Names: lookup, making and removing entries. (`rename` has a file of its own.)

use std::sync::Arc;

use super::state::{Edit, MAX_NAME, Orphan, State, put_record};
use super::types::{Attr, Caller, NodeRef, Opened};
use super::{Context, Staging, extents};
use crate::clock::Timestamp;
use crate::ids::{Ino, VersionId};
use crate::tree::Snapshot;
use crate::tree::key::{Content, FileKind, InodeRecord, Key, Value};
use crate::version::acl::{self, Acl};
use crate::version::error::{FsError, FsResult};

const MAX_TARGET: usize = 4095;
pub(super) const MAX_LINKS: u32 = 65_000;
const SET_GID: u16 = 0o2000;

/// What a new inode is to be.
struct Newcomer<'a> {
    kind: FileKind,
    mode: u32,
    umask: u32,
    rdev: u32,
    target: Option<&'a [u8]>,
}

/// Names.
impl Staging {
    /// What `name` in `dir` leads to.
    pub fn lookup(&self, dir: NodeRef, name: &[u8]) -> FsResult<Attr> {
        if name.len() > MAX_NAME {
            return Err(FsError::NameTooLong);
        }
        let mut state = self.lock();
        let (dir, record) = state.dir(dir)?;
        let ino = match name {
            b"." => dir,
            b".." => record.parent,
            name => state.entry(dir, name)?.ok_or(FsError::NotFound)?.0,
        };
        self.attr_in(&mut state, ino)
    }

    /// Makes a regular file and opens it. `flags` are open(2)'s; an existing file is an error only with `O_EXCL`.
    pub fn create(&self, caller: &Caller, dir: NodeRef, name: &[u8], mode: u32, umask: u32, flags: i32) -> FsResult<(Attr, Opened)> {
        let gate = self.gate.read();
        let mut state = self.lock();
        let new = Newcomer { kind: FileKind::Regular, mode, umask, rdev: 0, target: None };
        match self.make(&mut state, caller, dir, name, &new) {
            Ok(ino) => {
                let opened = self.open_new(&mut state, caller, ino, flags)?;
                let attr = self.attr_in(&mut state, ino)?;
                Ok((attr, opened))
            }
            Err(FsError::Exists) if flags & libc::O_EXCL == 0 => {
                let (dir, _) = state.dir(dir)?;
                let (ino, _) = state.child(dir, name)?;
                let node = state.node(ino);
                drop(state);
                drop(gate);
                let opened = self.open(caller, node, flags)?;
                Ok((self.attr(node, Some(opened.handle))?, opened))
            }
            Err(error) => Err(error),
        }
    }

    /// mknod(2): a regular file, pipe, socket or device.
    #[allow(clippy::too_many_arguments)]
    pub fn make_node(
        &self,
        caller: &Caller,
        dir: NodeRef,
        name: &[u8],
        kind: FileKind,
        mode: u32,
        umask: u32,
        rdev: u32,
    ) -> FsResult<Attr> {
        match kind {
            FileKind::Directory => return Err(FsError::NotPermitted),
            FileKind::Symlink => return Err(FsError::Invalid),
            _ => {}
        }
        let mut state = self.lock();
        let rdev = if matches!(kind, FileKind::CharDevice | FileKind::BlockDevice) { rdev } else { 0 };
        let ino = self.make(&mut state, caller, dir, name, &Newcomer { kind, mode, umask, rdev, target: None })?;
        self.attr_in(&mut state, ino)
    }

    /// mkdir(2).
    pub fn make_dir(&self, caller: &Caller, dir: NodeRef, name: &[u8], mode: u32, umask: u32) -> FsResult<Attr> {
        let mut state = self.lock();
        let new = Newcomer { kind: FileKind::Directory, mode, umask, rdev: 0, target: None };
        let ino = self.make(&mut state, caller, dir, name, &new)?;
        self.attr_in(&mut state, ino)
    }

    /// symlink(2).
    pub fn symlink(&self, caller: &Caller, dir: NodeRef, name: &[u8], target: &[u8]) -> FsResult<Attr> {
        match target.len() {
            0 => return Err(FsError::NotFound),
            len if len > MAX_TARGET => return Err(FsError::NameTooLong),
            _ => {}
        }
        let mut state = self.lock();
        let new = Newcomer { kind: FileKind::Symlink, mode: 0o777, umask: 0, rdev: 0, target: Some(target) };
        let ino = self.make(&mut state, caller, dir, name, &new)?;
        self.attr_in(&mut state, ino)
    }

    /// readlink(2).
    pub fn read_link(&self, node: NodeRef) -> FsResult<Vec<u8>> {
        let state = self.lock();
        let ino = state.ino(node)?;
        let record = state.record(ino)?;
        match (&record.kind, &record.content) {
            (FileKind::Symlink, Content::Inline(target)) => Ok(target.to_vec()),
            _ => Err(FsError::Invalid),
        }
    }

    fn make(&self, state: &mut State, caller: &Caller, dir: NodeRef, name: &[u8], new: &Newcomer<'_>) -> FsResult<Ino> {
        check_name(name)?;
        let (dir, parent) = state.dir(dir)?;
        if state.entry(dir, name)?.is_some() {
            return Err(FsError::Exists);
        }
        let directory = new.kind == FileKind::Directory;
        let default = if new.kind == FileKind::Symlink { None } else { self.default_acl(state, dir)? };
        let mode = u16::try_from(new.mode & 0o7777).unwrap_or(0);
        let (mut perm, access) = match &default {
            Some((list, _)) => list.inherit(mode),
            None if new.kind == FileKind::Symlink => (0o777, None),
            None => (mode & !u16::try_from(new.umask & 0o777).unwrap_or(0), None),
        };
        let mut gid = caller.gid;
        if parent.perm & SET_GID != 0 {
            gid = parent.gid;
            perm |= if directory { SET_GID } else { 0 };
        }
        let version = state.begin(caller, &self.cx);
        let now = self.now();
        let ino = self.cx.store.ids().ino();
        let record = InodeRecord {
            kind: new.kind,
            perm,
            uid: caller.uid,
            gid,
            nlink: if directory { 2 } else { 1 },
            size: if directory { 4096 } else { new.target.map_or(0, |target| target.len() as u64) },
            rdev: new.rdev,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            content: new.target.map_or(Content::None, |target| Content::Inline(target.into())),
            parent: dir,
            name: name.into(),
            changed_in: version,
        };
        let mut edits = vec![put_record(ino, record), (Key::dirent(dir, name), Some(Value::Dirent(ino, new.kind)))];
        let put = |name: &[u8], bytes: Arc<[u8]>| (Key::xattr(ino, name), Some(Value::Xattr(bytes)));
        edits.extend(access.map(|list| put(acl::ACCESS, list.to_bytes().into())));
        if let (true, Some((_, bytes))) = (directory, &default) {
            edits.push(put(acl::DEFAULT, Arc::clone(bytes)));
        }
        edits.push(put_record(dir, changed_dir(&parent, i64::from(directory), now, version)));
        state.apply(edits)?;
        Ok(ino)
    }

    /// The list that new files in the directory inherit, with its stored form.
    fn default_acl(&self, state: &State, dir: Ino) -> FsResult<Option<(Acl, Arc<[u8]>)>> {
        let Some(Value::Xattr(bytes)) = state.tree.get(&Key::xattr(dir, acl::DEFAULT))? else { return Ok(None) };
        Ok(Acl::parse(&bytes).ok().flatten().map(|list| (list, bytes)))
    }

    /// link(2).
    pub fn link(&self, caller: &Caller, node: NodeRef, dir: NodeRef, name: &[u8]) -> FsResult<Attr> {
        check_name(name)?;
        let mut state = self.lock();
        let ino = state.ino(node)?;
        state.refresh(&self.cx, ino)?;
        let record = state.record(ino)?;
        let (dir, parent) = state.dir(dir)?;
        if state.entry(dir, name)?.is_some() {
            return Err(FsError::Exists);
        }
        if record.kind == FileKind::Directory {
            return Err(FsError::NotPermitted);
        }
        if state.orphans.contains_key(&ino) {
            return Err(FsError::NotFound);
        }
        if record.nlink >= MAX_LINKS {
            return Err(FsError::TooManyLinks);
        }
        let version = state.begin(caller, &self.cx);
        let now = self.now();
        let linked = InodeRecord { nlink: record.nlink + 1, ctime: now, changed_in: version, ..(*record).clone() };
        let edits = vec![
            put_record(ino, linked),
            (Key::dirent(dir, name), Some(Value::Dirent(ino, record.kind))),
            (Key::link(ino, dir, name), Some(Value::Link)),
            put_record(dir, changed_dir(&parent, 0, now, version)),
        ];
        state.apply(edits)?;
        self.attr_in(&mut state, ino)
    }

    /// unlink(2).
    pub fn unlink(&self, caller: &Caller, dir: NodeRef, name: &[u8]) -> FsResult<()> {
        self.remove(caller, dir, name, false)
    }

    /// rmdir(2).
    pub fn remove_dir(&self, caller: &Caller, dir: NodeRef, name: &[u8]) -> FsResult<()> {
        self.remove(caller, dir, name, true)
    }

    fn remove(&self, caller: &Caller, dir: NodeRef, name: &[u8], directory: bool) -> FsResult<()> {
        let mut state = self.lock();
        let (dir, parent) = state.dir(dir)?;
        let (ino, record) = state.child(dir, name)?;
        match (record.kind, directory) {
            (FileKind::Directory, false) => return Err(FsError::IsDirectory),
            (FileKind::Directory, true) if state.has_entries(ino)? => return Err(FsError::NotEmpty),
            (FileKind::Directory, true) | (_, false) => {}
            (_, true) => return Err(FsError::NotDirectory),
        }
        state.refresh(&self.cx, ino)?;
        let version = state.begin(caller, &self.cx);
        let now = self.now();
        let mut edits = vec![(Key::dirent(dir, name), None)];
        let lost = state.unname(&self.cx, ino, (dir, name), now, version, &mut edits)?;
        edits.push(put_record(dir, changed_dir(&parent, -i64::from(directory), now, version)));
        state.apply(edits)?;
        state.finish_lost(&self.cx, lost, now)
    }
}

/// An inode that lost its last name, and the state before.
pub(super) struct Lost {
    ino: Ino,
    record: Arc<InodeRecord>,
    before: Option<crate::tree::Tree>,
}

impl State {
    /// Edits that take a name from an inode; the directory's entry and record are the caller's. If it was the last one, the inode goes:
    /// hand what comes back to [`State::finish_lost`] once the edits are applied.
    pub(super) fn unname(
        &mut self,
        cx: &Context,
        ino: Ino,
        (dir, name): (Ino, &[u8]),
        now: Timestamp,
        version: VersionId,
        edits: &mut Vec<Edit>,
    ) -> FsResult<Option<Lost>> {
        let record = self.record(ino)?;
        let snapshot = Snapshot::new(self.tree.clone(), Arc::clone(&cx.store));
        if record.kind != FileKind::Directory && record.nlink > 1 {
            let mut left = InodeRecord { nlink: record.nlink - 1, ctime: now, changed_in: version, ..(*record).clone() };
            if record.parent == dir && *record.name == *name {
                // The next link becomes the inode's own.
                let (parent, name) =
                    snapshot.further_link(ino)?.ok_or_else(|| super::state::damaged(ino, "it has fewer names than links"))?;
                edits.push((Key::link(ino, parent, &name), None));
                (left.parent, left.name) = (parent, name);
            } else {
                edits.push((Key::link(ino, dir, name), None));
            }
            edits.push(put_record(ino, left));
            return Ok(None);
        }
        edits.push((Key::inode(ino), None));
        edits.extend(snapshot.xattrs(ino)?.into_iter().map(|(name, _)| (Key::xattr(ino, &name), None)));
        if record.content == Content::Extents {
            edits.extend(extents::all(&self.tree, ino)?);
        }
        let before = self.files.contains_key(&ino).then(|| self.tree.clone());
        Ok(Some(Lost { ino, record, before }))
    }

    /// What is left to do for an inode that lost its last name: an open file lives on as an orphan, the bytes of others go.
    pub(super) fn finish_lost(&mut self, cx: &Context, lost: Option<Lost>, now: Timestamp) -> FsResult<()> {
        let Some(Lost { ino, record, before }) = lost else { return Ok(()) };
        let object = match record.content {
            Content::Object(object) => Some(object),
            _ => None,
        };
        let overlay = self.overlay(ino);
        if let Some(mut tree) = before {
            let orphaned = InodeRecord { nlink: 0, ctime: now, ..(*record).clone() };
            tree.insert(Key::inode(ino), Value::Inode(Arc::new(orphaned)))?;
            let mut pending = std::collections::HashMap::new();
            for object in object.into_iter().chain(overlay) {
                if let Some(open) = &mut self.open
                    && let Some(mine) = open.pending.remove(&object)
                {
                    open.journal.forget_object(object);
                    pending.insert(object, mine);
                }
            }
            self.set_overlay(ino, None);
            self.orphans.insert(ino, Orphan { tree, pending, overlay });
            return Ok(());
        }
        for object in object.into_iter().chain(overlay) {
            self.drop_object(cx, ino, object);
        }
        self.set_overlay(ino, None);
        self.remember_removed(ino, &record, now);
        Ok(())
    }
}

/// A directory's record after an entry came or went, with so many subdirectories more.
pub(super) fn changed_dir(record: &InodeRecord, subdirs: i64, now: Timestamp, version: VersionId) -> InodeRecord {
    let nlink = u32::try_from(i64::from(record.nlink) + subdirs).unwrap_or(record.nlink);
    InodeRecord { nlink, mtime: now, ctime: now, changed_in: version, ..record.clone() }
}

/// A name that an entry may have.
pub(super) fn check_name(name: &[u8]) -> FsResult<()> {
    match name {
        b"" => Err(FsError::NotFound),
        b"." | b".." => Err(FsError::Exists),
        name if name.len() > MAX_NAME => Err(FsError::NameTooLong),
        name if name.iter().any(|byte| matches!(byte, b'/' | 0)) => Err(FsError::Invalid),
        _ => Ok(()),
    }
}
