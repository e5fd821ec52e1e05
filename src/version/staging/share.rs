//! Copies that share bytes: the target names the objects that the source names, and nothing is copied.
//!
//! Only objects that no longer change can be shared: those of sealed versions. What the open version wrote itself is copied.

use super::Staging;
use super::extents;
use super::privileges::{drop_capability, without_set_id};
use super::state::{State, put_record};
use super::types::Caller;
use super::working::{CopyUp, FileCell, Work, as_extents, data_len};
use crate::ids::Ino;
use crate::tree::key::{Content, Extent, InodeRecord};
use crate::version::error::FsResult;

/// A range of one file that goes to a place in another. It does not reach past the source's end, and is not empty.
pub(super) struct CopyRange {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) len: u64,
}

impl Staging {
    /// Lets a range of `target` be the bytes of a range of `source`. `false`: they must be copied.
    pub(super) fn share(&self, caller: &Caller, source: &FileCell, target: &FileCell, range: &CopyRange) -> FsResult<bool> {
        let mut work = target.work.write();
        let mut state = self.lock();
        let (from, into) = (state.record(source.ino)?, state.record(target.ino)?);
        let in_passthrough = |ino: &Ino| state.files.get(ino).is_some_and(|file| file.backing.is_some());
        if state.orphans.contains_key(&source.ino) || in_passthrough(&source.ino) || in_passthrough(&target.ino) {
            return Ok(false);
        }
        let whole = range.from == 0 && range.to == 0 && into.size == 0 && range.len == from.size;
        // A piece for every few bytes would cost more than the bytes; the rest of a file goes the way of what came before it.
        let rest = range.from + range.len == from.size && into.content == Content::Extents;
        if !whole && !rest && range.len < self.cx.options.small_file {
            return Ok(false);
        }
        let Some(pieces) = self.sealed_pieces(&state, source.ino, &from, range)? else { return Ok(false) };
        let orphan = state.orphans.contains_key(&target.ino);
        let CopyUp { content, mut edits } = match self.make_extents(&mut state, target.ino, &mut work, &into)? {
            Some(up) => up,
            None => return Ok(false),
        };
        let version = if orphan { into.changed_in } else { state.begin(caller, &self.cx) };
        let snapshot = self.snapshot_of(&state, target.ino);
        let content = match from.content {
            Content::Object(object) if whole => Content::Object(object),
            _ => {
                // What is there in the tree is replaced; what goes with these edits is gone already.
                let more = extents::put(&snapshot, target.ino, range.to, range.to + range.len, pieces, &edits)?;
                edits.extend(more);
                content.unwrap_or(Content::Extents)
            }
        };
        edits.extend(drop_capability(&snapshot, target.ino)?);
        let now = self.now();
        let perm = if caller.uid == 0 { into.perm } else { without_set_id(&into, caller) };
        let size = into.size.max(range.to + range.len);
        let record = InodeRecord { size, content, mtime: now, ctime: now, perm, changed_in: version, ..(*into).clone() };
        edits.push(put_record(target.ino, record));
        state.apply(edits)?;
        Ok(true)
    }

    /// Where the range's bytes are, as extents of the target; `None` if one of the objects may still change.
    fn sealed_pieces(&self, state: &State, ino: Ino, record: &InodeRecord, range: &CopyRange) -> FsResult<Option<Vec<(u64, Extent)>>> {
        let snapshot = self.snapshot_of(state, ino);
        let end = range.from + range.len;
        let extents = match record.content {
            Content::Object(object) => vec![(0, Extent { len: data_len(&snapshot, record)?, object, start: 0 })],
            Content::Extents => snapshot.extents_in(ino, range.from, end)?,
            Content::None | Content::Inline(_) => return Ok(None),
        };
        if extents.iter().any(|(_, extent)| state.pending(ino, extent.object).is_some()) {
            return Ok(None);
        }
        let cut = |(at, extent): (u64, Extent)| {
            let (first, last) = (at.max(range.from), (at + extent.len).min(end));
            let piece =
                |first| (range.to + (first - range.from), Extent { len: last - first, start: extent.start + (first - at), ..extent });
            (first < last).then_some(first).map(piece)
        };
        Ok(Some(extents.into_iter().filter_map(cut).collect()))
    }

    /// Makes the target a file of extents, which is constant time; `None` where its bytes are on their way elsewhere.
    fn make_extents(&self, state: &mut State, ino: Ino, work: &mut Work, record: &InodeRecord) -> FsResult<Option<CopyUp>> {
        if record.size == 0 {
            *work = Work::Stored;
            if let Content::Object(old) = record.content {
                state.drop_object(&self.cx, ino, old);
            }
            let edits = state.drop_extents(&self.cx, ino)?;
            return Ok(Some(CopyUp { content: Some(Content::Extents), edits }));
        }
        Ok(match (&*work, &record.content) {
            (Work::Stored, Content::Object(object)) if state.pending(ino, *object).is_none() => {
                let held = data_len(&self.snapshot_of(state, ino), record)?;
                Some(as_extents(ino, record, held))
            }
            (Work::Stored, Content::None) => Some(as_extents(ino, record, 0)),
            (Work::Stored, Content::Extents) => Some(CopyUp::default()),
            (Work::Host(host), Content::Extents) if !host.whole => Some(CopyUp::default()),
            _ => None,
        })
    }
}
