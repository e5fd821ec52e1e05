//! `unmount`: ends the daemon in order, or clears away what a dead one left.

use std::path::Path;

use super::args::UnmountArgs;
use super::daemon::{Asking, unexpected};
use super::exit::{Exit, Failure, Result};
use super::mount;
use crate::control::client::{self, ClientError};
use crate::control::protocol::{Reply, Request};
use crate::sys;
use crate::sys::mount::MountError;

pub(super) fn run(args: &UnmountArgs, daemon: &Asking) -> Result {
    match args.mount_point.as_deref() {
        Some(mount_point) => at(mount_point),
        None => match daemon.named() {
            Some(path) => at(path),
            None => ask(daemon),
        },
    }
}

fn at(path: &Path) -> Result {
    match client::store_of(path) {
        Ok(_) => ask(&Asking::at(path)),
        Err(ClientError::Corpse { path }) => clear(&path),
        Err(ClientError::NotAStore { path, .. }) => {
            Err(Failure::new(Exit::NoDaemon, format!("{}: no shadowfs is mounted there", path.display())))
        }
        Err(error) => Err(error.into()),
    }
}

fn ask(daemon: &Asking) -> Result {
    match daemon.ask(&Request::Unmount)? {
        Reply::Nothing => Ok(()),
        other => Err(unexpected(&other)),
    }
}

/// Detaches the mount of a dead daemon.
fn clear(path: &Path) -> Result {
    let ours = mount::is_corpse(path).map_err(|error| Failure::failed(format!("{}: {error}", path.display())))?;
    if !ours {
        let line = format!("{}: is below a mount whose daemon is gone; name the mount point itself", path.display());
        return Err(Failure::new(Exit::Usage, line));
    }
    match sys::mount::prepare(path) {
        // What lies beneath is the user's.
        Ok(_) | Err(MountError::NotEmpty(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
