//! A user who is not root mounts a store of their own: the same semantics, and what needs root says so.
//!
//! Started by root, each test runs itself again as `nobody`. Nothing is skipped: where that can't be done, it fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirEntryExt, MetadataExt, symlink};
use std::path::Path;
use std::process::Command;

use common::refused::{refused, write_to_directory, write_to_file};
use common::user::as_user;
use common::{Sandbox, eventually};
use nix::fcntl::{AT_FDCWD, RenameFlags};

const CONFIG: &str = r#"
[staging]
settle = "10m"
[checks]
backoff = "10ms"
[promotion]
window = "50ms"
require_free = "0%"
[[check]]
name = "no-bad"
run = ["sh", "-c", "test ! -e bad"]
"#;

fn mounted() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.init(CONFIG).mount();
    sandbox
}

/// A dataset with a bit of everything, in production as t1.
fn published() -> Sandbox {
    let sandbox = mounted();
    let staging = sandbox.staging();
    fs::write(staging.join("file"), "content\n").unwrap();
    fs::create_dir_all(staging.join("dir/sub")).unwrap();
    fs::write(staging.join("dir/deep"), "deep\n").unwrap();
    symlink("file", staging.join("link")).unwrap();
    publish(&sandbox, "t1");
    sandbox
}

fn publish(sandbox: &Sandbox, version: &str) {
    sandbox.on(["commit", "--wait"]).expect(0);
    sandbox.on(["wait", version, "--promoted"]).expect(0);
}

/// How many mounts there are at or below the sandbox.
fn mounts(sandbox: &Sandbox) -> usize {
    let dir = sandbox.path("").canonicalize().unwrap();
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().filter(|line| line.split(' ').nth(4).is_some_and(|point| Path::new(point).starts_with(&dir))).count()
}

#[test]
fn a_write_becomes_a_version_in_production() {
    as_user("a_write_becomes_a_version_in_production", || {
        let sandbox = published();
        assert_eq!(mounts(&sandbox), 1);
        let status = sandbox.status();
        assert_eq!((status["mode"].as_str(), status["production"].as_str()), (Some("cached"), Some("t1")));
        assert!(status["requests"]["staging"]["create"].as_u64() > Some(0) && status["requests"]["views"]["lookup"].as_u64() > Some(0));
        assert_eq!(fs::read_to_string(sandbox.production().join("link")).unwrap(), "content\n");
        assert_eq!(fs::read_to_string(sandbox.mnt().join("versions/latest/dir/deep")).unwrap(), "deep\n");
        assert!(!sandbox.mnt().join("versions/t0/file").exists());
        let inode = |path: &str| fs::metadata(sandbox.mnt().join(path)).unwrap().ino();
        assert_eq!(inode("versions/t1/file"), inode("production/file"));
        // The same switch again, with files and listings in the kernel's cache.
        let held = File::open(sandbox.production().join("file")).unwrap();
        fs::write(sandbox.staging().join("file"), "new content\n").unwrap();
        fs::remove_file(sandbox.staging().join("dir/deep")).unwrap();
        publish(&sandbox, "t2");
        assert_eq!(fs::read_to_string(sandbox.production().join("file")).unwrap(), "new content\n");
        assert_eq!(fs::read_dir(sandbox.production().join("dir")).unwrap().count(), 1);
        assert_eq!(io::read_to_string(held).unwrap(), "content\n");
        sandbox.unmount();
        assert_eq!(mounts(&sandbox), 0);
    });
}

#[test]
fn what_others_own_is_taken_over() {
    as_user("what_others_own_is_taken_over", || {
        let sandbox = Sandbox::new();
        // Root's, everywhere.
        let from = Path::new("/etc/skel");
        sandbox.init_from(from, CONFIG).mount();
        let uid = nix::unistd::getuid().as_raw();
        for path in [sandbox.staging(), sandbox.production()] {
            assert_eq!(fs::metadata(&path).unwrap().uid(), uid);
            for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
                let (there, here) = (entry.metadata().unwrap(), fs::symlink_metadata(path.join(entry.file_name())).unwrap());
                assert_eq!((here.uid(), here.len(), here.mode() & 0o777), (uid, there.len(), there.mode() & 0o777), "{entry:?}");
            }
        }
        fs::write(sandbox.staging().join("mine"), "").unwrap();
    });
}

