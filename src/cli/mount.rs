//! `mount`: starts a daemon and returns once its mount answers; also what mount(8) calls for fstab.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::args::{Cli, MountArgs, Verb};
use super::exit::{Exit, Failure, Result};
use crate::control::client::{self, ClientError};
use crate::control::protocol::{Reply, Request};
use crate::daemon::{self, DaemonOptions};
use crate::store::{Store, StoreError};
use crate::sys::{self, Daemonized};

/// Options of fstab that mean nothing to us: they are for mount(8) and systemd, or what we do anyway.
const IGNORED: &[&str] = &[
    "defaults",
    "rw",
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "user",
    "users",
    "nouser",
    "owner",
    "group",
    "exec",
    "nosuid",
    "nodev",
    "async",
    "default_permissions",
];

/// What the options after `-o` say.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    allow_other: bool,
    foreground: bool,
    production: Option<PathBuf>,
}

pub(super) fn run(args: &MountArgs) -> Result {
    // Nothing is open yet. What a kernel before 5.9 can't close stays open, as it always did.
    let _ = sys::close_inherited();
    let options = read_options(&args.options)?;
    let foreground = args.foreground || options.foreground;
    let production = args.production.clone().or(options.production);
    if let Some(dir) = production.as_ref().filter(|_| !sys::mount::privileged()) {
        let line = format!("--production {}: a kernel mount of production needs root; use MNT/production, which needs none", dir.display());
        return Err(Failure::new(Exit::Usage, line));
    }
    let daemon = DaemonOptions {
        store: idle_store(&args.store)?,
        mount_point: sys::mount::prepare(&args.mount_point)?,
        allow_other: args.allow_other || options.allow_other,
        production_dir: production.map(absolute).transpose()?,
        log_to_file: !foreground,
    };
    if foreground { daemon::run(daemon, |_| ()).map_err(|error| Failure::from(&error)) } else { in_background(daemon) }
}

/// The store's path, if it is one and nobody serves it.
fn idle_store(path: &Path) -> Result<PathBuf> {
    let store = match client::store_of(path) {
        Ok(store) if store == path.canonicalize().unwrap_or_default() => store,
        Ok(store) => {
            let line = format!("{}: is in the mount of {}, not a store", path.display(), store.display());
            return Err(Failure::new(Exit::Usage, line));
        }
        Err(ClientError::NotAStore { path, .. }) => {
            let shown = path.display();
            return Err(Failure::new(Exit::Usage, format!("{shown}: not a shadowfs store; make one: shadowfs init {shown}")));
        }
        Err(error) => return Err(error.into()),
    };
    // A daemon that was killed a moment ago may still take a connection, but it answers nothing.
    let place = match client::connect(&store).and_then(|client| client.ask(&Request::Status)) {
        Ok(Reply::Status(status)) => status.mount,
        Ok(_) => "MNT".to_owned(),
        Err(_) => return openable(&store).map(|()| store),
    };
    let line = format!("{}: mounted at {place} already; unmount it first: shadowfs unmount {place}", store.display());
    Err(Failure::new(Exit::Conflict, line))
}

/// Opens the store once before anything is started: what is wrong with it is said here, with its exit code.
fn openable(store: &Path) -> Result {
    // A daemon that is ending answers no more and has the store for a moment still.
    for _ in 0..50 {
        match Store::open(store) {
            Err(StoreError::InUse { .. }) => std::thread::sleep(Duration::from_millis(100)),
            opened => return Ok(opened.map(drop)?),
        }
    }
    Ok(Store::open(store).map(drop)?)
}

fn absolute(path: PathBuf) -> Result<PathBuf> {
    std::path::absolute(&path).map_err(|error| Failure::new(Exit::Usage, format!("{}: {error}", path.display())))
}

/// Leaves the daemon in the background. Nothing has started a thread yet: a fork would lose it.
fn in_background(daemon: DaemonOptions) -> Result {
    let log = daemon.store.join("daemon.log");
    let store = daemon.store.clone();
    let daemonized = sys::daemonize().map_err(|error| Failure::failed(format!("no daemon can be started: {error}")))?;
    let ready = match daemonized {
        Daemonized::Parent(Ok(())) => return Ok(()),
        Daemonized::Parent(Err(line)) => return Err(from_pipe(&line, &store, &log)),
        Daemonized::Child(ready) => ready,
    };
    let done = daemon::run(daemon, move |started| match started {
        Ok(()) => {
            if let Err(error) = ready.ready() {
                tracing::warn!("the terminal could not be let go: {error}");
            }
        }
        Err(error) => ready.failed(&to_pipe(&Failure::from(error))),
    });
    // The parent has told the user, or the log has it.
    done.map_err(|error| Failure { message: String::new(), ..Failure::from(&error) })
}

/// A failure as the child's line to its parent: the exit code goes before the message.
fn to_pipe(failure: &Failure) -> String {
    format!("{} {}", failure.exit as u8, failure.message)
}

fn from_pipe(line: &str, store: &Path, log: &Path) -> Failure {
    match line.split_once(' ').map(|(code, message)| (code.parse(), message)) {
        Some((Ok(code), message)) => Failure::new(Exit::from_code(code), message),
        _ => Failure::failed(format!("{}: {line}; see {}", store.display(), log.display())),
    }
}

