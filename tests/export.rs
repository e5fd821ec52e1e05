//! `export` on real mounts: what comes out is what went in, as a directory and through GNU tar.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Ran, Sandbox};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

const CONFIG: &str = "[staging]\nsettle = \"50ms\"\n[promotion]\nwindow = \"50ms\"\nrequire_free = \"0%\"\n";

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn set_mtime(path: &Path, secs: i64, nanos: i64) {
    let time = Timespec { tv_sec: secs, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// An access list that gives user 1000 something.
fn acl() -> Vec<u8> {
    let entry = |tag: u16, bits: u16, id: u32| [&tag.to_le_bytes()[..], &bits.to_le_bytes(), &id.to_le_bytes()].concat();
    let none = u32::MAX;
    let list = [entry(1, 6, none), entry(2, 4, 1000), entry(4, 4, none), entry(16, 4, none), entry(32, 0, none)];
    [2_u32.to_le_bytes().to_vec(), list.concat()].concat()
}

/// One of everything.
fn make(dir: &Path) {
    fs::create_dir(dir).unwrap();
    let at = |name: &str| dir.join(name);
    fs::write(at("plain"), "plain\n").unwrap();
    fs::write(at("empty"), "").unwrap();
    fs::write(at("line\nbreak \"ü\""), "odd").unwrap();
    fs::write(dir.join(OsStr::from_bytes(b"not-utf8-\xff")), "bytes").unwrap();
    let deep = at(&["a-directory-with-a-long-name"; 8].join("/"));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("n".repeat(200)), "deep").unwrap();
    symlink("x".repeat(300), deep.join("link")).unwrap();
    fs::hard_link(at("plain"), deep.join("hard")).unwrap();
    symlink("plain", at("symlink")).unwrap();
    lchown(at("symlink"), Some(7), Some(8)).unwrap();
    let sparse = fs::File::create(at("sparse")).unwrap();
    sparse.write_all_at(b"begin", 0).unwrap();
    sparse.write_all_at(&[7; 5000], 9 << 20).unwrap();
    sparse.set_len(20 << 20).unwrap();
    let hole = fs::File::create(at("hole")).unwrap();
    hole.set_len(1 << 20).unwrap();
    fs::write(at("large"), (0..3_000_000_u32).map(|n| (n % 251) as u8).collect::<Vec<_>>()).unwrap();
    let node = |name: &str, kind, device| rustix::fs::mknodat(CWD, at(name), kind, Mode::from_raw_mode(0o640), device).unwrap();
    node("fifo", FileType::Fifo, 0);
    node("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    fs::write(at("owned"), "owned").unwrap();
    lchown(at("owned"), Some(4_000_000_000), Some(100)).unwrap();
    fs::set_permissions(at("owned"), fs::Permissions::from_mode(0o4751)).unwrap();
    set_xattr(&at("owned"), "user.note", b"a=b\nc\0d");
    set_xattr(&at("owned"), "trusted.t", b"t");
    fs::write(at("shared"), "shared").unwrap();
    set_xattr(&at("shared"), "system.posix_acl_access", &acl());
    fs::create_dir(at("inherits")).unwrap();
    set_xattr(&at("inherits"), "system.posix_acl_default", &acl());
    for (name, secs, nanos) in
        [("plain", 1_000_000_000, 123_456_789), ("empty", -5, 250_000_000), ("owned", 17_000_000_000, 1), ("symlink", 5, 7)]
    {
        set_mtime(&at(name), secs, nanos);
    }
    set_mtime(&at("inherits"), 86_400, 42);
    fs::set_permissions(dir, fs::Permissions::from_mode(0o2775)).unwrap();
    set_mtime(dir, 99, 99);
}

/// All that an entry is.
#[derive(Debug, PartialEq)]
struct Seen {
    mode: u32,
    owner: (u32, u32),
    size: u64,
    links: u64,
    mtime: (i64, i64),
    device: u64,
    holes: bool,
    target: Vec<u8>,
    content: u64,
    xattrs: BTreeMap<String, Vec<u8>>,
}

fn see(path: &Path) -> Seen {
    let data = fs::symlink_metadata(path).unwrap();
    let mut buffer = [0; 4096];
    let len = rustix::fs::llistxattr(path, &mut buffer[..]).unwrap();
    let names: Vec<_> = buffer[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect();
    let value = |name: &[u8]| {
        let mut buffer = [0; 4096];
        let len = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut buffer[..]).unwrap();
        buffer[..len].to_vec()
    };
    let regular = data.file_type().is_file();
    let hash = |bytes: Vec<u8>| bytes.iter().fold(5381_u64, |sum, byte| sum.wrapping_mul(33) ^ u64::from(*byte));
    Seen {
        mode: data.mode(),
        owner: (data.uid(), data.gid()),
        size: if data.is_dir() { 0 } else { data.len() },
        links: if data.is_dir() { 0 } else { data.nlink() },
        mtime: (data.mtime(), data.mtime_nsec()),
        device: data.rdev(),
        holes: regular && data.blocks() * 512 < data.len() / 2,
        target: fs::read_link(path).map(|target| target.as_os_str().as_bytes().to_vec()).unwrap_or_default(),
        content: if regular { hash(fs::read(path).unwrap()) } else { 0 },
        xattrs: names.iter().map(|name| (String::from_utf8_lossy(name).into_owned(), value(name))).collect(),
    }
}

fn tree(root: &Path) -> BTreeMap<Vec<u8>, Seen> {
    let mut found = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let seen = see(&path);
        if seen.mode & libc::S_IFMT == libc::S_IFDIR {
            todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        found.insert(path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec(), seen);
    }
    found
}

#[track_caller]
fn same(expected: &BTreeMap<Vec<u8>, Seen>, got: &Path) {
    let got = tree(got);
    for (path, seen) in expected {
        let shown = String::from_utf8_lossy(path);
        assert_eq!(got.get(path), Some(seen), "{shown}");
    }
    assert_eq!(expected.len(), got.len());
}

fn untar(sandbox: &Sandbox, name: &str, arguments: &[&OsStr], input: Stdio) -> std::path::PathBuf {
    let dir = sandbox.path(name);
    fs::create_dir(&dir).unwrap();
    let mut tar = Command::new("tar");
    tar.args(["--warning=no-timestamp", "--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner", "-xp", "-C"])
        .arg(&dir)
        .args(arguments);
    let ran: Ran = tar.stdin(input).output().unwrap().into();
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{ran:?}");
    dir
}

fn mounted_with(make: impl FnOnce(&Path)) -> Sandbox {
    let sandbox = Sandbox::new();
    let from = sandbox.path("from");
    make(&from);
    sandbox.init_from(&from, CONFIG).mount();
    sandbox
}

#[test]
fn what_comes_out_is_what_went_in() {
    let sandbox = mounted_with(make);
    let expected = tree(&sandbox.path("from"));
    let doc = sandbox.on(["export", "t0", "out", "--json"]).expect(0).json();
    assert_eq!((doc["version"].as_str(), doc["entries"].as_u64()), (Some("t0"), Some(expected.len() as u64)));
    same(&expected, &sandbox.path("out"));
    let said = sandbox.on(["export", "production", "out.tar"]).expect(0).stdout;
    assert!(said.starts_with("t0 is in out.tar: "), "{said}");
    // Holes are not in the archive.
    assert!(fs::metadata(sandbox.path("out.tar")).unwrap().len() < 4 << 20);
    same(&expected, &untar(&sandbox, "untarred", &["-f".as_ref(), sandbox.path("out.tar").as_os_str()], Stdio::null()));
    let mut stream = sandbox.command([OsStr::new("-C"), sandbox.store().as_os_str(), "export".as_ref(), "valid".as_ref(), "-".as_ref()]);
    let mut child = stream.stdout(Stdio::piped()).spawn().unwrap();
    same(&expected, &untar(&sandbox, "streamed", &["-f".as_ref(), "-".as_ref()], child.stdout.take().unwrap().into()));
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_socket_comes_out_where_it_can() {
    let sandbox = mounted_with(|dir| {
        fs::create_dir(dir).unwrap();
        rustix::fs::mknodat(CWD, dir.join("socket"), FileType::Socket, Mode::from_raw_mode(0o600), 0).unwrap();
        fs::write(dir.join("file"), "f").unwrap();
    });
    sandbox.on(["export", "t0", "out"]).expect(0);
    same(&tree(&sandbox.path("from")), &sandbox.path("out"));
    let ran = sandbox.on(["export", "t0", "out.tar"]).expect(0);
    assert_eq!(ran.stderr, "shadowfs: ./socket: a socket has no place in an archive\n");
}

#[test]
fn a_ghost_is_exported_and_what_is_gone_is_not() {
    let sandbox = mounted_with(|dir| fs::create_dir(dir).unwrap());
    sandbox.configure(&format!("{CONFIG}[checks]\nretries = 0\n[[check]]\nname = \"no\"\nrun = [\"false\"]\n"));
    common::eventually("the check is in force", || sandbox.on(["config", "show"]).stdout.contains("\"no\""));
    fs::write(sandbox.staging().join("bad"), "rows").unwrap();
    sandbox.on(["commit", "--wait"]).expect(3);
    sandbox.on(["export", "t1", "ghost"]).expect(0);
    assert_eq!(fs::read_to_string(sandbox.path("ghost/bad")).unwrap(), "rows");
    sandbox.on(["drop", "t1"]).expect(0);
    assert_eq!(sandbox.on(["export", "t1", "gone"]).expect(4).stderr, "shadowfs: t1 is expired: its content is gone\n");
    sandbox.on(["begin"]).expect(0);
    fs::write(sandbox.staging().join("x"), "x").unwrap();
    let ran = sandbox.on(["export", "staging", "gone"]).expect(4);
    assert!(ran.stderr.ends_with(" is open; `shadowfs commit` first\n"), "{ran:?}");
    assert!(!sandbox.path("gone").exists());
}

#[test]
fn what_is_there_is_not_touched() {
    let sandbox = mounted_with(|dir| {
        fs::create_dir(dir).unwrap();
        fs::write(dir.join("file"), "f").unwrap();
    });
    fs::create_dir(sandbox.path("full")).unwrap();
    fs::write(sandbox.path("full/mine"), "mine").unwrap();
    fs::write(sandbox.path("mine.tar"), "mine").unwrap();
    let ran = sandbox.on(["export", "t0", "full"]).expect(4);
    assert_eq!(ran.stderr, "shadowfs: full: is there already, and is no empty directory\n");
    assert_eq!(sandbox.on(["export", "t0", "mine.tar"]).expect(4).stderr, "shadowfs: mine.tar: is there already\n");
    assert_eq!(fs::read_to_string(sandbox.path("mine.tar")).unwrap(), "mine");
    assert_eq!(fs::read_dir(sandbox.path("full")).unwrap().count(), 1);
    assert!(sandbox.on(["export", "t0", "x.tar.gz"]).expect(2).stderr.contains("export ... - | gzip > x.tar.gz"));
    sandbox.on(["export", "t0", "-", "--json"]).expect(2);
    let ran = sandbox.on(["export", "t0", "missing/out"]).expect(1);
    assert_eq!(ran.stderr, "shadowfs: missing/out: No such file or directory\n");
    sandbox.on(["export", "t0", "missing/out.tar"]).expect(1);
    fs::create_dir(sandbox.path("empty")).unwrap();
    sandbox.on(["export", "t0", "empty"]).expect(0);
    assert_eq!(fs::read_to_string(sandbox.path("empty/file")).unwrap(), "f");
    let left: Vec<_> = fs::read_dir(sandbox.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with(".shadowfs")), "{left:?}");
}

#[test]
fn a_disk_that_is_full_is_told_and_nothing_is_left() {
    let sandbox = mounted_with(|dir| {
        fs::create_dir(dir).unwrap();
        fs::write(dir.join("file"), vec![1; 2 << 20]).unwrap();
    });
    let small = sandbox.path("small");
    fs::create_dir(&small).unwrap();
    nix::mount::mount(Some("tmpfs"), &small, Some("tmpfs"), nix::mount::MsFlags::empty(), Some("size=1m")).unwrap();
    let (dir, tar) = (sandbox.on(["export", "t0", "small/out"]), sandbox.on(["export", "t0", "small/out.tar"]));
    let left = fs::read_dir(&small).unwrap().count();
    nix::mount::umount(&small).unwrap();
    for ran in [dir.expect(1), tar.expect(1)] {
        assert!(ran.stderr.ends_with("No space left on device\n"), "{ran:?}");
    }
    assert_eq!(left, 0);
}
