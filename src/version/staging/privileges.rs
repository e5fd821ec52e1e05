//! What a file loses when its bytes or its owner change: set-id bits and capabilities.

use super::Staging;
use super::state::{Edit, State, put_record};
use super::types::Caller;
use crate::ids::Ino;
use crate::tree::Snapshot;
use crate::tree::key::{FileKind, InodeRecord, Key};
use crate::version::error::FsResult;

/// Where a program's capabilities are.
pub(super) const CAPABILITY: &[u8] = b"security.capability";

impl Caller {
    /// Whether the caller is in a group, or root, who may do as if. The kernel tells a process's first group; the others are asked of it.
    pub(super) fn is_in(&self, gid: u32) -> bool {
        self.uid == 0 || self.gid == gid || (self.pid != 0 && groups_of(self.pid).contains(&gid))
    }
}

/// The supplementary groups of a process; none of one that is gone.
fn groups_of(pid: u32) -> Vec<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    line.split_ascii_whitespace().filter_map(|gid| gid.parse().ok()).collect()
}

/// The bits without set-user-id, and without set-group-id unless nobody runs the file as its group and the caller is in it.
pub(super) fn without_set_id(record: &InodeRecord, caller: &Caller) -> u16 {
    let perm = record.perm & !0o4000;
    let keeps = perm & 0o2010 == 0o2000 && caller.is_in(record.gid);
    if keeps { perm } else { perm & !0o2000 }
}

/// The edit that takes a file's capabilities away: any change of its bytes or owner does.
pub(super) fn drop_capability(snapshot: &Snapshot, ino: Ino) -> FsResult<Option<Edit>> {
    let key = Key::xattr(ino, CAPABILITY);
    Ok(snapshot.tree.get(&key)?.map(|_| (key, None)))
}

impl Staging {
    /// Takes a regular file's capabilities away, and set-id bits if `kill`, though its bytes are still the same.
    pub(super) fn drop_privileges(&self, state: &mut State, caller: &Caller, ino: Ino, kill: bool) -> FsResult<()> {
        let record = state.record(ino)?;
        if record.kind != FileKind::Regular {
            return Ok(());
        }
        let perm = if kill { without_set_id(&record, caller) } else { record.perm };
        let mut edits: Vec<Edit> = drop_capability(&self.snapshot_of(state, ino), ino)?.into_iter().collect();
        if perm == record.perm && edits.is_empty() {
            return Ok(());
        }
        let changed_in = if state.orphans.contains_key(&ino) { record.changed_in } else { state.begin(caller, &self.cx) };
        edits.push(put_record(ino, InodeRecord { perm, ctime: self.now(), changed_in, ..(*record).clone() }));
        state.apply(edits)
    }
}
