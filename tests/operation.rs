//! The daemon as a service: what systemd is told, how it ends, what it leaves, and how others are kept from its store.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::{Ran, Sandbox, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const CONFIG: &str = "[staging]\nsettle = \"1h\"\n[promotion]\nrequire_free = \"0%\"\nwindow = \"50ms\"\n";

/// What systemd would hear.
struct Supervisor(UnixDatagram);

impl Supervisor {
    fn new(sandbox: &Sandbox) -> Self {
        let socket = UnixDatagram::bind(sandbox.path("notify")).unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
        Self(socket)
    }

    fn hears(&self) -> String {
        let mut text = [0; 4096];
        let length = self.0.recv(&mut text).unwrap();
        String::from_utf8(text[..length].to_vec()).unwrap()
    }
}

/// The command of the unit that is shipped, for this sandbox: `$OPTIONS` is split at spaces, as systemd does.
fn unit(sandbox: &Sandbox, options: &str) -> Command {
    let file = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/systemd/shadowfs@.service")).unwrap();
    let has = |line: &str| assert!(file.lines().any(|have| have == line), "{line} is not in the unit");
    has("Type=notify");
    has("EnvironmentFile=/etc/shadowfs/%i.env");
    has("Restart=on-failure");
    let start = file.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/local/bin/shadowfs ")).unwrap();
    let mut words: Vec<String> = Vec::new();
    for word in start.split(' ') {
        match word {
            "$OPTIONS" => words.extend(options.split(' ').filter(|word| !word.is_empty()).map(str::to_owned)),
            "${STORE}" => words.push(sandbox.store().to_str().unwrap().to_owned()),
            "${MOUNT}" => words.push(sandbox.mnt().to_str().unwrap().to_owned()),
            word => words.push(word.to_owned()),
        }
    }
    let mut command = sandbox.command(words);
    command.env("NOTIFY_SOCKET", sandbox.path("notify")).stderr(Stdio::null());
    command
}

fn end(child: &mut Child, signal: Signal) -> i32 {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
    child.wait().unwrap().code().unwrap()
}

fn mounted_here(sandbox: &Sandbox) -> usize {
    let dir = sandbox.path("").canonicalize().unwrap();
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().filter(|line| line.split(' ').nth(4).is_some_and(|point| Path::new(point).starts_with(&dir))).count()
}

#[test]
fn the_unit_says_when_it_is_ready_and_when_it_ends() {
    let sandbox = Sandbox::new();
    sandbox.init(CONFIG);
    let supervisor = Supervisor::new(&sandbox);
    let mut daemon = unit(&sandbox, "-o allow_other").spawn().unwrap();
    let told = supervisor.hears();
    assert!(told.lines().any(|line| line == "READY=1"), "{told}");
    assert!(told.lines().any(|line| line == format!("STATUS=mounted at {}", sandbox.mnt().display())), "{told}");
    // Ready means that it answers.
    fs::write(sandbox.staging().join("a"), "a").unwrap();
    assert_eq!(sandbox.status()["pid"], daemon.id());
    assert_eq!(end(&mut daemon, Signal::SIGTERM), 0);
    let told = supervisor.hears();
    assert!(told.lines().any(|line| line == "STOPPING=1"), "{told}");
    assert_eq!(mounted_here(&sandbox), 0);
}

