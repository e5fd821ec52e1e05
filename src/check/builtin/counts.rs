//! `size`: how much changed, as numbers alone. `deletes`: not too many files are removed at once.

use std::io;

use super::report::{Place, counted};
use super::{Builtin, Context, Verdict, View, each_file, judge, unreadable};
use crate::ids::Ino;
use crate::tree::ChangeKind;
use crate::tree::key::FileKind;

/// Reports `files` and `bytes` of the changed files, and `bytes_before`, what they had in the base. It never fails.
pub(super) struct Size;

impl Builtin for Size {
    fn run(&self, cx: &mut Context<'_>) -> Verdict {
        judge(cx, |view, report| {
            let old = view.changes.iter().filter_map(|change| change.old.as_ref());
            report.add("bytes_before", old.filter(|old| old.kind == FileKind::Regular).map(|old| old.size).sum());
            each_file(view, report, |_, _, _| Ok(()))
        })
    }
}

/// The share of the base's files, in percent, above which removing them fails.
const MOST: u64 = 50;
/// A base with fewer files is not looked at: removing one of two is no accident.
const FEWEST: u64 = 10;

/// Fails if more than half of the files that it looks at are gone. A file that has another name now is not.
pub(super) struct Deletes;

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
            let enough = FEWEST.max((gone * 100).div_ceil(MOST));
            let files = files_of_base(view, enough)?;
            if files >= FEWEST && gone * 100 > files * MOST {
                let share = gone * 100 / files;
                report.find(Place::File, format_args!("removes {gone} of {} ({share} %); at most {MOST} % may go", counted(files, "file")));
            }
            Ok(())
        })
    }
}

/// How many files of the base the check looks at; counted up to `enough`.
fn files_of_base(view: &View<'_>, enough: u64) -> io::Result<u64> {
    let mut count = 0;
    let mut dirs: Vec<(Ino, Vec<u8>)> = vec![(Ino::ROOT, Vec::new())];
    while let Some((dir, path)) = dirs.pop() {
        view.stop.check()?;
        for entry in view.base.each_entry(dir) {
            let (name, ino, kind) = entry.map_err(unreadable)?;
            let mut path = path.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            if kind == FileKind::Directory {
                dirs.push((ino, path));
            } else if (view.looks_at)(&path) {
                count += 1;
                if count >= enough {
                    return Ok(count);
                }
            }
        }
    }
    Ok(count)
}
