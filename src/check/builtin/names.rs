//! `names`: new names are UTF-8, have no control characters, and are of the forms that are wanted.

use globset::{GlobBuilder, GlobMatcher};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use super::report::{Place, quoted};
use super::{Builtin, Context, Verdict, judge};
use crate::tree::ChangeKind;
use crate::tree::key::FileKind;

pub(super) struct Names {
    /// Globs one of which the path of a new file must match; none: any will do.
    pub(super) allow: Vec<String>,
    /// Globs that no new path may match.
    pub(super) forbid: Vec<String>,
}

fn compiled(globs: &[String]) -> Result<Vec<GlobMatcher>, globset::Error> {
    globs.iter().map(|glob| Ok(GlobBuilder::new(glob).literal_separator(true).build()?.compile_matcher())).collect()
}

impl Builtin for Names {
    fn run(&self, cx: &mut Context<'_>) -> Verdict {
        judge(cx, |view, report| {
            let (allow, forbid) =
                (compiled(&self.allow).map_err(std::io::Error::other)?, compiled(&self.forbid).map_err(std::io::Error::other)?);
            report.add("files", 0);
            for change in view.changes.iter().filter(|change| change.kind == ChangeKind::Added) {
                view.stop.check()?;
                report.about(&change.path);
                report.add("files", 1);
                let path = OsStr::from_bytes(&change.path);
                let is_file = change.new.as_ref().is_some_and(|new| new.kind != FileKind::Directory);
                if is_file && !allow.is_empty() && !allow.iter().any(|glob| glob.is_match(path)) {
                    report.find(
                        Place::File,
                        format_args!("the name matches none of the patterns that are allowed: {}", self.allow.join(", ")),
                    );
                }
                if let Some(glob) = forbid.iter().find(|glob| glob.is_match(path)) {
                    report.find(Place::File, format_args!("the name matches the forbidden pattern {}", glob.glob()));
                }
                // What stands before the last slash is the name of a directory: it is looked at where it is new itself.
                let name = change.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
                match str::from_utf8(name) {
                    Err(error) => {
                        let byte = name.get(error.valid_up_to()).copied().unwrap_or_default();
                        report.find(Place::File, format_args!("the name {} is not UTF-8 (byte 0x{byte:02x})", quoted(name)));
                    }
                    Ok(text) => {
                        if let Some(control) = text.chars().find(|character| character.is_control()) {
                            let code = u32::from(control);
                            report.find(Place::File, format_args!("the name {} has the control character U+{code:04X}", quoted(name)));
                        }
                    }
                }
            }
            Ok(())
        })
    }
}
