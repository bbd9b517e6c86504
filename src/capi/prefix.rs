//! Texts that begin alike, and sequences that lose tokens on their way.

use super::arguments::{self, count32};
use super::context::{umrt_ctx, with};
use super::guard::{guard, umrt_status};
use super::handle;
use super::model::umrt_model;

/// Sets how many bytes a model's prefix cache may hold beside sequences: keys and
/// values of texts that were evaluated, for others that begin alike. Contexts use it
/// whose `umrt_ctx_params.prefix_cache` says so.
///
/// - `max_bytes`: 0 empties it and keeps nothing. Before the first call it is an
///   eighth of what models may use.
///
/// What is held is reserved for nobody: it is given back, what was unused for longest
/// first, as soon as a model or context reserves the memory, and under memory pressure
/// (`umrt_memory_info.prefix_cache_bytes` says how much it is). What sequences hold as
/// well takes nothing.
///
/// Returns INVALID_ARGUMENT. Any thread.
///
/// # Safety
/// `model` is NULL or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_model_prefix_cache_set(
    model: *const umrt_model,
    max_bytes: u64,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        let model = unsafe { handle::borrow(model, "model")? };
        let max_bytes = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        model.0.prefix_cache().set_max_bytes(max_bytes);
        Ok(())
    })
}

/// Makes a sequence hold as much of the beginning of `tokens` as is known already: what
/// it holds itself, or what the prefix cache does if that is more and the context uses
/// it. Evaluate the rest; that is at least the last token, whose logits nobody kept.
///
/// - `tokens`, `n_tokens`: all that the sequence shall hold.
/// - `n_reused`: receives how many tokens the sequence holds now.
///
/// What the sequence held beyond that is forgotten. The tokens go on with the same bits
/// as if the sequence that evaluated them first had been forked and trimmed. A token's
/// bits depend a little on how many were evaluated with it, so the logits may differ
/// from those of one evaluation from the beginning by as much as those of another
/// `prefill_chunk` would. Tokens computed with other adapters are not reused.
///
/// Sequences of models with recurrent layers can be cut in few places (`umrt_seq_trim`):
/// they keep what they hold if the tokens begin with all of it, or else what is in front
/// of the last such place, which may be nothing.
///
/// With our own kernels this takes no memory but that of the last block, as for a fork;
/// with MLX's operations, as on a GPU, it copies.
///
/// Returns INVALID_ARGUMENT (no such sequence, no tokens), OUT_OF_MEMORY (the sequence is
/// as before), BUSY. Any thread.
///
/// # Safety
/// `ctx` is NULL or a live handle, `tokens` NULL or readable for `n_tokens` ids,
/// `n_reused` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_seq_reuse_prefix(
    ctx: *mut umrt_ctx,
    seq: i32,
    tokens: *const i32,
    n_tokens: usize,
    n_reused: *mut u32,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        unsafe {
            let tokens = arguments::slice(tokens, n_tokens, "tokens")?;
            let n = with(ctx, |context| context.reuse_prefix(seq, tokens))?;
            arguments::store(n_reused, count32(n), "n_reused")
        }
    })
}

/// Removes `drop` tokens of a sequence from `from` on. The tokens behind them move to
/// their places: their keys are turned by as many positions as they move, and are those
/// that they would have been there. What they have seen of the removed tokens stays in
/// them, as in all sliding windows, so the text goes on a little otherwise than if it had
/// been evaluated without them. Where a model attends in chunks, what comes behind sees
/// the chunks of the new places.
///
/// Keys are rounded once more to the type of the cache, for each shift; with 8 or 4 bits
/// they are quantized again. Takes about as long as copying keys and values, and no
/// memory but for blocks that are shared; with MLX's operations, as on a GPU, the
/// sequence's size twice for a moment.
///
/// Returns INVALID_ARGUMENT (no such sequence, or it holds fewer tokens), UNSUPPORTED
/// (learned positions, recurrent layers), OUT_OF_MEMORY (the sequence is as before), BUSY.
/// Any thread.
///
/// # Safety
/// `ctx` is NULL or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_seq_shift(
    ctx: *mut umrt_ctx,
    seq: i32,
    from: u32,
    drop: u32,
) -> umrt_status {
    // SAFETY: the caller's contract.
    guard(|| unsafe {
        with(ctx, |context| {
            context.shift(seq, from as usize, drop as usize)
        })
    })
}
