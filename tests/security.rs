//! Who may do what: docs/security.md, sentence by sentence, from the outside.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::user::as_user;
use common::{Ran, Sandbox, eventually};

const CONFIG: &str = "[staging]\nsettle = \"1h\"\n[promotion]\nrequire_free = \"0%\"\nwindow = \"50ms\"\n[checks]\nbackoff = \"1ms\"\n";

fn mounted(config: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.init(&format!("{CONFIG}{config}")).mount();
    sandbox
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Everything below a directory.
fn below(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { [vec![path.clone()], below(&path)].concat() } else { vec![path] }).collect()
}

/// Another user.
fn nobody(program: impl AsRef<OsStr>) -> Command {
    assert!(nix::unistd::geteuid().is_root(), "tests of what other users may do need root");
    let mut command = Command::new("setpriv");
    command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]).arg(program.as_ref());
    command
}

#[test]
fn a_store_and_its_socket_are_their_owners_alone() {
    let sandbox = mounted("");
    fs::write(sandbox.staging().join("large"), vec![7; 300 << 10]).unwrap();
    fs::write(sandbox.staging().join("small"), "small").unwrap();
    sandbox.on(["commit", "--wait"]).expect(0);
    let store = sandbox.store();
    assert_eq!(mode(&store), 0o700);
    let socket = store.join("control.sock");
    assert!(fs::metadata(&socket).unwrap().file_type().is_socket());
    assert_eq!(mode(&socket), 0o600);
    for path in below(&store.join("objects")).into_iter().chain(below(&store.join("packs"))).chain([store.join("catalog.redb")]) {
        assert_eq!(mode(&path) & 0o077, 0, "{}", path.display());
    }
}

#[test]
fn the_daemon_hears_root_and_its_own_user_only() {
    let sandbox = mounted("");
    // As far open as a careless administrator could leave it.
    for (path, mode) in [("", 0o755), ("store", 0o755), ("store/format", 0o644), ("store/control.sock", 0o666)] {
        set_mode(&sandbox.path(path), mode);
    }
    let binary = sandbox.path("shadowfs");
    fs::copy(env!("CARGO_BIN_EXE_shadowfs"), &binary).unwrap();
    set_mode(&binary, 0o755);
    for verb in [&["status"][..], &["unmount"], &["rollback", "t0"]] {
        let ran: Ran = nobody(&binary).arg("-C").arg(sandbox.store()).args(verb).output().unwrap().into();
        let ran = ran.expect(1);
        assert!(ran.stderr.ends_with("may not command this daemon; only its user and root may\n"), "{ran:?}");
    }
    sandbox.on(["status"]).expect(0);
}

#[test]
fn others_see_the_mount_only_with_allow_other_and_then_within_its_modes() {
    let sandbox = mounted("");
    set_mode(&sandbox.path(""), 0o755);
    let reads = |path: &Path| nobody("cat").arg(path).output().unwrap();
    fs::write(sandbox.staging().join("for all"), "for all").unwrap();
    assert!(!reads(&sandbox.staging().join("for all")).status.success());
    sandbox.unmount();
    sandbox.run([Path::new("mount"), Path::new("--allow-other"), &sandbox.store(), &sandbox.mnt()]).expect(0);
    let staging = sandbox.staging();
    fs::write(staging.join("secret"), "secret").unwrap();
    set_mode(&staging.join("secret"), 0o600);
    sandbox.on(["commit", "--wait"]).expect(0);
    sandbox.on(["wait", "--promoted"]).expect(0);
    for view in ["staging", "production", "versions/t1"] {
        let view = sandbox.mnt().join(view);
        assert_eq!(reads(&view.join("for all")).stdout, b"for all", "{}", view.display());
        assert!(!reads(&view.join("secret")).status.success(), "{}", view.display());
    }
    for act in [vec!["touch", "new"], vec!["rm", "-f", "for all"], vec!["chmod", "0", "for all"]] {
        assert!(!nobody(act[0]).args(&act[1..]).current_dir(&staging).status().unwrap().success(), "{act:?}");
    }
}

/// The options of the mounts at and below the sandbox: a mount's own, then the filesystem's.
fn mount_options(sandbox: &Sandbox) -> Vec<(String, String, String)> {
    let dir = sandbox.path("").canonicalize().unwrap();
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let fields = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let ours = fields.filter(|fields| Path::new(fields[4]).starts_with(&dir));
    ours.map(|fields| (fields[4].to_owned(), fields[5].to_owned(), (*fields.last().unwrap()).to_owned())).collect()
}

