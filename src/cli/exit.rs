//! How a command ends: the exit codes of the contract, and the one line on standard error.

use std::io;

use crate::config::ConfigError;
use crate::control::client::ClientError;
use crate::control::protocol::ErrorKind;
use crate::daemon::DaemonError;
use crate::store::StoreError;
use crate::sys::mount::MountError;

/// The exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// It failed.
    Failed = 1,
    /// Wrong usage or configuration.
    Usage = 2,
    /// Rejected by checks.
    Rejected = 3,
    /// Conflict with something that is already so.
    Conflict = 4,
    /// No daemon at that path.
    NoDaemon = 5,
    /// Try again.
    Temporary = 75,
}

impl Exit {
    /// The code with this number; a number of no code is a failure.
    #[must_use]
    pub fn from_code(code: u8) -> Self {
        let all = [Self::Done, Self::Failed, Self::Usage, Self::Rejected, Self::Conflict, Self::NoDaemon, Self::Temporary];
        all.into_iter().find(|exit| *exit as u8 == code).unwrap_or(Self::Failed)
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Its exit code.
    pub exit: Exit,
    /// The line for standard error; empty if nobody is to be told.
    pub message: String,
}

/// The result of a command.
pub type Result<T = (), E = Failure> = std::result::Result<T, E>;

impl Failure {
    /// A failure with its line: what, why and the remedy.
    #[must_use]
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// The line as people read it: the system's errors in words, without their numbers.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = String::new();
        let mut rest = self.message.as_str();
        while let Some((before, after)) = rest.split_once(" (os error ") {
            line.push_str(before);
            rest = after.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start_matches(')');
        }
        line + rest
    }

    /// Something failed, in one line.
    #[must_use]
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match &error {
            ClientError::NotAStore { .. } | ClientError::Unreadable { .. } => Exit::Usage,
            ClientError::NoDaemon { .. } | ClientError::Corpse { .. } => Exit::NoDaemon,
            ClientError::Denied { .. } | ClientError::Wire { .. } => Exit::Failed,
            ClientError::Refused(refusal) => match refusal.kind {
                ErrorKind::Failed => Exit::Failed,
                ErrorKind::Usage => Exit::Usage,
                ErrorKind::Rejected => Exit::Rejected,
                ErrorKind::Conflict => Exit::Conflict,
                ErrorKind::Temporary => Exit::Temporary,
            },
        };
        Self::new(exit, error.to_string())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let exit = match &error {
            StoreError::NotAStore { .. } | StoreError::NewerFormat { .. } => Exit::Usage,
            StoreError::Exists { .. } | StoreError::InUse { .. } => Exit::Conflict,
            _ => Exit::Failed,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<MountError> for Failure {
    fn from(error: MountError) -> Self {
        let exit = match &error {
            MountError::Missing(_) | MountError::NotADirectory(_) | MountError::OthersNotAllowed(_) => Exit::Usage,
            MountError::NotEmpty(_) | MountError::Mounted { .. } | MountError::Covered(_) => Exit::Conflict,
            MountError::Busy(_) => Exit::Temporary,
            MountError::Refused { .. } => Exit::Failed,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(Exit::Usage, error.to_string())
    }
}

impl From<&DaemonError> for Failure {
    fn from(error: &DaemonError) -> Self {
        match error {
            DaemonError::Config(error) => error.clone().into(),
            DaemonError::Refused(refusal) => ClientError::Refused(refusal.clone()).into(),
            DaemonError::Other(line) => Self::failed(line.clone()),
        }
    }
}

impl From<io::Error> for Failure {
    /// An error of standard output: the only input and output that commands do without a word of their own on it.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // The reader has seen enough (`shadowfs log | head`): not worth a word, nor a failure.
            io::ErrorKind::BrokenPipe => Self::new(Exit::Done, ""),
            _ => Self::failed(format!("standard output: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::Refusal;

    #[test]
    fn every_class_of_refusal_has_the_contracts_code() {
        let codes =
            [(ErrorKind::Failed, 1), (ErrorKind::Usage, 2), (ErrorKind::Rejected, 3), (ErrorKind::Conflict, 4), (ErrorKind::Temporary, 75)];
        for (kind, code) in codes {
            let failure = Failure::from(ClientError::Refused(Refusal { kind, message: "no".to_owned() }));
            assert_eq!(failure.exit as u8, code);
            assert_eq!(Exit::from_code(code), failure.exit);
        }
        let gone = Failure::from(ClientError::NoDaemon { store: "/s".into() });
        assert_eq!((gone.exit as u8, gone.message.as_str()), (5, "/s: no daemon serves this store; mount it: shadowfs mount /s MNT"));
    }

    #[test]
    fn errors_of_the_system_are_words() {
        let error = io::Error::from_raw_os_error(2);
        assert_eq!(Failure::failed(format!("x: {error}; y: {error}")).line(), "x: No such file or directory; y: No such file or directory");
        assert_eq!(Failure::failed("x").line(), "x");
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        let quiet = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((quiet.exit, quiet.message.as_str()), (Exit::Done, ""));
    }
}
