//! Whether what is stored can be relied on. `fsck` looks at the structure: that every version's tree can be read, its nodes' order,
//! counts and digests, that names, records and links agree, and that everything that is named is there. `scrub` reads the contents.
//! Both say which files of which versions are concerned, and go on after what they find.

mod entries;
mod scrub;
mod survey;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use self::scrub::{Pace, Scrubbed, content_bytes, scrub, scrub_from};
use self::survey::{Hit, Survey};
use super::nodes::{NodeSource, Nodes};
use super::{Reach, Snapshot, Tree, TreeError, named_by_journals};
use crate::ids::{Ino, ObjectId, VersionId};
use crate::store::record::{Location, VersionRecord};
use crate::store::verify::{self, Checked, Finding, Findings, Repair, Severity};
use crate::store::{Store, StoreError};

/// Memory for nodes while trees are checked.
const CACHE_BYTES: usize = 16 << 20;

/// Why a check did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The store could not be read; damage is a finding, not this.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A tree in memory could not be read.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A sweep, or another check of the structure, is under way.
    #[error("another gc or fsck is under way")]
    Busy,
    /// It was told to stop.
    #[error("stopped before the end")]
    Stopped,
}

/// Checks the structure of the whole store and returns what is wrong, the worst first. `live` gives the trees that are not in the
/// catalog: what they name is no orphan. While this runs no sweep does.
pub fn fsck(store: &Arc<Store>, live: &dyn Fn() -> Vec<Tree>, stop: &AtomicBool) -> Result<Vec<Finding>, VerifyError> {
    let _sweep = store.objects().begin_sweep().ok_or(VerifyError::Busy)?;
    let mut findings = Findings::default();
    let all = Reach::all(store.catalog())?;
    let mut reach = Reach::default();
    for tree in live() {
        reach.add(&tree, stop)?;
    }
    let checked = verify::check(store, &mut findings, stop)?;
    let nodes = Nodes::over(Arc::clone(store) as Arc<dyn NodeSource>, CACHE_BYTES);
    let mut named = HashSet::new();
    let survey = check_trees(store, &nodes, &checked, &mut findings, &mut named, stop)?;
    for tree in live() {
        reach.add(&tree, stop)?;
    }
    if stop.load(Ordering::Relaxed) {
        return Err(VerifyError::Stopped);
    }
    for (object, what) in checked.objects.iter().filter(|(object, _)| !named.contains(object)) {
        findings.add(Finding::new(Severity::Warning, format!("{what}; no file of any version is object {object}")));
    }
    check_files(store, &mut findings)?;
    // What lies below a damaged node can't be told from an orphan.
    if survey.is_clean() {
        mark_aliased(store, &survey, &mut reach)?;
        for (count, what) in [
            (all.nodes.count_outside(&[&reach.nodes, &survey.reach.nodes]), "tree nodes"),
            (all.objects.count_outside(&[&reach.objects, &survey.reach.objects]), "objects"),
        ] {
            if count > 0 {
                let what = format!("{count} {what} are in no version; gc removes them");
                findings.add(Finding::new(Severity::Note, what).mended_by(Repair::Sweep));
            }
        }
    }
    Ok(findings.into_list())
}

/// Checks the versions' trees; `named` gets the damaged objects that files consist of.
fn check_trees<'a>(
    store: &'a Arc<Store>,
    nodes: &Arc<Nodes>,
    checked: &'a Checked,
    findings: &mut Findings,
    named: &mut HashSet<ObjectId>,
    stop: &'a AtomicBool,
) -> Result<Survey<'a>, VerifyError> {
    let look = move |object: ObjectId| {
        if let Some(what) = checked.objects.get(&object) {
            return Ok(Err(what.clone()));
        }
        match store.catalog().object(object) {
            Ok(Some(record)) => {
                let behind = match record.location {
                    Location::Alias(target) => checked.objects.get(&target).cloned(),
                    Location::File | Location::Pack { .. } => None,
                };
                Ok(behind.map_or(Ok(record.digest), Err))
            }
            Ok(None) => Ok(Err(format!("object {object} is missing"))),
            Err(StoreError::Damaged { what }) => Ok(Err(what)),
            Err(error) => Err(error),
        }
    };
    let mut survey = Survey::new(Box::new(look), true, stop);
    let mut clean: Option<Tree> = None;
    for record in &checked.versions {
        let Some(root) = record.root else { continue };
        let snapshot = Snapshot::new(Tree::stored(Arc::clone(nodes), root), Arc::clone(store));
        let hits = survey.tree(&snapshot.tree)?;
        if stop.load(Ordering::Relaxed) {
            return Err(VerifyError::Stopped);
        }
        report(&snapshot, record.version, &hits, findings)?;
        named.extend(hits.iter().filter_map(|hit| match hit {
            Hit::Object { object, .. } => Some(*object),
            Hit::Node { .. } => None,
        }));
        // Where nodes are missing, entries contradict each other without number.
        if hits.iter().any(|hit| matches!(hit, Hit::Node { .. })) {
            continue;
        }
        let wrong = entries::check(&snapshot, clean.as_ref(), record.version, findings, stop)?;
        if !wrong {
            clean = Some(snapshot.tree);
        }
    }
    Ok(survey)
}

