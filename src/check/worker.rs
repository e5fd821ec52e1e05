//! One attempt of a command: its own process group, its output kept, killed with all its children when its time is over.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, PipeReader, Read as _, Seek as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam::channel::{after, bounded, select};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use super::cancel::Cancel;
use super::output::Output;
use super::worker_warden::{self as warden, Warden};
use crate::config::{CommandLimits, User};
use crate::store::LogPlace;
use crate::store::record::Outcome;
use crate::sys;

/// A command to try.
#[derive(Clone, Debug)]
pub struct CommandJob {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Its working directory.
    pub directory: PathBuf,
    /// What is added to the daemon's environment.
    pub environment: Vec<(String, OsString)>,
    /// As whom it runs, if not as the daemon.
    pub user: Option<User>,
    /// Where its output goes.
    pub log: LogPlace,
    /// The time that it has.
    pub timeout: Duration,
    /// What its standard input has; nothing if empty.
    pub input: Vec<u8>,
    /// What it may use.
    pub limits: CommandLimits,
}

/// How the wait for a child ended.
enum Ending {
    Exited,
    Cancelled,
    TimedOut,
}

/// Runs a command that is no check's, and says how it ended.
#[must_use]
pub fn run(job: &CommandJob, cancel: &Cancel) -> Outcome {
    attempt(job, cancel).0
}

pub(super) fn attempt(job: &CommandJob, cancel: &Cancel) -> (Outcome, Vec<(String, f64)>) {
    if cancel.is_cancelled() {
        return (Outcome::Cancelled, Vec::new());
    }
    let mut output = match Output::create(&job.log, job.limits.output) {
        Ok(output) => output,
        Err(error) => return (could_not_start(format!("its log {} can't be written: {error}", job.log.path().display())), Vec::new()),
    };
    let outcome = start(job).and_then(|started| supervise(started, job.timeout, cancel, &mut output)).unwrap_or_else(|error| {
        let why = why_not_started(job, &error);
        output.write(format!("shadowfs: {why}\n").as_bytes());
        could_not_start(why)
    });
    if let Outcome::OverLimit { what } = &outcome {
        output.write(format!("\nshadowfs: {what}\n").as_bytes());
    }
    let metrics = output.finish(outcome == Outcome::Passed);
    (outcome, metrics)
}

const fn could_not_start(why: String) -> Outcome {
    Outcome::CouldNotStart { why }
}

fn why_not_started(job: &CommandJob, error: &io::Error) -> String {
    let program = job.command.first().map_or("", String::as_str);
    let hint = match (&job.user, error.kind()) {
        (Some(user), io::ErrorKind::PermissionDenied) => {
            format!("; user {} must be able to run it and to enter {} (mount --allow-other)", user.name, job.directory.display())
        }
        _ => String::new(),
    };
    format!("{program} can't be started: {error}{hint}")
}

impl CommandJob {
    /// Gives a process what the command is to find in its environment.
    pub(super) fn set_environment(&self, command: &mut Command) {
        // A check must not say to systemd how the daemon is.
        command.env_remove("NOTIFY_SOCKET");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some(user) = &self.user {
            command.env("USER", &user.name).env("LOGNAME", &user.name).env_remove("HOME");
        }
    }
}

/// A command that runs, itself or through its warden.
struct Started {
    child: Child,
    output: PipeReader,
    warden: Option<Warden>,
}

/// Starts the command with one pipe for its standard output and error. All other descriptors of ours are close-on-exec.
fn start(job: &CommandJob) -> io::Result<Started> {
    let (program, arguments) = job.command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let (output, writer) = io::pipe()?;
    if warden::is_available() {
        let (child, warden) = Warden::start(job, writer)?;
        return Ok(Started { child, output, warden: Some(warden) });
    }
    let mut command = Command::new(program);
    command.args(arguments).current_dir(&job.directory);
    job.set_environment(&mut command);
    command.stdin(input(&job.input)?).stdout(writer.try_clone()?).stderr(writer).process_group(0);
    if let Some(user) = &job.user {
        // With another user, the standard library drops the supplementary groups as well.
        command.uid(user.uid).gid(user.gid);
    }
    // The daemon blocks the signals that it waits for; a `timeout` in a check could not end anything.
    sys::with_all_signals(&mut command);
    sys::open_files::restored(&mut command);
    let child = command.spawn()?;
    Ok(Started { child, output, warden: None })
}

