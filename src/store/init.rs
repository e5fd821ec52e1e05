//! How a store comes to be, is opened, and is undone when its first version could not be made.

use std::fs::{DirBuilder, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::OFlag;

use super::disk::Disk;
use super::guard::guard;
use super::host::HostDir;
use super::record::{Upkeep, VersionState};
use super::{Catalog, HostFile, Objects, Pages, Result, Store, StoreError};
use crate::clock::Clock;
use crate::ids::PackId;

/// The newest format that this program reads, and the one that it writes.
const FORMAT: u32 = 1;
/// What the format file says before the number.
const FORMAT_LINE: &str = "shadowfs store, format ";
/// Everything that `init` makes, but for the directories below `objects` and the marker.
const DIRS: [&str; 4] = ["objects", "packs", "journal", "logs"];
const FILES: [&str; 2] = ["format", "catalog.redb"];
/// It comes first and goes when there is a first version: what stands beside it is `init`'s own, and may be removed.
const MARKER: &str = "unfinished";
const MARKER_TEXT: &str = "A store was being made here (shadowfs init). If that was broken off, run it again.\n";

impl Store {
    /// Makes a store at `path`, which must not exist, be an empty directory, or hold what an `init` that was broken off has left: that
    /// goes. It has no version yet: who makes t0 appends `EventKind::Initialized` with it and then calls `first_version_made`; until
    /// then `open` refuses the store. Leaves nothing behind on failure.
    pub fn init(path: &Path, clock: &dyn Clock) -> Result<Self> {
        Self::init_on(path, clock, None)
    }

    /// The same, with something between the store and its files.
    pub fn init_on(path: &Path, clock: &dyn Clock, disk: Option<Arc<dyn Disk>>) -> Result<Self> {
        let claim = Claim::of(path)?;
        let taken = claim.take(disk);
        if taken.is_err() && claim.made_dir {
            // Not `undo`: what is in it now is another's.
            let _ = std::fs::remove_dir(path);
        }
        let made = build(&claim, taken?, clock);
        if made.is_err() {
            claim.undo();
        }
        made
    }

    /// Takes the marker away with which a store is one whose `init` is under way. Its first version is committed, so there is nothing
    /// to give up any more: if the disk refuses, the next `open` does it.
    pub(crate) fn first_version_made(&self) {
        if let Err(error) = remove_marker(&self.host) {
            tracing::warn!(%error, "the mark of an unfinished store stays behind");
        }
    }

    /// Opens the store at `path` for this process alone (and for the processes that it forks).
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_on(path, None)
    }

    /// The same, with something between the store and its files.
    pub fn open_on(path: &Path, disk: Option<Arc<dyn Disk>>) -> Result<Self> {
        let host = match HostDir::open(path, disk) {
            Ok(host) => host,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(StoreError::NotAStore { path: path.to_owned() });
            }
            Err(error) => return Err(StoreError::io(format!("open {}", path.display()), error)),
        };
        let (lock, catalog) = match open_catalog(&host, path) {
            Err(StoreError::NotAStore { .. } | StoreError::Damaged { .. }) if is_marked(&host)? => {
                return Err(StoreError::Unfinished { path: path.to_owned() });
            }
            opened => opened?,
        };
        let store = Self::assemble(path.to_owned(), host, catalog, lock, false);
        store.first_version_made();
        store.tidy_journals()?;
        store.pass_leftover_packs()?;
        store.objects.forget_taken_back()?;
        // What can't be told here is found by `fsck`; it must not keep the store from being opened.
        if let Ok(Upkeep { scrubbed: Some(result), .. }) = store.catalog.upkeep() {
            store.objects.set_damaged(result.damaged);
        }
        Ok(store)
    }

    /// Checks the catalog's own pages, under the store's lock: what `open` and everything after it rely on without looking. With
    /// `repair`, puts the list of free pages right. A damaged page is an error.
    pub fn check_pages(path: &Path, repair: bool) -> Result<Pages> {
        let not_a_store = |_| StoreError::NotAStore { path: path.to_owned() };
        let host = HostDir::open(path, None).map_err(not_a_store)?;
        let _lock = open_format(&host, path)?;
        let catalog = host.existing("open", "catalog.redb", OFlag::O_RDWR)?;
        super::catalog::check_pages(&catalog.ok_or_else(|| StoreError::damaged("catalog.redb is missing"))?, repair)
    }

    fn assemble(path: PathBuf, host: HostDir, catalog: Catalog, lock: HostFile, made_dir: bool) -> Self {
        let (host, catalog) = (Arc::new(host), Arc::new(catalog));
        let objects = Objects::new(Arc::clone(&host), Arc::clone(&catalog));
        Self { path, host, catalog, objects, made_dir, _lock: lock }
    }

    /// No version gets a number that a journal has, and journals of versions that were sealed or given up go.
    fn tidy_journals(&self) -> Result<()> {
        for version in self.journals()? {
            self.ids().raise_version(version.next());
            let ended = self.catalog.version(version)?.is_some_and(|record| record.state != VersionState::Open);
            if ended {
                self.remove_journal(version)?;
            }
        }
        Ok(())
    }

    /// No pack gets a number that a file has already, though no record may name it: a sweep that has listed the file as a leftover must not
    /// find another pack in its place when it comes to remove it.
    fn pass_leftover_packs(&self) -> Result<()> {
        // A file that somebody named to the end of all numbers must not use them up.
        let packs = self.objects.settled_packs()?.into_iter().filter(|pack| pack.0 < u64::MAX / 2);
        if let Some(last) = packs.max() {
            self.ids().raise_pack(PackId(last.0 + 1));
        }
        Ok(())
    }

    /// Removes a store that has no version yet: for an `init` whose import failed.
    pub fn undo_init(self) -> Result<()> {
        if self.catalog.has_versions()? {
            return Err(StoreError::Exists { path: self.path });
        }
        // While it is held: no other `init` comes in between.
        Claim { path: self.path.clone(), made_dir: self.made_dir, mode: None }.undo();
        Ok(())
    }
}

