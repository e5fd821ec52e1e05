//! Attempts with real commands.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::cancel::Cancel;
use super::worker::{CommandJob, attempt};
use super::{Job, Pool, Work};
use crate::clock::SystemClock;
use crate::config::{CommandLimits, User};
use crate::store::record::Outcome;

fn shell(dir: &Path, script: &str) -> CommandJob {
    CommandJob {
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        directory: dir.to_owned(),
        environment: vec![("SHADOWFS_VERSION".to_owned(), "t7".into())],
        user: None,
        log: dir.join("log").into(),
        timeout: Duration::from_secs(60),
        input: Vec::new(),
        limits: CommandLimits::default(),
    }
}

fn outcome(job: &CommandJob) -> Outcome {
    let (_handle, cancel) = Cancel::new();
    attempt(job, &cancel).0
}

fn is_running(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{}/stat", pid.trim())).is_ok_and(|stat| !stat.contains(") Z"))
}

#[test]
fn exit_codes_and_signals_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    for (script, expected) in
        [("exit 0", Outcome::Passed), ("exit 3", Outcome::Failed { code: Some(3) }), ("kill -USR1 $$", Outcome::Killed { signal: 10 })]
    {
        assert_eq!(outcome(&shell(dir.path(), script)), expected, "{script}");
    }
}

#[test]
fn it_runs_in_its_directory_with_its_environment_no_input_and_no_descriptors_of_ours() {
    let dir = tempfile::tempdir().unwrap();
    let ours = fs::File::open(dir.path()).unwrap();
    let number = nix::fcntl::fcntl(&ours, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(700)).unwrap().to_string();
    let job = shell(
        dir.path(),
        "pwd; echo $SHADOWFS_VERSION; cat; ls /proc/self/fd | tr '\\n' ' '; echo; ps -o pgid= -p $$; echo $$; echo e >&2",
    );
    assert_eq!(outcome(&job), Outcome::Passed);
    let log = fs::read_to_string(job.log.path()).unwrap();
    let lines: Vec<_> = log.lines().map(str::trim).collect();
    assert_eq!(lines[..2], [fs::canonicalize(dir.path()).unwrap().to_str().unwrap(), "t7"]);
    // What the tests' own parent left open is not ours to close.
    assert!(!lines[2].split(' ').any(|fd| fd == number), "{}", lines[2]);
    assert_eq!(lines[3], lines[4], "a process group of its own");
    assert_eq!(lines[5], "e");
}

#[test]
fn it_can_be_ended_by_the_signals_that_the_daemon_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let job = CommandJob { command: ["grep", "SigBlk", "/proc/self/status"].map(str::to_owned).to_vec(), ..shell(dir.path(), "") };
    let blocked: nix::sys::signal::SigSet = [nix::sys::signal::Signal::SIGTERM].into_iter().collect();
    let ended = std::thread::scope(|scope| {
        let run = || {
            blocked.thread_block().unwrap();
            outcome(&job)
        };
        scope.spawn(run).join().unwrap()
    });
    assert_eq!(ended, Outcome::Passed);
    assert_eq!(fs::read_to_string(job.log.path()).unwrap().trim(), "SigBlk:\t0000000000000000");
}

#[test]
fn a_command_that_can_not_start_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let start = |command: &str, directory: &Path| {
        let job = CommandJob { command: vec![command.to_owned()], directory: directory.to_owned(), ..shell(dir.path(), "") };
        match outcome(&job) {
            Outcome::CouldNotStart { why } => {
                assert!(fs::read_to_string(job.log.path()).unwrap().contains(&why));
                why
            }
            other => panic!("{other:?}"),
        }
    };
    assert!(start("/no/such/program", dir.path()).contains("/no/such/program can't be started: No such file"));
    assert!(start("true", Path::new("/no/such/directory")).contains("No such file"));
    assert!(start("/etc/passwd", dir.path()).contains("Permission denied"));
    let job = CommandJob { log: dir.path().join("no/log").into(), ..shell(dir.path(), "true") };
    assert!(matches!(outcome(&job), Outcome::CouldNotStart { .. }));
}

