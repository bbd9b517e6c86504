//! Embeddings: texts as vectors.

use std::ffi::c_char;

use super::arguments;
use super::cancel::{self, umrt_cancel};
use super::context::{umrt_ctx, with};
use super::guard::{guard, umrt_status};
use super::structs::{self, c_structs};
use crate::error::{Error, Result};
use crate::runtime::{self, Context, EmbedOptions, Pooling};
use crate::text::EncodeFlags;

/// `umrt_embed_params.pooling`: the average of all tokens' states.
pub const UMRT_POOLING_MEAN: u32 = 0;
/// The last token's state, as models with causal attention for embeddings want it.
pub const UMRT_POOLING_LAST: u32 = 1;
/// The first token's state ("CLS").
pub const UMRT_POOLING_FIRST: u32 = 2;

/// `umrt_embed_params.flags`: scale vectors to the length 1.
pub const UMRT_EMBED_NORMALIZE: u32 = 1;

/// For `umrt_embed`. Exactly one of `texts` and `tokens` is given.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct umrt_embed_params {
    pub struct_size: u32,
    /// `UMRT_POOLING_*`
    pub pooling: u32,
    /// `UMRT_EMBED_*`, or 0.
    pub flags: u32,
    pub reserved: u32,
    /// `n_texts` NUL-terminated UTF-8 texts, encoded with what the tokenizer puts
    /// around a text.
    pub texts: *const *const c_char,
    /// The token ids of all texts, one text after the other.
    pub tokens: *const i32,
    /// How many tokens each of the `n_texts` has; for `tokens` only.
    pub lengths: *const usize,
    pub n_texts: usize,
}

c_structs!(umrt_embed_params);

/// Computes a vector for each text: the hidden states behind the model's last norm,
/// pooled over its tokens. No logits are computed.
///
/// - `cancel`: stops it; may be NULL.
/// - `vectors`, `capacity`: receives `n_texts` times `hidden_size` floats, see
///   `umrt_model_info`.
/// - `needed`: receives how many floats it takes; may be NULL.
///
/// Texts are evaluated next to each other in the context's sequences that hold no
/// tokens, and in no other, so more sequences are faster for short texts. Afterwards
/// those are empty again, and the logits of the last evaluation are still there.
///
/// Returns INVALID_ARGUMENT (a text without tokens, an unknown pooling), NOT_FOUND (no
/// tokenizer), NO_SPACE (the buffer is too small; a text is longer than `n_ctx`; no
/// sequence is empty), OVER_BUDGET, BUSY, CANCELLED, OUT_OF_MEMORY, BACKEND. Any
/// thread.
///
/// # Safety
/// `ctx` and `cancel` are NULL or live handles; `params` is NULL or a structure of its
/// `struct_size` with pointers as its fields say; `vectors` is NULL or writable for
/// `capacity` floats, `needed` NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_embed(
    ctx: *mut umrt_ctx,
    params: *const umrt_embed_params,
    cancel: *const umrt_cancel,
    vectors: *mut f32,
    capacity: usize,
    needed: *mut usize,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        unsafe {
            let params = structs::read(params)?;
            structs::ensure_reserved::<umrt_embed_params>(params.reserved)?;
            arguments::known_flags(params.flags, UMRT_EMBED_NORMALIZE)?;
            let options = EmbedOptions {
                pooling: pooling(params.pooling)?,
                normalize: params.flags & UMRT_EMBED_NORMALIZE != 0,
            };
            let cancel = cancel::optional(cancel);
            with(ctx, |context| {
                let hidden_size = context.model().info().spec.hidden_size;
                let n_floats = params.n_texts.saturating_mul(hidden_size);
                arguments::ensure_capacity(n_floats, vectors, capacity, needed)?;
                let texts = texts(&params, context)?;
                let texts: Vec<&[i32]> = texts.iter().map(Vec::as_slice).collect();
                let found = runtime::embed(context, &texts, &options, cancel.as_ref())?;
                arguments::copy_out(&found, vectors, capacity, needed)
            })
        }
    })
}

fn pooling(value: u32) -> Result<Pooling> {
    match value {
        UMRT_POOLING_MEAN => Ok(Pooling::Mean),
        UMRT_POOLING_LAST => Ok(Pooling::Last),
        UMRT_POOLING_FIRST => Ok(Pooling::First),
        other => Err(Error::invalid(format!(
            "pooling is {other}; it is one of UMRT_POOLING_*, from 0 to {UMRT_POOLING_FIRST}"
        ))),
    }
}

/// The tokens of each text.
///
/// # Safety
/// The pointers in `params` are as `umrt_embed` requires.
unsafe fn texts(params: &umrt_embed_params, context: &Context) -> Result<Vec<Vec<i32>>> {
    if params.texts.is_null() == params.tokens.is_null() {
        return Err(Error::invalid("give exactly one of texts and tokens"));
    }
    // SAFETY: the caller's contract.
    unsafe {
        if params.texts.is_null() {
            let lengths = arguments::slice(params.lengths, params.n_texts, "lengths")?;
            let parts = arguments::parts(params.tokens, lengths, "tokens")?;
            return Ok(parts.into_iter().map(<[i32]>::to_vec).collect());
        }
        let tokenizer = context.model().text().tokenizer()?;
        let flags = EncodeFlags {
            add_special: true,
            parse_special: false,
        };
        arguments::slice(params.texts, params.n_texts, "texts")?
            .iter()
            .map(|&text| tokenizer.encode(arguments::c_text(text, "a text")?, flags))
            .collect()
    }
}
