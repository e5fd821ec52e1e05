//! The read-only side of a mount, through the kernel.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod mount;

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use mount::{Dataset, Mounted, getxattr, listxattr, must_mount};
use shadowfs::fs::VisibleVersion;
use shadowfs::ids::Ino;
use shadowfs::store::record::VersionState;

/// Two versions: `same` and `dir/deep` stay, `data` changes, `new` comes. Production is t0.
fn two_versions() -> Mounted {
    let (dir, store) = mount::store();
    let mut dataset = Dataset::new(&store);
    dataset.file(Ino::ROOT, "same", b"the same\n");
    let data = dataset.file(Ino::ROOT, "data", b"old\n");
    let sub = dataset.dir(Ino::ROOT, "dir");
    dataset.file(sub, "deep", &vec![7; 3 << 20]);
    dataset.symlink(sub, "link", "../same");
    dataset.xattr(data, "user.colour", b"blue");
    let t0 = dataset.seal();
    dataset.open();
    dataset.rewrite(data, b"newer\n");
    dataset.file(Ino::ROOT, "new", b"");
    let t1 = dataset.seal();
    Mounted::new((dir, store), &[t0, t1], 0)
}

#[test]
fn the_root_shows_what_the_contract_says() {
    must_mount();
    let m = two_versions();
    assert_eq!(m.names(""), ["ghosts", "lineage", "production", "staging", "versions"]);
    assert_eq!(m.names("versions"), ["latest", "t0", "t1", "valid"]);
    assert_eq!(m.names("versions/t1"), ["data", "dir", "new", "same"]);
    assert_eq!(m.names("ghosts"), [""; 0]);
    assert_eq!(fs::read_link(m.at("versions/latest")).unwrap(), Path::new("t1"));
    assert_eq!(m.read("versions/t0/data"), "old\n");
    assert_eq!(m.read("versions/latest/data"), "newer\n");
    assert_eq!(m.read("production/data"), "old\n");
    assert_eq!(m.read("production/dir/link"), "the same\n");
    assert_eq!(m.read("versions/t1/new"), "");
    assert_eq!(fs::read(m.at("versions/t1/dir/deep")).unwrap(), vec![7; 3 << 20]);
    let inode = |path: &str| fs::symlink_metadata(m.at(path)).unwrap().ino();
    assert_eq!(inode("versions/t0/same"), inode("versions/t1/same"));
    assert_eq!(inode("versions/t0/same"), inode("production/same"));
    assert_ne!(inode("versions/t0/data"), inode("versions/t1/data"));
    assert_ne!(inode("versions/t0/dir"), inode("versions/t1/dir"));
    let deep = fs::metadata(m.at("production/dir/deep")).unwrap();
    assert_eq!((deep.mode() & 0o7777, deep.mtime(), deep.mtime_nsec()), (0o644, 1_600_000_000, 123_456_789));
    assert!(!m.at("versions/t7").exists() && !m.at("nothing").exists());
}

#[test]
fn nothing_but_staging_can_be_written() {
    must_mount();
    let m = two_versions();
    let refused = |done: std::io::Result<()>, what: &str| {
        assert_eq!(done.unwrap_err().raw_os_error(), Some(libc::EROFS), "{what}");
    };
    for dir in ["", "versions", "ghosts", "lineage", "versions/t0", "versions/t0/dir", "production"] {
        refused(fs::write(m.at(dir).join("x"), "x"), dir);
        refused(fs::create_dir(m.at(dir).join("x")), dir);
        refused(std::os::unix::fs::symlink("x", m.at(dir).join("x")), dir);
    }
    for file in ["versions/t0/data", "production/data", "lineage/log.jsonl", "versions/latest/same"] {
        refused(fs::write(m.at(file), "x"), file);
        refused(fs::OpenOptions::new().append(true).open(m.at(file)).map(drop), file);
        refused(fs::set_permissions(m.at(file), fs::Permissions::from_mode(0o600)), file);
        refused(fs::remove_file(m.at(file)), file);
        refused(fs::rename(m.at(file), m.at("production/y")), file);
        refused(fs::hard_link(m.at(file), m.at("production/y")), file);
    }
    refused(fs::remove_file(m.at("versions/latest")), "versions/latest");
    refused(fs::remove_dir_all(m.at("versions/t0/dir")), "versions/t0/dir");
}

