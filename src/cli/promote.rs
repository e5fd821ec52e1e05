//! `promote` and `rollback`: production, by hand.

use super::args::OptionalVersionArgs;
use super::daemon::Asking;
use super::exit::Result;
use super::output::Out;
use crate::control::protocol::Request;

pub(super) fn promote(args: OptionalVersionArgs, daemon: &Asking, out: &mut Out) -> Result {
    let promoted = daemon.version(&Request::Promote { version: args.version })?;
    match promoted {
        _ if args.json.json => out.json(&promoted)?,
        Some(doc) => out.line(format_args!("{} is in production", doc.version))?,
        None => out.line("nothing is flagged for promotion")?,
    }
    Ok(())
}

pub(super) fn rollback(args: OptionalVersionArgs, daemon: &Asking, out: &mut Out) -> Result {
    let back = daemon.version(&Request::Rollback { version: args.version })?;
    match back {
        _ if args.json.json => out.json(&back)?,
        Some(doc) => out.line(format_args!("production and staging are back at {}", doc.version))?,
        None => out.line("nothing to roll back")?,
    }
    Ok(())
}
