//! When production moves: what becomes valid within a window is one batch; what holds a batch back is tried again, later each time.
//!
//! Pure: the caller says what is flagged and what time it is, and does what [`Scheduler::choose`] answers.

use std::time::{Duration, Instant};

use crate::config::{Percent, Promotion, PromotionMode};
use crate::ids::VersionId;

/// The first wait after a batch was held back. It doubles up to [`LONGEST_BACKOFF`].
pub const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// The longest wait between two tries.
pub const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing is flagged, promotion is by hand, or a batch is on its way.
    Idle,
    /// Ask again at this time.
    WaitUntil(Instant),
    /// Run the pre-promotion checks on this version, the newest of the batch, and switch to it if they pass.
    Promote(VersionId),
}

/// Why a batch was put off, and until when.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hold {
    why: String,
    until: Instant,
    backoff: Duration,
}

/// What the scheduler remembers between two questions.
#[derive(Clone, Debug, Default)]
pub struct Scheduler {
    /// When the batch that gathers now began.
    window_began: Option<Instant>,
    hold: Option<Hold>,
    /// Pre-promotion checks run, or the switch does.
    under_way: Option<VersionId>,
}

impl Scheduler {
    /// What to do at `now`, `flagged` being what may be promoted, oldest first.
    pub fn choose(&mut self, flagged: &[VersionId], rules: &Promotion, now: Instant) -> Action {
        let Some(newest) = flagged.last() else {
            self.window_began = None;
            if self.under_way.is_none() {
                self.hold = None;
            }
            return Action::Idle;
        };
        if rules.mode == PromotionMode::Manual || self.under_way.is_some() {
            return Action::Idle;
        }
        let window_ends = *self.window_began.get_or_insert(now) + rules.window;
        let due = self.hold.as_ref().map_or(window_ends, |hold| hold.until.max(window_ends));
        if now < due { Action::WaitUntil(due) } else { Action::Promote(*newest) }
    }

    /// The pre-promotion checks of `newest` were started.
    pub fn started(&mut self, newest: VersionId) {
        self.under_way = Some(newest);
    }

    /// The version whose promotion is under way.
    #[must_use]
    pub const fn under_way(&self) -> Option<VersionId> {
        self.under_way
    }

    /// Production was switched: the next batch begins with the next flagged version.
    pub fn done(&mut self) {
        *self = Self::default();
    }

    /// A pre-promotion check failed, or the switch did. Returns whether the reason is news (and so belongs into the lineage).
    pub fn held_back(&mut self, why: String, now: Instant) -> bool {
        let news = self.hold.as_ref().is_none_or(|hold| hold.why != why);
        let backoff = self.hold.as_ref().map_or(FIRST_BACKOFF, |hold| (hold.backoff * 2).min(LONGEST_BACKOFF));
        self.under_way = None;
        self.hold = Some(Hold { why, until: now + backoff, backoff });
        news
    }

    /// What was under way has lost its object: the version was rejected or taken back meanwhile.
    pub fn abandoned(&mut self) {
        self.under_way = None;
    }

    /// Why promotion is held back, if it is.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.hold.as_ref().map(|hold| hold.why.as_str())
    }
}

/// Whether enough space is free for a promotion; the refusal names both figures.
pub fn enough_free(free: u64, total: u64, required: Percent) -> Result<(), String> {
    let needed = required.of(total);
    if free >= needed {
        return Ok(());
    }
    let share = |part: u64| if total == 0 { 0.0 } else { part as f64 * 100.0 / total as f64 };
    Err(format!(
        "{:.1} % of the store's filesystem is free, promotion.require_free asks for {required}; free space or lower the limit",
        share(free)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn rules(mode: PromotionMode) -> Promotion {
        Promotion { mode, window: Duration::from_secs(2), ..Config::default().promotion }
    }

    const T1: VersionId = VersionId(1);
    const T2: VersionId = VersionId(2);

    #[test]
    fn what_becomes_valid_in_the_window_is_one_batch() {
        let (mut scheduler, auto, start) = (Scheduler::default(), rules(PromotionMode::Auto), Instant::now());
        let end = start + auto.window;
        assert_eq!(scheduler.choose(&[], &auto, start), Action::Idle);
        assert_eq!(scheduler.choose(&[T1], &auto, start), Action::WaitUntil(end));
        // A later one does not prolong the window.
        assert_eq!(scheduler.choose(&[T1, T2], &auto, start + Duration::from_secs(1)), Action::WaitUntil(end));
        assert_eq!(scheduler.choose(&[T1, T2], &auto, end), Action::Promote(T2));
        scheduler.started(T2);
        assert_eq!(scheduler.choose(&[T1, T2], &auto, end), Action::Idle);
        scheduler.done();
        assert_eq!(scheduler.choose(&[], &auto, end), Action::Idle);
        let later = end + Duration::from_secs(9);
        assert_eq!(scheduler.choose(&[VersionId(3)], &auto, later), Action::WaitUntil(later + auto.window));
    }

    #[test]
    fn by_hand_means_by_hand() {
        let (mut scheduler, manual, start) = (Scheduler::default(), rules(PromotionMode::Manual), Instant::now());
        assert_eq!(scheduler.choose(&[T1], &manual, start), Action::Idle);
        assert_eq!(scheduler.choose(&[T1], &manual, start + Duration::from_secs(3600)), Action::Idle);
    }

    #[test]
    fn what_is_held_back_is_tried_again_later_each_time() {
        let (mut scheduler, auto, mut now) = (Scheduler::default(), rules(PromotionMode::Auto), Instant::now());
        let _ = scheduler.choose(&[T1], &auto, now);
        now += auto.window;
        for wait in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(scheduler.choose(&[T1], &auto, now), Action::Promote(T1));
            scheduler.started(T1);
            assert_eq!(scheduler.held_back("disk full".to_owned(), now), wait == 1, "only the first is news");
            assert_eq!(scheduler.reason(), Some("disk full"));
            let due = now + Duration::from_secs(wait);
            assert_eq!(scheduler.choose(&[T1], &auto, now), Action::WaitUntil(due));
            now = due;
        }
        assert!(scheduler.held_back("another reason".to_owned(), now));
        // Nothing flagged any more: nothing is held back either.
        assert_eq!(scheduler.choose(&[], &auto, now), Action::Idle);
        assert_eq!(scheduler.reason(), None);
    }

    #[test]
    fn too_little_space_is_told_with_both_figures() {
        let five = Config::default().promotion.require_free;
        assert_eq!(enough_free(50, 1000, five), Ok(()));
        let why = enough_free(49, 1000, five);
        assert_eq!(
            why,
            Err("4.9 % of the store's filesystem is free, promotion.require_free asks for 5%; free space or lower the limit".to_owned())
        );
    }
}
