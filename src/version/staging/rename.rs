//! rename(2) in its three forms.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Staging;
use super::namespace::check_name;
use super::state::{Edit, State, put_record};
use super::types::{Caller, NodeRef, RenameMode};
use crate::clock::Timestamp;
use crate::ids::{Ino, VersionId};
use crate::tree::key::{FileKind, InodeRecord, Key, Value};
use crate::version::error::{FsError, FsResult};

/// No path can be deeper: a walk to the root that takes longer runs in a circle.
const MAX_DEPTH: usize = 1 << 16;

/// One side of a rename: a name, and what it leads to.
struct Place<'a> {
    dir: Ino,
    name: &'a [u8],
    ino: Ino,
    record: Arc<InodeRecord>,
}

impl Place<'_> {
    fn is_dir(&self) -> bool {
        self.record.kind == FileKind::Directory
    }
}

/// Records that one rename changes, some of them more than once.
#[derive(Default)]
struct Records(BTreeMap<Ino, InodeRecord>);

impl Records {
    fn get(&mut self, ino: Ino, record: &InodeRecord) -> &mut InodeRecord {
        self.0.entry(ino).or_insert_with(|| record.clone())
    }

    fn into_edits(self, now: Timestamp, version: VersionId) -> impl Iterator<Item = Edit> {
        self.0.into_iter().map(move |(ino, record)| put_record(ino, InodeRecord { ctime: now, changed_in: version, ..record }))
    }
}

impl Staging {
    /// renameat2(2).
    pub fn rename(&self, caller: &Caller, dir: NodeRef, name: &[u8], new_dir: NodeRef, new_name: &[u8], mode: RenameMode) -> FsResult<()> {
        check_name(new_name)?;
        let mut state = self.lock();
        let (dir, _) = state.dir(dir)?;
        let (new_dir, _) = state.dir(new_dir)?;
        let (ino, _) = state.child(dir, name)?;
        state.refresh(&self.cx, ino)?;
        let from = Place { dir, name, ino, record: state.record(ino)? };
        let to = match state.entry(new_dir, new_name)? {
            Some((ino, _)) => {
                state.refresh(&self.cx, ino)?;
                Some(Place { dir: new_dir, name: new_name, ino, record: state.record(ino)? })
            }
            None => None,
        };
        // In the kernel's order.
        match (mode, &to) {
            (RenameMode::NoReplace, Some(_)) => return Err(FsError::Exists),
            (RenameMode::Exchange, None) => return Err(FsError::NotFound),
            _ => {}
        }
        if from.is_dir() && state.is_below(new_dir, from.ino)? {
            return Err(FsError::Invalid);
        }
        if let Some(to) = to.as_ref().filter(|to| to.is_dir())
            && state.is_below(dir, to.ino)?
        {
            return Err(if mode == RenameMode::Exchange { FsError::Invalid } else { FsError::NotEmpty });
        }
        match (mode, to) {
            (_, Some(to)) if to.ino == from.ino => Ok(()),
            (RenameMode::Exchange, Some(to)) => self.exchange(&mut state, caller, &from, &to),
            (_, to) => self.replace(&mut state, caller, &from, to, new_dir, new_name),
        }
    }

    fn exchange(&self, state: &mut State, caller: &Caller, from: &Place<'_>, to: &Place<'_>) -> FsResult<()> {
        let version = state.begin(caller, &self.cx);
        let now = self.now();
        let mut records = Records::default();
        let mut edits = vec![
            (Key::dirent(from.dir, from.name), Some(Value::Dirent(to.ino, to.record.kind))),
            (Key::dirent(to.dir, to.name), Some(Value::Dirent(from.ino, from.record.kind))),
        ];
        edits.extend(relink(&mut records, from, to.dir, to.name));
        edits.extend(relink(&mut records, to, from.dir, from.name));
        let moved = i64::from(from.is_dir()) - i64::from(to.is_dir());
        state.change_dirs(&mut records, from.dir, -moved, to.dir, moved, now)?;
        edits.extend(records.into_edits(now, version));
        state.apply(edits)
    }

    fn replace(
        &self,
        state: &mut State,
        caller: &Caller,
        from: &Place<'_>,
        to: Option<Place<'_>>,
        new_dir: Ino,
        new_name: &[u8],
    ) -> FsResult<()> {
        if let Some(to) = &to {
            match (from.is_dir(), to.is_dir()) {
                (true, false) => return Err(FsError::NotDirectory),
                (false, true) => return Err(FsError::IsDirectory),
                (true, true) if state.has_entries(to.ino)? => return Err(FsError::NotEmpty),
                _ => {}
            }
        }
        let version = state.begin(caller, &self.cx);
        let now = self.now();
        let mut records = Records::default();
        let mut edits: Vec<Edit> = vec![
            (Key::dirent(from.dir, from.name), None),
            (Key::dirent(new_dir, new_name), Some(Value::Dirent(from.ino, from.record.kind))),
        ];
        let lost = match &to {
            Some(to) => state.unname(&self.cx, to.ino, (new_dir, new_name), now, version, &mut edits)?,
            None => None,
        };
        edits.extend(relink(&mut records, from, new_dir, new_name));
        let replaced = i64::from(to.as_ref().is_some_and(Place::is_dir));
        let moved = i64::from(from.is_dir());
        state.change_dirs(&mut records, from.dir, -moved, new_dir, moved - replaced, now)?;
        edits.extend(records.into_edits(now, version));
        state.apply(edits)?;
        state.finish_lost(&self.cx, lost, now)
    }
}

/// Gives a moved inode its new name: in its record if the old one was its own, else among its further links.
fn relink(records: &mut Records, place: &Place<'_>, new_dir: Ino, new_name: &[u8]) -> Vec<Edit> {
    let record = records.get(place.ino, &place.record);
    if place.record.parent == place.dir && *place.record.name == *place.name {
        record.parent = new_dir;
        record.name = new_name.into();
        return Vec::new();
    }
    vec![(Key::link(place.ino, place.dir, place.name), None), (Key::link(place.ino, new_dir, new_name), Some(Value::Link))]
}

impl State {
    /// Whether `dir` is `above` or lies somewhere in it.
    fn is_below(&self, dir: Ino, above: Ino) -> FsResult<bool> {
        let mut at = dir;
        for _ in 0..MAX_DEPTH {
            if at == above {
                return Ok(true);
            }
            if at == Ino::ROOT {
                return Ok(false);
            }
            at = self.record(at)?.parent;
        }
        Err(super::state::damaged(dir, "its parents run in a circle"))
    }

    /// Both directories of a rename: times, and how many subdirectories each has more.
    fn change_dirs(&self, records: &mut Records, from: Ino, more: i64, to: Ino, more_there: i64, now: Timestamp) -> FsResult<()> {
        for (dir, more) in [(from, more), (to, more_there)] {
            let record = self.record(dir)?;
            let record = records.get(dir, &record);
            record.nlink = u32::try_from(i64::from(record.nlink) + more).unwrap_or(record.nlink);
            record.mtime = now;
        }
        Ok(())
    }
}
