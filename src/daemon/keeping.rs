//! What is kept, let go and brought back by hand: `pin`, `tag`, `drop`, `restore`.

use crossbeam::channel::Sender;

use super::dispatcher::{Dispatcher, StepError};
use super::publish::history_refusal;
use super::requests::{failed, refused};
use super::todo::Todo;
use crate::control::protocol::{ErrorKind, Reply, TagDoc, VersionDoc};
use crate::ids::VersionId;
use crate::retain::sweep_is_due;
use crate::store::record::Reason;
use crate::store::{StoreError, Transaction};
use crate::version::FsError;
use crate::version::history::{Decision, HistoryError};
use crate::version::staging::Restored;
use crate::version::tag::TagName;

impl Dispatcher {
    pub(super) fn pin(&mut self, version: VersionId, on: bool) -> Reply {
        self.decided(version, self.history.pinned(version, on, self.clock.now()), |_| Ok(()))
    }

    /// Gives a version a name; `versions/NAME` is there when the answer is.
    pub(super) fn tag(&mut self, name: &str, version: VersionId, force: bool) -> Reply {
        let name: TagName = match name.parse() {
            Ok(name) => name,
            Err(error) => return refused(ErrorKind::Usage, error.to_string()),
        };
        let before = self.shared.visible().tags.get(name.as_str()).copied();
        let mut decision = self.history.tagged(version, &name, self.clock.now());
        match before {
            Some(before) if before == version => return self.version_reply(version),
            Some(before) if !force => {
                let line = format!("the tag {name} leads to {before}; to move it: shadowfs tag --force {name} {version}");
                return refused(ErrorKind::Conflict, line);
            }
            Some(before) => {
                decision = decision.and_then(|mut tagged| {
                    let mut untagged = self.history.untagged(before, name.as_str(), self.clock.now())?;
                    std::mem::swap(&mut tagged.events, &mut untagged.events);
                    tagged.events.append(&mut untagged.events);
                    Ok(tagged)
                });
            }
            None => {}
        }
        let answer = self.decided(version, decision, |transaction| transaction.put_tag(name.as_str(), version));
        if matches!(answer, Reply::Version(_)) {
            let mut tags = self.shared.visible().tags.clone();
            tags.insert(name.as_str().to_owned(), version);
            self.show_tags(tags);
        }
        answer
    }

    pub(super) fn untag(&mut self, name: &str) -> Reply {
        let mut tags = self.shared.visible().tags.clone();
        let Some(version) = tags.remove(name) else {
            return failed(format!("there is no tag \"{name}\"; `shadowfs tag` lists them"));
        };
        let decision = self.history.untagged(version, name, self.clock.now());
        let answer = self.decided(version, decision, |transaction| transaction.remove_tag(name));
        if matches!(answer, Reply::Version(_)) {
            self.show_tags(tags);
        }
        answer
    }

    pub(super) fn tags(&self) -> Reply {
        let visible = self.shared.visible();
        Reply::Tags(visible.tags.iter().map(|(name, version)| TagDoc { name: name.clone(), version: *version }).collect())
    }

    fn show_tags(&mut self, tags: std::collections::BTreeMap<String, VersionId>) {
        self.shared.set_tags(tags);
        self.waiters.stir();
        self.show();
    }

    /// The retention of a version ends now.
    pub(super) fn drop_version(&mut self, version: VersionId) -> Reply {
        let busy = |why: &str| refused(ErrorKind::Temporary, format!("{version} can't be dropped: {why}; try again when that is done"));
        let visible = self.shared.visible();
        let tag = visible.tags.iter().find(|(_, tagged)| **tagged == version).map(|(name, _)| name.as_str());
        let decision = self.history.dropped(version, tag, self.clock.now());
        if decision.is_ok() && self.runs.contains_key(&version) {
            return busy("its checks run");
        }
        if decision.is_ok() && self.promotion.as_ref().is_some_and(|promotion| promotion.version == version) {
            return busy("it is being promoted");
        }
        if decision.is_ok() && self.staging_base == version {
            return busy("staging is on its way back from it");
        }
        if decision.is_ok()
            && let Err(error) = self.staging.leave_bases()
        {
            return failed(format!("{version} is as it was, the journal of the open version can't be written: {error}"));
        }
        let answer = self.decided(version, decision, sweep_is_due);
        self.keeper.wake();
        answer
    }