fn assert_options(sandbox: &Sandbox, mounts: usize) {
    let options = mount_options(sandbox);
    assert_eq!(options.len(), mounts, "{options:?}");
    for (point, own, of_all) in options {
        for flag in ["nosuid", "nodev"] {
            assert!(own.split(',').any(|have| have == flag), "{point}: {own}");
        }
        assert!(of_all.split(',').any(|have| have == "default_permissions"), "{point}: {of_all}");
    }
}

#[test]
fn every_mount_is_nosuid_nodev_with_the_kernels_permissions() {
    for more in [&[][..], &["--allow-other"]] {
        let sandbox = Sandbox::new();
        sandbox.init(CONFIG);
        fs::create_dir(sandbox.path("production")).unwrap();
        let mut mount = sandbox.command(["mount", "--production"]);
        let ran: Ran = mount.arg(sandbox.path("production")).args(more).arg(sandbox.store()).arg(sandbox.mnt()).output().unwrap().into();
        ran.expect(0);
        eventually("production is mounted", || mount_options(&sandbox).len() == 3);
        assert_options(&sandbox, 3);
        let read_only = mount_options(&sandbox).into_iter().filter(|(_, own, _)| own.split(',').any(|flag| flag == "ro"));
        assert_eq!(read_only.count(), 2, "all but staging");
    }
}

#[test]
fn a_users_mount_is_no_less_closed() {
    as_user("a_users_mount_is_no_less_closed", || assert_options(&mounted(""), 1));
}

#[test]
fn a_store_with_links_in_it_or_of_another_is_not_served() {
    let sandbox = Sandbox::new();
    sandbox.init(CONFIG);
    let (store, aside) = (sandbox.store().canonicalize().unwrap(), sandbox.path("aside"));
    let refused = |code: i32, line: String| {
        let ran = sandbox.run([Path::new("mount"), &sandbox.store(), &sandbox.mnt()]).expect(code);
        assert_eq!(ran.stderr, format!("shadowfs: {line}\n"));
    };
    for name in ["objects", "packs", "journal", "logs", "catalog.redb"] {
        fs::rename(store.join(name), &aside).unwrap();
        symlink(&aside, store.join(name)).unwrap();
        let line = "is a symbolic link; a store's files lie in the store: put the real one there";
        refused(1, format!("{} {line}", store.join(name).display()));
        fs::remove_file(store.join(name)).unwrap();
        fs::rename(&aside, store.join(name)).unwrap();
    }
    set_mode(&store, 0o777);
    refused(1, format!("{0} has mode 0777: others may have put anything into it; if not, run: chmod 700 {0}", store.display()));
    set_mode(&store, 0o755);
    sandbox.mount().unmount();
    assert_eq!(mode(&store), 0o700);
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(&store, Some(4711), None).unwrap();
        let line = "belongs to uid 4711, this is uid 0; mount it as its owner, or make it yours: chown -R 0";
        refused(1, format!("{0} {line} {0}", store.display()));
        std::os::unix::fs::chown(&store, Some(0), None).unwrap();
    }
    sandbox.mount();
}

#[test]
fn what_a_check_prints_goes_through_no_link() {
    let sandbox = mounted("[[check]]\nname = \"says\"\nrun = [\"echo\", \"said\"]\n");
    let victim = sandbox.path("victim");
    fs::write(&victim, "precious").unwrap();
    fs::create_dir_all(sandbox.store().join("logs/t1")).unwrap();
    symlink(&victim, sandbox.store().join("logs/t1/says.1.log")).unwrap();
    symlink(sandbox.path(""), sandbox.store().join("logs/t2")).unwrap();
    for name in ["a", "b"] {
        fs::write(sandbox.staging().join(name), name).unwrap();
        sandbox.on(["commit"]).expect(0);
    }
    eventually("somebody is told", || !sandbox.status()["warnings"].as_array().unwrap().is_empty());
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    assert!(!sandbox.path("says.1.log").exists());
}

