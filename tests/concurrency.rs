//! Many processes in the same directories at once, on both sides of seals and rollbacks; and nothing that waits for a check.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::IntoRawFd;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use common::{Sandbox, eventually};

const WORKERS: usize = 4;
const DIRS: usize = 3;
const ROUNDS: usize = 24;

/// What a file of this number holds: its name on the first line, then a pattern.
fn content(worker: usize, number: usize) -> Vec<u8> {
    let mut bytes = format!("{worker} {number}\n").into_bytes();
    // Small ones, and some that are no longer packed.
    let len = 20 + number * 7919 % 3000 * if number.is_multiple_of(5) { 100 } else { 1 };
    bytes.extend((0..len).map(|at| b'a' + ((at + number) % 26) as u8));
    bytes
}

/// Bytes of a file as some worker wrote it, or of as much of it as was there when a version was sealed around its writer.
#[track_caller]
fn check_content(bytes: &[u8], what: &str) {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
        assert!(bytes.len() < 20, "{what}: {:?}", bytes.escape_ascii().to_string());
        return;
    };
    let line = std::str::from_utf8(&bytes[..end]).unwrap();
    let (worker, number) = line.split_once(' ').unwrap_or_else(|| panic!("{what}: {line:?}"));
    let whole = content(worker.parse().unwrap(), number.parse().unwrap());
    assert!(whole.starts_with(bytes), "{what}: {} bytes are not the first of {}", bytes.len(), whole.len());
}

/// Fails unless it was done, or what a rollback took away was missing.
#[track_caller]
fn may_be_gone<T>(what: &str, done: io::Result<T>) -> Option<T> {
    match done {
        Ok(done) => Some(done),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EEXIST | libc::ESTALE | libc::ENOTEMPTY)) => None,
        Err(error) => panic!("{what}: {error}"),
    }
}

fn write_and_rename(dir: &Path, worker: usize, number: usize) {
    let temporary = dir.join(format!("temporary-{worker}-{number}"));
    let Some(mut file) = may_be_gone("create", File::create(&temporary)) else { return };
    let written = may_be_gone("write", file.write_all(&content(worker, number)));
    if number.is_multiple_of(7) {
        may_be_gone("fsync", file.sync_all());
    }
    // The close tells whether the file went down with a version.
    let closed = may_be_gone("close", nix::unistd::close(file.into_raw_fd()).map_err(io::Error::from));
    if written.is_some() && closed.is_some() {
        may_be_gone("rename over", fs::rename(&temporary, dir.join(format!("file-{worker}-{}", number % 6))));
    } else {
        may_be_gone("unlink", fs::remove_file(&temporary));
    }
}

fn work(staging: &Path, worker: usize, stop: &Path) {
    let dir = |at: usize| staging.join(format!("dir-{}", at % DIRS));
    let token = |at: usize| dir(at).join(format!("token-{worker}"));
    let mut number = 0;
    while !stop.exists() {
        number += 1;
        // It is in one directory; a rollback may put it into another.
        for at in 0..DIRS {
            may_be_gone("rename the token", fs::rename(token(at), token(at + number)));
        }
        write_and_rename(&dir(number), worker, number);
        let (file, linked) = (dir(number).join(format!("file-{worker}-{}", number % 6)), dir(number + 1).join(format!("link-{worker}")));
        may_be_gone("link", fs::hard_link(&file, &linked));
        if number.is_multiple_of(3) {
            may_be_gone("unlink", fs::remove_file(&linked));
            may_be_gone("unlink", fs::remove_file(dir(number / 3).join(format!("file-{worker}-{}", number / 3 % 6))));
        }
        let sub = dir(number).join(format!("sub-{worker}"));
        may_be_gone("mkdir", fs::create_dir(&sub));
        may_be_gone("rmdir", fs::remove_dir(&sub));
        for entry in fs::read_dir(dir(number)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file()
                && let Some(bytes) = may_be_gone("read", fs::read(&path))
            {
                check_content(&bytes, path.to_str().unwrap());
            }
        }
    }
    assert!(number > 1, "a worker that did nothing");
}

/// A process of the test below.
#[test]
#[ignore = "started by processes_meet_in_directories_that_are_sealed_and_rolled_back"]
fn worker() {
    let value = |name: &str| std::env::var(name).unwrap();
    work(Path::new(&value("WORKER_STAGING")), value("WORKER").parse().unwrap(), Path::new(&value("WORKER_STOP")));
}

struct Workers(Vec<Child>);