/// The directory that `init` has taken for its own.
struct Claim {
    path: PathBuf,
    made_dir: bool,
    /// Its mode before, if it was there.
    mode: Option<Permissions>,
}

impl Claim {
    fn of(path: &Path) -> Result<Self> {
        let fail = |verb: &str, error: io::Error| StoreError::io(format!("{verb} {}", path.display()), error);
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => return Ok(Self { path: path.to_owned(), made_dir: true, mode: None }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(fail("create", error)),
        }
        let status = path.metadata().map_err(|error| fail("stat", error))?;
        if !status.is_dir() {
            return Err(StoreError::Exists { path: path.to_owned() });
        }
        Ok(Self { path: path.to_owned(), made_dir: false, mode: Some(status.permissions()) })
    }

    /// Takes the directory, if there is nothing in it that is another's, and marks it. Of two processes that want it one gets past this.
    fn take(&self, disk: Option<Arc<dyn Disk>>) -> Result<HostDir> {
        let host = HostDir::open(&self.path, disk).map_err(|error| StoreError::io(format!("open {}", self.path.display()), error))?;
        let exists = || StoreError::Exists { path: self.path.clone() };
        let names = host.names(".")?;
        if !(names.is_empty() || is_marked(&host)?) {
            return Err(exists());
        }
        lock(host.host(), &self.path)?;
        // What another has made of it meanwhile.
        let names = host.names(".")?;
        if !names.is_empty() {
            let marked = is_marked(&host)?;
            let finished = match open_catalog(&host, &self.path) {
                Ok(_) => true,
                Err(StoreError::NotAStore { .. } | StoreError::Damaged { .. } | StoreError::Unfinished { .. }) => false,
                Err(error) => return Err(error),
            };
            if !marked || finished {
                return Err(exists());
            }
            self.clear();
        }
        host.remove(MARKER)?;
        let marker = host.new_file(MARKER, || Ok(false))?;
        let written = marker.write_all_at(MARKER_TEXT.as_bytes(), 0).and_then(|()| marker.sync_data());
        let marked = written.map_err(|error| StoreError::io(format!("write {MARKER}"), error)).and_then(|()| host.sync_dir("."));
        if marked.is_err() {
            let _ = host.remove(MARKER);
        }
        marked.map(|()| host)
    }

    /// Removes what `init` makes, but for the marker. What can't be removed is logged.
    fn clear(&self) {
        FILES.iter().for_each(|file| self.gone(std::fs::remove_file(self.path.join(file))));
        DIRS.iter().for_each(|dir| self.gone(std::fs::remove_dir_all(self.path.join(dir))));
    }

    fn gone(&self, result: io::Result<()>) {
        match result {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, path = %self.path.display(), "an unfinished store is not removed wholly");
            }
            _ => {}
        }
    }

    /// Removes what `init` made, and only that. The error that led here matters more than what can't be removed.
    fn undo(&self) {
        self.clear();
        self.gone(std::fs::remove_file(self.path.join(MARKER)));
        if self.made_dir {
            self.gone(std::fs::remove_dir(&self.path));
        } else if let Some(mode) = &self.mode {
            self.gone(std::fs::set_permissions(&self.path, mode.clone()));
        }
    }
}