#[test]
fn every_write_to_a_view_is_refused() {
    as_user("every_write_to_a_view_is_refused", || {
        let sandbox = published();
        let at = |path: &str| sandbox.mnt().join(path);
        for file in ["versions/t1/file", "production/file", "production/dir/deep", "lineage/log.jsonl", "lineage/t1/version.json"] {
            write_to_file(&at(file));
        }
        for dir in ["", "versions", "ghosts", "lineage", "lineage/t1", "versions/t1", "versions/t1/dir", "production", "production/dir"] {
            write_to_directory(&at(dir));
        }
        refused(libc::EROFS, "unlink a link", fs::remove_file(at("versions/latest")));
        refused(libc::EROFS, "rmdir", fs::remove_dir(at("production/dir/sub")));
        refused(libc::EROFS, "rmdir of staging", fs::remove_dir(at("staging")));
        refused(libc::EROFS, "rename of staging", fs::rename(at("staging"), at("stage")));
        let exchange =
            nix::fcntl::renameat2(AT_FDCWD, &at("production/file"), AT_FDCWD, &at("production/link"), RenameFlags::RENAME_EXCHANGE);
        assert_eq!(exchange, Err(nix::Error::EROFS));
        assert_eq!(fs::read_to_string(at("production/file")).unwrap(), "content\n");
        assert_eq!(sandbox.status()["open"], serde_json::Value::Null);
    });
}

#[test]
fn what_leads_from_one_side_to_the_other_crosses_a_border() {
    as_user("what_leads_from_one_side_to_the_other_crosses_a_border", || {
        let sandbox = published();
        let at = |path: &str| sandbox.mnt().join(path);
        for (from, to) in [("staging/file", "production/new"), ("production/file", "staging/new"), ("staging/dir", "versions/t1/new")] {
            refused(libc::EXDEV, from, fs::rename(at(from), at(to)));
        }
        for (from, to) in [("staging/file", "production/new"), ("versions/t1/file", "staging/new")] {
            refused(libc::EXDEV, from, fs::hard_link(at(from), at(to)));
        }
        // Copies go on where the kernel's own copy can't.
        fs::write(at("staging/large"), vec![7; 3 << 20]).unwrap();
        publish(&sandbox, "t2");
        assert_eq!(fs::copy(at("production/large"), at("staging/copied")).unwrap(), 3 << 20);
        assert!(fs::read(at("staging/copied")).unwrap() == vec![7; 3 << 20]);
        let ran = Command::new("cp").arg("-a").arg(at("versions/t1/.")).arg(at("staging/all")).status().unwrap();
        assert!(ran.success());
        assert_eq!(fs::read_to_string(at("staging/all/dir/deep")).unwrap(), "deep\n");
    });
}

#[test]
fn staging_is_a_directory_of_the_mount() {
    as_user("staging_is_a_directory_of_the_mount", || {
        let sandbox = published();
        let staging = fs::metadata(sandbox.staging()).unwrap();
        assert_eq!(staging.dev(), fs::metadata(sandbox.mnt()).unwrap().dev());
        for _ in 0..2 {
            for entry in fs::read_dir(sandbox.mnt()).unwrap().map(Result::unwrap) {
                assert_eq!(entry.ino(), entry.metadata().unwrap().ino(), "{entry:?}");
            }
        }
        assert_eq!(fs::metadata(sandbox.staging().join("dir/..")).unwrap().ino(), staging.ino());
        // A directory of staging and the same of a version are two.
        let inode = |path: &str| fs::metadata(sandbox.mnt().join(path)).unwrap().ino();
        assert_ne!(inode("staging/dir"), inode("production/dir"));
        // What is sealed can be run, and what is written is seen by who has it mapped or open.
        fs::copy("/bin/true", sandbox.staging().join("true")).unwrap();
        publish(&sandbox, "t2");
        assert!(Command::new(sandbox.production().join("true")).status().unwrap().success());
        let reader = File::open(sandbox.staging().join("file")).unwrap();
        fs::write(sandbox.staging().join("file"), "CONTENT\n").unwrap();
        assert_eq!(io::read_to_string(reader).unwrap(), "CONTENT\n");
    });
}

#[test]
fn a_rejected_version_is_gone_from_staging_too() {
    as_user("a_rejected_version_is_gone_from_staging_too", || {
        let sandbox = published();
        let staging = sandbox.staging();
        fs::write(staging.join("bad"), "").unwrap();
        fs::write(staging.join("file"), "worse\n").unwrap();
        fs::create_dir(staging.join("more")).unwrap();
        let held = OpenOptions::new().read(true).open(staging.join("file")).unwrap();
        assert!(staging.join("bad").exists());
        sandbox.on(["commit", "--wait"]).expect(3);
        eventually("staging is rolled back", || !staging.join("bad").exists());
        assert_eq!(fs::read_to_string(staging.join("file")).unwrap(), "content\n");
        assert!(!staging.join("more").exists());
        let names = |dir: &Path| fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
        assert_eq!(names(&staging), ["dir", "file", "link"]);
        assert_eq!(fs::read_to_string(sandbox.mnt().join("ghosts/t2/file")).unwrap(), "worse\n");
        assert!(!sandbox.mnt().join("versions/t2").exists());
        drop(held);
        fs::write(staging.join("better"), "").unwrap();
        publish(&sandbox, "t3");
        assert!(sandbox.production().join("better").exists());
    });
}

