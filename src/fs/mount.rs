//! Both sessions, up and down together; or, without root, the one that answers for both.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use super::adapter_backing::Opener;
use super::attendance::Attendance;
use super::combined_session::CombinedSession;
use super::counters::Counters;
use super::known::Known;
use super::nodes::{RawNode, StagingNodes, ViewNode};
use super::notify::{self, Notice};
use super::session::{self, RunningSession, SessionNotifier, Side};
use super::slow_lane::SlowLane;
use super::staging_session::StagingSession;
use super::views::{ViewSource, Views, Visible};
use super::views_session::ViewsSession;
use crate::clock::Clock;
use crate::store::Store;
use crate::sys::mount::{self as sys_mount, FuseMount, MountError, Mounted};
use crate::tree::key::Name;
use crate::version::staging::{Invalidation, Staging};

/// The directory below the mount point that staging is mounted on.
const STAGING: &str = "staging";

/// How far the kernel reads ahead, in KiB: as many requests of the largest size as keep a disk busy while one is being copied.
const READ_AHEAD: u32 = 4096;

/// How long a session may take to end after it was unmounted.
const PATIENCE: Duration = Duration::from_secs(2);

/// How to mount.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// Where; `sys::mount::prepare` is called on it.
    pub mount_point: PathBuf,
    /// Let other users in.
    pub allow_other: bool,
    /// Offer passthrough, as `passthrough_works` found it possible and `StagingOptions` was told.
    pub passthrough: bool,
    /// Answer for staging in the session of the views, in one mount. Needed without root (`combined_session` says why), and then
    /// without passthrough.
    pub combined: bool,
    /// Threads that answer requests of each session.
    pub threads: usize,
    /// Keep idle processors from halting while requests follow each other closely (`wakeful`).
    pub keep_awake: bool,
}

impl MountOptions {
    /// The usual: for the owner only, without passthrough; in one mount unless we are root.
    #[must_use]
    pub fn new(mount_point: PathBuf) -> Self {
        Self { mount_point, allow_other: false, passthrough: false, combined: !sys_mount::privileged(), threads: 2, keep_awake: false }
    }
}

/// Whether this kernel lets this process pass reads and writes through to files of the store: tried on a filesystem that is
/// mounted nowhere.
#[must_use]
pub fn passthrough_works(store: &Store) -> bool {
    if !sys_mount::privileged() {
        tracing::info!("no passthrough, which needs root: files are served from the cache");
        return false;
    }
    let tried = crate::sys::device::connect_nowhere().and_then(|(fuse, _superblock)| {
        let file = File::open(store.path().join("format"))?;
        session::passes_through(fuse, &file)
    });
    tried.inspect_err(|error| tracing::info!(%error, "no passthrough: files are served from the cache")).is_ok()
}

/// What both sessions serve.
struct Served {
    staging: Arc<Staging>,
    store: Arc<Store>,
    options: MountOptions,
    counters: [Arc<Counters>; 2],
    known: Arc<Known>,
    ended: Sender<Side>,
    clock: Arc<dyn Clock>,
}

/// A session and where it is mounted.
#[derive(Debug)]
struct Up {
    mounted: Mounted,
    session: RunningSession,
}

/// A mount of both sessions.
pub struct Mounts {
    served: Served,
    ended: Receiver<Side>,
    notifier: Notifier,
    /// Taken out while they come down. A leaf lock: nothing waits while it is held.
    up: Mutex<(Option<Up>, Option<Up>)>,
}

