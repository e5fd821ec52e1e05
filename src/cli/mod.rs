//! The command line: one file a command; arguments, output and exit codes in one place each.

pub mod args;
pub mod exit;
pub mod output;

mod completions;
mod config;
mod daemon;
mod diff;
mod examine;
mod export;
mod gc;
mod init;
mod keep;
mod lineage;
mod log;
mod man;
mod metric;
mod mount;
mod patch;
mod promote;
mod run;
mod seal;
mod show;
mod status;
mod unmount;
mod verdict;

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use args::{Cli, ConfigVerb, LineageArgs, LineageVerb, Verb};
use daemon::Asking;
use exit::{Exit, Failure, Result};
use output::Out;

use crate::check::worker_warden as warden;

/// Runs one command line and says how it ended.
#[must_use]
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if let Some(ended) = warden::main(&arguments) {
        return ended;
    }
    let parsed = match mount::helper(&arguments) {
        Some(parsed) => parsed,
        None => Cli::try_parse_from(&arguments).map_err(|error| {
            // Help and versions come this way, too, on standard output; nothing is left to do if nobody reads them.
            let _ = error.print();
            Failure::new(Exit::from_code(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage as u8)), "")
        }),
    };
    let done = parsed.and_then(|cli| {
        log_to_stderr(&cli);
        let mut out = Out::new();
        let done = dispatch(cli, &mut out);
        // What was printed before a failure is printed still.
        let flushed = out.flush().map_err(Failure::from);
        done.and(flushed)
    });
    match done {
        Ok(()) => Exit::Done.into(),
        Err(failure) => {
            if !failure.message.is_empty() {
                eprintln!("shadowfs: {}", failure.line());
            }
            failure.exit.into()
        }
    }
}

fn dispatch(cli: Cli, out: &mut Out) -> Result {
    let daemon = Asking::new(cli.place);
    match cli.verb {
        Verb::Init(args) => init::run(&args, out),
        Verb::Mount(args) => mount::run(&args),
        Verb::Unmount(args) => unmount::run(&args, &daemon),
        Verb::Status(args) => status::run(args, &daemon, out),
        Verb::Log(args) => log::run(&args, &daemon, out),
        Verb::Show(args) => show::run(&args, &daemon, out),
        Verb::Diff(args) => diff::run(&args, &daemon, out),
        Verb::Begin(args) => seal::begin(args, &daemon, out),
        Verb::Commit(args) => seal::commit(args, &daemon, out),
        Verb::Abort(args) => seal::abort(args, &daemon, out),
        Verb::Run(args) => run::run(args, &daemon, out),
        Verb::Wait(args) => verdict::wait(&args, &daemon, out),
        Verb::Check(args) => verdict::check(args, &daemon, out),
        Verb::Promote(args) => promote::promote(args, &daemon, out),
        Verb::Rollback(args) => promote::rollback(args, &daemon, out),
        Verb::Ghosts(args) => log::ghosts(args, &daemon, out),
        Verb::Restore(args) => keep::restore(args, &daemon, out),
        Verb::Drop(args) => keep::drop(args, &daemon, out),
        Verb::Pin(args) => keep::pin(args, &daemon, out),
        Verb::Tag(args) => keep::tag(args, &daemon, out),
        Verb::Fsck(args) => examine::fsck(args, &daemon, out),
        Verb::Scrub(args) => examine::scrub(args, &daemon, out),
        Verb::Gc(args) => gc::run(&args, &daemon, out),
        Verb::Lineage(LineageArgs { verb: Some(LineageVerb::Verify(json)), .. }) => lineage::verify(json, &daemon, out),
        Verb::Lineage(args) => lineage::run(&args, &daemon, out),
        Verb::Export(args) => export::run(args, &daemon, out),
        Verb::Config(ConfigVerb::Check { file, json }) => config::check(file, json, &daemon, out),
        Verb::Config(ConfigVerb::Show(json)) => config::show(json, &daemon, out),
        Verb::Completions(args) => completions::run(&args, out),
        Verb::Man(args) => man::run(&args),
    }
}

/// Logs to standard error: warnings, more with `-v`, or what `$SHADOWFS_LOG` says. A daemon opens a log of its own.
fn log_to_stderr(cli: &Cli) {
    if matches!(&cli.verb, Verb::Mount(args) if !args.foreground || cli.verbose == 0) {
        return;
    }
    let level = match cli.verbose {
        0 => "warn",
        1 => "shadowfs=info",
        2 => "shadowfs=debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env("SHADOWFS_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    // A second subscriber (in tests) is no matter.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).try_init();
}
