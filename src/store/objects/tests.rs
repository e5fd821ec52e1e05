#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::super::record::ObjectRecord;
use super::super::tests::{made, temp};
use super::super::{Store, StoreError};
use super::*;

struct Fixture {
    _temp: tempfile::TempDir,
    path: PathBuf,
    store: Store,
}

fn fixture() -> Fixture {
    let temp = temp();
    let path = temp.path().join("store");
    let store = made(&path);
    Fixture { _temp: temp, path, store }
}

impl Fixture {
    fn objects(&self) -> &Objects {
        self.store.objects()
    }

    fn held(&self, bytes: &[u8]) -> ObjectId {
        let id = self.store.ids().object();
        self.objects().hold(id, bytes.into());
        id
    }

    fn file(&self, bytes: &[u8]) -> ObjectId {
        let id = self.store.ids().object();
        self.objects().create(id).unwrap().write_all_at(bytes, 0).unwrap();
        id
    }

    fn seal(&self, objects: &[SealObject]) -> Vec<(ObjectId, ObjectRecord)> {
        let records = self.objects().seal(objects).unwrap();
        self.commit(&records);
        records
    }

    fn commit(&self, records: &[(ObjectId, ObjectRecord)]) {
        let mut transaction = self.store.catalog().begin().unwrap();
        transaction.put_objects(records).unwrap();
        transaction.commit().unwrap();
        self.objects().sealed(records);
    }

    fn read(&self, id: ObjectId) -> Vec<u8> {
        let mut bytes = vec![0; self.objects().len(id).unwrap() as usize + 10];
        let len = self.objects().read_at(id, &mut bytes, 0).unwrap();
        bytes.truncate(len);
        bytes
    }

    fn reopen(self) -> Self {
        let Self { _temp, path, store } = self;
        drop(store);
        let store = Store::open(&path).unwrap();
        Self { _temp, path, store }
    }
}

#[test]
fn an_object_reads_the_same_held_packed_and_after_a_new_start() {
    let fixture = fixture();
    let ids: Vec<_> = (0..50_u8).map(|seed| fixture.held(&vec![seed; usize::from(seed) * 7])).collect();
    let check = |fixture: &Fixture| {
        for (seed, id) in ids.iter().enumerate() {
            assert_eq!(fixture.read(*id), vec![seed as u8; seed * 7]);
            assert_eq!(fixture.objects().digest(*id).unwrap(), Digest::of(&vec![seed as u8; seed * 7]));
        }
        let mut middle = [0; 4];
        assert_eq!(fixture.objects().read_at(ids[3], &mut middle, 19).unwrap(), 2);
        assert_eq!(middle, [3, 3, 0, 0]);
        assert_eq!(fixture.objects().read_at(ids[3], &mut middle, 21).unwrap(), 0);
        assert_eq!(fixture.objects().read_at(ids[3], &mut middle, u64::MAX).unwrap(), 0);
        assert!(fixture.objects().open_file(ids[3]).unwrap().is_none());
    };
    check(&fixture);
    let seal: Vec<_> = ids.iter().map(|id| SealObject::Held(*id)).collect();
    let records = fixture.objects().seal(&seal).unwrap();
    check(&fixture);
    assert_eq!(records.iter().map(|(id, _)| *id).collect::<Vec<_>>(), ids, "in the order given");
    fixture.commit(&records);
    assert!(fixture.objects().held(ids[3]).is_none());
    check(&fixture);
    assert_eq!(fixture.path.join("packs").read_dir().unwrap().count(), 1);
    let mut pack = std::fs::read(fixture.path.join("packs/1")).unwrap();
    assert_eq!(pack.drain(..16).collect::<Vec<_>>(), b"shadowfs pack 1\n");
    assert_eq!(pack.len(), (0..50).map(|seed| seed * 7).sum::<usize>());
    check(&fixture.reopen());
}

#[test]
fn a_file_is_written_before_its_seal_and_only_read_after() {
    let fixture = fixture();
    let id = fixture.file(b"first");
    let file = fixture.objects().open_file(id).unwrap().unwrap();
    let mut bytes = large(b"FIRST and more");
    file.write_all_at(&bytes, 0).unwrap();
    assert_eq!(fixture.read(id), bytes);
    fixture.objects().sync(id).unwrap();
    let fixture = fixture.reopen();
    assert_eq!(fixture.read(id), bytes, "a pending file is found again");
    fixture.objects().open_file(id).unwrap().unwrap().write_all_at(b"L", 0).unwrap();
    bytes[0] = b'L';
    let records = fixture.seal(&[SealObject::File(id)]);
    assert_eq!(records[0].1, ObjectRecord { len: bytes.len() as u64, digest: Digest::of(&bytes), location: Location::File });
    let file = fixture.objects().open_file(id).unwrap().unwrap();
    assert_eq!(file.write_all_at(b"x", 0).unwrap_err().raw_os_error(), Some(libc::EBADF));
    let fixture = fixture.reopen();
    assert_eq!(fixture.read(id), bytes);
    assert_eq!(fixture.objects().create(id).unwrap_err().errno(), libc::EEXIST, "a sealed file is never written again");
    fixture.objects().discard(id);
    assert_eq!(fixture.read(id), bytes);
}

