//! Walking the source on several threads. Each takes a directory or a handful of files from a common stack, last in first out, so
//! that few directories are open at a time, and sends what it found to the thread that builds the tree.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::Arc;

use crossbeam::channel::Sender;
use parking_lot::{Condvar, Mutex};
use rustix::fs::Statx;

use super::ImportError;
use super::source::{self, Dir};
use crate::ids::Ino;
use crate::store::{SealObject, Store};
use crate::tree::key::{Content, FileKind, Key, Name, Value};

/// Contents up to this go into packs.
const SMALL: u64 = 128 << 10;
/// Files that are read together. Bounds, with the channel, what is in memory and not yet counted.
const HANDFUL: usize = 32;

/// What a job found.
#[derive(Default)]
pub(super) struct Found {
    pub(super) entries: Vec<(Key, Value)>,
    /// Further names of inodes that are found elsewhere.
    pub(super) links: Vec<(Ino, Ino, Name)>,
    pub(super) objects: Vec<SealObject>,
    pub(super) files: u64,
    pub(super) bytes: u64,
}

/// A file to read.
struct Entry {
    name: Name,
    ino: Ino,
    status: Statx,
}

enum Job {
    /// A directory, by its parent and its entry there; no parent: the root.
    Dir(Option<Arc<Dir>>, Name, Ino),
    Files(Arc<Dir>, Vec<Entry>),
}

#[derive(Default)]
struct Jobs {
    stack: Vec<Job>,
    /// Jobs that are being done, and may leave others.
    busy: usize,
    stopped: bool,
}

