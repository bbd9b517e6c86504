//! AttentionStep over the caches of a step's sequences: [`attention`].
//!
//! Queries that share a key-value head are rows of one matrix, token after token
//! and head after head: many for a prompt, a few for a decoded token. A piece of
//! work takes up to [`TILE_ROWS`] of them over a range of positions, so that a
//! key is read and prepared once for all of them. Where there are few rows, the
//! positions are cut into several pieces; the last of them to end merges their
//! results.
//!
//! A piece rotates its own queries. Where one piece is all that looks at a
//! position, as in decoding, it also stores that position's new key and value, so
//! that a step of all sequences is one run of the pool. Prompts store theirs in a
//! run before.
//!
//! - `heads`: from a projection's rows to rotated heads
//! - `reach`: how far back queries see
//! - `plan`: how the work of a segment is cut; `work`: what that means for a run
//! - `tile`: one piece: scores, softmax and weighted sum, tile by tile
//! - `merge`: from partial results to the result
//! - `scratch`: how much memory that takes
//! - `product`: products of small matrices in registers
//! - `vector`: [`lanes`](super::lanes) at addresses

mod heads;
mod merge;
mod plan;
mod product;
mod reach;
mod scratch;
mod tile;
mod vector;
mod work;

use std::ops::Range;
use std::sync::Arc;

use merge::merge;
pub use reach::Reach;
pub use scratch::AttentionShape;
use tile::{Partial, Piece, attend};
use work::{Results, Unit, Work};

use super::aligned::Aligned;
use super::cache::{CacheBlock, CacheLayout, CacheRows, LayerLayout, LayerShape, RowsLayout};
use super::floats::Floats;
use super::lanes::{Kernel, Lanes};
use super::level::Level;
use super::norm::Norm;
use super::output::Output;
use super::pool::Pool;
use super::rope::RopeTable;

/// Rows in scratch memory are multiples of this many floats, which is a multiple
/// of the lanes of every vector.
const PADDING: usize = 16;

/// Products of one query and one key element. A run of less, about 5 microseconds'
/// worth, is not worth a second thread.
const ALONE_PRODUCTS: usize = 1 << 19;

/// One layer's attention of a step's tokens, each over its own sequence's cache.
#[derive(Clone, Copy)]
pub struct AttentionStep<'a> {
    /// `[n_rows, (n_heads + n_kv_heads) * key_dim + n_kv_heads * value_dim]`: a
    /// token's queries, its keys and the values that the cache has; or the first of
    /// these.
    pub rows: Floats<'a>,
    pub contents: RowContents,
    /// Those of a key-value head next to each other: its queries, its key, its value.
    pub rows_by_head: bool,
    /// A multiple of the cache's heads; consecutive heads share one of these.
    pub n_heads: usize,
    /// Which of the caches' layers, and what each of them keeps of a token.
    pub layer: usize,
    pub cache: LayerShape,
    /// Where the cache has no values, a value is so many of its key's last dimensions.
    pub values_in_keys: Option<usize>,
    /// Of single heads, before they are rotated unless it says otherwise.
    pub query_norm: Option<Norm<'a>>,
    pub key_norm: Option<Norm<'a>>,
    pub norms_behind_rotation: bool,
    pub value_norm: Option<Norm<'a>>,
    /// Of each row's position; `None`: positions do not matter.
    pub table: Option<&'a RopeTable>,
    /// How far back a query sees.
    pub reach: Reach,
    /// Scores are `scale * query . key`.
    pub scale: f32,
    /// What queries are multiplied with besides, by their positions.
    pub position_scale: Option<PositionScale>,
    /// Turns a score into `cap * tanh(score / cap)`.
    pub soft_cap: Option<f32>,
    /// One score per head that takes part in the softmax without a value.
    pub sinks: Option<&'a [f32]>,
}

/// What rows consist of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowContents {
    /// Queries, keys, and the values that the cache has.
    All,
    /// Queries, and keys that are values as well, before they are normalized and rotated.
    WithoutValues,
    /// Queries. Keys and values are those that another layer stored in the same step.
    Queries,
}

/// A factor that grows with the logarithm of a position (Llama 4, Ministral 3):
/// `1 + beta * ln(1 + floor((position + offset) / length))`
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PositionScale {
    pub beta: f32,
    pub length: f32,
    /// What the first position is.
    pub offset: usize,
}

impl PositionScale {
    pub fn at(self, position: usize) -> f32 {
        1.0 + self.beta
            * ((position + self.offset) as f32 / self.length)
                .floor()
                .ln_1p()
    }
}

