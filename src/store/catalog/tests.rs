#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use super::super::event::{ChainBreak, EventKind, verify_chain};
use super::super::record::{Location, Outcome, Reason, RootRef, VersionState, Writer};
use super::super::tests::{Refusals, version_record};
use super::*;

fn catalog_file() -> HostFile {
    HostFile::new(tempfile::tempfile().unwrap(), None)
}

/// A file of a disk that refuses what it is told to.
fn refusing() -> (HostFile, Arc<Refusals>) {
    let refusals = Arc::new(Refusals::default());
    (HostFile::new(tempfile::tempfile().unwrap(), Some((Arc::clone(&refusals) as _, 0))), refusals)
}

fn catalog() -> Catalog {
    Catalog::create(catalog_file(), at(1)).unwrap()
}

fn at(secs: i64) -> Timestamp {
    Timestamp { secs, nanos: 999_999_999 }
}

fn object(seed: u8, location: Location) -> ObjectRecord {
    ObjectRecord { len: u64::from(seed), digest: Digest([seed; 32]), location }
}

fn attempt(version: u64, check: &str, number: u32, started: i64) -> AttemptRecord {
    AttemptRecord {
        version: VersionId(version),
        check: check.to_owned(),
        attempt: number,
        started_at: at(started),
        took: Duration::from_millis(1234),
        outcome: Outcome::CouldNotStart { why: "no such program".to_owned() },
        rejects: true,
        metrics: vec![("rows".to_owned(), -0.5), ("nulls".to_owned(), f64::INFINITY)],
    }
}

#[test]
fn every_table_gives_back_what_it_was_given() {
    let file = catalog_file();
    let catalog = Catalog::create(file.try_clone().unwrap(), at(1)).unwrap();
    let mut version = version_record(VersionId(3), VersionState::Ghost);
    version.root = Some(RootRef { node: NodeId(4), digest: Digest([9; 32]), entries: 5 });
    version.sealed_at = Some(at(-5));
    version.writers = vec![Writer { uid: 1000, pid: 7, command: "cp".to_owned() }];
    version.reason = Some(Reason::Conflict { with: VersionId(2), paths: vec!["a/b".to_owned()] });
    let packed = object(1, Location::Pack { pack: PackId(8), offset: 16 });
    let own = object(2, Location::File);
    let alias = object(1, Location::Alias(ObjectId(1)));

    let mut transaction = catalog.begin().unwrap();
    transaction.put_node(NodeId(4), b"bytes of a node").unwrap();
    transaction.put_node(NodeId(5), b"").unwrap();
    transaction.put_version(&version).unwrap();
    transaction.put_object(ObjectId(3), &alias).unwrap();
    transaction.put_objects(&[(ObjectId(1), packed.clone()), (ObjectId(2), own.clone())]).unwrap();
    let attempts = [attempt(3, "rows", 1, 20), attempt(3, "aaa", 2, 30), attempt(3, "aaa", 1, 10)];
    attempts.iter().for_each(|attempt| transaction.put_attempt(attempt).unwrap());
    transaction.put_attempt(&attempt(4, "rows", 1, 5)).unwrap();
    transaction.put_tag("release", VersionId(3)).unwrap();
    transaction.put_tag("gone", VersionId(3)).unwrap();
    transaction.remove_tag("gone").unwrap();
    let event = transaction.append_event(at(2), Some(VersionId(3)), EventKind::Pinned).unwrap();
    let mut pointers = transaction.pointers().unwrap();
    pointers.production = VersionId(3);
    transaction.set_pointers(&pointers).unwrap();
    assert_eq!(transaction.pointers().unwrap(), pointers);
    assert_ne!(catalog.pointers().unwrap(), pointers, "nothing is seen before the commit");
    assert!(catalog.version(VersionId(3)).unwrap().is_none());
    transaction.commit().unwrap();

    let holds = |catalog: &Catalog| {
        assert_eq!(catalog.node(NodeId(4)).unwrap(), b"bytes of a node");
        assert_eq!(catalog.node(NodeId(5)).unwrap(), b"");
        assert_eq!(catalog.nodes(NodeId(5), 9).unwrap(), [NodeId(5)]);
        assert_eq!(catalog.version(VersionId(3)).unwrap(), Some(version.clone()));
        assert_eq!(catalog.versions().unwrap(), [version.clone()]);
        assert_eq!(catalog.object(ObjectId(1)).unwrap(), Some(packed.clone()));
        assert_eq!(catalog.object(ObjectId(3)).unwrap(), Some(alias.clone()));
        assert_eq!(catalog.object(ObjectId(4)).unwrap(), None);
        assert_eq!(catalog.objects(ObjectId(2), 1).unwrap(), [(ObjectId(2), own.clone())]);
        assert_eq!(catalog.object_with_digest(&packed.digest).unwrap(), Some(ObjectId(1)), "never an alias");
        assert_eq!(catalog.object_with_digest(&Digest([77; 32])).unwrap(), None);
        let [rows, second, first] = &attempts;
        assert_eq!(catalog.attempts(VersionId(3)).unwrap(), [first.clone(), rows.clone(), second.clone()]);
        assert_eq!(catalog.attempts(VersionId(9)).unwrap(), []);
        assert_eq!(catalog.tags().unwrap(), [("release".to_owned(), VersionId(3))]);
        assert_eq!(catalog.events(EventSeq(0)).unwrap(), std::slice::from_ref(&event));
        assert_eq!(catalog.pointers().unwrap().production, VersionId(3));
        assert_eq!(catalog.created_at().unwrap(), at(1));
    };
    holds(&catalog);
    drop(catalog);
    holds(&Catalog::open(file).unwrap());
}

