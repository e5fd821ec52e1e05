#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;
use std::sync::atomic::Ordering::SeqCst;

use super::super::disk::Disk;
use super::super::tests::Refusals;
use super::*;

struct Fixture {
    temp: tempfile::TempDir,
    host: Arc<HostDir>,
    refusals: Arc<Refusals>,
}

fn fixture() -> Fixture {
    let temp = tempfile::tempdir().unwrap();
    let refusals = Arc::new(Refusals::default());
    let host = Arc::new(HostDir::open(temp.path(), Some(Arc::clone(&refusals) as Arc<dyn Disk>)).unwrap());
    host.make_dir("journal").unwrap();
    Fixture { temp, host, refusals }
}

impl Fixture {
    fn open(&self) -> Result<Journal> {
        Journal::open(Arc::clone(&self.host), "journal/t7".to_owned())
    }

    fn path(&self) -> PathBuf {
        self.temp.path().join("journal/t7")
    }

    fn replay(&self) -> Result<Vec<JournalRecord>> {
        Journal::replay(&self.path())
    }

    /// What a journal of these bytes holds.
    fn replay_of(&self, bytes: &[u8]) -> Result<Vec<JournalRecord>> {
        std::fs::write(self.path(), bytes).unwrap();
        self.replay()
    }
}

fn edit(number: u8) -> JournalRecord {
    JournalRecord::Edit { key: vec![number; 3], value: number.is_multiple_of(2).then(|| vec![number; 40]) }
}

fn every_kind() -> Vec<JournalRecord> {
    vec![
        JournalRecord::Base { parent: VersionId(6), opened_at: Timestamp { secs: -1, nanos: 5 } },
        JournalRecord::Writer(Writer { uid: 0, pid: 1, command: "vim".to_owned() }),
        edit(2),
        edit(3),
        JournalRecord::Data { object: ObjectId(9), offset: 1 << 40, bytes: (0..=255).collect() },
        JournalRecord::Truncate { object: ObjectId(9), len: 77 },
        JournalRecord::InFile { object: ObjectId(9) },
        JournalRecord::Sealed { message: Some("done".to_owned()) },
    ]
}

#[test]
fn every_record_comes_back_and_more_can_follow() {
    let fixture = fixture();
    let mut journal = fixture.open().unwrap();
    journal.append(&every_kind()).unwrap();
    journal.append(&[]).unwrap();
    journal.write().unwrap();
    assert_eq!(fixture.replay().unwrap(), every_kind());
    journal.append(&[edit(8)]).unwrap();
    assert!(journal.unwritten() > 0);
    assert_eq!(fixture.replay().unwrap(), every_kind(), "not written yet");
    journal.sync().unwrap();
    drop(journal);
    let mut journal = fixture.open().unwrap();
    journal.append(&[edit(9)]).unwrap();
    journal.sync().unwrap();
    assert_eq!(fixture.replay().unwrap(), [every_kind(), vec![edit(8), edit(9)]].concat());
}

#[test]
fn a_batch_torn_at_any_byte_is_gone_and_those_before_it_are_not() {
    let fixture = fixture();
    let mut journal = fixture.open().unwrap();
    journal.append(&[edit(1), edit(2)]).unwrap();
    journal.write().unwrap();
    let whole_before = std::fs::read(fixture.path()).unwrap();
    journal.append(&every_kind()).unwrap();
    journal.write().unwrap();
    let bytes = std::fs::read(fixture.path()).unwrap();
    for cut in whole_before.len()..bytes.len() {
        assert_eq!(fixture.replay_of(&bytes[..cut]).unwrap(), [edit(1), edit(2)], "cut at {cut}");
        // The length is there and the bytes are not: a file that the kernel had extended already.
        let mut zeros = bytes[..cut].to_vec();
        zeros.resize(bytes.len(), 0);
        if zeros != bytes {
            assert_eq!(fixture.replay_of(&zeros).unwrap(), [edit(1), edit(2)], "zeros from {cut}");
        }
        let mut flipped = bytes.clone();
        flipped[cut] ^= 0x10;
        assert_eq!(fixture.replay_of(&flipped).unwrap(), [edit(1), edit(2)], "flipped at {cut}");
    }
    for cut in 0..whole_before.len() {
        assert_eq!(fixture.replay_of(&bytes[..cut]).unwrap(), [], "cut at {cut}");
    }
    assert_eq!(fixture.replay_of(&bytes).unwrap().len(), 2 + every_kind().len());
}

