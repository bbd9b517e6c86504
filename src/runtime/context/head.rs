//! [`Head`]: what becomes of the hidden states behind a step's layers.

use crate::decoder::{Adapted, Decoder};
use crate::error::Result;
use crate::mlx::{Array, Ops};

/// The hidden states of a step's tokens.
pub(in crate::runtime) struct States<'a> {
    decoder: &'a Decoder,
    ways: (&'a Ops, &'a Adapted),
    hidden: Array,
}

impl<'a> States<'a> {
    pub fn new(decoder: &'a Decoder, ways: (&'a Ops, &'a Adapted), hidden: Array) -> States<'a> {
        States {
            decoder,
            ways,
            hidden,
        }
    }

    pub fn hidden(&self) -> &Array {
        &self.hidden
    }

    /// Logits f32 `[rows, vocab_size]`, not evaluated yet.
    pub fn logits(&self, rows: &[i32]) -> Result<Array> {
        self.decoder.logits(self.ways, &self.hidden, rows)
    }

    /// The states behind the final norm, f32 `[rows, hidden_size]`, not evaluated yet.
    pub fn normalized(&self, rows: &[i32]) -> Result<Array> {
        self.decoder.final_states(self.ways.0, &self.hidden, rows)
    }

    pub fn eval(&self, array: &Array) -> Result<()> {
        self.ways.0.stream().eval([array])
    }
}

/// What an evaluation wants of its tokens.
pub(in crate::runtime) trait Head {
    /// Memory for it, in rows of logits, where a step wants something of so many
    /// tokens.
    fn logits_rows_at_once(&self, n_wanted: usize) -> usize;

    /// Looks at the wanted rows of a step, each with its place in the batch; there is
    /// one at least. Gives what is still to be evaluated.
    fn look(&mut self, states: &States<'_>, wanted: &[(i32, usize)]) -> Result<Array>;
}

/// Keeps logits.
#[derive(Default)]
pub(super) struct LogitsHead(Vec<(usize, LogitsRow)>);

/// One wanted row of the last evaluation.
pub(super) struct LogitsRow {
    /// f32 `[rows, vocab_size]` of one step
    pub step: Array,
    pub row: usize,
}

impl LogitsHead {
    /// In the order of their tokens in the batch.
    pub fn into_rows(mut self) -> Vec<LogitsRow> {
        self.0.sort_unstable_by_key(|(place, _)| *place);
        self.0.into_iter().map(|(_, row)| row).collect()
    }
}

impl Head for LogitsHead {
    fn logits_rows_at_once(&self, n_wanted: usize) -> usize {
        n_wanted
    }

    fn look(&mut self, states: &States<'_>, wanted: &[(i32, usize)]) -> Result<Array> {
        let rows: Vec<i32> = wanted.iter().map(|(row, _)| *row).collect();
        let logits = states.logits(&rows)?;
        let row = |(row, &(_, place)): (usize, &(i32, usize))| {
            let step = logits.clone();
            (place, LogitsRow { step, row })
        };
        self.0.extend(wanted.iter().enumerate().map(row));
        Ok(logits)
    }
}
