//! Selective state spaces (Dao and Gu, 2024): a head's memory fades and takes in each
//! token, `S = decay * S + key (time * x)^T`, and says `S^T query + skip * x`.
//!
//! `time = softplus(dt + bias)` within limits, `decay = exp(-exp(rate) * time)`. Heads of
//! a group share keys (`B`) and queries (`C`).

use std::ops::Range;

use super::delta::softplus;
use super::memory::{Change, Columns, Rows, Tile, WIDEST, columns, set_columns, width};
use super::parts::{HeadOutput, HeadParts, PartPlace};
use super::state::StateSegment;
use super::{BLOCK_TOKENS, blocks};
use crate::kernels::floats::{Floats, FloatsMut};
use crate::kernels::lanes::{Kernel, Lanes};
use crate::kernels::level::Level;
use crate::kernels::pool::Pool;

/// Heads of a group that a piece of work takes through the keys and queries which it
/// has read.
const PIECE_HEADS: usize = 4;

/// How long heads are, and how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanShape {
    pub n_groups: usize,
    pub heads_per_group: usize,
    pub head_dim: usize,
    /// Of keys and queries.
    pub state_dim: usize,
}

impl ScanShape {
    pub fn n_heads(&self) -> usize {
        self.n_groups * self.heads_per_group
    }

    /// Elements of what one head remembers: a row for each element of a key, as long as
    /// a head.
    fn memory(&self) -> usize {
        self.state_dim * self.head_dim
    }

    /// Elements of the state of a sequence.
    pub fn state(&self) -> usize {
        self.n_heads() * self.memory()
    }

    /// Of a row of what all heads say.
    pub fn columns(&self) -> usize {
        self.n_heads() * self.head_dim
    }

    /// Of inputs, keys and queries in a row that has all of them in turn.
    pub fn mixed_columns(&self) -> usize {
        self.columns() + 2 * self.n_groups * self.state_dim
    }

    /// Where they are in it: inputs by head, keys and queries by group.
    pub fn mixed_places(&self) -> [PartPlace; 3] {
        let (columns, inputs) = (self.mixed_columns(), self.columns());
        let keys = self.n_groups * self.state_dim;
        [
            PartPlace::in_turn(columns, 0, self.head_dim),
            PartPlace::in_turn(columns, inputs, self.state_dim),
            PartPlace::in_turn(columns, inputs + keys, self.state_dim),
        ]
    }

    /// Floats of a thread's buffers for sequences of up to so many tokens.
    pub fn thread_floats(&self, n_tokens: usize) -> usize {
        let n = n_tokens.min(BLOCK_TOKENS);
        n * 2 * (self.state_dim + self.head_dim + 1) + self.state_dim * WIDEST
    }
}

/// What is given of all tokens.
pub struct ScanStep<'a> {
    pub shape: ScanShape,
    /// Where the memories of all heads begin in a state.
    pub state: usize,
    /// By head.
    pub x: HeadParts<'a>,
    /// By group.
    pub keys: HeadParts<'a>,
    pub queries: HeadParts<'a>,
    /// One number for each head.
    pub times: HeadParts<'a>,
    /// What they are multiplied with first.
    pub time_factor: f32,
    /// `[n_heads]`
    pub time_biases: Floats<'a>,
    pub time_limits: [f32; 2],
    /// `[n_heads]`
    pub rates: Floats<'a>,
    /// `[n_heads]`
    pub skips: Floats<'a>,
}

/// What heads say of each row: `[n, n_heads * head_dim]`.
///
/// # Safety
/// Nobody else uses the states.
///
/// # Panics
/// If the sizes of the arguments do not belong together.
pub unsafe fn selective_scan(
    pool: &Pool,
    step: &ScanStep<'_>,
    segments: &[StateSegment],
    out: FloatsMut<'_>,
) {
    // SAFETY: the caller's.
    unsafe { selective_scan_at(Level::detect(), pool, step, segments, out) }
}

