//! Files that are closed while they are mapped, through a real mount: a mapping that may be written counts as an open file.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use common::{Sandbox, eventually};

const CONFIG: &str = "[staging]\nsettle = \"20ms\"\n[promotion]\nrequire_free = \"0%\"\nwindow = \"50ms\"\n";

/// One size that moves to memory when it is closed, and one that stays in its file.
const SIZES: [usize; 2] = [5_000, 300_000];

/// Does what it is told, line by line, and says when it is done. A mapping holds no descriptor, as Python's own would.
const PROGRAM: &str = r#"
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.msync.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
maps = []
def map(fd, protection):
    size = os.fstat(fd).st_size
    at = libc.mmap(None, size, protection, 1, fd, 0)
    assert at != ctypes.c_void_p(-1).value
    maps.append((at, size))
for line in sys.stdin:
    told = line.split()
    if told[0] == "create":
        fd = os.open(told[1], os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        os.write(fd, b"a" * int(told[2]))
    elif told[0] == "map":
        map(fd, 3)
    elif told[0] == "close":
        os.close(fd)
    elif told[0] == "read":
        reader = os.open(told[1], os.O_RDONLY)
        map(reader, 1)
        os.close(reader)
    elif told[0] == "store":
        ctypes.memmove(maps[0][0] + int(told[1]), told[2].encode(), len(told[2]))
    elif told[0] == "sync":
        assert libc.msync(maps[0][0], maps[0][1], 4) == 0
    elif told[0] == "unmap":
        at, size = maps.pop()
        assert libc.munmap(at, size) == 0
    print("done", flush=True)
"#;

struct Program {
    child: Child,
    told: ChildStdin,
    said: BufReader<ChildStdout>,
}

impl Program {
    fn start() -> Self {
        let mut command = Command::new("python3");
        let mut child = command.args(["-c", PROGRAM]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (told, said) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, told, said }
    }

    #[track_caller]
    fn does(&mut self, what: &str) -> &mut Self {
        writeln!(self.told, "{what}").unwrap();
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        assert_eq!(line, "done\n", "{what}");
        self
    }

    /// A new file, mapped and closed.
    fn maps(&mut self, path: &Path, size: usize) -> &mut Self {
        self.does(&format!("create {} {size}", path.display())).does("map").does("close")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Mounted {
    sandbox: Sandbox,
}

impl Mounted {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        sandbox.init(CONFIG).mount();
        Self { sandbox }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.sandbox.staging().join(name)
    }

    /// Whether the kernel writes by itself. Otherwise it tells of the last munmap(2), and a mapping is an open file like any other.
    fn is_in_passthrough(&self) -> bool {
        self.sandbox.status()["mode"] == "passthrough"
    }

    fn open(&self) -> serde_json::Value {
        self.sandbox.status()["open"].clone()
    }

    /// The version is open, and would have settled long ago if nobody had a file of it open.
    fn stays_open(&self, version: &str) {
        let mapped = u64::from(self.is_in_passthrough());
        eventually("the close has arrived", || self.open()["writers"] == 1 && self.open()["mapped"] == mapped);
        std::thread::sleep(std::time::Duration::from_millis(300));
        let open = self.open();
        assert_eq!((&open["version"], &open["writers"], &open["mapped"]), (&version.into(), &1.into(), &mapped.into()));
    }

    fn seals(&self, version: &str) {
        self.sandbox.on(["wait", version]).expect(0);
    }

    fn read(&self, version: &str, name: &str) -> Vec<u8> {
        fs::read(self.sandbox.mnt().join("versions").join(version).join(name)).unwrap()
    }
}

fn bytes(size: usize, stored: &[(usize, &str)]) -> Vec<u8> {
    let mut bytes = vec![b'a'; size];
    for (at, text) in stored {
        bytes[*at..*at + text.len()].copy_from_slice(text.as_bytes());
    }
    bytes
}

#[test]
fn a_mapping_keeps_its_version_open() {
    for size in SIZES {
        let mounted = Mounted::new();
        let mut program = Program::start();
        program.maps(&mounted.file("f"), size);
        mounted.stays_open("t1");
        program.does("store 1000 later").does("sync");
        assert_eq!(fs::read(mounted.file("f")).unwrap(), bytes(size, &[(1000, "later")]));
        mounted.stays_open("t1");
        // Page by page, and some of it again.
        program.does("store 4094 border").does("store 1002 st").does("unmap");
        mounted.seals("t1");
        assert_eq!(mounted.read("t1", "f"), bytes(size, &[(1000, "laste"), (1004, "r"), (4094, "border")]));
        assert_eq!(mounted.open(), serde_json::Value::Null);
        // Another one ends with its process.
        program.maps(&mounted.file("g"), size);
        mounted.stays_open("t2");
        program.does("store 0 end");
        drop(program);
        mounted.seals("t2");
        assert_eq!(mounted.read("t2", "g"), bytes(size, &[(0, "end")]));
        mounted.sandbox.on(["scrub"]).expect(0);
    }
}

#[test]
fn a_commit_takes_a_copy_and_what_is_stored_afterwards_is_in_the_next_version() {
    for size in SIZES {
        let mounted = Mounted::new();
        if !mounted.is_in_passthrough() {
            // What is stored through the page cache of the mount is not here before the kernel writes it back.
            return;
        }
        let mut program = Program::start();
        program.maps(&mounted.file("f"), size).does("store 100 before");
        mounted.stays_open("t1");
        mounted.sandbox.on(["commit", "--wait"]).expect(0);
        let before = bytes(size, &[(100, "before")]);
        assert_eq!(mounted.read("t1", "f"), before);
        program.does("store 100 behind");
        let behind = bytes(size, &[(100, "behind")]);
        assert_eq!(fs::read(mounted.file("f")).unwrap(), behind);
        mounted.stays_open("t2");
        program.does("unmap");
        mounted.seals("t2");
        assert_eq!((mounted.read("t1", "f"), mounted.read("t2", "f")), (before, behind));
        mounted.sandbox.on(["scrub"]).expect(0);
    }
}

#[test]
fn a_store_after_a_commit_is_not_lost_with_the_file_still_open() {
    let mounted = Mounted::new();
    if !mounted.is_in_passthrough() {
        return;
    }
    let mut program = Program::start();
    program.does(&format!("create {} 300000", mounted.file("f").display())).does("map").does("store 100 before");
    mounted.sandbox.on(["commit", "--wait"]).expect(0);
    // Into a page that was changed already.
    program.does("store 100 behind").does("unmap").does("close");
    mounted.seals("t2");
    assert_eq!(mounted.read("t1", "f"), bytes(300_000, &[(100, "before")]));
    assert_eq!(mounted.read("t2", "f"), bytes(300_000, &[(100, "behind")]));
}

#[test]
fn a_mapping_of_one_who_reads_keeps_nothing_open() {
    for size in SIZES {
        let mounted = Mounted::new();
        let (mut reader, mut writer) = (Program::start(), Program::start());
        writer.does(&format!("create {} {size}", mounted.file("f").display()));
        reader.does(&format!("read {}", mounted.file("f").display()));
        let handle = fs::File::open(mounted.file("f")).unwrap();
        writer.does("close");
        mounted.seals("t1");
        drop(handle);
        assert_eq!(mounted.read("t1", "f"), bytes(size, &[]));
        assert_eq!(mounted.open(), serde_json::Value::Null);
        mounted.sandbox.on(["scrub"]).expect(0);
    }
}

#[test]
fn who_opens_a_mapped_file_joins_it_and_who_removes_it_ends_the_wait() {
    let mounted = Mounted::new();
    let mut program = Program::start();
    program.maps(&mounted.file("f"), 300_000);
    mounted.stays_open("t1");
    let mut appender = fs::File::options().append(true).open(mounted.file("f")).unwrap();
    appender.write_all(b"more").unwrap();
    program.does("store 0 store");
    drop(appender);
    mounted.stays_open("t1");
    program.does("unmap");
    mounted.seals("t1");
    assert_eq!(mounted.read("t1", "f"), [bytes(300_000, &[(0, "store")]), b"more".to_vec()].concat());
    program.maps(&mounted.file("g"), 5_000);
    mounted.stays_open("t2");
    fs::write(mounted.file("h"), "h").unwrap();
    fs::remove_file(mounted.file("g")).unwrap();
    mounted.seals("t2");
    program.does("store 0 nowhere").does("unmap");
    mounted.sandbox.on(["scrub"]).expect(0);
}

#[test]
fn a_rollback_leaves_a_mapping_behind() {
    let mounted = Mounted::new();
    let mut program = Program::start();
    program.maps(&mounted.file("f"), 300_000);
    mounted.stays_open("t1");
    mounted.sandbox.on(["abort"]).expect(0);
    fs::write(mounted.file("f"), "another").unwrap();
    program.does("store 0 late");
    mounted.seals("t2");
    assert_eq!(mounted.read("t2", "f"), b"another");
    mounted.sandbox.on(["scrub"]).expect(0);
}

#[test]
fn an_unmount_is_refused_as_with_an_open_file_and_a_daemon_that_dies_leaves_the_mapping_nothing() {
    let mounted = Mounted::new();
    let mut program = Program::start();
    program.maps(&mounted.file("f"), 300_000);
    mounted.stays_open("t1");
    mounted.sandbox.run([Path::new("unmount"), &mounted.sandbox.mnt()]).expect(75);
    fs::File::open(mounted.file("f")).unwrap().sync_all().unwrap();
    mounted.sandbox.kill_daemon();
    mounted.sandbox.mount();
    program.does("store 0 late");
    mounted.seals("t1");
    program.does("store 0 later");
    assert_eq!(mounted.read("t1", "f"), bytes(300_000, &[]));
    mounted.sandbox.on(["scrub"]).expect(0);
    drop(program);
    mounted.sandbox.unmount();
}
