//! `parquet`: the footer parses, row groups and the headers of all their pages lie where it says and add up, and the columns of the
//! base's file are still there with their types. Values are not decoded, so every compression will do.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parquet::basic::{Compression, ConvertedType};
use parquet::column::page::PageReader as _;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData};
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::serialized_reader::SerializedPageReader;
use parquet::schema::types::ColumnDescriptor;

use super::file::{File, Reader};
use super::report::{Place, Report, quoted};
use super::{Builtin, Context, Verdict, each_file, judge};
use crate::config::Columns;

/// The longest footer that is read.
const FOOTER: usize = 64 << 20;
/// Bytes that are read for the header of a page.
const HEADER: usize = 4 << 10;
const MAGIC: &[u8] = b"PAR1";

pub(super) struct Parquet {
    pub(super) columns: Columns,
}

impl Builtin for Parquet {
    fn run(&self, cx: &mut Context<'_>) -> Verdict {
        judge(cx, |view, report| {
            report.add("rows", 0);
            each_file(view, report, |path, file, report| {
                let metadata = match metadata(file)? {
                    Ok(metadata) => metadata,
                    Err(what) => {
                        report.find(Place::File, what);
                        return Ok(());
                    }
                };
                report.add("rows", metadata.file_metadata().num_rows().max(0).unsigned_abs());
                nulls(&metadata, report);
                row_groups(file, &metadata, report)?;
                if self.columns != Columns::Any
                    && let Some(base) = view.base_file(path)?
                    && let Ok(before) = self::metadata(&base)?
                {
                    columns(&before, &metadata, self.columns, report);
                }
                Ok(())
            })
        })
    }
}

impl Length for File<'_> {
    fn len(&self) -> u64 {
        File::len(self)
    }
}

impl<'a> ChunkReader for File<'a> {
    type T = Reader<'a>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(self.reader(start).by(HEADER))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<bytes::Bytes, ParquetError> {
        if length > FOOTER {
            return Err(ParquetError::General(format!("a part of {length} bytes is longer than {FOOTER}")));
        }
        let mut bytes = Vec::new();
        self.reader(start).take(length as u64).read_to_end(&mut bytes)?;
        if bytes.len() < length {
            return Err(ParquetError::EOF(format!("the file ends before byte {}", start.saturating_add(length as u64))));
        }
        Ok(bytes.into())
    }
}

/// Runs the parser. The outer error is the reader's, the inner one says what is wrong with the file.
fn parsed<T>(file: &File<'_>, parse: impl FnOnce() -> Result<T, ParquetError>) -> io::Result<Result<T, String>> {
    // The parser is not ours and asserts things of what it reads; data must not end the daemon's thread.
    let result = catch_unwind(AssertUnwindSafe(parse));
    file.can_go_on()?;
    Ok(match result {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("its metadata contradicts itself".to_owned()),
    })
}

fn metadata(file: &File<'_>) -> io::Result<Result<ParquetMetaData, String>> {
    if file.read(0, MAGIC.len())? != MAGIC {
        return Ok(Err("is no Parquet file: it does not begin with PAR1".to_owned()));
    }
    parsed(file, || ParquetMetaDataReader::new().parse_and_finish(file))
}

/// Reports the missing values of each column whose statistics say how many there are.
fn nulls(metadata: &ParquetMetaData, report: &mut Report<'_>) {
    let mut columns: HashMap<String, Option<u64>> = HashMap::new();
    let mut order = Vec::new();
    for chunk in metadata.row_groups().iter().flat_map(RowGroupMetaData::columns) {
        let count = chunk.statistics().and_then(parquet::file::statistics::Statistics::null_count_opt);
        let name = chunk.column_path().string();
        let known = columns.entry(name.clone()).or_insert_with(|| {
            order.push(name);
            Some(0)
        });
        *known = known.zip(count).map(|(known, count)| known.saturating_add(count));
    }
    for name in order {
        if let Some(Some(count)) = columns.get(&name) {
            report.add_nulls(name.as_bytes(), *count);
        }
    }
}

