//! Products of small matrices in registers: scores and weighted sums of values.

use super::vector::Vector;
use crate::kernels::prefetch::{CACHE_LINE, prefetch_line};

/// How the rows of the right-hand matrix are stored.
pub trait Operand<V: Vector> {
    /// Bytes of one column.
    const BYTES: usize;

    /// # Safety
    /// As [`Vector`] says.
    unsafe fn load(from: *const u8) -> V;

    #[inline(always)]
    fn mul_add(a: V, b: V, sum: V) -> V {
        a.mul_add(b, sum)
    }
}

pub struct F32;
pub struct F16;
pub struct Bf16;
/// Two bfloat16 of consecutive rows in each column, on both sides.
pub struct Bf16Pairs;

impl<V: Vector> Operand<V> for F32 {
    const BYTES: usize = 4;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> V {
        // SAFETY: as for this function.
        unsafe { V::load(from.cast()) }
    }
}

impl<V: Vector> Operand<V> for F16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> V {
        // SAFETY: as for this function.
        unsafe { V::load_f16(from) }
    }
}

impl<V: Vector> Operand<V> for Bf16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> V {
        // SAFETY: as for this function.
        unsafe { V::load_bf16(from) }
    }
}

impl<V: Vector> Operand<V> for Bf16Pairs {
    const BYTES: usize = 4;

    #[inline(always)]
    unsafe fn load(from: *const u8) -> V {
        // SAFETY: as for this function.
        unsafe { V::load(from.cast()) }
    }

    #[inline(always)]
    fn mul_add(a: V, b: V, sum: V) -> V {
        a.dot_pairs(b, sum)
    }
}

/// `c[row][column] (+)= sum over k of a[row][k] * b[k][column]`. Strides count
/// the elements of their matrix from one row to the next.
#[derive(Clone, Copy)]
pub struct Product {
    pub a: *const f32,
    pub a_stride: usize,
    pub b: *const u8,
    pub b_stride: usize,
    /// Rows of `b` further on, there is more that will be needed soon.
    pub b_ahead: usize,
    pub c: *mut f32,
    pub c_stride: usize,
    pub depth: usize,
    /// Adds to what `c` holds.
    pub accumulate: bool,
}

/// Rows that are computed at a time.
pub const ROWS: usize = 4;

impl Product {
    /// # Safety
    /// As [`Vector`] says; the matrices have that many rows and columns, and
    /// columns are a multiple of `V::LANES`.
    #[inline(always)]
    pub unsafe fn run<V: Vector, B: Operand<V>>(self, rows: usize, columns: usize) {
        // SAFETY: as for this function.
        unsafe {
            let mut row = 0;
            while row < rows {
                let block = self.at::<V, B>(row, 0);
                match rows - row {
                    1 => block.rows::<V, B, 1>(columns),
                    2 => block.rows::<V, B, 2>(columns),
                    3 => block.rows::<V, B, 3>(columns),
                    _ => block.rows::<V, B, ROWS>(columns),
                }
                row += ROWS;
            }
        }
    }

    #[inline(always)]
    unsafe fn rows<V: Vector, B: Operand<V>, const R: usize>(self, columns: usize) {
        let mut column = 0;
        // SAFETY: as for `run`.
        unsafe {
            while columns - column >= 4 * V::LANES && V::REGISTERS == 32 {
                self.at::<V, B>(0, column).block::<V, B, R, 4>();
                column += 4 * V::LANES;
            }
            while columns - column >= 2 * V::LANES {
                self.at::<V, B>(0, column).block::<V, B, R, 2>();
                column += 2 * V::LANES;
            }
            if column < columns {
                self.at::<V, B>(0, column).block::<V, B, R, 1>();
            }
        }
    }

    /// The product from that row and column on.
    #[inline(always)]
    unsafe fn at<V: Vector, B: Operand<V>>(self, row: usize, column: usize) -> Product {
        // SAFETY: as for `run`.
        unsafe {
            Product {
                a: self.a.add(row * self.a_stride),
                b: self.b.add(column * B::BYTES),
                c: self.c.add(row * self.c_stride + column),
                ..self
            }
        }
    }

    /// `R` rows of `C` vectors, in registers over the whole depth.
    #[inline(always)]
    unsafe fn block<V: Vector, B: Operand<V>, const R: usize, const C: usize>(self) {
        // SAFETY: as for `run`.
        unsafe {
            let mut sums = [[V::splat(0.0); C]; R];
            if self.accumulate {
                for (row, sums) in sums.iter_mut().enumerate() {
                    for (column, sum) in sums.iter_mut().enumerate() {
                        *sum = V::load(self.c.add(row * self.c_stride + column * V::LANES));
                    }
                }
            }
            for k in 0..self.depth {
                let b = self.b.add(k * self.b_stride * B::BYTES);
                if self.b_ahead > 0 {
                    let ahead = b.wrapping_add(self.b_ahead * self.b_stride * B::BYTES);
                    for line in 0..(C * V::LANES * B::BYTES).div_ceil(CACHE_LINE) {
                        prefetch_line(ahead.wrapping_add(line * CACHE_LINE));
                    }
                }
                let mut columns = [V::splat(0.0); C];
                for (column, value) in columns.iter_mut().enumerate() {
                    *value = B::load(b.add(column * V::LANES * B::BYTES));
                }
                for (row, sums) in sums.iter_mut().enumerate() {
                    let a = V::splat(*self.a.add(row * self.a_stride + k));
                    for (sum, value) in sums.iter_mut().zip(columns) {
                        *sum = B::mul_add(a, value, *sum);
                    }
                }
            }
            for (row, sums) in sums.into_iter().enumerate() {
                for (column, sum) in sums.into_iter().enumerate() {
                    sum.store(self.c.add(row * self.c_stride + column * V::LANES));
                }
            }
        }
    }
}
