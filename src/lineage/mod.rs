//! The audit trail as people and scripts read it: pure functions from the catalog's records to documents, JSON lines and text.

pub mod doc;
pub mod event;
pub mod files;
pub mod json;
pub mod text;

#[cfg(test)]
mod tests;
