//! One situation each.

use super::*;
use crate::control::protocol::{ErrorKind, Refusal};

fn number(version: u64) -> VersionName {
    VersionName::Number(VersionId(version))
}

fn refusal(reply: Reply) -> Refusal {
    match reply {
        Reply::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_good_version_goes_to_production() {
    let daemon = Daemon::new(JSON);
    daemon.put("a.json", "1");
    assert_eq!(daemon.status().open.unwrap().version, VersionId(1));
    assert_eq!(daemon.commit(), VersionId(1));
    assert_eq!(daemon.promoted(1).state, VersionState::Promoted);
    assert_eq!(daemon.production(), files(&[("a.json", "1")]));
    assert_eq!(state_of(&daemon, 0), VersionState::Superseded);
    assert_eq!(daemon.ask(Request::Commit { message: None }), Reply::Nothing);
}

#[test]
fn a_bad_version_is_rejected_and_staging_goes_back() {
    let daemon = Daemon::new(JSON);
    daemon.put("a.json", "1");
    daemon.commit();
    daemon.verdict(1);
    daemon.put("a.json", "{");
    daemon.commit();
    let doc = daemon.verdict(2);
    assert_eq!(doc.state, VersionState::Ghost);
    assert!(matches!(doc.reason, Some(Reason::ChecksFailed { ref checks, .. }) if checks == &["v"]));
    assert_eq!(daemon.staging(), files(&[("a.json", "1")]));
    daemon.put("b", "x");
    daemon.commit();
    assert_eq!(daemon.verdict(3).parent, Some(VersionId(1)));
}

#[test]
fn what_stands_on_a_rejected_version_is_carried_over_or_becomes_a_ghost() {
    let daemon = Daemon::new(&waiting());
    for name in ["a.json", "b.json", "c.json", "d.json"] {
        daemon.put(name, "0");
    }
    daemon.commit();
    for (name, text) in [("a.json", "{"), ("b.json", "1"), ("a.json", "2"), ("c.json", "3")] {
        daemon.put(name, text);
        daemon.commit();
    }
    daemon.put("d.json", "4");
    daemon.configure(JSON);
    assert_eq!(daemon.verdict(2).state, VersionState::Ghost);
    let (carried, last) = (rebased_into(&daemon.show(3)), rebased_into(&daemon.show(5)));
    assert_eq!(daemon.show(4).reason, Some(Reason::Conflict { with: VersionId(2), paths: vec!["a.json".to_owned()] }));
    assert_eq!(daemon.verdict(3).version, VersionId(carried), "a wait follows the changes");
    assert_eq!(daemon.show(last).parent, Some(VersionId(carried)));
    assert_eq!(daemon.show(6).parent, Some(VersionId(last)), "the open version stands on the new one");
    let expected = files(&[("a.json", "0"), ("b.json", "1"), ("c.json", "3"), ("d.json", "4")]);
    assert_eq!(daemon.staging(), expected);
    daemon.commit();
    daemon.promoted(6);
    assert_eq!(daemon.production(), expected);
}

/// The views know a file by its number and the version of its last change: that must be one content in all versions and ghosts.
fn assert_files_have_one_content(daemon: &Daemon) {
    let visible = daemon.connections().shared.visible();
    let mut known = BTreeMap::new();
    for (version, shown) in visible.versions.iter().chain(&visible.ghosts) {
        for (name, ino, _) in shown.snapshot.entries(crate::ids::Ino::ROOT, 0, 1000).unwrap() {
            let record = shown.snapshot.inode(ino).unwrap().unwrap();
            let found = (Arc::clone(&record), shown.snapshot.xattrs(ino).unwrap());
            let (first, same) = known.entry((record.changed_in, ino)).or_insert_with(|| (*version, found.clone()));
            assert_eq!(*same, found, "{} in {version} and in {first}", String::from_utf8_lossy(&name));
        }
    }
}

#[test]
fn a_name_carried_over_from_rejected_content_never_shows_it() {
    let daemon = Daemon::new(&waiting());
    daemon.put("a.json", "0");
    daemon.commit();
    daemon.put("a.json", "{");
    daemon.commit();
    let staging = &daemon.connections().staging;
    let node = staging.lookup(NodeRef::ROOT, b"a.json").unwrap().node;
    staging.link(&ROOT, node, NodeRef::ROOT, b"b.json").unwrap();
    daemon.commit();
    daemon.configure(JSON);
    assert_eq!(daemon.verdict(2).state, VersionState::Ghost);
    let carried = rebased_into(&daemon.show(3));
    daemon.promoted(carried);
    assert_eq!(daemon.production(), files(&[("a.json", "0"), ("b.json", "0")]));
    assert_files_have_one_content(&daemon);
}

#[test]
fn an_open_version_that_overlaps_becomes_a_ghost() {
    let daemon = Daemon::new(&waiting());
    daemon.put("a.json", "0");
    daemon.commit();
    daemon.put("a.json", "{");
    daemon.commit();
    daemon.put("a.json", "2");
    daemon.configure(JSON);
    let doc = daemon.verdict(3);
    assert_eq!(doc.reason, Some(Reason::Conflict { with: VersionId(2), paths: vec!["a.json".to_owned()] }));
    assert_eq!(daemon.staging(), files(&[("a.json", "0")]));
    daemon.put("a.json", "5");
    daemon.commit();
    daemon.promoted(4);
    assert_eq!(daemon.production(), files(&[("a.json", "5")]));
}

#[test]
fn production_goes_back_by_hand_and_forward_again() {
    let daemon = Daemon::new(JSON);
    for text in ["1", "2"] {
        daemon.put("a.json", text);
        let version = daemon.commit();
        daemon.promoted(version.0);
    }
    assert_eq!(daemon.version(Request::Rollback { version: None }).version, VersionId(1));
    assert_eq!((daemon.production(), daemon.staging()), (files(&[("a.json", "1")]), files(&[("a.json", "1")])));
    assert!(daemon.show(2).held);
    assert_eq!(daemon.version(Request::Promote { version: Some(number(2)) }).version, VersionId(2));
    assert_eq!((daemon.production(), daemon.staging()), (files(&[("a.json", "2")]), files(&[("a.json", "2")])));
    assert!(!daemon.show(2).held);
    let refused = refusal(daemon.ask(Request::Promote { version: Some(number(1)) }));
    assert_eq!(refused.kind, ErrorKind::Conflict);
    assert_eq!(daemon.ask(Request::Promote { version: None }), Reply::Nothing);
}

#[test]
fn between_begin_and_commit_nothing_seals_not_even_after_a_crash() {
    let eager = JSON.replace("1h", "0s");
    let daemon = Daemon::new(&eager);
    assert_eq!(daemon.ask(Request::Begin { message: Some("job".to_owned()) }), Reply::Nothing);
    daemon.put("a.json", "1");
    assert_eq!(refusal(daemon.ask(Request::Begin { message: None })).kind, ErrorKind::Conflict);
    let daemon = daemon.crash(&eager);
    let open = daemon.status().open.unwrap();
    assert_eq!((open.version, open.held_open, open.message.as_deref()), (VersionId(1), true, Some("job")));
    assert_eq!(daemon.staging(), files(&[("a.json", "1")]));
    let sealed = daemon.version(Request::Commit { message: None });
    assert_eq!((sealed.version, sealed.message.as_deref()), (VersionId(1), Some("job")));
    daemon.put("a.json", "2");
    daemon.promoted(2);
}

#[test]
fn what_is_discarded_leaves_nothing() {
    let daemon = Daemon::new(JSON);
    daemon.put("a.json", "1");
    daemon.commit();
    daemon.put("a.json", "2");
    daemon.put("b.json", "2");
    let doc = daemon.version(Request::Abort);
    assert_eq!((doc.version, doc.state, doc.reason), (VersionId(2), VersionState::Aborted, Some(Reason::Discarded)));
    assert_eq!(daemon.staging(), files(&[("a.json", "1")]));
    assert_eq!(daemon.ask(Request::Abort), Reply::Nothing);
}

#[test]
fn a_version_in_which_nothing_changed_is_aborted_and_the_next_stands_on_its_parent() {
    let daemon = Daemon::new(JSON);
    daemon.put("a.json", "1");
    daemon.connections().staging.unlink(&ROOT, NodeRef::ROOT, b"a.json").unwrap();
    assert_eq!(daemon.ask(Request::Commit { message: None }), Reply::Nothing);
    assert_eq!(daemon.show(1).reason, Some(Reason::Unchanged));
    daemon.put("a.json", "2");
    daemon.commit();
    assert_eq!(daemon.promoted(2).parent, Some(VersionId(0)));
}

#[test]
fn an_open_version_that_a_crash_left_nothing_of_does_not_stay_open() {
    let daemon = Daemon::new(JSON);
    daemon.put("a.json", "1");
    assert_eq!(daemon.status().open.unwrap().version, VersionId(1));
    let daemon = daemon.crash_before_the_journal(JSON);
    assert_eq!(daemon.status().open, None);
    let doc = daemon.verdict(1);
    assert_eq!((doc.state, doc.reason), (VersionState::Aborted, Some(Reason::Lost)));
    daemon.put("a.json", "2");
    daemon.commit();
    assert_eq!(daemon.promoted(2).parent, Some(VersionId(0)));
}

#[test]
fn checks_that_were_interrupted_run_again_after_a_crash() {
    let daemon = Daemon::new(&waiting());
    daemon.put("a.json", "1");
    daemon.commit();
    daemon.put("b.json", "{");
    daemon.commit();
    let daemon = daemon.crash(JSON);
    assert_eq!(daemon.promoted(1).state, VersionState::Promoted);
    assert_eq!(daemon.verdict(2).state, VersionState::Ghost);
    assert_eq!(daemon.staging(), files(&[("a.json", "1")]));
}

#[test]
fn a_check_that_can_not_start_is_told_and_the_version_waits() {
    let daemon = Daemon::new(&waiting());
    daemon.put("a.json", "1");
    daemon.commit();
    let warned = || daemon.status().warnings.iter().any(|line| line.starts_with("t1 waits: check v can't be started"));
    while !warned() {
        std::thread::yield_now();
    }
    assert_eq!(state_of(&daemon, 1), VersionState::Checking);
    daemon.configure(JSON);
    daemon.promoted(1);
    assert!(!warned());
}

#[test]
fn a_refused_configuration_is_told_and_the_old_one_stays() {
    let daemon = Daemon::new(JSON);
    daemon.configure("[staging]\nsetle = \"1s\"\n");
    while daemon.status().warnings.is_empty() {
        std::thread::yield_now();
    }
    let warnings = daemon.status().warnings;
    assert!(warnings[0].contains("shadowfs.toml:2: unknown key \"setle\""), "{warnings:?}");
    let Reply::Text(in_force) = daemon.ask(Request::ConfigShow) else { panic!("no text") };
    assert_eq!(in_force, Config::parse(JSON, std::path::Path::new("")).unwrap().to_toml());
    daemon.configure(JSON);
    while !daemon.status().warnings.is_empty() {
        std::thread::yield_now();
    }
}

#[test]
fn by_hand_means_by_hand() {
    let daemon = Daemon::new(&JSON.replace("[promotion]", "[promotion]\nmode = \"manual\""));
    for text in ["1", "2"] {
        daemon.put("a.json", text);
        let version = daemon.commit();
        assert_eq!(daemon.verdict(version.0).state, VersionState::Valid);
    }
    assert_eq!((daemon.status().production, daemon.status().flagged), (VersionId(0), vec![VersionId(1), VersionId(2)]));
    assert_eq!(daemon.version(Request::Promote { version: None }).version, VersionId(2));
    assert_eq!(state_of(&daemon, 1), VersionState::Superseded);
}

#[test]
fn what_does_not_exist_is_refused_by_name() {
    let daemon = Daemon::new(JSON);
    let refused = refusal(daemon.ask(Request::Show { version: number(9) }));
    assert_eq!(refused.to_string(), "there is no version t9; the newest is t0");
    let refused = refusal(daemon.ask(Request::Check { version: number(0), check: Some("w".to_owned()) }));
    assert_eq!((refused.kind, refused.to_string().as_str()), (ErrorKind::Usage, "there is no check \"w\"; the configuration has v"));
    assert_eq!(refusal(daemon.ask(Request::Rollback { version: None })).kind, ErrorKind::Conflict);
}

#[test]
fn checks_run_again_by_hand_and_only_tell() {
    let daemon = Daemon::new(JSON);
    daemon.put("a.json", "{");
    daemon.commit();
    daemon.verdict(1);
    let refused = refusal(daemon.ask(Request::Check { version: number(1), check: None }));
    assert_eq!(refused.kind, ErrorKind::Rejected);
    assert_eq!(state_of(&daemon, 1), VersionState::Ghost);
    daemon.put("a.json", "1");
    daemon.commit();
    daemon.promoted(2);
    assert!(daemon.version(Request::Check { version: number(2), check: Some("v".to_owned()) }).passed);
}

#[test]
fn a_rollback_is_not_undone_by_an_open_version_that_can_not_follow() {
    let daemon = Daemon::new(JSON);
    for (text, version) in [("1", 1), ("2", 2)] {
        daemon.put("a.json", text);
        daemon.commit();
        daemon.promoted(version);
    }
    daemon.put("a.json", "3");
    daemon.version(Request::Rollback { version: Some(number(1)) });
    assert_eq!(daemon.verdict(3).reason, Some(Reason::Conflict { with: VersionId(2), paths: vec!["a.json".to_owned()] }));
    assert_eq!(daemon.status().latest, VersionId(1));
    assert_eq!(daemon.staging(), files(&[("a.json", "1")]));
    daemon.put("b.json", "4");
    daemon.commit();
    assert_eq!(daemon.promoted(4).parent, Some(VersionId(1)));
}

#[test]
fn nor_is_it_if_a_crash_comes_before_that_version_is_sealed() {
    let daemon = Daemon::new(JSON);
    for (text, version) in [("1", 1), ("2", 2)] {
        daemon.put("a.json", text);
        daemon.commit();
        daemon.promoted(version);
    }
    let (daemon, mut dispatcher) = daemon.drive();
    daemon.put("a.json", "3");
    dispatcher.drain_staging();
    dispatcher.work();
    let decision = dispatcher.history.rolled_back(VersionId(1), SystemClock.now()).unwrap();
    dispatcher.write(decision).unwrap();
    let content = |version| dispatcher.shared.snapshot(dispatcher.history.get(VersionId(version)).unwrap()).unwrap();
    let staging = &daemon.connections().staging;
    let rebased = staging.rebase(&content(2), &content(1), VersionId(1)).unwrap();
    staging.sync_all().unwrap();
    drop(rebased);
    take_apart(dispatcher);
    let daemon = Daemon::start(daemon.dismantle(), JSON);
    assert_eq!(daemon.show(3).reason, Some(Reason::Conflict { with: VersionId(2), paths: vec!["a.json".to_owned()] }));
    assert_eq!(daemon.status().latest, VersionId(1));
    assert_eq!(daemon.staging(), files(&[("a.json", "1")]));
}