    /// Writes a decision about a version, shows it, and answers with the version.
    fn decided(
        &mut self,
        version: VersionId,
        decision: Result<Decision, HistoryError>,
        more: impl FnOnce(&mut Transaction<'_>) -> Result<(), StoreError>,
    ) -> Reply {
        let decision = match decision {
            Ok(decision) => decision,
            Err(error) => return history_refusal(&error),
        };
        if let Err(error) = self.write_with(decision, more) {
            return failed(format!("{version} is as it was, the store can't record it: {error}"));
        }
        self.show();
        self.version_reply(version)
    }

    fn version_reply(&self, version: VersionId) -> Reply {
        match self.history.get(version) {
            Some(record) => Reply::Version(Box::new(VersionDoc::from(record))),
            None => failed(format!("there is no version {version}")),
        }
    }

    /// `restore`: the content of a version as a new, open one.
    pub(super) fn restore(&mut self, from: VersionId, reply: &Sender<Reply>) {
        let answer = self.put_back(from);
        self.show();
        let _ = reply.send(answer);
    }

    fn put_back(&mut self, from: VersionId) -> Reply {
        let content = match self.history.restorable(from) {
            Ok(record) => {
                if let Some(Reason::Unreadable { paths, .. }) = &record.reason {
                    let lost = paths.first().map_or("some of its files", String::as_str);
                    let line =
                        format!("{from} can't be restored: {lost} was lost before it was sealed; copy what is good from ghosts/{from}");
                    return refused(ErrorKind::Conflict, line);
                }
                self.shared.snapshot(record)
            }
            Err(error) => return history_refusal(&error),
        };
        let Some(content) = content else { return failed(format!("{from} has no content")) };
        let restored = match self.staging.restore(&content) {
            Ok(Some(restored)) => restored,
            Ok(None) => return Reply::Nothing,
            Err(FsError::Busy) => {
                let open = self.staging.activity().version.map_or_else(|| "a version".to_owned(), |version| version.to_string());
                let line = format!("{open} is open with changes of its own; first `shadowfs commit` or `shadowfs abort`");
                return refused(ErrorKind::Conflict, line);
            }
            Err(error) => return failed(format!("{from} can't be restored: {error}")),
        };
        self.kernel.invalidate_staging(&restored.invalidate);
        if let Err(error) = self.record_restored(&restored, from) {
            self.give_up(restored.version);
            return failed(format!("{from} can't be restored: {error}"));
        }
        self.drain_staging();
        self.version_reply(restored.version)
    }

    /// On disk before anyone is told: the record, and the journal with the content.
    fn record_restored(&mut self, restored: &Restored, from: VersionId) -> Result<(), StepError> {
        let mut decision = self.history.restored(restored.version, self.staging_base, from, restored.at)?;
        if let (Some(hold), Some(record)) = (&self.hold, decision.records.first_mut()) {
            record.message.clone_from(&hold.message);
        }
        self.write(decision)?;
        Ok(self.staging.sync_all()?)
    }

    /// Nobody has been told of the open version, and the disk did not take it.
    fn give_up(&mut self, version: VersionId) {
        match self.staging.discard() {
            Ok((_, invalid)) => self.kernel.invalidate_staging(&invalid),
            Err(error) => return self.warn("restore".to_owned(), format!("{version} can't be discarded: {error}")),
        }
        self.drain_staging();
        self.todo.push_back(Todo::Discarded(version));
    }
}
