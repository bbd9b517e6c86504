//! Prompt in, streamed text out, in one call.

use std::ffi::{CString, c_char, c_void};
use std::sync::{Arc, Mutex, MutexGuard};

use super::arguments::{self, count32};
use super::cancel::{self, umrt_cancel};
use super::constraint::umrt_constraint;
use super::context::{self, umrt_ctx};
use super::guard::{guard, umrt_status};
use super::handle;
use super::library::{UMRT_DEVICE_CPU, UMRT_DEVICE_GPU};
use super::model::UMRT_DEVICE_AUTO;
use super::sampler::{self, umrt_sampler, umrt_sampler_params};
use super::structs::{self, Destination, c_structs};
use crate::error::{Error, Result};
use crate::runtime::{
    self, Context, Flow, GenerateOptions, Generated, Lookup, Prompt, Receive, SamplingDevice,
    Speculation,
};
use crate::sample::Sampler;

/// `umrt_generate_params.flags`: go on behind the token that ends a text.
pub const UMRT_GENERATE_IGNORE_END: u32 = 1;
/// `umrt_generate_params.flags`, for requests beside others (`umrt_request`): uses
/// sequence `seq` as `umrt_generate` does, as soon as no other request uses it.
pub const UMRT_GENERATE_IN_SEQ: u32 = 2;

/// Tokens that are guessed at a time, at most.
pub const UMRT_MAX_DRAFT: u32 = 11;

/// `umrt_generate_result.stop_reason`: the model ended the text, or nothing can be added
/// to it under its constraint.
pub const UMRT_STOP_END: u32 = 1;
/// `umrt_generate_result.stop_reason`: `max_tokens` were generated.
pub const UMRT_STOP_MAX_TOKENS: u32 = 2;
/// `umrt_generate_result.stop_reason`: a stop string was reached.
pub const UMRT_STOP_STRING: u32 = 3;
/// `umrt_generate_result.stop_reason`: the callback wanted no more.
pub const UMRT_STOP_CALLBACK: u32 = 4;
/// `umrt_generate_result.stop_reason`: the sequence holds `n_ctx` tokens.
pub const UMRT_STOP_CONTEXT_FULL: u32 = 5;

/// Receives text as soon as it is certain: whole UTF-8 characters, never empty,
/// NUL-terminated, `length` bytes without the NUL, valid during the call. `token`
/// is the token that completed it. Return 0 to go on, anything else to stop.
/// Called on the thread of the call that generates.
pub type umrt_text_fn = Option<
    unsafe extern "C" fn(
        text: *const c_char,
        length: usize,
        token: i32,
        userdata: *mut c_void,
    ) -> i32,
>;

