//! The fuzz targets' code over their corpora: what once broke something, and what reaches far. `scripts/fuzz` looks for more.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../fuzz/targets/mod.rs"]
mod targets;

use std::fs;
use std::path::{Path, PathBuf};

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

#[test]
fn every_input_of_the_corpus_is_borne() {
    for (name, run, seeds) in targets::TARGETS {
        seeds().iter().for_each(|seed| run(seed));
        let files: Vec<_> = fs::read_dir(corpus(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(!files.is_empty(), "{name} has no corpus");
        for file in files {
            // Seen only if it fails: which one it was.
            println!("{}", file.display());
            run(&fs::read(&file).unwrap());
        }
    }
    let _ = fs::remove_dir_all(targets::scratch::directory());
}

#[test]
fn every_target_can_be_fuzzed() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/Cargo.toml")).unwrap();
    for (name, ..) in targets::TARGETS {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not in fuzz/Cargo.toml");
    }
}

/// Writes the inputs that fuzzing begins with: `cargo test --test fuzz_corpus -- --ignored`.
#[test]
#[ignore = "writes into the tree"]
fn write_seeds() {
    for (name, _, seeds) in targets::TARGETS {
        fs::create_dir_all(corpus(name)).unwrap();
        for (number, seed) in seeds().iter().enumerate() {
            fs::write(corpus(name).join(format!("seed-{number}")), seed).unwrap();
        }
    }
}
