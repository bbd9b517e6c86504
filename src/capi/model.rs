//! Models: what is in a checkpoint, and opening it.

use std::ffi::{c_char, c_void};
use std::path::Path;
use std::sync::Arc;

use super::arguments::{self, count32, fixed_text};
use super::cancel::{self, umrt_cancel};
use super::guard::{guard, guard_free, umrt_status};
use super::handle;
use super::memory::umrt_memory_info;
use super::structs::{self, c_structs};
use crate::checkpoint::LoadMode;
use crate::decoder::Precision;
use crate::error::{Error, Result};
use crate::mlx::{CpuOps, Device};
use crate::runtime::{self, DeviceChoice, Model, ModelInfo, ModelOptions};

/// An opened checkpoint. Immutable; shared by its contexts, which keep it alive.
pub struct umrt_model(pub(super) Arc<Model>);

/// `umrt_model_params.device`: the first GPU if there is one, otherwise the CPU; the
/// log says why.
pub const UMRT_DEVICE_AUTO: u32 = 0;

/// `umrt_model_params.precision`: the type that the checkpoint was published in.
pub const UMRT_PRECISION_NATIVE: u32 = 0;
/// `umrt_model_params.precision`: compute in float32 whatever the weights are;
/// exact, but with a KV cache twice as large as for 16-bit checkpoints.
pub const UMRT_PRECISION_FLOAT32: u32 = 1;

/// `umrt_model_params.cpu_ops`: on a CPU, umrt's own kernels where there are any.
/// The environment variable UMRT_CPU_OPS=stock turns this into the next one.
pub const UMRT_CPU_OPS_KERNELS: u32 = 0;
/// `umrt_model_params.cpu_ops`: on a CPU, only MLX's stock operations, which are
/// what runs on GPUs. Slow; for comparisons.
pub const UMRT_CPU_OPS_STOCK: u32 = 1;

/// `umrt_model_params.flags`: open the model even if its weights exceed the budget.
/// What does not stay in memory is read from disk for every token, which is slow.
pub const UMRT_MODEL_ALLOW_PAGING: u32 = 1;

/// `umrt_model_params.load`: the files are mapped. Nothing is read before it is
/// used, and each byte is in memory once, in the page cache, which the system can
/// drop and read again. The files must not be changed meanwhile.
pub const UMRT_LOAD_MAP: u32 = 0;
/// `umrt_model_params.load`: the files are read into private memory at once
/// (`weights_copied_bytes`). They may be changed or removed afterwards; the page
/// cache holds a second copy for as long as the system likes.
pub const UMRT_LOAD_READ: u32 = 1;
/// `umrt_model_params.load`: as UMRT_LOAD_READ, but past the page cache, so that
/// there is no second copy. UNSUPPORTED where the file system cannot.
pub const UMRT_LOAD_DIRECT: u32 = 2;

/// Called while a model is opened or its weights are read, on the calling thread:
/// `done` of `total` layers, or bytes where weights are read.
pub type umrt_progress_fn =
    Option<unsafe extern "C" fn(done: usize, total: usize, userdata: *mut c_void)>;

/// For `umrt_model_open`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct umrt_model_params {
    pub struct_size: u32,
    /// `UMRT_DEVICE_AUTO`, `UMRT_DEVICE_CPU` or `UMRT_DEVICE_GPU`.
    pub device: u32,
    /// `UMRT_PRECISION_NATIVE` or `UMRT_PRECISION_FLOAT32`.
    pub precision: u32,
    /// `UMRT_CPU_OPS_KERNELS` or `UMRT_CPU_OPS_STOCK`.
    pub cpu_ops: u32,
    /// May be NULL.
    pub progress: umrt_progress_fn,
    pub progress_userdata: *mut c_void,
    /// Stops the opening; may be NULL.
    pub cancel: *const umrt_cancel,
    /// Bytes that the model may take at most, without its contexts. 0: what the
    /// budget leaves.
    pub memory_limit: u64,
    /// `UMRT_MODEL_ALLOW_PAGING` or 0.
    pub flags: u32,
    /// `UMRT_LOAD_MAP`, `UMRT_LOAD_READ` or `UMRT_LOAD_DIRECT`.
    pub load: u32,
    /// With `UMRT_DEVICE_GPU`: which of them, from 0; see `umrt_device_info.gpu_index`.
    pub gpu_index: u32,
    pub reserved: u32,
}

/// What a checkpoint is.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct umrt_model_info {
    pub struct_size: u32,
    pub n_layers: u32,
    pub hidden_size: u32,
    pub intermediate_size: u32,
    pub n_heads: u32,
    pub n_kv_heads: u32,
    /// Of keys and of values. With latent attention, of the one key that a token has,
    /// whose part its values are.
    pub head_dim: u32,
    /// Token ids are below this.
    pub vocab_size: u32,
    /// Positions the model was trained for.
    pub max_context: u32,
    /// Bits per quantized weight; 0: the weights are floats.
    pub quant_bits: u32,
    /// Weights that share a scale; 0: the weights are floats.
    pub quant_group_size: u32,
    /// 1 if text can be tokenized, else 0.
    pub has_tokenizer: u32,
    /// 1 if messages can be rendered, else 0.
    pub has_chat_template: u32,
    /// `UMRT_DEVICE_CPU` or `UMRT_DEVICE_GPU`; 0 if the model was only inspected.
    pub device: u32,
    /// Values in all weights.
    pub n_parameters: u64,
    /// Bytes of all tensors in the files.
    pub weight_bytes: u64,
    /// Bytes that each token adds to a sequence's KV cache.
    pub kv_bytes_per_token: u64,
    /// The architecture's name, such as "llama".
    pub model_type: [c_char; 64],
}

