//! POSIX access control lists in the form that the kernel keeps in extended attributes.
//!
//! The kernel decides by them (`default_permissions`); what is left to a filesystem is to check what is set, to let new files inherit,
//! and to keep the permission bits and the list of a file in agreement.

/// Where the list of a file is.
pub const ACCESS: &[u8] = b"system.posix_acl_access";
/// Where a directory keeps the list that new files in it get.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
/// The id of entries that name nobody.
const NOBODY: u32 = u32::MAX;

/// Whom an entry is about. The order is the order in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tag {
    /// The owner.
    UserObj,
    /// A user.
    User,
    /// The group.
    GroupObj,
    /// A group.
    Group,
    /// The most that users, groups and the group get.
    Mask,
    /// Everyone else.
    Other,
}

impl Tag {
    const fn number(self) -> u16 {
        match self {
            Self::UserObj => 0x01,
            Self::User => 0x02,
            Self::GroupObj => 0x04,
            Self::Group => 0x08,
            Self::Mask => 0x10,
            Self::Other => 0x20,
        }
    }

    fn from_number(number: u16) -> Option<Self> {
        [Self::UserObj, Self::User, Self::GroupObj, Self::Group, Self::Mask, Self::Other].into_iter().find(|tag| tag.number() == number)
    }

    const fn is_named(self) -> bool {
        matches!(self, Self::User | Self::Group)
    }
}

/// An entry of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whom it is about.
    pub tag: Tag,
    /// Read (4), write (2), execute (1).
    pub perm: u16,
    /// The user or group of a named entry.
    pub id: u32,
}

/// A list, valid as the kernel understands it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl(Vec<Entry>);

/// Not a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a valid access control list")]
pub struct InvalidAcl;

impl Acl {
    /// Reads an attribute's value. `None`: an empty list, which stands for none at all.
    pub fn parse(value: &[u8]) -> Result<Option<Self>, InvalidAcl> {
        let (version, rest) = value.split_first_chunk::<4>().ok_or(InvalidAcl)?;
        if u32::from_le_bytes(*version) != VERSION || rest.len() % 8 != 0 {
            return Err(InvalidAcl);
        }
        let entries: Vec<Entry> = rest.chunks_exact(8).map(entry).collect::<Result<_, _>>()?;
        if entries.is_empty() {
            return Ok(None);
        }
        let acl = Self(entries);
        acl.is_valid().then_some(Some(acl)).ok_or(InvalidAcl)
    }

    /// The attribute's value.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for entry in &self.0 {
            bytes.extend_from_slice(&entry.tag.number().to_le_bytes());
            bytes.extend_from_slice(&entry.perm.to_le_bytes());
            bytes.extend_from_slice(&if entry.tag.is_named() { entry.id } else { NOBODY }.to_le_bytes());
        }
        bytes
    }

    /// One entry each for owner, group and others; a mask if anyone is named; tags in order, names of a tag each once.
    fn is_valid(&self) -> bool {
        let count = |tag: Tag| self.0.iter().filter(|entry| entry.tag == tag).count();
        let named = count(Tag::User) + count(Tag::Group) > 0;
        let ordered = self.0.windows(2).all(|pair| pair[0].tag < pair[1].tag || (pair[0].tag == pair[1].tag && pair[0].tag.is_named()));
        // The kernel does not ask for ascending ids, but a name must not come twice.
        let mut ids: Vec<(Tag, u32)> = self.0.iter().filter(|entry| entry.tag.is_named()).map(|entry| (entry.tag, entry.id)).collect();
        ids.sort_unstable();
        let once = ids.windows(2).all(|pair| pair[0] != pair[1]);
        let single = [Tag::UserObj, Tag::GroupObj, Tag::Other].into_iter().all(|tag| count(tag) == 1);
        let mask = count(Tag::Mask);
        ordered && once && single && mask <= 1 && (!named || mask == 1)
    }

    fn get(&self, tag: Tag) -> Option<u16> {
        self.0.iter().find(|entry| entry.tag == tag).map(|entry| entry.perm)
    }

    fn set(&mut self, tag: Tag, perm: u16) {
        if let Some(entry) = self.0.iter_mut().find(|entry| entry.tag == tag) {
            entry.perm = perm;
        }
    }

    /// The entry that the group's permission bits show: the mask if there is one.
    fn group_tag(&self) -> Tag {
        if self.get(Tag::Mask).is_some() { Tag::Mask } else { Tag::GroupObj }
    }

    /// The permission bits (0o777) that go with the list, and whether they say all that it says.
    #[must_use]
    pub fn mode(&self) -> (u16, bool) {
        let bits = |tag: Tag| self.get(tag).unwrap_or(0);
        let mode = bits(Tag::UserObj) << 6 | bits(self.group_tag()) << 3 | bits(Tag::Other);
        (mode, self.0.len() == 3)
    }

    /// The list after a chmod to `perm`.
    #[must_use]
    pub fn chmod(mut self, perm: u16) -> Self {
        let group = self.group_tag();
        self.set(Tag::UserObj, perm >> 6 & 7);
        self.set(group, perm >> 3 & 7);
        self.set(Tag::Other, perm & 7);
        self
    }

    /// What a new file gets from its directory's default list when it is made with `mode`: its permission bits, and its list if the
    /// bits do not say all.
    #[must_use]
    pub fn inherit(&self, mode: u16) -> (u16, Option<Self>) {
        let mut acl = self.clone();
        let group = acl.group_tag();
        for (tag, bits) in [(Tag::UserObj, mode >> 6 & 7), (group, mode >> 3 & 7), (Tag::Other, mode & 7)] {
            let perm = acl.get(tag).unwrap_or(0) & bits;
            acl.set(tag, perm);
        }
        let (perm, whole) = acl.mode();
        (mode & !0o777 | perm, (!whole).then_some(acl))
    }
}

