//! Newtypes for every identifier, each with one textual form.
//!
//! A bare integer never crosses a function boundary as an identifier: mixing an inode number with
//! an object number would corrupt a dataset silently, so the compiler refuses it.

pub mod set;

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub u64);

        impl $name {
            /// The identifier that follows this one. (Nothing follows the last of all; only damage names that.)
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }

            /// Whether counting can ever have come so far; what names more is damaged.
            #[must_use]
            pub const fn is_plausible(self) -> bool {
                self.0 < 1 << 62
            }
        }

        impl From<$name> for u64 {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

number_id! {
    /// An inode number of the dataset. It is never used again, so an unchanged file keeps its number in every version.
    Ino
}
number_id! {
    /// A run of immutable bytes that trees name; the catalog's object table says where they are.
    ObjectId
}
number_id! {
    /// A node of a copy-on-write tree in the catalog.
    NodeId
}
number_id! {
    /// A pack file: the contents of many small objects, one after the other.
    PackId
}
number_id! {
    /// The position of an event in the lineage log, counted from 0.
    EventSeq
}

impl Ino {
    /// The root directory of every dataset (also FUSE's root node id).
    pub const ROOT: Self = Self(1);
}

/// The number of a version. Its textual form is `t7`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VersionId(pub u64);

impl VersionId {
    /// The version that `init` makes.
    pub const FIRST: Self = Self(0);

    /// The number that follows this one. (Nothing follows the last of all; only damage names that.)
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// Whether counting can ever have come so far; what names more is damaged.
    #[must_use]
    pub const fn is_plausible(self) -> bool {
        self.0 < 1 << 62
    }
}

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("t{}", self.0))
    }
}

/// A text that is not a version's number.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("\"{0}\" is not a version; versions are named t0, t1, t2, ...")]
pub struct ParseVersionError(String);

impl FromStr for VersionId {
    type Err = ParseVersionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || ParseVersionError(text.to_owned());
        let digits = text.strip_prefix('t').ok_or_else(refuse)?;
        // "t007" and "t+7" name nothing: a version has exactly one textual form.
        let canonical = digits == "0" || !digits.starts_with(['0', '+']);
        match digits.parse() {
            Ok(number) if canonical => Ok(Self(number)),
            _ => Err(refuse()),
        }
    }
}

impl Serialize for VersionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { serializer.serialize_u64(self.0) }
    }
}

impl<'de> Deserialize<'de> for VersionId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
        } else {
            u64::deserialize(deserializer).map(Self)
        }
    }
}

/// A BLAKE3 digest. Its textual form is 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl From<blake3::Hash> for Digest {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { self.0.serialize(serializer) }
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return <[u8; 32]>::deserialize(deserializer).map(Self);
        }
        let text = String::deserialize(deserializer)?;
        blake3::Hash::from_hex(text.as_bytes()).map(Self::from).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_has_exactly_one_textual_form() {
        assert_eq!("t7".parse(), Ok(VersionId(7)));
        assert_eq!(VersionId(7).to_string(), "t7");
        for text in ["7", "t", "t07", "t+7", "t-1", "T7", "t7 ", "t99999999999999999999"] {
            assert!(text.parse::<VersionId>().is_err(), "{text}");
        }
    }

    #[test]
    fn ids_are_text_for_people_and_numbers_in_records() {
        assert_eq!(serde_json::to_string(&VersionId(7)).ok().as_deref(), Some("\"t7\""));
        assert_eq!(serde_json::from_str::<VersionId>("\"t7\"").ok(), Some(VersionId(7)));
        let digest = Digest::of(b"");
        let json = serde_json::to_string(&digest).unwrap_or_default();
        assert_eq!(serde_json::from_str::<Digest>(&json).ok(), Some(digest));
    }
}
