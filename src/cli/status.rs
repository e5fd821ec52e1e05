//! `status`: what the daemon does now.

use super::args::JsonArgs;
use super::daemon::Asking;
use super::exit::Result;
use super::output::{Colour, Out, Paint, age};
use crate::control::protocol::StatusDoc;
use crate::lineage::text;

pub(super) fn run(args: JsonArgs, daemon: &Asking, out: &mut Out) -> Result {
    let doc = daemon.status()?;
    if args.json {
        return Ok(out.json(&doc)?);
    }
    for (name, value) in facts(&doc, out.paint) {
        out.line(format_args!("{:11} {value}", format!("{name}:")))?;
    }
    Ok(())
}

fn facts(doc: &StatusDoc, paint: Paint) -> Vec<(&'static str, String)> {
    let bytes = indicatif::HumanBytes;
    let cyan = |version| paint.paint(Colour::Cyan, version);
    let mut facts = vec![
        ("store", text::printable(&doc.store)),
        ("mount", format!("{} (daemon {}, {} files)", text::printable(&doc.mount), doc.pid, doc.mode)),
        ("production", cyan(doc.production)),
        ("newest", format!("valid {}, sealed {}", cyan(doc.valid), cyan(doc.latest))),
        ("open", open(doc, paint)),
    ];
    for version in &doc.checking {
        let since = version.sealed_at.as_deref().map(age).unwrap_or_default();
        facts.push(("checking", format!("{} sealed {since}, {}", cyan(version.version), text::counts(&version.changes))));
    }
    for run in &doc.running {
        let took = text::milliseconds(run.running_ms);
        facts.push(("running", format!("{} on {}, attempt {}, for {took}", text::printable(&run.check), cyan(run.version), run.attempt)));
    }
    if !doc.flagged.is_empty() {
        let flagged: Vec<_> = doc.flagged.iter().map(ToString::to_string).collect();
        facts.push(("flagged", format!("{} for promotion", flagged.join(", "))));
    }
    facts.extend(doc.held_back.as_ref().map(|why| ("held back", paint.paint(Colour::Yellow, text::printable(why)))));
    facts.push(("versions", format!("{} and {} ghosts", doc.versions, doc.ghosts)));
    facts.push(("space", format!("{} used, {} of {} free", bytes(doc.space.used), bytes(doc.space.free), bytes(doc.space.total))));
    facts.extend(upkeep(doc, paint));
    let requests: Vec<_> = doc.requests.iter().map(|(session, counts)| format!("{session} {}", counts.values().sum::<u64>())).collect();
    if !requests.is_empty() {
        facts.push(("requests", format!("{} (by operation: --json)", requests.join(", "))));
    }
    facts.extend(doc.warnings.iter().map(|warning| ("warning", paint.paint(Colour::Red, text::printable(warning)))));
    facts
}

/// What gc and scrub did last.
fn upkeep(doc: &StatusDoc, paint: Paint) -> Vec<(&'static str, String)> {
    let (bytes, upkeep) = (indicatif::HumanBytes, &doc.upkeep);
    let mut facts = Vec::new();
    if let Some(swept) = &upkeep.swept {
        facts.push(("gc", format!("{}, freed {}", age(&swept.at), bytes(swept.freed))));
    }
    if !upkeep.in_use.is_empty() {
        let versions: Vec<_> = upkeep.in_use.iter().map(ToString::to_string).collect();
        facts.push(("in use", format!("{}: gone, but open somewhere", versions.join(", "))));
    }
    if let Some(scrubbed) = &upkeep.scrubbed {
        let found = match scrubbed.findings.len() {
            0 => "no damage".to_owned(),
            found => paint.paint(Colour::Red, format_args!("damage: {found} findings")),
        };
        facts.push(("scrub", format!("{}, {} contents, {}: {found}", age(&scrubbed.at), scrubbed.objects, bytes(scrubbed.bytes))));
    }
    facts.extend(upkeep.scrubbing.map(|read| ("scrubbing", format!("{} read so far", bytes(read)))));
    facts
}

fn open(doc: &StatusDoc, paint: Paint) -> String {
    let Some(open) = &doc.open else { return "none".to_owned() };
    let mut line =
        format!("{} opened {}, {} files open for writing", paint.paint(Colour::Yellow, open.version), age(&open.opened_at), open.writers);
    if open.mapped > 0 {
        line.push_str(&format!(" ({} of them closed, but still mapped)", open.mapped));
    }
    if open.held_open {
        line.push_str(", held until commit or abort");
    }
    if let Some(message) = &open.message {
        line.push_str(&format!(": {}", text::printable(message)));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::{OpenDoc, RunningDoc, ScrubbedDoc, SpaceDoc, SweptDoc, UpkeepDoc};
    use crate::ids::VersionId;

    #[test]
    fn status_tells_what_is_under_way() {
        let doc = StatusDoc {
            store: "/s".to_owned(),
            mount: "/m".to_owned(),
            pid: 7,
            mode: "cached".to_owned(),
            production: VersionId(3),
            valid: VersionId(4),
            latest: VersionId(5),
            open: Some(OpenDoc {
                version: VersionId(6),
                opened_at: "2020-01-01T00:00:00Z".to_owned(),
                writers: 2,
                mapped: 1,
                held_open: true,
                message: Some("x".to_owned()),
            }),
            checking: Vec::new(),
            running: vec![RunningDoc { version: VersionId(5), check: "rows".to_owned(), attempt: 2, running_ms: 1_200 }],
            flagged: vec![VersionId(4)],
            held_back: Some("3% free".to_owned()),
            ghosts: 1,
            versions: 5,
            space: SpaceDoc { used: 1024, free: 2048, total: 4096 },
            upkeep: UpkeepDoc {
                in_use: vec![VersionId(1), VersionId(2)],
                swept: Some(SweptDoc { at: "2020-01-01T00:00:00Z".to_owned(), freed: 1024 }),
                scrubbed: Some(ScrubbedDoc {
                    at: "2020-01-02T00:00:00Z".to_owned(),
                    objects: 3,
                    bytes: 2048,
                    findings: vec!["x".to_owned()],
                }),
                scrubbing: Some(5),
            },
            warnings: vec!["w".to_owned()],
            requests: [("staging".to_owned(), [("read".to_owned(), 2), ("write".to_owned(), 3)].into())].into(),
        };
        let lines: Vec<_> = facts(&doc, Paint::none()).into_iter().map(|(name, value)| format!("{name}: {value}")).collect();
        let expected = [
            "store: /s",
            "mount: /m (daemon 7, cached files)",
            "production: t3",
            "newest: valid t4, sealed t5",
            "open: t6 opened 2020-01-01, 2 files open for writing (1 of them closed, but still mapped), held until commit or abort: x",
            "running: rows on t5, attempt 2, for 1.2 s",
            "flagged: t4 for promotion",
            "held back: 3% free",
            "versions: 5 and 1 ghosts",
            "space: 1.00 KiB used, 2.00 KiB of 4.00 KiB free",
            "gc: 2020-01-01, freed 1.00 KiB",
            "in use: t1, t2: gone, but open somewhere",
            "scrub: 2020-01-02, 3 contents, 2.00 KiB: damage: 1 findings",
            "scrubbing: 5 B read so far",
            "requests: staging 5 (by operation: --json)",
            "warning: w",
        ];
        assert_eq!(lines, expected);
    }
}
