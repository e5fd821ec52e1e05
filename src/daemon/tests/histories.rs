//! Random histories against plain maps: writes, seals, verdicts in any order, rollbacks, promotions by hand and by themselves, restore,
//! drop, manual mode, crashes. What every version, staging and production have is what the maps have.
//!
//! `SHADOWFS_HISTORIES=10000 cargo test --lib daemon::tests::histories` runs more of them.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::super::dispatcher::Dispatcher;
use super::super::todo::Todo;
use super::steps::{await_seal, config, seal};
use super::*;
use crate::store::event::verify_chain;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

type Content = BTreeMap<String, String>;

#[derive(Clone, Debug)]
enum Step {
    Write(usize),
    Remove(usize),
    Commit,
    Abort,
    Pass(prop::sample::Index),
    Reject(prop::sample::Index),
    RollBack(prop::sample::Index),
    Promote(prop::sample::Index),
    Restore(prop::sample::Index),
    Drop(prop::sample::Index),
    Manual(bool),
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    use prop::sample::Index;
    prop_oneof![
        12 => (0..NAMES.len()).prop_map(Step::Write),
        3 => (0..NAMES.len()).prop_map(Step::Remove),
        10 => Just(Step::Commit),
        1 => Just(Step::Abort),
        8 => any::<Index>().prop_map(Step::Pass),
        6 => any::<Index>().prop_map(Step::Reject),
        2 => any::<Index>().prop_map(Step::RollBack),
        2 => any::<Index>().prop_map(Step::Promote),
        2 => any::<Index>().prop_map(Step::Restore),
        1 => any::<Index>().prop_map(Step::Drop),
        1 => any::<bool>().prop_map(Step::Manual),
        1 => Just(Step::Crash),
    ]
}

/// A version as the maps know it.
#[derive(Clone, Debug)]
struct Known {
    parent: VersionId,
    content: Content,
    state: VersionState,
    passed: bool,
    held: bool,
    /// Where its changes went.
    into: Option<VersionId>,
}

#[derive(Debug)]
struct Model {
    versions: BTreeMap<VersionId, Known>,
    base: VersionId,
    production: VersionId,
    open: Option<Content>,
    /// The open version has the content of another: it is one even if nothing differs.
    restored: bool,
    manual: bool,
    /// Contents are never the same twice, so that equal ones are one.
    last: u32,
}

const fn good(state: VersionState) -> bool {
    matches!(state, VersionState::Valid | VersionState::Promoted | VersionState::Superseded)
}

/// `ours` on top of `theirs` instead of `base`; `None` if both changed one file.
fn merged(base: &Content, theirs: &Content, ours: &Content) -> Option<Content> {
    let mut result = Content::new();
    for name in base.keys().chain(theirs.keys()).chain(ours.keys()).collect::<BTreeSet<_>>() {
        let (base, theirs, ours) = (base.get(name), theirs.get(name), ours.get(name));
        let now = if ours == base || ours == theirs {
            theirs
        } else if theirs == base {
            ours
        } else {
            return None;
        };
        result.extend(now.map(|text| (name.clone(), text.clone())));
    }
    Some(result)
}

impl Model {
    fn new() -> Self {
        let first =
            Known { parent: VersionId(0), content: Content::new(), state: VersionState::Promoted, passed: true, held: false, into: None };
        let versions = BTreeMap::from([(VersionId(0), first)]);
        Self { versions, base: VersionId(0), production: VersionId(0), open: None, restored: false, manual: false, last: 0 }
    }

    fn staging(&self) -> &Content {
        self.open.as_ref().unwrap_or(&self.versions[&self.base].content)
    }

    fn edit(&mut self) -> &mut Content {
        let base = &self.versions[&self.base].content;
        self.open.get_or_insert_with(|| base.clone())
    }

    fn ancestry(&self, version: VersionId) -> Vec<VersionId> {
        let up = |at: &VersionId| (at.0 != 0).then(|| self.versions[at].parent);
        std::iter::successors(Some(version), up).collect()
    }

    fn landing(&self, version: VersionId) -> VersionId {
        let mut at = version;
        while self.versions[&at].state == VersionState::Ghost {
            at = self.versions[&at].into.unwrap_or(self.versions[&at].parent);
        }
        at
    }

    fn unjudged(&self) -> Vec<VersionId> {
        let waits = |(version, known): (&VersionId, &Known)| (known.state == VersionState::Checking).then_some(*version);
        self.versions.iter().filter_map(waits).collect()
    }

