//! The open version from a journal whose batches hold and say anything: the mount refuses it, or staging works on what came of it.
//! A tree that contradicts itself may answer with errors.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use shadowfs::clock::{Clock, SystemClock, Timestamp};
use shadowfs::ids::{ObjectId, VersionId};
use shadowfs::store::{JournalRecord, Store, codec};
use shadowfs::tree::key::FileKind;
use shadowfs::tree::{Nodes, Snapshot, Tree};
use shadowfs::version::staging::{Caller, NodeRef, RenameMode, SetAttr, StagingOptions, XattrMode};
use shadowfs::version::{Staging, seal};

use super::input::Input;
use super::{nodes, scratch};

const CALLER: Caller = Caller { uid: 0, gid: 0, pid: 0 };

pub fn run(bytes: &[u8]) {
    let store = Scratch::new();
    let mut input = Input(bytes);
    let mut journal = store.0.journal(VersionId(1)).unwrap();
    journal.append(&[JournalRecord::Base { parent: VersionId(0), opened_at: Timestamp { secs: 1, nanos: 2 } }]).unwrap();
    let act = input.0.get(..24).map(<[u8]>::to_vec).unwrap_or_default();
    while !input.is_empty() {
        journal.append(&[record(&mut input)]).unwrap();
    }
    journal.write().unwrap();
    drop(journal);
    work(&store.0, &mut Input(&act));
}

/// A store of this input's own: a copy of one that is made once.
struct Scratch(Arc<Store>);

