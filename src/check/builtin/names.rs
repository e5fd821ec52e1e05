//! `names`: new names are UTF-8 and have no control characters.

use super::report::{Place, quoted};
use super::{Builtin, Context, Verdict, judge};
use crate::tree::ChangeKind;

pub(super) struct Names;

impl Builtin for Names {
    fn run(&self, cx: &mut Context<'_>) -> Verdict {
        judge(cx, |view, report| {
            report.add("files", 0);
            for change in view.changes.iter().filter(|change| change.kind == ChangeKind::Added) {
                view.stop.check()?;
                report.about(&change.path);
                report.add("files", 1);
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