    /// The same, each after what it stands on: a version that was open while another was carried over stands on a newer number.
    fn grounds_first(&self) -> Vec<VersionId> {
        let mut found = self.unjudged();
        found.sort_by_key(|version| self.ancestry(*version).len());
        found
    }

    fn pass(&mut self, version: VersionId) {
        self.set(version).passed = true;
        for version in self.grounds_first() {
            let known = &self.versions[&version];
            if known.passed && matches!(self.versions[&known.parent].state, state if good(state) || state == VersionState::Expired) {
                self.set(version).state = VersionState::Valid;
            }
        }
    }

    fn set(&mut self, version: VersionId) -> &mut Known {
        self.versions.get_mut(&version).unwrap()
    }

    /// Sets what is open aside, or carries it, when staging moves. `ghost`: its number.
    fn move_staging(&mut self, from: VersionId, to: VersionId, ghost: Option<VersionId>) {
        let Some(open) = self.open.take() else { return };
        match merged(&self.versions[&from].content, &self.versions[&to].content, &open) {
            Some(content) => self.open = Some(content),
            None => {
                let known = Known { parent: from, content: open, state: VersionState::Ghost, passed: false, held: false, into: None };
                self.versions.insert(ghost.unwrap(), known);
                self.restored = false;
            }
        }
    }

    /// The scheduler's part: the window is over at once.
    fn promote_flagged(&mut self) {
        let above: Vec<_> = self.ancestry(self.base).into_iter().take_while(|version| *version != self.production).collect();
        let flagged: Vec<_> = above
            .into_iter()
            .filter(|version| self.versions[version].state == VersionState::Valid && !self.versions[version].held)
            .collect();
        if let (Some(newest), false) = (flagged.first(), self.manual) {
            self.promote(*newest, &flagged);
        }
    }

    fn promote(&mut self, newest: VersionId, batch: &[VersionId]) {
        for version in batch.iter().copied().chain([self.production]) {
            self.set(version).state = VersionState::Superseded;
        }
        self.set(newest).state = VersionState::Promoted;
        self.production = newest;
    }
}

/// The daemon and what is expected of it.
struct Lab {
    daemon: Daemon,
    dispatcher: Dispatcher,
    model: Model,
}

fn rules(manual: bool) -> String {
    let text = waiting();
    if manual { text.replace("[promotion]", "[promotion]\nmode = \"manual\"") } else { text }
}

impl Lab {
    fn new() -> Self {
        let (daemon, dispatcher) = Daemon::driven(&rules(false));
        Self { daemon, dispatcher, model: Model::new() }
    }

    /// Everything that follows by itself.
    fn settle(&mut self) {
        loop {
            self.dispatcher.drain_staging();
            self.dispatcher.work();
            self.dispatcher.promote_due();
            assert!(self.dispatcher.retry_at.is_none(), "the disk is well, and a step failed: {:?}", self.dispatcher.warnings);
            if self.dispatcher.sealing.is_some() {
                await_seal(&mut self.dispatcher);
            } else if self.dispatcher.todo.is_empty() {
                break;
            }
        }
        self.dispatcher.show();
    }

