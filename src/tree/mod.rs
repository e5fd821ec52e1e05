//! The copy-on-write ordered map that a version is.

pub mod key;
