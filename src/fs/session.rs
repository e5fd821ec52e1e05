//! A running session: its threads, its end, and notices to its kernel.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam::channel::Sender;
use fuser::{BackingId, Config, Filesystem, INodeNo, InitFlags, KernelConfig, Request, SessionACL};

use super::notify::Notice;
use crate::sys::device;

/// The two sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// `MNT`.
    Views,
    /// `MNT/staging`.
    Staging,
}

impl Side {
    /// As `status` names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Views => "views",
            Self::Staging => "staging",
        }
    }
}

/// How often the end of a session is looked for.
const TICK: Duration = Duration::from_millis(2);

/// What can be served: fuser's trait, by a name that other files may know.
pub(super) trait Answers: Filesystem {}
impl<F: Filesystem> Answers for F {}

/// A session that answers requests. It ends when its filesystem is unmounted.
#[derive(Debug)]
pub(super) struct RunningSession {
    notifier: fuser::Notifier,
    thread: JoinHandle<()>,
}

impl RunningSession {
    /// Answers the kernel's handshake on `fuse`, then its requests with `threads` threads; says on `ended` when it is over.
    pub(super) fn start(side: Side, filesystem: impl Filesystem, fuse: File, threads: usize, ended: Sender<Side>) -> io::Result<Self> {
        let mut config = Config::default();
        config.n_threads = Some(threads);
        // Who may come in is the kernel's to decide (allow_other); fuser's own check would refuse what it lets in.
        let session = fuser::Session::from_fd(filesystem, OwnedFd::from(fuse), SessionACL::All, config)?;
        let notifier = session.notifier();
        let run = move || {
            if let Err(error) = session.run() {
                tracing::error!(session = side.name(), %error, "the session ended with an error");
            }
            // Nobody listens any more once the daemon is on its way out.
            let _ = ended.send(side);
        };
        let thread = thread::Builder::new().name(format!("fuse-{}", side.name())).spawn(run)?;
        Ok(Self { notifier, thread })
    }

    pub(super) fn notifier(&self) -> SessionNotifier {
        SessionNotifier(self.notifier.clone())
    }

    /// Waits for its end, for `patience` at the most; false if it goes on.
    pub(super) fn join(self, patience: Duration) -> bool {
        let mut waited = Duration::ZERO;
        while !self.thread.is_finished() && waited < patience {
            thread::sleep(TICK);
            waited += TICK;
        }
        let ended = self.thread.is_finished();
        if ended && self.thread.join().is_err() {
            tracing::error!("a session's thread panicked");
        }
        ended
    }
}

/// Sends notices to the kernel of one session.
#[derive(Clone, Debug)]
pub(super) struct SessionNotifier(fuser::Notifier);

impl SessionNotifier {
    /// Not from a FUSE thread, and with no lock held that a request could wait for.
    pub(super) fn send(&self, notice: &Notice) {
        let sent = match notice {
            Notice::Entry(dir, name) => self.0.inval_entry(INodeNo(dir.0), OsStr::from_bytes(name)),
            Notice::Inode(node) => self.0.inval_inode(INodeNo(node.0), 0, 0),
            // A negative offset: no pages.
            Notice::Attributes(node) => self.0.inval_inode(INodeNo(node.0), -1, 0),
        };
        report(sent, notice);
    }
}

fn report(sent: io::Result<()>, notice: &Notice) {
    match sent {
        Ok(()) => {}
        // Unmounted: there is nothing left to forget. Busy: a mount below a directory that is gone, kept until it goes as well.
        Err(error) if [Some(libc::ENOTCONN), Some(libc::ENODEV), Some(libc::EBUSY)].contains(&error.raw_os_error()) => {}
        Err(error) => tracing::warn!(?notice, %error, "the kernel refused a notice"),
    }
}

/// Answers nothing but the handshake, with passthrough.
struct Probe;

impl Filesystem for Probe {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let refused = |_| io::Error::from_raw_os_error(libc::EOPNOTSUPP);
        config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).map_err(refused)?;
        let _ = config.set_max_stack_depth(1);
        Ok(())
    }
}

/// Whether the kernel on the other side of `fuse` passes reads and writes through to `file`: tried, not guessed.
pub(super) fn passes_through(fuse: File, file: &File) -> io::Result<()> {
    let session = fuser::Session::from_fd(Probe, OwnedFd::from(fuse), SessionACL::All, Config::default())?;
    let id = BackingId::create_raw(session.as_fd(), file.as_fd())?;
    device::close_backing(session.as_fd(), id)
}
