//! The changed lines between two versions, in git's form (`git apply` takes it), and their counts. Both sides are read from the mount.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use similar::{ChangeTag, TextDiff};

use super::exit::{Failure, Result};
use super::output::{Colour, Out, Paint, quoted};
use crate::control::protocol::{ChangeDoc, ChangeKind, DiffDoc};

/// Files above this are not compared line by line.
const LARGEST: u64 = 32 << 20;
/// How far into a file a zero byte makes it binary, as in git.
const BINARY_WITHIN: usize = 8000;
/// After this time a file's lines are compared coarsely: still right, no longer minimal.
const PATIENCE: Duration = Duration::from_secs(2);
/// The widest bar of `--stat`.
const BAR: u64 = 40;

/// One side of a changed path.
enum Side {
    Absent,
    /// A file or a symlink's target, with git's mode.
    Content {
        mode: u32,
        bytes: Vec<u8>,
    },
    /// A file that is not looked into.
    Large {
        mode: u32,
        len: u64,
    },
    /// A directory or a special file: git has none.
    Other,
}

impl Side {
    fn mode(&self) -> Option<u32> {
        match self {
            Self::Content { mode, .. } | Self::Large { mode, .. } => Some(*mode),
            Self::Absent | Self::Other => None,
        }
    }

    fn is_binary(&self) -> bool {
        match self {
            Self::Content { bytes, .. } => bytes.iter().take(BINARY_WITHIN).any(|byte| *byte == 0),
            Self::Large { .. } => true,
            Self::Absent | Self::Other => false,
        }
    }

    fn len(&self) -> u64 {
        match self {
            Self::Content { bytes, .. } => bytes.len() as u64,
            Self::Large { len, .. } => *len,
            Self::Absent | Self::Other => 0,
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Content { bytes, .. } => bytes,
            Self::Absent | Self::Large { .. } | Self::Other => &[],
        }
    }
}

/// Reads both sides of a change.
fn sides(doc: &DiffDoc, change: &ChangeDoc) -> Result<(Side, Side)> {
    let below = |view: &str| Path::new(&doc.mount).join(view).join(OsStr::from_bytes(change.bytes()));
    // A side that does not have the path is not looked for: on a symlinked parent the walk could end elsewhere.
    let old = if change.change == ChangeKind::Added { Ok(Side::Absent) } else { read(&below(&doc.from)) };
    let new = if change.change == ChangeKind::Deleted { Ok(Side::Absent) } else { read(&below(&doc.to)) };
    Ok((old?, new?))
}

fn read(path: &PathBuf) -> Result<Side> {
    let side = || -> io::Result<Side> {
        let about = std::fs::symlink_metadata(path)?;
        if about.is_symlink() {
            return Ok(Side::Content { mode: 0o120_000, bytes: std::fs::read_link(path)?.as_os_str().as_bytes().to_vec() });
        }
        if !about.is_file() {
            return Ok(Side::Other);
        }
        let mode = if about.permissions().mode() & 0o100 == 0 { 0o100_644 } else { 0o100_755 };
        if about.len() > LARGEST {
            return Ok(Side::Large { mode, len: about.len() });
        }
        Ok(Side::Content { mode, bytes: std::fs::read(path)? })
    };
    match side() {
        // Staging goes on while it is read.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Side::Absent),
        side => side.map_err(|error| Failure::failed(format!("{}: can't be read: {error}", path.display()))),
    }
}

/// `diff --patch`.
pub(super) fn print(doc: &DiffDoc, out: &mut Out) -> Result {
    for change in &doc.changes {
        let (old, new) = sides(doc, change)?;
        if change.change == ChangeKind::Type {
            // Of another kind now: away with the old one, then the new one, as git has it.
            one(change, &old, &Side::Absent, out)?;
            one(change, &Side::Absent, &new, out)?;
        } else {
            one(change, &old, &new, out)?;
        }
    }
    Ok(())
}

