//! The pool: worker threads that take jobs from one channel.

use std::sync::Arc;
use std::thread;

use crossbeam::channel::{Receiver, Sender, unbounded};

use super::Attempted;
use super::builtin::{self, BuiltinJob};
use super::cancel::Cancel;
use super::worker::{self, CommandJob};
use crate::clock::Clock;

/// What a worker does.
#[derive(Debug)]
pub enum Work {
    /// Runs a command.
    Command(Box<CommandJob>),
    /// Runs a check of our own.
    Builtin(Box<BuiltinJob>),
}

/// One attempt.
#[derive(Debug)]
pub struct Job<K> {
    /// What the dispatcher knows it by.
    pub key: K,
    /// What to do.
    pub work: Work,
    /// Stops it.
    pub cancel: Cancel,
}

/// Worker threads. The dispatcher submits no more jobs than it wants to run at once, so the channel never holds many.
#[derive(Debug)]
pub struct Pool<K> {
    jobs: Sender<Job<K>>,
    queue: Receiver<Job<K>>,
    done: Sender<(K, Attempted)>,
    clock: Arc<dyn Clock>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl<K: Send + 'static> Pool<K> {
    /// A pool without workers yet; how attempts ended goes to `done`.
    #[must_use]
    pub fn new(done: Sender<(K, Attempted)>, clock: Arc<dyn Clock>) -> Self {
        let (jobs, queue) = unbounded();
        Self { jobs, queue, done, clock, threads: Vec::new() }
    }

    /// Has at least `count` workers from here on.
    pub fn grow(&mut self, count: usize) -> std::io::Result<()> {
        while self.threads.len() < count {
            let (queue, done, clock) = (self.queue.clone(), self.done.clone(), Arc::clone(&self.clock));
            let work = move || {
                for job in queue {
                    let attempted = attempt(job.work, &job.cancel, clock.as_ref());
                    if done.send((job.key, attempted)).is_err() {
                        break;
                    }
                }
            };
            self.threads.push(thread::Builder::new().name(format!("check-{}", self.threads.len())).spawn(work)?);
        }
        Ok(())
    }

    /// Hands a job to the next free worker.
    pub fn submit(&self, job: Job<K>) {
        // The receiver lives as long as the pool.
        let _ = self.jobs.send(job);
    }

    /// Ends the workers; who wants it soon cancels their jobs before.
    pub fn stop(self) {
        let Self { jobs, queue, threads, .. } = self;
        drop((jobs, queue));
        for thread in threads {
            let _ = thread.join();
        }
    }
}

fn attempt(work: Work, cancel: &Cancel, clock: &dyn Clock) -> Attempted {
    let (started_at, started) = (clock.now(), clock.instant());
    let (outcome, metrics) = match work {
        Work::Command(job) => worker::attempt(&job, cancel),
        Work::Builtin(job) => builtin::attempt(&job, cancel, clock),
    };
    Attempted { started_at, took: clock.instant().saturating_duration_since(started), outcome, metrics }
}
