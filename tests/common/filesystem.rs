//! A filesystem of a test's own, on a loop device. Needs root, and the mkfs of its kind.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

/// Unmounted at the end.
pub struct Filesystem {
    dir: tempfile::TempDir,
}

impl Filesystem {
    /// A filesystem of this kind and of so many MiB (xfs takes no fewer than 300). `None` where the kernel does not know it.
    pub fn new(kind: &str, mib: u64) -> Option<Self> {
        assert!(nix::unistd::geteuid().is_root(), "this test mounts a filesystem of its own: run it as root");
        // It may be a module that nobody has needed yet.
        let _ = Command::new("modprobe").arg(kind).output();
        let known = fs::read_to_string("/proc/filesystems").unwrap();
        if !known.lines().any(|line| line.split_whitespace().next_back() == Some(kind)) {
            let told = format!("NOT TESTED: this kernel has no {kind}, so nothing is tried on it\n");
            // Past the harness, which shows the output of failed tests alone.
            std::io::stderr().write_all(told.as_bytes()).unwrap();
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        File::create(&image).unwrap().set_len(mib << 20).unwrap();
        fs::create_dir(dir.path().join("mounted")).unwrap();
        let mut mkfs = Command::new(format!("mkfs.{kind}"));
        match kind {
            "ext4" => mkfs.args(["-q", "-F", "-m", "0", "-b", "4096"]),
            _ => mkfs.args(["-q", "-f"]),
        };
        run(mkfs.arg(&image));
        run(Command::new("mount").args(["-o", "loop", "-t", kind]).arg(&image).arg(dir.path().join("mounted")));
        Some(Self { dir })
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("mounted")
    }

    /// What is free for anybody.
    pub fn free(&self) -> u64 {
        let figures = nix::sys::statvfs::statvfs(&self.path()).unwrap();
        figures.blocks_available() * figures.fragment_size()
    }

    /// What is in use, once all is on the disk.
    pub fn used(&self) -> u64 {
        nix::unistd::syncfs(File::open(self.path()).unwrap()).unwrap();
        let figures = nix::sys::statvfs::statvfs(&self.path()).unwrap();
        (figures.blocks() - figures.blocks_free()) * figures.fragment_size()
    }
}

impl Drop for Filesystem {
    fn drop(&mut self) {
        // The daemon may be on its last way out.
        let _ = nix::mount::umount2(&self.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; scripts/setup --tests installs it"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
