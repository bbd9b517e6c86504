//! The gated delta rule (Yang et al., 2024): a head remembers values by keys. A token
//! lets all of it fade, `S = decay * S`, and moves what its key recalls toward its
//! value, `S += key (beta * (value - S^T key))^T`; what it says is `S^T query`.
//!
//! `decay = exp(-exp(rate) * softplus(alpha + bias))`; beta goes through a sigmoid;
//! queries and keys have length one, queries besides a factor `1 / sqrt(key_dim)`.

use std::ops::Range;

use super::gate::GatedNorm;
use super::memory::{Change, Columns, Rows, Tile, WIDEST, columns, set_columns, width};
use super::parts::{HeadOutput, HeadParts, PartPlace};
use super::state::StateSegment;
use super::{BLOCK_TOKENS, blocks};
use crate::kernels::floats::{Floats, FloatsMut};
use crate::kernels::lanes::{Kernel, Lanes};
use crate::kernels::level::Level;
use crate::kernels::pool::Pool;

/// How long heads are, and how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeltaShape {
    pub n_key_heads: usize,
    pub key_dim: usize,
    /// Of values that share a key.
    pub values_per_key: usize,
    pub value_dim: usize,
    /// Betas are up to 2, so that what a key recalls may change its sign.
    pub doubles_beta: bool,
}

impl DeltaShape {
    pub fn n_value_heads(&self) -> usize {
        self.n_key_heads * self.values_per_key
    }

    /// Elements of what one head remembers: a row for each element of a key, as long as
    /// a value.
    fn memory(&self) -> usize {
        self.key_dim * self.value_dim
    }

    /// Elements of the state of a sequence.
    pub fn state(&self) -> usize {
        self.n_value_heads() * self.memory()
    }

    /// Of a row of what all heads say.
    pub fn columns(&self) -> usize {
        self.n_value_heads() * self.value_dim
    }

    /// Of queries, keys and values in a row that has all of them in turn.
    pub fn mixed_columns(&self) -> usize {
        self.n_key_heads * (2 * self.key_dim + self.group())
    }

    /// Where they are in it, by key head.
    pub fn mixed_places(&self) -> [PartPlace; 3] {
        let (columns, keys) = (self.mixed_columns(), self.n_key_heads * self.key_dim);
        [
            PartPlace::in_turn(columns, 0, self.key_dim),
            PartPlace::in_turn(columns, keys, self.key_dim),
            PartPlace::in_turn(columns, 2 * keys, self.group()),
        ]
    }

    /// Elements of the values that share a key.
    pub fn group(&self) -> usize {
        self.values_per_key * self.value_dim
    }

    /// Floats of a thread's buffers for sequences of up to so many tokens.
    pub fn thread_floats(&self, n_tokens: usize) -> usize {
        let n = n_tokens.min(BLOCK_TOKENS);
        let of_token = 2 * self.key_dim + self.group() + 2 * self.values_per_key + 1;
        n * (of_token + self.value_dim) + self.value_dim + self.key_dim * WIDEST
    }
}

/// What is given of all tokens, by key head: parts of values have those of its value
/// heads in turn.
pub struct DeltaStep<'a> {
    pub shape: DeltaShape,
    /// Where the memories of all heads begin in a state.
    pub state: usize,
    pub queries: HeadParts<'a>,
    pub keys: HeadParts<'a>,
    pub values: HeadParts<'a>,
    pub gates: HeadParts<'a>,
    pub alphas: HeadParts<'a>,
    pub betas: HeadParts<'a>,
    /// `[n_value_heads]`
    pub rates: Floats<'a>,
    /// `[n_value_heads]`
    pub biases: Floats<'a>,
    /// Of what a head says.
    pub norm: GatedNorm<'a>,
}

/// What heads say of each row, through their gates: `[n, n_value_heads * value_dim]`.
///
/// # Safety
/// Nobody else uses the states.
///
/// # Panics
/// If the sizes of the arguments do not belong together.
pub unsafe fn gated_delta(
    pool: &Pool,
    step: &DeltaStep<'_>,
    segments: &[StateSegment],
    out: FloatsMut<'_>,
) {
    // SAFETY: the caller's.
    unsafe { gated_delta_at(Level::detect(), pool, step, segments, out) }
}

