//! A disk that takes a file before its version is sealed.

use super::*;
use crate::control::protocol::ErrorKind;
use crate::ids::{Ino, ObjectId};
use crate::tree::key::Content;

/// Too long to be held in memory: it has a host file.
fn long(digit: &str) -> String {
    format!("{}{digit}", " ".repeat(200_000))
}

/// The object of a file as staging shows it.
fn object(daemon: &Daemon, name: &str) -> (Ino, ObjectId) {
    let snapshot = daemon.connections().staging.snapshot().unwrap();
    let ino = snapshot.resolve(name.as_bytes()).unwrap().unwrap();
    match snapshot.inode(ino).unwrap().unwrap().content {
        Content::Object(object) => (ino, object),
        ref other => panic!("{other:?}"),
    }
}

fn lose(daemon: &Daemon, name: &str) {
    daemon.connections().shared.store.objects().fail(object(daemon, name).1, libc::EIO);
}

fn lost(doc: &VersionDoc) -> (&[String], &str) {
    match &doc.reason {
        Some(Reason::Unreadable { paths, why }) => (paths, why),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_that_the_disk_took_makes_its_version_a_ghost_and_nothing_waits_for_it() {
    let daemon = Daemon::new(JSON);
    daemon.put("a.json", &long("0"));
    daemon.put("good.json", "0");
    daemon.commit();
    daemon.promoted(1);
    let staging = &daemon.connections().staging;
    daemon.put("a.json", &long("1"));
    daemon.put("good.json", "1");
    // Somebody still has it open, to read on.
    let node = staging.lookup(NodeRef::ROOT, b"a.json").unwrap().node;
    let reader = staging.open(&ROOT, node, libc::O_RDONLY).unwrap().handle;
    lose(&daemon, "a.json");
    let refused = match daemon.ask(Request::Commit { message: None }) {
        Reply::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused.kind, ErrorKind::Rejected);
    assert!(refused.message.starts_with("t2 was rejected: the disk failed before it was sealed: a.json: "), "{}", refused.message);
    let doc = daemon.show(2);
    assert_eq!(doc.state, VersionState::Ghost);
    let (paths, why) = lost(&doc);
    assert_eq!(paths, ["a.json"]);
    assert!(why.contains("Input/output error"), "{why}");
    assert!(daemon.status().warnings.iter().any(|line| line.contains("a.json") && line.contains("ghosts/t2")), "{:?}", daemon.status());
    // The writer is told, staging is what it was, and goes on.
    assert!(matches!(staging.read(reader, 0, 10), Err(crate::version::FsError::Stale)));
    assert_eq!(daemon.staging()["good.json"], "0");
    let visible = daemon.connections().shared.visible();
    let (ghost, good) = (&visible.ghosts[&VersionId(2)].snapshot, b"good.json");
    assert_eq!(ghost.read(ghost.resolve(good).unwrap().unwrap(), 0, 10).unwrap(), b"1", "what is good of it is in the ghost");
    daemon.put("good.json", "2");
    daemon.commit();
    assert_eq!(daemon.promoted(3).parent, Some(VersionId(1)));
    let refusal = match daemon.ask(Request::Restore { version: VersionName::Number(VersionId(2)) }) {
        Reply::Refused(refusal) => refusal.message,
        other => panic!("{other:?}"),
    };
    assert!(refusal.starts_with("t2 can't be restored: a.json was lost before it was sealed"), "{refusal}");
}

#[test]
fn what_was_written_above_a_lost_file_is_carried_over_and_what_shares_its_bytes_goes_down_with_it() {
    let daemon = Daemon::new(JSON);
    daemon.put("base.json", "0");
    daemon.commit();
    daemon.promoted(1);
    daemon.put("a.json", &long("1"));
    lose(&daemon, "a.json");
    let staging = Arc::clone(&daemon.connections().staging);
    std::thread::scope(|scope| {
        let commit = scope.spawn(|| daemon.ask(Request::Commit { message: None }));
        while staging.activity().dirty {
            std::thread::yield_now();
        }
        // The next version is open on top of the one that can't be sealed: a file of its own, and one that has the lost bytes.
        daemon.put("b.json", "2");
        daemon.put("copy.json", "");
        let open = |name: &[u8], flags| staging.open(&ROOT, staging.lookup(NodeRef::ROOT, name).unwrap().node, flags).unwrap().handle;
        let (from, to) = (open(b"a.json", libc::O_RDONLY), open(b"copy.json", libc::O_WRONLY));
        assert!(staging.copy_range(&ROOT, from, 0, to, 0, 1 << 20).unwrap() > 200_000);
        assert_eq!(object(&daemon, "a.json").1, object(&daemon, "copy.json").1);
        staging.release(from);
        staging.release(to);
        assert!(matches!(commit.join().unwrap(), Reply::Refused(_)));
    });
    assert_eq!(daemon.show(2).state, VersionState::Ghost);
    daemon.drained();
    assert_eq!(daemon.staging().get("b.json").map(String::as_str), Some("2"));
    assert!(!daemon.staging().contains_key("a.json"));
    assert!(matches!(daemon.ask(Request::Commit { message: None }), Reply::Refused(refusal) if refusal.kind == ErrorKind::Rejected));
    let doc = daemon.show(3);
    assert_eq!((doc.state, lost(&doc).0), (VersionState::Ghost, &["copy.json".to_owned()][..]));
    assert_eq!(daemon.staging(), files(&[("base.json", "0")]));
}

#[test]
fn a_version_that_was_being_sealed_when_the_daemon_ended_does_not_keep_the_store_from_being_mounted() {
    let daemon = Daemon::new(JSON);
    daemon.put("a.json", &long("0"));
    daemon.commit();
    daemon.promoted(1);
    let (daemon, mut dispatcher) = daemon.drive();
    daemon.put("a.json", &long("1"));
    daemon.put("b.json", "1");
    dispatcher.drain_staging();
    dispatcher.work();
    let staging = &daemon.connections().staging;
    let frozen = staging.freeze(true).unwrap().unwrap();
    daemon.put("c.json", "1");
    staging.sync_all().unwrap();
    let (_, lost_object) = object(&daemon, "a.json");
    take_apart(dispatcher);
    drop(frozen);
    let dir = daemon.dismantle();
    let daemon = Daemon::start_on(dir, JSON, |store| {
        let _file = store.objects().open_file(lost_object).unwrap().unwrap();
        store.objects().fail(lost_object, libc::EIO);
    });
    let doc = daemon.show(2);
    assert_eq!((doc.state, lost(&doc).0), (VersionState::Ghost, &["a.json".to_owned()][..]));
    assert_eq!(daemon.staging()["a.json"], long("0")[..1000]);
    assert_eq!(daemon.staging()["c.json"], "1");
    daemon.commit();
    assert_eq!(daemon.promoted(3).parent, Some(VersionId(1)));
}
