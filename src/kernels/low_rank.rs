//! Low-rank updates of products: `y + scale * B (A x)`, what a LoRA adapter adds
//! behind a projection (Hu et al., 2021), and what DoRA makes of it (Liu et al., 2024).
//! In float32, rounded once.

use super::floats::{Floats, FloatsMut};
use super::lanes::{Kernel, Lanes};
use super::level::Level;
use super::linear::Rows;
use super::output::Output;
use super::pool::Pool;

/// Columns of an output row that a piece of work covers.
const COLUMNS_PER_PIECE: usize = 512;

/// A matrix of one low-rank product, with one of its sides of length `rank`.
#[derive(Clone, Copy)]
pub struct Factor<'a> {
    pub values: Floats<'a>,
    /// Whether the rows in memory are those of the product's inputs, and not of its
    /// outputs.
    pub by_input: bool,
}

/// One update of some columns of the product's rows.
#[derive(Clone, Copy)]
pub struct LowRank<'a> {
    /// From the row's inputs to `rank` values.
    pub down: Factor<'a>,
    /// From there to `outputs`.
    pub up: Factor<'a>,
    pub rank: usize,
    pub outputs: usize,
    pub first_column: usize,
    pub scale: f32,
    pub gains: Option<Gains<'a>>,
}

/// What the outputs of a product and of its update together are multiplied with. The
/// difference that this makes counts `strength` times.
#[derive(Clone, Copy)]
pub struct Gains<'a> {
    /// One for each output.
    pub values: Floats<'a>,
    /// What was added to the product, and is not multiplied.
    pub bias: Option<Floats<'a>>,
    pub strength: f32,
}

impl LowRank<'_> {
    fn check(&self, inputs: usize, width: usize) {
        assert!(self.rank > 0 && self.first_column + self.outputs <= width);
        assert_eq!(self.down.values.len(), inputs * self.rank);
        assert_eq!(self.up.values.len(), self.rank * self.outputs);
        if let Some(gains) = &self.gains {
            assert_eq!(gains.values.len(), self.outputs);
            assert!(gains.bias.is_none_or(|bias| bias.len() == self.outputs));
        }
    }
}

/// Writes `y`, rows of `width`, with all updates of what `x` gives added.
///
/// # Panics
/// If the sizes of the arguments do not belong together.
pub fn add_low_rank(
    pool: &Pool,
    x: &Rows<'_>,
    y: Floats<'_>,
    width: usize,
    updates: &[LowRank<'_>],
    out: FloatsMut<'_>,
) {
    assert_eq!(y.len(), out.len());
    assert_eq!(y.len(), x.n() * width);
    updates.iter().for_each(|one| one.check(x.columns, width));
    let level = Level::detect();
    let n_ranks: usize = updates.iter().map(|one| one.rank).sum();
    let mut inner = vec![0.0; x.n() * n_ranks];
    go_down(level, pool, x, updates, &mut inner);
    let out_float = out.float();
    let out = Output::new(out.into_bytes());
    let pieces_per_row = width.div_ceil(COLUMNS_PER_PIECE);
    pool.run(x.n() * pieces_per_row, &|piece| {
        let (row, block) = (piece / pieces_per_row, piece % pieces_per_row);
        let first = block * COLUMNS_PER_PIECE;
        let last = width.min(first + COLUMNS_PER_PIECE);
        let mut sums = [0.0; COLUMNS_PER_PIECE];
        let sums = &mut sums[..last - first];
        let (_, there) = y.row(row, width).split_at(first);
        level.convert(there.split_at(sums.len()).0, FloatsMut::from(&mut *sums));
        let mut products = [0.0; COLUMNS_PER_PIECE];
        let products = &mut products[..sums.len()];
        products.copy_from_slice(sums);
        let mut inner = &inner[row * n_ranks..][..n_ranks];
        for update in updates {
            let (own, rest) = inner.split_at(update.rank);
            go_up(level, update, own, first, (products, sums));
            inner = rest;
        }
        let bytes = out_float.bytes();
        let place = (row * width + first) * bytes..(row * width + last) * bytes;
        // SAFETY: blocks of rows do not overlap, and each is one piece.
        let out = FloatsMut::new(out_float, unsafe { out.part(place) });
        level.convert(Floats::from(&*sums), out);
    });
}

/// The scaled inner values of each row, those of all updates after one another.
fn go_down(level: Level, pool: &Pool, x: &Rows<'_>, updates: &[LowRank<'_>], inner: &mut [f32]) {
    let n_ranks = inner.len() / x.n().max(1);
    let inner = Output::new(inner);
    pool.run(x.n() * updates.len(), &|piece| {
        let (row, index) = (piece / updates.len(), piece % updates.len());
        let before: usize = updates[..index].iter().map(|one| one.rank).sum();
        let update = &updates[index];
        let mut values = vec![0.0; x.columns];
        x.read(level, row, &mut values);
        let first = row * n_ranks + before;
        // SAFETY: each piece has its row's values of its update.
        let inner = unsafe { inner.part(first..first + update.rank) };
        inner.fill(0.0);
        level.run(Product {
            factor: update.down,
            columns: (0, update.rank),
            x: &values,
            sums: inner,
        });
        inner.iter_mut().for_each(|value| *value *= update.scale);
    });
}

