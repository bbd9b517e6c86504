//! Contexts and their sequences.

use std::sync::Mutex;

use super::arguments::{self, count32};
use super::guard::{guard, guard_free, umrt_status};
use super::handle;
use super::memory::umrt_memory_info;
use super::model::umrt_model;
use super::structs::{self, c_structs};
use crate::error::{Error, Result};
use crate::kernels::Activations;
use crate::kv::KvType;
use crate::runtime::{Context, ContextOptions, Overflow};

/// Sequences of one model and their KV caches. Takes one call at a time; a
/// second, overlapping one gets BUSY. Several contexts run at once.
pub struct umrt_ctx(pub(super) Mutex<Context>);

/// `umrt_ctx_params.kv_type`: keys and values are stored in the type that the model
/// computes in.
pub const UMRT_KV_COMPUTED: u32 = 0;
/// As 32-bit floats.
pub const UMRT_KV_F32: u32 = 1;
/// As 16-bit floats of IEEE 754.
pub const UMRT_KV_F16: u32 = 2;
/// As bfloat16.
pub const UMRT_KV_BF16: u32 = 3;
/// As whole numbers of 8 bits, with a scale and a bias for every 64.
pub const UMRT_KV_Q8_G64: u32 = 4;
/// As whole numbers of 8 bits, with a scale and a bias for every 32.
pub const UMRT_KV_Q8_G32: u32 = 5;
/// As whole numbers of 4 bits, with a scale and a bias for every 64.
pub const UMRT_KV_Q4_G64: u32 = 6;
/// As whole numbers of 4 bits, with a scale and a bias for every 32.
pub const UMRT_KV_Q4_G32: u32 = 7;

/// `umrt_ctx_params.overflow`: tokens that do not fit behind a sequence are refused
/// (NO_SPACE), and `umrt_generate` ends with `UMRT_STOP_CONTEXT_FULL`.
pub const UMRT_OVERFLOW_REFUSE: u32 = 0;
/// The oldest tokens behind the first `n_keep` are removed as by `umrt_seq_shift`: half of
/// them at a time, so that it costs next to nothing for each token. If the evaluation
/// fails afterwards, they stay removed. Tokens that would not even fit behind the first
/// `n_keep` are refused. UNSUPPORTED for models with recurrent layers.
pub const UMRT_OVERFLOW_SHIFT: u32 = 1;

/// `umrt_ctx_params.activations`: 15 bits for a single token and where guesses are checked,
/// 8 bits where several bfloat16 tokens are evaluated together.
pub const UMRT_ACTIVATIONS_AUTO: u32 = 0;
/// 8 bits, with a scale for every 32. Checking guesses costs much less, so that they pay
/// more often. Next-token distributions differ from those of exact activations by about as
/// much as where bfloat16 tokens are evaluated together anyway. Up to 12 tokens of a step
/// that are not in the middle of a prompt are computed as if each was alone: what a
/// sequence gets does not depend on others that decode beside it. Float32 activations stay
/// as they are, and NVFP4 weights get 15 bits. On GPUs, and with MLX's operations,
/// UNSUPPORTED.
pub const UMRT_ACTIVATIONS_EIGHT_BITS: u32 = 1;

