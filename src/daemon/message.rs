//! What reaches the dispatcher.

use std::path::PathBuf;
use std::sync::{Arc, Weak};

use crossbeam::channel::Sender;

use crate::control::protocol::{Refusal, Reply, Request, VersionName};
use crate::fs::nodes::ViewNode;
use crate::ids::VersionId;
use crate::retain::Expiry;
use crate::store::record::VersionRecord;
use crate::tree::PathChange;
use crate::tree::key::Name;

/// A message.
#[derive(Debug)]
pub(super) enum Message {
    /// A request that the dispatcher answers, now or later.
    Ask(Request, Sender<Reply>),
    /// A `wait`: the version, whether for production, who is to be answered, and what is gone once nobody waits any more.
    Wait(Option<VersionName>, bool, Sender<Reply>, Weak<()>),
    /// Which version a name means, with its record as it is now.
    Find(VersionName, Sender<Result<VersionRecord, Refusal>>),
    /// An errand is done, or tells how it goes.
    Errand(Report),
    /// Names in the views that the kernel is to look up anew.
    LetGo(Vec<(ViewNode, Name)>),
    /// What has had its time is to expire; or (`dry_run`) which that would be.
    Retire {
        /// Only tell.
        dry_run: bool,
        /// For the answer, or why nothing expires.
        reply: Sender<Result<Retired, String>>,
    },
    /// A sweep in the background has ended, or failed.
    Swept {
        /// Why it failed.
        warning: Option<String>,
    },
    /// The configuration file may have changed.
    ConfigTouched,
    /// A signal asks for the end, or somebody has taken the mount down.
    Stop,
}

/// What has expired, or would.
#[derive(Debug)]
pub(super) struct Retired {
    /// The versions.
    pub(super) expired: Vec<Expiry>,
    /// Those whose time is over, too, but which are being read.
    pub(super) busy: Vec<VersionId>,
}

/// What the errand thread tells.
#[derive(Debug)]
pub(super) enum Report {
    /// A version is sealed (or aborted, if nothing had changed): the catalog has it.
    Sealed(Box<VersionRecord>),
    /// A version can't be sealed yet; it is tried again.
    SealFails {
        /// Which.
        version: VersionId,
        /// Why.
        why: String,
    },
    /// What a version changed is known.
    Planned {
        /// Which.
        version: VersionId,
        /// Its changes, or why they can't be read.
        changes: Result<Arc<Changes>, String>,
    },
    /// How a hook fares: why it fails, if it does.
    Notified {
        /// The hook.
        name: String,
        /// In one line.
        failing: Option<String>,
    },
    /// Production's kernel mount follows, or why it does not.
    Bound(Result<(), String>),
}

/// What a version changed, with the file that tells checks of it.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// The paths that it changed itself, against its parent, sorted: they decide which checks it has.
    pub(super) list: Arc<[PathChange]>,
    /// `SHADOWFS_CHANGES`, the paths that differ from the last valid version (`SHADOWFS_BASE_TREE`), if some check is a command. Removed with the last user of this.
    pub(super) file: Option<PathBuf>,
}

impl Drop for Changes {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            // It lies in a directory of our own that goes with the daemon.
            let _ = std::fs::remove_file(file);
        }
    }
}
