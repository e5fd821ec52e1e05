//! The file as text: what `init` writes, and what is in force written out.

use std::fmt::Write as _;

use super::value::size_text;
use super::{Action, Config, Severity, limits, options, rules};

/// The configuration that `init` writes: the defaults, with a word on each.
pub const DEFAULT_FILE: &str = r#"# shadowfs.toml: read at mount, and again by itself when it changes.
# `shadowfs config check` says what is wrong with it; a file with a mistake is refused and the one before stays in force.

[staging]
settle = "200ms"          # a version is sealed when no file is open for writing and nothing changes for this long
max_open = "10m"          # seal at the first moment without writers past this age
reserve = "32MiB"         # room kept on the store's disk, so that deleting and rolling back work when it is full
keep_awake = true         # idle processors poll while a program asks again and again (root, up to 8 of them); as of the next mount

[checks]
# workers = 4             # checks that run at once; default: CPU cores
rollback_threshold = 2    # failed attempts of a version that are borne; one more rejects it
retries = 2               # a failed check is tried again so often
backoff = "250ms"         # the wait before a retry; it doubles each time
timeout = "5m"            # the time one attempt has; then SIGTERM, and
grace = "1s"              # this much later SIGKILL
output = "8MiB"           # how much of its output is kept
processes = 1000          # processes that a command has at once
memory = "none"           # memory that its processes take in all, such as "2GiB"
open_files = "none"       # files that each of its processes has open
cpu = "none"              # time that each has on a processor, such as "10m"

# A check is a command (exit 0 passes) with the version as its working directory, or a built-in one
# (csv, deletes, json, json-schema, jsonl, manifest, names, parquet, size, sqlite, utf8).
#
# [[check]]
# name = "rows"
# run = ["python3", "/etc/shadowfs/rows.py"]   # or: builtin = "csv"
# paths = ["**/*.csv"]    # runs only if the change touches one of these; default: always
# unless = ["tmp/**"]     # but never looks at these
# severity = "error"      # "warn" is recorded and never rejects
# user = "nobody"         # the command runs as this user; default: as the daemon

# A number that checks report is held against limits, and against the median of the last valid versions.
#
# [[metric]]
# name = "rows"           # as in a line "shadowfs-metric rows 1200" of a command's output; built-in checks report some, too
# check = "tables"        # only as this check reports it
# max_drop = "20%"        # a fall (max_rise: a rise) against the median of the last versions by more than this fails the check
# min = 1000              # as does a number below this (max: above)
# window = 10             # how many valid versions are looked at

# A command that is told of events, as JSON on its standard input. What fails is tried again, from one second on; nothing waits for it.
#
# [[notify]]
# name = "pager"
# run = ["/etc/shadowfs/page"]
# on = ["rejected", "held_back", "disk_low"]   # also: "promoted", "rolled_back"; default: all
# timeout = "30s"
# retries = 3
# user = "nobody"

[promotion]
mode = "auto"             # or "manual": only `shadowfs promote` publishes
window = "2s"             # what becomes valid in it is one batch
require_free = "5%"       # space that must be free on the store's filesystem
pre = []                  # commands that must pass before the switch, as run above: [["/etc/shadowfs/ready"]]

[ghosts]
retain = "24h"            # how long a rejected version can be browsed

[retention]
keep_last = 50            # a version goes when it is past both;
keep_for = "30d"          # production, tags and pins never go
min_free = "0%"           # while less is free, the oldest go before their time (never the newest keep_last)

[scrub]
interval = "30d"          # every content is read and compared with its digest this often; "0s": only by `shadowfs scrub`
rate = "32MiB"            # bytes a second that it reads in the background
"#;

pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

pub(super) fn list(words: &[String]) -> String {
    format!("[{}]", words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(", "))
}

pub(super) fn duration(duration: std::time::Duration) -> String {
    quoted(&humantime::format_duration(duration).to_string())
}

/// `config`, every value written out. Reading it gives `config` again.
pub(super) fn to_toml(config: &Config) -> String {
    let mut out = String::new();
    // Writing to a String can't fail.
    let _ = write_sections(config, &mut out);
    out
}

fn write_sections(config: &Config, out: &mut String) -> std::fmt::Result {
    let Config { staging, checks, check, metric, notify, promotion, ghosts, retention, scrub } = config;
    writeln!(
        out,
        "[staging]\nsettle = {}\nmax_open = {}\nreserve = {}\nkeep_awake = {}\n",
        duration(staging.settle),
        duration(staging.max_open),
        quoted(&size_text(staging.reserve)),
        staging.keep_awake
    )?;
    writeln!(out, "[checks]\nworkers = {}\nrollback_threshold = {}", checks.workers, checks.rollback_threshold)?;
    writeln!(out, "retries = {}\nbackoff = {}\ntimeout = {}", checks.retries, duration(checks.backoff), duration(checks.timeout))?;
    limits::write(&checks.limits, None, out)?;
    out.push('\n');
    for check in check {
        writeln!(out, "[[check]]\nname = {}", quoted(&check.name))?;
        match &check.action {
            Action::Run(command) => writeln!(out, "run = {}", list(command))?,
            Action::Builtin(name) => writeln!(out, "builtin = {}", quoted(name))?,
        }
        if !check.paths.is_empty() {
            writeln!(out, "paths = {}", list(&check.paths))?;
        }
        if !check.unless.is_empty() {
            writeln!(out, "unless = {}", list(&check.unless))?;
        }
        if check.severity != Severity::Error {
            writeln!(out, "severity = {}", quoted(check.severity.as_str()))?;
        }
        if let Some(user) = &check.user {
            writeln!(out, "user = {}", quoted(&user.name))?;
        }
        if check.timeout != checks.timeout {
            writeln!(out, "timeout = {}", duration(check.timeout))?;
        }
        limits::write(&check.limits, Some(&checks.limits), out)?;
        options::write(&check.options, out)?;
        out.push('\n');
    }
    for rule in metric {
        rules::write(rule, out)?;
    }
    notify.iter().try_for_each(|hook| super::notify::write(hook, out))?;
    let pre = promotion.pre.iter().map(|command| list(command)).collect::<Vec<_>>().join(", ");
    writeln!(out, "[promotion]\nmode = {}\nwindow = {}", quoted(promotion.mode.as_str()), duration(promotion.window))?;
    writeln!(out, "require_free = {}\npre = [{pre}]\n", quoted(&promotion.require_free.to_string()))?;
    writeln!(out, "[ghosts]\nretain = {}\n", duration(ghosts.retain))?;
    writeln!(out, "[retention]\nkeep_last = {}\nkeep_for = {}", retention.keep_last, duration(retention.keep_for))?;
    writeln!(out, "min_free = {}\n", quoted(&retention.min_free.to_string()))?;
    writeln!(out, "[scrub]\ninterval = {}\nrate = {}", duration(scrub.interval), quoted(&size_text(scrub.rate)))
}
