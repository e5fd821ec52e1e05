//! Packs and the object table: whatever a pack's file holds and the records say of it, reading and checking answer with bytes of the
//! right length or with an error, and no read goes past its object.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use shadowfs::clock::SystemClock;
use shadowfs::ids::{Digest, ObjectId, PackId};
use shadowfs::store::Store;
use shadowfs::store::record::{Location, ObjectRecord};
use shadowfs::tree::verify::{Pace, fsck, scrub};

use super::input::Input;
use super::scratch;

thread_local! {
    static STORE: Arc<Store> = scratch::store("packs");
}

const OBJECTS: u64 = 8;

pub fn run(bytes: &[u8]) {
    STORE.with(|store| {
        let mut input = Input(bytes);
        let mut transaction = store.catalog().begin().unwrap();
        let first = store.ids().object().0;
        let mut made = Vec::new();
        for number in 0..OBJECTS {
            if number > 0 {
                store.ids().object();
            }
            let location = match input.below(4) {
                0 => Location::File,
                1 => Location::Alias(ObjectId(first + u64::from(input.below(8)))),
                _ => Location::Pack { pack: PackId(1 + u64::from(input.below(2))), offset: input.small() },
            };
            let record = ObjectRecord { len: input.small(), digest: Digest([input.byte(); 32]), location };
            transaction.put_object(ObjectId(first + number), &record).unwrap();
            made.push(record);
        }
        transaction.commit().unwrap();
        let magic: &[u8] = if input.below(8) == 0 { b"" } else { b"shadowfs pack 1\n" };
        fs::write(store.path().join("packs/1"), [magic, input.0].concat()).unwrap();
        look(store, first, &made);
        let mut transaction = store.catalog().begin().unwrap();
        for number in 0..OBJECTS {
            transaction.remove_object(ObjectId(first + number)).unwrap();
        }
        transaction.commit().unwrap();
    });
}

fn look(store: &Arc<Store>, first: u64, made: &[ObjectRecord]) {
    let objects = store.objects();
    for (number, record) in (0..).zip(made) {
        let id = ObjectId(first + number);
        let mut buf = [0; 64];
        for offset in [0, 1, record.len.saturating_sub(3), record.len, u64::MAX] {
            if let Ok(read) = objects.read_at(id, &mut buf, offset) {
                assert!(read as u64 <= record.len.saturating_sub(offset), "{read} bytes at {offset} of {record:?}");
            }
        }
        if let Ok(len) = objects.len(id) {
            assert_eq!(len, record.len);
        }
        let _ = objects.open_file(id);
        let _ = objects.digest(id);
    }
    let stop = AtomicBool::new(false);
    let _ = fsck(store, &Vec::new, &stop);
    let pace = Pace::new(&SystemClock, u64::MAX, &|_| ());
    let _ = scrub(store, &pace, &stop);
}

pub fn seeds() -> Vec<Vec<u8>> {
    super::nodes::seeds()
}