/// Mounts the views at the mount point and staging below it.
///
/// # Errors
/// The mount point can't be used, or the kernel refused; nothing is left mounted.
pub fn mount(
    options: MountOptions,
    store: Arc<Store>,
    staging: Arc<Staging>,
    source: Arc<dyn ViewSource>,
    clock: Arc<dyn Clock>,
) -> Result<Mounts, MountError> {
    let point = sys_mount::prepare(&options.mount_point)?;
    let passthrough = options.passthrough && !options.combined;
    let options = MountOptions { mount_point: point, passthrough, ..options };
    let owner = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
    let shown = source.visible();
    let views = Arc::new(Views::new(source, Arc::clone(&store), Arc::clone(&clock), owner));
    let (ended_sender, ended) = bounded(8);
    let served = Served { staging, store, options, counters: Default::default(), known: Arc::default(), ended: ended_sender, clock };
    let (up_views, up_staging) = served.mount_all(&views)?;
    for up in [Some(&up_views), up_staging.as_ref()].into_iter().flatten() {
        sys_mount::set_read_ahead(&up.mounted, READ_AHEAD);
    }
    let (to_views, to_staging) = (up_views.session.notifier(), up_staging.as_ref().unwrap_or(&up_views).session.notifier());
    let nodes = served.nodes();
    let notifier = Notifier(Arc::new(Notices { views, shown: Mutex::new(shown), to_views, to_staging: Mutex::new(to_staging), nodes }));
    Ok(Mounts { served, ended, notifier, up: Mutex::new((Some(up_views), up_staging)) })
}

impl Served {
    fn fuse<'a>(&'a self, target: &'a Path, read_only: bool) -> FuseMount<'a> {
        FuseMount { target, source: self.store.path(), read_only, allow_other: self.options.allow_other }
    }

    const fn nodes(&self) -> StagingNodes {
        if self.options.combined { StagingNodes::BesideViews } else { StagingNodes::Alone }
    }

    /// The views, and staging if it is a mount of its own.
    fn mount_all(&self, views: &Arc<Views>) -> Result<(Up, Option<Up>), MountError> {
        if self.options.combined {
            return Ok((self.mount_combined(views)?, None));
        }
        let up = self.mount_views(views)?;
        match self.mount_staging() {
            Ok(staging) => Ok((up, Some(staging))),
            Err(error) => {
                let _ = sys_mount::unmount(&up.mounted, true);
                up.session.join(PATIENCE);
                Err(error)
            }
        }
    }

    fn mount_combined(&self, views: &Arc<Views>) -> Result<Up, MountError> {
        let (fuse, mounted) = sys_mount::mount(&self.fuse(&self.options.mount_point, false))?;
        let slow = SlowLane::start().map_err(|error| self.abandon(&mounted, error))?;
        // Nothing is open in passthrough, so nothing changes behind the kernel's back and nobody has to listen.
        let (volatile, _) = bounded(1);
        let attendance = self.attendance(&fuse, &mounted)?;
        let filesystem = CombinedSession {
            views: self.views_session(views, Some(Arc::clone(&self.staging)), Arc::clone(&attendance)),
            staging: self.staging_session(slow, volatile, attendance),
        };
        self.start(Side::Views, filesystem, fuse, mounted)
    }

    fn mount_views(&self, views: &Arc<Views>) -> Result<Up, MountError> {
        let (fuse, mounted) = sys_mount::mount(&self.fuse(&self.options.mount_point, true))?;
        let attendance = self.attendance(&fuse, &mounted)?;
        let session = self.views_session(views, None, attendance);
        self.start(Side::Views, session, fuse, mounted)
    }

    fn mount_staging(&self) -> Result<Up, MountError> {
        let target = self.options.mount_point.join(STAGING);
        let (fuse, mounted) = sys_mount::mount(&self.fuse(&target, false))?;
        let (volatile, nodes) = bounded(1024);
        let slow = SlowLane::start().map_err(|error| self.abandon(&mounted, error))?;
        let attendance = self.attendance(&fuse, &mounted)?;
        let up = self.start(Side::Staging, self.staging_session(slow, volatile, attendance), fuse, mounted)?;
        match forget_attributes(nodes, up.session.notifier()) {
            Ok(()) => Ok(up),
            Err(error) => {
                let error = self.abandon(&up.mounted, error);
                up.session.join(PATIENCE);
                Err(error)
            }
        }
    }

