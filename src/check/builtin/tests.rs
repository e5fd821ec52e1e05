//! Built-in checks on versions made by hand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
