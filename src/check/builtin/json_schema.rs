//! `json-schema`: every value is what a JSON Schema says; of a `.jsonl` or `.ndjson` file each line is a value, of others the whole file.
//!
//! The schema is a file of the version that is checked, or a file of the machine. One that is missing or is no schema is a mistake in the
//! configuration: it says nothing about the data. References must stay inside it: nothing is fetched, and no other file is read.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{self, BufRead as _, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use jsonschema::Validator;
use serde_json::Value;

use super::file::File;
use super::report::{PER_FILE, Place, Report, shown};
use super::{Builtin, Context, Verdict, View, each_file, each_file_of_all, judge};

/// The longest schema, and the longest value that is held against one: it is held in memory.
const SCHEMA: u64 = 4 << 20;
const VALUE: u64 = 64 << 20;
/// Characters of what is said of one value.
const WORDS: usize = 300;

pub(super) struct JsonSchema {
    /// Relative to the dataset's root, or an absolute path of the machine.
    pub(super) schema: String,
}

impl Builtin for JsonSchema {
    fn run(&self, cx: &mut Context<'_>) -> Verdict {
        judge(cx, |view, report| {
            view.stop.check()?;
            let bytes = self.bytes(view)?;
            let validator = compile(&bytes).map_err(|why| self.unusable(&why))?;
            report.add("rows", 0);
            let mut look = |path: &[u8], file: &File<'_>, report: &mut Report<'_>| match is_lines(path) {
                _ if path == self.schema.as_bytes() => Ok(()),
                true => lines(file, &validator, report),
                false => one_value(file, &validator, report),
            };
            // What was good by the schema of the base need not be good by this one.
            if self.changed(view)? { each_file_of_all(view, report, &mut look) } else { each_file(view, report, &mut look) }
        })
    }
}

impl JsonSchema {
    fn unusable(&self, why: &str) -> io::Error {
        io::Error::other(format!("schema = \"{}\": {why}", self.schema))
    }

    fn is_in_version(&self) -> bool {
        !self.schema.starts_with('/')
    }

    fn changed(&self, view: &View<'_>) -> io::Result<bool> {
        if !self.is_in_version() {
            return Ok(false);
        }
        let path = self.schema.as_bytes();
        Ok(match (view.file(path)?, view.base_file(path)?) {
            (Some(now), Some(before)) => !now.is_unchanged_from(&before),
            _ => true,
        })
    }

    fn bytes(&self, view: &View<'_>) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        if self.is_in_version() {
            let file = view.file(self.schema.as_bytes())?.ok_or_else(|| self.unusable("there is no such file in the version"))?;
            file.reader(0).take(SCHEMA + 1).read_to_end(&mut bytes)?;
        } else {
            // Without waiting for the other end, if it is a pipe.
            let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&self.schema);
            let file = opened.map_err(|error| self.unusable(&format!("can't be opened: {error}")))?;
            if !file.metadata().is_ok_and(|meta| meta.is_file()) {
                return Err(self.unusable("is not a regular file"));
            }
            file.take(SCHEMA + 1).read_to_end(&mut bytes).map_err(|error| self.unusable(&format!("can't be read: {error}")))?;
        }
        if bytes.len() as u64 > SCHEMA {
            return Err(self.unusable("is longer than 4 MiB"));
        }
        Ok(bytes)
    }
}

fn is_lines(path: &[u8]) -> bool {
    let extension = Path::new(std::ffi::OsStr::from_bytes(path)).extension();
    extension.is_some_and(|extension| extension == "jsonl" || extension == "ndjson")
}

fn compile(bytes: &[u8]) -> Result<Validator, String> {
    let schema: Value = serde_json::from_slice(bytes).map_err(|error| format!("is not JSON: {error}"))?;
    // The crate is not ours and asserts things of what it reads; a file must not end the daemon's thread.
    let built = catch_unwind(AssertUnwindSafe(|| jsonschema::options().offline().build(&schema)));
    match built {
        Ok(Ok(validator)) => Ok(validator),
        Ok(Err(error)) => {
            let at = error.instance_path().as_str();
            Err(format!(
                "is no JSON Schema: {}{}",
                if at.is_empty() { String::new() } else { format!("{at}: ") },
                short(&error.to_string())
            ))
        }
        Err(_) => Err("is no JSON Schema: it contradicts itself".to_owned()),
    }
}

fn one_value(file: &File<'_>, validator: &Validator, report: &mut Report<'_>) -> io::Result<()> {
    if file.len() > VALUE {
        report.find(Place::File, format_args!("has {} bytes; at most {VALUE} can be held against a schema", file.len()));
        return Ok(());
    }
    let mut bytes = Vec::new();
    file.reader(0).read_to_end(&mut bytes)?;
    match serde_json::from_slice(&bytes) {
        Ok(value) => hold(&value, validator, Place::File, report),
        Err(error) => report.find(Place::Column(error.line() as u64, super::json::column(&error)), super::json::plain(&error)),
    }
    Ok(())
}

fn lines(file: &File<'_>, validator: &Validator, report: &mut Report<'_>) -> io::Result<()> {
    let mut reader = file.reader(0);
    let (mut number, mut line) = (0, Vec::new());
    loop {
        line.clear();
        if reader.by_ref().take(VALUE).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        number += 1;
        if line.len() as u64 == VALUE && !line.ends_with(b"\n") {
            report.find(Place::Line(number), format_args!("is longer than {VALUE} bytes, the most that can be held against a schema"));
            super::manifest::skip_line(&mut reader)?;
            continue;
        }
        // As the formats' readers do.
        if line.trim_ascii().is_empty() {
            continue;
        }
        file.can_go_on()?;
        report.add("rows", 1);
        match serde_json::from_slice(line.trim_ascii_end()) {
            Ok(value) => hold(&value, validator, Place::Line(number), report),
            Err(error) => report.find(Place::Column(number, super::json::column(&error)), super::json::plain(&error)),
        }
    }
}

/// Finds all that the schema says against a value: where in it, what, and which words of the schema.
fn hold(value: &Value, validator: &Validator, place: Place, report: &mut Report<'_>) {
    let held = catch_unwind(AssertUnwindSafe(|| {
        let said = |error: jsonschema::ValidationError<'_>| {
            let mut text = String::new();
            if !error.instance_path().as_str().is_empty() {
                // Writing to a string can't fail.
                let _ = write!(text, "{}: ", error.instance_path());
            }
            let _ = write!(text, "{} (schema: {})", short(&error.to_string()), error.schema_path());
            text
        };
        let mut errors = validator.iter_errors(value);
        let found: Vec<String> = errors.by_ref().take(usize::try_from(PER_FILE).unwrap_or(usize::MAX) + 1).map(said).collect();
        found
    }));
    match held {
        Ok(found) => found.into_iter().for_each(|what| report.find(place, what)),
        Err(_) => report.find(place, "can't be held against the schema, which contradicts itself"),
    }
}

/// What is said quotes the value, which can be long.
fn short(text: &str) -> String {
    let text = shown(text.as_bytes());
    match text.char_indices().nth(WORDS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
