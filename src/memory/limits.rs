//! What the system lets this process take, by resource limits and for apps.

/// What models hold already. It is part of what the process uses, so limits of
/// the process leave as much more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub mapped: usize,
    pub private: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResourceLimit {
    AddressSpace,
    Data,
}

/// What a resource limit leaves to models: all but what the process uses for
/// anything else, and `spare` bytes. `None`: there is no limit.
pub(super) fn headroom(kind: ResourceLimit, held: Held, spare: usize) -> Option<usize> {
    let limit = soft_limit(kind)?;
    let used = used(kind).unwrap_or(0);
    let by_models = match kind {
        ResourceLimit::AddressSpace => held.mapped.saturating_add(held.private),
        ResourceLimit::Data => held.private,
    };
    let others = used.saturating_sub(by_models).saturating_add(spare);
    Some(limit.saturating_sub(others))
}

fn soft_limit(kind: ResourceLimit) -> Option<usize> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    let resource = match kind {
        ResourceLimit::AddressSpace => libc::RLIMIT_AS,
        ResourceLimit::Data => libc::RLIMIT_DATA,
    };
    // SAFETY: the kernel fills the structure.
    let code = unsafe { libc::getrlimit(resource, &mut limit) };
    let limited = code == 0 && limit.rlim_cur != libc::RLIM_INFINITY;
    limited.then_some(usize::try_from(limit.rlim_cur).ok()?)
}

/// What the process uses of it now.
#[cfg(target_os = "linux")]
fn used(kind: ResourceLimit) -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let key = match kind {
        ResourceLimit::AddressSpace => "VmSize:",
        ResourceLimit::Data => "VmData:",
    };
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: usize = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// Apple's systems map more than they limit.
#[cfg(not(target_os = "linux"))]
fn used(_: ResourceLimit) -> Option<usize> {
    None
}

/// What an app may still take before the system ends it, and what models hold of it.
#[cfg(any(target_os = "ios", target_os = "tvos", target_os = "visionos"))]
pub(super) fn left_to_app(held_private: usize) -> Option<usize> {
    unsafe extern "C" {
        /// <os/proc.h>; 0: there is no limit.
        fn os_proc_available_memory() -> usize;
    }
    // SAFETY: no arguments.
    match unsafe { os_proc_available_memory() } {
        0 => None,
        left => Some(left.saturating_add(held_private)),
    }
}

#[cfg(not(any(target_os = "ios", target_os = "tvos", target_os = "visionos")))]
pub(super) fn left_to_app(_held_private: usize) -> Option<usize> {
    None
}