#[test]
fn our_own_attributes_answer_but_are_not_listed() {
    must_mount();
    let m = two_versions();
    let data = m.at("versions/t0/data");
    assert_eq!(getxattr(&data, "user.colour").as_deref(), Ok("blue"));
    assert_eq!(listxattr(&data), "user.colour\0");
    assert_eq!(getxattr(&data, "user.shadowfs.version").as_deref(), Ok("t0"));
    assert_eq!(getxattr(&data, "user.shadowfs.state").as_deref(), Ok("valid"));
    assert_eq!(getxattr(&data, "user.shadowfs.digest").unwrap(), shadowfs::ids::Digest::of(b"old\n").to_string());
    assert_eq!(getxattr(&data, "user.shadowfs.nonsense"), Err(libc::ENODATA));
    for anywhere in ["", "versions", "production", "lineage/t0/version.json", "versions/latest"] {
        assert_eq!(getxattr(&m.at(anywhere), "user.shadowfs.store").unwrap(), m.store.path().to_str().unwrap());
    }
    assert_eq!(getxattr(&m.at("versions/t1"), "user.shadowfs.version").as_deref(), Ok("t1"));
    assert_eq!(getxattr(&m.at("versions/t1"), "user.shadowfs.digest").unwrap().len(), 64);
}

#[test]
fn production_switches_and_its_holders_keep_what_they_hold() {
    must_mount();
    let m = two_versions();
    let mut held = fs::File::open(m.at("production/data")).unwrap();
    let directory = fs::File::open(m.at("production/dir")).unwrap();
    assert!(!m.at("production/new").exists());
    let mut visible = (**m.shown.visible.lock()).clone();
    visible.production = visible.latest;
    m.show(visible.clone());
    assert_eq!(m.read("production/data"), "newer\n");
    assert!(m.at("production/new").exists());
    let mut text = String::new();
    held.read_to_string(&mut text).unwrap();
    assert_eq!(text, "old\n");
    let below = nix::fcntl::openat(&directory, "deep", nix::fcntl::OFlag::O_RDONLY, nix::sys::stat::Mode::empty()).unwrap();
    let mut bytes = Vec::new();
    fs::File::from(below).read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len(), 3 << 20);
    // And back: the directory of t0 comes to its place again.
    visible.production = shadowfs::ids::VersionId(0);
    m.show(visible);
    assert_eq!(m.read("production/data"), "old\n");
    assert_eq!(fs::metadata(m.at("production/dir")).unwrap().ino(), directory.metadata().unwrap().ino());
}

#[test]
fn what_was_seen_before_costs_no_request() {
    // In one session with staging, opens must be seen.
    must_mount();
    if mount::combined() {
        return;
    }
    let m = two_versions();
    let walk = || {
        for dir in ["production", "production/dir", "versions/t1"] {
            for entry in fs::read_dir(m.at(dir)).unwrap() {
                let path = entry.unwrap().path();
                if fs::metadata(&path).unwrap().is_file() {
                    fs::read(&path).unwrap();
                }
                assert!(!path.with_extension("absent").exists());
            }
        }
    };
    walk();
    walk();
    let before = m.requests("views");
    walk();
    assert_eq!(m.requests("views"), before, "{:?}", m.mounts.counters());
}

#[test]
fn a_version_that_goes_leaves_the_files_it_shared() {
    must_mount();
    let m = two_versions();
    let mut held = fs::File::open(m.at("versions/t0/same")).unwrap();
    let mut gone = fs::File::open(m.at("versions/t0/data")).unwrap();
    let mut visible = (**m.shown.visible.lock()).clone();
    let t0 = visible.versions.remove(&shadowfs::ids::VersionId(0)).unwrap();
    visible.production = visible.latest;
    m.show(visible.clone());
    assert_eq!(m.names("versions"), ["latest", "t1", "valid"]);
    assert!(!m.at("versions/t0").exists());
    let mut text = String::new();
    held.read_to_string(&mut text).unwrap();
    assert_eq!(text, "the same\n");
    assert_eq!(gone.read(&mut [0; 4]).unwrap_err().raw_os_error(), Some(libc::ESTALE));
    // As a ghost it is elsewhere, and a version that comes is seen at once although it was looked for before.
    visible.ghosts.insert(t0.record.version, mount_ghost(t0));
    m.show(visible);
    assert_eq!(m.names("ghosts"), ["t0"]);
    assert_eq!(m.read("ghosts/t0/data"), "old\n");
    assert_eq!(gone.seek(SeekFrom::Start(0)).and_then(|_| gone.read(&mut [0; 4])).unwrap(), 4);
}

fn mount_ghost(version: Arc<VisibleVersion>) -> Arc<VisibleVersion> {
    let mut version = Arc::unwrap_or_clone(version);
    version.record.state = VersionState::Ghost;
    Arc::new(version)
}