/// For `umrt_ctx_new`. 0 means the default.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct umrt_ctx_params {
    pub struct_size: u32,
    /// Tokens that each sequence may hold. Default: what the model was trained
    /// for, but at most 8192. Memory grows with the tokens that are there.
    pub n_ctx: u32,
    /// Sequences. Default: 1.
    pub n_seq: u32,
    /// Tokens that are evaluated together at most: more is faster for prompts
    /// and takes more scratch memory. Default: 512.
    pub prefill_chunk: u32,
    /// Threads that compute on the CPU, at most 1024; contexts with the same
    /// number share them. Default: the physical cores that the process may use,
    /// by its affinity mask and its control group's quota. More gain nothing; use
    /// fewer to leave cores to the application.
    pub n_threads: u32,
    /// How keys and values are stored, `UMRT_KV_*`. Fewer bits take less memory and
    /// cost accuracy: with 8 bits hardly any, with 4 bits some; 8 and 4 bits also
    /// cost time behind long prompts. Groups must divide the dimensions of the
    /// model's heads.
    pub kv_type: u32,
    /// Bytes that the context may take at most. Default: what the budget leaves.
    pub memory_limit: u64,
    /// Nonzero: blocks of 256 tokens that sequences complete, and all that they give
    /// up, are kept in the model's prefix cache (`umrt_model_prefix_cache_set`), and the
    /// prompts of `umrt_generate` begin with what is found there; `umrt_seq_reuse_prefix`
    /// does so for `umrt_eval`. UNSUPPORTED for models with recurrent layers, whose
    /// states belong to all tokens in front of them. Default: neither.
    pub prefix_cache: u32,
    /// What happens when tokens do not fit behind a sequence, `UMRT_OVERFLOW_*`.
    pub overflow: u32,
    /// With `UMRT_OVERFLOW_SHIFT`: how many tokens at the beginning of a sequence stay; a
    /// few (4, say) keep a text coherent.
    pub n_keep: u32,
    /// Nonzero: how idle sequences are stored from memory pressure on
    /// (`umrt_memory_pressure_notify`, `UMRT_TRIM_REDUCE_SEQUENCES`), one of `UMRT_KV_*` that
    /// takes less memory than `kv_type`, before any go to disk. That is not lossless: it
    /// costs the accuracy that such a `kv_type` does, from then on and until the sequence
    /// is empty. What the context reserves is not less. On GPUs, and with MLX's operations,
    /// UNSUPPORTED. Default: sequences stay as they are.
    pub pressure_kv_type: u32,
    /// As what activations are multiplied with quantized weights, `UMRT_ACTIVATIONS_*`.
    pub activations: u32,
    pub reserved: u32,
}

/// What a context is.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct umrt_ctx_info {
    pub struct_size: u32,
    pub n_ctx: u32,
    pub n_seq: u32,
    pub prefill_chunk: u32,
    /// Length of a row of logits.
    pub vocab_size: u32,
    /// Threads that compute on the CPU; 1 where MLX alone does, as on a GPU.
    pub n_threads: u32,
    /// Bytes that each token adds to a sequence's KV cache.
    pub kv_bytes_per_token: u64,
}

/// Counters since the context was made. A step in which each sequence gets one
/// token, perhaps with guesses behind it, counts as decoding, any other as prefill.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct umrt_perf {
    pub struct_size: u32,
    pub reserved: u32,
    pub n_prefill_tokens: u64,
    pub n_decode_tokens: u64,
    /// Successful calls of `umrt_eval`, those inside `umrt_generate` included.
    pub n_evals: u64,
    /// Nanoseconds.
    pub prefill_ns: u64,
    /// Nanoseconds.
    pub decode_ns: u64,
    /// How often a text began with what the prefix cache had.
    pub n_prefix_hits: u64,
    /// Tokens that were not evaluated because of it.
    pub n_prefix_tokens: u64,
    /// Tokens that sequences lost to make room (`UMRT_OVERFLOW_SHIFT`), or by
    /// `umrt_seq_shift`.
    pub n_removed_tokens: u64,
    /// Tokens that were guessed by a draft model or looked up, and evaluated.
    pub n_drafted: u64,
    /// Of those, the ones that were right; the others do not count as decoded.
    pub n_accepted: u64,
}

c_structs!(umrt_ctx_params, umrt_ctx_info, umrt_perf,);

/// Makes a context. KV memory is taken as sequences grow, never beyond `n_ctx`; all
/// that full sequences and the largest step need is reserved here, so that later
/// calls find it.
///
/// - `params`: NULL for defaults.
/// - `ctx`: receives the handle. Free it with `umrt_ctx_free`.
///
/// Returns INVALID_ARGUMENT (`n_threads` above 1024, an unknown `kv_type`, a
/// `pressure_kv_type` that takes no less memory), UNSUPPORTED (one of both whose groups the
/// model's heads do not divide into; `pressure_kv_type` and `activations` with MLX's
/// operations; `prefix_cache` and `UMRT_OVERFLOW_SHIFT` with recurrent layers),
/// OVER_BUDGET (full sequences would take more than is left; the message says how
/// much is missing and what would fit), BACKEND. Any thread.
///
/// # Safety
/// `model` is NULL or a live handle, `params` NULL or a structure of its
/// `struct_size`, `ctx` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_ctx_new(
    model: *const umrt_model,
    params: *const umrt_ctx_params,
    ctx: *mut *mut umrt_ctx,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        unsafe {
            handle::give(ctx, || {
                let model = handle::borrow(model, "model")?;
                let options = ctx_options(&structs::read(params)?)?;
                Ok(umrt_ctx(Mutex::new(Context::new(&model.0, &options)?)))
            })
        }
    })
}

