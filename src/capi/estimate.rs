//! Whether models fit: before they are opened, and by numbers alone.

use std::ffi::c_char;

use super::arguments::{self, count32};
use super::context::{ctx_options, umrt_ctx_params};
use super::guard::{guard, umrt_status};
use super::model::{model_options, umrt_model_params};
use super::structs::{self, c_structs};
use crate::error::{Error, Result};
use crate::memory::{Numbers, NumbersPlan, Share};
use crate::runtime::{self, BudgetInfo, MemoryEstimate};

/// What a model and one context would take, in bytes, and what there is.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct umrt_memory_estimate {
    pub struct_size: u32,
    /// 1 if `umrt_model_open` and `umrt_ctx_new` would succeed now, else 0.
    pub fits: u32,
    /// The context, defaults filled in: tokens of each sequence.
    pub n_ctx: u32,
    /// Sequences.
    pub n_seq: u32,
    /// The largest `n_ctx` that fits with as many sequences, at most what the model
    /// was trained for or what was asked for; 0: none.
    pub max_n_ctx: u32,
    /// If it does not fit: how many sequences of `n_ctx` tokens would; 0: none.
    pub max_n_seq: u32,
    /// If it does not fit: with a KV cache of so many bits it would, 8 or 4; 0: no.
    pub fit_kv_bits: u32,
    /// If it does not fit: with weights of so many bits it would; 0: no.
    pub fit_weight_bits: u32,
    /// Weights that would be used where their file is mapped.
    pub weights_mapped_bytes: u64,
    /// Weights that would be copied out of their file.
    pub weights_copied_bytes: u64,
    /// Of all weights, those stored as float32.
    pub weights_float32_bytes: u64,
    pub weights_float16_bytes: u64,
    pub weights_bfloat16_bytes: u64,
    /// Codes of quantized weights; their scales are among the floats.
    pub weights_packed_bytes: u64,
    pub weights_other_bytes: u64,
    /// Keys and values of one token.
    pub kv_bytes_per_token: u64,
    /// Keys and values of all sequences when full, in whole blocks, and the states of
    /// recurrent layers.
    pub kv_bytes: u64,
    /// Two rows for each sequence: the last ones, and those that replace them.
    pub logits_bytes: u64,
    /// Intermediate results of a step of `prefill_chunk` tokens.
    pub scratch_prefill_bytes: u64,
    /// Intermediate results of a step of one token for each sequence.
    pub scratch_decode_bytes: u64,
    /// Freed buffers that MLX keeps for the next step.
    pub mlx_cache_bytes: u64,
    /// Tokenizer, names and shapes, sequences.
    pub tables_bytes: u64,
    /// Weights, KV, logits, the larger scratch, freed buffers and tables.
    pub total_bytes: u64,
    pub physical_bytes: u64,
    /// What models may use of it.
    pub usable_bytes: u64,
    /// Of that, promised to open models and contexts.
    pub taken_bytes: u64,
    /// By how much it does not fit; 0: it does.
    pub missing_bytes: u64,
    /// What bounds `usable_bytes`, for people. Static.
    pub usable_reason: *const c_char,
    /// Of `total_bytes`, what would be in the memory of a GPU that has its own.
    pub gpu_bytes: u64,
    /// What models may use of that memory; 0: there is none.
    pub gpu_usable_bytes: u64,
}

/// A model and a machine in numbers, for `umrt_numbers_plan`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct umrt_numbers {
    pub struct_size: u32,
    pub n_layers: u32,
    pub n_kv_heads: u32,
    /// Of keys and of values. For latent attention half of `umrt_model_info.head_dim`,
    /// as its values take no memory of their own.
    pub head_dim: u32,
    /// Tokens of each sequence.
    pub n_ctx: u32,
    /// Sequences. 0: 1.
    pub n_seq: u32,
    /// Values in all weights.
    pub n_parameters: u64,
    /// Those that compute one token, fewer in mixtures of experts. 0: all.
    pub n_active_parameters: u64,
    /// 4.5 for 4-bit weights with scales and biases for groups of 64. 0: 16.
    pub bits_per_weight: f64,
    /// 0: 16.
    pub kv_bits: f64,
    pub memory_bytes: u64,
    /// The share of the memory that models may use. 0: 0.75.
    pub fraction: f64,
    /// What the machine reads per second, in units of 10^9 bytes. 0: unknown.
    pub gigabytes_per_second: f64,
}