/// Bytes that are too many for a pack.
fn large(begin: &[u8]) -> Vec<u8> {
    [begin, &[7; 128 << 10]].concat()
}

#[test]
fn a_small_file_goes_into_a_pack_at_its_seal() {
    let fixture = fixture();
    let (small, held) = (fixture.file(b"in a file"), fixture.held(b"in memory"));
    let open = fixture.objects().open_file(small).unwrap().unwrap();
    let records = fixture.seal(&[SealObject::File(small), SealObject::Held(held)]);
    assert!(records.iter().all(|(_, record)| matches!(record.location, Location::Pack { .. })), "{records:?}");
    assert!(!fixture.path.join(file_name(small)).exists());
    assert_eq!(open.metadata().unwrap().len(), 9, "who has it open keeps it");
    assert_eq!((fixture.read(small), fixture.read(held)), (b"in a file".to_vec(), b"in memory".to_vec()));
    let fixture = fixture.reopen();
    assert_eq!((fixture.read(small), fixture.read(held)), (b"in a file".to_vec(), b"in memory".to_vec()));
}

#[test]
fn a_file_gets_its_name_when_something_durable_is_to_lead_to_it() {
    let fixture = fixture();
    let objects = fixture.objects();
    let new = |bytes: &[u8]| {
        let id = fixture.store.ids().object();
        objects.create_unnamed(id).unwrap().write_all_at(bytes, 0).unwrap();
        assert!(objects.is_unnamed(id) && !fixture.path.join(file_name(id)).exists());
        assert_eq!(fixture.read(id), bytes);
        id
    };
    let (named, synced, sealed, dropped) = (new(b"named"), new(b"synced"), new(&large(b"sealed")), new(b"dropped"));
    objects.name(named).unwrap();
    objects.name(named).unwrap();
    objects.sync(synced).unwrap();
    fixture.seal(&[SealObject::File(sealed)]);
    objects.discard(dropped);
    for (id, there) in [(named, true), (synced, true), (sealed, true), (dropped, false)] {
        assert_eq!((objects.is_unnamed(id), fixture.path.join(file_name(id)).exists()), (false, there), "{id}");
    }
    assert!(objects.open_file(dropped).unwrap().is_none());
    // The next new file may get the host file of the one that was dropped, but none of its bytes.
    let next = fixture.store.ids().object();
    assert_eq!(objects.create_unnamed(next).unwrap().metadata().unwrap().len(), 0);
    let fixture = fixture.reopen();
    assert_eq!((fixture.read(named), fixture.read(synced)), (b"named".to_vec(), b"synced".to_vec()));
    assert_eq!(fixture.read(sealed), large(b"sealed"));
    assert!(fixture.objects().open_file(next).unwrap().is_none(), "it ended with the process");
}

#[test]
fn holes_stay_holes_and_read_as_zeros() {
    let fixture = fixture();
    let id = fixture.file(b"");
    let file = fixture.objects().open_file(id).unwrap().unwrap();
    file.set_len(100 << 20).unwrap();
    file.write_all_at(b"in the middle", 50 << 20).unwrap();
    let records = fixture.seal(&[SealObject::File(id)]);
    let mut bytes = vec![0; 100 << 20];
    bytes[50 << 20..(50 << 20) + 13].copy_from_slice(b"in the middle");
    assert_eq!(records[0].1, ObjectRecord { len: 100 << 20, digest: hash::of_bytes(&bytes).unwrap(), location: Location::File });
    let path = fixture.path.join(file_name(id));
    assert!(path.metadata().unwrap().blocks() * 512 < 1 << 20);
    let mut buf = [1; 16];
    assert_eq!(fixture.objects().read_at(id, &mut buf, (50 << 20) - 3).unwrap(), 16);
    assert_eq!(&buf, b"\0\0\0in the middle");
    assert_eq!(fixture.objects().read_at(id, &mut buf, (100 << 20) - 4).unwrap(), 4);
    assert_eq!(&buf[..4], &[0; 4]);
}

