//! What built-in checks can be told in their `[[check]]`: each knows keys of its own.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use toml::de::{DeTable, DeValue};

use super::default::{list, quoted};
use super::value::{Section, size_text};
use super::{ConfigError, Percent};

/// The keys of each built-in check that has some.
const KEYS: [(&str, &[&str]); 6] = [
    ("csv", &["delimiter", "columns", "types", "ranges", "required"]),
    ("parquet", &["columns"]),
    ("size", &["min_files", "max_files", "min_bytes", "max_bytes", "max_file_bytes", "max_growth", "max_shrink"]),
    ("deletes", &["max_deleted", "ignore_below"]),
    ("names", &["allow", "forbid"]),
    ("json-schema", &["schema"]),
];

/// What becomes of a table's columns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Columns {
    /// Those of the file before are still there, with their types; new ones stand behind them.
    #[default]
    Stable,
    /// They are those of the file before, and no others.
    Equal,
    /// Whatever comes.
    Any,
}

impl Columns {
    /// The word in the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Equal => "equal",
            Self::Any => "any",
        }
    }
}

/// What the fields of a column are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldType {
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// true or false.
    Boolean,
    /// A day, such as 2026-11-22.
    Date,
    /// A moment as RFC 3339 has it.
    Datetime,
}

impl FieldType {
    const ALL: [Self; 5] = [Self::Integer, Self::Number, Self::Boolean, Self::Date, Self::Datetime];

    /// The word in the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::Date => "date",
            Self::Datetime => "datetime",
        }
    }
}

/// The options of a built-in check; each reads those that are its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// csv: what stands between two fields.
    pub delimiter: u8,
    /// csv, parquet: what becomes of columns.
    pub columns: Columns,
    /// csv: what the fields of a column are; an empty one is missing, not wrong.
    pub types: BTreeMap<String, FieldType>,
    /// csv: the least and the most that the numbers of a column may be.
    pub ranges: BTreeMap<String, (f64, f64)>,
    /// csv: columns without empty fields.
    pub required: Vec<String>,
    /// size: files that there must be, and may be.
    pub min_files: Option<u64>,
    /// See `min_files`.
    pub max_files: Option<u64>,
    /// size: bytes that there must be in all, and may be.
    pub min_bytes: Option<u64>,
    /// See `min_bytes`.
    pub max_bytes: Option<u64>,
    /// size: bytes that a changed file may have.
    pub max_file_bytes: Option<u64>,
    /// size: by how much a version may grow.
    pub max_growth: Option<Percent>,
    /// size: by how much a version may shrink.
    pub max_shrink: Option<Percent>,
    /// deletes: the share of the files that may go.
    pub max_deleted: Percent,
    /// deletes: with fewer files before, none is counted.
    pub ignore_below: u64,
    /// names: globs one of which a new file must match; none: any name will do.
    pub allow: Vec<String>,
    /// names: globs that nothing new may match.
    pub forbid: Vec<String>,
    /// json-schema: a file of the dataset, or an absolute path of the machine. The check has one.
    pub schema: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            delimiter: b',',
            columns: Columns::default(),
            types: BTreeMap::new(),
            ranges: BTreeMap::new(),
            required: Vec::new(),
            min_files: None,
            max_files: None,
            min_bytes: None,
            max_bytes: None,
            max_file_bytes: None,
            max_growth: None,
            max_shrink: None,
            max_deleted: Percent(50_000),
            ignore_below: 10,
            allow: Vec::new(),
            forbid: Vec::new(),
            schema: None,
        }
    }
}

/// All keys of options.
pub(super) fn keys() -> Vec<&'static str> {
    let mut keys: Vec<_> = KEYS.iter().flat_map(|(_, keys)| keys.iter().copied()).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// Reads the options of `builtin`; `None` for a command, which has none.