fn one(change: &ChangeDoc, old: &Side, new: &Side, out: &mut Out) -> Result {
    let named = |prefix: &str| quoted(&[prefix.as_bytes(), change.bytes()].concat());
    let (from, to) = (named("a/"), named("b/"));
    let mut head = vec![format!("diff --git {from} {to}")];
    match (old.mode(), new.mode()) {
        (None, None) => return Ok(()),
        (None, Some(mode)) => head.push(format!("new file mode {mode:06o}")),
        (Some(mode), None) => head.push(format!("deleted file mode {mode:06o}")),
        (Some(before), Some(after)) if before != after => head.extend([format!("old mode {before:06o}"), format!("new mode {after:06o}")]),
        _ => {}
    }
    let binary = old.is_binary() || new.is_binary();
    let same = old.bytes() == new.bytes() && old.len() == new.len() && (!binary || change.change == ChangeKind::Properties);
    if same && head.len() == 1 {
        return Ok(());
    }
    let old_name = if old.mode().is_some() { from } else { "/dev/null".to_owned() };
    let new_name = if new.mode().is_some() { to } else { "/dev/null".to_owned() };
    if !same && binary {
        head.push(format!("Binary files {old_name} and {new_name} differ"));
    } else if !same {
        head.extend([format!("--- {old_name}"), format!("+++ {new_name}")]);
    }
    for line in head {
        let line = out.paint.paint(Colour::Bold, line);
        out.line(line)?;
    }
    if same || binary { Ok(()) } else { hunks(old.bytes(), new.bytes(), out) }
}

fn hunks(old: &[u8], new: &[u8], out: &mut Out) -> Result {
    let diff = TextDiff::configure().timeout(PATIENCE).diff_lines(old, new);
    for hunk in diff.unified_diff().context_radius(3).iter_hunks() {
        let heading = out.paint.paint(Colour::Cyan, hunk.header().to_string());
        out.line(heading)?;
        for change in hunk.iter_changes() {
            let (sign, colour) = match change.tag() {
                ChangeTag::Equal => (' ', None),
                ChangeTag::Delete => ('-', Some(Colour::Red)),
                ChangeTag::Insert => ('+', Some(Colour::Green)),
            };
            let bytes: &[u8] = change.value();
            let text = bytes.strip_suffix(b"\n").unwrap_or(bytes);
            // Bytes that are no text go out as they are, so that the patch applies.
            match (colour, std::str::from_utf8(text)) {
                (Some(colour), Ok(text)) => {
                    let line = out.paint.paint(colour, format_args!("{sign}{text}"));
                    out.line(line)?;
                }
                _ => out.raw(&[&[sign as u8], text, b"\n"].concat())?,
            }
            if !bytes.ends_with(b"\n") {
                out.line("\\ No newline at end of file")?;
            }
        }
    }
    Ok(())
}

