//! Names that users give to versions: each is a symlink in `versions/`.

use std::fmt;
use std::str::FromStr;

/// Names that mean something already wherever a version is named.
const TAKEN: [&str; 5] = ["latest", "valid", "staging", "production", "verify"];
/// The longest name of a file.
const MAX_LEN: usize = 255;

/// A name that a version may have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TagName(String);

/// Why a text is no name of a tag.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} can't be a tag: {why}")]
pub struct TagError {
    name: String,
    why: &'static str,
}

impl TagName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TagName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TagName {
    type Err = TagError;

    fn from_str(name: &str) -> Result<Self, TagError> {
        let number = name.strip_prefix('t').is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()));
        let why = match name {
            "" => "it is empty",
            "." | ".." => "it means a directory",
            _ if TAKEN.contains(&name) => "that name means something else",
            _ if number => "it looks like a version's number",
            _ if name.contains('/') => "it has a slash",
            _ if name.chars().any(char::is_control) => "it has a control character",
            _ if name.starts_with('-') => "it begins like an option",
            _ if name.len() > MAX_LEN => "it is longer than 255 bytes",
            _ => return Ok(Self(name.to_owned())),
        };
        Err(TagError { name: name.to_owned(), why })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn a_tag_is_a_file_name_that_means_nothing_else() {
        for name in ["v1", "2026-Q3", "release candidate", "t", "tX7", "t7b", "T7", "ü", ".hidden", "latest2"] {
            assert_eq!(name.parse::<TagName>().unwrap().as_str(), name);
        }
        let long = "x".repeat(256);
        for name in ["", ".", "..", "t7", "t07", "latest", "valid", "staging", "production", "verify", "a/b", "a\nb", "\u{7f}", "-x", &long]
        {
            assert!(name.parse::<TagName>().is_err(), "{name}");
        }
        let refused = "a/b".parse::<TagName>().unwrap_err();
        assert_eq!(refused.to_string(), "\"a/b\" can't be a tag: it has a slash");
    }
}