fn row_groups(file: &File<'_>, metadata: &ParquetMetaData, report: &mut Report<'_>) -> io::Result<()> {
    let mut rows = 0i64;
    for (number, group) in metadata.row_groups().iter().enumerate() {
        rows = rows.saturating_add(group.num_rows());
        for chunk in group.columns() {
            if let Err(what) = column_chunk(file, group, chunk)? {
                let column = quoted(chunk.column_path().string().as_bytes());
                report.find(Place::File, format_args!("row group {number}, column {column}: {what}"));
            }
        }
    }
    let said = metadata.file_metadata().num_rows();
    if rows != said {
        report.find(Place::File, format_args!("the row groups have {rows} rows, the footer says {said}"));
    }
    Ok(())
}

/// Walks the headers of a column chunk's pages.
fn column_chunk(file: &File<'_>, group: &RowGroupMetaData, chunk: &ColumnChunkMetaData) -> io::Result<Result<(), String>> {
    let start = chunk.dictionary_page_offset().unwrap_or_else(|| chunk.data_page_offset());
    let end = start.checked_add(chunk.compressed_size());
    let fits = start >= 0 && chunk.compressed_size() >= 0 && end.is_some_and(|end| end.unsigned_abs() <= file.len());
    if chunk.file_path().is_some() {
        return Ok(Err("its bytes are in another file, which is not looked at".to_owned()));
    }
    if !fits {
        return Ok(Err(format!("{} bytes at {start} do not lie in the file", chunk.compressed_size())));
    }
    if chunk.column_descr().max_rep_level() == 0 && chunk.num_values() != group.num_rows() {
        return Ok(Err(format!("has {} values, the row group {} rows", chunk.num_values(), group.num_rows())));
    }
    let values = parsed(file, || {
        // Only headers are read, and those are never compressed; a reader for the chunk's own compression need not be built in.
        let plain = chunk.clone().into_builder().set_compression(Compression::UNCOMPRESSED).build()?;
        let rows = usize::try_from(group.num_rows()).unwrap_or(usize::MAX);
        let mut pages = SerializedPageReader::new(Arc::new(file.clone()), &plain, rows, None)?;
        let mut values = 0u64;
        while let Some(page) = pages.peek_next_page()? {
            if !page.is_dict {
                values += page.num_levels.unwrap_or(0) as u64;
            }
            pages.skip_next_page()?;
        }
        Ok(values)
    })?;
    let said = chunk.num_values().unsigned_abs();
    Ok(match values {
        Ok(values) if values != said => Err(format!("its pages have {values} values, the footer says {said}")),
        values => values.map(drop),
    })
}

fn columns(before: &ParquetMetaData, now: &ParquetMetaData, wanted: Columns, report: &mut Report<'_>) {
    let columns = |metadata: &ParquetMetaData| metadata.file_metadata().schema_descr().columns().to_vec();
    let now: HashMap<String, _> = columns(now).into_iter().map(|column| (column.path().string(), column)).collect();
    let before = columns(before);
    if wanted == Columns::Equal {
        let known: HashSet<String> = before.iter().map(|column| column.path().string()).collect();
        for name in now.keys().filter(|name| !known.contains(*name)).collect::<BTreeSet<_>>() {
            let name = quoted(name.as_bytes());
            report.find(Place::File, format_args!("the column {name} is new; columns must stay as they are"));
        }
    }
    for old in before {
        let name = old.path().string();
        let shown = quoted(name.as_bytes());
        match now.get(&name) {
            None => report.find(Place::File, format_args!("the column {shown} is gone")),
            Some(new) if type_of(new) != type_of(&old) => {
                report.find(Place::File, format_args!("the column {shown} is {} now, it was {}", type_of(new), type_of(&old)));
            }
            Some(_) => {}
        }
    }
}

/// A column's type in words. Whether values can be missing is no part of it.
fn type_of(column: &ColumnDescriptor) -> String {
    let repeated = if column.max_rep_level() > 0 { "repeated " } else { "" };
    let physical = column.physical_type();
    match (column.converted_type(), column.logical_type_ref()) {
        (ConvertedType::NONE, None) => format!("{repeated}{physical}"),
        (ConvertedType::NONE, Some(logical)) => format!("{repeated}{physical} ({logical:?})"),
        (converted, _) => format!("{repeated}{physical} ({converted})"),
    }
}
