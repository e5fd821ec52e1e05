//! `run`: one command, one version.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::Arc;

use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use parking_lot::Mutex;

use super::args::RunArgs;
use super::daemon::Asking;
use super::exit::{Failure, Result};
use super::output::Out;
use super::verdict;
use crate::control::protocol::Request;
use crate::sys;

pub(super) fn run(args: RunArgs, daemon: &Asking, out: &mut Out) -> Result {
    let staging = Path::new(&daemon.status()?.mount).join("staging");
    let message = args.message.message;
    let patience = Patience::begin().map_err(|errno| Failure::failed(format!("signals can't be held: {errno}")))?;
    daemon.version(&Request::Begin { message: message.clone() })?;
    // From here on the version is held open: whatever ends the command, it is committed or aborted, never left.
    let ended = execute(&args.command, &staging, &patience);
    if let Err(why) = ended {
        return Err(match daemon.version(&Request::Abort) {
            Ok(_) => Failure::failed(format!("{why}; its changes are discarded")),
            Err(abort) => Failure::failed(format!("{why}; its changes could not be discarded: {abort}; try: shadowfs abort")),
        });
    }
    let sealed = daemon.version(&Request::Commit { message })?;
    patience.end();
    verdict::after_commit(sealed, args.wait, args.message.json.json, daemon, out)
}

/// Runs the command to its end. An error says how it went wrong.
fn execute(command: &[OsString], staging: &Path, patience: &Patience) -> Result<(), String> {
    let Some((program, arguments)) = command.split_first() else { return Err("no command".to_owned()) };
    let shown = program.to_string_lossy();
    let mut program = Command::new(program);
    program.args(arguments).current_dir(staging);
    sys::with_all_signals(&mut program);
    let mut child = program.spawn().map_err(|error| format!("{shown}: can't be started: {error}"))?;
    let pid = i32::try_from(child.id()).map(Pid::from_raw).map_err(|_| format!("{shown}: has no process id"))?;
    patience.set(Stage::Running(pid));
    // Waited for without taking it away, so that its number can't be another's while a signal is sent on to it.
    let _ = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
    patience.set(Stage::Settling);
    let status = child.wait().map_err(|error| format!("{shown}: can't be waited for: {error}"))?;
    outcome(&shown, status)
}

fn outcome(program: &str, status: ExitStatus) -> Result<(), String> {
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) => Err(format!("{program}: exit code {code}")),
        (None, signal) => Err(format!("{program}: killed by signal {}", signal.unwrap_or_default())),
    }
}

/// While the command runs, signals that would end us do not: the command decides. A terminal sends its signals to the command
/// itself; those that only we are sent are passed on. Once the version is sealed they end us as usual.
struct Patience {
    stage: Arc<Mutex<Stage>>,
}

enum Stage {
    Running(Pid),
    /// Before the command and after it, until the version is sealed or discarded.
    Settling,
    Over,
}

impl Patience {
    fn begin() -> nix::Result<Self> {
        let signals: SigSet = [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
        signals.thread_block()?;
        let stage = Arc::new(Mutex::new(Stage::Settling));
        let seen = Arc::clone(&stage);
        // Ends with the process.
        std::thread::spawn(move || {
            while let Ok(signal) = signals.wait() {
                match (&*seen.lock(), signal) {
                    (Stage::Running(pid), Signal::SIGTERM | Signal::SIGHUP) => {
                        // It may have ended by itself.
                        let _ = kill(*pid, signal);
                    }
                    (Stage::Running(_) | Stage::Settling, _) => {}
                    (Stage::Over, _) => std::process::exit(128 + signal as i32),
                }
            }
        });
        Ok(Self { stage })
    }

    fn set(&self, stage: Stage) {
        *self.stage.lock() = stage;
    }

    fn end(&self) {
        self.set(Stage::Over);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    fn sh(script: &str) -> Result<(), String> {
        let dir = tempfile::tempdir().unwrap();
        execute(&["sh".into(), "-c".into(), script.into()], dir.path(), &Patience::begin().unwrap())
    }

    #[test]
    fn every_ending_has_its_words() {
        assert_eq!(sh("exit 0"), Ok(()));
        assert_eq!(sh("exit 7"), Err("sh: exit code 7".to_owned()));
        assert_eq!(sh("kill -9 $$"), Err("sh: killed by signal 9".to_owned()));
        let missing = execute(&["/no/such/program".into()], Path::new("/"), &Patience::begin().unwrap()).unwrap_err();
        assert!(missing.starts_with("/no/such/program: can't be started: No such file"), "{missing}");
    }

    #[test]
    fn the_command_gets_its_signals() {
        assert_eq!(sh("kill -TERM $$; exit 3"), Err("sh: killed by signal 15".to_owned()));
        // Not by sending each: what a script runs in the background ignores some from the start.
        assert_eq!(sh("grep -Eq '^SigBlk:[[:space:]]*0+$' /proc/self/status"), Ok(()));
    }
}
