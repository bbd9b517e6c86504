//! Sequences that are saved and loaded.

use std::ffi::c_char;

use super::arguments;
use super::context::{umrt_ctx, with};
use super::guard::{guard, umrt_status};
use crate::error::Error;

/// Writes a sequence to a file: its tokens, and keys and values as they are stored,
/// so that it goes on with the same logits after `umrt_seq_load`. A file that is
/// there already is replaced as a whole: should the disk be full or the process be
/// killed, the former one is still there (and perhaps a hidden one beside it whose
/// name ends in `.tmp`).
///
/// - `path`: NUL-terminated, in a directory that exists.
///
/// The logits of the last evaluation are not saved. Returns INVALID_ARGUMENT (no
/// such sequence), NOT_FOUND (no such directory), IO (the disk is full, for
/// instance), OUT_OF_MEMORY, BUSY. Any thread.
///
/// # Safety
/// `ctx` is NULL or a live handle; `path` is NULL or NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_seq_save(
    ctx: *const umrt_ctx,
    seq: i32,
    path: *const c_char,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        unsafe {
            let path = arguments::path(path, "path")?;
            with(ctx, |context| context.save(seq, &path))
        }
    })
}

/// Replaces what a sequence holds by what `umrt_seq_save` wrote, with any `n_ctx`
/// that it fits into, `n_threads` and so on, but the same model and `kv_type`. What was
/// saved after it was stored as `pressure_kv_type` says takes a context that has this as
/// either. All of it is read and checked first: if anything fails, the sequence is as
/// before.
///
/// Returns INVALID_ARGUMENT (no such sequence; saved with another model or
/// `kv_type`), NOT_FOUND, IO, FORMAT (cut off, damaged, or another kind of file),
/// UNSUPPORTED (saved by a newer version), NO_SPACE (more than `n_ctx` tokens),
/// OVER_BUDGET (the context has no room for the former and the new content at once:
/// trim the sequence first), OUT_OF_MEMORY, BUSY. Any thread.
///
/// # Safety
/// As for `umrt_seq_save`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_seq_load(
    ctx: *mut umrt_ctx,
    seq: i32,
    path: *const c_char,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        unsafe {
            let path = arguments::path(path, "path")?;
            with(ctx, |context| context.load(seq, &path))
        }
    })
}

/// As `umrt_seq_save`, into memory.
///
/// - `buffer`, `capacity`: receives the bytes; NULL and 0 to ask how many there are.
/// - `needed`: receives how many there are; may be NULL.
///
/// Returns INVALID_ARGUMENT (no such sequence), NO_SPACE (nothing was written),
/// OUT_OF_MEMORY, BUSY. Any thread.
///
/// # Safety
/// `ctx` is NULL or a live handle, `buffer` NULL or writable for `capacity` bytes,
/// `needed` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_seq_save_to_buffer(
    ctx: *const umrt_ctx,
    seq: i32,
    buffer: *mut u8,
    capacity: usize,
    needed: *mut usize,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        unsafe {
            with(ctx, |context| {
                let bytes = context.saved_bytes(seq)?;
                if !needed.is_null() {
                    needed.write(bytes);
                }
                if buffer.is_null() || capacity < bytes {
                    return Err(Error::no_space(format!(
                        "the buffer holds {capacity} bytes; {bytes} are needed"
                    )));
                }
                let buffer = std::slice::from_raw_parts_mut(buffer, bytes);
                context.save_to(seq, buffer)
            })
        }
    })
}

/// As `umrt_seq_load`, from what `umrt_seq_save_to_buffer` wrote.
///
/// Returns as `umrt_seq_load` does, but for NOT_FOUND and IO. Any thread.
///
/// # Safety
/// `ctx` is NULL or a live handle; `buffer` is NULL or readable for `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_seq_load_from_buffer(
    ctx: *mut umrt_ctx,
    seq: i32,
    buffer: *const u8,
    length: usize,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        unsafe {
            let saved = arguments::slice(buffer, length, "buffer")?;
            with(ctx, |context| context.load_from(seq, saved))
        }
    })
}

/// Replaces what a sequence holds by a prompt cache that mlx-lm saved
/// (`save_prompt_cache`), of its installed layout or the older one. The file says neither
/// which model nor, but where umrt wrote it, which tokens these were: that is up to the
/// caller. Everything else is checked first: if anything fails, the sequence is as before.
///
/// - `tokens`, `n_tokens`: the ids of all tokens that mlx-lm had evaluated; NULL and 0:
///   those that `umrt_seq_export_mlx` wrote into the file, which `umrt_seq_load` reads too.
///
/// `KVCache` and `QuantizedKVCache` are read, by a context whose `kv_type` (or
/// `pressure_kv_type`) stores numbers in the same way. Returns INVALID_ARGUMENT (no such
/// sequence, other tokens than the file has, another model or type), UNSUPPORTED (another
/// kind of cache, several sequences, latent attention, recurrent layers), and as `umrt_seq_load` does. Any
/// thread.
///
/// # Safety
/// As for `umrt_seq_save`; `tokens` is NULL or `n_tokens` ids.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_seq_import_mlx(
    ctx: *mut umrt_ctx,
    seq: i32,
    path: *const c_char,
    tokens: *const i32,
    n_tokens: usize,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        unsafe {
            let path = arguments::path(path, "path")?;
            let tokens = match tokens.is_null() && n_tokens == 0 {
                true => None,
                false => Some(arguments::slice(tokens, n_tokens, "tokens")?),
            };
            with(ctx, |context| context.import_mlx(seq, &path, tokens))
        }
    })
}

/// Writes a sequence as mlx-lm's `save_prompt_cache` would, with the tokens' ids among the
/// metadata, for its `load_prompt_cache` and for `umrt_seq_load`. There are no checksums in
/// such files, and nothing says which model it was; `umrt_seq_save` is better for umrt
/// itself. Takes the sequence's memory once more for a moment.
///
/// Returns UNSUPPORTED (latent attention, recurrent layers), and as `umrt_seq_save` does. Any thread.
///
/// # Safety
/// As for `umrt_seq_save`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_seq_export_mlx(
    ctx: *const umrt_ctx,
    seq: i32,
    path: *const c_char,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        unsafe {
            let path = arguments::path(path, "path")?;
            with(ctx, |context| context.export_mlx(seq, &path))
        }
    })
}

/// Copies the ids of the tokens that a sequence holds.
///
/// - `tokens`, `capacity`: receives the ids.
/// - `needed`: receives how many there are; may be NULL.
///
/// Returns INVALID_ARGUMENT (no such sequence), NO_SPACE, BUSY. Any thread.
///
/// # Safety
/// `ctx` is NULL or a live handle, `tokens` NULL or writable for `capacity` ids,
/// `needed` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_seq_tokens(
    ctx: *const umrt_ctx,
    seq: i32,
    tokens: *mut i32,
    capacity: usize,
    needed: *mut usize,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        unsafe {
            with(ctx, |context| {
                let held = context.sequence_tokens(seq)?;
                arguments::copy_out(&held, tokens, capacity, needed)
            })
        }
    })
}
