//! `x W^T`, what decoding consists of: for few rows of `x` one row of `W` after
//! the other ([`dots`]), for many in tiles ([`tiles`]). Where `W` is stored transposed, few
//! rows of `x` take one column after the other ([`columns`]).

mod ahead;
mod arithmetic;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod codes;
mod columns;
mod dispatch;
mod dots;
mod halves;
#[cfg(target_arch = "aarch64")]
mod neon;
mod panels;
mod planes;
mod rows;
mod scalar;
mod shape;
mod tiles;

use std::ops::{Range, RangeInclusive};

use super::activation::Gate;
use super::float::Float;
use super::floats::{Floats, FloatsMut};
use super::level::Level;
use super::output::Output;
use super::pool::Pool;
use super::quantized::QuantizedRows;
pub use arithmetic::{Activations, Arithmetic};
pub use columns::Columns;
pub(super) use columns::add_rows;
use dots::{Dots, dots_scratch_bytes};
pub use rows::Rows;
pub use shape::{ProductShape, Stored};
use tiles::{Tiles, panel_bytes, thread_scratch_bytes};

/// With more rows of activations than this, tiles are faster.
pub const MAX_DOT_ROWS: usize = 12;
/// Bytes of weights that a piece of work covers: from half a microsecond, so that
/// there is some for each thread, to about 20, so that none waits long for another.
const PIECE_BYTES: RangeInclusive<usize> = 8 << 10..=256 << 10;

/// A weight matrix `[rows, columns]` in its file's bytes, row after row but for
/// [`Columns`].
#[derive(Clone, Copy)]
pub enum Matrix<'a> {
    Float(Floats<'a>),
    Quantized(QuantizedRows<'a>),
    Columns(Columns<'a>),
}

/// One matrix that `x` is multiplied with.
#[derive(Clone, Copy)]
pub struct Projection<'a> {
    pub matrix: Matrix<'a>,
    pub rows: usize,
    pub bias: Option<Floats<'a>>,
}

/// What becomes of the products of all projections.
#[derive(Clone, Copy)]
pub enum Finish<'a> {
    /// Next to each other: `[n, sum of rows]`
    Store,
    /// Added to what is there: `[n, rows]` of one projection
    Add(Floats<'a>),
    /// The first, through the gate, times the second: `[n, rows]`
    Gated(Gate),
}

impl ProductShape {
    /// Of this product: activations as the weights want them. A pool keeps as much
    /// for the next product.
    pub fn scratch_bytes(&self) -> usize {
        match self.n_rows > MAX_DOT_ROWS {
            true => panel_bytes(self),
            false => dots_scratch_bytes(self),
        }
    }

    /// Of each thread, until it ends.
    pub fn thread_bytes(&self) -> usize {
        match self.n_rows > MAX_DOT_ROWS {
            true => thread_scratch_bytes(self),
            false => 4 * self.columns,
        }
    }
}

/// Multiplies `x` with all projections and writes `out` as `out_float`.
///
/// # Panics
/// If the sizes of the arguments do not belong together.
pub fn linear(
    pool: &Pool,
    x: &Rows<'_>,
    projections: &[Projection<'_>],
    finish: Finish<'_>,
    arithmetic: Arithmetic,
    out: &mut [u8],
    out_float: Float,
) {
    let job = Job::new(x, projections, finish, out, out_float);
    linear_at(Level::detect(), pool, x, arithmetic, &job);
}

fn linear_at(level: Level, pool: &Pool, x: &Rows<'_>, arithmetic: Arithmetic, job: &Job<'_>) {
    let Arithmetic {
        activations,
        rows_apart,
    } = arithmetic;
    let dots = |n_together| {
        Dots::prepare(level, x, job.projections, (n_together, activations)).run(pool, job);
    };
    match x.n() {
        0 => {}
        _ if rows_apart => dots(1),
        n @ 1..=MAX_DOT_ROWS => dots(n),
        _ => Tiles::prepare(level, pool, x, job.projections, activations).run(pool, job),
    }
}

fn width(projections: &[Projection<'_>], finish: &Finish<'_>) -> usize {
    match finish {
        Finish::Store => projections.iter().map(|projection| projection.rows).sum(),
        Finish::Add(_) => {
            assert_eq!(projections.len(), 1);
            projections[0].rows
        }
        Finish::Gated(_) => {
            assert_eq!(projections.len(), 2);
            assert_eq!(projections[0].rows, projections[1].rows);
            projections[0].rows
        }
    }
}

/// The products that are wanted, and where they go.
struct Job<'a> {
    projections: &'a [Projection<'a>],
    finish: Finish<'a>,
    /// Columns of the output.
    width: usize,
    out: Output<'a, u8>,
    out_float: Float,
}

/// Rows of one projection, or of both of a gated pair.
struct Block {
    projection: usize,
    rows: Range<usize>,
    /// The output's column of the first row.
    column: usize,
}

impl<'a> Job<'a> {
    fn new(
        x: &Rows<'_>,
        projections: &'a [Projection<'a>],
        finish: Finish<'a>,
        out: &'a mut [u8],
        out_float: Float,
    ) -> Job<'a> {
        let width = width(projections, &finish);
        assert_eq!(out.len(), x.n() * width * out_float.bytes());
        Job {
            projections,
            finish,
            width,
            out: Output::new(out),
            out_float,
        }
    }
}