#[test]
fn removed_is_removed_and_its_digest_with_it() {
    let catalog = catalog();
    let record = object(1, Location::File);
    let mut transaction = catalog.begin().unwrap();
    transaction.put_node(NodeId(1), b"x").unwrap();
    transaction.put_objects(&[(ObjectId(1), record.clone()), (ObjectId(2), record.clone())]).unwrap();
    transaction.remove_object(ObjectId(2)).unwrap();
    transaction.remove_node(NodeId(1)).unwrap();
    transaction.commit().unwrap();
    assert_eq!(catalog.object(ObjectId(2)).unwrap(), None);
    assert_eq!(catalog.object_with_digest(&record.digest).unwrap(), Some(ObjectId(1)));
    assert_eq!(catalog.node(NodeId(1)).unwrap_err().to_string(), "damaged store: node 1 is missing");
    let mut transaction = catalog.begin().unwrap();
    transaction.remove_object(ObjectId(1)).unwrap();
    transaction.remove_object(ObjectId(1)).unwrap();
    transaction.commit().unwrap();
    assert_eq!(catalog.object_with_digest(&record.digest).unwrap(), None);
}

#[test]
fn many_nodes_in_one_transaction() {
    let catalog = catalog();
    let mut transaction = catalog.begin().unwrap();
    for number in 0..10_000_u64 {
        transaction.put_node(NodeId(number), &number.to_le_bytes()).unwrap();
    }
    transaction.commit().unwrap();
    assert_eq!(catalog.node(NodeId(9_999)).unwrap(), 9_999_u64.to_le_bytes());
    assert_eq!(catalog.nodes(NodeId(0), usize::MAX).unwrap().len(), 10_000);
}

#[test]
fn a_dropped_transaction_never_was() {
    let catalog = catalog();
    let mut transaction = catalog.begin().unwrap();
    transaction.put_node(NodeId(1), b"x").unwrap();
    transaction.append_event(at(1), None, EventKind::Unmounted).unwrap();
    drop(transaction);
    catalog.node(NodeId(1)).unwrap_err();
    assert_eq!(catalog.events(EventSeq(0)).unwrap(), []);
}

