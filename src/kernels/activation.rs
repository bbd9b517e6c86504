//! Activation functions, alone and as gates. Special values are IEEE
//! arithmetic of the formulas, as in torch: `silu(-inf)` is not a number.

use super::floats::{Floats, FloatsMut};
use super::lanes::{Kernel, Lanes};
use super::level::Level;
use super::math::{exp_beyond_line, normal_cdf, sigmoid, tanh};
use super::pool::Pool;
use super::share::share_rows;

/// A function of one value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// `x * sigmoid(x)`
    Silu,
    /// The same of `factor * x`.
    ScaledSilu { factor: f32 },
    /// `1 / (1 + e^-x)`
    Sigmoid,
    /// `x * (1 + erf(x / sqrt 2)) / 2` (Hendrycks and Gimpel, 2016).
    Gelu,
    /// Its approximation with tanh.
    GeluTanh,
    /// `max(x, 0)`
    Relu,
    /// `max(x, 0)^2` (So et al., 2021).
    ReluSquared,
    /// `beta * x`, plus `positive * x^2` or `negative * (e^x - 1 - x)` by the sign of `x`
    /// (Huang and Schlag, 2024).
    Xielu {
        positive: f32,
        negative: f32,
        beta: f32,
    },
    /// `cap * tanh(x / cap)`, which bounds logits.
    SoftCap { cap: f32 },
    /// `min(max(x, -limit), limit)`
    Clamp { limit: f32 },
}

/// A function of a gate and what goes through it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Gate {
    /// `activation(gate) * up`
    Times(Activation),
    /// There is none: `activation(up)`
    Absent(Activation),
    /// gpt-oss: `g * sigmoid(alpha * g) * (u + 1)`, with `g = min(gate, limit)`
    /// and `u` clamped to `-limit..limit`.
    ClampedSwiglu { alpha: f32, limit: f32 },
}

impl Activation {
    /// Applies the function to each element.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn row(self, level: Level, x: Floats<'_>, y: FloatsMut<'_>) {
        assert_eq!(x.len(), y.len());
        level.run(Ungated {
            activation: self,
            x,
            y,
        });
    }

    /// Applies the function to rows of `columns`.
    pub fn rows(self, pool: &Pool, x: Floats<'_>, columns: usize, y: FloatsMut<'_>) {
        assert_eq!(x.len(), y.len());
        let level = Level::detect();
        share_rows(pool, [y], columns, &|row, [y]| {
            self.row(level, x.row(row, columns), y);
        });
    }

    #[inline(always)]
    pub(super) fn of<V: Lanes>(self, x: V) -> V {
        match self {
            Activation::Silu => x * sigmoid(x),
            Activation::ScaledSilu { factor } => {
                let x = x * V::splat(factor);
                x * sigmoid(x)
            }
            Activation::Sigmoid => sigmoid(x),
            Activation::Gelu => x * normal_cdf(x),
            Activation::GeluTanh => {
                // (1 + tanh(z)) / 2 is sigmoid(2 z), without the cancellation.
                let cubic = (x * x * x).mul_add(V::splat(0.044_715), x);
                x * sigmoid(cubic * V::splat(2.0 * SQRT_2_OVER_PI))
            }
            Activation::Relu => V::splat(0.0).max(x),
            Activation::ReluSquared => {
                let positive = V::splat(0.0).max(x);
                positive * positive
            }
            Activation::Xielu {
                positive,
                negative,
                beta,
            } => {
                let (above, below) = (V::splat(0.0).max(x), V::splat(0.0).min(x));
                let curve = V::splat(positive) * above * above;
                let curve = exp_beyond_line(below).mul_add(V::splat(negative), curve);
                x.mul_add(V::splat(beta), curve)
            }
            Activation::SoftCap { cap } => V::splat(cap) * tanh(x / V::splat(cap)),
            Activation::Clamp { limit } => V::splat(limit).min(V::splat(-limit).max(x)),
        }
    }
}

const SQRT_2_OVER_PI: f32 = 0.797_884_6;