/// What to generate. Exactly one of `prompt`, `chat` and `tokens` is given.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct umrt_generate_params {
    pub struct_size: u32,
    /// 0: until the model ends the text or the context is full.
    pub max_tokens: u32,
    /// The sequence that the prompt and what follows are appended to. For requests
    /// beside others: only with `UMRT_GENERATE_IN_SEQ`, otherwise 0.
    pub seq: i32,
    /// `UMRT_GENERATE_*`, or 0.
    pub flags: u32,
    /// Plain text, NUL-terminated UTF-8. Special tokens spelled out in it are
    /// ordinary characters.
    pub prompt: *const c_char,
    /// A conversation for the model's chat template, NUL-terminated JSON: see
    /// `umrt_chat_render`.
    pub chat: *const c_char,
    /// `n_tokens` token ids.
    pub tokens: *const i32,
    pub n_tokens: usize,
    /// `n_stop` NUL-terminated texts that end the generation; they are not part
    /// of the output.
    pub stop: *const *const c_char,
    pub n_stop: usize,
    /// How to choose tokens; NULL is greedy. Not used if `sampler` is given.
    pub sampling: *const umrt_sampler_params,
    /// Goes on with this sampler; may be NULL.
    pub sampler: *mut umrt_sampler,
    /// A context of a smaller model with the same vocabulary, which guesses tokens that
    /// are then checked several at once; NULL: none. The call uses it, too, and its
    /// sequence `seq` becomes that of this context: it needs one.
    pub draft: *mut umrt_ctx,
    /// Tokens guessed at a time, at most `UMRT_MAX_DRAFT`; how many are tried follows
    /// from how often they are right. 0: `UMRT_MAX_DRAFT`.
    pub n_draft: u32,
    /// Guesses what followed the same last tokens earlier in the sequence: this many of
    /// them if they are there, 2 at least. 0: does not; 3 or 4 suit most texts.
    pub ngram: u32,
    /// Milliseconds from the beginning of the call, of a request from handing it in,
    /// after which it ends with DEADLINE_EXCEEDED, as if it was cancelled: all finished
    /// tokens stay. 0: it has all the time it needs.
    pub deadline_ms: u32,
    /// Where tokens are chosen. `UMRT_DEVICE_AUTO`: on the GPU where the model computes
    /// there, but for penalties, guesses and constraints; `UMRT_DEVICE_CPU`: always on the
    /// CPU; `UMRT_DEVICE_GPU`: on the GPU, UNSUPPORTED if the model computes on the CPU or
    /// for penalties, guesses and constraints. The tokens are the same: at temperature 0
    /// exactly, above unless a draw is within 2e-6 of the probability that decides between
    /// two. `UMRT_CPU_OPS_STOCK`, which are the operations of GPUs, count as a GPU.
    pub sampling_device: u32,
    /// What the text may be, from its first token on; NULL: anything. It ends where the
    /// constraint's text does, so not with `UMRT_GENERATE_IGNORE_END`. It may be freed
    /// after the call that it was given to.
    pub constraint: *const umrt_constraint,
}

/// What a generation did.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct umrt_generate_result {
    pub struct_size: u32,
    /// `UMRT_STOP_*`
    pub stop_reason: u32,
    pub n_prompt_tokens: u32,
    /// Tokens that were sampled, the one that ended the text included.
    pub n_tokens: u32,
    /// Nanoseconds from the first prompt token to the first logits.
    pub prompt_ns: u64,
    /// Nanoseconds from there to the end.
    pub decode_ns: u64,
    /// Tokens that were guessed.
    pub n_drafted: u32,
    /// Of those, the ones that were right.
    pub n_accepted: u32,
}

c_structs!(umrt_generate_params, umrt_generate_result);

/// Appends a prompt to a sequence, samples token by token and hands over text as
/// it becomes certain. The token sampled last is not in the sequence.
///
/// - `callback`: may be NULL; then a prompt of tokens without stop strings needs no
///   tokenizer. It must not use this context (it would get BUSY).
/// - `cancel`: stops it with CANCELLED; may be NULL.
/// - `result`: may be NULL.
///
/// Whatever ends it early, all finished tokens stay in the sequence.
///
/// With `draft` or `ngram`, tokens are guessed and checked several at once, which is
/// faster where guesses are often right. What comes out is the same: at temperature 0
/// token by token (on a GPU, where rounding depends on how many tokens are evaluated
/// together, up to near ties); above, tokens have the same probabilities, but a seed
/// gives other ones than without guesses.
///
/// Where tokens are chosen on a GPU, it computes a step while the token before is looked
/// at; not with a prefix cache or `UMRT_OVERFLOW_SHIFT`, which do something in between.
///
/// Guesses with a constraint are checked against what it allows, each at its place.
///
/// Returns INVALID_ARGUMENT (also a draft model of another vocabulary: the message
/// names the difference; a constraint of another model), UNSUPPORTED (see
/// `sampling_device`; a draft model with recurrent layers; a constraint that becomes too
/// complex, or whose text the model's tokens cannot go on with), NOT_FOUND (no tokenizer or
/// chat template), FORMAT (they are broken), NO_SPACE (the prompt does not fit), OVER_BUDGET
/// (no room for the logits of guesses), BUSY, CANCELLED, DEADLINE_EXCEEDED, OUT_OF_MEMORY,
/// BACKEND. Any thread.
///
/// # Safety
/// `ctx` and `cancel` are NULL or live handles; `params` is NULL or a structure of
/// its `struct_size` with pointers as its fields say; `callback` may be called
/// with `userdata`; `result` is NULL or a structure of its `struct_size`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn umrt_generate(
    ctx: *mut umrt_ctx,
    params: *const umrt_generate_params,
    callback: umrt_text_fn,
    userdata: *mut c_void,
    cancel: *const umrt_cancel,
    result: *mut umrt_generate_result,
) -> umrt_status {
    guard(|| {
        // SAFETY: the caller's contract.
        unsafe {
            let result = Destination::new(result)?;
            let params = structs::read(params)?;
            arguments::known_flags(params.flags, UMRT_GENERATE_IGNORE_END)?;
            let cancel = cancel::or_after(cancel, params.deadline_ms);
            let stop = stop_strings(&params)?;
            let constraint = constraint(&params);
            let options = options(&params, &stop, constraint.as_deref())?;
            let mut receive = |text: &str, token| receive(callback, userdata, text, token);
            let receive: Option<&mut Receive<'_>> = match callback {
                Some(_) => Some(&mut receive),
                None => None,
            };
            let generated = context::with(ctx, |context| {
                let sampler = sampler(&params)?;
                let mut sampler = handle::one_call(&sampler, "sampler")?;
                let draft = draft_context(&params, ctx)?;
                let mut drafting = draft.as_ref().map(|draft| lock_draft(draft)).transpose()?;
                let speculation = Speculation {
                    draft: drafting.as_deref_mut(),
                    lookup: lookup(&params),
                };
                let cancel = cancel.as_ref();
                runtime::generate(
                    context,
                    &mut sampler,
                    &options,
                    speculation,
                    cancel,
                    receive,
                )
            })?;
            result.fill(describe(&generated))
        }
    })
}