/// # Safety
/// As of `gated_delta`.
unsafe fn gated_delta_at(
    level: Level,
    pool: &Pool,
    step: &DeltaStep<'_>,
    segments: &[StateSegment],
    out: FloatsMut<'_>,
) {
    step.check();
    let shape = &step.shape;
    let out = HeadOutput::new(out, shape.columns(), shape.value_dim);
    pool.run(segments.len() * shape.n_key_heads, &|piece| {
        let segment = &segments[piece / shape.n_key_heads];
        let index = piece % shape.n_key_heads;
        let length = shape.values_per_key * shape.memory();
        let first = step.state + index * length;
        let head = KeyHead {
            level,
            step,
            index,
            out: &out,
        };
        // SAFETY: each key head of a segment is one piece.
        unsafe {
            match segment.n_tokens {
                1 => head.run_one(segment.first_row, segment.take_apart(first..first + length)),
                _ => head.run(segment, segment.take(first..first + length)),
            }
        }
    });
}

impl DeltaStep<'_> {
    fn check(&self) {
        let shape = &self.shape;
        let lengths = [
            (&self.queries, shape.key_dim),
            (&self.keys, shape.key_dim),
            (&self.values, shape.group()),
            (&self.gates, shape.group()),
            (&self.alphas, shape.values_per_key),
            (&self.betas, shape.values_per_key),
        ];
        for (parts, length) in lengths {
            assert_eq!(parts.place.length, length);
            parts.place.check(shape.n_key_heads);
        }
        assert_eq!(self.rates.len(), shape.n_value_heads());
        assert_eq!(self.biases.len(), shape.n_value_heads());
    }
}

/// A key head of one sequence, with the value heads that it serves.
struct KeyHead<'a> {
    level: Level,
    step: &'a DeltaStep<'a>,
    index: usize,
    out: &'a HeadOutput<'a>,
}

