//! The dispatcher without FUSE.
