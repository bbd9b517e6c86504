//! Decoding one step ahead: the device chooses each token itself, and computes
//! the step behind it while the token is looked at here.

use std::time::Instant;

use super::evaluation::{roll_back, segments};
use super::{Context, LogitsRow, Overflow};
use crate::error::{Error, Result};
use crate::kv::Sequence;
use crate::mlx::{Array, Choice, NO_TOKEN};
use crate::runtime::cancel::Cancel;
use crate::runtime::sequences::Sequences;

/// What to do behind a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::runtime) enum Next {
    GoOn,
    /// The token is the last one, and does not become part of the sequence.
    End,
}

/// Is told a token, and whether the sequence is full without it.
type Look<'a> = dyn FnMut(i32, bool) -> Result<Next> + 'a;

/// A step under way: the logits, and which token they are for.
struct Chosen {
    /// f32 `[1, vocab_size]`
    logits: Array,
    /// i32 `[1]`
    token: Array,
}

impl Context {
    /// Whether nothing has to happen between two steps: blocks that are completed go
    /// into no prefix cache, and a full sequence stays full.
    pub(in crate::runtime) fn can_run_ahead(&self) -> bool {
        self.prefix_cache.is_none() && self.overflow == Overflow::Refuse
    }

    /// Goes on behind the last evaluation's only row of logits. `choose` says how each
    /// token is chosen, and may be asked once more than tokens come. `look` is told each
    /// token, and whether the sequence is full without it; the one behind which it says
    /// `End` is not in the sequence. When it fails, all tokens that were looked at and
    /// gone on from stay.
    pub(in crate::runtime) fn decode_ahead(
        &mut self,
        sequence: i32,
        cancel: Option<&Cancel>,
        choose: &mut dyn FnMut() -> Choice,
        look: &mut Look<'_>,
    ) -> Result<()> {
        let index = self.index_of(sequence)?;
        // Until the end of the call nobody else gets at them.
        let shared = self.sequences.clone();
        let mut sequences = Sequences::of(&shared);
        let decoded = self.decode_locked(&mut sequences, index, cancel, (choose, look));
        let settled = self.ops.stream().finish();
        let result = decoded.and(settled).map_err(|error| {
            let lengths: Vec<usize> = sequences.iter().map(Sequence::length).collect();
            roll_back(&mut sequences, &lengths, error)
        });
        sequences.account();
        drop(sequences);
        self.account_logits();
        result
    }

    fn decode_locked(
        &mut self,
        sequences: &mut [Sequence],
        index: usize,
        cancel: Option<&Cancel>,
        (choose, look): (&mut dyn FnMut() -> Choice, &mut Look<'_>),
    ) -> Result<()> {
        let mut chosen = self.choose_from_last(&choose())?;
        loop {
            cancel.map_or(Ok(()), Cancel::check)?;
            let began = Instant::now();
            let has_room = sequences[index].length() < self.n_ctx();
            let next = match has_room {
                true => {
                    Some(self.submit(&mut sequences[index..=index], &chosen.token, &choose())?)
                }
                false => None,
            };
            self.ops.stream().wait_for(&chosen.token)?;
            let token = token_of(&chosen.token)?;
            self.keep_chosen(&chosen.logits);
            match (look(token, !has_room)?, next) {
                (Next::GoOn, Some(next)) => {
                    sequences[index].advance(&self.recipe, &[token]);
                    chosen = next;
                }
                _ => return Ok(()),
            }
            self.perf.n_evals += 1;
            self.perf.n_decode_tokens += 1;
            self.perf.decode_time += began.elapsed();
        }
    }

    /// Of the logits that are there.
    fn choose_from_last(&self, choice: &Choice) -> Result<Chosen> {
        let [LogitsRow { step, row: 0 }] = &self.logits[..] else {
            return Err(Error::internal("decoding ahead of no logits"));
        };
        let token = self.ops.chosen_token(step, choice)?;
        self.ops.stream().start([&token])?;
        Ok(Chosen {
            logits: step.clone(),
            token,
        })
    }

    /// Begins the step of a token whose value is not known yet.
    fn submit(&self, sequences: &mut [Sequence], token: &Array, choice: &Choice) -> Result<Chosen> {
        let length = sequences[0].length();
        self.plan.probe_arrays(length + 1)?;
        sequences[0].reserve(&self.ops, 1)?;
        let ways = (&*self.ops, self.adapters.adapted());
        let decoder = self.model.decoder();
        let mut segments = segments(sequences, &[(0, 1)]);
        let hidden = decoder.forward(ways, token, &mut segments, true, &mut |_| Ok(()))?;
        let logits = decoder.logits(ways, &hidden, &[0])?;
        let token = self.ops.chosen_token(&logits, choice)?;
        let caches = segments.iter().flat_map(|segment| segment.cache.arrays());
        self.ops.stream().start(caches.chain([&logits, &token]))?;
        Ok(Chosen { logits, token })
    }

    /// Chooses from one row of the last evaluation's logits where they are.
    pub(in crate::runtime) fn choose_on_device(&self, row: usize, choice: &Choice) -> Result<i32> {
        let LogitsRow { step, row } = self.logits_row(row)?;
        let (row, vocab_size) = (*row as i32, step.dim(1));
        let logits = self.ops.slice(step, &[row, 0], &[row + 1, vocab_size])?;
        let token = self.ops.chosen_token(&logits, choice)?;
        self.ops.stream().eval([&token])?;
        token_of(&token)
    }

    fn keep_chosen(&mut self, logits: &Array) {
        self.logits = vec![LogitsRow {
            step: logits.clone(),
            row: 0,
        }];
    }
}

/// Of an evaluated choice.
fn token_of(chosen: &Array) -> Result<i32> {
    match chosen.as_i32()? {
        [NO_TOKEN] => Err(crate::sample::nothing_to_choose()),
        [token] => Ok(*token),
        _ => Err(Error::internal("a step chose another number of tokens")),
    }
}