/// # Safety
/// As of `selective_scan`.
unsafe fn selective_scan_at(
    level: Level,
    pool: &Pool,
    step: &ScanStep<'_>,
    segments: &[StateSegment],
    out: FloatsMut<'_>,
) {
    step.check();
    let shape = &step.shape;
    let out = HeadOutput::new(out, shape.columns(), shape.head_dim);
    let pieces_per_group = shape.heads_per_group.div_ceil(PIECE_HEADS);
    let n_pieces = shape.n_groups * pieces_per_group;
    pool.run(segments.len() * n_pieces, &|piece| {
        let segment = &segments[piece / n_pieces];
        let group = piece % n_pieces / pieces_per_group;
        let first = piece % pieces_per_group * PIECE_HEADS;
        let end = shape.heads_per_group.min(first + PIECE_HEADS);
        let first_of_group = group * shape.heads_per_group;
        let heads = Heads {
            level,
            step,
            group,
            heads: first_of_group + first..first_of_group + end,
            out: &out,
        };
        let first = step.state + heads.heads.start * shape.memory();
        let end = step.state + heads.heads.end * shape.memory();
        // SAFETY: each head of a segment is of one piece.
        unsafe {
            match segment.n_tokens {
                1 => heads.run_one(segment.first_row, segment.take_apart(first..end)),
                _ => heads.run(segment, segment.take(first..end)),
            }
        }
    });
}

impl ScanStep<'_> {
    fn check(&self) {
        let shape = &self.shape;
        let lengths = [
            (&self.x, shape.head_dim, shape.n_heads()),
            (&self.keys, shape.state_dim, shape.n_groups),
            (&self.queries, shape.state_dim, shape.n_groups),
            (&self.times, 1, shape.n_heads()),
        ];
        for (parts, length, count) in lengths {
            assert_eq!(parts.place.length, length);
            parts.place.check(count);
        }
        for vector in [self.time_biases, self.rates, self.skips] {
            assert_eq!(vector.len(), shape.n_heads());
        }
    }
}

/// Some heads of a group of one sequence.
struct Heads<'a> {
    level: Level,
    step: &'a ScanStep<'a>,
    group: usize,
    heads: Range<usize>,
    out: &'a HeadOutput<'a>,
}

