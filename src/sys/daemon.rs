//! Becoming a daemon: fork, a session of its own, and a pipe through which the child tells its parent how the start went.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::unistd::{ForkResult, fork, pipe2, setsid};

/// Which side of the fork the caller is on.
#[derive(Debug)]
pub enum Daemonized {
    /// The parent, once the child has reported: `Err` carries the child's line.
    Parent(Result<(), String>),
    /// The child, which must report through `Ready`.
    Child(Ready),
}

/// The child's end of the pipe. Dropped without a report, the parent says that the daemon ended before it was ready.
#[derive(Debug)]
#[must_use]
pub struct Ready(File);

impl Ready {
    /// Lets the parent return successfully, and lets go of the terminal.
    ///
    /// # Errors
    /// `/dev/null` can't be opened, or the parent is gone.
    pub fn ready(mut self) -> io::Result<()> {
        let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
        for fd in 0..=2 {
            // SAFETY: both descriptors are open; the standard streams are given up here on purpose.
            if unsafe { libc::dup2(null.as_raw_fd(), fd) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        self.0.write_all(b"+")
    }

    /// Lets the parent return with `line`.
    pub fn failed(mut self, line: &str) {
        // Nobody is left to tell if the parent is gone.
        let _ = write!(self.0, "-{line}");
    }
}

/// Forks. The parent waits for the child's report; the child leads a session of its own, in `/`.
///
/// Call it before any thread is started: threads do not survive a fork.
///
/// # Errors
/// The pipe, the fork or the session could not be made.
pub fn daemonize() -> io::Result<Daemonized> {
    let (read, write) = pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    // SAFETY: the documented contract is that no thread runs yet, so the child may use everything the parent could.
    match unsafe { fork() }? {
        ForkResult::Parent { .. } => {
            drop(write);
            Ok(Daemonized::Parent(report(read)?))
        }
        ForkResult::Child => {
            drop(read);
            setsid()?;
            nix::unistd::chdir("/")?;
            Ok(Daemonized::Child(Ready(File::from(write))))
        }
    }
}

fn report(pipe: OwnedFd) -> io::Result<Result<(), String>> {
    let mut text = Vec::new();
    File::from(pipe).read_to_end(&mut text)?;
    Ok(match text.split_first() {
        Some((b'+', _)) => Ok(()),
        Some((_, line)) => Err(String::from_utf8_lossy(line).into_owned()),
        None => Err("the daemon ended before it was ready".to_owned()),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    // `daemonize` itself forks the test runner with its threads; the command line's tests run it from the outside.
    #[test]
    fn the_parent_hears_success_a_line_or_silence() {
        let hear = |said: &[u8]| {
            let (read, write) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
            File::from(write).write_all(said).unwrap();
            report(read).unwrap()
        };
        assert_eq!(hear(b"+"), Ok(()));
        assert_eq!(hear(b"-store is in use"), Err("store is in use".to_owned()));
        assert_eq!(hear(b""), Err("the daemon ended before it was ready".to_owned()));
    }

    #[test]
    fn a_failed_child_passes_its_line_on() {
        let (read, write) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        Ready(File::from(write)).failed("no such directory");
        assert_eq!(report(read).unwrap(), Err("no such directory".to_owned()));
    }
}
