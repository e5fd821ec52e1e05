//! A tar archive as the destination, in the pax format: names of any length and bytes, times to the nanosecond, large numbers, extended
//! attributes (`SCHILY.xattr`) and access lists (`SCHILY.acl`), as GNU tar and bsdtar know them, and sparse files as GNU tar writes them.

use std::io::{self, Cursor, Read, Write};
use std::os::unix::fs::MetadataExt;

use tar::{Builder, EntryType, Header};

use super::source::{Entry, Kind, Ranges, Sink, bytes_of};
use super::{failed, failed_at};
use crate::cli::exit::Result;
use crate::cli::output::quoted;

/// The most that eleven octal digits hold, and seven.
const MOST_SIZE: u64 = 0o77_777_777_777;
const MOST_ID: u32 = 0o7_777_777;
const BLOCK: usize = 512;

pub(super) struct Archive<W: Write> {
    builder: Builder<W>,
    left_out: Vec<String>,
}

/// The records of an extended header, in order.
type Records = Vec<(String, Vec<u8>)>;

impl<W: Write> Archive<W> {
    pub(super) fn new(to: W) -> Self {
        Self { builder: Builder::new(to), left_out: Vec::new() }
    }

    fn append(&mut self, entry: &Entry, kind: &Kind) -> io::Result<()> {
        let name = name_of(entry, matches!(kind, Kind::Directory));
        let mut header = header_of(entry);
        let mut records = Records::new();
        times(entry, &mut header, &mut records);
        ids(entry, &mut header, &mut records);
        if !matches!(kind, Kind::HardLink(_)) {
            attributes(entry, &mut records);
        }
        match kind {
            Kind::File(file, ranges) if ranges.iter().map(|(_, len)| len).sum::<u64>() < entry.data.len() => {
                return self.append_sparse(&name, header, records, file, ranges, entry.data.len());
            }
            Kind::File(file, ranges) => {
                header.set_entry_type(EntryType::Regular);
                set_size(entry.data.len(), &mut header, &mut records);
                return self.write(&name, header, records, Ranges::new(file, ranges));
            }
            Kind::Directory => header.set_entry_type(EntryType::Directory),
            Kind::Symlink(target) => {
                header.set_entry_type(EntryType::Symlink);
                set_link(&bytes_of(target), &mut header, &mut records);
            }
            Kind::HardLink(first) => {
                header.set_entry_type(EntryType::Link);
                set_link(&[b"./", bytes_of(first).as_slice()].concat(), &mut header, &mut records);
            }
            Kind::Fifo => header.set_entry_type(EntryType::Fifo),
            Kind::CharDevice | Kind::BlockDevice => {
                header.set_entry_type(if matches!(kind, Kind::CharDevice) { EntryType::Char } else { EntryType::Block });
                let device = entry.data.rdev();
                header.set_device_major(rustix::fs::major(device))?;
                header.set_device_minor(rustix::fs::minor(device))?;
            }
            Kind::Socket => {
                self.left_out.push(format!("{}: a socket has no place in an archive", quoted(&name)));
                return Ok(());
            }
        }
        self.write(&name, header, records, io::empty())
    }

    /// GNU tar's format 1.0: a map of the data, then the data.
    fn append_sparse(
        &mut self,
        name: &[u8],
        mut header: Header,
        mut records: Records,
        file: &std::fs::File,
        ranges: &[(u64, u64)],
        len: u64,
    ) -> io::Result<()> {
        let mut map = format!("{}\n", ranges.len() + 1);
        for (offset, len) in ranges.iter().copied().chain([(len, 0)]) {
            map.push_str(&format!("{offset}\n{len}\n"));
        }
        let mut map = map.into_bytes();
        map.resize(map.len().next_multiple_of(BLOCK), 0);
        let size = map.len() as u64 + ranges.iter().map(|(_, len)| len).sum::<u64>();
        for (key, value) in
            [("major", b"1".to_vec()), ("minor", b"0".to_vec()), ("name", name.to_vec()), ("realsize", len.to_string().into())]
        {
            records.push((format!("GNU.sparse.{key}"), value));
        }
        header.set_entry_type(EntryType::Regular);
        set_size(size, &mut header, &mut records);
        // What a tar that does not know the format sees.
        let slash = name.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
        let (dir, file_name) = name.split_at(slash);
        self.write(&[dir, b"GNUSparseFile.0/", file_name].concat(), header, records, Cursor::new(map).chain(Ranges::new(file, ranges)))
    }

