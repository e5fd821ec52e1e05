//! A disk that keeps only what was synced: it stands between a store and real files in a directory, records every operation, and says
//! what any crash could have left. It also refuses operations: one, chosen by its number, or all that need room.
//!
//! What a sync promises, and no more: fdatasync a file's bytes and length, fsync of a directory its names, syncfs everything. What is
//! not synced is there or not, in any order, each sector of a write for itself. A new file's fdatasync does not make its name durable.
//! After a sync that failed, the bytes it was for are there or not for good, whatever later syncs say.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use shadowfs::store::disk::{Disk, DiskOp, FileNumber};

const SECTOR: usize = 512;

/// Numbers that look random and come again from the same seed.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

#[derive(Clone, Debug)]
enum Done {
    Write {
        file: FileNumber,
        offset: u64,
        data: Arc<[u8]>,
    },
    SetLen {
        file: FileNumber,
        len: u64,
    },
    Clear {
        file: FileNumber,
        offset: u64,
        len: u64,
    },
    /// A file without a name lost all its bytes. That it gets a name later is no sooner on disk than this: both are changes of the one
    /// inode, which filesystems keep in order.
    Emptied {
        file: FileNumber,
    },
    /// Names in one directory: what each leads to now.
    Names(Vec<(String, Option<Node>)>),
    /// Everything before `begun` that it covers is durable; if it failed, nobody knows.
    Sync {
        what: Synced,
        begun: usize,
        failed: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    File(FileNumber),
    Dir,
}

#[derive(Clone, Debug)]
enum Synced {
    File(FileNumber),
    Dir(String),
    All,
}

/// What an operation is, for a test that counts or chooses them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sort {
    Open,
    Name,
    List,
    Stat,
    Read,
    Write,
    Sync,
}

/// What is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Nothing,
    /// The operation of this number (counted from the last `refuse`), of this sort if one is named, once.
    Once {
        number: usize,
        sort: Option<Sort>,
        errno: i32,
    },
    /// Everything that needs room: ENOSPC. A write may get a part of what it wants.
    Full,
}

#[derive(Debug)]
struct State {
    log: Vec<Done>,
    names: BTreeMap<String, Node>,
    unnamed: BTreeSet<FileNumber>,
    files: usize,
    refusal: Refusal,
    seen: usize,
    refused: Option<String>,
    /// Files whose bytes could not be written behind somebody's syncfs: their own next sync says so.
    unwritable: BTreeSet<FileNumber>,
    dice: Dice,
    /// Whether files can share blocks.
    clones: bool,
}

/// The disk. Share it as `Arc<SimulatedDisk>`.
#[derive(Debug)]
pub struct SimulatedDisk {
    state: Mutex<State>,
    start: Image,
}

impl Default for SimulatedDisk {
    fn default() -> Self {
        Self::after(Image::default())
    }
}

fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or(".", |(dir, _)| dir)
}

impl SimulatedDisk {
    /// A disk that holds what a crash left.
    pub fn after(start: Image) -> Self {
        let files = start.files.len();
        let state = State {
            log: Vec::new(),
            names: start.names.clone(),
            unnamed: BTreeSet::new(),
            files,
            refusal: Refusal::Nothing,
            seen: 0,
            refused: None,
            unwritable: BTreeSet::new(),
            dice: Dice::new(7),
            clones: false,
        };
        Self { state: Mutex::new(state), start }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Files can share blocks from now on, or not.
    pub fn can_clone(&self, clones: bool) {
        self.lock().clones = clones;
    }

    /// How many operations that matter for a crash were made.
    pub fn len(&self) -> usize {
        self.lock().log.len()
    }

    /// Refuses from now on; counting begins anew.
    pub fn refuse(&self, refusal: Refusal) {
        let mut state = self.lock();
        (state.refusal, state.seen, state.refused) = (refusal, 0, None);
    }

    /// How many operations came since `refuse` (of the sort that it names), and the one that was refused.
    pub fn refused(&self) -> (usize, Option<String>) {
        let state = self.lock();
        (state.seen, state.refused.clone())
    }

    /// Begins to work out crashes.
    pub fn crashes(&self) -> Crashes {
        Crashes { lie: None, log: self.lock().log.clone(), at: 0, image: self.start.clone(), pending: Vec::new() }
    }
}

impl State {
    fn look(&mut self, op: &DiskOp<'_>, sort: Sort) -> io::Result<usize> {
        match self.refusal {
            Refusal::Nothing => {
                self.seen += 1;
                Ok(usize::MAX)
            }
            Refusal::Once { number, sort: wanted, errno } => {
                if wanted.is_some_and(|wanted| wanted != sort) {
                    return Ok(usize::MAX);
                }
                self.seen += 1;
                if self.seen - 1 != number {
                    return Ok(usize::MAX);
                }
                self.refused = Some(match op {
                    DiskOp::Write { file, offset, data } => format!("Write {{ file: {file}, offset: {offset}, {} bytes }}", data.len()),
                    other => format!("{other:?}"),
                });
                Err(io::Error::from_raw_os_error(errno))
            }
            Refusal::Full => {
                self.seen += 1;
                let full = || Err(io::Error::from_raw_os_error(libc::ENOSPC));
                match op {
                    DiskOp::Write { data, .. } if data.len() > SECTOR && self.dice.chance(30) => Ok(data.len() / 2),
                    DiskOp::Open { name, create: true } if !self.names.contains_key(*name) => full(),
                    DiskOp::OpenUnnamed { .. } | DiskOp::Link { .. } => full(),
                    DiskOp::Write { .. } | DiskOp::Clone { .. } | DiskOp::MakeDir { .. } | DiskOp::Allocate { punch: false, .. } => full(),
                    _ => Ok(usize::MAX),
                }
            }
        }
    }