pub(super) fn read(section: &Section<'_>, builtin: Option<&str>) -> Result<Options, ConfigError> {
    let own = KEYS.iter().find(|(name, _)| Some(*name) == builtin).map_or(&[][..], |(_, keys)| keys);
    if let Some(key) = keys().into_iter().find(|key| section.has(key) && !own.contains(key)) {
        let whose: Vec<_> = KEYS.iter().filter(|(_, keys)| keys.contains(&key)).map(|(name, _)| format!("\"{name}\"")).collect();
        let line = format!("\"{key}\" is an option of the built-in check {}, not of this one", whose.join(" and "));
        return Err(section.refuse_at(key, line));
    }
    let usual = Options::default();
    let words = [Columns::Stable, Columns::Equal, Columns::Any].map(|columns| (columns.as_str(), columns));
    let count = |key| section.number(key, 0, u64::MAX);
    Ok(Options {
        delimiter: read_delimiter(section)?.unwrap_or(usual.delimiter),
        columns: section.word("columns", &words)?.unwrap_or(usual.columns),
        types: read_types(section)?,
        ranges: read_ranges(section)?,
        required: section.texts("required")?.unwrap_or_default(),
        min_files: count("min_files")?,
        max_files: count("max_files")?,
        min_bytes: section.size("min_bytes")?,
        max_bytes: section.size("max_bytes")?,
        max_file_bytes: section.size("max_file_bytes")?,
        max_growth: section.percent_up_to("max_growth", 1_000_000)?,
        max_shrink: section.percent_up_to("max_shrink", 100)?,
        max_deleted: section.percent("max_deleted")?.unwrap_or(usual.max_deleted),
        ignore_below: count("ignore_below")?.unwrap_or(usual.ignore_below),
        allow: super::parse::read_globs(section, "allow")?,
        forbid: super::parse::read_globs(section, "forbid")?,
        schema: read_schema(section, builtin)?,
    })
}

fn read_delimiter(section: &Section<'_>) -> Result<Option<u8>, ConfigError> {
    match section.text("delimiter")?.map(str::as_bytes) {
        None => Ok(None),
        Some([byte]) if byte.is_ascii() && !b"\"\r\n".contains(byte) => Ok(Some(*byte)),
        Some(_) => Err(section.refuse_at("delimiter", "\"delimiter\" must be one ASCII character, and no quote or line end")),
    }
}

fn read_schema(section: &Section<'_>, builtin: Option<&str>) -> Result<Option<String>, ConfigError> {
    let schema = section.text("schema")?;
    let leads_out = |path: &str| !path.starts_with('/') && path.split('/').any(|name| matches!(name, "" | "." | ".."));
    match schema {
        Some(path) if leads_out(path) => {
            let line =
                format!("\"schema\" is a path from the dataset's top, without \".\" and \"..\", or an absolute one; \"{path}\" is neither");
            Err(section.refuse_at("schema", line))
        }
        None if builtin == Some("json-schema") => {
            Err(section
                .refuse_at("builtin", "the built-in check \"json-schema\" needs \"schema\", a file of the dataset or an absolute path"))
        }
        schema => Ok(schema.map(str::to_owned)),
    }
}

fn table<'a>(section: &Section<'a>, key: &str, wanted: &str) -> Result<Option<&'a DeTable<'a>>, ConfigError> {
    section.value(key).map(|value| value.get_ref().as_table().ok_or_else(|| section.wrong(key, value, wanted))).transpose()
}

fn read_types(section: &Section<'_>) -> Result<BTreeMap<String, FieldType>, ConfigError> {
    let wanted = "a table of columns, such as { id = \"integer\", day = \"date\" }";
    let mut types = BTreeMap::new();
    for (column, value) in table(section, "types", wanted)?.into_iter().flatten() {
        let found = value.get_ref().as_str().and_then(|word| FieldType::ALL.into_iter().find(|known| known.as_str() == word));
        let words = FieldType::ALL.map(FieldType::as_str).join(", ");
        let line = || format!("the type of column \"{}\" must be one of {words}", column.get_ref());
        types.insert(column.get_ref().to_string(), found.ok_or_else(|| section.refuse_at("types", line()))?);
    }
    Ok(types)
}

