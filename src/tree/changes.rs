//! The difference of two states as paths, for people and checks.

use std::sync::Arc;

use super::key::InodeRecord;
use super::{Snapshot, TreeError};
use crate::ids::Ino;

/// How a path differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// Its content differs (its attributes may, too).
    Modified,
    /// It is another kind of file.
    Type,
    /// Only its attributes differ: mode, owner, times, extended attributes.
    Properties,
    /// It is gone.
    Deleted,
}

/// A path that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathChange {
    /// The path, without a leading slash; empty for the root.
    pub path: Vec<u8>,
    /// The inode there (in the newer state, unless it is deleted).
    pub ino: Ino,
    /// How it differs.
    pub kind: ChangeKind,
    /// The record in the older state.
    pub old: Option<Arc<InodeRecord>>,
    /// The record in the newer state.
    pub new: Option<Arc<InodeRecord>>,
}

/// The paths that differ, sorted. New and deleted directories come with all that is in them, a renamed one as both.
pub fn changes(_old: &Snapshot, _new: &Snapshot) -> Result<Vec<PathChange>, TreeError> {
    Err(TreeError::inode(Ino::ROOT, "changes are not written yet"))
}
