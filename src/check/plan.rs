//! Which checks apply to a change.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::config::{Action, Check};

/// A check with its globs compiled.
#[derive(Clone, Debug)]
pub struct Plan {
    /// `None`: every path.
    paths: Option<GlobSet>,
    unless: Option<GlobSet>,
}

/// A glob that does not compile (the configuration refuses those before).
#[derive(Debug, thiserror::Error)]
#[error("check \"{check}\": {source}")]
pub struct PlanError {
    check: String,
    source: globset::Error,
}

impl Plan {
    /// Of a check. A built-in one without `paths` has those of its kind of file.
    pub fn new(check: &Check) -> Result<Self, PlanError> {
        let own: Vec<&str> = check.paths.iter().map(String::as_str).collect();
        let mut globs = match &check.action {
            Action::Builtin(name) if own.is_empty() => super::builtin::default_paths(name).to_vec(),
            Action::Builtin(_) | Action::Run(_) => own,
        };
        // A schema that changes is a change for all that is held against it.
        let schema = check.options.schema.as_deref().map(globset::escape);
        globs.extend(schema.as_deref());
        let failed = |source| PlanError { check: check.name.clone(), source };
        let unless: Vec<&str> = check.unless.iter().map(String::as_str).collect();
        Ok(Self { paths: compiled(&globs).map_err(failed)?, unless: compiled(&unless).map_err(failed)? })
    }

    /// Whether the check looks at `path` (relative to the dataset's root).
    #[must_use]
    pub fn looks_at(&self, path: &[u8]) -> bool {
        use std::os::unix::ffi::OsStrExt as _;
        let path = std::ffi::OsStr::from_bytes(path);
        self.paths.as_ref().is_none_or(|globs| globs.is_match(path)) && !self.unless.as_ref().is_some_and(|globs| globs.is_match(path))
    }

    /// Whether the check applies to a change of `paths`: without globs always, else if it looks at one of them.
    pub fn applies<'a>(&self, paths: impl IntoIterator<Item = &'a [u8]>) -> bool {
        (self.paths.is_none() && self.unless.is_none()) || paths.into_iter().any(|path| self.looks_at(path))
    }
}

/// `None` of no globs.
fn compiled(globs: &[&str]) -> Result<Option<GlobSet>, globset::Error> {
    if globs.is_empty() {
        return Ok(None);
    }
    let mut set = GlobSetBuilder::new();
    for glob in globs {
        set.add(GlobBuilder::new(glob).literal_separator(true).build()?);
    }
    set.build().map(Some)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn plan(action: Action, paths: &[&str]) -> Plan {
        let paths = paths.iter().map(|glob| (*glob).to_owned()).collect();
        Plan::new(&Check { paths, ..Check::new("a", action) }).unwrap()
    }

    fn command(paths: &[&str]) -> Plan {
        plan(Action::Run(vec!["true".to_owned()]), paths)
    }

    #[test]
    fn without_globs_a_command_always_applies() {
        assert!(command(&[]).applies([]));
        assert!(command(&[]).applies([b"a".as_slice()]));
    }

    #[test]
    fn globs_match_whole_paths_and_a_star_ends_at_a_slash() {
        for (glob, path, expected) in [
            ("**/*.csv", "a.csv", true),
            ("**/*.csv", "b/c/a.csv", true),
            ("*.csv", "a.csv", true),
            ("*.csv", "b/a.csv", false),
            ("data/**", "data/b/c", true),
            ("data/**", "database", false),
            ("{a,b}/*.txt", "b/x.txt", true),
            ("a?[0-9]", "ab7", true),
            ("a.csv", "A.CSV", false),
        ] {
            assert_eq!(command(&[glob]).applies([path.as_bytes()]), expected, "{glob} {path}");
        }
        assert!(command(&["*.a", "*.b"]).applies([b"x".as_slice(), b"x.b"]));
        assert!(command(&["*"]).applies([b"\xff\xfe".as_slice()]));
        assert!(!command(&["*"]).applies([]));
    }

    #[test]
    fn what_is_excluded_is_not_looked_at() {
        let unless = vec!["tmp/**".to_owned(), "*.bak".to_owned()];
        let all = Plan::new(&Check { unless: unless.clone(), ..Check::new("a", Action::Run(vec!["true".to_owned()])) }).unwrap();
        assert!(all.applies([b"tmp/a".as_slice(), b"a"]) && !all.applies([b"tmp/a".as_slice(), b"a.bak"]) && !all.applies([]));
        let csv = Plan::new(&Check { unless, ..Check::new("a", Action::Builtin("csv".to_owned())) }).unwrap();
        assert!(csv.looks_at(b"a.csv") && !csv.looks_at(b"tmp/a.csv") && !csv.looks_at(b"a.txt"));
    }

    #[test]
    fn a_built_in_check_looks_at_its_kind_of_file() {
        let csv = plan(Action::Builtin("csv".to_owned()), &[]);
        assert!(csv.applies([b"a/b.csv".as_slice()]) && !csv.applies([b"a/b.json".as_slice()]));
        assert!(plan(Action::Builtin("csv".to_owned()), &["*.txt"]).applies([b"b.txt".as_slice()]));
        assert!(plan(Action::Builtin("utf8".to_owned()), &[]).applies([b"a/b".as_slice()]));
    }
}
