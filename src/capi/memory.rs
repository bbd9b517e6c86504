//! Memory statistics, giving memory back, and memory pressure.

use std::ffi::{c_char, c_void};
use std::sync::Arc;

use super::arguments::{self, count32, known_flags};
use super::guard::{guard, umrt_status};
use super::structs::{self, Destination, c_structs};
use crate::error::{Error, Result};
use crate::memory::PressureLevel;
use crate::runtime::{
    self, ContextMemory, ModelMemory, PressureReceiver, TrimSteps, Trimmed, listen, notify,
    set_spill_place, trim,
};

/// What memory is used for, in bytes. For a model, a context or a sequence only
/// its own fields are filled; the others are 0.
///
/// Private memory that is accounted for is counted once, in one of
/// `weights_copied_bytes`, `kv_reserved_bytes`, `prefix_cache_bytes`, `logits_bytes`,
/// `scratch_bytes`, `mlx_cache_bytes` and `text_bytes`, whose sum is `total_bytes`; beyond what
/// the process had before it used umrt, `process_anonymous_bytes` is that sum without
/// `gpu_bytes`, and the stacks and small buffers of its threads. Mapped weights are no private
/// memory; they are the page cache's.
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
    /// How much of the mapped files the page cache holds now. It stays there when
    /// a model is released, until the system needs the room.
    pub weights_resident_bytes: u64,
    /// Weights that had to be copied out of their file, or were read into private
    /// memory (`UMRT_LOAD_READ`, `UMRT_LOAD_DIRECT`).
    pub weights_copied_bytes: u64,
    /// Keys and values: allocated. What forks of a sequence share counts once.
    pub kv_reserved_bytes: u64,
    /// Of that, filled with tokens.
    pub kv_used_bytes: u64,
    /// Logits of each context's last evaluation.
    pub logits_bytes: u64,
    /// Intermediate results: the rest of MLX's active memory, and buffers that kernels
    /// hold for as long as their threads live.
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
    /// Weight files locked in memory (`UMRT_RESIDENCY_LOCKED`).
    pub weights_locked_bytes: u64,
    /// Tokenizers and chat templates, estimated from the entries of their tables; 0
    /// until they are first used.
    pub text_bytes: u64,
    /// Private memory that is accounted for: the sum named above.
    pub total_bytes: u64,
    /// The highest `kv_reserved_bytes` so far.
    pub kv_peak_bytes: u64,
    /// The process: the highest that resident memory has been, files included.
    pub process_peak_bytes: u64,
    /// The process: private memory that was moved to swap.
    pub swap_bytes: u64,
    /// `UMRT_PRESSURE_NORMAL`, `_WARNING` or `_CRITICAL`, by how long processes
    /// waited for memory in the last ten seconds, in the machine or in this control
    /// group; `UMRT_PRESSURE_UNKNOWN` where the system has no such figures.
    pub pressure_level: u32,
    /// The share of these ten seconds in which at least one waited.
    pub pressure_percent: f32,
    /// Tensors of adapters, used where their file is mapped; what had to be copied of
    /// them is among `weights_copied_bytes`.
    pub adapters_bytes: u64,
    /// Keys and values that only prefix caches hold.
    pub prefix_cache_bytes: u64,
    /// Keys and values of idle sequences that are on disk (`umrt_memory_spill_set`): no
    /// memory.
    pub kv_spilled_bytes: u64,
    /// Of `total_bytes`, what is in the memory of GPUs that have their own, and not in
    /// the machine's.
    pub gpu_bytes: u64,
}

/// What was given back.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct umrt_trim_result {
    pub struct_size: u32,
    /// Models whose pages were released.
    pub n_models: u32,
    /// Bytes by which `mlx_cache_bytes` shrank.
    pub mlx_cache_bytes: u64,
    /// Bytes by which `process_anonymous_bytes` shrank: MLX's buffers and the free
    /// part of the heap.
    pub private_bytes: u64,
    /// Bytes by which `process_file_bytes` shrank: pages of models.
    pub model_bytes: u64,
    /// Bytes by which `kv_reserved_bytes` shrank since sequences are on disk now.
    pub sequence_bytes: u64,
    /// How many these are.
    pub n_sequences: u32,
    /// Sequences that are stored as their contexts' `pressure_kv_type` says now.
    pub n_reduced: u32,
    /// Bytes by which `prefix_cache_bytes` shrank.
    pub prefix_cache_bytes: u64,
    /// Bytes by which `kv_reserved_bytes` shrank because of `n_reduced` sequences.
    pub reduced_bytes: u64,
}

