//! Speculative decoding: guesses at the next tokens are evaluated together with the
//! token before them, and those that turn out right need no step of their own. What
//! comes out is what would come out without: see [`Speculator`].
//!
//! - `guesses`: where guesses come from
//! - `lookup`: guesses from repetitions in the sequence itself
//! - `draft`: guesses by a smaller model
//! - `pace`: how many are worth their while

mod draft;
mod guesses;
mod lookup;
mod pace;

use std::collections::VecDeque;

use self::guesses::Guesses;
pub(super) use self::pace::Room;
use super::batch::{Batch, Want};
use super::cancel::Cancel;
use super::context::Context;
use super::sampling::{Chooser, choose};
use crate::error::{Error, Result};
use crate::sample::{Logits, Proposal, Sampler};

/// Tokens that are guessed at a time, at most: with the one before them they are as
/// many rows as kernels compute one by one.
pub const MOST_DRAFTED: usize = 11;

/// How to guess tokens. By default nothing is guessed.
#[derive(Default)]
pub struct Speculation<'a> {
    /// A context of a smaller model with the same vocabulary. Its sequence of the same
    /// number follows the one that is continued.
    pub draft: Option<&'a mut Context>,
    pub lookup: Lookup,
}

/// How to guess tokens from repetitions. By default nothing is guessed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lookup {
    /// Looks in the sequence for what followed the same last tokens before: this many
    /// at most, and 2 at least. 0: does not.
    pub ngram: usize,
    /// Tokens guessed at a time, at most, by a draft model too; 0 means `MOST_DRAFTED`.
    pub n_draft: usize,
}

impl Speculation<'_> {
    /// Whether there is anything that guesses.
    pub(super) fn guesses(&self) -> bool {
        self.draft.is_some() || self.lookup.ngram > 0
    }
}

impl Lookup {
    pub(super) fn check(&self) -> Result<()> {
        let Lookup { ngram, n_draft } = self;
        if *n_draft > MOST_DRAFTED {
            return Err(Error::invalid(format!(
                "n_draft is {n_draft}, but at most {MOST_DRAFTED} tokens are guessed at a time"
            )));
        }
        if *ngram == 1 {
            return Err(Error::invalid(
                "ngram is 1, but a single token says too little: use 2 or more, or 0 for none",
            ));
        }
        Ok(())
    }

    /// Tokens guessed at a time, at most.
    fn most(&self) -> usize {
        match self.n_draft {
            0 => MOST_DRAFTED,
            n => n,
        }
    }
}

/// What became of guesses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DraftCounts {
    pub n_drafted: usize,
    /// Of those, the ones that were right.
    pub n_accepted: usize,
}

/// What follows in a sequence, token by token: [`sample`](Self::sample) one, then
/// [`append`](Self::append) it.
///
/// At temperature 0 the tokens are those of decoding without guesses, since the logits
/// are the same to the last bit (where our kernels compute; MLX's operations may sum
/// several rows in another order than one). Above, they have the same distribution.
///
/// Where somebody else evaluates, among other sequences, `append` comes in its parts:
/// [`confirms`](Self::confirms), or else [`take_back`](Self::take_back),
/// [`look_up`](Self::look_up) and [`was_evaluated`](Self::was_evaluated).
pub(super) struct Speculator<'a> {
    sequence: i32,
    guesses: Guesses<'a>,
    /// What is to be evaluated behind the next token.
    planned: Vec<Proposal>,
    /// Tokens at the sequence's end of which nobody knows yet whether they follow.
    guessed: VecDeque<Proposal>,
    /// Of the logits in front of them.
    row: usize,
    chooser: Chooser,
    counts: DraftCounts,
}

