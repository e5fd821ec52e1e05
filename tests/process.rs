//! The daemon as a process: what it keeps open, and the kernel mount of production that it looks after.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Ran, Sandbox, eventually, user};
use nix::mount::{MntFlags, umount2};

const CONFIG: &str = "[staging]\nsettle = \"20ms\"\n[promotion]\nwindow = \"0s\"\nrequire_free = \"0%\"\n";

#[test]
fn a_daemon_keeps_nothing_of_who_started_it() {
    let sandbox = Sandbox::new();
    sandbox.init(CONFIG);
    let script = "exec 7>held 9<held; exec \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(user::binary()).arg("mount").arg(sandbox.store()).arg(sandbox.mnt());
    Ran::from(command.current_dir(sandbox.path("")).output().unwrap()).expect(0);
    let pid = sandbox.status()["pid"].as_u64().unwrap();
    let open: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().filter_map(|fd| fs::read_link(fd.unwrap().path()).ok()).collect();
    assert!(!open.is_empty());
    let held = sandbox.path("held").canonicalize().unwrap();
    assert!(!open.contains(&held), "{open:?}");
}

/// A directory that a mount of production is kept at; taken down whatever happens.
struct Dir(PathBuf);

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

fn warnings(sandbox: &Sandbox) -> String {
    sandbox.status()["warnings"].to_string()
}

#[test]
fn a_production_mount_that_fails_is_told_and_tried_again() {
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("left out: mount --production needs root");
    }
    let sandbox = Sandbox::new();
    sandbox.init(CONFIG);
    let dir = Dir(sandbox.path("published"));
    let words = [Path::new("mount"), &sandbox.store(), &sandbox.mnt(), Path::new("--production"), &dir.0];
    sandbox.run(words).expect(0);
    eventually("the reason is told", || warnings(&sandbox).contains("published: No such file or directory"));
    fs::create_dir(&dir.0).unwrap();
    let place = format!(" {} ", dir.0.display());
    let mounted = || fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&place);
    eventually("it is there by itself", mounted);
    eventually("all is well again", || warnings(&sandbox) == "[]");
    // Taken away by hand, it comes back with the next promotion.
    umount2(&dir.0, MntFlags::MNT_DETACH).unwrap();
    fs::write(sandbox.staging().join("file"), "new").unwrap();
    sandbox.on(["commit"]).expect(0);
    sandbox.on(["wait", "t1", "--promoted"]).expect(0);
    eventually("it shows what is in production", || fs::read_to_string(dir.0.join("file")).is_ok_and(|text| text == "new"));
    sandbox.unmount();
    assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 0, "it goes with the daemon");
}