#[test]
fn sigterm_ends_in_order_with_files_open_and_checks_running() {
    let sandbox = Sandbox::new();
    let slow = "[[check]]\nname = \"slow\"\nrun = [\"sh\", \"-c\", \"echo $$ >>\\\"$PIDS\\\"; sleep 600\"]\n";
    sandbox.init(&format!("{CONFIG}{slow}"));
    let supervisor = Supervisor::new(&sandbox);
    let pids = sandbox.path("pids");
    let mut daemon = unit(&sandbox, "").env("PIDS", &pids).spawn().unwrap();
    supervisor.hears();
    fs::write(sandbox.staging().join("sealed"), "sealed").unwrap();
    sandbox.on(["commit"]).expect(0);
    eventually("the check runs", || fs::read_to_string(&pids).is_ok_and(|text| text.ends_with('\n')));
    let mut open = fs::File::options().create(true).append(true).read(true).open(sandbox.staging().join("open")).unwrap();
    open.write_all(b"written, not synced").unwrap();
    assert_eq!(end(&mut daemon, Signal::SIGTERM), 0);
    let check = Pid::from_raw(fs::read_to_string(&pids).unwrap().trim().parse().unwrap());
    eventually("the check is gone", || kill(check, None).is_err());
    assert_eq!(mounted_here(&sandbox), 0);
    // Whoever had it open is told, not deceived.
    let _ = open.read(&mut [0; 1]);
    drop(open);
    sandbox.configure(CONFIG);
    sandbox.mount();
    assert_eq!(fs::read_to_string(sandbox.staging().join("open")).unwrap(), "written, not synced");
    sandbox.on(["wait", "t1"]).expect(0);
    let log = sandbox.on(["lineage", "--json"]).expect(0).json();
    let mounts: Vec<_> = log.as_array().unwrap().iter().filter(|event| event["event"] == "mounted").collect();
    assert_eq!((mounts.len(), &mounts[1]["recovered"]), (2, &serde_json::json!(false)), "the first ended in order");
}

#[test]
fn a_service_that_was_killed_comes_back_over_its_corpse() {
    let sandbox = Sandbox::new();
    sandbox.init(CONFIG);
    let supervisor = Supervisor::new(&sandbox);
    let mut daemon = unit(&sandbox, "").spawn().unwrap();
    supervisor.hears();
    fs::write(sandbox.staging().join("a"), "a").unwrap();
    fs::File::open(sandbox.staging().join("a")).unwrap().sync_all().unwrap();
    kill(Pid::from_raw(i32::try_from(daemon.id()).unwrap()), Signal::SIGKILL).unwrap();
    daemon.wait().unwrap();
    assert!(fs::read_dir(sandbox.staging()).is_err(), "nobody answers");
    // As systemd restarts it: the same command again.
    let mut daemon = unit(&sandbox, "").spawn().unwrap();
    assert!(supervisor.hears().contains("READY=1"));
    assert_eq!(fs::read_to_string(sandbox.staging().join("a")).unwrap(), "a");
    assert_eq!(end(&mut daemon, Signal::SIGTERM), 0);
    assert_eq!(mounted_here(&sandbox), 0);
}

#[test]
fn a_start_that_fails_is_never_ready() {
    let sandbox = Sandbox::new();
    sandbox.init("[staging]\nsetle = \"1s\"\n");
    let supervisor = Supervisor::new(&sandbox);
    let ran: Ran = unit(&sandbox, "").stderr(Stdio::piped()).output().unwrap().into();
    ran.expect(2);
    supervisor.0.set_nonblocking(true).unwrap();
    assert!(supervisor.0.recv(&mut [0; 64]).is_err());
}

#[test]
fn a_second_daemon_is_refused_by_name() {
    let sandbox = Sandbox::new();
    sandbox.init(CONFIG).mount();
    fs::create_dir(sandbox.path("other")).unwrap();
    let mut second = sandbox.command(["mount", "--foreground"]);
    let ran: Ran = second.arg(sandbox.store()).arg(sandbox.path("other")).output().unwrap().into();
    let (store, mnt) = (sandbox.store().canonicalize().unwrap(), sandbox.mnt().canonicalize().unwrap());
    let line = format!("{}: mounted at {} already; unmount it first: shadowfs unmount {1}\n", store.display(), mnt.display());
    assert_eq!(ran.expect(4).stderr, format!("shadowfs: {line}"));
    // Another process that holds the store without serving it.
    sandbox.unmount();
    let held = fs::File::open(sandbox.store().join("format")).unwrap();
    held.lock().unwrap();
    let ran = sandbox.run([Path::new("mount"), &sandbox.store(), &sandbox.mnt()]).expect(4);
    assert_eq!(ran.stderr, format!("shadowfs: {} is in use by another shadowfs process\n", store.display()));
}

