//! LoRA adapters.

use std::ffi::c_char;
use std::sync::Arc;

use super::arguments;
use super::context::{self, umrt_ctx};
use super::guard::{guard, guard_free, umrt_status};
use super::handle;
use super::model::umrt_model;
use crate::error::Result;
use crate::runtime::Adapter;

/// A LoRA adapter of a model. Immutable, for any of the model's contexts.
pub struct umrt_adapter(Arc<Adapter>);

/// Opens an adapter for a model by mapping it; nothing is copied, and the model stays
/// as it is. A context uses it from `umrt_ctx_set_adapters` on.
///
/// - `path`: a directory as mlx-lm (adapter_config.json, adapters.safetensors) or
///   PEFT (adapter_config.json, adapter_model.safetensors) writes it.
/// - `adapter`: receives the handle. Free it with `umrt_adapter_free`.
///
/// The file must not be changed while it is open, as those of models
/// (`umrt_model_open`).
///
/// Returns INVALID_ARGUMENT, NOT_FOUND, IO, FORMAT (what is wrong in which file, or
/// what does not fit to the model), UNSUPPORTED (names what: adapters of
/// embeddings and experts, biases, whole modules), OVER_BUDGET, OUT_OF_MEMORY, BACKEND.
/// Any thread.
///
/// # Safety
/// `model` is NULL or a live handle; `path` is NULL or NUL-terminated; `adapter` is
/// NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_adapter_open(
    model: *const umrt_model,
    path: *const c_char,
    adapter: *mut *mut umrt_adapter,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        unsafe {
            handle::give(adapter, || {
                let model = handle::borrow(model, "model")?;
                let path = arguments::path(path, "path")?;
                Adapter::open(&model.0, &path).map(umrt_adapter)
            })
        }
    })
}

/// Gives the adapter back. It stays open until no context uses it any more. NULL is
/// ignored. Any thread.
///
/// # Safety
/// `adapter` is NULL or a live handle that is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_adapter_free(adapter: *mut umrt_adapter) {
    // SAFETY: the caller's contract.
    guard_free(|| unsafe { handle::free(adapter) });
}

/// Evaluates with these adapters from now on, instead of those set before. Other
/// contexts are not affected; without adapters results are what they were before.
///
/// Sequences keep their tokens, and what was computed for them: keys and values in
/// the KV cache remain those of the adapters that they were made with, and only new
/// tokens are computed with the new ones. To have all tokens under the new adapters
/// call `umrt_seq_trim(ctx, seq, 0)` and evaluate them again.
///
/// - `adapters`, `scales`: `n` each. Each adapter's update is multiplied with its
///   scale: 1 is as trained, 0 as if it was not there. NULL `scales`: all 1.
/// - `n`: 0: no adapters any more.
///
/// If it fails, the adapters from before stay.
///
/// Returns INVALID_ARGUMENT (an adapter of another model, a scale that is not finite),
/// OVER_BUDGET (a step's intermediate results), BUSY. Any thread.
///
/// # Safety
/// `ctx` is NULL or a live handle; `adapters` is NULL or has `n` elements, each NULL
/// or a live handle; `scales` is NULL or has `n` elements.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_ctx_set_adapters(
    ctx: *mut umrt_ctx,
    adapters: *const *const umrt_adapter,
    scales: *const f32,
    n: usize,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        unsafe {
            let adapters = arguments::slice(adapters, n, "adapters")?;
            let scales = match scales.is_null() {
                true => &vec![1.0; n],
                false => arguments::slice(scales, n, "scales")?,
            };
            let borrowed = |(adapter, scale): (&*const umrt_adapter, &f32)| {
                Ok((handle::borrow(*adapter, "adapter")?.0.clone(), *scale))
            };
            let pairs = adapters.iter().zip(scales).map(borrowed);
            let pairs: Vec<_> = pairs.collect::<Result<_>>()?;
            context::with(ctx, |context| context.set_adapters(&pairs))
        }
    })
}
