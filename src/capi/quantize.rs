//! Quantizing checkpoints.

use std::ffi::{c_char, c_void};

use super::arguments;
use super::cancel::{self, umrt_cancel};
use super::guard::{guard, umrt_status};
use super::model::umrt_progress_fn;
use super::structs::{self, c_structs};
use crate::checkpoint::Mode;
use crate::convert::{MAX_SHARD_BYTES, QuantizeSettings, Recipe};
use crate::error::{Error, Result};
use crate::kernels::Float;
use crate::runtime::{self, QuantizeWatch};

/// `umrt_quantize_params.mode`: whole numbers of 2, 3, 4, 5, 6 or 8 bits, with a
/// scale and a bias for each 32, 64 or 128.
pub const UMRT_QUANTIZE_AFFINE: u32 = 0;
/// `umrt_quantize_params.mode`: floats of 4 bits, with a power of two for each 32.
pub const UMRT_QUANTIZE_MXFP4: u32 = 1;
/// `umrt_quantize_params.mode`: floats of 8 bits, with a power of two for each 32.
pub const UMRT_QUANTIZE_MXFP8: u32 = 2;
/// `umrt_quantize_params.mode`: floats of 4 bits, with a float of 8 for each 16.
pub const UMRT_QUANTIZE_NVFP4: u32 = 3;

/// `umrt_quantize_params.recipe`: the same bits for all.
pub const UMRT_RECIPE_NONE: u32 = 0;
/// `umrt_quantize_params.recipe`: 2 bits, and 6 for values and the matrices behind
/// the gate in some layers, and for the output.
pub const UMRT_RECIPE_MIXED_2_6: u32 = 1;
/// `umrt_quantize_params.recipe`: likewise with 3 and 4 bits.
pub const UMRT_RECIPE_MIXED_3_4: u32 = 2;
/// `umrt_quantize_params.recipe`: likewise with 3 and 6 bits.
pub const UMRT_RECIPE_MIXED_3_6: u32 = 3;
/// `umrt_quantize_params.recipe`: likewise with 4 and 6 bits.
pub const UMRT_RECIPE_MIXED_4_6: u32 = 4;

/// `umrt_quantize_params.dtype`: as the checkpoint has them; as its config.json says
/// under "torch_dtype", if it does.
pub const UMRT_DTYPE_KEPT: u32 = 0;
/// `umrt_quantize_params.dtype`
pub const UMRT_DTYPE_F32: u32 = 1;
/// `umrt_quantize_params.dtype`
pub const UMRT_DTYPE_F16: u32 = 2;
/// `umrt_quantize_params.dtype`
pub const UMRT_DTYPE_BF16: u32 = 3;

/// `umrt_quantize_params.flags`: a model at the target is replaced, once the new one
/// is complete.
pub const UMRT_QUANTIZE_REPLACE: u32 = 1;

/// For `umrt_model_quantize`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct umrt_quantize_params {
    pub struct_size: u32,
    /// `UMRT_QUANTIZE_AFFINE` or another.
    pub mode: u32,
    /// 0: 4, and 8 with UMRT_QUANTIZE_MXFP8.
    pub bits: u32,
    /// 0: 64, 32 with MXFP4 and MXFP8, 16 with NVFP4.
    pub group_size: u32,
    /// `UMRT_RECIPE_NONE` or another, which chooses the bits of affine weights.
    pub recipe: u32,
    /// Of what stays floats: scales, biases, norms. `UMRT_DTYPE_KEPT` or another.
    pub dtype: u32,
    /// `UMRT_QUANTIZE_REPLACE` or 0.
    pub flags: u32,
    /// 0: as many as suit the machine.
    pub n_threads: u32,
    /// Of a file of weights at most, unless a tensor is larger. 0: 5 GiB.
    pub max_shard_bytes: u64,
    /// Called with bytes of the source; may be NULL.
    pub progress: umrt_progress_fn,
    pub progress_userdata: *mut c_void,
    /// Stops it; may be NULL.
    pub cancel: *const umrt_cancel,
}

c_structs!(umrt_quantize_params);

