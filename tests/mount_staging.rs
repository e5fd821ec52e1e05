//! The read-write side of a mount, through the kernel, with passthrough and without.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod mount;
#[path = "common/raw.rs"]
mod raw;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use mount::{Dataset, Mounted, must_mount};
use nix::fcntl::{FallocateFlags, OFlag, RenameFlags};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags};
use nix::sys::time::{TimeSpec, TimeValLike};
use nix::unistd::{LinkatFlags, Whence};
use shadowfs::ids::Ino;
use shadowfs::version::staging::StagingEvent;

/// One version: `small`, a `large` file of its own object, `dir/deep`. Staging stands on it.
fn one_version(passthrough: bool) -> Mounted {
    let (dir, store) = mount::store();
    let mut dataset = Dataset::new(&store);
    dataset.file(Ino::ROOT, "small", b"small\n");
    dataset.file(Ino::ROOT, "large", &vec![7; 3 << 20]);
    let sub = dataset.dir(Ino::ROOT, "dir");
    dataset.file(sub, "deep", b"deep\n");
    let t0 = dataset.seal();
    Mounted::with_passthrough((dir, store), &[t0], 0, passthrough)
}

/// Runs `test` with passthrough and without, where both can be had.
fn each(test: impl Fn(&Mounted)) {
    must_mount();
    let m = one_version(false);
    test(&m);
    drop(m);
    let (_dir, store) = mount::store();
    if shadowfs::fs::passthrough_works(&store) {
        test(&one_version(true));
    }
}

#[test]
fn files_are_made_written_and_read_back() {
    each(|m| {
        for size in [0, 1, 4095, 4096, 70_000, 200_000, 5 << 20] {
            let path = m.at(&format!("staging/f{size}"));
            let bytes: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            fs::write(&path, &bytes).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().len(), size);
            assert_eq!(fs::read(&path).unwrap(), bytes, "{size}");
            // Again, over itself and shorter.
            fs::write(&path, b"short").unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"short");
        }
        assert_eq!(m.read("staging/small"), "small\n");
        OpenOptions::new().append(true).open(m.at("staging/small")).unwrap().write_all(b"more\n").unwrap();
        assert_eq!(m.read("staging/small"), "small\nmore\n");
        assert_eq!(m.read("production/small"), "small\n");
        assert!(m.events.try_iter().any(|event| matches!(event, StagingEvent::Opened { .. })));
    });
}

#[test]
fn part_of_a_large_sealed_file_is_overwritten() {
    each(|m| {
        let path = m.at("staging/large");
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        file.write_all_at(&[9; 10_000], 1 << 20).unwrap();
        let mut expected = vec![7; 3 << 20];
        expected[1 << 20..(1 << 20) + 10_000].fill(9);
        let mut seen = Vec::new();
        (&file).read_to_end(&mut seen).unwrap();
        assert!(seen == expected);
        drop(file);
        assert!(fs::read(&path).unwrap() == expected);
        assert!(fs::read(m.at("production/large")).unwrap() == vec![7; 3 << 20]);
        File::options().write(true).open(&path).unwrap().set_len(100).unwrap();
        assert_eq!(fs::read(&path).unwrap(), vec![7; 100]);
        File::options().write(true).open(&path).unwrap().set_len(300).unwrap();
        assert_eq!(fs::read(&path).unwrap()[100..], [0; 200]);
    });
}

