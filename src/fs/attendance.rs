//! What the threads of a session do between an answer and the next request.
//!
//! A thread that sleeps in read(2) must be woken for each request, and it is woken on an idle processor: an interrupt from one
//! processor to another, and a processor's way out of its sleep, which cost more than most requests do. So for a moment after an
//! answer one thread asks the device again and again instead, as KVM does for processors that were halted
//! (Documentation/virt/kvm/halt-polling.rst), and only while requests come that fast. The kernel wakes whoever sleeps in read(2), also when
//! another thread would see the request first: so the others wait elsewhere meanwhile, and come back when the one is busy for long.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::wakeful::Wakeful;
use crate::clock::Clock;

/// How long a thread polls: somewhat more than a program takes from one call to its next. What follows later would hardly gain.
const WINDOW: Duration = Duration::from_micros(100);
/// Who polls and was not on a processor for so long has taken it from somebody.
const DESCHEDULED: Duration = Duration::from_micros(400);
/// After so many times without a request within the window nobody polls, until requests follow each other closely again.
const MISSES: u8 = 3;
/// How often a thread that waits looks whether it is needed, and does what could wait.
const TICK: Duration = Duration::from_millis(1);
/// So many things can wait until nobody asks; those beyond are done at once. More than come up within a tick.
const LATER: usize = 64;

type Job = Box<dyn FnOnce() + Send>;

/// The threads' order in one session.
#[derive(Debug)]
pub(super) struct Attendance(Option<Desk>);

struct Desk {
    device: File,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// A thread that waits is needed.
    needed: Condvar,
    /// With the time since when each waits. A leaf lock; the jobs run without it.
    later: Mutex<VecDeque<(Instant, Job)>>,
    wakeful: Wakeful,
}

#[derive(Debug)]
struct State {
    /// Threads in read(2), or on their way there.
    listening: usize,
    /// Threads that wait for being needed.
    waiting: usize,
    /// Waiting threads that are to listen now.
    called: usize,
    /// A thread asks the device again and again.
    polling: bool,
    /// Requests come so fast that polling is worth it.
    close: bool,
    misses: u8,
    /// Requests so far.
    begun: u64,
    /// The end of the last one.
    ended: Instant,
}

/// The time from a request to the answer. Drop it when all is done: then the thread sees to it that the next request is heard.
#[must_use]
pub(super) struct Turn<'a>(Option<&'a Desk>);

/// What a thread does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// It reads a request that is there, or soon.
    Answers,
    /// It sleeps in read(2) until there is one.
    Sleeps,
}

/// What the device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    Nothing,
    Request,
    /// The session is over.
    End,
}

impl Attendance {
    /// Threads simply read: on a single processor.
    pub(super) const fn plain() -> Self {
        Self(None)
    }

    /// For `threads` threads that read from `device`. On a single processor, where who polls keeps the others from asking, they simply read.
    /// `keep_awake`: processors that are idle meanwhile are to poll as well.
    pub(super) fn new(device: File, threads: usize, clock: Arc<dyn Clock>, keep_awake: bool) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        if processors == 1 {
            return Self::plain();
        }
        let wakeful = if keep_awake { Wakeful::during_series() } else { Wakeful::never() };
        Self(Some(Desk::new(device, threads, clock, wakeful)))
    }

    /// A request begins.
    pub(super) fn turn(&self) -> Turn<'_> {
        let Some(desk) = &self.0 else { return Turn(None) };
        desk.begin();
        Turn(Some(desk))
    }

    /// The request at hand may wait for the disk: somebody else is to listen meanwhile. `false`: there is nobody, or nobody knows.
    pub(super) fn make_way(&self) -> bool {
        let Some(desk) = &self.0 else { return false };
        let mut state = desk.state.lock();
        if state.listening > 0 || state.polling {
            return true;
        }
        let free = state.called < state.waiting;
        if free {
            state.called += 1;
            desk.needed.notify_one();
        }
        free
    }

    /// Does what nobody waits for once nobody asks, if requests come fast; else at once.
    pub(super) fn later(&self, job: impl FnOnce() + Send + 'static) {
        let Some(desk) = self.0.as_ref().filter(|desk| desk.state.lock().close) else { return job() };
        let mut later = desk.later.lock();
        later.push_back((desk.clock.instant(), Box::new(job)));
        let full = later.len() > LATER;
        drop(later);
        if full {
            desk.work_off(1);
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // A thread that panics never comes back.
        if let Some(desk) = self.0.filter(|_| !std::thread::panicking()) {
            desk.end();
        }
    }
}

impl Desk {
    fn new(device: File, threads: usize, clock: Arc<dyn Clock>, wakeful: Wakeful) -> Self {
        let ended = clock.instant();
        let state = State { listening: threads, waiting: 0, called: 0, polling: false, close: false, misses: 0, begun: 0, ended };
        Self { device, clock, state: Mutex::new(state), needed: Condvar::new(), later: Mutex::default(), wakeful }
    }

