//! The journal's file: any bytes are refused or replayed up to where they hold; what was appended comes back whole; and what a crash or
//! a bad disk does to a journal leaves a beginning of its batches, or an error.

use std::fs;

use shadowfs::clock::Timestamp;
use shadowfs::ids::{ObjectId, VersionId};
use shadowfs::store::{Journal, JournalRecord, Store};

use super::input::Input;
use super::scratch;

const VERSION: VersionId = VersionId(1);

thread_local! {
    static STORE: std::sync::Arc<Store> = scratch::store("journal");
}

pub fn run(bytes: &[u8]) {
    STORE.with(|store| {
        let path = store.path().join("journal/t1");
        fs::write(&path, bytes).unwrap();
        replay_and_open(store);
        let mut input = Input(bytes);
        let batches: Vec<Vec<JournalRecord>> = batches(&mut input);
        store.remove_journal(VERSION).unwrap();
        let mut journal = store.journal(VERSION).unwrap();
        for (number, batch) in batches.iter().enumerate() {
            journal.append(batch).unwrap();
            match bytes.get(number).copied().unwrap_or(0) % 3 {
                0 => {}
                1 => journal.write().unwrap(),
                _ => journal.sync().unwrap(),
            }
        }
        journal.write().unwrap();
        drop(journal);
        let all: Vec<JournalRecord> = batches.concat();
        assert_eq!(Journal::replay(&path).unwrap(), all);
        damage(store, &mut input, &batches);
    });
}

fn replay_and_open(store: &Store) {
    let replayed = store.replay(VERSION);
    match (replayed, store.journal(VERSION)) {
        (Ok(before), Ok(journal)) => {
            drop(journal);
            // The torn tail is cut off, nothing else.
            assert_eq!(store.replay(VERSION).unwrap(), before);
        }
        // Records that hold and are none: replay looks into them, opening does not.
        (Err(_), _) => {}
        (Ok(_), Err(why)) => panic!("replayed, but not to be opened: {why}"),
    }
}

fn damage(store: &Store, input: &mut Input<'_>, batches: &[Vec<JournalRecord>]) {
    let path = store.path().join("journal/t1");
    let mut file = fs::read(&path).unwrap();
    for _ in 0..=input.below(3) {
        let at = usize::try_from(input.number()).unwrap_or(0) % file.len().max(1);
        match (input.below(3), file.get_mut(at)) {
            (0, Some(byte)) => *byte ^= 1 << input.below(8),
            (1, Some(_)) => file.truncate(at),
            (2, Some(_)) => file[at..].fill(input.byte()),
            _ => {}
        }
    }
    fs::write(&path, &file).unwrap();
    if let Ok(left) = store.replay(VERSION) {
        let whole = (0..=batches.len()).any(|n| batches[..n].concat() == left);
        assert!(whole, "{left:?} is no beginning of {batches:?}");
    }
    replay_and_open(store);
}

fn batches(input: &mut Input<'_>) -> Vec<Vec<JournalRecord>> {
    let mut batches = Vec::new();
    for _ in 0..input.below(6) {
        batches.push((0..=input.below(4)).map(|_| record(input)).collect());
    }
    batches
}

fn record(input: &mut Input<'_>) -> JournalRecord {
    match input.below(6) {
        0 => JournalRecord::Base { parent: VersionId(input.small()), opened_at: Timestamp { secs: 1, nanos: 2 } },
        1 => JournalRecord::Edit { key: input.run().to_vec(), value: (input.below(2) == 0).then(|| input.run().to_vec()) },
        2 => JournalRecord::Data { object: ObjectId(input.small()), offset: input.small(), bytes: input.run().to_vec() },
        3 => JournalRecord::Truncate { object: ObjectId(input.small()), len: input.small() },
        4 => JournalRecord::InFile { object: ObjectId(input.small()) },
        _ => JournalRecord::Sealed { message: Some(String::from_utf8_lossy(input.run()).into_owned()) },
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = super::nodes::seeds();
    let store = scratch::store("journal-seeds");
    let mut journal = store.journal(VERSION).unwrap();
    journal.append(&[JournalRecord::Base { parent: VersionId(0), opened_at: Timestamp { secs: 1, nanos: 2 } }]).unwrap();
    journal.append(&[JournalRecord::Sealed { message: None }]).unwrap();
    journal.sync().unwrap();
    seeds.push(fs::read(store.path().join("journal/t1")).unwrap());
    seeds
}
