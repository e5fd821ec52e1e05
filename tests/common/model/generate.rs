//! Random operations.

use proptest::prelude::*;

use super::{Acl, CAPABILITIES, CAPABILITY, Claim, Fallocate, Kind, Lock, Name, Op, OpenHow, Path, Rename, SLOTS, Time, bytes};

/// What most operations are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Focus {
    /// Making, moving and removing names, three directories deep.
    Names,
    /// The bytes of a few files that are often opened and closed.
    Bytes,
}

/// Sizes and offsets come in units of `unit` bytes, and now and then a few bytes off.
pub fn op(unit: u64, uids: &'static [u32], focus: Focus) -> impl Strategy<Value = Op> {
    let bytes = u32::from(focus == Focus::Bytes);
    let names = u32::from(focus == Focus::Names);
    prop_oneof![
        2 + 8 * names => name_op(uids, focus),
        1 => attribute_op(unit, uids, focus),
        1 + 6 * bytes => byte_op(unit, uids, focus),
    ]
}

fn path(focus: Focus, least: usize) -> impl Strategy<Value = Path> {
    let name = prop::sample::select(vec![b"a".to_vec(), b"b".to_vec(), b"c".to_vec()]);
    let longest = if focus == Focus::Names { 3 } else { 1 };
    (prop::collection::vec(name, 3), least..10_usize).prop_map(move |(mut path, len)| {
        // Short ones are the most: what is deep needs directories above it.
        path.truncate([0, 1, 1, 1, 1, 2, 2, 2, 2, 3][len].min(longest));
        path
    })
}

fn name_op(uids: &'static [u32], focus: Focus) -> impl Strategy<Value = Op> {
    let path = move || path(focus, 1);
    let slot = || 0..SLOTS;
    let uid = move || prop::sample::select(uids);
    let how = prop::sample::select(vec![Rename::Replace, Rename::Replace, Rename::NoReplace, Rename::Exchange]);
    let kind = prop::sample::select(vec![Kind::Fifo, Kind::Socket, Kind::Device]);
    let dirs = if focus == Focus::Names { 8 } else { 0 };
    prop_oneof![
        10 => (path(), mode(), slot(), uid(), any::<bool>())
            .prop_map(|(path, mode, slot, uid, exclusive)| Op::Create { path, mode, slot, uid, exclusive }),
        dirs => (path(), mode(), uid()).prop_map(|(path, mode, uid)| Op::Mkdir { path, mode, uid }),
        dirs / 4 => (path(), kind, mode()).prop_map(|(path, kind, mode)| Op::Mknod { path, kind, mode }),
        dirs / 4 => path().prop_map(|path| Op::Symlink { path, target: b"no/where".to_vec() }),
        5 => (path(), path()).prop_map(|(from, to)| Op::Link { from, to }),
        4 => path().prop_map(|path| Op::Unlink { path }),
        3 => path().prop_map(|path| Op::Rmdir { path }),
        8 => (path(), path(), how).prop_map(|(from, to, how)| Op::Rename { from, to, how }),
        2 => self::path(focus, 0).prop_map(|path| Op::List { path }),
    ]
}

fn mode() -> impl Strategy<Value = u32> {
    // None that is sticky and open to others: the kernel keeps root out of other people's files there (fs.protected_regular).
    prop::sample::select(vec![0o644_u32, 0o755, 0o600, 0o2775, 0o4755, 0o6711, 0o1755, 0o2664])
}

fn attribute_op(unit: u64, uids: &'static [u32], focus: Focus) -> impl Strategy<Value = Op> {
    let anywhere = move || path(focus, 0);
    let uid = move || prop::sample::select(uids);
    let name = || prop::sample::select(vec![b"user.x".to_vec(), b"user.y".to_vec(), b"trusted.z".to_vec(), CAPABILITY.to_vec()]);
    let time = || prop::option::weighted(0.8, (-5_000_000_000..5_000_000_000_i64, 0..1_000_000_000_u32));
    prop_oneof![
        3 => (anywhere(), mode()).prop_map(|(path, mode)| Op::Chmod { path, mode: mode as u16 }),
        2 => (anywhere(), uid(), uid()).prop_map(|(path, uid, gid)| Op::Chown { path, uid, gid }),
        4 => (anywhere(), at(unit), uid()).prop_map(|(path, size, uid)| Op::Truncate { path, size, uid }),
        2 => (anywhere(), time(), time()).prop_map(|(path, atime, mtime): (Path, Option<Time>, Option<Time>)| {
            // Neither: utimensat(2) does not even look for the file.
            Op::Times { path, atime, mtime: mtime.or(atime.is_none().then_some((0, 0))) }
        }),
        4 => (anywhere(), name(), 0..40_usize, any::<bool>(), any::<bool>()).prop_map(|(path, name, len, create, replace)| {
            let value = if name == CAPABILITY { CAPABILITIES.to_vec() } else { bytes(len as u8, len) };
            Op::SetXattr { path, name, value, create, replace: replace && !create }
        }),
        2 => (anywhere(), name()).prop_map(|(path, name): (Path, Name)| Op::RemoveXattr { path, name }),
        4 => (anywhere(), any::<bool>(), prop::option::weighted(0.8, acl())).prop_map(|(path, default, acl)| Op::SetAcl { path, default, acl }),
    ]
}