/// mount(8) and umount(8) with a line of fstab. In a mount namespace of its own, where /usr/sbin has the helper.
#[test]
fn a_line_of_fstab_mounts_it() {
    assert!(nix::unistd::geteuid().is_root(), "mount(8) with a new helper in /sbin needs root");
    let sandbox = Sandbox::new();
    sandbox.init(CONFIG);
    let work = sandbox.path("sbin");
    let fstab = sandbox.path("fstab");
    let options = "defaults,noauto,nofail,x-systemd.requires=network.target";
    fs::write(&fstab, format!("{} {} fuse.shadowfs {options} 0 0\n", sandbox.store().display(), sandbox.mnt().display())).unwrap();
    fs::create_dir(&work).unwrap();
    symlink(env!("CARGO_BIN_EXE_shadowfs"), sandbox.path("mount.fuse.shadowfs")).unwrap();
    let script = r#"
set -e
mount -t tmpfs tmpfs "$1" && mkdir "$1/upper" "$1/work" && sbin=$(readlink -f /sbin)
mount -t overlay overlay -o "lowerdir=$sbin,upperdir=$1/upper,workdir=$1/work" "$sbin"
cp -P "$2" "$sbin/"
mount -T "$3" "$4"
findmnt -n -o FSTYPE "$4"
echo x >"$4/staging/x"
ls "$4"
umount "$4/staging" && umount "$4"
"#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
    command.args([&work, &sandbox.path("mount.fuse.shadowfs"), &fstab, &sandbox.mnt()]);
    // A group of its own, so that nothing of the daemon's keeps this test's pipes.
    let ran: Ran = command.process_group(0).output().unwrap().into();
    let ran = ran.expect(0);
    assert_eq!(ran.stdout, "fuse.shadowfs\nghosts\nlineage\nproduction\nstaging\nversions\n");
    eventually("the daemon ends with its mount", || sandbox.on(["status"]).code == 5);
}

#[test]
fn a_program_that_outlives_its_daemon_changes_nothing_of_what_is_mounted_again() {
    for killed in [true, false] {
        let sandbox = Sandbox::new();
        sandbox.init(CONFIG).mount();
        let path = sandbox.staging().join("f");
        let file = fs::File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        file.write_all_at(&vec![b'a'; 300_000], 0).unwrap();
        file.sync_all().unwrap();
        if killed {
            sandbox.kill_daemon();
        } else {
            let pid = sandbox.status()["pid"].as_u64().unwrap();
            kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGTERM).unwrap();
            eventually("the daemon ends", || !Path::new(&format!("/proc/{pid}")).exists());
        }
        sandbox.mount();
        let whole = |path: &Path| fs::read(path).unwrap() == vec![b'a'; 300_000];
        // In passthrough the kernel asks nobody; otherwise there is nobody to write it.
        let wrote = |byte| file.write_all_at(&[byte; 5000], 0).map_err(|error| assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN)));
        let _ = wrote(b'b');
        assert!(whole(&path), "killed: {killed}");
        sandbox.on(["commit", "--wait"]).expect(0);
        sandbox.on(["wait", "t1", "--promoted"]).expect(0);
        let _ = wrote(b'c');
        for view in ["staging/f", "versions/latest/f", "production/f"] {
            assert!(whole(&sandbox.mnt().join(view)), "{view}, killed: {killed}");
        }
        sandbox.on(["scrub"]).expect(0);
        assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
    }
}

