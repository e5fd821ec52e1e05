//! What a child process must not inherit.

use std::os::unix::process::CommandExt;

use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};

/// Starts the child with no signal blocked: the standard library hands the parent's mask on, and a child that blocks SIGTERM
/// can't be ended in a civil way.
pub fn with_all_signals(command: &mut impl CommandExt) {
    let none = SigSet::empty();
    // SAFETY: between fork and exec only sigprocmask is called, which is async-signal-safe; nothing is allocated or locked.
    unsafe {
        command.pre_exec(move || Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&none), None)?));
    }
}
