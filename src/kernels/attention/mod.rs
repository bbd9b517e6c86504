//! Attention over a cache of keys and values: [`attention`].
//!
//! Queries that share a key-value head are rows of one matrix, token after token
//! and head after head: many for a prompt, a few for a decoded token. A piece of
//! work takes up to [`TILE_ROWS`] of them over a range of positions, so that a
//! key is read and prepared once for all of them. Where there are few rows, the
//! positions are cut into several pieces, whose results are merged at the end.
//!
//! - `cache`: [`CacheRows`]
//! - `tile`: one piece: scores, softmax and weighted sum, tile by tile
//! - `merge`: from partial results to the result
//! - `product`: products of small matrices in registers
//! - `math`: exp and tanh
//! - `vector`: what a vector can do; `avx2` and `avx512` do it on x86
//! - `prefetch`: asking for memory in time

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod cache;
mod math;
mod merge;
mod prefetch;
mod product;
mod tile;
mod vector;

use std::ops::Range;

pub use cache::CacheRows;
use merge::merge;
use tile::{Partial, Piece, TILE, attend};
use vector::Plain;

use super::aligned::Aligned;
use super::float::Float;
use super::level::Level;
use super::output::Output;
use super::pool::Pool;

/// Rows in scratch memory are multiples of this many floats, which is a multiple
/// of the lanes of every vector.
const PADDING: usize = 16;

/// Query rows of a piece at most: keys are prepared for all of them at once, and
/// scratch memory stays within the second-level cache.
const TILE_ROWS: usize = 64;

/// Pieces that positions are cut for, at most.
const MAX_PIECES: usize = 64;

/// Products of one query and one key element that a piece costs at least: about
/// 50 microseconds' worth.
const PIECE_PRODUCTS: usize = 1 << 22;

/// Preparing a position costs as much as this many query rows.
const POSITION_ROWS: usize = 8;

/// Queries of consecutive tokens of one sequence, and what they look at.
#[derive(Clone, Copy)]
pub struct Attention<'a> {
    /// `[n_tokens, n_heads, head_dim]`, packed, but for `query_stride`.
    pub queries: &'a [u8],
    pub query_float: Float,
    /// Elements from one token's queries to the next one's.
    pub query_stride: usize,
    /// `[n_kv_heads, capacity, head_dim]`
    pub keys: CacheRows<'a>,
    /// `[n_kv_heads, capacity, value_dim]`
    pub values: CacheRows<'a>,
    pub n_tokens: usize,
    /// A multiple of `n_kv_heads`; consecutive heads share a key-value head.
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
    pub value_dim: usize,
    pub capacity: usize,
    /// Position of the first query. A query sees positions up to its own.
    pub start: usize,
    /// How many positions a query sees at most, the last of them its own.
    pub window: Option<usize>,
    /// Scores are `scale * query . key`.
    pub scale: f32,
    /// Turns a score into `cap * tanh(score / cap)`.
    pub soft_cap: Option<f32>,
    /// One score per head that takes part in the softmax without a value.
    pub sinks: Option<&'a [f32]>,
}

impl Attention<'_> {
    /// Heads that share a key-value head.
    fn group(&self) -> usize {
        self.n_heads / self.n_kv_heads
    }

    /// Rows that share a key-value head.
    fn rows(&self) -> usize {
        self.n_tokens * self.group()
    }

    /// Positions that a token sees.
    fn visible(&self, token: usize) -> Range<usize> {
        let end = self.start + token + 1;
        end.saturating_sub(self.window.unwrap_or(end))..end
    }

    fn check(&self) {
        assert!(self.n_kv_heads > 0 && self.n_heads.is_multiple_of(self.n_kv_heads));
        assert!(self.head_dim > 0 && self.value_dim > 0 && self.window != Some(0));
        assert!(self.start + self.n_tokens <= self.capacity);
        let last = (self.n_tokens - 1) * self.query_stride + self.n_heads * self.head_dim;
        assert!(self.queries.len() >= last * self.query_float.bytes());
        let n_rows = self.n_kv_heads * self.capacity;
        self.keys.check(n_rows, self.head_dim);
        self.values.check(n_rows, self.value_dim);
        assert!(self.sinks.is_none_or(|sinks| sinks.len() == self.n_heads));
    }
}

/// Computes attention into `out`, `[n_tokens, n_heads, value_dim]` packed as
/// `query_float`. Everything between is float32.
///
/// # Panics
/// If the sizes of the arguments do not belong together.
pub fn attention(pool: &Pool, job: &Attention<'_>, out: &mut [u8]) {
    attention_at(Level::detect(), pool, job, out);
}

