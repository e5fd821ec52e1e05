//! What a check can put right: only where nothing is lost by it, because what is wrong can be told from what is whole.

use super::super::{Result, Store};
use super::Finding;
use crate::ids::{Digest, NodeId, ObjectId, VersionId};
use crate::store::record::Upkeep;

/// How something is put right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repair {
    /// A sweep removes what nothing needs.
    Sweep,
    /// An entry of the index by digest goes: all that it is for is to find equal contents.
    Index(Digest),
    /// A tag leads again where the lineage says; `None`: it goes.
    Tag(String, Option<VersionId>),
    /// Numbers that were given out are not given again.
    Counters,
    /// What gc and scrub remember is forgotten.
    Upkeep,
}

/// Puts right what can be, but for what a sweep does. Says what was done, a line each.
pub fn repair(store: &Store, findings: &[Finding]) -> Result<Vec<String>> {
    let mut done = Vec::new();
    let mut transaction = store.catalog().begin()?;
    for repair in findings.iter().filter_map(|finding| finding.repair.as_ref()) {
        match repair {
            Repair::Sweep => {}
            Repair::Index(digest) => {
                transaction.remove_digest(*digest)?;
                done.push(format!("removed the index entry of digest {digest}, which led to another content"));
            }
            Repair::Tag(name, Some(version)) => {
                transaction.put_tag(name, *version)?;
                done.push(format!("put the tag {name} back to {version}, as the lineage has it"));
            }
            Repair::Tag(name, None) => {
                transaction.remove_tag(name)?;
                done.push(format!("removed the tag {name}, which the lineage does not have"));
            }
            Repair::Counters => {
                raise(store)?;
                done.push("raised the counters past all numbers that are in use".to_owned());
            }
            Repair::Upkeep => {
                transaction.set_upkeep(&Upkeep::default())?;
                done.push("forgot when gc and scrub ran last".to_owned());
            }
        }
    }
    if done.is_empty() {
        return Ok(done);
    }
    done.dedup();
    transaction.commit()?;
    Ok(done)
}

/// The commit notes what was given out.
fn raise(store: &Store) -> Result<()> {
    let (catalog, ids) = (store.catalog(), store.ids());
    if let Some(last) = catalog.version_ids()?.last() {
        ids.raise_version(last.next());
    }
    let mut from = NodeId(0);
    while let Some(last) = catalog.nodes(from, super::BATCH)?.last() {
        from = last.next();
    }
    ids.raise_node(from);
    let mut from = ObjectId(0);
    while let Some(last) = catalog.object_ids(from, super::BATCH)?.last() {
        from = last.next();
    }
    ids.raise_object(from);
    Ok(())
}
