//! The part of `fsck` that needs no trees: every value of the catalog, the chain of events and whether states and events agree,
//! pointers, objects and their places, packs that nothing names. It reads everything and changes nothing.

mod lineage;
mod repair;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};

pub use self::lineage::{lineage, tags as tags_of_the_lineage};
pub use self::repair::{Repair, repair};
use super::objects::PACK_HEADER;
use super::record::{Location, ObjectRecord, Pointers, VersionRecord, VersionState};
use super::{Result, Store, StoreError};
use crate::ids::{Digest, ObjectId, PackId, VersionId};

/// How much of the catalog is read at once.
const BATCH: usize = 1024;
/// How many findings are kept; more are counted.
const MOST: usize = 1000;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Nothing is wrong with any version: space that `gc` frees, a file of someone else's.
    Note,
    /// No content is lost, but something is not as it should be.
    Warning,
    /// Something is lost or can't be relied on.
    Error,
}

impl Severity {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Something that a check of the store found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is, in one line.
    pub what: String,
    /// The path in the dataset that it concerns, if it concerns one.
    pub path: Option<Vec<u8>>,
    /// The versions that it concerns, in order.
    pub versions: Vec<VersionId>,
    /// How it can be put right, if nothing is lost by that.
    pub repair: Option<Repair>,
}

impl Finding {
    /// A finding about the store as a whole.
    #[must_use]
    pub fn new(severity: Severity, what: impl Into<String>) -> Self {
        Self { severity, what: what.into(), path: None, versions: Vec::new(), repair: None }
    }

    /// The same about a version.
    #[must_use]
    pub fn of(mut self, version: VersionId) -> Self {
        self.versions.push(version);
        self
    }

    /// The same with a way to put it right.
    #[must_use]
    pub fn mended_by(mut self, repair: Repair) -> Self {
        self.repair = Some(repair);
        self
    }

    /// The same about a path.
    #[must_use]
    pub fn at(mut self, path: Vec<u8>) -> Self {
        self.path = Some(path);
        self
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(path) = &self.path {
            write!(f, "{}: ", if path.is_empty() { "/".into() } else { String::from_utf8_lossy(path) })?;
        }
        f.write_str(&self.what)?;
        match self.versions.as_slice() {
            [] => Ok(()),
            [version] => write!(f, " ({version})"),
            [first, .., last] => write!(f, " ({first} to {last}, {} versions)", self.versions.len()),
        }
    }
}

/// Findings, at most a thousand; what concerns the same thing in several versions is one.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    list: Vec<Finding>,
    more: u64,
}

impl Findings {
    /// Adds one; the versions of one that is there already are joined.
    pub fn add(&mut self, finding: Finding) {
        let same = |have: &&mut Finding| (have.severity, &have.what, &have.path) == (finding.severity, &finding.what, &finding.path);
        if let Some(have) = self.list.iter_mut().find(same) {
            let more = finding.versions.iter().filter(|version| !have.versions.contains(version)).copied().collect::<Vec<_>>();
            have.versions.extend(more);
            have.versions.sort_unstable();
        } else if self.list.len() < MOST {
            self.list.push(finding);
        } else {
            self.more += 1;
        }
    }

    /// Adds an error.
    pub fn error(&mut self, what: impl Into<String>) {
        self.add(Finding::new(Severity::Error, what));
    }

