//! One inode: its bytes, its mode and its attributes.

use std::collections::BTreeMap;

use super::acl::{self, Acl};
use super::{CAPABILITY, Fallocate, Kind, Name, Op, Time};

pub(super) type Id = usize;

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) perm: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) names: u32,
    pub(super) data: Vec<u8>,
    pub(super) entries: BTreeMap<Name, Id>,
    pub(super) parent: Id,
    pub(super) xattrs: BTreeMap<Name, Vec<u8>>,
    pub(super) atime: Option<Time>,
    pub(super) mtime: Option<Time>,
}

impl Node {
    pub(super) fn new(kind: Kind, perm: u16, uid: u32, gid: u32, parent: Id) -> Self {
        let (data, entries, xattrs) = Default::default();
        Self { kind, perm, uid, gid, names: 0, data, entries, parent, xattrs, atime: None, mtime: None }
    }

    /// What a change of bytes or owner takes away, if `uid` makes it, who is in no group but that of the same number.
    pub(super) fn drop_set_id(&mut self, uid: u32) {
        self.perm &= !0o4000;
        if self.perm & 0o010 != 0 || (uid != 0 && uid != self.gid) {
            self.perm &= !0o2000;
        }
    }

    pub(super) fn drop_privileges(&mut self, uid: u32) {
        self.xattrs.remove(CAPABILITY);
        if uid != 0 {
            self.drop_set_id(uid);
        }
    }

    pub(super) fn may_have(&self, name: &[u8]) -> Result<(), i32> {
        match self.kind {
            Kind::File | Kind::Dir => Ok(()),
            _ if name.starts_with(b"user.") => Err(libc::EPERM),
            _ => Ok(()),
        }
    }

    pub(super) fn list(&self, name: &[u8]) -> Option<Acl> {
        self.xattrs.get(name).map(|bytes| Acl::from_bytes(bytes))
    }

    pub(super) fn chmod(&mut self, perm: u16) {
        self.perm = perm;
        if let Some(list) = self.list(acl::ACCESS) {
            self.xattrs.insert(acl::ACCESS.to_vec(), list.chmod(perm).to_bytes());
        }
    }

    pub(super) fn set_list(&mut self, default: bool, list: Option<Acl>) -> Result<(), i32> {
        if self.kind == Kind::Symlink {
            return Err(libc::EOPNOTSUPP);
        }
        let name = if default { acl::DEFAULT } else { acl::ACCESS };
        let Some(list) = list else {
            self.xattrs.remove(name);
            return Ok(());
        };
        if default && self.kind != Kind::Dir {
            return Err(libc::EACCES);
        }
        if !default {
            self.perm = self.perm & !0o777 | list.mode();
        }
        if default || !list.is_mode() {
            self.xattrs.insert(name.to_vec(), list.to_bytes());
        } else {
            self.xattrs.remove(name);
        }
        Ok(())
    }

    /// What a new inode has from the default list of its directory; else the umask cuts its mode.
    pub(super) fn inherit(&mut self, default: Option<Acl>, umask: u16) {
        let Some(default) = default.filter(|_| self.kind != Kind::Symlink) else {
            if self.kind != Kind::Symlink {
                self.perm &= !umask;
            }
            return;
        };
        let list = default.inherited(self.perm);
        self.perm = self.perm & !0o777 | list.mode();
        if !list.is_mode() {
            self.xattrs.insert(acl::ACCESS.to_vec(), list.to_bytes());
        }
        if self.kind == Kind::Dir {
            self.xattrs.insert(acl::DEFAULT.to_vec(), default.to_bytes());
        }
    }

    /// An operation on attributes.
    pub(super) fn set(&mut self, op: &Op) -> Result<(), i32> {
        match op {
            Op::Chmod { .. } if self.kind == Kind::Symlink => return Err(libc::EOPNOTSUPP),
            Op::Chmod { mode, .. } => self.chmod(*mode),
            Op::Chown { uid, gid, .. } => {
                if self.kind != Kind::Dir {
                    self.xattrs.remove(CAPABILITY);
                    // Root keeps set-group-id where nobody runs the file as its group.
                    self.drop_set_id(0);
                }
                (self.uid, self.gid) = (*uid, *gid);
            }
            Op::Truncate { size, uid, .. } => match self.kind {
                Kind::Dir => return Err(libc::EISDIR),
                Kind::File => self.resize(*size, *uid),
                _ => return Err(libc::EINVAL),
            },
            Op::Times { atime, mtime, .. } => {
                self.atime = atime.or(self.atime);
                self.mtime = mtime.or(self.mtime);
            }
            Op::SetXattr { name, value, create, replace, .. } => {
                self.may_have(name)?;
                match self.xattrs.contains_key(name) {
                    true if *create => return Err(libc::EEXIST),
                    false if *replace => return Err(libc::ENODATA),
                    _ => drop(self.xattrs.insert(name.clone(), value.clone())),
                }
            }
            Op::RemoveXattr { name, .. } => {
                self.may_have(name)?;
                self.xattrs.remove(name).ok_or(libc::ENODATA)?;
            }
            Op::SetAcl { default, acl, .. } => self.set_list(*default, *acl)?,
            _ => unreachable!("{op:?}"),
        }
        Ok(())
    }

    pub(super) fn changed(&mut self, uid: u32) {
        self.mtime = None;
        self.drop_privileges(uid);
    }

    pub(super) fn write(&mut self, offset: usize, data: &[u8], uid: u32) {
        if data.is_empty() {
            return;
        }
        let end = offset + data.len();
        if self.data.len() < end {
            self.data.resize(end, 0);
        }
        self.data[offset..end].copy_from_slice(data);
        self.changed(uid);
    }

    pub(super) fn resize(&mut self, size: u64, uid: u32) {
        self.drop_privileges(uid);
        if size as usize != self.data.len() {
            self.data.resize(size as usize, 0);
            self.mtime = None;
        }
    }

    pub(super) fn fallocate(&mut self, how: Fallocate, offset: usize, len: usize, uid: u32) -> Result<(), i32> {
        let end = offset + len;
        if matches!(how, Fallocate::Collapse | Fallocate::Insert) {
            return Err(libc::EOPNOTSUPP);
        }
        if matches!(how, Fallocate::Extend | Fallocate::Zero) && end > self.data.len() {
            self.data.resize(end, 0);
        }
        if matches!(how, Fallocate::Punch | Fallocate::Zero | Fallocate::ZeroKeepSize) {
            let (from, to) = (offset.min(self.data.len()), end.min(self.data.len()));
            self.data[from..to].fill(0);
        }
        self.changed(uid);
        Ok(())
    }
}
