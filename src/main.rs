//! The `shadowfs` command.

fn main() {}
