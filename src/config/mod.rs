//! The configuration: `STORE/shadowfs.toml`, checked wholly before any of it is in force.
//!
//! `value` reads single values (durations, percentages, lists) with their line, `parse` and `notify` the sections, `default` is the file that
//! `init` writes, `watch` tells of a change on disk.

mod default;
mod limits;
mod notify;
mod options;
mod parse;
mod rules;
#[cfg(test)]
mod tests;
mod value;
pub mod watch;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use default::DEFAULT_FILE;
pub use limits::CommandLimits;
pub use notify::{Notify, Topic};
pub use options::{Columns, FieldType, Options};
pub use parse::BUILTINS;
pub use rules::{METRIC_NAME, MetricRule};

/// The name of the configuration file in a store.
pub const FILE_NAME: &str = "shadowfs.toml";

/// A configuration that was refused: file, line and reason in one line of text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1, where the reason is at one.
    pub line: Option<usize>,
    /// The reason.
    pub reason: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file.display(), self.reason),
            None => write!(f, "{}: {}", self.file.display(), self.reason),
        }
    }
}

/// Everything that can be configured, with the defaults of the contract.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// `[staging]`.
    pub staging: Staging,
    /// `[checks]`.
    pub checks: Checks,
    /// `[[check]]`, in the order of the file.
    pub check: Vec<Check>,
    /// `[[metric]]`, in the order of the file.
    pub metric: Vec<MetricRule>,
    /// `[[notify]]`, in the order of the file.
    pub notify: Vec<Notify>,
    /// `[promotion]`.
    pub promotion: Promotion,
    /// `[ghosts]`.
    pub ghosts: Ghosts,
    /// `[retention]`.
    pub retention: Retention,
    /// `[scrub]`.
    pub scrub: Scrub,
}

/// `[staging]`: when the open version is sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Staging {
    /// How long nothing must have changed.
    pub settle: Duration,
    /// Past this age it is sealed at the first moment without writers.
    pub max_open: Duration,
    /// Bytes kept free on the store's disk for what must go on when it is full.
    pub reserve: u64,
    /// Whether processors are kept from halting while requests follow each other closely; as it is at the mount.
    pub keep_awake: bool,
}

/// `[checks]`: the pool, and what a failure does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checks {
    /// Checks that run at once.
    pub workers: usize,
    /// Failed attempts of a version that are borne; one more rejects it.
    pub rollback_threshold: u32,
    /// How often a failed check is tried again.
    pub retries: u32,
    /// The wait before the first retry; it doubles each time.
    pub backoff: Duration,
    /// The time an attempt has.
    pub timeout: Duration,
    /// What a command may use.
    pub limits: CommandLimits,
}

/// What a failed check does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// It counts against the version.
    Error,
    /// It is recorded, and never rejects.
    Warn,
}

impl Severity {
    /// The word in the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
        }
    }
}

/// What a check runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A command with its arguments.
    Run(Vec<String>),
    /// A check of our own, by its name.
    Builtin(String),
}

/// A user that commands run as, looked up when the file was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name in the file.
    pub name: String,
    /// Its uid.
    pub uid: u32,
    /// Its primary group.
    pub gid: u32,
}

/// One `[[check]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// Its name: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// What it runs.
    pub action: Action,
    /// Globs of paths; it runs only if the change touches one of them. Empty: all paths.
    pub paths: Vec<String>,
    /// Globs of paths that it does not look at, whatever `paths` says.
    pub unless: Vec<String>,
    /// What its failure does.
    pub severity: Severity,
    /// As whom its command runs; `None`: as the daemon.
    pub user: Option<User>,
    /// The time an attempt of it has; `[checks]` has it for all.
    pub timeout: Duration,
    /// What its command may use; `[checks]` has it for all.
    pub limits: CommandLimits,
    /// What a built-in check is told.
    pub options: Options,
}

impl Check {
    /// A check with nothing configured but what it runs.
    #[must_use]
    pub fn new(name: &str, action: Action) -> Self {
        let Checks { timeout, limits, .. } = Checks::default();
        Self {
            name: name.to_owned(),
            action,
            paths: Vec::new(),
            unless: Vec::new(),
            severity: Severity::Error,
            user: None,
            timeout,
            limits,
            options: Options::default(),
        }
    }
}

/// Who promotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromotionMode {
    /// The scheduler.
    Auto,
    /// Only `shadowfs promote`.
    Manual,
}

impl PromotionMode {
    /// The word in the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Manual => "manual",
        }
    }
}

/// A part of a filesystem, in thousandths of a percent, so that it has equality and prints as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(pub u32);

impl Percent {
    /// This part of `whole`.
    #[must_use]
    pub fn of(self, whole: u64) -> u64 {
        u64::try_from(u128::from(whole) * u128::from(self.0) / 100_000).unwrap_or(u64::MAX)
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", f64::from(self.0) / 1000.0)
    }
}

/// `[promotion]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promotion {
    /// Who promotes.
    pub mode: PromotionMode,
    /// What becomes valid in it is one batch.
    pub window: Duration,
    /// Space that must be free on the store's filesystem.
    pub require_free: Percent,
    /// Commands that must pass before the switch.
    pub pre: Vec<Vec<String>>,
}

/// `[ghosts]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ghosts {
    /// How long a ghost is kept.
    pub retain: Duration,
}

/// `[retention]`: a version goes when both are passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Number of newest versions that stay.
    pub keep_last: u64,
    /// Age up to which versions stay.
    pub keep_for: Duration,
    /// While less than this part of the store's filesystem is free, the oldest versions and ghosts go before their time.
    pub min_free: Percent,
}

/// `[scrub]`: the check of all contents in the background.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scrub {
    /// How long after the end of one the next begins; zero: never by itself.
    pub interval: Duration,
    /// Bytes a second that it reads at the most; 0: as fast as it goes.
    pub rate: u64,
}

impl Default for Staging {
    fn default() -> Self {
        Self { settle: Duration::from_millis(200), max_open: Duration::from_secs(600), reserve: 32 << 20, keep_awake: true }
    }
}

impl Default for Checks {
    fn default() -> Self {
        Self {
            workers: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            rollback_threshold: 2,
            retries: 2,
            backoff: Duration::from_millis(250),
            timeout: Duration::from_secs(300),
            limits: CommandLimits::default(),
        }
    }
}

impl Default for Promotion {
    fn default() -> Self {
        Self { mode: PromotionMode::Auto, window: Duration::from_secs(2), require_free: Percent(5_000), pre: Vec::new() }
    }
}

impl Default for Ghosts {
    fn default() -> Self {
        Self { retain: Duration::from_secs(24 * 3600) }
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self { keep_last: 50, keep_for: Duration::from_secs(30 * 24 * 3600), min_free: Percent(0) }
    }
}

impl Default for Scrub {
    fn default() -> Self {
        Self { interval: Duration::from_secs(30 * 24 * 3600), rate: 32 << 20 }
    }
}

impl Config {
    /// Reads and checks the file at `path`.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, path),
            Err(error) => Err(ConfigError { file: path.to_owned(), line: None, reason: format!("can't be read: {error}") }),
        }
    }

    /// Checks `text`; `file` is for the messages.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigError> {
        parse::parse(text, file)
    }

    /// The file that says just what is in force, every default written out.
    #[must_use]
    pub fn to_toml(&self) -> String {
        default::to_toml(self)
    }
}