#[test]
fn what_was_synced_in_any_way_is_there_after_a_kill() {
    let sandbox = Sandbox::new();
    sandbox.init(CONFIG).mount();
    let at = |name: &str| sandbox.staging().join(name);
    let open = |name: &str, flags: i32| {
        let mut options = fs::File::options();
        options.read(true).write(true).create(true).custom_flags(flags).open(at(name)).unwrap()
    };
    for (name, flags) in [("O_SYNC", libc::O_SYNC), ("O_DSYNC", libc::O_DSYNC), ("fsync", 0), ("fdatasync", 0), ("beside", 0)] {
        let plain = open(name, if name == "beside" { 0 } else { flags });
        plain.write_all_at(b"synced", 0).unwrap();
        // In place, then longer.
        let durable = if name == "beside" { open(name, libc::O_DSYNC) } else { plain };
        for (place, bytes) in [(0, b"S"), (6, b"!")] {
            durable.write_all_at(bytes, place).unwrap();
            match name {
                "fsync" => durable.sync_all().unwrap(),
                "fdatasync" => durable.sync_data().unwrap(),
                _ => {}
            }
        }
    }
    // The kernel tells nobody of an msync.
    let mapped = open("mapped", 0);
    mapped.write_all_at(&[b'a'; 4096], 0).unwrap();
    mapped.sync_all().unwrap();
    let own_files =
        || fs::read_dir(sandbox.store().join("objects")).unwrap().flat_map(|dir| fs::read_dir(dir.unwrap().path()).unwrap()).count();
    let through = sandbox.status()["mode"] == "passthrough";
    eventually("the journal leads to the file itself", || !through || own_files() > 0);
    let code = "import mmap, sys; f = open(sys.argv[1], 'r+b'); m = mmap.mmap(f.fileno(), 0); m[0:4] = b'sync'; m.flush()";
    assert!(Command::new("python3").args(["-c", code]).arg(at("mapped")).status().unwrap().success());
    let large = open("grown", 0);
    large.write_all_at(b"small at first", 0).unwrap();
    large.sync_all().unwrap();
    large.write_all_at(&[b'x'; 400_000], 14).unwrap();
    large.sync_data().unwrap();
    sandbox.kill_daemon();
    sandbox.mount();
    for name in ["O_SYNC", "O_DSYNC", "fsync", "fdatasync", "beside"] {
        assert_eq!(fs::read(at(name)).unwrap(), b"Synced!", "{name}");
    }
    let grown = fs::read(at("grown")).unwrap();
    assert!(grown.len() == 400_014 && grown.starts_with(b"small at first") && grown[14..].iter().all(|byte| *byte == b'x'));
    sandbox.on(["commit", "--wait"]).expect(0);
    assert_eq!(fs::read(sandbox.mnt().join("versions/latest/beside")).unwrap(), b"Synced!");
}

/// Stores through a mapping after the file was closed, and in one case removed; prints what a read finds then.
const MAPPED: &str = r#"
import ctypes, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
for size in (4096, 100_000, 300_000):
    for removed in (False, True):
        name = f"{sys.argv[1]}/mapped-{size}-{removed}"
        fd = os.open(name, os.O_RDWR | os.O_CREAT, 0o644)
        os.write(fd, b"a" * size)
        at = libc.mmap(None, size, 3, 1, fd, 0)
        assert at != ctypes.c_void_p(-1).value
        os.close(fd)
        if removed:
            os.unlink(name)
        time.sleep(0.1)
        ctypes.memmove(at + size - 3, b"end", 3)
        found = ctypes.string_at(at, size)
        assert found == b"a" * (size - 3) + b"end", (size, removed)
        if not removed:
            with open(name, "rb") as f:
                assert f.read() == found, size
print("mapped")
"#;

#[test]
fn a_mapping_outlives_the_close_of_its_file() {
    let sandbox = Sandbox::new();
    sandbox.init(CONFIG).mount();
    let ran = Command::new("python3").args(["-c", MAPPED]).arg(sandbox.staging()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&ran.stdout), "mapped\n", "{:?}: {}", ran.status, String::from_utf8_lossy(&ran.stderr));
}
