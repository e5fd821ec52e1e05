//! Names, links, renames, directory handles: what the kernel leaves to us.

use super::bench::{Bench, ROOT, TOP, USER};
use crate::tree::key::FileKind;
use crate::version::error::FsError;
use crate::version::staging::RenameMode;

#[test]
fn names_are_bytes_of_1_to_255_without_slash_and_nul() {
    let bench = Bench::new();
    let create = |name: &[u8]| bench.staging.make_dir(&ROOT, TOP, name, 0o755, 0).map(drop);
    assert!(create(&[b'x'; 255]).is_ok());
    assert!(create(b"\xff\xfe \n").is_ok());
    assert!(matches!(create(&[b'x'; 256]), Err(FsError::NameTooLong)));
    assert!(matches!(create(b"a/b"), Err(FsError::Invalid)));
    assert!(matches!(create(b"a\0b"), Err(FsError::Invalid)));
    assert!(matches!(create(b"."), Err(FsError::Exists)));
    assert!(matches!(bench.staging.lookup(TOP, &[b'x'; 256]), Err(FsError::NameTooLong)));
    assert!(matches!(bench.staging.unlink(&ROOT, TOP, &[b'x'; 256]), Err(FsError::NameTooLong)));
    let symlink = |target: &[u8], name: &[u8]| bench.staging.symlink(&ROOT, TOP, name, target).map(drop);
    assert!(symlink(&[b't'; 4095], b"longest").is_ok());
    assert!(matches!(symlink(&[b't'; 4096], b"longer"), Err(FsError::NameTooLong)));
    assert!(matches!(symlink(b"", b"none"), Err(FsError::NotFound)));
    assert_eq!(bench.staging.read_link(bench.node("longest")).unwrap(), [b't'; 4095]);
}

#[test]
fn removing_the_own_name_of_an_inode_gives_it_another() {
    let bench = Bench::new();
    bench.mkdir("d");
    bench.put("a", b"bytes");
    let (node, dir) = (bench.node("a"), bench.node("d"));
    bench.staging.link(&ROOT, node, dir, b"b").unwrap();
    bench.staging.link(&ROOT, node, TOP, b"c").unwrap();
    assert_eq!(bench.lookup("a").unwrap().nlink, 3);
    bench.unlink("a").unwrap();
    let snapshot = bench.staging.snapshot().unwrap();
    assert_eq!(snapshot.all_paths_of(node.ino).unwrap().len(), 2);
    bench.staging.rename(&ROOT, dir, b"b", TOP, b"e", RenameMode::Replace).unwrap();
    bench.unlink("c").unwrap();
    assert_eq!(bench.lookup("e").unwrap().nlink, 1);
    assert_eq!(bench.get("e"), b"bytes");
    assert_eq!(bench.staging.snapshot().unwrap().path_of(node.ino).unwrap().unwrap(), b"e");
}

#[test]
fn link_counts_end_at_ext4s_limit() {
    let bench = Bench::new();
    bench.put("f", b"");
    let node = bench.node("f");
    for n in 1..65_000 {
        bench.staging.link(&ROOT, node, TOP, format!("f{n}").as_bytes()).unwrap();
    }
    assert!(matches!(bench.staging.link(&ROOT, node, TOP, b"one more"), Err(FsError::TooManyLinks)));
}

#[test]
fn a_directory_goes_nowhere_below_itself_and_never_over_a_full_one() {
    let bench = Bench::new();
    for path in ["a", "a/b", "c", "c/d"] {
        bench.mkdir(path);
    }
    bench.put("f", b"");
    let (a, b, c) = (bench.node("a"), bench.node("a/b"), bench.node("c"));
    let rename = |dir, name: &[u8], new_dir, new_name: &[u8], mode| bench.staging.rename(&ROOT, dir, name, new_dir, new_name, mode);
    let replace = RenameMode::Replace;
    assert!(matches!(rename(TOP, b"a", b, b"x", replace), Err(FsError::Invalid)));
    assert!(matches!(rename(TOP, b"a", TOP, b"c", replace), Err(FsError::NotEmpty)));
    assert!(matches!(rename(TOP, b"a", TOP, b"f", replace), Err(FsError::NotDirectory)));
    assert!(matches!(rename(TOP, b"f", TOP, b"a", replace), Err(FsError::IsDirectory)));
    assert!(matches!(rename(a, b"b", TOP, b"a", RenameMode::Exchange), Err(FsError::Invalid)));
    assert!(matches!(rename(TOP, b"a", TOP, b"c", RenameMode::NoReplace), Err(FsError::Exists)));
    rename(TOP, b"f", c, b"d", RenameMode::Exchange).unwrap();
    assert_eq!(bench.lookup("f").unwrap().kind, FileKind::Directory);
    assert_eq!(bench.lookup("c/d").unwrap().kind, FileKind::Regular);
    assert_eq!(bench.lookup("c").unwrap().nlink, 2);
    assert_eq!(bench.lookup("").unwrap().nlink, 5);
    rename(TOP, b"f", c, b"empty", replace).unwrap();
    rename(a, b"b", c, b"empty", replace).unwrap();
    assert_eq!(bench.lookup("c").unwrap().nlink, 3);
    assert_eq!(bench.lookup("a").unwrap().nlink, 2);
    let parent = bench.staging.lookup(bench.node("c/empty"), b"..").unwrap();
    assert_eq!(parent.node, c);
}

