//! What is long, deep, old or rarely asked: as on ext4, in staging and in the views.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "common/raw.rs"]
mod raw;

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use common::Sandbox;
use common::refused::{write_to_directory, write_to_file};
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, mkdirat, mknod, utimensat};
use nix::sys::time::TimeSpec;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

/// Nothing is sealed but by `commit`.
const CONFIG: &str = "[staging]\nsettle = \"1h\"\nmax_open = \"10h\"\n[promotion]\nwindow = \"10ms\"\nrequire_free = \"0%\"\n";

fn mounted() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.init(CONFIG).mount();
    sandbox
}

/// Seals what is there and waits until it is in production.
fn publish(sandbox: &Sandbox) {
    sandbox.on(["commit", "--wait"]).expect(0);
    let latest = sandbox.status()["latest"].as_str().unwrap().to_owned();
    sandbox.on(["wait", &latest, "--promoted"]).expect(0);
}

/// SHADOWFS_DIRECTORY_ENTRIES asks for more, 1000000 for example; time and memory are printed.
#[test]
fn a_very_large_directory_is_listed_whole_while_it_changes() {
    let entries: usize = std::env::var("SHADOWFS_DIRECTORY_ENTRIES").ok().and_then(|text| text.parse().ok()).unwrap_or(60_000);
    let sandbox = mounted();
    let dir = sandbox.staging().join("many");
    fs::create_dir(&dir).unwrap();
    let memory = || {
        let status = fs::read_to_string(format!("/proc/{}/status", sandbox.status()["pid"])).unwrap();
        status.lines().find(|line| line.starts_with("VmRSS")).unwrap().split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    };
    let mut clock = Instant::now();
    let mut lap = |what: &str| {
        eprintln!("{entries} entries: {what}: {:.1} s, the daemon has {} MiB", clock.elapsed().as_secs_f64(), memory());
        clock = Instant::now();
    };
    for number in 0..entries {
        mknod(&dir.join(format!("stays-{number}")), SFlag::S_IFREG, Mode::S_IRWXU, 0).unwrap();
    }
    lap("created");
    let mut seen: HashSet<OsString> = HashSet::new();
    for (at, entry) in fs::read_dir(&dir).unwrap().enumerate() {
        let name = entry.unwrap().file_name();
        if name.as_encoded_bytes().starts_with(b"stays-") {
            assert!(seen.insert(name), "twice");
        }
        if at % 64 == 0 {
            // Names come and go before and after the place where the listing is.
            File::create(dir.join(format!("a-{at}"))).unwrap();
            File::create(dir.join(format!("z-{at}"))).unwrap();
            fs::rename(dir.join(format!("a-{at}")), dir.join(format!("zz-{at}"))).unwrap();
            fs::remove_file(dir.join(format!("z-{at}"))).unwrap();
        }
    }
    assert_eq!(seen.len(), entries);
    lap("listed while it changes");
    let now = fs::read_dir(&dir).unwrap().count();
    publish(&sandbox);
    lap("sealed and promoted");
    assert_eq!(fs::read_dir(sandbox.production().join("many")).unwrap().count(), now);
    lap("listed in production");
    assert!(sandbox.production().join(format!("many/stays-{}", entries - 1)).exists());
    sandbox.unmount();
}

fn below(dir: &OwnedFd, name: &str) -> OwnedFd {
    openat(dir, name, OFlag::O_DIRECTORY, Mode::empty()).unwrap()
}

#[test]
fn trees_are_as_deep_as_one_walks() {
    const LEVELS: usize = 1000;
    const NAME: &str = "a-directory";
    let sandbox = mounted();
    let top = |dir: &Path| -> OwnedFd { File::open(dir).unwrap().into() };
    let mut at = top(&sandbox.staging());
    for _ in 0..LEVELS {
        mkdirat(&at, NAME, Mode::S_IRWXU).unwrap();
        at = below(&at, NAME);
    }
    // The file's path is longer than a path may be.
    let bottom = openat(&at, "file", OFlag::O_CREAT | OFlag::O_RDWR, Mode::S_IRWXU).unwrap();
    nix::unistd::write(&bottom, b"deep").unwrap();
    drop(bottom);
    drop(at);
    let long = sandbox.staging().join([NAME; 400].join("/"));
    assert_eq!(fs::metadata(&long).unwrap_err().raw_os_error(), Some(libc::ENAMETOOLONG));
    let longest = sandbox.staging().join([NAME; 300].join("/"));
    assert!(fs::metadata(&longest).unwrap().is_dir());
    // Moved whole, and into itself not at all.
    fs::rename(sandbox.staging().join(NAME), sandbox.staging().join("moved")).unwrap();
    let into = fs::rename(sandbox.staging().join("moved"), sandbox.staging().join("moved").join(NAME).join("x"));
    assert_eq!(into.unwrap_err().raw_os_error(), Some(libc::EINVAL));
    publish(&sandbox);
    for view in [sandbox.staging(), sandbox.production()] {
        let mut at = below(&top(&view), "moved");
        for _ in 1..LEVELS {
            at = below(&at, NAME);
        }
        let file = File::from(openat(&at, "file", OFlag::O_RDONLY, Mode::empty()).unwrap());
        assert_eq!(std::io::read_to_string(file).unwrap(), "deep");
    }
    sandbox.unmount();
}

