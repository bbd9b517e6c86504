//! Text: tokens, streams of text, chat templates.

use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::sync::Mutex;

use super::arguments::{self, count32};
use super::guard::{guard, guard_free, umrt_status};
use super::handle;
use super::model::umrt_model;
use super::structs::{self, c_structs};
use crate::error::{Error, Result};
use crate::text::{Detokenizer, EncodeFlags, SpecialToken};

/// `umrt_tokenize`: add what the model expects around a text, such as a token
/// that begins it. Leave it off for rendered chats, which contain it.
pub const UMRT_TOKENIZE_ADD_SPECIAL: u32 = 1;
/// `umrt_tokenize`: read the spelling of a special token as that token. Leave it
/// off for text from users, who could otherwise write control tokens.
pub const UMRT_TOKENIZE_PARSE_SPECIAL: u32 = 2;

/// `umrt_detokenize`: leave special tokens out of the text.
pub const UMRT_DETOKENIZE_SKIP_SPECIAL: u32 = 1;

/// `umrt_token_info.flags`: a control token, without text for people.
pub const UMRT_TOKEN_SPECIAL: u32 = 1;
/// `umrt_token_info.flags`: ends a text.
pub const UMRT_TOKEN_END: u32 = 2;
/// `umrt_token_info.flags`: one byte of a character that has no token.
pub const UMRT_TOKEN_BYTE: u32 = 4;

/// `umrt_special_token`: begins a text.
pub const UMRT_SPECIAL_BOS: i32 = 0;
/// `umrt_special_token`: ends a text.
pub const UMRT_SPECIAL_EOS: i32 = 1;
/// `umrt_special_token`: stands for what the vocabulary lacks.
pub const UMRT_SPECIAL_UNK: i32 = 2;
/// `umrt_special_token`: between texts.
pub const UMRT_SPECIAL_SEP: i32 = 3;
/// `umrt_special_token`: fills up batches.
pub const UMRT_SPECIAL_PAD: i32 = 4;
/// `umrt_special_token`: stands for the whole text.
pub const UMRT_SPECIAL_CLS: i32 = 5;
/// `umrt_special_token`: hides a word.
pub const UMRT_SPECIAL_MASK: i32 = 6;

/// What one token stands for.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct umrt_token_info {
    pub struct_size: u32,
    /// `UMRT_TOKEN_*`
    pub flags: u32,
    /// What it adds to a text: `n_bytes` bytes, which may be part of a character.
    /// Valid until the thread's next `umrt_token_info_get`.
    pub bytes: *const u8,
    pub n_bytes: u32,
    pub reserved: u32,
}

c_structs!(umrt_token_info);

/// Splits text into tokens.
///
/// - `text`, `length`: UTF-8, `length` bytes.
/// - `flags`: `UMRT_TOKENIZE_*`, or 0.
/// - `buffer`, `capacity`: receives token ids.
/// - `needed`: receives the number of tokens; may be NULL.
///
/// Returns INVALID_ARGUMENT (not UTF-8), NOT_FOUND (no tokenizer), FORMAT (it is
/// broken), NO_SPACE (nothing was written but `needed`). Any thread.
///
/// # Safety
/// `model` is NULL or a live handle, `text` readable for `length` bytes, `buffer`
/// NULL or writable for `capacity` ids, `needed` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_tokenize(
    model: *const umrt_model,
    text: *const c_char,
    length: usize,
    flags: u32,
    buffer: *mut i32,
    capacity: usize,
    needed: *mut usize,
) -> umrt_status {
    guard(|| {
        arguments::known_flags(
            flags,
            UMRT_TOKENIZE_ADD_SPECIAL | UMRT_TOKENIZE_PARSE_SPECIAL,
        )?;
        let flags = EncodeFlags {
            add_special: flags & UMRT_TOKENIZE_ADD_SPECIAL != 0,
            parse_special: flags & UMRT_TOKENIZE_PARSE_SPECIAL != 0,
        };
        // SAFETY: the caller's contract.
        unsafe {
            let model = handle::borrow(model, "model")?;
            let text = arguments::text(text, length, "text")?;
            let tokens = model.0.text().tokenizer()?.encode(text, flags)?;
            arguments::copy_out(&tokens, buffer, capacity, needed)
        }
    })
}