#[test]
fn a_directory_is_listed_as_it_was_when_the_listing_began() {
    let bench = Bench::new();
    for n in 0..49 {
        bench.put(&format!("f{n:02}"), b"");
    }
    let handle = bench.staging.open_dir(TOP).unwrap();
    bench.put("f49", b"");
    let first = bench.staging.read_dir(handle, 0, 10, false).unwrap();
    for n in 0..50 {
        bench.unlink(&format!("f{n:02}")).unwrap();
        bench.put(&format!("g{n:02}"), b"");
    }
    let mut names: Vec<_> = first.iter().map(|entry| entry.name.clone()).collect();
    let rest = bench.staging.read_dir(handle, first.last().unwrap().next_offset, 1000, true).unwrap();
    assert!(rest.iter().all(|entry| entry.attr.is_none()), "entries that are gone have no attributes");
    names.extend(rest.iter().map(|entry| entry.name.clone()));
    let expected: Vec<String> = [".", ".."].into_iter().map(str::to_owned).chain((0..50).map(|n| format!("f{n:02}"))).collect();
    assert_eq!(names.iter().map(|name| String::from_utf8_lossy(name)).collect::<Vec<_>>(), expected);
    assert!(bench.staging.read_dir(handle, rest.last().unwrap().next_offset, 10, true).unwrap().is_empty());
    let again = bench.staging.read_dir(handle, 0, 1000, true).unwrap();
    assert!(again.len() == 52 && again[2..].iter().all(|entry| entry.name.starts_with(b"g")), "from the start it begins anew");
    bench.staging.release_dir(handle);
    assert!(matches!(bench.staging.read_dir(handle, 0, 10, false), Err(FsError::BadHandle)));
}

#[test]
fn a_removed_directory_still_answers_but_takes_nothing() {
    let bench = Bench::new();
    let dir = bench.mkdir("d").node;
    bench.staging.remove_dir(&ROOT, TOP, b"d").unwrap();
    assert_eq!(bench.staging.attr(dir, None).unwrap().nlink, 0);
    assert!(matches!(bench.staging.lookup(dir, b"x"), Err(FsError::NotFound)));
    assert!(matches!(bench.staging.make_dir(&ROOT, dir, b"x", 0o755, 0), Err(FsError::NotFound)));
}

#[test]
fn new_files_belong_to_their_maker_or_to_the_group_of_a_set_gid_directory() {
    let bench = Bench::new();
    let plain = bench.staging.make_dir(&USER, TOP, b"plain", 0o777, 0o022).unwrap();
    assert_eq!((plain.uid, plain.gid, plain.perm), (1000, 1000, 0o755));
    let shared = bench.staging.make_dir(&ROOT, TOP, b"shared", 0o2775, 0).unwrap();
    let inside = bench.staging.make_dir(&USER, shared.node, b"inside", 0o755, 0).unwrap();
    assert_eq!((inside.uid, inside.gid, inside.perm), (1000, 0, 0o2755));
    let file = bench.staging.make_node(&USER, shared.node, b"file", FileKind::Fifo, 0o666, 0o027, 7).unwrap();
    assert_eq!((file.gid, file.perm, file.rdev), (0, 0o640, 0));
    let device = bench.staging.make_node(&ROOT, shared.node, b"device", FileKind::CharDevice, 0o600, 0, 0x103).unwrap();
    assert_eq!(device.rdev, 0x103);
}

#[test]
fn create_opens_what_is_there_unless_it_must_be_new() {
    let bench = Bench::new();
    bench.put("f", b"bytes");
    let create = |flags| bench.staging.create(&ROOT, TOP, b"f", 0o644, 0, libc::O_CREAT | libc::O_RDWR | flags);
    assert!(matches!(create(libc::O_EXCL), Err(FsError::Exists)));
    let (attr, opened) = create(0).unwrap();
    assert_eq!(attr.size, 5);
    bench.staging.release(opened.handle);
    let (attr, opened) = create(libc::O_TRUNC).unwrap();
    assert_eq!(attr.size, 0);
    bench.staging.release(opened.handle);
    bench.mkdir("d");
    let made = bench.staging.create(&ROOT, TOP, b"d", 0o644, 0, libc::O_CREAT | libc::O_RDWR);
    assert!(matches!(made, Err(FsError::IsDirectory)));
    assert_eq!(bench.staging.activity().writers, 0);
}
