//! What a store's directory must be before anything in it is trusted: its owner's alone, and no way out of itself. A daemon of root that
//! serves a directory which somebody else can change would write where that somebody's links point.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::host::HostDir;
use super::{Result, StoreError};

/// The only name that may be a link: whoever owns the store may keep the configuration elsewhere.
const CONFIGURATION: &str = "shadowfs.toml";

/// Refuses a directory that is another's, that others may write to, or that has links where the store has files. One that others may
/// only look into (a copy, something unpacked) is closed to them.
pub(super) fn guard(host: &HostDir, path: &Path) -> Result<()> {
    let status = host.status().map_err(|error| StoreError::io(format!("stat {}", path.display()), error))?;
    refuse_owner(path, status.uid(), nix::unistd::geteuid().as_raw())?;
    let mode = Permissions::mode(&status.permissions()) & 0o7777;
    if mode & 0o022 != 0 {
        return Err(StoreError::Exposed { path: path.to_owned(), mode });
    }
    if mode & 0o055 != 0 {
        tracing::warn!("{} has mode {mode:04o}: it is its owner's alone from now on", path.display());
        let closed = std::fs::set_permissions(path, Permissions::from_mode(0o700));
        closed.map_err(|error| StoreError::io(format!("change the mode of {}", path.display()), error))?;
    }
    for name in host.names(".")? {
        if name != CONFIGURATION && path.join(&name).is_symlink() {
            return Err(StoreError::Link { path: path.join(name) });
        }
    }
    Ok(())
}

fn refuse_owner(path: &Path, owner: u32, own: u32) -> Result<()> {
    if owner == own { Ok(()) } else { Err(StoreError::Foreign { path: path.to_owned(), owner, own }) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn guarded(path: &Path) -> Result<()> {
        guard(&HostDir::open(path, None).unwrap(), path)
    }

    #[test]
    fn a_store_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        for (mode, after) in [(0o700, 0o700), (0o500, 0o500), (0o755, 0o700), (0o701, 0o700)] {
            fs::set_permissions(dir.path(), Permissions::from_mode(mode)).unwrap();
            guarded(dir.path()).unwrap();
            assert_eq!(fs::metadata(dir.path()).unwrap().permissions().mode() & 0o7777, after, "{mode:o}");
        }
        for mode in [0o770, 0o720, 0o1777] {
            fs::set_permissions(dir.path(), Permissions::from_mode(mode)).unwrap();
            assert!(matches!(guarded(dir.path()), Err(StoreError::Exposed { .. })), "{mode:o}");
        }
        assert!(refuse_owner(dir.path(), 1000, 1000).is_ok());
        let refused = refuse_owner(Path::new("/s"), 1000, 0).unwrap_err().to_string();
        assert_eq!(refused, "/s belongs to uid 1000, this is uid 0; mount it as its owner, or make it yours: chown -R 0 /s");
    }

    #[test]
    fn links_lead_out_of_a_store_nowhere_but_to_the_configuration() {
        let dir = tempfile::tempdir().unwrap();
        symlink("/etc/hostname", dir.path().join("shadowfs.toml")).unwrap();
        guarded(dir.path()).unwrap();
        symlink("/tmp", dir.path().join("objects")).unwrap();
        assert!(matches!(guarded(dir.path()), Err(StoreError::Link { path }) if path.ends_with("objects")));
    }
}
