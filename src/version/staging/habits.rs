//! What a program's next new file is likely to be, by what it made before.
//!
//! New files are best written in passthrough if they are large or written in many pieces, and through the daemon, without the page cache,
//! if they are small and come in few: then the requests with the bytes cost less than a host file, a backing number and the kernel's
//! question for `security.capability` before the first write. An open does not say which it will be. But who unpacks an archive or checks
//! out a tree makes many small files in a row, so what the last ones were is a good guess. A wrong one costs speed, and nothing else.

use std::num::NonZeroUsize;

use lru::LruCache;
use parking_lot::Mutex;

/// So many small files in a row make a habit.
const HABIT: u8 = 4;

/// Up to this size a new file is small: as many bytes as a few requests carry as fast as the kernel writes them itself.
const SMALL: u64 = 64 << 10;

/// Files that come in more pieces, on the average of about the last `MEMORY`, are better off in passthrough.
const PIECES: u32 = 4;
const MEMORY: u32 = 8;

/// Who writes in more is not tried for so many files.
const WARY: u8 = 64;

/// So many programs are remembered.
const PROGRAMS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(127);

/// The habits of those who made files lately, by process (thread) number. A leaf lock.
#[derive(Debug)]
pub(super) struct Habits(Mutex<LruCache<u32, Habit>>);

#[derive(Clone, Copy, Debug, Default)]
struct Habit {
    /// Small files in a row.
    row: u8,
    /// `MEMORY` times the average number of pieces.
    pieces: u32,
    /// New files that are not tried.
    wary: u8,
}

impl Default for Habits {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(PROGRAMS)))
    }
}

impl Habits {
    /// Whether the program's next new file is likely to be small and written in few pieces.
    pub(super) fn expect_small(&self, pid: u32) -> bool {
        self.0.lock().get(&pid).is_some_and(|habit| habit.row >= HABIT && habit.wary == 0)
    }

    /// A file that the program made was closed. `pieces`: in how many requests its bytes came, if they came in requests.
    pub(super) fn learn(&self, pid: u32, size: u64, pieces: Option<u32>) {
        let mut habits = self.0.lock();
        let habit = habits.get_or_insert_mut(pid, Habit::default);
        habit.wary = habit.wary.saturating_sub(1);
        habit.row = if size > SMALL { 0 } else { habit.row.saturating_add(1) };
        if let Some(pieces) = pieces {
            habit.pieces = (habit.pieces - habit.pieces / MEMORY).saturating_add(pieces);
            if habit.pieces > MEMORY * PIECES {
                (habit.pieces, habit.wary) = (0, WARY);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_files_in_a_row_make_a_habit_and_a_large_one_ends_it() {
        let habits = Habits::default();
        for _ in 0..HABIT {
            assert!(!habits.expect_small(7));
            habits.learn(7, SMALL, None);
        }
        assert!(habits.expect_small(7) && !habits.expect_small(8));
        habits.learn(7, SMALL + 1, Some(1));
        assert!(!habits.expect_small(7));
    }

    #[test]
    fn who_writes_in_pieces_is_not_asked_again_for_a_while() {
        let habits = Habits::default();
        (0..HABIT).for_each(|_| habits.learn(7, 0, None));
        for pieces in (1..=PIECES + 1).cycle().take(1_000) {
            habits.learn(7, 4096, Some(pieces));
            assert!(habits.expect_small(7), "on the average it is few");
        }
        habits.learn(7, 4096, Some(MEMORY * PIECES));
        for _ in 0..WARY {
            assert!(!habits.expect_small(7));
            habits.learn(7, 4096, None);
        }
        assert!(habits.expect_small(7));
    }

    #[test]
    fn no_more_programs_are_remembered_than_there_is_room_for() {
        let habits = Habits::default();
        for pid in 0..10_000 {
            (0..HABIT).for_each(|_| habits.learn(pid, 1, None));
        }
        assert_eq!(habits.0.lock().len(), PROGRAMS.get());
        assert!(habits.expect_small(9_999) && !habits.expect_small(0));
    }
}
