//! The sections of the file, one reader each.

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeTable;

use super::limits;
use super::options;
use super::rules;
use super::value::{Section, Source, sections};
use super::{Action, Check, Checks, Config, ConfigError, Ghosts, Promotion, PromotionMode, Retention, Scrub, Severity, Staging, User};

/// The built-in checks, by the name that `builtin = ` takes.
pub const BUILTINS: &[&str] = &["csv", "deletes", "json", "json-schema", "jsonl", "manifest", "names", "parquet", "size", "sqlite", "utf8"];

const SECTIONS: &[&str] = &["staging", "checks", "check", "metric", "notify", "promotion", "ghosts", "retention", "scrub"];

/// Checks `text` wholly; the first thing that is wrong is the refusal.
pub(super) fn parse(text: &str, file: &Path) -> Result<Config, ConfigError> {
    let source = Source { text, file };
    let document = DeTable::parse(text).map_err(|error| {
        let span = error.span().unwrap_or(0..0);
        source.refuse(&span, error.message().lines().collect::<Vec<_>>().join("; "))
    })?;
    let table = document.get_ref();
    Section::new(source, "", table, document.span(), SECTIONS)?;
    let checks = one(source, table, "checks", read_checks)?;
    let check = read_check_list(source, table, &checks)?;
    Ok(Config {
        staging: one(source, table, "staging", read_staging)?,
        checks,
        metric: rules::read(source, table, &check)?,
        check,
        notify: super::notify::read_list(source, table)?,
        promotion: one(source, table, "promotion", read_promotion)?,
        ghosts: one(source, table, "ghosts", read_ghosts)?,
        retention: one(source, table, "retention", read_retention)?,
        scrub: one(source, table, "scrub", read_scrub)?,
    })
}

type Reader<T> = fn(Source<'_>, &DeTable<'_>, Range<usize>) -> Result<T, ConfigError>;

/// The section `name`, or its defaults if the file has none.
fn one<T: Default>(source: Source<'_>, table: &DeTable<'_>, name: &str, read: Reader<T>) -> Result<T, ConfigError> {
    let Some(value) = table.get(name) else { return Ok(T::default()) };
    match value.get_ref().as_table() {
        Some(section) => read(source, section, value.span()),
        None => Err(source.refuse(&value.span(), format!("\"{name}\" must be a section: [{name}]"))),
    }
}

fn read_staging(source: Source<'_>, table: &DeTable<'_>, span: Range<usize>) -> Result<Staging, ConfigError> {
    let section = Section::new(source, "[staging]", table, span, &["settle", "max_open", "reserve", "keep_awake"])?;
    let usual = Staging::default();
    Ok(Staging {
        settle: section.duration("settle")?.unwrap_or(usual.settle),
        max_open: section.duration("max_open")?.unwrap_or(usual.max_open),
        reserve: section.size("reserve")?.unwrap_or(usual.reserve),
        keep_awake: section.flag("keep_awake")?.unwrap_or(usual.keep_awake),
    })
}

fn read_checks(source: Source<'_>, table: &DeTable<'_>, span: Range<usize>) -> Result<Checks, ConfigError> {
    let known = [&["workers", "rollback_threshold", "retries", "backoff", "timeout"][..], &limits::KEYS].concat();
    let section = Section::new(source, "[checks]", table, span, &known)?;
    let usual = Checks::default();
    let small =
        |key, low, high, usual: u32| Ok(section.number(key, low, high)?.and_then(|number| u32::try_from(number).ok()).unwrap_or(usual));
    let timeout = read_timeout(&section, usual.timeout)?;
    Ok(Checks {
        workers: section.number("workers", 1, 1024)?.and_then(|number| usize::try_from(number).ok()).unwrap_or(usual.workers),
        rollback_threshold: small("rollback_threshold", 0, 1_000_000, usual.rollback_threshold)?,
        retries: small("retries", 0, 1000, usual.retries)?,
        backoff: section.duration("backoff")?.unwrap_or(usual.backoff),
        timeout,
        limits: limits::read(&section, &usual.limits)?,
    })
}

fn read_timeout(section: &Section<'_>, usual: Duration) -> Result<Duration, ConfigError> {
    match section.duration("timeout")?.unwrap_or(usual) {
        Duration::ZERO => Err(section.refuse_at("timeout", "\"timeout\" must be longer than nothing")),
        timeout => Ok(timeout),
    }
}

fn read_promotion(source: Source<'_>, table: &DeTable<'_>, span: Range<usize>) -> Result<Promotion, ConfigError> {
    let section = Section::new(source, "[promotion]", table, span, &["mode", "window", "require_free", "pre"])?;
    let usual = Promotion::default();
    let modes = [PromotionMode::Auto, PromotionMode::Manual].map(|mode| (mode.as_str(), mode));
    Ok(Promotion {
        mode: section.word("mode", &modes)?.unwrap_or(usual.mode),
        window: section.duration("window")?.unwrap_or(usual.window),
        require_free: section.percent("require_free")?.unwrap_or(usual.require_free),
        pre: section.commands("pre")?.unwrap_or(usual.pre),
    })
}

fn read_ghosts(source: Source<'_>, table: &DeTable<'_>, span: Range<usize>) -> Result<Ghosts, ConfigError> {
    let section = Section::new(source, "[ghosts]", table, span, &["retain"])?;
    Ok(Ghosts { retain: section.duration("retain")?.unwrap_or(Ghosts::default().retain) })
}

