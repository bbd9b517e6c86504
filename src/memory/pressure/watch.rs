//! [`PressureWatch`]: a thread that sleeps until the kernel reports stalls.

use std::fs::File;
use std::io::{PipeReader, PipeWriter, Write};
use std::os::fd::AsRawFd;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{PressureLevel, sources};
use crate::error::{Error, Result};
use crate::host;
use crate::panics;

/// Stalls of this length within the window are reported, at most once per window.
const STALL_US: u32 = 200_000;
/// The least that the kernel takes from unprivileged processes.
const WINDOW_US: u32 = 2_000_000;
/// Without a report for this long, the pressure is over.
const CALM: Duration = Duration::from_secs(10);

/// Tells of changes of the level for as long as it lives.
pub struct PressureWatch {
    thread: Option<JoinHandle<()>>,
    /// Closing it ends the thread.
    stop: Option<PipeWriter>,
}

impl PressureWatch {
    /// Calls `changed` on a thread of its own. `Unsupported` if the kernel reports
    /// no pressure to this process.
    pub fn start(changed: impl Fn(PressureLevel) + Send + 'static) -> Result<PressureWatch> {
        let triggers = triggers()?;
        let failed = |error| Error::internal(format!("cannot watch memory pressure: {error}"));
        let (stopped, stop) = std::io::pipe().map_err(failed)?;
        let body = move || {
            // A panic in the host's function has nobody to go to.
            let _ = panics::catch(|| watch(&triggers, &stopped, changed));
        };
        host::watch_forks();
        let thread = host::with_signals_blocked(|| {
            thread::Builder::new()
                .name("umrt-pressure".to_owned())
                .spawn(body)
        });
        Ok(PressureWatch {
            thread: Some(thread.map_err(failed)?),
            stop: Some(stop),
        })
    }
}

impl Drop for PressureWatch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

/// An open PSI file that becomes readable when stalls cross the threshold.
struct Trigger {
    file: File,
    level: PressureLevel,
}

fn triggers() -> Result<Vec<Trigger>> {
    let mut triggers = Vec::new();
    let mut refusal = "the kernel has no pressure stall information".to_owned();
    for path in sources() {
        for (kind, level) in [
            ("some", PressureLevel::Warning),
            ("full", PressureLevel::Critical),
        ] {
            match trigger(&path, kind) {
                Ok(file) => triggers.push(Trigger { file, level }),
                Err(error) => refusal = format!("{path}: {error}"),
            }
        }
    }
    match triggers.is_empty() {
        false => Ok(triggers),
        true => Err(Error::unsupported(format!(
            "memory pressure cannot be watched here ({refusal}); tell umrt of it with \
             umrt_memory_pressure_notify"
        ))),
    }
}

fn trigger(path: &str, kind: &str) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    // The kernel wants the NUL.
    file.write_all(format!("{kind} {STALL_US} {WINDOW_US}\0").as_bytes())?;
    Ok(file)
}

fn watch(triggers: &[Trigger], stopped: &PipeReader, changed: impl Fn(PressureLevel)) {
    let poll_of = |fd, events| libc::pollfd {
        fd,
        events,
        revents: 0,
    };
    let mut polls: Vec<_> = triggers
        .iter()
        .map(|trigger| poll_of(trigger.file.as_raw_fd(), libc::POLLPRI))
        .collect();
    polls.push(poll_of(stopped.as_raw_fd(), libc::POLLIN));
    let mut level = PressureLevel::Normal;
    let mut reported = Instant::now();
    loop {
        let timeout_ms = match level {
            PressureLevel::Normal => -1,
            _ => CALM.saturating_sub(reported.elapsed()).as_millis() as libc::c_int + 1,
        };
        // SAFETY: as many structures as it says; the files live through the call.
        let n = unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as _, timeout_ms) };
        let is_interrupted =
            n < 0 && std::io::Error::last_os_error().raw_os_error() == Some(libc::EINTR);
        if is_interrupted {
            continue;
        }
        let is_stopped = polls.last().is_some_and(|poll| poll.revents != 0);
        // A control group that is gone reports errors for ever.
        let is_gone = polls.iter().any(|poll| poll.revents & libc::POLLERR != 0);
        if n < 0 || is_stopped || is_gone {
            return;
        }
        let stalls = triggers.iter().zip(&polls);
        let stalled = stalls.filter(|(_, poll)| poll.revents & libc::POLLPRI != 0);
        let now = stalled.map(|(trigger, _)| trigger.level).max();
        if now.is_some() {
            reported = Instant::now();
        }
        let next = match now {
            Some(now) => now,
            None if reported.elapsed() >= CALM => PressureLevel::Normal,
            None => level,
        };
        if next != level {
            level = next;
            changed(level);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_ends_its_thread() {
        let threads = || {
            std::fs::read_dir("/proc/self/task")
                .expect("tasks")
                .flatten()
        };
        let watching = || {
            let names =
                threads().filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
            names.filter(|name| name.trim() == "umrt-pressure").count()
        };
        match PressureWatch::start(|_| {}) {
            Ok(watch) => {
                // A thread names itself, and its entry outlives it for a moment.
                let becomes = |count| {
                    (0..200).any(|_| {
                        std::thread::sleep(Duration::from_millis(5));
                        watching() == count
                    })
                };
                assert!(becomes(1));
                drop(watch);
                assert!(becomes(0));
            }
            Err(error) => assert_eq!(error.status(), crate::error::Status::Unsupported),
        }
    }
}
