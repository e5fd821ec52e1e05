//! The warden: a process of ours between the daemon and a command, one an attempt.
//!
//! The kernel gives it every orphan among the command's descendants (`PR_SET_CHILD_SUBREAPER`), so nothing that the command starts gets
//! away by a session or a fork of its own: the warden ends only when all of it has. It starts the command with its user and its limits,
//! watches what can't be left to the kernel, and ends everything when it is told to, or when the daemon is gone: both are the end of
//! the socket that is its standard input. If somebody kills the warden, the kernel kills the command, and the daemon the rest of the
//! session that the warden leads: all but what has left that session.
//!
//! The order comes over that socket as a line of JSON, and so does the answer.

use std::ffi::OsString;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam::channel::{Receiver, after, bounded, never, select, tick};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, setsid};
use serde::{Deserialize, Serialize};

use super::worker::{CommandJob, await_exit, input};
use crate::config::CommandLimits;
use crate::store::record::Outcome;
use crate::sys::{self, child::Rlimits};

/// What the warden is called among the processes.
const NAME: &str = "shadowfs-check";
/// How often the processes of a command are looked at.
const LOOK: Duration = Duration::from_millis(25);
/// How long what was killed may take to be gone: a process that waits for a dead disk never is.
const REAP: Duration = Duration::from_secs(5);
/// The longest order or answer.
const LINE: u64 = 64 << 20;

/// Whether the program of this process can be a warden.
static AVAILABLE: AtomicBool = AtomicBool::new(false);

/// Says that the program of this process calls [`main`] when it is started under the warden's name: from here on commands have one.
pub fn available() {
    AVAILABLE.store(true, Ordering::Relaxed);
}

pub(super) fn is_available() -> bool {
    AVAILABLE.load(Ordering::Relaxed)
}

#[derive(Serialize, Deserialize)]
struct Order {
    command: Vec<String>,
    directory: OsString,
    user: Option<(u32, u32)>,
    input: Vec<u8>,
    grace: Duration,
    memory: Option<u64>,
    processes: Option<u64>,
    open_files: Option<u64>,
    cpu: Option<Duration>,
}

/// How the command ended.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Code(i32),
    Signal(i32),
    NotStarted { errno: Option<i32>, why: String },
    Over { what: String },
}

/// The daemon's end of a warden.
pub(super) struct Warden {
    line: UnixStream,
    grace: Duration,
}

impl Warden {
    /// Starts one with `command`'s environment; it starts the command.
    pub(super) fn start(job: &CommandJob, output: io::PipeWriter) -> io::Result<(Child, Self)> {
        let (mut line, theirs) = UnixStream::pair()?;
        let mut command = Command::new("/proc/self/exe");
        command.arg0(NAME).current_dir("/").stdin(OwnedFd::from(theirs)).stdout(output.try_clone()?).stderr(output);
        job.set_environment(&mut command);
        sys::child::with_all_signals(&mut command);
        sys::open_files::restored(&mut command);
        let child = command.spawn()?;
        drop(command);
        let CommandLimits { grace, output: _, memory, processes, open_files, cpu } = job.limits;
        let order = Order {
            command: job.command.clone(),
            directory: job.directory.clone().into_os_string(),
            user: job.user.as_ref().map(|user| (user.uid, user.gid)),
            input: job.input.clone(),
            grace,
            memory,
            processes,
            open_files,
            cpu,
        };
        // One that is gone already says so by its end.
        let _ = send(&mut line, &order);
        Ok((child, Self { line, grace }))
    }

    /// Tells it to end the command.
    pub(super) fn stop(&self) {
        let _ = self.line.shutdown(Shutdown::Write);
    }

    /// The time in which it ends after [`Warden::stop`].
    pub(super) fn patience(&self) -> Duration {
        self.grace + 2 * REAP
    }