/// What `--stat` says of a path.
enum Stat {
    Lines {
        added: u64,
        removed: u64,
    },
    Binary {
        before: u64,
        after: u64,
    },
    /// A word on what has no lines.
    Word(&'static str),
}

impl Stat {
    /// What stands after a path: the count in `width` columns, and a bar as long as its part of `most`.
    fn show(&self, width: usize, most: u64, paint: Paint) -> String {
        let bar = |count: u64, sign: &str| {
            // Something changed shows at least one sign, however long the longest bar.
            let signs = if most > BAR && count > 0 { (count * BAR / most).max(1) } else { count };
            sign.repeat(usize::try_from(signs).unwrap_or(0))
        };
        match self {
            Self::Lines { added, removed } => {
                let (plus, minus) = (paint.paint(Colour::Green, bar(*added, "+")), paint.paint(Colour::Red, bar(*removed, "-")));
                format!("{:>width$} {plus}{minus}", added + removed)
            }
            Self::Binary { before, after } => format!("{:>width$} {before} -> {after} bytes", "Bin"),
            Self::Word(word) => (*word).to_owned(),
        }
    }
}

fn stat(change: &ChangeDoc, old: &Side, new: &Side) -> Stat {
    if old.mode().is_none() && new.mode().is_none() || change.change == ChangeKind::Properties {
        return Stat::Word(match change.change {
            ChangeKind::Added => "new",
            ChangeKind::Deleted => "gone",
            ChangeKind::Properties => "properties",
            ChangeKind::Type => "of another kind",
            ChangeKind::Modified => "changed",
        });
    }
    if old.is_binary() || new.is_binary() {
        return Stat::Binary { before: old.len(), after: new.len() };
    }
    let (old, new) = (old.bytes(), new.bytes());
    if old.is_empty() || new.is_empty() {
        return Stat::Lines { added: lines(new), removed: lines(old) };
    }
    let diff = TextDiff::configure().timeout(PATIENCE).diff_lines(old, new);
    let (mut added, mut removed) = (0, 0);
    for op in diff.ops().iter().filter(|op| op.tag() != similar::DiffTag::Equal) {
        added += op.new_range().len() as u64;
        removed += op.old_range().len() as u64;
    }
    Stat::Lines { added, removed }
}

fn lines(bytes: &[u8]) -> u64 {
    let whole = bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
    whole + u64::from(bytes.last().is_some_and(|byte| *byte != b'\n'))
}

/// `diff --stat`.
pub(super) fn print_stat(doc: &DiffDoc, out: &mut Out) -> Result {
    let mut stats = Vec::new();
    for change in &doc.changes {
        let (old, new) = sides(doc, change)?;
        stats.push((quoted(change.bytes()), stat(change, &old, &new)));
    }
    let (mut added, mut removed, mut most) = (0, 0, 0);
    for (_, stat) in &stats {
        if let Stat::Lines { added: more, removed: less } = stat {
            (added, removed, most) = (added + more, removed + less, most.max(more + less));
        }
    }
    let path_width = stats.iter().map(|(path, _)| path.chars().count()).max().unwrap_or(0);
    let count_width = most.to_string().len().max(if stats.iter().any(|(_, stat)| matches!(stat, Stat::Binary { .. })) { 3 } else { 0 });
    for (path, stat) in &stats {
        let shown = stat.show(count_width, most, out.paint);
        out.line(format_args!(" {path:path_width$} | {shown}"))?;
    }
    let plural = |count: u64, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    let (paths, added, removed) = (plural(stats.len() as u64, "path"), plural(added, "insertion"), plural(removed, "deletion"));
    Ok(out.line(format_args!(" {paths} changed, {added}(+), {removed}(-)"))?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    fn content(bytes: &[u8]) -> Side {
        Side::Content { mode: 0o100_644, bytes: bytes.to_vec() }
    }

    fn change(kind: ChangeKind) -> ChangeDoc {
        ChangeDoc::new(b"a", kind, None, None, true)
    }

    #[test]
    fn lines_are_counted_as_git_counts_them() {
        let counted = |old: &[u8], new: &[u8]| match stat(&change(ChangeKind::Modified), &content(old), &content(new)) {
            Stat::Lines { added, removed } => (added, removed),
            _ => unreachable!("not lines"),
        };
        assert_eq!(counted(b"a\nb\nc\n", b"a\nx\nc\nd"), (2, 1));
        assert_eq!(counted(b"", b"a\nb"), (2, 0));
        assert_eq!(counted(b"a\n", b""), (0, 1));
    }

    #[test]
    fn binary_files_and_directories_have_no_lines() {
        let binary = stat(&change(ChangeKind::Modified), &content(b"a"), &content(b"a\0"));
        assert!(matches!(binary, Stat::Binary { before: 1, after: 2 }));
        assert!(matches!(stat(&change(ChangeKind::Added), &Side::Absent, &Side::Other), Stat::Word("new")));
        assert!(matches!(stat(&change(ChangeKind::Properties), &content(b"a"), &content(b"a")), Stat::Word("properties")));
    }

    #[test]
    fn bars_fit_and_every_change_shows() {
        let bar = |added, removed, most| Stat::Lines { added, removed }.show(4, most, Paint::none());
        assert_eq!(bar(3, 1, 4), "   4 +++-");
        assert_eq!(bar(4000, 1, 4001), format!("4001 {}-", "+".repeat(39)));
    }
}