#[test]
fn the_timeout_kills_the_whole_group_even_children_that_ignore_signals() {
    let dir = tempfile::tempdir().unwrap();
    let script = "trap '' TERM INT HUP; (trap '' TERM INT HUP; sleep 1000) & echo $! >child; sleep 1000";
    let job = CommandJob { timeout: Duration::from_millis(300), ..shell(dir.path(), script) };
    assert_eq!(outcome(&job), Outcome::TimedOut);
    let child = fs::read_to_string(dir.path().join("child")).unwrap();
    for _ in 0..200 {
        if !is_running(&child) {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("{child} still runs");
}

#[test]
fn children_left_behind_neither_delay_it_nor_stay() {
    let dir = tempfile::tempdir().unwrap();
    let job = shell(dir.path(), "sleep 1000 & echo $! >child; echo done");
    assert_eq!(outcome(&job), Outcome::Passed);
    assert_eq!(fs::read_to_string(job.log.path()).unwrap(), "done\n");
    let child = fs::read_to_string(dir.path().join("child")).unwrap();
    for _ in 0..200 {
        if !is_running(&child) {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("{child} still runs");
}

#[test]
fn one_that_fled_from_the_group_does_not_delay_it() {
    let dir = tempfile::tempdir().unwrap();
    let job = shell(dir.path(), "setsid sleep 1000 & echo $! >child; sleep 0.2; echo done");
    assert_eq!(outcome(&job), Outcome::Passed);
    assert_eq!(fs::read_to_string(job.log.path()).unwrap(), "done\n");
    let child: i32 = fs::read_to_string(dir.path().join("child")).unwrap().trim().parse().unwrap();
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(child), nix::sys::signal::Signal::SIGKILL);
}

#[test]
fn it_is_stopped_when_the_verdict_falls_without_it() {
    let dir = tempfile::tempdir().unwrap();
    let job = shell(dir.path(), "touch started; sleep 1000");
    let (handle, cancel) = Cancel::new();
    let started = dir.path().join("started");
    let stopper = std::thread::spawn(move || {
        while !started.exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(handle);
    });
    assert_eq!(attempt(&job, &cancel).0, Outcome::Cancelled);
    stopper.join().unwrap();
    assert_eq!(attempt(&job, &cancel).0, Outcome::Cancelled, "not even started");
}

#[test]
fn a_flood_of_output_is_bounded_and_metrics_are_found_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let job = shell(dir.path(), "echo shadowfs-metric rows 7; head -c 50000000 /dev/zero; echo; echo shadowfs-metric rows 8");
    let (_handle, cancel) = Cancel::new();
    assert_eq!(attempt(&job, &cancel), (Outcome::Passed, vec![("rows".to_owned(), 8.0)]));
    assert!(fs::metadata(job.log.path()).unwrap().len() < CommandLimits::default().output + 100);
}

#[test]
fn as_another_user_it_has_that_users_rights_alone() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    let user = User { name: nobody.name, uid: nobody.uid.as_raw(), gid: nobody.gid.as_raw() };
    let job = CommandJob { user: Some(user.clone()), directory: "/".into(), ..shell(dir.path(), "id -u; id -G; echo $USER") };
    assert_eq!(outcome(&job), Outcome::Passed);
    assert_eq!(fs::read_to_string(job.log.path()).unwrap(), format!("{}\n{}\nnobody\n", user.uid, user.gid));
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let job = CommandJob { user: Some(user), ..shell(dir.path(), "ls -ld .; id; true") };
    match outcome(&job) {
        Outcome::CouldNotStart { why } => assert!(why.contains("--allow-other"), "{why}"),
        other => panic!("a directory that only root may enter: {other:?}"),
    }
}

#[test]
fn the_pool_tells_how_each_job_ended() {
    let dir = tempfile::tempdir().unwrap();
    let (tell, told) = crossbeam::channel::unbounded();
    let mut pool = Pool::new(tell, Arc::new(SystemClock));
    pool.grow(2).unwrap();
    let mut handles = Vec::new();
    for code in 0..6 {
        let (handle, cancel) = Cancel::new();
        handles.push(handle);
        let job = CommandJob { log: dir.path().join(code.to_string()).into(), ..shell(dir.path(), &format!("exit {code}")) };
        pool.submit(Job { key: code, work: Work::Command(Box::new(job)), cancel });
    }
    let mut ended: Vec<_> = (0..6).map(|_| told.recv().unwrap()).map(|(key, attempted)| (key, attempted.outcome)).collect();
    ended.sort_by_key(|(key, _)| *key);
    for (code, outcome) in ended {
        let expected = if code == 0 { Outcome::Passed } else { Outcome::Failed { code: Some(code) } };
        assert_eq!(outcome, expected);
    }
    pool.stop();
}
