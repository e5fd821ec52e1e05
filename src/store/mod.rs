//! Everything durable: the catalog (redb), objects and packs, the journal of the open version.
//!
//! Layout of a store:
//!
//! ```text
//! STORE/format            "shadowfs store, format 1\n"
//! STORE/shadowfs.toml     the user's configuration
//! STORE/catalog.redb      nodes, versions, objects, events, attempts, tags, pointers
//! STORE/objects/xx/N      objects of a file of their own (xx: two hex digits of N's low byte)
//! STORE/packs/N           packs
//! STORE/journal/tN        edits of the open version since the seal before it
//! STORE/logs/tN/NAME.K.log  output of attempt K of check NAME
//! STORE/control.sock      the daemon's socket (0600)
//! ```

pub mod event;
pub mod record;
