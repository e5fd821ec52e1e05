//! What each operation does.

use super::node::Id;
use super::state::{Model, Slot};
use super::{Answer, Kind, Name, Op, OpenHow, Outcome, Path, Rename, bytes};

impl Model {
    pub fn apply(&mut self, op: &Op) -> Answer {
        match op {
            Op::Create { path, mode, slot, uid, exclusive } => return self.create(path, *mode, *slot, *uid, *exclusive),
            Op::Mkdir { path, mode, uid } => drop(self.make(path, Kind::Dir, *mode, *uid)?),
            Op::Mknod { path, kind, mode } => drop(self.make(path, *kind, *mode, 0)?),
            Op::Symlink { path, target } => {
                let id = self.make(path, Kind::Symlink, 0, 0)?;
                self.node_mut(id).data.clone_from(target);
            }
            Op::Link { from, to } => return self.link(from, to),
            Op::Unlink { path } => return self.remove(path, false),
            Op::Rmdir { path } => return self.remove(path, true),
            Op::Rename { from, to, how } => return self.rename(from, to, *how),
            Op::List { path } => {
                let id = self.find(path)?;
                let node = &self.nodes[&id];
                if node.kind != Kind::Dir {
                    return Err(libc::ENOTDIR);
                }
                return Ok(Outcome::Names(node.entries.keys().cloned().collect()));
            }
            Op::Chmod { path, .. }
            | Op::Chown { path, .. }
            | Op::Truncate { path, .. }
            | Op::Times { path, .. }
            | Op::SetXattr { path, .. }
            | Op::RemoveXattr { path, .. }
            | Op::SetAcl { path, .. } => {
                let id = self.find(path)?;
                self.node_mut(id).set(op)?;
            }
            _ => return self.apply_to_slot(op),
        }
        Ok(Outcome::Done)
    }

    fn create(&mut self, path: &Path, mode: u32, slot: usize, uid: u32, exclusive: bool) -> Answer {
        if !exclusive && self.find(path).is_ok() {
            return self.open(path, slot, OpenHow { write: true, ..OpenHow::default() });
        }
        let id = self.make(path, Kind::File, mode, uid)?;
        self.put(slot, Slot { id, write: true, append: false });
        Ok(Outcome::Done)
    }

    fn open(&mut self, path: &Path, slot: usize, how: OpenHow) -> Answer {
        let id = self.find(path)?;
        let node = self.node_mut(id);
        match node.kind {
            Kind::File => {}
            Kind::Dir => return Err(libc::EISDIR),
            Kind::Symlink => return Err(libc::ELOOP),
            Kind::Fifo | Kind::Socket | Kind::Device => return Err(libc::EINVAL),
        }
        if how.truncate && how.write {
            node.data.clear();
            node.changed(0);
        }
        self.put(slot, Slot { id, write: how.write, append: how.write && how.append });
        Ok(Outcome::Done)
    }

    fn apply_to_slot(&mut self, op: &Op) -> Answer {
        match *op {
            Op::Open { ref path, slot, how } => return self.open(path, slot, how),
            Op::Close { slot } => {
                self.opened(slot)?;
                self.close(slot);
            }
            Op::Read { slot, offset, len } => {
                let data = &self.nodes[&self.opened(slot)?.id].data;
                let from = (offset as usize).min(data.len());
                return Ok(Outcome::Bytes(data[from..(from + len).min(data.len())].to_vec()));
            }
            Op::ReadMap { slot, .. } => return Ok(Outcome::Bytes(self.nodes[&self.opened(slot)?.id].data.clone())),
            Op::Sparse { slot, offset } => {
                let data = &self.nodes[&self.opened(slot)?.id].data;
                let rest = data.get(offset as usize..).filter(|rest| !rest.is_empty());
                return rest.map(|rest| Outcome::Bytes(rest.to_vec())).ok_or(libc::ENXIO);
            }
            Op::Write { slot, offset, len, seed, uid } => {
                let slot = self.writable(slot)?;
                let node = self.node_mut(slot.id);
                let offset = if slot.append { node.data.len() } else { offset as usize };
                node.write(offset, &bytes(seed, len), uid);
                return Ok(Outcome::Count(len as u64));
            }
            Op::Map { slot, offset, len, seed, shared } => {
                let slot = self.opened(slot)?;
                if shared && !slot.write {
                    return Err(libc::EACCES);
                }
                let node = self.node_mut(slot.id);
                let len = len.min(node.data.len().saturating_sub(offset as usize));
                if shared {
                    node.write(offset as usize, &bytes(seed, len), 0);
                }
                return Ok(Outcome::Count(len as u64));
            }
            Op::Resize { slot, size, uid } => {
                let slot = self.writable(slot)?;
                let node = self.node_mut(slot.id);
                node.resize(size, uid);
                // ftruncate(2) is a change also where the length stays.
                node.mtime = None;
            }
            Op::Fallocate { slot, how, offset, len, uid } => {
                let slot = self.writable(slot)?;
                self.node_mut(slot.id).fallocate(how, offset as usize, len as usize, uid)?;
            }
            Op::Copy { from, offset, to, to_offset, len } => {
                let (from, to) = (self.opened(from)?, self.writable(to)?);
                if to.append {
                    return Err(libc::EBADF);
                }
                let data = &self.nodes[&from.id].data;
                let start = (offset as usize).min(data.len());
                let data = data[start..(start + len as usize).min(data.len())].to_vec();
                let len = data.len() as u64;
                if from.id == to.id && offset < to_offset + len && to_offset < offset + len {
                    return Err(libc::EINVAL);
                }
                self.node_mut(to.id).write(to_offset as usize, &data, 0);
                return Ok(Outcome::Count(len));
            }
            Op::Fsync { slot } => drop(self.opened(slot)?),
            Op::Lock { slot, lock } => {
                let opened = self.opened(slot)?;
                self.locks.claim(slot, opened.id, opened.write, lock)?;
            }
            _ => unreachable!("{op:?}"),
        }
        Ok(Outcome::Done)
    }