#[test]
fn equal_contents_are_stored_once() {
    let fixture = fixture();
    let (first, second) = (fixture.held(b"the same"), fixture.held(b"the same"));
    let records = fixture.seal(&[SealObject::Held(first), SealObject::Held(second)]);
    assert_eq!(records[1].1.location, Location::Alias(first));
    let third = fixture.file(b"the same");
    let open = fixture.objects().open_file(third).unwrap().unwrap();
    let records = fixture.seal(&[SealObject::File(third)]);
    assert_eq!(records[0].1.location, Location::Alias(first));
    assert!(!fixture.path.join(file_name(third)).exists());
    assert_eq!(open.metadata().unwrap().len(), 8, "who has it open keeps it");
    let own = fixture.file(&large(b"large"));
    fixture.seal(&[SealObject::File(own)]);
    let again = fixture.held(&large(b"large"));
    assert_eq!(fixture.seal(&[SealObject::Held(again)])[0].1.location, Location::Alias(own));
    let fixture = fixture.reopen();
    for id in [first, second, third] {
        assert_eq!(fixture.read(id), b"the same");
    }
    assert_eq!(fixture.read(again), large(b"large"));
    assert!(fixture.objects().open_file(again).unwrap().is_some());
    // Sealed once more: the object is there already, and must not become an alias of itself.
    fixture.objects().hold(first, b"the same"[..].into());
    let records = fixture.objects().seal(&[SealObject::Held(first)]).unwrap();
    assert!(matches!(records[0].1.location, Location::Pack { .. }), "{records:?}");
}

#[test]
fn many_files_share_one_sync_and_descriptors_are_bounded() {
    let fixture = fixture();
    let ids: Vec<_> = (0..400_u32).map(|number| fixture.file(&number.to_le_bytes())).collect();
    let seal: Vec<_> = ids.iter().map(|id| SealObject::File(*id)).collect();
    fixture.seal(&seal);
    for (number, id) in (0_u32..).zip(&ids) {
        assert_eq!(fixture.read(*id), number.to_le_bytes());
    }
    assert!(fixture.objects().files.count() <= 256);
}

#[test]
fn ten_thousand_small_objects_seal_into_one_pack() {
    let fixture = fixture();
    let ids: Vec<_> = (0..10_000_u32).map(|number| fixture.held(&number.to_le_bytes().repeat(1024))).collect();
    let seal: Vec<_> = ids.iter().map(|id| SealObject::Held(*id)).collect();
    let records = fixture.seal(&seal);
    assert_eq!(fixture.path.join("packs").read_dir().unwrap().count(), 1);
    assert_eq!(records[9_999].1.location, Location::Pack { pack: PackId(1), offset: 16 + 9_999 * 4096 });
    assert_eq!(fixture.read(ids[7_777]), 7_777_u32.to_le_bytes().repeat(1024));
}

#[test]
fn a_full_pack_is_followed_by_another() {
    let fixture = fixture();
    let ids: Vec<_> = (0..5_u8).map(|seed| fixture.held(&vec![seed; 30 << 20])).collect();
    let seal: Vec<_> = ids.iter().map(|id| SealObject::Held(*id)).collect();
    let records = fixture.seal(&seal);
    let packs = records.iter().map(|(_, record)| match record.location {
        Location::Pack { pack, .. } => pack.0,
        _ => 0,
    });
    assert_eq!(packs.collect::<Vec<_>>(), [1, 1, 1, 2, 2]);
    assert_eq!(fixture.read(ids[4]), vec![4; 30 << 20]);
}

#[test]
fn what_was_never_sealed_goes_and_leftovers_give_way() {
    let fixture = fixture();
    let (file, held) = (fixture.file(b"x"), fixture.held(b"y"));
    fixture.objects().discard(file);
    fixture.objects().discard(held);
    fixture.objects().discard(ObjectId(999));
    assert!(!fixture.path.join(file_name(file)).exists());
    for id in [file, held, ObjectId(999)] {
        assert_eq!(fixture.objects().len(id).unwrap_err().to_string(), format!("damaged store: object {id} is missing"));
        assert!(fixture.objects().open_file(id).unwrap().is_none());
    }
    // Left by a crash: a file whose number nothing durable names, and a pack.
    std::fs::write(fixture.path.join("objects/50/80"), "leftover").unwrap();
    std::fs::write(fixture.path.join("packs/1"), "leftover").unwrap();
    let created = fixture.objects().create(ObjectId(80)).unwrap();
    assert_eq!(created.metadata().unwrap().len(), 0);
    assert_eq!(fixture.objects().create(ObjectId(80)).unwrap_err().errno(), libc::EEXIST);
    let id = fixture.held(b"z");
    fixture.seal(&[SealObject::Held(id)]);
    assert_eq!(fixture.read(id), b"z");
}