c_structs!(umrt_memory_info, umrt_trim_result);

/// The system does not say.
pub const UMRT_PRESSURE_UNKNOWN: u32 = 0;
/// There is enough memory.
pub const UMRT_PRESSURE_NORMAL: u32 = 1;
/// Some processes wait for memory. umrt gives back what costs little to get again.
pub const UMRT_PRESSURE_WARNING: u32 = 2;
/// At times nothing runs for want of memory. umrt begins nothing new as well.
pub const UMRT_PRESSURE_CRITICAL: u32 = 3;

/// For `umrt_memory_pressure_callback`: the system's own reports count as notices.
pub const UMRT_PRESSURE_WATCH: u32 = 1;

/// For `umrt_memory_trim`: freed buffers that MLX keeps, and the free part of the
/// heap. They are allocated again as needed.
pub const UMRT_TRIM_MLX_CACHE: u32 = 1;
/// For `umrt_memory_trim`: the pages of all models that are neither pinned nor
/// locked nor computing. They come back when they are used, from the page cache or
/// from disk.
pub const UMRT_TRIM_IDLE_MODELS: u32 = 2;
/// For `umrt_memory_trim`: only those of models whose idle time is over (see
/// `umrt_model_policy`).
pub const UMRT_TRIM_TIMED_OUT_MODELS: u32 = 4;
/// For `umrt_memory_trim`: keys and values of contexts that are not computing go to
/// the directory of `umrt_memory_spill_set`. They come back when they are used.
pub const UMRT_TRIM_IDLE_SEQUENCES: u32 = 8;
/// For `umrt_memory_trim`: keys and values that only prefix caches hold. Texts that begin
/// alike are evaluated again.
pub const UMRT_TRIM_PREFIX_CACHES: u32 = 16;
/// For `umrt_memory_trim`: keys and values of contexts that are not computing are stored
/// as their `umrt_ctx_params.pressure_kv_type` says, if they have one. The one step that
/// is not lossless.
pub const UMRT_TRIM_REDUCE_SEQUENCES: u32 = 32;

/// Hears of memory pressure: `level` is one of `UMRT_PRESSURE_*`, and
/// `given_back_bytes` what umrt gave back because of it.
pub type umrt_pressure_fn =
    Option<unsafe extern "C" fn(level: u32, given_back_bytes: u64, userdata: *mut c_void)>;

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
            weights_locked_bytes: memory.weights_locked as u64,
            text_bytes: memory.text as u64,
            gpu_bytes: memory.on_gpu as u64,
            total_bytes: memory.total() as u64,
            ..Self::zero()
        }
    }

    pub(super) fn of_context(memory: ContextMemory, kv_peak: usize) -> Self {
        Self {
            kv_reserved_bytes: memory.kv_reserved as u64,
            kv_used_bytes: memory.kv_used as u64,
            kv_peak_bytes: kv_peak as u64,
            logits_bytes: memory.logits as u64,
            gpu_bytes: memory.on_gpu as u64,
            total_bytes: memory.total() as u64,
            ..Self::zero()
        }
    }

    fn of_process() -> Result<Self> {
        let stats = runtime::memory_stats()?;
        let contexts = Self::of_context(stats.contexts, stats.kv_peak);
        let pressure = stats.pressure;
        Ok(Self {
            physical_bytes: stats.usable.physical_bytes as u64,
            usable_bytes: stats.usable.usable_bytes as u64,
            kv_reserved_bytes: contexts.kv_reserved_bytes,
            kv_used_bytes: contexts.kv_used_bytes,
            kv_peak_bytes: contexts.kv_peak_bytes,
            logits_bytes: contexts.logits_bytes,
            scratch_bytes: stats.scratch() as u64,
            mlx_active_bytes: stats.mlx.active as u64,
            mlx_cache_bytes: stats.mlx.cache as u64,
            mlx_peak_bytes: stats.mlx.peak as u64,
            process_anonymous_bytes: stats.process.resident_anonymous as u64,
            process_file_bytes: stats.process.resident_file as u64,
            process_peak_bytes: stats.process.resident_peak as u64,
            swap_bytes: stats.process.swapped as u64,
            minor_faults: stats.process.minor_faults,
            major_faults: stats.process.major_faults,
            usable_reason: stats.usable.bound.text().as_ptr(),
            total_bytes: stats.total() as u64,
            pressure_level: pressure.map_or(UMRT_PRESSURE_UNKNOWN, |p| p.level() as u32),
            pressure_percent: pressure.map_or(0.0, |p| p.some_percent),
            adapters_bytes: stats.adapters as u64,
            prefix_cache_bytes: stats.prefix_cache as u64,
            kv_spilled_bytes: stats.kv_spilled as u64,
            gpu_bytes: stats.on_gpu as u64,
            ..Self::of_model(stats.weights)
        })
    }
}

