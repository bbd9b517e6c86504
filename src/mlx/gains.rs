//! What DoRA adapters multiply the outputs of projections with (Liu et al., 2024).

use std::ops::Range;

use super::array::{Array, Dtype};
use super::elementwise::scalar;
use super::inputs::{Input, Inputs};
use super::low_rank::LowRank;
use super::ops::Ops;
use super::projections::{Linear, Weight};
use crate::error::Result;
use crate::kernels;

/// What the outputs of a projection and its update together are multiplied with.
#[derive(Clone)]
pub struct Gains {
    /// f32 `[1, outputs]`
    pub values: Array,
    /// What the projection adds, which is not multiplied: f32 `[1, outputs]`.
    pub bias: Option<Array>,
    /// How often the difference that the gains make counts.
    pub strength: f32,
}

/// Values of a matrix that are looked at together when its rows are measured.
const VALUES_AT_ONCE: usize = 1 << 20;

impl Ops {
    /// What an update with gains adds to the product in these columns.
    pub(super) fn gained(
        &self,
        addend: Array,
        product: &Array,
        gains: &Gains,
        update: &LowRank,
        columns: &Range<usize>,
    ) -> Result<Array> {
        let own = |values: &Array| -> Result<Array> {
            let own = self.within(values, &update.columns(), columns)?;
            Ok(own.expect("the update has these columns"))
        };
        let values = own(&gains.values)?;
        let mut product = self.astype(product, Dtype::F32)?;
        if let Some(bias) = &gains.bias {
            let negative = self.multiply(&own(bias)?, &scalar(-1.0)?)?;
            product = self.add(&product, &negative)?;
        }
        let excess = self.add(&values, &scalar(-1.0)?)?;
        let excess = self.multiply(&excess, &scalar(gains.strength)?)?;
        let change = self.multiply(&product, &excess)?;
        self.add(&self.multiply(&addend, &values)?, &change)
    }

    /// The lengths of the rows of a matrix with the update's outputs from `first` on added.
    pub fn adapted_lengths(
        &self,
        matrix: &Weight,
        update: &LowRank,
        first: usize,
    ) -> Result<Vec<f32>> {
        let (n_rows, columns) = matrix.rows_and_columns();
        let at_once = (VALUES_AT_ONCE / columns).max(1);
        let down = self.astype(&update.down, Dtype::F32)?;
        let down = match update.by_input {
            true => self.transpose(&down, &[1, 0])?,
            false => down,
        };
        let mut lengths = Vec::with_capacity(n_rows);
        for begin in (0..n_rows).step_by(at_once) {
            let rows = begin..n_rows.min(begin + at_once);
            let up = self.rows_of_up(update, first + rows.start..first + rows.end)?;
            let up = self.multiply(&up, &scalar(update.scale)?)?;
            let added = self.matmul(&up, &down)?;
            let adapted = self.add(&self.rows_in_f32(matrix, rows)?, &added)?;
            self.stream().eval([&adapted])?;
            lengths.extend(adapted.as_f32()?.chunks_exact(columns).map(length));
        }
        Ok(lengths)
    }

    /// f32 `[outputs, rank]`
    fn rows_of_up(&self, update: &LowRank, outputs: Range<usize>) -> Result<Array> {
        let [begin, end] = [outputs.start as i32, outputs.end as i32];
        let rank = update.rank() as i32;
        let up = match update.by_input {
            true => {
                let own = self.slice(&update.up, &[0, begin], &[rank, end])?;
                self.transpose(&own, &[1, 0])?
            }
            false => self.slice(&update.up, &[begin, 0], &[end, rank])?,
        };
        self.astype(&up, Dtype::F32)
    }

    fn rows_in_f32(&self, matrix: &Weight, rows: Range<usize>) -> Result<Array> {
        let [begin, end] = [rows.start as i32, rows.end as i32];
        if let Weight::Transposed(matrix) = matrix {
            let own = self.own_outputs(matrix)?;
            let own = self.slice(&own, &[0, begin], &[own.dim(0), end])?;
            return self.astype(&self.transpose(&own, &[1, 0])?, Dtype::F32);
        }
        let numbers: Vec<i32> = (begin..end).collect();
        let numbers = Array::from_i32(&numbers, &[numbers.len() as i32])?;
        self.embed(matrix, &numbers, None, Dtype::F32)
    }

    /// What a projection adds to its products.
    pub fn bias_values(&self, linear: &Linear) -> Result<Option<Vec<f32>>> {
        let values = linear.bias.as_ref().map(|bias| self.values_of(bias));
        values.transpose()
    }

    /// A vector's values.
    pub fn values_of(&self, vector: &Array) -> Result<Vec<f32>> {
        // Also a copy, so that it is dense.
        let values = self.multiply(&self.astype(vector, Dtype::F32)?, &scalar(1.0)?)?;
        self.stream().eval([&values])?;
        Ok(values.as_f32()?.to_vec())
    }
}

fn length(row: &[f32]) -> f32 {
    // Several sums, which are computed at the same time.
    let mut sums = [0.0_f32; 16];
    for values in row.chunks(sums.len()) {
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum += value * value;
        }
    }
    sums.iter().sum::<f32>().sqrt()
}

#[derive(Clone, Copy)]
pub(super) struct GainsInput {
    values: Input,
    bias: Option<Input>,
    strength: f32,
}

impl GainsInput {
    pub fn new<'a>(inputs: &mut Inputs<'a>, gains: &'a Gains) -> Result<GainsInput> {
        let bias = gains.bias.as_ref().map(|bias| inputs.floats(bias));
        Ok(GainsInput {
            values: inputs.floats(&gains.values)?,
            bias: bias.transpose()?,
            strength: gains.strength,
        })
    }
    pub fn of<'a>(&self, inputs: &[&'a [u8]]) -> kernels::Gains<'a> {
        kernels::Gains {
            values: self.values.of(inputs),
            bias: self.bias.map(|bias| bias.of(inputs)),
            strength: self.strength,
        }
    }
}