fn read_ranges(section: &Section<'_>) -> Result<BTreeMap<String, (f64, f64)>, ConfigError> {
    let wanted = "a table of columns, such as { price = [0, 1e6] }";
    let number = |value: &DeValue<'_>| match value {
        DeValue::Float(number) => number.as_str().replace('_', "").parse::<f64>().ok(),
        DeValue::Integer(number) if number.radix() == 10 => number.as_str().replace('_', "").parse().ok(),
        _ => None,
    };
    let mut ranges = BTreeMap::new();
    for (column, value) in table(section, "ranges", wanted)?.into_iter().flatten() {
        let bounds = value.get_ref().as_array().map(|list| list.iter().map(|bound| number(bound.get_ref())).collect::<Vec<_>>());
        match bounds.as_deref() {
            Some([Some(least), Some(most)]) if least <= most => drop(ranges.insert(column.get_ref().to_string(), (*least, *most))),
            _ => {
                let line = format!("the range of column \"{}\" must be two numbers, the least and the most", column.get_ref());
                return Err(section.refuse_at("ranges", line));
            }
        }
    }
    Ok(ranges)
}

/// The options that are not the usual ones, as they stand in the file.
pub(super) fn write(options: &Options, out: &mut String) -> std::fmt::Result {
    let usual = Options::default();
    if options.delimiter != usual.delimiter {
        writeln!(out, "delimiter = {}", quoted(&char::from(options.delimiter).to_string()))?;
    }
    if options.columns != usual.columns {
        writeln!(out, "columns = {}", quoted(options.columns.as_str()))?;
    }
    let pairs = |pairs: Vec<String>| pairs.join(", ");
    if !options.types.is_empty() {
        let types = options.types.iter().map(|(column, kind)| format!("{} = {}", quoted_key(column), quoted(kind.as_str())));
        writeln!(out, "types = {{ {} }}", pairs(types.collect()))?;
    }
    if !options.ranges.is_empty() {
        let float = |number: &f64| toml::Value::Float(*number);
        let ranges =
            options.ranges.iter().map(|(column, (least, most))| format!("{} = [{}, {}]", quoted_key(column), float(least), float(most)));
        writeln!(out, "ranges = {{ {} }}", pairs(ranges.collect()))?;
    }
    for (key, texts) in [("required", &options.required), ("allow", &options.allow), ("forbid", &options.forbid)] {
        if !texts.is_empty() {
            writeln!(out, "{key} = {}", list(texts))?;
        }
    }
    if let Some(schema) = &options.schema {
        writeln!(out, "schema = {}", quoted(schema))?;
    }
    for (key, number) in [("min_files", options.min_files), ("max_files", options.max_files)] {
        number.map_or(Ok(()), |number| writeln!(out, "{key} = {number}"))?;
    }
    for (key, size) in [("min_bytes", options.min_bytes), ("max_bytes", options.max_bytes), ("max_file_bytes", options.max_file_bytes)] {
        size.map_or(Ok(()), |size| writeln!(out, "{key} = {}", quoted(&size_text(size))))?;
    }
    for (key, percent) in [("max_growth", options.max_growth), ("max_shrink", options.max_shrink)] {
        percent.map_or(Ok(()), |percent| writeln!(out, "{key} = {}", quoted(&percent.to_string())))?;
    }
    if options.max_deleted != usual.max_deleted {
        writeln!(out, "max_deleted = {}", quoted(&options.max_deleted.to_string()))?;
    }
    if options.ignore_below != usual.ignore_below {
        writeln!(out, "ignore_below = {}", options.ignore_below)?;
    }
    Ok(())
}

/// A key in quotes: a column's name can hold anything, and a key knows no multi-line text.
fn quoted_key(key: &str) -> String {
    let mut quoted = String::from("\"");
    for character in key.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            control if control.is_control() => {
                // Writing to a string can't fail.
                let _ = write!(quoted, "\\u{:04X}", u32::from(control));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}
