//! What `begin` asked for: between it and `commit` nothing seals, not even after a crash.

use serde::{Deserialize, Serialize};

use crate::ids::VersionId;
use crate::store::{Store, StoreError};

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
    pub(super) fn load(store: &Store) -> Option<Self> {
        // One that is damaged or can't be read still holds: sealing what was to be held could publish half of a job.
        match store.note(FILE) {
            Ok(text) => text.map(|text| serde_json::from_slice(&text).unwrap_or_default()),
            Err(error) => {
                tracing::error!("what was begun stays held: {error}");
                Some(Self::default())
            }
        }
    }

    /// Makes it durable.
    pub(super) fn save(&self, store: &Store) -> Result<(), StoreError> {
        let text = serde_json::to_vec(self).map_err(|error| StoreError::Io { what: format!("write {FILE}"), source: error.into() })?;
        store.put_note(FILE, &text)
    }

    /// Lets go.
    pub(super) fn release(store: &Store) -> Result<(), StoreError> {
        store.remove_note(FILE)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::fs;

    use super::*;
    use crate::clock::SystemClock;

    #[test]
    fn it_survives_and_a_damaged_one_still_holds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let store = Store::init(&path, &SystemClock).unwrap();
        assert_eq!(Hold::load(&store), None);
        let hold = Hold { message: Some("import".to_owned()), committing: Some(VersionId(7)), lost: None };
        hold.save(&store).unwrap();
        assert_eq!(Hold::load(&store), Some(hold));
        fs::write(path.join(FILE), "{\"message\":\"import\"}").unwrap();
        assert_eq!(Hold::load(&store).and_then(|hold| hold.message).as_deref(), Some("import"));
        fs::write(path.join(FILE), "{").unwrap();
        assert_eq!(Hold::load(&store), Some(Hold::default()));
        Hold::release(&store).unwrap();
        Hold::release(&store).unwrap();
        assert_eq!(Hold::load(&store), None);
    }
}
