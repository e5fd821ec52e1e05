//! The command line's side: which store a path means, and one request to its daemon.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::protocol::{Refusal, Reply, Request};
use super::wire::{self, WireError};

/// The name of the socket in a store.
pub const SOCKET: &str = "control.sock";

/// How a store's `format` file begins, whatever the format's number.
const FORMAT_BEGINS: &[u8] = b"shadowfs store, format ";

/// The extended attribute by which every path in a mount names its store.
pub const STORE_XATTR: &str = "user.shadowfs.store";

/// Why a daemon could not be asked, or what it refused.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The path is neither a store nor in a mount.
    #[error("{}: not a shadowfs store or mount; {remedy}", path.display())]
    NotAStore {
        /// The path.
        path: PathBuf,
        /// What to do.
        remedy: String,
    },
    /// The path can't be looked at.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nobody answers for the store.
    #[error("{}: no daemon serves this store; mount it: shadowfs mount {} MNT", store.display(), store.display())]
    NoDaemon {
        /// The store.
        store: PathBuf,
    },
    /// The mount's daemon is gone.
    #[error("{}: the daemon of this mount is gone; mount the store again, or clean up: shadowfs unmount {}", path.display(), path.display())]
    Corpse {
        /// The path in the mount.
        path: PathBuf,
    },
    /// This user may not ask.
    #[error("{}: only root and the daemon's user may ask this daemon", store.display())]
    Denied {
        /// The store.
        store: PathBuf,
    },
    /// The conversation failed.
    #[error("{}: the daemon did not answer: {source}", store.display())]
    Wire {
        /// The store.
        store: PathBuf,
        /// Why.
        source: WireError,
    },
    /// The daemon refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// A connection to a daemon: good for one request.
#[derive(Debug)]
pub struct Client {
    store: PathBuf,
    stream: UnixStream,
}

/// The store that `path` means: a store itself, or that of the mount that `path` is in.
pub fn store_of(path: &Path) -> Result<PathBuf, ClientError> {
    if is_store(path).map_err(|source| unreadable(path, source))? {
        return path.canonicalize().map_err(|source| unreadable(path, source));
    }
    let mut name = [0; 4096];
    match rustix::fs::getxattr(path, STORE_XATTR, &mut name[..]) {
        Ok(length) => Ok(PathBuf::from(OsStr::from_bytes(name.get(..length).unwrap_or_default()))),
        Err(Errno::NODATA | Errno::NOTSUP | Errno::PERM) => {
            Err(ClientError::NotAStore { path: path.to_owned(), remedy: format!("make one: shadowfs init {}", path.display()) })
        }
        Err(errno) => Err(unreadable(path, errno.into())),
    }
}

/// The store that the command line means: `-C PATH`, else the working directory, else `$SHADOWFS`.
pub fn resolve(named: Option<&Path>, working: &Path, environment: Option<&Path>) -> Result<PathBuf, ClientError> {
    if let Some(path) = named {
        return store_of(path);
    }
    match (store_of(working), environment) {
        (Err(ClientError::NotAStore { .. }), Some(path)) => store_of(path),
        (Err(ClientError::NotAStore { path, .. }), None) => {
            Err(ClientError::NotAStore { path, remedy: "name one with -C PATH or in $SHADOWFS".to_owned() })
        }
        (found, _) => found,
    }
}

/// Whether `path` is a store's directory, by its `format` file.
fn is_store(path: &Path) -> io::Result<bool> {
    // Asked first, so that a mount whose daemon is gone says so, whatever lies in it.
    fs::metadata(path)?;
    let mut head = Vec::new();
    match File::open(path.join("format")) {
        Ok(file) => {
            file.take(FORMAT_BEGINS.len() as u64).read_to_end(&mut head)?;
            Ok(head == FORMAT_BEGINS)
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        Err(_) => Ok(false),
    }
}

fn unreadable(path: &Path, source: io::Error) -> ClientError {
    match source.raw_os_error() {
        Some(libc::ENOTCONN | libc::ECONNABORTED) => ClientError::Corpse { path: path.to_owned() },
        _ => ClientError::Unreadable { path: path.to_owned(), source },
    }
}

/// Connects to the daemon of `store`.
pub fn connect(store: &Path) -> Result<Client, ClientError> {
    let directory = File::open(store).map_err(|source| unreadable(store, source))?;
    // A socket's address has room for 108 bytes, a store's path may be longer: go by the descriptor.
    let address = format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd());
    let store = store.to_owned();
    match UnixStream::connect(address) {
        Ok(stream) => Ok(Client { store, stream }),
        Err(error) => Err(match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NoDaemon { store },
            io::ErrorKind::PermissionDenied => ClientError::Denied { store },
            _ => ClientError::Wire { store, source: error.into() },
        }),
    }
}