impl Scratch {
    fn new() -> Self {
        static TEMPLATE: std::sync::OnceLock<()> = std::sync::OnceLock::new();
        let template = scratch::directory().join("replay-template");
        TEMPLATE.get_or_init(|| drop(scratch::store("replay-template")));
        let thread = format!("replay-{:?}", std::thread::current().id());
        let path = scratch::directory().join(thread);
        for dir in ["", "journal", "packs", "objects", "logs"] {
            fs::create_dir_all(path.join(dir)).unwrap();
        }
        for low in 0..=0xff {
            fs::create_dir_all(path.join(format!("objects/{low:02x}"))).unwrap();
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        for file in ["catalog.redb", "format"] {
            fs::copy(template.join(file), path.join(file)).unwrap();
        }
        Self(Arc::new(Store::open(&path).unwrap()))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The empty directories of objects stay: the next input's.
        let path = self.0.path();
        for dir in ["journal", "packs"] {
            let _ = fs::remove_dir_all(path.join(dir));
        }
        for low in 0..=0xff_u8 {
            let dir = path.join(format!("objects/{low:02x}"));
            if fs::remove_dir(&dir).is_err() {
                let _ = fs::remove_dir_all(&dir);
            }
        }
    }
}

fn record(input: &mut Input<'_>) -> JournalRecord {
    match input.below(17) {
        0 => JournalRecord::Base { parent: VersionId(input.small()), opened_at: Timestamp { secs: 1, nanos: 2 } },
        1 | 2 => JournalRecord::Data {
            object: ObjectId(input.small()),
            // A hole of a gigabyte in memory is what it is: the fuzzer need not find that anew.
            offset: input.small() % (1 << 20),
            bytes: input.run().to_vec(),
        },
        3 => JournalRecord::Truncate { object: ObjectId(input.small()), len: input.small() },
        4 => JournalRecord::Sealed { message: None },
        5 => JournalRecord::Edit { key: input.run().to_vec(), value: Some(input.run().to_vec()) },
        16 => JournalRecord::InFile { object: ObjectId(input.small()) },
        7 => JournalRecord::Join {
            base: (input.below(2) == 0).then(|| (VersionId(input.small()), Timestamp { secs: 1, nanos: 2 })),
            edits: input.small(),
        },
        choice => {
            let key = nodes::key(input);
            let value = (choice != 6).then(|| codec::encode(&nodes::value(input, &key)));
            let key = codec::encode(&key);
            if choice == 8 { JournalRecord::Aside { key, value } } else { JournalRecord::Edit { key, value } }
        }
    }
}

fn work(store: &Arc<Store>, input: &mut Input<'_>) {
    let base = store.catalog().pointers().unwrap().base;
    let root = store.catalog().version(base).unwrap().unwrap().root.unwrap();
    let snapshot = Snapshot::new(Tree::stored(Nodes::new(Arc::clone(store)), root), Arc::clone(store));
    let (sender, _events) = crossbeam::channel::unbounded();
    let options = StagingOptions { flusher: false, ..StagingOptions::default() };
    let Ok(staging) = Staging::new(snapshot, base, sender, Arc::new(SystemClock), options) else { return };
    let mut sealed = true;
    for frozen in staging.take_recovered() {
        sealed = sealed && seal::seal(store, &frozen, None, SystemClock.now()).is_ok();
    }
    walk(&staging, NodeRef::ROOT, 0);
    act(&staging, input);
    walk(&staging, NodeRef::ROOT, 0);
    let _ = staging.sync_all();
    if sealed && let Ok(Some(frozen)) = staging.freeze(true) {
        let _ = seal::seal(store, &frozen, None, SystemClock.now());
    }
}

fn walk(staging: &Staging, dir: NodeRef, depth: u32) {
    let Ok(handle) = staging.open_dir(dir) else { return };
    // A directory that is its own ancestor has no end.
    if depth < 3 {
        for entry in staging.read_dir(handle, 0, 16, true).unwrap_or_default() {
            let Ok(attr) = staging.lookup(dir, &entry.name) else { continue };
            for name in staging.list_xattrs(&CALLER, attr.node).unwrap_or_default() {
                let _ = staging.get_xattr(attr.node, &name);
            }
            match attr.kind {
                FileKind::Directory => walk(staging, attr.node, depth + 1),
                FileKind::Symlink => drop(staging.read_link(attr.node)),
                FileKind::Regular => {
                    if let Ok(opened) = staging.open(&CALLER, attr.node, libc::O_RDONLY) {
                        let _ = staging.read(opened.handle, 0, 4096);
                        let _ = staging.read(opened.handle, attr.size.saturating_sub(10), 4096);
                        staging.release(opened.handle);
                    }
                }
                _ => {}
            }
        }
    }
    staging.release_dir(handle);
}

fn act(staging: &Staging, input: &mut Input<'_>) {
    let names = [b"a", b"b", b"c", b"d"];
    for _ in 0..6 {
        let [one, two] = [(); 2].map(|()| names[usize::from(input.below(4))]);
        let node = staging.lookup(NodeRef::ROOT, one).map(|attr| attr.node);
        match (input.below(8), node) {
            (0, _) => drop(staging.unlink(&CALLER, NodeRef::ROOT, one)),
            (1, _) => drop(staging.rename(&CALLER, NodeRef::ROOT, one, NodeRef::ROOT, two, RenameMode::Replace)),
            (2, _) => drop(staging.remove_dir(&CALLER, NodeRef::ROOT, one)),
            (3, Ok(node)) => drop(staging.link(&CALLER, node, NodeRef::ROOT, two)),
            (4, Ok(node)) => drop(staging.set_attr(&CALLER, node, None, &SetAttr { size: Some(input.small()), ..SetAttr::default() })),
            (5, Ok(node)) => drop(staging.set_xattr(&CALLER, node, b"user.x", b"v", XattrMode::Set)),
            (6, Ok(node)) => {
                if let Ok(opened) = staging.open(&CALLER, node, libc::O_RDWR) {
                    let _ = staging.write(&CALLER, opened.handle, u64::from(input.byte()) << 10, b"written", false);
                    staging.release(opened.handle);
                }
            }
            _ => drop(staging.make_dir(&CALLER, NodeRef::ROOT, two, 0o755, 0)),
        }
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    nodes::seeds()
}
