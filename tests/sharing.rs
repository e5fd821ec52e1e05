//! `copy_file_range` of what a version has sealed copies no bytes: the copy names the same objects.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use common::Sandbox;
use common::overlay::Overlay;
use nix::fcntl::copy_file_range;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 24 * MIB;

/// Nothing is sealed but by `commit`.
const CONFIG: &str = "[staging]\nsettle = \"1h\"\nmax_open = \"10h\"\n";

fn bytes() -> Vec<u8> {
    // No two blocks are the same, or the store would need them once for that reason.
    (0..SIZE / 8).flat_map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 3).to_le_bytes()).collect()
}

/// What the store takes on its disk.
fn taken(sandbox: &Sandbox) -> u64 {
    sandbox.status()["space"]["used"].as_u64().unwrap()
}

fn copy(from: &File, mut at: u64, to: &File, mut place: u64, mut len: u64) {
    while len > 0 {
        let (mut from_at, mut to_at) = (i64::try_from(at).unwrap(), i64::try_from(place).unwrap());
        let copied = copy_file_range(from, Some(&mut from_at), to, Some(&mut to_at), usize::try_from(len).unwrap()).unwrap() as u64;
        assert!(copied > 0, "at {at}");
        (at, place, len) = (at + copied, place + copied, len - copied);
    }
}

/// A new file is written by the kernel itself, in passthrough: there only the store finds, at the seal, that contents are equal. So is one
/// that was there, where the host shares blocks.
#[test]
fn a_copy_of_sealed_bytes_takes_no_room() {
    let sandbox = Sandbox::new();
    sandbox.init(CONFIG).mount();
    let ranges = if sandbox.status()["mode"] == "passthrough" { 6 * MIB + 77 } else { 0 };
    copies_take(&sandbox, ranges);
}

#[test]
fn a_copy_of_sealed_bytes_takes_no_room_without_passthrough() {
    let sandbox = Sandbox::new();
    let _overlay = Overlay::at(sandbox.store());
    let sandbox = sandbox;
    sandbox.init(CONFIG).mount();
    assert_eq!(sandbox.status()["mode"], "cached");
    copies_take(&sandbox, 0);
}

fn copies_take(sandbox: &Sandbox, room: u64) {
    let at = |name: &str| sandbox.staging().join(name);
    let mut expected = bytes();
    fs::write(at("source"), &expected).unwrap();
    fs::write(at("old"), vec![1; 6 << 20]).unwrap();
    sandbox.on(["commit", "--wait"]).expect(0);
    let before = taken(sandbox);
    assert!(before > SIZE);

    let source = File::open(at("source")).unwrap();
    let create = |name: &str| OpenOptions::new().read(true).write(true).create(true).truncate(false).open(at(name)).unwrap();
    // The whole, as cp does.
    copy(&source, 0, &create("whole"), 0, SIZE);
    // Ranges, to other places, the last one to the end; and into the middle of a file that was there.
    let ranges = create("ranges");
    copy(&source, 8 * MIB, &ranges, MIB, 4 * MIB);
    copy(&source, SIZE - MIB - 77, &ranges, 5 * MIB, MIB + 77);
    drop(ranges);
    copy(&source, 3, &create("old"), 2 * MIB, MIB);
    let mut patched = vec![0; 6 << 20];
    patched[1 << 20..5 << 20].copy_from_slice(&expected[8 << 20..12 << 20]);
    patched[5 << 20..].copy_from_slice(&expected[(SIZE - MIB - 77) as usize..(SIZE - 77) as usize]);
    patched.extend(&expected[(SIZE - 77) as usize..]);
    let mut old = vec![1; 6 << 20];
    old[2 << 20..3 << 20].copy_from_slice(&expected[3..3 + (1 << 20)]);
    let check = |whole: &[u8], dir: &Path| {
        assert!(fs::read(dir.join("whole")).unwrap() == whole, "{}", dir.display());
        assert!(fs::read(dir.join("ranges")).unwrap() == patched, "{}", dir.display());
        assert!(fs::read(dir.join("old")).unwrap() == old, "{}", dir.display());
    };
    check(&expected, &sandbox.staging());
    sandbox.on(["commit", "--wait"]).expect(0);
    check(&expected, &sandbox.mnt().join("versions/latest"));
    let grown = taken(sandbox).saturating_sub(before);
    assert!(grown < room + MIB, "{grown} bytes for copies of {} bytes", SIZE + 7 * MIB);

    // A copy goes its own way when it is written.
    create("whole").write_all_at(b"changed", 5 * MIB).unwrap();
    expected[5 << 20..(5 << 20) + 7].copy_from_slice(b"changed");
    check(&expected, &sandbox.staging());
    assert!(fs::read(at("source")).unwrap() == bytes());
    sandbox.on(["commit", "--wait"]).expect(0);
    let grown = taken(sandbox).saturating_sub(before);
    assert!(grown < room + 2 * MIB, "{grown} bytes");
    drop(source);
    sandbox.unmount();
    sandbox.mount();
    check(&expected, &sandbox.staging());
    sandbox.unmount();
}

/// The kernel does not hand FICLONE to FUSE: programs that ask for it copy.
#[test]
fn a_clone_by_ioctl_is_refused_as_where_there_is_none() {
    let sandbox = Sandbox::new();
    sandbox.init(CONFIG).mount();
    fs::write(sandbox.staging().join("source"), "bytes").unwrap();
    let (from, to) = (File::open(sandbox.staging().join("source")).unwrap(), File::create(sandbox.staging().join("copy")).unwrap());
    assert_eq!(rustix::fs::ioctl_ficlone(&to, &from), Err(rustix::io::Errno::OPNOTSUPP));
    drop((from, to));
    let mut cp = std::process::Command::new("cp");
    assert!(cp.args(["--reflink=auto", "source", "copy"]).current_dir(sandbox.staging()).status().unwrap().success());
    assert_eq!(fs::read_to_string(sandbox.staging().join("copy")).unwrap(), "bytes");
    sandbox.unmount();
}