#[test]
fn a_torn_tail_is_cut_off_and_written_over() {
    let fixture = fixture();
    let mut journal = fixture.open().unwrap();
    journal.append(&[edit(1)]).unwrap();
    journal.write().unwrap();
    journal.append(&every_kind()).unwrap();
    journal.write().unwrap();
    let bytes = std::fs::read(fixture.path()).unwrap();
    for keep in [0, 5, 19, bytes.len() - 1] {
        std::fs::write(fixture.path(), &bytes[..keep]).unwrap();
        let before = fixture.replay().unwrap();
        let mut journal = fixture.open().unwrap();
        journal.append(&[edit(5)]).unwrap();
        journal.sync().unwrap();
        assert_eq!(fixture.replay().unwrap(), [before, vec![edit(5)]].concat(), "kept {keep}");
    }
}

#[test]
fn a_broken_batch_that_was_durable_is_damage() {
    let fixture = fixture();
    let mut journal = fixture.open().unwrap();
    journal.append(&[edit(1)]).unwrap();
    let first = MAGIC.len();
    journal.sync().unwrap();
    journal.append(&[edit(2)]).unwrap();
    let second = journal.written as usize;
    journal.append(&[edit(3)]).unwrap();
    journal.write().unwrap();
    let bytes = std::fs::read(fixture.path()).unwrap();
    assert!(bytes.len() as u64 > journal.written, "room was made");
    for at in first..second {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        let message = fixture.replay_of(&flipped).unwrap_err().to_string();
        assert!(message.ends_with(&format!("t7: a batch that was durable is broken, at byte {first}")), "{message}");
        fixture.open().unwrap_err();
    }
    let mut magic = bytes.clone();
    magic[0] = 0;
    assert!(fixture.replay_of(&magic).is_err());
    // The second was never durable: the kernel may have written the third and not the second.
    let mut flipped = bytes;
    flipped[second + 30] ^= 1;
    assert_eq!(fixture.replay_of(&flipped).unwrap(), [edit(1)]);
}

#[test]
fn room_is_made_at_a_sync_and_gone_at_the_end() {
    let fixture = fixture();
    let len = || std::fs::metadata(fixture.path()).unwrap().len();
    let mut journal = fixture.open().unwrap();
    journal.append(&[edit(1)]).unwrap();
    journal.write().unwrap();
    assert_eq!(len(), journal.written, "what is not synced needs none");
    journal.sync().unwrap();
    let room = len();
    assert_eq!(room, journal.written + ROOM.0);
    let mut edits = vec![edit(1)];
    while journal.written < room {
        assert_eq!(len(), room, "a sync within the room changes no length");
        journal.append(&[edit(2)]).unwrap();
        journal.sync().unwrap();
        edits.push(edit(2));
    }
    assert!(len() > room);
    assert_eq!(fixture.replay().unwrap(), edits);
    journal.finish().unwrap();
    assert_eq!(len(), journal.written);
    assert_eq!(fixture.replay().unwrap(), edits);
    drop(journal);
    // A full disk has no room to spare, and the reserve is not for it.
    let mut journal = fixture.open().unwrap();
    journal.append(&[edit(3)]).unwrap();
    journal.write().unwrap();
    fixture.refusals.write.store(libc::ENOSPC, SeqCst);
    journal.sync().unwrap();
    assert_eq!(len(), journal.written);
}

#[test]
fn once_a_sync_failed_nothing_is_taken_any_more() {
    let fixture = fixture();
    let mut journal = fixture.open().unwrap();
    journal.append(&[edit(1)]).unwrap();
    journal.sync().unwrap();
    journal.append(&[edit(2)]).unwrap();
    fixture.refusals.sync.store(libc::EIO, SeqCst);
    assert_eq!(journal.sync().unwrap_err().to_string(), "sync journal/t7: Input/output error (os error 5)");
    fixture.refusals.sync.store(0, SeqCst);
    for error in [journal.sync().unwrap_err(), journal.write().unwrap_err(), journal.append(&[edit(3)]).unwrap_err()] {
        assert_eq!(error.to_string(), "journal/t7: an earlier sync failed: Input/output error (os error 5)");
        assert_eq!(error.errno(), libc::EIO);
    }
}

#[test]
fn a_batch_that_could_not_be_read_back_is_refused() {
    let fixture = fixture();
    let mut journal = fixture.open().unwrap();
    let huge = JournalRecord::Data { object: ObjectId(1), offset: 0, bytes: vec![0; PAYLOAD_LIMIT] };
    let error = journal.append(&[huge]).unwrap_err();
    assert_eq!(error.errno(), libc::EFBIG);
    let largest = JournalRecord::Data { object: ObjectId(1), offset: 0, bytes: vec![7; PAYLOAD_LIMIT - 64] };
    journal.append(std::slice::from_ref(&largest)).unwrap();
    journal.sync().unwrap();
    assert_eq!(fixture.replay().unwrap(), [largest]);
}
