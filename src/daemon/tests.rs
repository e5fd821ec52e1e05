//! The dispatcher with a real store and staging, without FUSE: what happens to versions, from the first write to production.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam::channel::{Sender, unbounded};

use super::kernel::{Counters, Kernel};
use super::message::Message;
use super::requests::Connections;
use super::shared::Shared;
use super::start::{Core, Parts};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::control::protocol::{Reply, Request, StatusDoc, VersionDoc, VersionName};
use crate::control::server::Handler as _;
use crate::ids::VersionId;
use crate::store::Store;
use crate::store::disk::Disk;
use crate::store::record::{Reason, VersionState};
use crate::version::import;
use crate::version::staging::{Caller, Invalidation, NodeRef};

mod clock;
mod crash_points;
mod damage;
#[path = "../../tests/common/disk.rs"]
mod disk;
mod faults;
mod histories;
mod init_points;
mod life;
mod model;
mod steps;

const ROOT: Caller = Caller { uid: 0, gid: 0, pid: 0 };

/// The check of these tests: `*.json` must parse. Nothing seals by itself.
pub(super) const JSON: &str = "
[staging]
settle = \"1h\"
[checks]
workers = 1
retries = 0
[promotion]
window = \"0s\"
require_free = \"0%\"
[[check]]
name = \"v\"
builtin = \"json\"
";

/// The same with a check that can never start here (there is no mount): versions wait for their verdict.
pub(super) fn waiting() -> String {
    JSON.replace("builtin = \"json\"", "run = [\"true\"]")
}

struct NoKernel;

impl Kernel for NoKernel {
    fn invalidate_staging(&self, _what: &[Invalidation]) {}
    fn visible_changed(&self) {}
    fn lineage_changed(&self) {}
    fn let_go_of(&self, _entries: &[(crate::fs::nodes::ViewNode, crate::tree::key::Name)]) {}
    fn known(&self) -> Arc<crate::fs::known::Known> {
        Arc::default()
    }
    fn counters(&self) -> Counters {
        Counters::new()
    }
    fn mode(&self) -> &'static str {
        "cached"
    }
}

pub(super) struct Daemon {
    connections: Option<Connections>,
    thread: Option<JoinHandle<super::dispatcher::Dispatcher>>,
    dir: Option<tempfile::TempDir>,
}

impl Daemon {
    pub(super) fn new(config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let store = Arc::new(Store::init(&path, &SystemClock).unwrap());
        let _t0 = import::empty(&store, &SystemClock).unwrap();
        drop(store);
        Self::start(dir, config)
    }

    fn start(dir: tempfile::TempDir, config: &str) -> Self {
        Self::start_on(dir, config, |_| ())
    }

    /// As `start`, on a store with a fault in it.
    fn start_on(dir: tempfile::TempDir, config: &str, fault: impl FnOnce(&Store)) -> Self {
        Self::serve(Self::driven_in(dir, config, None, fault))
    }

    /// As `start`, on a disk of the test's.
    fn start_over(dir: tempfile::TempDir, config: &str, disk: Option<Arc<dyn Disk>>) -> Self {
        Self::serve(Self::driven_in(dir, config, disk, |_| ()))
    }

    fn serve((mut daemon, mut dispatcher): (Self, super::dispatcher::Dispatcher)) -> Self {
        let thread = std::thread::spawn(move || {
            dispatcher.serve();
            dispatcher
        });
        daemon.thread = Some(thread);
        daemon
    }

    /// With its dispatcher apart: the test says what happens when.
    pub(super) fn driven(config: &str) -> (Self, super::dispatcher::Dispatcher) {
        Self::new(config).drive_with(config)
    }

    pub(super) fn drive(self) -> (Self, super::dispatcher::Dispatcher) {
        self.drive_with(JSON)
    }

    fn drive_with(mut self, config: &str) -> (Self, super::dispatcher::Dispatcher) {
        let dir = self.end();
        Self::driven_in(dir, config, None, |_| ())
    }

    /// The store's directory, of a daemon whose dispatcher was taken apart.
    pub(super) fn dismantle(mut self) -> tempfile::TempDir {
        self.let_go()
    }

    /// Waits until every step is taken.
    pub(super) fn drained(&self) {
        // Requests are answered after the steps that can be taken.
        let _ = self.status();
    }

    fn driven_in(
        dir: tempfile::TempDir,
        config: &str,
        disk: Option<Arc<dyn Disk>>,
        fault: impl FnOnce(&Store),
    ) -> (Self, super::dispatcher::Dispatcher) {
        Self::driven_by(Arc::new(SystemClock), dir, config, disk, fault)
    }

    /// As `driven`, with a clock of the test's.
    fn driven_with(clock: Arc<dyn Clock>, config: &str) -> (Self, super::dispatcher::Dispatcher) {
        let dir = Self::new(config).end();
        Self::driven_by(clock, dir, config, None, |_| ())
    }

    fn driven_by(
        clock: Arc<dyn Clock>,
        dir: tempfile::TempDir,
        config: &str,
        disk: Option<Arc<dyn Disk>>,
        fault: impl FnOnce(&Store),
    ) -> (Self, super::dispatcher::Dispatcher) {
        let file = dir.path().join("store/shadowfs.toml");
        std::fs::write(&file, config).unwrap();
        let store = Arc::new(Store::open_on(&dir.path().join("store"), disk).unwrap());
        fault(&store);
        let core = Core::recover(&store, &clock, false).unwrap();
        let mount = dir.path().join("mnt");
        let shared = Arc::new(Shared::new(store, core.nodes, clock, mount.clone(), &core.history));
        let (messages, inbox) = unbounded();
        let run_dir = dir.path().join("run");
        std::fs::create_dir_all(&run_dir).unwrap();
        let staging = Arc::clone(&core.staging);
        let parts = Parts {
            shared: Arc::clone(&shared),
            staging: core.staging,
            events: core.events,
            history: core.history,
            config: Config::load(&file).unwrap(),
            kernel: Box::new(NoKernel),
            run_dir,
        };
        let mut dispatcher = parts.dispatcher(core.staging_base, messages.clone(), inbox).unwrap();
        dispatcher.resume(&mount).unwrap();
        let keeper = Arc::clone(&dispatcher.keeper);
        (Self { connections: Some(Connections { shared, staging, messages, keeper }), thread: None, dir: Some(dir) }, dispatcher)
    }