pub(super) fn ctx_options(params: &umrt_ctx_params) -> Result<ContextOptions> {
    structs::ensure_reserved::<umrt_ctx_params>(params.reserved)?;
    Ok(ContextOptions {
        n_ctx: params.n_ctx as usize,
        n_sequences: params.n_seq as usize,
        prefill_chunk: params.prefill_chunk as usize,
        n_threads: params.n_threads as usize,
        kv_type: kv_type("kv_type", params.kv_type)?,
        pressure_kv_type: match params.pressure_kv_type {
            0 => None,
            value => Some(kv_type("pressure_kv_type", value)?),
        },
        activations: match params.activations {
            UMRT_ACTIVATIONS_AUTO => Activations::Auto,
            UMRT_ACTIVATIONS_EIGHT_BITS => Activations::EightBits,
            other => {
                return Err(Error::invalid(format!(
                    "activations is {other}; it is UMRT_ACTIVATIONS_AUTO or \
                     UMRT_ACTIVATIONS_EIGHT_BITS"
                )));
            }
        },
        memory_limit: usize::try_from(params.memory_limit).unwrap_or(usize::MAX),
        prefix_cache: params.prefix_cache != 0,
        overflow: match params.overflow {
            UMRT_OVERFLOW_REFUSE => Overflow::Refuse,
            UMRT_OVERFLOW_SHIFT => Overflow::Shift {
                n_keep: params.n_keep as usize,
            },
            other => {
                return Err(Error::invalid(format!(
                    "overflow is {other}; it is UMRT_OVERFLOW_REFUSE or UMRT_OVERFLOW_SHIFT"
                )));
            }
        },
    })
}

fn kv_type(name: &str, value: u32) -> Result<KvType> {
    let quantized = |bits, group_size| KvType::Quantized { bits, group_size };
    match value {
        UMRT_KV_COMPUTED => Ok(KvType::Computed),
        UMRT_KV_F32 => Ok(KvType::F32),
        UMRT_KV_F16 => Ok(KvType::F16),
        UMRT_KV_BF16 => Ok(KvType::Bf16),
        UMRT_KV_Q8_G64 => Ok(quantized(8, 64)),
        UMRT_KV_Q8_G32 => Ok(quantized(8, 32)),
        UMRT_KV_Q4_G64 => Ok(quantized(4, 64)),
        UMRT_KV_Q4_G32 => Ok(quantized(4, 32)),
        other => Err(Error::invalid(format!(
            "{name} is {other}; it is one of UMRT_KV_*, from 0 to {UMRT_KV_Q4_G32}"
        ))),
    }
}

/// Gives the context and its KV caches back; if a call is using it, when that
/// call ends. NULL is ignored. Any thread.
///
/// # Safety
/// `ctx` is NULL or a live handle that is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_ctx_free(ctx: *mut umrt_ctx) {
    // SAFETY: the caller's contract.
    guard_free(|| unsafe { handle::free(ctx) });
}

/// Runs `call` on the context behind a handle, alone.
///
/// # Safety
/// `ctx` is null or a live handle.
pub(super) unsafe fn with<T>(
    ctx: *const umrt_ctx,
    call: impl FnOnce(&mut Context) -> Result<T>,
) -> Result<T> {
    // SAFETY: the caller's contract.
    let ctx = unsafe { handle::borrow(ctx, "context")? };
    call(&mut *handle::one_call(&ctx.0, "context")?)
}

/// Describes a context.
///
/// Returns INVALID_ARGUMENT, BUSY. Any thread.
///
/// # Safety
/// `ctx` is NULL or a live handle; `info` is NULL or a structure of its
/// `struct_size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_ctx_info_get(
    ctx: *const umrt_ctx,
    info: *mut umrt_ctx_info,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        unsafe {
            let filled = with(ctx, |context| {
                Ok(umrt_ctx_info {
                    struct_size: 0,
                    n_ctx: count32(context.n_ctx()),
                    n_seq: count32(context.n_sequences()),
                    prefill_chunk: count32(context.prefill_chunk()),
                    vocab_size: count32(context.model().info().spec.vocab_size),
                    n_threads: count32(context.n_threads()),
                    kv_bytes_per_token: context.kv_bytes_per_token() as u64,
                })
            })?;
            structs::write(info, filled)
        }
    })
}

