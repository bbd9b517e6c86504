//! [`Running`]: a request that has a sequence.

use std::sync::TryLockError;
use std::time::{Duration, Instant};

use super::requests::{Ended, Parts, RequestResult, Waiting};
use crate::error::{Error, Result, Status};
use crate::runtime::generate::{Constrained, Outlook};
use crate::runtime::speculate::{Room, Speculator};
use crate::runtime::{Context, StopReason};

pub(super) struct Running {
    id: u64,
    parts: Parts,
    speculator: Speculator<'static>,
    sequence: i32,
    /// Whether it has to be emptied at the end.
    is_lent: bool,
    /// Tokens that the sequence holds, as far as this request knows.
    length: usize,
    /// The prompt, then the last token and guesses at what follows it.
    tokens: Vec<i32>,
    n_evaluated: usize,
    n_prompt_tokens: usize,
    queue_time: Duration,
    started: Instant,
    first_logits: Option<Instant>,
}

impl Running {
    /// Takes the sequence, if the prompt fits into it.
    pub fn start(
        mut waiting: Waiting,
        context: &mut Context,
        sequence: i32,
    ) -> std::result::Result<Running, Box<Ended>> {
        let Beginning {
            length,
            prompt: tokens,
            n_known,
            speculator,
        } = match begin(&mut waiting, context, sequence) {
            Ok(beginning) => beginning,
            Err(error) => return Err(Box::new(waiting.refused(error))),
        };
        Ok(Running {
            id: waiting.id,
            speculator,
            sequence,
            is_lent: waiting.own_sequence().is_none(),
            length: length + n_known,
            n_evaluated: n_known,
            n_prompt_tokens: tokens.len(),
            tokens,
            queue_time: waiting.arrived.elapsed(),
            started: Instant::now(),
            first_logits: None,
            parts: waiting.parts,
        })
    }

    pub fn sequence(&self) -> i32 {
        self.sequence
    }

    /// Whether the whole prompt was read.
    pub fn is_decoding(&self) -> bool {
        self.first_logits.is_some()
    }

    /// Whether there is anything that guesses.
    pub fn guesses(&self) -> bool {
        self.speculator.guesses()
    }

    /// Tokens that are still to be evaluated, at least one.
    pub fn pending(&self) -> &[i32] {
        &self.tokens[self.n_evaluated..]
    }

    pub fn ensure_wanted(&self) -> Result<()> {
        self.parts.ensure_wanted()
    }

    pub fn ensure_undisturbed(&self, context: &Context) -> Result<()> {
        let found = context.sequence_length(self.sequence)?;
        match found == self.length {
            true => Ok(()),
            false => Err(Error::invalid(format!(
                "sequence {} holds {found} tokens instead of {}: another call changed it while \
                 request {} was using it",
                self.sequence, self.length, self.id
            ))),
        }
    }

    /// Puts guesses behind the last token, if it decodes; gives how many.
    pub fn guess(&mut self, context: &Context, room: Room) -> Result<usize> {
        let &[token] = &self.tokens[..] else {
            return Ok(0);
        };
        let n_more = self.parts.continuation.n_more();
        let guesses = self.speculator.look_up(context, (token, n_more), room)?;
        self.tokens.extend(guesses.iter().map(|guess| guess.token));
        Ok(self.tokens.len() - 1)
    }

    /// The step has not happened: guesses are none any more.
    pub fn forget_guesses(&mut self) {
        if self.is_decoding() {
            self.tokens.truncate(1);
            self.speculator.forget_planned();
        }
    }

    /// So many pending tokens are in the sequence now; whether that was all.
    pub fn was_evaluated(&mut self, n_tokens: usize) -> bool {
        self.length += n_tokens;
        self.n_evaluated += n_tokens;
        self.pending().is_empty()
    }