impl Client {
    /// Asks and waits for the answer, however long that takes. A refusal is an error.
    pub fn ask(mut self, request: &Request) -> Result<Reply, ClientError> {
        let answer = match wire::write_frame(&mut self.stream, request) {
            Ok(()) => wire::read_frame(&mut self.stream),
            // A daemon that refuses us (it serves too many) may do so before it has read what we want: its line is there to be read.
            Err(broken) => wire::read_frame(&mut self.stream).map_err(|_| broken),
        };
        match answer {
            Ok(Reply::Refused(refusal)) => Err(refusal.into()),
            Ok(reply) => Ok(reply),
            Err(source) => Err(ClientError::Wire { store: self.store, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::control::protocol::ErrorKind;

    fn store_in(dir: &Path) -> PathBuf {
        let store = dir.join("store");
        fs::create_dir(&store).unwrap();
        fs::write(store.join("format"), "shadowfs store, format 1\n").unwrap();
        store.canonicalize().unwrap()
    }

    /// Answers one request on the store's socket.
    fn answer_once(store: &Path, reply: Reply) -> std::thread::JoinHandle<Request> {
        let directory = File::open(store).unwrap();
        let listener = UnixListener::bind(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd())).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let request = wire::read_frame(&mut stream).unwrap();
            wire::write_frame(&mut stream, &reply).unwrap();
            request
        })
    }

    #[test]
    fn the_working_directory_comes_before_the_environment() {
        let dir = tempfile::tempdir().unwrap();
        let store = store_in(dir.path());
        let other = dir.path().join("other");
        fs::create_dir(&other).unwrap();
        assert_eq!(resolve(None, &store, Some(&other)).unwrap(), store);
        assert_eq!(resolve(None, &other, Some(&store)).unwrap(), store);
        assert_eq!(resolve(Some(&store), &other, None).unwrap(), store);
    }

    #[test]
    fn what_is_named_is_never_guessed_around() {
        let dir = tempfile::tempdir().unwrap();
        let store = store_in(dir.path());
        let refused = resolve(Some(dir.path()), &store, Some(&store)).unwrap_err();
        assert!(matches!(refused, ClientError::NotAStore { .. }), "{refused}");
        let refused = resolve(Some(&dir.path().join("missing")), &store, None).unwrap_err();
        assert!(matches!(refused, ClientError::Unreadable { .. }), "{refused}");
        let refused = resolve(None, dir.path(), None).unwrap_err();
        assert!(refused.to_string().ends_with("not a shadowfs store or mount; name one with -C PATH or in $SHADOWFS"), "{refused}");
    }

    #[test]
    fn a_format_file_of_something_else_makes_no_store() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("format"), "mp3").unwrap();
        assert!(matches!(store_of(dir.path()), Err(ClientError::NotAStore { .. })));
    }

    #[test]
    fn a_store_without_a_daemon_is_told_from_one_with() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(120));
        fs::create_dir(&deep).unwrap();
        let store = store_in(&deep);
        assert!(matches!(connect(&store), Err(ClientError::NoDaemon { .. })));
        let served = answer_once(&store, Reply::Nothing);
        assert_eq!(connect(&store).unwrap().ask(&Request::Abort).unwrap(), Reply::Nothing);
        assert_eq!(served.join().unwrap(), Request::Abort);
        // The socket's file outlives its daemon.
        assert!(matches!(connect(&store), Err(ClientError::NoDaemon { .. })));
    }

    #[test]
    fn a_refusal_is_an_error_with_its_class() {
        let dir = tempfile::tempdir().unwrap();
        let store = store_in(dir.path());
        let refusal = Refusal { kind: ErrorKind::Conflict, message: "no".to_owned() };
        let served = answer_once(&store, Reply::Refused(refusal.clone()));
        let Err(ClientError::Refused(got)) = connect(&store).unwrap().ask(&Request::Status) else { unreachable!("not refused") };
        assert_eq!(got, refusal);
        served.join().unwrap();
    }
}
