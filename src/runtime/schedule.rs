//! [`Scheduler`]: many generations over one context, which join and leave between
//! steps.
//!
//! - `requests`: those that arrived, and what became of them; any thread
//! - `running`: one request with a sequence
//! - `many`: a fixed number of requests, to their end
//!
//! A step evaluates one token of every request that decodes, and with what is left
//! of its tokens, at least one, it reads prompts, in order of arrival. So nobody
//! waits longer for a token than one step takes, whatever prompts come. A step without
//! prompts has guesses at what follows, as long as its rows are few.

mod many;
mod requests;
mod running;

use std::collections::VecDeque;
use std::sync::Arc;

pub use requests::{Finished, Receiver, Request, RequestResult, Requests};

use requests::Waiting;
use running::Running;

use super::batch::{Batch, Want};
use super::cancel::Cancel;
use super::context::Context;
use super::generate::StopReason;
use super::speculate::Room;
use crate::error::{Error, Result};
use crate::kernels::MAX_DOT_ROWS;

/// Zero means the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct SchedulerOptions {
    /// Tokens that a step evaluates at most, if no more requests decode. Fewer make
    /// steps shorter while prompts are read. Default, and at most: the context's
    /// `prefill_chunk`.
    pub step_tokens: usize,
}

/// What a step did and what it left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepReport {
    /// Requests that have a sequence.
    pub n_running: usize,
    /// Requests that wait for one.
    pub n_waiting: usize,
    pub n_prompt_tokens: usize,
    /// One for each request that decoded, and guesses of theirs that were right.
    pub n_decode_tokens: usize,
    /// Guesses that were evaluated.
    pub n_drafted: usize,
}

impl StepReport {
    pub fn n_active(&self) -> usize {
        self.n_running + self.n_waiting
    }
}

/// Runs requests over the context that it was made for, step by step.
pub struct Scheduler {
    requests: Arc<Requests>,
    /// In order of arrival.
    waiting: VecDeque<Waiting>,
    /// In the order in which they got their sequences.
    running: Vec<Running>,
    step_tokens: usize,
}

impl Scheduler {
    pub fn new(context: &Context, options: SchedulerOptions) -> Scheduler {
        let most = context.prefill_chunk();
        Scheduler {
            requests: Arc::new(Requests::new(context)),
            waiting: VecDeque::new(),
            running: Vec::new(),
            step_tokens: match options.step_tokens {
                0 => most,
                n => n.min(most),
            },
        }
    }

    /// Where requests are handed in.
    pub fn requests(&self) -> &Arc<Requests> {
        &self.requests
    }

    /// Gives sequences to requests that wait and evaluates one step, on the context
    /// that the scheduler was made for. What goes wrong with one request ends that
    /// request. If the step itself fails or is cancelled, all requests stay where
    /// they were, but for those whose sequence MLX lost.
    pub fn step(&mut self, context: &mut Context, cancel: Option<&Cancel>) -> Result<StepReport> {
        self.waiting.extend(self.requests.take_arrived());
        self.end_unwanted(context);
        self.start(context);
        let n_tokens = self.plan();
        let evaluated = match self.guess(context) {
            Ok(0) => self.evaluate(context, (&n_tokens, 0), cancel),
            Ok(n_drafted) => self.evaluate(context, (&self.plan(), n_drafted), cancel),
            Err(error) => Err(error),
        };
        let report = evaluated.inspect_err(|_| self.forget_guesses())?;
        Ok(StepReport {
            n_running: self.running.len(),
            n_waiting: self.waiting.len() + self.requests.n_arrived(),
            ..report
        })
    }

    /// Ends those that were cancelled or whose sequence somebody else changed.
    fn end_unwanted(&mut self, context: &mut Context) {
        for request in std::mem::take(&mut self.waiting) {
            match request.ensure_wanted() {
                Ok(()) => self.waiting.push_back(request),
                Err(error) => self.requests.finish(request.refused(error)),
            }
        }
        self.end_failing(context, |request, context| {
            request.ensure_wanted()?;
            request.ensure_undisturbed(context)
        });
    }

    /// Gives sequences to those that wait, in order of arrival.
    fn start(&mut self, context: &mut Context) {
        let is_free = |sequence: &i32| self.running.iter().all(|one| one.sequence() != *sequence);
        let mut free: Vec<i32> = (0..context.n_sequences() as i32).filter(is_free).collect();
        for request in std::mem::take(&mut self.waiting) {
            let suits = |&sequence: &i32| match request.own_sequence() {
                Some(own) => sequence == own,
                None => context
                    .sequence_length(sequence)
                    .is_ok_and(|length| length == 0),
            };
            let Some(place) = free.iter().position(suits) else {
                self.waiting.push_back(request);
                continue;
            };
            match Running::start(request, context, free[place]) {
                Ok(running) => {
                    free.remove(place);
                    self.running.push(running);
                }
                Err(refused) => self.requests.finish(*refused),
            }
        }
        if self.running.is_empty() {
            self.refuse_waiting(&Error::no_space(format!(
                "none of the context's {} sequences is empty; trim one to 0 tokens, or make a \
                 context with more",
                context.n_sequences()
            )));
        }
    }

