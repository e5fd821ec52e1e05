//! What works on a store that is not mounted: the same as with a daemon, by the process of the command itself.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crossbeam::channel::unbounded;

use super::DaemonError;
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, FILE_NAME};
use crate::control::protocol::GcDoc;
use crate::ids::VersionId;
use crate::retain::{self, Collector, expire, swept};
use crate::store::{Store, StoreError};
use crate::tree::{Nodes, Snapshot, Tree};
use crate::version::staging::StagingOptions;
use crate::version::{History, Staging};

/// A store, opened under its lock, with what its journals hold: nothing of it is written.
struct Opened {
    store: Arc<Store>,
    history: History,
    staging: Arc<Staging>,
    clock: Arc<dyn Clock>,
}

fn other(error: impl std::fmt::Display) -> DaemonError {
    DaemonError::Other(error.to_string())
}

impl Opened {
    fn open(path: &Path) -> Result<Self, DaemonError> {
        let store = Arc::new(Store::open(path)?);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let history = History::new(store.catalog().versions()?, &store.catalog().pointers()?);
        let base = history.base();
        let root = history.get(base).and_then(|record| record.root);
        let root = root.ok_or_else(|| StoreError::Damaged { what: format!("{base}, which staging stands on, has no content") })?;
        let snapshot = Snapshot::new(Tree::stored(Nodes::new(Arc::clone(&store)), root), Arc::clone(&store));
        // Nobody listens: what journals hold is only looked at.
        let (events, _) = unbounded();
        let options = StagingOptions { passthrough: false, flusher: false, ..StagingOptions::default() };
        let staging = Staging::new(snapshot, base, events, Arc::clone(&clock), options)
            .map_err(|error| DaemonError::Other(format!("the open version can't be read, so nothing is removed: {error}")))?;
        Ok(Self { store, history, staging, clock })
    }
}

/// `gc` of a store that is not mounted.
pub fn gc(path: &Path, dry_run: bool) -> Result<GcDoc, DaemonError> {
    let Opened { store, mut history, staging, clock } = Opened::open(path)?;
    let config = Config::load(&path.join(FILE_NAME))?;
    let tags = store.catalog().tags()?;
    let now = clock.now();
    let expired = retain::plan(&history, &tags, &config.retention, &config.ghosts, now).expire;
    let versions: Vec<VersionId> = expired.iter().map(|expiry| expiry.version).collect();
    let live = || staging.live();
    let go_on = AtomicBool::new(false);
    let collector = Collector::new(&store, &live, &go_on);
    let report = if dry_run {
        collector.preview(&versions).map_err(other)?
    } else {
        if !versions.is_empty() {
            expire(&store, &mut history, &versions, now).map_err(other)?;
        }
        let report = collector.collect().map_err(other)?;
        let seen_to = store.catalog().upkeep()?.expiries;
        swept(&store, &report, Some(seen_to), clock.now())?;
        report
    };
    Ok(GcDoc::new(dry_run, &expired, &report))
}
