//! The redb database under the catalog: its file, its tables, and how it comes back after the disk refused something.
//!
//! redb stops for good at the first I/O error. A full disk is no reason to stop a filesystem, so the database is opened
//! anew (on the same file); after a failed sync for reading alone, as it was before the commit that failed.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::RwLock;
use redb::{Database, ReadOnlyTable, ReadableDatabase, StorageBackend, TableDefinition};

use super::super::{HostFile, Result, StoreError};
use super::backend::{CatalogFile, End, Ended};

/// How much of the catalog redb keeps in memory.
const CACHE_BYTES: usize = 32 << 20;
/// The same while a store is made: an import puts a digest in a random place for every file.
const CACHE_BYTES_CREATING: usize = 256 << 20;

type Bytes = &'static [u8];
/// Tree nodes by `NodeId`.
pub(super) const NODES: TableDefinition<'static, u64, Bytes> = TableDefinition::new("nodes");
/// Object records by `ObjectId`.
pub(super) const OBJECTS: TableDefinition<'static, u64, Bytes> = TableDefinition::new("objects");
/// One object that holds the bytes of a digest.
pub(super) const DIGESTS: TableDefinition<'static, [u8; 32], u64> = TableDefinition::new("digests");
/// Version records by number.
pub(super) const VERSIONS: TableDefinition<'static, u64, Bytes> = TableDefinition::new("versions");
/// Lineage events by `EventSeq`.
pub(super) const EVENTS: TableDefinition<'static, u64, Bytes> = TableDefinition::new("events");
/// Attempts by version, check and number.
pub(super) const ATTEMPTS: TableDefinition<'static, (u64, &'static str, u32), Bytes> = TableDefinition::new("attempts");
/// Versions by tag.
pub(super) const TAGS: TableDefinition<'static, &'static str, u64> = TableDefinition::new("tags");
/// Single records by name: "pointers", "created", "commits", "upkeep".
pub(super) const SINGLE: TableDefinition<'static, &'static str, Bytes> = TableDefinition::new("single");

/// Every table as of the last commit. Opened once a commit, not once a lookup.
pub(super) struct Tables {
    pub(super) nodes: ReadOnlyTable<u64, Bytes>,
    pub(super) objects: ReadOnlyTable<u64, Bytes>,
    pub(super) digests: ReadOnlyTable<[u8; 32], u64>,
    pub(super) versions: ReadOnlyTable<u64, Bytes>,
    pub(super) events: ReadOnlyTable<u64, Bytes>,
    pub(super) attempts: ReadOnlyTable<(u64, &'static str, u32), Bytes>,
    pub(super) tags: ReadOnlyTable<&'static str, u64>,
    pub(super) single: ReadOnlyTable<&'static str, Bytes>,
}

/// One opening of the database.
struct Session {
    /// There until the session is dropped.
    db: Option<Database>,
    tables: RwLock<Arc<Tables>>,
    writes: Writes,
}

/// Where what a session writes goes.
enum Writes {
    /// To the file, until the end is put to it.
    File(End),
    /// To memory: the session shows what is on disk, while the file can't be opened for writing.
    Nowhere,
}

/// The database, through all its sessions.
pub(super) struct Store {
    file: Arc<CatalogFile>,
    /// Lock order: `session` before `Session::tables`. `session` is held while the database is opened anew, `tables` while they are opened.
    session: RwLock<Arc<Session>>,
}

impl Store {
    /// Makes the database in an empty file, or opens the one that the file holds. It has all tables afterwards.
    pub(super) fn open(file: HostFile, create: bool) -> Result<Self> {
        let file = CatalogFile::new(file).map_err(|error| StoreError::io("read catalog.redb", error))?;
        let session = RwLock::new(Arc::new(Session::open(&file, create)?));
        Ok(Self { file, session })
    }

    fn session(&self) -> Arc<Session> {
        Arc::clone(&self.session.read())
    }

    /// An error once a sync has failed: then nothing is written any more, and what is shown is what was on disk for sure before.
    pub(super) fn refuse_if_poisoned(&self) -> Result<()> {
        match self.file.failed() {
            None => Ok(()),
            Some(errno) => Err(StoreError::Poisoned { what: "catalog.redb".to_owned(), errno }),
        }
    }

