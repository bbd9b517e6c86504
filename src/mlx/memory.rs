//! What MLX's allocator holds, and its limits.

use mlx_sys as sys;

use super::error::check;
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
    check(unsafe { sys::mlx_clear_cache() })
}

/// Bounds the freed buffers that MLX may keep, and returns the bound before.
pub fn set_cache_limit(bytes: usize) -> Result<usize> {
    start()?;
    let mut before = 0;
    // SAFETY: writes one number.
    check(unsafe { sys::mlx_set_cache_limit(&mut before, bytes) })?;
    Ok(before)
}