    fn begin(&self) {
        let mut state = self.state.lock();
        state.listening = state.listening.saturating_sub(1);
        state.begun += 1;
        if !state.close && self.clock.instant().saturating_duration_since(state.ended) < WINDOW {
            (state.close, state.misses) = (true, 0);
        }
        let close = state.close;
        drop(state);
        if close {
            self.wakeful.close_request();
        }
    }

    fn end(&self) {
        let now = self.clock.instant();
        // Who got the answer takes a moment to wake up: time for one thing. And nothing waits for ever.
        let oldest = self.later.lock().front().map(|(since, _)| *since);
        if oldest.is_some_and(|since| now.saturating_duration_since(since) >= 2 * TICK || self.hear() == Heard::Nothing) {
            self.work_off(1);
        }
        let mut state = self.state.lock();
        state.ended = self.clock.instant();
        let next = if !state.close {
            Next::Sleeps
        } else if state.listening == 0 && !state.polling {
            self.poll(&mut state)
        } else {
            // Whoever is with a request now polls afterwards: two that take turns would only have to be woken for it.
            loop {
                if let Some(next) = self.wait(&mut state) {
                    break next;
                }
            }
        };
        if next == Next::Sleeps {
            // Nobody knows for how long.
            MutexGuard::unlocked(&mut state, || {
                self.wakeful.pause();
                self.work_off(usize::MAX);
            });
        }
        state.listening += 1;
    }

    /// Waits for a while, and does what could wait. `None`: the thread is not needed. It is if somebody makes way; if no request was begun
    /// meanwhile, so that whoever should have heard them is busy, or sleeps, and this thread may as well; or if one is there and nobody listens.
    fn wait(&self, state: &mut MutexGuard<'_, State>) -> Option<Next> {
        if !state.close {
            return Some(Next::Sleeps);
        }
        let begun = state.begun;
        state.waiting += 1;
        let timed_out = self.needed.wait_for(state, TICK).timed_out();
        state.waiting -= 1;
        if state.called > 0 {
            state.called -= 1;
            return Some(Next::Answers);
        }
        if timed_out && state.begun == begun {
            return Some(Next::Sleeps);
        }
        if state.listening == 0 && !state.polling && self.hear() == Heard::Request {
            return Some(Next::Answers);
        }
        MutexGuard::unlocked(state, || self.work_off(LATER));
        None
    }

    /// Asks the device until it has something or the window is over.
    fn poll(&self, state: &mut MutexGuard<'_, State>) -> Next {
        state.polling = true;
        let (heard, descheduled) = MutexGuard::unlocked(state, || {
            let begun = self.clock.instant();
            let mut last = begun;
            loop {
                let (heard, now) = (self.hear(), self.clock.instant());
                let descheduled = now.saturating_duration_since(last) >= DESCHEDULED;
                if heard != Heard::Nothing || descheduled || now.saturating_duration_since(begun) >= WINDOW {
                    break (heard, descheduled);
                }
                last = now;
                std::hint::spin_loop();
            }
        });
        state.polling = false;
        state.misses = if heard == Heard::Request { 0 } else { state.misses + 1 };
        if descheduled || state.misses >= MISSES {
            state.close = false;
        }
        if heard == Heard::Request { Next::Answers } else { Next::Sleeps }
    }

    fn hear(&self) -> Heard {
        let mut device = [PollFd::new(self.device.as_fd(), PollFlags::POLLIN)];
        match poll(&mut device, PollTimeout::ZERO) {
            Ok(0) => Heard::Nothing,
            Ok(_) if device[0].revents().is_some_and(|events| events.contains(PollFlags::POLLIN)) => Heard::Request,
            // read(2) says what it is.
            _ => Heard::End,
        }
    }

    fn work_off(&self, most: usize) {
        for _ in 0..most {
            let Some((_, job)) = self.later.lock().pop_front() else { return };
            job();
        }
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.work_off(usize::MAX);
    }
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").field("state", &self.state).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::{Read, Write};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::clock::{SystemClock, Timestamp};

    /// A session of threads as fuser makes them, on a pipe: a byte is a request.
    struct Session {
        attendance: Arc<Attendance>,
        requests: File,
        answers: Arc<AtomicUsize>,
        threads: Vec<std::thread::JoinHandle<()>>,
    }

    /// A clock that stands still unless it is asked: no window ends by itself.
    #[derive(Debug, Default)]
    struct Still(Mutex<Option<Instant>>);

    impl Clock for Still {
        fn now(&self) -> Timestamp {
            SystemClock.now()
        }
        fn instant(&self) -> Instant {
            *self.0.lock().get_or_insert_with(|| SystemClock.instant())
        }
    }