#[test]
fn times_reach_from_1901_to_2446() {
    let sandbox = mounted();
    let file = sandbox.staging().join("file");
    fs::write(&file, "").unwrap();
    let seen = |path: &Path| {
        let meta = fs::metadata(path).unwrap();
        ((meta.atime(), meta.atime_nsec()), (meta.mtime(), meta.mtime_nsec()))
    };
    // ext4's least and largest, both sides of 1970, of 2038 and of 2106.
    for secs in [-(1_i64 << 31), -1, 0, (1 << 31) - 1, 1 << 31, 1 << 32, 15_032_385_535] {
        let (atime, mtime) = ((secs, 999_999_999), (secs, 1));
        utimensat(AT_FDCWD, &file, &TimeSpec::new(secs, 999_999_999), &TimeSpec::new(secs, 1), UtimensatFlags::FollowSymlink).unwrap();
        assert_eq!(seen(&file), (atime, mtime));
        publish(&sandbox);
        assert_eq!(seen(&sandbox.production().join("file")), (atime, mtime));
    }
    let last = seen(&file);
    sandbox.unmount();
    sandbox.mount();
    assert_eq!(seen(&file), last);
    sandbox.unmount();
}

#[test]
fn inode_numbers_stay_while_it_is_mounted() {
    let sandbox = mounted();
    let at = |name: &str| sandbox.staging().join(name);
    let number = |name: &str| fs::symlink_metadata(at(name)).unwrap().ino();
    fs::create_dir(at("dir")).unwrap();
    fs::write(at("dir/file"), "one").unwrap();
    fs::write(at("large"), vec![1; 1 << 20]).unwrap();
    std::os::unix::fs::symlink("dir/file", at("link")).unwrap();
    let before = ["dir", "dir/file", "large", "link"].map(number);
    publish(&sandbox);
    assert_eq!(["dir", "dir/file", "large", "link"].map(number), before, "after a seal");
    fs::write(at("dir/file"), "two").unwrap();
    OpenOptions::new().append(true).open(at("large")).unwrap().set_len(2 << 20).unwrap();
    fs::set_permissions(at("dir"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::rename(at("dir"), at("other")).unwrap();
    publish(&sandbox);
    assert_eq!(["other", "other/file", "large", "link"].map(number), before, "after changes and a rename");
    for entry in fs::read_dir(sandbox.staging()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(std::os::unix::fs::DirEntryExt::ino(&entry), entry.metadata().unwrap().ino(), "{entry:?}");
    }
    sandbox.unmount();
}

/// What happens in a directory, as inotify tells it.
fn events(watch: &OwnedFd) -> Vec<(ReadFlags, Option<String>)> {
    let mut buffer = [MaybeUninit::uninit(); 8192];
    let mut reader = inotify::Reader::new(watch, &mut buffer);
    let mut events = Vec::new();
    loop {
        match reader.next() {
            Ok(event) => events.push((event.events(), event.file_name().map(|name| name.to_str().unwrap().to_owned()))),
            Err(error) => {
                assert_eq!(error, Errno::AGAIN);
                return events;
            }
        }
    }
}

#[test]
fn inotify_tells_what_goes_through_the_mount() {
    let sandbox = mounted();
    let watch = inotify::init(CreateFlags::NONBLOCK).unwrap();
    inotify::add_watch(&watch, sandbox.staging(), WatchFlags::ALL_EVENTS).unwrap();
    let file = sandbox.staging().join("file");
    fs::write(&file, "content").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(&file, sandbox.staging().join("renamed")).unwrap();
    let seen = events(&watch);
    for (event, name) in [
        (ReadFlags::CREATE, "file"),
        (ReadFlags::MODIFY, "file"),
        (ReadFlags::CLOSE_WRITE, "file"),
        (ReadFlags::ATTRIB, "file"),
        (ReadFlags::MOVED_FROM, "file"),
        (ReadFlags::MOVED_TO, "renamed"),
    ] {
        assert!(seen.iter().any(|(events, of)| events.contains(event) && of.as_deref() == Some(name)), "{event:?} of {name} in {seen:?}");
    }
    fs::remove_file(sandbox.staging().join("renamed")).unwrap();
    assert!(events(&watch).iter().any(|(events, _)| events.contains(ReadFlags::DELETE)));
    fs::write(&file, "content").unwrap();
    publish(&sandbox);
    let watch = inotify::init(CreateFlags::NONBLOCK).unwrap();
    inotify::add_watch(&watch, sandbox.production(), WatchFlags::ALL_EVENTS).unwrap();
    fs::read(sandbox.production().join("file")).unwrap();
    let seen = events(&watch);
    for event in [ReadFlags::OPEN, ReadFlags::ACCESS, ReadFlags::CLOSE_NOWRITE] {
        assert!(seen.iter().any(|(events, of)| events.contains(event) && of.as_deref() == Some("file")), "{event:?} in {seen:?}");
    }
    sandbox.unmount();
}

#[test]
fn what_is_not_there_says_so() {
    let sandbox = mounted();
    fs::write(sandbox.staging().join("file"), "content").unwrap();
    publish(&sandbox);
    for path in [sandbox.staging().join("file"), sandbox.staging(), sandbox.production().join("file"), sandbox.production()] {
        let file = File::open(&path).unwrap();
        assert_eq!(rustix::fs::ioctl_getflags(&file), Err(Errno::NOTTY), "{}", path.display());
        let lsattr = Command::new("lsattr").arg("-d").arg(&path).output().unwrap();
        let said = String::from_utf8_lossy(&lsattr.stderr).into_owned();
        assert!(!lsattr.status.success() && (said.contains("Inappropriate ioctl") || said.contains("not supported")), "{said}");
    }
    sandbox.unmount();
}

#[test]
fn the_figures_of_the_filesystem_are_the_store_s() {
    let sandbox = mounted();
    let host = nix::sys::statvfs::statvfs(&sandbox.store()).unwrap();
    for path in [sandbox.staging(), sandbox.mnt(), sandbox.production()] {
        let here = nix::sys::statvfs::statvfs(&path).unwrap();
        assert_eq!((here.blocks(), here.fragment_size(), here.files()), (host.blocks(), host.fragment_size(), host.files()));
        assert_eq!(here.name_max(), 255);
        assert!(here.blocks_available() > 0 && here.blocks_available() <= here.blocks());
    }
    sandbox.unmount();
}

#[test]
fn versions_and_production_are_run_and_mapped() {
    let sandbox = mounted();
    fs::copy("/bin/true", sandbox.staging().join("program")).unwrap();
    let data: Vec<u8> = (0..300_000_u32).map(|at| (at % 251) as u8).collect();
    fs::write(sandbox.staging().join("data"), &data).unwrap();
    publish(&sandbox);
    for view in [sandbox.mnt().join("versions/t1"), sandbox.production()] {
        assert!(Command::new(view.join("program")).status().unwrap().success());
        let file = File::open(view.join("data")).unwrap();
        let shared = raw::Mapping::new(&file, data.len(), true, false).unwrap();
        assert!(shared.bytes() == data);
        let mut private = raw::Mapping::new(&file, data.len(), false, true).unwrap();
        private.bytes_mut()[0] = 99;
        assert_eq!((private.bytes()[0], shared.bytes()[0]), (99, data[0]));
        assert_eq!(raw::Mapping::new(&file, data.len(), true, true).map(drop), Err(libc::EACCES));
        assert!(file.as_fd().try_clone_to_owned().is_ok());
        drop((shared, private, file));
    }
    sandbox.unmount();
}

/// As root, who may all that can be done; `tests/unprivileged.rs` holds the same for a user.
#[test]
fn every_write_to_a_view_is_refused() {
    let sandbox = mounted();
    fs::create_dir_all(sandbox.staging().join("dir")).unwrap();
    fs::write(sandbox.staging().join("file"), "content\n").unwrap();
    publish(&sandbox);
    let at = |path: &str| sandbox.mnt().join(path);
    for file in ["versions/t1/file", "production/file", "lineage/log.jsonl", "lineage/t1/version.json"] {
        write_to_file(&at(file));
    }
    for dir in ["", "versions", "ghosts", "lineage", "lineage/t1", "versions/t1", "versions/t1/dir", "production", "production/dir"] {
        write_to_directory(&at(dir));
    }
    let exchange =
        nix::fcntl::renameat2(AT_FDCWD, &at("production/file"), AT_FDCWD, &at("production/dir"), nix::fcntl::RenameFlags::RENAME_EXCHANGE);
    assert_eq!(exchange, Err(nix::Error::EROFS));
    assert_eq!(fs::read_to_string(at("production/file")).unwrap(), "content\n");
    assert!(sandbox.status()["open"].is_null());
    sandbox.unmount();
}