#[test]
fn names_behave_as_on_ext4() {
    each(|m| {
        let at = |path: &str| m.at("staging").join(path);
        fs::create_dir_all(at("a/b")).unwrap();
        fs::write(at("a/b/c"), "c").unwrap();
        assert_eq!(fs::create_dir(at("a")).unwrap_err().raw_os_error(), Some(libc::EEXIST));
        assert_eq!(fs::remove_dir(at("a")).unwrap_err().raw_os_error(), Some(libc::ENOTEMPTY));
        fs::rename(at("a/b/c"), at("c")).unwrap();
        assert_eq!(fs::read_to_string(at("c")).unwrap(), "c");
        assert!(!at("a/b/c").exists());
        fs::hard_link(at("c"), at("d")).unwrap();
        assert_eq!(fs::metadata(at("c")).unwrap().nlink(), 2);
        assert_eq!(fs::metadata(at("c")).unwrap().ino(), fs::metadata(at("d")).unwrap().ino());
        fs::remove_file(at("c")).unwrap();
        assert_eq!(fs::metadata(at("d")).unwrap().nlink(), 1);
        std::os::unix::fs::symlink("d", at("link")).unwrap();
        assert_eq!(fs::read_to_string(at("link")).unwrap(), "c");
        assert_eq!(fs::read_link(at("link")).unwrap(), Path::new("d"));
        nix::sys::stat::mknod(&at("fifo"), SFlag::S_IFIFO, Mode::from_bits_truncate(0o600), 0).unwrap();
        assert!(fs::metadata(at("fifo")).unwrap().file_type().is_fifo());
        let exchange = |a: &str, b: &str, flags| nix::fcntl::renameat2(nix::fcntl::AT_FDCWD, &at(a), nix::fcntl::AT_FDCWD, &at(b), flags);
        exchange("d", "small", RenameFlags::RENAME_EXCHANGE).unwrap();
        assert_eq!(fs::read_to_string(at("small")).unwrap(), "c");
        assert_eq!(exchange("d", "small", RenameFlags::RENAME_NOREPLACE), Err(nix::Error::EEXIST));
        fs::rename(at("a"), at("dir2")).unwrap();
        assert!(at("dir2/b").is_dir() && !at("a").exists());
        let name = "n".repeat(255);
        fs::write(at(&name), "").unwrap();
        assert_eq!(fs::write(at(&"n".repeat(256)), "").unwrap_err().raw_os_error(), Some(libc::ENAMETOOLONG));
        fs::remove_dir_all(at("dir2")).unwrap();
        assert_eq!(fs::remove_file(at("nothing")).unwrap_err().raw_os_error(), Some(libc::ENOENT));
        assert_eq!(fs::rename(at("d"), m.at("versions/d")).unwrap_err().raw_os_error(), Some(libc::EXDEV));
    });
}

#[test]
fn attributes_are_kept_to_the_nanosecond() {
    each(|m| {
        let path = m.at("staging/small");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
        for nanos in [1_234_567_890_123_456_789_i64, -1_500_000_000, -750_000_000, 0, 4_294_967_296_000_000_001] {
            let at = TimeSpec::nanoseconds(nanos);
            nix::sys::stat::utimensat(nix::fcntl::AT_FDCWD, &path, &at, &at, UtimensatFlags::FollowSymlink).unwrap();
            let seen = fs::metadata(&path).unwrap();
            assert_eq!((seen.mtime(), seen.mtime_nsec()), (at.tv_sec(), at.tv_nsec()), "{nanos}");
        }
        let before = fs::metadata(m.at("staging")).unwrap();
        fs::create_dir(m.at("staging/sub")).unwrap();
        let after = fs::metadata(m.at("staging")).unwrap();
        assert_eq!(after.nlink(), before.nlink() + 1);
        assert!((after.mtime(), after.mtime_nsec()) > (before.mtime(), before.mtime_nsec()));
    });
}

#[test]
fn an_unlinked_open_file_stays_usable() {
    each(|m| {
        for name in ["staging/new", "staging/large", "staging/small"] {
            let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(m.at(name)).unwrap();
            fs::remove_file(m.at(name)).unwrap();
            file.write_all(b"still here").unwrap();
            file.seek(SeekFrom::Start(0)).unwrap();
            let mut bytes = [0; 10];
            file.read_exact(&mut bytes).unwrap();
            assert_eq!(&bytes, b"still here", "{name}");
            assert_eq!(file.metadata().unwrap().nlink(), 0);
            assert!(!m.at(name).exists());
        }
    });
}

#[test]
fn ranges_are_punched_copied_and_sought() {
    each(|m| {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(m.at("staging/holes")).unwrap();
        file.write_all_at(&[1; 1 << 20], 0).unwrap();
        nix::fcntl::fallocate(file.as_fd(), FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE, 4096, 8192)
            .unwrap();
        let mut bytes = vec![0; 16384];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(
            bytes[..4096].iter().all(|b| *b == 1) && bytes[4096..12288].iter().all(|b| *b == 0) && bytes[12288..].iter().all(|b| *b == 1)
        );
        let to = File::create(m.at("staging/copy")).unwrap();
        let (mut from_at, mut to_at) = (0, 0);
        while nix::fcntl::copy_file_range(&file, Some(&mut from_at), &to, Some(&mut to_at), 1 << 20).unwrap() > 0 {}
        drop(to);
        assert!(fs::read(m.at("staging/copy")).unwrap() == fs::read(m.at("staging/holes")).unwrap());
        file.set_len(0).unwrap();
        file.write_all_at(b"end", 1 << 20).unwrap();
        let hole = nix::unistd::lseek(&file, 0, Whence::SeekHole).unwrap();
        assert_eq!(hole, 0);
        assert!(nix::unistd::lseek(&file, 0, Whence::SeekData).unwrap() > 0);
        assert_eq!(nix::unistd::lseek(&file, 2 << 20, Whence::SeekData), Err(nix::Error::ENXIO));
    });
}

