//! The kernel mount of production (`mount --production DIR`): it follows every switch, and what fails is tried again.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::dispatcher::Dispatcher;
use super::errands::{Errand, Errands};

/// The first wait before a mount that failed is tried again. It doubles up to the longest.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// The mount, and the thread that makes it: it must not wait for a version that is being sealed.
#[derive(Debug)]
pub(super) struct ProductionMount {
    pub(super) dir: PathBuf,
    pub(super) binder: Errands,
    /// Whether it was there at least once: then it is switched, not made.
    pub(super) attached: bool,
    /// The thread is at it.
    under_way: bool,
    /// Production has moved since.
    outdated: bool,
    retry_at: Option<Instant>,
    wait: Duration,
}

impl ProductionMount {
    pub(super) const fn new(dir: PathBuf, binder: Errands) -> Self {
        Self { dir, binder, attached: false, under_way: false, outdated: false, retry_at: None, wait: FIRST_RETRY }
    }

    /// When it is to be tried again.
    pub(super) const fn next_try(&self) -> Option<Instant> {
        self.retry_at
    }
}

impl Dispatcher {
    /// Has the kernel mount of production follow.
    pub(super) fn bind_production(&mut self) {
        let source = self.shared.mount.join("versions").join(self.history.production().to_string());
        let Some(mount) = &mut self.production_mount else { return };
        if mount.under_way {
            mount.outdated = true;
            return;
        }
        (mount.under_way, mount.outdated, mount.retry_at) = (true, false, None);
        mount.binder.send(Errand::Bind { source, target: mount.dir.clone(), attached: mount.attached });
    }

    /// A try has ended.
    pub(super) fn bound(&mut self, bound: Result<(), String>) {
        let now = self.clock.instant();
        let Some(mount) = &mut self.production_mount else { return };
        mount.under_way = false;
        match bound {
            Ok(()) => {
                (mount.attached, mount.wait) = (true, FIRST_RETRY);
                let outdated = mount.outdated;
                self.warnings.remove("production");
                if outdated {
                    self.bind_production();
                }
            }
            Err(line) => {
                mount.retry_at = Some(now + mount.wait);
                mount.wait = (mount.wait * 2).min(LONGEST_RETRY);
                self.warn("production".to_owned(), format!("{line}; it is tried again"));
            }
        }
    }

    /// Tries again what failed, once its time has come.
    pub(super) fn bind_due(&mut self) {
        let now = self.clock.instant();
        if self.production_mount.as_ref().and_then(ProductionMount::next_try).is_some_and(|at| at <= now) {
            self.bind_production();
        }
    }
}
