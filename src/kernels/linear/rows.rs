//! [`Rows`]: the activations that a product reads.

use crate::kernels::float::Float;
use crate::kernels::floats::{Floats, FloatsMut};
use crate::kernels::level::Level;
use crate::kernels::norm::Norm;

/// Rows of activations `[n, columns]`, perhaps to be normalized.
pub struct Rows<'a> {
    pub values: Floats<'a>,
    pub columns: usize,
    pub norm: Option<Norm<'a>>,
}

impl Rows<'_> {
    pub fn n(&self) -> usize {
        self.values.len() / self.columns
    }

    /// What the rows are stored as; also what a norm's result is rounded to.
    pub fn float(&self) -> Float {
        self.values.float()
    }

    /// Writes row `index` as float32.
    pub fn read(&self, level: Level, index: usize, out: &mut [f32]) {
        let row = self.values.row(index, self.columns);
        match &self.norm {
            None => level.convert(row, FloatsMut::from(out)),
            Some(norm) => {
                norm.row(level, row, FloatsMut::from(&mut *out));
                level.round(out, self.float());
            }
        }
    }
}