#[test]
fn a_length_set_while_the_kernel_has_the_host_file_open_is_the_length() {
    each(|m| {
        let path = m.at("staging/lengths");
        fs::write(&path, vec![1; 300_000]).unwrap();
        // Opened again, where the kernel can: in passthrough.
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        for size in [700_000_u64, 100_000, 500_000, 0, 9_000] {
            file.set_len(size).unwrap();
            assert_eq!(file.metadata().unwrap().len(), size);
            assert_eq!((&file).seek(SeekFrom::End(0)).unwrap(), size);
            assert_eq!(fs::metadata(&path).unwrap().len(), size);
            assert_eq!(fs::read(&path).unwrap().len() as u64, size);
        }
        nix::fcntl::fallocate(&file, FallocateFlags::empty(), 9_000, 200_000).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 209_000);
        let mut truncated = OpenOptions::new().write(true).read(true).truncate(true).open(&path).unwrap();
        truncated.set_len(5_000).unwrap();
        assert_eq!(truncated.metadata().unwrap().len(), 5_000);
        let mut bytes = Vec::new();
        truncated.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, vec![0; 5_000]);
    });
}

#[test]
fn special_opens() {
    each(|m| {
        let at = |name: &str| m.at("staging").join(name);
        let exclusive = |name: &str| OpenOptions::new().write(true).create_new(true).open(at(name));
        exclusive("x").unwrap();
        assert_eq!(exclusive("x").unwrap_err().raw_os_error(), Some(libc::EEXIST));
        fs::write(at("x"), "12345").unwrap();
        // One opens for reading, another truncates and writes.
        let mut reader = File::open(at("x")).unwrap();
        fs::write(at("x"), "abc").unwrap();
        let mut seen = String::new();
        reader.read_to_string(&mut seen).unwrap();
        assert_eq!(seen, "abc");
        let mut both = OpenOptions::new().append(true).read(true).open(at("x")).unwrap();
        both.write_all(b"def").unwrap();
        both.seek(SeekFrom::Start(0)).unwrap();
        seen.clear();
        both.read_to_string(&mut seen).unwrap();
        assert_eq!(seen, "abcdef");
        let direct = OpenOptions::new().read(true).write(true).custom_flags(libc::O_SYNC).open(at("x")).unwrap();
        direct.write_all_at(b"ABC", 0).unwrap();
        direct.sync_all().unwrap();
        assert_eq!(fs::read_to_string(at("x")).unwrap(), "ABCdef");
        File::open(m.at("staging")).unwrap().sync_all().unwrap();
    });
}

#[test]
fn a_directory_is_listed_whole_while_it_changes() {
    each(|m| {
        fs::create_dir(m.at("staging/many")).unwrap();
        for n in 0..1000 {
            fs::write(m.at(&format!("staging/many/{n:04}")), "").unwrap();
        }
        assert_eq!(m.names("staging/many").len(), 1000);
        for (n, entry) in fs::read_dir(m.at("staging/many")).unwrap().enumerate() {
            let path = entry.unwrap().path();
            if n % 2 == 0 {
                fs::remove_file(path).unwrap();
            }
        }
        assert_eq!(m.names("staging/many").len(), 500);
        for entry in fs::read_dir(m.at("staging/many")).unwrap() {
            assert_eq!(entry.unwrap().metadata().unwrap().len(), 0);
        }
    });
}

