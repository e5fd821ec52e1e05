//! What `begin` asked for: between it and `commit` nothing seals, not even after a crash.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::ids::VersionId;

const FILE: &str = "hold";

/// The open version (or the next one) is held open.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hold {
    /// The message that its version gets, unless `commit` brings another.
    pub(super) message: Option<String>,
    /// The version that is being committed: it ends the hold once it is sealed.
    #[serde(default)]
    pub(super) committing: Option<VersionId>,
    /// A version of the job that went down: it overlapped with one that was rejected. What comes after it is not the whole job.
    #[serde(default)]
    pub(super) lost: Option<VersionId>,
}

impl Hold {
    /// The hold that a store is under.
    pub(super) fn load(store: &Path) -> Option<Self> {
        let text = fs::read(store.join(FILE)).ok()?;
        // A damaged one still holds: sealing what was to be held could publish half of a job.
        Some(serde_json::from_slice(&text).unwrap_or_default())
    }

    /// Makes it durable.
    pub(super) fn save(&self, store: &Path) -> io::Result<()> {
        let new = store.join("hold.new");
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        fs::rename(&new, store.join(FILE))?;
        File::open(store)?.sync_all()
    }

    /// Lets go.
    pub(super) fn release(store: &Path) -> io::Result<()> {
        match fs::remove_file(store.join(FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => File::open(store)?.sync_all(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn it_survives_and_a_damaged_one_still_holds() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Hold::load(dir.path()), None);
        let hold = Hold { message: Some("import".to_owned()), committing: Some(VersionId(7)), lost: None };
        hold.save(dir.path()).unwrap();
        assert_eq!(Hold::load(dir.path()), Some(hold));
        fs::write(dir.path().join(FILE), "{\"message\":\"import\"}").unwrap();
        assert_eq!(Hold::load(dir.path()).and_then(|hold| hold.message).as_deref(), Some("import"));
        fs::write(dir.path().join(FILE), "{").unwrap();
        assert_eq!(Hold::load(dir.path()), Some(Hold::default()));
        Hold::release(dir.path()).unwrap();
        Hold::release(dir.path()).unwrap();
        assert_eq!(Hold::load(dir.path()), None);
    }
}
