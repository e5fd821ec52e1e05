//! Digests of nodes: what a version's content is called. The form that is hashed is fixed here, apart from the form that is stored:
//! an object counts by its bytes' digest instead of its number, and the version that last changed a record does not count, so what
//! was checked can be compared with what is published, whatever the numbers are.

use super::TreeError;
use super::key::{Content, FileKind, InodeRecord, Key, Part, Value};
use super::node::Link;
use crate::clock::Timestamp;
use crate::ids::{Digest, ObjectId};

/// Gives the digest of an object's bytes.
pub type ObjectDigests<'a> = dyn Fn(ObjectId) -> Result<Digest, TreeError> + 'a;

/// The digest of a leaf's entries.
pub(super) fn leaf(entries: &[(Key, Value)], objects: &ObjectDigests<'_>) -> Result<Digest, TreeError> {
    let mut form = Form { bytes: Vec::with_capacity(8 * 1024), objects };
    form.bytes.extend_from_slice(b"leaf");
    for (key, value) in entries {
        form.key(key);
        form.value(value)?;
    }
    Ok(Digest::of(&form.bytes))
}

/// The digest of an inner node: its children's, in order.
pub(super) fn inner(links: &[Link]) -> Digest {
    let mut bytes = Vec::with_capacity(8 + links.len() * 32);
    bytes.extend_from_slice(b"inner");
    links.iter().for_each(|link| bytes.extend_from_slice(&link.digest.0));
    Digest::of(&bytes)
}

/// Writes entries in the form that is hashed: numbers little-endian, runs of bytes after their length, each variant after its tag.
struct Form<'a> {
    bytes: Vec<u8>,
    objects: &'a ObjectDigests<'a>,
}

impl Form<'_> {
    fn tag(&mut self, tag: u8) {
        self.bytes.push(tag);
    }

    fn number(&mut self, number: u64) {
        self.bytes.extend_from_slice(&number.to_le_bytes());
    }

    fn run(&mut self, run: &[u8]) {
        self.number(run.len() as u64);
        self.bytes.extend_from_slice(run);
    }

    fn time(&mut self, time: Timestamp) {
        self.bytes.extend_from_slice(&time.secs.to_le_bytes());
        self.bytes.extend_from_slice(&time.nanos.to_le_bytes());
    }

    fn object(&mut self, object: ObjectId) -> Result<(), TreeError> {
        let digest = (self.objects)(object)?;
        self.bytes.extend_from_slice(&digest.0);
        Ok(())
    }

    fn key(&mut self, key: &Key) {
        self.number(key.ino.0);
        match &key.part {
            Part::Inode => self.tag(0),
            Part::Dirent(name) => {
                self.tag(1);
                self.run(name);
            }
            Part::Link(dir, name) => {
                self.tag(2);
                self.number(dir.0);
                self.run(name);
            }
            Part::Xattr(name) => {
                self.tag(3);
                self.run(name);
            }
            Part::Extent(offset) => {
                self.tag(4);
                self.number(*offset);
            }
        }
    }

    fn value(&mut self, value: &Value) -> Result<(), TreeError> {
        match value {
            Value::Inode(record) => self.record(record)?,
            Value::Dirent(ino, kind) => {
                self.number(ino.0);
                self.tag(kind_tag(*kind));
            }
            Value::Link => {}
            Value::Xattr(bytes) => self.run(bytes),
            Value::Extent(extent) => {
                self.number(extent.len);
                self.number(extent.start);
                self.object(extent.object)?;
            }
        }
        Ok(())
    }

    fn record(&mut self, record: &InodeRecord) -> Result<(), TreeError> {
        // Named one by one, so that a new field can't be forgotten here.
        let InodeRecord { kind, perm, uid, gid, nlink, size, rdev, atime, mtime, ctime, btime, content, parent, name, changed_in: _ } =
            record;
        self.tag(kind_tag(*kind));
        for number in [u64::from(*perm), u64::from(*uid), u64::from(*gid), u64::from(*nlink), *size, u64::from(*rdev)] {
            self.number(number);
        }
        for time in [atime, mtime, ctime, btime] {
            self.time(*time);
        }
        match content {
            Content::None => self.tag(0),
            Content::Inline(bytes) => {
                self.tag(1);
                self.run(bytes);
            }
            Content::Object(object) => {
                self.tag(2);
                self.object(*object)?;
            }
            Content::Extents => self.tag(3),
        }
        self.number(parent.0);
        self.run(name);
        Ok(())
    }
}

const fn kind_tag(kind: FileKind) -> u8 {
    match kind {
        FileKind::Regular => 0,
        FileKind::Directory => 1,
        FileKind::Symlink => 2,
        FileKind::Fifo => 3,
        FileKind::Socket => 4,
        FileKind::CharDevice => 5,
        FileKind::BlockDevice => 6,
    }
}