    /// The result of a read: damage is a finding and `None`, anything else that failed ends the check.
    pub fn unless_damaged<T>(&mut self, result: Result<T>) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(StoreError::Damaged { what }) => {
                self.error(what);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// How many there are so far.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// All of them, the worst first.
    #[must_use]
    pub fn into_list(mut self) -> Vec<Finding> {
        if self.more > 0 {
            self.list.push(Finding::new(Severity::Error, format!("and {} findings more", self.more)));
        }
        self.list.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        self.list
    }
}

/// What the check without trees hands on to the one with them.
#[derive(Debug, Default)]
pub struct Checked {
    /// The records of the versions that can be read.
    pub versions: Vec<VersionRecord>,
    /// What is wrong with objects.
    pub objects: HashMap<ObjectId, String>,
}

/// Checks what can be checked without trees. The caller holds a sweep, so that nothing goes away meanwhile. What is wrong with objects
/// is no finding yet: the caller names the files that are concerned.
pub fn check(store: &Store, findings: &mut Findings, stop: &AtomicBool) -> Result<Checked> {
    let versions = versions(store, findings)?;
    check_states(store, &versions, findings)?;
    check_attempts(store, findings)?;
    let objects = check_objects(store, findings, stop)?;
    check_digests(store, findings, stop)?;
    check_journals(store, &versions, findings)?;
    Ok(Checked { versions, objects })
}

/// Records, pointers and lineage agree. The store may go on working meanwhile, so what is found counts only if it is found again.
pub(crate) fn check_states(store: &Store, records: &[VersionRecord], findings: &mut Findings) -> Result<()> {
    let look = |records: &[VersionRecord]| -> Result<Vec<Finding>> {
        let mut found = Findings::default();
        check_pointers(store, records, &mut found)?;
        found.list.extend(lineage(store, records)?);
        Ok(found.list)
    };
    let mut found = look(records)?;
    if !found.is_empty() {
        let again = look(&versions(store, &mut Findings::default())?)?;
        found.retain(|finding| again.contains(finding));
    }
    found.into_iter().for_each(|finding| findings.add(finding));
    Ok(())
}

/// The records of the versions, as far as they can be read.
pub fn versions(store: &Store, findings: &mut Findings) -> Result<Vec<VersionRecord>> {
    let mut versions = Vec::new();
    for id in store.catalog().version_ids()? {
        let Some(Some(record)) = findings.unless_damaged(store.catalog().version(id))? else { continue };
        if record.version != id {
            findings.error(format!("version {id}: its record is that of {}", record.version));
            continue;
        }
        versions.push(record);
    }
    Ok(versions)
}

fn check_pointers(store: &Store, versions: &[VersionRecord], findings: &mut Findings) -> Result<()> {
    findings.unless_damaged(store.catalog().created_at())?;
    findings.unless_damaged(store.catalog().commits())?;
    match store.catalog().upkeep() {
        Err(StoreError::Damaged { what }) => findings.add(Finding::new(Severity::Warning, what).mended_by(Repair::Upkeep)),
        other => drop(other?),
    }
    let Some(pointers) = findings.unless_damaged(store.catalog().pointers())? else { return Ok(()) };
    let state = |version: VersionId| versions.iter().find(|record| record.version == version).map(|record| record.state);
    let good: &[VersionState] = &[VersionState::Valid, VersionState::Promoted, VersionState::Superseded];
    let sealed: &[VersionState] = &[VersionState::Valid, VersionState::Promoted, VersionState::Superseded, VersionState::Checking];
    let wanted = [
        ("production", pointers.production, &[VersionState::Promoted][..]),
        ("the last valid version", pointers.valid, good),
        ("what staging stands on", pointers.base, sealed),
    ];
    for (what, version, states) in wanted {
        match state(version) {
            Some(state) if states.contains(&state) => {}
            Some(state) => findings.add(Finding::new(Severity::Error, format!("{what} is {version}, which is {state}")).of(version)),
            None => findings.add(Finding::new(Severity::Error, format!("{what} is {version}, which has no record")).of(version)),
        }
    }
    check_tags(store, findings)?;
    check_counters(store, &pointers, versions, findings)
}

/// The table of tags has no checksums of its own, but the lineage tells of every tag.
fn check_tags(store: &Store, findings: &mut Findings) -> Result<()> {
    let look = || -> Result<_> { Ok((store.catalog().tags()?.into_iter().collect::<BTreeMap<_, _>>(), tags_of_the_lineage(store)?)) };
    // One that is given just now may be in one and not yet in the other: then not any more at the second look.
    let (here, told) = match look()? {
        (here, Some(told)) if here == told => return Ok(()),
        _ => look()?,
    };
    // What is wrong with the events is a finding already.
    let Some(told) = told else { return Ok(()) };
    for name in here.keys().chain(told.keys()).collect::<std::collections::BTreeSet<_>>() {
        let (is, was) = (here.get(name), told.get(name));
        if is == was {
            continue;
        }
        let to = |version: Option<&VersionId>| version.map_or_else(|| "nowhere".to_owned(), ToString::to_string);
        let what = format!("the tag {name} leads to {}, but the lineage says: {}", to(is), to(was));
        findings.add(Finding::new(Severity::Error, what).mended_by(Repair::Tag(name.clone(), was.copied())));
    }
    Ok(())
}

/// A number that was given out must not be given again.
fn check_counters(store: &Store, pointers: &Pointers, versions: &[VersionRecord], findings: &mut Findings) -> Result<()> {
    let catalog = store.catalog();
    if let Some(record) = versions.iter().find(|record| record.version >= pointers.next_version) {
        findings.add(
            Finding::new(Severity::Error, format!("{} is there, but the next version is {}", record.version, pointers.next_version))
                .mended_by(Repair::Counters),
        );
    }
    if let Some(id) = catalog.nodes(pointers.next_node, 1)?.first() {
        findings.add(
            Finding::new(Severity::Error, format!("node {id} is there, but the next node is {}", pointers.next_node))
                .mended_by(Repair::Counters),
        );
    }
    if let Some(id) = catalog.object_ids(pointers.next_object, 1)?.first() {
        findings.add(
            Finding::new(Severity::Error, format!("object {id} is there, but the next object is {}", pointers.next_object))
                .mended_by(Repair::Counters),
        );
    }
    Ok(())
}

fn check_attempts(store: &Store, findings: &mut Findings) -> Result<()> {
    for (version, check, attempt) in store.catalog().attempt_keys()? {
        let found = store.catalog().attempt(version, &check, attempt);
        if let Err(StoreError::Damaged { what }) = found {
            findings.add(Finding::new(Severity::Error, what).of(version));
        } else {
            found?;
        }
    }
    Ok(())
}

/// A pack as the host has it, and how many bytes of it objects take.
#[derive(Clone, Copy, Debug, Default)]
struct PackUse {
    len: Option<u64>,
    used: u64,
}

/// What is wrong with objects, for a reader: their bytes are `scrub`'s matter.
fn check_objects(store: &Store, findings: &mut Findings, stop: &AtomicBool) -> Result<HashMap<ObjectId, String>> {
    // Listed before the records are read: a pack that a seal adds meanwhile is named by them, and not in the list.
    let there = store.objects().settled_packs()?;
    let mut packs: BTreeMap<PackId, PackUse> = BTreeMap::new();
    let mut wrong = HashMap::new();
    let mut from = ObjectId(0);
    while let page = store.catalog().object_ids(from, BATCH)?
        && let Some(last) = page.last()
        && !stop.load(Ordering::Relaxed)
    {
        from = last.next();
        for id in page {
            let what = match store.catalog().object(id) {
                Ok(Some(record)) => problem(store, id, &record, &mut packs)?,
                Ok(None) => None,
                Err(StoreError::Damaged { what }) => Some(what),
                Err(error) => return Err(error),
            };
            wrong.extend(what.map(|what| (id, what)));
        }
    }
    if !stop.load(Ordering::Relaxed) {
        check_packs(store, &there, &packs, findings)?;
    }
    Ok(wrong)
}

/// What is wrong with an object's place.
fn problem(store: &Store, id: ObjectId, record: &ObjectRecord, packs: &mut BTreeMap<PackId, PackUse>) -> Result<Option<String>> {
    Ok(match record.location {
        Location::File => match store.objects().own_file(id)? {
            Some(size) if size.len == record.len => None,
            Some(size) => Some(format!("object {id}: its file has {} bytes where {} are on record", size.len, record.len)),
            None => Some(format!("object {id}: its file is missing")),
        },
        Location::Pack { pack, offset } => {
            let uses = match packs.entry(pack) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => entry.insert(PackUse { len: store.objects().pack_file(pack)?.map(|size| size.len), used: 0 }),
            };
            uses.used = uses.used.saturating_add(record.len);
            let needs = offset.saturating_add(record.len);
            match uses.len {
                Some(len) if len >= needs && offset >= PACK_HEADER => None,
                Some(len) => Some(format!("object {id}: packs/{pack} has {len} bytes where it is from {offset} to {needs}")),
                None => Some(format!("object {id}: packs/{pack} is missing")),
            }
        }
        Location::Alias(target) => match store.catalog().object(target) {
            Ok(Some(other)) if (other.len, other.digest) != (record.len, record.digest) => {
                Some(format!("object {id}: it is object {target}, which differs"))
            }
            Ok(Some(other)) if matches!(other.location, Location::Alias(_)) => {
                Some(format!("object {id}: it is object {target}, which is an alias"))
            }
            Ok(Some(_)) => None,
            Ok(None) => Some(format!("object {id}: it is object {target}, which is missing")),
            Err(StoreError::Damaged { what }) => Some(format!("object {id}: it is object {target}, which is damaged: {what}")),
            Err(error) => return Err(error),
        },
    })
}