#[test]
fn a_new_file_is_not_removed_for_the_leftover_whose_number_it_has() {
    let fixture = fixture();
    let objects = fixture.objects();
    for name in ["objects/50/80", "objects/51/81", "objects/52/82"] {
        std::fs::write(fixture.path.join(name), "leftover").unwrap();
    }
    let found: Vec<ObjectId> = [80, 81, 82].map(ObjectId).into();
    assert_eq!((0x50..=0x52).flat_map(|low| objects.leftovers(objects.own_files(low).unwrap()).unwrap()).collect::<Vec<_>>(), found);
    // Between the look and the removal, as a writer beside a sweep does.
    let created = objects.create(found[0]).unwrap();
    created.write_all_at(b"new", 0).unwrap();
    let unnamed = objects.create_unnamed(found[1]).unwrap();
    unnamed.write_all_at(b"new too", 0).unwrap();
    assert_eq!(objects.remove_leftover(found[0]).unwrap(), None);
    assert_eq!(objects.remove_leftover(found[1]).unwrap(), None);
    assert!(objects.remove_leftover(found[2]).unwrap().is_some());
    objects.name(found[1]).unwrap();
    assert_eq!(std::fs::read(fixture.path.join("objects/50/80")).unwrap(), b"new");
    assert_eq!(std::fs::read(fixture.path.join("objects/51/81")).unwrap(), b"new too");
    assert!(!fixture.path.join("objects/52/82").exists());
}

#[test]
fn a_failed_seal_changes_nothing() {
    let fixture = fixture();
    let held = fixture.held(b"kept");
    let error = fixture.objects().seal(&[SealObject::Held(held), SealObject::Held(ObjectId(999))]).unwrap_err();
    assert_eq!(error.to_string(), "damaged store: object 999 is not held");
    std::fs::remove_dir(fixture.path.join("packs")).unwrap();
    let error = fixture.objects().seal(&[SealObject::Held(held)]).unwrap_err();
    assert!(error.to_string().starts_with("create packs/1: "), "{error}");
    std::fs::create_dir(fixture.path.join("packs")).unwrap();
    assert_eq!(fixture.read(held), b"kept");
    fixture.seal(&[SealObject::Held(held)]);
    assert_eq!(fixture.read(held), b"kept");
}

#[test]
fn an_object_whose_sync_failed_is_never_sealed() {
    let fixture = fixture();
    let id = fixture.file(b"x");
    fixture.objects().mark(id, Some(libc::EIO), 0);
    fixture.objects().mark(id, None, 0);
    for error in [fixture.objects().sync(id).unwrap_err(), fixture.objects().seal(&[SealObject::File(id)]).unwrap_err()] {
        assert_eq!(error.errno(), libc::EIO);
        assert!(matches!(error, StoreError::Poisoned { .. }), "{error}");
    }
}

#[test]
fn damage_is_named() {
    let fixture = fixture();
    let (packed, own) = (fixture.held(&[1; 5000]), fixture.file(&[2; 150_000]));
    fixture.seal(&[SealObject::Held(packed), SealObject::File(own)]);
    let fixture = fixture.reopen();
    let cut = |name: &str| std::fs::File::options().write(true).open(fixture.path.join(name)).unwrap().set_len(4000).unwrap();
    cut("packs/1");
    cut(&file_name(own));
    let mut buf = [0; 150_000];
    let message = fixture.objects().read_at(packed, &mut buf, 0).unwrap_err().to_string();
    assert_eq!(message, format!("damaged store: object {packed}: packs/1 is too short"));
    let message = fixture.objects().read_at(own, &mut buf, 0).unwrap_err().to_string();
    assert_eq!(message, format!("damaged store: object {own}: {} is too short", file_name(own)));
    assert!(matches!(fixture.objects().digest(own), Err(StoreError::Damaged { .. })));
    let fixture = fixture.reopen();
    std::fs::remove_file(fixture.path.join("packs/1")).unwrap();
    let message = fixture.objects().read_at(packed, &mut buf, 0).unwrap_err().to_string();
    assert_eq!(message, format!("damaged store: object {packed} is missing"));
    let looping = [(ObjectId(70), 71), (ObjectId(71), 70), (ObjectId(72), 99)];
    let record = |other| ObjectRecord { len: 1, digest: Digest::default(), location: Location::Alias(ObjectId(other)) };
    fixture.commit(&looping.map(|(id, other)| (id, record(other))));
    assert_eq!(fixture.objects().len(ObjectId(70)).unwrap_err().to_string(), "damaged store: object 70 is an alias without an end");
    assert_eq!(fixture.objects().len(ObjectId(72)).unwrap_err().to_string(), "damaged store: object 72 is object 99, which is missing");
}

