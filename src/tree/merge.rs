//! Carrying changes over: three-way merge of states.

use super::key::{Key, Value};
use super::{Snapshot, Tree, TreeError};
use crate::ids::Ino;

/// What became of a merge.
#[derive(Debug)]
pub enum Merge {
    /// The changes do not overlap.
    Clean {
        /// `theirs` with the changes carried over.
        tree: Tree,
        /// The same as edits to `theirs`, in the order of their keys. Records keep the `changed_in` that they had in `ours`.
        edits: Vec<(Key, Option<Value>)>,
    },
    /// They do.
    Conflict {
        /// The paths that both changed, sorted, each once.
        paths: Vec<Vec<u8>>,
    },
}

/// Carries what `ours` changed on top of `base` (rejected) over onto `theirs` (the last valid state, below `base`).
pub fn merge(_base: &Snapshot, _theirs: &Snapshot, _ours: &Snapshot) -> Result<Merge, TreeError> {
    Err(TreeError::inode(Ino::ROOT, "merge is not written yet"))
}