#[test]
fn rolled_back_changes_are_gone_from_the_kernel_too() {
    each(|m| {
        let at = |name: &str| m.at("staging").join(name);
        fs::write(at("small"), "changed").unwrap();
        fs::write(at("new"), "new").unwrap();
        fs::remove_file(at("dir/deep")).unwrap();
        fs::create_dir(at("newdir")).unwrap();
        assert!(!at("dir/deep").exists());
        let writer = OpenOptions::new().write(true).open(at("small")).unwrap();
        let mapped = File::open(at("new")).unwrap();
        let (version, invalidations) = m.staging.discard().unwrap();
        assert!(version.is_some());
        m.mounts.notifier().invalidate_staging(&invalidations);
        assert_eq!(m.read("staging/small"), "small\n");
        assert_eq!(m.read("staging/dir/deep"), "deep\n");
        assert!(!at("new").exists() && !at("newdir").exists());
        assert_eq!(m.names("staging"), ["dir", "large", "small"]);
        // A write in passthrough asks nobody; the sync tells at the latest, and so would the close.
        let told = writer.write_at(b"x", 0).and_then(|_| writer.sync_all());
        assert_eq!(told.unwrap_err().raw_os_error(), Some(libc::ESTALE));
        assert_eq!(m.read("staging/small"), "small\n");
        drop((writer, mapped));
    });
}

#[test]
fn own_attributes_tell_where_staging_stands() {
    each(|m| {
        let get = |path: &str, name: &str| mount::getxattr(&m.at(path), name);
        assert_eq!(get("staging", "user.shadowfs.version").as_deref(), Ok("t0"));
        assert_eq!(get("staging/small", "user.shadowfs.state").as_deref(), Ok("valid"));
        assert_eq!(get("staging", "user.shadowfs.store").unwrap(), m.store.path().to_str().unwrap());
        fs::write(m.at("staging/new"), "").unwrap();
        assert_eq!(get("staging/new", "user.shadowfs.state").as_deref(), Ok("open"));
        assert_eq!(mount::listxattr(&m.at("staging/new")), "");
        assert_eq!(mount::setxattr(&m.at("staging/new"), "user.colour", "red"), Ok(()));
        assert_eq!(get("staging/new", "user.colour").as_deref(), Ok("red"));
        assert_eq!(mount::setxattr(&m.at("staging/new"), "user.shadowfs.version", "t9"), Err(libc::EPERM));
        assert_eq!(mount::listxattr(&m.at("staging/new")), "user.colour\0");
    });
}

#[test]
fn temporary_files_without_names_are_refused_as_the_kernel_does() {
    each(|m| {
        let opened = nix::fcntl::open(&m.at("staging"), OFlag::O_TMPFILE | OFlag::O_RDWR, Mode::from_bits_truncate(0o600));
        assert_eq!(opened.map(drop), Err(nix::Error::EOPNOTSUPP));
        let _ = LinkatFlags::empty();
    });
}

#[test]
fn a_write_by_another_user_takes_set_id_bits_away() {
    use std::os::unix::process::CommandExt;
    if !mount::is_root() {
        return;
    }
    each(|m| {
        for size in [10, 3 << 20] {
            let path = m.at("staging/tool");
            fs::write(&path, vec![1; size]).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o6777)).unwrap();
            OpenOptions::new().append(true).open(&path).unwrap().write_all(b"x").unwrap();
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o6777, "root may keep them");
            let mut other = std::process::Command::new("sh");
            assert!(other.args(["-c", "echo x >>\"$0\""]).arg(&path).uid(65534).gid(65534).status().unwrap().success());
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o777);
        }
        fs::set_permissions(m.at("staging/small"), fs::Permissions::from_mode(0o600)).unwrap();
        let mut other = std::process::Command::new("cat");
        let denied = other.arg(m.at("staging/small")).uid(65534).gid(65534).stderr(std::process::Stdio::null()).status().unwrap();
        assert!(!denied.success());
    });
}

/// ext4's answers, by mode and group of the file, to a write by one who is no member of any group but 1000.
#[test]
fn bits_that_are_set_while_a_writer_is_open_go_with_its_next_write() {
    if !mount::is_root() {
        return;
    }
    each(|m| {
        for (size, mode, gid, left) in [10, 300_000].into_iter().flat_map(|size| {
            let rows = [(0o6777, 0, 0o777), (0o6777, 1000, 0o777), (0o2745, 0, 0o745), (0o2745, 1000, 0o2745), (0o4600, 0, 0o600)];
            rows.map(|(mode, gid, left)| (size, mode, gid, left))
        }) {
            let path = m.at("staging/armed");
            fs::write(&path, vec![1; size]).unwrap();
            // Opened before it has the bits: in passthrough, where the kernel can.
            let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
            nix::unistd::chown(&path, None, Some(gid.into())).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            file.write_all_at(b"root", 0).unwrap();
            assert_eq!(file.metadata().unwrap().mode() & 0o7777, mode, "root may keep them");
            let capabilities = [0, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            rustix::fs::setxattr(&path, "security.capability", &capabilities, rustix::fs::XattrFlags::empty()).unwrap();
            file.write_all_at(b"root", 0).unwrap();
            assert_eq!(mount::listxattr(&path), "", "capabilities go with any write");
            assert_eq!(file.metadata().unwrap().mode() & 0o7777, mode, "and root keeps the bits all the same");
            raw::acting_as(1000, || file.write_all_at(b"user", 0)).unwrap();
            assert_eq!(file.metadata().unwrap().mode() & 0o7777, left, "{size} bytes, {mode:o} of {gid}");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o2745)).unwrap();
            raw::acting_with(1000, &[5, gid], || file.write_all_at(b"user", 0)).unwrap();
            assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0o2745, "{size} bytes, a further group is {gid}");
            drop(file);
            fs::remove_file(&path).unwrap();
        }
    });
}