impl umrt_trim_result {
    fn of(trimmed: Trimmed) -> Self {
        Self {
            struct_size: 0,
            n_models: count32(trimmed.models.n_models),
            mlx_cache_bytes: trimmed.mlx_cache as u64,
            private_bytes: trimmed.private as u64,
            model_bytes: trimmed.models.bytes as u64,
            sequence_bytes: trimmed.spilled.bytes as u64,
            n_sequences: count32(trimmed.spilled.n_sequences),
            n_reduced: count32(trimmed.reduced.n_sequences),
            prefix_cache_bytes: trimmed.prefix_cache as u64,
            reduced_bytes: trimmed.reduced.bytes as u64,
        }
    }
}

/// Fills in what the whole process uses memory for. Costs a walk over the page
/// tables of the mapped files: about 1 ms per 1.5 GB in small pages, and a tenth of
/// that in large ones. Figures that change meanwhile need not fit together.
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

/// Gives memory back to the system without losing anything, but for
/// `UMRT_TRIM_REDUCE_SEQUENCES`: sequences go on with the same tokens.
///
/// - `flags`: `UMRT_TRIM_*`; 0 means `UMRT_TRIM_MLX_CACHE | UMRT_TRIM_PREFIX_CACHES |
///   UMRT_TRIM_IDLE_MODELS`.
/// - `result`: receives what was given back; may be NULL.
///
/// Returns INVALID_ARGUMENT (`UMRT_TRIM_IDLE_SEQUENCES` without a directory),
/// UNSUPPORTED (unknown flags), IO, BACKEND. Any thread.
///
/// # Safety
/// `result` is NULL or points to a structure of its `struct_size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_memory_trim(
    flags: u32,
    result: *mut umrt_trim_result,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        let result = unsafe { Destination::new(result)? };
        known_flags(
            flags,
            UMRT_TRIM_MLX_CACHE
                | UMRT_TRIM_IDLE_MODELS
                | UMRT_TRIM_TIMED_OUT_MODELS
                | UMRT_TRIM_IDLE_SEQUENCES
                | UMRT_TRIM_PREFIX_CACHES
                | UMRT_TRIM_REDUCE_SEQUENCES,
        )?;
        let flags = match flags {
            0 => UMRT_TRIM_MLX_CACHE | UMRT_TRIM_PREFIX_CACHES | UMRT_TRIM_IDLE_MODELS,
            flags => flags,
        };
        let steps = TrimSteps {
            mlx_cache: flags & UMRT_TRIM_MLX_CACHE != 0,
            prefix_cache: flags & UMRT_TRIM_PREFIX_CACHES != 0,
            idle_models: flags & UMRT_TRIM_IDLE_MODELS != 0,
            timed_out_models: flags & UMRT_TRIM_TIMED_OUT_MODELS != 0,
            reduced_sequences: flags & UMRT_TRIM_REDUCE_SEQUENCES != 0,
            idle_sequences: flags & UMRT_TRIM_IDLE_SEQUENCES != 0,
        };
        result.fill(umrt_trim_result::of(trim(steps)?))
    })
}

