//! Log-probabilities: of given continuations, and the largest of a row of logits.

use super::arguments;
use super::cancel::{self, umrt_cancel};
use super::context::{umrt_ctx, with};
use super::guard::{guard, umrt_status};
use super::structs::{self, c_structs};
use crate::error::Error;
use crate::runtime;

/// For `umrt_score`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct umrt_score_params {
    pub struct_size: u32,
    /// The sequence whose tokens come in front of the prompt.
    pub seq: i32,
    /// `n_prompt` token ids, at least one.
    pub prompt: *const i32,
    pub n_prompt: usize,
    /// The token ids of all continuations, one continuation after the other.
    pub continuations: *const i32,
    /// How many tokens each of the `n_continuations` has, at least one.
    pub lengths: *const usize,
    pub n_continuations: usize,
}

c_structs!(umrt_score_params);

/// Computes the log-probability (natural logarithm) of each token of given
/// continuations of a prompt. Memory is taken for the logits of a few tokens at a time,
/// however long the continuations are. The prompt is evaluated once.
///
/// - `cancel`: stops it; may be NULL.
/// - `logprobs`, `capacity`: receives a float for each token of all continuations, in
///   their order.
/// - `needed`: receives how many that are; may be NULL.
///
/// Whatever happens, the sequence is afterwards as before, and so are the logits of the
/// last evaluation.
///
/// Returns INVALID_ARGUMENT (no prompt, no continuation or one without tokens, a token
/// or sequence id out of range), NO_SPACE (the buffer is too small; sequence, prompt and
/// a continuation exceed `n_ctx`), OVER_BUDGET, BUSY, CANCELLED, OUT_OF_MEMORY, BACKEND.
/// Any thread.
///
/// # Safety
/// `ctx` and `cancel` are NULL or live handles; `params` is NULL or a structure of its
/// `struct_size` with pointers as its fields say; `logprobs` is NULL or writable for
/// `capacity` floats, `needed` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_score(
    ctx: *mut umrt_ctx,
    params: *const umrt_score_params,
    cancel: *const umrt_cancel,
    logprobs: *mut f32,
    capacity: usize,
    needed: *mut usize,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        unsafe {
            let params = structs::read(params)?;
            let prompt = arguments::slice(params.prompt, params.n_prompt, "prompt")?;
            let lengths = arguments::slice(params.lengths, params.n_continuations, "lengths")?;
            let parts = arguments::parts(params.continuations, lengths, "continuations")?;
            let n_tokens = parts.iter().map(|part| part.len()).sum();
            arguments::ensure_capacity(n_tokens, logprobs, capacity, needed)?;
            let cancel = cancel::optional(cancel);
            let found = with(ctx, |context| {
                runtime::score(context, params.seq, prompt, &parts, cancel.as_ref())
            })?;
            arguments::copy_out(&found, logprobs, capacity, needed)
        }
    })
}

/// Finds the most likely tokens in one row of the last evaluation's logits, before any
/// sampler looked at them.
///
/// - `row`: from 0 to `n_logits` less one.
/// - `k`: how many, from 1 to `vocab_size`.
/// - `tokens`, `logprobs`: receive `k` each, the most likely first: ids, and natural
///   logarithms of their probabilities.
///
/// Returns INVALID_ARGUMENT (no such row, `k` out of range), BUSY, BACKEND (logits are
/// NaN). Any thread.
///
/// # Safety
/// `ctx` is NULL or a live handle; `tokens` and `logprobs` are NULL or writable for `k`
/// elements.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_top_logprobs(
    ctx: *const umrt_ctx,
    row: usize,
    k: u32,
    tokens: *mut i32,
    logprobs: *mut f32,
) -> umrt_status {
    guard(|| {
        if tokens.is_null() || logprobs.is_null() {
            return Err(Error::invalid("tokens or logprobs is NULL"));
        }
        // SAFETY: the caller's contract.
        unsafe {
            let top = with(ctx, |context| {
                runtime::top_logprobs(context, row, k as usize)
            })?;
            for (place, (token, logprob)) in top.into_iter().enumerate() {
                tokens.add(place).write(token);
                logprobs.add(place).write(logprob);
            }
        }
        Ok(())
    })
}
