//! Prompt in, streamed text out.
//!
//! - `continuation`: from a token to the next, or to the end
//! - `output`: from tokens to the receiver's text

mod continuation;
mod output;

use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

pub(super) use continuation::{Continuation, Outlook};

use super::batch::Batch;
use super::cancel::Cancel;
use super::context::{Context, Next};
use super::sampling::{Choices, Chooser, SamplingDevice};
use super::speculate::{DraftCounts, Speculation, Speculator};
use super::text::ModelText;
use crate::error::{Error, Result};
use crate::grammar::{Constraint, Matcher};
use crate::sample::Sampler;
use crate::text::EncodeFlags;

/// What to continue.
#[derive(Clone, Copy, Debug)]
pub enum Prompt<'a> {
    /// Plain text; special tokens spelled out in it are ordinary characters.
    Text(&'a str),
    /// JSON for the chat template: an object with "messages" and more.
    Chat(&'a str),
    Tokens(&'a [i32]),
}

#[derive(Clone, Copy, Debug)]
pub struct GenerateOptions<'a> {
    pub prompt: Prompt<'a>,
    /// The sequence that the prompt and what follows are appended to.
    pub sequence: i32,
    /// 0: until the model ends the text or the context is full.
    pub max_tokens: usize,
    /// Texts that end the generation; they are not part of the output.
    pub stop: &'a [&'a str],
    /// Goes on behind the token that ends a text.
    pub ignore_end: bool,
    pub sampling_device: SamplingDevice,
    /// What the text may be; `None`: anything.
    pub constraint: Option<&'a Constraint>,
}

/// Gets text as soon as it is certain, and the token that completed it.
pub type Receive<'a> = dyn FnMut(&str, i32) -> Flow + 'a;

/// Whether the receiver of the text wants more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    Continue,
    Stop,
}

/// Why the generation ended. The numbers are those of the C API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum StopReason {
    /// The model ended the text, or it is a whole one of the constraint's that nothing
    /// can be added to.
    End = 1,
    MaxTokens = 2,
    StopString = 3,
    /// The receiver wanted no more.
    Receiver = 4,
    ContextFull = 5,
}

#[derive(Clone, Copy, Debug)]
pub struct Generated {
    pub stop_reason: StopReason,
    pub n_prompt_tokens: usize,
    /// Tokens sampled, the one that ended the text included.
    pub n_tokens: usize,
    pub prompt_time: Duration,
    pub decode_time: Duration,
    pub drafts: DraftCounts,
}

/// Appends the prompt to its sequence, samples token by token and hands text to
/// the receiver as soon as it is certain. The token sampled last is not in the
/// sequence. Whatever ends it early, all finished tokens stay.
///
/// Without a receiver and stop strings, a prompt of tokens needs no tokenizer.
pub fn generate(
    context: &mut Context,
    sampler: &mut Sampler,
    options: &GenerateOptions<'_>,
    speculation: Speculation<'_>,
    cancel: Option<&Cancel>,
    receive: Option<&mut Receive<'_>>,
) -> Result<Generated> {
    let model = context.model().clone();
    // Between two steps the model is in use, too.
    let _in_use = model.residence().begin()?;
    let begins_sequence = context.sequence_length(options.sequence)? == 0;
    let prompt = prompt_tokens(model.text(), options.prompt, begins_sequence)?;
    let mut continuation = Continuation::new(&model, options, receive.is_some())?;
    let mut matcher = begin_constraint(model.text(), options)?;
    let sampler = &mut Constrained::new(sampler, &mut matcher);
    let mut ignore = |_: &str, _: i32| Flow::Continue;
    let receive: &mut Receive<'_> = match receive {
        Some(receive) => receive,
        None => &mut ignore,
    };
    let chooser = options
        .sampling_device
        .chooser(&model, sampler, speculation.guesses())?;
    let mut speculator = Speculator::new(context, sampler, options.sequence, speculation)?;
    speculator.choose_by(chooser);
    let began = Instant::now();
    let n_known = context.append_known(options.sequence, &prompt)?;
    append(context, &prompt[n_known..], options.sequence, cancel)?;
    let decoding = Instant::now();
    let ways = (cancel, receive);
    let decoded = match chooser == Chooser::Device && context.can_run_ahead() {
        true => decode_ahead(context, sampler, &mut continuation, options.sequence, ways),
        false => decode(context, sampler, &mut continuation, &mut speculator, ways),
    };
    let settled = speculator.settle(context);
    let stop_reason = decoded?;
    settled?;
    Ok(Generated {
        stop_reason,
        n_prompt_tokens: prompt.len(),
        n_tokens: continuation.n_tokens(),
        prompt_time: decoding - began,
        decode_time: decoding.elapsed(),
        drafts: speculator.counts(),
    })
}