impl Drop for Workers {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What must hold of every state that was sealed: each token in one place, every file as written.
#[track_caller]
fn check_version(root: &Path) {
    let mut tokens: Vec<String> = Vec::new();
    for at in 0..DIRS {
        for entry in fs::read_dir(root.join(format!("dir-{at}"))).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if name.starts_with("token-") {
                tokens.push(name);
            } else if entry.file_type().unwrap().is_file() {
                check_content(&fs::read(entry.path()).unwrap(), entry.path().to_str().unwrap());
            }
        }
    }
    tokens.sort();
    let expected: Vec<String> = (0..WORKERS).map(|worker| format!("token-{worker}")).collect();
    assert_eq!(tokens, expected, "{}", root.display());
}

fn versions(dir: PathBuf) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries.filter(|entry| entry.file_type().unwrap().is_dir()).map(|entry| entry.path()).collect()
}

#[test]
fn processes_meet_in_directories_that_are_sealed_and_rolled_back() {
    let sandbox = Sandbox::new();
    let check = "[checks]\nrollback_threshold = 0\nretries = 0\n[[check]]\nname = \"bad\"\nrun = [\"sh\", \"-c\", \"! test -e bad\"]\n";
    sandbox.init(&format!("[staging]\nsettle = \"30ms\"\n[promotion]\nwindow = \"20ms\"\n{check}")).mount();
    sandbox.on(["begin"]).expect(0);
    for at in 0..DIRS {
        fs::create_dir(sandbox.staging().join(format!("dir-{at}"))).unwrap();
    }
    for worker in 0..WORKERS {
        fs::write(sandbox.staging().join(format!("dir-0/token-{worker}")), "").unwrap();
    }
    sandbox.on(["commit", "--wait"]).expect(0);
    let stop = sandbox.path("stop");
    let start = |worker: usize| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "worker", "--nocapture"]).env("WORKER", worker.to_string());
        command.env("WORKER_STAGING", sandbox.staging()).env("WORKER_STOP", &stop).spawn().unwrap()
    };
    let mut workers = Workers((0..WORKERS).map(start).collect());
    for round in 0..ROUNDS {
        if round % 3 == 1 {
            fs::write(sandbox.staging().join("bad"), "").unwrap();
        }
        let wait: &[&str] = if round % 2 == 0 { &["commit", "--wait"] } else { &["commit"] };
        let ran = sandbox.on(wait);
        assert!(matches!(ran.code, 0 | 1 | 3 | 4), "{}: {}", ran.code, ran.stderr);
        std::thread::sleep(Duration::from_millis(50));
    }
    fs::write(&stop, "").unwrap();
    for child in &mut workers.0 {
        assert!(child.wait().unwrap().success(), "a worker failed");
    }
    eventually("all is judged", || {
        let status = sandbox.status();
        status["open"].is_null() && status["checking"].as_array().unwrap().is_empty() && status["running"].as_array().unwrap().is_empty()
    });
    let (valid, ghosts) = (versions(sandbox.mnt().join("versions")), versions(sandbox.mnt().join("ghosts")));
    assert!(valid.len() > 3 && ghosts.len() > 3, "{} versions, {} ghosts", valid.len(), ghosts.len());
    for version in valid.iter().skip_while(|path| path.ends_with("t0")).chain(&ghosts) {
        check_version(version);
    }
    check_version(&sandbox.staging());
    sandbox.unmount();
}

/// Every kind of operation, in staging and in the views.
fn all_operations(mnt: &Path) {
    let at = |name: &str| mnt.join("staging/work").join(name);
    fs::create_dir(at("")).unwrap();
    fs::write(at("file"), vec![7; 300_000]).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(at("file")).unwrap();
    file.write_all_at(b"more", 1000).unwrap();
    file.sync_all().unwrap();
    file.set_len(200_000).unwrap();
    nix::fcntl::fallocate(&file, nix::fcntl::FallocateFlags::empty(), 0, 250_000).unwrap();
    nix::fcntl::copy_file_range(&file, None, File::create(at("copied")).unwrap(), None, 10_000).unwrap();
    fs::set_permissions(at("file"), fs::Permissions::from_mode(0o640)).unwrap();
    rustix::fs::setxattr(at("file"), "user.note", b"value", rustix::fs::XattrFlags::empty()).unwrap();
    fs::hard_link(at("file"), at("hard")).unwrap();
    symlink("file", at("soft")).unwrap();
    fs::create_dir(at("dir")).unwrap();
    fs::rename(at("hard"), at("dir/moved")).unwrap();
    assert_eq!(fs::read_dir(at("")).unwrap().count(), 4);
    fs::remove_file(at("dir/moved")).unwrap();
    fs::remove_dir(at("dir")).unwrap();
    // The file that is being checked is written, replaced and removed as well.
    fs::write(mnt.join("staging/judged"), "again").unwrap();
    fs::remove_file(mnt.join("staging/judged")).unwrap();
    File::open(at("")).unwrap().sync_all().unwrap();
    nix::sys::statvfs::statvfs(&mnt.join("staging")).unwrap();
    for view in ["versions/t1/judged", "versions/latest/judged"] {
        assert_eq!(fs::read_to_string(mnt.join(view)).unwrap(), "first");
    }
    assert_eq!(fs::read_dir(mnt.join("production")).unwrap().count(), 0);
    fs::read_to_string(mnt.join("lineage/log.jsonl")).unwrap();
}