#[test]
fn the_lineage_is_read_as_it_grows() {
    as_user("the_lineage_is_read_as_it_grows", || {
        let sandbox = published();
        let mut log = File::open(sandbox.mnt().join("lineage/log.jsonl")).unwrap();
        let mut seen = String::new();
        log.read_to_string(&mut seen).unwrap();
        fs::write(sandbox.staging().join("file"), "again\n").unwrap();
        publish(&sandbox, "t2");
        assert_eq!(log.stream_position().unwrap(), seen.len() as u64);
        let mut more = String::new();
        log.read_to_string(&mut more).unwrap();
        assert!(more.lines().count() > 2 && more.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{more}");
        log.seek(SeekFrom::Start(0)).unwrap();
        assert_eq!(io::read_to_string(log).unwrap(), seen + &more);
        assert!(sandbox.mnt().join("lineage/t2/version.json").exists());
    });
}

#[test]
fn a_killed_daemon_comes_back() {
    as_user("a_killed_daemon_comes_back", || {
        let sandbox = published();
        let mut open = File::create(sandbox.staging().join("open")).unwrap();
        open.write_all(b"synced\n").unwrap();
        open.sync_all().unwrap();
        sandbox.kill_daemon();
        let dead = fs::read_dir(sandbox.mnt()).map(drop).unwrap_err().raw_os_error();
        assert!(matches!(dead, Some(libc::ENOTCONN | libc::ECONNABORTED)), "{dead:?}");
        drop(open);
        sandbox.mount();
        assert_eq!(mounts(&sandbox), 1);
        assert_eq!(fs::read_to_string(sandbox.staging().join("open")).unwrap(), "synced\n");
        assert_eq!(fs::read_to_string(sandbox.production().join("file")).unwrap(), "content\n");
        sandbox.kill_daemon();
        sandbox.unmount();
        assert_eq!(mounts(&sandbox), 0);
    });
}

#[test]
fn a_mount_in_use_stays() {
    as_user("a_mount_in_use_stays", || {
        let sandbox = published();
        for path in ["production/file", "staging/file"] {
            let held = File::open(sandbox.mnt().join(path)).unwrap();
            let ran = sandbox.run([Path::new("unmount"), &sandbox.mnt()]).expect(75);
            assert!(ran.stderr.contains("is in use"), "{}", ran.stderr);
            assert_eq!(io::read_to_string(held).unwrap(), "content\n");
        }
        fs::write(sandbox.staging().join("file"), "still here\n").unwrap();
        sandbox.unmount();
    });
}

#[test]
fn what_needs_root_says_so() {
    as_user("what_needs_root_says_so", || {
        let sandbox = Sandbox::new();
        sandbox.init(CONFIG);
        let place = sandbox.path("production").into_os_string().into_string().unwrap();
        fs::create_dir(&place).unwrap();
        let mount = |more: &[&str]| {
            let (store, point) = (sandbox.store(), sandbox.mnt());
            sandbox.run([&["mount", store.to_str().unwrap(), point.to_str().unwrap()], more].concat())
        };
        let line =
            format!("shadowfs: --production {place}: a kernel mount of production needs root; use MNT/production, which needs none\n");
        assert_eq!(mount(&["--production", &place]).expect(2).stderr, line);
        assert_eq!(mount(&["-o", &format!("production={place}")]).expect(2).stderr, line);
        // Who started this as themselves may have allowed it.
        if fs::read_to_string("/etc/fuse.conf").is_ok_and(|text| text.lines().any(|line| line.trim() == "user_allow_other")) {
            mount(&["--allow-other"]).expect(0);
            sandbox.unmount();
        } else {
            let point = sandbox.mnt().canonicalize().unwrap();
            let why = "--allow-other needs root, or a line \"user_allow_other\" in /etc/fuse.conf";
            assert_eq!(mount(&["--allow-other"]).expect(2).stderr, format!("shadowfs: {}: {why}\n", point.display()));
        }
        assert_eq!(mounts(&sandbox), 0);
        sandbox.configure("[[check]]\nname = \"c\"\nrun = [\"true\"]\nuser = \"root\"\n");
        let refused = mount(&[]).expect(2).stderr;
        assert!(refused.contains("shadowfs.toml:4: running commands as \"root\" needs a daemon that root started"), "{refused}");
        sandbox.configure("");
        mount(&[]).expect(0);
    });
}
