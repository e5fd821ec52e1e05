//! A way to stop an attempt that something else can be waited for with.

use crossbeam::channel::{Receiver, Sender, TryRecvError, bounded};

/// Held by who may stop the attempt: dropping it does.
#[derive(Debug)]
pub struct CancelHandle {
    _sender: Sender<()>,
}

/// Held by the attempt.
#[derive(Clone, Debug)]
pub struct Cancel {
    receiver: Receiver<()>,
}

impl Cancel {
    /// A pair.
    #[must_use]
    pub fn new() -> (CancelHandle, Self) {
        let (sender, receiver) = bounded(0);
        (CancelHandle { _sender: sender }, Self { receiver })
    }

    /// Whether the attempt is to stop.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.receiver.try_recv() == Err(TryRecvError::Disconnected)
    }

    /// Ready (with an error) as soon as the attempt is to stop.
    #[must_use]
    pub const fn receiver(&self) -> &Receiver<()> {
        &self.receiver
    }
}
