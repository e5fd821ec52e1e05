//! A store, a mount and the built binary, as a user has them; cleaned up whatever happens.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod filesystem;
pub mod overlay;
pub mod refused;
pub mod story;
pub mod user;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Ran {
    /// Exit code; -1 after a signal.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Ran {
    /// Panics with everything that was printed unless the exit code is `code`.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// The document that `--json` printed.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|why| panic!("{why} in {:?} (stderr {:?})", self.stdout, self.stderr))
    }
}

/// A temporary directory with a place for a store and one for its mount.
pub struct Sandbox {
    dir: tempfile::TempDir,
}

impl Sandbox {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("shadowfs-test-").tempdir().unwrap();
        fs::create_dir(dir.path().join("mnt")).unwrap();
        Self { dir }
    }

    /// In a directory of the test's choice (a filesystem of its own, say).
    pub fn below(parent: &Path) -> Self {
        let dir = tempfile::Builder::new().prefix("shadowfs-test-").tempdir_in(parent).unwrap();
        fs::create_dir(dir.path().join("mnt")).unwrap();
        Self { dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn store(&self) -> PathBuf {
        self.path("store")
    }

    pub fn mnt(&self) -> PathBuf {
        self.path("mnt")
    }

    pub fn staging(&self) -> PathBuf {
        self.mnt().join("staging")
    }

    pub fn production(&self) -> PathBuf {
        self.mnt().join("production")
    }

    /// `shadowfs ARGS`, from a directory that is no store and without `$SHADOWFS`.
    pub fn run<I: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Ran {
        self.command(args).output().unwrap().into()
    }

    /// The same as a command, for tests that need more than its output.
    pub fn command<I: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Command {
        let mut command = Command::new(user::binary());
        command.args(args).current_dir(self.dir.path()).env_remove("SHADOWFS").env("NO_COLOR", "1").stdin(Stdio::null());
        command
    }

    /// `shadowfs -C STORE ARGS`.
    pub fn on<I: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Ran {
        let mut command = self.command(["-C"]);
        command.arg(self.store()).args(args);
        command.output().unwrap().into()
    }

    /// Makes an empty store with `config` as its configuration.
    pub fn init(&self, config: &str) -> &Self {
        self.run([Path::new("init"), &self.store()]).expect(0);
        self.configure(config);
        self
    }

    /// Makes a store of `from`.
    pub fn init_from(&self, from: &Path, config: &str) -> &Self {
        self.run([Path::new("init"), &self.store(), Path::new("--from"), from]).expect(0);
        self.configure(config);
        self
    }

    pub fn configure(&self, config: &str) {
        fs::write(self.store().join("shadowfs.toml"), config).unwrap();
    }

    pub fn mount(&self) -> &Self {
        self.run([Path::new("mount"), &self.store(), &self.mnt()]).expect(0);
        self
    }

    pub fn unmount(&self) -> &Self {
        self.run([Path::new("unmount"), &self.mnt()]).expect(0);
        self
    }

    pub fn status(&self) -> serde_json::Value {
        self.on(["status", "--json"]).expect(0).json()
    }

    /// Kills the daemon as a crash would, and waits until it is gone.
    pub fn kill_daemon(&self) {
        let pid = self.status()["pid"].as_u64().unwrap();
        Self::kill(pid);
    }

    /// `kill -9 PID`, and waits until it is gone.
    pub fn kill(pid: u64) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        let gone = || {
            // A zombie that nobody has waited for is gone, too.
            fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.rsplit(") ").next().unwrap().starts_with('Z'))
        };
        eventually("the daemon dies", gone);
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = self.run([Path::new("unmount"), &self.mnt()]);
        // What is left of a mount whose daemon was killed.
        for path in [self.staging(), self.mnt()] {
            let _ = nix::mount::umount2(&path, nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

/// Waits until `condition` holds. The limit only ends a test that has failed: nothing is asserted about time.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(60), "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