impl Job<'_> {
    /// All rows in blocks of at most `rows_per_block`.
    fn blocks(&self, rows_per_block: usize) -> Vec<Block> {
        let gated = matches!(self.finish, Finish::Gated(_));
        let projections = &self.projections[..if gated { 1 } else { self.projections.len() }];
        let mut blocks = Vec::new();
        let mut column = 0;
        for (index, projection) in projections.iter().enumerate() {
            for first in (0..projection.rows).step_by(rows_per_block) {
                blocks.push(Block {
                    projection: index,
                    rows: first..(first + rows_per_block).min(projection.rows),
                    column: column + first,
                });
            }
            column += projection.rows;
        }
        blocks
    }

    /// The projections of which a block has rows: both of a gated pair.
    fn projections_of(&self, block: &Block) -> Range<usize> {
        match self.finish {
            Finish::Gated(_) => 0..2,
            _ => block.projection..block.projection + 1,
        }
    }

    /// Writes what becomes of a block's products with tokens from `first_token`
    /// on. Each of `products` is `[tokens, rows]`, in the order of the block's
    /// projections.
    fn finish(&self, level: Level, block: &Block, first_token: usize, products: &mut [&mut [f32]]) {
        let length = block.rows.len();
        for (projection, products) in self.projections_of(block).zip(&mut *products) {
            if let Some(bias) = self.projections[projection].bias {
                for row in products.chunks_exact_mut(length) {
                    add(level, row, bias, block.rows.start);
                }
            }
        }
        for token in 0..products[0].len() / length {
            let first = (first_token + token) * self.width + block.column;
            let bytes = self.out_float.bytes();
            // SAFETY: blocks do not share rows, so nor do their columns.
            let out = unsafe { self.out.part(first * bytes..(first + length) * bytes) };
            let out = FloatsMut::new(self.out_float, out);
            let row = token * length..(token + 1) * length;
            match (self.finish, &mut *products) {
                (Finish::Gated(gate), [gates, up]) => {
                    gate.row(
                        level,
                        Floats::from(&gates[row.clone()]),
                        Floats::from(&up[row]),
                        out,
                    );
                }
                (Finish::Add(there), [values, ..]) => {
                    add(level, &mut values[row.clone()], there, first);
                    level.convert(Floats::from(&values[row]), out);
                }
                (_, products) => level.convert(Floats::from(&products[0][row]), out),
            }
        }
    }
}

/// Adds the elements of `addends` from `first` on.
fn add(level: Level, values: &mut [f32], addends: Floats<'_>, first: usize) {
    let (_, addends) = addends.split_at(first);
    let (addends, _) = addends.split_at(values.len());
    level.add_to(values, addends);
}

#[cfg(test)]
mod tests;
