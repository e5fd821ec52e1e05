//! Asking the daemon that the command line means.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use super::exit::{Failure, Result};
use crate::control::client::{self, ClientError};
use crate::control::protocol::{Reply, Request, StatusDoc, VersionDoc};

/// How long it is waited for a daemon that has broken a connection to be gone.
const ENDING_LOOKS: u32 = 40;
const ENDING_LOOK: std::time::Duration = std::time::Duration::from_millis(50);

/// Whom to ask: found once, asked as often as needed.
#[derive(Debug)]
pub(super) struct Asking {
    named: Option<PathBuf>,
    store: OnceCell<PathBuf>,
}

impl Asking {
    /// The daemon of the store that `-C`, the working directory or `$SHADOWFS` mean.
    pub(super) fn new(named: Option<PathBuf>) -> Self {
        Self { named, store: OnceCell::new() }
    }

    /// The same for a path that a verb names itself.
    pub(super) fn at(path: &Path) -> Self {
        Self::new(Some(path.to_owned()))
    }

    /// What `-C` names.
    pub(super) fn named(&self) -> Option<&Path> {
        self.named.as_deref()
    }

    /// The store.
    pub(super) fn store(&self) -> Result<&Path> {
        Ok(self.find()?)
    }

    fn find(&self) -> std::result::Result<&Path, ClientError> {
        if let Some(store) = self.store.get() {
            return Ok(store);
        }
        let environment = std::env::var_os("SHADOWFS").filter(|value| !value.is_empty()).map(PathBuf::from);
        let store = client::resolve(self.named.as_deref(), Path::new("."), environment.as_deref())?;
        Ok(self.store.get_or_init(|| store))
    }

    /// One request. A refusal is a failure.
    pub(super) fn ask(&self, request: &Request) -> Result<Reply> {
        Ok(self.try_ask(request)?)
    }

    /// The same for verbs that also work without a daemon.
    pub(super) fn try_ask(&self, request: &Request) -> std::result::Result<Reply, ClientError> {
        client::connect(self.find()?)?.ask(request)
    }

    /// For verbs that also work without a daemon: one that is just ending counts as none once it is gone.
    pub(super) fn try_ask_or_none(&self, request: &Request) -> std::result::Result<Reply, ClientError> {
        let answer = self.try_ask(request);
        if matches!(answer, Err(ClientError::Wire { .. })) {
            for _ in 0..ENDING_LOOKS {
                if let Err(gone @ ClientError::NoDaemon { .. }) = client::connect(self.find()?) {
                    return Err(gone);
                }
                std::thread::sleep(ENDING_LOOK);
            }
        }
        answer
    }

    /// A request that is answered with a version, or with nothing where there is none.
    pub(super) fn version(&self, request: &Request) -> Result<Option<VersionDoc>> {
        match self.ask(request)? {
            Reply::Version(doc) => Ok(Some(*doc)),
            Reply::Nothing => Ok(None),
            other => Err(unexpected(&other)),
        }
    }

    /// The daemon's status.
    pub(super) fn status(&self) -> Result<StatusDoc> {
        match self.ask(&Request::Status)? {
            Reply::Status(doc) => Ok(*doc),
            other => Err(unexpected(&other)),
        }
    }
}

/// An answer to another question.
pub(super) fn unexpected(reply: &Reply) -> Failure {
    let what = match reply {
        Reply::Status(_) => "a status",
        Reply::Log(_) => "versions",
        Reply::Show(_) | Reply::Version(_) => "a version",
        Reply::Diff(_) => "a difference",
        Reply::Lineage(_) => "events",
        Reply::Text(_) => "text",
        Reply::Nothing => "nothing",
        Reply::Refused(_) => "a refusal",
        Reply::Tags(_) => "tags",
        Reply::Verified(_) => "findings",
        Reply::Collected(_) => "what it has freed",
        Reply::Metrics(_) => "numbers",
        Reply::Checked(_) | Reply::Scrubbed(_) => "what it has found",
        Reply::Progress(..) => "how far it is",
    };
    Failure::failed(format!("the daemon answered with {what}, which was not asked for; is it of the same version? unmount and mount again"))
}