/// Puts what was found in a tree into words, with the paths that are concerned.
fn report(snapshot: &Snapshot, version: VersionId, hits: &[Hit], findings: &mut Findings) -> Result<(), VerifyError> {
    let mut ranges: Vec<(Ino, Ino, &str)> = Vec::new();
    for hit in hits {
        match hit {
            Hit::Node { what, from, to } => {
                findings.add(Finding::new(Severity::Error, what.clone()).of(version));
                ranges.push((*from, *to, what));
            }
            Hit::Object { ino, what, .. } => {
                let paths = damage_is_nothing(snapshot.all_paths_of(*ino))?.filter(|paths| !paths.is_empty());
                match paths {
                    Some(paths) => {
                        paths.into_iter().for_each(|path| findings.add(Finding::new(Severity::Error, what.clone()).at(path).of(version)))
                    }
                    None => findings.add(Finding::new(Severity::Error, format!("inode {ino}: {what}")).of(version)),
                }
            }
        }
    }
    if ranges.is_empty() {
        return Ok(());
    }
    let concerned = |ino: Ino| ranges.iter().filter(move |(from, to, _)| (*from..=*to).contains(&ino));
    let unreadable =
        |path: Vec<u8>, what: &str| Finding::new(Severity::Error, format!("it can't be read, or not wholly: {what}")).at(path).of(version);
    concerned(Ino::ROOT).for_each(|(_, _, what)| findings.add(unreadable(Vec::new(), what)));
    for (dir, name, target) in survey::names(&snapshot.tree)? {
        for (_, _, what) in concerned(target) {
            if let Some(path) = damage_is_nothing(snapshot.path_below(dir, &name))? {
                findings.add(unreadable(path, what));
            }
        }
    }
    Ok(())
}

/// What can be read; `None` where damage prevents it.
fn damage_is_nothing<T>(result: Result<T, TreeError>) -> Result<Option<T>, StoreError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(TreeError::Node { .. } | TreeError::Inode { .. } | TreeError::Store(StoreError::Damaged { .. })) => Ok(None),
        Err(TreeError::Store(error)) => Err(error),
    }
}

/// Files of objects that neither the catalog nor a journal names.
fn check_files(store: &Store, findings: &mut Findings) -> Result<(), StoreError> {
    // A journal that can't be read is a finding already, and then its files can't be told from leftovers.
    let Ok(named) = named_by_journals(store) else { return Ok(()) };
    for low in 0..=u8::MAX {
        let objects = store.objects();
        for id in objects.own_files(low).and_then(|files| objects.leftovers(files))?.iter().filter(|id| !named.contains(id)) {
            let what = format!("objects/{low:02x}/{id} is named by no version; gc removes it");
            findings.add(Finding::new(Severity::Note, what).mended_by(Repair::Sweep));
        }
    }
    Ok(())
}

/// What aliases name that versions name is named as well.
fn mark_aliased(store: &Store, survey: &Survey<'_>, reach: &mut Reach) -> Result<(), StoreError> {
    let mut from = ObjectId(0);
    while let page = store.catalog().object_ids(from, 1024)?
        && let Some(last) = page.last()
    {
        from = last.next();
        for id in page {
            if !(survey.reach.objects.contains(id) || reach.objects.contains(id)) {
                continue;
            }
            if let Ok(Some(record)) = store.catalog().object(id)
                && let Location::Alias(target) = record.location
            {
                reach.objects.insert(target);
            }
        }
    }
    Ok(())
}

/// The versions that have a tree, as far as their records can be read.
fn with_trees(store: &Store, findings: &mut Findings) -> Result<Vec<VersionRecord>, StoreError> {
    let mut versions = verify::versions(store, findings)?;
    versions.retain(|record| record.root.is_some());
    Ok(versions)
}
