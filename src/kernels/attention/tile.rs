//! The work of one piece: some query rows over some positions, tile by tile
//! (flash attention, <https://arxiv.org/abs/2205.14135>).

use std::cell::Cell;
use std::mem;
use std::ops::Range;

use super::product::{Bf16, Bf16Pairs, F16, F32, Operand, Product, ROWS};
use super::vector::Vector;
use super::{Attention, PADDING};
use crate::kernels::aligned::Aligned;
use crate::kernels::cache::{CacheFormat, CacheRows};
use crate::kernels::level::Level;
use crate::kernels::math::{exp_or_zero, tanh};
use crate::kernels::prefetch::{CACHE_LINE, prefetch};
use crate::kernels::{Float, FloatsMut};

/// Positions of a tile, which begin at a multiple of it: the width of the score
/// matrix in scratch memory.
pub const TILE: usize = 64;

/// Up to this many query rows, values are widened where they are used.
const FEW_ROWS: usize = 2 * ROWS;

/// A piece of work. Row `i` of a key-value head is the query of token
/// `i / group` and head `i % group` within the group that shares the head.
pub struct Piece {
    pub kv_head: usize,
    pub rows: Range<usize>,
    pub positions: Range<usize>,
}

/// What is known of the softmax of one row: `[largest score, sum of weights, ..
/// PADDING, weighted sum of values]`, with weights relative to the largest score.
pub struct Partial;

impl Partial {
    pub const LARGEST: usize = 0;
    pub const SUM: usize = 1;
    pub const VALUES: usize = PADDING;

    pub fn floats(job: &Attention<'_>) -> usize {
        Self::VALUES + job.step.value_dim().next_multiple_of(PADDING)
    }
}

/// Computes the piece into `partials`, one after the other for its rows.
///
/// # Safety
/// As [`Vector`] says; `job` was checked and the piece is inside of it. What the
/// cache holds of the piece's positions is stored and stays as it is.
#[inline(always)]
pub unsafe fn attend<V: Vector>(
    level: Level,
    job: &Attention<'_>,
    piece: &Piece,
    partials: &mut [f32],
) {
    let mut tile = Tile::new::<V>(level, job, piece);
    for partial in partials.chunks_exact_mut(Partial::floats(job)) {
        partial.fill(0.0);
        partial[Partial::LARGEST] = f32::NEG_INFINITY;
    }
    let mut first = piece.positions.start;
    while first < piece.positions.end {
        let end = tile_end(first, piece);
        // SAFETY: as for this function; positions are filled ones.
        unsafe {
            tile.look_at(first..end);
            tile.pack_keys::<V>();
            tile.score::<V>();
            tile.weigh::<V>(partials);
            tile.add_values::<V>(partials);
        }
        first = end;
    }
}

/// Where the tile that begins at `first` ends.
fn tile_end(first: usize, piece: &Piece) -> usize {
    ((first / TILE + 1) * TILE).min(piece.positions.end)
}

/// Scratch memory of a piece, for one tile of positions at a time.
struct Tile<'a> {
    level: Level,
    job: &'a Attention<'a>,
    piece: &'a Piece,
    /// Queries and keys are multiplied as pairs of bfloat16. Subnormal ones may
    /// count as zero then.
    pairs: bool,
    /// Words of a query: float32, or pairs of bfloat16.
    depth: usize,
    /// Positions of the tile.
    positions: Range<usize>,
    /// What each row sees of the tile.
    seen: Vec<Range<usize>>,
    buffers: Buffers,
}

/// Each at least as large as said; what isn't written is left from earlier pieces.
#[derive(Default)]
struct Buffers {
    /// `[rows, depth]`
    queries: Aligned<f32>,
    /// `[TILE, depth padded]`
    key_rows: Aligned<f32>,
    /// `[depth padded, TILE]`
    keys: Aligned<f32>,
    /// `[rows, TILE]`, scores and then their weights.
    scores: Aligned<f32>,
    /// `[TILE, value_dim padded]`, or behind what else is in a key.
    values: Aligned<f32>,
}

/// Numbers of [`Buffers`], at most.
pub fn buffer_floats(n_rows: usize, columns: usize) -> usize {
    let (keys, values) = (2 * TILE * columns, 2 * TILE * columns);
    n_rows * columns + keys + n_rows * TILE + values
}

thread_local! {
    /// Of the thread's last piece: a decoded token's pieces are too short to clear
    /// new ones for each.
    static SPARE: Cell<Option<Buffers>> = const { Cell::new(None) };
}

impl Drop for Tile<'_> {
    fn drop(&mut self) {
        SPARE.set(Some(mem::take(&mut self.buffers)));
    }
}

