//! Signals as messages.

use std::io;

use crossbeam::channel::Sender;
use nix::sys::signal::{SigSet, Signal};

use super::message::Message;

fn ours() -> SigSet {
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect()
}

/// Blocks them for this thread and those that it starts, and SIGIO with them, which would end the process: whoever opens a host file while
/// a lease is asked for (`sys::lease`) has it sent. Children would inherit that: see `sys::with_all_signals`.
pub(super) fn block() -> io::Result<()> {
    let mut blocked = ours();
    blocked.add(Signal::SIGIO);
    Ok(blocked.thread_block()?)
}

/// Starts the thread that waits for them. It ends with the process.
pub(super) fn listen(messages: Sender<Message>) -> io::Result<()> {
    let wait = move || {
        while let Ok(signal) = ours().wait() {
            tracing::info!("{signal}");
            let message = if signal == Signal::SIGHUP { Message::ConfigTouched } else { Message::Stop };
            if messages.send(message).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(wait).map(drop)
}
