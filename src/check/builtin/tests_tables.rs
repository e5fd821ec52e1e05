//! Built-in checks of tables, databases and manifests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use rusqlite::Connection;
use sha2::{Digest as _, Sha256};

use super::Verdict;
use super::tests::{Said, World, check, summary};

/// What `csv` says of a file that was `before`.
fn csv(before: &str, now: &str) -> Said {
    let base = World::new().file("d/f.csv", before);
    base.clone().file("d/f.csv", now).check("csv", &base)
}

#[test]
fn csv_counts_fields_and_rows() {
    let said = check("csv", "a,b\r\n1,2\r\n\r\n\"x\n,\"\"y\",3");
    assert!(said.lines().is_empty());
    assert_eq!(said.metric("rows"), 2.0);
    let said = check("csv", "a,b,c\n1,2,3\n1,2,3,44,5\n\n1,2\n\"x\ny\",2,3\n4\n");
    assert_eq!(
        said.lines(),
        [
            "f:3:7: the row has 5 fields, the header 3",
            "f:5:3: the row has 2 fields, the header 3",
            "f:8:1: the row has 1 field, the header 3",
        ]
    );
    assert_eq!(said.metric("rows"), 5.0);
    assert_eq!(summary(&said), "f:3:7: the row has 5 fields, the header 3 (and 2 more)");
    assert_eq!(check("csv", "").metric("rows"), 0.0);
}

#[test]
fn csv_finds_a_quote_that_is_never_closed() {
    for end in ["", "\n", "\r\n", "\nmore,\n"] {
        let said = check("csv", format!("a,b\n1,2\n3,\"x{end}"));
        assert_eq!(said.lines(), ["f:3:3: the quote that opens here is never closed"], "{end:?}");
    }
    assert_eq!(check("csv", "a,\"b\n1,2\n").lines(), ["f:1:3: the quote that opens here is never closed"]);
    for closed in ["a,b\n1,\"\"", "a,b\n1,\"x\"\n", "a,b\n1,x\"", "a,b\n1,", "\u{feff}\"a\",b\n1,2\r"] {
        assert!(check("csv", closed).lines().is_empty(), "{closed:?}");
    }
}

#[test]
fn csv_fields_can_be_longer_than_what_is_read_at_once() {
    let long = "x".repeat(3 << 20);
    let said = check("csv", format!("a,b\n\"{long}\n\",2\n{long},3\n{long}\n"));
    assert_eq!(said.lines(), ["f:5:1: the row has 1 field, the header 2"]);
    let said = check("csv", format!("a,{long}\n1,2\n"));
    assert_eq!(said.lines(), ["f:1: the header is longer than 1048576 bytes or 100000 columns"]);
}

#[test]
fn csv_columns_are_stable() {
    for good in ["a,b,c\n1,2,3\n", "a,b,c,d,e\n1,2,3,4,5\n", "\u{feff}\"a\",b,c\n"] {
        assert!(csv("a,b,c\n0,0,0\n", good).lines().is_empty(), "{good}");
    }
    for (now, expected) in [
        ("a,c\n", &["d/f.csv:1: the column \"b\" is gone; it was column 2"][..]),
        ("x,b,y\n", &["d/f.csv:1: the column \"a\" is gone; it was column 1", "d/f.csv:1: the column \"c\" is gone; it was column 3"]),
        ("b,a,c\n", &["d/f.csv:1: column 1 is \"b\", it was \"a\": the columns are reordered"]),
        ("a,new,b,c\n", &["d/f.csv:1: the new column \"new\" stands before \"b\"; new ones belong behind the others"]),
        (
            "",
            &[
                "d/f.csv:1: the column \"a\" is gone; it was column 1",
                "d/f.csv:1: the column \"b\" is gone; it was column 2",
                "d/f.csv:1: the column \"c\" is gone; it was column 3",
            ],
        ),
    ] {
        assert_eq!(csv("a,b,c\n0,0,0\n", now).lines(), expected, "{now}");
    }
    assert_eq!(csv("a,a\n", "a\n").lines(), ["d/f.csv:1: the second column \"a\" is gone; it was column 2"]);
    // A base without a header that can be read holds nothing.
    assert!(csv("a,\"b\n", "x\n").lines().is_empty());
    assert!(csv("", "x\n").lines().is_empty());
}