fn read_retention(source: Source<'_>, table: &DeTable<'_>, span: Range<usize>) -> Result<Retention, ConfigError> {
    let section = Section::new(source, "[retention]", table, span, &["keep_last", "keep_for", "min_free"])?;
    let usual = Retention::default();
    Ok(Retention {
        keep_last: section.number("keep_last", 1, u64::MAX)?.unwrap_or(usual.keep_last),
        keep_for: section.duration("keep_for")?.unwrap_or(usual.keep_for),
        min_free: section.percent("min_free")?.unwrap_or(usual.min_free),
    })
}

fn read_scrub(source: Source<'_>, table: &DeTable<'_>, span: Range<usize>) -> Result<Scrub, ConfigError> {
    let section = Section::new(source, "[scrub]", table, span, &["interval", "rate"])?;
    let usual = Scrub::default();
    Ok(Scrub { interval: section.duration("interval")?.unwrap_or(usual.interval), rate: section.size("rate")?.unwrap_or(usual.rate) })
}

fn read_check_list(source: Source<'_>, table: &DeTable<'_>, usual: &Checks) -> Result<Vec<Check>, ConfigError> {
    let mut checks: Vec<Check> = Vec::new();
    for (section, span) in sections(source, table, "check")? {
        let check = read_check(source, section, span.clone(), usual)?;
        if checks.iter().any(|known| known.name == check.name) {
            let span = section.get("name").map_or(span, Spanned::span);
            return Err(source.refuse(&span, format!("two checks are named \"{}\"; give each a name of its own", check.name)));
        }
        checks.push(check);
    }
    Ok(checks)
}

fn read_check(source: Source<'_>, table: &DeTable<'_>, span: Range<usize>, usual: &Checks) -> Result<Check, ConfigError> {
    let known =
        [&["name", "run", "builtin", "paths", "unless", "severity", "user", "timeout"][..], &limits::KEYS, &options::keys()].concat();
    let section = Section::new(source, "[[check]]", table, span, &known)?;
    let name = read_name(&section, "[[check]]", "check")?;
    let severities = [Severity::Error, Severity::Warn].map(|severity| (severity.as_str(), severity));
    let action = read_action(&section, &name)?;
    if matches!(action, Action::Builtin(_)) {
        limits::refuse_for_builtin(&section)?;
    }
    Ok(Check {
        action,
        paths: read_globs(&section, "paths")?,
        unless: read_globs(&section, "unless")?,
        severity: section.word("severity", &severities)?.unwrap_or(Severity::Error),
        user: read_user(&section)?,
        timeout: read_timeout(&section, usual.timeout)?,
        limits: limits::read(&section, &usual.limits)?,
        options: options::read(&section, section.text("builtin")?)?,
        name,
    })
}

pub(super) fn read_globs(section: &Section<'_>, key: &str) -> Result<Vec<String>, ConfigError> {
    let globs = section.texts(key)?.unwrap_or_default();
    for glob in &globs {
        if let Err(error) = globset::GlobBuilder::new(glob).literal_separator(true).build() {
            return Err(section.refuse_at(key, format!("\"{glob}\" in \"{key}\" is not a glob: {}", error.kind())));
        }
    }
    Ok(globs)
}

pub(super) fn read_name(section: &Section<'_>, title: &str, what: &str) -> Result<String, ConfigError> {
    let Some(name) = section.text("name")? else {
        return Err(section.refuse_at("name", format!("a {title} has no \"name\"")));
    };
    // The name is part of a file's name in logs and in the lineage.
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if !plain || name.is_empty() || name.len() > 64 || name.starts_with('.') {
        let rule = "letters, digits, \"-\", \"_\" and \".\" (not first), at most 64";
        return Err(section.refuse_at("name", format!("the name of a {what} is made of {rule}; \"{name}\" is not")));
    }
    Ok(name.to_owned())
}

fn read_action(section: &Section<'_>, name: &str) -> Result<Action, ConfigError> {
    match (section.command("run")?, section.text("builtin")?) {
        (Some(_), Some(_)) => Err(section.refuse_at("builtin", format!("check \"{name}\" has both \"run\" and \"builtin\"; keep one"))),
        (None, None) => {
            Err(section.refuse_at("name", format!("check \"{name}\" does nothing; give it \"run\" (a command) or \"builtin\"")))
        }
        (Some(command), None) => Ok(Action::Run(command)),
        (None, Some(builtin)) if BUILTINS.contains(&builtin) => Ok(Action::Builtin(builtin.to_owned())),
        (None, Some(builtin)) => {
            Err(section.refuse_at("builtin", format!("there is no built-in check \"{builtin}\"; there are {}", BUILTINS.join(", "))))
        }
    }
}

pub(super) fn read_user(section: &Section<'_>) -> Result<Option<User>, ConfigError> {
    let Some(name) = section.text("user")? else { return Ok(None) };
    if !section.has("run") {
        return Err(section.refuse_at("user", "\"user\" is for commands; a built-in check runs in the daemon"));
    }
    let ours = nix::unistd::geteuid();
    match nix::unistd::User::from_name(name) {
        Ok(Some(user)) if !ours.is_root() && user.uid != ours => {
            Err(section.refuse_at("user", format!("running commands as \"{name}\" needs a daemon that root started")))
        }
        Ok(Some(user)) => Ok(Some(User { name: name.to_owned(), uid: user.uid.as_raw(), gid: user.gid.as_raw() })),
        Ok(None) => Err(section.refuse_at("user", format!("there is no user \"{name}\" on this machine"))),
        Err(error) => Err(section.refuse_at("user", format!("user \"{name}\" can't be looked up: {}", error.desc()))),
    }
}
