//! What systemd is told, if it started us: `Type=notify` in the unit. Nobody listening is the usual case, and no matter.

use std::path::Path;

use sd_notify::NotifyState;

/// The mount answers.
pub(super) fn ready(mount_point: &Path) {
    // One line each: a path must not say anything in our name.
    let shown = mount_point.display().to_string().replace(char::is_control, "?");
    tell(&[NotifyState::Ready, NotifyState::Status(&format!("mounted at {shown}"))]);
}

/// The daemon is ending.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("unmounting")]);
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd was not told");
    }
}
