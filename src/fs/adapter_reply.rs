//! What both sessions do alike with fuser's replies.

use std::cell::RefCell;

use fuser::{Errno, InitFlags, KernelConfig, ReplyXattr};

/// The most that one write or read carries: the kernel's own limit (256 pages).
const MAX_WRITE: u32 = 1 << 20;

/// Asks for what the kernel has of `wanted`, and for large requests.
pub(super) fn negotiate(config: &mut KernelConfig, wanted: &[InitFlags]) {
    for flag in wanted {
        // A kernel without it does the same with more requests.
        let _ = config.add_capabilities(*flag);
    }
    let _ = config.set_max_write(MAX_WRITE);
    // Background requests are read-ahead and direct I/O: a device queue's worth.
    let _ = config.set_max_background(64);
}

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Lends a buffer of `len` bytes with anything in it. A new one for each read would cost more than to fill it: it is large enough to be
/// mapped anew each time, and its pages come one by one.
pub(super) fn with_buffer(len: u32, read: impl FnOnce(&mut [u8])) {
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.len() < len {
            buffer.resize(len, 0);
        }
        read(&mut buffer[..len]);
    });
}

/// Answers a request for a value: with its size if `size` is 0, else with the value if it fits.
pub(super) fn sized(reply: ReplyXattr, size: u32, value: &[u8]) {
    match u32::try_from(value.len()) {
        Ok(len) if size == 0 => reply.size(len),
        Ok(len) if len <= size => reply.data(value),
        _ => reply.error(Errno::ERANGE),
    }
}

/// Names as listxattr(2) wants them.
pub(super) fn joined(names: &[Vec<u8>]) -> Vec<u8> {
    names.iter().flat_map(|name| name.iter().copied().chain([0])).collect()
}
