//! [`Requests`]: handed in and cancelled from any thread, from callbacks too, while
//! others are computed.

use std::collections::HashMap;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::grammar::Matcher;
use crate::runtime::batch::ensure_known;
use crate::runtime::generate::{Continuation, begin_constraint, prompt_tokens};
use crate::runtime::{
    Cancel, Context, DraftCounts, Flow, GenerateOptions, Lookup, Model, SamplingDevice, StopReason,
};
use crate::sample::Sampler;

/// Gets a request's text, on the thread of the step.
pub type Receiver = Box<dyn FnMut(&str, i32) -> Flow + Send>;

/// Gets a request's result, on the thread of the step.
pub type Finished = Box<dyn FnOnce(&RequestResult) + Send>;

/// A generation beside others.
pub struct Request<'a> {
    /// Its `sequence` counts if `keeps_sequence`.
    pub options: GenerateOptions<'a>,
    /// Appends to what `sequence` holds and leaves it there, as soon as no other
    /// request uses it. Otherwise an empty sequence is taken, and emptied at the end.
    pub keeps_sequence: bool,
    /// Guesses come when no prompt is read and there are few requests.
    pub lookup: Lookup,
    pub sampler: Arc<Mutex<Sampler>>,
    pub cancel: Option<Cancel>,
    pub receive: Option<Receiver>,
    /// `None`: the result is kept until it is taken.
    pub finished: Option<Finished>,
}

/// What became of a request.
#[derive(Clone, Debug)]
pub struct RequestResult {
    pub id: u64,
    pub outcome: Result<StopReason>,
    pub n_prompt_tokens: usize,
    /// Tokens sampled, the one that ended the text included.
    pub n_tokens: usize,
    pub drafts: DraftCounts,
    /// From handing in to getting a sequence.
    pub queue_time: Duration,
    /// From there to the first logits.
    pub prompt_time: Duration,
    /// From there to the end.
    pub decode_time: Duration,
}

impl RequestResult {
    /// Of a request that did not begin.
    pub(super) fn refused(id: u64, error: Error) -> RequestResult {
        RequestResult {
            id,
            outcome: Err(error),
            n_prompt_tokens: 0,
            n_tokens: 0,
            drafts: DraftCounts::default(),
            queue_time: Duration::ZERO,
            prompt_time: Duration::ZERO,
            decode_time: Duration::ZERO,
        }
    }
}

/// A result and who gets it.
pub(super) struct Ended {
    pub result: RequestResult,
    pub finished: Option<Finished>,
}

/// The requests of one scheduler.
pub struct Requests {
    model: Arc<Model>,
    n_ctx: usize,
    n_sequences: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    last_id: u64,
    arrived: Vec<Waiting>,
    /// Flags of those that have not ended.
    active: HashMap<u64, Cancel>,
    results: HashMap<u64, RequestResult>,
}

/// A request without a sequence. Its prompt is tokens already, so that steps need
/// not wait for the tokenizer.
pub(super) struct Waiting {
    pub id: u64,
    /// For an empty sequence.
    prompt: Vec<i32>,
    own_sequence: Option<OwnSequence>,
    pub arrived: Instant,
    pub parts: Parts,
}

struct OwnSequence {
    sequence: i32,
    /// What the prompt is behind other tokens.
    prompt: Vec<i32>,
}

/// What a request has from its beginning to its end.
pub(super) struct Parts {
    pub continuation: Continuation,
    pub sampling_device: SamplingDevice,
    pub lookup: Lookup,
    pub sampler: Arc<Mutex<Sampler>>,
    /// Of its constraint, if it has one.
    pub matcher: Option<Matcher>,
    pub receive: Receiver,
    pub finished: Option<Finished>,
    /// The scheduler's flag and the caller's.
    cancels: [Cancel; 2],
}

impl Requests {
    pub(super) fn new(context: &Context) -> Requests {
        Requests {
            model: context.model().clone(),
            n_ctx: context.n_ctx(),
            n_sequences: context.n_sequences(),
            state: Mutex::default(),
        }
    }

    /// Hands a request in; gives its id.
    pub fn submit(&self, request: Request<'_>) -> Result<u64> {
        let mut waiting = self.prepare(request)?;
        let mut state = self.state();
        state.last_id += 1;
        waiting.id = state.last_id;
        let [own_flag, _] = &waiting.parts.cancels;
        let own_flag = own_flag.clone();
        state.active.insert(waiting.id, own_flag);
        state.arrived.push(waiting);
        Ok(state.last_id)
    }