impl Gate {
    /// Lets `up` through the gate.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn row(self, level: Level, gate: Floats<'_>, up: Floats<'_>, y: FloatsMut<'_>) {
        assert!(gate.len() == y.len() && up.len() == y.len());
        level.run(Gated {
            function: self,
            gate,
            up,
            y,
        });
    }

    /// Lets rows of `columns` through the gate.
    pub fn rows(
        self,
        pool: &Pool,
        gate: Floats<'_>,
        up: Floats<'_>,
        columns: usize,
        y: FloatsMut<'_>,
    ) {
        assert!(gate.len() == y.len() && up.len() == y.len());
        let level = Level::detect();
        share_rows(pool, [y], columns, &|row, [y]| {
            self.row(level, gate.row(row, columns), up.row(row, columns), y);
        });
    }

    /// As `rows`, where each row has its gates and behind them what goes through.
    pub fn joined_rows(self, pool: &Pool, both: Floats<'_>, columns: usize, y: FloatsMut<'_>) {
        assert_eq!(both.len(), 2 * y.len());
        let level = Level::detect();
        share_rows(pool, [y], columns, &|row, [y]| {
            let (gate, up) = both.row(row, 2 * columns).split_at(columns);
            self.row(level, gate, up, y);
        });
    }

    /// As `joined_rows`, where gates lose `cutoff` standard deviations of their row beyond
    /// its mean, and what is left below 0 (Gemma 3n).
    pub fn sparse_rows(
        self,
        pool: &Pool,
        both: Floats<'_>,
        cutoff: f32,
        columns: usize,
        y: FloatsMut<'_>,
    ) {
        assert_eq!(both.len(), 2 * y.len());
        let level = Level::detect();
        share_rows(pool, [y], columns, &|row, [y]| {
            let (gate, up) = both.row(row, 2 * columns).split_at(columns);
            let mut gates = vec![0.0_f32; columns];
            level.convert(gate, FloatsMut::from(&mut gates[..]));
            let n = columns as f64;
            let mean = gates.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
            let squares = gates.iter().map(|x| (f64::from(*x) - mean).powi(2));
            let deviation = (squares.sum::<f64>() / n).sqrt();
            let least = (mean + deviation * f64::from(cutoff)) as f32;
            gates.iter_mut().for_each(|x| *x = (*x - least).max(0.0));
            self.row(level, Floats::from(&gates[..]), up, y);
        });
    }

    /// As `rows`, where what goes through is `first..first + columns` of rows of `width`.
    pub fn part_rows(
        self,
        pool: &Pool,
        gate: Floats<'_>,
        (up, width, first): (Floats<'_>, usize, usize),
        columns: usize,
        y: FloatsMut<'_>,
    ) {
        assert!(gate.len() == y.len() && first + columns <= width);
        assert_eq!(up.len() * columns, y.len() * width);
        let level = Level::detect();
        share_rows(pool, [y], columns, &|row, [y]| {
            let (_, behind) = up.row(row, width).split_at(first);
            let (up, _) = behind.split_at(columns);
            self.row(level, gate.row(row, columns), up, y);
        });
    }

    #[inline(always)]
    fn of<V: Lanes>(self, gate: V, up: V) -> V {
        match self {
            Gate::Times(activation) => activation.of(gate) * up,
            Gate::Absent(activation) => activation.of(up),
            Gate::ClampedSwiglu { alpha, limit } => {
                let gate = V::splat(limit).min(gate);
                let up = V::splat(-limit).max(V::splat(limit).min(up));
                gate * sigmoid(gate * V::splat(alpha)) * (up + V::splat(1.0))
            }
        }
    }
}

struct Ungated<'a> {
    activation: Activation,
    x: Floats<'a>,
    y: FloatsMut<'a>,
}

impl Kernel for Ungated<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(mut self) {
        for first in (0..self.y.len()).step_by(V::N) {
            let x: V = self.x.lanes(first, 0.0);
            self.y.set_lanes(first, self.activation.of(x));
        }
    }
}

struct Gated<'a> {
    function: Gate,
    gate: Floats<'a>,
    up: Floats<'a>,
    y: FloatsMut<'a>,
}

impl Kernel for Gated<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(mut self) {
        for first in (0..self.y.len()).step_by(V::N) {
            let gate: V = self.gate.lanes(first, 0.0);
            let up: V = self.up.lanes(first, 0.0);
            self.y.set_lanes(first, self.function.of(gate, up));
        }
    }
}

#[cfg(test)]
mod tests;
