//! `man`: the manual pages, from the same definitions as the help.

use std::io::{self, Write};
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use super::args::{Cli, ENVIRONMENT, EXITS, ManArgs};
use super::exit::{Failure, Result};

pub(super) fn run(args: &ManArgs) -> Result {
    write(&args.dir).map_err(|error| Failure::failed(format!("{}: man pages can't be written: {error}", args.dir.display())))
}

fn write(dir: &Path) -> io::Result<()> {
    let mut command = Cli::command();
    command.build();
    std::fs::create_dir_all(dir)?;
    write_with_verbs(&command, dir)
}

fn write_with_verbs(command: &Command, dir: &Path) -> io::Result<()> {
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        write_with_verbs(verb, dir)?;
    }
    let man = Man::new(command.clone());
    std::fs::write(dir.join(man.get_filename()), page(&man, command)?)
}

/// One page: what the definitions say, and the sections that all pages share.
fn page(man: &Man, command: &Command) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    let list = |title: &str, items: &[(&str, &str)]| {
        let items = items.iter().map(|(name, meaning)| format!(".TP\n\\fB{name}\\fR\n{}\n", meaning.replace('-', "\\-")));
        format!(".SH \"{title}\"\n{}", items.collect::<String>())
    };
    write!(page, "{}{}", list("EXIT STATUS", EXITS), list("ENVIRONMENT", ENVIRONMENT))?;
    if command.get_name() != "shadowfs" {
        page.extend(b".SH \"SEE ALSO\"\n\\fBshadowfs\\fR(1)\n");
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::collections::BTreeMap;
    use std::fs;

    use super::*;

    fn pages(dir: &Path) -> BTreeMap<String, String> {
        let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
        entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap())).collect()
    }

    #[test]
    fn the_pages_in_the_tree_are_fresh() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path()).unwrap();
        let fresh = pages(dir.path());
        let kept = pages(&Path::new(env!("CARGO_MANIFEST_DIR")).join("man"));
        let stale: Vec<_> = fresh.keys().chain(kept.keys()).filter(|page| fresh.get(*page) != kept.get(*page)).collect();
        assert!(stale.is_empty(), "stale: {stale:?}; run: rm man/*.1; cargo run -- man man");
    }
}
