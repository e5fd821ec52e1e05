//! shadowfs: a filesystem on which every change to a dataset is a version that checks judge before it reaches production.
//!
//! The floors, top to bottom; imports point down only (`tests/floors.rs` holds it):
//!
//! | floor | what it does |
//! | --- | --- |
//! | `cli` | one file a command; output and exit codes |
//! | `daemon` | composition root; the dispatcher that owns the lifecycle |
//! | `control` | requests and replies on a unix socket |
//! | `fs`, `check`, `promote`, `retain`, `lineage` | neighbours that never import one another |
//! | `version` | the lifecycle; staging, seal, rebase, rollback |
//! | `tree` | the copy-on-write ordered map: edit, diff, merge |
//! | `store` | everything durable |
//! | `sys` | the system calls no safe crate has |
//! | `config`, `ids`, `clock` | plain data |

// So that what tests inside and outside share can name it in one way.
#[cfg(test)]
extern crate self as shadowfs;

pub mod check;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod daemon;
pub mod fs;
pub mod ids;
pub mod lineage;
pub mod promote;
pub mod retain;
pub mod store;
pub mod sys;
pub mod tree;
pub mod version;
