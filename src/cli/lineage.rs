//! `lineage`: the audit trail.

use serde_json::value::RawValue;

use super::args::{LineageArgs, LineageFormat};
use super::daemon::{Asking, unexpected};
use super::exit::{Failure, Result};
use super::output::Out;
use crate::control::protocol::{Reply, Request};
use crate::lineage::event::EventLine;
use crate::lineage::text;

pub(super) fn run(args: &LineageArgs, daemon: &Asking, out: &mut Out) -> Result {
    let lines = match daemon.ask(&Request::Lineage { version: args.version.clone() })? {
        Reply::Lineage(lines) => lines,
        other => return Err(unexpected(&other)),
    };
    if args.json.json || args.format == LineageFormat::Json {
        // As they are in log.jsonl, byte for byte: the order of the fields is for people, too.
        let events: Vec<&RawValue> = parse(&lines)?;
        Ok(out.json(&events)?)
    } else {
        let events: Vec<EventLine> = parse(&lines)?;
        Ok(out.raw(text::render(&events).as_bytes())?)
    }
}

fn parse<'a, T: serde::Deserialize<'a>>(lines: &'a [String]) -> Result<Vec<T>> {
    let refuse = |error| Failure::failed(format!("an event that this version of shadowfs does not know: {error}"));
    lines.iter().map(|line| serde_json::from_str(line).map_err(refuse)).collect()
}
