//! What a command may use: defaults in `[checks]`, exceptions in its `[[check]]`.

use std::fmt::Write as _;
use std::time::Duration;

use super::ConfigError;
use super::default::{duration, quoted};
use super::value::{Section, size_text};

/// The keys of this file, in `[checks]` and `[[check]]`.
pub(super) const KEYS: [&str; 6] = ["grace", "output", "memory", "processes", "open_files", "cpu"];
/// Those of them that a built-in check has no use for.
const COMMANDS_ONLY: [&str; 5] = ["grace", "memory", "processes", "open_files", "cpu"];

/// What a command may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLimits {
    /// The time between SIGTERM and SIGKILL when it is to stop.
    pub grace: Duration,
    /// Bytes of its output that are kept.
    pub output: u64,
    /// Memory of its processes in all, in bytes; `None`: what the machine has.
    pub memory: Option<u64>,
    /// Processes that it has at once.
    pub processes: Option<u64>,
    /// Files that each process has open.
    pub open_files: Option<u64>,
    /// Time on a processor that each process has, in whole seconds.
    pub cpu: Option<Duration>,
}

impl Default for CommandLimits {
    fn default() -> Self {
        Self { grace: Duration::from_secs(1), output: 8 << 20, memory: None, processes: Some(1000), open_files: None, cpu: None }
    }
}

/// Reads them; what is not there is as `usual`.
pub(super) fn read(section: &Section<'_>, usual: &CommandLimits) -> Result<CommandLimits, ConfigError> {
    let memory = section.unless_none("memory", usual.memory, |section| section.size("memory"))?;
    if memory.is_some_and(|memory| memory < 1 << 20) {
        return Err(section.refuse_at("memory", "\"memory\" must be at least \"1MiB\": no program starts with less"));
    }
    let cpu = section.unless_none("cpu", usual.cpu, |section| section.duration("cpu"))?;
    if cpu.is_some_and(|cpu| cpu < Duration::from_secs(1)) {
        return Err(section.refuse_at("cpu", "\"cpu\" must be at least \"1s\": the kernel counts whole seconds"));
    }
    Ok(CommandLimits {
        grace: section.duration("grace")?.unwrap_or(usual.grace),
        output: section.size("output")?.unwrap_or(usual.output),
        memory,
        processes: section.unless_none("processes", usual.processes, |section| section.number("processes", 1, 1_000_000))?,
        open_files: section.unless_none("open_files", usual.open_files, |section| section.number("open_files", 8, 1_000_000))?,
        cpu,
    })
}

/// A built-in check runs in the daemon: limits of commands would say something that is not so.
pub(super) fn refuse_for_builtin(section: &Section<'_>) -> Result<(), ConfigError> {
    match COMMANDS_ONLY.iter().find(|key| section.has(key)) {
        Some(key) => Err(section.refuse_at(key, format!("\"{key}\" is for commands; a built-in check runs in the daemon"))),
        None => Ok(()),
    }
}

/// The limits that differ from `usual` (all, without it), as they stand in the file.
pub(super) fn write(limits: &CommandLimits, usual: Option<&CommandLimits>, out: &mut String) -> std::fmt::Result {
    let CommandLimits { grace, output, memory, processes, open_files, cpu } = limits;
    let number = |number: &Option<u64>| number.map_or_else(|| quoted("none"), |number| number.to_string());
    let lines = [
        ("grace", duration(*grace), usual.is_some_and(|usual| usual.grace == *grace)),
        ("output", quoted(&size_text(*output)), usual.is_some_and(|usual| usual.output == *output)),
        ("memory", quoted(&memory.map_or_else(|| "none".to_owned(), size_text)), usual.is_some_and(|usual| usual.memory == *memory)),
        ("processes", number(processes), usual.is_some_and(|usual| usual.processes == *processes)),
        ("open_files", number(open_files), usual.is_some_and(|usual| usual.open_files == *open_files)),
        ("cpu", cpu.map_or_else(|| quoted("none"), duration), usual.is_some_and(|usual| usual.cpu == *cpu)),
    ];
    for (key, value, _) in lines.iter().filter(|(_, _, same)| !same) {
        writeln!(out, "{key} = {value}")?;
    }
    Ok(())
}
