//! `restore`, `drop`, `pin` and `tag`: what is brought back, let go and kept, by hand.

use super::args::{PinArgs, TagArgs, VersionArgs};
use super::daemon::{Asking, unexpected};
use super::exit::{Exit, Failure, Result};
use super::output::{Cell, Colour, Out, table};
use crate::control::protocol::{Reply, Request};

pub(super) fn restore(args: VersionArgs, daemon: &Asking, out: &mut Out) -> Result {
    let restored = daemon.version(&Request::Restore { version: args.version })?;
    match restored {
        _ if args.json.json => out.json(&restored)?,
        Some(doc) => {
            let from = doc.restored_from.map(|from| format!("the content of {from}")).unwrap_or_default();
            out.line(format_args!("staging has {from} again, as {}", doc.version))?;
        }
        None => out.line("staging has that content already")?,
    }
    Ok(())
}

pub(super) fn drop(args: VersionArgs, daemon: &Asking, out: &mut Out) -> Result {
    let dropped = daemon.version(&Request::Drop { version: args.version })?;
    match dropped {
        _ if args.json.json => out.json(&dropped)?,
        Some(doc) => out.line(format_args!("{} is dropped; its record and logs stay in the lineage", doc.version))?,
        None => {}
    }
    Ok(())
}

pub(super) fn pin(args: PinArgs, daemon: &Asking, out: &mut Out) -> Result {
    let pinned = daemon.version(&Request::Pin { version: args.version, on: !args.remove })?;
    match pinned {
        _ if args.json.json => out.json(&pinned)?,
        Some(doc) if doc.pinned => out.line(format_args!("{} is kept until: shadowfs pin --remove {0}", doc.version))?,
        Some(doc) => out.line(format_args!("{} is no longer pinned", doc.version))?,
        None => {}
    }
    Ok(())
}

pub(super) fn tag(args: TagArgs, daemon: &Asking, out: &mut Out) -> Result {
    let (name, request) = match (args.name, args.version) {
        (None, _) => return list(args.json.json, daemon, out),
        (Some(name), None) if args.remove => (name.clone(), Request::Untag { name: name.as_str().to_owned() }),
        (Some(name), Some(version)) => (name.clone(), Request::Tag { name: name.as_str().to_owned(), version, force: args.force }),
        (Some(name), None) => {
            let line = format!("which version is to be {name}? shadowfs tag {name} tN (or, to take it away: shadowfs tag --remove {name})");
            return Err(Failure::new(Exit::Usage, line));
        }
    };
    let tagged = daemon.version(&request)?;
    match tagged {
        _ if args.json.json => out.json(&tagged)?,
        Some(doc) if args.remove => out.line(format_args!("{name} no longer leads to {}", doc.version))?,
        Some(doc) => out.line(format_args!("versions/{name} leads to {}", doc.version))?,
        None => {}
    }
    Ok(())
}

fn list(json: bool, daemon: &Asking, out: &mut Out) -> Result {
    let tags = match daemon.ask(&Request::Tags)? {
        Reply::Tags(tags) => tags,
        other => return Err(unexpected(&other)),
    };
    if json {
        return Ok(out.json(&tags)?);
    }
    if tags.is_empty() {
        return Ok(out.line("no tags")?);
    }
    let rows: Vec<Vec<Cell>> = tags.iter().map(|tag| vec![tag.name.as_str().into(), Cell::painted(Colour::Cyan, tag.version)]).collect();
    Ok(out.raw(table(&["TAG", "VERSION"], &rows, out.paint).as_bytes())?)
}
