//! Evaluation and its logits.

use super::arguments::{self, count32};
use super::cancel::{self, umrt_cancel};
use super::context::{self, umrt_ctx};
use super::guard::{guard, umrt_status};
use super::structs::{self, Destination, c_structs};
use crate::error::Error;
use crate::runtime::{Batch, Want};

/// Tokens to append to sequences.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct umrt_batch {
    pub struct_size: u32,
    pub n_tokens: u32,
    /// `n_tokens` token ids.
    pub tokens: *const i32,
    /// The sequence of each token, or NULL: all belong to sequence 0.
    pub seq_ids: *const i32,
    /// One byte per token, nonzero where logits are wanted; or NULL: after the
    /// last token of each sequence.
    pub want_logits: *const u8,
    /// Milliseconds from the beginning of the call after which it ends with
    /// DEADLINE_EXCEEDED, as if it was cancelled. 0: it has all the time it needs.
    pub deadline_ms: u32,
    pub reserved: u32,
}

/// What an evaluation left.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct umrt_eval_result {
    pub struct_size: u32,
    /// Rows of logits, in the order of their tokens in the batch.
    pub n_logits: u32,
}

c_structs!(umrt_batch, umrt_eval_result);

/// Evaluates tokens: appends them to their sequences and computes the wanted
/// logits, which stay until the next successful evaluation.
///
/// - `batch`: what to evaluate.
/// - `cancel`: stops it, within milliseconds on a CPU, between layers where MLX's
///   operations compute (`UMRT_CPU_OPS_STOCK`) and between chunks of the prompt on a
///   GPU; may be NULL. So does `deadline_ms` of the batch.
/// - `result`: may be NULL.
///
/// If it fails or is stopped, sequences and logits are as before. (Only when
/// MLX itself fails in the middle of a step, BACKEND, can a sequence be lost;
/// the message says so, and the sequence is empty.)
///
/// Returns INVALID_ARGUMENT (a token or sequence id out of range), NO_SPACE (a
/// sequence would exceed `n_ctx`), OVER_BUDGET (too many logits at once), BUSY,
/// CANCELLED, DEADLINE_EXCEEDED, OUT_OF_MEMORY, BACKEND. Any thread.
///
/// # Safety
/// `ctx` and `cancel` are NULL or live handles; `batch` is NULL or a structure of
/// its `struct_size` whose arrays have `n_tokens` elements; `result` is NULL or a
/// structure of its `struct_size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_eval(
    ctx: *mut umrt_ctx,
    batch: *const umrt_batch,
    cancel: *const umrt_cancel,
    result: *mut umrt_eval_result,
) -> umrt_status {
    guard(|| {
        if batch.is_null() {
            return Err(Error::invalid("the batch is NULL"));
        }
        // SAFETY: the caller's contract.
        unsafe {
            let result = Destination::new(result)?;
            let batch = structs::read(batch)?;
            structs::ensure_reserved::<umrt_batch>(batch.reserved)?;
            let cancel = cancel::or_after(cancel, batch.deadline_ms);
            let n_tokens = batch.n_tokens as usize;
            let tokens = arguments::slice(batch.tokens, n_tokens, "batch.tokens")?;
            let sequences = (!batch.seq_ids.is_null())
                .then(|| arguments::slice(batch.seq_ids, n_tokens, "batch.seq_ids"))
                .transpose()?;
            let marks = arguments::slice(batch.want_logits, n_tokens, "batch.want_logits");
            let want = match batch.want_logits.is_null() {
                true => Want::Last,
                false => Want::Marked(marks?),
            };
            let batch = Batch {
                tokens,
                sequences,
                want,
            };
            let n_logits = context::with(ctx, |context| {
                context.eval(&batch, cancel.as_ref())?;
                Ok(context.n_logits_rows())
            })?;
            let filled = umrt_eval_result {
                struct_size: 0,
                n_logits: count32(n_logits),
            };
            result.fill(filled)
        }
    })
}

/// Copies one row of the last evaluation's logits.
///
/// - `row`: from 0 to `n_logits` less one.
/// - `buffer`, `capacity`: receives `vocab_size` floats.
/// - `needed`: receives `vocab_size`; may be NULL.
///
/// Returns INVALID_ARGUMENT (no such row), NO_SPACE, BUSY. Any thread.
///
/// # Safety
/// `ctx` is NULL or a live handle, `buffer` NULL or writable for `capacity`
/// floats, `needed` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_logits(
    ctx: *const umrt_ctx,
    row: usize,
    buffer: *mut f32,
    capacity: usize,
    needed: *mut usize,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        unsafe {
            context::with(ctx, |context| {
                arguments::copy_out(context.logits(row)?, buffer, capacity, needed)
            })
        }
    })
}

/// Stores where one row of the last evaluation's logits lies: `vocab_size`
/// floats, valid until the next evaluation or the end of the context.
///
/// Returns INVALID_ARGUMENT (no such row), BUSY. Any thread.
///
/// # Safety
/// `ctx` is NULL or a live handle; `logits` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_logits_view(
    ctx: *const umrt_ctx,
    row: usize,
    logits: *mut *const f32,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        unsafe {
            let address = context::with(ctx, |context| Ok(context.logits(row)?.as_ptr()))?;
            arguments::store(logits, address, "logits")
        }
    })
}