    fn link(&mut self, from: &Path, to: &Path) -> Answer {
        let id = self.find(from)?;
        let (dir, name) = self.split(to)?;
        if self.nodes[&dir].entries.contains_key(name) {
            return Err(libc::EEXIST);
        }
        if self.nodes[&id].kind == Kind::Dir {
            return Err(libc::EPERM);
        }
        self.node_mut(id).names += 1;
        let dir = self.node_mut(dir);
        dir.entries.insert(name.clone(), id);
        dir.mtime = None;
        Ok(Outcome::Done)
    }

    fn remove(&mut self, path: &Path, directory: bool) -> Answer {
        let (dir, name) = self.split(path)?;
        let id = *self.nodes[&dir].entries.get(name).ok_or(libc::ENOENT)?;
        match (self.nodes[&id].kind, directory) {
            (Kind::Dir, false) => return Err(libc::EISDIR),
            (Kind::Dir, true) if !self.nodes[&id].entries.is_empty() => return Err(libc::ENOTEMPTY),
            (Kind::Dir, true) | (_, false) => {}
            (_, true) => return Err(libc::ENOTDIR),
        }
        self.take_name(dir, name);
        Ok(Outcome::Done)
    }

    fn rename(&mut self, from: &Path, to: &Path, how: Rename) -> Answer {
        let (dir, name) = self.split(from)?;
        let (new_dir, new_name) = self.split(to)?;
        let id = *self.nodes[&dir].entries.get(name).ok_or(libc::ENOENT)?;
        let there = self.nodes[&new_dir].entries.get(new_name).copied();
        let is_dir = |id: Id| self.nodes[&id].kind == Kind::Dir;
        match (how, there) {
            (Rename::NoReplace, Some(_)) => return Err(libc::EEXIST),
            (Rename::Exchange, None) => return Err(libc::ENOENT),
            _ => {}
        }
        if is_dir(id) && self.is_below(new_dir, id) {
            return Err(libc::EINVAL);
        }
        if let Some(there) = there.filter(|there| is_dir(*there))
            && self.is_below(dir, there)
        {
            return Err(if how == Rename::Exchange { libc::EINVAL } else { libc::ENOTEMPTY });
        }
        if there == Some(id) {
            return Ok(Outcome::Done);
        }
        if let (Some(there), Rename::Replace) = (there, how) {
            match (is_dir(id), is_dir(there)) {
                (true, false) => return Err(libc::ENOTDIR),
                (false, true) => return Err(libc::EISDIR),
                (true, true) if !self.nodes[&there].entries.is_empty() => return Err(libc::ENOTEMPTY),
                _ => {}
            }
            self.take_name(new_dir, new_name);
        }
        let name = name.clone();
        self.take_name(dir, &name);
        if how == Rename::Exchange {
            let other = self.take_name(new_dir, new_name);
            self.give_name(dir, name, other);
        }
        self.give_name(new_dir, new_name.clone(), id);
        Ok(Outcome::Done)
    }

    fn give_name(&mut self, dir: Id, name: Name, id: Id) {
        let node = self.node_mut(id);
        node.names += 1;
        node.parent = dir;
        let dir = self.node_mut(dir);
        dir.mtime = None;
        dir.entries.insert(name, id);
    }
}