#[test]
fn the_lineage_is_read_as_it_grows() {
    must_mount();
    let m = two_versions();
    assert_eq!(m.read("lineage/log.jsonl"), "");
    m.shown.log.lock().extend_from_slice(b"one\n");
    assert_eq!(m.read("lineage/log.jsonl"), "one\n");
    m.shown.log.lock().extend_from_slice(b"two\n");
    assert_eq!(m.read("lineage/log.jsonl"), "one\ntwo\n");
    assert_eq!(m.names("lineage"), ["log.jsonl", "t0", "t1"]);
    assert_eq!(m.names("lineage/t0"), ["checks", "version.json"]);
    assert_eq!(m.names("lineage/t1"), ["changes.jsonl", "checks", "version.json"]);
    assert_eq!(m.names("lineage/t1/checks"), ["rows.1.log", "rows.2.log", "rows.json"]);
    assert_eq!(m.read("lineage/t1/checks/rows.2.log"), "attempt 2\n");
    assert_eq!(m.read("lineage/t1/version.json"), "{\"version\":\"t1\"}\n");
}

#[test]
fn large_directories_are_listed_whole() {
    must_mount();
    let (dir, store) = mount::store();
    let mut dataset = Dataset::new(&store);
    let many = dataset.dir(Ino::ROOT, "many");
    for n in 0..5000 {
        dataset.file(many, &format!("a name that is not short {n:05}"), b"");
    }
    let t0 = dataset.seal();
    let m = Mounted::new((dir, store), &[t0], 0);
    for _ in 0..2 {
        let names = m.names("production/many");
        assert_eq!(names.len(), 5000);
        assert_eq!(names[4999], "a name that is not short 04999");
    }
}

#[test]
fn both_sessions_come_down_together_or_stay() {
    must_mount();
    let m = two_versions();
    let held = fs::File::open(m.at("production/data")).unwrap();
    let error = m.mounts.unmount(false).unwrap_err();
    assert!(error.to_string().contains("in use"), "{error}");
    assert_eq!(m.read("production/data"), "old\n");
    let apart = usize::from(!mount::combined());
    assert_eq!(m.mounts.ended().try_iter().count(), apart, "a mount of its own, staging was down for a moment");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert_eq!(mounts.matches(m.point.to_str().unwrap()).count(), 1 + apart);
    drop(held);
    m.mounts.unmount(false).unwrap();
    assert_eq!(m.names(""), [""; 0]);
    m.mounts.unmount(false).unwrap();
}

#[test]
fn a_stranger_at_the_same_path_stays() {
    must_mount();
    if !mount::is_root() {
        return;
    }
    let m = two_versions();
    if !mount::combined() {
        nix::mount::umount2(&m.at("staging"), nix::mount::MntFlags::empty()).unwrap();
    }
    nix::mount::umount2(&m.point, nix::mount::MntFlags::empty()).unwrap();
    nix::mount::mount(Some("stranger"), &m.point, Some("tmpfs"), nix::mount::MsFlags::empty(), None::<&str>).unwrap();
    m.mounts.unmount(false).unwrap();
    assert!(shadowfs::sys::mountinfo::mounted_at(&m.point).unwrap().is_some_and(|mount| mount.kind == "tmpfs"));
    nix::mount::umount2(&m.point, nix::mount::MntFlags::empty()).unwrap();
}

#[test]
fn a_corpse_is_found_and_taken_away() {
    use shadowfs::sys::mount::{FuseMount, MountError, prepare};
    must_mount();
    let dir = tempfile::tempdir().unwrap();
    let point = dir.path().join("mnt");
    fs::create_dir(&point).unwrap();
    let what = FuseMount { target: &point, source: Path::new("/srv/a,suid"), read_only: true, allow_other: false };
    let (fuse, mounted) = shadowfs::sys::mount::mount(&what).unwrap();
    assert!(fs::read_to_string("/proc/self/mountinfo").unwrap().contains("fuse.shadowfs /srv/a"));
    drop(fuse);
    assert_eq!(fs::metadata(&point).unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
    assert_eq!(prepare(&point).unwrap(), point);
    assert!(shadowfs::sys::mountinfo::mounted_at(&mounted.path).unwrap().is_none());
    fs::write(point.join("something"), "").unwrap();
    assert!(matches!(prepare(&point), Err(MountError::NotEmpty(_))));
    assert!(matches!(prepare(&dir.path().join("nothing")), Err(MountError::Missing(_))));
    assert!(matches!(prepare(&point.join("something")), Err(MountError::NotADirectory(_))));
    let m = two_versions();
    assert!(matches!(prepare(&m.point), Err(MountError::Mounted { .. })));
}

#[test]
fn the_probe_says_whether_passthrough_works_here() {
    must_mount();
    let (_dir, store) = mount::store();
    // Which answer is right depends on the kernel; that there is one, and twice the same, does not.
    assert_eq!(shadowfs::fs::passthrough_works(&store), shadowfs::fs::passthrough_works(&store));
    eprintln!("passthrough: {}", shadowfs::fs::passthrough_works(&store));
}