/// Joins tokens to text. Bytes that are not UTF-8 become U+FFFD.
///
/// - `tokens`, `n_tokens`: token ids.
/// - `flags`: `UMRT_DETOKENIZE_*`, or 0.
/// - `buffer`, `capacity`: receives NUL-terminated text.
/// - `needed`: receives the capacity it takes, the NUL included; may be NULL.
///
/// Returns INVALID_ARGUMENT (an id out of range), NOT_FOUND (no tokenizer),
/// FORMAT (it is broken), NO_SPACE (nothing was written but `needed`). Any thread.
///
/// # Safety
/// `model` is NULL or a live handle, `tokens` readable for `n_tokens` ids, `buffer`
/// NULL or writable for `capacity` bytes, `needed` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_detokenize(
    model: *const umrt_model,
    tokens: *const i32,
    n_tokens: usize,
    flags: u32,
    buffer: *mut c_char,
    capacity: usize,
    needed: *mut usize,
) -> umrt_status {
    guard(|| {
        arguments::known_flags(flags, UMRT_DETOKENIZE_SKIP_SPECIAL)?;
        let skip_special = flags & UMRT_DETOKENIZE_SKIP_SPECIAL != 0;
        // SAFETY: the caller's contract.
        unsafe {
            let model = handle::borrow(model, "model")?;
            let tokens = arguments::slice(tokens, n_tokens, "tokens")?;
            let text = model.0.text().tokenizer()?.decode(tokens, skip_special)?;
            arguments::copy_out_text(&text, buffer, capacity, needed)
        }
    })
}

/// Describes one token.
///
/// Returns INVALID_ARGUMENT (no such token), NOT_FOUND (no tokenizer), FORMAT (it
/// is broken). Any thread.
///
/// # Safety
/// `model` is NULL or a live handle; `info` is NULL or a structure of its
/// `struct_size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_token_info_get(
    model: *const umrt_model,
    token: i32,
    info: *mut umrt_token_info,
) -> umrt_status {
    thread_local! {
        static BYTES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    guard(|| {
        // SAFETY: the caller's contract.
        let model = unsafe { handle::borrow(model, "model")? };
        let text = model.0.text();
        let found = text.tokenizer()?.token_info(token).ok_or_else(|| {
            Error::invalid(format!(
                "token id {token} is not in the tokenizer's vocabulary"
            ))
        })?;
        let flag = |is: bool, flag: u32| if is { flag } else { 0 };
        let flags = flag(found.is_special, UMRT_TOKEN_SPECIAL)
            | flag(text.is_end(token), UMRT_TOKEN_END)
            | flag(found.is_byte_fallback, UMRT_TOKEN_BYTE);
        let n_bytes = count32(found.bytes.len());
        let bytes = BYTES
            .try_with(|bytes| {
                bytes.replace(found.bytes);
                bytes.borrow().as_ptr()
            })
            .map_err(|_| Error::invalid("the thread is ending; ask before it does"))?;
        let filled = umrt_token_info {
            struct_size: 0,
            flags,
            bytes,
            n_bytes,
            reserved: 0,
        };
        // SAFETY: the caller's contract.
        unsafe { structs::write(info, filled) }
    })
}

/// Stores the id of a token with a role, such as `UMRT_SPECIAL_BOS`.
///
/// Returns INVALID_ARGUMENT (no such role), NOT_FOUND (no tokenizer, or the model
/// has no such token), FORMAT (the tokenizer is broken). Any thread.
///
/// # Safety
/// `model` is NULL or a live handle; `token` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_special_token(
    model: *const umrt_model,
    kind: i32,
    token: *mut i32,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        let model = unsafe { handle::borrow(model, "model")? };
        let kind = SpecialToken::from_code(kind)
            .ok_or_else(|| Error::invalid(format!("{kind} is none of UMRT_SPECIAL_*")))?;
        let id = model
            .0
            .text()
            .tokenizer()?
            .special_token(kind)
            .ok_or_else(|| Error::not_found(format!("the model has no {}", kind.key())))?;
        // SAFETY: the caller's contract.
        unsafe { arguments::store(token, id, "token") }
    })
}

/// Renders a conversation as the prompt that the model was trained on. Tokenize
/// it with `UMRT_TOKENIZE_PARSE_SPECIAL` alone.
///
/// - `json`, `length`: an object with "messages" (each with "role" and "content")
///   and optionally "tools", "add_generation_prompt" (default true) and whatever
///   else the model's template understands.
/// - `buffer`, `capacity`: receives NUL-terminated text.
/// - `needed`: receives the capacity it takes, the NUL included; may be NULL.
///
/// Returns INVALID_ARGUMENT (malformed JSON, or the template refuses the
/// conversation and says why), NOT_FOUND (the model has no template), FORMAT (the
/// template is broken), NO_SPACE (nothing was written but `needed`). Any thread.
///
/// # Safety
/// `model` is NULL or a live handle, `json` readable for `length` bytes, `buffer`
/// NULL or writable for `capacity` bytes, `needed` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_chat_render(
    model: *const umrt_model,
    json: *const c_char,
    length: usize,
    buffer: *mut c_char,
    capacity: usize,
    needed: *mut usize,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        unsafe {
            let model = handle::borrow(model, "model")?;
            let request = arguments::text(json, length, "json")?;
            let prompt = model.0.text().render_chat(request)?;
            arguments::copy_out_text(&prompt, buffer, capacity, needed)
        }
    })
}

