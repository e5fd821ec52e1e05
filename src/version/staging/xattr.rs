//! Extended attributes, and the access control lists among them.

use super::Staging;
use super::state::{Edit, State, put_record};
use super::types::{Caller, NodeRef, XattrMode};
use crate::ids::Ino;
use crate::tree::key::{FileKind, InodeRecord, Key, Value};
use crate::version::acl::{self, Acl};
use crate::version::error::{FsError, FsResult};

const MAX_NAME: usize = 255;
const MAX_VALUE: usize = 64 << 10;

impl Staging {
    /// getxattr(2).
    pub fn get_xattr(&self, node: NodeRef, name: &[u8]) -> FsResult<Vec<u8>> {
        let state = self.lock();
        let ino = state.ino(node)?;
        let record = state.record(ino)?;
        check_name(name)?;
        if name.starts_with(b"user.") && !may_have_user(record.kind) {
            return Err(FsError::NoData);
        }
        match state.tree_of(ino).get(&Key::xattr(ino, name))? {
            Some(Value::Xattr(value)) => Ok(value.to_vec()),
            _ => Err(FsError::NoData),
        }
    }

    /// listxattr(2): names that the caller may see.
    pub fn list_xattrs(&self, caller: &Caller, node: NodeRef) -> FsResult<Vec<Vec<u8>>> {
        let state = self.lock();
        let ino = state.ino(node)?;
        let _must_be_there = state.record(ino)?;
        let names = self.snapshot_of(&state, ino).xattrs(ino)?;
        drop(state);
        let visible = |name: &[u8]| caller.uid == 0 || !name.starts_with(b"trusted.");
        Ok(names.into_iter().filter(|(name, _)| visible(name)).map(|(name, _)| name.to_vec()).collect())
    }

    /// setxattr(2).
    pub fn set_xattr(&self, caller: &Caller, node: NodeRef, name: &[u8], value: &[u8], mode: XattrMode) -> FsResult<()> {
        let mut state = self.lock();
        let ino = state.ino(node)?;
        state.refresh(&self.cx, ino)?;
        let record = state.record(ino)?;
        check_name(name)?;
        check_kind(name, record.kind)?;
        if value.len() > MAX_VALUE {
            return Err(FsError::TooBig);
        }
        let there = state.tree_of(ino).get(&Key::xattr(ino, name))?.is_some();
        match mode {
            XattrMode::Create if there => return Err(FsError::Exists),
            XattrMode::Replace if !there => return Err(FsError::NoData),
            _ => {}
        }
        let (value, perm) = match name {
            acl::ACCESS => access_list(caller, &record, value)?,
            acl::DEFAULT => (Acl::parse(value).map_err(|_| FsError::Invalid)?.map(|list| list.to_bytes()), record.perm),
            _ => (Some(value.to_vec()), record.perm),
        };
        let edit = (Key::xattr(ino, name), value.map(|value| Value::Xattr(value.into())));
        self.put_xattr(&mut state, caller, ino, InodeRecord { perm, ..(*record).clone() }, edit)
    }

    /// removexattr(2).
    pub fn remove_xattr(&self, caller: &Caller, node: NodeRef, name: &[u8]) -> FsResult<()> {
        let mut state = self.lock();
        let ino = state.ino(node)?;
        state.refresh(&self.cx, ino)?;
        let record = state.record(ino)?;
        check_name(name)?;
        let is_list = name == acl::ACCESS || name == acl::DEFAULT;
        if !is_list || record.kind == FileKind::Symlink {
            check_kind(name, record.kind)?;
        }
        let key = Key::xattr(ino, name);
        if state.tree_of(ino).get(&key)?.is_none() {
            // A list that is not there is gone already, as on ext4.
            return if is_list { Ok(()) } else { Err(FsError::NoData) };
        }
        self.put_xattr(&mut state, caller, ino, (*record).clone(), (key, None))
    }

    fn put_xattr(&self, state: &mut State, caller: &Caller, ino: Ino, mut record: InodeRecord, edit: Edit) -> FsResult<()> {
        record.changed_in = if state.orphans.contains_key(&ino) { record.changed_in } else { state.begin(caller, &self.cx) };
        record.ctime = self.now();
        state.apply(vec![edit, put_record(ino, record)])
    }
}

/// What is stored for an access list, and the permission bits that go with it. A list that the bits say wholly is not stored.
fn access_list(caller: &Caller, record: &InodeRecord, value: &[u8]) -> FsResult<(Option<Vec<u8>>, u16)> {
    let Some(list) = Acl::parse(value).map_err(|_| FsError::Invalid)? else { return Ok((None, record.perm)) };
    let (mode, whole) = list.mode();
    let mut perm = record.perm & !0o777 | mode;
    if !caller.is_in(record.gid) {
        // As chmod(2): who is not in the group can't keep the bit.
        perm &= !0o2000;
    }
    Ok(((!whole).then(|| list.to_bytes()), perm))
}

const fn may_have_user(kind: FileKind) -> bool {
    matches!(kind, FileKind::Regular | FileKind::Directory)
}

/// A namespace that there is, and something after it.
fn check_name(name: &[u8]) -> FsResult<()> {
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(FsError::OutOfRange);
    }
    if name == acl::ACCESS || name == acl::DEFAULT {
        return Ok(());
    }
    let prefixes: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
    match prefixes.into_iter().find_map(|prefix| name.strip_prefix(prefix)) {
        Some(b"") => Err(FsError::Invalid),
        Some(_) => Ok(()),
        None => Err(FsError::NotSupported),
    }
}

/// Which kinds of inodes may have the attribute.
fn check_kind(name: &[u8], kind: FileKind) -> FsResult<()> {
    match name {
        acl::ACCESS if kind == FileKind::Symlink => Err(FsError::NotSupported),
        acl::DEFAULT if kind == FileKind::Symlink => Err(FsError::NotSupported),
        acl::DEFAULT if kind != FileKind::Directory => Err(FsError::AccessDenied),
        name if name.starts_with(b"user.") && !may_have_user(kind) => Err(FsError::NotPermitted),
        _ => Ok(()),
    }
}