impl<'a> Tile<'a> {
    #[inline(always)]
    fn new<V: Vector>(level: Level, job: &'a Attention<'a>, piece: &'a Piece) -> Self {
        let key_dim = job.step.key_dim();
        let pairs = job.step.rows.float() == Float::Bf16
            && job.cache.keys.format == CacheFormat::Float(Float::Bf16)
            && key_dim.is_multiple_of(2 * V::LANES);
        let depth = if pairs { key_dim / 2 } else { key_dim };
        let n_rows = piece.rows.len();
        let padded = depth.next_multiple_of(PADDING);
        let mut tile = Tile {
            level,
            job,
            piece,
            pairs,
            depth,
            positions: 0..0,
            seen: vec![0..0; n_rows],
            buffers: SPARE.take().unwrap_or_default(),
        };
        let buffers = &mut tile.buffers;
        buffers.queries.grow(n_rows * depth);
        buffers.key_rows.grow(TILE * padded);
        buffers.keys.grow(padded * TILE);
        buffers.scores.grow(n_rows * TILE);
        let value_columns = job.step.value_dim().next_multiple_of(PADDING);
        buffers
            .values
            .grow(TILE * (in_front_of_values(job) + value_columns));
        tile.load_queries();
        tile
    }

    fn load_queries(&mut self) {
        let queries = self.buffers.queries.as_mut_slice();
        let queries = queries.chunks_exact_mut(self.depth);
        for (row, out) in self.piece.rows.clone().zip(queries) {
            let (row, head) = self.job.place(self.piece.kv_head, row);
            let mut out = FloatsMut::from(out);
            if self.pairs {
                out = FloatsMut::new(Float::Bf16, out.into_bytes());
            }
            self.job.step.query(self.level, row, head, out);
        }
    }

    /// Moves to a tile of positions.
    fn look_at(&mut self, positions: Range<usize>) {
        for (row, seen) in self.piece.rows.clone().zip(&mut self.seen) {
            let visible = self.job.visible(row / self.job.step.group());
            let first = visible.start.max(positions.start);
            let end = visible.end.min(positions.end).max(first);
            *seen = first - positions.start..end - positions.start;
        }
        self.positions = positions;
    }