#[test]
fn what_is_stored_through_a_mapping_keeps_its_place_in_a_file_opened_for_appending() {
    each(|m| {
        for (name, size) in [("new", 5_000_usize), ("large", 3 << 20)] {
            let path = m.at("staging").join(name);
            let file = OpenOptions::new().read(true).append(true).create(true).open(&path).unwrap();
            if name == "new" {
                (&file).write_all(&vec![7; size]).unwrap();
            }
            let mut mapping = raw::Mapping::new(&file, size, true, true).unwrap();
            mapping.bytes_mut()[3..6].copy_from_slice(b"map");
            mapping.sync().unwrap();
            drop(mapping);
            (&file).write_all(b"end").unwrap();
            drop(file);
            let found = fs::read(&path).unwrap();
            assert_eq!((found.len(), &found[..8], &found[size..]), (size + 3, &b"\x07\x07\x07map\x07\x07"[..], &b"end"[..]), "{name}");
        }
    });
}

#[test]
fn a_listing_that_began_before_a_change_hides_it_from_nobody() {
    each(|m| {
        let dir = m.at("staging/listed");
        fs::create_dir(&dir).unwrap();
        let names = |of: &mut nix::dir::Dir| {
            let names = of.iter().map(|entry| entry.unwrap().file_name().to_str().unwrap().to_owned());
            let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
            names.sort();
            names
        };
        let open = || nix::dir::Dir::open(&dir, OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty()).unwrap();
        fs::write(dir.join("a"), "").unwrap();
        let mut early = open();
        fs::write(dir.join("b"), "").unwrap();
        // The kernel knows the time of the directory with `b`.
        fs::metadata(&dir).unwrap();
        assert_eq!(names(&mut early), ["a", "b"], "what came before the first read is listed, as on ext4");
        assert_eq!(names(&mut open()), ["a", "b"]);
        // Every `iter` ends with rewinddir.
        fs::write(dir.join("c"), "").unwrap();
        fs::remove_file(dir.join("a")).unwrap();
        fs::metadata(&dir).unwrap();
        assert_eq!(names(&mut early), ["b", "c"], "rewound");
        assert_eq!(names(&mut open()), ["b", "c"]);
        fs::remove_dir_all(&dir).unwrap();
    });
}

#[test]
fn what_becomes_privileged_while_it_is_open_can_be_opened_again() {
    if !mount::is_root() {
        return;
    }
    each(|m| {
        let capabilities = [0, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        for size in [0, 10, 300_000] {
            let path = m.at("staging/armed");
            let mut first = File::create(&path).unwrap();
            first.write_all(&vec![1; size]).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o4755)).unwrap();
            rustix::fs::setxattr(&path, "security.capability", &capabilities, rustix::fs::XattrFlags::empty()).unwrap();
            let again = OpenOptions::new().read(true).write(true).open(&path).unwrap();
            assert_eq!(mount::listxattr(&path), "security.capability\0", "an open changes nothing");
            raw::acting_as(1000, || again.write_all_at(b"user", 0)).unwrap();
            assert_eq!((mount::listxattr(&path).as_str(), again.metadata().unwrap().mode() & 0o7777), ("", 0o755), "{size} bytes");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o4755)).unwrap();
            let cut = OpenOptions::new().write(true).truncate(true).open(&path).unwrap();
            assert_eq!((cut.metadata().unwrap().len(), first.metadata().unwrap().len()), (0, 0));
            fs::remove_file(&path).unwrap();
        }
    });
}
