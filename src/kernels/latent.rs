//! Latent attention (DeepSeek-AI, 2024): a token's keys and values of all heads are
//! products of one short vector with a matrix for each head. Attention looks at the
//! vectors themselves: in front of it queries go through the matrices of the keys
//! ([`absorb`]), behind it what was seen through those of the values ([`expand`]).

use std::ops::Range;

use super::float::Float;
use super::floats::{Floats, FloatsMut};
use super::lanes::{Kernel, Lanes};
use super::level::Level;
use super::linear::{Matrix, add_rows};
use super::norm::Norm;
use super::output::Output;
use super::pool::Pool;

/// Rows that a piece of work takes through a head's matrix, which is read once for
/// all of them.
const PIECE_ROWS: usize = 64;

/// Rows of a matrix that are multiplied at a time.
const AT_ONCE: usize = 4;

/// A matrix for each head, one after the other.
#[derive(Clone)]
pub struct HeadMatrices<'a> {
    pub matrix: Matrix<'a>,
    pub columns: usize,
    /// Rows in memory from one head's first to the next one's.
    pub rows_per_head: usize,
    /// Those of them that are the head's matrix.
    pub rows: Range<usize>,
    /// Whether these are those of the product's inputs, and not of its outputs.
    pub by_input: bool,
}

/// How long the parts of heads are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatentShape {
    pub n_heads: usize,
    /// Of a query: what meets the latent vector through the head's matrix.
    pub plain_dim: usize,
    /// Behind it: what knows its position and meets the key's such part.
    pub rotated_dim: usize,
    /// Of a latent vector.
    pub rank: usize,
    pub value_dim: usize,
}

impl LatentShape {
    /// Of a query as attention takes it, and of a cached key.
    pub fn key_dim(&self) -> usize {
        self.rotated_dim + self.rank
    }

    /// Of the queries as they are projected.
    pub fn query_columns(&self) -> usize {
        self.n_heads * (self.plain_dim + self.rotated_dim)
    }

    /// Of all that attention takes of a token.
    pub fn row_columns(&self) -> usize {
        (self.n_heads + 1) * self.key_dim()
    }

    /// Buffers of a thread that takes rows through matrices.
    pub fn thread_bytes(&self, n_rows: usize) -> usize {
        let widest = self.plain_dim.max(self.value_dim);
        let weights = AT_ONCE * self.rank.max(widest);
        (n_rows.min(PIECE_ROWS) * (self.rank + widest) + weights) * size_of::<f32>()
    }
}

/// What was projected of some tokens.
#[derive(Clone, Copy)]
pub struct LatentRows<'a> {
    /// `[n, n_heads, plain_dim + rotated_dim]`
    pub queries: Floats<'a>,
    /// `[n, rank + rotated_dim]`: a token's vector, and behind it the rotated part of
    /// its key.
    pub latents: Floats<'a>,
    /// Of the vectors.
    pub norm: Norm<'a>,
}

/// Makes of each token what attention takes: all heads' queries and the one key, each
/// of them the part to be rotated and then a vector of length `rank`.
///
/// # Panics
/// If the sizes of the arguments do not belong together.
pub fn absorb(
    pool: &Pool,
    shape: &LatentShape,
    rows: &LatentRows<'_>,
    matrices: &HeadMatrices<'_>,
    out: FloatsMut<'_>,
) {
    let n_rows = rows.latents.len() / shape.key_dim();
    assert_eq!(rows.latents.len(), n_rows * shape.key_dim());
    assert_eq!(rows.queries.len(), n_rows * shape.query_columns());
    matrices.check(shape.n_heads, (shape.plain_dim, shape.rank));
    let absorption = Absorption {
        level: Level::detect(),
        shape,
        rows,
        matrices,
        out: Places::new(out, n_rows, shape.row_columns()),
    };
    // SAFETY: no two pieces have the same rows of the same head, or of the key.
    share(pool, n_rows, shape.n_heads + 1, &|part, rows| unsafe {
        match part == shape.n_heads {
            true => absorption.keys(rows),
            false => absorption.queries(part, rows),
        }
    });
}

struct Absorption<'a> {
    level: Level,
    shape: &'a LatentShape,
    rows: &'a LatentRows<'a>,
    matrices: &'a HeadMatrices<'a>,
    out: Places<'a>,
}

