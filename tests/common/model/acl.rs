//! POSIX access control lists, as acl(5) defines them.

/// Where they are kept.
pub const ACCESS: &[u8] = b"system.posix_acl_access";
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

/// The user, and the group, that lists name.
const NAMED: u32 = 1000;
const NOBODY: u32 = u32::MAX;

/// A list: permissions (0 to 7) of the owner, a named user, the group, a named group, the mask, and others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acl {
    pub owner: u16,
    pub user: Option<u16>,
    pub group: u16,
    pub named_group: Option<u16>,
    /// There must be one where someone is named.
    pub mask: Option<u16>,
    pub other: u16,
}

impl Acl {
    /// As the kernel keeps it in an attribute.
    pub fn to_bytes(self) -> Vec<u8> {
        let entries = [
            (0x01_u16, Some(self.owner), NOBODY),
            (0x02, self.user, NAMED),
            (0x04, Some(self.group), NOBODY),
            (0x08, self.named_group, NAMED),
            (0x10, self.mask, NOBODY),
            (0x20, Some(self.other), NOBODY),
        ];
        let mut bytes = vec![2, 0, 0, 0];
        for (tag, perm, id) in entries {
            let Some(perm) = perm else { continue };
            bytes.extend(tag.to_le_bytes());
            bytes.extend(perm.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        bytes
    }

    /// From an attribute that `to_bytes` made.
    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        let perm_of = |tag: u8| bytes[4..].chunks(8).find(|entry| entry[0] == tag).map(|entry| u16::from(entry[2]));
        Self {
            owner: perm_of(0x01).unwrap(),
            user: perm_of(0x02),
            group: perm_of(0x04).unwrap(),
            named_group: perm_of(0x08),
            mask: perm_of(0x10),
            other: perm_of(0x20).unwrap(),
        }
    }

    /// The nine permission bits that go with it.
    pub(super) fn mode(self) -> u16 {
        self.owner << 6 | self.mask.unwrap_or(self.group) << 3 | self.other
    }

    /// Whether the nine bits say all that it says.
    pub(super) fn is_mode(self) -> bool {
        self.user.is_none() && self.named_group.is_none() && self.mask.is_none()
    }

    /// After chmod(2).
    pub(super) fn chmod(mut self, perm: u16) -> Self {
        let group = perm >> 3 & 7;
        (self.owner, self.other) = (perm >> 6 & 7, perm & 7);
        match &mut self.mask {
            Some(mask) => *mask = group,
            None => self.group = group,
        }
        self
    }

    /// Of a new file with this mode in a directory whose default list this is.
    pub(super) fn inherited(self, mode: u16) -> Self {
        self.chmod(self.mode() & mode)
    }
}