/// Standard input with these bytes in it. They are in memory whole: a command that does not read them holds nobody up.
pub(super) fn input(bytes: &[u8]) -> io::Result<Stdio> {
    if bytes.is_empty() {
        return Ok(Stdio::null());
    }
    let mut file = File::from(memfd_create(c"shadowfs-input", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file.into())
}

/// Waits for the end of a command, or ends it. An error is one that could not be started.
fn supervise(started: Started, timeout: Duration, cancel: &Cancel, output: &mut Output) -> io::Result<Outcome> {
    let Started { mut child, output: reader, warden } = started;
    let group = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
    let ended = AtomicBool::new(false);
    let (tell, exited) = bounded::<()>(1);
    let ending = thread::scope(|scope| {
        scope.spawn(|| drain(reader, &ended, output));
        scope.spawn(move || {
            await_exit(group);
            let _ = tell.send(());
        });
        let ending = select! {
            recv(exited) -> _ => Ending::Exited,
            recv(cancel.receiver()) -> _ => Ending::Cancelled,
            recv(after(timeout)) -> _ => Ending::TimedOut,
        };
        let mut gone = matches!(ending, Ending::Exited);
        if let Some(warden) = warden.as_ref().filter(|_| !gone) {
            warden.stop();
            gone = exited.recv_timeout(warden.patience()).is_ok();
        }
        // The group's leader is not reaped yet, so the number is still its own. What it left running goes with it.
        let _ = killpg(group, Signal::SIGKILL);
        if !gone {
            let _ = exited.recv();
        }
        ended.store(true, Ordering::Release);
        ending
    });
    let answer = warden.as_ref().map(Warden::answer);
    if matches!(answer, Some(Ok(None))) {
        // The warden was killed: by its command, for all that is known.
        warden::end_session(group);
    }
    let status = child.wait();
    match (ending, status) {
        (Ending::Cancelled, _) => Ok(Outcome::Cancelled),
        (Ending::TimedOut, _) => Ok(Outcome::TimedOut),
        (Ending::Exited, Ok(status)) => Ok(answer.transpose()?.flatten().unwrap_or_else(|| from_status(status))),
        (Ending::Exited, Err(error)) => Ok(could_not_start(format!("its end can't be seen: {error}"))),
    }
}

fn from_status(status: ExitStatus) -> Outcome {
    match (status.code(), status.signal()) {
        (Some(0), _) => Outcome::Passed,
        (Some(code), _) => Outcome::Failed { code: Some(code) },
        (None, Some(signal)) => Outcome::Killed { signal },
        (None, None) => Outcome::Failed { code: None },
    }
}

/// Returns when the process has ended, and leaves it to be reaped.
pub(super) fn await_exit(process: Pid) {
    while waitid(Id::Pid(process), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(Errno::EINTR) {}
}

/// Reads to the end. A child that fled from the group may hold the pipe open for good: after the command's end only what is there already
/// is read.
fn drain(mut reader: PipeReader, ended: &AtomicBool, output: &mut Output) {
    let mut buffer = vec![0; 64 << 10];
    let mut left_after_end = 16u32;
    loop {
        let over = ended.load(Ordering::Acquire);
        let wait = if over { PollTimeout::ZERO } else { PollTimeout::from(50u8) };
        let ready = poll(&mut [PollFd::new(reader.as_fd(), PollFlags::POLLIN)], wait);
        if over {
            left_after_end = left_after_end.saturating_sub(1);
            if left_after_end == 0 || ready == Ok(0) {
                return;
            }
        }
        match ready {
            Ok(0) | Err(Errno::EINTR) => continue,
            Err(_) => return,
            Ok(_) => {}
        }
        match reader.read(&mut buffer) {
            Ok(0) => return,
            Ok(n) => output.write(buffer.get(..n).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}
