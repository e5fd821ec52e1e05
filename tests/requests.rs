//! How many requests of the kernel each operation costs, in the two sessions that root has: the figure that no machine's noise changes.
//!
//! What is asserted is all that the daemon is asked, so a request more or less is a change to look at.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::{Sandbox, eventually};
use shadowfs::control::client;
use shadowfs::control::protocol::{Reply, Request};

/// Nothing seals, nothing is promoted: nothing but the operation makes requests.
const CALM: &str = "[staging]\nsettle = \"1h\"\n[promotion]\nmode = \"manual\"\n";

type Counts = BTreeMap<String, u64>;

/// Asked in this process: a command would inherit the open files, and close them.
fn counts(sandbox: &Sandbox, session: &str) -> Counts {
    match client::connect(&sandbox.store()).unwrap().ask(&Request::Status).unwrap() {
        Reply::Status(mut status) => status.requests.remove(session).unwrap_or_default(),
        other => panic!("{other:?}"),
    }
}

fn since(before: &Counts, now: &Counts) -> Counts {
    let grown = now.iter().map(|(op, n)| (op.clone(), n - before.get(op).copied().unwrap_or(0)));
    grown.filter(|(_, n)| *n > 0).collect()
}

/// Runs an operation and holds what it costs against `expected`, as "lookup 1, create 1".
#[track_caller]
fn costs(sandbox: &Sandbox, session: &str, what: &str, expected: &str, operation: impl FnOnce()) {
    // The kernel sends the release of a file when it likes: those of what came before must be over.
    let mut before = counts(sandbox, session);
    eventually("requests of the operation before", || {
        let now = counts(sandbox, session);
        now == std::mem::replace(&mut before, now.clone())
    });
    operation();
    let expected: Counts = expected
        .split(", ")
        .filter(|part| !part.is_empty())
        .map(|part| part.split_once(' ').map(|(op, n)| (op.to_owned(), n.parse().unwrap())).unwrap())
        .collect();
    let releases = |counts: &Counts| counts.get("release").copied();
    let mut found = since(&before, &counts(sandbox, session));
    if releases(&found) < releases(&expected) {
        eventually("the release", || {
            found = since(&before, &counts(sandbox, session));
            releases(&found) >= releases(&expected)
        });
    }
    assert_eq!(found, expected, "{what}");
}

/// A child that another test starts has this process's files until it runs a program of its own, and its closes are requests, too: so the
/// tests run one after the other.
static ONE_BY_ONE: Mutex<()> = Mutex::new(());

fn mounted() -> Option<(MutexGuard<'static, ()>, Sandbox)> {
    let turn = ONE_BY_ONE.lock().unwrap_or_else(PoisonError::into_inner);
    // Without root both sides are one session, which can't do without opens.
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    let sandbox = Sandbox::new();
    let source = sandbox.path("source");
    fs::create_dir_all(source.join("dir")).unwrap();
    for n in 0..10 {
        fs::write(source.join(format!("dir/small{n}")), format!("small file {n}\n")).unwrap();
    }
    fs::write(source.join("large"), vec![7; 1 << 20]).unwrap();
    sandbox.init_from(&source, CALM).mount();
    Some((turn, sandbox))
}

fn walk(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
    entries.map(|entry| if entry.metadata().unwrap().is_dir() { walk(&entry.path()) } else { 1 }).sum()
}

#[test]
fn views_that_were_seen_cost_nothing() {
    let Some((_turn, sandbox)) = mounted() else { return };
    let dir = sandbox.production();
    let read_all = || {
        for n in 0..10 {
            assert_eq!(fs::read_to_string(dir.join(format!("dir/small{n}"))).unwrap(), format!("small file {n}\n"));
        }
    };
    walk(&dir);
    read_all();
    costs(&sandbox, "views", "open, read and close ten files again", "", read_all);
    costs(&sandbox, "views", "walk and stat again", "", || assert_eq!(walk(&dir), 11));
    costs(&sandbox, "views", "a name that is not there, again", "lookup 1", || assert!(!dir.join("dir/none").exists()));
    costs(&sandbox, "views", "the same name once more", "", || assert!(!dir.join("dir/none").exists()));
    assert_eq!(fs::read(dir.join("large")).unwrap().len(), 1 << 20);
    costs(&sandbox, "views", "1 MiB again", "", || assert_eq!(fs::read(dir.join("large")).unwrap().len(), 1 << 20));
}

