//! Who in the daemon itself reads a version: what is leased is neither expired nor swept.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::ids::VersionId;

/// The leases. Lock order: this one, then what is visible.
#[derive(Debug, Default)]
pub(super) struct Leases(Mutex<BTreeMap<VersionId, usize>>);

/// A version is read until this is dropped.
#[must_use = "the lease ends when this is dropped"]
#[derive(Debug)]
pub(super) struct Lease {
    leases: Arc<Leases>,
    version: VersionId,
}

impl Leases {
    /// A lease, if `there` says that the version's content is there still.
    pub(super) fn take(self: &Arc<Self>, version: VersionId, there: impl FnOnce() -> bool) -> Option<Lease> {
        let mut leases = self.0.lock();
        there().then(|| *leases.entry(version).or_insert(0) += 1)?;
        Some(Lease { leases: Arc::clone(self), version })
    }

    pub(super) fn has(&self, version: VersionId) -> bool {
        self.0.lock().contains_key(&version)
    }

    /// Does something that must not happen to a version that is leased. False if it is.
    pub(super) fn unless_leased(&self, version: VersionId, act: impl FnOnce()) -> bool {
        let leases = self.0.lock();
        let free = !leases.contains_key(&version);
        if free {
            act();
        }
        free
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut leases = self.leases.0.lock();
        if let Some(count) = leases.get_mut(&self.version) {
            *count -= 1;
            if *count == 0 {
                leases.remove(&self.version);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn a_version_is_leased_until_the_last_one_is_done() {
        let leases = Arc::new(Leases::default());
        let version = VersionId(3);
        assert!(leases.take(version, || false).is_none() && !leases.has(version));
        let (one, two) = (leases.take(version, || true).unwrap(), leases.take(version, || true).unwrap());
        drop(one);
        assert!(leases.has(version) && !leases.unless_leased(version, || unreachable!()));
        drop(two);
        let mut done = false;
        assert!(leases.unless_leased(version, || done = true) && done);
    }
}
