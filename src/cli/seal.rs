//! `begin`, `commit` and `abort`: when the open version ends.

use super::args::{CommitArgs, JsonArgs, MessageArgs};
use super::daemon::Asking;
use super::exit::Result;
use super::output::Out;
use super::verdict;
use crate::control::protocol::Request;

pub(super) fn begin(args: MessageArgs, daemon: &Asking, out: &mut Out) -> Result {
    let begun = daemon.version(&Request::Begin { message: args.message })?;
    match begun {
        _ if args.json.json => out.json(&begun)?,
        Some(doc) => out.line(format_args!("{} is held open until commit or abort", doc.version))?,
        None => out.line("the next change opens a version that is held until commit or abort")?,
    }
    Ok(())
}

pub(super) fn commit(args: CommitArgs, daemon: &Asking, out: &mut Out) -> Result {
    let json = args.message.json.json;
    let sealed = daemon.version(&Request::Commit { message: args.message.message })?;
    verdict::after_commit(sealed, args.wait, json, daemon, out)
}

pub(super) fn abort(args: JsonArgs, daemon: &Asking, out: &mut Out) -> Result {
    let discarded = daemon.version(&Request::Abort)?;
    match discarded {
        _ if args.json => out.json(&discarded)?,
        Some(doc) => out.line(format_args!("{} discarded", doc.version))?,
        None => out.line("nothing was open")?,
    }
    Ok(())
}
