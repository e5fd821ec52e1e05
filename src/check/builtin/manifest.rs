//! `manifest`: files are what the `SHA256SUMS` beside or above them says.
//!
//! A changed manifest is held against its files, except where neither the line nor the file differs from the base; a changed file is
//! held against the manifests that name it. Files that no manifest names are no finding, as with `sha256sum --check`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::{self, BufRead, Read as _};

use sha2::{Digest as _, Sha256};

use super::file::File;
use super::report::{Place, Report, quoted};
use super::{Builtin, Context, Verdict, View, judge, unreadable};
use crate::ids::Digest;
use crate::tree::key::{Content, FileKind};
use crate::tree::{ChangeKind, Snapshot};

const NAME: &[u8] = b"SHA256SUMS";
/// The longest line that is read.
const LINE: u64 = 64 << 10;
/// Symbolic links that are followed one after the other.
const LINKS: usize = 40;

pub(super) struct Manifest;

impl Builtin for Manifest {
    fn run(&self, cx: &mut Context<'_>) -> Verdict {
        judge(cx, |view, report| {
            report.counts_files();
            for (dir, wanted) in to_check(view)? {
                view.stop.check()?;
                check(view, &dir, &wanted, report)?;
            }
            Ok(())
        })
    }
}

/// What to look at of a manifest.
#[derive(Debug)]
enum Wanted {
    /// Every line.
    All,
    /// The lines of these names.
    Names(BTreeSet<Vec<u8>>),
}

/// A line's content.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    name: Vec<u8>,
    digest: [u8; 32],
}

/// The manifests to look at, by the path of their directory.
fn to_check(view: &View<'_>) -> io::Result<BTreeMap<Vec<u8>, Wanted>> {
    let mut wanted: BTreeMap<Vec<u8>, Wanted> = BTreeMap::new();
    let mut known: HashMap<Vec<u8>, bool> = HashMap::new();
    for change in view.changes.iter().filter(|change| change.kind != ChangeKind::Properties) {
        view.stop.check()?;
        let (dir, name) = split(&change.path);
        if name == NAME {
            if view.file(&change.path)?.is_some() {
                wanted.insert(dir.to_vec(), Wanted::All);
            }
            continue;
        }
        let mut dir = Some(dir);
        while let Some(at) = dir {
            let there = match known.get(at) {
                Some(there) => *there,
                None => {
                    let there = view.file(&join(at, NAME))?.is_some();
                    known.insert(at.to_vec(), there);
                    there
                }
            };
            if there {
                let below = if at.is_empty() { change.path.as_slice() } else { change.path.get(at.len() + 1..).unwrap_or_default() };
                if let Wanted::Names(names) = wanted.entry(at.to_vec()).or_insert_with(|| Wanted::Names(BTreeSet::new())) {
                    names.insert(below.to_vec());
                }
            }
            dir = (!at.is_empty()).then(|| split(at).0);
        }
    }
    Ok(wanted)
}

fn check(view: &View<'_>, dir: &[u8], wanted: &Wanted, report: &mut Report<'_>) -> io::Result<()> {
    let path = join(dir, NAME);
    let Some(manifest) = view.file(&path)? else { return Ok(()) };
    // Lines that the base's manifest had; only their digests are kept.
    let mut before = HashSet::new();
    if let (Wanted::All, Some(base)) = (wanted, view.base_file(&path)?) {
        each_line(&base, |_, line| {
            before.insert(Digest::of(line));
            Ok(())
        })?;
    }
    report.about(&path);
    each_line(&manifest, |number, line| {
        let place = Place::Line(number);
        if line.is_empty() || line.starts_with(b"#") {
            return Ok(());
        }
        let Some(entry) = parse(line) else {
            if matches!(wanted, Wanted::All) {
                report.find(place, "this is no line of sha256sum");
            }
            return Ok(());
        };
        if matches!(wanted, Wanted::Names(names) if !names.contains(&entry.name)) {
            return Ok(());
        }
        if entry.name.starts_with(b"/") || entry.name.split(|byte| *byte == b'/').any(|name| name == b"..") {
            report.find(place, format_args!("{} leads out of the manifest's directory", quoted(&entry.name)));
            return Ok(());
        }
        let file = join(dir, &entry.name);
        match target(view.version, &file)?.map(|path| view.file(&path)).transpose()?.flatten() {
            None => report.find(place, format_args!("{} is not there as a regular file", quoted(&entry.name))),
            Some(found) => {
                let same = before.contains(&Digest::of(line)) && view.base_file(&file)?.is_some_and(|base| found.is_unchanged_from(&base));
                if !same {
                    compare(&entry, &found, place, report)?;
                }
            }
        }
        Ok(())
    })
}