/// Adds what of an update falls into the columns from `first` on, which had `products`
/// at first.
fn go_up(
    level: Level,
    update: &LowRank<'_>,
    inner: &[f32],
    first: usize,
    (products, sums): (&[f32], &mut [f32]),
) {
    let begin = first.max(update.first_column);
    let end = (first + sums.len()).min(update.first_column + update.outputs);
    if begin >= end {
        return;
    }
    let own = begin - first..end - first;
    let first_output = begin - update.first_column;
    let (products, sums) = (&products[own.clone()], &mut sums[own]);
    let add = |sums: &mut [f32]| {
        level.run(Product {
            factor: update.up,
            columns: (first_output, update.outputs),
            x: inner,
            sums,
        });
    };
    let Some(gains) = &update.gains else {
        return add(sums);
    };
    let mut addends = [0.0; COLUMNS_PER_PIECE];
    let addends = &mut addends[..sums.len()];
    add(addends);
    for (index, (product, sum)) in products.iter().zip(sums).enumerate() {
        let gain = gains.values.get(first_output + index);
        let bias = gains
            .bias
            .map_or(0.0, |bias| bias.get(first_output + index));
        *sum += gain * addends[index] + gains.strength * (gain - 1.0) * (product - bias);
    }
}

/// `sums += W x` for the outputs from `columns.0` on of `columns.1`.
struct Product<'a> {
    factor: Factor<'a>,
    columns: (usize, usize),
    x: &'a [f32],
    sums: &'a mut [f32],
}

impl Kernel for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        match self.factor.by_input {
            true => self.by_input::<V>(),
            false => self.by_output::<V>(),
        }
    }
}

impl Product<'_> {
    /// Each row of the matrix times its input. What is read beyond a row's end
    /// stays in lanes that are not stored.
    #[inline(always)]
    fn by_input<V: Lanes>(self) {
        let (first, n_outputs) = self.columns;
        let mut sums = FloatsMut::from(self.sums);
        for column in (0..sums.len()).step_by(V::N) {
            let mut parts = [V::splat(0.0); 4];
            for (input, x) in self.x.iter().enumerate() {
                let row = self.factor.values;
                let weights: V = row.lanes(input * n_outputs + first + column, 0.0);
                parts[input % 4] = weights.mul_add(V::splat(*x), parts[input % 4]);
            }
            let before: V = sums.as_floats().lanes(column, 0.0);
            let sum = (parts[0] + parts[1]) + (parts[2] + parts[3]);
            sums.set_lanes(column, before + sum);
        }
    }

    /// Each row of the matrix times all inputs.
    #[inline(always)]
    fn by_output<V: Lanes>(self) {
        let x = Floats::from(self.x);
        for (index, sum) in self.sums.iter_mut().enumerate() {
            let weights = self.factor.values.row(self.columns.0 + index, x.len());
            let mut parts = [V::splat(0.0); 4];
            for (step, column) in (0..x.len()).step_by(V::N).enumerate() {
                let product: V = weights.lanes(column, 0.0);
                parts[step % 4] = product.mul_add(x.lanes(column, 0.0), parts[step % 4]);
            }
            *sum += ((parts[0] + parts[1]) + (parts[2] + parts[3])).total();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::float::Float;
    use crate::kernels::testing::{FLOATS, Packed, assert_all_close, values};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn low_rank_products_are_added_to_their_columns(
            n in 0_usize..4,
            inputs in 1_usize..70,
            outputs in 1_usize..600,
            rank in 1_usize..20,
            first_column in 0_usize..9,
            behind in 0_usize..5,
            shift in 0_usize..4,
            float in prop::sample::select(&FLOATS[..]),
            by_input: bool,
            scale in -2.0_f32..2.0,
            has_gains: bool,
            has_bias: bool,
            strength in 0.0_f32..1.5,
        ) {
            let width = first_column + outputs + behind;
            let packed = |seed, count| Packed::of(float, shift, &values(seed, count));
            let (x, y) = (packed(1, n * inputs), packed(2, n * width));
            let (down, up) = (packed(3, inputs * rank), packed(4, rank * outputs));
            let factor = |values| Factor { values, by_input };
            let (gains, biases) = (values(5, outputs), values(6, outputs));
            let update = LowRank {
                down: factor(down.floats()),
                up: factor(up.floats()),
                rank,
                outputs,
                first_column,
                scale,
                gains: has_gains.then_some(Gains {
                    values: Floats::from(&gains[..]),
                    bias: has_bias.then_some(Floats::from(&biases[..])),
                    strength,
                }),
            };
            let rows = Rows { values: x.floats(), columns: inputs, norm: None };
            let mut out = Packed::unset(Float::F32, 0, n * width);
            // Twice, so that updates are seen to add up.
            let updates = [update, update];
            let pool = Pool::new(2);
            add_low_rank(&pool, &rows, y.floats(), width, &updates, out.floats_mut());

            let at = |matrix: &[f64], from: usize, to: usize, (n_from, n_to): (usize, usize)| {
                matrix[if by_input { from * n_to + to } else { to * n_from + from }]
            };
            let (down, up) = (down.f64s(), up.f64s());
            let mut expected = y.f64s();
            for (x, y) in x.f64s().chunks(inputs).zip(expected.chunks_mut(width)) {
                let inner: Vec<f64> = (0..rank)
                    .map(|r| (0..inputs).map(|i| at(&down, i, r, (inputs, rank)) * x[i]).sum())
                    .collect();
                for (o, y) in y[first_column..][..outputs].iter_mut().enumerate() {
                    let sum: f64 = (0..rank).map(|r| at(&up, r, o, (rank, outputs)) * inner[r]).sum();
                    let sum = f64::from(scale) * sum;
                    let bias = if has_bias { f64::from(biases[o]) } else { 0.0 };
                    let gain = f64::from(gains[o]);
                    *y += 2.0 * match has_gains {
                        true => gain * sum + f64::from(strength) * (gain - 1.0) * (*y - bias),
                        false => sum,
                    };
                }
            }
            assert_all_close(&out, &expected, (1e-3, 1e-4));
        }
    }
}
