//! Every verb and option, defined once: `--help`, the man pages and the completions come from here.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::control::protocol::VersionName;
use crate::version::tag::TagName;

/// The exit codes, for help and pages.
pub(super) const EXITS: &[(&str, &str)] = &[
    ("0", "done"),
    ("1", "failed"),
    ("2", "wrong usage or configuration"),
    ("3", "rejected by checks"),
    ("4", "conflict with something that is already so"),
    ("5", "no daemon at that path"),
    ("75", "temporary, try again"),
];

/// The environment that matters, for help and pages.
pub(super) const ENVIRONMENT: &[(&str, &str)] = &[
    ("SHADOWFS", "the store, or a path in its mount, if neither -C nor the working directory names one"),
    ("SHADOWFS_LOG", "what is logged to standard error, as in \"debug\" or \"shadowfs::check=trace\""),
    ("NO_COLOR", "no colours, also on a terminal"),
];

/// What the help ends with.
fn after() -> String {
    let list = |title: &str, items: &[(&str, &str)]| {
        let lines: Vec<_> = items.iter().map(|(name, meaning)| format!("  {name:13} {meaning}")).collect();
        format!("{title}:\n{}", lines.join("\n"))
    };
    format!("{}\n\n{}", list("Exit status", EXITS), list("Environment", ENVIRONMENT))
}

/// A filesystem on which every change to a dataset is a version that checks judge before it reaches production.
///
/// A store is a directory that holds a dataset with all its versions. Mounted, any program writes into MNT/staging; each
/// modification becomes a version, its checks run by themselves, bad versions roll back and are kept as ghosts, and good ones
/// are promoted to MNT/production. MNT/lineage says who changed what, when, and what every check found.
#[derive(Debug, Parser)]
#[command(name = "shadowfs", version, after_long_help = after(), max_term_width = 100, disable_help_subcommand = true)]
pub struct Cli {
    /// A store, or any path in a mount [default: the working directory, then $SHADOWFS]
    #[arg(short = 'C', value_name = "PATH", global = true)]
    pub place: Option<PathBuf>,
    /// Log more to standard error (-vv: still more)
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a store
    ///
    /// Makes a store with a configuration of defaults (STORE/shadowfs.toml). With --from, a copy of DIR becomes version t0, valid and in
    /// production; modes, owners, times, extended attributes, hard links and holes are kept (without root, what others own becomes
    /// yours, as with cp -a). Without --from, t0 is empty.
    Init(InitArgs),
    /// Mount a store, and return once the mount answers
    ///
    /// The daemon goes to the background and logs to STORE/daemon.log. A mount point whose daemon died is cleaned up first.
    /// Installed as mount.fuse.shadowfs, this program also mounts from fstab: STORE MNT fuse.shadowfs defaults 0 0.
    Mount(MountArgs),
    /// Unmount a store; seals nothing, loses nothing
    ///
    /// The open version stays open and is there after the next mount; checks that run start again then.
    Unmount(UnmountArgs),
    /// The open version, queue, running checks, production, ghosts, space
    Status(JsonArgs),
    /// Versions, newest first
    Log(LogArgs),
    /// One version, with its checks and changes
    Show(ShowArgs),
    /// What differs between two versions
    ///
    /// One line a changed path: A new, M changed content, T changed kind, P changed properties only (mode, owner, times, extended
    /// attributes), D deleted. It takes as long as the change is large, whatever the dataset's size.
    Diff(DiffArgs),
    /// Hold the open version: nothing is sealed until commit or abort
    Begin(MessageArgs),
    /// Seal the open version now
    Commit(CommitArgs),
    /// Discard the open version: staging shows again what it was made on
    Abort(JsonArgs),
    /// Run a command in staging; commit if it exits 0, else abort
    ///
    /// Between begin and commit nothing seals, so all that CMD changes is one version. If CMD fails the changes are discarded and the
    /// exit code is 1.
    Run(RunArgs),
    /// Wait for a version's verdict
    ///
    /// Exits 0 once it is valid (with --promoted: in production), 3 if it was rejected. A version that was carried over onto another
    /// parent is followed.
    Wait(WaitArgs),
    /// Run checks again
    ///
    /// Every attempt is recorded, and the exit code is the verdict: 0 or 3. A verdict that has fallen stays: a ghost that passes now, because
    /// its check was mended, is still a ghost, and `restore` puts its content back as a new version, which can become valid.
    Check(CheckArgs),
    /// Promote now: a version, or all that is flagged
    Promote(OptionalVersionArgs),
    /// Put production and staging back to a valid version
    ///
    /// Without a version: to the one that was in production before. Newer versions stay, are held, and are not promoted again until
    /// someone says so.
    Rollback(OptionalVersionArgs),
    /// Rejected versions that can still be browsed
    Ghosts(JsonArgs),
    /// Put a version's content back into staging, as a new version
    ///
    /// Any version whose content is there, ghosts above all. Staging then shows that content, whole, in a new open version that is sealed and
    /// checked as any other; after begin it stays open, so that it can be mended first. Refused while another version is open.
    Restore(VersionArgs),
    /// End a version's retention now
    ///
    /// Its content is gone from ghosts/ or versions/ at once, and its space is free after the next gc. Its record and its logs stay in the
    /// lineage. Refused for what is in use: production, what staging stands on, what is flagged, tagged or pinned.
    Drop(VersionArgs),
    /// Keep a version or ghost whatever its age
    Pin(PinArgs),
    /// Give a version a name: versions/NAME leads to it, and it is kept
    ///
    /// Only versions that have passed can have names, and a version can have several. Without arguments: lists them.
    Tag(TagArgs),
    /// The audit trail: who changed what, when, and what every check found
    Lineage(LineageArgs),
    /// End the retention of what has had its time, and free what nothing needs
    ///
    /// The daemon does so by itself, in the background, as [ghosts] and [retention] say; this is for now. Says which versions go and how many
    /// bytes that frees. Expired versions keep their record and logs in the lineage. What someone has open is freed when it is closed. Works
    /// without a daemon as well.
    Gc(GcArgs),
    /// Check the structure of the store
    ///
    /// Every version's tree, names, links and counts, the lineage, and that everything that is named is there. Without a daemon also the pages of
    /// the catalog. With --repair (of a store that is not mounted) what can be put right without a loss is put right, and it says what that
    /// was. Exits 1 if something is damaged.
    Fsck(FsckArgs),
    /// Read every content and compare it with its digest
    ///
    /// Names the files and versions of what is damaged; all else stays readable. The daemon does so by itself, slowly, as [scrub] says. Exits 1 if
    /// something is damaged. Works without a daemon as well.
    Scrub(JsonArgs),
    /// Copy a version out: to a directory, a tar file or a tar stream
    ///
    /// With modes, owners, times to the nanosecond, extended attributes, access lists, hard links, devices and holes. A directory or a tar file
    /// is there once it is whole and on disk; what exists already is not touched. Archives are in the pax format, and name what `tar .` would.
    Export(ExportArgs),
    /// The configuration
    #[command(subcommand, arg_required_else_help = true)]
    Config(ConfigVerb),
    /// Print a script that completes commands in a shell
    Completions(CompletionsArgs),
    /// Write the man pages
    #[command(hide = true)]
    Man(ManArgs),
}