fn compare(entry: &Entry, file: &File<'_>, place: Place, report: &mut Report<'_>) -> io::Result<()> {
    report.add("files", 1);
    report.add("bytes", file.len());
    let (mut reader, mut hash) = (file.reader(0), Sha256::new());
    loop {
        let chunk = reader.fill_buf()?;
        let len = chunk.len();
        if len == 0 {
            break;
        }
        hash.update(chunk);
        reader.consume(len);
    }
    let found: [u8; 32] = hash.finalize().into();
    if found != entry.digest {
        let (found, expected) = (hex(&found), hex(&entry.digest));
        report.find(place, format_args!("{} has the SHA-256 {found}, not {expected}", quoted(&entry.name)));
    }
    Ok(())
}

/// Calls `each` for every line, without its end. A line that is too long is handed on cut, which no reader of it accepts.
fn each_line(file: &File<'_>, mut each: impl FnMut(u64, &[u8]) -> io::Result<()>) -> io::Result<()> {
    let (mut reader, mut line, mut number) = (file.reader(0), Vec::new(), 0);
    loop {
        line.clear();
        if reader.by_ref().take(LINE).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        if line.len() as u64 == LINE && !line.ends_with(b"\n") {
            skip_line(&mut reader)?;
        }
        number += 1;
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        each(number, text.strip_suffix(b"\r").unwrap_or(text))?;
    }
}

pub(super) fn skip_line(reader: &mut impl BufRead) -> io::Result<()> {
    loop {
        let chunk = reader.fill_buf()?;
        let len = chunk.len();
        match chunk.iter().position(|byte| *byte == b'\n') {
            Some(end) => {
                reader.consume(end + 1);
                return Ok(());
            }
            None if len == 0 => return Ok(()),
            None => reader.consume(len),
        }
    }
}

/// A line as sha256sum writes it: `HEX  NAME`, `HEX *NAME`, `SHA256 (NAME) = HEX`; with a backslash before it, the name has escapes.
pub(super) fn parse(line: &[u8]) -> Option<Entry> {
    let (escaped, line) = match line.strip_prefix(b"\\") {
        Some(rest) => (true, rest),
        None => (false, line),
    };
    let (hex, name) = match line.strip_prefix(b"SHA256 (") {
        Some(tagged) => {
            let end = tagged.windows(4).rposition(|window| window == b") = ")?;
            (tagged.get(end + 4..)?, tagged.get(..end)?)
        }
        None => {
            let (hex, rest) = line.split_at_checked(64)?;
            let name = rest.strip_prefix(b"  ").or_else(|| rest.strip_prefix(b" *"))?;
            (hex, name)
        }
    };
    let name = name.strip_prefix(b"./").unwrap_or(name);
    let name = if escaped { unescape(name)? } else { name.to_vec() };
    let digest = unhex(hex)?;
    (!name.is_empty()).then_some(Entry { name, digest })
}

fn unescape(name: &[u8]) -> Option<Vec<u8>> {
    let (mut plain, mut bytes) = (Vec::with_capacity(name.len()), name.iter());
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'\\' => match bytes.next()? {
                b'n' => b'\n',
                b'r' => b'\r',
                b'\\' => b'\\',
                _ => return None,
            },
            byte => *byte,
        });
    }
    Some(plain)
}

fn unhex(hex: &[u8]) -> Option<[u8; 32]> {
    if hex.len() != 64 {
        return None;
    }
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(hex.chunks_exact(2)) {
        let mut value = 0;
        for digit in pair {
            value = value * 16 + char::from(*digit).to_digit(16)?;
        }
        *byte = u8::try_from(value).ok()?;
    }
    Some(digest)
}

fn hex(digest: &[u8; 32]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The path that `path` leads to once symbolic links at its end are followed; `None` if they lead out of the dataset or in a circle.
fn target(version: &Snapshot, path: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut path = path.to_vec();
    for _ in 0..LINKS {
        let record = match version.resolve(&path).map_err(unreadable)? {
            Some(ino) => version.inode(ino).map_err(unreadable)?,
            None => None,
        };
        match record.as_deref().map(|record| (record.kind, &record.content)) {
            Some((FileKind::Symlink, Content::Inline(to))) if !to.starts_with(b"/") => path = join(split(&path).0, to),
            Some((FileKind::Symlink, _)) => return Ok(None),
            _ => return Ok(Some(path)),
        }
    }
    Ok(None)
}

/// The directory and the name of a path.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (path.get(..slash).unwrap_or_default(), path.get(slash + 1..).unwrap_or_default()),
        None => (b"", path),
    }
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}