/// The next tokens of a sequence, and its cache, whose format need not be that of others.
pub struct Segment {
    /// Of the rows, the one of the first token.
    pub first_row: usize,
    pub n_tokens: usize,
    /// Position of the first token. A query sees positions up to its own.
    pub start: usize,
    pub layout: Arc<CacheLayout>,
    /// Made for the layout. Room for all positions; all but the last have the same capacity, a multiple
    /// of [`TILE`].
    pub blocks: Vec<Arc<CacheBlock>>,
}

/// The attention of one segment.
#[derive(Clone, Copy)]
struct Attention<'a> {
    step: &'a AttentionStep<'a>,
    segment: &'a Segment,
    cache: &'a LayerLayout,
}

impl<'a> AttentionStep<'a> {
    fn key_dim(&self) -> usize {
        self.cache.key_dim
    }

    fn value_dim(&self) -> usize {
        self.values_in_keys.unwrap_or(self.cache.value_dim)
    }

    fn n_kv_heads(&self) -> usize {
        self.cache.n_kv_heads
    }

    /// Heads that share a key-value head.
    fn group(&self) -> usize {
        self.n_heads / self.n_kv_heads()
    }

    /// Of a row.
    fn width(&self) -> usize {
        let values = self.n_kv_heads() * self.cache.value_dim;
        let keys = self.n_kv_heads() * self.key_dim();
        let queries = self.n_heads * self.key_dim();
        match self.contents {
            RowContents::All => queries + keys + values,
            RowContents::WithoutValues => queries + keys,
            RowContents::Queries => queries,
        }
    }

    fn stores(&self) -> bool {
        self.contents != RowContents::Queries
    }

    fn check(&self, segments: &[Segment]) {
        let n_kv_heads = self.n_kv_heads();
        assert!(n_kv_heads > 0 && self.n_heads.is_multiple_of(n_kv_heads));
        assert!(self.key_dim() > 0 && self.value_dim() > 0);
        assert!(![Reach::Window(0), Reach::Chunk(0)].contains(&self.reach));
        let fits = |value_dim| value_dim <= self.key_dim() && self.cache.value_dim == 0;
        assert!(self.values_in_keys.is_none_or(fits));
        assert!(!self.rows_by_head || self.contents == RowContents::All);
        let has_values = self.contents != RowContents::WithoutValues;
        assert!(has_values || self.cache.value_dim == self.key_dim());
        assert!(self.rows.len().is_multiple_of(self.width()));
        assert!(self.sinks.is_none_or(|sinks| sinks.len() == self.n_heads));
        let n_rows = self.rows.len() / self.width();
        for segment in segments {
            assert!(segment.first_row + segment.n_tokens <= n_rows);
            assert_eq!(segment.layout.layers()[self.layer].shape(), self.cache);
            segment.check();
        }
    }
}

impl Segment {
    fn check(&self) {
        let capacity = |block: &Arc<CacheBlock>| block.capacity();
        let room: usize = self.blocks.iter().map(capacity).sum();
        assert!(self.start + self.n_tokens <= room);
        if let [others @ .., _] = &self.blocks[..] {
            let whole = self.block_capacity();
            assert!(others.iter().all(|block| block.capacity() == whole));
            assert!(others.is_empty() || whole.is_multiple_of(tile::TILE));
        }
    }

    /// Of all but the last.
    fn block_capacity(&self) -> usize {
        self.blocks[0].capacity()
    }

    /// The block of positions that are all in one, and where they are there.
    fn in_block(&self, positions: Range<usize>) -> (&CacheBlock, Range<usize>) {
        let index = positions.start / self.block_capacity();
        let first = index * self.block_capacity();
        let block = &self.blocks[index];
        (block, positions.start - first..positions.end - first)
    }
}

impl<'a> Attention<'a> {
    fn new(step: &'a AttentionStep<'a>, segment: &'a Segment) -> Self {
        Attention {
            step,
            segment,
            cache: &segment.layout.layers()[step.layer],
        }
    }

    /// Rows that share a key-value head.
    fn rows(&self) -> usize {
        self.segment.n_tokens * self.step.group()
    }

    /// The row of the step's outputs, and its head, that row `row` of a key-value
    /// head is: of token `row / group`, and of the heads that share it number
    /// `row % group`.
    fn place(&self, kv_head: usize, row: usize) -> (usize, usize) {
        let group = self.step.group();
        let head = kv_head * group + row % group;
        (self.segment.first_row + row / group, head)
    }

