//! Promotions under load: who walks production while it is switched again and again meets no mixed pair and no error.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::Sandbox;

const CONFIG: &str = "[staging]\nsettle = \"1h\"\n[promotion]\nwindow = \"0s\"\nrequire_free = \"0%\"\n";
const PAIRS: usize = 8;
const PROMOTIONS: u32 = 60;

/// Writes `number` into every file of every pair.
fn write_pairs(top: &Path, number: u32) {
    for pair in 0..PAIRS {
        let dir = top.join(format!("pair-{pair}"));
        fs::create_dir_all(&dir).unwrap();
        for side in ["left", "right"] {
            fs::write(dir.join(side), number.to_string()).unwrap();
        }
    }
}

/// What a reader met.
#[derive(Default)]
struct Met {
    rounds: u64,
    numbers: BTreeSet<u32>,
    wrong: Vec<String>,
}

impl Met {
    fn number(&mut self, path: &Path) -> Option<u32> {
        match fs::read_to_string(path).map(|text| text.parse()) {
            Ok(Ok(number)) => {
                self.numbers.insert(number);
                Some(number)
            }
            other => {
                self.wrong.push(format!("{}: {other:?}", path.display()));
                None
            }
        }
    }
}

/// Opens production once a round, and reads all pairs in what it has opened: they are one version's.
fn from_one_directory(production: &Path, over: &AtomicBool) -> Met {
    let mut met = Met::default();
    while !over.load(Ordering::Relaxed) {
        met.rounds += 1;
        let top = match File::open(production) {
            Ok(top) => top,
            Err(error) => {
                met.wrong.push(format!("production: {error}"));
                continue;
            }
        };
        let below = format!("/proc/self/fd/{}", top.as_raw_fd());
        let mut found = BTreeSet::new();
        for pair in 0..PAIRS {
            for side in ["left", "right"] {
                found.extend(met.number(&Path::new(&below).join(format!("pair-{pair}")).join(side)));
            }
        }
        if found.len() != 1 {
            met.wrong.push(format!("mixed: {found:?}"));
        }
    }
    met
}

/// Walks to every file by its own path, and never back in time: each walk ends in one version, and later ones in later ones.
fn by_paths(production: &Path, over: &AtomicBool) -> Met {
    let mut met = Met::default();
    let mut last = 0;
    while !over.load(Ordering::Relaxed) {
        met.rounds += 1;
        for pair in 0..PAIRS {
            for side in ["left", "right"] {
                let path = production.join(format!("pair-{pair}")).join(side);
                if let Some(number) = met.number(&path) {
                    if number < last {
                        met.wrong.push(format!("{} went back from {last} to {number}", path.display()));
                    }
                    last = number;
                }
            }
        }
    }
    met
}

#[test]
fn readers_of_production_meet_no_mixed_pair_and_no_error_while_it_is_switched() {
    let sandbox = Sandbox::new();
    sandbox.init(CONFIG).mount();
    write_pairs(&sandbox.staging(), 0);
    sandbox.on(["commit"]).expect(0);
    sandbox.on(["wait", "t1", "--promoted"]).expect(0);
    // Whoever stands in the first version stays in it.
    let held = File::open(sandbox.production()).unwrap();
    let mut open = File::open(sandbox.production().join("pair-0/left")).unwrap();
    let (production, over) = (sandbox.production(), AtomicBool::new(false));
    let met = thread::scope(|scope| {
        let readers = [scope.spawn(|| from_one_directory(&production, &over)), scope.spawn(|| by_paths(&production, &over))];
        for number in 1..=PROMOTIONS {
            write_pairs(&sandbox.staging(), number);
            sandbox.on(["commit"]).expect(0);
        }
        sandbox.on(["wait", "--promoted"]).expect(0);
        while fs::read_to_string(production.join("pair-0/left")).unwrap() != PROMOTIONS.to_string() {
            thread::yield_now();
        }
        over.store(true, Ordering::Relaxed);
        readers.map(|reader| reader.join().unwrap())
    });
    for reader in &met {
        assert!(
            reader.wrong.is_empty(),
            "{} of {} rounds: {:?}",
            reader.wrong.len(),
            reader.rounds,
            &reader.wrong[..reader.wrong.len().min(5)]
        );
        assert!(reader.numbers.len() > 5, "the readers met too few promotions for this to say anything: {:?}", reader.numbers);
    }
    let below = format!("/proc/self/fd/{}", held.as_raw_fd());
    for pair in 0..PAIRS {
        assert_eq!(fs::read_to_string(format!("{below}/pair-{pair}/right")).unwrap(), "0");
    }
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "0");
}