    fn attendance(&self, fuse: &File, mounted: &Mounted) -> Result<Arc<Attendance>, MountError> {
        let device = fuse.try_clone().map_err(|error| self.abandon(mounted, error))?;
        Ok(Arc::new(Attendance::new(device, self.threads(), Arc::clone(&self.clock), self.options.keep_awake)))
    }

    fn threads(&self) -> usize {
        self.options.threads.max(1)
    }

    fn views_session(&self, views: &Arc<Views>, beside: Option<Arc<Staging>>, attendance: Arc<Attendance>) -> ViewsSession {
        let (views, counters, known) = (Arc::clone(views), Arc::clone(&self.counters[0]), Arc::clone(&self.known));
        ViewsSession { views, counters, attendance, known, beside }
    }

    fn staging_session(&self, slow: SlowLane, volatile: Sender<RawNode>, attendance: Arc<Attendance>) -> StagingSession {
        StagingSession {
            staging: Arc::clone(&self.staging),
            store: Arc::clone(&self.store),
            counters: Arc::clone(&self.counters[1]),
            attendance,
            slow,
            opener: Opener { staging: Arc::clone(&self.staging), backings: Arc::default(), volatile, direct: false },
            passthrough: self.options.passthrough,
            nodes: self.nodes(),
        }
    }

    fn start(&self, side: Side, filesystem: impl session::Answers, fuse: File, mounted: Mounted) -> Result<Up, MountError> {
        match RunningSession::start(side, filesystem, fuse, self.threads(), self.ended.clone()) {
            Ok(session) => Ok(Up { mounted, session }),
            Err(error) => Err(self.abandon(&mounted, error)),
        }
    }

    fn abandon(&self, mounted: &Mounted, source: io::Error) -> MountError {
        let _ = sys_mount::unmount(mounted, true);
        MountError::Refused { path: mounted.path.clone(), doing: "starting the session", source }
    }
}

/// The thread that tells the kernel which attributes it must ask for from now on. It ends with the session.
fn forget_attributes(nodes: Receiver<RawNode>, notifier: SessionNotifier) -> io::Result<()> {
    let run = move || nodes.into_iter().for_each(|node| notifier.send(&Notice::Attributes(node)));
    thread::Builder::new().name("fuse-notices".to_owned()).spawn(run).map(drop)
}

impl Mounts {
    /// The mount point, without links.
    #[must_use]
    pub fn mount_point(&self) -> &Path {
        &self.served.options.mount_point
    }

    /// How files are served where the kernel lets us choose: "passthrough" or "cached".
    #[must_use]
    pub const fn mode(&self) -> &'static str {
        if self.served.options.passthrough { "passthrough" } else { "cached" }
    }

    /// Tells the kernel what changed.
    #[must_use]
    pub fn notifier(&self) -> Notifier {
        self.notifier.clone()
    }

    /// Gets a message when a session ends: by `unmount`, or because someone unmounted it by hand.
    #[must_use]
    pub fn ended(&self) -> Receiver<Side> {
        self.ended.clone()
    }

    /// Requests answered since the mount, by session and operation.
    #[must_use]
    pub fn counters(&self) -> BTreeMap<String, BTreeMap<String, u64>> {
        let [views, staging] = &self.served.counters;
        [(Side::Views, views), (Side::Staging, staging)].map(|(side, counters)| (side.name().to_owned(), counters.snapshot())).into()
    }

    /// What the kernel knows of the dataset in the views.
    #[must_use]
    pub fn known(&self) -> Arc<Known> {
        Arc::clone(&self.served.known)
    }

    /// Takes both down and waits for their end. `lazy` detaches them although they are in use.
    ///
    /// Not from a FUSE thread.
    ///
    /// # Errors
    /// Something is in use there (then both are still up), or the kernel refused.
    pub fn unmount(&self, lazy: bool) -> Result<(), MountError> {
        let (views, staging) = std::mem::take(&mut *self.up.lock());
        let apart = staging.is_some();
        if let Some(up) = staging {
            if let Err(error) = sys_mount::unmount(&up.mounted, lazy) {
                *self.up.lock() = (views, Some(up));
                return Err(error);
            }
            wait_for(up, lazy);
        }
        let Some(up) = views else { return Ok(()) };
        match sys_mount::unmount(&up.mounted, lazy) {
            Ok(()) => {
                wait_for(up, lazy);
                Ok(())
            }
            Err(error) => {
                let staging = if apart { self.put_staging_back() } else { None };
                *self.up.lock() = (Some(up), staging);
                Err(error)
            }
        }
    }

    /// Staging had to go first to let go of the views; they are in use, so it comes back.
    fn put_staging_back(&self) -> Option<Up> {
        match self.served.mount_staging() {
            Ok(up) => {
                *self.notifier.0.to_staging.lock() = up.session.notifier();
                Some(up)
            }
            Err(error) => {
                tracing::error!(%error, "staging could not be mounted again");
                None
            }
        }
    }
}

