//! `config check` and `config show`.

use std::path::PathBuf;

use serde::Serialize;

use super::args::JsonArgs;
use super::daemon::{Asking, unexpected};
use super::exit::{Failure, Result};
use super::output::Out;
use crate::config::{Config, FILE_NAME};
use crate::control::client::{self, ClientError};
use crate::control::protocol::{Reply, Request};

/// The document of `config check --json`.
#[derive(Serialize)]
struct Checked<'a> {
    file: String,
    valid: bool,
    line: Option<usize>,
    reason: Option<&'a str>,
}

pub(super) fn check(file: Option<PathBuf>, args: JsonArgs, daemon: &Asking, out: &mut Out) -> Result {
    let file = match file {
        Some(file) => file,
        None => daemon.store()?.join(FILE_NAME),
    };
    let checked = Config::load(&file);
    let shown = file.display().to_string();
    match &checked {
        Ok(_) if args.json => out.json(&Checked { file: shown, valid: true, line: None, reason: None })?,
        Ok(config) => out.line(format_args!("{shown}: right, with {}", count(config.check.len())))?,
        Err(error) if args.json => out.json(&Checked { file: shown, valid: false, line: error.line, reason: Some(&error.reason) })?,
        Err(_) => {}
    }
    Ok(checked.map(drop)?)
}

fn count(checks: usize) -> String {
    match checks {
        0 => "no checks: every version is valid".to_owned(),
        1 => "1 check".to_owned(),
        more => format!("{more} checks"),
    }
}

pub(super) fn show(args: JsonArgs, daemon: &Asking, out: &mut Out) -> Result {
    let text = in_force(daemon)?;
    if !args.json {
        return Ok(out.raw(text.as_bytes())?);
    }
    let refuse = |error| Failure::failed(format!("the daemon's configuration can't be read: {error}"));
    let document: toml::Value = toml::from_str(&text).map_err(refuse)?;
    Ok(out.json(&document)?)
}

/// What the daemon goes by; without one, what the next would.
fn in_force(daemon: &Asking) -> Result<String> {
    let store = daemon.store()?;
    match client::connect(store) {
        Ok(client) => match client.ask(&Request::ConfigShow)? {
            Reply::Text(text) => Ok(text),
            other => Err(unexpected(&other)),
        },
        Err(ClientError::NoDaemon { .. }) => Ok(Config::load(&store.join(FILE_NAME))?.to_toml()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;
    use crate::cli::exit::Exit;

    #[test]
    fn a_mistake_is_wrong_usage() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.toml");
        std::fs::write(&file, "[staging]\nsetle = \"1s\"\n").unwrap();
        let failure: Failure = Config::load(&file).unwrap_err().into();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.message.starts_with(&format!("{}:2: ", file.display())), "{}", failure.message);
        assert!(failure.message.contains("settle"), "{}", failure.message);
    }
}