    fn pipe() -> (File, File) {
        let (read, write) = nix::unistd::pipe().unwrap();
        (File::from(read), File::from(write))
    }

    fn desk(device: &File, threads: usize, clock: Arc<dyn Clock>) -> Arc<Attendance> {
        Arc::new(Attendance(Some(Desk::new(device.try_clone().unwrap(), threads, clock, Wakeful::never()))))
    }

    impl Session {
        /// `answer` gets the byte.
        fn start(threads: usize, clock: Arc<dyn Clock>, answer: impl Fn(&Attendance, u8) + Send + Sync + 'static) -> Self {
            let (device, requests) = pipe();
            let (attendance, answers, answer) = (desk(&device, threads, clock), Arc::default(), Arc::new(answer));
            let thread = |_| {
                let (mut device, attendance, answer) = (device.try_clone().unwrap(), Arc::clone(&attendance), Arc::clone(&answer));
                let answers: Arc<AtomicUsize> = Arc::clone(&answers);
                std::thread::spawn(move || {
                    let mut request = [0];
                    while device.read(&mut request).unwrap() == 1 {
                        let _turn = attendance.turn();
                        answer(&attendance, request[0]);
                        answers.fetch_add(1, Ordering::AcqRel);
                    }
                })
            };
            let threads = (0..threads).map(thread).collect();
            Self { attendance, requests, answers, threads }
        }

        fn ask(&self, request: u8) {
            (&self.requests).write_all(&[request]).unwrap();
        }

        fn wait_for(&self, answers: usize) {
            self.until("an answer", |_| self.answers.load(Ordering::Acquire) >= answers);
        }

        fn until(&self, what: &str, holds: impl Fn(&State) -> bool) {
            let begun = SystemClock.instant();
            while !holds(&self.attendance.0.as_ref().unwrap().state.lock()) {
                assert!(begun.elapsed() < Duration::from_secs(60), "{what} does not come");
                std::thread::yield_now();
            }
        }

        fn end(self) {
            drop(self.requests);
            self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        }
    }

    #[test]
    fn every_request_is_answered_and_the_threads_go_back_to_sleep() {
        for threads in 1..=3 {
            let session = Session::start(threads, Arc::new(SystemClock), |_, _| {});
            for number in 1..=2_000 {
                session.ask(0);
                // One after the other as a program does, and in bursts.
                if number % 7 < 5 {
                    session.wait_for(number);
                }
            }
            session.wait_for(2_000);
            session.until("the end of polling", |state| state.listening == threads && !state.polling && state.waiting == 0);
            session.end();
        }
    }

    #[test]
    fn one_thread_polls_and_the_others_wait_until_they_are_needed() {
        // Time stands still: requests are close to each other, and the window is never over.
        let (go, gate) = crossbeam::channel::bounded::<()>(0);
        let session = Session::start(2, Arc::new(Still::default()), move |attendance, request| match request {
            1 => gate.recv().unwrap(),
            2 => {
                assert!(attendance.make_way());
                gate.recv().unwrap();
            }
            _ => {}
        });
        let mut asked = 0;
        for long in [1, 2] {
            for _ in 0..10 {
                session.ask(0);
                asked += 1;
                session.wait_for(asked);
            }
            // Whoever gets this is busy; the other hears what comes after it.
            session.ask(long);
            session.ask(0);
            session.wait_for(asked + 1);
            go.send(()).unwrap();
            asked += 2;
            session.wait_for(asked);
        }
        session.end();
    }

    #[test]
    fn what_can_wait_is_done_before_a_thread_sleeps_and_at_once_if_nobody_polls() {
        let done = Arc::new(AtomicUsize::new(0));
        let job = |attendance: &Attendance| {
            let done = Arc::clone(&done);
            attendance.later(move || {
                done.fetch_add(1, Ordering::AcqRel);
            });
        };
        let done = || done.load(Ordering::Acquire);
        job(&Attendance::plain());
        assert_eq!(done(), 1);
        let (device, mut requests) = pipe();
        let attendance = desk(&device, 1, Arc::new(Still::default()));
        let desk = attendance.0.as_ref().unwrap();
        job(&attendance);
        assert_eq!(done(), 2, "the requests are far from each other");
        // The first request of a session counts as close to its begin.
        let turn = attendance.turn();
        for _ in 0..LATER {
            job(&attendance);
        }
        assert_eq!(done(), 2);
        job(&attendance);
        assert_eq!(done(), 3, "there is no room for more");
        // A request is there: it goes first.
        requests.write_all(&[0]).unwrap();
        drop(turn);
        assert_eq!((done(), desk.state.lock().listening), (3, 1));
        // None is there: one thing is done while the asker wakes up, and the rest when the session ends.
        (&device).read_exact(&mut [0]).unwrap();
        let turn = attendance.turn();
        drop(requests);
        drop(turn);
        assert_eq!(done(), 3 + LATER);
        drop(attendance);
    }
}