/// Turns a stream of tokens into text. Takes one call at a time.
pub struct umrt_detok(Mutex<DetokStream>);

struct DetokStream {
    detokenizer: Detokenizer,
    /// What the last call handed out.
    text: CString,
}

/// Makes a stream of text without special tokens.
///
/// - `detok`: receives the handle. Free it with `umrt_detok_free`.
///
/// Returns INVALID_ARGUMENT, NOT_FOUND (no tokenizer), FORMAT (it is broken). Any
/// thread.
///
/// # Safety
/// `model` is NULL or a live handle; `detok` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_detok_new(
    model: *const umrt_model,
    detok: *mut *mut umrt_detok,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        unsafe {
            handle::give(detok, || {
                let model = handle::borrow(model, "model")?;
                let tokenizer = model.0.text().tokenizer()?.clone();
                Ok(umrt_detok(Mutex::new(DetokStream {
                    detokenizer: Detokenizer::new(tokenizer, true),
                    text: CString::default(),
                })))
            })
        }
    })
}

/// Adds a token and stores the text that became certain: whole UTF-8 characters,
/// often none.
///
/// - `text`, `length`: NUL-terminated, `length` bytes without the NUL; valid
///   until the next call with this handle. Each may be NULL.
///
/// Returns INVALID_ARGUMENT (an id out of range), BUSY. Any thread.
///
/// # Safety
/// `detok` is NULL or a live handle; `text` and `length` are NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_detok_push(
    detok: *mut umrt_detok,
    token: i32,
    text: *mut *const c_char,
    length: *mut usize,
) -> umrt_status {
    // SAFETY: the caller's contract.
    guard(|| unsafe { hand_out(detok, |stream| stream.push(token), text, length) })
}

/// Stores the rest of the text, with U+FFFD for an incomplete character, and
/// begins a new one. Otherwise as `umrt_detok_push`.
///
/// # Safety
/// As for `umrt_detok_push`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_detok_finish(
    detok: *mut umrt_detok,
    text: *mut *const c_char,
    length: *mut usize,
) -> umrt_status {
    // SAFETY: the caller's contract.
    guard(|| unsafe { hand_out(detok, Detokenizer::finish, text, length) })
}

/// # Safety
/// As for `umrt_detok_push`.
unsafe fn hand_out(
    detok: *mut umrt_detok,
    call: impl FnOnce(&mut Detokenizer) -> Result<&str>,
    text: *mut *const c_char,
    length: *mut usize,
) -> Result<()> {
    // SAFETY: the caller's contract.
    let detok = unsafe { handle::borrow(detok.cast_const(), "detok")? };
    let mut stream = handle::one_call(&detok.0, "detok")?;
    let certain = call(&mut stream.detokenizer)?.replace('\0', "\u{fffd}");
    stream.text = CString::new(certain).unwrap_or_default();
    // SAFETY: the caller's contract.
    unsafe {
        if !text.is_null() {
            text.write(stream.text.as_ptr());
        }
        if !length.is_null() {
            length.write(stream.text.as_bytes().len());
        }
    }
    Ok(())
}

/// Frees the stream. NULL is ignored. Any thread.
///
/// # Safety
/// `detok` is NULL or a live handle that is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_detok_free(detok: *mut umrt_detok) {
    // SAFETY: the caller's contract.
    guard_free(|| unsafe { handle::free(detok) });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_roles_are_those_of_the_tokenizer() {
        assert_eq!(UMRT_SPECIAL_BOS, SpecialToken::Bos as i32);
        assert_eq!(UMRT_SPECIAL_EOS, SpecialToken::Eos as i32);
        assert_eq!(UMRT_SPECIAL_UNK, SpecialToken::Unk as i32);
        assert_eq!(UMRT_SPECIAL_SEP, SpecialToken::Sep as i32);
        assert_eq!(UMRT_SPECIAL_PAD, SpecialToken::Pad as i32);
        assert_eq!(UMRT_SPECIAL_CLS, SpecialToken::Cls as i32);
        assert_eq!(UMRT_SPECIAL_MASK, SpecialToken::Mask as i32);
    }
}
