//! `init` on a disk that keeps only what was synced, broken off at any operation: what is left is a store, or says what it is and gives
//! way to another `init`.

use std::path::Path;

use super::crash_points::{Files, content, fast_dir};
use super::disk::{Dice, KEPT, Refusal, SimulatedDisk};
use super::*;
use crate::store::StoreError;
use crate::tree::{Nodes, Snapshot, Tree};

fn source() -> tempfile::TempDir {
    let dir = fast_dir();
    std::fs::write(dir.path().join("small.txt"), "small").unwrap();
    std::fs::write(dir.path().join("large.txt"), "large\n".repeat(40_000)).unwrap();
    dir
}

/// As the command does it: what could not be finished is undone.
fn init(path: &Path, from: &Path, disk: Option<Arc<dyn Disk>>) -> Result<(), String> {
    let store = Arc::new(Store::init_on(path, &SystemClock, disk).map_err(|error| error.to_string())?);
    let imported = import::import(&store, from, &SystemClock, &|_, _| {});
    match imported {
        Ok(_) => Ok(()),
        Err(error) => {
            let _ = Arc::into_inner(store).unwrap().undo_init();
            Err(error.to_string())
        }
    }
}

fn first_version(store: Store) -> Files {
    let store = Arc::new(store);
    let root = store.catalog().version(VersionId::FIRST).unwrap().unwrap().root.unwrap();
    content(&Snapshot::new(Tree::stored(Nodes::new(Arc::clone(&store)), root), Arc::clone(&store)))
}

/// There is the whole store, or one that `init` says it will make anew, and does.
fn whole_or_anew(path: &Path, from: &Path) -> bool {
    let expected: Files =
        ["small.txt", "large.txt"].map(|name| (name.to_owned(), std::fs::read_to_string(from.join(name)).unwrap())).into();
    let whole = match Store::open(path) {
        Ok(store) => {
            assert_eq!(first_version(store), expected);
            true
        }
        Err(error) => {
            let nothing = !path.exists() || path.read_dir().unwrap().next().is_none();
            let told = if nothing { matches!(error, StoreError::NotAStore { .. }) } else { matches!(error, StoreError::Unfinished { .. }) };
            assert!(told, "{error}");
            init(path, from, None).unwrap();
            assert_eq!(first_version(Store::open(path).unwrap()), expected);
            false
        }
    };
    assert!(!path.join("unfinished").exists());
    let message = Store::init(path, &SystemClock).unwrap_err().to_string();
    assert!(message.contains("exists and is not an empty directory"), "{message}");
    whole
}

#[test]
fn a_crash_in_init_leaves_the_store_or_what_gives_way_to_the_next_init() {
    let (from, dir, disk) = (source(), fast_dir(), Arc::new(SimulatedDisk::default()));
    init(&dir.path().join("store"), from.path(), Some(Arc::clone(&disk) as _)).unwrap();
    let (mut dice, mut crashes, mut tried, mut anew) = (Dice::new(1), disk.crashes(), 0, 0);
    for at in 0..=disk.len() {
        // In the middle of the directories of objects one is as good as another.
        if (20..250).contains(&at) && at % 23 != 0 {
            continue;
        }
        crashes.advance(at, &mut dice);
        let dir = fast_dir();
        let store = dir.path().join("store");
        std::fs::create_dir(&store).unwrap();
        let kept = KEPT[dice.below(KEPT.len())];
        crashes.image(kept, &mut dice).lay_out(&store);
        let whole = whole_or_anew(&store, from.path());
        assert!(whole || at < disk.len(), "init was done");
        (tried, anew) = (tried + 1, anew + usize::from(!whole));
    }
    println!("{tried} crashes, after {anew} of them made anew");
    assert!(anew > 20 && anew < tried);
}

#[test]
fn whatever_the_disk_refuses_init_it_says_so_and_can_be_run_again() {
    let from = source();
    let (mut number, mut refused) = (0, 0);
    loop {
        let dir = fast_dir();
        let store = dir.path().join("store");
        let disk = Arc::new(SimulatedDisk::default());
        let errno = if number % 2 == 0 { libc::EIO } else { libc::ENOSPC };
        disk.refuse(Refusal::Once { number, sort: None, errno });
        let made = init(&store, from.path(), Some(Arc::clone(&disk) as _));
        if disk.refused().1.is_none() {
            made.unwrap();
            break;
        }
        if let Err(error) = made {
            assert!(error.contains(&format!("(os error {errno})")), "{error}");
            refused += 1;
        }
        whole_or_anew(&store, from.path());
        number += if (20..250).contains(&number) { 23 } else { 1 };
    }
    assert!(refused > 20, "{refused}");
}