/// What follows from a model and a machine in numbers.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct umrt_numbers_result {
    pub struct_size: u32,
    /// 1 if weights and KV cache fit into the usable memory, else 0.
    pub fits: u32,
    /// The largest `n_ctx` that fits with as many sequences; 0: none.
    pub max_n_ctx: u32,
    pub reserved: u32,
    /// Parameters times bits, over 8.
    pub weight_bytes: u64,
    pub kv_bytes_per_token: u64,
    /// Of all sequences when full, in whole blocks of 256 tokens.
    pub kv_bytes: u64,
    /// Weights and KV.
    pub total_bytes: u64,
    pub usable_bytes: u64,
    /// At most, with an empty cache: the bandwidth over the active weights.
    pub tokens_per_second: f64,
    /// At most, with one sequence of `n_ctx` tokens.
    pub tokens_per_second_full: f64,
}

/// How much models may use, for `umrt_memory_budget_set`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct umrt_memory_budget {
    pub struct_size: u32,
    pub reserved: u32,
    /// The share of physical memory, above 0 and at most 1. 0: 0.75, unless `bytes`
    /// says it.
    pub fraction: f64,
    /// Instead of a share. Never more than physical memory. 0: as `fraction` says.
    pub bytes: u64,
}

/// The budget and what is promised of it, in bytes.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct umrt_memory_budget_info {
    pub struct_size: u32,
    pub reserved: u32,
    pub physical_bytes: u64,
    /// What models may use of it.
    pub usable_bytes: u64,
    /// All that is promised: mapped weights, private memory, scratch memory and
    /// freed buffers.
    pub taken_bytes: u64,
    /// Mapped weights of models that take turns. The largest model's count.
    pub mapped_bytes: u64,
    /// Mapped weights of pinned models.
    pub pinned_bytes: u64,
    /// Mapped weights of models opened with UMRT_MODEL_ALLOW_PAGING; not counted.
    pub paged_bytes: u64,
    /// Full KV caches, logits, copied weights and tables.
    pub private_bytes: u64,
    /// The largest step of each context.
    pub scratch_bytes: u64,
    /// Freed buffers that MLX may keep.
    pub mlx_cache_bytes: u64,
    /// What bounds `usable_bytes`, for people. Static.
    pub usable_reason: *const c_char,
}

c_structs!(
    umrt_memory_estimate,
    umrt_numbers,
    umrt_numbers_result,
    umrt_memory_budget,
    umrt_memory_budget_info,
);

/// Says from a checkpoint's headers what opening it and making one context would
/// take, and whether it fits beside what is open; takes a millisecond or two.
///
/// - `path`: a directory with config.json and safetensors files.
/// - `model`, `ctx`: as for `umrt_model_open` and `umrt_ctx_new`; NULL for defaults.
///
/// Returns INVALID_ARGUMENT, NOT_FOUND, IO, FORMAT, UNSUPPORTED (names what). That
/// it does not fit is a result, not a failure. Any thread.
///
/// # Safety
/// `path` is NULL or NUL-terminated; the others are NULL or structures of their
/// `struct_size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_model_estimate(
    path: *const c_char,
    model: *const umrt_model_params,
    ctx: *const umrt_ctx_params,
    estimate: *mut umrt_memory_estimate,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        unsafe {
            let path = arguments::path(path, "path")?;
            let model = model_options(&structs::read(model)?)?;
            let ctx = ctx_options(&structs::read(ctx)?)?;
            let found = runtime::estimate(&path, &model, &ctx)?;
            structs::write(estimate, describe(&found))
        }
    })
}

fn describe(found: &MemoryEstimate) -> umrt_memory_estimate {
    umrt_memory_estimate {
        struct_size: 0,
        fits: u32::from(found.missing == 0),
        n_ctx: count32(found.n_ctx),
        n_seq: count32(found.n_sequences),
        max_n_ctx: count32(found.would_fit.n_ctx),
        max_n_seq: count32(found.would_fit.n_sequences),
        fit_kv_bits: count32(found.would_fit.kv_bits),
        fit_weight_bits: count32(found.would_fit.weight_bits),
        weights_mapped_bytes: found.model.mapped as u64,
        weights_copied_bytes: (found.model.copied + found.model.on_gpu) as u64,
        gpu_bytes: found.gpu as u64,
        gpu_usable_bytes: found.gpu_usable.unwrap_or(0) as u64,
        weights_float32_bytes: found.weights.float32 as u64,
        weights_float16_bytes: found.weights.float16 as u64,
        weights_bfloat16_bytes: found.weights.bfloat16 as u64,
        weights_packed_bytes: found.weights.packed as u64,
        weights_other_bytes: found.weights.other as u64,
        kv_bytes_per_token: found.kv_bytes_per_token as u64,
        kv_bytes: found.context.kv as u64,
        logits_bytes: found.context.logits as u64,
        scratch_prefill_bytes: found.context.prefill_scratch as u64,
        scratch_decode_bytes: found.context.decode_scratch as u64,
        mlx_cache_bytes: found.mlx_cache as u64,
        tables_bytes: (found.model.tables + found.context.tables) as u64,
        total_bytes: found.total as u64,
        physical_bytes: found.usable.physical_bytes as u64,
        usable_bytes: found.usable.usable_bytes as u64,
        taken_bytes: found.taken as u64,
        missing_bytes: found.missing as u64,
        usable_reason: found.usable.bound.text().as_ptr(),
    }
}

