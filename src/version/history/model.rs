//! Random histories: after every step what the documentation of [`History`] says must hold.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;

use super::tests::{AT, failed, fresh, root_of, seal, t};
use super::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    Seal,
    Pass(prop::sample::Index),
    /// Which version, and by a bit each whether what stands on it overlaps.
    Reject(prop::sample::Index, u16),
    PromoteBatch(prop::sample::Index),
    RollBack(prop::sample::Index),
    Promote(prop::sample::Index),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let index = any::<prop::sample::Index>;
    let step = prop_oneof![
        4 => Just(Step::Seal),
        4 => index().prop_map(Step::Pass),
        2 => (index(), any::<u16>()).prop_map(|(which, bits)| Step::Reject(which, bits)),
        2 => index().prop_map(Step::PromoteBatch),
        1 => index().prop_map(Step::RollBack),
        1 => index().prop_map(Step::Promote),
    ];
    prop::collection::vec(step, 1..60)
}

fn pick(from: &[VersionId], which: prop::sample::Index) -> Option<VersionId> {
    (!from.is_empty()).then(|| *which.get(from))
}

fn take(history: &mut History, step: Step, next: &mut u64) {
    let mut number = || {
        *next += 1;
        t(*next - 1)
    };
    let all: Vec<_> = history.records().map(|record| record.version).collect();
    let unjudged: Vec<_> = history.unjudged().map(|record| record.version).collect();
    match step {
        Step::Seal => seal(history, number()),
        Step::Pass(which) => {
            if let Some(version) = pick(&unjudged, which) {
                history.apply(history.passed(version, AT).unwrap());
            }
        }
        Step::Reject(which, bits) => {
            let Some(version) = pick(&unjudged, which) else { return };
            let fate = |(at, old): (usize, VersionId)| match bits >> (at % 16) & 1 {
                0 => Carried { old, fate: Fate::Conflict { with: version, paths: Vec::new() } },
                _ => {
                    let new = number();
                    Carried { old, fate: Fate::Onto { new, root: root_of(new) } }
                }
            };
            let carried: Vec<_> = history.stranded_by(version).into_iter().enumerate().map(fate).collect();
            history.apply(history.rejected(version, failed(), &carried, AT).unwrap());
        }
        Step::PromoteBatch(which) => {
            if let Some(newest) = pick(&history.flagged(), which) {
                history.apply(history.promoted(newest, AT).unwrap());
            }
        }
        Step::RollBack(which) => {
            if let Ok(decision) = history.rolled_back(*which.get(&all), AT) {
                history.apply(decision);
            }
        }
        Step::Promote(which) => {
            let version = *which.get(&all);
            match history.release(version) {
                Ok(Release::OnTheLine) => history.apply(history.promoted(version, AT).unwrap()),
                Ok(Release::TakenBack) => history.apply(history.released(version, AT).unwrap()),
                Ok(Release::AlreadyThere) | Err(_) => {}
            }
        }
    }
}

fn check(history: &History) {
    let line: Vec<_> = history.ancestry(history.base()).collect();
    for record in &line {
        assert!(!record.held && lifecycle::is_browsable(record.state), "{} on the line is {}", record.version, record.state);
    }
    let place = |version| line.iter().position(|record| record.version == version).expect("on the line");
    assert!(place(history.production()) >= place(history.valid()));
    let promoted: Vec<_> = history.records().filter(|record| record.state == VersionState::Promoted).map(|record| record.version).collect();
    assert_eq!(promoted, [history.production()]);
    assert_eq!(history.stranded(), []);
    for record in history.records() {
        if lifecycle::is_good(record.state) {
            assert!(record.passed, "{} was never checked", record.version);
            assert!(history.ancestry(record.version).all(|below| lifecycle::is_good(below.state)));
        }
        if record.state == VersionState::Checking && record.passed {
            let parent = record.parent.and_then(|parent| history.get(parent)).unwrap();
            assert!(!lifecycle::is_good(parent.state), "{} should be valid", record.version);
        }
        if let Some(Reason::Rebased { into }) = record.reason {
            assert_eq!(history.get(into).unwrap().rebased_from, Some(record.version));
        }
        assert!(lifecycle::is_browsable(history.get(history.landing(record.version)).unwrap().state));
    }
    let newest_valid = line.iter().find(|record| lifecycle::is_good(record.state)).map(|record| record.version);
    assert_eq!(newest_valid, Some(history.valid()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn every_history_keeps_its_promises(steps in steps()) {
        let mut history = fresh();
        let mut next = 1;
        for step in steps {
            take(&mut history, step, &mut next);
            check(&history);
        }
    }
}
