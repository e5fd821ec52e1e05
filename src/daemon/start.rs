//! The start: recovery, the mounts, the threads.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crossbeam::channel::{Sender, unbounded};

use super::dispatcher::{Dispatcher, Sources, StepError};
use super::errands::Errands;
use super::hooks::{DiskWatch, Hooks, Surroundings};
use super::keeper::{Keeper, Sweeper};
use super::kernel::{Kernel, Mounted};
use super::message::Message;
use super::production::ProductionMount;
use super::requests::Connections;
use super::retention::Retention;
use super::scrubber::Scrubber;
use super::shared::Shared;
use super::waiters::Waiters;
use super::{DaemonError, DaemonOptions, logging, signals};
use crate::check::Pool;
use crate::clock::Clock;
use crate::config::{Config, FILE_NAME, watch::Watch};
use crate::control::server::{self, Server};
use crate::fs::{self as mounts, MountOptions, Mounts, Side};
use crate::ids::VersionId;
use crate::promote::Scheduler;
use crate::store::event::EventKind;
use crate::store::record::{Reason, VersionRecord, VersionState};
use crate::store::{Store, StoreError};
use crate::sys;
use crate::tree::{Nodes, Snapshot, Tree};
use crate::version::staging::{StagingEvent, StagingOptions};
use crate::version::{History, Staging, seal};

/// There while a daemon has the store, with the name of its directory for running checks; left behind by one that crashed.
pub(super) const MARKER: &str = "mounted";
const RUN_DIR: &str = "shadowfs-run-";

/// A daemon that serves.
pub(super) struct Started {
    pub(super) dispatcher: Dispatcher,
    pub(super) mounts: Arc<Mounts>,
    pub(super) server: Server,
    pub(super) _watch: Option<Watch>,
}

fn other(what: &str) -> impl Fn(io::Error) -> DaemonError + '_ {
    move |error| DaemonError::Other(format!("{what}: {error}"))
}

pub(super) fn start(options: &DaemonOptions, clock: Arc<dyn Clock>) -> Result<Started, DaemonError> {
    sys::open_files::raise();
    let store = Arc::new(Store::open(&options.store)?);
    logging::init(store.path(), options.log_to_file);
    signals::block().map_err(other("signals can't be blocked"))?;
    crate::check::worker_warden::available();
    let config = Config::load(&store.path().join(FILE_NAME))?;
    keep_reserve(&store, config.staging.reserve);
    let core = Core::recover(&store, &clock, mounts::passthrough_works(&store))?;
    let shared = Arc::new(Shared::new(Arc::clone(&store), core.nodes, Arc::clone(&clock), options.mount_point.clone(), &core.history));
    shared.set_tags(store.catalog().tags()?.into_iter().collect());
    let mount_options = MountOptions {
        allow_other: options.allow_other,
        passthrough: core.passthrough,
        keep_awake: config.staging.keep_awake,
        ..MountOptions::new(options.mount_point.clone())
    };
    let mounts = Arc::new(mounts::mount(
        mount_options,
        Arc::clone(&store),
        Arc::clone(&core.staging),
        Arc::clone(&shared) as Arc<dyn mounts::views::ViewSource>,
        Arc::clone(&clock),
    )?);
    let (messages, inbox) = unbounded();
    let kernel = Box::new(Mounted::new(Arc::clone(&mounts)));
    let run_dir = run_dir().map_err(other("a directory for running checks"))?;
    let parts =
        Parts { shared: Arc::clone(&shared), staging: core.staging, events: core.events, history: core.history, config, kernel, run_dir };
    let mut dispatcher = parts.dispatcher(core.staging_base, messages.clone(), inbox).map_err(other("the daemon's threads"))?;
    if let Some(dir) = &options.production_dir {
        let binder = Errands::start(Arc::clone(&store), Arc::clone(&clock), messages.clone());
        let binder = binder.map_err(other("a thread for production's mount"))?;
        dispatcher.production_mount = Some(ProductionMount::new(dir.clone(), binder));
    }
    dispatcher.share_rules();
    dispatcher.resume(&options.mount_point)?;
    let keeper = Arc::clone(&dispatcher.keeper);
    let connections = Connections { shared, staging: Arc::clone(&dispatcher.staging), messages: messages.clone(), keeper };
    let server = server::serve(store.path(), Arc::new(connections)).map_err(other("the control socket"))?;
    signals::listen(messages.clone()).map_err(other("a thread for signals"))?;
    watch_mounts(&mounts, messages.clone()).map_err(other("a thread for the mounts"))?;
    let watch = watch_config(&mut dispatcher, messages);
    Ok(Started { dispatcher, mounts, server, _watch: watch })
}

