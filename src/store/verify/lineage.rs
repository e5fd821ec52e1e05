//! `lineage verify`: the chain of events is whole, and what it tells is what the versions' records say.

use std::collections::BTreeMap;

use super::{Finding, Findings, Severity};
use crate::ids::{Digest, EventSeq, VersionId};
use crate::store::event::{ChainBreak, Event, EventKind, verify_chain};
use crate::store::record::{VersionRecord, VersionState};
use crate::store::{Result, Store};

/// How many events are read at once.
const BATCH: usize = 1024;

/// Checks the chain of events, and the records against it. Trees and contents are `fsck`'s and `scrub`'s matter.
pub fn lineage(store: &Store, versions: &[VersionRecord]) -> Result<Vec<Finding>> {
    let mut findings = Findings::default();
    let told = read(store, &mut findings)?;
    for record in versions {
        let none = Told::default();
        let told = told.get(&record.version).unwrap_or(&none);
        if let Some(what) = contradiction(record, told) {
            findings.add(Finding::new(Severity::Error, format!("{}: {what}", record.version)).of(record.version));
        }
    }
    // A version that was discarded before anything of it was written has no record.
    for (version, _) in
        told.iter().filter(|(version, told)| told.digest.is_some() && !versions.iter().any(|record| record.version == **version))
    {
        findings.add(Finding::new(Severity::Error, format!("{version} was sealed, but it has no record")).of(*version));
    }
    Ok(findings.into_list())
}

/// Where the events say that every tag leads now; `None` if one of them can't be read.
pub fn tags(store: &Store) -> Result<Option<BTreeMap<String, VersionId>>> {
    let mut tags = BTreeMap::new();
    let mut from = EventSeq(0);
    loop {
        let page = store.catalog().event_seqs(from, BATCH)?;
        let Some(last) = page.last() else { return Ok(Some(tags)) };
        from = last.next();
        for seq in page {
            let Some(Some(event)) = Findings::default().unless_damaged(store.catalog().event(seq))? else { return Ok(None) };
            match (event.what, event.version) {
                (EventKind::Tagged { name }, Some(version)) => drop(tags.insert(name, version)),
                (EventKind::Untagged { name }, Some(version)) if tags.get(&name) == Some(&version) => drop(tags.remove(&name)),
                _ => {}
            }
        }
    }
}

/// What the events say of a version.
#[derive(Clone, Debug, Default)]
struct Told {
    digest: Option<Digest>,
    promoted: Option<Digest>,
    /// The state that follows from the last event that changes one.
    state: Option<VersionState>,
}

impl Told {
    fn hear(&mut self, what: &EventKind) {
        match what {
            EventKind::Opened { .. } => self.state = Some(VersionState::Open),
            EventKind::Sealed { digest, .. } => {
                self.digest = Some(*digest);
                self.state = Some(VersionState::Checking);
            }
            EventKind::Validated => self.state = Some(VersionState::Valid),
            EventKind::Rejected { .. } => self.state = Some(VersionState::Ghost),
            EventKind::Aborted { .. } => self.state = Some(VersionState::Aborted),
            EventKind::Promoted { digest, .. } => {
                self.promoted = Some(*digest);
                self.state = Some(VersionState::Promoted);
            }
            EventKind::ProductionRolledBack { .. } => self.state = Some(VersionState::Promoted),
            EventKind::Superseded { .. } => self.state = Some(VersionState::Superseded),
            EventKind::Expired => self.state = Some(VersionState::Expired),
            _ => {}
        }
    }
}

fn read(store: &Store, findings: &mut Findings) -> Result<BTreeMap<VersionId, Told>> {
    let catalog = store.catalog();
    let mut told: BTreeMap<VersionId, Told> = BTreeMap::new();
    let mut before: Option<Event> = None;
    let mut from = EventSeq(0);
    loop {
        let page = catalog.event_seqs(from, BATCH)?;
        let Some(last) = page.last() else { return Ok(told) };
        from = last.next();
        for seq in page {
            let Some(Some(event)) = findings.unless_damaged(catalog.event(seq))? else {
                before = None;
                continue;
            };
            if let Some(broken) = broken(before.as_ref(), &event) {
                findings.error(broken.to_string());
            }
            if let Some(version) = event.version {
                told.entry(version).or_default().hear(&event.what);
            }
            before = Some(event);
        }
    }
}

/// Where the chain breaks between two events. After one that can't be read only the event itself is looked at.
fn broken(before: Option<&Event>, event: &Event) -> Option<ChainBreak> {
    match before {
        None if event.seq == EventSeq(0) => verify_chain(std::slice::from_ref(event)).err(),
        _ if event.digest != event.expected_digest() => Some(ChainBreak::Altered(event.seq)),
        Some(before) if event.seq != before.seq.next() || event.previous != before.digest => Some(ChainBreak::Unlinked(event.seq)),
        _ => None,
    }
}

/// Where a record and the events about its version differ.
fn contradiction(record: &VersionRecord, told: &Told) -> Option<String> {
    let state = match told.state {
        // t0 goes to production without an event of its own: `Initialized` says it.
        Some(VersionState::Valid) if record.version == VersionId::FIRST && record.state == VersionState::Promoted => record.state,
        Some(state) => state,
        None => return Some(format!("it is {}, but the lineage says nothing of it", record.state)),
    };
    if state != record.state {
        return Some(format!("it is {}, but the lineage says that it is {state}", record.state));
    }
    let content = !matches!(record.state, VersionState::Open | VersionState::Expired | VersionState::Aborted);
    match (record.root, told.digest) {
        (Some(root), Some(digest)) if root.digest != digest => Some(format!("its digest is {}, but {digest} was sealed", root.digest)),
        (Some(root), _) if told.promoted.is_some_and(|digest| digest != root.digest) => {
            Some("what was promoted is not what was sealed".to_owned())
        }
        (None, _) if content => Some(format!("it is {}, but it has no tree", record.state)),
        (Some(_), None) => Some("it has a tree, but the lineage does not say that it was sealed".to_owned()),
        _ => None,
    }
}
