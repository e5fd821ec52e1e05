//! `gc`: retention now. With a daemon or without.

use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar};

use super::args::GcArgs;
use super::daemon::{Asking, unexpected};
use super::exit::{Failure, Result};
use super::output::Out;
use crate::control::client::ClientError;
use crate::control::protocol::{GcDoc, GoneDoc, Reply, Request};
use crate::daemon::offline;
use crate::ids::VersionId;
use crate::lineage::text;

pub(super) fn run(args: &GcArgs, daemon: &Asking, out: &mut Out) -> Result {
    let spinner = ProgressBar::new_spinner().with_message("looking for what nothing needs");
    spinner.enable_steady_tick(Duration::from_millis(100));
    let collected = match daemon.try_ask_or_none(&Request::Gc { dry_run: args.dry_run }) {
        Ok(Reply::Collected(doc)) => Ok(*doc),
        Ok(other) => Err(unexpected(&other)),
        Err(ClientError::NoDaemon { store }) => offline::gc(&store, args.dry_run).map_err(|error| Failure::from(&error)),
        Err(error) => Err(error.into()),
    };
    spinner.finish_and_clear();
    let doc = collected?;
    if args.json.json {
        return Ok(out.json(&doc)?);
    }
    for line in lines(&doc) {
        out.line(line)?;
    }
    Ok(())
}

fn names(versions: &[VersionId]) -> String {
    versions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn lines(doc: &GcDoc) -> Vec<String> {
    let goes = if doc.dry_run { "would go" } else { "is gone" };
    let gone = |gone: &GoneDoc| {
        let what = if gone.ghost { " (ghost)" } else { "" };
        format!("{}{what}: its time is over, it {goes}", gone.version)
    };
    let mut lines: Vec<String> = doc.expired.iter().map(gone).collect();
    if !doc.busy.is_empty() {
        lines.push(format!("{}: past its time, but being read by the daemon; it goes when that ends", names(&doc.busy)));
    }
    lines.extend(doc.damaged.iter().map(|what| format!("left as it is, because it is damaged: {}", text::printable(what))));
    let frees = if doc.dry_run { "would free" } else { "freed" };
    let GcDoc { objects, nodes, catalog_bytes, freed, .. } = doc;
    let (freed, catalog) = (HumanBytes(*freed), HumanBytes(*catalog_bytes));
    lines.push(format!("{frees} {freed}: {objects} contents; and {catalog} in the catalog: {nodes} tree nodes"));
    if !doc.in_use.is_empty() {
        let later = HumanBytes(doc.later);
        lines.push(format!("{}: gone, but in use: {later} more come free when the last reader lets go", names(&doc.in_use)));
    }
    if !doc.complete {
        lines.push("it was interrupted; the next gc goes on".to_owned());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_exactly_what_goes() {
        let doc = GcDoc {
            dry_run: true,
            expired: vec![GoneDoc { version: VersionId(3), ghost: true }, GoneDoc { version: VersionId(4), ghost: false }],
            busy: vec![VersionId(5)],
            in_use: vec![VersionId(1), VersionId(2)],
            freed: 3 << 20,
            later: 1 << 10,
            objects: 7,
            nodes: 9,
            catalog_bytes: 2048,
            damaged: vec!["object 4: gone".to_owned()],
            complete: false,
            ..GcDoc::default()
        };
        let expected = [
            "t3 (ghost): its time is over, it would go",
            "t4: its time is over, it would go",
            "t5: past its time, but being read by the daemon; it goes when that ends",
            "left as it is, because it is damaged: object 4: gone",
            "would free 3.00 MiB: 7 contents; and 2.00 KiB in the catalog: 9 tree nodes",
            "t1, t2: gone, but in use: 1.00 KiB more come free when the last reader lets go",
            "it was interrupted; the next gc goes on",
        ];
        assert_eq!(lines(&doc), expected);
        assert_eq!(lines(&GcDoc { complete: true, ..GcDoc::default() }), ["freed 0 B: 0 contents; and 0 B in the catalog: 0 tree nodes"]);
    }
}