/// A detached session lives until the last file in it is closed: that is not waited for. Nor is it for long that another mount
/// namespace (a container, a service with mounts of its own) lets go of its copy of the mount: it dies with this process.
fn wait_for(up: Up, lazy: bool) {
    let path = up.mounted.path;
    if !lazy && !up.session.join(PATIENCE) {
        tracing::warn!("{}: still mounted in another mount namespace; it ends there as well", path.display());
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        if let Err(error) = self.unmount(true) {
            tracing::warn!(%error, "the mount is left behind");
        }
    }
}

impl std::fmt::Debug for Mounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mounts").field("mount_point", &self.served.options.mount_point).finish_non_exhaustive()
    }
}

struct Notices {
    views: Arc<Views>,
    /// What the kernel was told last. Not held while notices are sent.
    shown: Mutex<Arc<Visible>>,
    to_views: SessionNotifier,
    to_staging: Mutex<SessionNotifier>,
    /// How the kernel knows the nodes of staging.
    nodes: StagingNodes,
}

/// Tells the kernel what changed. For the dispatcher: never to be called from a FUSE thread, nor with a lock held that a request
/// could wait for. Call it after the change can be seen through `ViewSource` or `Staging`.
#[derive(Clone)]
pub struct Notifier(Arc<Notices>);

impl Notifier {
    /// Staging went back, or stands on something else.
    pub fn invalidate_staging(&self, invalidations: &[Invalidation]) {
        let notices = notify::of_staging(self.0.nodes, invalidations);
        let kernel = self.0.to_staging.lock().clone();
        notices.iter().for_each(|notice| kernel.send(notice));
    }

    /// `ViewSource::visible` answers something new: production, versions, ghosts, tags. What changed is found out here.
    pub fn visible_changed(&self) {
        let new = self.0.views.visible();
        let old = std::mem::replace(&mut *self.0.shown.lock(), Arc::clone(&new));
        self.0.views.touch();
        let notices: Vec<Notice> = notify::of_views(&old, &new);
        notices.iter().for_each(|notice| self.0.to_views.send(notice));
    }

    /// Names in directories of the views are to be looked up anew: what is in use stays with who uses it, and the kernel lets go of the
    /// rest. A name that it does not know is no matter.
    pub fn let_go_of(&self, entries: &[(ViewNode, Name)]) {
        for (dir, name) in entries {
            if let Some(dir) = dir.pack() {
                self.0.to_views.send(&Notice::Entry(dir, Arc::clone(name)));
            }
        }
    }

    /// The lineage has something new.
    pub fn lineage_changed(&self) {
        // The kernel keeps nothing of it but listings, which go by time.
        self.0.views.touch();
    }
}

impl std::fmt::Debug for Notifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notifier").finish_non_exhaustive()
    }
}
