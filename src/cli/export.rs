//! `export`: a version as a directory, a tar file or a tar stream, read where the mount shows it.

mod archive;
mod directory;
mod source;

use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use serde::Serialize;
use tempfile::NamedTempFile;

use super::args::ExportArgs;
use super::daemon::Asking;
use super::exit::{Exit, Failure, Result};
use super::output::{Out, quoted};
use crate::control::protocol::{Request, VersionDoc};
use crate::ids::VersionId;
use crate::store::record::VersionState;
use archive::Archive;
use directory::Directory;
use source::Sink;

/// What an export did.
#[derive(Debug, Serialize)]
struct Exported {
    version: VersionId,
    destination: String,
    /// Files, directories and all others.
    entries: u64,
    /// Bytes of their contents, without holes.
    bytes: u64,
    /// What the destination could not take, one line each.
    left_out: Vec<String>,
}

pub(super) fn run(args: ExportArgs, daemon: &Asking, out: &mut Out) -> Result {
    let shown = args.destination.display().to_string();
    let stream = args.destination.as_os_str() == "-";
    refuse_early(&args, stream)?;
    let Some(doc) = daemon.version(&Request::Find { version: args.version })? else {
        return Err(Failure::failed("the daemon names no version"));
    };
    let root = root_of(&doc, Path::new(&daemon.status()?.mount))?;
    let job = Job { root, bar: bar() };
    let done = if stream {
        job.stream(io::stdout().lock())
    } else if args.destination.extension().is_some_and(|extension| extension == "tar") {
        job.tar(&args.destination)
    } else {
        job.directory(&args.destination)
    };
    job.bar.finish_and_clear();
    let walked = done?;
    for line in &walked.left_out {
        eprintln!("shadowfs: {line}");
    }
    let exported =
        Exported { version: doc.version, destination: shown, entries: walked.entries, bytes: walked.bytes, left_out: walked.left_out };
    if args.json.json {
        out.json(&exported)?;
    } else if !stream {
        let Exported { version, destination, entries, bytes, .. } = exported;
        out.line(format_args!("{version} is in {destination}: {entries} entries, {}", HumanBytes(bytes)))?;
    }
    Ok(())
}

/// What can be told to be wrong before anything is asked.
fn refuse_early(args: &ExportArgs, stream: bool) -> Result {
    if stream && args.json.json {
        return Err(Failure::new(Exit::Usage, "an archive and a JSON document can't both go to standard output"));
    }
    if stream && io::stdout().is_terminal() {
        return Err(Failure::new(Exit::Usage, "an archive would only confuse a terminal; redirect it, or name a file: x.tar"));
    }
    let extension = args.destination.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    if ["gz", "tgz", "xz", "txz", "zst", "tzst", "bz2", "tbz2"].contains(&extension) {
        let shown = args.destination.display();
        let line = format!("{shown}: export does not compress; let a program do it: shadowfs export ... - | gzip > {shown}");
        return Err(Failure::new(Exit::Usage, line));
    }
    Ok(())
}

/// Where the mount shows a version.
fn root_of(doc: &VersionDoc, mount: &Path) -> Result<PathBuf> {
    let view = match doc.state {
        VersionState::Open => {
            let line = format!("{} is open; `shadowfs commit` first", doc.version);
            return Err(Failure::new(Exit::Conflict, line));
        }
        VersionState::Expired | VersionState::Aborted => {
            let line = format!("{} is {}: its content is gone", doc.version, doc.state);
            return Err(Failure::new(Exit::Conflict, line));
        }
        VersionState::Ghost => "ghosts",
        VersionState::Checking | VersionState::Valid | VersionState::Promoted | VersionState::Superseded => "versions",
    };
    Ok(mount.join(view).join(doc.version.to_string()))
}

/// A spinner on standard error if that is a terminal.
fn bar() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {human_pos} entries, {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// What was walked over.
#[derive(Debug, Default)]
struct Walked {
    entries: u64,
    bytes: u64,
    left_out: Vec<String>,
}

struct Job {
    root: PathBuf,
    bar: ProgressBar,
}

impl Job {
    fn fill(&self, sink: &mut dyn Sink) -> Result<Walked> {
        let mut walked = Walked::default();
        source::walk(&self.root, sink, &mut |bytes| {
            walked.entries += 1;
            walked.bytes += bytes;
            self.bar.set_position(walked.entries);
            self.bar.set_message(HumanBytes(walked.bytes).to_string());
        })?;
        sink.finish()?;
        walked.left_out = sink.left_out();
        Ok(walked)
    }

    fn stream(&self, to: impl Write) -> Result<Walked> {
        self.fill(&mut Archive::new(io::BufWriter::with_capacity(1 << 20, to)))
    }

    /// The file is there once it is whole.
    fn tar(&self, path: &Path) -> Result<Walked> {
        let refuse = |error: &io::Error| match error.kind() {
            io::ErrorKind::AlreadyExists => Failure::new(Exit::Conflict, format!("{}: is there already", path.display())),
            _ => Failure::failed(format!("{}: {error}", path.display())),
        };
        if fs::symlink_metadata(path).is_ok() {
            return Err(refuse(&io::ErrorKind::AlreadyExists.into()));
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let file = tempfile::Builder::new().prefix(".shadowfs-export-").permissions(readable()).tempfile_in(parent);
        let file: NamedTempFile = file.map_err(|error| refuse(&error))?;
        let walked = self.fill(&mut Archive::new(io::BufWriter::with_capacity(1 << 20, file.as_file())))?;
        file.as_file().sync_all().map_err(|error| refuse(&error))?;
        file.persist_noclobber(path).map_err(|error| refuse(&error.error))?;
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(|error| refuse(&error))?;
        Ok(walked)
    }

    /// What was made is removed again if it can't be completed.
    fn directory(&self, path: &Path) -> Result<Walked> {
        let mut sink = Directory::make(path)?;
        let filled = self.fill(&mut sink);
        if filled.is_err() {
            sink.remove();
        }
        filled
    }
}

/// The mode of a new file, before the umask.
fn readable() -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o666)
}

/// A failure at a path of the version or of the destination.
fn failed_at(path: &Path, what: &str, error: impl Into<io::Error>) -> Failure {
    let path = quoted(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()));
    failed(&format!("{path}: {what}"), error)
}

/// A failure, but for a reader that has seen enough.
fn failed(what: &str, error: impl Into<io::Error>) -> Failure {
    let error = error.into();
    match error.kind() {
        io::ErrorKind::BrokenPipe => error.into(),
        _ => Failure::failed(format!("{what}: {error}")),
    }
}