    /// Names are written as the bytes that they are, whatever their encoding, as GNU tar does.
    fn write(&mut self, name: &[u8], mut header: Header, mut records: Records, data: impl Read) -> io::Result<()> {
        set_text(name, "path", &mut header, &mut records);
        if !records.is_empty() {
            self.builder.append_pax_extensions(records.iter().map(|(key, value)| (key.as_str(), value.as_slice())))?;
        }
        header.set_cksum();
        self.builder.append(&header, data)
    }
}

impl<W: Write> Sink for Archive<W> {
    fn put(&mut self, entry: &Entry, kind: &mut Kind) -> Result {
        self.append(entry, kind).map_err(|error| failed_at(&entry.source, "can't be archived", error))
    }

    fn finish(&mut self) -> Result {
        // A failed write is told here, not by a drop.
        let done = self.builder.finish().and_then(|()| self.builder.get_mut().flush());
        done.map_err(|error| failed("the archive can't be completed", error))
    }

    fn left_out(&mut self) -> Vec<String> {
        std::mem::take(&mut self.left_out)
    }
}

/// As `tar .` names it.
fn name_of(entry: &Entry, directory: bool) -> Vec<u8> {
    let mut name = [b"./", bytes_of(&entry.path).as_slice()].concat();
    if directory && name != b"./" {
        name.push(b'/');
    }
    name
}

fn header_of(entry: &Entry) -> Header {
    let mut header = Header::new_ustar();
    header.set_mode(entry.data.mode() & 0o7777);
    header.set_size(0);
    header
}

fn times(entry: &Entry, header: &mut Header, records: &mut Records) {
    let data = &entry.data;
    let whole = u64::try_from(data.mtime()).ok().filter(|secs| *secs <= MOST_SIZE);
    header.set_mtime(whole.unwrap_or(0));
    for (key, secs, nanos) in [("mtime", data.mtime(), data.mtime_nsec()), ("atime", data.atime(), data.atime_nsec())] {
        if key == "atime" || nanos != 0 || whole.is_none() {
            records.push((key.to_owned(), decimal(secs, nanos).into_bytes()));
        }
    }
}

/// Seconds with their fraction. Before 1970 the fraction counts the other way than the kernel's nanoseconds.
fn decimal(secs: i64, nanos: i64) -> String {
    let text = match (secs, nanos) {
        (secs, 0) => return secs.to_string(),
        (secs, nanos) if secs >= 0 => format!("{secs}.{nanos:09}"),
        (secs, nanos) => format!("-{}.{:09}", (secs + 1).unsigned_abs(), 1_000_000_000 - nanos),
    };
    text.trim_end_matches('0').to_owned()
}

fn ids(entry: &Entry, header: &mut Header, records: &mut Records) {
    let (uid, gid) = (entry.data.uid(), entry.data.gid());
    header.set_uid(u64::from(if uid <= MOST_ID { uid } else { 0 }));
    header.set_gid(u64::from(if gid <= MOST_ID { gid } else { 0 }));
    for (key, id) in [("uid", uid), ("gid", gid)] {
        if id > MOST_ID {
            records.push((key.to_owned(), id.to_string().into_bytes()));
        }
    }
}