/// # Safety
/// The pointers in `params` are as `umrt_generate` requires, as long as the options
/// are used.
pub(super) unsafe fn options<'a>(
    params: &umrt_generate_params,
    stop: &'a [&'a str],
    constraint: Option<&'a umrt_constraint>,
) -> Result<GenerateOptions<'a>> {
    Ok(GenerateOptions {
        // SAFETY: the caller's contract.
        prompt: unsafe { prompt(params)? },
        sequence: params.seq,
        max_tokens: params.max_tokens as usize,
        stop,
        ignore_end: params.flags & UMRT_GENERATE_IGNORE_END != 0,
        sampling_device: sampling_device(params.sampling_device)?,
        constraint: constraint.map(|constraint| &constraint.0),
    })
}

fn sampling_device(device: u32) -> Result<SamplingDevice> {
    match device {
        UMRT_DEVICE_AUTO => Ok(SamplingDevice::Auto),
        UMRT_DEVICE_CPU => Ok(SamplingDevice::Cpu),
        UMRT_DEVICE_GPU => Ok(SamplingDevice::Gpu),
        other => Err(Error::invalid(format!(
            "sampling_device {other} is none of UMRT_DEVICE_*"
        ))),
    }
}

/// The one that is given, or a new one.
///
/// # Safety
/// As for `prompt`.
pub(super) unsafe fn sampler(params: &umrt_generate_params) -> Result<Arc<Mutex<Sampler>>> {
    // SAFETY: the caller's contract.
    unsafe {
        match handle::borrow_optional(params.sampler.cast_const()) {
            Some(given) => Ok(given.0.clone()),
            None => Ok(Arc::new(Mutex::new(sampler::make(params.sampling)?))),
        }
    }
}

/// # Safety
/// `params.constraint` is null or a live handle.
pub(super) unsafe fn constraint(params: &umrt_generate_params) -> Option<Arc<umrt_constraint>> {
    // SAFETY: the caller's contract.
    unsafe { handle::borrow_optional(params.constraint) }
}

/// # Safety
/// `params.draft` is null or a live handle.
unsafe fn draft_context(
    params: &umrt_generate_params,
    ctx: *const umrt_ctx,
) -> Result<Option<Arc<umrt_ctx>>> {
    if params.draft.is_null() {
        return Ok(None);
    }
    if std::ptr::eq(params.draft, ctx) {
        return Err(Error::invalid(
            "the draft is the context itself; make one of its own for the draft model",
        ));
    }
    // SAFETY: the caller's contract.
    unsafe { handle::borrow(params.draft.cast_const(), "draft").map(Some) }
}

