//! `completions`: scripts for shells, from the same definitions as the help.

use clap::CommandFactory;

use super::args::{Cli, CompletionsArgs};
use super::exit::Result;
use super::output::Out;

pub(super) fn run(args: &CompletionsArgs, out: &mut Out) -> Result {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "shadowfs", &mut script);
    Ok(out.raw(&script)?)
}
