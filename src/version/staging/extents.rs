//! Edits of a file's extents: what a write into a file of extents, a hole or a shorter length does to them.

use super::state::Edit;
use crate::ids::{Ino, ObjectId};
use crate::tree::key::{Extent, Key, Part, Value};
use crate::tree::{Snapshot, Tree};
use crate::version::error::FsResult;

/// The edit that makes an object's first `len` bytes the file's.
pub(super) fn single(ino: Ino, len: u64, object: ObjectId) -> Option<Edit> {
    (len > 0).then(|| (Key::extent(ino, 0), Some(Value::Extent(Extent { len, object, start: 0 }))))
}

/// Edits that remove all extents.
pub(super) fn all(tree: &Tree, ino: Ino) -> FsResult<Vec<Edit>> {
    let mut edits = Vec::new();
    for entry in tree.range(&Key::extent(ino, 0), &Key::inode(ino.next())) {
        edits.push((entry?.0, None));
    }
    Ok(edits)
}

/// Edits after which `from..to` comes from the same place in `object`, or is a hole if there is none. `earlier` are edits of this file's
/// extents that the tree does not have yet.
pub(super) fn replace(
    snapshot: &Snapshot,
    ino: Ino,
    from: u64,
    to: u64,
    object: Option<ObjectId>,
    earlier: &[Edit],
) -> FsResult<Vec<Edit>> {
    let piece = object.filter(|_| from < to).map(|object| (from, Extent { len: to - from, object, start: from }));
    put(snapshot, ino, from, to, piece.into_iter().collect(), earlier)
}

/// Edits after which `from..to` is these pieces, which lie in it, and holes between them.
pub(super) fn put(snapshot: &Snapshot, ino: Ino, from: u64, to: u64, pieces: Vec<(u64, Extent)>, earlier: &[Edit]) -> FsResult<Vec<Edit>> {
    // One byte more on each side, to see the neighbours that may join.
    let window = (from.saturating_sub(1), to.saturating_add(1));
    let old: Vec<(u64, Extent)> = match earlier {
        [] => snapshot.extents_in(ino, window.0, window.1)?,
        edits => edits.iter().filter_map(as_extent).filter(|(at, extent)| *at < window.1 && at + extent.len > window.0).collect(),
    };
    let mut new: Vec<(u64, Extent)> = Vec::with_capacity(old.len() + 2);
    for (at, extent) in &old {
        let end = at + extent.len;
        if *at < from {
            new.push((*at, Extent { len: end.min(from) - at, ..extent.clone() }));
        }
        if end > to {
            let at = (*at).max(to);
            let skipped = extent.len - (end - at);
            new.push((at, Extent { len: end - at, start: extent.start + skipped, object: extent.object }));
        }
    }
    new.extend(pieces);
    new.sort_unstable_by_key(|(at, _)| *at);
    let new = join(new);
    let mut edits: Vec<Edit> =
        old.iter().filter(|(at, _)| !new.iter().any(|(other, _)| other == at)).map(|(at, _)| (Key::extent(ino, *at), None)).collect();
    edits.extend(
        new.into_iter().filter(|extent| !old.contains(extent)).map(|(at, extent)| (Key::extent(ino, at), Some(Value::Extent(extent)))),
    );
    Ok(edits)
}

/// Joins neighbours that continue each other in the same object.
fn join(extents: Vec<(u64, Extent)>) -> Vec<(u64, Extent)> {
    let mut joined: Vec<(u64, Extent)> = Vec::with_capacity(extents.len());
    for (at, extent) in extents {
        match joined.last_mut() {
            Some((before, last)) if *before + last.len == at && last.object == extent.object && last.start + last.len == extent.start => {
                last.len += extent.len;
            }
            _ => joined.push((at, extent)),
        }
    }
    joined
}

fn as_extent(edit: &Edit) -> Option<(u64, Extent)> {
    match edit {
        (Key { part: Part::Extent(at), .. }, Some(Value::Extent(extent))) => Some((*at, extent.clone())),
        _ => None,
    }
}
