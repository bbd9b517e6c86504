//! Memory statistics.

use std::ffi::c_char;

use super::guard::{guard, umrt_status};
use super::structs::{self, c_structs};
use crate::error::Result;
use crate::runtime::{self, ContextMemory, ModelMemory};

/// What memory is used for, in bytes. For a model or a context only its own
/// fields are filled; the others are 0.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct umrt_memory_info {
    pub struct_size: u32,
    pub reserved: u32,
    /// Memory of the machine.
    pub physical_bytes: u64,
    /// What models may use of it.
    pub usable_bytes: u64,
    /// Weights used where their file is mapped. They are in memory once, shared
    /// with the page cache, and can be dropped and read again by the system.
    pub weights_mapped_bytes: u64,
    /// How much of the mapped files is in memory now.
    pub weights_resident_bytes: u64,
    /// Weights that had to be copied out of their file.
    pub weights_copied_bytes: u64,
    /// Keys and values: allocated.
    pub kv_reserved_bytes: u64,
    /// Of that, filled with tokens.
    pub kv_used_bytes: u64,
    /// Logits of each context's last evaluation.
    pub logits_bytes: u64,
    /// The rest of MLX's active memory: intermediate results.
    pub scratch_bytes: u64,
    /// MLX's arrays: logits, copied weights, scratch; on a GPU the KV cache.
    pub mlx_active_bytes: u64,
    /// Freed buffers that MLX keeps for reuse.
    pub mlx_cache_bytes: u64,
    /// The highest `mlx_active_bytes` so far.
    pub mlx_peak_bytes: u64,
    /// The process: private memory, resident.
    pub process_anonymous_bytes: u64,
    /// The process: memory backed by files, resident; mapped weights and code.
    pub process_file_bytes: u64,
    /// Page faults served from memory since the process began.
    pub minor_faults: u64,
    /// Page faults that read from disk.
    pub major_faults: u64,
    /// What bounds `usable_bytes`, for people. Static; NULL for models and contexts.
    pub usable_reason: *const c_char,
}

c_structs!(umrt_memory_info);

impl umrt_memory_info {
    fn zero() -> Self {
        // SAFETY: `CStruct`: zero bytes are a value.
        unsafe { std::mem::zeroed() }
    }

    pub(super) fn of_model(memory: ModelMemory) -> Self {
        Self {
            weights_mapped_bytes: memory.weights_mapped as u64,
            weights_resident_bytes: memory.weights_resident as u64,
            weights_copied_bytes: memory.weights_copied as u64,
            ..Self::zero()
        }
    }

    pub(super) fn of_context(memory: ContextMemory) -> Self {
        Self {
            kv_reserved_bytes: memory.kv_reserved as u64,
            kv_used_bytes: memory.kv_used as u64,
            logits_bytes: memory.logits as u64,
            ..Self::zero()
        }
    }

    fn of_process() -> Result<Self> {
        let stats = runtime::memory_stats()?;
        let accounted = stats.kv_in_mlx + stats.contexts.logits + stats.weights.weights_copied;
        let contexts = Self::of_context(stats.contexts);
        Ok(Self {
            physical_bytes: stats.usable.physical_bytes as u64,
            usable_bytes: stats.usable.usable_bytes as u64,
            kv_reserved_bytes: contexts.kv_reserved_bytes,
            kv_used_bytes: contexts.kv_used_bytes,
            logits_bytes: contexts.logits_bytes,
            scratch_bytes: stats.mlx.active.saturating_sub(accounted) as u64,
            mlx_active_bytes: stats.mlx.active as u64,
            mlx_cache_bytes: stats.mlx.cache as u64,
            mlx_peak_bytes: stats.mlx.peak as u64,
            process_anonymous_bytes: stats.process.resident_anonymous as u64,
            process_file_bytes: stats.process.resident_file as u64,
            minor_faults: stats.process.minor_faults,
            major_faults: stats.process.major_faults,
            usable_reason: stats.usable.bound.text().as_ptr(),
            ..Self::of_model(stats.weights)
        })
    }
}

/// Fills in what the whole process uses memory for. Costs a walk over the page
/// tables of the mapped files: about 1 ms per 10 GB.
///
/// Returns INVALID_ARGUMENT, IO, BACKEND. Any thread.
///
/// # Safety
/// `stats` is NULL or points to a structure of its `struct_size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_memory_stats(stats: *mut umrt_memory_info) -> umrt_status {
    // SAFETY: the caller's contract.
    guard(|| unsafe { structs::write(stats, umrt_memory_info::of_process()?) })
}
