//! The one transition table of a version's life.
//!
//! ```text
//! open -> checking -> valid -> promoted -> superseded
//!    \         \-> ghost -> expired
//!     \-> aborted
//! ```
//!
//! Beside the main line: a version passed over in a batch is superseded without having been in production, a superseded one goes
//! to production again when production is rolled back to it, and valid and superseded ones expire when their retention ends.

use VersionState::{Aborted, Checking, Expired, Ghost, Open, Promoted, Superseded, Valid};

use crate::store::record::VersionState;

/// What can happen to a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transition {
    /// No more changes are taken.
    Seal,
    /// It ends without becoming a version.
    Abort,
    /// Its checks and its ancestors' have passed.
    Validate,
    /// It is rejected.
    Reject,
    /// It goes to production.
    Promote,
    /// Another takes its place in production, or passes it over in a batch.
    Supersede,
    /// Its retention ended.
    Expire,
}

impl Transition {
    /// Every transition, for tables and tests.
    pub const ALL: [Self; 7] = [Self::Seal, Self::Abort, Self::Validate, Self::Reject, Self::Promote, Self::Supersede, Self::Expire];

    /// What is refused, as a message says it: "t7 is a ghost, it can't be promoted".
    #[must_use]
    pub const fn participle(self) -> &'static str {
        match self {
            Self::Seal => "sealed",
            Self::Abort => "discarded",
            Self::Validate => "validated",
            Self::Reject => "rejected",
            Self::Promote => "promoted",
            Self::Supersede => "superseded",
            Self::Expire => "expired",
        }
    }
}

/// The table: from a state, by a transition, to a state. What is not in it is refused.
const TABLE: [(VersionState, Transition, VersionState); 11] = [
    (Open, Transition::Seal, Checking),
    (Open, Transition::Abort, Aborted),
    (Checking, Transition::Validate, Valid),
    (Checking, Transition::Reject, Ghost),
    (Valid, Transition::Promote, Promoted),
    (Valid, Transition::Supersede, Superseded),
    (Valid, Transition::Expire, Expired),
    (Promoted, Transition::Supersede, Superseded),
    (Superseded, Transition::Promote, Promoted),
    (Superseded, Transition::Expire, Expired),
    (Ghost, Transition::Expire, Expired),
];

/// The state that follows `state` by `transition`; `None` where the table refuses it.
#[must_use]
pub fn next(state: VersionState, transition: Transition) -> Option<VersionState> {
    TABLE.iter().find(|(from, by, _)| (*from, *by) == (state, transition)).map(|(_, _, to)| *to)
}

/// Whether a version in `state` has all its checks and its ancestors' behind it, with success.
#[must_use]
pub const fn is_good(state: VersionState) -> bool {
    match state {
        Valid | Promoted | Superseded => true,
        Open | Checking | Ghost | Expired | Aborted => false,
    }
}

/// Whether a version in `state` is browsed below `versions/`.
#[must_use]
pub const fn is_browsable(state: VersionState) -> bool {
    match state {
        Checking | Valid | Promoted | Superseded => true,
        Open | Ghost | Expired | Aborted => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The whole table, written a second time in another form: a row a state, a column a transition in the order of `ALL`.
    const EXPECTED: [(VersionState, [Option<VersionState>; 7]); 8] = [
        //          seal            abort          validate     reject       promote         supersede         expire
        (Open, [Some(Checking), Some(Aborted), None, None, None, None, None]),
        (Checking, [None, None, Some(Valid), Some(Ghost), None, None, None]),
        (Valid, [None, None, None, None, Some(Promoted), Some(Superseded), Some(Expired)]),
        (Promoted, [None, None, None, None, None, Some(Superseded), None]),
        (Superseded, [None, None, None, None, Some(Promoted), None, Some(Expired)]),
        (Ghost, [None, None, None, None, None, None, Some(Expired)]),
        (Expired, [None; 7]),
        (Aborted, [None; 7]),
    ];

    #[test]
    fn every_state_and_every_transition_is_as_the_contract_says() {
        assert_eq!(EXPECTED.map(|(state, _)| state), VersionState::ALL);
        for (state, row) in EXPECTED {
            for (transition, expected) in Transition::ALL.into_iter().zip(row) {
                assert_eq!(next(state, transition), expected, "{state} by {transition:?}");
            }
        }
    }

    #[test]
    fn the_table_has_one_row_a_pair() {
        let mut seen = Vec::new();
        for (from, by, _) in TABLE {
            assert!(!seen.contains(&(from, by)), "{from} by {by:?} twice");
            seen.push((from, by));
        }
    }

    fn reachable(from: VersionState) -> BTreeSet<&'static str> {
        let mut found = BTreeSet::new();
        let mut todo = vec![from];
        while let Some(state) = todo.pop() {
            for to in Transition::ALL.into_iter().filter_map(|transition| next(state, transition)) {
                if found.insert(to.as_str()) {
                    todo.push(to);
                }
            }
        }
        found
    }

    #[test]
    fn a_ghost_never_reaches_production_and_every_state_is_reached_from_open() {
        assert_eq!(reachable(Ghost), BTreeSet::from(["expired"]));
        assert_eq!(reachable(Expired), BTreeSet::new());
        assert_eq!(reachable(Aborted), BTreeSet::new());
        assert_eq!(reachable(Open).len(), VersionState::ALL.len() - 1);
    }

    #[test]
    fn only_through_valid_does_a_version_reach_production() {
        let without_valid: BTreeSet<_> = TABLE
            .iter()
            .filter(|(from, _, to)| *from != Valid && *to != Valid && !matches!(from, Promoted | Superseded))
            .map(|(_, _, to)| to.as_str())
            .collect();
        assert!(!without_valid.contains("promoted") && !without_valid.contains("superseded"));
    }
}