c_structs!(umrt_model_params, umrt_model_info);

/// Reads what a checkpoint is from its headers; no weight is touched.
///
/// - `path`: a directory with config.json and safetensors files, or a GGUF file.
///
/// Returns INVALID_ARGUMENT, NOT_FOUND, IO, FORMAT, UNSUPPORTED (names what).
/// Any thread.
///
/// # Safety
/// `path` is NULL or NUL-terminated; `info` is NULL or points to a structure of
/// its `struct_size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_model_inspect(
    path: *const c_char,
    info: *mut umrt_model_info,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        unsafe {
            let path = arguments::path(path, "path")?;
            structs::write(info, describe(&runtime::inspect(&path)?, 0))
        }
    })
}

/// Opens a checkpoint by mapping it: the weights are not read before they are
/// used, and are not copied (see `weights_copied_bytes`). For a GPU that has memory of
/// its own they are read once and copied there (`gpu_bytes`).
///
/// - `path`: a directory with config.json and safetensors files, or a GGUF file.
/// - `params`: NULL for defaults.
/// - `model`: receives the handle. Free it with `umrt_model_free`.
///
/// Mapped files must not be changed while they are open: a file that another
/// process shortens ends this one with SIGBUS when the missing part is read. It is
/// looked for four times a second while the model computes, and then is a status;
/// only `UMRT_LOAD_READ` and `UMRT_LOAD_DIRECT` make it harmless.
///
/// Returns INVALID_ARGUMENT (no GPU of this index), NOT_FOUND, IO, FORMAT (what is
/// wrong in which file), UNSUPPORTED (names what; or why there is no GPU), OVER_BUDGET
/// (the weights exceed what models may use;
/// the message says by how much; or memory pressure is critical), CANCELLED,
/// OUT_OF_MEMORY, BACKEND. Any thread.
///
/// # Safety
/// `path` is NULL or NUL-terminated; `params` is NULL or points to a structure
/// of its `struct_size`; `model` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_model_open(
    path: *const c_char,
    params: *const umrt_model_params,
    model: *mut *mut umrt_model,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        unsafe {
            handle::give(model, || {
                let path = arguments::path(path, "path")?;
                open(&path, &structs::read(params)?).map(umrt_model)
            })
        }
    })
}

/// # Safety
/// The pointers in `params` are as `umrt_model_open` requires.
unsafe fn open(path: &Path, params: &umrt_model_params) -> Result<Arc<Model>> {
    // SAFETY: the caller's contract.
    let cancel = unsafe { cancel::optional(params.cancel) };
    let mut report = |done: usize, total: usize| {
        if let Some(progress) = params.progress {
            // SAFETY: the host's function with the host's userdata.
            unsafe { progress(done, total, params.progress_userdata) };
        }
    };
    let options = ModelOptions {
        progress: Some(&mut report),
        cancel: cancel.as_ref(),
        ..model_options(params)?
    };
    Model::open(path, options)
}

/// All but whom to tell and who may stop it.
pub(super) fn model_options<'a>(params: &umrt_model_params) -> Result<ModelOptions<'a>> {
    arguments::known_flags(params.flags, UMRT_MODEL_ALLOW_PAGING)?;
    structs::ensure_reserved::<umrt_model_params>(params.reserved)?;
    Ok(ModelOptions {
        device: device_choice(params.device, params.gpu_index)?,
        precision: precision(params.precision)?,
        cpu_ops: cpu_ops(params.cpu_ops)?,
        load: load_mode(params.load)?,
        memory_limit: usize::try_from(params.memory_limit).unwrap_or(usize::MAX),
        allow_paging: params.flags & UMRT_MODEL_ALLOW_PAGING != 0,
        ..ModelOptions::default()
    })
}

fn device_choice(device: u32, gpu_index: u32) -> Result<DeviceChoice> {
    match device {
        super::library::UMRT_DEVICE_GPU => Ok(DeviceChoice::Gpu(gpu_index as usize)),
        UMRT_DEVICE_AUTO | super::library::UMRT_DEVICE_CPU if gpu_index > 0 => Err(Error::invalid(
            format!("gpu_index is {gpu_index}, but device is not UMRT_DEVICE_GPU"),
        )),
        UMRT_DEVICE_AUTO => Ok(DeviceChoice::Auto),
        super::library::UMRT_DEVICE_CPU => Ok(DeviceChoice::Cpu),
        other => Err(Error::invalid(format!(
            "device {other} is none of UMRT_DEVICE_*"
        ))),
    }
}

