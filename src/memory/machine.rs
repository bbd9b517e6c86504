//! How much memory models may use on this machine.

use std::ffi::CStr;
use std::fmt;

/// The share of physical memory that models may use, in percent. The rest is
/// for the system and the host application.
const USABLE_PERCENT: usize = 75;

/// Bytes that models may use, and what sets the bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usable {
    pub physical_bytes: usize,
    pub usable_bytes: usize,
    pub bound: Bound,
}

/// What bounds the memory that models may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    PhysicalShare,
    ControlGroup,
    AddressSpace,
}

impl Bound {
    /// For people.
    pub fn text(self) -> &'static CStr {
        match self {
            Bound::PhysicalShare => c"75% of physical memory",
            Bound::ControlGroup => c"the control group's memory limit",
            Bound::AddressSpace => c"the limit of address space (ulimit -v)",
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text().to_string_lossy())
    }
}

/// The least of the usable share of physical memory and the limits that this
/// process runs under.
pub fn usable() -> Usable {
    let physical = physical_bytes().unwrap_or(usize::MAX);
    let share = (physical / 100).saturating_mul(USABLE_PERCENT);
    let bounds = [
        (Some(share), Bound::PhysicalShare),
        (cgroup_limit(), Bound::ControlGroup),
        (address_space_limit(), Bound::AddressSpace),
    ];
    let (usable_bytes, bound) = bounds
        .into_iter()
        .filter_map(|(bytes, bound)| Some((bytes?, bound)))
        .min_by_key(|(bytes, _)| *bytes)
        .unwrap_or((share, Bound::PhysicalShare));
    Usable {
        physical_bytes: physical,
        usable_bytes,
        bound,
    }
}

#[cfg(not(target_vendor = "apple"))]
fn physical_bytes() -> Option<usize> {
    // SAFETY: both read a constant of the system.
    let (pages, page) = unsafe {
        (
            libc::sysconf(libc::_SC_PHYS_PAGES),
            libc::sysconf(libc::_SC_PAGESIZE),
        )
    };
    usize::try_from(pages)
        .ok()?
        .checked_mul(usize::try_from(page).ok()?)
}

#[cfg(target_vendor = "apple")]
fn physical_bytes() -> Option<usize> {
    let mut bytes: u64 = 0;
    let mut length = size_of::<u64>();
    // SAFETY: the name is NUL-terminated; the kernel writes at most `length` bytes.
    let code = unsafe {
        libc::sysctlbyname(
            c"hw.memsize".as_ptr(),
            (&raw mut bytes).cast(),
            &mut length,
            std::ptr::null_mut(),
            0,
        )
    };
    (code == 0).then_some(usize::try_from(bytes).ok()?)
}

/// The limit of the control group this process is in (v2, then v1).
#[cfg(target_os = "linux")]
fn cgroup_limit() -> Option<usize> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let candidates = groups.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let path = path.trim_start_matches('/');
        match controllers {
            "" => Some(format!("/sys/fs/cgroup/{path}/memory.max")),
            "memory" => Some(format!(
                "/sys/fs/cgroup/memory/{path}/memory.limit_in_bytes"
            )),
            _ => None,
        }
    });
    candidates
        .filter_map(|file| std::fs::read_to_string(file).ok()?.trim().parse().ok())
        .min()
}

#[cfg(not(target_os = "linux"))]
fn cgroup_limit() -> Option<usize> {
    None
}

fn address_space_limit() -> Option<usize> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel fills the structure.
    let code = unsafe { libc::getrlimit(libc::RLIMIT_AS, &mut limit) };
    let limited = code == 0 && limit.rlim_cur != libc::RLIM_INFINITY;
    limited.then_some(usize::try_from(limit.rlim_cur).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_share_of_physical_memory_is_usable() {
        let usable = usable();
        assert!(usable.usable_bytes > 0);
        assert!(usable.usable_bytes <= usable.physical_bytes / 100 * USABLE_PERCENT);
        assert!(
            Bound::PhysicalShare
                .to_string()
                .contains(&USABLE_PERCENT.to_string())
        );
    }
}