fn sum(bytes: &str) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn manifest_holds_files_against_their_sums() {
    let (one, two) = (sum("one"), sum("two"));
    let lines = format!("# sums\n{one}  a\n{two} *./sub/b\n\nSHA256 (c (1)) = {one}\n\\{two}  n\\n\\\\\n");
    let base = World::new();
    let good = World::new().file("d/SHA256SUMS", &lines).file("d/a", "one").file("d/sub/b", "two").file("d/c (1)", "one");
    let good = good.file("d/n\n\\", "two").file("d/unlisted", "x");
    let said = good.check("manifest", &base);
    assert!(said.lines().is_empty());
    assert_eq!((said.metric("files"), said.metric("bytes")), (4.0, 12.0));

    let said = good.clone().file("d/sub/b", "2").without("d/a").file("d/unlisted", "y").check("manifest", &good);
    assert_eq!(
        said.lines(),
        [
            "d/SHA256SUMS:2: \"a\" is not there as a regular file".to_owned(),
            format!("d/SHA256SUMS:3: \"sub/b\" has the SHA-256 {}, not {two}", sum("2")),
        ]
    );
    // Of a changed manifest only lines and files that differ are looked at.
    let more = good.clone().file("d/SHA256SUMS", format!("{lines}{two}  unlisted\n"));
    let said = more.check("manifest", &good);
    assert_eq!(said.lines(), [format!("d/SHA256SUMS:7: \"unlisted\" has the SHA-256 {}, not {two}", sum("x"))]);
    assert_eq!(said.metric("files"), 1.0);
}

#[test]
fn manifest_lines_that_are_none_or_lead_out() {
    let one = sum("one");
    let bad = format!("{one} a\n{one}  ../a\n{one}  /etc/passwd\n{}  a\nx\n{}\n", &one[1..], "y".repeat(200_000));
    let world = World::new().file("SHA256SUMS", format!("{bad}{one}  link\n{one}  out\n{one}  loop\n")).file("a", "one");
    let world = world.link("link", "sub/../a").link("out", "/etc/passwd").link("loop", "loop").file("sub/x", "");
    assert_eq!(
        world.check("manifest", &World::new()).lines(),
        [
            "SHA256SUMS:1: this is no line of sha256sum",
            "SHA256SUMS:2: \"../a\" leads out of the manifest's directory",
            "SHA256SUMS:3: \"/etc/passwd\" leads out of the manifest's directory",
            "SHA256SUMS:4: this is no line of sha256sum",
            "SHA256SUMS:5: this is no line of sha256sum",
            "SHA256SUMS:6: this is no line of sha256sum",
            "SHA256SUMS:8: \"out\" is not there as a regular file",
            "SHA256SUMS:9: \"loop\" is not there as a regular file",
        ]
    );
}

/// The bytes of a database, and of its write-ahead log if it has one.
fn database(sql: &str) -> (Vec<u8>, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let connection = Connection::open(dir.path().join("db")).unwrap();
    connection.execute_batch(sql).unwrap();
    let bytes = std::fs::read(dir.path().join("db")).unwrap();
    (bytes, std::fs::read(dir.path().join("db-wal")).unwrap_or_default())
}

const TABLES: &str = "CREATE TABLE \"o\"\"ne\"(id INTEGER PRIMARY KEY, t TEXT); CREATE TABLE two(one REFERENCES \"o\"\"ne\"(id));
    CREATE INDEX i ON \"o\"\"ne\"(t);
    WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 2000) INSERT INTO \"o\"\"ne\" SELECT x, 'text ' || x FROM n;";

#[test]
fn sqlite_databases_are_sound() {
    let said = check("sqlite", database(TABLES).0);
    assert!(said.lines().is_empty());
    assert_eq!(said.metric("rows"), 2000.0);
    assert!(check("sqlite", "").lines().is_empty());
    assert_eq!(check("sqlite", "no database").lines(), ["f: is no SQLite database (or an encrypted one)"]);
    let dangling = database(&format!("PRAGMA foreign_keys = OFF; {TABLES} INSERT INTO two VALUES (5), (5000);")).0;
    assert_eq!(check("sqlite", dangling).lines(), ["f: table \"two\", row 2: refers to a row of \"o\"ne\" that is not there"]);
}

