//! What MLX's allocator holds, and its limits.

use mlx_sys as sys;

use super::error::check;
use super::stream::{Device, gpu_available, while_nothing_runs};
use crate::error::Result;
use crate::host;

/// Bytes of MLX's own allocations; mapped weights are not among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// In arrays that are alive.
    pub active: usize,
    /// Freed by arrays, kept for the next ones.
    pub cache: usize,
    /// The highest `active` since the start or the last reset.
    pub peak: usize,
}

/// MLX's allocator has a lock, which a thread of a forked process's parent may
/// have held.
fn start() -> Result<()> {
    host::ensure_not_forked()?;
    super::error::init();
    Ok(())
}

pub fn memory_use() -> Result<MemoryUse> {
    start()?;
    let mut memory = MemoryUse::default();
    // SAFETY: each call writes one number.
    unsafe {
        check(sys::mlx_get_active_memory(&mut memory.active))?;
        check(sys::mlx_get_cache_memory(&mut memory.cache))?;
        check(sys::mlx_get_peak_memory(&mut memory.peak))?;
    }
    Ok(memory)
}

pub fn reset_peak() -> Result<()> {
    start()?;
    // SAFETY: no arguments.
    check(unsafe { sys::mlx_reset_peak_memory() })
}

/// Gives freed buffers back to the system.
pub fn clear_cache() -> Result<()> {
    start()?;
    // SAFETY: no arguments.
    while_nothing_runs(|| check(unsafe { sys::mlx_clear_cache() }))
}

/// Bounds the freed buffers that MLX may keep, and returns the bound before.
pub fn set_cache_limit(bytes: usize) -> Result<usize> {
    start()?;
    let mut before = 0;
    // SAFETY: writes one number.
    while_nothing_runs(|| check(unsafe { sys::mlx_set_cache_limit(&mut before, bytes) }))?;
    Ok(before)
}

/// With more than this in use, MLX lets what it has scheduled finish before it
/// schedules more. On a GPU, buffers up to it stay in physical memory.
pub fn set_memory_limit(bytes: usize) -> Result<()> {
    start()?;
    let mut before = 0;
    // SAFETY: writes one number.
    check(unsafe { sys::mlx_set_memory_limit(&mut before, bytes) })?;
    if let Some(most) = gpu_working_set()? {
        // SAFETY: writes one number.
        check(unsafe { sys::mlx_set_wired_limit(&mut before, bytes.min(most)) })?;
    }
    Ok(())
}

/// What the GPU can work on without being slowed down, where it says so.
pub fn gpu_working_set() -> Result<Option<usize>> {
    start()?;
    if !gpu_available() {
        return Ok(None);
    }
    // SAFETY: both handles are made, used and freed here; the key is a literal.
    unsafe {
        let device = sys::mlx_device_new_type(Device::Gpu.raw_type(), 0);
        let mut info = sys::mlx_device_info_new();
        let mut bytes = 0;
        let code = sys::mlx_device_info_get(&mut info, device);
        let found = match check(code) {
            Ok(()) => {
                let key = c"max_recommended_working_set_size".as_ptr();
                Ok(sys::mlx_device_info_get_size(&mut bytes, info, key) == 0)
            }
            Err(error) => Err(error),
        };
        sys::mlx_device_info_free(info);
        sys::mlx_device_free(device);
        found.map(|found| found.then_some(bytes))
    }
}
