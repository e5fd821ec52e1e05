//! The documents of the lineage, from any events, versions and attempts that a catalog could hold: every JSON form parses, a line stays
//! one line, and nothing that a writer chose is markup in the HTML.

use shadowfs::ids::{Digest, EventSeq, VersionId};
use shadowfs::lineage::doc::{ChangeDoc, ChangeKind};
use shadowfs::lineage::event::{EventLine, json_line};
use shadowfs::lineage::{dot, files, html, openlineage, text};
use shadowfs::store::codec;
use shadowfs::store::event::Event;
use shadowfs::store::record::{AttemptRecord, VersionRecord};

use super::input::Input;
use super::records;

pub fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let (mut events, mut attempts) = (Vec::new(), Vec::new());
    for _ in 0..16 {
        if input.is_empty() {
            break;
        }
        let kind = input.below(4);
        let record = [&[1][..], input.run()].concat();
        match kind {
            0 => version(&record),
            1 => attempts.extend(codec::decode::<AttemptRecord>(&record)),
            2 => change(&record),
            _ => events.extend(codec::decode::<Event>(&record)),
        }
    }
    if let Some(first) = attempts.first() {
        let document = files::check_json(first.version, &first.check, &attempts);
        assert_json(&document);
    }
    all(&events);
}

fn version(record: &[u8]) {
    let Ok(record) = codec::decode::<VersionRecord>(record) else { return };
    assert_json(&files::version_json(&record));
}

fn change(path: &[u8]) {
    let document = files::changes_jsonl([ChangeDoc::new(path, ChangeKind::Modified, Some(1), None, true)]);
    assert_eq!(document.iter().filter(|byte| **byte == b'\n').count(), 1, "{document:?}");
    assert_json(&document);
    let read: ChangeDoc = serde_json::from_slice(&document).unwrap();
    assert_eq!(read.bytes(), path);
}

fn all(events: &[Event]) {
    let lines: Vec<EventLine> = events.iter().map(EventLine::from).collect();
    for (event, line) in events.iter().zip(&lines) {
        let json = json_line(event);
        assert!(!json.contains('\n'), "{json}");
        let read: EventLine = serde_json::from_str(&json).unwrap_or_else(|why| panic!("{why}: {json}"));
        assert_eq!(read, *line);
    }
    assert_eq!(text::render(&lines).lines().count(), lines.len());
    for line in openlineage::render(&lines, "/store").lines() {
        assert_json(line.as_bytes());
    }
    let page = html::render(&lines, "/store");
    // The page has no script, so one in it is a writer's.
    assert!(!page.to_ascii_lowercase().contains("<script"), "{page}");
    // In a label or a name a quote of a writer's is escaped, so on each line they are even.
    for line in dot::render(&lines, "/store").lines() {
        let bytes = line.as_bytes();
        let mut escaped = false;
        let mut quotes = 0;
        for byte in bytes {
            quotes += usize::from(*byte == b'"' && !escaped);
            escaped = *byte == b'\\' && !escaped;
        }
        assert_eq!(quotes % 2, 0, "{line}");
    }
}

fn assert_json(document: &[u8]) {
    let read: Result<serde_json::Value, _> = serde_json::from_slice(document);
    assert!(read.is_ok(), "{}", String::from_utf8_lossy(document));
}

pub fn seeds() -> Vec<Vec<u8>> {
    let part = |kind: u8, record: &[u8]| [&[kind, u8::try_from(record.len() - 1).unwrap()], &record[1..]].concat();
    let events: Vec<Vec<u8>> = records::events()
        .into_iter()
        .enumerate()
        .map(|(seq, what)| {
            let (at, version) = (Default::default(), Some(VersionId(7)));
            let event = Event { seq: EventSeq(seq as u64), at, version, what, previous: Digest([0; 32]), digest: Digest([9; 32]) };
            part(3, &codec::encode(&event))
        })
        .collect();
    let mut seeds: Vec<Vec<u8>> = events.chunks(4).map(<[_]>::concat).collect();
    seeds.push(part(0, &codec::encode(&records::version())));
    seeds.push([part(1, &codec::encode(&records::attempt())), part(2, b"\x01a/\xff\"\n")].concat());
    seeds
}