    /// Chooses the next token, and more as long as guesses are right; says why, if it is
    /// the last one. The first logits of the request's are in this row.
    pub fn take_logits(
        &mut self,
        context: &mut Context,
        first_row: usize,
    ) -> Result<Option<StopReason>> {
        self.first_logits.get_or_insert_with(Instant::now);
        self.speculator.was_evaluated(first_row);
        loop {
            self.ensure_wanted()?;
            let (token, is_complete) = self.choose(context)?;
            let outlook = Outlook {
                is_complete,
                is_full: self.length - self.speculator.n_uncertain() == context.n_ctx(),
            };
            let Parts {
                continuation,
                receive,
                ..
            } = &mut self.parts;
            if let Some(reason) = continuation.push(token, outlook, receive)? {
                return Ok(Some(reason));
            }
            if !self.speculator.confirms(token) {
                self.take_back(context)?;
                self.tokens = vec![token];
                self.n_evaluated = 0;
                return Ok(None);
            }
        }
    }

    /// Tokens that were right because they were guessed.
    pub fn n_accepted(&self) -> usize {
        self.speculator.counts().n_accepted
    }

    fn take_back(&mut self, context: &mut Context) -> Result<()> {
        self.length -= self.speculator.take_back(context)?;
        Ok(())
    }

    /// The next token, and whether nothing can follow it in the constraint.
    fn choose(&mut self, context: &mut Context) -> Result<(i32, bool)> {
        match self.parts.sampler.try_lock() {
            Ok(mut sampler) => {
                let sampler = &mut Constrained::new(&mut sampler, &mut self.parts.matcher);
                let device = self.parts.sampling_device;
                let guesses = self.speculator.guesses();
                let chooser = device.chooser(context.model(), sampler, guesses)?;
                self.speculator.choose_by(chooser);
                let token = self.speculator.sample(context, sampler)?;
                Ok((token, sampler.is_complete()))
            }
            Err(TryLockError::WouldBlock) => Err(Error::busy(format!(
                "another call is using the sampler of request {}; give each request its own",
                self.id
            ))),
            Err(TryLockError::Poisoned(_)) => Err(Error::new(
                Status::Panic,
                "an earlier call on this sampler failed with a bug; free it",
            )),
        }
    }

    /// Its result; a lent sequence is empty again.
    pub fn end(mut self, context: &mut Context, outcome: Result<StopReason>) -> Ended {
        let settled = self.take_back(context);
        let returned = match self.is_lent {
            true => context.trim(self.sequence, 0),
            false => settled,
        };
        let read = self.first_logits.unwrap_or_else(Instant::now);
        Ended {
            result: RequestResult {
                id: self.id,
                outcome: outcome.and_then(|reason| returned.map(|()| reason)),
                n_prompt_tokens: self.n_prompt_tokens,
                n_tokens: self.parts.continuation.n_tokens(),
                drafts: self.speculator.counts(),
                queue_time: self.queue_time,
                prompt_time: read - self.started,
                decode_time: read.elapsed(),
            },
            finished: self.parts.finished,
        }
    }
}

/// A sequence's length, and the prompt behind it.
struct Beginning {
    length: usize,
    prompt: Vec<i32>,
    /// Tokens of the prompt that the prefix cache had.
    n_known: usize,
    speculator: Speculator<'static>,
}

fn begin(waiting: &mut Waiting, context: &mut Context, sequence: i32) -> Result<Beginning> {
    let speculator = Speculator::by_lookup(context, sequence, waiting.parts.lookup)?;
    let length = context.sequence_length(sequence)?;
    let prompt = waiting.take_prompt(length);
    if length + prompt.len() > context.n_ctx() {
        return Err(Error::no_space(format!(
            "sequence {sequence} holds {length} tokens and a prompt of {} does not fit behind them \
             into the context of {}; trim the sequence or make a context with a larger n_ctx",
            prompt.len(),
            context.n_ctx()
        )));
    }
    let n_known = context.append_known(sequence, &prompt)?;
    Ok(Beginning {
        length,
        prompt,
        n_known,
        speculator,
    })
}