/// Allows umrt to write keys and values of idle sequences to disk when memory is short
/// or `UMRT_TRIM_IDLE_SEQUENCES` asks for it. They come back when they are used next, with
/// the same contents, and what their contexts reserved stays reserved for them.
///
/// - `directory`: where; its files have no names, so that nothing is left behind however
///   the process ends. NULL ends it; what is on disk stays there until it is used.
/// - `max_bytes`: what all of them may take together. Sequences that do not fit stay in
///   memory.
///
/// What is written is the text in another form: choose a directory that is as private.
/// Returns NOT_FOUND (no such directory). Any thread.
///
/// # Safety
/// `directory` is NULL or NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_memory_spill_set(
    directory: *const c_char,
    max_bytes: u64,
) -> umrt_status {
    guard(|| {
        if directory.is_null() {
            return set_spill_place(None);
        }
        // SAFETY: the caller's contract.
        let directory = unsafe { arguments::path(directory, "directory")? };
        let max_bytes = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        set_spill_place(Some((&directory, max_bytes)))
    })
}

/// Sets who hears of memory pressure, after umrt has acted on it: from a warning on
/// it gives back what `umrt_memory_trim(0, NULL)` does, stores idle sequences as their
/// contexts' `pressure_kv_type` says and, if that gave nothing back or the level is critical,
/// moves them to the directory of `umrt_memory_spill_set`; while it is critical
/// `umrt_model_open` and `umrt_ctx_new` return OVER_BUDGET (for 30 seconds after the
/// last critical notice at most). Sequences that are there go on.
///
/// - `callback`: called on the thread that notices: that of
///   `umrt_memory_pressure_notify`, or umrt's own. It may call umrt. NULL ends it.
/// - `flags`: `UMRT_PRESSURE_WATCH` to hear of the system's own reports (Linux:
///   pressure stall information of the machine and the control group, for which a
///   thread sleeps until there is another callback or none; Apple: libdispatch's
///   memory pressure). Without it only `umrt_memory_pressure_notify` notices
///   anything.
///
/// When this returns, the former callback is not called by the watch any more.
///
/// Returns UNSUPPORTED (unknown flags, or the system has no reports to watch;
/// nothing was changed). Any thread.
///
/// # Safety
/// `callback` may be called with `userdata` from any thread until it is replaced.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_memory_pressure_callback(
    callback: umrt_pressure_fn,
    userdata: *mut c_void,
    flags: u32,
) -> umrt_status {
    guard(|| {
        known_flags(flags, UMRT_PRESSURE_WATCH)?;
        let receiver = callback.map(|callback| -> PressureReceiver {
            let host = HostReceiver { callback, userdata };
            Arc::new(move |level, trimmed| host.send(level, trimmed))
        });
        listen(receiver, flags & UMRT_PRESSURE_WATCH != 0)
    })
}

/// Acts on memory pressure as described at `umrt_memory_pressure_callback` and
/// tells the callback, if there is one. For hosts that know of it themselves (the
/// delegate of an iOS application, say), and for tests.
///
/// - `level`: `UMRT_PRESSURE_NORMAL`, `_WARNING` or `_CRITICAL`.
/// - `result`: receives what was given back; may be NULL.
///
/// Returns INVALID_ARGUMENT (no such level), IO, BACKEND. Any thread.
///
/// # Safety
/// `result` is NULL or points to a structure of its `struct_size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_memory_pressure_notify(
    level: u32,
    result: *mut umrt_trim_result,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        let result = unsafe { Destination::new(result)? };
        let level = match level {
            UMRT_PRESSURE_NORMAL => PressureLevel::Normal,
            UMRT_PRESSURE_WARNING => PressureLevel::Warning,
            UMRT_PRESSURE_CRITICAL => PressureLevel::Critical,
            other => {
                return Err(Error::invalid(format!(
                    "level {other} is none of UMRT_PRESSURE_NORMAL, _WARNING and _CRITICAL"
                )));
            }
        };
        result.fill(umrt_trim_result::of(notify(level)?))
    })
}

struct HostReceiver {
    callback: unsafe extern "C" fn(u32, u64, *mut c_void),
    userdata: *mut c_void,
}

// SAFETY: the caller of `umrt_memory_pressure_callback` promised calls from any
// thread.
unsafe impl Send for HostReceiver {}
// SAFETY: as above.
unsafe impl Sync for HostReceiver {}

impl HostReceiver {
    fn send(&self, level: PressureLevel, trimmed: &Trimmed) {
        let sequences = trimmed.reduced.bytes + trimmed.spilled.bytes + trimmed.prefix_cache;
        let given_back = trimmed.private + trimmed.models.bytes + sequences;
        // SAFETY: the contract of `umrt_memory_pressure_callback`.
        unsafe { (self.callback)(level as u32, given_back as u64, self.userdata) };
    }
}