/// `--json` alone.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct JsonArgs {
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// `init`.
#[derive(Args, Debug)]
pub struct InitArgs {
    /// The directory to make; it must not exist, or be empty
    pub store: PathBuf,
    /// A directory to copy: it becomes version t0
    #[arg(long, value_name = "DIR")]
    pub from: Option<PathBuf>,
    /// How to print
    #[command(flatten)]
    pub json: JsonArgs,
}

/// `mount`.
#[derive(Args, Clone, Debug, Default)]
pub struct MountArgs {
    /// The store
    pub store: PathBuf,
    /// An empty directory
    #[arg(value_name = "MNT")]
    pub mount_point: PathBuf,
    /// Stay in the foreground and log to standard error
    #[arg(short, long)]
    pub foreground: bool,
    /// Also keep a kernel mount of production here (needs root)
    #[arg(long, value_name = "DIR")]
    pub production: Option<PathBuf>,
    /// Let other users in
    #[arg(long)]
    pub allow_other: bool,
    /// Mount options as in fstab: allow_other, production=DIR, foreground
    #[arg(short, value_name = "OPTS", value_delimiter = ',')]
    pub options: Vec<String>,
}

/// `unmount`.
#[derive(Args, Debug)]
pub struct UnmountArgs {
    /// The mount point, or any path in the mount [default: as -C]
    #[arg(value_name = "MNT")]
    pub mount_point: Option<PathBuf>,
}

/// `log`.
#[derive(Args, Debug)]
pub struct LogArgs {
    /// At most N versions
    #[arg(short, long, value_name = "N")]
    pub number: Option<u64>,
    /// Draw this number that checks reported instead, oldest version first (by default of the last 20)
    #[arg(long, value_name = "NAME")]
    pub metric: Option<String>,
    /// Only as this check reported it
    #[arg(long, value_name = "CHECK", requires = "metric")]
    pub check: Option<String>,
    /// How to print
    #[command(flatten)]
    pub json: JsonArgs,
}