/// Writes a checkpoint of floats as a quantized one, in MLX's formats: the same
/// tensors under the same names that mlx-lm's conversion gives, with config.json and
/// the tokenizer's files. What takes part stays on disk but for a few rows of each
/// thread.
///
/// - `source`: a directory with config.json and safetensors files.
/// - `target`: the new directory. It is written under a hidden name beside it, and
///   complete when it appears; a failed or cancelled call leaves nothing.
/// - `params`: NULL for defaults, 4 bits in groups of 64.
///
/// Returns INVALID_ARGUMENT (also if something is at `target`), NOT_FOUND, IO, FORMAT
/// (what is wrong in which file), UNSUPPORTED (names what: families, weights that are
/// quantized already), CANCELLED, OUT_OF_MEMORY, BACKEND. Any thread.
///
/// # Safety
/// The paths are NULL or NUL-terminated; `params` is NULL or points to a structure of
/// its `struct_size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_model_quantize(
    source: *const c_char,
    target: *const c_char,
    params: *const umrt_quantize_params,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        let (source, target, params) = unsafe {
            (
                arguments::path(source, "source")?,
                arguments::path(target, "target")?,
                structs::read(params)?,
            )
        };
        // SAFETY: the caller's contract.
        let cancel = unsafe { cancel::optional(params.cancel) };
        let mut report = |done: usize, total: usize| {
            if let Some(progress) = params.progress {
                // SAFETY: the host's function with the host's userdata.
                unsafe { progress(done, total, params.progress_userdata) };
            }
        };
        let watch = QuantizeWatch {
            progress: Some(&mut report),
            cancel: cancel.as_ref(),
        };
        runtime::quantize(&source, &target, &settings(&params)?, watch)
    })
}

fn settings(params: &umrt_quantize_params) -> Result<QuantizeSettings> {
    arguments::known_flags(params.flags, UMRT_QUANTIZE_REPLACE)?;
    let given = |value: u32| (value != 0).then_some(value as usize);
    Ok(QuantizeSettings {
        mode: mode(params.mode)?,
        bits: given(params.bits),
        group_size: given(params.group_size),
        recipe: recipe(params.recipe)?,
        float: dtype(params.dtype)?,
        replaces_model: params.flags & UMRT_QUANTIZE_REPLACE != 0,
        max_shard_bytes: match params.max_shard_bytes {
            0 => MAX_SHARD_BYTES,
            bytes => usize::try_from(bytes).unwrap_or(usize::MAX),
        },
        n_threads: params.n_threads as usize,
    })
}

fn mode(mode: u32) -> Result<Mode> {
    match mode {
        UMRT_QUANTIZE_AFFINE => Ok(Mode::Affine),
        UMRT_QUANTIZE_MXFP4 => Ok(Mode::Mxfp4),
        UMRT_QUANTIZE_MXFP8 => Ok(Mode::Mxfp8),
        UMRT_QUANTIZE_NVFP4 => Ok(Mode::Nvfp4),
        other => Err(Error::invalid(format!(
            "mode {other} is none of UMRT_QUANTIZE_*"
        ))),
    }
}

fn recipe(recipe: u32) -> Result<Option<Recipe>> {
    match recipe {
        UMRT_RECIPE_NONE => Ok(None),
        UMRT_RECIPE_MIXED_2_6 => Ok(Some(Recipe::Mixed2And6)),
        UMRT_RECIPE_MIXED_3_4 => Ok(Some(Recipe::Mixed3And4)),
        UMRT_RECIPE_MIXED_3_6 => Ok(Some(Recipe::Mixed3And6)),
        UMRT_RECIPE_MIXED_4_6 => Ok(Some(Recipe::Mixed4And6)),
        other => Err(Error::invalid(format!(
            "recipe {other} is none of UMRT_RECIPE_*"
        ))),
    }
}

fn dtype(dtype: u32) -> Result<Option<Float>> {
    match dtype {
        UMRT_DTYPE_KEPT => Ok(None),
        UMRT_DTYPE_F32 => Ok(Some(Float::F32)),
        UMRT_DTYPE_F16 => Ok(Some(Float::F16)),
        UMRT_DTYPE_BF16 => Ok(Some(Float::Bf16)),
        other => Err(Error::invalid(format!(
            "dtype {other} is none of UMRT_DTYPE_*"
        ))),
    }
}
