//! `lineage`: the audit trail.

use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar};
use serde_json::value::RawValue;

use super::args::{JsonArgs, LineageArgs, LineageFormat};
use super::daemon::{Asking, unexpected};
use super::exit::{Failure, Result};
use super::output::Out;
use crate::control::protocol::{Reply, Request, VerifyDoc};
use crate::lineage::event::EventLine;
use crate::lineage::{dot, html, openlineage, text};

/// `lineage verify`: exit 1 if anything is not what was recorded.
pub(super) fn verify(json: JsonArgs, daemon: &Asking, out: &mut Out) -> Result {
    let spinner = ProgressBar::new_spinner().with_message("reading everything in the store");
    spinner.enable_steady_tick(Duration::from_millis(100));
    let reply = daemon.ask(&Request::Verify);
    spinner.finish_and_clear();
    let doc = match reply? {
        Reply::Verified(doc) => doc,
        other => return Err(unexpected(&other)),
    };
    if json.json {
        out.json(&doc)?;
    } else {
        doc.findings.iter().try_for_each(|finding| out.line(finding))?;
    }
    match doc.findings.len() {
        0 if json.json => Ok(()),
        0 => {
            let VerifyDoc { events, versions, objects, bytes, .. } = doc;
            let bytes = HumanBytes(bytes);
            Ok(out.line(format_args!(
                "{events} events and {versions} versions are as recorded; {objects} contents ({bytes}) have their digests"
            ))?)
        }
        count => {
            let findings = if count == 1 { "finding" } else { "findings" };
            Err(Failure::failed(format!("the lineage does not hold: {count} {findings}; `shadowfs fsck` looks at the store's structure")))
        }
    }
}

pub(super) fn run(args: &LineageArgs, daemon: &Asking, out: &mut Out) -> Result {
    let lines = match daemon.ask(&Request::Lineage { version: args.version.clone() })? {
        Reply::Lineage(lines) => lines,
        other => return Err(unexpected(&other)),
    };
    if args.json.json || args.format == LineageFormat::Json {
        // As they are in log.jsonl, byte for byte: the order of the fields is for people, too.
        let events: Vec<&RawValue> = parse(&lines)?;
        return Ok(out.json(&events)?);
    }
    let events: Vec<EventLine> = parse(&lines)?;
    let store = daemon.store()?.display().to_string();
    let rendered = match args.format {
        LineageFormat::Text | LineageFormat::Json => text::render(&events),
        LineageFormat::Openlineage => openlineage::render(&events, &store),
        LineageFormat::Dot => dot::render(&events, &store),
        LineageFormat::Html => html::render(&events, &store),
    };
    Ok(out.raw(rendered.as_bytes())?)
}

fn parse<'a, T: serde::Deserialize<'a>>(lines: &'a [String]) -> Result<Vec<T>> {
    let refuse = |error| Failure::failed(format!("an event that this version of shadowfs does not know: {error}"));
    lines.iter().map(|line| serde_json::from_str(line).map_err(refuse)).collect()
}