/// On a disk that is full already there is none until there is room.
pub(super) fn keep_reserve(store: &Store, wanted: u64) {
    if let Err(error) = store.keep_reserve(wanted) {
        tracing::warn!("there is no room to keep for when the disk is full: {error}");
    }
}

/// Without a watch the daemon works, and `kill -HUP` reloads.
fn watch_config(dispatcher: &mut Dispatcher, messages: Sender<Message>) -> Option<Watch> {
    let changed = move || {
        let _ = messages.send(Message::ConfigTouched);
    };
    let watch = Watch::new(dispatcher.store.path(), changed);
    watch
        .inspect_err(|error| dispatcher.warn("watch".to_owned(), format!("changes of {FILE_NAME} are not seen by themselves: {error}")))
        .ok()
}

/// Somebody may unmount by other means. (Staging alone also ends when an unmount finds the views in use: then it comes back.)
fn watch_mounts(mounts: &Mounts, messages: Sender<Message>) -> io::Result<()> {
    let ended = mounts.ended();
    let wait = move || {
        if ended.into_iter().any(|side| side == Side::Views) {
            let _ = messages.send(Message::Stop);
        }
    };
    std::thread::Builder::new().name("mounts".to_owned()).spawn(wait).map(drop)
}

/// A directory that other users may look into if they know a name in it.
fn run_dir() -> io::Result<PathBuf> {
    let dir = nix::unistd::mkdtemp(&std::env::temp_dir().join(format!("{RUN_DIR}XXXXXX")))?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o711))?;
    Ok(dir)
}

/// Whether a daemon crashed; what it left in the directory for temporary files goes.
fn clear_run_dir(marker: &Path) -> bool {
    let Ok(left) = fs::read_to_string(marker) else { return marker.exists() };
    let left = Path::new(&left);
    let ours = fs::symlink_metadata(left).is_ok_and(|data| data.is_dir() && data.uid() == nix::unistd::geteuid().as_raw());
    let named = left.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(RUN_DIR));
    if ours && named {
        let _ = fs::remove_dir_all(left);
    }
    true
}

/// What there is before anything is mounted.
pub(super) struct Core {
    pub(super) nodes: Arc<Nodes>,
    pub(super) history: History,
    pub(super) staging: Arc<Staging>,
    pub(super) staging_base: VersionId,
    pub(super) events: crossbeam::channel::Receiver<StagingEvent>,
    pub(super) passthrough: bool,
}

impl Core {
    /// Everything as it was last reported to anyone: the catalog's history, frozen versions sealed, the open one replayed.
    pub(super) fn recover(store: &Arc<Store>, clock: &Arc<dyn Clock>, passthrough: bool) -> Result<Self, DaemonError> {
        let mut history = History::new(store.catalog().versions()?, &store.catalog().pointers()?);
        let nodes = Nodes::new(Arc::clone(store));
        let base = history.base();
        let root = history.get(base).and_then(|record| record.root);
        let root = root.ok_or_else(|| StoreError::Damaged { what: format!("{base}, which staging stands on, has no content") })?;
        let snapshot = Snapshot::new(Tree::stored(Arc::clone(&nodes), root), Arc::clone(store));
        let (sender, events) = unbounded();
        let options = StagingOptions { passthrough, ..StagingOptions::default() };
        let staging = Staging::new(snapshot, base, sender, Arc::clone(clock), options)
            .map_err(|error| DaemonError::Other(format!("the open version can't be recovered: {error}")))?;
        for mut frozen in staging.take_recovered() {
            let version = frozen.version();
            let ground = frozen.parent();
            if ground != history.base() && history.landing(ground) == ground {
                // Staging was put back from its ground by hand, and it could not follow: a crash came before it was sealed as a ghost.
                let root = history.get(history.base()).and_then(|record| record.root);
                let onto = root.map(|root| Snapshot::new(Tree::stored(Arc::clone(&nodes), root), Arc::clone(store)));
                let paths = onto.map_or_else(|| Ok(Vec::new()), |onto| frozen.overlaps(&onto));
                let paths = paths.map_err(|error| DaemonError::Other(format!("{version} can't be compared: {error}")))?;
                frozen.reject(Reason::Conflict { with: ground, paths });
            }
            let record = match seal::seal(store, &frozen, None, clock.now()) {
                Ok((record, _)) => record,
                Err(error) => match seal::seal_as_ghost(store, &frozen, None, clock.now()) {
                    Ok(Some((record, _))) => record,
                    Ok(None) | Err(_) => return Err(DaemonError::Other(format!("{version} can't be sealed: {error}"))),
                },
            };
            tracing::info!("{version} was frozen when the daemon before ended; it is sealed");
            history.sealed(record);
        }
        let staging_base = staging.base();
        Ok(Self { nodes, history, staging, staging_base, events, passthrough })
    }
}