impl<'a> Speculator<'a> {
    /// Goes on behind the last token of a sequence, whose logits are there when the first
    /// token is sampled.
    pub fn new(
        context: &Context,
        sampler: &mut Sampler,
        sequence: i32,
        speculation: Speculation<'a>,
    ) -> Result<Speculator<'a>> {
        let Speculation { draft, lookup } = speculation;
        let mut guesses = Guesses::by_lookup(context, sequence, lookup)?;
        if let Some(draft) = draft {
            guesses.add_draft(context, sampler, (draft, lookup))?;
        }
        Ok(Speculator::with(sequence, guesses))
    }

    /// The same without a draft model.
    pub fn by_lookup(
        context: &Context,
        sequence: i32,
        lookup: Lookup,
    ) -> Result<Speculator<'static>> {
        let guesses = Guesses::by_lookup(context, sequence, lookup)?;
        Ok(Speculator::with(sequence, guesses))
    }

    fn with(sequence: i32, guesses: Guesses<'_>) -> Speculator<'_> {
        Speculator {
            sequence,
            guesses,
            planned: Vec::new(),
            guessed: VecDeque::new(),
            row: 0,
            chooser: Chooser::Sampler,
            counts: DraftCounts::default(),
        }
    }

    /// Of guesses the sampler decides in any case.
    pub fn choose_by(&mut self, chooser: Chooser) {
        self.chooser = chooser;
    }

    /// Whether there is anything that guesses.
    pub fn guesses(&self) -> bool {
        self.guesses.are_there()
    }

    /// Tokens at the sequence's end that are not certain.
    pub fn n_uncertain(&self) -> usize {
        self.guessed.len()
    }

    /// Tokens of the sequence that are certain.
    pub fn length(&self, context: &Context) -> Result<usize> {
        Ok(context.sequence_length(self.sequence)? - self.n_uncertain())
    }

    pub fn counts(&self) -> DraftCounts {
        self.counts
    }

    /// The next token.
    pub fn sample(&mut self, context: &mut Context, sampler: &mut Sampler) -> Result<i32> {
        let Some(guess) = self.guessed.front() else {
            return choose(self.chooser, sampler, context, self.row);
        };
        let logits = Logits::F32(context.logits(self.row)?);
        let token = sampler.sample_expecting(logits, guess)?;
        sampler.accept(token)?;
        if self.is_guessed(token) {
            self.counts.n_accepted += 1;
            context.count_accepted_draft();
        }
        Ok(token)
    }

    /// Puts the sampled token into the sequence and finds out what follows it. At most
    /// `n_more` tokens will be sampled.
    pub fn append(
        &mut self,
        context: &mut Context,
        sampler: &Sampler,
        (token, n_more): (i32, usize),
        cancel: Option<&Cancel>,
    ) -> Result<()> {
        if self.confirms(token) {
            return Ok(());
        }
        self.settle(context)?;
        let room = self.room(context, n_more)?;
        self.planned = self
            .guesses
            .after(context, sampler, (token, room), cancel)?;
        let ids = self.planned.iter().map(|guess| guess.token);
        let tokens: Vec<i32> = std::iter::once(token).chain(ids).collect();
        let batch = Batch {
            tokens: &tokens,
            sequences: Some(&vec![self.sequence; tokens.len()]),
            want: Want::Marked(&vec![1; tokens.len()]),
        };
        context.eval_drafted(&batch, self.planned.len(), cancel)?;
        self.was_evaluated(0);
        Ok(())
    }

    /// Whether the sampled token is in the sequence already, since it was guessed. If it
    /// is not, the guesses behind it are wrong.
    pub fn confirms(&mut self, token: i32) -> bool {
        let is_right = self.is_guessed(token);
        if !self.guessed.is_empty() {
            self.guesses.observe(is_right);
        }
        if is_right {
            self.guessed.pop_front();
            self.row += 1;
        }
        is_right
    }

    /// Guesses at what follows the sampled token, as many as there is room for beside
    /// others of a step: they are to be evaluated behind it.
    pub fn look_up(
        &mut self,
        context: &Context,
        (token, n_more): (i32, usize),
        room: Room,
    ) -> Result<&[Proposal]> {
        let own = self.room(context, n_more)?;
        let room = Room {
            most: own.most.min(room.most),
            ..room
        };
        self.planned = self.guesses.look_up(context, token, room)?;
        Ok(&self.planned)
    }

    /// The guesses will not be evaluated.
    pub fn forget_planned(&mut self) {
        self.planned.clear();
    }

    /// The sampled token and the guesses are in the sequence now; the logits behind them
    /// begin in this row.
    pub fn was_evaluated(&mut self, first_row: usize) {
        self.counts.n_drafted += self.planned.len();
        self.guessed = self.planned.drain(..).collect();
        self.row = first_row;
    }

    /// Takes guesses back that are not known to be right; gives how many.
    pub fn take_back(&mut self, context: &mut Context) -> Result<usize> {
        let n_wrong = self.n_uncertain();
        context.take_back(self.sequence, n_wrong)?;
        self.guessed.clear();
        Ok(n_wrong)
    }

    /// The same where the context's logits are this sequence's alone: of them, the last
    /// row that is certain stays.
    pub fn settle(&mut self, context: &mut Context) -> Result<()> {
        self.take_back(context)?;
        context.keep_logits_row(self.row);
        self.row = 0;
        Ok(())
    }

    /// What the sequence has room for behind the next token, alone.
    fn room(&self, context: &Context, n_more: usize) -> Result<Room> {
        let left = context.n_ctx() - context.sequence_length(self.sequence)?;
        Ok(Room {
            most: left.saturating_sub(1).min(n_more.saturating_sub(1)),
            n_others: 0,
        })
    }

    fn is_guessed(&self, token: i32) -> bool {
        self.guessed
            .front()
            .is_some_and(|guess| guess.token == token)
    }
}