fn attention_at(level: Level, pool: &Pool, job: &Attention<'_>, out: &mut [u8]) {
    let out_floats = job.n_tokens * job.n_heads * job.value_dim;
    assert_eq!(out.len(), out_floats * job.query_float.bytes());
    if job.n_tokens == 0 {
        return;
    }
    job.check();
    let plan = Plan::new(job);
    let out = Output::new(out);
    if plan.n_cuts == 1 {
        return pool.run(plan.n_tiles(), &|tile| {
            let mut partials = Aligned::zeroed(plan.partials_floats(job));
            let piece = plan.piece(job, tile, 0);
            let partials = partials.as_mut_slice();
            run_piece(level, job, &piece, partials);
            run_merge(level, job, &piece, partials, 1, &out);
        });
    }
    let floats = plan.partials_floats(job);
    let mut partials = Aligned::zeroed(plan.n_tiles() * plan.n_cuts * floats);
    let shared = Output::new(partials.as_mut_slice());
    pool.run(plan.n_tiles() * plan.n_cuts, &|index| {
        // SAFETY: each piece has its own part.
        let partials = unsafe { shared.part(index * floats..(index + 1) * floats) };
        let piece = plan.piece(job, index / plan.n_cuts, index % plan.n_cuts);
        run_piece(level, job, &piece, partials);
    });
    pool.run(plan.n_tiles(), &|tile| {
        let first = tile * plan.n_cuts * floats;
        // SAFETY: as above, and nobody writes any more.
        let partials = unsafe { shared.part(first..first + plan.n_cuts * floats) };
        let piece = plan.piece(job, tile, 0);
        run_merge(level, job, &piece, partials, plan.n_cuts, &out);
    });
}

/// How the work is cut: tiles of rows, and each of them by positions. It does not
/// depend on the number of threads, so that results don't.
struct Plan {
    tile_rows: usize,
    /// Tiles of one key-value head.
    n_row_tiles: usize,
    n_kv_heads: usize,
    n_cuts: usize,
}

impl Plan {
    fn new(job: &Attention<'_>) -> Self {
        let tile_rows = job.rows().min(TILE_ROWS);
        let n_row_tiles = job.rows().div_ceil(tile_rows);
        let n_tiles = n_row_tiles * job.n_kv_heads;
        let row_products = job.head_dim + job.value_dim;
        let products =
            (tile_rows + POSITION_ROWS) * row_products * job.visible(job.n_tokens - 1).len();
        Plan {
            tile_rows,
            n_row_tiles,
            n_kv_heads: job.n_kv_heads,
            n_cuts: (products / PIECE_PRODUCTS).clamp(1, (MAX_PIECES / n_tiles).max(1)),
        }
    }

    fn n_tiles(&self) -> usize {
        self.n_row_tiles * self.n_kv_heads
    }

    fn partials_floats(&self, job: &Attention<'_>) -> usize {
        self.tile_rows * Partial::floats(job)
    }

    /// Cut `cut` of tile `tile`. The first tiles see most, so that the threads
    /// end together.
    fn piece(&self, job: &Attention<'_>, tile: usize, cut: usize) -> Piece {
        let row_tile = self.n_row_tiles - 1 - tile / self.n_kv_heads;
        let first = row_tile * self.tile_rows;
        let rows = first..(first + self.tile_rows).min(job.rows());
        let seen_first = job.visible(rows.start / job.group()).start;
        let seen_end = job.visible((rows.end - 1) / job.group()).end;
        let n_tiles = (seen_end - seen_first).div_ceil(TILE);
        let bound = |cut: usize| (seen_first + n_tiles * cut / self.n_cuts * TILE).min(seen_end);
        Piece {
            kv_head: tile % self.n_kv_heads,
            rows,
            positions: bound(cut)..bound(cut + 1),
        }
    }
}

/// Computes a piece into the partial results of its rows.
fn run_piece(level: Level, job: &Attention<'_>, piece: &Piece, partials: &mut [f32]) {
    let partials = &mut partials[..piece.rows.len() * Partial::floats(job)];
    // SAFETY: the processor has the level; `job` was checked, and the plan stays
    // inside of it.
    unsafe {
        match level {
            Level::Scalar => attend::<Plain>(level, job, piece, partials),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => avx2::attend(level, job, piece, partials),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => avx512::attend(level, job, piece, partials),
        }
    }
}

/// Writes the result of a piece's rows, whose positions were cut into `n_cuts`.
fn run_merge(
    level: Level,
    job: &Attention<'_>,
    piece: &Piece,
    partials: &[f32],
    n_cuts: usize,
    out: &Output<'_, u8>,
) {
    // SAFETY: as for `run_piece`; each row is of one piece alone.
    unsafe {
        match level {
            Level::Scalar => merge::<Plain>(job, piece, partials, n_cuts, out),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => avx2::merge(job, piece, partials, n_cuts, out),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => avx512::merge(job, piece, partials, n_cuts, out),
        }
    }
}

#[cfg(test)]
mod tests;