impl Absorption<'_> {
    /// # Safety
    /// Nobody else writes keys of these rows.
    unsafe fn keys(&self, rows: Range<usize>) {
        for row in rows {
            let latents = self.rows.latents.row(row, self.shape.key_dim());
            let (vector, rotated) = latents.split_at(self.shape.rank);
            let fill = |out: FloatsMut<'_>| self.rows.norm.row(self.level, vector, out);
            // SAFETY: the caller's.
            unsafe { self.write(row, self.shape.n_heads, rotated, fill) };
        }
    }

    /// # Safety
    /// Nobody else writes queries of this head and these rows.
    unsafe fn queries(&self, head: usize, rows: Range<usize>) {
        let (level, shape) = (self.level, self.shape);
        let query = |row: usize| {
            let queries = self.rows.queries.row(row, shape.query_columns());
            let query = queries.row(head, shape.plain_dim + shape.rotated_dim);
            query.split_at(shape.plain_dim)
        };
        let x = gather(level, rows.clone(), shape.plain_dim, |row| query(row).0);
        let products = self.matrices.multiply(level, head, &x);
        for (row, product) in rows.zip(products.chunks_exact(shape.rank)) {
            let fill = |out: FloatsMut<'_>| level.convert(Floats::from(product), out);
            // SAFETY: the caller's.
            unsafe { self.write(row, head, query(row).1, fill) };
        }
    }

    /// # Safety
    /// Nobody else writes this part of the row.
    unsafe fn write(
        &self,
        row: usize,
        part: usize,
        rotated: Floats<'_>,
        fill: impl FnOnce(FloatsMut<'_>),
    ) {
        let first = part * self.shape.key_dim();
        // SAFETY: the caller's.
        unsafe {
            let copy = |out: FloatsMut<'_>| self.level.convert(rotated, out);
            self.out.write(row, first, rotated.len(), copy);
            self.out
                .write(row, first + rotated.len(), self.shape.rank, fill);
        }
    }
}

/// Takes what each head saw, `[n_heads, rank]` of each row, through its matrix:
/// `[n_heads, value_dim]`.
///
/// # Panics
/// If the sizes of the arguments do not belong together.
pub fn expand(
    pool: &Pool,
    shape: &LatentShape,
    seen: Floats<'_>,
    matrices: &HeadMatrices<'_>,
    out: FloatsMut<'_>,
) {
    let (rank, value_dim) = (shape.rank, shape.value_dim);
    let width = shape.n_heads * rank;
    let n_rows = seen.len() / width;
    assert_eq!(seen.len(), n_rows * width);
    matrices.check(shape.n_heads, (rank, value_dim));
    let out = Places::new(out, n_rows, shape.n_heads * value_dim);
    let level = Level::detect();
    let work = |head: usize, rows: Range<usize>| {
        let x = gather(level, rows.clone(), rank, |row| {
            seen.row(row, width).row(head, rank)
        });
        let products = matrices.multiply(level, head, &x);
        for (row, product) in rows.zip(products.chunks_exact(value_dim)) {
            // SAFETY: each head of a row is of one piece.
            unsafe {
                out.write(row, head * value_dim, value_dim, |to| {
                    level.convert(Floats::from(product), to)
                });
            }
        }
    };
    share(pool, n_rows, shape.n_heads, &work);
}

/// Calls `work` for each part of the rows.
fn share(pool: &Pool, n_rows: usize, n_parts: usize, work: &(dyn Fn(usize, Range<usize>) + Sync)) {
    let n_blocks = n_rows.div_ceil(PIECE_ROWS);
    pool.run(n_parts * n_blocks, &|piece| {
        let first = piece / n_parts * PIECE_ROWS;
        work(piece % n_parts, first..n_rows.min(first + PIECE_ROWS));
    });
}

/// Some columns of some rows as float32, one row after the other.
fn gather<'a>(
    level: Level,
    rows: Range<usize>,
    columns: usize,
    part: impl Fn(usize) -> Floats<'a>,
) -> Vec<f32> {
    let mut values = vec![0.0; rows.len() * columns];
    for (row, values) in rows.zip(values.chunks_exact_mut(columns)) {
        level.convert(part(row), FloatsMut::from(values));
    }
    values
}

/// Rows whose parts several threads write.
struct Places<'a> {
    out: Output<'a, u8>,
    float: Float,
    columns: usize,
}

