//! Filesystems whose files can share blocks, real ones on loop devices: a file of a sealed version that is written again takes no more
//! room than what changed, and is written by the kernel itself. Needs root, a loop device, and mkfs.xfs and mkfs.btrfs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use common::Sandbox;
use common::filesystem::Filesystem;

const MIB: u64 = 1 << 20;
/// The file that is written again and again.
const SIZE: u64 = 64 * MIB;
const BLOCK: u64 = 4096;
/// Nothing is sealed but by `commit`.
const CONFIG: &str = "[staging]\nsettle = \"1h\"\nmax_open = \"10h\"\n[promotion]\nmode = \"manual\"\n";

/// Bytes of which no two blocks are the same.
fn noise() -> Vec<u8> {
    (0..SIZE / 8).flat_map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 3).to_le_bytes()).collect()
}

/// Requests of the kernel to staging, but for those that any look at a file makes.
fn requests(sandbox: &Sandbox) -> BTreeMap<String, u64> {
    let status = sandbox.status();
    let requests = status["requests"]["staging"].as_object().unwrap();
    requests.iter().filter(|(op, _)| ["read", "write"].contains(&op.as_str())).map(|(op, n)| (op.clone(), n.as_u64().unwrap())).collect()
}

/// An access list with a user of its own.
fn acl() -> Vec<u8> {
    let entry = |tag: u16, bits: u16, id: u32| [&tag.to_le_bytes()[..], &bits.to_le_bytes(), &id.to_le_bytes()].concat();
    let none = u32::MAX;
    let list = [entry(1, 6, none), entry(2, 4, 1000), entry(4, 4, none), entry(16, 4, none), entry(32, 0, none)];
    [2_u32.to_le_bytes().to_vec(), list.concat()].concat()
}

fn open(sandbox: &Sandbox) -> File {
    OpenOptions::new().read(true).write(true).open(sandbox.staging().join("large")).unwrap()
}

fn same(path: &Path, expected: &[u8]) {
    assert!(fs::read(path).unwrap() == expected, "{}", path.display());
}

/// Writes blocks of 4 KiB, spread over the file.
fn write_blocks(file: &File, expected: &mut [u8], count: u64, seed: u64) {
    for n in 0..count {
        let at = (n.wrapping_mul(2_654_435_761).wrapping_add(seed * 7919) % (SIZE / BLOCK)) * BLOCK;
        let block = vec![(n + seed) as u8; BLOCK as usize];
        file.write_all_at(&block, at).unwrap();
        expected[at as usize..(at + BLOCK) as usize].copy_from_slice(&block);
    }
}

fn shares(kind: &str) {
    let Some(host) = Filesystem::new(kind, 512) else { return };
    let sandbox = Sandbox::below(&host.path());
    sandbox.init(CONFIG).mount();
    let passthrough = sandbox.status()["mode"] == "passthrough";
    let first = noise();
    fs::write(sandbox.staging().join("large"), &first).unwrap();
    sandbox.on(["commit", "--wait"]).expect(0);
    let before = host.used();
    let told = |sandbox: &Sandbox| sandbox.status()["space"]["used"].as_u64().unwrap();
    let told_before = told(&sandbox);

    // The first write into the sealed file, and those that follow.
    let mut expected = first.clone();
    let asked = requests(&sandbox);
    let file = open(&sandbox);
    write_blocks(&file, &mut expected, 100, 1);
    if passthrough {
        assert_eq!(requests(&sandbox), asked, "the kernel writes by itself");
    }
    same(&sandbox.staging().join("large"), &expected);
    file.sync_all().unwrap();
    same(&sandbox.mnt().join("versions/t1/large"), &first);
    drop(file);
    sandbox.on(["commit", "--wait"]).expect(0);
    let grown = host.used() - before;
    // xfs sets 128 KiB aside for each place that is written, and takes that back after some minutes.
    assert!(grown < 20 * MIB, "{grown} bytes for 100 blocks of 4 KiB in {SIZE}");
    assert!(told(&sandbox) - told_before < 20 * MIB, "{} bytes, as the store tells", told(&sandbox) - told_before);

    // A version for every block.
    let mut versions = vec![first, expected.clone()];
    let (before, told_before) = (host.used(), told(&sandbox));
    for version in 0..20 {
        write_blocks(&open(&sandbox), &mut expected, 1, version);
        sandbox.on(["commit", "--wait"]).expect(0);
        if version % 7 == 0 {
            versions.push(expected.clone());
        } else {
            versions.push(Vec::new());
        }
    }
    let grown = host.used() - before;
    assert!(grown < 20 * MIB, "{grown} bytes for 20 versions with a block of 4 KiB each");
    assert!(told(&sandbox) - told_before < 20 * MIB, "{} bytes, as the store tells", told(&sandbox) - told_before);

    // A change that is not sealed survives a kill, and all versions have their bytes.
    let file = open(&sandbox);
    write_blocks(&file, &mut expected, 10, 50);
    file.sync_all().unwrap();
    Sandbox::kill(sandbox.status()["pid"].as_u64().unwrap());
    drop(file);
    sandbox.mount();
    same(&sandbox.staging().join("large"), &expected);
    for (n, bytes) in versions.iter().enumerate().filter(|(_, bytes)| !bytes.is_empty()) {
        same(&sandbox.mnt().join(format!("versions/t{}/large", n + 1)), bytes);
    }
    sandbox.on(["scrub"]).expect(0);
    sandbox.on(["lineage", "verify"]).expect(0);
    sandbox.unmount();
}