fn acl() -> impl Strategy<Value = Acl> {
    let perm = || 0..8_u16;
    let named = || prop::option::of(0..8_u16);
    (perm(), named(), perm(), named(), named(), perm()).prop_map(|(owner, user, group, named_group, mask, other)| {
        let needed = (user.is_some() || named_group.is_some()).then_some(5);
        Acl { owner, user, group, named_group, mask: mask.or(needed), other }
    })
}

fn at(unit: u64) -> impl Strategy<Value = u64> {
    (0..12_u64, 0..3_u64).prop_map(move |(units, off)| units * unit + off)
}

fn how() -> impl Strategy<Value = OpenHow> {
    let of = prop::bool::weighted;
    (of(0.7), of(0.2), of(0.1), of(0.15)).prop_map(|(write, append, truncate, direct)| OpenHow {
        write,
        append: write && append && !direct,
        truncate: write && truncate,
        direct,
    })
}

fn byte_op(unit: u64, uids: &'static [u32], focus: Focus) -> impl Strategy<Value = Op> {
    let slot = || 0..SLOTS;
    let len = move || at(unit).prop_map(|len| len.max(1));
    let uid = move || prop::sample::select(uids);
    let open = (path(focus, 1), slot(), how());
    let allocate = prop::sample::select(vec![
        Fallocate::Extend,
        Fallocate::KeepSize,
        Fallocate::Punch,
        Fallocate::Zero,
        Fallocate::ZeroKeepSize,
        Fallocate::Collapse,
        Fallocate::Insert,
    ]);
    prop_oneof![
        12 => open.prop_map(|(path, slot, how)| Op::Open { path, slot, how }),
        14 => slot().prop_map(|slot| Op::Close { slot }),
        4 => (slot(), at(unit), len()).prop_map(|(slot, offset, len)| Op::Read { slot, offset, len: len as usize }),
        16 => (slot(), at(unit), len(), any::<u8>(), uid()).prop_map(|(slot, offset, len, seed, uid)| {
            Op::Write { slot, offset, len: len as usize, seed, uid }
        }),
        2 => (slot(), any::<bool>()).prop_map(|(slot, shared)| Op::ReadMap { slot, shared }),
        6 => (slot(), at(unit), len(), any::<u8>(), prop::bool::weighted(0.8)).prop_map(|(slot, offset, len, seed, shared)| {
            Op::Map { slot, offset, len: len as usize, seed, shared }
        }),
        3 => (slot(), at(unit), uid()).prop_map(|(slot, size, uid)| Op::Resize { slot, size, uid }),
        5 => (slot(), allocate, at(unit), len(), uid()).prop_map(|(slot, how, offset, len, uid)| Op::Fallocate { slot, how, offset, len, uid }),
        3 => (slot(), at(unit), slot(), at(unit), len()).prop_map(|(from, offset, to, to_offset, len)| {
            Op::Copy { from, offset, to, to_offset, len }
        }),
        2 => (slot(), slot()).prop_map(move |(from, to)| Op::Copy { from, offset: 0, to, to_offset: 0, len: unit * 64 }),
        3 => (slot(), at(unit)).prop_map(|(slot, offset)| Op::Sparse { slot, offset }),
        1 => slot().prop_map(|slot| Op::Fsync { slot }),
    ]
}

/// Locks of open files: for drivers that have a kernel, whose they are.
pub fn lock() -> impl Strategy<Value = Op> {
    let claim = || prop::sample::select(vec![Claim::Shared, Claim::Exclusive, Claim::None]);
    let range = || (claim(), 0..4_u64, 0..3_u64);
    let lock = prop_oneof![
        claim().prop_map(Lock::Whole),
        range().prop_map(|(claim, from, len)| Lock::OfProcess { claim, from, len }),
        range().prop_map(|(claim, from, len)| Lock::OfFile { claim, from, len }),
    ];
    (0..SLOTS, lock).prop_map(|(slot, lock)| Op::Lock { slot, lock })
}
