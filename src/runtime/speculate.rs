//! Speculative decoding: guesses at the next tokens are evaluated together with the
//! token before them, and those that turn out right need no step of their own. What
//! comes out is what would come out without: see [`Speculator`].
//!
//! - `lookup`: guesses from repetitions in the sequence itself
//! - `draft`: guesses by a smaller model
//! - `pace`: how many are worth their while

mod draft;
mod lookup;
mod pace;

use std::collections::VecDeque;

use self::draft::DraftModel;
use self::pace::{Costs, Pace};
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
    /// Looks in the sequence for what followed the same last tokens before: this many
    /// at most, and 2 at least. 0: does not.
    pub ngram: usize,
    /// Tokens guessed at a time, at most; 0 means `MOST_DRAFTED`.
    pub n_draft: usize,
}

impl Speculation<'_> {
    /// Whether there is anything that guesses.
    pub(super) fn guesses(&self) -> bool {
        self.draft.is_some() || self.ngram > 0
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
pub(super) struct Speculator<'a> {
    sequence: i32,
    guesses: Guesses<'a>,
    /// Tokens at the sequence's end of which nobody knows yet whether they follow.
    guessed: VecDeque<Proposal>,
    /// Of the logits in front of them.
    row: usize,
    chooser: Chooser,
    counts: DraftCounts,
}

/// Where guesses come from.
struct Guesses<'a> {
    sequence: i32,
    lookup: Option<Lookup>,
    draft: Option<(DraftModel<'a>, Pace)>,
    /// Of the last ones.
    source: Source,
}

struct Lookup {
    ngram: usize,
    pace: Pace,
}

#[derive(Clone, Copy)]
enum Source {
    Lookup,
    Draft,
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
        Ok(Speculator {
            sequence,
            guesses: Guesses::new(context, sampler, sequence, speculation)?,
            guessed: VecDeque::new(),
            row: 0,
            chooser: Chooser::Sampler,
            counts: DraftCounts::default(),
        })
    }

    /// Of guesses the sampler decides in any case.
    pub fn chosen_by(self, chooser: Chooser) -> Speculator<'a> {
        Speculator { chooser, ..self }
    }

    /// Tokens of the sequence that are certain.
    pub fn length(&self, context: &Context) -> Result<usize> {
        Ok(context.sequence_length(self.sequence)? - self.guessed.len())
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
        sampler.accept(token);
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
        if self.is_guessed(token) {
            self.guessed.pop_front();
            self.row += 1;
            self.guesses.observe(true);
            return Ok(());
        }
        if !self.guessed.is_empty() {
            self.guesses.observe(false);
            self.settle(context)?;
        }
        let left = context.n_ctx() - context.sequence_length(self.sequence)?;
        let room = left.saturating_sub(1);
        let most = room.min(n_more.saturating_sub(1));
        let guessed = self
            .guesses
            .after(context, sampler, (token, most), cancel)?;
        let ids = guessed.iter().map(|guess| guess.token);
        let tokens: Vec<i32> = std::iter::once(token).chain(ids).collect();
        context.eval_drafted(self.sequence, &tokens, cancel)?;
        self.counts.n_drafted += guessed.len();
        self.guessed = guessed.into();
        self.row = 0;
        Ok(())
    }

    /// Takes guesses back that are not known to be right.
    pub fn settle(&mut self, context: &mut Context) -> Result<()> {
        context.settle(self.sequence, self.guessed.len(), self.row)?;
        self.guessed.clear();
        self.row = 0;
        Ok(())
    }

    fn is_guessed(&self, token: i32) -> bool {
        self.guessed
            .front()
            .is_some_and(|guess| guess.token == token)
    }
}

impl<'a> Guesses<'a> {
    fn new(
        context: &Context,
        sampler: &mut Sampler,
        sequence: i32,
        speculation: Speculation<'a>,
    ) -> Result<Guesses<'a>> {
        let Speculation {
            draft,
            ngram,
            n_draft,
        } = speculation;
        if n_draft > MOST_DRAFTED {
            return Err(Error::invalid(format!(
                "n_draft is {n_draft}, but at most {MOST_DRAFTED} tokens are guessed at a time"
            )));
        }
        if ngram == 1 {
            return Err(Error::invalid(
                "ngram is 1, but a single token says too little: use 2 or more, or 0 for none",
            ));
        }
        let most = if n_draft == 0 { MOST_DRAFTED } else { n_draft };
        let pace = |guess: f64| Pace::new(most, Costs { guess });
        let draft = draft.map(|draft| {
            let cost = draft::relative_cost(context.model(), draft.model());
            let model = DraftModel::new(context.model(), draft, sequence, sampler)?;
            Ok((model, pace(cost)))
        });
        Ok(Guesses {
            sequence,
            lookup: (ngram > 0).then(|| Lookup {
                ngram,
                pace: pace(0.0),
            }),
            draft: draft.transpose()?,
            source: Source::Lookup,
        })
    }

    /// Guesses at what follows the sequence and `token`: found in the sequence, or else
    /// by the draft model.
    fn after(
        &mut self,
        context: &Context,
        sampler: &Sampler,
        (token, most): (i32, usize),
        cancel: Option<&Cancel>,
    ) -> Result<Vec<Proposal>> {
        if let Some(Lookup { ngram, pace }) = &mut self.lookup {
            let look = |tokens: &[i32]| lookup::repeated(tokens, token, *ngram, most);
            let found = context.with_tokens(self.sequence, look)?;
            let n = if found.is_empty() {
                0
            } else {
                pace.next_length()
            };
            if n > 0 {
                self.source = Source::Lookup;
                let found = found.into_iter().take(n);
                return Ok(found.map(Proposal::certain).collect());
            }
        }
        let Some((model, pace)) = &mut self.draft else {
            return Ok(Vec::new());
        };
        self.source = Source::Draft;
        match pace.next_length().min(most) {
            0 => Ok(Vec::new()),
            n => {
                let mut tokens = context.sequence_tokens(self.sequence)?;
                tokens.push(token);
                model.guess(&tokens, n, sampler, cancel)
            }
        }
    }

    fn observe(&mut self, was_right: bool) {
        let pace = match self.source {
            Source::Lookup => self.lookup.as_mut().map(|lookup| &mut lookup.pace),
            Source::Draft => self.draft.as_mut().map(|(_, pace)| pace),
        };
        if let Some(pace) = pace {
            pace.observe(was_right);
        }
    }
}
