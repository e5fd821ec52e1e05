//! What a store takes on its disk: blocks that several of its files share count once.

use std::fs::{DirEntry, File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::sys::each_run;

/// Smaller files are not asked: none of them was cloned.
const LARGE: u64 = 128 << 10;
/// So many shared runs are looked at (16 MiB of memory); what is shared beyond that counts as often as there are files that have it.
const RUNS: usize = 1 << 20;

/// Bytes that the files below a directory take. What vanishes or can't be read while we look counts nothing. `sharing`: files may share
/// blocks.
pub(super) fn used_below(dir: &Path, sharing: bool) -> u64 {
    let mut shared = Vec::new();
    let used = walk(dir, &mut |entry, status| {
        if sharing && status.is_file() && status.blocks() * 512 >= LARGE {
            note_shared(entry, &mut shared);
        }
    });
    used.saturating_sub(counted_again(shared))
}

fn walk(dir: &Path, each: &mut dyn FnMut(&DirEntry, &Metadata)) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let mut used = 0;
    for entry in entries.flatten() {
        let Ok(status) = entry.metadata() else { continue };
        used += status.blocks() * 512;
        each(&entry, &status);
        if status.is_dir() {
            used += walk(&entry.path(), each);
        }
    }
    used
}

/// Where a file's shared bytes are on the disk: from, to.
fn note_shared(entry: &DirEntry, shared: &mut Vec<(u64, u64)>) {
    let Ok(file) = File::open(entry.path()) else { return };
    // A filesystem that does not tell is taken to share nothing.
    let _untold = each_run(&file, |run| {
        if run.shared {
            shared.push((run.physical, run.physical.saturating_add(run.len)));
        }
        shared.len() < RUNS
    });
}

/// How much of these ranges lies in one that came before.
fn counted_again(mut ranges: Vec<(u64, u64)>) -> u64 {
    ranges.sort_unstable();
    let (mut again, mut reached) = (0, 0);
    for (from, to) in ranges {
        again += to.min(reached).saturating_sub(from);
        reached = reached.max(to);
    }
    again
}

#[cfg(test)]
mod tests {
    use super::counted_again;

    #[test]
    fn what_ranges_have_in_common_counts_once() {
        assert_eq!(counted_again(vec![]), 0);
        assert_eq!(counted_again(vec![(10, 20), (30, 40)]), 0);
        assert_eq!(counted_again(vec![(10, 20), (10, 20), (10, 20)]), 20);
        assert_eq!(counted_again(vec![(15, 40), (10, 20), (18, 25), (40, 41)]), 5 + 7);
    }
}
