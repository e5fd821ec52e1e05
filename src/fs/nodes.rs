//! Node ids: 64 bits that carry their meaning, so that no table has to remember what the kernel knows.
//!
//! fuser reports the node id as `st_ino`, so an unchanged file has one number in every version.
//!
//! Views: a tag (3 bits), a version (26 bits), an inode (35 bits). Staging in a session of its own: a generation (24 bits), an
//! inode (40 bits; never past the views' 35); in one session with the views: the tag that they leave free, a generation (26 bits),
//! an inode (35 bits). What does not fit has no node: the caller answers `EOVERFLOW` instead of showing another file.

use crate::ids::{Ino, VersionId};

const INO_BITS: u32 = 35;
const VERSION_BITS: u32 = 26;
const STAGING_INO_BITS: u32 = 40;
const GENERATION_BITS: u32 = 24;

/// The tag that no node of the views has.
const STAGING_TAG: u64 = 7;

/// A node id as the kernel sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RawNode(pub u64);

impl RawNode {
    /// The root of a session.
    pub const ROOT: Self = Self(1);

    /// Whether it is a node of staging, in a session that serves the views as well.
    #[must_use]
    pub const fn is_staging_beside_views(self) -> bool {
        self.0 >> (INO_BITS + VERSION_BITS) == STAGING_TAG
    }
}

/// How the nodes of staging are numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StagingNodes {
    /// In a session of its own.
    Alone,
    /// In one session with the views.
    BesideViews,
}

impl StagingNodes {
    /// The number of an inode of staging with the generation of its content; `None` if it does not fit.
    #[must_use]
    pub fn pack(self, ino: Ino, generation: u32) -> Option<RawNode> {
        let generation = u64::from(generation);
        let (ino_bits, generation_bits, tag) = match self {
            Self::Alone => (STAGING_INO_BITS, GENERATION_BITS, 0),
            Self::BesideViews => (INO_BITS, VERSION_BITS, STAGING_TAG << (INO_BITS + VERSION_BITS)),
        };
        let fits = ino.0 >> ino_bits == 0 && generation >> generation_bits == 0;
        fits.then_some(RawNode(tag | generation << ino_bits | ino.0))
    }

    /// The inode and generation of a node of staging.
    #[must_use]
    pub const fn unpack(self, node: RawNode) -> (Ino, u32) {
        let (ino_bits, generation_bits) = match self {
            Self::Alone => (STAGING_INO_BITS, GENERATION_BITS),
            Self::BesideViews => (INO_BITS, VERSION_BITS),
        };
        let generation = node.0 >> ino_bits & ((1 << generation_bits) - 1);
        (Ino(node.0 & ((1 << ino_bits) - 1)), generation as u32)
    }
}

/// The trees of versions in the views. The kernel allows a directory one place only, so each has directories of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum View {
    /// `versions/tN`.
    Versions,
    /// `ghosts/tN`.
    Ghosts,
    /// `production`.
    Production,
}

/// A file of the lineage that belongs to a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LineageNode {
    /// `lineage/tN`.
    Directory,
    /// `lineage/tN/checks`.
    Checks,
    /// `lineage/tN/version.json`.
    Version,
    /// `lineage/tN/changes.jsonl`.
    Changes,
    /// `lineage/tN/checks/NAME.json`, by the check's place in the version's list.
    Summary(u16),
    /// `lineage/tN/checks/NAME.K.log`: the check's place, and K.
    Output(u16, u16),
}

/// A node of the views.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ViewNode {
    /// The mount's root.
    Root,
    /// The empty directory that staging is mounted on; in one session with staging, only its place in the root.
    Staging,
    /// `versions`.
    Versions,
    /// `ghosts`.
    Ghosts,
    /// `lineage`.
    Lineage,
    /// `lineage/log.jsonl`.
    Log,
    /// A directory of a version.
    Directory(View, VersionId, Ino),
    /// Anything else in a version, shared by all versions in which it did not change since: the version of its last change.
    File(VersionId, Ino),
    /// A symlink to a version in `versions`: `latest`, `valid` or a tag.
    Link(VersionId),
    /// Something in `lineage/tN`.
    OfVersion(VersionId, LineageNode),
}

const FIXED: [ViewNode; 6] = [ViewNode::Root, ViewNode::Staging, ViewNode::Versions, ViewNode::Ghosts, ViewNode::Lineage, ViewNode::Log];

impl ViewNode {
    /// Its number; `None` if a part of it does not fit.
    #[must_use]
    pub fn pack(self) -> Option<RawNode> {
        let fixed = |number: u64| Some(RawNode(number));
        match self {
            Self::Root => fixed(1),
            Self::Staging => fixed(2),
            Self::Versions => fixed(3),
            Self::Ghosts => fixed(4),
            Self::Lineage => fixed(5),
            Self::Log => fixed(6),
            Self::File(version, ino) => join(1, version, ino.0),
            Self::Directory(View::Versions, version, ino) => join(2, version, ino.0),
            Self::Directory(View::Ghosts, version, ino) => join(3, version, ino.0),
            Self::Directory(View::Production, version, ino) => join(4, version, ino.0),
            Self::Link(version) => join(5, version, 0),
            Self::OfVersion(version, node) => join(6, version, node.number()),
        }
    }