    fn refuse_waiting(&mut self, error: &Error) {
        for request in std::mem::take(&mut self.waiting) {
            self.requests.finish(request.refused(error.clone()));
        }
    }

    /// How many tokens of each running request the next step evaluates.
    fn plan(&self) -> Vec<usize> {
        let n_decoding = self.n_decoding();
        let mut left = self.step_tokens.saturating_sub(n_decoding).max(1);
        let share = |one: &Running| {
            if one.is_decoding() {
                return one.pending().len();
            }
            let n = one.pending().len().min(left);
            left -= n;
            n
        };
        self.running.iter().map(share).collect()
    }

    fn n_decoding(&self) -> usize {
        self.running.iter().filter(|one| one.is_decoding()).count()
    }

    /// Puts guesses behind the last tokens, if all requests decode and few rows are the
    /// step's; gives how many. Those who guess share what room there is.
    fn guess(&mut self, context: &Context) -> Result<usize> {
        let n_decoding = self.n_decoding();
        if n_decoding < self.running.len() {
            return Ok(0);
        }
        let mut n_guessing = self.running.iter().filter(|one| one.guesses()).count();
        let mut left = MAX_DOT_ROWS.saturating_sub(n_decoding);
        for one in self.running.iter_mut().filter(|one| one.guesses()) {
            let room = Room {
                most: left / n_guessing,
                n_others: n_decoding - 1,
            };
            left -= one.guess(context, room)?;
            n_guessing -= 1;
        }
        Ok(MAX_DOT_ROWS.saturating_sub(n_decoding) - left)
    }

    fn forget_guesses(&mut self) {
        self.running.iter_mut().for_each(Running::forget_guesses);
    }

    fn evaluate(
        &mut self,
        context: &mut Context,
        (n_tokens, n_drafted): (&[usize], usize),
        cancel: Option<&Cancel>,
    ) -> Result<StepReport> {
        let mut report = StepReport {
            n_drafted,
            ..StepReport::default()
        };
        let (mut tokens, mut sequences, mut marks) = (Vec::new(), Vec::new(), Vec::new());
        for (one, &n) in self.running.iter().zip(n_tokens) {
            tokens.extend_from_slice(&one.pending()[..n]);
            sequences.resize(tokens.len(), one.sequence());
            if one.is_decoding() {
                report.n_decode_tokens += 1;
                marks.resize(tokens.len(), 1);
                continue;
            }
            report.n_prompt_tokens += n;
            marks.resize(tokens.len(), 0);
            if n == one.pending().len() {
                marks[tokens.len() - 1] = 1;
            }
        }
        if tokens.is_empty() {
            return Ok(report);
        }
        let batch = Batch {
            tokens: &tokens,
            sequences: Some(&sequences),
            want: Want::Marked(&marks),
        };
        let evaluated = match n_drafted {
            0 => context.eval(&batch, cancel),
            _ => context.eval_drafted(&batch, n_drafted, cancel),
        };
        if let Err(error) = evaluated {
            self.end_failing(context, |one, context| {
                one.ensure_undisturbed(context).map_err(|_| error.clone())
            });
            return Err(error);
        }
        report.n_decode_tokens += self.hand_out(context, n_tokens);
        Ok(report)
    }

    /// The rows of logits are in the order of the requests that have some: one for a
    /// prompt, one for each token of those that decode. Gives how many guesses were right.
    fn hand_out(&mut self, context: &mut Context, n_tokens: &[usize]) -> usize {
        let (mut row, mut n_right) = (0, 0);
        for (mut one, &n) in std::mem::take(&mut self.running).into_iter().zip(n_tokens) {
            let (n_rows, n_accepted) = (if one.is_decoding() { n } else { 1 }, one.n_accepted());
            let outcome = match one.was_evaluated(n) {
                false => Ok(None),
                true => {
                    row += n_rows;
                    one.take_logits(context, row - n_rows)
                }
            };
            n_right += one.n_accepted() - n_accepted;
            match outcome.transpose() {
                None => self.running.push(one),
                Some(outcome) => self.end(context, one, outcome),
            }
        }
        n_right
    }

    fn end_failing(
        &mut self,
        context: &mut Context,
        check: impl Fn(&Running, &Context) -> Result<()>,
    ) {
        for one in std::mem::take(&mut self.running) {
            match check(&one, context) {
                Ok(()) => self.running.push(one),
                Err(error) => self.end(context, one, Err(error)),
            }
        }
    }

    /// Ends all requests, those that just arrived too.
    fn end_all(&mut self, context: &mut Context, error: &Error) {
        self.waiting.extend(self.requests.take_arrived());
        self.refuse_waiting(error);
        self.end_failing(context, |_, _| Err(error.clone()));
    }

    /// Forgets all requests; the sequences that they took are empty again.
    pub fn abandon(&mut self, context: &mut Context) {
        self.waiting.clear();
        for one in self.running.drain(..) {
            drop(one.end(context, Err(Error::cancelled("the scheduler was freed"))));
        }
    }

    fn end(&self, context: &mut Context, one: Running, outcome: Result<StopReason>) {
        self.requests.finish(one.end(context, outcome));
    }
}