fn precision(precision: u32) -> Result<Precision> {
    match precision {
        UMRT_PRECISION_NATIVE => Ok(Precision::Native),
        UMRT_PRECISION_FLOAT32 => Ok(Precision::Float32),
        other => Err(Error::invalid(format!(
            "precision {other} is none of UMRT_PRECISION_*"
        ))),
    }
}

fn cpu_ops(cpu_ops: u32) -> Result<CpuOps> {
    match cpu_ops {
        UMRT_CPU_OPS_KERNELS if std::env::var_os("UMRT_CPU_OPS").is_some_and(|v| v == "stock") => {
            Ok(CpuOps::Stock)
        }
        UMRT_CPU_OPS_KERNELS => Ok(CpuOps::Kernels),
        UMRT_CPU_OPS_STOCK => Ok(CpuOps::Stock),
        other => Err(Error::invalid(format!(
            "cpu_ops {other} is none of UMRT_CPU_OPS_*"
        ))),
    }
}

fn load_mode(load: u32) -> Result<LoadMode> {
    match load {
        UMRT_LOAD_MAP => Ok(LoadMode::Map),
        UMRT_LOAD_READ => Ok(LoadMode::Read),
        UMRT_LOAD_DIRECT => Ok(LoadMode::Direct),
        other => Err(Error::invalid(format!(
            "load {other} is none of UMRT_LOAD_*"
        ))),
    }
}

fn describe(info: &ModelInfo, device: u32) -> umrt_model_info {
    let spec = &info.spec;
    umrt_model_info {
        struct_size: 0,
        n_layers: count32(spec.n_layers),
        hidden_size: count32(spec.hidden_size),
        intermediate_size: count32(spec.intermediate_size),
        n_heads: count32(spec.n_heads),
        n_kv_heads: count32(spec.n_kv_heads),
        head_dim: count32(spec.head_dim),
        vocab_size: count32(spec.vocab_size),
        max_context: count32(spec.max_context),
        quant_bits: count32(info.quant_bits),
        quant_group_size: count32(info.quant_group_size),
        has_tokenizer: u32::from(info.has_tokenizer),
        has_chat_template: u32::from(info.has_chat_template),
        device,
        n_parameters: info.n_parameters,
        weight_bytes: info.weight_bytes as u64,
        kv_bytes_per_token: info.kv_bytes_per_token as u64,
        model_type: fixed_text(&spec.model_type),
    }
}

/// Describes an opened model.
///
/// Returns INVALID_ARGUMENT. Any thread.
///
/// # Safety
/// `model` is NULL or a live handle; `info` is NULL or points to a structure of
/// its `struct_size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_model_info_get(
    model: *const umrt_model,
    info: *mut umrt_model_info,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        unsafe {
            let model = handle::borrow(model, "model")?;
            let device = match model.0.device() {
                Device::Cpu => super::library::UMRT_DEVICE_CPU,
                Device::Gpu(_) => super::library::UMRT_DEVICE_GPU,
            };
            structs::write(info, describe(model.0.info(), device))
        }
    })
}

/// Looks up a value of the checkpoint's config.json.
///
/// - `key`: a name, or a path of names with dots: "rope_scaling.factor".
/// - `buffer`, `capacity`: receives NUL-terminated text: a string as it is,
///   anything else as JSON.
/// - `needed`: receives the capacity it takes, the NUL included; may be NULL.
///
/// Returns INVALID_ARGUMENT, NOT_FOUND (no such key), NO_SPACE (nothing was
/// written but `needed`). Any thread.
///
/// # Safety
/// `model` is NULL or a live handle, `key` NULL or NUL-terminated, `buffer` NULL
/// or writable for `capacity` bytes, `needed` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_model_metadata(
    model: *const umrt_model,
    key: *const c_char,
    buffer: *mut c_char,
    capacity: usize,
    needed: *mut usize,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        unsafe {
            let model = handle::borrow(model, "model")?;
            let value = model.0.metadata(arguments::c_text(key, "key")?)?;
            arguments::copy_out_text(&value, buffer, capacity, needed)
        }
    })
}

/// Fills in the model's own memory: the `weights_*` fields and `text_bytes`.
///
/// Returns INVALID_ARGUMENT, IO. Any thread.
///
/// # Safety
/// `model` is NULL or a live handle; `memory` is NULL or points to a structure
/// of its `struct_size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_model_memory_stats(
    model: *const umrt_model,
    memory: *mut umrt_memory_info,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        unsafe {
            let model = handle::borrow(model, "model")?;
            structs::write(memory, umrt_memory_info::of_model(model.0.memory()?))
        }
    })
}

/// Gives the model back. It stays open until its contexts and other handles
/// made from it are freed as well. NULL is ignored. Any thread.
///
/// # Safety
/// `model` is NULL or a live handle that is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_model_free(model: *mut umrt_model) {
    // SAFETY: the caller's contract.
    guard_free(|| unsafe { handle::free(model) });
}
