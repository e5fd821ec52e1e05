//! The audit trail as people and scripts read it: pure functions from the catalog's records to documents, JSON lines and text.

pub mod doc;
pub mod dot;
pub mod event;
pub mod files;
pub mod html;
pub mod json;
pub mod openlineage;
pub mod story;
pub mod text;

#[cfg(test)]
mod tests;