    /// The node of a number that the kernel sent; `None` if no node has it.
    #[must_use]
    pub fn unpack(raw: RawNode) -> Option<Self> {
        let low = raw.0 & ((1 << INO_BITS) - 1);
        let version = VersionId(raw.0 >> INO_BITS & ((1 << VERSION_BITS) - 1));
        match raw.0 >> (INO_BITS + VERSION_BITS) {
            0 => FIXED.get(usize::try_from(raw.0.checked_sub(1)?).ok()?).copied(),
            1 => Some(Self::File(version, Ino(low))),
            2 => Some(Self::Directory(View::Versions, version, Ino(low))),
            3 => Some(Self::Directory(View::Ghosts, version, Ino(low))),
            4 => Some(Self::Directory(View::Production, version, Ino(low))),
            5 if low == 0 => Some(Self::Link(version)),
            6 => LineageNode::of(low).map(|node| Self::OfVersion(version, node)),
            _ => None,
        }
    }
}

fn join(tag: u64, version: VersionId, low: u64) -> Option<RawNode> {
    let fits = version.0 >> VERSION_BITS == 0 && low >> INO_BITS == 0;
    fits.then_some(RawNode(tag << (INO_BITS + VERSION_BITS) | version.0 << INO_BITS | low))
}

impl LineageNode {
    /// Two bits of kind, 16 of the check, 16 of the attempt; attempts count from 1.
    const fn number(self) -> u64 {
        match self {
            Self::Directory => 0,
            Self::Checks => 1,
            Self::Version => 2,
            Self::Changes => 3,
            Self::Summary(check) => 1 << 32 | (check as u64) << 16,
            Self::Output(check, attempt) => 2 << 32 | (check as u64) << 16 | attempt as u64,
        }
    }

    const fn of(number: u64) -> Option<Self> {
        let (check, attempt) = ((number >> 16) as u16, number as u16);
        match (number >> 32, number) {
            (0, 0) => Some(Self::Directory),
            (0, 1) => Some(Self::Checks),
            (0, 2) => Some(Self::Version),
            (0, 3) => Some(Self::Changes),
            (1, _) if attempt == 0 => Some(Self::Summary(check)),
            (2, _) => Some(Self::Output(check, attempt)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use proptest::prelude::*;

    const TOP_INO: u64 = (1 << INO_BITS) - 1;
    const TOP_VERSION: u64 = (1 << VERSION_BITS) - 1;

    fn nodes() -> impl Strategy<Value = ViewNode> {
        let version = prop_oneof![Just(0), Just(TOP_VERSION), 0..=TOP_VERSION].prop_map(VersionId);
        let ino = prop_oneof![Just(1), Just(TOP_INO), 0..=TOP_INO].prop_map(Ino);
        let view = prop_oneof![Just(View::Versions), Just(View::Ghosts), Just(View::Production)];
        let lineage = prop_oneof![
            Just(LineageNode::Directory),
            Just(LineageNode::Checks),
            Just(LineageNode::Version),
            Just(LineageNode::Changes),
            any::<u16>().prop_map(LineageNode::Summary),
            any::<(u16, u16)>().prop_map(|(check, attempt)| LineageNode::Output(check, attempt)),
        ];
        prop_oneof![
            proptest::sample::select(FIXED.to_vec()),
            (view, version.clone(), ino.clone()).prop_map(|(view, version, ino)| ViewNode::Directory(view, version, ino)),
            (version.clone(), ino).prop_map(|(version, ino)| ViewNode::File(version, ino)),
            version.clone().prop_map(ViewNode::Link),
            (version, lineage).prop_map(|(version, node)| ViewNode::OfVersion(version, node)),
        ]
    }

    proptest! {
        #[test]
        fn every_node_has_one_number(node in nodes()) {
            let raw = node.pack().unwrap();
            prop_assert_ne!(raw.0, 0, "0 is a negative entry");
            prop_assert_eq!(ViewNode::unpack(raw), Some(node));
        }

        #[test]
        fn every_number_is_one_node_or_none(number in any::<u64>()) {
            if let Some(node) = ViewNode::unpack(RawNode(number)) {
                prop_assert_eq!(node.pack(), Some(RawNode(number)));
            }
        }

        #[test]
        fn staging_s_numbers_go_both_ways(ino in 0..1_u64 << STAGING_INO_BITS, generation in 0..1_u32 << GENERATION_BITS) {
            let raw = StagingNodes::Alone.pack(Ino(ino), generation).unwrap();
            prop_assert_eq!(StagingNodes::Alone.unpack(raw), (Ino(ino), generation));
        }

        #[test]
        fn staging_beside_the_views_is_no_view(ino in 0..=TOP_INO, generation in 0..1_u32 << VERSION_BITS, view in nodes()) {
            let raw = StagingNodes::BesideViews.pack(Ino(ino), generation).unwrap();
            prop_assert_eq!(StagingNodes::BesideViews.unpack(raw), (Ino(ino), generation));
            prop_assert!(raw.is_staging_beside_views());
            prop_assert_eq!(ViewNode::unpack(raw), None);
            prop_assert!(!view.pack().unwrap().is_staging_beside_views());
        }
    }

    #[test]
    fn both_roots_are_the_kernel_s_root_and_what_does_not_fit_has_no_number() {
        assert_eq!(ViewNode::Root.pack(), Some(RawNode::ROOT));
        assert_eq!(StagingNodes::Alone.pack(Ino::ROOT, 0), Some(RawNode::ROOT));
        assert_eq!(ViewNode::File(VersionId(0), Ino(TOP_INO + 1)).pack(), None);
        assert_eq!(ViewNode::Link(VersionId(TOP_VERSION + 1)).pack(), None);
        assert_eq!(StagingNodes::Alone.pack(Ino(1), 1 << GENERATION_BITS), None);
        assert_eq!(StagingNodes::BesideViews.pack(Ino(TOP_INO + 1), 0), None);
        assert_eq!(StagingNodes::BesideViews.pack(Ino(1), 1 << VERSION_BITS), None);
        assert_eq!(ViewNode::unpack(RawNode(0)), None);
    }
}
