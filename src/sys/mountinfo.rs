//! `/proc/self/mountinfo`, as far as it is needed to tell our mounts from strangers'.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// A mounted filesystem, as one line of `mountinfo` tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// The mount's number.
    pub id: u64,
    /// The filesystem's device ("0:57"); once it is gone, another may get the number.
    pub device: String,
    /// The directory of the filesystem that is mounted ("/" but for bind mounts).
    pub root: PathBuf,
    /// Where.
    pub mount_point: PathBuf,
    /// The filesystem's type ("fuse.shadowfs").
    pub kind: String,
    /// The source as it was given.
    pub source: OsString,
}

/// Everything that is mounted exactly at `path`: a path walk ends on the last one.
///
/// # Errors
/// `/proc` can't be read.
pub fn stack_at(path: &Path) -> io::Result<Vec<MountEntry>> {
    let mut mounts = parse(&std::fs::read("/proc/self/mountinfo")?);
    mounts.retain(|mount| mount.mount_point == path);
    Ok(mounts)
}

/// The mount that a path walk to `path` ends on, if one is mounted exactly there.
///
/// # Errors
/// `/proc` can't be read.
pub fn mounted_at(path: &Path) -> io::Result<Option<MountEntry>> {
    Ok(stack_at(path)?.pop())
}

/// Every mount below `path` (not at it), in the order in which they were made.
///
/// # Errors
/// `/proc` can't be read.
pub fn mounted_below(path: &Path) -> io::Result<Vec<MountEntry>> {
    let mut mounts = parse(&std::fs::read("/proc/self/mountinfo")?);
    mounts.retain(|mount| mount.mount_point != path && mount.mount_point.starts_with(path));
    Ok(mounts)
}

fn parse(text: &[u8]) -> Vec<MountEntry> {
    text.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let _parent = fields.next()?;
    let device = String::from_utf8_lossy(fields.next()?).into_owned();
    let root = path_of(fields.next()?);
    let mount_point = path_of(fields.next()?);
    // Options and any number of optional fields, up to a lone dash.
    fields.by_ref().find(|field| *field == b"-")?;
    let kind = String::from_utf8_lossy(fields.next()?).into_owned();
    let source = OsString::from_vec(unescape(fields.next()?));
    Some(MountEntry { id, device, root, mount_point, kind, source })
}

fn path_of(field: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(unescape(field)))
}

/// Undoes the kernel's `\040` for blanks, tabs, newlines and backslashes.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = |digits: &[u8]| digits.iter().try_fold(0_u32, |n, d| matches!(d, b'0'..=b'7').then(|| n * 8 + u32::from(d - b'0')));
        match (first, tail.get(..3).and_then(octal).and_then(|code| u8::try_from(code).ok())) {
            (b'\\', Some(byte)) => {
                out.push(byte);
                rest = &tail[3..];
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

/// Whether the bytes of `path` can be a mount's source without being cut or read as something else.
#[must_use]
pub fn printable_source(path: &Path) -> OsString {
    // fusermount splits its option string at commas and unescapes backslashes; a name shown to people loses nothing by an underscore.
    let clean = path.as_os_str().as_bytes().iter().map(|byte| if matches!(byte, b',' | b'\\' | 0..=31 | 127) { b'_' } else { *byte });
    OsString::from_vec(clean.collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn lines_are_read_with_their_escapes_and_optional_fields() {
        let text = b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue\n\
            57 36 0:44 / /a\\040b\\134c ro,nosuid,nodev - fuse.shadowfs store ro,user_id=0\nnonsense\n";
        let mounts = parse(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!((mounts[0].id, mounts[0].root.as_path(), mounts[0].kind.as_str()), (36, Path::new("/mnt1"), "ext3"));
        assert_eq!(mounts[1].mount_point, Path::new("/a b\\c"));
        assert_eq!((mounts[1].device.as_str(), mounts[1].kind.as_str()), ("0:44", "fuse.shadowfs"));
    }

    #[test]
    fn the_machine_s_own_root_is_a_mount() {
        assert!(mounted_at(Path::new("/")).unwrap().is_some());
        assert!(mounted_at(Path::new("/no/such/place")).unwrap().is_none());
        assert!(mounted_below(Path::new("/")).unwrap().iter().any(|mount| mount.mount_point == Path::new("/proc")));
    }

    #[test]
    fn a_source_can_not_carry_options() {
        assert_eq!(printable_source(Path::new("/srv/a,allow_other,suid\\b")), "/srv/a_allow_other_suid_b");
    }
}