    fn open_number(&self) -> Option<VersionId> {
        self.daemon.connections().staging.activity().version
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Write(name) => self.write(NAMES[*name]),
            Step::Remove(name) => self.remove(NAMES[*name]),
            Step::Commit => self.commit(),
            Step::Abort => {
                self.dispatcher.abort();
                (self.model.open, self.model.restored) = (None, false);
            }
            Step::Pass(index) => self.judge(*index, true),
            Step::Reject(index) => self.judge(*index, false),
            Step::RollBack(index) => self.roll_back(*index),
            Step::Promote(index) => self.promote(*index),
            Step::Restore(index) => self.restore(*index),
            Step::Drop(index) => self.drop_version(*index),
            Step::Manual(manual) => {
                self.dispatcher.config = config(&rules(*manual));
                self.model.manual = *manual;
            }
            Step::Crash => {}
        }
        self.settle();
        self.model.promote_flagged();
    }

    fn write(&mut self, name: &str) {
        self.model.last += 1;
        let text = self.model.last.to_string();
        self.daemon.put(name, &text);
        self.model.edit().insert(name.to_owned(), text);
    }

    fn remove(&mut self, name: &str) {
        if self.model.staging().contains_key(name) {
            self.daemon.connections().staging.unlink(&ROOT, NodeRef::ROOT, name.as_bytes()).unwrap();
            self.model.edit().remove(name);
        }
    }

    fn commit(&mut self) {
        let Some(version) = self.open_number() else { return };
        seal(&self.daemon, &mut self.dispatcher);
        let (content, base) = (self.model.open.take().unwrap(), self.model.base);
        let unchanged = content == self.model.versions[&base].content && !std::mem::take(&mut self.model.restored);
        let state = if unchanged { VersionState::Aborted } else { VersionState::Checking };
        self.model.restored = false;
        self.model.versions.insert(version, Known { parent: base, content, state, passed: false, held: false, into: None });
        if !unchanged {
            self.model.base = version;
        }
    }

    fn judge(&mut self, index: prop::sample::Index, pass: bool) {
        let waiting: Vec<_> = self.model.unjudged().into_iter().filter(|version| !self.model.versions[version].passed).collect();
        if waiting.is_empty() {
            return;
        }
        let version = *index.get(&waiting);
        if pass {
            self.dispatcher.todo.push_back(Todo::Pass(version));
            return self.model.pass(version);
        }
        let ghost = self.open_number();
        let reason = Reason::ChecksFailed { checks: vec!["v".to_owned()], summary: "it is bad".to_owned() };
        self.dispatcher.todo.push_back(Todo::Reject(version, reason));
        self.settle();
        let below = self.model.base;
        self.reject_known(version);
        let to = self.model.base;
        self.model.move_staging(below, to, ghost);
    }

    /// What the maps say of a rejection. Only the numbers of versions that are carried over are the daemon's.
    fn reject_known(&mut self, version: VersionId) {
        let model = &mut self.model;
        let stranded: Vec<_> =
            model.grounds_first().into_iter().filter(|above| *above != version && model.ancestry(*above).contains(&version)).collect();
        model.set(version).state = VersionState::Ghost;
        // What each that is gone has become, for those on top of it.
        let mut become_of = BTreeMap::from([(version, model.landing(version))]);
        for old in stranded {
            let known = model.versions[&old].clone();
            let onto = become_of[&known.parent];
            let carried = merged(&model.versions[&known.parent].content, &model.versions[&onto].content, &known.content);
            model.set(old).state = VersionState::Ghost;
            match carried {
                None => drop(become_of.insert(old, onto)),
                Some(content) => {
                    let new = match self.dispatcher.history.get(old).and_then(|record| record.reason.clone()) {
                        Some(Reason::Rebased { into }) => into,
                        other => panic!("{old} does not overlap, but: {other:?}"),
                    };
                    model.set(old).into = Some(new);
                    model.versions.insert(new, Known { parent: onto, content, state: VersionState::Checking, passed: false, ..known });
                    become_of.insert(old, new);
                }
            }
        }
        model.base = become_of.get(&model.base).copied().unwrap_or(model.base);
    }

    fn any(&self, index: prop::sample::Index) -> VersionId {
        *index.get(&self.model.versions.keys().copied().collect::<Vec<_>>())
    }

    fn roll_back(&mut self, index: prop::sample::Index) {
        let (target, ghost) = (self.any(index), self.open_number());
        let (reply, answer) = crossbeam::channel::bounded(1);
        self.dispatcher.todo.push_back(Todo::RollBack(Some(target), reply));
        self.settle();
        let model = &mut self.model;
        let possible = good(model.versions[&target].state) && model.ancestry(model.production).contains(&target);
        let answer = answer.recv().unwrap();
        assert_eq!(matches!(answer, Reply::Version(_)), possible, "{target}: {answer:?}");
        if !possible {
            return;
        }
        if target != model.production {
            model.promote(target, &[]);
        }
        let above: Vec<_> =
            model.versions.keys().copied().filter(|above| *above != target && model.ancestry(*above).contains(&target)).collect();
        for version in above {
            let known = model.set(version);
            known.held |= good(known.state) || known.state == VersionState::Checking;
        }
        let below = model.base;
        model.base = target;
        model.move_staging(below, target, ghost);
    }

    fn promote(&mut self, index: prop::sample::Index) {
        let (version, ghost) = (self.any(index), self.open_number());
        let (reply, answer) = crossbeam::channel::bounded(1);
        self.dispatcher.todo.push_back(Todo::Promote(Some(version), reply));
        self.settle();
        let answer = answer.recv().unwrap();
        let model = &mut self.model;
        if version == model.production {
            return assert!(matches!(answer, Reply::Version(_)), "{answer:?}");
        }
        let on_the_line = model.ancestry(model.base).contains(&version);
        let taken_back = model.ancestry(version).contains(&model.base);
        let older = model.ancestry(model.production).contains(&version);
        let possible = good(model.versions[&version].state) && !older && (on_the_line || taken_back);
        assert_eq!(matches!(answer, Reply::Version(_)), possible, "{version}: {answer:?}");
        if !possible {
            return;
        }
        let path: Vec<_> = model.ancestry(version).into_iter().take_while(|step| *step != model.production).collect();
        let batch: Vec<_> = path.iter().copied().filter(|step| model.versions[step].state == VersionState::Valid).collect();
        model.promote(version, &batch);
        if !on_the_line {
            path.iter().for_each(|step| model.set(*step).held = false);
            let below = model.base;
            model.base = version;
            model.move_staging(below, version, ghost);
        }
    }

    fn restore(&mut self, index: prop::sample::Index) {
        let from = self.any(index);
        let (reply, answer) = crossbeam::channel::bounded(1);
        self.dispatcher.todo.push_back(Todo::Restore(from, reply));
        self.settle();
        let known = &self.model.versions[&from];
        let gone = matches!(known.state, VersionState::Aborted | VersionState::Expired);
        match answer.recv().unwrap() {
            Reply::Refused(refusal) => assert!(gone || self.model.open.is_some(), "{from}: {refusal:?}"),
            Reply::Nothing => assert_eq!(known.content, *self.model.staging()),
            _ => {
                assert!(!gone && self.model.open.is_none(), "{from}");
                (self.model.open, self.model.restored) = (Some(known.content.clone()), true);
            }
        }
    }

    fn drop_version(&mut self, index: prop::sample::Index) {
        let version = self.any(index);
        // Refused or not: what depends on it must be there afterwards, which `compare` looks at.
        if let Reply::Version(_) = self.dispatcher.drop_version(version) {
            assert!(version != self.model.base && version != self.model.production, "{version}");
            self.model.set(version).state = VersionState::Expired;
        }
    }

    fn crash(mut self) -> Self {
        self.daemon.connections().staging.sync_all().unwrap();
        take_apart(self.dispatcher);
        let dir = self.daemon.dismantle();
        (self.daemon, self.dispatcher) = Daemon::driven_in(dir, &rules(self.model.manual), None, |_| ());
        // Whether somebody meant what makes no difference is not in the journal.
        self.model.restored |= self.model.open.is_some();
        self.settle();
        self
    }

    fn compare(&self) -> Result<(), TestCaseError> {
        let history = &self.dispatcher.history;
        for (version, known) in &self.model.versions {
            let record = history.get(*version);
            let state = record.map(|record| (record.state, record.held));
            // What an expired one was held by does not matter any more.
            let held = if known.state == VersionState::Expired { record.is_some_and(|record| record.held) } else { known.held };
            prop_assert_eq!(state, Some((known.state, held)), "{} {:?}", version, known);
        }
        prop_assert_eq!(history.production(), self.model.production);
        prop_assert_eq!(history.base(), self.model.base);
        prop_assert_eq!(self.daemon.staging(), self.model.staging().clone(), "staging");
        prop_assert_eq!(self.daemon.production(), self.model.versions[&self.model.production].content.clone(), "production");
        Ok(())
    }

    /// What every version has, and that the trail is whole.
    fn compare_all(&self) -> Result<(), TestCaseError> {
        let shared = &self.daemon.connections().shared;
        for (version, known) in &self.model.versions {
            let snapshot = self.dispatcher.history.get(*version).and_then(|record| shared.snapshot(record));
            match snapshot {
                Some(snapshot) => prop_assert_eq!(self.daemon.content(&snapshot), known.content.clone(), "{}", version),
                None => prop_assert!(matches!(known.state, VersionState::Aborted | VersionState::Expired), "{}", version),
            }
        }
        let events = shared.store.catalog().events(crate::ids::EventSeq(0)).unwrap();
        prop_assert_eq!(verify_chain(&events), Ok(()));
        Ok(())
    }
}

fn run(steps: &[Step]) -> Result<(), TestCaseError> {
    let mut lab = Lab::new();
    for step in steps {
        lab = if matches!(step, Step::Crash) { lab.crash() } else { lab };
        lab.take(step);
        lab.compare()?;
    }
    lab.compare_all()?;
    let Lab { daemon, dispatcher, .. } = lab;
    take_apart(dispatcher);
    let _dir = daemon.dismantle();
    Ok(())
}

fn histories() -> u32 {
    std::env::var("SHADOWFS_HISTORIES").ok().and_then(|text| text.parse().ok()).unwrap_or(32)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: histories(), max_shrink_iters: 400, ..ProptestConfig::default() })]
    #[test]
    fn every_version_staging_and_production_have_what_plain_maps_have(steps in prop::collection::vec(step(), 1..40)) {
        run(&steps)?;
    }
}