    /// The tile's keys.
    fn keys(&self) -> CacheRows<'a> {
        let (keys, kv_head) = (&self.job.cache.keys, self.piece.kv_head);
        // SAFETY: who attends sees to it that the piece's positions stay as they are.
        unsafe { self.job.cached(keys, kv_head, self.positions.clone()) }
    }

    /// The rows that have the tile's values at their end.
    fn values(&self) -> CacheRows<'a> {
        if self.job.step.values_in_keys.is_some() {
            return self.keys();
        }
        let (values, kv_head) = (&self.job.cache.values, self.piece.kv_head);
        // SAFETY: as for `keys`.
        unsafe { self.job.cached(values, kv_head, self.positions.clone()) }
    }

    /// The keys of the next tile, as they are stored.
    fn next_keys(&self) -> &'a [u8] {
        let first = self.positions.end;
        if first == self.piece.positions.end {
            return &[];
        }
        let (keys, kv_head) = (&self.job.cache.keys, self.piece.kv_head);
        let positions = first..tile_end(first, self.piece);
        // SAFETY: as for `keys`.
        unsafe { self.job.cached(keys, kv_head, positions) }.bytes()
    }

    /// Writes the tile's keys as columns.
    #[inline(always)]
    unsafe fn pack_keys<V: Vector>(&mut self) {
        let (n, dim, depth) = (self.positions.len(), self.job.step.key_dim(), self.depth);
        let (cached, ahead) = (self.keys(), self.next_keys());
        let rows = self.buffers.key_rows.as_mut_slice();
        let keys = self.buffers.keys.as_mut_slice().as_mut_ptr();
        if self.pairs {
            let bytes = cached.bytes();
            // Whole vectors of positions are read where they are, the rest from
            // a copy, behind which there is memory.
            let whole = n / V::LANES * V::LANES;
            let (_, rest) = bytes.split_at(whole * dim * Float::Bf16.bytes());
            read_words(rest, rows);
            // SAFETY: `whole` rows are in the cache; `depth` is whole vectors.
            unsafe {
                let in_place = bytes.as_ptr().cast();
                columns::<V>(in_place, depth, whole, depth, keys, ahead);
                columns::<V>(rows.as_ptr(), depth, n - whole, depth, keys.add(whole), &[]);
            }
        } else {
            let stride = depth.next_multiple_of(PADDING);
            cached.widen(self.level, dim, rows, stride);
            // SAFETY: there is memory for TILE rows, whole vectors each.
            unsafe { columns::<V>(rows.as_ptr(), stride, n, depth, keys, ahead) }
        }
    }

    /// Products of all queries and keys.
    #[inline(always)]
    unsafe fn score<V: Vector>(&mut self) {
        let n_rows = self.seen.len();
        let columns = self.positions.len().next_multiple_of(V::LANES);
        let product = Product {
            a: self.buffers.queries.as_slice().as_ptr(),
            a_stride: self.depth,
            b: self.buffers.keys.as_slice().as_ptr().cast(),
            b_stride: TILE,
            b_ahead: 0,
            c: self.buffers.scores.as_mut_slice().as_mut_ptr(),
            c_stride: TILE,
            depth: self.depth,
            accumulate: false,
        };
        // SAFETY: the buffers are of these sizes.
        unsafe {
            if self.pairs {
                product.run::<V, Bf16Pairs>(n_rows, columns);
            } else {
                product.run::<V, F32>(n_rows, columns);
            }
        }
    }

    /// From scores to weights relative to the largest score so far.
    #[inline(always)]
    unsafe fn weigh<V: Vector>(&mut self, partials: &mut [f32]) {
        let partials = partials.chunks_exact_mut(Partial::floats(self.job));
        let scores = self.buffers.scores.as_mut_slice().chunks_exact_mut(TILE);
        let rows = self.piece.rows.clone().zip(&self.seen);
        for ((scores, (row, seen)), partial) in scores.zip(rows).zip(partials) {
            if seen.is_empty() {
                continue;
            }
            // SAFETY: as for `attend`.
            unsafe {
                let largest = finish_scores::<V>(self.job, row, scores, seen.clone());
                raise::<V>(partial, largest);
                partial[Partial::SUM] +=
                    exponentials::<V>(scores, seen.clone(), partial[Partial::LARGEST]);
            }
        }
    }

    /// Adds the tile's weighted values.
    #[inline(always)]
    unsafe fn add_values<V: Vector>(&mut self, partials: &mut [f32]) {
        let dim = self.job.step.value_dim();
        let padded = dim.next_multiple_of(PADDING);
        // What is in front of a value in its row.
        let first = in_front_of_values(self.job);
        let cached = self.values();
        let few = self.seen.len() <= FEW_ROWS;
        let (values, float, b_ahead) = match cached.floats() {
            Some(floats) if dim == padded && (few || floats.float() == Float::F32) => {
                let ahead = if few { TILE } else { 0 };
                let (_, values) = floats.split_at(first);
                (values.bytes().as_ptr(), floats.float(), ahead)
            }
            _ => {
                let rows = self.buffers.values.as_mut_slice();
                cached.widen(self.level, first + dim, rows, first + padded);
                (rows[first..].as_ptr().cast(), Float::F32, 0)
            }
        };
        let product = Product {
            a: self.buffers.scores.as_slice().as_ptr(),
            a_stride: TILE,
            b: values,
            b_stride: first + padded,
            b_ahead,
            c: partials[Partial::VALUES..].as_mut_ptr(),
            c_stride: Partial::floats(self.job),
            depth: 0,
            accumulate: true,
        };
        for first in (0..self.seen.len()).step_by(ROWS) {
            let seen = &self.seen[first..(first + ROWS).min(self.seen.len())];
            // SAFETY: rows of `padded` values and partial sums are there.
            unsafe {
                match float {
                    Float::F32 => add_weighted::<V, F32>(product, first, seen, padded),
                    Float::F16 => add_weighted::<V, F16>(product, first, seen, padded),
                    Float::Bf16 => add_weighted::<V, Bf16>(product, first, seen, padded),
                }
            }
        }
    }
}

/// Numbers in front of a value in the row that has it.
fn in_front_of_values(job: &Attention<'_>) -> usize {
    let in_keys = job.step.values_in_keys;
    in_keys.map_or(0, |value_dim| job.step.key_dim() - value_dim)
}

/// Copies words of any meaning.
fn read_words(bytes: &[u8], words: &mut [f32]) {
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = f32::from_le_bytes(*bytes);
    }
}

/// Writes `n` rows of `depth` words as columns, TILE words apart, up to whole
/// vectors in both directions. Asks for the bytes `ahead` on the way.
#[inline(always)]
unsafe fn columns<V: Vector>(
    rows: *const f32,
    stride: usize,
    n: usize,
    depth: usize,
    to: *mut f32,
    ahead: &[u8],
) {
    let blocks = n.div_ceil(V::LANES) * depth.div_ceil(V::LANES);
    let share = (ahead.len() / blocks.max(1)).next_multiple_of(CACHE_LINE);
    let mut ahead = ahead.chunks(share.max(1));
    for row in (0..n).step_by(V::LANES) {
        for word in (0..depth).step_by(V::LANES) {
            prefetch(ahead.next().unwrap_or_default());
            // SAFETY: the caller has memory for whole vectors.
            unsafe {
                let from = rows.add(row * stride + word);
                V::transpose(from, stride, to.add(word * TILE + row), TILE);
            }
        }
    }
}