/// Token by token until something ends it.
fn decode(
    context: &mut Context,
    sampler: &mut Sampler,
    continuation: &mut Continuation,
    speculator: &mut Speculator<'_>,
    (cancel, receive): (Option<&Cancel>, &mut Receive<'_>),
) -> Result<StopReason> {
    loop {
        let token = speculator.sample(context, sampler)?;
        let outlook = Outlook {
            is_complete: sampler.is_complete(),
            is_full: context.is_full_with(speculator.length(context)?),
        };
        if let Some(reason) = continuation.push(token, outlook, receive)? {
            return Ok(reason);
        }
        let n_more = continuation.n_more();
        speculator.append(context, sampler, (token, n_more), cancel)?;
    }
}

/// As `decode`, one step ahead.
fn decode_ahead(
    context: &mut Context,
    sampler: &mut Sampler,
    continuation: &mut Continuation,
    sequence: i32,
    (cancel, receive): (Option<&Cancel>, &mut Receive<'_>),
) -> Result<StopReason> {
    let mut stop_reason = StopReason::ContextFull;
    let mut choices = Choices::of(sampler);
    let mut choose = || choices.next();
    context.decode_ahead(sequence, cancel, &mut choose, &mut |token, is_full| {
        sampler.accept_drawn(token)?;
        let outlook = Outlook {
            is_complete: false,
            is_full,
        };
        Ok(match continuation.push(token, outlook, receive)? {
            Some(reason) => {
                stop_reason = reason;
                Next::End
            }
            None => Next::GoOn,
        })
    })?;
    Ok(stop_reason)
}

/// Where a new text of the options' constraint begins.
pub(super) fn begin_constraint(
    text: &ModelText,
    options: &GenerateOptions<'_>,
) -> Result<Option<Matcher>> {
    let Some(constraint) = options.constraint else {
        return Ok(None);
    };
    if options.ignore_end {
        return Err(Error::invalid(
            "the constraint says when a text ends; leave out ignore_end",
        ));
    }
    text.ensure_own(|vocabulary| constraint.is_for(vocabulary))?;
    Ok(Some(constraint.begin()))
}

/// A sampler with the constraint of one generation, if that has one. It has its own
/// again when this is dropped.
pub(super) struct Constrained<'a> {
    sampler: &'a mut Sampler,
    matcher: &'a mut Option<Matcher>,
    is_lent: bool,
}

impl<'a> Constrained<'a> {
    pub fn new(sampler: &'a mut Sampler, matcher: &'a mut Option<Matcher>) -> Self {
        let is_lent = matcher.is_some();
        if is_lent {
            sampler.swap_constraint(matcher);
        }
        Self {
            sampler,
            matcher,
            is_lent,
        }
    }
}

impl Deref for Constrained<'_> {
    type Target = Sampler;

    fn deref(&self) -> &Sampler {
        self.sampler
    }
}

impl DerefMut for Constrained<'_> {
    fn deref_mut(&mut self) -> &mut Sampler {
        self.sampler
    }
}

impl Drop for Constrained<'_> {
    fn drop(&mut self) {
        if self.is_lent {
            self.sampler.swap_constraint(self.matcher);
        }
    }
}

/// The prompt's tokens, at least one. What goes in front of a text goes in front of
/// the whole sequence.
pub(super) fn prompt_tokens(
    text: &ModelText,
    prompt: Prompt<'_>,
    begins_sequence: bool,
) -> Result<Vec<i32>> {
    let tokens = match prompt {
        Prompt::Tokens(tokens) => tokens.to_vec(),
        Prompt::Text(prompt) => {
            let flags = EncodeFlags {
                add_special: begins_sequence,
                parse_special: false,
            };
            text.tokenizer()?.encode(prompt, flags)?
        }
        Prompt::Chat(request) => {
            let prompt = text.render_chat(request)?;
            let flags = EncodeFlags {
                add_special: false,
                parse_special: true,
            };
            text.tokenizer()?.encode(&prompt, flags)?
        }
    };
    match tokens.is_empty() {
        true => Err(Error::invalid("the prompt has no tokens")),
        false => Ok(tokens),
    }
}

fn append(
    context: &mut Context,
    tokens: &[i32],
    sequence: i32,
    cancel: Option<&Cancel>,
) -> Result<()> {
    let sequences = vec![sequence; tokens.len()];
    let batch = Batch {
        sequences: Some(&sequences),
        ..Batch::of(tokens)
    };
    context.eval(&batch, cancel)
}