impl<'a> Places<'a> {
    fn new(out: FloatsMut<'a>, n_rows: usize, columns: usize) -> Self {
        assert_eq!(out.len(), n_rows * columns);
        Places {
            float: out.float(),
            out: Output::new(out.into_bytes()),
            columns,
        }
    }

    /// # Safety
    /// No two calls for the same place run at a time.
    unsafe fn write(
        &self,
        row: usize,
        first: usize,
        length: usize,
        fill: impl FnOnce(FloatsMut<'_>),
    ) {
        let first = row * self.columns + first;
        let bytes = first * self.float.bytes()..(first + length) * self.float.bytes();
        // SAFETY: the caller's.
        fill(FloatsMut::new(self.float, unsafe { self.out.part(bytes) }));
    }
}

impl HeadMatrices<'_> {
    fn check(&self, n_heads: usize, (inputs, outputs): (usize, usize)) {
        let stored = match self.by_input {
            true => (inputs, outputs),
            false => (outputs, inputs),
        };
        assert_eq!((self.rows.len(), self.columns), stored);
        assert!(self.rows.end <= self.rows_per_head);
        if let Matrix::Float(values) = self.matrix {
            assert_eq!(values.len(), n_heads * self.rows_per_head * self.columns);
        }
    }

    /// The product of each of the inputs in `x` with one head's matrix.
    fn multiply(&self, level: Level, head: usize, x: &[f32]) -> Vec<f32> {
        let (n_stored, columns) = (self.rows.len(), self.columns);
        let (inputs, outputs) = match self.by_input {
            true => (n_stored, columns),
            false => (columns, n_stored),
        };
        let mut products = vec![0.0; x.len() / inputs * outputs];
        let mut weights = vec![0.0; AT_ONCE * columns];
        for first in (0..n_stored).step_by(AT_ONCE) {
            let n = AT_ONCE.min(n_stored - first);
            let row = head * self.rows_per_head + self.rows.start + first;
            for (row, weights) in (row..row + n).zip(weights.chunks_exact_mut(columns)) {
                self.read(level, row, weights);
            }
            level.run(Multiply {
                weights: &weights,
                by_input: self.by_input,
                rows: first..first + n,
                x,
                inputs,
                products: &mut products,
                outputs,
            });
        }
        products
    }

    fn read(&self, level: Level, row: usize, out: &mut [f32]) {
        match &self.matrix {
            Matrix::Float(values) => {
                level.convert(values.row(row, self.columns), FloatsMut::from(out));
            }
            Matrix::Quantized(rows) => rows.dequantize(level, row, out),
            Matrix::Columns(weights) => weights.read(row, &(0..self.columns), out),
        }
    }
}

/// What some rows of a matrix add to the products.
struct Multiply<'a> {
    /// `AT_ONCE` rows; those behind `rows` do not count.
    weights: &'a [f32],
    by_input: bool,
    rows: Range<usize>,
    x: &'a [f32],
    inputs: usize,
    products: &'a mut [f32],
    outputs: usize,
}

impl Kernel for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        let weights = Floats::from(self.weights);
        let columns = weights.len() / AT_ONCE;
        let weights: [Floats<'_>; AT_ONCE] = std::array::from_fn(|row| weights.row(row, columns));
        let x = self.x.chunks_exact(self.inputs);
        for (x, products) in x.zip(self.products.chunks_exact_mut(self.outputs)) {
            match self.by_input {
                true => add_rows::<V, AT_ONCE>(&weights, &x[self.rows.clone()], products),
                false => dot_rows::<V>(&weights, x, &mut products[self.rows.clone()]),
            }
        }
    }
}

/// Each of as many rows as there are products, times `x`.
#[inline(always)]
fn dot_rows<V: Lanes>(rows: &[Floats<'_>; AT_ONCE], x: &[f32], products: &mut [f32]) {
    let x = Floats::from(x);
    let mut sums = [V::splat(0.0); AT_ONCE];
    for column in (0..x.len()).step_by(V::N) {
        let x: V = x.lanes(column, 0.0);
        for (row, sum) in rows.iter().zip(&mut sums) {
            *sum = row.lanes::<V>(column, 0.0).mul_add(x, *sum);
        }
    }
    for (product, sum) in products.iter_mut().zip(sums) {
        *product = sum.total();
    }
}

#[cfg(test)]
mod tests;