    fn fail_sync(&mut self, what: Synced) {
        if matches!(what, Synced::All) {
            // One file's bytes, or several's, or none of ours.
            for file in 0..self.files {
                if self.dice.chance(40) {
                    self.unwritable.insert(file);
                }
            }
            for file in self.unwritable.clone() {
                let begun = self.log.len();
                self.log.push(Done::Sync { what: Synced::File(file), begun, failed: true });
            }
            return;
        }
        let begun = self.log.len();
        self.log.push(Done::Sync { what, begun, failed: true });
    }
}

fn sort_of(op: &DiskOp<'_>) -> Sort {
    match op {
        DiskOp::Open { .. } | DiskOp::OpenUnnamed { .. } => Sort::Open,
        DiskOp::Link { .. } | DiskOp::MakeDir { .. } | DiskOp::Remove { .. } | DiskOp::Rename { .. } => Sort::Name,
        DiskOp::List { .. } => Sort::List,
        DiskOp::Stat { .. } => Sort::Stat,
        DiskOp::Read { .. } => Sort::Read,
        DiskOp::Write { .. } | DiskOp::SetLen { .. } | DiskOp::Allocate { .. } | DiskOp::Clone { .. } | DiskOp::Share { .. } => Sort::Write,
        DiskOp::SyncFile { .. } | DiskOp::SyncDir { .. } | DiskOp::SyncAll => Sort::Sync,
    }
}

impl Disk for SimulatedDisk {
    fn around(&self, op: &DiskOp<'_>, run: &mut dyn FnMut(usize) -> io::Result<usize>) -> io::Result<usize> {
        // Held over the operation: the record has the order in which they were made.
        let mut state = self.lock();
        let synced = match op {
            DiskOp::SyncFile { file } => Some(Synced::File(*file)),
            DiskOp::SyncDir { name } => Some(Synced::Dir((*name).to_owned())),
            DiskOp::SyncAll => Some(Synced::All),
            _ => None,
        };
        let most = match state.look(op, sort_of(op)) {
            Ok(most) => most,
            Err(error) => {
                if let Some(what) = synced {
                    state.fail_sync(what);
                }
                return Err(error);
            }
        };
        if let DiskOp::SyncFile { file } = op
            && state.unwritable.remove(file)
        {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        match *op {
            DiskOp::Clone { to, host, from } if state.clones => return state.clone_file(to, host, from),
            DiskOp::Clone { .. } | DiskOp::Share { .. } => return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)),
            _ => {}
        }
        let ran = run(most)?;
        if let Some(what) = synced {
            let begun = state.log.len();
            state.log.push(Done::Sync { what, begun, failed: false });
            return Ok(ran);
        }
        Ok(state.note(op, ran))
    }
}

impl State {
    /// Bytes are copied, whatever the host can: a crash leaves of a clone what it leaves of a write.
    fn clone_file(&mut self, to: FileNumber, host: &File, from: &File) -> io::Result<usize> {
        let mut data = vec![0; usize::try_from(from.metadata()?.len()).unwrap()];
        from.read_exact_at(&mut data, 0)?;
        host.write_all_at(&data, 0)?;
        self.log.push(Done::Write { file: to, offset: 0, data: data.into() });
        Ok(0)
    }

