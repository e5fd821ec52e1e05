//! Records of the catalog, the tree and the journal: any bytes are refused or decode to what encodes again.

use std::fmt::Debug;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use shadowfs::clock::Timestamp;
use shadowfs::ids::{Digest, EventSeq, Ino, NodeId, ObjectId, PackId, VersionId};
use shadowfs::store::JournalRecord;
use shadowfs::store::codec;
use shadowfs::store::event::{Event, EventKind};
use shadowfs::store::record::{
    AttemptRecord, ChangeCounts, Location, ObjectRecord, Outcome, Pointers, Reason, RootRef, VersionRecord, VersionState, Writer,
};
use shadowfs::tree::key::{Content, FileKind, InodeRecord, Key, Value};

pub fn run(bytes: &[u8]) {
    let Some((kind, rest)) = bytes.split_first() else { return };
    match kind % 8 {
        0 => round::<VersionRecord>(rest),
        1 => round::<ObjectRecord>(rest),
        2 => round::<AttemptRecord>(rest),
        3 => round::<Pointers>(rest),
        4 => round::<Key>(rest),
        5 => round::<Value>(rest),
        6 => round::<Vec<JournalRecord>>(rest),
        _ => round::<Event>(rest),
    }
}

fn round<T: Serialize + DeserializeOwned + Debug>(bytes: &[u8]) {
    // With the format byte of a record before it as well, so that mutations need not find that.
    let led = [&[1][..], bytes].concat();
    for bytes in [bytes, &led] {
        let Ok(record) = codec::decode::<T>(bytes) else { continue };
        let written = codec::encode(&record);
        let again: T = codec::decode(&written).unwrap();
        // By what is written: a number that is none does not equal itself.
        assert_eq!(codec::encode(&again), written, "{record:?}");
    }
}

pub fn version() -> VersionRecord {
    let at = Timestamp { secs: 1_800_000_000, nanos: 5 };
    VersionRecord {
        version: VersionId(7),
        state: VersionState::Ghost,
        parent: Some(VersionId(6)),
        root: Some(RootRef { node: NodeId(3), digest: Digest([7; 32]), entries: 12 }),
        message: Some("what <b>it</b> \"is\"".to_owned()),
        opened_at: at,
        sealed_at: Some(at),
        decided_at: Some(at),
        promoted_at: None,
        changes: ChangeCounts { added: 1, modified: 2, deleted: 3, bytes: 4 },
        writers: vec![writer()],
        reason: Some(Reason::Conflict { with: VersionId(6), paths: vec!["a/b".to_owned()] }),
        passed: false,
        held: false,
        pinned: true,
        rebased_from: Some(VersionId(5)),
        restored_from: None,
    }
}

fn writer() -> Writer {
    Writer { uid: 1000, pid: 17, command: "sh".to_owned() }
}

pub fn attempt() -> AttemptRecord {
    AttemptRecord {
        version: VersionId(7),
        check: "rows".to_owned(),
        attempt: 2,
        started_at: Timestamp { secs: 1_800_000_000, nanos: 0 },
        took: Duration::from_millis(3),
        outcome: Outcome::CouldNotStart { why: "no such file".to_owned() },
        rejects: true,
        metrics: vec![("rows".to_owned(), 1.5)],
    }
}

/// One of every kind.
pub fn events() -> Vec<EventKind> {
    let failed = Reason::ChecksFailed { checks: vec!["rows".to_owned()], summary: "rows: exit code 1".to_owned() };
    let (five, six) = (VersionId(5), VersionId(6));
    vec![
        EventKind::Initialized { from: Some("/srv".to_owned()) },
        EventKind::Opened { parent: six, writer: Some(writer()) },
        EventKind::Sealed { digest: Digest([7; 32]), changes: ChangeCounts::default(), writers: vec![writer()], message: None },
        EventKind::Checked { check: "rows".to_owned(), attempt: 1, outcome: Outcome::Failed { code: Some(1) }, took_ms: 4 },
        EventKind::Rejected { reason: failed },
        EventKind::Aborted { reason: Reason::Rebased { into: six } },
        EventKind::RolledBack { from: six, to: five },
        EventKind::Promoted { replaces: five, batch: vec![five, six], digest: Digest([7; 32]) },
        EventKind::HeldBack { why: "disk".to_owned() },
        EventKind::Tagged { name: "v1".to_owned() },
        EventKind::Mounted { at: "/mnt".to_owned(), recovered: true },
        EventKind::Validated,
    ]
}

pub fn seeds() -> Vec<Vec<u8>> {
    let at = Timestamp { secs: -5, nanos: 999_999_999 };
    let inode = InodeRecord {
        kind: FileKind::Regular,
        perm: 0o644,
        uid: 1,
        gid: 2,
        nlink: 1,
        size: 300,
        rdev: 0,
        atime: at,
        mtime: at,
        ctime: at,
        btime: at,
        content: Content::Object(ObjectId(9)),
        parent: Ino::ROOT,
        name: b"name".as_slice().into(),
        changed_in: VersionId(3),
    };
    let pointers = Pointers {
        production: VersionId(1),
        valid: VersionId(2),
        base: VersionId(3),
        next_version: VersionId(4),
        next_ino: Ino(5),
        next_object: ObjectId(300),
        next_node: NodeId(70_000),
        next_pack: PackId(u64::MAX),
    };
    let object = |location| ObjectRecord { len: 5, digest: Digest([1; 32]), location };
    let journal = vec![
        JournalRecord::Base { parent: VersionId(0), opened_at: at },
        JournalRecord::Edit { key: codec::encode(&Key::dirent(Ino(1), b"a")), value: None },
        JournalRecord::Data { object: ObjectId(1), offset: 3, bytes: b"abc".to_vec() },
        JournalRecord::Truncate { object: ObjectId(1), len: 2 },
        JournalRecord::InFile { object: ObjectId(1) },
        JournalRecord::Sealed { message: Some("m".to_owned()) },
    ];
    let seed = |kind: u8, record: Vec<u8>| [&[kind][..], &record[1..]].concat();
    let mut seeds = vec![
        seed(0, codec::encode(&version())),
        seed(1, codec::encode(&object(Location::Pack { pack: PackId(2), offset: 16 }))),
        seed(1, codec::encode(&object(Location::Alias(ObjectId(4))))),
        seed(2, codec::encode(&attempt())),
        seed(3, codec::encode(&pointers)),
        seed(4, codec::encode(&Key::link(Ino(3), Ino(1), b"hard"))),
        seed(5, codec::encode(&Value::Inode(inode.into()))),
        seed(6, codec::encode(&journal)),
    ];
    seeds.extend(events().into_iter().enumerate().map(|(seq, what)| {
        let event =
            Event { seq: EventSeq(seq as u64), at, version: Some(VersionId(7)), what, previous: Digest([0; 32]), digest: Digest([9; 32]) };
        seed(7, codec::encode(&event))
    }));
    seeds
}