/// The walk that all threads share.
pub(super) struct Walk<'a> {
    store: &'a Store,
    root: Mutex<Option<Dir>>,
    /// Lock order: neither lock is taken with the other held.
    jobs: Mutex<Jobs>,
    wake: Condvar,
    /// Files with several names, by what they are on the host.
    linked: Mutex<HashMap<(u32, u32, u64), Ino>>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(store: &'a Store, root: Dir) -> Self {
        let first = Job::Dir(None, Name::default(), Ino::ROOT);
        let jobs = Mutex::new(Jobs { stack: vec![first], ..Jobs::default() });
        Self { store, root: Mutex::new(Some(root)), jobs, wake: Condvar::new(), linked: Mutex::default() }
    }

    /// Works until there is nothing left to do, or `stop`.
    pub(super) fn work(&self, results: &Sender<Result<Found, ImportError>>) {
        while let Some(job) = self.take() {
            let found = self.job(job);
            let failed = found.is_err();
            // The receiver is gone only if it gave up.
            let unheard = results.send(found).is_err();
            if failed || unheard {
                self.stop();
            }
            self.done();
        }
    }

    pub(super) fn stop(&self) {
        self.jobs.lock().stopped = true;
        self.wake.notify_all();
    }

    fn take(&self) -> Option<Job> {
        let mut jobs = self.jobs.lock();
        loop {
            if jobs.stopped || (jobs.stack.is_empty() && jobs.busy == 0) {
                return None;
            }
            if let Some(job) = jobs.stack.pop() {
                jobs.busy += 1;
                return Some(job);
            }
            self.wake.wait(&mut jobs);
        }
    }

    fn done(&self) {
        let mut jobs = self.jobs.lock();
        jobs.busy -= 1;
        if jobs.busy == 0 && jobs.stack.is_empty() {
            self.wake.notify_all();
        }
    }

    fn push(&self, jobs: Vec<Job>) {
        self.jobs.lock().stack.extend(jobs);
        self.wake.notify_all();
    }

    fn job(&self, job: Job) -> Result<Found, ImportError> {
        match job {
            Job::Dir(parent, name, ino) => self.dir(parent.as_deref(), name, ino),
            Job::Files(dir, entries) => {
                let mut found = Found::default();
                entries.into_iter().try_for_each(|entry| self.file(&dir, entry, &mut found))?;
                Ok(found)
            }
        }
    }

    /// Lists a directory: its record, its names, jobs for what is in it.
    fn dir(&self, parent: Option<&Dir>, name: Name, ino: Ino) -> Result<Found, ImportError> {
        let dir = match parent {
            Some(parent) => parent.open_below(&name, ino)?,
            None => match self.root.lock().take() {
                Some(root) => root,
                None => return Ok(Found::default()),
            },
        };
        let before = dir.status()?;
        let names = dir.names()?;
        let mut record = source::record(&before, parent.map_or(Ino::ROOT, |parent| parent.ino), name);
        let mut found = Found::default();
        let (mut subdirs, mut files) = (Vec::new(), Vec::new());
        let dir = Arc::new(dir);
        for name in names {
            let status = dir.status_of(&name)?;
            let kind = source::kind_of(&status);
            let (below, is_new) = self.number(&status, kind);
            found.entries.push((Key::dirent(ino, &name), Value::Dirent(below, kind)));
            found.files += 1;
            if kind == FileKind::Directory {
                record.nlink += 1;
                subdirs.push(Job::Dir(Some(Arc::clone(&dir)), name, below));
            } else if is_new {
                files.push(Entry { name, ino: below, status });
            } else {
                found.links.push((below, ino, name));
            }
        }
        if !source::is_unchanged(&before, &dir.status()?) {
            return Err(ImportError::Changed { path: dir.path.clone() });
        }
        let xattrs = dir.xattrs(b"")?;
        found.entries.extend(xattrs.into_iter().map(|(name, value)| (Key::xattr(ino, &name), Value::Xattr(value))));
        found.entries.push((Key::inode(ino), Value::Inode(Arc::new(record))));
        let mut left = files.into_iter();
        let handfuls = std::iter::from_fn(|| Some(left.by_ref().take(HANDFUL).collect::<Vec<_>>()).filter(|some| !some.is_empty()));
        // Files on top: they are read before the next directory is opened.
        subdirs.extend(handfuls.map(|entries| Job::Files(Arc::clone(&dir), entries)));
        self.push(subdirs);
        Ok(found)
    }

    /// The inode number of an entry, and whether it is the first name of it that was met.
    fn number(&self, status: &Statx, kind: FileKind) -> (Ino, bool) {
        if kind == FileKind::Directory || status.stx_nlink < 2 {
            return (self.store.ids().ino(), true);
        }
        let mut linked = self.linked.lock();
        match linked.get(&source::identity(status)) {
            Some(ino) => (*ino, false),
            None => {
                let ino = self.store.ids().ino();
                linked.insert(source::identity(status), ino);
                (ino, true)
            }
        }
    }

    fn file(&self, dir: &Dir, entry: Entry, found: &mut Found) -> Result<(), ImportError> {
        let Entry { name, ino, status } = entry;
        let mut record = source::record(&status, dir.ino, Arc::clone(&name));
        match record.kind {
            FileKind::Symlink => {
                let target = dir.read_link(&name)?;
                record.size = target.len() as u64;
                record.content = Content::Inline(target);
            }
            FileKind::Regular if record.size > 0 => {
                record.content = self.content(dir, &name, &status, found)?;
                found.bytes += record.size;
            }
            _ => {}
        }
        let xattrs = dir.xattrs(&name)?;
        found.entries.extend(xattrs.into_iter().map(|(name, value)| (Key::xattr(ino, &name), Value::Xattr(value))));
        found.entries.push((Key::inode(ino), Value::Inode(Arc::new(record))));
        Ok(())
    }

    /// Reads or copies a regular file.
    fn content(&self, dir: &Dir, name: &[u8], status: &Statx, found: &mut Found) -> Result<Content, ImportError> {
        let file = dir.open_file(name)?;
        let host = |what: &'static str| move |source: io::Error| ImportError::Source { path: dir.below(name), what, source };
        let content = if source::is_one_hole(&file, status) {
            Content::None
        } else if status.stx_size <= SMALL {
            let bytes = read_small(&file, status.stx_size).map_err(host("read"))?;
            let object = self.store.ids().object();
            self.store.objects().hold(object, bytes.into());
            found.objects.push(SealObject::Held(object));
            Content::Object(object)
        } else {
            let object = self.store.ids().object();
            let to = self.store.objects().create(object)?;
            source::copy(&file, &to, status.stx_size).map_err(host("copy"))?;
            found.objects.push(SealObject::File(object));
            Content::Object(object)
        };
        let after = source::status_of_open(file.as_fd()).map_err(dir.fail(name, "stat"))?;
        if source::is_unchanged(status, &after) { Ok(content) } else { Err(ImportError::Changed { path: dir.below(name) }) }
    }
}

/// All bytes of a file, and no more than one beyond what it should have.
fn read_small(file: &File, len: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or(0) + 1);
    file.take(len + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
