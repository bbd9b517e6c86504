//! [`Columns`]: matrices that are stored column after column. Their products with few
//! rows of activations are sums of columns, which are read as they lie in memory.

use std::ops::Range;

use crate::kernels::float::Float;
use crate::kernels::floats::{Floats, FloatsMut};
use crate::kernels::lanes::{Kernel, Lanes};
use crate::kernels::level::Level;

/// Columns that are added at a time.
const AT_ONCE: usize = 4;

/// Rows of a piece of work, at least: what it reads of a column are whole lines of
/// memory.
pub const LEAST_ROWS: usize = 256;

/// A matrix `[rows, columns]` by column, perhaps with rows of others in front of its own
/// and behind them.
#[derive(Clone, Copy)]
pub struct Columns<'a> {
    values: Floats<'a>,
    /// Elements from one column to the next.
    stride: usize,
    /// Elements of a column in front of the matrix's own.
    first: usize,
}

impl<'a> Columns<'a> {
    pub fn new(values: Floats<'a>, stride: usize, first: usize) -> Columns<'a> {
        Columns {
            values,
            stride,
            first,
        }
    }

    pub fn float(&self) -> Float {
        self.values.float()
    }

    pub fn bytes(&self) -> &'a [u8] {
        self.values.bytes()
    }

    /// Writes some columns of a row as float32.
    pub fn read(&self, row: usize, columns: &Range<usize>, out: &mut [f32]) {
        for (column, out) in columns.clone().zip(out) {
            *out = self.values.get(self.index(row, column));
        }
    }

    /// Writes them as they are stored.
    pub fn copy(&self, row: usize, columns: &Range<usize>, out: &mut [u8]) {
        let size = self.float().bytes();
        for (column, out) in columns.clone().zip(out.chunks_exact_mut(size)) {
            let at = self.index(row, column) * size;
            out.copy_from_slice(&self.bytes()[at..at + size]);
        }
    }

    /// The products of some rows with all of `x`, `[n, columns]`: `out` is `[n, rows]`.
    pub fn multiply(
        &self,
        level: Level,
        rows: &Range<usize>,
        (x, columns): (&[f32], usize),
        out: &mut [f32],
    ) {
        level.run(Multiply {
            matrix: self,
            rows,
            x,
            columns,
            out,
        });
    }

    fn index(&self, row: usize, column: usize) -> usize {
        column * self.stride + self.first + row
    }

    /// Some rows of a column.
    #[inline(always)]
    fn part(&self, column: usize, rows: &Range<usize>) -> Floats<'a> {
        let (_, own) = self.values.row(column, self.stride).split_at(self.first);
        let (_, behind) = own.split_at(rows.start);
        behind.split_at(rows.len()).0
    }
}

struct Multiply<'a> {
    matrix: &'a Columns<'a>,
    rows: &'a Range<usize>,
    x: &'a [f32],
    columns: usize,
    out: &'a mut [f32],
}

impl Kernel for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(mut self) {
        self.out.fill(0.0);
        let in_groups = self.columns / AT_ONCE * AT_ONCE;
        for first in (0..in_groups).step_by(AT_ONCE) {
            self.add::<V, AT_ONCE>(first);
        }
        for column in in_groups..self.columns {
            self.add::<V, 1>(column);
        }
    }
}

impl Multiply<'_> {
    /// Adds the products with the columns from `first` on.
    #[inline(always)]
    fn add<V: Lanes, const N: usize>(&mut self, first: usize) {
        let parts: [Floats<'_>; N] =
            std::array::from_fn(|index| self.matrix.part(first + index, self.rows));
        let sums = self.out.chunks_exact_mut(self.rows.len());
        for (x, sums) in self.x.chunks_exact(self.columns).zip(sums) {
            add_rows::<V, N>(&parts, &x[first..first + N], sums);
        }
    }
}

/// `sums += factors times rows`; without a factor a row does not count.
#[inline(always)]
pub fn add_rows<V: Lanes, const N: usize>(
    rows: &[Floats<'_>; N],
    factors: &[f32],
    sums: &mut [f32],
) {
    let factor = |row: usize| V::splat(factors.get(row).copied().unwrap_or(0.0));
    let factors: [V; N] = std::array::from_fn(factor);
    let mut sums = FloatsMut::from(sums);
    for column in (0..sums.len()).step_by(V::N) {
        let mut sum: V = sums.as_floats().lanes(column, 0.0);
        for (row, factor) in rows.iter().zip(factors) {
            sum = row.lanes::<V>(column, 0.0).mul_add(factor, sum);
        }
        sums.set_lanes(column, sum);
    }
}