fn entry(bytes: &[u8]) -> Result<Entry, InvalidAcl> {
    let &[tag_low, tag_high, perm_low, perm_high, ref id @ ..] = bytes else { return Err(InvalidAcl) };
    let tag = Tag::from_number(u16::from_le_bytes([tag_low, tag_high])).ok_or(InvalidAcl)?;
    let perm = u16::from_le_bytes([perm_low, perm_high]);
    let id = u32::from_le_bytes(id.try_into().map_err(|_| InvalidAcl)?);
    // The kernel refuses a named entry of nobody, and bits that mean nothing.
    if perm & !7 != 0 || (tag.is_named() && id == NOBODY) {
        return Err(InvalidAcl);
    }
    Ok(Entry { tag, perm, id: if tag.is_named() { id } else { NOBODY } })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn acl(entries: &[(Tag, u16, u32)]) -> Acl {
        Acl(entries.iter().map(|&(tag, perm, id)| Entry { tag, perm, id }).collect())
    }

    fn named() -> Acl {
        acl(&[(Tag::UserObj, 7, NOBODY), (Tag::User, 6, 1000), (Tag::GroupObj, 5, NOBODY), (Tag::Mask, 7, NOBODY), (Tag::Other, 5, NOBODY)])
    }

    #[test]
    fn a_list_survives_its_form() {
        assert_eq!(Acl::parse(&named().to_bytes()), Ok(Some(named())));
        assert_eq!(Acl::parse(&VERSION.to_le_bytes()), Ok(None));
    }

    #[test]
    fn what_the_kernel_would_refuse_is_refused() {
        let bad = [
            acl(&[(Tag::UserObj, 7, NOBODY), (Tag::GroupObj, 5, NOBODY)]),
            acl(&[(Tag::UserObj, 7, NOBODY), (Tag::User, 6, 1), (Tag::GroupObj, 5, NOBODY), (Tag::Other, 5, NOBODY)]),
            acl(&[(Tag::GroupObj, 7, NOBODY), (Tag::UserObj, 5, NOBODY), (Tag::Other, 5, NOBODY)]),
            acl(&[
                (Tag::UserObj, 7, NOBODY),
                (Tag::User, 6, 1),
                (Tag::User, 4, 1),
                (Tag::GroupObj, 5, NOBODY),
                (Tag::Mask, 5, NOBODY),
                (Tag::Other, 5, NOBODY),
            ]),
        ];
        for list in bad {
            assert_eq!(Acl::parse(&list.to_bytes()), Err(InvalidAcl), "{list:?}");
        }
        assert_eq!(Acl::parse(b""), Err(InvalidAcl));
        assert_eq!(Acl::parse(&[1, 0, 0, 0]), Err(InvalidAcl));
        assert_eq!(Acl::parse(&named().to_bytes()[..11]), Err(InvalidAcl));
    }

    #[test]
    fn the_group_bits_show_the_mask() {
        assert_eq!(named().mode(), (0o775, false));
        let changed = named().chmod(0o640);
        assert_eq!(changed.mode(), (0o640, false));
        assert_eq!(changed.get(Tag::GroupObj), Some(5), "chmod changes the mask, not the group's entry");
        assert_eq!(acl(&[(Tag::UserObj, 7, 0), (Tag::GroupObj, 5, 0), (Tag::Other, 0, 0)]).mode(), (0o750, true));
    }

    #[test]
    fn a_new_file_gets_what_both_the_list_and_the_mode_allow() {
        let (perm, list) = named().inherit(0o644);
        assert_eq!(perm, 0o644);
        assert_eq!(list.unwrap().get(Tag::Mask), Some(4));
        let plain = acl(&[(Tag::UserObj, 7, 0), (Tag::GroupObj, 5, 0), (Tag::Other, 0, 0)]);
        assert_eq!(plain.inherit(0o2777), (0o2750, None));
    }
}
