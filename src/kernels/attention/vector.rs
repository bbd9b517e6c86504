//! [`Vector`]: the few operations on lanes of float32 that attention consists
//! of, and their plain form, [`Plain`].

use half::{bf16, f16};

use crate::kernels::Float;

/// `LANES` float32 values.
///
/// SAFETY of all functions: the processor has the instructions of the
/// implementation, and pointers are good for `LANES` elements at any alignment.
pub trait Vector: Copy {
    const LANES: usize;

    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn load_f16(from: *const u8) -> Self;
    unsafe fn load_bf16(from: *const u8) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// Rounds to `float` and stores.
    unsafe fn store_as(self, float: Float, to: *mut u8);

    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    /// `self * factor + sum`.
    unsafe fn mul_add(self, factor: Self, sum: Self) -> Self;
    /// The smaller of each; `other` where one is not a number.
    unsafe fn min(self, other: Self) -> Self;
    /// The larger of each; `other` where one is not a number.
    unsafe fn max(self, other: Self) -> Self;
    /// `2^(n - 127)` where n is in the low eight bits of each lane; 0 for n = 0.
    unsafe fn power_from_low_bits(self) -> Self;
    /// Lanes hold two bfloat16 each: `low * low + high * high + sum`.
    unsafe fn dot_pairs(self, other: Self, sum: Self) -> Self;
    /// Minus infinity in the lanes outside of `first..end`.
    unsafe fn keep(self, first: usize, end: usize) -> Self;

    unsafe fn largest(self) -> f32;
    unsafe fn total(self) -> f32;

    /// Writes the transpose of `LANES` rows of `LANES` words. Strides count words.
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize);
}

/// What the operations mean, four lanes at a time.
#[derive(Clone, Copy)]
pub struct Plain([f32; 4]);

impl Plain {
    #[inline(always)]
    fn zip(self, other: Self, operation: impl Fn(f32, f32) -> f32) -> Self {
        Plain(std::array::from_fn(|i| operation(self.0[i], other.0[i])))
    }

    #[inline(always)]
    fn map(self, operation: impl Fn(f32) -> f32) -> Self {
        Plain(self.0.map(operation))
    }
}

impl Vector for Plain {
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Plain([value; 4])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: as the trait says.
        Plain(unsafe { from.cast::<[f32; 4]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> Self {
        // SAFETY: as the trait says.
        let bits = unsafe { from.cast::<[u16; 4]>().read_unaligned() };
        Plain(bits.map(|bits| f16::from_bits(bits).to_f32()))
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> Self {
        // SAFETY: as the trait says.
        let bits = unsafe { from.cast::<[u16; 4]>().read_unaligned() };
        Plain(bits.map(|bits| f32::from_bits(u32::from(bits) << 16)))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as the trait says.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn store_as(self, float: Float, to: *mut u8) {
        // SAFETY: as the trait says.
        unsafe {
            let halves = to.cast::<[u16; 4]>();
            match float {
                Float::F32 => self.store(to.cast()),
                Float::F16 => halves.write_unaligned(self.0.map(|x| f16::from_f32(x).to_bits())),
                Float::Bf16 => halves.write_unaligned(self.0.map(|x| bf16::from_f32(x).to_bits())),
            }
        }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }

    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, sum: Self) -> Self {
        // Not `f32::mul_add`, which is a function call without the instruction.
        Plain(std::array::from_fn(|i| self.0[i] * factor.0[i] + sum.0[i]))
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    unsafe fn power_from_low_bits(self) -> Self {
        self.map(|x| f32::from_bits(x.to_bits() << 23))
    }

    #[inline(always)]
    unsafe fn dot_pairs(self, other: Self, sum: Self) -> Self {
        let low = |x: f32| f32::from_bits(x.to_bits() << 16);
        let high = |x: f32| f32::from_bits(x.to_bits() & 0xffff_0000);
        Plain(std::array::from_fn(|i| {
            let (a, b) = (self.0[i], other.0[i]);
            low(a) * low(b) + high(a) * high(b) + sum.0[i]
        }))
    }

    #[inline(always)]
    unsafe fn keep(self, first: usize, end: usize) -> Self {
        Plain(std::array::from_fn(|i| {
            if (first..end).contains(&i) {
                self.0[i]
            } else {
                f32::NEG_INFINITY
            }
        }))
    }

    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        self.0.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }

    #[inline(always)]
    unsafe fn total(self) -> f32 {
        self.0.into_iter().sum()
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: as the trait says.
        let rows: [[f32; 4]; 4] =
            std::array::from_fn(|row| unsafe { Self::load(from.add(row * from_stride)).0 });
        for column in 0..4 {
            let lanes = Plain(rows.map(|row| row[column]));
            // SAFETY: as the trait says.
            unsafe { lanes.store(to.add(column * to_stride)) };
        }
    }
}