/// Whether an `init` has marked the directory as its own and not come to its end. A marker that a crash tore is one if nothing else is there.
fn is_marked(host: &HostDir) -> Result<bool> {
    let Some(file) = host.existing("open", MARKER, OFlag::O_RDONLY)? else { return Ok(false) };
    let mut text = vec![0; 2 * MARKER_TEXT.len()];
    let len = file.read_at(&mut text, 0).map_err(|error| StoreError::io(format!("read {MARKER}"), error))?;
    Ok(text.get(..len) == Some(MARKER_TEXT.as_bytes()) || host.names(".")?.len() == 1)
}

fn remove_marker(host: &HostDir) -> Result<()> {
    if host.remove(MARKER)? { host.sync_dir(".") } else { Ok(()) }
}

/// The locked format file and the catalog of a store that has a version.
fn open_catalog(host: &HostDir, path: &Path) -> Result<(HostFile, Catalog)> {
    let lock = open_format(host, path)?;
    guard(host, path)?;
    let catalog = host.existing("open", "catalog.redb", OFlag::O_RDWR)?;
    let catalog = catalog.ok_or_else(|| StoreError::damaged(format!("{} has no catalog.redb", path.display())))?;
    let catalog = Catalog::open(catalog)?;
    if catalog.has_versions()? { Ok((lock, catalog)) } else { Err(StoreError::Unfinished { path: path.to_owned() }) }
}

fn build(claim: &Claim, host: HostDir, clock: &dyn Clock) -> Result<Store> {
    let path = &claim.path;
    let fail = |verb: &str, error: io::Error| StoreError::io(format!("{verb} {}", path.display()), error);
    // The umask, or a directory that was there before, may have left another mode.
    std::fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(|error| fail("change the mode of", error))?;
    guard(&host, path)?;
    for dir in &DIRS {
        host.make_dir(dir)?;
    }
    for low in 0..=0xff {
        host.make_dir(&format!("objects/{low:02x}"))?;
    }
    let catalog = Catalog::create(host.new_file("catalog.redb", || Ok(false))?, clock.now())?;
    host.sync_filesystem()?;
    // The format file comes last: without it there is no store.
    let format = host.new_file("format", || Ok(false))?;
    lock(format.host(), path)?;
    let written = format.write_all_at(format!("{FORMAT_LINE}{FORMAT}\n").as_bytes(), 0).and_then(|()| format.sync_data());
    written.map_err(|error| StoreError::io("write format", error))?;
    host.sync_dir(".")?;
    if claim.made_dir {
        sync_parent(path)?;
    }
    Ok(Store::assemble(path.clone(), host, catalog, format, claim.made_dir))
}

/// Makes the store's own name durable.
fn sync_parent(path: &Path) -> Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let synced = File::open(parent).and_then(|dir| dir.sync_all());
    synced.map_err(|error| StoreError::io(format!("sync {}", parent.display()), error))
}

/// The format file, locked, if its format is one that we know.
fn open_format(host: &HostDir, path: &Path) -> Result<HostFile> {
    let not_a_store = || StoreError::NotAStore { path: path.to_owned() };
    let file = host.existing("open", "format", OFlag::O_RDONLY)?.ok_or_else(not_a_store)?;
    let mut text = vec![0; 256];
    let read = file.read_at(&mut text, 0).map_err(|error| StoreError::io(format!("read {}/format", path.display()), error))?;
    text.truncate(read);
    let text = String::from_utf8(text).map_err(|_| not_a_store())?;
    let number = text.strip_prefix(FORMAT_LINE).and_then(|rest| rest.lines().next());
    let found: u32 = number.and_then(|number| number.parse().ok()).ok_or_else(not_a_store)?;
    if found > FORMAT {
        return Err(StoreError::NewerFormat { path: path.to_owned(), found, known: FORMAT });
    }
    if found != FORMAT {
        return Err(StoreError::damaged(format!("{}/format names format {found}", path.display())));
    }
    lock(file.host(), path)?;
    Ok(file)
}

/// The lock of a daemon that has ended may last a moment longer: a check that it forked just then holds the descriptor until it execs.
fn lock(file: &File, path: &Path) -> Result<()> {
    const TRIES: u32 = 10;
    const PAUSE: Duration = Duration::from_millis(50);
    for _ in 0..TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
            Err(TryLockError::Error(error)) => return Err(StoreError::io(format!("lock {}/format", path.display()), error)),
        }
    }
    Err(StoreError::InUse { path: path.to_owned() })
}
