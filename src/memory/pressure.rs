//! How much the system stalls for want of memory: on Linux pressure stall
//! information (PSI) of the machine and of this process's control group.
//!
//! - `watch`: told by the kernel when tasks stall (Linux)
//! - `dispatch`: told by libdispatch (Apple platforms)

#[cfg(target_vendor = "apple")]
mod dispatch;
#[cfg(target_os = "linux")]
mod watch;

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
use crate::error::{Error, Result};

#[cfg(target_vendor = "apple")]
pub use dispatch::PressureWatch;
#[cfg(target_os = "linux")]
pub use watch::PressureWatch;

/// How urgent it is to give memory back. The numbers are those of the C API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum PressureLevel {
    Normal = 1,
    /// Some tasks wait for memory: give back what costs nothing to get again.
    Warning = 2,
    /// All tasks wait at times: give back what can be, and begin nothing new.
    Critical = 3,
}

/// Shares of the last ten seconds, in percent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pressure {
    /// In which at least one task waited for memory.
    pub some_percent: f32,
    /// In which all tasks that had work waited for memory.
    pub full_percent: f32,
}

/// From this share of time on, waiting of some is a warning and waiting of all
/// is critical. On an idle machine both are 0.
const STALLED_PERCENT: f32 = 10.0;

impl Pressure {
    pub fn level(self) -> PressureLevel {
        if self.full_percent >= STALLED_PERCENT {
            PressureLevel::Critical
        } else if self.some_percent >= STALLED_PERCENT {
            PressureLevel::Warning
        } else {
            PressureLevel::Normal
        }
    }
}

/// The worst of the machine's and the control group's figures; `None` where the
/// system has none.
pub fn pressure() -> Option<Pressure> {
    let read = |path: String| parse(&std::fs::read_to_string(path).ok()?);
    sources()
        .into_iter()
        .filter_map(read)
        .reduce(|a, b| Pressure {
            some_percent: a.some_percent.max(b.some_percent),
            full_percent: a.full_percent.max(b.full_percent),
        })
}

/// Files in PSI's format that concern this process.
fn sources() -> Vec<String> {
    if !cfg!(target_os = "linux") {
        return Vec::new();
    }
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"));
    let own = own.filter(|path| !path.is_empty());
    let of_group = own.map(|path| format!("/sys/fs/cgroup/{path}/memory.pressure"));
    std::iter::once("/proc/pressure/memory".to_owned())
        .chain(of_group)
        .collect()
}

fn parse(text: &str) -> Option<Pressure> {
    let percent = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
        let field = line
            .split_whitespace()
            .find_map(|f| f.strip_prefix("avg10="));
        field?.parse().ok()
    };
    Some(Pressure {
        some_percent: percent("some ")?,
        full_percent: percent("full ").unwrap_or(0.0),
    })
}

/// Tells of changes of the level for as long as it lives.
#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
pub struct PressureWatch(std::convert::Infallible);

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
impl PressureWatch {
    pub fn start(_: impl Fn(PressureLevel) + Send + 'static) -> Result<PressureWatch> {
        Err(Error::unsupported(
            "memory pressure is watched on Linux and on Apple platforms; pass on what the system tells the \
             application with umrt_memory_pressure_notify",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(some: &str, full: &str) -> String {
        format!(
            "some avg10={some} avg60=1.00 avg300=2.00 total=1\n\
             full avg10={full} avg60=1.00 avg300=2.00 total=1\n"
        )
    }

    #[test]
    fn the_level_follows_from_who_waits() {
        let level = |some, full| parse(&text(some, full)).expect("PSI").level();
        assert_eq!(level("0.00", "0.00"), PressureLevel::Normal);
        assert_eq!(level("9.99", "9.99"), PressureLevel::Normal);
        assert_eq!(level("10.00", "3.50"), PressureLevel::Warning);
        assert_eq!(level("64.10", "10.00"), PressureLevel::Critical);
    }

    #[test]
    fn what_is_no_psi_is_no_pressure() {
        for text in ["", "some", "some avg10=x", "full avg10=1.0 total=0"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
        let only_some = parse("some avg10=12.00 total=0\n").expect("PSI");
        assert_eq!(only_some.level(), PressureLevel::Warning);
    }
}
