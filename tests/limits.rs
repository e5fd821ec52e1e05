//! The limits that programs meet are ext4's.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;

use common::Sandbox;

/// ext4's `EXT4_LINK_MAX`.
const LINK_MAX: u64 = 65_000;

#[test]
fn a_file_has_at_most_as_many_links_as_on_ext4() {
    let sandbox = Sandbox::new();
    sandbox.init("").mount();
    let (file, links) = (sandbox.staging().join("file"), sandbox.staging().join("links"));
    fs::write(&file, "content").unwrap();
    fs::create_dir(&links).unwrap();
    for number in 1..LINK_MAX {
        fs::hard_link(&file, links.join(number.to_string())).unwrap();
    }
    assert_eq!(fs::metadata(&file).unwrap().nlink(), LINK_MAX);
    let refused = fs::hard_link(&file, links.join("one too many")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(nix::libc::EMLINK));
    fs::remove_file(links.join("7")).unwrap();
    fs::hard_link(&file, links.join("in its place")).unwrap();
    sandbox.unmount();
}

#[test]
fn names_are_255_arbitrary_bytes() {
    use std::os::unix::ffi::OsStrExt;
    let sandbox = Sandbox::new();
    sandbox.init("").mount();
    let name: Vec<u8> = (1..=255).map(|byte| if byte == b'/' { b'x' } else { byte }).collect();
    let path = sandbox.staging().join(std::ffi::OsStr::from_bytes(&name));
    fs::write(&path, "content").unwrap();
    let listed = fs::read_dir(sandbox.staging()).unwrap().next().unwrap().unwrap().file_name();
    assert_eq!(listed.as_bytes(), name);
    let longer = sandbox.staging().join("x".repeat(256));
    assert_eq!(fs::write(longer, "").unwrap_err().raw_os_error(), Some(nix::libc::ENAMETOOLONG));
    sandbox.unmount();
}