fn attributes(entry: &Entry, records: &mut Records) {
    for (name, value) in &entry.xattrs {
        // A record's key is text and has no "="; there is no other place for such a name.
        let Some(name) = std::str::from_utf8(name).ok().filter(|name| !name.contains('=')) else { continue };
        let list = match name {
            "system.posix_acl_access" => Some("SCHILY.acl.access"),
            "system.posix_acl_default" => Some("SCHILY.acl.default"),
            _ => None,
        };
        match list.and_then(|key| Some((key, acl_text(value)?))) {
            Some((key, text)) => records.push((key.to_owned(), text.into_bytes())),
            None => records.push((format!("SCHILY.xattr.{name}"), value.clone())),
        }
    }
}

/// An access list as text, with numeric ids; `None` if it is not in the kernel's form.
fn acl_text(value: &[u8]) -> Option<String> {
    let (version, entries) = value.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != 2 || entries.len() % 8 != 0 {
        return None;
    }
    let mut lines = Vec::new();
    for entry in entries.chunks_exact(8) {
        let number = |at: usize| Some(u16::from_le_bytes([*entry.get(at)?, *entry.get(at + 1)?]));
        let id = u32::from(number(4)?) | u32::from(number(6)?) << 16;
        let who = match number(0)? {
            0x01 => "user:".to_owned(),
            0x02 => format!("user:{id}"),
            0x04 => "group:".to_owned(),
            0x08 => format!("group:{id}"),
            0x10 => "mask:".to_owned(),
            0x20 => "other:".to_owned(),
            _ => return None,
        };
        let bits = number(2)?;
        let may = |bit: u16, letter: char| if bits & bit == 0 { '-' } else { letter };
        lines.push(format!("{who}:{}{}{}", may(4, 'r'), may(2, 'w'), may(1, 'x')));
    }
    Some(lines.join("\n") + "\n")
}

fn set_size(size: u64, header: &mut Header, records: &mut Records) {
    header.set_size(size.min(MOST_SIZE));
    if size > MOST_SIZE {
        records.push(("size".to_owned(), size.to_string().into_bytes()));
    }
}

fn set_link(target: &[u8], header: &mut Header, records: &mut Records) {
    set_text(target, "linkpath", header, records);
}

/// A path in the header, and in a record if it does not fit there or is not plain.
fn set_text(text: &[u8], key: &str, header: &mut Header, records: &mut Records) {
    if let Some(ustar) = header.as_ustar_mut() {
        let field = if key == "path" { &mut ustar.name } else { &mut ustar.linkname };
        for (to, from) in field.iter_mut().zip(text) {
            *to = *from;
        }
        if text.len() > field.len() || !text.is_ascii() {
            records.push((key.to_owned(), text.to_vec()));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn times_before_1970_count_backwards() {
        for (secs, nanos, expected) in [
            (0, 0, "0"),
            (5, 0, "5"),
            (5, 250_000_000, "5.25"),
            (5, 1, "5.000000001"),
            (-1, 750_000_000, "-0.25"),
            (-2, 0, "-2"),
            (-2, 1, "-1.999999999"),
        ] {
            assert_eq!(decimal(secs, nanos), expected);
        }
    }

    #[test]
    fn access_lists_are_text() {
        let entry = |tag: u16, bits: u16, id: u32| [&tag.to_le_bytes()[..], &bits.to_le_bytes(), &id.to_le_bytes()].concat();
        let none = u32::MAX;
        let list = [entry(1, 6, none), entry(2, 4, 1000), entry(4, 4, none), entry(8, 5, 70_000), entry(16, 7, none), entry(32, 0, none)];
        let value = [2_u32.to_le_bytes().to_vec(), list.concat()].concat();
        let expected = "user::rw-\nuser:1000:r--\ngroup::r--\ngroup:70000:r-x\nmask::rwx\nother::---\n";
        assert_eq!(acl_text(&value).unwrap(), expected);
        assert_eq!(acl_text(&value[..value.len() - 1]), None);
        assert_eq!(acl_text(&[]), None);
    }
}