    /// What products of a row's query and keys are multiplied with.
    fn scale(&self, row: usize) -> f32 {
        let position = self.segment.start + row / self.step.group();
        let factor = |scale: PositionScale| scale.at(position);
        self.step.scale * self.step.position_scale.map_or(1.0, factor)
    }

    /// Positions that a token sees.
    fn visible(&self, token: usize) -> Range<usize> {
        let position = self.segment.start + token;
        self.step.reach.first(position)..position + 1
    }

    /// Keys or values of some positions of a block.
    ///
    /// # Safety
    /// Nobody writes them while they are looked at.
    unsafe fn cached(
        &self,
        layout: &RowsLayout,
        kv_head: usize,
        positions: Range<usize>,
    ) -> CacheRows<'a> {
        let (block, positions) = self.segment.in_block(positions);
        // SAFETY: the caller's.
        unsafe { layout.read(block, kv_head, positions) }
    }
}

/// Stores the tokens' keys and values in the blocks and computes attention into
/// `out`, `[n_rows, n_heads, value_dim]` packed as the rows are; rows that are of
/// no segment stay as they are. Everything between is float32.
///
/// # Safety
/// Each segment's blocks were made for its layout. Meanwhile nobody else uses what they
/// hold of this layer from each segment's `start` on,
/// and nobody writes what is before. No two segments share a row, or a block that
/// one of them stores in.
///
/// # Panics
/// If the sizes of the arguments do not belong together.
pub unsafe fn attention(
    pool: &Pool,
    step: &AttentionStep<'_>,
    segments: &[Segment],
    out: &mut [u8],
) {
    // SAFETY: the caller's.
    unsafe { attention_at(Level::detect(), pool, step, segments, out) }
}

/// # Safety
/// As for [`attention`].
unsafe fn attention_at(
    level: Level,
    pool: &Pool,
    step: &AttentionStep<'_>,
    segments: &[Segment],
    out: &mut [u8],
) {
    step.check(segments);
    let n_rows = step.rows.len() / step.width();
    let out_floats = n_rows * step.n_heads * step.value_dim();
    assert_eq!(out.len(), out_floats * step.rows.float().bytes());
    let filled = segments.iter().filter(|segment| segment.n_tokens > 0);
    let works = Work::all(filled.map(|segment| Attention::new(step, segment)));
    let partials_floats = works.last().map_or(0, Work::partials_end);
    let mut partials = Aligned::zeroed(partials_floats);
    let results = Results {
        partials: Output::new(partials.as_mut_slice()),
        out: Output::new(out),
    };
    let (decoding, prompts): (Vec<_>, Vec<_>) = works.iter().partition(|work| work.stores_itself());
    let stores = prompts.iter().flat_map(|work| work.stores());
    let first: Vec<_> = stores
        .chain(decoding.iter().flat_map(|work| work.pieces()))
        .collect();
    let second: Vec<_> = prompts.iter().flat_map(|work| work.pieces()).collect();
    for units in [first, second] {
        // SAFETY: the caller's; no two units of a run share what they write, and
        // what a prompt's pieces look at was stored in the run before.
        let run = |index: usize| unsafe { units[index].run(level, &results) };
        match units.iter().map(Unit::products).sum::<usize>() < ALONE_PRODUCTS {
            true => (0..units.len()).for_each(run),
            false => pool.run(units.len(), &run),
        }
    }
}

/// Computes a piece into the partial results of its rows.
fn run_piece(level: Level, job: &Attention<'_>, piece: &Piece, partials: &mut [f32]) {
    let partials = &mut partials[..piece.rows.len() * Partial::floats(job)];
    level.run(Attend {
        level,
        job,
        piece,
        partials,
    });
}

struct Attend<'a> {
    level: Level,
    job: &'a Attention<'a>,
    piece: &'a Piece,
    partials: &'a mut [f32],
}

impl Kernel for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        // SAFETY: the step was checked, and the plan stays inside of it.
        unsafe { attend::<V>(self.level, self.job, self.piece, self.partials) }
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
    level.run(Merge {
        job,
        piece,
        partials,
        n_cuts,
        out,
    });
}

struct Merge<'a> {
    job: &'a Attention<'a>,
    piece: &'a Piece,
    partials: &'a [f32],
    n_cuts: usize,
    out: &'a Output<'a, u8>,
}

impl Kernel for Merge<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        // SAFETY: as for `attend`; each row is of one piece alone.
        unsafe { merge::<V>(self.job, self.piece, self.partials, self.n_cuts, self.out) }
    }
}

#[cfg(test)]
mod tests;
