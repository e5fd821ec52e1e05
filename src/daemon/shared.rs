//! What FUSE threads and connections read without asking the dispatcher.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::RwLock;

use super::examine::Meter;
use super::leases::{Lease, Leases};
use super::lineage_log::LineageLog;
use crate::clock::Clock;
use crate::config::MetricRule;
use crate::fs::views::{LineageSource, ViewSource, Visible, VisibleVersion};
use crate::ids::VersionId;
use crate::store::Store;
use crate::store::record::{RootRef, VersionRecord, VersionState};
use crate::tree::{Nodes, Snapshot, Tree};
use crate::version::History;
use crate::version::lifecycle::is_browsable;

/// Shared state. The locks are leaves: nothing is called while one is held.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) store: Arc<Store>,
    pub(super) nodes: Arc<Nodes>,
    pub(super) clock: Arc<dyn Clock>,
    /// The mount point.
    pub(super) mount: PathBuf,
    pub(super) log: LineageLog,
    /// How far the scrub by hand is.
    pub(super) meter: Meter,
    /// Who in the daemon reads what.
    pub(super) leases: Arc<Leases>,
    visible: RwLock<Arc<Visible>>,
    /// The `[[metric]]` rules in force.
    rules: RwLock<Arc<[MetricRule]>>,
    /// Attempts that run now, by version: their output can be read already.
    running: RwLock<BTreeMap<VersionId, Vec<(String, u32)>>>,
}

impl Shared {
    pub(super) fn new(store: Arc<Store>, nodes: Arc<Nodes>, clock: Arc<dyn Clock>, mount: PathBuf, history: &History) -> Self {
        let log = LineageLog::new(Arc::clone(&store));
        let nothing = Visible {
            versions: BTreeMap::new(),
            ghosts: BTreeMap::new(),
            departed: BTreeMap::new(),
            production: history.production(),
            latest: history.base(),
            valid: history.valid(),
            tags: BTreeMap::new(),
        };
        let visible = RwLock::new(Arc::new(nothing));
        let rules = RwLock::new(Arc::from(Vec::new()));
        let (meter, leases, running) = (Meter::default(), Arc::default(), RwLock::default());
        let shared = Self { store, nodes, clock, mount, log, meter, leases, visible, rules, running };
        shared.publish(history, history.records().map(|record| record.version));
        shared
    }

    /// The content that a root names.
    pub(super) fn snapshot_of(&self, root: RootRef) -> Snapshot {
        snapshot(&self.store, &self.nodes, root)
    }

    /// The content of a version, if it is still there.
    pub(super) fn snapshot(&self, record: &VersionRecord) -> Option<Snapshot> {
        record.root.map(|root| self.snapshot_of(root))
    }

    pub(super) fn rules(&self) -> Arc<[MetricRule]> {
        Arc::clone(&self.rules.read())
    }

    pub(super) fn set_rules(&self, rules: Arc<[MetricRule]>) {
        *self.rules.write() = rules;
    }

    pub(super) fn visible(&self) -> Arc<Visible> {
        Arc::clone(&self.visible.read())
    }

    /// A version that is read until the lease is dropped, if its content is still there.
    pub(super) fn lease(&self, version: VersionId) -> Option<Lease> {
        self.leases.take(version, || self.visible.read().find(version).is_some())
    }

    /// Shows what the history holds now; `changed` are the versions whose records are not what they were. What it costs does not grow
    /// with the others but by a pointer each.
    pub(super) fn publish(&self, history: &History, changed: impl IntoIterator<Item = VersionId>) {
        // All under the lock: somebody may let go of a version meanwhile.
        let mut shown = self.visible.write();
        let next = Arc::make_mut(&mut shown);
        (next.production, next.latest, next.valid) = (history.production(), history.base(), history.valid());
        changed.into_iter().filter_map(|version| history.get(version)).for_each(|record| self.place(next, record));
    }

    /// Shows these tags.
    pub(super) fn set_tags(&self, tags: BTreeMap<String, VersionId>) {
        Arc::make_mut(&mut self.visible.write()).tags = tags;
    }

    /// Puts a version where its state wants it.
    fn place(&self, visible: &mut Visible, record: &VersionRecord) {
        let version = record.version;
        let before = visible.versions.remove(&version).or_else(|| visible.ghosts.remove(&version));
        let shown = |snapshot| Arc::new(VisibleVersion { record: record.clone(), snapshot });
        match (record.root, record.state) {
            (Some(root), state) if is_browsable(state) => {
                visible.versions.insert(version, shown(self.snapshot_of(root)));
            }
            (Some(root), VersionState::Ghost) => {
                visible.ghosts.insert(version, shown(self.snapshot_of(root)));
            }
            // Somebody may still read it.
            (_, VersionState::Expired) => {
                visible.departed.extend(before.map(|before| (version, shown(before.snapshot.clone()))));
            }
            _ => {}
        }
    }

    /// Nobody uses a version that is gone: its content may go as well. False if it is read after all.
    pub(super) fn let_go(&self, version: VersionId) -> bool {
        self.leases.unless_leased(version, || {
            let mut visible = self.visible.write();
            Arc::make_mut(&mut visible).departed.remove(&version);
        })
    }

    pub(super) fn attempt_started(&self, version: VersionId, check: &str, attempt: u32) {
        self.running.write().entry(version).or_default().push((check.to_owned(), attempt));
    }

    pub(super) fn attempt_ended(&self, version: VersionId, check: &str, attempt: u32) {
        let mut running = self.running.write();
        if let Some(attempts) = running.get_mut(&version) {
            attempts.retain(|(running, number)| (running.as_str(), *number) != (check, attempt));
            if attempts.is_empty() {
                running.remove(&version);
            }
        }
    }

    pub(super) fn running(&self, version: VersionId) -> Vec<(String, u32)> {
        self.running.read().get(&version).cloned().unwrap_or_default()
    }
}

impl ViewSource for Shared {
    fn visible(&self) -> Arc<Visible> {
        Self::visible(self)
    }

    fn lineage(&self) -> &dyn LineageSource {
        self
    }
}

fn snapshot(store: &Arc<Store>, nodes: &Arc<Nodes>, root: RootRef) -> Snapshot {
    Snapshot::new(Tree::stored(Arc::clone(nodes), root), Arc::clone(store))
}