#[test]
fn no_operation_waits_for_a_check() {
    for bad in [false, true] {
        let sandbox = Sandbox::new();
        let gate = sandbox.path("gate");
        fs::write(&gate, "").unwrap();
        // The check of t1 ends when we say so.
        let script = format!("while test -e {}; do sleep 0.02; done; ! test -e bad", gate.display());
        let check =
            format!("[checks]\nrollback_threshold = 0\nretries = 0\n[[check]]\nname = \"slow\"\nrun = [\"sh\", \"-c\", \"{script}\"]\n");
        sandbox.init(&format!("[staging]\nsettle = \"1h\"\nmax_open = \"10h\"\n[promotion]\nwindow = \"20ms\"\n{check}")).mount();
        fs::write(sandbox.staging().join("judged"), "first").unwrap();
        if bad {
            fs::write(sandbox.staging().join("bad"), "").unwrap();
        }
        sandbox.on(["commit"]).expect(0);
        let state = || sandbox.on(["show", "t1", "--json"]).expect(0).json()["state"].as_str().unwrap().to_owned();
        eventually("the check runs", || !sandbox.status()["running"].as_array().unwrap().is_empty());
        let mnt = sandbox.mnt();
        let (done, waits) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            all_operations(&mnt);
            let _ = done.send(());
        });
        // The limit only ends a test that has failed: the check would run for as long as we wait.
        waits.recv_timeout(Duration::from_secs(60)).expect("an operation failed, or waits for the check");
        assert_eq!(state(), "checking");
        // Nor does a seal.
        sandbox.on(["commit"]).expect(0);
        fs::write(sandbox.staging().join("later"), "").unwrap();
        assert_eq!(state(), "checking");
        fs::remove_file(&gate).unwrap();
        eventually("t1 is judged", || state() != "checking");
        assert_eq!(state() == "ghost", bad);
        if bad {
            eventually("staging is rolled back", || !sandbox.staging().join("bad").exists());
        }
        sandbox.unmount();
    }
}

/// One worker's changes and listings in the directories of a test.
fn churn(dirs: &[PathBuf], worker: usize) {
    for number in 0..150 {
        let name = |number: usize| dirs[number * 31 % DIRS].join(format!("{worker}-{}", number % 20));
        fs::write(name(number), "").unwrap();
        let listed = &dirs[(number + worker) % DIRS];
        let mut early = nix::dir::Dir::open(listed, nix::fcntl::OFlag::O_DIRECTORY, nix::sys::stat::Mode::empty()).unwrap();
        fs::rename(name(number), listed.join(format!("{worker}-renamed-{}", number % 7))).unwrap();
        fs::metadata(listed).unwrap();
        assert!(early.iter().count() > 2);
        if number % 3 == 0 {
            may_be_gone("unlink", fs::remove_file(listed.join(format!("{worker}-renamed-{}", number % 7)))).unwrap();
        }
    }
}

/// A listing that the kernel keeps must not hide what came while it was read: `rm -rf` would leave it, and fail.
#[test]
fn what_many_made_and_listed_can_be_removed() {
    let sandbox = Sandbox::new();
    sandbox.init("[staging]\nsettle = \"10ms\"\n[promotion]\nwindow = \"10ms\"\n").mount();
    for round in 0..6 {
        let root = sandbox.staging().join(format!("round-{round}"));
        let dirs: Vec<PathBuf> = (0..DIRS).map(|dir| root.join(format!("dir-{dir}"))).collect();
        dirs.iter().for_each(|dir| fs::create_dir_all(dir).unwrap());
        std::thread::scope(|scope| {
            let dirs = &dirs;
            (0..WORKERS).for_each(|worker| drop(scope.spawn(move || churn(dirs, worker))));
        });
        let removed = Command::new("rm").arg("-rf").arg(&root).output().unwrap();
        assert!(removed.status.success(), "round {round}: {}", String::from_utf8_lossy(&removed.stderr));
    }
    sandbox.unmount();
}