/// Scales and caps the scores that a row sees and gives the largest.
#[inline(always)]
unsafe fn finish_scores<V: Vector>(
    job: &Attention<'_>,
    row: usize,
    scores: &mut [f32],
    seen: Range<usize>,
) -> f32 {
    let scale = job.scale(row);
    // SAFETY: rows of scores are whole vectors.
    unsafe {
        let mut largest = V::splat(f32::NEG_INFINITY);
        for first in vectors::<V>(&seen) {
            let at = scores.as_mut_ptr().add(first);
            let mut score = V::load(at).mul(V::splat(scale));
            if let Some(cap) = job.step.soft_cap {
                score = tanh(score.div(V::splat(cap))).mul(V::splat(cap));
            }
            if first < seen.start || first + V::LANES > seen.end {
                let (start, end) = (seen.start.saturating_sub(first), seen.end - first);
                score = score.keep(start, end);
            }
            score.store(at);
            largest = largest.max(score);
        }
        largest.largest()
    }
}

/// Makes what a partial result holds relative to a score that may be larger.
#[inline(always)]
unsafe fn raise<V: Vector>(partial: &mut [f32], largest: f32) {
    let old = partial[Partial::LARGEST];
    let largest = old.max(largest);
    if largest == old {
        return;
    }
    // SAFETY: as for `attend`; a partial result is whole vectors.
    unsafe {
        let factor = exp_or_zero(V::splat(old - largest));
        for values in partial.chunks_exact_mut(V::LANES) {
            V::load(values.as_ptr())
                .mul(factor)
                .store(values.as_mut_ptr());
        }
    }
    partial[Partial::LARGEST] = largest;
}

/// Turns scores into weights and gives their sum.
#[inline(always)]
unsafe fn exponentials<V: Vector>(scores: &mut [f32], seen: Range<usize>, largest: f32) -> f32 {
    // Where all scores are minus infinity, weights are zero and not NaN: another
    // tile may have more to say.
    let largest = if largest == f32::NEG_INFINITY {
        0.0
    } else {
        largest
    };
    // SAFETY: rows of scores are whole vectors.
    unsafe {
        let mut sum = V::splat(0.0);
        for first in vectors::<V>(&seen) {
            let at = scores.as_mut_ptr().add(first);
            let weight = exp_or_zero(V::load(at).sub(V::splat(largest)));
            weight.store(at);
            sum = sum.add(weight);
        }
        sum.total()
    }
}

/// The first lanes of the vectors that cover a range.
#[inline(always)]
fn vectors<V: Vector>(range: &Range<usize>) -> impl Iterator<Item = usize> + use<V> {
    (range.start / V::LANES * V::LANES..range.end).step_by(V::LANES)
}

/// Adds the weighted values that some rows see, exactly those: a weight of zero
/// for a value that is infinite would not do.
#[inline(always)]
unsafe fn add_weighted<V: Vector, B: Operand<V>>(
    product: Product,
    first: usize,
    seen: &[Range<usize>],
    columns: usize,
) {
    for (rows, positions) in rectangles(seen) {
        let row = first + rows.start;
        // SAFETY: as for `attend`.
        unsafe {
            let part = Product {
                a: product.a.add(row * product.a_stride + positions.start),
                b: product.b.add(positions.start * product.b_stride * B::BYTES),
                c: product.c.add(row * product.c_stride),
                depth: positions.len(),
                ..product
            };
            part.run::<V, B>(rows.len(), columns);
        }
    }
}

/// Cuts what each row sees into what all of them see and the rest by row.
fn rectangles(seen: &[Range<usize>]) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    let start = seen.iter().map(|seen| seen.start).max().unwrap_or(0);
    let end = seen.iter().map(|seen| seen.end).min().unwrap_or(0);
    let common = start..end.max(start);
    let rest = seen.iter().enumerate().flat_map({
        let common = common.clone();
        move |(row, seen)| {
            let before = seen.start..common.start.min(seen.end);
            let after = common.end.max(seen.start)..seen.end;
            [(row..row + 1, before), (row..row + 1, after)]
        }
    });
    std::iter::once((0..seen.len(), common))
        .chain(rest)
        .filter(|(_, positions)| !positions.is_empty())
}