impl Heads<'_> {
    /// # Safety
    /// Nobody else writes what these heads say of the segment's rows.
    unsafe fn run(&self, segment: &StateSegment, memories: &mut [f32]) {
        let (level, step, shape) = (self.level, self.step, &self.step.shape);
        let n = segment.n_tokens.min(BLOCK_TOKENS);
        let mut keys = vec![0.0; n * shape.state_dim];
        let mut queries = vec![0.0; n * shape.state_dim];
        let mut x = vec![0.0; n * shape.head_dim];
        let mut said = vec![0.0; n * shape.head_dim];
        let mut tile = vec![0.0; shape.state_dim * WIDEST];
        for rows in blocks(segment) {
            step.keys.gather(level, rows.clone(), self.group, &mut keys);
            step.queries
                .gather(level, rows.clone(), self.group, &mut queries);
            let memories = memories.chunks_exact_mut(shape.memory());
            for (head, memory) in self.heads.clone().zip(memories) {
                step.x.gather(level, rows.clone(), head, &mut x);
                level.run(Scan {
                    forces: &self.forces(&rows, head),
                    skip: step.skips.get(head),
                    keys: &keys,
                    queries: &queries,
                    x: &x,
                    head_dim: shape.head_dim,
                    memory,
                    tile: &mut tile,
                    said: &mut said,
                });
                let said = said.chunks_exact(shape.head_dim);
                for (row, said) in rows.clone().zip(said) {
                    // SAFETY: the caller's.
                    let out = unsafe { self.out.part(row, head) };
                    level.convert(Floats::from(said), out);
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
        let mut key = vec![0.0; shape.state_dim];
        let mut query = vec![0.0; shape.state_dim];
        let mut x = vec![0.0; shape.head_dim];
        let mut said = vec![0.0; shape.head_dim];
        level.convert(
            step.keys.part(row, self.group),
            FloatsMut::from(&mut key[..]),
        );
        level.convert(
            step.queries.part(row, self.group),
            FloatsMut::from(&mut query[..]),
        );
        let memories = after.chunks_exact_mut(shape.memory()).enumerate();
        for (head, (index, after)) in self.heads.clone().zip(memories) {
            level.convert(step.x.part(row, head), FloatsMut::from(&mut x[..]));
            level.run(ScanOne {
                force: self.force(row, head),
                skip: step.skips.get(head),
                key: &key,
                query: &query,
                x: &x,
                rows: Rows {
                    before: before.map(|all| &all[index * shape.memory()..][..shape.memory()]),
                    after,
                    n_columns: shape.head_dim,
                },
                said: &mut said,
            });
            // SAFETY: the caller's.
            let out = unsafe { self.out.part(row, head) };
            level.convert(Floats::from(&said[..]), out);
        }
    }

    /// How tokens act on a head.
    fn forces(&self, rows: &Range<usize>, head: usize) -> Vec<Force> {
        rows.clone().map(|row| self.force(row, head)).collect()
    }

    fn force(&self, row: usize, head: usize) -> Force {
        let step = self.step;
        let rate = -step.rates.get(head).exp();
        let [least, most] = step.time_limits;
        let time = step.times.part(row, head).get(0) * step.time_factor;
        let time = softplus(time + step.time_biases.get(head))
            .max(least)
            .min(most);
        Force {
            decay: (rate * time).exp(),
            time,
        }
    }
}

#[derive(Clone, Copy)]
struct Force {
    decay: f32,
    time: f32,
}

/// Takes tokens through what one head remembers.
struct Scan<'a> {
    /// One for each token.
    forces: &'a [Force],
    skip: f32,
    /// Rows of `state_dim`.
    keys: &'a [f32],
    queries: &'a [f32],
    /// Rows of `head_dim`.
    x: &'a [f32],
    head_dim: usize,
    memory: &'a mut [f32],
    tile: &'a mut [f32],
    /// Rows of `head_dim`.
    said: &'a mut [f32],
}

impl Kernel for Scan<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        let head_dim = self.head_dim;
        let state_dim = self.memory.len() / head_dim;
        let skip = V::splat(self.skip);
        for first in (0..head_dim).step_by(width::<V>()) {
            let mut tile = Tile::read::<V>(self.tile, self.memory, head_dim, first);
            for (token, force) in self.forces.iter().enumerate() {
                let x: Columns<V> = columns(&self.x[token * head_dim..][..head_dim], first);
                let time = V::splat(force.time);
                let change = Change {
                    decay: force.decay,
                    key: &self.keys[token * state_dim..][..state_dim],
                    value: x.map(|x| x * time),
                };
                let query = &self.queries[token * state_dim..][..state_dim];
                let [recalled] = tile.sweep::<V, 1>(Some(change), [query]);
                let said: Columns<V> =
                    std::array::from_fn(|index| x[index].mul_add(skip, recalled[index]));
                let row = &mut self.said[token * head_dim..][..head_dim];
                set_columns(row, first, said);
            }
            tile.write::<V>(self.memory, head_dim);
        }
    }
}

/// Takes one token through what one head remembers.
struct ScanOne<'a> {
    force: Force,
    skip: f32,
    key: &'a [f32],
    query: &'a [f32],
    x: &'a [f32],
    rows: Rows<'a>,
    said: &'a mut [f32],
}

impl Kernel for ScanOne<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        match V::REGISTERS >= 32 {
            true => self.by_columns::<V, 4>(),
            false => self.by_columns::<V, 2>(),
        }
    }
}

impl ScanOne<'_> {
    #[inline(always)]
    fn by_columns<V: Lanes, const W: usize>(mut self) {
        let (skip, time) = (V::splat(self.skip), V::splat(self.force.time));
        let n_rows = self.rows.n_rows();
        let (key, query) = (&self.key[..n_rows], &self.query[..n_rows]);
        for first in (0..self.x.len()).step_by(V::N * W) {
            let x = columns::<V, W>(self.x, first);
            let mut value = x;
            for x in &mut value {
                *x = *x * time;
            }
            let change = Change {
                decay: self.force.decay,
                key,
                value,
            };
            let [mut said] = self.rows.change(first, change, [query]);
            for (said, x) in said.iter_mut().zip(x) {
                *said = x.mul_add(skip, *said);
            }
            set_columns(self.said, first, said);
        }
    }
}

#[cfg(test)]
mod tests;
