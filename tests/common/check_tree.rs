//! Whether a tree is sound as a filesystem: names, links, counts, parents, extents and objects agree.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};

use shadowfs::ids::Ino;
use shadowfs::tree::Snapshot;
use shadowfs::tree::key::{Content, FileKind, InodeRecord, Name, Part, Value};

#[derive(Default)]
struct Seen {
    records: BTreeMap<Ino, std::sync::Arc<InodeRecord>>,
    /// Names by the inode that they lead to.
    names: BTreeMap<Ino, BTreeSet<(Ino, Name)>>,
    links: BTreeMap<Ino, BTreeSet<(Ino, Name)>>,
    kinds: BTreeMap<Ino, FileKind>,
    subdirs: BTreeMap<Ino, u32>,
}

/// Panics with what is wrong.
#[track_caller]
pub fn check(snapshot: &Snapshot) {
    let mut seen = Seen::default();
    for entry in snapshot.tree.iter() {
        let (key, value) = entry.unwrap();
        match (key.part, value) {
            (Part::Inode, Value::Inode(record)) => drop(seen.records.insert(key.ino, record)),
            (Part::Dirent(name), Value::Dirent(ino, kind)) => {
                assert!(seen.names.entry(ino).or_default().insert((key.ino, name)));
                assert_eq!(*seen.kinds.entry(ino).or_insert(kind), kind, "kinds of the names of {ino}");
                *seen.subdirs.entry(key.ino).or_default() += u32::from(kind == FileKind::Directory);
            }
            (Part::Link(dir, name), Value::Link) => drop(seen.links.entry(key.ino).or_default().insert((dir, name))),
            (Part::Xattr(_), Value::Xattr(_)) | (Part::Extent(_), Value::Extent(_)) => {
                assert!(seen.records.contains_key(&key.ino), "an entry of {}, which has no record", key.ino);
            }
            (part, value) => panic!("{value:?} under {part:?}"),
        }
    }
    for ino in seen.names.keys().chain(seen.links.keys()) {
        assert!(seen.records.contains_key(ino), "names of {ino}, which has no record");
    }
    for (ino, record) in &seen.records {
        check_inode(snapshot, &seen, *ino, record);
    }
}

fn check_inode(snapshot: &Snapshot, seen: &Seen, ino: Ino, record: &InodeRecord) {
    let names = seen.names.get(&ino).cloned().unwrap_or_default();
    if ino == Ino::ROOT {
        assert!(names.is_empty(), "a name leads to the root");
        assert_eq!(record.parent, Ino::ROOT);
    } else {
        let own = (record.parent, record.name.clone());
        let mut links = seen.links.get(&ino).cloned().unwrap_or_default();
        assert!(links.insert(own), "the own name of {ino} is among its further links");
        assert_eq!(names, links, "names of {ino}");
        assert_eq!(seen.kinds.get(&ino), Some(&record.kind), "kind of {ino}");
    }
    let expected = match record.kind {
        FileKind::Directory => 2 + seen.subdirs.get(&ino).copied().unwrap_or(0),
        _ => u32::try_from(names.len()).unwrap(),
    };
    assert_eq!(record.nlink, expected, "link count of {ino}");
    let objects = snapshot.store.objects();
    let extents = snapshot.extents(ino).unwrap();
    match &record.content {
        Content::Object(object) => assert!(objects.len(*object).unwrap() <= record.size, "{ino} is shorter than its object"),
        Content::Extents => {
            let mut end = 0;
            for (at, extent) in &extents {
                assert!(*at >= end && extent.len > 0, "extents of {ino}: {extents:?}");
                end = at + extent.len;
                assert!(extent.start + extent.len <= objects.len(extent.object).unwrap(), "an extent of {ino} is past its object");
            }
            assert!(end <= record.size, "extents of {ino} are past its end");
        }
        Content::None | Content::Inline(_) => {}
    }
    assert!(extents.is_empty() || record.content == Content::Extents, "{ino} has extents and other content");
}