pub(super) fn lookup(params: &umrt_generate_params) -> Lookup {
    Lookup {
        ngram: params.ngram as usize,
        n_draft: params.n_draft as usize,
    }
}

/// Requests beside others guess from repetitions alone.
pub(super) fn ensure_no_draft_model(params: &umrt_generate_params) -> Result<()> {
    match params.draft.is_null() {
        true => Ok(()),
        false => Err(Error::unsupported(
            "draft models are for umrt_generate; requests beside others guess from repetitions \
             (ngram)",
        )),
    }
}

fn lock_draft(draft: &umrt_ctx) -> Result<MutexGuard<'_, Context>> {
    handle::one_call(&draft.0, "draft context")
}

/// # Safety
/// The pointers in `params` are as `umrt_generate` requires.
unsafe fn prompt<'a>(params: &umrt_generate_params) -> Result<Prompt<'a>> {
    let given = [
        !params.prompt.is_null(),
        !params.chat.is_null(),
        !params.tokens.is_null(),
    ];
    if given.into_iter().filter(|&given| given).count() != 1 {
        return Err(Error::invalid(
            "give exactly one of prompt, chat and tokens",
        ));
    }
    // SAFETY: the caller's contract.
    unsafe {
        Ok(match given {
            [true, ..] => Prompt::Text(arguments::c_text(params.prompt, "prompt")?),
            [_, true, _] => Prompt::Chat(arguments::c_text(params.chat, "chat")?),
            _ => Prompt::Tokens(arguments::slice(params.tokens, params.n_tokens, "tokens")?),
        })
    }
}

/// # Safety
/// As for `prompt`.
pub(super) unsafe fn stop_strings<'a>(params: &umrt_generate_params) -> Result<Vec<&'a str>> {
    // SAFETY: the caller's contract.
    unsafe {
        arguments::slice(params.stop, params.n_stop, "stop")?
            .iter()
            .map(|&text| arguments::c_text(text, "a stop string"))
            .collect()
    }
}

/// # Safety
/// `callback` may be called with `userdata`.
pub(super) unsafe fn receive(
    callback: umrt_text_fn,
    userdata: *mut c_void,
    text: &str,
    token: i32,
) -> Flow {
    let Some(callback) = callback else {
        return Flow::Continue;
    };
    // A NUL in the text can only come from a token that stands for it; C cannot
    // see past it, so the host gets the replacement character instead.
    let text = CString::new(text.replace('\0', "\u{fffd}")).unwrap_or_default();
    // SAFETY: the caller's contract; the text lives through the call.
    match unsafe { callback(text.as_ptr(), text.as_bytes().len(), token, userdata) } {
        0 => Flow::Continue,
        _ => Flow::Stop,
    }
}

fn describe(generated: &Generated) -> umrt_generate_result {
    umrt_generate_result {
        struct_size: 0,
        stop_reason: generated.stop_reason as u32,
        n_prompt_tokens: count32(generated.n_prompt_tokens),
        n_tokens: count32(generated.n_tokens),
        prompt_ns: generated.prompt_time.as_nanos() as u64,
        decode_ns: generated.decode_time.as_nanos() as u64,
        n_drafted: count32(generated.drafts.n_drafted),
        n_accepted: count32(generated.drafts.n_accepted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{MOST_DRAFTED, StopReason};

    #[test]
    fn the_limit_of_guesses_is_that_of_the_runtime() {
        assert_eq!(UMRT_MAX_DRAFT as usize, MOST_DRAFTED);
    }

    #[test]
    fn the_reasons_are_those_of_the_runtime() {
        assert_eq!(UMRT_STOP_END, StopReason::End as u32);
        assert_eq!(UMRT_STOP_MAX_TOKENS, StopReason::MaxTokens as u32);
        assert_eq!(UMRT_STOP_STRING, StopReason::StopString as u32);
        assert_eq!(UMRT_STOP_CALLBACK, StopReason::Receiver as u32);
        assert_eq!(UMRT_STOP_CONTEXT_FULL, StopReason::ContextFull as u32);
    }
}
