//! `init`: makes a store, with a bar on a terminal while a directory is copied in.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use super::args::InitArgs;
use super::exit::{Exit, Failure, Result};
use super::output::Out;
use crate::clock::SystemClock;
use crate::config::{DEFAULT_FILE, FILE_NAME};
use crate::control::protocol::VersionDoc;
use crate::store::Store;
use crate::store::record::VersionRecord;
use crate::version::import::{self, ImportError};

pub(super) fn run(args: &InitArgs, out: &mut Out) -> Result {
    let from = args.from.as_deref().map(readable).transpose()?;
    let store = Arc::new(Store::init(&args.store, &SystemClock)?);
    match fill(&store, from) {
        Ok((record, copied)) => {
            if args.json.json {
                return Ok(out.json(&VersionDoc::from(&record))?);
            }
            let shown = args.store.display();
            let what = copied.map_or_else(|| "t0 is empty".to_owned(), |copied| format!("t0 has {copied}"));
            Ok(out.line(format_args!("{shown}: a store; {what}; mount it: shadowfs mount {shown} MNT"))?)
        }
        Err(failure) => {
            // Half a store would look like one. What can't be removed is left to the eyes of whoever reads the line.
            let _ = std::fs::remove_file(store.path().join(FILE_NAME));
            let undone = Arc::into_inner(store).map(Store::undo_init);
            match undone {
                Some(Err(error)) => Err(Failure::new(failure.exit, format!("{}; what was made is left: {error}", failure.message))),
                _ => Err(failure),
            }
        }
    }
}

/// A directory that can be listed; everything else is refused before anything is made.
fn readable(dir: &Path) -> Result<&Path> {
    match dir.read_dir() {
        Ok(_) => Ok(dir),
        Err(error) => Err(Failure::new(Exit::Usage, format!("--from {}: {error}", dir.display()))),
    }
}

/// The configuration and t0; says how much was copied.
fn fill(store: &Arc<Store>, from: Option<&Path>) -> Result<(VersionRecord, Option<String>)> {
    let config = store.path().join(FILE_NAME);
    write(&config).map_err(|error| Failure::failed(format!("{}: can't be written: {error}", config.display())))?;
    let Some(dir) = from else { return Ok((import::empty(store, &SystemClock).map_err(refused)?, None)) };
    let bar = bar(dir);
    let told = std::cell::Cell::new((0, 0));
    let record = import::import(store, dir, &SystemClock, &|files, bytes| {
        told.set((files, bytes));
        bar.set_position(files);
        bar.set_message(HumanBytes(bytes).to_string());
    });
    bar.finish_and_clear();
    let record = record.map_err(refused)?;
    let (files, bytes) = told.get();
    Ok((record, Some(format!("{files} files, {}", HumanBytes(bytes)))))
}

/// The configuration is on disk before the last step of `init` makes the store one. What an `init` that was broken off has left of it is
/// written anew; what somebody has made of it since stays.
fn write(config: &Path) -> io::Result<()> {
    match std::fs::read(config) {
        Ok(found) if !DEFAULT_FILE.as_bytes().starts_with(&found) => return Ok(()),
        Ok(_) => std::fs::remove_file(config)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut file = File::create_new(config)?;
    file.write_all(DEFAULT_FILE.as_bytes())?;
    file.sync_all()
}

fn refused(error: ImportError) -> Failure {
    let exit = match &error {
        ImportError::Store(_) | ImportError::Tree(_) | ImportError::Source { .. } => Exit::Failed,
        ImportError::Changed { .. } => Exit::Temporary,
        ImportError::Inside { .. } => Exit::Usage,
    };
    match error {
        ImportError::Store(error) => error.into(),
        error => Failure::new(exit, error.to_string()),
    }
}

/// A bar on standard error if that is a terminal. Counting first makes it honest, and costs a walk over names only.
fn bar(dir: &Path) -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if bar.is_hidden() {
        return bar;
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar.set_message("counting files");
    let total = count(dir).unwrap_or(0);
    bar.set_length(total);
    bar.set_message("");
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {human_pos}/{human_len} files, {msg}, {eta} left") {
        bar.set_style(style);
    }
    bar
}

/// Entries below `dir`; what can't be read is the import's to complain about.
fn count(dir: &Path) -> io::Result<u64> {
    let mut found = 0;
    for entry in dir.read_dir()? {
        let entry = entry?;
        found += 1;
        if entry.file_type()?.is_dir() {
            found += count(&entry.path()).unwrap_or(0);
        }
    }
    Ok(found)
}