    pub(super) fn connections(&self) -> &Connections {
        self.connections.as_ref().unwrap()
    }

    fn messages(&self) -> &Sender<Message> {
        &self.connections().messages
    }

    /// Ends without a word to the store, as a kill does, and starts anew. What was synced is there.
    pub(super) fn crash(mut self, config: &str) -> Self {
        self.connections().staging.sync_all().unwrap();
        let dir = self.end();
        Self::start(dir, config)
    }

    /// As `crash`, but the open version was on no disk yet.
    pub(super) fn crash_before_the_journal(mut self, config: &str) -> Self {
        let dir = self.end();
        for journal in std::fs::read_dir(dir.path().join("store/journal")).unwrap() {
            std::fs::remove_file(journal.unwrap().path()).unwrap();
        }
        Self::start(dir, config)
    }

    fn end(&mut self) -> tempfile::TempDir {
        let _ = self.messages().send(Message::Stop);
        let dispatcher = self.thread.take().unwrap().join().unwrap();
        take_apart(dispatcher);
        self.let_go()
    }

    fn let_go(&mut self) -> tempfile::TempDir {
        let dir = self.dir.take().unwrap();
        // The store is locked until the last one lets go of it.
        let store = Arc::downgrade(&self.connections().shared.store);
        self.connections = None;
        while store.strong_count() > 0 {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        dir
    }

    pub(super) fn configure(&self, config: &str) {
        std::fs::write(self.connections().shared.store.path().join("shadowfs.toml"), config).unwrap();
        self.messages().send(Message::ConfigTouched).unwrap();
    }

    pub(super) fn ask(&self, request: Request) -> Reply {
        // A wait for what never comes is a failure, not a hang.
        let begun = std::time::Instant::now();
        self.connections().handle_while(request, &|| begun.elapsed() > std::time::Duration::from_secs(120))
    }

    pub(super) fn version(&self, request: Request) -> VersionDoc {
        match self.ask(request) {
            Reply::Version(doc) => *doc,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn commit(&self) -> VersionId {
        self.version(Request::Commit { message: None }).version
    }

    pub(super) fn verdict(&self, version: u64) -> VersionDoc {
        self.version(Request::Wait { version: Some(VersionName::Number(VersionId(version))), promoted: false })
    }

    pub(super) fn promoted(&self, version: u64) -> VersionDoc {
        self.version(Request::Wait { version: Some(VersionName::Number(VersionId(version))), promoted: true })
    }

    pub(super) fn status(&self) -> StatusDoc {
        match self.ask(Request::Status) {
            Reply::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn show(&self, version: u64) -> VersionDoc {
        match self.ask(Request::Show { version: VersionName::Number(VersionId(version)) }) {
            Reply::Show(show) => show.version,
            other => panic!("{other:?}"),
        }
    }

    /// Writes a file of the root directory, whole.
    pub(super) fn put(&self, name: &str, text: &str) {
        let staging = &self.connections().staging;
        let flags = libc::O_WRONLY | libc::O_TRUNC;
        let opened = match staging.lookup(NodeRef::ROOT, name.as_bytes()) {
            Ok(attr) => staging.open(&ROOT, attr.node, flags).unwrap(),
            Err(_) => staging.create(&ROOT, NodeRef::ROOT, name.as_bytes(), 0o644, 0, flags).unwrap().1,
        };
        staging.write(&ROOT, opened.handle, 0, text.as_bytes(), false).unwrap();
        staging.flush(opened.handle).unwrap();
        staging.release(opened.handle);
    }

    /// The files of the root directory in staging.
    pub(super) fn staging(&self) -> BTreeMap<String, String> {
        self.content(&self.connections().staging.snapshot().unwrap())
    }

    pub(super) fn production(&self) -> BTreeMap<String, String> {
        let visible = self.connections().shared.visible();
        self.content(&visible.versions[&visible.production].snapshot)
    }

    fn content(&self, snapshot: &crate::tree::Snapshot) -> BTreeMap<String, String> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let entries = snapshot.entries(crate::ids::Ino::ROOT, 0, 1000).unwrap();
        entries.into_iter().map(|(name, ino, _)| (text(&name), text(&snapshot.read(ino, 0, 1000).unwrap()))).collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.thread.is_some() && !std::thread::panicking() {
            drop(self.end());
        }
    }
}

fn take_apart(dispatcher: super::dispatcher::Dispatcher) {
    let super::dispatcher::Dispatcher { errands, pool, running, sweeper, scrubber, hooks, .. } = dispatcher;
    hooks.stop();
    drop(running);
    sweeper.finish();
    scrubber.finish();
    errands.finish();
    pool.stop();
}

pub(super) fn files(list: &[(&str, &str)]) -> BTreeMap<String, String> {
    list.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

pub(super) fn rebased_into(doc: &VersionDoc) -> u64 {
    match doc.reason {
        Some(Reason::Rebased { into }) => into.0,
        ref other => panic!("{other:?}"),
    }
}

pub(super) fn state_of(daemon: &Daemon, version: u64) -> VersionState {
    daemon.show(version).state
}