#[test]
fn events_are_chained_and_a_change_of_any_is_found() {
    let catalog = catalog();
    for round in 0..3 {
        let mut transaction = catalog.begin().unwrap();
        transaction.append_event(at(round), None, EventKind::ConfigLoaded).unwrap();
        transaction.append_event(at(round), Some(VersionId(1)), EventKind::Validated).unwrap();
        transaction.commit().unwrap();
    }
    let events = catalog.events(EventSeq(0)).unwrap();
    assert_eq!(events.iter().map(|event| event.seq.0).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    assert_eq!(verify_chain(&events), Ok(()));
    assert_eq!(catalog.events(EventSeq(4)).unwrap(), events[4..]);

    let mut altered = events.clone();
    altered[2].at = at(77);
    assert_eq!(verify_chain(&altered), Err(ChainBreak::Altered(EventSeq(2))));
    altered[2].digest = altered[2].expected_digest();
    assert_eq!(verify_chain(&altered), Err(ChainBreak::Unlinked(EventSeq(3))));
    let mut shorter = events;
    shorter.remove(1);
    assert_eq!(verify_chain(&shorter), Err(ChainBreak::Unlinked(EventSeq(2))));
}

#[test]
fn damage_is_found_and_named() {
    let catalog = catalog();
    let mut transaction = catalog.begin().unwrap();
    let misplaced = with_checksum("node 1", b"bytes".to_vec());
    transaction.put_node(NodeId(1), b"bytes").unwrap();
    transaction.commit().unwrap();
    let put = |id: u64, value: &[u8]| {
        let writing = catalog.database.begin().unwrap();
        writing.transaction.open_table(database::NODES).unwrap().insert(id, value).unwrap();
        writing.transaction.open_table(database::OBJECTS).unwrap().insert(id, value).unwrap();
        catalog.database.commit(writing).unwrap();
    };
    put(2, &misplaced);
    put(3, &[]);
    let mut flipped = misplaced;
    flipped[0] ^= 1;
    put(1, &flipped);
    for id in 1..=3 {
        let message = catalog.node(NodeId(id)).unwrap_err().to_string();
        assert_eq!(message, format!("damaged store: node {id}: its checksum does not match"));
    }
    let message = catalog.object(ObjectId(3)).unwrap_err().to_string();
    assert_eq!(message, "damaged store: object 3: its checksum does not match");
    put(4, &with_checksum("object 4", vec![1, 250]));
    let message = catalog.object(ObjectId(4)).unwrap_err().to_string();
    assert!(message.starts_with("damaged store: object 4: an undecodable record"), "{message}");
}

#[test]
fn a_full_disk_fails_one_commit_and_the_next_succeeds_with_the_space_back() {
    let (file, refusals) = refusing();
    let catalog = Catalog::create(file, at(1)).unwrap();
    let put = |id: u64| {
        let mut transaction = catalog.begin()?;
        transaction.put_node(NodeId(id), &vec![7; 100_000])?;
        transaction.commit()
    };
    put(1).unwrap();
    refusals.write.store(libc::ENOSPC, SeqCst);
    let error = put(2).unwrap_err();
    assert_eq!(error.errno(), libc::ENOSPC, "{error}");
    refusals.write.store(0, SeqCst);
    assert_eq!(catalog.node(NodeId(1)).unwrap().len(), 100_000);
    catalog.node(NodeId(2)).unwrap_err();
    put(3).unwrap();
    assert_eq!(catalog.node(NodeId(3)).unwrap().len(), 100_000);
}

#[test]
fn a_failed_sync_of_the_catalog_ends_writing_and_not_reading() {
    let (file, refusals) = refusing();
    let catalog = Catalog::create(file.try_clone().unwrap(), at(1)).unwrap();
    let put = |id: u64| {
        let mut transaction = catalog.begin()?;
        transaction.put_node(NodeId(id), b"x")?;
        transaction.commit()
    };
    put(1).unwrap();
    refusals.sync.store(libc::EIO, SeqCst);
    assert_eq!(put(2).unwrap_err().errno(), libc::EIO);
    refusals.sync.store(0, SeqCst);
    let error = put(3).unwrap_err();
    assert_eq!(error.to_string(), "catalog.redb: an earlier sync failed: Input/output error (os error 5)");
    assert_eq!(catalog.node(NodeId(1)).unwrap(), b"x");
    drop(catalog);
    assert_eq!(Catalog::open(file).unwrap().node(NodeId(1)).unwrap(), b"x");
}

#[test]
fn after_a_failed_sync_readers_see_what_was_on_disk_before_whichever_sync_of_a_commit_it_was() {
    let mut failed = 0;
    for good in 0.. {
        let (file, refusals) = refusing();
        let catalog = Catalog::create(file.try_clone().unwrap(), at(1)).unwrap();
        let put = |id: u64| {
            let mut transaction = catalog.begin()?;
            transaction.put_node(NodeId(id), &vec![id as u8; 100_000])?;
            transaction.commit()
        };
        put(1).unwrap();
        refusals.good_syncs.store(good, SeqCst);
        refusals.sync.store(libc::EIO, SeqCst);
        let Err(error) = put(2) else { break };
        failed += 1;
        assert_eq!(error.errno(), libc::EIO);
        refusals.sync.store(0, SeqCst);
        for _ in 0..2 {
            assert_eq!(catalog.node(NodeId(1)).unwrap(), vec![1; 100_000]);
            assert_eq!(catalog.node(NodeId(2)).unwrap_err().to_string(), "damaged store: node 2 is missing");
            assert!(matches!(put(3), Err(StoreError::Poisoned { errno: libc::EIO, .. })));
        }
        drop(catalog);
        // What the next daemon finds is the state before or after, whole.
        let again = Catalog::open(file).unwrap();
        assert_eq!(again.node(NodeId(1)).unwrap(), vec![1; 100_000]);
        if again.commits().unwrap() > 2 {
            assert_eq!(again.node(NodeId(2)).unwrap(), vec![2; 100_000]);
        }
    }
    assert!(failed >= 2, "a commit has {failed} syncs");
}

#[test]
fn what_is_refused_after_the_commit_point_is_committed() {
    let (file, refusals) = refusing();
    let catalog = Catalog::create(file.try_clone().unwrap(), at(1)).unwrap();
    let put = |id: u64, len: usize| {
        let mut transaction = catalog.begin()?;
        transaction.put_node(NodeId(id), &vec![id as u8; len])?;
        if id > 0 {
            transaction.remove_node(NodeId(id - 1))?;
        }
        transaction.commit()
    };
    put(0, 3_000_000).unwrap();
    refusals.len.store(libc::ENOSPC, SeqCst);
    // The large node goes, and the file becomes shorter with the commits after that.
    for id in 1..20 {
        put(id, 10).unwrap();
        assert_eq!(catalog.node(NodeId(id)).unwrap(), vec![id as u8; 10]);
    }
    assert!(refusals.refused.load(SeqCst) > 0);
    refusals.len.store(0, SeqCst);
    put(20, 10).unwrap();
    drop(catalog);
    assert_eq!(Catalog::open(file).unwrap().node(NodeId(20)).unwrap(), [20; 10]);
}

#[test]
fn transactions_wait_for_one_another() {
    let catalog = catalog();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5 {
                    let mut transaction = catalog.begin().unwrap();
                    transaction.append_event(at(1), None, EventKind::ConfigLoaded).unwrap();
                    transaction.commit().unwrap();
                }
            });
        }
    });
    let events = catalog.events(EventSeq(0)).unwrap();
    assert_eq!(events.len(), 20);
    assert_eq!(verify_chain(&events), Ok(()));
}