#[test]
fn sqlite_damage_is_found() {
    let good = database(TABLES).0;
    let mut torn = good.clone();
    for byte in &mut torn[4096 * 4..4096 * 5] {
        *byte ^= 0x55;
    }
    let said = check("sqlite", torn);
    assert!(matches!(said.verdict, Verdict::Failed { .. }), "{said:?}");
    assert!(!said.lines().is_empty() && said.lines().iter().all(|line| line.starts_with("f: ")), "{said:?}");
    let said = check("sqlite", &good[..good.len() / 2]);
    assert!(matches!(said.verdict, Verdict::Failed { .. }), "{said:?}");
}

#[test]
fn sqlite_reads_the_write_ahead_log_and_refuses_an_open_transaction() {
    let (bytes, log) = database(&format!("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; {TABLES}"));
    assert!(!log.is_empty());
    let base = World::new().file("x.db", &bytes);
    let said = base.clone().file("x.db-wal", &log).check("sqlite", &base);
    assert!(said.lines().is_empty());
    assert_eq!((said.metric("files"), said.metric("rows")), (1.0, 2000.0));
    let said = base.clone().file("x.db-journal", b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7....").check("sqlite", &base);
    assert_eq!(said.lines(), ["x.db: a transaction on it is unfinished: its rollback journal stands beside it"]);
}

/// A file of two columns with as many rows.
fn parquet_file(schema: &str, rows: i64) -> Vec<u8> {
    use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
    use parquet::file::writer::SerializedFileWriter;
    let schema = Arc::new(parquet::schema::parser::parse_message_type(schema).unwrap());
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, Arc::clone(&schema), Arc::default()).unwrap();
    for _ in 0..2 {
        let mut group = writer.next_row_group().unwrap();
        while let Some(mut column) = group.next_column().unwrap() {
            match column.untyped() {
                parquet::column::writer::ColumnWriter::Int64ColumnWriter(_) => {
                    column.typed::<Int64Type>().write_batch(&(0..rows).collect::<Vec<_>>(), None, None).unwrap();
                }
                _ => {
                    let values: Vec<_> = (0..rows).map(|at| ByteArray::from(format!("value {at}").as_str())).collect();
                    column.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
                }
            }
            column.close().unwrap();
        }
        group.close().unwrap();
    }
    writer.close().unwrap();
    bytes
}

const SCHEMA: &str = "message m { required int64 id; required binary name (UTF8); }";

#[test]
fn parquet_files_are_whole() {
    let good = parquet_file(SCHEMA, 1000);
    let said = check("parquet", &good);
    assert!(said.lines().is_empty());
    assert_eq!(said.metric("rows"), 2000.0);
    assert_eq!(check("parquet", "x").lines(), ["f: is no Parquet file: it does not begin with PAR1"]);
    // No cut or flipped byte of the structure ends the check, and a cut is always found.
    for len in (4..good.len()).step_by(97) {
        let said = check("parquet", &good[..len]);
        assert!(matches!(said.verdict, Verdict::Failed { .. }), "{len}: {said:?}");
    }
    for at in (good.len().saturating_sub(700)..good.len()).step_by(3) {
        let mut bad = good.clone();
        bad[at] ^= 0x5a;
        let said = check("parquet", bad);
        assert!(matches!(said.verdict, Verdict::Failed { .. } | Verdict::Passed), "{at}: {said:?}");
    }
    let mut bad = good.clone();
    bad[4..24].fill(0xff);
    assert!(check("parquet", bad).lines()[0].starts_with("f: row group 0, column \"id\": "));
}

#[test]
fn parquet_columns_are_stable() {
    let base = World::new().file("f", parquet_file(SCHEMA, 3));
    let with = |schema: &str| base.clone().file("f", parquet_file(schema, 4)).check("parquet", &base);
    assert!(with(SCHEMA).lines().is_empty());
    assert!(with("message m { required int64 new; required binary name (UTF8); required int64 id; }").lines().is_empty());
    assert_eq!(with("message m { required int64 id; }").lines(), ["f: the column \"name\" is gone"]);
    let said = with("message m { required binary id; required binary name (UTF8); }");
    assert_eq!(said.lines(), ["f: the column \"id\" is BYTE_ARRAY now, it was INT64"]);
}
