//! Keeps idle processors from halting while requests follow each other closely.
//!
//! Between a request and its answer the program's processor is idle, and so is the daemon's between an answer and the next request. A
//! processor that halts meanwhile is woken by an interrupt, and on a virtual machine by the host as well: that costs more than the rest of
//! a request. The kernel has an interface for programs that can't wait so long (Documentation/power/pm_qos_interface.rst): a number of
//! microseconds written to `/dev/cpu_dma_latency` holds as long as the file is open, and 0 lets idle processors poll instead.
//! That takes power and, where processors share a core, some of its speed: so it is asked for during a series of requests only, and on
//! machines of few processors, for all of them poll.

use std::fs::{File, OpenOptions};
use std::io::Write as _;

use nix::unistd::{SysconfVar, sysconf};
use parking_lot::Mutex;

const DEVICE: &str = "/dev/cpu_dma_latency";

/// So many close requests are a series: what is saved with them is more than asking takes.
const SERIES: u32 = 8;

/// On machines of more processors a program's next one is most often awake, and many would poll for two that need it.
const PROCESSORS: i64 = 8;

/// Microseconds. The second is what the kernel has when nobody asks (`PM_QOS_CPU_LATENCY_DEFAULT_VALUE`).
const NONE: i32 = 0;
const ANY: i32 = 2_000_000_000;

/// What one session asks of idle processors. It ends with this, or with the process.
#[derive(Debug)]
pub(super) struct Wakeful(Option<Mutex<Asked>>);

#[derive(Debug)]
struct Asked {
    device: File,
    series: u32,
    asked: bool,
}

impl Wakeful {
    /// Asks for nothing, ever.
    pub(super) const fn never() -> Self {
        Self(None)
    }

    /// Asks during series, if this process may (root) and the machine has few processors.
    pub(super) fn during_series() -> Self {
        // All that there are, not those that this process may use: it is asked of all.
        let online = sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten();
        if !online.is_some_and(few) {
            return Self::never();
        }
        match OpenOptions::new().write(true).open(DEVICE) {
            Ok(device) => Self::with(device),
            Err(error) => {
                tracing::debug!(%error, "{DEVICE}: idle processors may halt");
                Self::never()
            }
        }
    }

    fn with(device: File) -> Self {
        Self(Some(Mutex::new(Asked { device, series: 0, asked: false })))
    }

    /// One more request came close after an answer.
    pub(super) fn close_request(&self) {
        let Some(mut asked) = self.0.as_ref().map(Mutex::lock) else { return };
        asked.series = asked.series.saturating_add(1);
        if asked.series >= SERIES && !asked.asked {
            asked.ask(NONE);
        }
    }

    /// Nobody asked for a while.
    pub(super) fn pause(&self) {
        let Some(mut asked) = self.0.as_ref().map(Mutex::lock) else { return };
        asked.series = 0;
        if asked.asked {
            asked.ask(ANY);
        }
    }
}

const fn few(processors: i64) -> bool {
    processors <= PROCESSORS
}

impl Asked {
    fn ask(&mut self, latency: i32) {
        match self.device.write_all(&latency.to_ne_bytes()) {
            Ok(()) => self.asked = latency == NONE,
            Err(error) => tracing::debug!(%error, "{DEVICE}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::{Read as _, Seek as _, SeekFrom};

    use super::*;

    #[test]
    fn a_series_asks_once_and_its_end_takes_that_back() {
        let mut device = tempfile::tempfile().unwrap();
        let wakeful = Wakeful::with(device.try_clone().unwrap());
        let mut written = || {
            let mut bytes = Vec::new();
            device.seek(SeekFrom::Start(0)).unwrap();
            device.read_to_end(&mut bytes).unwrap();
            bytes.chunks_exact(4).map(|number| i32::from_ne_bytes(number.try_into().unwrap())).collect::<Vec<_>>()
        };
        for _ in 1..SERIES {
            wakeful.close_request();
        }
        wakeful.pause();
        assert!(written().is_empty(), "too few for a series");
        for _ in 0..3 * SERIES {
            wakeful.close_request();
        }
        assert_eq!(written(), [NONE]);
        wakeful.pause();
        wakeful.pause();
        assert_eq!(written(), [NONE, ANY]);
        (0..SERIES).for_each(|_| wakeful.close_request());
        assert_eq!(written(), [NONE, ANY, NONE]);
    }

    #[test]
    fn many_processors_are_left_alone() {
        assert!(few(1) && few(PROCESSORS) && !few(PROCESSORS + 1));
        // Does nothing, and is asked all the same.
        Wakeful::never().close_request();
        Wakeful::never().pause();
    }
}
