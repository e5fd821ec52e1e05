//! The `shadowfs` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    shadowfs::cli::main(std::env::args_os())
}
