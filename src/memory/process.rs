//! What the operating system says of this process.

/// Bytes, and counts of page faults since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessMemory {
    /// In memory and private to the process: heap, stacks, caches.
    pub resident_anonymous: usize,
    /// In memory and backed by files: mapped weights, code.
    pub resident_file: usize,
    /// Faults served from memory.
    pub minor_faults: u64,
    /// Faults that had to read from disk.
    pub major_faults: u64,
}

pub fn process_memory() -> ProcessMemory {
    let (resident_anonymous, resident_file) = resident().unwrap_or_default();
    let (minor_faults, major_faults) = faults().unwrap_or_default();
    ProcessMemory {
        resident_anonymous,
        resident_file,
        minor_faults,
        major_faults,
    }
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

/// (anonymous, file-backed)
#[cfg(target_os = "linux")]
fn resident() -> Option<(usize, usize)> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let bytes = |key: &str| status_bytes(&status, key);
    Some((
        bytes("RssAnon:")?,
        bytes("RssFile:")? + bytes("RssShmem:").unwrap_or(0),
    ))
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
    resident_size_and_peak: [u64; 2],
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

/// (anonymous, file-backed), as Activity Monitor counts them.
#[cfg(target_vendor = "apple")]
fn resident() -> Option<(usize, usize)> {
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
    Some((info.internal as usize, info.external as usize))
}

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
fn resident() -> Option<(usize, usize)> {
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
    }
}