#[test]
fn a_check_gets_nothing_that_is_the_daemons() {
    let sandbox = Sandbox::new();
    let look = "for fd in /proc/self/fd/*; do echo fd ${fd##*/} $(readlink $fd); done; echo limit $(ulimit -Sn); env";
    sandbox.init(&format!("{CONFIG}[[check]]\nname = \"look\"\nrun = [\"sh\", \"-c\", \"{look}\"]\n"));
    let mut mount = sandbox.command(["mount"]);
    mount.arg(sandbox.store()).arg(sandbox.mnt()).env("NOTIFY_SOCKET", sandbox.path("nobody-listens"));
    Ran::from(mount.output().unwrap()).expect(0);
    fs::write(sandbox.staging().join("a"), "a").unwrap();
    sandbox.on(["commit", "--wait"]).expect(0);
    let log = fs::read_to_string(sandbox.mnt().join("lineage/t1/checks/look.1.log")).unwrap();
    let fds: Vec<&str> = log.lines().filter(|line| line.starts_with("fd ")).collect();
    assert!(fds.len() >= 3, "{log}");
    for fd in fds {
        let (number, leads) = fd["fd ".len()..].split_once(' ').unwrap_or((&fd["fd ".len()..], ""));
        let own = number.parse::<u32>().unwrap() <= 2 && (leads == "/dev/null" || leads.starts_with("pipe:"));
        assert!(own || leads.is_empty() || leads.starts_with("/proc/"), "{fd} of:\n{log}");
    }
    assert!(!log.contains("NOTIFY_SOCKET"), "{log}");
    let soft = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap().0;
    assert!(log.lines().any(|line| line == format!("limit {soft}")), "{soft}: {log}");
}

/// Names that a shell, a terminal, a page or a line would take for something else.
const HOSTILE: &[&[u8]] = &[
    b"$(touch pwned)",
    b"`touch pwned`",
    b"; touch pwned #",
    b"-rf",
    b"two\nlines",
    b"\x1b]0;title\x07\x1b[31mred",
    b"<script>alert(1)<script>",
    b"\"quoted' \\",
    b"\xff\xfe not utf-8",
    b"tab\there",
];

#[test]
fn hostile_names_reach_no_shell_no_terminal_and_no_page() {
    let list = "[[check]]\nname = \"list\"\nrun = [\"sh\", \"-c\", \"cat < \\\"$SHADOWFS_CHANGES\\\"; exit 1\"]\n";
    let sandbox = mounted(list);
    let staging = sandbox.staging();
    for name in HOSTILE {
        fs::write(staging.join(OsStr::from_bytes(name)), name).unwrap();
        symlink(OsStr::from_bytes(name), staging.join(OsStr::from_bytes(&[name, &b".link"[..]].concat()))).unwrap();
    }
    let message = "m $(touch pwned) \x1b[31m <script>";
    sandbox.on(["commit", "-m", message, "--wait"]).expect(3);
    let printed: Vec<Ran> = [
        &["status"][..],
        &["log"],
        &["show", "t1"],
        &["diff", "t0", "t1"],
        &["diff", "t0", "t1", "--stat"],
        &["diff", "t0", "t1", "--name-status"],
        &["ghosts"],
        &["lineage", "t1"],
        &["lineage", "--format", "html"],
        &["lineage", "--format", "dot"],
        &["lineage", "--format", "openlineage"],
        &["lineage", "--json"],
    ]
    .into_iter()
    .map(|words| sandbox.on(words).expect(0))
    .collect();
    for ran in &printed {
        assert!(!ran.stdout.contains(['\x1b', '\x07']) && ran.stderr.is_empty(), "{ran:?}");
    }
    let page = &printed[8].stdout;
    assert!(page.contains("&lt;script&gt;") && !page.to_lowercase().contains("<script"), "{page}");
    let log = fs::read(sandbox.mnt().join("lineage/t1/checks/list.1.log")).unwrap();
    let lines = log.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count();
    assert_eq!(lines, 2 * HOSTILE.len(), "one path a line: {}", log.escape_ascii());
    let places = ["", "store", "mnt/staging", "mnt/ghosts/t1"].map(|place| sandbox.path(place).join("pwned"));
    assert!(places.iter().all(|place| !place.exists()) && !Path::new("/pwned").exists() && !Path::new("pwned").exists());
}

#[test]
fn peers_that_say_nothing_or_too_much_keep_nobody_out() {
    let sandbox = mounted("");
    let connect = || UnixStream::connect(sandbox.store().join("control.sock")).unwrap();
    let idle: Vec<UnixStream> = (0..100).map(|_| connect()).collect();
    eventually("no room is left", || sandbox.on(["status"]).code == 75);
    drop(idle);
    eventually("there is room again", || sandbox.on(["status"]).code == 0);
    // A length of all that there is, garbage, and half a frame.
    for bytes in [&[0xff; 4][..], &[5, 0, 0, 0, 9, 9, 9, 9, 9], &[200, 0, 0, 0, 1]] {
        connect().write_all(bytes).unwrap();
    }
    sandbox.on(["status"]).expect(0);
}

