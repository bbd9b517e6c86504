//! What the operating system says of this process.

/// Bytes, and counts of page faults since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessMemory {
    /// In memory and private to the process: heap, stacks, caches.
    pub resident_anonymous: usize,
    /// In memory and backed by files: mapped weights, code.
    pub resident_file: usize,
    /// The highest that both together have been.
    pub resident_peak: usize,
    /// Private memory that was moved to swap. Apple's systems compress memory
    /// first; there it counts as anonymous, and this is 0.
    pub swapped: usize,
    /// Faults served from memory.
    pub minor_faults: u64,
    /// Faults that had to read from disk.
    pub major_faults: u64,
}

pub fn process_memory() -> ProcessMemory {
    let (minor_faults, major_faults) = faults().unwrap_or_default();
    ProcessMemory {
        minor_faults,
        major_faults,
        ..resident().unwrap_or_default()
    }
}

/// Gives memory that was freed, but kept by the C library's allocator, back to
/// the system.
pub fn return_free_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: only touches what is free; the allocator locks itself.
    unsafe {
        libc::malloc_trim(0)
    };
}

fn faults() -> Option<(u64, u64)> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel fills the structure when it returns 0; zeroed is valid.
    let usage = unsafe {
        if libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) != 0 {
            return None;
        }
        usage.assume_init()
    };
    Some((
        u64::try_from(usage.ru_minflt).ok()?,
        u64::try_from(usage.ru_majflt).ok()?,
    ))
}

/// All but the faults.
#[cfg(target_os = "linux")]
fn resident() -> Option<ProcessMemory> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let bytes = |key: &str| status_bytes(&status, key);
    Some(ProcessMemory {
        resident_anonymous: bytes("RssAnon:")?,
        resident_file: bytes("RssFile:")? + bytes("RssShmem:").unwrap_or(0),
        resident_peak: bytes("VmHWM:").unwrap_or(0),
        swapped: bytes("VmSwap:").unwrap_or(0),
        ..ProcessMemory::default()
    })
}

#[cfg(target_os = "linux")]
fn status_bytes(status: &str, key: &str) -> Option<usize> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: usize = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// The first revision of `task_vm_info` in <mach/task_info.h>, all in bytes but
/// for the counts.
#[cfg(target_vendor = "apple")]
#[repr(C)]
struct TaskVmInfo {
    virtual_size: u64,
    region_count: i32,
    page_size: i32,
    resident_size: u64,
    resident_peak: u64,
    device_and_peak: [u64; 2],
    /// Anonymous memory.
    internal: u64,
    internal_peak: u64,
    /// Memory backed by files.
    external: u64,
    external_peak: u64,
    reusable_and_peak: [u64; 2],
    purgeable_volatile: [u64; 3],
    compressed_and_peak_and_lifetime: [u64; 3],
}

/// All but the faults, as Activity Monitor counts them.
#[cfg(target_vendor = "apple")]
fn resident() -> Option<ProcessMemory> {
    const TASK_VM_INFO: libc::task_flavor_t = 22;
    let mut info = std::mem::MaybeUninit::<TaskVmInfo>::zeroed();
    let mut words = (size_of::<TaskVmInfo>() / size_of::<libc::natural_t>()) as u32;
    #[allow(deprecated)] // libc points to the mach2 crate for these two
    // SAFETY: the kernel writes at most `words` words; zeroed is valid.
    let info = unsafe {
        let task = libc::mach_task_self();
        let code = libc::task_info(task, TASK_VM_INFO, info.as_mut_ptr().cast(), &mut words);
        if code != libc::KERN_SUCCESS {
            return None;
        }
        info.assume_init()
    };
    Some(ProcessMemory {
        resident_anonymous: info.internal as usize,
        resident_file: info.external as usize,
        resident_peak: info.resident_peak as usize,
        ..ProcessMemory::default()
    })
}

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
fn resident() -> Option<ProcessMemory> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn touching_memory_shows_up_as_anonymous() {
        const BYTES: usize = 64 << 20;
        let before = process_memory();
        let touched = vec![1_u8; BYTES];
        let after = process_memory();
        assert!(touched.iter().step_by(4096).all(|&byte| byte == 1));
        assert!(after.resident_anonymous >= before.resident_anonymous + BYTES / 2);
        assert!(after.minor_faults >= before.minor_faults);
        assert!(after.resident_file > 0);
        assert!(after.resident_peak >= after.resident_anonymous);
    }
}