    fn note(&mut self, op: &DiskOp<'_>, ran: usize) -> usize {
        let done = match *op {
            DiskOp::Open { name, .. } => {
                match self.names.get(name) {
                    Some(Node::File(file)) => return *file,
                    // Nothing is written to a directory.
                    Some(Node::Dir) => return FileNumber::MAX,
                    None => {}
                }
                let file = self.files;
                self.files += 1;
                self.names.insert(name.to_owned(), Node::File(file));
                self.log.push(Done::Names(vec![(name.to_owned(), Some(Node::File(file)))]));
                return file;
            }
            // Without a name it is nothing after a crash, whatever is written and synced.
            DiskOp::OpenUnnamed { .. } => {
                self.files += 1;
                self.unnamed.insert(self.files - 1);
                return self.files - 1;
            }
            DiskOp::Link { file, name } => {
                self.unnamed.remove(&file);
                self.names.insert(name.to_owned(), Node::File(file));
                Done::Names(vec![(name.to_owned(), Some(Node::File(file)))])
            }
            DiskOp::MakeDir { name } => {
                self.names.insert(name.to_owned(), Node::Dir);
                Done::Names(vec![(name.to_owned(), Some(Node::Dir))])
            }
            DiskOp::Remove { name } => {
                self.names.remove(name);
                Done::Names(vec![(name.to_owned(), None)])
            }
            DiskOp::Rename { from, to } => {
                assert_eq!(parent(from), parent(to), "renames between directories are not simulated");
                let node = self.names.remove(from);
                self.names.insert(to.to_owned(), node.unwrap());
                Done::Names(vec![(to.to_owned(), node), (from.to_owned(), None)])
            }
            DiskOp::Write { file, offset, data } => Done::Write { file, offset, data: data[..ran].into() },
            DiskOp::SetLen { file, len: 0 } if self.unnamed.contains(&file) => Done::Emptied { file },
            DiskOp::SetLen { file, len } => Done::SetLen { file, len },
            DiskOp::Allocate { file, offset, len, punch: true, .. } => Done::Clear { file, offset, len },
            // Room alone changes nothing that a crash could show, a length does.
            DiskOp::Allocate { file, offset, len, punch: false, keep_size: false } => {
                Done::Write { file, offset: offset + len, data: [].into() }
            }
            _ => return ran,
        };
        self.log.push(done);
        ran
    }
}

/// What is on the disk: names from the store's directory, and bytes.
#[derive(Clone, Debug, Default)]
pub struct Image {
    names: BTreeMap<String, Node>,
    files: Vec<Vec<u8>>,
}

impl Image {
    fn file(&mut self, file: FileNumber) -> &mut Vec<u8> {
        if self.files.len() <= file {
            self.files.resize(file + 1, Vec::new());
        }
        &mut self.files[file]
    }

    fn write(&mut self, file: FileNumber, offset: u64, data: &[u8]) {
        let (from, to) = (offset as usize, offset as usize + data.len());
        let bytes = self.file(file);
        if bytes.len() < to {
            bytes.resize(to, 0);
        }
        bytes[from..to].copy_from_slice(data);
    }

    fn apply(&mut self, done: &Done) {
        match done {
            Done::Write { file, offset, data } => self.write(*file, *offset, data),
            Done::SetLen { file, len } => self.file(*file).resize(*len as usize, 0),
            Done::Clear { file, offset, len } => {
                let bytes = self.file(*file);
                let to = ((offset + len) as usize).min(bytes.len());
                if let Some(range) = bytes.get_mut(*offset as usize..to) {
                    range.fill(0);
                }
            }
            Done::Names(names) => {
                for (name, node) in names {
                    match node {
                        Some(node) => drop(self.names.insert(name.clone(), *node)),
                        None => drop(self.names.remove(name)),
                    }
                }
            }
            Done::Emptied { file } => self.file(*file).clear(),
            Done::Sync { .. } => {}
        }
    }

    /// Only some of a write's sectors.
    fn apply_torn(&mut self, done: &Done, dice: &mut Dice) {
        let Done::Write { file, offset, data } = done else { return self.apply(done) };
        let mut at = 0;
        while at < data.len() {
            let end = (at + SECTOR - (*offset as usize + at) % SECTOR).min(data.len());
            if dice.chance(50) {
                self.write(*file, offset + at as u64, &data[at..end]);
            }
            at = end;
        }
    }

