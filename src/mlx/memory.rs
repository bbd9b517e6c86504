//! What MLX's allocator holds, and its limits.

use mlx_sys as sys;

use super::device::{self, Device, gpu_available};
use super::error::check;
use super::lost;
use super::stream::while_nothing_runs;
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
    if lost::any() {
        return Ok(());
    }
    // SAFETY: no arguments.
    while_nothing_runs(|| check(unsafe { sys::mlx_clear_cache() }))
}

/// Bounds the freed buffers that MLX may keep, and returns the bound before.
pub fn set_cache_limit(bytes: usize) -> Result<usize> {
    start()?;
    if lost::any() {
        return Ok(bytes);
    }
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
    if !gpu_available() || device::is_for_cuda() {
        return Ok(None);
    }
    // SAFETY: the handle is made, used and freed here; the key is a literal.
    unsafe {
        let mut info = sys::mlx_device_info_new();
        let code = Device::Gpu(0).with_raw(|raw| sys::mlx_device_info_get(&mut info, raw));
        let found = check(code).map(|()| device::size(info, c"max_recommended_working_set_size"));
        sys::mlx_device_info_free(info);
        found
    }
}

/// What is free of the memory that a GPU has for itself, less a twentieth for CUDA's own
/// needs. `None`: it has none.
pub fn gpu_free_bytes(device: Device) -> Result<Option<usize>> {
    if !device.has_own_memory() || device.is_pretended() {
        return Ok(None);
    }
    let facts = device::device_facts(device)?;
    let free = facts.free_bytes.zip(facts.total_bytes);
    Ok(free.map(|(free, total)| free.saturating_sub(total / 20)))
}

/// Whether MLX's arrays lie in the memory of a GPU that has its own.
pub fn arrays_are_in_device_memory() -> bool {
    device::is_for_cuda() && gpu_available()
}
