//! `fsck` and `scrub`: whether the store can be relied on. With a daemon or without. Exit 1 if something is damaged.

use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use super::args::{FsckArgs, JsonArgs};
use super::daemon::{Asking, unexpected};
use super::exit::{Exit, Failure, Result};
use super::output::{Colour, Out};
use crate::control::client::{self, ClientError};
use crate::control::protocol::{FindingDoc, Reply, Request, ScrubDoc};
use crate::daemon::offline;
use crate::lineage::text;

/// How often a daemon is asked how far it is.
const ASK: Duration = Duration::from_millis(250);

pub(super) fn fsck(args: FsckArgs, daemon: &Asking, out: &mut Out) -> Result {
    let spinner = ProgressBar::new_spinner().with_message("checking the structure");
    spinner.enable_steady_tick(Duration::from_millis(100));
    // Of a daemon a repair asks only whether it is there.
    let request = if args.repair { Request::Progress } else { Request::Fsck };
    let checked = match daemon.try_ask_or_none(&request) {
        Ok(Reply::Checked(doc)) => Ok(*doc),
        Ok(Reply::Progress(..)) => {
            let store = daemon.store()?.display();
            let line = format!("{store} is mounted: fsck --repair is for a store at rest; first: shadowfs unmount");
            Err(Failure::new(Exit::Conflict, line))
        }
        Ok(other) => Err(unexpected(&other)),
        Err(ClientError::NoDaemon { store }) => offline::fsck(&store, args.repair).map_err(|error| Failure::from(&error)),
        Err(error) => Err(error.into()),
    };
    spinner.finish_and_clear();
    let doc = checked?;
    if args.json.json {
        out.json(&doc)?;
    } else {
        doc.repaired.iter().try_for_each(|line| out.line(format_args!("repaired: {}", text::printable(line))))?;
        list(&doc.findings, out)?;
    }
    let damage = doc.findings.iter().filter(|finding| finding.is_damage()).count();
    match damage {
        0 if args.json.json => Ok(()),
        0 => Ok(out.line(format_args!("the structure of {} versions is whole; `shadowfs scrub` reads their contents", doc.versions))?),
        _ => {
            let mends = !args.repair && doc.findings.iter().any(|finding| finding.is_damage() && finding.repairable);
            let more =
                if mends { "; `shadowfs fsck --repair`, while it is not mounted, puts right what it can without a loss" } else { "" };
            Err(Failure::failed(format!("the store is damaged: {}{more}", counted(damage))))
        }
    }
}

pub(super) fn scrub(json: JsonArgs, daemon: &Asking, out: &mut Out) -> Result {
    let bar = ProgressBar::new(0).with_message("reading every content");
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {bytes} of {total_bytes}, {eta} left") {
        bar.set_style(style);
    }
    let show = |read: u64, total: u64| {
        bar.set_length(total);
        bar.set_position(read);
    };
    let done = AtomicBool::new(false);
    let store = daemon.store()?.to_owned();
    let scrubbed = std::thread::scope(|scope| {
        if std::io::stderr().is_terminal() {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    if let Ok(Reply::Progress(read, total)) = client::connect(&store).and_then(|client| client.ask(&Request::Progress)) {
                        show(read, total);
                    }
                    std::thread::sleep(ASK);
                }
            });
        }
        let scrubbed = match daemon.try_ask_or_none(&Request::Scrub) {
            Ok(Reply::Scrubbed(doc)) => Ok(*doc),
            Ok(other) => Err(unexpected(&other)),
            Err(ClientError::NoDaemon { store }) => {
                offline::scrub(&store, &mut |read, total| show(read, total)).map_err(|error| Failure::from(&error))
            }
            Err(error) => Err(error.into()),
        };
        done.store(true, Ordering::Relaxed);
        scrubbed
    });
    bar.finish_and_clear();
    let doc: ScrubDoc = scrubbed?;
    if json.json {
        out.json(&doc)?;
    } else {
        list(&doc.findings, out)?;
    }
    let damage = doc.findings.iter().filter(|finding| finding.is_damage()).count();
    match damage {
        0 if json.json => Ok(()),
        0 => Ok(out.line(format_args!("{} contents ({}) are what was sealed", doc.objects, HumanBytes(doc.bytes)))?),
        _ => Err(Failure::failed(format!("contents are damaged: {}; what else there is stays readable", counted(damage)))),
    }
}

fn counted(findings: usize) -> String {
    if findings == 1 { "1 finding".to_owned() } else { format!("{findings} findings") }
}

fn list(findings: &[FindingDoc], out: &mut Out) -> std::io::Result<()> {
    findings.iter().try_for_each(|finding| {
        let colour = match finding.severity.as_str() {
            "error" => Colour::Red,
            "warning" => Colour::Yellow,
            _ => Colour::Dim,
        };
        let severity = out.paint.paint(colour, &finding.severity);
        out.line(format_args!("{severity}: {}", text::printable(&finding.line)))
    })
}
