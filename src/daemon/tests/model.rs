//! Random histories of writes and verdicts against plain maps.

use proptest::prelude::*;

use super::*;

const NAMES: [&str; 4] = ["a.json", "b.json", "c.json", "d.json"];

/// What one version changes: a file, and whether its new content is bad.
type Changes = BTreeMap<usize, (u32, bool)>;

fn versions() -> impl Strategy<Value = Vec<Changes>> {
    let change = (0..NAMES.len(), (any::<u32>(), prop::bool::weighted(0.2)));
    prop::collection::vec(prop::collection::btree_map(change.clone().prop_map(|(file, _)| file), change.prop_map(|(_, to)| to), 1..3), 1..7)
}

fn text((number, bad): (u32, bool)) -> String {
    if bad { format!("[{number}") } else { number.to_string() }
}

/// The content that is left when all verdicts have fallen, the oldest first.
fn expected(start: &BTreeMap<String, String>, versions: &[Changes]) -> BTreeMap<String, String> {
    let mut content = start.clone();
    let mut left: Vec<&Changes> = versions.iter().collect();
    while !left.is_empty() {
        let version = left.remove(0);
        if version.values().any(|(_, bad)| *bad) {
            let mut gone: Vec<usize> = version.keys().copied().collect();
            left.retain(|above| {
                let overlaps = above.keys().any(|file| gone.contains(file));
                if overlaps {
                    gone.extend(above.keys().copied());
                }
                !overlaps
            });
        } else {
            content.extend(version.iter().map(|(file, to)| (NAMES[*file].to_owned(), text(*to))));
        }
    }
    content
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn what_is_left_is_what_never_overlapped_with_bad_data(versions in versions(), sealed in any::<prop::sample::Index>(), crash: bool) {
        let mut daemon = Daemon::new(&waiting());
        for name in NAMES {
            daemon.put(name, "0");
        }
        daemon.commit();
        let start = daemon.staging();
        // The last one may stay open while the verdicts fall.
        let open = sealed.index(2) == 0;
        for (at, changes) in versions.iter().enumerate() {
            for (file, to) in changes {
                daemon.put(NAMES[*file], &text(*to));
            }
            if at + 1 < versions.len() || !open {
                daemon.ask(Request::Commit { message: None });
            }
        }
        if crash {
            daemon = daemon.crash(JSON);
        } else {
            daemon.configure(JSON);
        }
        while !daemon.status().checking.is_empty() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        daemon.ask(Request::Commit { message: None });
        while !daemon.status().checking.is_empty() || !daemon.status().flagged.is_empty() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let expected = expected(&start, &versions);
        prop_assert_eq!(daemon.staging(), expected.clone());
        prop_assert_eq!(daemon.production(), expected);
    }
}
