//! What the operating system knows about processes, memory and disks.

use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};

use super::report::Machine;
use crate::util::output;

impl Machine {
    pub fn here() -> Result<Self> {
        let memory = fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
        let total = kilobytes(&memory, "MemTotal:").context("/proc/meminfo has no MemTotal")?;
        Ok(Self {
            cpu: cpu_name(),
            threads: thread::available_parallelism()?.get(),
            memory_bytes: total * 1024,
        })
    }
}

/// The processor's name.
pub fn cpu_name() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = |field: &str| {
        let line = info.lines().find(|line| line.starts_with(field))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    name("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// Ends a child, which may have ended by itself.
pub fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// Resident memory of a process, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Resident {
    /// Private.
    pub anonymous: u64,
    /// Pages of files: mapped weights and code.
    pub file: u64,
    /// Both at once.
    pub all: u64,
}

impl Resident {
    pub fn of(process: u32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        let bytes = |field| kilobytes(&status, field).map(|kilobytes| kilobytes * 1024);
        let (anonymous, file) = (bytes("RssAnon:")?, bytes("RssFile:")?);
        Some(Self {
            anonymous,
            file,
            all: anonymous + file,
        })
    }

    fn max(self, other: Self) -> Self {
        Self {
            anonymous: self.anonymous.max(other.anonymous),
            file: self.file.max(other.file),
            all: self.all.max(other.all),
        }
    }
}

/// Follows a process's memory until it is dropped.
pub struct MemoryWatch {
    process: u32,
    peak: Arc<Mutex<Resident>>,
    stop: Arc<AtomicBool>,
    watcher: Option<JoinHandle<()>>,
}

const WATCH_INTERVAL: Duration = Duration::from_millis(2);

impl MemoryWatch {
    pub fn start(process: u32) -> Self {
        let peak = Arc::new(Mutex::new(Resident::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let watcher = thread::spawn({
            let (peak, stop) = (peak.clone(), stop.clone());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    note(process, &peak);
                    thread::sleep(WATCH_INTERVAL);
                }
            }
        });
        Self {
            process,
            peak,
            stop,
            watcher: Some(watcher),
        }
    }

    /// The highest values seen, the present ones included.
    pub fn peak(&self) -> Resident {
        note(self.process, &self.peak)
    }
}

fn note(process: u32, peak: &Mutex<Resident>) -> Resident {
    let now = Resident::of(process).unwrap_or_default();
    let mut peak = peak.lock().unwrap_or_else(PoisonError::into_inner);
    *peak = peak.max(now);
    *peak
}

impl Drop for MemoryWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(watcher) = self.watcher.take() {
            // It only loops; there is nothing it could have failed at.
            let _ = watcher.join();
        }
    }
}

/// A value of a file of /proc such as `RssAnon:     123 kB`.
fn kilobytes(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// Asks the system to forget a file that nobody has mapped.
pub fn drop_from_cache(file: &Path) -> Result<()> {
    let mut input = std::ffi::OsString::from("if=");
    input.push(file);
    let mut program = Command::new("dd");
    program
        .arg(input)
        .args(["iflag=nocache", "count=0", "status=none"]);
    output(&mut program).map(|_| ())
}

/// A process that takes one core for itself until it is dropped.
pub struct BusyCore(Child);

impl BusyCore {
    pub fn start() -> Result<Self> {
        let status =
            fs::read_to_string("/proc/self/status").context("reading /proc/self/status")?;
        let core = first_core(&status).context("/proc/self/status names no processor")?;
        let child = Command::new("taskset")
            .args(["-c", &core, "sh", "-c", "while :; do :; done"])
            .spawn()
            .context("`taskset` could not be started: apt-get install util-linux")?;
        Ok(Self(child))
    }
}

impl Drop for BusyCore {
    fn drop(&mut self) {
        end(&mut self.0);
    }
}

/// The first of `Cpus_allowed_list: 0-3,8`.
fn first_core(status: &str) -> Option<String> {
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let first = list.trim().split([',', '-']).next()?;
    (!first.is_empty()).then(|| first.to_owned())
}

/// A folder's free space, as `df` knows it.
pub fn free_bytes(folder: &Path) -> Result<u64> {
    let listing = output(Command::new("df").arg("-Pk").arg(folder))?;
    available_bytes(&listing)
        .with_context(|| format!("`df` says nothing about {}", folder.display()))
}

fn available_bytes(listing: &str) -> Option<u64> {
    let kilobytes: u64 = listing
        .lines()
        .nth(1)?
        .split_whitespace()
        .nth(3)?
        .parse()
        .ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_proc_and_df_are_understood() {
        assert_eq!(
            kilobytes("VmHWM:\t 9 kB\nRssAnon:\t  123 kB\n", "RssAnon:"),
            Some(123)
        );
        assert_eq!(
            first_core("Cpus_allowed_list:\t2-3,8\n").as_deref(),
            Some("2")
        );
        let listing =
            "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/x 9 5 4 56% /\n";
        assert_eq!(available_bytes(listing), Some(4096));
    }
}
