//! Programs run from staging: what ext4 refuses on a running program is refused here, and leaves it whole.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::process::Command;

use common::Sandbox;

#[test]
fn a_running_program_is_neither_written_nor_cut() {
    let sandbox = Sandbox::new();
    sandbox.init("[staging]\nsettle = \"20ms\"\n").mount();
    let whole = fs::read("/bin/sleep").unwrap();
    for round in 0..20 {
        let program = sandbox.staging().join(format!("program-{round}"));
        fs::write(&program, &whole).unwrap();
        fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
        let mut child = Command::new(&program).arg("60").spawn().unwrap();
        let refused = [
            OpenOptions::new().write(true).open(&program).err(),
            // What `OpenOptions::truncate` does not allow without `write`.
            OpenOptions::new().read(true).custom_flags(nix::libc::O_TRUNC).open(&program).err(),
            nix::unistd::truncate(&program, 0).err().map(Into::into),
        ];
        let alive = child.try_wait().unwrap().is_none();
        child.kill().unwrap();
        child.wait().unwrap();
        for error in refused {
            assert_eq!(error.and_then(|error| error.raw_os_error()), Some(nix::libc::ETXTBSY), "round {round}");
        }
        assert!(alive, "round {round}: the program died");
        assert!(fs::read(&program).unwrap() == whole, "round {round}: the program was changed");
    }
    sandbox.unmount();
}