/// What a dispatcher is made of.
pub(super) struct Parts {
    pub(super) shared: Arc<Shared>,
    pub(super) staging: Arc<Staging>,
    pub(super) events: crossbeam::channel::Receiver<StagingEvent>,
    pub(super) history: History,
    pub(super) config: Config,
    pub(super) kernel: Box<dyn Kernel>,
    pub(super) run_dir: PathBuf,
}

impl Parts {
    pub(super) fn dispatcher(
        self,
        staging_base: VersionId,
        messages: Sender<Message>,
        inbox: crossbeam::channel::Receiver<Message>,
    ) -> io::Result<Dispatcher> {
        let Self { shared, staging, events, history, config, kernel, run_dir } = self;
        let (store, clock) = (Arc::clone(&shared.store), Arc::clone(&shared.clock));
        let (ended, attempts) = unbounded();
        let (keeper, woken) = Keeper::new(Arc::clone(&shared), Arc::clone(&staging), kernel.known(), messages.clone());
        let (mount, run) = (shared.mount.clone(), run_dir.clone());
        let around = Surroundings { store: Arc::clone(&store), clock: Arc::clone(&clock), mount, run_dir: run, reports: messages.clone() };
        let now = clock.instant();
        Ok(Dispatcher {
            sweeper: Sweeper::start(Arc::clone(&keeper), woken)?,
            scrubber: Scrubber::start(Arc::clone(&shared), config.scrub.clone())?,
            keeper,
            retention: Retention::default(),
            errands: Errands::start(Arc::clone(&store), Arc::clone(&clock), messages)?,
            pool: Pool::new(ended, Arc::clone(&clock)),
            sources: Sources { messages: inbox, staging: events, attempts },
            shared,
            store,
            clock,
            staging,
            kernel,
            history,
            staging_base,
            config: Arc::new(config),
            config_due: None,
            running: HashMap::new(),
            runs: BTreeMap::new(),
            todo: VecDeque::new(),
            fresh: None,
            retry_at: None,
            sealing: None,
            commits: VecDeque::new(),
            hold: None,
            settle_at: None,
            scheduler: Scheduler::default(),
            promotion: None,
            promotions: 0,
            promote_at: None,
            production_mount: None,
            hooks: Hooks::new(around),
            disk: DiskWatch::new(now),
            waiters: Waiters::default(),
            warnings: BTreeMap::new(),
            run_dir,
            production_changed: false,
            stopping: None,
        })
    }
}

impl Dispatcher {
    /// Takes up what the daemon before left: consequences of a rejection, checks that were interrupted.
    pub(super) fn resume(&mut self, mount_point: &Path) -> Result<(), DaemonError> {
        let failed = |error: &dyn std::fmt::Display| DaemonError::Other(format!("the history can't be taken up: {error}"));
        self.take_up_hold();
        self.drain_staging();
        self.work();
        self.end_lost().map_err(|error| failed(&error))?;
        self.recover_stranded().map_err(|error| failed(&error))?;
        self.restage(self.staging_base).map_err(|error| failed(&error))?;
        self.configure_hooks();
        let unjudged: Vec<_> = self.history.unjudged().map(|record| (record.version, record.passed)).collect();
        for (version, passed) in unjudged {
            if passed {
                self.todo.push_back(super::todo::Todo::Pass(version));
            } else {
                self.begin_checks(version);
            }
        }
        let marker = self.store.path().join(MARKER);
        let recovered = clear_run_dir(&marker);
        let mount = mount_point.display().to_string();
        self.store.put_note(MARKER, self.run_dir.as_os_str().as_encoded_bytes())?;
        self.note(None, EventKind::Mounted { at: mount, recovered })?;
        self.bind_production();
        Ok(())
    }

    /// An open version is in the catalog at once, and in its journal a moment later. What a crash in between left has no changes and
    /// never gets any: it must not stay open for good.
    fn end_lost(&mut self) -> Result<(), StepError> {
        let (in_staging, journals) = (self.staging.activity().version, self.store.journals()?);
        let lost = |record: &&VersionRecord| {
            record.state == VersionState::Open && Some(record.version) != in_staging && !journals.contains(&record.version)
        };
        let lost: Vec<_> = self.history.records().filter(lost).map(|record| record.version).collect();
        for version in lost {
            let decision = self.history.aborted(version, Reason::Lost, self.clock.now())?;
            self.write(decision)?;
        }
        Ok(())
    }
}