/// A disk without syncs: commits follow one another as fast as can be.
#[derive(Debug)]
struct Unsynced;

impl super::super::disk::Disk for Unsynced {
    fn around(&self, op: &super::super::disk::DiskOp<'_>, run: &mut dyn FnMut(usize) -> std::io::Result<usize>) -> std::io::Result<usize> {
        if matches!(op, super::super::disk::DiskOp::SyncFile { .. }) { Ok(0) } else { run(usize::MAX) }
    }
}

#[test]
fn what_was_committed_is_seen_from_then_on_whoever_commits_beside_it() {
    let file = HostFile::new(tempfile::tempfile().unwrap(), Some((Arc::new(Unsynced), 0)));
    let catalog = Catalog::create(file, at(1)).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8_u64 {
            let catalog = &catalog;
            scope.spawn(move || {
                for number in 0..200 {
                    let id = NodeId(thread * 1000 + number);
                    let mut transaction = catalog.begin().unwrap();
                    transaction.put_node(id, b"x").unwrap();
                    transaction.commit().unwrap();
                    for _ in 0..20 {
                        assert_eq!(catalog.node(id).unwrap(), b"x");
                    }
                }
            });
        }
    });
}

#[test]
fn a_damaged_database_is_an_error_and_never_a_panic() {
    let file = catalog_file();
    let catalog = Catalog::create(file.try_clone().unwrap(), at(1)).unwrap();
    let mut transaction = catalog.begin().unwrap();
    for number in 0..300 {
        transaction.put_node(NodeId(number), &vec![number as u8; 700]).unwrap();
        transaction.append_event(at(2), None, EventKind::ConfigLoaded).unwrap();
    }
    transaction.commit().unwrap();
    drop(catalog);
    let mut whole = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut whole, 0).unwrap();
    let mut outcomes = [0; 2];
    for round in 0..120_usize {
        let copy = catalog_file();
        let mut bytes = whole.clone();
        // The header byte by byte, then all over the file.
        let from = if round < 60 { round * 6 } else { round.wrapping_mul(2_654_435_761) % bytes.len() };
        bytes.iter_mut().skip(from).take(8).for_each(|byte| *byte ^= 0xa5);
        copy.write_all_at(&bytes, 0).unwrap();
        let read = Catalog::open(copy).and_then(|catalog| {
            for number in 0..300 {
                assert_eq!(catalog.node(NodeId(number))?, vec![number as u8; 700]);
            }
            let mut transaction = catalog.begin()?;
            transaction.remove_node(NodeId(7))?;
            transaction.put_node(NodeId(1000), &[1; 100_000])?;
            transaction.append_event(at(3), None, EventKind::Unmounted)?;
            transaction.commit()?;
            catalog.events(EventSeq(0))
        });
        outcomes[usize::from(read.is_ok())] += 1;
    }
    assert!(outcomes.iter().all(|count| *count > 0), "{outcomes:?}");
}