    /// Ends all writing, because it can't be known what is on disk.
    pub(super) fn poison(&self, errno: i32) {
        self.file.fail(errno);
    }

    /// Reads from the tables as of the last commit; a session that a refused read or write has ended is replaced first.
    pub(super) fn read<T>(&self, what: &str, read: impl Fn(&Tables) -> std::result::Result<T, redb::StorageError>) -> Result<T> {
        let attempt = |session: &Session| {
            let tables = Arc::clone(&session.tables.read());
            shielded(what, || read(&tables).map_err(redb::Error::from))
        };
        let session = self.session();
        match attempt(&session) {
            Err(error) if stopped(&error) => {
                self.reopen(&session)?;
                attempt(&self.session())
            }
            result => result,
        }
    }

    /// Begins to write; waits for the transaction before to end.
    pub(super) fn begin(&self) -> Result<Writing> {
        let attempt = |session: Arc<Session>| {
            let transaction = shielded("begin a transaction of the catalog", || session.db()?.begin_write().map_err(redb::Error::from))?;
            Ok(Writing { session, transaction })
        };
        let session = self.writable()?;
        match attempt(Arc::clone(&session)) {
            Err(error) if stopped(&error) => {
                self.reopen(&session)?;
                attempt(self.writable()?)
            }
            result => result,
        }
    }

    /// Commits and shows the result to readers. On an error the session has been replaced, and `read` tells what is on disk: the commit
    /// may be, or not.
    pub(super) fn commit(&self, writing: Writing) -> Result<()> {
        let Writing { session, mut transaction } = writing;
        // Saves the allocator's state with every commit, so that opening after a kill does not walk the whole catalog.
        transaction.set_quick_repair(true);
        let committed = shielded("commit to catalog.redb", || transaction.commit().map_err(redb::Error::from));
        let shown = committed.and_then(|()| session.refresh());
        if let Err(error) = &shown
            && self.reopen(&session).is_err()
        {
            // Nobody can tell what is on disk.
            self.poison(error.errno());
        }
        shown
    }

    /// Replaces a session that an error has stopped, by one that writes nothing if need be.
    fn reopen(&self, stopped: &Arc<Session>) -> Result<()> {
        let mut current = self.session.write();
        if !Arc::ptr_eq(&current, stopped) {
            return Ok(());
        }
        stopped.end();
        *current = Arc::new(match self.anew() {
            Ok(session) => session,
            Err(error) => {
                tracing::warn!(%error, "the catalog can be read and not be written");
                Session::aside(&self.file)?
            }
        });
        Ok(())
    }

    /// A session that writes. What it shows is on disk before anybody sees it.
    fn anew(&self) -> Result<Session> {
        self.file.sync().map_err(|error| StoreError::io("sync catalog.redb", error))?;
        Session::open(&self.file, false)
    }

    /// The session, as one that writes.
    fn writable(&self) -> Result<Arc<Session>> {
        let session = self.session();
        if matches!(session.writes, Writes::File(_)) {
            return Ok(session);
        }
        self.refuse_if_poisoned()?;
        let mut current = self.session.write();
        if Arc::ptr_eq(&current, &session) {
            *current = Arc::new(self.anew()?);
        }
        Ok(Arc::clone(&current))
    }
}

impl Session {
    fn open(file: &Arc<CatalogFile>, create: bool) -> Result<Self> {
        let backend = file.backend();
        let end = backend.end();
        let opened = Self::over(backend, create, Writes::File(end.clone()));
        opened.inspect_err(|_| end.put())
    }

    /// What is on disk, for readers alone.
    fn aside(file: &CatalogFile) -> Result<Self> {
        let aside = file.aside().map_err(|error| StoreError::io("read catalog.redb", error))?;
        Self::over(aside, false, Writes::Nowhere)
    }

