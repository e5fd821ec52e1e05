//! Attributes, extended attributes and access lists.

use super::bench::{Bench, ROOT, TOP, USER};
use crate::clock::Timestamp;
use crate::tree::key::FileKind;
use crate::version::acl::{ACCESS, DEFAULT};
use crate::version::error::FsError;
use crate::version::staging::{Allocate, Caller, NodeRef, SetAttr, TimeSet, XattrMode};

const CAPABILITY: &[u8] = b"security.capability";

fn chmod(bench: &Bench, node: NodeRef, perm: u16) -> u16 {
    bench.staging.set_attr(&ROOT, node, None, &SetAttr { perm: Some(perm), ..SetAttr::default() }).unwrap().perm
}

fn perm(bench: &Bench, node: NodeRef) -> u16 {
    bench.staging.attr(node, None).unwrap().perm
}

/// An access list of entries (tag, permission, id), as the kernel writes it.
fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, perm, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(perm.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

const NONE: u32 = u32::MAX;

fn named(mask: u16) -> Vec<u8> {
    list(&[(1, 7, NONE), (2, 6, 1000), (4, 5, NONE), (0x10, mask, NONE), (0x20, 4, NONE)])
}

#[test]
fn set_id_bits_and_capabilities_go_when_the_bytes_or_the_owner_change() {
    let bench = Bench::new();
    let handle = bench.create("f");
    let node = bench.node("f");
    let arm = || {
        chmod(&bench, node, 0o6755);
        bench.staging.set_xattr(&ROOT, node, CAPABILITY, b"caps", XattrMode::Set).unwrap();
    };
    let armed = || bench.staging.get_xattr(node, CAPABILITY).is_ok();
    arm();
    bench.staging.write(&ROOT, handle, 0, b"root", false).unwrap();
    assert_eq!((perm(&bench, node), armed()), (0o6755, false), "root keeps the bits, nobody keeps capabilities");
    arm();
    bench.staging.write(&USER, handle, 0, b"user", true).unwrap();
    assert_eq!((perm(&bench, node), armed()), (0o755, false));
    arm();
    let cut = SetAttr { size: Some(1), ..SetAttr::default() };
    bench.staging.set_attr(&USER, node, None, &cut).unwrap();
    assert_eq!((perm(&bench, node), armed()), (0o755, false));
    arm();
    bench.staging.allocate(&USER, handle, Allocate::Extend, 0, 100).unwrap();
    assert_eq!((perm(&bench, node), armed()), (0o755, false));
    arm();
    let give = SetAttr { uid: Some(5), ..SetAttr::default() };
    assert_eq!(bench.staging.set_attr(&ROOT, node, None, &give).unwrap().perm, 0o755, "chown drops them for root as well");
    assert!(!armed());
    chmod(&bench, node, 0o2745);
    bench.staging.write(&USER, handle, 0, b"user", true).unwrap();
    assert_eq!(perm(&bench, node), 0o745, "who is not in the group takes its mark away");
    chmod(&bench, node, 0o2745);
    bench.staging.set_attr(&ROOT, node, None, &SetAttr { gid: Some(1000), ..SetAttr::default() }).unwrap();
    bench.staging.write(&USER, handle, 0, b"user", true).unwrap();
    assert_eq!(perm(&bench, node), 0o2745, "who is in the group leaves the mark where nobody runs the file");
    bench.staging.set_attr(&ROOT, node, None, &SetAttr { gid: Some(7), ..SetAttr::default() }).unwrap();
    let us = Caller { pid: std::process::id(), ..USER };
    let groups: Vec<u32> = nix::unistd::getgroups().unwrap().into_iter().map(nix::unistd::Gid::as_raw).collect();
    bench.staging.write(&us, handle, 0, b"user", true).unwrap();
    assert_eq!(perm(&bench, node) & 0o2000 != 0, groups.contains(&7), "other groups are the process's");
    arm();
    bench.staging.set_attr(&USER, node, None, &SetAttr::default()).unwrap();
    assert_eq!((perm(&bench, node), armed()), (0o755, false), "the kernel asks for it before a write in passthrough");
    let dir = bench.mkdir("d").node;
    chmod(&bench, dir, 0o2775);
    assert_eq!(bench.staging.set_attr(&ROOT, dir, None, &give).unwrap().perm, 0o2775, "directories keep theirs");
    bench.staging.release(handle);
}

#[test]
fn times_keep_nanoseconds_on_both_sides_of_1970_and_reading_changes_none() {
    let bench = Bench::new();
    bench.put("f", b"bytes");
    let node = bench.node("f");
    let (early, late) = (Timestamp { secs: -2, nanos: 800_000_000 }, Timestamp { secs: 5_000_000_000, nanos: 1 });
    let set = SetAttr { atime: Some(TimeSet::At(early)), mtime: Some(TimeSet::At(late)), ..SetAttr::default() };
    bench.staging.set_attr(&ROOT, node, None, &set).unwrap();
    assert_eq!(bench.get("f"), b"bytes");
    let attr = bench.staging.attr(node, None).unwrap();
    assert_eq!((attr.atime, attr.mtime), (early, late));
    let touch = SetAttr { mtime: Some(TimeSet::Now), ..SetAttr::default() };
    let attr = bench.staging.set_attr(&ROOT, node, None, &touch).unwrap();
    assert_eq!(attr.atime, early);
    assert!(attr.mtime < late && attr.mtime > early);
}

#[test]
fn a_length_that_is_the_same_is_no_change_unless_the_file_was_opened_to_be_cut() {
    let bench = Bench::new();
    bench.put("f", b"");
    let node = bench.node("f");
    let set = SetAttr { mtime: Some(TimeSet::At(Timestamp::default())), ..SetAttr::default() };
    bench.staging.set_attr(&ROOT, node, None, &set).unwrap();
    bench.staging.set_attr(&ROOT, node, None, &SetAttr { size: Some(0), ..SetAttr::default() }).unwrap();
    assert_eq!(bench.lookup("f").unwrap().mtime, Timestamp::default());
    let handle = bench.open_at("f", libc::O_WRONLY | libc::O_TRUNC);
    assert_ne!(bench.lookup("f").unwrap().mtime, Timestamp::default());
    bench.staging.release(handle);
}

#[test]
fn what_has_no_length_and_no_mode_refuses_one() {
    let bench = Bench::new();
    let dir = bench.mkdir("d").node;
    let link = bench.staging.symlink(&ROOT, TOP, b"l", b"d").unwrap().node;
    let fifo = bench.staging.make_node(&ROOT, TOP, b"p", FileKind::Fifo, 0o600, 0, 0).unwrap().node;
    let size = |node| bench.staging.set_attr(&ROOT, node, None, &SetAttr { size: Some(1), ..SetAttr::default() });
    assert!(matches!(size(dir), Err(FsError::IsDirectory)));
    assert!(matches!(size(link), Err(FsError::Invalid)));
    assert!(matches!(size(fifo), Err(FsError::Invalid)));
    let mode = SetAttr { perm: Some(0o600), ..SetAttr::default() };
    assert!(matches!(bench.staging.set_attr(&ROOT, link, None, &mode), Err(FsError::NotSupported)));
    assert!(matches!(bench.staging.open(&ROOT, dir, libc::O_RDONLY), Err(FsError::IsDirectory)));
}

#[test]
fn extended_attributes_keep_to_their_namespaces_and_limits() {
    let bench = Bench::new();
    bench.put("f", b"");
    let file = bench.node("f");
    let link = bench.staging.symlink(&ROOT, TOP, b"l", b"f").unwrap().node;
    let set = |node, name: &[u8], value: &[u8], mode| bench.staging.set_xattr(&ROOT, node, name, value, mode);
    set(file, b"user.a", b"1", XattrMode::Create).unwrap();
    assert!(matches!(set(file, b"user.a", b"2", XattrMode::Create), Err(FsError::Exists)));
    assert!(matches!(set(file, b"user.b", b"2", XattrMode::Replace), Err(FsError::NoData)));
    set(file, b"user.a", b"", XattrMode::Replace).unwrap();
    assert_eq!(bench.staging.get_xattr(file, b"user.a").unwrap(), b"");
    set(file, b"user.big", &[7; 65536], XattrMode::Set).unwrap();
    assert!(matches!(set(file, b"user.big", &[7; 65537], XattrMode::Set), Err(FsError::TooBig)));
    let mut name = b"user.".to_vec();
    name.resize(255, b'n');
    set(file, &name, b"", XattrMode::Set).unwrap();
    name.push(b'n');
    assert!(matches!(set(file, &name, b"", XattrMode::Set), Err(FsError::OutOfRange)));
    assert!(matches!(set(file, b"user.", b"", XattrMode::Set), Err(FsError::Invalid)));
    assert!(matches!(set(file, b"other.x", b"", XattrMode::Set), Err(FsError::NotSupported)));
    assert!(matches!(set(file, b"system.other", b"", XattrMode::Set), Err(FsError::NotSupported)));
    assert!(matches!(set(link, b"user.a", b"", XattrMode::Set), Err(FsError::NotPermitted)));
    assert!(matches!(bench.staging.get_xattr(link, b"user.a"), Err(FsError::NoData)));
    set(link, b"trusted.a", b"t", XattrMode::Set).unwrap();
    assert_eq!(bench.staging.list_xattrs(&ROOT, link).unwrap(), [b"trusted.a"]);
    assert!(bench.staging.list_xattrs(&USER, link).unwrap().is_empty());
    bench.staging.remove_xattr(&ROOT, file, b"user.a").unwrap();
    assert!(matches!(bench.staging.remove_xattr(&ROOT, file, b"user.a"), Err(FsError::NoData)));
}

#[test]
fn an_access_list_and_the_mode_say_the_same() {
    let bench = Bench::new();
    bench.put("f", b"");
    let node = bench.node("f");
    let set = |value: &[u8]| bench.staging.set_xattr(&ROOT, node, ACCESS, value, XattrMode::Set);
    set(&named(6)).unwrap();
    assert_eq!(perm(&bench, node), 0o764, "the group bits show the mask");
    chmod(&bench, node, 0o640);
    let expected = list(&[(1, 6, NONE), (2, 6, 1000), (4, 5, NONE), (0x10, 4, NONE), (0x20, 0, NONE)]);
    assert_eq!(bench.staging.get_xattr(node, ACCESS).unwrap(), expected);
    assert!(matches!(set(b"rubbish"), Err(FsError::Invalid)));
    set(&list(&[(1, 7, NONE), (4, 5, NONE), (0x20, 0, NONE)])).unwrap();
    assert_eq!(perm(&bench, node), 0o750);
    assert!(matches!(bench.staging.get_xattr(node, ACCESS), Err(FsError::NoData)), "the mode says it all");
    assert!(matches!(bench.staging.set_xattr(&ROOT, node, DEFAULT, &named(7), XattrMode::Set), Err(FsError::AccessDenied)));
    chmod(&bench, node, 0o2755);
    let stranger = Caller { uid: 1000, gid: 7, pid: 0 };
    bench.staging.set_xattr(&stranger, node, ACCESS, &named(5), XattrMode::Set).unwrap();
    assert_eq!(perm(&bench, node), 0o754, "who is not in the group loses set-group-id");
}

#[test]
fn a_default_list_is_inherited_instead_of_the_umask() {
    let bench = Bench::new();
    let dir = bench.mkdir("d").node;
    bench.staging.set_xattr(&ROOT, dir, DEFAULT, &named(7), XattrMode::Set).unwrap();
    let sub = bench.staging.make_dir(&USER, dir, b"sub", 0o777, 0o077).unwrap();
    assert_eq!(sub.perm, 0o774);
    assert_eq!(bench.staging.get_xattr(sub.node, DEFAULT).unwrap(), named(7));
    assert_eq!(bench.staging.get_xattr(sub.node, ACCESS).unwrap(), named(7));
    let (file, opened) = bench.staging.create(&USER, dir, b"f", 0o640, 0o077, libc::O_RDWR).unwrap();
    assert_eq!(file.perm, 0o640);
    assert!(matches!(bench.staging.get_xattr(file.node, DEFAULT), Err(FsError::NoData)));
    assert!(bench.staging.get_xattr(file.node, ACCESS).is_ok());
    bench.staging.release(opened.handle);
    let link = bench.staging.symlink(&USER, dir, b"l", b"f").unwrap();
    assert_eq!(link.perm, 0o777);
    assert!(bench.staging.list_xattrs(&ROOT, link.node).unwrap().is_empty());
}

#[test]
fn statfs_and_blocks_are_believable() {
    let bench = Bench::new();
    let figures = bench.staging.statfs().unwrap();
    assert!(figures.blocks > 0 && figures.free <= figures.blocks && figures.available <= figures.free && figures.name_max == 255);
    bench.put("small", &[1; 5000]);
    bench.put("large", &[1; 300_000]);
    let _ = bench.seal();
    assert_eq!(bench.lookup("small").unwrap().blocks, 16);
    let large = bench.lookup("large").unwrap().blocks * 512;
    assert!((300_000..400_000).contains(&large), "{large}");
}
