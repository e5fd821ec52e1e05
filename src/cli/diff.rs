//! `diff`: what differs between two versions, as names, as statistics, as a patch or as a document.

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use super::args::DiffArgs;
use super::daemon::{Asking, unexpected};
use super::exit::{Exit, Failure, Result};
use super::output::{Colour, Out, Paint, quoted};
use super::patch;
use crate::control::protocol::{ChangeDoc, ChangeKind, DiffDoc, Reply, Request};

pub(super) fn run(args: &DiffArgs, daemon: &Asking, out: &mut Out) -> Result {
    let below = args.path.as_deref().map(dataset_path).transpose()?;
    let request = Request::Diff { from: args.from.clone(), to: args.to.clone(), below };
    let doc = match daemon.ask(&request)? {
        Reply::Diff(doc) => doc,
        other => return Err(unexpected(&other)),
    };
    if args.json.json {
        Ok(out.json(&doc)?)
    } else if args.patch {
        patch::print(&doc, out)
    } else if args.stat {
        patch::print_stat(&doc, out)
    } else {
        names(&doc, out)
    }
}

fn names(doc: &DiffDoc, out: &mut Out) -> Result {
    for change in &doc.changes {
        out.line(format_args!("{}\t{}", letter(change, out.paint), quoted(change.bytes())))?;
    }
    Ok(())
}

/// A change's letter in its colour.
pub(super) fn letter(change: &ChangeDoc, paint: Paint) -> String {
    let colour = match change.change {
        ChangeKind::Added => Colour::Green,
        ChangeKind::Deleted => Colour::Red,
        ChangeKind::Modified | ChangeKind::Type | ChangeKind::Properties => Colour::Yellow,
    };
    paint.paint(colour, change.change.letter())
}

/// A path as the dataset's tree names it: relative to its root, without `.` and doubled slashes.
fn dataset_path(path: &Path) -> Result<Vec<u8>> {
    let mut names: Vec<&[u8]> = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name.as_bytes()),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                let line = format!("{}: a path of the dataset has no \"..\"; name it from the dataset's root", path.display());
                return Err(Failure::new(Exit::Usage, line));
            }
        }
    }
    Ok(names.join(&b'/'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn paths_are_named_from_the_datasets_root() {
        let path = |text: &str| dataset_path(Path::new(text)).map_err(|failure| failure.exit);
        assert_eq!(path("/a//b/./c/").unwrap(), b"a/b/c");
        assert_eq!(path(".").unwrap(), b"");
        assert_eq!(path("a/../b"), Err(Exit::Usage));
    }
}
