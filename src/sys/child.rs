//! What a child process must not inherit, and what it may use.

use std::os::unix::process::CommandExt;

use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};

/// Starts the child with no signal blocked: the standard library hands the parent's mask on, and a child that blocks SIGTERM
/// can't be ended in a civil way.
pub fn with_all_signals(command: &mut impl CommandExt) {
    let none = SigSet::empty();
    // SAFETY: between fork and exec only sigprocmask is called, which is async-signal-safe; nothing is allocated or locked.
    unsafe {
        command.pre_exec(move || Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&none), None)?));
    }
}

/// Limits that the kernel holds, for each process by itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rlimits {
    /// Private memory that can be written, in bytes.
    pub memory: Option<u64>,
    /// Open files.
    pub open_files: Option<u64>,
    /// Time on a processor.
    pub cpu_seconds: Option<u64>,
}

/// Starts the child within limits, without core dumps and with no signal blocked; it is killed when the thread that started it ends.
pub fn confined(command: &mut impl CommandExt, limits: Rlimits) {
    let none = SigSet::empty();
    let confine = move || {
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&none), None)?;
        // After the change of user, which would take it back.
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        for (resource, limit, leeway) in [
            (Resource::RLIMIT_CORE, Some(0), 0),
            (Resource::RLIMIT_DATA, limits.memory, 0),
            (Resource::RLIMIT_NOFILE, limits.open_files, 0),
            // SIGXCPU at the one, SIGKILL at the other.
            (Resource::RLIMIT_CPU, limits.cpu_seconds, 1),
        ] {
            let Some(limit) = limit else { continue };
            let (_, most) = getrlimit(resource)?;
            setrlimit(resource, limit.min(most), limit.saturating_add(leeway).min(most))?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec only sigprocmask, prctl, getrlimit and setrlimit are called, which are plain system calls; nothing is
    // allocated or locked.
    unsafe {
        command.pre_exec(confine);
    }
}