/// `show`.
#[derive(Args, Debug)]
pub struct ShowArgs {
    /// tN, staging, production, latest, valid or a tag
    #[arg(value_parser = version_name)]
    pub version: VersionName,
    /// How to print
    #[command(flatten)]
    pub json: JsonArgs,
}

/// `diff`.
#[derive(Args, Debug)]
pub struct DiffArgs {
    /// The older side: tN, staging, production, latest, valid or a tag
    #[arg(value_name = "A", value_parser = version_name)]
    pub from: VersionName,
    /// The newer side
    #[arg(value_name = "B", value_parser = version_name)]
    pub to: VersionName,
    /// Only this path of the dataset and what is below it
    pub path: Option<PathBuf>,
    /// Lines added and removed in each file
    #[arg(long, conflicts_with_all = ["name_status", "patch", "json"])]
    pub stat: bool,
    /// A letter and the path (the default)
    #[arg(long, conflicts_with_all = ["patch", "json"])]
    pub name_status: bool,
    /// The changed lines, as `git diff` prints them
    #[arg(short, long, conflicts_with = "json")]
    pub patch: bool,
    /// How to print
    #[command(flatten)]
    pub json: JsonArgs,
}

/// `begin`.
#[derive(Args, Debug)]
pub struct MessageArgs {
    /// What the change is, for log and lineage
    #[arg(short, long, value_name = "MSG")]
    pub message: Option<String>,
    /// How to print
    #[command(flatten)]
    pub json: JsonArgs,
}

/// `commit`.
#[derive(Args, Debug)]
pub struct CommitArgs {
    /// Its message, and how to print
    #[command(flatten)]
    pub message: MessageArgs,
    /// Wait for the verdict: exit 0 if it is valid, 3 if it was rejected
    #[arg(long)]
    pub wait: bool,
}

/// `run`.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// Its message, and how to print
    #[command(flatten)]
    pub message: MessageArgs,
    /// Wait for the verdict: exit 0 if it is valid, 3 if it was rejected
    #[arg(long)]
    pub wait: bool,
    /// The command and its arguments
    #[arg(value_name = "CMD", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<OsString>,
}

/// `wait`.
#[derive(Args, Debug)]
pub struct WaitArgs {
    /// Which [default: the newest]
    #[arg(value_parser = version_name)]
    pub version: Option<VersionName>,
    /// Wait until it is in production, or a newer one is
    #[arg(long)]
    pub promoted: bool,
    /// How to print
    #[command(flatten)]
    pub json: JsonArgs,
}

/// `check`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// tN, production, latest, valid or a tag
    #[arg(value_parser = version_name)]
    pub version: VersionName,
    /// Only this check
    #[arg(long, value_name = "CHECK")]
    pub name: Option<String>,
    /// How to print
    #[command(flatten)]
    pub json: JsonArgs,
}

/// `promote` and `rollback`.
#[derive(Args, Debug)]
pub struct OptionalVersionArgs {
    /// Which version
    #[arg(value_parser = version_name)]
    pub version: Option<VersionName>,
    /// How to print
    #[command(flatten)]
    pub json: JsonArgs,
}

/// `restore` and `drop`.
#[derive(Args, Debug)]
pub struct VersionArgs {
    /// tN, production, latest, valid or a tag
    #[arg(value_parser = version_name)]
    pub version: VersionName,
    /// How to print
    #[command(flatten)]
    pub json: JsonArgs,
}

/// `pin`.
#[derive(Args, Debug)]
pub struct PinArgs {
    /// tN, production, latest, valid or a tag
    #[arg(value_parser = version_name)]
    pub version: VersionName,
    /// Let its age count again
    #[arg(long)]
    pub remove: bool,
    /// How to print
    #[command(flatten)]
    pub json: JsonArgs,
}

/// `gc`.
#[derive(Args, Debug)]
pub struct GcArgs {
    /// Change nothing; only say what would go, and how many bytes that would free
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// How to print
    #[command(flatten)]
    pub json: JsonArgs,
}

/// `fsck`.
#[derive(Args, Clone, Copy, Debug)]
pub struct FsckArgs {
    /// Put right what can be put right without a loss, and say what that was
    #[arg(long)]
    pub repair: bool,
    /// How to print
    #[command(flatten)]
    pub json: JsonArgs,
}

/// `tag`.
#[derive(Args, Debug)]
pub struct TagArgs {
    /// The name [default: list all]
    pub name: Option<TagName>,
    /// The version that gets it
    #[arg(value_parser = version_name, conflicts_with = "remove")]
    pub version: Option<VersionName>,
    /// Take the name away
    #[arg(long, requires = "name")]
    pub remove: bool,
    /// Move a name that another version has
    #[arg(short, long, requires = "version")]
    pub force: bool,
    /// How to print
    #[command(flatten)]
    pub json: JsonArgs,
}

