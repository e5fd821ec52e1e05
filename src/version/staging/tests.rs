//! Tests of staging without a mount: one rule each.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod along;
mod bench;
mod clones;
mod content;
mod copies;
mod durability;
mod lifecycle;
mod mapped;
mod names;
mod rules;
mod threads;
