//! What each fuzz target does with its bytes. `tests/fuzz_corpus.rs` runs the same code over the corpus in every `cargo test`, so an
//! input that once broke something stays a test.
//!
//! A target may refuse its bytes; it may not panic, hang, or take back what it said.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod config;
pub mod control;
pub mod input;
pub mod journal;
pub mod lineage;
pub mod nodes;
pub mod packs;
pub mod records;
pub mod replay;
pub mod scratch;

/// A target's name, what it does with bytes, and inputs to begin with.
pub type Target = (&'static str, fn(&[u8]), fn() -> Vec<Vec<u8>>);

/// All of them.
pub const TARGETS: &[Target] = &[
    ("config", config::run, config::seeds),
    ("control", control::run, control::seeds),
    ("journal", journal::run, journal::seeds),
    ("lineage", lineage::run, lineage::seeds),
    ("nodes", nodes::run, nodes::seeds),
    ("packs", packs::run, packs::seeds),
    ("records", records::run, records::seeds),
    ("replay", replay::run, replay::seeds),
];