    fn over(backend: impl StorageBackend, create: bool, writes: Writes) -> Result<Self> {
        let db = shielded("open catalog.redb", || {
            let mut builder = Database::builder();
            builder.set_cache_size(if create { CACHE_BYTES_CREATING } else { CACHE_BYTES });
            Ok(builder.create_with_backend(backend)?)
        })?;
        if create {
            shielded("make the tables of catalog.redb", || make_tables(&db))?;
        }
        let tables = RwLock::new(Arc::new(shielded("open the tables of catalog.redb", || open_tables(&db))?));
        Ok(Self { db: Some(db), tables, writes })
    }

    fn db(&self) -> std::result::Result<&Database, redb::Error> {
        self.db.as_ref().ok_or(redb::Error::DatabaseClosed)
    }

    /// Nothing of it reaches the file any more when this returns, whatever redb does at its end.
    fn end(&self) {
        if let Writes::File(end) = &self.writes {
            end.put();
        }
    }

    /// Shows the last commit to readers.
    fn refresh(&self) -> Result<()> {
        // Opened under the lock: of two commits that end together, the second's tables must not give way to the first's.
        let mut tables = self.tables.write();
        *tables = Arc::new(shielded("open the tables of catalog.redb", || open_tables(self.db()?))?);
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let db = self.db.take();
        // On a damaged file the database may give up even at its end.
        let closed = shielded("close catalog.redb", || {
            drop(db);
            Ok(())
        });
        if let Err(error) = closed {
            tracing::error!("{error}");
        }
    }
}

/// A transaction with the session that it belongs to.
pub(super) struct Writing {
    session: Arc<Session>,
    pub(super) transaction: redb::WriteTransaction,
}

fn make_tables(db: &Database) -> std::result::Result<(), redb::Error> {
    let mut transaction = db.begin_write()?;
    transaction.set_quick_repair(true);
    transaction.open_table(NODES)?;
    transaction.open_table(OBJECTS)?;
    transaction.open_table(DIGESTS)?;
    transaction.open_table(VERSIONS)?;
    transaction.open_table(EVENTS)?;
    transaction.open_table(ATTEMPTS)?;
    transaction.open_table(TAGS)?;
    transaction.open_table(SINGLE)?;
    Ok(transaction.commit()?)
}

fn open_tables(db: &Database) -> std::result::Result<Tables, redb::Error> {
    let transaction = db.begin_read()?;
    Ok(Tables {
        nodes: transaction.open_table(NODES)?,
        objects: transaction.open_table(OBJECTS)?,
        digests: transaction.open_table(DIGESTS)?,
        versions: transaction.open_table(VERSIONS)?,
        events: transaction.open_table(EVENTS)?,
        attempts: transaction.open_table(ATTEMPTS)?,
        tags: transaction.open_table(TAGS)?,
        single: transaction.open_table(SINGLE)?,
    })
}

/// Whether redb has stopped because of an error before this one (or a panic that a damaged page has caused), or was stopped.
fn stopped(error: &StoreError) -> bool {
    use redb::Error::{DatabaseClosed, Io, LockPoisoned, PreviousIo};
    let StoreError::Catalog { source, .. } = error else { return false };
    match &**source {
        PreviousIo | DatabaseClosed | LockPoisoned(_) => true,
        Io(error) => error.get_ref().is_some_and(|inner| inner.is::<Ended>()),
        _ => false,
    }
}

/// Runs redb. Its own words for a damaged file are an error or, in places, a panic: both become `Damaged` here (which needs
/// the profile's `panic = "unwind"`).
pub(super) fn shielded<T>(what: &str, run: impl FnOnce() -> std::result::Result<T, redb::Error>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(redb::Error::Corrupted(why))) => Err(StoreError::damaged(format!("catalog.redb: {why}"))),
        Ok(Err(redb::Error::Io(error))) if error.kind() == io::ErrorKind::InvalidData || error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(StoreError::damaged(format!("catalog.redb: {error}")))
        }
        Ok(Err(error @ (redb::Error::TableDoesNotExist(_) | redb::Error::TableTypeMismatch { .. } | redb::Error::UpgradeRequired(_)))) => {
            Err(StoreError::damaged(format!("catalog.redb: {error}")))
        }
        Ok(Err(error)) => Err(StoreError::catalog(what, error)),
        Err(_) => Err(StoreError::damaged(format!("catalog.redb: the database gave up ({what})"))),
    }
}
