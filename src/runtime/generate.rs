//! Prompt in, streamed text out.

use std::time::{Duration, Instant};

use super::batch::Batch;
use super::cancel::Cancel;
use super::context::{Context, Next};
use super::text::ModelText;
use crate::error::{Error, Result};
use crate::sample::{Logits, Sampler};
use crate::text::{Detokenizer, EncodeFlags, StopMatcher};

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
    pub ahead: Ahead,
}

/// Whether greedy decoding computes the next step while a token is looked at. The
/// tokens are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ahead {
    /// On GPUs.
    #[default]
    Auto,
    Never,
    /// Also by MLX's operations on the CPU, where it gains nothing: for comparisons.
    Always,
}

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
    /// The model ended the text.
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
}

/// Appends the prompt to its sequence, samples token by token and hands text to
/// `receive(text, token)` as soon as it is certain. The token sampled last is not
/// in the sequence. Whatever ends it early, all finished tokens stay.
pub fn generate(
    context: &mut Context,
    sampler: &mut Sampler,
    options: &GenerateOptions<'_>,
    cancel: Option<&Cancel>,
    receive: &mut dyn FnMut(&str, i32) -> Flow,
) -> Result<Generated> {
    let model = context.model().clone();
    // Between two steps the model is in use, too.
    let _in_use = model.residence().begin()?;
    let prompt = prompt_tokens(context, options)?;
    let mut output = Output {
        detokenizer: Detokenizer::new(model.text().tokenizer()?.clone(), true),
        stop: StopMatcher::new(options.stop)?,
        text: model.text(),
        options,
        n_tokens: 0,
        receive,
    };
    let began = Instant::now();
    append(context, &prompt, options.sequence, cancel)?;
    let decoding = Instant::now();
    let is_ahead = match options.ahead {
        Ahead::Auto => context.gains_from_running_ahead(),
        Ahead::Never => false,
        Ahead::Always => true,
    };
    let stop_reason = match is_ahead && sampler.is_greedy() {
        true => decode_ahead(context, sampler, options.sequence, cancel, &mut output)?,
        false => decode(context, sampler, options.sequence, cancel, &mut output)?,
    };
    Ok(Generated {
        stop_reason,
        n_prompt_tokens: prompt.len(),
        n_tokens: output.n_tokens,
        prompt_time: decoding - began,
        decode_time: decoding.elapsed(),
    })
}

fn decode(
    context: &mut Context,
    sampler: &mut Sampler,
    sequence: i32,
    cancel: Option<&Cancel>,
    output: &mut Output<'_>,
) -> Result<StopReason> {
    loop {
        let token = sampler.sample(Logits::F32(context.logits(0)?))?;
        sampler.accept(token);
        let has_room = context.sequence_length(sequence)? < context.n_ctx();
        if let Some(reason) = output.take(token, has_room)? {
            return Ok(reason);
        }
        append(context, &[token], sequence, cancel)?;
    }
}

fn decode_ahead(
    context: &mut Context,
    sampler: &mut Sampler,
    sequence: i32,
    cancel: Option<&Cancel>,
    output: &mut Output<'_>,
) -> Result<StopReason> {
    let mut stop_reason = StopReason::ContextFull;
    context.decode_ahead(sequence, cancel, &mut |token, has_room| {
        sampler.accept(token);
        Ok(match output.take(token, has_room)? {
            Some(reason) => {
                stop_reason = reason;
                Next::End
            }
            None => Next::GoOn,
        })
    })?;
    Ok(stop_reason)
}

fn prompt_tokens(context: &Context, options: &GenerateOptions<'_>) -> Result<Vec<i32>> {
    let text = context.model().text();
    let tokens = match options.prompt {
        Prompt::Tokens(tokens) => tokens.to_vec(),
        Prompt::Text(prompt) => {
            // What goes in front of a text belongs in front of the whole sequence.
            let add_special = context.sequence_length(options.sequence)? == 0;
            let flags = EncodeFlags {
                add_special,
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

/// Tokens -> whole characters -> text without stop strings -> the receiver.
struct Output<'a> {
    detokenizer: Detokenizer,
    stop: StopMatcher,
    text: &'a ModelText,
    options: &'a GenerateOptions<'a>,
    n_tokens: usize,
    receive: &'a mut dyn FnMut(&str, i32) -> Flow,
}

impl Output<'_> {
    /// Why it is the last token, if it is. `has_room`: the sequence can take it.
    fn take(&mut self, token: i32, has_room: bool) -> Result<Option<StopReason>> {
        self.n_tokens += 1;
        let is_end = !self.options.ignore_end && self.text.is_end(token);
        if !is_end && let Some(reason) = self.push(token)? {
            return Ok(Some(reason));
        }
        let reason = if is_end {
            StopReason::End
        } else if self.n_tokens == self.options.max_tokens {
            StopReason::MaxTokens
        } else if !has_room {
            StopReason::ContextFull
        } else {
            return Ok(None);
        };
        Ok(Some(self.finish(token)?.unwrap_or(reason)))
    }

    fn push(&mut self, token: i32) -> Result<Option<StopReason>> {
        let unstopped = self.stop.push(self.detokenizer.push(token)?);
        let stopped = unstopped.stop.map(|_| StopReason::StopString);
        Ok(hand_over(self.receive, unstopped.text, token).or(stopped))
    }

    /// What was held back, since nothing follows that could change it.
    fn finish(&mut self, token: i32) -> Result<Option<StopReason>> {
        let unstopped = self.stop.push(self.detokenizer.finish()?);
        if unstopped.stop.is_some() {
            hand_over(self.receive, unstopped.text, token);
            return Ok(Some(StopReason::StopString));
        }
        let mut rest = unstopped.text.to_owned();
        rest.push_str(self.stop.finish());
        Ok(hand_over(self.receive, &rest, token).and(None))
    }
}

fn hand_over(
    receive: &mut dyn FnMut(&str, i32) -> Flow,
    text: &str,
    token: i32,
) -> Option<StopReason> {
    let stops = !text.is_empty() && receive(text, token) == Flow::Stop;
    stops.then_some(StopReason::Receiver)
}
