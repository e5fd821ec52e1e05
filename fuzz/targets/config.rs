//! `shadowfs.toml`: any text is refused with file and line, or taken; what is taken reads the same after it was written out.

use std::path::Path;

use shadowfs::config::{Config, DEFAULT_FILE};

pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let file = Path::new("shadowfs.toml");
    match Config::parse(text, file) {
        Ok(config) => {
            let again = config.to_toml();
            let read = Config::parse(&again, file).unwrap_or_else(|why| panic!("{why}\n{again}"));
            assert_eq!(read, config, "{again}");
        }
        Err(why) => assert!(why.to_string().starts_with("shadowfs.toml"), "{why}"),
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap_or_default();
    let examples = readme.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default());
    examples.chain([DEFAULT_FILE, "[staging]\nsettel = \"1s\"\n"]).map(|text| text.as_bytes().to_vec()).collect()
}
