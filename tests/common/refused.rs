//! Every call that writes, on what can't be written.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use nix::fcntl::{AT_FDCWD, RenameFlags};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, UtimensatFlags};
use nix::sys::time::TimeSpec;
use rustix::fs::XattrFlags;

#[track_caller]
pub fn refused<T>(errno: i32, what: &str, done: io::Result<T>) {
    match done {
        Ok(_) => panic!("{what} was done"),
        Err(error) => assert_eq!(error.raw_os_error(), Some(errno), "{what}: {error}"),
    }
}

/// Every call that would change `file`, a regular file of a view.
pub fn write_to_file(file: &Path) {
    let name = file.to_str().unwrap();
    let refused = |what: &str, done: io::Result<()>| refused(libc::EROFS, &format!("{what} {name}"), done);
    let open = |options: &mut OpenOptions| options.open(file).map(drop);
    refused("open for writing", open(OpenOptions::new().write(true)));
    refused("open for both", open(OpenOptions::new().read(true).write(true)));
    refused("append", open(OpenOptions::new().append(true)));
    refused("open and cut", open(OpenOptions::new().read(true).write(true).truncate(true)));
    refused("read and cut", open(OpenOptions::new().read(true).custom_flags(libc::O_TRUNC)));
    refused("truncate", nix::unistd::truncate(file, 1).map_err(io::Error::from));
    refused("chmod", fs::set_permissions(file, fs::Permissions::from_mode(0o640)));
    let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
    refused("chown", nix::unistd::chown(file, Some(uid), Some(gid)).map_err(io::Error::from));
    let now = TimeSpec::UTIME_NOW;
    let touch = nix::sys::stat::utimensat(AT_FDCWD, file, &now, &now, UtimensatFlags::FollowSymlink);
    refused("touch", touch.map_err(io::Error::from));
    let set = rustix::fs::setxattr(file, "user.a", b"b", XattrFlags::empty());
    refused("setxattr", set.map_err(io::Error::from));
    refused("removexattr", rustix::fs::removexattr(file, "user.a").map_err(io::Error::from));
    for command in [["setfattr", "-n", "user.a", "-v", "b"].as_slice(), &["setfattr", "-x", "user.a"], &["setfacl", "-m", "u:0:rwx"]] {
        let ran = Command::new(command[0]).args(&command[1..]).arg(file).env("LC_ALL", "C").output().unwrap();
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(!ran.status.success() && said.contains("Read-only file system"), "{command:?} {name}: {said}");
    }
    let read = File::open(file).unwrap();
    refused("fchmod", nix::sys::stat::fchmod(&read, Mode::S_IRWXU).map_err(io::Error::from));
    assert_eq!(read.write_at(b"x", 0).unwrap_err().raw_os_error(), Some(libc::EBADF));
    assert_eq!(nix::unistd::ftruncate(&read, 1), Err(nix::Error::EINVAL));
    let allocated = nix::fcntl::fallocate(&read, nix::fcntl::FallocateFlags::empty(), 0, 10);
    assert_eq!(allocated, Err(nix::Error::EBADF), "fallocate {name}: what can't be opened for writing");
    let touched = nix::sys::stat::futimens(&read, &now, &now);
    refused("futimens", touched.map_err(io::Error::from));
    refused("fchown", nix::unistd::fchown(&read, Some(uid), Some(gid)).map_err(io::Error::from));
    refused("fsetxattr", rustix::fs::fsetxattr(&read, "user.a", b"b", XattrFlags::empty()).map_err(io::Error::from));
    // These two have nothing to do where nothing was written.
    read.sync_all().unwrap();
    read.sync_data().unwrap();
    refused("unlink", fs::remove_file(file));
    let other = file.with_file_name("other");
    refused("rename", fs::rename(file, &other));
    let renamed = nix::fcntl::renameat2(AT_FDCWD, file, AT_FDCWD, &other, RenameFlags::RENAME_NOREPLACE);
    refused("renameat2", renamed.map_err(io::Error::from));
    refused("link", fs::hard_link(file, &other));
}

/// Every call that would change the directory `dir` of a view.
pub fn write_to_directory(dir: &Path) {
    let shown = dir.to_str().unwrap();
    let refused = |what: &str, done: io::Result<()>| refused(libc::EROFS, &format!("{what} in {shown}"), done);
    let new = dir.join("new");
    refused("create", File::create(&new).map(drop));
    refused("create exclusively", File::create_new(&new).map(drop));
    refused("mkdir", fs::create_dir(&new));
    refused("symlink", symlink("x", &new));
    let mode = Mode::S_IRUSR;
    refused("mkfifo", nix::unistd::mkfifo(&new, mode).map_err(io::Error::from));
    refused("mknod", nix::sys::stat::mknod(&new, SFlag::S_IFSOCK, mode, 0).map_err(io::Error::from));
    let device = nix::sys::stat::makedev(1, 3);
    if nix::unistd::geteuid().is_root() {
        refused("mknod of a device", nix::sys::stat::mknod(&new, SFlag::S_IFCHR, mode, device).map_err(io::Error::from));
        let unnamed = OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).open(dir);
        refused("a file without a name", unnamed.map(drop));
    }
    let listed = rustix::fs::setxattr(dir, "user.a", b"b", XattrFlags::empty());
    refused("setxattr", listed.map_err(io::Error::from));
    refused("chmod", nix::sys::stat::fchmodat(AT_FDCWD, dir, Mode::S_IRWXU, FchmodatFlags::FollowSymlink).map_err(io::Error::from));
    File::open(dir).unwrap().sync_all().unwrap();
}
