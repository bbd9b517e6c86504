//! How much memory models may use on this machine.

use std::ffi::CStr;
use std::fmt;

use super::cgroup;
use super::limits::{self, Held, ResourceLimit};

/// The share of physical memory that models may use if nobody says otherwise.
/// The rest is for the system and the host application.
pub const DEFAULT_FRACTION: f64 = 0.75;

/// Addresses that threads and the arenas of their allocations take besides what is
/// planned; each arena sets 64 MiB aside.
const UNPLANNED_ADDRESSES: usize = 256 << 20;
/// The same in private memory: stacks and small objects.
const UNPLANNED_BYTES: usize = 64 << 20;

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
    /// The default share of physical memory.
    PhysicalShare,
    /// Another share, or bytes, as the host set them.
    Budget,
    /// What the GPU can work on without being slowed down.
    Device,
    /// What is free of the memory that a GPU has for itself.
    GpuMemory,
    ControlGroup,
    AddressSpace,
    DataSegment,
    /// What the system leaves to an app before it ends it.
    App,
}

/// Which memory counts against a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counts {
    /// All that has to be in memory to compute.
    Needed,
    /// All that has addresses, mapped files included.
    Addressed,
    /// What no file backs.
    Private,
    /// What lies in the memory of a GPU that has its own.
    OnGpu,
}

/// One bound in bytes of models, their contexts included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    pub bound: Bound,
    pub bytes: usize,
}

/// What the host wants models to use at most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Share {
    /// Of physical memory, above 0 and at most 1.
    Fraction(f64),
    Bytes(usize),
}

impl Bound {
    /// For people.
    pub fn text(self) -> &'static CStr {
        match self {
            Bound::PhysicalShare => c"75% of physical memory",
            Bound::Budget => c"the memory budget that was set",
            Bound::Device => c"the GPU's recommended working set",
            Bound::GpuMemory => c"the GPU's memory",
            Bound::ControlGroup => c"the control group's memory limit",
            Bound::AddressSpace => c"the limit of address space (ulimit -v)",
            Bound::DataSegment => c"the limit of private memory (ulimit -d)",
            Bound::App => c"what the system leaves to this app",
        }
    }

    pub fn counts(self) -> Counts {
        match self {
            Bound::AddressSpace => Counts::Addressed,
            Bound::DataSegment | Bound::App => Counts::Private,
            Bound::GpuMemory => Counts::OnGpu,
            _ => Counts::Needed,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text().to_string_lossy())
    }
}

/// All bounds of the machine's memory: the share of physical memory first. A GPU that
/// shares it lets models use `working_set`.
pub fn limits(share: Option<Share>, working_set: Option<usize>, held: Held) -> Vec<Limit> {
    let limit = |bound, bytes: Option<usize>| bytes.map(|bytes| Limit { bound, bytes });
    let of_process = |kind, unplanned| limits::headroom(kind, held, unplanned);
    [
        Some(share_of(physical(), share)),
        limit(Bound::Device, working_set),
        limit(Bound::ControlGroup, cgroup::headroom(held.private)),
        limit(
            Bound::AddressSpace,
            of_process(ResourceLimit::AddressSpace, UNPLANNED_ADDRESSES),
        ),
        limit(
            Bound::DataSegment,
            of_process(ResourceLimit::Data, UNPLANNED_BYTES),
        ),
        limit(Bound::App, limits::left_to_app(held.private)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The least of the limits on the machine's memory.
pub fn least(limits: &[Limit]) -> Usable {
    let least = limits.iter().min_by_key(|limit| limit.bytes);
    let unlimited = Limit {
        bound: Bound::PhysicalShare,
        bytes: usize::MAX,
    };
    let Limit { bound, bytes } = *least.unwrap_or(&unlimited);
    Usable {
        physical_bytes: physical(),
        usable_bytes: bytes,
        bound,
    }
}

fn share_of(physical_bytes: usize, share: Option<Share>) -> Limit {
    let (bound, bytes) = match share {
        None => (
            Bound::PhysicalShare,
            fraction_of(physical_bytes, DEFAULT_FRACTION),
        ),
        Some(Share::Fraction(fraction)) => (Bound::Budget, fraction_of(physical_bytes, fraction)),
        Some(Share::Bytes(bytes)) => (Bound::Budget, bytes.min(physical_bytes)),
    };
    Limit { bound, bytes }
}

/// Rounded down.
pub fn fraction_of(bytes: usize, fraction: f64) -> usize {
    (bytes as f64 * fraction) as usize
}

/// Memory of the machine; as much as can be addressed where that is unknown.
pub fn physical() -> usize {
    physical_bytes().unwrap_or(usize::MAX)
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

#[cfg(test)]
mod tests {
    use super::*;

    const GB: usize = 1_000_000_000;

    #[test]
    fn three_quarters_of_physical_memory_are_usable() {
        for (physical, usable) in [(32, 24), (64, 48), (96, 72), (128, 96), (192, 144)] {
            let limit = share_of(physical * GB, None);
            assert_eq!(limit.bytes, usable * GB);
            assert_eq!(limit.bound, Bound::PhysicalShare);
        }
    }

    #[test]
    fn the_host_may_set_another_share() {
        let half = share_of(64 * GB, Some(Share::Fraction(0.5)));
        assert_eq!((half.bytes, half.bound), (32 * GB, Bound::Budget));
        let bytes = share_of(64 * GB, Some(Share::Bytes(60 * GB)));
        assert_eq!(bytes.bytes, 60 * GB);
        let more_than_there_is = share_of(64 * GB, Some(Share::Bytes(65 * GB)));
        assert_eq!(more_than_there_is.bytes, 64 * GB);
    }

    #[test]
    fn the_least_limit_is_what_is_usable() {
        let held = Held::default();
        let plain = least(&limits(None, None, held));
        assert!(plain.usable_bytes > 0);
        assert!(plain.usable_bytes <= fraction_of(plain.physical_bytes, DEFAULT_FRACTION));
        let device = least(&limits(None, Some(1 << 20), held));
        assert_eq!(
            (device.usable_bytes, device.bound),
            (1 << 20, Bound::Device)
        );
    }
}