fn check_packs(store: &Store, there: &[PackId], packs: &BTreeMap<PackId, PackUse>, findings: &mut Findings) -> Result<()> {
    for (pack, uses) in packs {
        // One that is missing or too short is found with its objects.
        let Some(len) = uses.len else { continue };
        if !store.objects().has_pack_magic(*pack)? {
            // Reads do not look at it.
            findings.add(Finding::new(Severity::Warning, format!("packs/{pack} does not begin as a pack does")));
        }
        if uses.used > len.saturating_sub(PACK_HEADER) {
            findings.error(format!("packs/{pack}: objects overlap in it"));
        }
    }
    for pack in there.iter().filter(|pack| !packs.contains_key(pack)) {
        let what = format!("packs/{pack} holds nothing that is needed; gc removes it");
        findings.add(Finding::new(Severity::Note, what).mended_by(Repair::Sweep));
    }
    Ok(())
}

/// The table of digests has no checksums: each must lead to an object with that digest.
fn check_digests(store: &Store, findings: &mut Findings, stop: &AtomicBool) -> Result<()> {
    let mut after: Option<Digest> = None;
    loop {
        let page = store.catalog().digests(after, BATCH)?;
        let Some((last, _)) = page.last().filter(|_| !stop.load(Ordering::Relaxed)) else { return Ok(()) };
        after = Some(*last);
        for (digest, id) in page {
            // A damaged record was found with the objects.
            let Ok(found) = store.catalog().object(id) else { continue };
            let what = match found {
                None => format!("digest {digest} leads to object {id}, which is missing"),
                Some(record) if record.digest != digest => format!("digest {digest} leads to object {id}, which has another"),
                Some(record) if matches!(record.location, Location::Alias(_)) => {
                    format!("digest {digest} leads to object {id}, which is an alias")
                }
                Some(_) => continue,
            };
            // Nobody is misled: a seal looks at the object before it relies on it.
            findings.add(Finding::new(Severity::Warning, what).mended_by(Repair::Index(digest)));
        }
    }
}

fn check_journals(store: &Store, versions: &[VersionRecord], findings: &mut Findings) -> Result<()> {
    for version in store.journals()? {
        if let Err(StoreError::Damaged { what }) = store.replay(version) {
            findings.add(Finding::new(Severity::Error, what).of(version));
        }
        let ended = versions.iter().any(|record| record.version == version && record.state != VersionState::Open);
        if ended {
            findings.add(
                Finding::new(Severity::Note, format!("journal/{version} is not needed any more; the next mount removes it")).of(version),
            );
        }
    }
    Ok(())
}
