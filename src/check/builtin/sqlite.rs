//! `sqlite`: `integrity_check` and `foreign_key_check` of changed databases.
//!
//! A database is copied to a directory of its own that nobody else can enter, with its write-ahead log, and opened there.
//! A rollback journal is never handed to SQLite: it can name other files of the machine, which recovery would delete.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;
use std::time::Duration;

use crossbeam::channel;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::file::File;
use super::report::{PER_FILE, Place, Report, quoted};
use super::{Builtin, Context, Verdict, View, changed_file, judge};

const MAGIC: &[u8] = b"SQLite format 3\0";
const JOURNAL_MAGIC: &[u8] = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7";
/// How often a running statement is looked after.
const LOOK: Duration = Duration::from_millis(50);

pub(super) struct Sqlite;

impl Builtin for Sqlite {
    fn run(&self, cx: &mut Context<'_>) -> Verdict {
        judge(cx, |view, report| {
            report.counts_files();
            report.add("rows", 0);
            let mut seen = std::collections::BTreeSet::new();
            for change in view.changes {
                let path = database_of(view, &change.path)?;
                // A log that is gone changes its database, too.
                if (path == change.path && changed_file(change).is_none()) || !seen.insert(path.to_vec()) {
                    continue;
                }
                if let Some(file) = view.file(path)? {
                    report.file(path, file.len());
                    database(view, path, &file, report)?;
                }
            }
            Ok(())
        })
    }
}

/// The database that a write-ahead log or journal belongs to, or the path itself.
fn database_of<'p>(view: &View<'_>, path: &'p [u8]) -> io::Result<&'p [u8]> {
    for end in ["-wal", "-shm", "-journal"] {
        if let Some(database) = path.strip_suffix(end.as_bytes())
            && view.file(database)?.is_some()
        {
            return Ok(database);
        }
    }
    Ok(path)
}

fn database(view: &View<'_>, path: &[u8], file: &File<'_>, report: &mut Report<'_>) -> io::Result<()> {
    if file.len() == 0 {
        // An empty file is an empty database.
        return Ok(());
    }
    if file.read(0, MAGIC.len())? != MAGIC {
        report.find(Place::File, "is no SQLite database (or an encrypted one)");
        return Ok(());
    }
    if let Some(journal) = view.file(&[path, b"-journal"].concat())?
        && journal.read(0, JOURNAL_MAGIC.len())? == JOURNAL_MAGIC
    {
        report.find(Place::File, "a transaction on it is unfinished: its rollback journal stands beside it");
        return Ok(());
    }
    let place = |error: io::Error| io::Error::new(error.kind(), format!("{} can't be copied out: {error}", super::report::shown(path)));
    let dir = tempfile::Builder::new().prefix("shadowfs-sqlite-").tempdir().map_err(place)?;
    let copy = dir.path().join("database");
    copy_out(file, &copy).map_err(place)?;
    if let Some(log) = view.file(&[path, b"-wal"].concat())? {
        copy_out(&log, &dir.path().join("database-wal")).map_err(place)?;
    }
    let checked = open(&copy).and_then(|connection| guarded(view, &connection, |connection| statements(connection, report)));
    view.stop.check()?;
    match checked {
        Ok(()) => Ok(()),
        Err(error) => blame(&error, report),
    }
}

fn copy_out(file: &File<'_>, to: &Path) -> io::Result<()> {
    let mut to = fs::File::create_new(to)?;
    io::copy(&mut file.reader(0).take(file.len()), &mut to).map(drop)
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    // The schema comes from the data: it may not call what has side effects.
    connection.execute_batch("PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; PRAGMA temp_store = MEMORY;")?;
    Ok(connection)
}

/// Runs `work`, and interrupts it if the attempt is to stop.
fn guarded<T>(view: &View<'_>, connection: &Connection, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
    let handle = connection.get_interrupt_handle();
    let (done, ended) = channel::bounded::<()>(0);
    let stop = view.stop;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while ended.recv_timeout(LOOK) == Err(channel::RecvTimeoutError::Timeout) {
                if stop.is_cancelled() {
                    handle.interrupt();
                }
            }
        });
        let result = work(connection);
        drop(done);
        result
    })
}

fn statements(connection: &Connection, report: &mut Report<'_>) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(&format!("PRAGMA integrity_check({PER_FILE})"))?;
    let mut rows = statement.query([])?;
    let mut sound = true;
    while let Some(row) = rows.next()? {
        // What it says of a page can be several lines.
        for line in row.get::<_, String>(0)?.lines().filter(|line| *line != "ok" && !line.starts_with("*** in database")) {
            sound = false;
            report.find(Place::File, line);
        }
    }
    if !sound {
        return Ok(());
    }
    let mut statement = connection.prepare("PRAGMA foreign_key_check")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (table, id, parent): (String, Option<i64>, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let row = id.map_or_else(String::new, |id| format!(", row {id}"));
        let (table, parent) = (quoted(table.as_bytes()), quoted(parent.as_bytes()));
        report.find(Place::File, format_args!("table {table}{row}: refers to a row of {parent} that is not there"));
    }
    // Virtual tables have no pages of their own, and their modules may not be known here.
    let mut statement = connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage > 0")?;
    let tables = statement.query_map([], |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()?;
    for table in tables {
        let sql = format!("SELECT count(*) FROM \"{}\"", table.replace('"', "\"\""));
        report.add("rows", connection.query_row(&sql, [], |row| row.get::<_, i64>(0))?.unsigned_abs());
    }
    Ok(())
}

/// Tells an error of the data from one of the machine.
fn blame(error: &rusqlite::Error, report: &mut Report<'_>) -> io::Result<()> {
    match error.sqlite_error_code() {
        Some(
            ErrorCode::OutOfMemory
            | ErrorCode::SystemIoFailure
            | ErrorCode::DiskFull
            | ErrorCode::PermissionDenied
            | ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::OperationInterrupted,
        ) => Err(io::Error::other(format!("SQLite: {error}"))),
        _ => {
            report.find(Place::File, error);
            Ok(())
        }
    }
}