#[test]
fn a_file_of_a_sealed_version_shares_its_blocks_with_its_next_version_on_xfs() {
    shares("xfs");
}

#[test]
fn a_file_of_a_sealed_version_shares_its_blocks_with_its_next_version_on_btrfs() {
    shares("btrfs");
}

/// `init --from` a directory of the same filesystem takes its bytes over without a copy, and each goes its own way from then on.
#[test]
fn what_is_brought_in_from_the_same_filesystem_is_shared() {
    let Some(host) = ["xfs", "btrfs"].into_iter().find_map(|kind| Filesystem::new(kind, 512)) else { return };
    let sandbox = Sandbox::below(&host.path());
    let from = sandbox.path("from");
    fs::create_dir(&from).unwrap();
    let first = noise();
    fs::write(from.join("large"), &first).unwrap();
    // xfs shows root a second one for each: what it is on the disk.
    rustix::fs::lsetxattr(from.join("large"), "system.posix_acl_access", &acl(), rustix::fs::XattrFlags::empty()).unwrap();
    let before = host.used();
    sandbox.init_from(&from, &CONFIG.replace("mode = \"manual\"", "window = \"50ms\"\nrequire_free = \"0%\"")).mount();
    // The store's own files, among them its reserve of 32 MiB, and no 64 MiB.
    let grown = host.used() - before;
    assert!(grown < SIZE, "{grown}");
    let mut names = [0; 1000];
    let len = rustix::fs::llistxattr(sandbox.production().join("large"), &mut names[..]).unwrap();
    assert_eq!(&names[..len], b"system.posix_acl_access\0");
    let mut expected = first.clone();
    write_blocks(&open(&sandbox), &mut expected, 10, 3);
    OpenOptions::new().write(true).open(from.join("large")).unwrap().write_all_at(b"elsewhere", 12_345).unwrap();
    same(&sandbox.staging().join("large"), &expected);
    same(&sandbox.production().join("large"), &first);
    sandbox.on(["commit", "--wait"]).expect(0);
    sandbox.on(["wait", "t1", "--promoted"]).expect(0);
    same(&sandbox.mnt().join("versions/t1/large"), &expected);
    same(&sandbox.mnt().join("versions/t0/large"), &first);
    // What its version leaves behind goes when that does, and what others share stays.
    sandbox.on(["scrub"]).expect(0);
    fs::remove_file(sandbox.staging().join("large")).unwrap();
    sandbox.on(["commit", "--wait"]).expect(0);
    sandbox.on(["wait", "t2", "--promoted"]).expect(0);
    sandbox.on(["drop", "t1"]).expect(0);
    sandbox.on(["gc"]).expect(0);
    same(&sandbox.mnt().join("versions/t0/large"), &first);
    sandbox.on(["scrub"]).expect(0);
    sandbox.unmount();
}