/// Memory that the daemon takes now, in KiB.
fn resident(sandbox: &Sandbox) -> u64 {
    let pid = sandbox.status()["pid"].as_u64().unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_writer_who_opens_all_there_is_gets_an_error_and_the_daemon_goes_on() {
    let sandbox = Sandbox::new();
    sandbox.init(CONFIG);
    let mut mount = Command::new("sh");
    mount.args(["-c", "ulimit -n 256; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_shadowfs"), "mount"]);
    Ran::from(mount.arg(sandbox.store()).arg(sandbox.mnt()).output().unwrap()).expect(0);
    let staging = sandbox.staging();
    let (mut open, mut refused) = (Vec::new(), None);
    for number in 0..400 {
        let made = fs::File::create(staging.join(number.to_string())).and_then(|mut file| file.write_all(&[7; 200 << 10]).map(|()| file));
        match made {
            Ok(file) => open.push(file),
            Err(error) => {
                refused = error.raw_os_error();
                break;
            }
        }
    }
    if sandbox.status()["mode"] == "passthrough" {
        assert_eq!(refused, Some(libc::ENFILE), "after {}", open.len());
    }
    sandbox.on(["status"]).expect(0);
    assert!(fs::read_dir(&staging).unwrap().count() >= open.len());
    let files = open.len();
    drop(open);
    // The kernel tells of a close a moment later.
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", sandbox.status()["pid"])).unwrap().count();
    eventually("the files are closed", || descriptors() < 100);
    // More files than descriptors in one version.
    for number in 400..800 {
        fs::write(staging.join(number.to_string()), vec![number as u8; 200 << 10]).unwrap();
    }
    sandbox.on(["commit", "--wait"]).expect(0);
    assert!(fs::read_dir(sandbox.mnt().join("versions/t1")).unwrap().count() >= files + 400);
}

#[test]
fn attributes_names_and_holes_without_measure_are_borne() {
    let sandbox = mounted("");
    let staging = sandbox.staging();
    let file = staging.join("n".repeat(255));
    fs::write(&file, "x").unwrap();
    // Attributes until it is enough, or refused.
    let mut set = 0;
    for number in 0..20_000u32 {
        let name = format!("user.{number:0>240}");
        match rustix::fs::setxattr(&file, name, &number.to_le_bytes(), rustix::fs::XattrFlags::empty()) {
            Ok(()) => set += 1,
            Err(errno) => {
                assert!([libc::ENOSPC, libc::E2BIG].contains(&errno.raw_os_error()), "{errno}");
                break;
            }
        }
    }
    assert!(set > 10);
    let hole = fs::File::create(staging.join("hole")).unwrap();
    hole.set_len((16 << 40) - 4096).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&hole, b"end", (16 << 40) - 8192).unwrap();
    drop(hole);
    sandbox.on(["commit", "--wait"]).expect(0);
    assert_eq!(fs::metadata(sandbox.mnt().join("versions/t1/hole")).unwrap().size(), (16 << 40) - 4096);
    assert!(resident(&sandbox) < 400 << 10, "{} KiB", resident(&sandbox));
}

#[test]
fn a_tree_deeper_than_any_path_is_sealed_and_checked() {
    let sandbox = mounted("[[check]]\nname = \"names\"\nbuiltin = \"utf8\"\npaths = [\"**/*.txt\"]\n");
    // From directory to directory: no call takes a path that long.
    use nix::fcntl::{OFlag, open, openat};
    use nix::sys::stat::{Mode, mkdirat};
    let (name, into) = ("0".repeat(200), OFlag::O_DIRECTORY | OFlag::O_RDONLY);
    let mut dir = open(&sandbox.staging(), into, Mode::empty()).unwrap();
    for _ in 0..1500 {
        mkdirat(&dir, name.as_str(), Mode::S_IRWXU).unwrap();
        dir = openat(&dir, name.as_str(), into, Mode::empty()).unwrap();
    }
    let bad = openat(&dir, "bad.txt", OFlag::O_CREAT | OFlag::O_WRONLY, Mode::S_IRWXU).unwrap();
    fs::File::from(bad).write_all(b"\xff").unwrap();
    drop(dir);
    let ran = sandbox.on(["commit", "--wait"]).expect(3);
    assert!(ran.stderr.contains("names"), "{ran:?}");
    let changes = sandbox.on(["diff", "t0", "t1"]).expect(0).stdout;
    assert_eq!(changes.lines().count(), 1501);
    assert!(changes.contains("/bad.txt") && changes.lines().all(|line| line.len() < 5000), "{changes}");
    assert!(resident(&sandbox) < 400 << 10, "{} KiB", resident(&sandbox));
}