#[test]
fn views_seen_for_the_first_time_cost_a_lookup_and_a_read_a_file() {
    let Some((_turn, sandbox)) = mounted() else { return };
    let dir = sandbox.production();
    fs::metadata(dir.join("dir")).unwrap();
    // The first open and the first opendir of a mount learn that there is no need of them.
    fs::read(dir.join("dir/small0")).unwrap();
    costs(&sandbox, "views", "one small file, cold", "lookup 1, read 1", || {
        fs::read(dir.join("dir/small1")).unwrap();
    });
}

#[test]
fn staging_costs_what_the_kernel_makes_of_each_call() {
    let Some((_turn, sandbox)) = mounted() else { return };
    let dir = sandbox.staging().join("dir");
    let file = |name: &str| dir.join(name);
    // The first change opens the version, and what is looked up here is known from then on.
    fs::write(file("first"), "first").unwrap();
    fs::remove_file(file("first")).unwrap();
    walk(&sandbox.staging());
    fs::write(file("second"), "second").unwrap();
    let costs = |what: &str, expected: &str, operation: &dyn Fn()| costs(&sandbox, "staging", what, expected, operation);

    costs("create, write 4 KiB, close", CREATE_IN_PASSTHROUGH, &|| fs::write(file("new"), [1; 4096]).unwrap());
    // It is learnt from the releases, which are seen to when nobody asks.
    let mut n = 0;
    eventually("the habit", || {
        n += 1;
        let before = counts(&sandbox, "staging");
        fs::write(file(&format!("habit{n}")), [1; 4096]).unwrap();
        since(&before, &counts(&sandbox, "staging")).contains_key("write")
    });
    costs("the same by a program that makes small files", CREATE, &|| fs::write(file("newer"), [1; 4096]).unwrap());
    costs("stat of a name in a directory that has changed", "getattr 1", &|| assert!(file("small1").metadata().unwrap().is_file()));
    costs("stat of what was seen", "", &|| assert!(file("small1").metadata().unwrap().is_file()));
    costs("open, read, close", "open 1, read 1, release 1", &|| drop(fs::read(file("small1")).unwrap()));
    costs("rename", "lookup 1, rename 1", &|| fs::rename(file("new"), file("renamed")).unwrap());
    costs("unlink", "getattr 1, unlink 1", &|| fs::remove_file(file("renamed")).unwrap());
    costs("mkdir", "lookup 1, getattr 1, mkdir 1", &|| fs::create_dir(file("sub")).unwrap());
    costs("rmdir", "getattr 1, rmdir 1", &|| fs::remove_dir(file("sub")).unwrap());
    costs("chmod in a directory that has changed", "getattr 1, setattr 1", &|| {
        fs::set_permissions(file("small2"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    });
}

#[test]
fn writing_into_a_large_file_costs_nothing_in_passthrough() {
    let Some((_turn, sandbox)) = mounted() else { return };
    if sandbox.status()["mode"] != "passthrough" {
        return;
    }
    let large = OpenOptions::new().read(true).write(true).open(sandbox.staging().join("large")).unwrap();
    large.write_all_at(&[1; 4096], 0).unwrap();
    let file = sandbox.staging().join("of-this-version");
    fs::write(&file, vec![2; 1 << 20]).unwrap();
    let own = OpenOptions::new().read(true).write(true).open(&file).unwrap();
    own.write_all_at(&[3; 4096], 8192).unwrap();
    let again = |file: &File| {
        for n in 0..10 {
            file.write_all_at(&[n; 4096], u64::from(n) * 40_960).unwrap();
            let mut bytes = [0; 4096];
            file.read_exact_at(&mut bytes, u64::from(n) * 40_960).unwrap();
            assert_eq!(bytes, [n; 4096]);
        }
    };
    costs(&sandbox, "staging", "ten writes of 4 KiB, and reads, in a file of this version", "", || again(&own));
}

/// The lookup of the name, the attributes of the directory (which the one before has changed), the file, and its bytes.
const CREATE: &str = "lookup 1, getattr 1, create 1, write 1, flush 1, release 1";
/// The write itself is the kernel's, which asks for security.capability before the first.
const CREATE_IN_PASSTHROUGH: &str = "lookup 1, getattr 1, create 1, getxattr 1, flush 1, release 1";
