//! Packs in a sweep: one without live objects goes; one that is more than half dead is written anew without what is dead.

use std::collections::{BTreeMap, BTreeSet};

use super::gc::{GcError, Run};
use crate::ids::{ObjectId, PackId};
use crate::store::StoreError;
use crate::store::objects::PACK_HEADER;
use crate::store::record::{Location, ObjectRecord};

/// How many live objects are gathered at once for packs that are written anew.
const GATHER: u64 = 1 << 17;

/// What packs are used for, as the object table has it.
#[derive(Debug, Default)]
pub(super) struct PackUses(BTreeMap<PackId, PackUse>);

#[derive(Clone, Copy, Debug, Default)]
struct PackUse {
    live: u64,
    live_bytes: u64,
}

/// What becomes of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Stay,
    /// No record names it: a crash left it behind.
    Leftover,
    Remove,
    Repack {
        dead_bytes: u64,
    },
}

impl PackUses {
    /// Counts an object of `len` bytes in a pack.
    pub(super) fn count(&mut self, pack: PackId, len: u64, live: bool) {
        let uses = self.0.entry(pack).or_default();
        if live {
            uses.live += 1;
            uses.live_bytes += len;
        }
    }

    /// What becomes of a pack of `len` bytes.
    fn fate(&self, pack: PackId, len: u64) -> Fate {
        let Some(uses) = self.0.get(&pack) else { return Fate::Leftover };
        let bytes = len.saturating_sub(PACK_HEADER);
        let dead_bytes = bytes.saturating_sub(uses.live_bytes);
        match uses.live {
            0 => Fate::Remove,
            _ if dead_bytes > bytes / 2 => Fate::Repack { dead_bytes },
            _ => Fate::Stay,
        }
    }

    fn live(&self, pack: PackId) -> u64 {
        self.0.get(&pack).map_or(0, |uses| uses.live)
    }
}

impl Run<'_> {
    /// Sees to the packs that there were when the sweep began. False if it was stopped.
    pub(super) fn sweep_packs(&mut self, packs: &[PackId]) -> Result<bool, GcError> {
        let mut repack = Vec::new();
        for pack in packs {
            if self.collector.stopped() {
                return Ok(false);
            }
            let objects = self.collector.store.objects();
            let Some(size) = objects.pack_file(*pack)? else { continue };
            let fate = self.uses.fate(*pack, size.len);
            match fate {
                Fate::Stay => continue,
                Fate::Repack { dead_bytes } => {
                    repack.push((*pack, dead_bytes));
                    continue;
                }
                Fate::Leftover => {
                    self.report.leftovers += 1;
                    self.report.leftover_bytes += size.len;
                }
                Fate::Remove => {
                    self.report.packs += 1;
                    self.report.pack_bytes += size.len;
                }
            }
            if !self.dry {
                objects.remove_pack(*pack)?;
                self.collector.step()?;
            }
        }
        self.repack_all(&repack)
    }

    /// Writes packs anew. Objects are gathered for several packs in one walk over the table.
    fn repack_all(&mut self, packs: &[(PackId, u64)]) -> Result<bool, GcError> {
        let mut rest = packs;
        while !rest.is_empty() {
            let mut gathered = 0;
            let fitting = rest.iter().take_while(|(pack, _)| {
                gathered += self.uses.live(*pack);
                gathered <= GATHER
            });
            let (group, later) = rest.split_at(fitting.count().max(1));
            rest = later;
            let mut live = match self.gather(group)? {
                Some(live) => live,
                None => return Ok(false),
            };
            for (pack, dead_bytes) in group {
                if self.collector.stopped() {
                    return Ok(false);
                }
                let objects = live.remove(pack).unwrap_or_default();
                self.repack(*pack, *dead_bytes, objects)?;
            }
        }
        Ok(true)
    }

    fn gather(&mut self, packs: &[(PackId, u64)]) -> Result<Option<BTreeMap<PackId, Vec<Live>>>, GcError> {
        let wanted: BTreeSet<PackId> = packs.iter().map(|(pack, _)| *pack).collect();
        let mut live: BTreeMap<PackId, Vec<Live>> = BTreeMap::new();
        let whole = self.each_object(|run, page| {
            for (id, record) in page {
                if let Location::Pack { pack, offset } = record.location
                    && wanted.contains(&pack)
                    && !run.is_claimed(*id)
                {
                    live.entry(pack).or_default().push((offset, *id, record.clone()));
                }
            }
            Ok(())
        })?;
        Ok(whole.then_some(live))
    }

    fn repack(&mut self, pack: PackId, dead_bytes: u64, mut live: Vec<Live>) -> Result<(), GcError> {
        live.sort_by_key(|(offset, id, _)| (*offset, *id));
        let live: Vec<(ObjectId, ObjectRecord)> = live.into_iter().map(|(_, id, record)| (id, record)).collect();
        if !self.dry {
            let store = self.collector.store;
            let objects = store.objects();
            let repack = match objects.repack(pack, &live) {
                Ok(repack) => repack,
                // What is damaged stays where it is: `scrub` names it, and its neighbours are whole.
                Err(StoreError::Damaged { what }) => {
                    self.report.damaged.push(what);
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            };
            self.collector.step()?;
            let committed = store.catalog().begin().and_then(|mut transaction| {
                transaction.put_objects(&repack.records)?;
                transaction.commit()
            });
            if let Err(error) = committed {
                // After a failed commit nobody knows which of the two packs the catalog names; the next sweep does.
                objects.abandon_repack(&repack);
                return Err(error.into());
            }
            self.collector.step()?;
            objects.repacked(&repack);
            objects.remove_pack(pack)?;
            self.collector.step()?;
        }
        self.report.repacked += 1;
        self.report.pack_bytes += dead_bytes;
        Ok(())
    }
}

/// An object with its place in the pack.
type Live = (u64, ObjectId, ObjectRecord);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pack_stays_until_more_than_half_of_it_is_dead() {
        let mut uses = PackUses::default();
        for (pack, live, dead) in [(1, 50, 50), (2, 49, 51), (3, 0, 100), (4, 100, 0)] {
            uses.count(PackId(pack), dead, false);
            if live > 0 {
                uses.count(PackId(pack), live, true);
            }
        }
        let fates: Vec<Fate> = (1..=5).map(|pack| uses.fate(PackId(pack), PACK_HEADER + 100)).collect();
        assert_eq!(fates, [Fate::Stay, Fate::Repack { dead_bytes: 51 }, Fate::Remove, Fate::Stay, Fate::Leftover]);
        // Nothing but an empty object is left of it.
        uses.count(PackId(6), 0, true);
        assert_eq!(uses.fate(PackId(6), PACK_HEADER + 100), Fate::Repack { dead_bytes: 100 });
        assert_eq!(uses.fate(PackId(6), PACK_HEADER), Fate::Stay);
    }
}
