//! [`Guesses`]: where guesses come from, and how many are worth their while.

use super::draft::{self, DraftModel};
use super::pace::{Costs, Pace, Room};
use super::{Lookup, lookup};
use crate::error::Result;
use crate::runtime::cancel::Cancel;
use crate::runtime::context::Context;
use crate::sample::{Proposal, Sampler};

/// What guesses at the tokens of one sequence.
pub struct Guesses<'a> {
    sequence: i32,
    lookup: Option<Repetitions>,
    draft: Option<(DraftModel<'a>, Pace)>,
    /// Of the last ones.
    source: Source,
}

struct Repetitions {
    ngram: usize,
    pace: Pace,
}

#[derive(Clone, Copy)]
enum Source {
    Lookup,
    Draft,
}

impl<'a> Guesses<'a> {
    pub fn by_lookup(context: &Context, sequence: i32, lookup: Lookup) -> Result<Guesses<'a>> {
        lookup.check()?;
        let costs = Costs::of_steps(context.activations());
        Ok(Guesses {
            sequence,
            lookup: (lookup.ngram > 0).then(|| Repetitions {
                ngram: lookup.ngram,
                pace: Pace::new(lookup.most(), costs),
            }),
            draft: None,
            source: Source::Lookup,
        })
    }

    pub fn add_draft(
        &mut self,
        context: &Context,
        sampler: &mut Sampler,
        (draft, lookup): (&'a mut Context, Lookup),
    ) -> Result<()> {
        let costs = Costs {
            guess: draft::relative_cost(context.model(), draft.model()),
            ..Costs::of_steps(context.activations())
        };
        let model = DraftModel::new(context.model(), draft, self.sequence, sampler)?;
        self.draft = Some((model, Pace::new(lookup.most(), costs)));
        Ok(())
    }

    pub fn are_there(&self) -> bool {
        self.lookup.is_some() || self.draft.is_some()
    }

    /// Guesses at what follows the sequence and `token`: found in the sequence, or else
    /// by the draft model.
    pub fn after(
        &mut self,
        context: &Context,
        sampler: &Sampler,
        (token, room): (i32, Room),
        cancel: Option<&Cancel>,
    ) -> Result<Vec<Proposal>> {
        let found = self.look_up(context, token, room)?;
        if !found.is_empty() {
            return Ok(found);
        }
        let Some((model, pace)) = &mut self.draft else {
            return Ok(Vec::new());
        };
        self.source = Source::Draft;
        match pace.next_length(room) {
            0 => Ok(Vec::new()),
            n => {
                let mut tokens = context.sequence_tokens(self.sequence)?;
                tokens.push(token);
                model.guess(&tokens, n, sampler, cancel)
            }
        }
    }

    /// What followed the sequence's last tokens and `token` when they came before.
    pub fn look_up(&mut self, context: &Context, token: i32, room: Room) -> Result<Vec<Proposal>> {
        let Some(Repetitions { ngram, pace }) = &mut self.lookup else {
            return Ok(Vec::new());
        };
        let look = |tokens: &[i32]| lookup::repeated(tokens, token, *ngram, room.most);
        let mut found = context.with_tokens(self.sequence, look)?;
        if found.is_empty() {
            return Ok(Vec::new());
        }
        self.source = Source::Lookup;
        found.truncate(pace.next_length(room));
        Ok(found.into_iter().map(Proposal::certain).collect())
    }

    /// Learns from a guess that was checked.
    pub fn observe(&mut self, was_right: bool) {
        let pace = match self.source {
            Source::Lookup => self.lookup.as_mut().map(|lookup| &mut lookup.pace),
            Source::Draft => self.draft.as_mut().map(|(_, pace)| pace),
        };
        if let Some(pace) = pace {
            pace.observe(was_right);
        }
    }
}