impl KeyHead<'_> {
    /// # Safety
    /// Nobody else writes what these value heads say of the segment's rows.
    unsafe fn run(&self, segment: &StateSegment, memories: &mut [f32]) {
        let (level, step, shape) = (self.level, self.step, &self.step.shape);
        let n = segment.n_tokens.min(BLOCK_TOKENS);
        let mut queries = vec![0.0; n * shape.key_dim];
        let mut keys = vec![0.0; n * shape.key_dim];
        let mut values = vec![0.0; n * shape.group()];
        let mut said = vec![0.0; n * shape.value_dim];
        let mut normed = vec![0.0; shape.value_dim];
        let mut tile = vec![0.0; shape.key_dim * WIDEST];
        for rows in blocks(segment) {
            let n = rows.len();
            let queries = &mut queries[..n * shape.key_dim];
            let keys = &mut keys[..n * shape.key_dim];
            let values = &mut values[..n * shape.group()];
            step.queries
                .gather(level, rows.clone(), self.index, queries);
            step.keys.gather(level, rows.clone(), self.index, keys);
            step.values.gather(level, rows.clone(), self.index, values);
            let scale = (shape.key_dim as f32).powf(-0.5);
            level.run(Unit::of(queries, shape.key_dim, scale));
            level.run(Unit::of(keys, shape.key_dim, 1.0));
            let memories = memories.chunks_exact_mut(shape.memory());
            for (value, memory) in memories.enumerate() {
                level.run(Recall {
                    forces: &self.forces(&rows, value),
                    queries,
                    keys,
                    values,
                    group: shape.group(),
                    first: value * shape.value_dim,
                    memory,
                    tile: &mut tile,
                    said: &mut said,
                    value_dim: shape.value_dim,
                });
                let said = said.chunks_exact(shape.value_dim);
                for (row, said) in rows.clone().zip(said) {
                    // SAFETY: the caller's.
                    unsafe { self.say(row, value, said, &mut normed) };
                }
            }
        }
    }

    /// The same for a single row, from the memories in front of it, if they are apart, to
    /// those behind it.
    ///
    /// # Safety
    /// As for `run`.
    unsafe fn run_one(&self, row: usize, (before, after): (Option<&[f32]>, &mut [f32])) {
        let (level, step, shape) = (self.level, self.step, &self.step.shape);
        let mut query = vec![0.0; shape.key_dim];
        let mut key = vec![0.0; shape.key_dim];
        let mut values = vec![0.0; shape.group()];
        let mut said = vec![0.0; shape.value_dim];
        let mut normed = vec![0.0; shape.value_dim];
        let gather = |parts: &HeadParts<'_>, out: &mut [f32]| {
            level.convert(parts.part(row, self.index), FloatsMut::from(out));
        };
        gather(&step.queries, &mut query);
        gather(&step.keys, &mut key);
        gather(&step.values, &mut values);
        let scale = (shape.key_dim as f32).powf(-0.5);
        level.run(Unit::of(&mut query, shape.key_dim, scale));
        level.run(Unit::of(&mut key, shape.key_dim, 1.0));
        let memories = after.chunks_exact_mut(shape.memory()).enumerate();
        for ((index, after), value) in memories.zip(values.chunks_exact(shape.value_dim)) {
            level.run(RecallOne {
                force: self.force(row, index),
                query: &query,
                key: &key,
                value,
                rows: Rows {
                    before: before.map(|all| &all[index * shape.memory()..][..shape.memory()]),
                    after,
                    n_columns: shape.value_dim,
                },
                said: &mut said,
            });
            // SAFETY: the caller's.
            unsafe { self.say(row, index, &said, &mut normed) };
        }
    }

    /// What one value head says of a row.
    ///
    /// # Safety
    /// As for `run`.
    unsafe fn say(&self, row: usize, value: usize, said: &[f32], normed: &mut [f32]) {
        let (step, shape) = (self.step, &self.step.shape);
        let gates = step.gates.part(row, self.index);
        let gate = gates.row(value, shape.value_dim);
        let head = self.index * shape.values_per_key + value;
        // SAFETY: the caller's.
        let out = unsafe { self.out.part(row, head) };
        step.norm.row(self.level, said, gate, normed, out);
    }

    /// How tokens act on one value head.
    fn forces(&self, rows: &Range<usize>, value: usize) -> Vec<Force> {
        rows.clone().map(|row| self.force(row, value)).collect()
    }

    fn force(&self, row: usize, value: usize) -> Force {
        let shape = &self.step.shape;
        let head = self.index * shape.values_per_key + value;
        let rate = -self.step.rates.get(head).exp();
        let bias = self.step.biases.get(head);
        let most = if shape.doubles_beta { 2.0 } else { 1.0 };
        let alpha = self.step.alphas.part(row, self.index).get(value);
        let beta = self.step.betas.part(row, self.index).get(value);
        Force {
            decay: (rate * softplus(alpha + bias)).exp(),
            beta: most / (1.0 + (-beta).exp()),
        }
    }
}

/// `ln(1 + e^x)`
pub fn softplus(x: f32) -> f32 {
    // Beyond, the difference is less than half a unit of x.
    match x > 20.0 {
        true => x,
        false => x.exp().ln_1p(),
    }
}

/// How a token acts on what a head remembers.
#[derive(Clone, Copy)]
struct Force {
    decay: f32,
    beta: f32,
}

impl Force {
    /// What is added to the memory behind its decay, and what is said.
    #[inline(always)]
    fn act<V: Lanes, const W: usize>(
        self,
        value: Columns<V, W>,
        [recalled, asked]: [Columns<V, W>; 2],
        overlap: f32,
    ) -> [Columns<V, W>; 2] {
        let (decay, beta) = (V::splat(self.decay), V::splat(self.beta));
        let overlap = V::splat(overlap);
        let (mut delta, mut said) = (value, asked);
        for index in 0..W {
            delta[index] = (value[index] - recalled[index] * decay) * beta;
            said[index] = delta[index].mul_add(overlap, asked[index] * decay);
        }
        [delta, said]
    }
}

