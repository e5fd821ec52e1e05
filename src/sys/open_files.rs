//! How many files this process may have open. A writer's open file may be one of ours, so the daemon takes all that it may have, keeps
//! some for itself, and gives its children what it was started with: programs that use `select` break with more.

use std::num::NonZeroUsize;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

/// Descriptors that writers can't have: for seals, the catalog, checks, the control socket, and files that are kept open.
const RESERVE: rlim_t = 512;

/// The limits that the process was started with, soft and hard.
static BEFORE: OnceLock<(rlim_t, rlim_t)> = OnceLock::new();

/// Raises the limit as far as it goes. What the kernel refuses stays as it is: there is work to do with fewer.
pub fn raise() {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    let (soft, hard) = *BEFORE.get_or_init(|| (soft, hard));
    if soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(%error, "the limit of {soft} open files can't be raised");
    }
}

/// Starts the child with the limit that this process was started with.
pub fn restored(command: &mut impl CommandExt) {
    let Some((soft, hard)) = BEFORE.get().copied() else { return };
    // SAFETY: between fork and exec only setrlimit is called, which is async-signal-safe; nothing is allocated or locked.
    unsafe {
        command.pre_exec(move || Ok(setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?));
    }
}

/// How many files to keep open for speed alone: `most`, or less where few may be open at all.
#[must_use]
pub fn share(most: usize) -> NonZeroUsize {
    let soft = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| usize::try_from(soft).unwrap_or(usize::MAX));
    NonZeroUsize::new(most.min(soft / 8)).unwrap_or(NonZeroUsize::MIN)
}

/// Whether so many files are open that none should stay so without need, going by the number of one.
#[must_use]
pub fn are_many(file: &impl AsRawFd) -> bool {
    let used = rlim_t::try_from(file.as_raw_fd()).unwrap_or(rlim_t::MAX);
    getrlimit(Resource::RLIMIT_NOFILE).is_ok_and(|(soft, _)| used >= soft / 4)
}

/// Refuses a file that was just opened for a writer if it is one of the last. The kernel gives the lowest number that is free, so the
/// number says how many are in use.
///
/// # Errors
/// `ENFILE`: close it, and say so.
pub fn keep_reserve(file: &impl AsRawFd) -> Result<(), Errno> {
    let Ok((soft, _)) = getrlimit(Resource::RLIMIT_NOFILE) else { return Ok(()) };
    let used = rlim_t::try_from(file.as_raw_fd()).unwrap_or(rlim_t::MAX);
    if used < soft - RESERVE.min(soft / 2) { Ok(()) } else { Err(Errno::ENFILE) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::os::fd::RawFd;

    use super::*;

    struct Numbered(rlim_t);

    impl AsRawFd for Numbered {
        fn as_raw_fd(&self) -> RawFd {
            RawFd::try_from(self.0).unwrap()
        }
    }

    #[test]
    fn the_last_ones_are_kept() {
        let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(keep_reserve(&Numbered(3)), Ok(()));
        assert_eq!(keep_reserve(&Numbered(soft - 1)), Err(Errno::ENFILE));
        assert_eq!(keep_reserve(&Numbered(soft - RESERVE.min(soft / 2))), Err(Errno::ENFILE));
    }
}
