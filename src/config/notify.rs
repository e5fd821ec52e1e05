//! `[[notify]]`: commands that are told of events.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::default::{duration, list, quoted};
use super::limits::{self, CommandLimits};
use super::parse::{read_name, read_user};
use super::value::{Section, Source};
use super::{ConfigError, User};

/// So many commands are told at most: each has a thread.
const MOST: usize = 16;

/// What a command can be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// A version was rejected.
    Rejected,
    /// A version went to production.
    Promoted,
    /// Staging or production went back to an older version.
    RolledBack,
    /// A promotion was put off.
    HeldBack,
    /// Less than `promotion.require_free` is free on the store's filesystem.
    DiskLow,
}

impl Topic {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Rejected, Self::Promoted, Self::RolledBack, Self::HeldBack, Self::DiskLow];

    /// The word in the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Promoted => "promoted",
            Self::RolledBack => "rolled_back",
            Self::HeldBack => "held_back",
            Self::DiskLow => "disk_low",
        }
    }
}

/// One `[[notify]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notify {
    /// Its name: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// The command; it gets the event as JSON on its standard input.
    pub run: Vec<String>,
    /// What it is told of.
    pub on: Vec<Topic>,
    /// The time one attempt has.
    pub timeout: Duration,
    /// How often it is tried again when it fails, with a backoff from one second up.
    pub retries: u32,
    /// As whom it runs; `None`: as the daemon.
    pub user: Option<User>,
    /// What it may use.
    pub limits: CommandLimits,
}

pub(super) fn read_list(source: Source<'_>, table: &DeTable<'_>) -> Result<Vec<Notify>, ConfigError> {
    let Some(value) = table.get("notify") else { return Ok(Vec::new()) };
    let misshapen = |at: &Spanned<DeValue<'_>>| source.refuse(&at.span(), "\"notify\" must be a list of sections: [[notify]]");
    let list = value.get_ref().as_array().ok_or_else(|| misshapen(value))?;
    let mut hooks = Vec::with_capacity(list.len());
    let mut names = HashMap::new();
    for entry in list.iter() {
        let section = entry.get_ref().as_table().ok_or_else(|| misshapen(entry))?;
        let hook = read(source, section, entry.span())?;
        if names.insert(hook.name.clone(), ()).is_some() {
            let span = section.get("name").map_or_else(|| entry.span(), Spanned::span);
            return Err(source.refuse(&span, format!("two hooks are named \"{}\"; give each a name of its own", hook.name)));
        }
        hooks.push(hook);
        if hooks.len() > MOST {
            return Err(source.refuse(&entry.span(), format!("there are more than {MOST} [[notify]]; let one command tell the others")));
        }
    }
    Ok(hooks)
}

fn read(source: Source<'_>, table: &DeTable<'_>, span: Range<usize>) -> Result<Notify, ConfigError> {
    let known = [&["name", "run", "on", "timeout", "retries", "user"][..], &limits::KEYS].concat();
    let section = Section::new(source, "[[notify]]", table, span, &known)?;
    let name = read_name(&section, "[[notify]]", "hook")?;
    let Some(run) = section.command("run")? else {
        return Err(section.refuse_at("name", format!("hook \"{name}\" does nothing; give it \"run\" (a command)")));
    };
    let timeout = section.duration("timeout")?.unwrap_or(Duration::from_secs(30));
    if timeout.is_zero() {
        return Err(section.refuse_at("timeout", "\"timeout\" in [[notify]] must be longer than nothing"));
    }
    let retries = section.number("retries", 0, 100)?.and_then(|number| u32::try_from(number).ok()).unwrap_or(3);
    let limits = limits::read(&section, &CommandLimits::default())?;
    Ok(Notify { run, on: read_topics(&section)?, timeout, retries, user: read_user(&section)?, limits, name })
}

fn read_topics(section: &Section<'_>) -> Result<Vec<Topic>, ConfigError> {
    let Some(words) = section.texts("on")? else { return Ok(Topic::ALL.to_vec()) };
    let known = || Topic::ALL.map(Topic::as_str).join(", ");
    if words.is_empty() {
        return Err(section.refuse_at("on", format!("\"on\" in [[notify]] is empty; there are {}", known())));
    }
    let topic = |word: &String| {
        let unknown = || section.refuse_at("on", format!("there is no event \"{word}\" to be told of; there are {}", known()));
        Topic::ALL.into_iter().find(|topic| topic.as_str() == word).ok_or_else(unknown)
    };
    words.iter().map(topic).collect()
}

pub(super) fn write(hook: &Notify, out: &mut String) -> std::fmt::Result {
    let on: Vec<_> = hook.on.iter().map(|topic| topic.as_str().to_owned()).collect();
    writeln!(out, "[[notify]]\nname = {}\nrun = {}\non = {}", quoted(&hook.name), list(&hook.run), list(&on))?;
    writeln!(out, "timeout = {}\nretries = {}", duration(hook.timeout), hook.retries)?;
    if let Some(user) = &hook.user {
        writeln!(out, "user = {}", quoted(&user.name))?;
    }
    limits::write(&hook.limits, Some(&CommandLimits::default()), out)?;
    out.push('\n');
    Ok(())
}