/// `x * factor / sqrt(sum(x^2) + 1e-6)` of each row.
struct Unit<'a> {
    rows: &'a mut [f32],
    columns: usize,
    factor: f32,
}

impl<'a> Unit<'a> {
    fn of(rows: &'a mut [f32], columns: usize, factor: f32) -> Self {
        Unit {
            rows,
            columns,
            factor,
        }
    }
}

impl Kernel for Unit<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        for row in self.rows.chunks_exact_mut(self.columns) {
            let squares = dot::<V>(row, row);
            let factor = V::splat(self.factor / (squares + 1e-6).sqrt());
            for first in (0..row.len()).step_by(V::N) {
                let x: V = Floats::from(&*row).lanes(first, 0.0);
                FloatsMut::from(&mut *row).set_lanes(first, x * factor);
            }
        }
    }
}

#[inline(always)]
fn dot<V: Lanes>(a: &[f32], b: &[f32]) -> f32 {
    let (a, b) = (Floats::from(a), Floats::from(b));
    let mut sum = V::splat(0.0);
    for first in (0..a.len()).step_by(V::N) {
        sum = a.lanes::<V>(first, 0.0).mul_add(b.lanes(first, 0.0), sum);
    }
    sum.total()
}

/// Takes tokens through what one head remembers.
struct Recall<'a> {
    /// One for each token.
    forces: &'a [Force],
    /// Rows as long as keys.
    queries: &'a [f32],
    keys: &'a [f32],
    /// Rows of `group`, in which this head's value begins at `first`.
    values: &'a [f32],
    group: usize,
    first: usize,
    memory: &'a mut [f32],
    tile: &'a mut [f32],
    /// Rows of `value_dim`.
    said: &'a mut [f32],
    value_dim: usize,
}

impl Kernel for Recall<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        let key_dim = self.memory.len() / self.value_dim;
        let key_of = |token: usize| &self.keys[token * key_dim..][..key_dim];
        let query_of = |token: usize| &self.queries[token * key_dim..][..key_dim];
        for first in (0..self.value_dim).step_by(width::<V>()) {
            let mut tile = Tile::read::<V>(self.tile, self.memory, self.value_dim, first);
            let mut change = None;
            for (token, force) in self.forces.iter().enumerate() {
                let (key, query) = (key_of(token), query_of(token));
                let [recalled, asked] = tile.sweep::<V, 2>(change, [key, query]);
                let value = &self.values[token * self.group + self.first..][..self.value_dim];
                let value = columns(value, first);
                let overlap = dot::<V>(key, query);
                let [delta, said] = force.act(value, [recalled, asked], overlap);
                let row = &mut self.said[token * self.value_dim..][..self.value_dim];
                set_columns(row, first, said);
                change = Some(Change {
                    decay: force.decay,
                    key,
                    value: delta,
                });
            }
            tile.sweep::<V, 0>(change, []);
            tile.write::<V>(self.memory, self.value_dim);
        }
    }
}

/// Takes one token through what one head remembers.
struct RecallOne<'a> {
    force: Force,
    query: &'a [f32],
    key: &'a [f32],
    value: &'a [f32],
    rows: Rows<'a>,
    said: &'a mut [f32],
}

impl Kernel for RecallOne<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        match V::REGISTERS >= 32 {
            true => self.by_columns::<V, 8>(),
            false => self.by_columns::<V, 2>(),
        }
    }
}

impl RecallOne<'_> {
    #[inline(always)]
    fn by_columns<V: Lanes, const W: usize>(mut self) {
        let n_rows = self.rows.n_rows();
        let (key, query) = (&self.key[..n_rows], &self.query[..n_rows]);
        let overlap = dot::<V>(key, query);
        for first in (0..self.value.len()).step_by(V::N * W) {
            let products = self.rows.products::<V, W, 2>(first, [key, query]);
            let value = columns(self.value, first);
            let [delta, said] = self.force.act(value, products, overlap);
            set_columns(self.said, first, said);
            let change = Change {
                decay: self.force.decay,
                key,
                value: delta,
            };
            self.rows.change(first, change, []);
        }
    }
}

#[cfg(test)]
mod tests;
