//! Threads for requests that wait for the disk (fsync, large copies), so that those that do not wait are answered meanwhile.

use std::io;
use std::thread;

use crossbeam::channel::{Sender, TrySendError, bounded};

type Job = Box<dyn FnOnce() + Send>;

/// Two threads and a short queue. The threads end when it is dropped.
#[derive(Debug)]
pub(super) struct SlowLane(Sender<Job>);

impl SlowLane {
    const THREADS: usize = 2;
    const QUEUE: usize = 64;

    /// Starts the threads.
    pub(super) fn start() -> io::Result<Self> {
        let (sender, jobs) = bounded::<Job>(Self::QUEUE);
        for n in 0..Self::THREADS {
            let jobs = jobs.clone();
            thread::Builder::new().name(format!("fuse-slow-{n}")).spawn(move || jobs.into_iter().for_each(|job| job()))?;
        }
        Ok(Self(sender))
    }

    /// Runs `job` there; here if the queue is full, which slows the askers down to what the disk can do.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) {
        if let Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) = self.0.try_send(Box::new(job)) {
            job();
        }
    }
}