/// The same by numbers alone, for a checkpoint or a machine that is not here.
///
/// Returns INVALID_ARGUMENT (a number that makes no sense, named). Any thread.
///
/// # Safety
/// Both are NULL or structures of their `struct_size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_numbers_plan(
    numbers: *const umrt_numbers,
    result: *mut umrt_numbers_result,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        unsafe {
            let plan = numbers_of(&structs::read(numbers)?).plan()?;
            structs::write(result, describe_plan(&plan))
        }
    })
}

fn numbers_of(given: &umrt_numbers) -> Numbers {
    let default = Numbers::default();
    let or = |value: f64, default: f64| if value == 0.0 { default } else { value };
    Numbers {
        n_parameters: given.n_parameters,
        n_active_parameters: given.n_active_parameters,
        bits_per_weight: or(given.bits_per_weight, default.bits_per_weight),
        n_layers: given.n_layers,
        n_kv_heads: given.n_kv_heads,
        head_dim: given.head_dim,
        kv_bits: or(given.kv_bits, default.kv_bits),
        n_ctx: given.n_ctx,
        n_sequences: given.n_seq.max(1),
        memory_bytes: given.memory_bytes,
        fraction: or(given.fraction, default.fraction),
        bytes_per_second: given.gigabytes_per_second * 1e9,
    }
}

fn describe_plan(plan: &NumbersPlan) -> umrt_numbers_result {
    umrt_numbers_result {
        struct_size: 0,
        fits: u32::from(plan.fits),
        max_n_ctx: plan.max_n_ctx,
        reserved: 0,
        weight_bytes: plan.weight_bytes,
        kv_bytes_per_token: plan.kv_bytes_per_token,
        kv_bytes: plan.kv_bytes,
        total_bytes: plan.total_bytes,
        usable_bytes: plan.usable_bytes,
        tokens_per_second: plan.tokens_per_second,
        tokens_per_second_full: plan.tokens_per_second_full,
    }
}

/// Sets how much all models and contexts of the process may use together. Limits
/// of the system stay in force: the control group's, resource limits, the GPU's
/// working set. What is open stays open; only what comes next is refused.
///
/// - `budget`: NULL for the default, 75% of physical memory.
///
/// Returns INVALID_ARGUMENT, BACKEND. Any thread.
///
/// # Safety
/// `budget` is NULL or a structure of its `struct_size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_memory_budget_set(budget: *const umrt_memory_budget) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        let budget = unsafe { structs::read(budget)? };
        structs::ensure_reserved::<umrt_memory_budget>(budget.reserved)?;
        runtime::set_budget(share(&budget)?)
    })
}

fn share(budget: &umrt_memory_budget) -> Result<Option<Share>> {
    match (budget.bytes, budget.fraction) {
        (0, 0.0) => Ok(None),
        (0, fraction) => Ok(Some(Share::Fraction(fraction))),
        (bytes, 0.0) => Ok(Some(Share::Bytes(
            usize::try_from(bytes).unwrap_or(usize::MAX),
        ))),
        _ => Err(Error::invalid("give bytes or a fraction, not both")),
    }
}

/// Fills in the budget and what is promised of it.
///
/// Returns INVALID_ARGUMENT. Any thread.
///
/// # Safety
/// `info` is NULL or a structure of its `struct_size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_memory_budget_get(info: *mut umrt_memory_budget_info) -> umrt_status {
    // SAFETY: the caller's contract.
    guard(|| unsafe { structs::write(info, describe_budget(&runtime::budget_info()?)) })
}

fn describe_budget(budget: &BudgetInfo) -> umrt_memory_budget_info {
    umrt_memory_budget_info {
        struct_size: 0,
        reserved: 0,
        physical_bytes: budget.usable.physical_bytes as u64,
        usable_bytes: budget.usable.usable_bytes as u64,
        taken_bytes: budget.taken as u64,
        mapped_bytes: budget.reserved.mapped as u64,
        pinned_bytes: budget.reserved.kept as u64,
        paged_bytes: budget.reserved.paged as u64,
        private_bytes: budget.reserved.private as u64,
        scratch_bytes: budget.reserved.scratch as u64,
        mlx_cache_bytes: budget.mlx_cache as u64,
        usable_reason: budget.usable.bound.text().as_ptr(),
    }
}