    /// Makes it real in a directory. What is in there of an earlier image goes.
    pub fn lay_out(&self, dir: &Path) {
        let real = |name: &String| dir.join(name);
        let mut known = BTreeSet::new();
        for (name, node) in &self.names {
            let ancestors = std::iter::successors(Some(parent(name)), |dir| (*dir != ".").then(|| parent(dir)));
            if !ancestors.take_while(|dir| *dir != ".").all(|dir| self.names.get(dir) == Some(&Node::Dir)) {
                // The directory's own name is lost.
                continue;
            }
            known.insert(real(name));
            match node {
                Node::Dir => drop(std::fs::create_dir(real(name))),
                Node::File(file) => {
                    let bytes = self.files.get(*file).map(Vec::as_slice).unwrap_or_default();
                    std::fs::write(real(name), bytes).unwrap();
                }
            }
        }
        clear(dir, &known);
    }
}

fn clear(dir: &Path, known: &BTreeSet<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match (path.is_dir(), known.contains(&path)) {
            (true, true) => clear(&path, known),
            (true, false) => std::fs::remove_dir_all(&path).unwrap(),
            (false, true) => {}
            (false, false) => std::fs::remove_file(&path).unwrap(),
        }
    }
}

/// How much of what was not synced a crash leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    Nothing,
    Everything,
    Bytes,
    Names,
    /// What came before some moment, the last of it torn.
    Before,
    /// Any of it, whole.
    Any,
    /// Any of it, in any sectors.
    Torn,
}

pub const KEPT: [Kept; 7] = [Kept::Nothing, Kept::Everything, Kept::Bytes, Kept::Names, Kept::Before, Kept::Any, Kept::Torn];

/// Syncs that a lying disk answers without doing anything: the promises of a store on it can't hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    Files,
    Dirs,
    All,
}

/// Walks from crash to crash, forwards.
#[derive(Debug)]
pub struct Crashes {
    pub lie: Option<Lie>,
    log: Vec<Done>,
    at: usize,
    /// What is durable at `at`.
    image: Image,
    /// What was done and is not.
    pending: Vec<usize>,
}

impl Crashes {
    /// Moves to just after the first `at` operations.
    pub fn advance(&mut self, at: usize, dice: &mut Dice) {
        assert!(self.at <= at && at <= self.log.len());
        while self.at < at {
            match self.log[self.at].clone() {
                Done::Sync { what, begun, failed } => self.sync(&what, begun, failed, dice),
                Done::Emptied { file: emptied } => {
                    let Self { log, image, pending, .. } = self;
                    pending.retain(|index| {
                        let (Done::Write { file, .. } | Done::SetLen { file, .. } | Done::Clear { file, .. }) = &log[*index] else {
                            return true;
                        };
                        *file != emptied
                    });
                    image.file(emptied).clear();
                }
                _ => self.pending.push(self.at),
            }
            self.at += 1;
        }
    }

    fn sync(&mut self, what: &Synced, begun: usize, failed: bool, dice: &mut Dice) {
        let lie = match what {
            Synced::File(_) => Lie::Files,
            Synced::Dir(_) => Lie::Dirs,
            Synced::All => Lie::All,
        };
        if self.lie == Some(lie) {
            return;
        }
        let Self { log, image, pending, .. } = self;
        pending.retain(|index| {
            let done = &log[*index];
            let covered = *index < begun
                && match (what, done) {
                    (Synced::All, _) => true,
                    (Synced::File(synced), Done::Write { file, .. } | Done::SetLen { file, .. } | Done::Clear { file, .. }) => {
                        file == synced
                    }
                    (Synced::Dir(dir), Done::Names(names)) => names.iter().all(|(name, _)| parent(name) == dir),
                    _ => false,
                };
            if covered && failed {
                // Now or never. Lengths are the filesystem's own matter.
                match done {
                    Done::Write { .. } => image.apply_torn(done, dice),
                    _ => image.apply(done),
                }
            } else if covered {
                image.apply(done);
            }
            !covered
        });
    }

    /// What a crash here may leave.
    pub fn image(&self, kept: Kept, dice: &mut Dice) -> Image {
        let mut image = self.image.clone();
        let before = match kept {
            Kept::Before => dice.below(self.pending.len() + 1),
            _ => usize::MAX,
        };
        for (nth, index) in self.pending.iter().enumerate() {
            let done = &self.log[*index];
            let is_name = matches!(done, Done::Names(_));
            match kept {
                Kept::Nothing => {}
                Kept::Everything => image.apply(done),
                Kept::Bytes if !is_name => image.apply(done),
                Kept::Names if is_name => image.apply(done),
                Kept::Bytes | Kept::Names => {}
                Kept::Before if nth + 1 < before => image.apply(done),
                Kept::Before if nth < before => image.apply_torn(done, dice),
                Kept::Before => {}
                Kept::Any if dice.chance(50) => image.apply(done),
                Kept::Torn if dice.chance(70) => image.apply_torn(done, dice),
                Kept::Any | Kept::Torn => {}
            }
        }
        image
    }
}