/// Fills in the context's counters.
///
/// Returns INVALID_ARGUMENT, BUSY. Any thread.
///
/// # Safety
/// `ctx` is NULL or a live handle; `perf` is NULL or a structure of its
/// `struct_size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_ctx_perf(ctx: *const umrt_ctx, perf: *mut umrt_perf) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        unsafe {
            let counted = with(ctx, |context| Ok(context.perf()))?;
            let filled = umrt_perf {
                struct_size: 0,
                reserved: 0,
                n_prefill_tokens: counted.n_prefill_tokens,
                n_decode_tokens: counted.n_decode_tokens,
                n_evals: counted.n_evals,
                prefill_ns: counted.prefill_time.as_nanos() as u64,
                decode_ns: counted.decode_time.as_nanos() as u64,
                n_prefix_hits: counted.n_prefix_hits,
                n_prefix_tokens: counted.n_prefix_tokens,
                n_removed_tokens: counted.n_removed_tokens,
                n_drafted: counted.n_drafted,
                n_accepted: counted.n_accepted,
            };
            structs::write(perf, filled)
        }
    })
}

/// Fills in the context's own memory: the `kv_*` and `logits_bytes` fields, and
/// `total_bytes`, their sum.
///
/// Returns INVALID_ARGUMENT, BUSY. Any thread.
///
/// # Safety
/// `ctx` is NULL or a live handle; `memory` is NULL or a structure of its
/// `struct_size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_ctx_memory_stats(
    ctx: *const umrt_ctx,
    memory: *mut umrt_memory_info,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        unsafe {
            let (used, kv_peak) = with(ctx, |context| Ok((context.memory(), context.kv_peak())))?;
            structs::write(memory, umrt_memory_info::of_context(used, kv_peak))
        }
    })
}

/// Fills in one sequence's own memory: `kv_reserved_bytes`, `kv_used_bytes` and
/// `total_bytes`. What it shares with other sequences is included.
///
/// Returns INVALID_ARGUMENT (no such sequence), BUSY. Any thread.
///
/// # Safety
/// `ctx` is NULL or a live handle; `memory` is NULL or a structure of its
/// `struct_size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_seq_memory_stats(
    ctx: *const umrt_ctx,
    seq: i32,
    memory: *mut umrt_memory_info,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        unsafe {
            let used = with(ctx, |context| context.sequence_memory(seq))?;
            structs::write(memory, umrt_memory_info::of_context(used, 0))
        }
    })
}

/// Stores how many tokens a sequence holds.
///
/// Returns INVALID_ARGUMENT, BUSY. Any thread.
///
/// # Safety
/// `ctx` is NULL or a live handle; `n_tokens` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_seq_length(
    ctx: *const umrt_ctx,
    seq: i32,
    n_tokens: *mut u32,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        unsafe {
            let length = with(ctx, |context| context.sequence_length(seq))?;
            arguments::store(n_tokens, count32(length), "n_tokens")
        }
    })
}

/// Makes sequence `to` hold the same tokens as sequence `from`, in place of its own.
/// It takes no time and no memory: what both hold is shared until one of them
/// changes it.
///
/// Returns INVALID_ARGUMENT (no such sequence), BUSY. Any thread.
///
/// # Safety
/// `ctx` is NULL or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_seq_fork(ctx: *mut umrt_ctx, from: i32, to: i32) -> umrt_status {
    // SAFETY: the caller's contract.
    guard(|| unsafe { with(ctx, |context| context.fork(from, to)) })
}

/// Keeps the first `keep` tokens of a sequence and forgets the rest. Memory for 256
/// tokens is given back where none of them is left; with 0 all of it.
///
/// Models with recurrent layers (`lfm2`) keep states instead of keys and values there,
/// and those of earlier tokens are gone: their sequences can be cut to 0, to all that
/// they hold, and to what they held in front of the last evaluation, as long as they are
/// in memory. Fork or save them where you may want to come back to.
///
/// Returns INVALID_ARGUMENT (no such sequence, or it holds fewer), UNSUPPORTED (a place
/// without states; nothing has changed), BUSY. Any thread.
///
/// # Safety
/// `ctx` is NULL or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_seq_trim(ctx: *mut umrt_ctx, seq: i32, keep: u32) -> umrt_status {
    // SAFETY: the caller's contract.
    guard(|| unsafe { with(ctx, |context| context.trim(seq, keep as usize)) })
}
