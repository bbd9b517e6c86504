//! Normalization of rows: root mean square (Zhang and Sennrich, 2019) and layer
//! normalization (Ba et al., 2016), in float32 and rounded once.

use super::floats::{Floats, FloatsMut};
use super::lanes::{Kernel, Lanes};
use super::level::Level;
use super::pool::Pool;
use super::share::share_rows;

/// What to do with a row. Weights and biases are as long as the row; a missing
/// weight is 1 and a missing bias 0.
#[derive(Clone, Copy)]
pub enum Norm<'a> {
    /// `x / sqrt(mean(x^2) + eps) * (weight + offset)`. Gemma's offset is 1,
    /// others' is 0; without a weight it is not used.
    Rms {
        weight: Option<Floats<'a>>,
        offset: f32,
        eps: f32,
    },
    /// `(x - mean(x)) / sqrt(variance(x) + eps) * (weight + offset) + bias`.
    /// Nemotron's offset is 1.
    Layer {
        weight: Option<Floats<'a>>,
        offset: f32,
        bias: Option<Floats<'a>>,
        eps: f32,
    },
}

impl Norm<'_> {
    /// Normalizes one row.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn row(&self, level: Level, x: Floats<'_>, y: FloatsMut<'_>) {
        assert_eq!(x.len(), y.len());
        let parts = match self {
            Norm::Rms { weight, .. } => [*weight, None],
            Norm::Layer { weight, bias, .. } => [*weight, *bias],
        };
        let fits = |part: &Option<Floats<'_>>| part.is_none_or(|part| part.len() == x.len());
        assert!(parts.iter().all(fits));
        match *self {
            Norm::Rms {
                weight,
                offset,
                eps,
            } => level.run(Rms {
                x,
                weight,
                offset,
                eps,
                y,
            }),
            Norm::Layer {
                weight,
                offset,
                bias,
                eps,
            } => level.run(Layer {
                x,
                weight,
                offset,
                bias,
                eps,
                y,
            }),
        }
    }

    /// `h = x + residual` and the normalized `h`, whose values count as rounded
    /// to its format, as if the sum were a step of its own.
    pub fn row_of_sum(
        &self,
        level: Level,
        x: Floats<'_>,
        residual: Floats<'_>,
        mut h: FloatsMut<'_>,
        y: FloatsMut<'_>,
    ) {
        let columns = h.len();
        level.add(x, residual, h.row_mut(0, columns));
        self.row(level, h.as_floats(), y);
    }

    /// Normalizes rows of `columns`.
    pub fn rows(&self, pool: &Pool, x: Floats<'_>, columns: usize, y: FloatsMut<'_>) {
        assert_eq!(x.len(), y.len());
        let level = Level::detect();
        share_rows(pool, [y], columns, &|row, [y]| {
            self.row(level, x.row(row, columns), y);
        });
    }

    /// `row_of_sum` of rows of `columns`.
    pub fn rows_of_sum(
        &self,
        pool: &Pool,
        x: Floats<'_>,
        residual: Floats<'_>,
        columns: usize,
        h: FloatsMut<'_>,
        y: FloatsMut<'_>,
    ) {
        assert!(x.len() == y.len() && residual.len() == y.len());
        let level = Level::detect();
        share_rows(pool, [h, y], columns, &|row, [h, y]| {
            let (x, residual) = (x.row(row, columns), residual.row(row, columns));
            self.row_of_sum(level, x, residual, h, y);
        });
    }
}

/// Normalizes parts of rows of `columns`, each norm the next so many of them, and
/// copies what is behind.
///
/// # Panics
/// If there are fewer, or the lengths differ.
pub fn normalize_parts(
    pool: &Pool,
    x: Floats<'_>,
    columns: usize,
    norms: &[(usize, Norm<'_>)],
    y: FloatsMut<'_>,
) {
    assert_eq!(x.len(), y.len());
    let level = Level::detect();
    share_rows(pool, [y], columns, &|row, [y]| {
        let (mut from, mut to) = (x.row(row, columns), y);
        for (length, norm) in norms {
            let (part, rest) = from.split_at(*length);
            let (normalized, rest_out) = to.split_at(*length);
            norm.row(level, part, normalized);
            (from, to) = (rest, rest_out);
        }
        level.convert(from, to);
    });
}

struct Rms<'a> {
    x: Floats<'a>,
    weight: Option<Floats<'a>>,
    offset: f32,
    eps: f32,
    y: FloatsMut<'a>,
}

impl Kernel for Rms<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(mut self) {
        let columns = self.x.len();
        let mut squares = V::splat(0.0);
        for first in (0..columns).step_by(V::N) {
            let x: V = self.x.lanes(first, 0.0);
            squares = x.mul_add(x, squares);
        }
        let mean = squares.total() / columns as f32;
        let factor = V::splat(1.0 / (mean + self.eps).sqrt());
        for first in (0..columns).step_by(V::N) {
            let x: V = self.x.lanes(first, 0.0);
            let y = match self.weight {
                Some(weight) => {
                    x * factor * (weight.lanes::<V>(first, 0.0) + V::splat(self.offset))
                }
                None => x * factor,
            };
            self.y.set_lanes(first, y);
        }
    }
}

struct Layer<'a> {
    x: Floats<'a>,
    weight: Option<Floats<'a>>,
    offset: f32,
    bias: Option<Floats<'a>>,
    eps: f32,
    y: FloatsMut<'a>,
}

impl Kernel for Layer<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(mut self) {
        let columns = self.x.len();
        let mut sum = V::splat(0.0);
        for first in (0..columns).step_by(V::N) {
            sum = sum + self.x.lanes(first, 0.0);
        }
        let mean = sum.total() / columns as f32;
        let mut squares = V::splat(0.0);
        for first in (0..columns).step_by(V::N) {
            let distance = self.x.lanes::<V>(first, mean) - V::splat(mean);
            squares = distance.mul_add(distance, squares);
        }
        let variance = squares.total() / columns as f32;
        let factor = V::splat(1.0 / (variance + self.eps).sqrt());
        for first in (0..columns).step_by(V::N) {
            let mut y = (self.x.lanes::<V>(first, mean) - V::splat(mean)) * factor;
            if let Some(weight) = self.weight {
                y = y * (weight.lanes::<V>(first, 0.0) + V::splat(self.offset));
            }
            if let Some(bias) = self.bias {
                y = y + bias.lanes(first, 0.0);
            }
            self.y.set_lanes(first, y);
        }
    }
}

#[cfg(test)]
mod tests;
