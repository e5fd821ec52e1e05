//! `size`: how much there is, and how much it grows. `deletes`: not too many files are removed at once.

use std::io;

use super::report::{Place, Report, counted};
use super::{Builtin, Context, Verdict, View, each_file, judge, unreadable};
use crate::config::{Options, Percent};
use crate::ids::Ino;
use crate::tree::key::{FileKind, InodeRecord};
use crate::tree::{ChangeKind, Snapshot};

/// Reports `files` and `bytes` of the changed files, and `bytes_before`, what they had in the base. With limits on the whole it reports
/// `total_files` and `total_bytes`, too. Without limits it never fails.
pub(super) struct Size {
    pub(super) options: Options,
}

/// Regular files and their bytes, counted by name.
#[derive(Clone, Copy, Default)]
struct Total {
    files: u64,
    bytes: u64,
}

impl Builtin for Size {
    fn run(&self, cx: &mut Context<'_>) -> Verdict {
        judge(cx, |view, report| {
            let old = view.changes.iter().filter_map(|change| change.old.as_ref());
            report.add("bytes_before", old.filter(|old| old.kind == FileKind::Regular).map(|old| old.size).sum());
            each_file(view, report, |_, file, report| {
                if let Some(most) = self.options.max_file_bytes.filter(|most| file.len() > *most) {
                    report.find(Place::File, format_args!("has {} bytes, at most {most} are allowed", file.len()));
                }
                Ok(())
            })?;
            if self.looks_at_all() { self.totals(view, report) } else { Ok(()) }
        })
    }
}

impl Size {
    fn looks_at_all(&self) -> bool {
        let Options { min_files, max_files, min_bytes, max_bytes, max_growth, max_shrink, .. } = &self.options;
        [min_files, max_files, min_bytes, max_bytes].into_iter().any(Option::is_some) || max_growth.is_some() || max_shrink.is_some()
    }

    fn totals(&self, view: &View<'_>, report: &mut Report<'_>) -> io::Result<()> {
        let mut before = Total::default();
        walk(view, view.base, &mut |_, kind, ino, base| {
            before.files += u64::from(kind == FileKind::Regular);
            let record = if kind == FileKind::Regular { base.inode(ino).map_err(unreadable)? } else { None };
            before.bytes = before.bytes.saturating_add(record.map_or(0, |record| record.size));
            Ok(true)
        })?;
        // The version is not walked as well: it is the base, and what has changed.
        let mut now = before;
        for change in view.changes {
            let regular = |record: &&std::sync::Arc<InodeRecord>| record.kind == FileKind::Regular;
            if let Some(old) = change.old.as_ref().filter(regular) {
                now = Total { files: now.files.saturating_sub(1), bytes: now.bytes.saturating_sub(old.size) };
            }
            if let Some(new) = change.new.as_ref().filter(regular) {
                now = Total { files: now.files.saturating_add(1), bytes: now.bytes.saturating_add(new.size) };
            }
        }
        report.add("total_files", now.files);
        report.add("total_bytes", now.bytes);
        report.about(b"");
        self.judge_totals(before, now, report);
        Ok(())
    }

    fn judge_totals(&self, before: Total, now: Total, report: &mut Report<'_>) {
        let options = &self.options;
        for (what, value, least, most) in
            [("files", now.files, options.min_files, options.max_files), ("bytes", now.bytes, options.min_bytes, options.max_bytes)]
        {
            if let Some(least) = least.filter(|least| value < *least) {
                report.find(Place::File, format_args!("there are {value} {what}, at least {least} are wanted (min_{what})"));
            }
            if let Some(most) = most.filter(|most| value > *most) {
                report.find(Place::File, format_args!("there are {value} {what}, at most {most} are allowed (max_{what})"));
            }
        }
        // From nothing everything is growth.
        if before.bytes == 0 {
            return;
        }
        let more = |percent: Percent| before.bytes.saturating_add(percent.of(before.bytes));
        let less = |percent: Percent| before.bytes.saturating_sub(percent.of(before.bytes));
        let from_to = format!("from {} bytes to {}", before.bytes, now.bytes);
        if let Some(most) = options.max_growth.filter(|most| now.bytes > more(*most)) {
            report.find(Place::File, format_args!("grows {from_to}, by more than {most} (max_growth)"));
        }
        if let Some(most) = options.max_shrink.filter(|most| now.bytes < less(*most)) {
            report.find(Place::File, format_args!("shrinks {from_to}, by more than {most} (max_shrink)"));
        }
    }
}

/// Fails if more than a share of the files that it looks at are gone. A file that has another name now is not.
pub(super) struct Deletes {
    /// The share of the base's files that may go.
    pub(super) most: Percent,
    /// A base with fewer files is not looked at: removing one of two is no accident.
    pub(super) fewest: u64,
}

impl Builtin for Deletes {
    fn run(&self, cx: &mut Context<'_>) -> Verdict {
        judge(cx, |view, report| {
            let mut gone = 0u64;
            for change in view.changes {
                let was_file = change.kind == ChangeKind::Deleted && change.old.as_ref().is_some_and(|old| old.kind != FileKind::Directory);
                if was_file && view.version.inode(change.ino).map_err(unreadable)?.is_none() {
                    gone += 1;
                }
            }
            report.add("deleted", gone);
            // Only so many files of the base are counted as decide it: the cost follows the change.
            let share = u64::from(self.most.0);
            let enough = self.fewest.max((gone * 100_000).div_ceil(share.max(1)));
            let mut files = 0;
            walk(view, view.base, &mut |_, _, _, _| {
                files += 1;
                Ok(files < enough)
            })?;
            if files >= self.fewest && gone > 0 && gone * 100_000 > files * share {
                let percent = gone * 100 / files;
                report.find(
                    Place::File,
                    format_args!("removes {gone} of {} ({percent} %); at most {} may go", counted(files, "file"), self.most),
                );
            }
            Ok(())
        })
    }
}

/// What is done with a name: its path, what it leads to, and in which snapshot. It says whether to go on.
type Take<'a> = dyn FnMut(&[u8], FileKind, Ino, &Snapshot) -> io::Result<bool> + 'a;

/// Hands each name that the check looks at and that is no directory to `take`, until it says no.
pub(super) fn walk(view: &View<'_>, snapshot: &Snapshot, take: &mut Take<'_>) -> io::Result<()> {
    let mut dirs: Vec<(Ino, Vec<u8>)> = vec![(Ino::ROOT, Vec::new())];
    while let Some((dir, path)) = dirs.pop() {
        view.stop.check()?;
        for entry in snapshot.each_entry(dir) {
            let (name, ino, kind) = entry.map_err(unreadable)?;
            let mut path = path.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            if kind == FileKind::Directory {
                dirs.push((ino, path));
            } else if (view.looks_at)(&path) && !take(&path, kind, ino, snapshot)? {
                return Ok(());
            }
        }
    }
    Ok(())
}