/// `lineage`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct LineageArgs {
    /// What else.
    #[command(subcommand)]
    pub verb: Option<LineageVerb>,
    /// Only the events of this version
    #[arg(value_parser = version_name)]
    pub version: Option<VersionName>,
    /// In which form
    #[arg(long, value_enum, default_value_t = LineageFormat::Text, conflicts_with = "json")]
    pub format: LineageFormat,
    /// How to print
    #[command(flatten)]
    pub json: JsonArgs,
}

/// What `lineage` does beside printing.
#[derive(Debug, Subcommand)]
pub enum LineageVerb {
    /// Check the chain of events, the versions' records and trees against it, and every content against its digest
    ///
    /// Reads everything in the store. Exits 1, with a line for each finding, if something is not what was recorded.
    Verify(JsonArgs),
}

/// The forms of the audit trail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LineageFormat {
    /// A line an event, for people
    Text,
    /// One JSON array of events, as in lineage/log.jsonl
    Json,
    /// OpenLineage run events, one JSON object a version and line
    Openlineage,
    /// The versions as a graph for Graphviz
    Dot,
    /// One page for a browser
    Html,
}

/// `export`.
#[derive(Args, Debug)]
pub struct ExportArgs {
    /// tN, production, latest, valid or a tag
    #[arg(value_parser = version_name)]
    pub version: VersionName,
    /// A new or empty directory, a new file that ends in .tar, or - for a tar stream to standard output
    #[arg(value_name = "DEST")]
    pub destination: PathBuf,
    /// How to print
    #[command(flatten)]
    pub json: JsonArgs,
}

/// `config`.
#[derive(Debug, Subcommand)]
pub enum ConfigVerb {
    /// Say whether a configuration is right; a mistake is named with file, line and reason
    Check {
        /// The file [default: shadowfs.toml of the store]
        file: Option<PathBuf>,
        /// How to print
        #[command(flatten)]
        json: JsonArgs,
    },
    /// Print what is in force, every default written out
    Show(JsonArgs),
}

/// `completions`.
#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// `man`.
#[derive(Args, Debug)]
pub struct ManArgs {
    /// The directory
    pub dir: PathBuf,
}

/// A version as the contract names it; anything else is a tag, which the daemon knows or does not.
fn version_name(text: &str) -> Result<VersionName, String> {
    match text {
        "staging" => Ok(VersionName::Staging),
        "production" => Ok(VersionName::Production),
        "latest" => Ok(VersionName::Latest),
        "valid" => Ok(VersionName::Valid),
        "" => Err("a version's name is not empty".to_owned()),
        _ => Ok(text.parse().map_or_else(|_| VersionName::Tag(text.to_owned()), VersionName::Number)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use clap::CommandFactory;

    use super::*;
    use crate::ids::VersionId;

    #[test]
    fn the_definitions_hold_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn names_of_versions() {
        assert_eq!(version_name("t7"), Ok(VersionName::Number(VersionId(7))));
        assert_eq!(version_name("valid"), Ok(VersionName::Valid));
        assert_eq!(version_name("t07"), Ok(VersionName::Tag("t07".to_owned())));
        assert!(version_name("").is_err());
    }

    #[test]
    fn what_follows_the_dashes_is_the_commands() {
        let cli = Cli::try_parse_from(["shadowfs", "-C", "/m", "run", "-m", "x", "--", "ls", "-l", "--json"]).unwrap();
        let Verb::Run(run) = cli.verb else { unreachable!("another verb") };
        assert_eq!(run.command, ["ls", "-l", "--json"]);
        assert!(!run.message.json.json);
        assert_eq!(cli.place, Some("/m".into()));
        assert_eq!(run.message.message.as_deref(), Some("x"));
    }

    #[test]
    fn a_path_in_the_dataset_is_not_the_place_of_the_store() {
        let cli = Cli::try_parse_from(["shadowfs", "-C", "/m", "diff", "t0", "t1", "a/b"]).unwrap();
        let Verb::Diff(diff) = cli.verb else { unreachable!("another verb") };
        assert_eq!((cli.place, diff.path), (Some("/m".into()), Some("a/b".into())));
    }

    #[test]
    fn every_verb_of_the_contract_is_there() {
        let command = Cli::command();
        let verbs: Vec<_> = command.get_subcommands().filter(|verb| !verb.is_hide_set()).map(|verb| verb.get_name().to_owned()).collect();
        let contract = "init mount unmount status log show diff begin commit abort run wait check promote rollback ghosts restore drop pin tag lineage gc fsck scrub export config completions";
        assert_eq!(verbs, contract.split(' ').collect::<Vec<_>>());
    }
}