    /// Ends a request at the next step; one that is computing ends with its step.
    pub fn cancel(&self, id: u64) -> Result<()> {
        let state = self.state();
        let flag = state.active.get(&id).ok_or_else(|| {
            Error::not_found(format!("no request {id} is active; it ended, or never was"))
        })?;
        flag.trigger();
        Ok(())
    }

    /// Takes the result of a request that ended and had no receiver for it.
    pub fn take_result(&self, id: u64) -> Result<RequestResult> {
        let mut state = self.state();
        if state.active.contains_key(&id) {
            return Err(Error::busy(format!(
                "request {id} has not ended; go on with steps, or cancel it"
            )));
        }
        state.results.remove(&id).ok_or_else(|| {
            Error::not_found(format!(
                "there is no result of request {id}: it was taken or handed to a callback, or \
                 there never was such a request"
            ))
        })
    }

    fn prepare(&self, request: Request<'_>) -> Result<Waiting> {
        request.lookup.check()?;
        let options = &request.options;
        options.sampling_device.ensure_there(&self.model)?;
        let text = self.model.text();
        let prompt = prompt_tokens(text, options.prompt, true)?;
        ensure_known(&prompt, self.model.decoder().spec().vocab_size)?;
        if prompt.len() > self.n_ctx {
            return Err(Error::no_space(format!(
                "the prompt has {} tokens and a sequence holds {}; make a context with a larger \
                 n_ctx",
                prompt.len(),
                self.n_ctx
            )));
        }
        let own_sequence = match request.keeps_sequence {
            false => None,
            true => Some(self.own_sequence(options)?),
        };
        let has_receiver = request.receive.is_some();
        Ok(Waiting {
            id: 0,
            prompt,
            own_sequence,
            arrived: Instant::now(),
            parts: Parts {
                continuation: Continuation::new(&self.model, options, has_receiver)?,
                sampling_device: options.sampling_device,
                lookup: request.lookup,
                sampler: request.sampler,
                matcher: begin_constraint(text, options)?,
                receive: request
                    .receive
                    .unwrap_or_else(|| Box::new(|_, _| Flow::Continue)),
                finished: request.finished,
                cancels: [Cancel::new(), request.cancel.unwrap_or_default()],
            },
        })
    }

    fn own_sequence(&self, options: &GenerateOptions<'_>) -> Result<OwnSequence> {
        let sequence = options.sequence;
        if !usize::try_from(sequence).is_ok_and(|index| index < self.n_sequences) {
            return Err(Error::invalid(format!(
                "sequence {sequence} is outside of the context's {}",
                self.n_sequences
            )));
        }
        let prompt = prompt_tokens(self.model.text(), options.prompt, false)?;
        Ok(OwnSequence { sequence, prompt })
    }

    pub(super) fn take_arrived(&self) -> Vec<Waiting> {
        mem::take(&mut self.state().arrived)
    }

    pub(super) fn n_arrived(&self) -> usize {
        self.state().arrived.len()
    }

    /// Hands a result over, or keeps it.
    pub(super) fn finish(&self, ended: Ended) {
        let Ended { result, finished } = ended;
        let mut state = self.state();
        state.active.remove(&result.id);
        match finished {
            None => {
                state.results.insert(result.id, result);
            }
            Some(finished) => {
                // It may hand in the next request.
                drop(state);
                finished(&result);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    pub fn own_sequence(&self) -> Option<i32> {
        self.own_sequence.as_ref().map(|own| own.sequence)
    }

    pub fn ensure_wanted(&self) -> Result<()> {
        self.parts.ensure_wanted()
    }

    /// The tokens to append to a sequence of that length.
    pub fn take_prompt(&mut self, length: usize) -> Vec<i32> {
        match &mut self.own_sequence {
            Some(own) if length > 0 => mem::take(&mut own.prompt),
            _ => mem::take(&mut self.prompt),
        }
    }

    /// Its end without a beginning.
    pub fn refused(self, error: Error) -> Ended {
        Ended {
            result: RequestResult {
                queue_time: self.arrived.elapsed(),
                ..RequestResult::refused(self.id, error)
            },
            finished: self.parts.finished,
        }
    }
}

impl Parts {
    pub fn ensure_wanted(&self) -> Result<()> {
        self.cancels.iter().try_for_each(Cancel::check)
    }
}