    /// How the command ended, once the warden has; `None` if it was killed before it could say so. The outer error is a command that
    /// could not be started.
    pub(super) fn answer(&self) -> io::Result<Option<Outcome>> {
        match receive(&self.line) {
            Ok(Answer::Code(0)) => Ok(Some(Outcome::Passed)),
            Ok(Answer::Code(code)) => Ok(Some(Outcome::Failed { code: Some(code) })),
            Ok(Answer::Signal(signal)) => Ok(Some(Outcome::Killed { signal })),
            Ok(Answer::Over { what }) => Ok(Some(Outcome::OverLimit { what })),
            Ok(Answer::NotStarted { errno: Some(errno), .. }) => Err(io::Error::from_raw_os_error(errno)),
            Ok(Answer::NotStarted { errno: None, why }) => Err(io::Error::other(why)),
            Err(_) => Ok(None),
        }
    }
}

/// Kills what a warden that was killed has left in its session. The warden must not be reaped yet, so that the number is still its own.
pub(super) fn end_session(warden: Pid) {
    let over = after(REAP);
    loop {
        let left = session(warden);
        for process in &left {
            let _ = kill(*process, Signal::SIGKILL);
        }
        // One that forks meanwhile is seen by the next look.
        if left.is_empty() || over.try_recv().is_ok() {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// The processes of a session that have not ended, but for its leader.
fn session(leader: Pid) -> Vec<Pid> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let numbers = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(Pid::from_raw);
    numbers.filter(|process| *process != leader && is_in(*process, leader)).collect()
}

/// Whether a process has not ended and is in this session: proc_pid_stat(5), the fields 3 (state) and 6 (session).
fn is_in(process: Pid, session: Pid) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{process}/stat")) else { return false };
    // The name before them, in parentheses, may hold anything.
    let mut fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace();
    let ended = matches!(fields.next(), None | Some("Z" | "X"));
    !ended && fields.nth(2).and_then(|field| field.parse().ok()) == Some(session.as_raw())
}

fn send(line: &mut UnixStream, what: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec(what)?;
    text.push(b'\n');
    line.write_all(&text)
}

fn receive<T: for<'de> Deserialize<'de>>(line: &UnixStream) -> io::Result<T> {
    let mut text = Vec::new();
    BufReader::new(line.take(LINE)).read_until(b'\n', &mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// The warden's own `main`, if this process was started as one.
#[must_use]
pub fn main(arguments: &[OsString]) -> Option<ExitCode> {
    if arguments.len() != 1 || arguments.first().is_none_or(|name| name != NAME) {
        return None;
    }
    let line = io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from);
    let done = line.and_then(|mut line| {
        let order: Order = receive(&line)?;
        let answer = guard(&order, &line);
        send(&mut line, &answer)
    });
    Some(if done.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn guard(order: &Order, line: &UnixStream) -> Answer {
    let not_started = |error: io::Error| Answer::NotStarted { errno: error.raw_os_error(), why: error.to_string() };
    // The session is what the daemon knows the command's processes by if the warden is killed.
    if let Err(error) = setsid().and_then(|_| prctl::set_child_subreaper(true)) {
        return not_started(error.into());
    }
    let (mut child, told) = match spawn(order).and_then(|child| Ok((child, until_closed(line)?))) {
        Ok(started) => started,
        Err(error) => return not_started(error),
    };
    let over = watch(order, &child, &told);
    // The command is not reaped yet, so its number is still its own.
    let _ = kill(pid(&child), Signal::SIGKILL);
    let status = child.wait();
    end_all();
    match (over, status) {
        (Some(what), _) => Answer::Over { what },
        (None, Ok(status)) => match (status.code(), status.signal()) {
            (None, Some(signal)) if signal == Signal::SIGXCPU as i32 && order.cpu.is_some() => {
                Answer::Over { what: format!("it took more than {} s on a processor", order.cpu.unwrap_or_default().as_secs()) }
            }
            (None, Some(signal)) => Answer::Signal(signal),
            (code, _) => Answer::Code(code.unwrap_or(-1)),
        },
        (None, Err(error)) => not_started(error),
    }
}

fn spawn(order: &Order) -> io::Result<Child> {
    let (program, arguments) = order.command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    command.args(arguments).current_dir(Path::new(&order.directory)).stdin(input(&order.input)?).process_group(0);
    if let Some((uid, gid)) = order.user {
        // With another user, the standard library drops the supplementary groups as well.
        command.uid(uid).gid(gid);
    }
    let limits = Rlimits { memory: order.memory, open_files: order.open_files, cpu_seconds: order.cpu.map(|cpu| cpu.as_secs()) };
    sys::child::confined(&mut command, limits);
    command.spawn()
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX))
}

/// Ready when the daemon closes its end, or is gone.
fn until_closed(line: &UnixStream) -> io::Result<Receiver<()>> {
    let (tell, told) = bounded::<()>(0);
    let mut line = line.try_clone()?;
    thread::Builder::new().spawn(move || {
        let _tell = tell;
        let mut rest = [0; 64];
        while line.read(&mut rest).is_ok_and(|n| n > 0) {}
    })?;
    Ok(told)
}

/// Returns when the command has ended or is to be killed, and says which limit it has broken.
fn watch(order: &Order, child: &Child, told: &Receiver<()>) -> Option<String> {
    let (tell, exited) = bounded::<()>(1);
    let command = pid(child);
    // Without a thread for it, the end of the command would never be seen.
    let waits = thread::Builder::new().spawn(move || {
        await_exit(command);
        let _ = tell.send(());
    });
    if let Err(error) = waits {
        return Some(format!("no thread waits for it: {error}"));
    }
    let looks = if order.processes.is_some() || order.memory.is_some() { tick(LOOK) } else { never() };
    let broken = loop {
        select! {
            recv(exited) -> _ => return None,
            recv(told) -> _ => break None,
            recv(looks) -> _ => if let Some(what) = broken(order, &descendants()) { break Some(what) },
        }
    };
    for process in descendants() {
        let _ = kill(process, Signal::SIGTERM);
    }
    select! {
        recv(exited) -> _ => {}
        recv(after(order.grace)) -> _ => {}
    }
    broken
}

/// The limit that these processes have broken.
fn broken(order: &Order, processes: &[Pid]) -> Option<String> {
    if let Some(most) = order.processes.filter(|most| processes.len() as u64 > *most) {
        return Some(format!("it had {} processes at once, {most} are allowed", processes.len()));
    }
    let most = order.memory?;
    let used: u64 = processes.iter().filter_map(|process| memory_of(*process)).sum();
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    (used > most).then(|| format!("its processes used {} MiB of memory, {} MiB are allowed", mib(used), mib(most)))
}

/// Bytes of memory that are a process's own.
fn memory_of(process: Pid) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Children of a process, by all its threads.
fn children(process: &str) -> Vec<Pid> {
    let mut found = Vec::new();
    let Ok(threads) = std::fs::read_dir(format!("/proc/{process}/task")) else { return found };
    for thread in threads.flatten() {
        let Ok(list) = std::fs::read_to_string(thread.path().join("children")) else { continue };
        found.extend(list.split_ascii_whitespace().filter_map(|number| number.parse().ok()).map(Pid::from_raw));
    }
    found
}

/// Everything below this process.
fn descendants() -> Vec<Pid> {
    let mut found = children("self");
    let mut at = 0;
    while let Some(process) = found.get(at) {
        let more = children(&process.to_string());
        found.extend(more);
        at += 1;
    }
    found
}

/// Kills what is left and waits for its end. Only own children are killed, whose numbers can't be another's before they are reaped here;
/// what they leave becomes a child in its turn.
fn end_all() {
    let over = after(REAP);
    loop {
        for process in children("self") {
            let _ = kill(process, Signal::SIGKILL);
        }
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::ECHILD) => return,
            Ok(nix::sys::wait::WaitStatus::StillAlive) => thread::sleep(Duration::from_millis(1)),
            Ok(_) | Err(_) => {}
        }
        if over.try_recv().is_ok() {
            return;
        }
    }
}
