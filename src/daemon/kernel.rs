//! What the dispatcher asks of the mounts.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::fs::known::Known;
use crate::fs::nodes::ViewNode;
use crate::fs::{Mounts, Notifier};
use crate::tree::key::Name;
use crate::version::staging::Invalidation;

/// Requests answered since the mount, by session and operation.
pub(super) type Counters = BTreeMap<String, BTreeMap<String, u64>>;

/// The mounts as the dispatcher sees them. Called with no lock held: a notice may have to wait for a request that is being answered.
pub(super) trait Kernel: Send {
    /// What the kernel knows of staging is no longer so.
    fn invalidate_staging(&self, what: &[Invalidation]);
    /// What can be browsed has changed, production included.
    fn visible_changed(&self);
    /// The lineage has something new.
    fn lineage_changed(&self);
    /// Names in the views are to be looked up anew.
    fn let_go_of(&self, entries: &[(ViewNode, Name)]);
    /// What it knows of the versions.
    fn known(&self) -> Arc<Known>;
    /// How many requests were answered.
    fn counters(&self) -> Counters;
    /// "passthrough" or "cached".
    fn mode(&self) -> &'static str;
}

/// The real ones.
#[derive(Debug)]
pub(super) struct Mounted {
    mounts: Arc<Mounts>,
    notifier: Notifier,
}

impl Mounted {
    pub(super) fn new(mounts: Arc<Mounts>) -> Self {
        let notifier = mounts.notifier();
        Self { mounts, notifier }
    }
}

impl Kernel for Mounted {
    fn invalidate_staging(&self, what: &[Invalidation]) {
        self.notifier.invalidate_staging(what);
    }

    fn visible_changed(&self) {
        self.notifier.visible_changed();
    }

    fn lineage_changed(&self) {
        self.notifier.lineage_changed();
    }

    fn let_go_of(&self, entries: &[(ViewNode, Name)]) {
        self.notifier.let_go_of(entries);
    }

    fn known(&self) -> Arc<Known> {
        self.mounts.known()
    }

    fn counters(&self) -> Counters {
        self.mounts.counters()
    }

    fn mode(&self) -> &'static str {
        self.mounts.mode()
    }
}