fn read_options(words: &[String]) -> Result<Options> {
    let mut options = Options::default();
    for word in words.iter().filter(|word| !word.is_empty()) {
        match word.split_once('=') {
            None if word == "allow_other" => options.allow_other = true,
            None if word == "foreground" => options.foreground = true,
            Some(("production", dir)) if !dir.is_empty() => options.production = Some(dir.into()),
            _ if IGNORED.contains(&word.as_str()) || word.starts_with("x-") || word.starts_with("comment=") => {}
            _ => {
                let line = format!("-o {word}: no such mount option; there are allow_other, production=DIR and foreground");
                return Err(Failure::new(Exit::Usage, line));
            }
        }
    }
    Ok(options)
}

/// The command line of mount(8)'s helpers, `mount.fuse.shadowfs STORE MNT [-sfnv] [-N NS] [-t TYPE] [-o OPTS]`, if we are called as one.
pub(super) fn helper(arguments: &[OsString]) -> Option<Result<Cli>> {
    let name = Path::new(arguments.first()?).file_name().and_then(OsStr::to_str)?;
    if !["mount.fuse.shadowfs", "mount.shadowfs"].contains(&name) {
        return None;
    }
    Some(read_helper(name, &arguments[1..]))
}

fn read_helper(name: &str, arguments: &[OsString]) -> Result<Cli> {
    let usage = || Failure::new(Exit::Usage, format!("usage: {name} STORE MNT [-o OPTIONS]"));
    let mut places = Vec::new();
    let mut args = MountArgs::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.to_str() {
            Some("-o") => args.options.extend(rest.next().and_then(|opts| opts.to_str()).ok_or_else(usage)?.split(',').map(str::to_owned)),
            Some("-t" | "-N") => drop(rest.next().ok_or_else(usage)?),
            Some("-f") => return Err(Failure::new(Exit::Done, "")),
            Some(flag) if flag.len() > 1 && flag.starts_with('-') && flag[1..].chars().all(|c| "snv".contains(c)) => {}
            Some(flag) if flag.starts_with('-') => return Err(usage()),
            _ => places.push(PathBuf::from(argument)),
        }
    }
    let [store, mount_point] = <[PathBuf; 2]>::try_from(places).map_err(|_| usage())?;
    // mount(8) has no word on other users, and a filesystem of fstab is for all of them.
    args.allow_other = nix::unistd::geteuid().is_root();
    Ok(Cli { place: None, verbose: 0, verb: Verb::Mount(MountArgs { store, mount_point, ..args }) })
}

/// Whether what is mounted at `path` is ours and lost its daemon.
pub(super) fn is_corpse(path: &Path) -> io::Result<bool> {
    let dead = sys::mount::lost_its_daemon(path);
    let path = std::path::absolute(path)?;
    let path = match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => parent.canonicalize()?.join(name),
        _ => path,
    };
    Ok(dead && sys::mountinfo::mounted_at(&path)?.is_some_and(|mount| mount.kind == sys::mount::FILESYSTEM))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn fstab_calls_us_by_another_name() {
        assert!(helper(&words("/usr/bin/shadowfs mount a b")).is_none());
        let cli = helper(&words("/sbin/mount.fuse.shadowfs /s /m -sn -t fuse.shadowfs -o rw,noauto,production=/p")).unwrap().unwrap();
        let Verb::Mount(args) = cli.verb else { unreachable!("another verb") };
        assert_eq!((args.store.as_path(), args.mount_point.as_path()), (Path::new("/s"), Path::new("/m")));
        let expected = Options { allow_other: false, foreground: false, production: Some("/p".into()) };
        assert_eq!(read_options(&args.options).unwrap(), expected);
        for wrong in ["mount.shadowfs /s", "mount.shadowfs /s /m -o", "mount.shadowfs /s /m -x", "mount.shadowfs a b c"] {
            assert_eq!(helper(&words(wrong)).unwrap().unwrap_err().exit, Exit::Usage, "{wrong}");
        }
    }

    #[test]
    fn options_that_are_not_ours_are_named() {
        let all: Vec<String> = ["allow_other", "x-systemd.automount", "defaults", ""].map(str::to_owned).to_vec();
        assert!(read_options(&all).unwrap().allow_other);
        let refused = read_options(&["alow_other".to_owned()]).unwrap_err();
        assert_eq!(refused.message, "-o alow_other: no such mount option; there are allow_other, production=DIR and foreground");
    }

    #[test]
    fn a_childs_failure_keeps_its_code() {
        let failure = Failure::new(Exit::Conflict, "in use");
        assert_eq!(from_pipe(&to_pipe(&failure), Path::new("/s"), Path::new("/s/daemon.log")), failure);
        let silent = from_pipe("the daemon ended before it was ready", Path::new("/s"), Path::new("/s/daemon.log"));
        assert_eq!((silent.exit, silent.message.as_str()), (Exit::Failed, "/s: the daemon ended before it was ready; see /s/daemon.log"));
    }
}