#[test]
fn readers_never_see_a_seal() {
    let fixture = fixture();
    fixture.seal(&[SealObject::Held(fixture.held(&[9; 300]))]);
    let done = std::sync::atomic::AtomicBool::new(false);
    let ids: Vec<_> = (0..40_u32).map(|number| fixture.file(&[if number % 2 == 0 { 9 } else { number as u8 }; 300])).collect();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    for (number, id) in ids.iter().enumerate() {
                        assert_eq!(fixture.read(*id), vec![if number % 2 == 0 { 9 } else { number as u8 }; 300]);
                    }
                }
            });
        }
        for id in &ids {
            fixture.seal(&[SealObject::File(*id)]);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn a_digest_is_a_matter_of_the_bytes_and_its_cost_one_of_the_data() {
    let fixture = fixture();
    let (kib, mib) = (1 << 10, 1 << 20);
    let random: Vec<u8> = (0..3 * mib as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    // (length, ranges with data): dense, ends in a hole, begins with one, a hole shorter than a block, a short last block of zeros.
    let cases: [(usize, &[(usize, usize)]); 6] = [
        (3 * mib, &[(0, 3 * mib)]),
        (3 * mib, &[(0, 5)]),
        (3 * mib + 7, &[(2 * mib, mib / 2)]),
        (2 * mib, &[(0, mib - 70 * kib), (mib, mib)]),
        (2 * mib + 100, &[(0, 2 * mib)]),
        (5 * mib, &[(64 * kib - 1, 2), (4 * mib + 3, 1)]),
    ];
    let mut digests = Vec::new();
    for (len, ranges) in cases {
        let mut bytes = vec![0; len];
        let holes = fixture.objects().create(fixture.store.ids().object()).unwrap();
        holes.set_len(len as u64).unwrap();
        for (start, count) in ranges {
            bytes[*start..start + count].copy_from_slice(&random[..*count]);
            holes.write_all_at(&random[..*count], *start as u64).unwrap();
        }
        let dense = fixture.objects().create(fixture.store.ids().object()).unwrap();
        dense.write_all_at(&[b"before", bytes.as_slice()].concat(), 0).unwrap();
        let digest = hash::of_bytes(&bytes).unwrap();
        assert_eq!(hash::whole_file(&holes, "holes").unwrap(), (len as u64, digest), "{ranges:?}");
        assert_eq!(hash::range(&dense, 6, len as u64, "dense", &|_| Ok(())).unwrap(), digest, "{ranges:?}");
        let zeros = bytes.chunks_exact(64 * kib).any(|block| block.iter().all(|byte| *byte == 0));
        assert_eq!(digest == Digest::of(&bytes), !zeros, "{ranges:?}");
        digests.push(digest);
    }
    digests.sort();
    digests.dedup();
    assert_eq!(digests.len(), cases.len());

    // Hashing the zeros of this one would take minutes.
    let huge = fixture.file(b"");
    let file = fixture.objects().open_file(huge).unwrap().unwrap();
    file.write_all_at(b"end", (1 << 40) - 3).unwrap();
    let records = fixture.seal(&[SealObject::File(huge)]);
    assert_eq!(records[0].1.len, 1 << 40);
    assert_eq!(fixture.objects().digest(huge).unwrap(), records[0].1.digest);
}

#[test]
fn a_clone_shares_bytes_or_the_host_cannot() {
    let fixture = fixture();
    // Not packed.
    const LEN: usize = 300_000;
    let from = fixture.file(&[5; LEN]);
    let early = fixture.store.ids().object();
    assert!(fixture.objects().clone_named(from, early, 1).unwrap().is_none(), "it may still change");
    fixture.seal(&[SealObject::File(from)]);
    for _ in 0..2 {
        let to = fixture.store.ids().object();
        match fixture.objects().clone_named(from, to, LEN as u64 - 1).unwrap() {
            Some(file) => {
                file.write_all_at(b"changed", 0).unwrap();
                assert_eq!(fixture.read(from), [5; LEN]);
                assert_eq!(fixture.objects().len(to).unwrap(), LEN as u64 - 1);
            }
            None => assert!(!fixture.path.join(file_name(to)).exists()),
        }
    }
}
