//! Tests as an ordinary user, whoever started them.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Says to the second run of a test that it is the user's, and where the binary is that the user may run.
const BINARY: &str = "SHADOWFS_TEST_BINARY";

/// Gives this process's children a /dev/fuse that users may open, as udev makes it, and a fuse.conf that allows nothing special;
/// in a mount namespace of its own, so that the machine keeps what it has. Then runs what follows as a user.
const AS_NOBODY: &str = r#"
set -e
mknod -m 666 "$1/fuse" c 10 229
mount --bind "$1/fuse" /dev/fuse
: >"$1/fuse.conf"
chmod 644 "$1/fuse.conf"
[ ! -e /etc/fuse.conf ] || mount --bind "$1/fuse.conf" /etc/fuse.conf
shift
exec setpriv --reuid=nobody --regid=nogroup --clear-groups "$@"
"#;

/// The binary under test, where this process may run it.
pub fn binary() -> std::ffi::OsString {
    std::env::var_os(BINARY).unwrap_or_else(|| env!("CARGO_BIN_EXE_shadowfs").into())
}

/// Runs `body` as an ordinary user: here, if we are one; else `test`, by its whole name, is run again as `nobody`.
///
/// Panics where that can't be done: fusermount3 (package fuse3), unshare and setpriv (util-linux) and /dev/fuse are needed.
pub fn as_user(test: &str, body: impl FnOnce()) {
    if !nix::unistd::geteuid().is_root() {
        let opened = fs::File::options().read(true).write(true).open("/dev/fuse");
        assert!(opened.is_ok(), "/dev/fuse: {opened:?}; users must be able to open it: chmod 666 /dev/fuse");
        return body();
    }
    assert!(std::env::var_os(BINARY).is_none(), "setpriv did not make us a user");
    let dir = tempfile::Builder::new().prefix("shadowfs-user-").tempdir().unwrap();
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    // The build directory may be where a user can't go.
    let (program, tests) = (dir.path().join("shadowfs"), dir.path().join("tests"));
    let bring = |from: &Path, to: &Path| fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(drop)).unwrap();
    bring(Path::new(env!("CARGO_BIN_EXE_shadowfs")), &program);
    bring(&std::env::current_exe().unwrap(), &tests);
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", AS_NOBODY, "sh"]).arg(dir.path()).arg(&tests);
    command.args(["--exact", test, "--nocapture"]).env(BINARY, &program).env("HOME", "/nonexistent").current_dir("/");
    let ran = command.output().unwrap();
    let said = [ran.stdout, ran.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(ran.status.success() && said.contains("1 passed"), "{test} as a user: {}\n{said}", ran.status);
}
