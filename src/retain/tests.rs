//! Sweeps over small histories: what is live reads as before, what is dead is gone, at any crash point and beside a seal.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod damage;
mod lab;
mod plans;
mod sweeps;
